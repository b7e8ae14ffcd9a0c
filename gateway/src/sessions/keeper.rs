//! Looks after one sandbox of a session: reclaims it when it is idle, has it saved, and clears up after it however it ended.
use std::{
    sync::{Arc, PoisonError},
    time::Duration,
};

use kernelbox_proto::sandbox::v1::{RetireRequest, RetireResponse};
use tokio::{sync::OwnedSemaphorePermit, time::timeout};

use super::{Live, SessionRouter, Slot, acquire::status, saver::Saver};
use crate::sandbox::{Ended, Scope};

/// How long a sandbox may take to say whether it is idle.
const RETIRE: Duration = Duration::from_secs(2);
/// How long answers may be on their way from a sandbox that is retired.
const LAST_ANSWERS: Duration = Duration::from_secs(5);
/// How long a sandbox that somebody ends may take to that, once it is saved.
const ENDS: Duration = Duration::from_secs(2);
/// How long a server that stops goes on with what could not be saved.
const STOPPING: Duration = Duration::from_secs(15);
/// One that is to be left for another template and computes still is asked again after so long.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// Between two questions, at least.
const PAUSE: Duration = Duration::from_millis(50);

/// The reason, and its words.
const TEMPLATE_CHANGED: (&str, &str) = ("TemplateChanged", "the session has another template now");

/// How a sandbox is done with its session.
pub(super) enum Left {
    /// It ended by itself.
    Gone(Ended),
    /// It takes no calls any more.
    Retired,
    /// The same, as somebody ends it.
    Terminated,
    /// We end it.
    Ended(Ended),
    /// The server stops.
    Stopped,
}

impl SessionRouter {
    /// Runs as long as the sandbox. `place` is its place among the live ones.
    pub(super) async fn keep(self, slot: Arc<Slot>, live: Arc<Live>, place: OwnedSemaphorePermit) {
        let saver = self.0.checkpoints.clone();
        let saver = saver.map(|to| Saver::new(to, Arc::clone(&slot), Arc::clone(&live), self.0.quiet));
        let done = async {
            let left = match &saver {
                None => self.until_left(&slot, &live).await,
                Some(saver) => tokio::select! {
                    left = self.until_left(&slot, &live) => left,
                    left = saver.run() => left,
                },
            };
            slot.leave(&live);
            let left = match left {
                Left::Retired if live.is_outdated(&slot) => {
                    Left::Ended(Ended::new(TEMPLATE_CHANGED.0, TEMPLATE_CHANGED.1))
                }
                left => left,
            };
            // Whoever asked it to retire or end sees to it; and one that is left alone is found by the next gateway.
            let stays = self.0.provider.reclaims_idle() && !matches!(left, Left::Gone(_) | Left::Ended(_));
            (self.let_go(&slot, &live, saver.as_ref(), left).await, stays)
        };
        let (ended, stays) = match &saver {
            None => done.await,
            Some(saver) => tokio::select! {
                done = done => done,
                never = saver.follow() => match never {},
            },
        };
        if !stays {
            // Also after an end of its own: it may have left something.
            live.sandbox.destroy().await;
        }
        drop(place);
        live.gone.cancel();
        tracing::info!(session = %slot.id, sandbox = live.sandbox.name(), reason = ended.reason, stays, "sandbox left");
        self.metrics().sandboxes.left(&ended.reason);
        slot.tell_ended(ended);
        if let Err(error) = self.0.store.active(&slot.id, slot.last_activity()).await {
            tracing::warn!(error = &error as &dyn std::error::Error, session = %slot.id, "cannot note the last activity");
        }
        drop(live);
        self.tidy(slot);
    }

