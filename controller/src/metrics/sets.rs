//! The closed sets that labels are of.
use kernelbox_api::EndReason;
use kernelbox_metrics::{Label, labels};

labels! {
    /// Where a session's sandbox came from.
    pub enum Source = "source" {
        /// It was ready.
        Warm = "warm",
        /// It was made for the session.
        Cold = "cold",
        /// The session had it already.
        Existing = "existing",
    }
}

labels! {
    /// Why a gateway got no sandbox.
    pub enum Refusal = "reason" {
        /// The session has a later one.
        Bound = "superseded",
        /// It ended, and the gateway was to have known it.
        Lost = "lost",
        StartFailed = "start_failed",
        /// The request cannot be granted, now or later.
        Invalid = "invalid",
        ShuttingDown = "shutting_down",
        Other = "other",
    }
}

labels! {
    /// What was to be done again.
    pub enum Pass = "step" {
        Keys = "keys",
        /// What was written without an answer could not be looked for.
        Look = "look",
        Write = "write",
    }
}

labels! {
    /// What a supervisor says when it is asked whether its sandbox is idle.
    pub(super) enum Said = "answer" {
        Used = "used",
        Retired = "retired",
        Unsaved = "retired_unsaved",
        Silent = "silent",
    }
}

/// As a label.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reason(pub(super) EndReason);

impl Label for Reason {
    const NAME: &'static str = "reason";
    /// In the order of [`EndReason`].
    const VALUES: &'static [&'static str] = &[
        "Released",
        "IdleTimeout",
        "IdleUnsaved",
        "MaxLifetime",
        "StartTimeout",
        "QueueTimeout",
        "Superseded",
        "Stale",
        "ScaledDown",
        "OOMKilled",
        "Evicted",
        "Deleted",
        "NodeLost",
        "Failed",
        "ImageUnavailable",
    ];

    fn at(self) -> usize {
        self.0 as usize
    }
}
