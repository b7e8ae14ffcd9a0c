//! What happens in a session outside its executions: the gateway's own events and those of whichever sandbox it has.
use std::sync::Arc;

use futures::StreamExt as _;
use kernelbox_proto::{
    Error,
    v1::{ErrorCode, SessionEvent, Stage, WatchSessionRequest, session_event::Kind},
};
use tokio::sync::{broadcast::error::RecvError, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};
use tracing::Instrument as _;

use crate::{
    limits::Permit,
    sandbox::Scope,
    services::{Caller, Events, last_word, stopped},
    sessions::{SessionRouter, Slot},
};

const BUFFER: usize = 64;

/// Ends with the session, the server or the client; sandboxes come and go under it.
pub(super) fn stream(router: SessionRouter, slot: Arc<Slot>, caller: Caller, permit: Permit) -> Events<SessionEvent> {
    let (out, events) = mpsc::channel(BUFFER);
    let tasks = router.tasks().clone();
    let task = async move {
        let end = tokio::select! {
            end = watch(&slot, &out) => end,
            () = router.stopping().cancelled() => Err(stopped()),
            () = out.closed() => Ok(()),
        };
        if let Err(error) = end {
            last_word(&out, caller.status(error)).await;
        }
        drop(permit);
    };
    tasks.spawn(task.in_current_span());
    ReceiverStream::new(events).boxed()
}

async fn watch(slot: &Slot, out: &mpsc::Sender<Result<SessionEvent, Status>>) -> Result<(), Error> {
    let mut own = slot.subscribe();
    let mut theirs = open(slot).await;
    loop {
        tokio::select! {
            event = own.recv() => {
                let event = match event {
                    Ok(event) => event,
                    Err(RecvError::Lagged(missed)) => {
                        return Err(Error::new(ErrorCode::Conflict, format!("the watch was too slow and missed {missed} events")));
                    }
                    Err(RecvError::Closed) => return Ok(()),
                };
                let (ready, deleted) = match &event.kind {
                    Some(Kind::Stage(stage)) => (stage.stage() == Stage::Ready, false),
                    Some(Kind::SandboxEnded(ended)) => (false, ended.reason == "Deleted"),
                    _ => (false, false),
                };
                if out.send(Ok(event)).await.is_err() || deleted {
                    return Ok(());
                }
                if ready {
                    theirs = open(slot).await;
                }
            }
            event = next(&mut theirs) => match event {
                Some(event) => {
                    if out.send(Ok(event)).await.is_err() {
                        return Ok(());
                    }
                }
                // Its end is told by the slot.
                None => theirs = None,
            },
        }
    }
}

async fn open(slot: &Slot) -> Option<Streaming<SessionEvent>> {
    let live = slot.live()?;
    let request = WatchSessionRequest { name: slot.id.name() };
    match live.sandbox.client(Scope::Session).watch_session(request).await {
        Ok(stream) => Some(stream.into_inner()),
        Err(status) => {
            tracing::debug!(session = %slot.id, error = &status as &dyn std::error::Error, "a sandbox cannot be watched");
            None
        }
    }
}

async fn next(stream: &mut Option<Streaming<SessionEvent>>) -> Option<SessionEvent> {
    match stream {
        Some(stream) => stream.message().await.ok().flatten(),
        None => std::future::pending().await,
    }
}
