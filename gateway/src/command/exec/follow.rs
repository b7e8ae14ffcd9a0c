//! The events of one execution, each once and in order, over as many connections as that takes.
use std::time::{Duration, Instant};

use kernelbox_proto::v1::{
    CreateSessionRequest, ErrorCode, ExecuteRequest, ExecutionEvent, ResumeExecutionRequest, execution_event::Kind,
};
use tokio::{sync::mpsc, task::AbortHandle};
use tonic::{Code, Status, Streaming};

use crate::command::{
    connect::Client,
    failure::{Failure, Result, connection_lost, is, refused},
    request_id,
};

/// Events on their way to the terminal; the server waits when it is slow.
const BUFFER: usize = 64;
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// A server that was reached before and is gone for so long is not waited for any more.
const GIVE_UP: Duration = Duration::from_secs(60);

/// Follows an execution from a task of its own.
#[derive(Debug)]
pub(super) struct Follow {
    /// `sessions/{session}/executions/{execution}`
    pub name: String,
    events: mpsc::Receiver<Result<ExecutionEvent>>,
    task: AbortHandle,
}

impl Follow {
    /// Runs the code; `create` makes the session first if there is none.
    pub(super) fn start(client: &Client, request: ExecuteRequest, create: bool) -> Self {
        let name = format!("{}/executions/{}", request.session, request.request_id);
        let (send, events) = mpsc::channel(BUFFER);
        let stream = Stream { client: client.clone(), request, name: name.clone(), create, last: 0, reached: !create };
        let task = tokio::spawn(stream.run(send)).abort_handle();
        Self { name, events, task }
    }

    /// The next event; nothing comes after `finished`. May be cancelled.
    pub(super) async fn next(&mut self) -> Result<ExecutionEvent> {
        self.events.recv().await.unwrap_or_else(|| Err(Failure::no_server("the server ended the stream early")))
    }
}

impl Drop for Follow {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Stream {
    client: Client,
    request: ExecuteRequest,
    name: String,
    create: bool,
    /// The newest event that was passed on.
    last: i64,
    /// The server has answered once, be it to the call that made the session: from then on a lost server is worth waiting for.
    reached: bool,
}

impl Stream {
    async fn run(mut self, send: mpsc::Sender<Result<ExecutionEvent>>) {
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
    async fn pass_on(&mut self, send: &mpsc::Sender<Result<ExecutionEvent>>) -> Result<(), Status> {
        let mut stream = self.open().await?;
        self.reached = true;
        while let Some(event) = stream.message().await? {
            // What comes before the execution itself, such as stages of its sandbox, bears no number.
            if event.sequence != 0 && event.sequence <= self.last {
                continue;
            }
            self.last = self.last.max(event.sequence);
            let finished = matches!(event.kind, Some(Kind::Finished(_)));
            if send.send(Ok(event)).await.is_err() || finished {
                return Ok(());
            }
        }
        Err(Status::new(Code::Unavailable, "the stream ended early"))
    }

    async fn open(&mut self) -> Result<Streaming<ExecutionEvent>, Status> {
        if self.last > 0 {
            let resume = ResumeExecutionRequest { name: self.name.clone(), after_sequence: self.last };
            return Ok(self.client.code().resume_execution(resume).await?.into_inner());
        }
        // The same request id never runs twice, so this is safe to send again.
        match self.client.code().execute(self.request.clone()).await {
            Err(status) if self.create && is(&status, ErrorCode::SessionNotFound) => {
                self.reached = true;
                self.create_session().await?;
                Ok(self.client.code().execute(self.request.clone()).await?.into_inner())
            }
            answer => Ok(answer?.into_inner()),
        }
    }

    async fn create_session(&self) -> Result<(), Status> {
        let session_id = self.request.session.trim_start_matches("sessions/").to_owned();
        let request = CreateSessionRequest { session_id, request_id: request_id(), ..CreateSessionRequest::default() };
        match self.client.sessions().create_session(request).await {
            // Another command was faster.
            Err(status) if !is(&status, ErrorCode::AlreadyExists) => Err(status),
            _ => Ok(()),
        }
    }
}
