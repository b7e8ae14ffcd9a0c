//! The events of something that the server does, each once and in order, over as many connections as that takes.
//!
//! What the events are, and which calls bring them, a [`Call`] says.
use std::time::{Duration, Instant};

use kernelbox_proto::v1::ErrorCode;
use tokio::{sync::mpsc, task::AbortHandle};
use tonic::{Code, Status, Streaming};

use super::failure::{Failure, Result, connection_lost, is, refused};

/// Events on their way to the terminal; the server waits when it is slow.
const BUFFER: usize = 64;
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// A server that was reached before and is gone for so long is not waited for any more.
const GIVE_UP: Duration = Duration::from_secs(60);
/// How long the end of a stream may come after its last event.
const END: Duration = Duration::from_secs(2);

/// The calls that bring the events of one thing.
pub(crate) trait Call: Send + 'static {
    type Event: Send + 'static;

    /// Begins it. Called again after a connection that was lost before the first numbered event, so it must begin nothing twice.
    /// `reached` is set as soon as the server has answered anything.
    fn begin(&mut self, reached: &mut bool) -> impl Future<Output = Result<Streaming<Self::Event>, Status>> + Send;

    /// Goes on after this event.
    fn resume(&mut self, after: i64) -> impl Future<Output = Result<Streaming<Self::Event>, Status>> + Send;

    /// The event's number; 0 for what is not replayed.
    fn sequence(event: &Self::Event) -> i64;

    /// Whether nothing comes after it.
    fn is_last(event: &Self::Event) -> bool;
}

/// Follows from a task of its own.
#[derive(Debug)]
pub(crate) struct Follow<E> {
    events: mpsc::Receiver<Result<E>>,
    task: AbortHandle,
}

impl<E: Send + 'static> Follow<E> {
    /// Begins, or goes on after an event that was seen before. A server that has been `reached` already is worth waiting for.
    pub(crate) fn start(call: impl Call<Event = E>, after: i64, reached: bool) -> Self {
        let (send, events) = mpsc::channel(BUFFER);
        let stream = Stream { call, last: after, reached };
        let task = tokio::spawn(stream.run(send)).abort_handle();
        Self { events, task }
    }

    /// The next event; nothing comes after the last. May be cancelled.
    pub(crate) async fn next(&mut self) -> Result<E> {
        self.events.recv().await.unwrap_or_else(|| Err(Failure::no_server("the server ended the stream early")))
    }
}

impl<E> Drop for Follow<E> {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Stream<C> {
    call: C,
    /// The newest event that was passed on.
    last: i64,
    /// The server has answered once: from then on a lost server is worth waiting for.
    reached: bool,
}

impl<C: Call> Stream<C> {
    async fn run(mut self, send: mpsc::Sender<Result<C::Event>>) {
        let mut wait = FIRST_WAIT;
        let mut lost_since = None;
        loop {
            let before = self.last;
            match self.pass_on(&send).await {
                Ok(()) => return,
                Err(status) if self.worth_waiting(&status) => {
                    if self.last > before {
                        (wait, lost_since) = (FIRST_WAIT, None);
                    }
                    let since = *lost_since.get_or_insert_with(Instant::now);
                    if since.elapsed() > GIVE_UP {
                        let _ = send.send(Err(status.into())).await;
                        return;
                    }
                    tokio::time::sleep(wait).await;
                    wait = (wait * 2).min(LONGEST_WAIT);
                }
                Err(status) => {
                    let _ = send.send(Err(status.into())).await;
                    return;
                }
            }
        }
    }

    fn worth_waiting(&self, status: &Status) -> bool {
        (self.reached || !refused(status)) && (connection_lost(status) || is(status, ErrorCode::ShuttingDown))
    }

    /// Passes on the events of one connection; Ok after the last, or when nobody wants more.
    async fn pass_on(&mut self, send: &mpsc::Sender<Result<C::Event>>) -> Result<(), Status> {
        let mut stream = match self.last {
            0 => self.call.begin(&mut self.reached).await?,
            after => self.call.resume(after).await?,
        };
        self.reached = true;
        while let Some(event) = stream.message().await? {
            let sequence = C::sequence(&event);
            if sequence != 0 && sequence <= self.last {
                continue;
            }
            self.last = self.last.max(sequence);
            let last = C::is_last(&event);
            if last {
                // Who leaves before the end is cancelled, in the server's eyes and for whatever is between.
                let _ = tokio::time::timeout(END, stream.message()).await;
            }
            if send.send(Ok(event)).await.is_err() || last {
                return Ok(());
            }
        }
        Err(Status::new(Code::Unavailable, "the stream ended early"))
    }
}
