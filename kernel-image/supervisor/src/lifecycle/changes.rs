//! What changed since it was last saved, and who waits for that before a sandbox ends.
use kernelbox_proto::{Error, Result};
use tokio::sync::watch;

use super::{Lifecycle, Notice, bound};

/// Changes and checkpoints in one order.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// The last place that was given.
    clock: i64,
    /// The place of the last change.
    changed: i64,
    /// The place of the newest checkpoint that is safe.
    saved: i64,
    /// What runs now and may change files at any time.
    writing: usize,
}

impl Changes {
    pub(super) fn unsaved(&self) -> bool {
        self.changed > self.saved || self.writing > 0
    }

    fn next(&mut self) -> i64 {
        self.clock += 1;
        self.clock
    }

    fn add(&mut self) {
        self.changed = self.next();
    }
}

impl Lifecycle {
    /// Code or a file call changed something that a later sandbox of the session would not have.
    pub fn mark_unsaved(&self) {
        let mut state = self.lock();
        state.changes.add();
        self.publish(&state);
    }

    /// Something begins that may change files at any time, until the guard goes.
    pub fn writing(&self) -> WritingGuard {
        let mut state = self.lock();
        state.changes.add();
        state.changes.writing += 1;
        self.publish(&state);
        WritingGuard { lifecycle: self.clone() }
    }

    /// A checkpoint begins: its number, for [`Self::confirm`]. Of a session's sandbox only, also of a retired one.
    pub fn begin_checkpoint(&self) -> Result<i64> {
        let mut state = self.lock();
        if state.owner.is_none() {
            return Err(bound("it belongs to no session yet; bind it first"));
        }
        Ok(state.changes.next())
    }

    /// What the checkpoint holds is safe elsewhere.
    pub fn confirm(&self, number: i64) -> Result<()> {
        let mut state = self.lock();
        if number < 1 || number > state.changes.clock {
            return Err(Error::invalid("number", "is not that of a checkpoint of this sandbox"));
        }
        state.changes.saved = state.changes.saved.max(number);
        self.publish(&state);
        drop(state);
        self.0.confirmed.notify_waiters();
        Ok(())
    }

    /// The sandbox is told to end. True if it shall wait in [`Self::saved`] first: then it takes no calls any more.
    pub fn terminate(&self) -> bool {
        let mut state = self.lock();
        state.terminating = true;
        let wait = state.owner.is_some() && state.changes.unsaved() && self.0.notices.receiver_count() > 0;
        if wait {
            state.retired = true;
            if state.changes.writing > 0 {
                // What was saved until now may not hold what it wrote.
                state.changes.add();
            }
        }
        self.publish(&state);
        wait
    }

    /// Waits until all that had changed is saved.
    pub async fn saved(&self) {
        loop {
            let mut confirmed = std::pin::pin!(self.0.confirmed.notified());
            confirmed.as_mut().enable();
            let saved = {
                let state = self.lock();
                state.changes.changed <= state.changes.saved
            };
            if saved {
                return;
            }
            confirmed.await;
        }
    }

    /// How it stands, now and at each change; None at its end.
    pub fn notices(&self) -> watch::Receiver<Option<Notice>> {
        self.0.notices.subscribe()
    }

    /// Its end: nobody is told anything any more.
    pub fn end(&self) {
        self.0.notices.send_replace(None);
    }
}

/// Something that changes files. Its end is a change too.
#[derive(Debug)]
pub struct WritingGuard {
    lifecycle: Lifecycle,
}

impl Drop for WritingGuard {
    fn drop(&mut self) {
        let mut state = self.lifecycle.lock();
        state.changes.add();
        state.changes.writing -= 1;
        self.lifecycle.publish(&state);
    }
}
