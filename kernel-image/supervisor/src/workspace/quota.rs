//! How much may still be written.
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

/// The bytes that file calls may still write. Whoever measures the disk sets it; writers take from it in between. Clones are the same.
#[derive(Debug, Clone)]
pub struct Quota(Arc<AtomicU64>);

impl Quota {
    pub fn unlimited() -> Self {
        Self::new(u64::MAX)
    }

    pub fn new(bytes: u64) -> Self {
        Self(Arc::new(AtomicU64::new(bytes)))
    }

    /// What a measurement found to be left.
    pub fn set_left(&self, bytes: u64) {
        self.0.store(bytes, Relaxed);
    }

    /// Takes `bytes`, or nothing if fewer are left.
    pub(super) fn take(&self, bytes: u64) -> bool {
        let take = |left: u64| if left == u64::MAX { Some(left) } else { left.checked_sub(bytes) };
        self.0.try_update(Relaxed, Relaxed, take).is_ok()
    }

    /// Gives back what was taken and is not used.
    pub(super) fn give(&self, bytes: u64) {
        let _ = self.0.try_update(Relaxed, Relaxed, |left| Some(left.saturating_add(bytes)));
    }
}
