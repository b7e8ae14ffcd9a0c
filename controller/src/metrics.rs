//! What the controller counts. Labels are of closed sets, or names of templates and pools; never of sandboxes, sessions or tenants.
mod census;
mod sets;

use std::{sync::Arc, time::Duration};

use k8s_openapi::jiff::Timestamp;
use kernelbox_api::{EndReason, SandboxStatus};
use kernelbox_metrics::{
    Book, Counters, Error, Histogram, HistogramVec, Histograms, IntCounter, IntCounterVec, IntGauge, Observe as _,
    REQUEST, START,
};
use kernelbox_proto::v1::ErrorCode;

use self::sets::{Reason, Said};
pub use self::{
    census::Census,
    sets::{Pass, Refusal, Source},
};
use crate::{cluster::WriteError, life::Answer};

/// All metrics; clones are the same ones.
#[derive(Debug, Clone)]
pub struct Metrics(Arc<All>);

#[derive(Debug)]
struct All {
    book: Book,
    acquires: Histograms<Source>,
    acquire_failures: Counters<Refusal>,
    acquires_open: IntGauge,
    ended: Counters<Reason>,
    starts: HistogramVec,
    stages: HistogramVec,
    figures: census::Told,
    asks: Counters<Said>,
    reconciles: Histogram,
    reconcile_errors: Counters<Pass>,
    leader: IntGauge,
    api_writes: IntCounterVec,
    api_write_times: HistogramVec,
    api_answered: IntGauge,
    signing_key: IntGauge,
    watch_failures: IntCounterVec,
}

impl Metrics {
    pub fn new() -> Result<Self, Error> {
        let mut book = Book::new();
        book.process(env!("CARGO_PKG_VERSION"))?;
        Ok(Self(Arc::new(All {
            acquires: book.histograms(
                "kernelbox_acquire_seconds",
                "Time from a gateway's request for a session's sandbox until it had one, by where that came from.",
                START,
            )?,
            acquire_failures: book.counters(
                "kernelbox_acquire_failures_total",
                "Requests for a sandbox that were refused or ended without one.",
            )?,
            acquires_open: book.gauge("kernelbox_acquires_waiting", "Requests for a sandbox that wait for it now.")?,
            ended: book.counters("kernelbox_sandboxes_ended_total", "Sandboxes that this replica ended, by reason.")?,
            starts: book.histograms_by(
                "kernelbox_sandbox_start_seconds",
                "Time from a pod's creation until its first kernel answers.",
                &["template"],
                START,
            )?,
            stages: book.histograms_by(
                "kernelbox_sandbox_stage_seconds",
                "Time that each stage of a start took: queued (until there is a pod), scheduled, pulled (and the \
                 container started: the kubelet tells both at once, in whole seconds), kernel_ready.",
                &["template", "stage"],
                START,
            )?,
            figures: census::Told::new(&mut book)?,
            asks: book.counters(
                "kernelbox_idle_asks_total",
                "Times that a supervisor was asked whether its sandbox is idle, by what it said.",
            )?,
            reconciles: book.histogram(
                "kernelbox_reconcile_seconds",
                "Time of one pass of the leader over all that it knows, with the writes that came of it.",
                REQUEST,
            )?,
            reconcile_errors: book.counters(
                "kernelbox_reconcile_errors_total",
                "Passes of the leader that left something to be done again, by the step that failed.",
            )?,
            leader: book.gauge("kernelbox_leader", "Whether this replica leads: 1 or 0.")?,
            api_writes: book.counters_by(
                "kernelbox_api_writes_total",
                "Writes to the Kubernetes API. The outcome is ok, conflict, gone, refused, silent or failed.",
                &["verb", "resource", "outcome"],
            )?,
            api_write_times: book.histograms_by(
                "kernelbox_api_write_seconds",
                "Time that the Kubernetes API took to answer a write, or that it was waited for.",
                &["verb", "resource"],
                REQUEST,
            )?,
            api_answered: book.gauge(
                "kernelbox_api_last_answer_timestamp_seconds",
                "When the Kubernetes API last answered this replica, which asks every 3 seconds for the leaders' \
                 lease; in seconds since 1970.",
            )?,
            signing_key: book.gauge(
                "kernelbox_signing_key_created_timestamp_seconds",
                "When the key was made that signs sandboxes' tokens, in seconds since 1970; 0 without one. There is a new \
                 one each day.",
            )?,
            watch_failures: book.counters_by(
                "kernelbox_watch_failures_total",
                "Watches of the Kubernetes API that broke and were begun again.",
                &["resource"],
            )?,
            book,
        })))
    }

