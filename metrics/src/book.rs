//! A program's metrics: defined once, each with what docs/metrics.md says of it.
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use prometheus::{
    Encoder as _, Error, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec,
    Opts, Registry, TextEncoder, core::Collector,
};

use crate::{
    labels::{Counters, Gauges, Histograms, Labels},
    process::Process,
};

/// Where metrics are defined, and read from.
#[derive(Debug, Clone, Default)]
pub struct Book {
    registry: Registry,
    pub(crate) entries: Vec<Entry>,
}

/// What is told of a metric.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub name: &'static str,
    pub kind: &'static str,
    pub help: &'static str,
    /// With their values, where these are a closed set.
    pub labels: Vec<(&'static str, &'static [&'static str])>,
}

impl Book {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn counter(&mut self, name: &'static str, help: &'static str) -> Result<IntCounter, Error> {
        self.add(IntCounter::with_opts(Opts::new(name, help))?, name, "counter", help, Vec::new())
    }

    pub fn counters<L: Labels>(&mut self, name: &'static str, help: &'static str) -> Result<Counters<L>, Error> {
        let vec = IntCounterVec::new(Opts::new(name, help), &names::<L>())?;
        Ok(Counters::from_vec(&self.add(vec, name, "counter", help, L::sets())?))
    }

    /// Of labels whose values are known at run time alone, and few.
    pub fn counters_by(
        &mut self,
        name: &'static str,
        help: &'static str,
        labels: &[&'static str],
    ) -> Result<IntCounterVec, Error> {
        self.add(IntCounterVec::new(Opts::new(name, help), labels)?, name, "counter", help, open(labels))
    }

    pub fn gauge(&mut self, name: &'static str, help: &'static str) -> Result<IntGauge, Error> {
        self.add(IntGauge::with_opts(Opts::new(name, help))?, name, "gauge", help, Vec::new())
    }

    pub fn gauges<L: Labels>(&mut self, name: &'static str, help: &'static str) -> Result<Gauges<L>, Error> {
        let vec = IntGaugeVec::new(Opts::new(name, help), &names::<L>())?;
        Ok(Gauges::from_vec(&self.add(vec, name, "gauge", help, L::sets())?))
    }

    pub fn gauges_by(
        &mut self,
        name: &'static str,
        help: &'static str,
        labels: &[&'static str],
    ) -> Result<Figures, Error> {
        let vec = IntGaugeVec::new(Opts::new(name, help), labels)?;
        Ok(Figures { vec: self.add(vec, name, "gauge", help, open(labels))?, shown: Arc::default() })
    }

    /// Gauges that each change on their own, of labels whose values are known at run time alone, and few.
    pub fn open_gauges(
        &mut self,
        name: &'static str,
        help: &'static str,
        labels: &[&'static str],
    ) -> Result<IntGaugeVec, Error> {
        self.add(IntGaugeVec::new(Opts::new(name, help), labels)?, name, "gauge", help, open(labels))
    }

    pub fn histogram(
        &mut self,
        name: &'static str,
        help: &'static str,
        buckets: &'static [f64],
    ) -> Result<Histogram, Error> {
        let histogram = Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets.to_vec()))?;
        self.add(histogram, name, "histogram", help, Vec::new())
    }

    pub fn histograms<L: Labels>(
        &mut self,
        name: &'static str,
        help: &'static str,
        buckets: &'static [f64],
    ) -> Result<Histograms<L>, Error> {
        let vec = HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets.to_vec()), &names::<L>())?;
        Ok(Histograms::from_vec(&self.add(vec, name, "histogram", help, L::sets())?))
    }

    pub fn histograms_by(
        &mut self,
        name: &'static str,
        help: &'static str,
        labels: &[&'static str],
        buckets: &'static [f64],
    ) -> Result<HistogramVec, Error> {
        let vec = HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets.to_vec()), labels)?;
        self.add(vec, name, "histogram", help, open(labels))
    }

    /// What every program tells of itself: `process_*`, and its version.
    pub fn process(&mut self, version: &'static str) -> Result<(), Error> {
        let help = "Always 1. The label says which version of the program runs.";
        self.gauges_by("kernelbox_build_info", help, &["version"])?.vec.with_label_values(&[version]).set(1);
        for (name, kind, help) in Process::TOLD {
            self.entries.push(Entry { name, kind, help, labels: Vec::new() });
        }
        self.registry.register(Box::new(Process::new()?))
    }

    /// In Prometheus' text format.
    pub fn text(&self) -> Result<String, Error> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    fn add<C: Collector + Clone + 'static>(
        &mut self,
        collector: C,
        name: &'static str,
        kind: &'static str,
        help: &'static str,
        labels: Vec<(&'static str, &'static [&'static str])>,
    ) -> Result<C, Error> {
        self.registry.register(Box::new(collector.clone()))?;
        self.entries.push(Entry { name, kind, help, labels });
        Ok(collector)
    }
}

fn names<L: Labels>() -> Vec<&'static str> {
    L::sets().into_iter().map(|(name, _)| name).collect()
}

fn open(labels: &[&'static str]) -> Vec<(&'static str, &'static [&'static str])> {
    labels.iter().map(|label| (*label, [].as_slice())).collect()
}

/// Gauges that are all told at once, from a look at everything.
#[derive(Debug, Clone)]
pub struct Figures {
    vec: IntGaugeVec,
    shown: Arc<Mutex<Vec<Vec<String>>>>,
}

impl Figures {
    /// These, and no others any more. A scrape meanwhile finds old ones beside new ones, and none missing.
    pub fn replace(&self, now: &HashMap<Vec<String>, i64>) {
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        for (labels, value) in now {
            self.vec.with_label_values(labels).set(*value);
        }
        for labels in shown.iter().filter(|labels| !now.contains_key(*labels)) {
            // It is there: it was shown.
            let _ = self.vec.remove_label_values(labels);
        }
        *shown = now.keys().cloned().collect();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test")]
    use super::*;

    #[test]
    fn figures_of_what_is_gone_are_gone() {
        let mut book = Book::new();
        let figures = book.gauges_by("kernelbox_things", "Things.", &["of"]).unwrap();
        let of = |name: &str, many| (vec![name.to_owned()], many);
        figures.replace(&HashMap::from([of("a", 1), of("b", 2)]));
        figures.replace(&HashMap::from([of("b", 3)]));
        let text = book.text().unwrap();
        assert!(text.contains("kernelbox_things{of=\"b\"} 3\n") && !text.contains("of=\"a\""), "{text}");
    }
}
