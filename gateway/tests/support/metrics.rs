//! Prometheus' text format, read strictly: what is told of no family, or told twice, is refused.
use std::collections::{BTreeMap, BTreeSet};

/// What a scrape found.
#[derive(Debug)]
pub struct Scrape {
    /// By name and labels, as they were written.
    samples: BTreeMap<String, f64>,
    /// Of each family: its type.
    families: BTreeMap<String, String>,
}

impl Scrape {
    pub fn parse(text: &str) -> Self {
        let (mut samples, mut families, mut helped) = (BTreeMap::new(), BTreeMap::new(), BTreeSet::new());
        for line in text.lines() {
            if let Some(help) = line.strip_prefix("# HELP ") {
                let (name, words) = help.split_once(' ').expect("a help without words");
                assert!(words.ends_with('.') && helped.insert(name.to_owned()), "{line}");
                continue;
            }
            if let Some(family) = line.strip_prefix("# TYPE ") {
                let (name, kind) = family.split_once(' ').unwrap();
                assert!(helped.contains(name) && families.insert(name.to_owned(), kind.to_owned()).is_none(), "{line}");
                continue;
            }
            let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no sample: {line}"));
            let name = series.split('{').next().unwrap();
            let of = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
            let is_histogram = of.is_some_and(|of| families.get(of).is_some_and(|kind| kind == "histogram"));
            assert!(is_histogram || families.contains_key(name), "of no family: {line}");
            let value = value.parse().unwrap_or_else(|_| panic!("no number: {line}"));
            assert!(samples.insert(series.to_owned(), value).is_none(), "twice: {line}");
        }
        Self { samples, families }
    }

    /// A sample, by name and labels in the order of the alphabet.
    pub fn of(&self, series: &str) -> f64 {
        *self.samples.get(series).unwrap_or_else(|| panic!("no {series} in {:#?}", self.samples.keys()))
    }

    pub fn families(&self) -> BTreeSet<String> {
        self.families.keys().cloned().collect()
    }

    pub fn series(&self) -> BTreeSet<String> {
        self.samples.keys().cloned().collect()
    }
}
