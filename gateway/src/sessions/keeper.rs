//! Looks after one sandbox of a session: reclaims it when it is idle, and clears up after it however it ended.
use std::{
    sync::{Arc, PoisonError},
    time::Duration,
};

use kernelbox_proto::sandbox::v1::{RetireRequest, RetireResponse};
use tokio::{sync::OwnedSemaphorePermit, time::timeout};

use super::{Live, SessionRouter, Slot};
use crate::sandbox::{Ended, Scope};

/// How long a sandbox may take to say whether it is idle.
const RETIRE: Duration = Duration::from_secs(2);
/// How long answers may be on their way from a sandbox that is retired.
const LAST_ANSWERS: Duration = Duration::from_secs(5);
/// Between two questions, at least.
const PAUSE: Duration = Duration::from_millis(50);

impl SessionRouter {
    /// Runs as long as the sandbox. `place` is its place among the live ones.
    pub(super) async fn keep(self, slot: Arc<Slot>, live: Arc<Live>, place: OwnedSemaphorePermit) {
        let ended = self.until_ended(&slot, &live).await;
        slot.leave(&live);
        // Also after an end of its own: it may have left something.
        live.sandbox.destroy().await;
        drop(place);
        live.gone.cancel();
        tracing::info!(session = %slot.id, sandbox = live.sandbox.uid(), reason = ended.reason, "sandbox ended");
        slot.tell_ended(ended);
        if let Err(error) = self.0.store.active(&slot.id, slot.last_activity()).await {
            tracing::warn!(error = &error as &dyn std::error::Error, session = %slot.id, "cannot note the last activity");
        }
        drop(live);
        self.tidy(slot);
    }

    async fn until_ended(&self, slot: &Arc<Slot>, live: &Arc<Live>) -> Ended {
        // What the sandbox said of itself last, when it had been asked.
        let mut busy = Duration::ZERO;
        loop {
            let idle_timeout = slot.record().idle_timeout().unwrap_or(self.0.idle_timeout);
            let wait = idle_timeout.saturating_sub(slot.idle()).max(busy).max(PAUSE);
            tokio::select! {
                ended = live.sandbox.ended() => return ended,
                () = live.end.cancelled() => {
                    let why = live.why.lock().unwrap_or_else(PoisonError::into_inner).clone();
                    return why.unwrap_or_else(idle);
                }
                () = self.stopping().cancelled() => {
                    return Ended { reason: "ServerStopped".into(), message: "the server was stopped".into() };
                }
                () = slot.changed.notified() => {
                    busy = Duration::ZERO;
                    continue;
                }
                () = tokio::time::sleep(wait) => {}
            }
            // A turn began meanwhile, of which the sandbox may know nothing.
            if slot.idle() < idle_timeout {
                continue;
            }
            match self.retire(slot, live, idle_timeout).await {
                Some(RetireResponse { retired: true, .. }) => {
                    slot.leave(live);
                    // What came just before gets its answer, and what came just after hears that it has not run.
                    live.calls.close();
                    let _ = timeout(LAST_ANSWERS, live.calls.wait()).await;
                    return idle();
                }
                Some(RetireResponse { idle, .. }) => {
                    let idle = idle.and_then(|it| Duration::try_from(it).ok()).unwrap_or_default();
                    busy = idle_timeout.saturating_sub(idle);
                }
                None => busy = idle_timeout.min(Duration::from_secs(10)),
            }
        }
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
    Ended { reason: "IdleTimeout".to_owned(), message: "it was not used for the session's idle timeout".to_owned() }
}
