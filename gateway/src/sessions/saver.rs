//! Saves the files of a sandbox that does not keep them: after a quiet moment, when the sandbox is told to end, and before it is let go.
use std::{
    convert::Infallible,
    sync::{Arc, PoisonError},
    time::{Duration, Instant},
};

use backon::{BackoffBuilder as _, ExponentialBuilder};
use kernelbox_proto::sandbox::v1::{Lifecycle, SandboxNotice, WatchSandboxRequest};
use tokio::{sync::watch, time::timeout};

use super::{
    Live, Slot,
    checkpoint::{Checkpoints, Owner, SaveError, notice},
    keeper::Left,
};
use crate::sandbox::Scope;

/// How long a sandbox that is to go is held for its files' sake, when they cannot be saved.
const HOLD: Duration = Duration::from_mins(10);
/// How long a sandbox may take to say that it is saved.
const AT_ONCE: Duration = Duration::from_secs(1);
/// A sandbox is saved for no more than this part of the time.
const SHARE: u32 = 10;

/// Of one sandbox.
pub(super) struct Saver {
    checkpoints: Checkpoints,
    slot: Arc<Slot>,
    live: Arc<Live>,
    quiet: Duration,
    /// How the sandbox stands.
    notices: watch::Sender<SandboxNotice>,
    /// What was saved last of this sandbox.
    mark: std::sync::Mutex<String>,
}

impl Saver {
    pub(super) fn new(checkpoints: Checkpoints, slot: Arc<Slot>, live: Arc<Live>, quiet: Duration) -> Self {
        Self { checkpoints, slot, live, quiet, notices: watch::Sender::default(), mark: std::sync::Mutex::default() }
    }

    /// Saves the sandbox whenever it is time, until it takes no calls any more; then says why. Hears of that from [`Self::follow`].
    pub(super) async fn run(&self) -> Left {
        let mut notices = self.notices.subscribe();
        let (mut noted, mut delays) = (false, delays());
        let mut not_before = Instant::now();
        loop {
            let notice = *notices.borrow_and_update();
            if notice.unsaved != noted {
                noted = notice.unsaved;
                let (id, generation) = (&self.slot.id, self.live.generation);
                if let Err(error) = self.checkpoints.store.unsaved(id, generation, noted).await {
                    tracing::warn!(error = &error as &dyn std::error::Error, session = %id, "cannot note what is unsaved");
                }
            }
            if notice.terminating {
                return Left::Terminated;
            }
            if notice.lifecycle() == Lifecycle::Retired {
                return Left::Retired;
            }
            let wait = self.quiet.saturating_sub(self.slot.idle());
            let wait = wait.max(not_before.saturating_duration_since(Instant::now())).max(Duration::from_millis(10));
            tokio::select! {
                // Its sender lives as long as this.
                _ = notices.changed() => continue,
                () = tokio::time::sleep(wait), if notice.unsaved => {}
            }
            if self.slot.idle() < self.quiet {
                continue;
            }
            let began = Instant::now();
            not_before = match self.save().await {
                Ok(()) => {
                    delays = self::delays();
                    // The sandbox says at once that it is saved. If not, it changed meanwhile, which is to be noted again.
                    let _ = timeout(AT_ONCE, notices.changed()).await;
                    noted = false;
                    Instant::now() + self.quiet.max(began.elapsed() * SHARE)
                }
                Err(error) => Instant::now() + self.failed(&error, delays.next()),
            };
        }
    }

    /// Follows how the sandbox stands, over connections that break. While it does, a sandbox that is told to end waits to be saved.
    pub(super) async fn follow(&self) -> Infallible {
        let mut delays = delays();
        loop {
            match self.live.sandbox.client(Scope::Lifecycle).watch_sandbox(WatchSandboxRequest {}).await {
                Ok(answer) => {
                    let mut stream = answer.into_inner();
                    while let Ok(Some(notice)) = stream.message().await {
                        delays = self::delays();
                        self.notices.send_if_modified(|told| std::mem::replace(told, notice) != notice);
                    }
                }
                Err(status) => {
                    tracing::debug!(session = %self.slot.id, error = &status as &dyn std::error::Error, "a sandbox cannot be watched");
                }
            }
            tokio::time::sleep(delays.next().unwrap_or(MAX_DELAY)).await;
        }
    }

    async fn save(&self) -> Result<(), SaveError> {
        let owner = Owner { session: &self.slot.id, generation: self.live.generation };
        let before = self.mark.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mark = self.checkpoints.save(self.live.sandbox.as_ref(), owner, &before).await?;
        *self.mark.lock().unwrap_or_else(PoisonError::into_inner) = mark;
        Ok(())
    }

    /// Saves what is left before the sandbox goes. Tries until it is gone, within a limit.
    pub(super) async fn last(&self) {
        let try_all = async {
            for delay in delays() {
                match self.save_what_is_left().await {
                    Ok(()) => return,
                    Err(error @ SaveError::Fenced) => {
                        self.failed(&error, None);
                        return;
                    }
                    Err(error) => tokio::time::sleep(self.failed(&error, Some(delay))).await,
                }
            }
        };
        tokio::select! {
            () = try_all => {}
            _ = self.live.sandbox.ended() => {}
            () = tokio::time::sleep(HOLD) => {
                tracing::error!(session = %self.slot.id, "a sandbox goes with files that could not be saved");
            }
        }
    }

    async fn save_what_is_left(&self) -> Result<(), SaveError> {
        // What a process in the background wrote is not known to be unsaved; the mark tells.
        let used = !self.mark.lock().unwrap_or_else(PoisonError::into_inner).is_empty();
        if used || notice(self.live.sandbox.as_ref()).await?.unsaved { self.save().await } else { Ok(()) }
    }

    fn failed(&self, error: &SaveError, delay: Option<Duration>) -> Duration {
        let session = &self.slot.id;
        tracing::warn!(error = error as &dyn std::error::Error, %session, again_in = ?delay, "a session could not be saved");
        if matches!(error, SaveError::Fenced) {
            self.live.end("Lost", "the session has a later sandbox");
        }
        delay.unwrap_or(MAX_DELAY)
    }
}

const MAX_DELAY: Duration = Duration::from_secs(60);

fn delays() -> impl Iterator<Item = Duration> {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(200))
        .with_max_delay(MAX_DELAY)
        .with_jitter()
        .without_max_times()
        .build()
}
