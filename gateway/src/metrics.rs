//! What the gateway counts. Labels are of closed sets: never the name of a session, a sandbox or a tenant.
//!
//! Sandboxes have no metrics of their own: what happens in them is counted here as it passes, each event once.
mod executions;
mod requests;
mod sandboxes;
mod turns;

use kernelbox_metrics::{Book, Counters, Error, Gauges, Histograms, IntCounter, IntGauge, REQUEST, labels};

pub(crate) use self::{
    executions::{Counted, Executions, Ran, Sandbox},
    requests::Requests,
    sandboxes::{CheckpointOutcome, Operation, Sandboxes},
    turns::{Model, Outcome, Tool, Turns},
};

labels! {
    /// Whether a session has a sandbox.
    pub(crate) enum Has = "sandbox" {
        None = "none",
        Starting = "starting",
        Ready = "ready",
    }
}

labels! {
    /// Which way a file goes, as the sandbox sees it.
    pub(crate) enum Way = "direction" {
        In = "in",
        Out = "out",
    }
}

labels! {
    /// What the database is asked for.
    pub(crate) enum Query = "operation" {
        Read = "read",
        Write = "write",
        /// What happens in turns, many at once.
        Journal = "journal",
    }
}

labels! {
    /// A tenant's limit that refused a call.
    pub(crate) enum Limit = "limit" {
        Requests = "requests_per_second",
        Executions = "executions",
        Turns = "turns",
        Streams = "streams",
    }
}

labels! {
    /// What this gateway shows to others.
    pub(crate) enum Credential = "credential" {
        Certificate = "certificate",
        ControllerToken = "controller_token",
    }
}

/// All metrics.
#[derive(Debug)]
pub(crate) struct Metrics {
    pub(crate) book: Book,
    pub(crate) requests: Requests,
    pub(crate) refusals: Counters<Limit>,
    pub(crate) executions: Executions,
    pub(crate) turns: Turns,
    pub(crate) model: Model,
    pub(crate) sandboxes: Sandboxes,
    /// In memory, when they were counted last.
    pub(crate) sessions: Gauges<Has>,
    pub(crate) sessions_created: IntCounter,
    pub(crate) sessions_deleted: IntCounter,
    pub(crate) sandbox_limit: IntGauge,
    pub(crate) file_bytes: Counters<Way>,
    pub(crate) store: StoreMetrics,
    pub(crate) credentials: Gauges<Credential>,
}

/// Of the database.
#[derive(Debug, Clone)]
pub(crate) struct StoreMetrics {
    pub(crate) times: Histograms<Query>,
    pub(crate) errors: Counters<Query>,
}

impl Metrics {
    pub(crate) fn new() -> Result<Self, Error> {
        let mut book = Book::new();
        book.process(env!("CARGO_PKG_VERSION"))?;
        Ok(Self {
            requests: Requests::new(&mut book)?,
            refusals: book.counters(
                "kernelbox_limit_refusals_total",
                "Calls that were refused because their tenant was at a limit, by the limit.",
            )?,
            executions: Executions::new(&mut book)?,
            turns: Turns::new(&mut book)?,
            model: Model::new(&mut book)?,
            sandboxes: Sandboxes::new(&mut book)?,
            sessions: book.gauges(
                "kernelbox_sessions",
                "Sessions that this gateway has in memory because they are used, by whether they have a sandbox.",
            )?,
            sessions_created: book.counter("kernelbox_sessions_created_total", "Sessions that were made.")?,
            sessions_deleted: book
                .counter("kernelbox_sessions_deleted_total", "Sessions that were deleted by a call.")?,
            sandbox_limit: book.gauge(
                "kernelbox_sandbox_limit",
                "How many sessions of this gateway may have a sandbox at once (--max-sandboxes).",
            )?,
            file_bytes: book.counters(
                "kernelbox_file_bytes_total",
                "Bytes of files that went into workspaces and out of them by calls.",
            )?,
            store: StoreMetrics {
                times: book.histograms(
                    "kernelbox_store_seconds",
                    "Time that the database took; a journal's write holds what many turns told meanwhile.",
                    REQUEST,
                )?,
                errors: book.counters("kernelbox_store_errors_total", "Queries of the database that failed.")?,
            },
            credentials: book.gauges(
                "kernelbox_credential_end_timestamp_seconds",
                "When what this gateway shows to others ends, in seconds since 1970; 0 for what it does not have, 1 for \
                 what cannot be read: the certificate that it serves, and the token by which the controller knows it.",
            )?,
            book,
        })
    }
}

/// Something that is counted while it lasts.
#[derive(Debug)]
pub(crate) struct Held(IntGauge);

impl Held {
    pub(crate) fn new(gauge: &IntGauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// What docs/metrics.md says of the gateway's metrics.
pub fn reference() -> Result<String, Error> {
    Ok(Metrics::new()?.book.page("gateway"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reference_is_kept_in_the_docs_and_follows_the_conventions() {
        assert_eq!(Metrics::new().unwrap().book.oddities(), Vec::<String>::new());
        let kept = include_str!("../../docs/metrics.md");
        assert!(kept.contains(&reference().unwrap()), "docs/metrics.md is stale; run: make metrics");
    }
}
