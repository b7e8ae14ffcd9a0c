//! The time of day, as it is written on resources and compared with what is written there.
use k8s_openapi::jiff::Timestamp;

#[cfg(not(test))]
pub(crate) fn now() -> Timestamp {
    Timestamp::now()
}

/// It goes with tokio's clock, which a test can stop and put forward.
#[cfg(test)]
pub(crate) fn now() -> Timestamp {
    use std::{sync::LazyLock, time::Instant};

    static BEGUN: LazyLock<(Timestamp, Instant)> = LazyLock::new(|| (Timestamp::now(), Instant::now()));
    BEGUN.0 + tokio::time::Instant::now().into_std().saturating_duration_since(BEGUN.1)
}
