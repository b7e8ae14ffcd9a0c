//! What the metrics of Kernelbox's programs have in common: how they are defined, written out, and told of in docs/metrics.md.
//!
//! Which metrics there are is said by each program, in its own `metrics.rs`. Nothing here is global.
mod book;
mod labels;
mod page;
mod process;

use std::time::Duration;

pub use self::{
    book::{Book, Figures},
    labels::{Counters, Gauges, Histograms, Label, Labels},
};
pub use prometheus::{Error, Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge};

/// Upper bounds in seconds, for what is asked and answered.
pub const REQUEST: &[f64] = &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];
/// Upper bounds in seconds, for what starts, runs, or is waited for.
pub const START: &[f64] =
    &[0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0];
/// Upper bounds in bytes, from 1 KiB to 16 GiB.
pub const BYTES: &[f64] =
    &[1024.0, 16384.0, 262_144.0, 1_048_576.0, 16_777_216.0, 134_217_728.0, 1_073_741_824.0, 17_179_869_184.0];

/// Takes a time in seconds.
pub trait Observe {
    fn took(&self, took: Duration);
}

impl Observe for Histogram {
    fn took(&self, took: Duration) {
        self.observe(took.as_secs_f64());
    }
}
