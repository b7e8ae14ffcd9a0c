//! How much may still be written.
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

/// The bytes that file calls may still write. Whoever measures the disk sets it; writers take from it in between. Clones are the same.
#[derive(Debug, Clone)]
pub struct Quota {
    left: Arc<AtomicU64>,
    limit: u64,
}

impl Quota {
    pub fn unlimited() -> Self {
        Self::new(u64::MAX)
    }

    pub fn new(bytes: u64) -> Self {
        Self { left: Arc::new(AtomicU64::new(bytes)), limit: bytes }
    }

    /// The bytes that may be there in all; `u64::MAX` for no limit.
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// What a measurement found to be left.
    pub fn set_left(&self, bytes: u64) {
        self.left.store(bytes, Relaxed);
    }

    /// Takes `bytes`, or nothing if fewer are left.
    pub(crate) fn take(&self, bytes: u64) -> bool {
        let take = |left: u64| if left == u64::MAX { Some(left) } else { left.checked_sub(bytes) };
        self.left.try_update(Relaxed, Relaxed, take).is_ok()
    }

    /// Gives back what was taken and is not used.
    pub(crate) fn give(&self, bytes: u64) {
        let _ = self.left.try_update(Relaxed, Relaxed, |left| Some(left.saturating_add(bytes)));
    }
}
