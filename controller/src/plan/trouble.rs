//! Sandboxes of a template that did not start: how many, why, and when to try again. Pure.
use std::{sync::Arc, time::Duration};

use k8s_openapi::jiff::Timestamp;
use kernelbox_api::{EndReason, Sandbox};

use crate::life;

/// After the first failure, doubled after each.
const FIRST_PAUSE: Duration = Duration::from_secs(5);
const LONGEST_PAUSE: Duration = Duration::from_mins(5);

/// What failed since the last one that started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Trouble {
    pub failures: u32,
    last: Timestamp,
    pub reason: EndReason,
    pub message: String,
}

impl Trouble {
    /// How long to wait still before the next is made.
    pub(super) fn pause(&self, now: Timestamp) -> Option<Duration> {
        let doubled = FIRST_PAUSE.saturating_mul(1 << (self.failures - 1).min(16));
        life::rest(now, self.last, doubled.min(LONGEST_PAUSE))
    }
}

/// The trouble of a template's sandboxes, if there is any.
pub(super) fn of(own: &[&Arc<Sandbox>]) -> Option<Trouble> {
    let stages = |it: &Sandbox| it.status.as_ref().map(|status| status.stages.clone()).unwrap_or_default();
    let started = own.iter().filter_map(|it| stages(it).kernel_ready).map(|time| time.0).max();
    let failed = own.iter().filter_map(|it| {
        let status = it.status.as_ref()?;
        let reason = status.end_reason?;
        let is_start = match reason {
            EndReason::StartTimeout | EndReason::ImageUnavailable => true,
            EndReason::Failed | EndReason::OOMKilled => status.stages.kernel_ready.is_none(),
            _ => false,
        };
        let ended = status.stages.ended.as_ref()?.0;
        let is_later = started.is_none_or(|started| ended > started);
        (is_start && is_later).then(|| (ended, reason, status.message.clone().unwrap_or_default()))
    });
    let mut failures = 0;
    let last = failed.inspect(|_| failures += 1).max_by_key(|(ended, ..)| *ended);
    last.map(|(last, reason, message)| Trouble { failures, last, reason, message })
}
