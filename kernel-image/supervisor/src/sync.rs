//! A mutex that a panic elsewhere does not spoil.
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks; what the mutex guards is valid after every statement, so a poisoned one is as good as any.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