    /// Has the last answers arrive and the last changes saved, and says why the sandbox goes.
    async fn let_go(&self, slot: &Slot, live: &Live, saver: Option<&Saver>, left: Left) -> Ended {
        if matches!(left, Left::Retired) {
            // What came just before gets its answer, and what came just after hears that it has not run.
            live.calls.close();
            let _ = timeout(LAST_ANSWERS, live.calls.wait()).await;
            let status = status(live.sandbox.as_ref()).await;
            status.iter().for_each(|status| self.metrics().sandboxes.reclaimed(status));
        }
        if let Some(saver) = saver
            && !matches!(left, Left::Gone(_))
        {
            let stopped = async {
                self.stopping().cancelled().await;
                tokio::time::sleep(STOPPING).await;
            };
            tokio::select! {
                () = saver.last() => {}
                () = slot.deleted.cancelled() => {}
                () = stopped => tracing::error!(session = %slot.id, "the server stops with files that could not be saved"),
            }
        }
        match left {
            Left::Gone(ended) | Left::Ended(ended) => ended,
            Left::Retired => idle(),
            // Whoever ends it knows why.
            Left::Terminated => {
                let ended = timeout(ENDS, live.sandbox.ended()).await;
                ended.unwrap_or_else(|_| Ended::new("Terminated", "it was told to end"))
            }
            Left::Stopped => Ended::new("ServerStopped", "the server was stopped"),
        }
    }

    async fn until_left(&self, slot: &Arc<Slot>, live: &Arc<Live>) -> Left {
        // Where somebody else asks, its answer is told to the saver.
        let asks = !self.0.provider.reclaims_idle();
        // What the sandbox said of itself last, when it had been asked.
        let mut busy = Duration::ZERO;
        loop {
            let is_outdated = live.is_outdated(slot);
            if is_outdated && self.leave_outdated(slot, live).await {
                continue;
            }
            let idle_timeout = slot.record().idle_timeout().unwrap_or(self.0.idle_timeout);
            let wait = idle_timeout.saturating_sub(slot.idle()).max(busy).max(PAUSE);
            tokio::select! {
                ended = live.sandbox.ended() => return Left::Gone(ended),
                () = live.end.cancelled() => {
                    let why = live.why.lock().unwrap_or_else(PoisonError::into_inner).clone();
                    return Left::Ended(why.unwrap_or_else(idle));
                }
                () = self.stopping().cancelled() => return Left::Stopped,
                () = slot.changed.notified() => {
                    busy = Duration::ZERO;
                    continue;
                }
                () = tokio::time::sleep(ASK_AGAIN), if is_outdated => continue,
                () = tokio::time::sleep(wait), if asks => {}
            }
            // A turn began meanwhile, of which the sandbox may know nothing.
            if slot.idle() < idle_timeout {
                continue;
            }
            match self.retire(slot, live, idle_timeout).await {
                Some(RetireResponse { retired: true, .. }) => return Left::Retired,
                Some(RetireResponse { idle, .. }) => {
                    let idle = idle.and_then(|it| Duration::try_from(it).ok()).unwrap_or_default();
                    busy = idle_timeout.saturating_sub(idle);
                }
                None => busy = idle_timeout.min(Duration::from_secs(10)),
            }
        }
    }

    /// Has a sandbox that the session is to leave for another template end, unless it computes. Its next call gets the other.
    pub(crate) async fn leave_outdated(&self, slot: &Slot, live: &Arc<Live>) -> bool {
        let is_free = self.retire(slot, live, Duration::ZERO).await.is_some_and(|answer| answer.retired);
        if is_free {
            live.end(TEMPLATE_CHANGED.0, TEMPLATE_CHANGED.1);
            slot.leave(live);
        }
        is_free
    }

    async fn retire(&self, slot: &Slot, live: &Live, idle_for: Duration) -> Option<RetireResponse> {
        let request = RetireRequest { idle_for: idle_for.try_into().ok() };
        match timeout(RETIRE, live.sandbox.client(Scope::Lifecycle).retire(request)).await {
            Ok(Ok(answer)) => Some(answer.into_inner()),
            Ok(Err(status)) => {
                tracing::warn!(error = &status as &dyn std::error::Error, session = %slot.id, "cannot ask a sandbox to retire");
                None
            }
            Err(_) => {
                tracing::warn!(session = %slot.id, "a sandbox does not answer whether it is idle");
                None
            }
        }
    }
}

fn idle() -> Ended {
    Ended::new("IdleTimeout", "it was not used for the session's idle timeout")
}
