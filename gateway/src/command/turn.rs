//! One turn, followed to its end: what `run`, `chat` and `turns resume` have in common.
mod follow;
mod output;

use std::time::Duration;

use futures::future::BoxFuture;
use kernelbox_proto::v1::{CancelTurnRequest, StartTurnRequest, TurnEvent};

use self::follow::Watched;
pub(crate) use self::output::{Files, Output};
use super::{
    connect::Client,
    failure::{Exit, Failure, Result},
    follow::Follow,
    sessions::open::TIDY_LIMIT,
    signals::{Asked, Signals},
};

/// How long a turn that is cancelled may take to end before that is told.
const CANCEL_LIMIT: Duration = Duration::from_secs(30);

/// How the watching of a turn ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// With the turn, and how that went.
    Over(Exit),
    /// By Ctrl-C; the turn may go on.
    Left,
    /// The program is asked to end.
    Terminated,
}

/// What the first Ctrl-C does. The second leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OnInterrupt {
    /// It cancels the turn.
    Cancel,
    /// It leaves: the turn is not ours.
    Leave,
}

/// A turn under way.
pub(crate) struct Turn {
    client: Client,
    /// `sessions/{session}/turns/{turn}`
    name: String,
    events: Follow<TurnEvent>,
}

impl Turn {
    /// Starts it; the request must have an id. Its session has been made by this server, so a lost server is waited for.
    pub(crate) fn start(client: &Client, request: StartTurnRequest) -> Self {
        let name = format!("{}/turns/{}", request.session, request.request_id);
        let call = Watched { client: client.clone(), name: name.clone(), start: Some(request) };
        Self { client: client.clone(), name, events: Follow::start(call, 0, true) }
    }

    /// Shows the events of a turn after this one.
    pub(crate) fn resume(client: &Client, name: String, after: i64) -> Self {
        let call = Watched { client: client.clone(), name: name.clone(), start: None };
        Self { client: client.clone(), name, events: Follow::start(call, after, false) }
    }

    /// Shows events and passes on Ctrl-C until the turn has ended.
    pub(crate) async fn watch(
        mut self,
        output: &mut Output,
        signals: &mut Signals,
        on_interrupt: OnInterrupt,
    ) -> Result<End> {
        let mut cancelled = false;
        // Beside the events: the server answers when the turn has ended, and a second Ctrl-C must not wait for that.
        let mut cancelling: Option<BoxFuture<'static, Result<()>>> = None;
        loop {
            tokio::select! {
                event = self.events.next() => match output.event(event?).await {
                    Ok(Some(exit)) => {
                        return tokio::select! {
                            finished = output.finish() => finished.map(|()| End::Over(exit)),
                            _ = signals.next() => {
                                output.note("not all files were saved");
                                Ok(End::Over(Exit::Left))
                            }
                        };
                    }
                    Ok(None) => {}
                    // Nobody reads any more: a turn of ours need not go on.
                    Err(failure) => {
                        if on_interrupt == OnInterrupt::Cancel {
                            let _ = cancel(self.client.clone(), self.name.clone(), TIDY_LIMIT).await;
                        }
                        return Err(failure);
                    }
                },
                done = done(&mut cancelling) => {
                    cancelling = None;
                    if let Err(failure) = done {
                        output.note(&failure.message);
                    }
                }
                asked = signals.next() => match (asked, on_interrupt) {
                    (Asked::Interrupt, OnInterrupt::Cancel) if !cancelled => {
                        cancelled = true;
                        output.note("cancelling the turn (Ctrl-C again leaves)");
                        cancelling = Some(Box::pin(cancel(self.client.clone(), self.name.clone(), CANCEL_LIMIT)));
                    }
                    (Asked::Interrupt, _) => return Ok(End::Left),
                    (Asked::End, OnInterrupt::Leave) => return Ok(End::Terminated),
                    (Asked::End, OnInterrupt::Cancel) => {
                        // Best effort: the command ends in any case.
                        let _ = cancel(self.client.clone(), self.name.clone(), TIDY_LIMIT).await;
                        return Ok(End::Terminated);
                    }
                },
            }
        }
    }
}

/// What comes of it; waits for ever where there is nothing to wait for.
async fn done(work: &mut Option<BoxFuture<'static, Result<()>>>) -> Result<()> {
    match work {
        Some(work) => work.await,
        None => std::future::pending().await,
    }
}

async fn cancel(client: Client, name: String, limit: Duration) -> Result<()> {
    let request = CancelTurnRequest { name };
    match tokio::time::timeout(limit, client.turns().cancel_turn(request)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(status)) => Err(status.into()),
        Err(_) => Err(Failure::no_server("the server does not answer")),
    }
}
