//! What the controller counts. Labels are of closed sets.
use std::time::Duration;

use kernelbox_api::EndReason;
use prometheus::{Encoder as _, HistogramOpts, HistogramVec, IntCounterVec, Opts, Registry, TextEncoder};

/// Where a session's sandbox came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// It was ready.
    Warm,
    /// It was made for the session.
    Cold,
    /// The session had it already.
    Existing,
}

impl Source {
    fn name(self) -> &'static str {
        match self {
            Self::Warm => "warm",
            Self::Cold => "cold",
            Self::Existing => "existing",
        }
    }
}

/// All metrics; clones are the same ones.
#[derive(Debug, Clone)]
pub struct Metrics {
    registry: Registry,
    api_writes: IntCounterVec,
    acquires: HistogramVec,
    ended: IntCounterVec,
}

impl Metrics {
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let api_writes = IntCounterVec::new(
            Opts::new("kernelbox_api_writes_total", "Writes to the Kubernetes API, by result ok or error."),
            &["verb", "resource", "result"],
        )?;
        let buckets = prometheus::exponential_buckets(0.001, 2.0, 18)?;
        let acquires = HistogramVec::new(
            HistogramOpts::new("kernelbox_acquire_seconds", "From a gateway's request to its sandbox, by source.")
                .buckets(buckets),
            &["source"],
        )?;
        let ended = IntCounterVec::new(
            Opts::new("kernelbox_sandboxes_ended_total", "Sandboxes that ended, by reason."),
            &["reason"],
        )?;
        registry.register(Box::new(api_writes.clone()))?;
        registry.register(Box::new(acquires.clone()))?;
        registry.register(Box::new(ended.clone()))?;
        Ok(Self { registry, api_writes, acquires, ended })
    }

    pub fn api_write(&self, verb: &str, resource: &str, is_ok: bool) {
        let result = if is_ok { "ok" } else { "error" };
        self.api_writes.with_label_values(&[verb, resource, result]).inc();
    }

    pub fn acquired(&self, source: Source, took: Duration) {
        self.acquires.with_label_values(&[source.name()]).observe(took.as_secs_f64());
    }

    pub fn ended(&self, reason: EndReason) {
        self.ended.with_label_values(&[reason.to_string().as_str()]).inc();
    }

    /// In Prometheus' text format.
    pub fn text(&self) -> Result<String, prometheus::Error> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }
}