    pub fn acquired(&self, source: Source, took: Duration) {
        self.0.acquires.took(source, took);
    }

    pub fn not_acquired(&self, code: ErrorCode) {
        self.0.acquire_failures.inc(match code {
            ErrorCode::SandboxBound => Refusal::Bound,
            ErrorCode::SandboxLost => Refusal::Lost,
            ErrorCode::SandboxStartFailed => Refusal::StartFailed,
            ErrorCode::InvalidArgument => Refusal::Invalid,
            ErrorCode::ShuttingDown => Refusal::ShuttingDown,
            _ => Refusal::Other,
        });
    }

    /// Counted while it is held.
    pub fn waits(&self) -> Held {
        Held::new(&self.0.acquires_open)
    }

    pub fn ended(&self, reason: EndReason) {
        self.0.ended.inc(Reason(reason));
    }

    /// The key that signs tokens now was made then.
    pub fn signs_with_key_of(&self, created: Option<Timestamp>) {
        self.0.signing_key.set(created.map(Timestamp::as_second).unwrap_or_default());
    }

    /// A sandbox' first kernel answers.
    pub fn ready(&self, template: &str, status: &SandboxStatus) {
        for (stage, begin, end) in status.stages.steps() {
            if let Some(took) = span(Some(begin), Some(end)) {
                self.0.stages.with_label_values(&[template, stage]).took(took);
            }
        }
        if let Some(took) = span(status.stages.created.as_ref(), status.stages.kernel_ready.as_ref()) {
            self.0.starts.with_label_values(&[template]).took(took);
        }
    }

    /// All that the leader sees.
    pub fn take(&self, census: &Census) {
        self.0.figures.take(census);
    }

    pub fn answered(&self, answer: &Answer) {
        self.0.asks.inc(match answer {
            Answer::Used(_) => Said::Used,
            Answer::Retired { unsaved: false, .. } => Said::Retired,
            Answer::Retired { .. } => Said::Unsaved,
            Answer::Silent { .. } => Said::Silent,
        });
    }

    pub fn reconciled(&self, took: Duration) {
        self.0.reconciles.took(took);
    }

    pub fn not_reconciled(&self, step: Pass) {
        self.0.reconcile_errors.inc(step);
    }

    /// This replica leads while it is held. What only the leader tells is not told afterwards.
    pub fn leads(&self) -> Leads<'_> {
        Leads(self, Held::new(&self.0.leader))
    }

    pub fn wrote<T>(&self, verb: &str, resource: &str, took: Duration, answer: &Result<T, WriteError>) {
        let outcome = answer.as_ref().err().map_or("ok", WriteError::word);
        self.0.api_writes.with_label_values(&[verb, resource, outcome]).inc();
        self.0.api_write_times.with_label_values(&[verb, resource]).took(took);
    }

    /// The Kubernetes API answered.
    pub fn api_answered(&self) {
        self.0.api_answered.set(crate::clock::now().as_second());
    }

    pub fn watch_failures(&self, resource: &str) -> IntCounter {
        self.0.watch_failures.with_label_values(&[resource])
    }

    pub fn book(&self) -> &Book {
        &self.0.book
    }
}

/// None where one is not known, or their clocks do not agree.
fn span(
    from: Option<&k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime>,
    to: Option<&k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime>,
) -> Option<Duration> {
    Duration::try_from(to?.0.duration_since(from?.0)).ok()
}

/// Something that is counted while it lasts.
#[derive(Debug)]
pub struct Held(IntGauge);

impl Held {
    fn new(gauge: &IntGauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.dec();
    }
}

pub struct Leads<'a>(&'a Metrics, #[expect(dead_code, reason = "it counts while it is held")] Held);

impl Drop for Leads<'_> {
    fn drop(&mut self) {
        self.0.take(&Census::default());
    }
}

#[cfg(test)]
mod tests;
