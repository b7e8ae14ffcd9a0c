//! Labels of closed sets. Each of their values is there from the start, at zero: a rate has no first step that it misses. Counting is an
//! array's element and an addition.
use std::{fmt, marker::PhantomData, sync::Arc, time::Duration};

use prometheus::{Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec};

/// A label with all the values that it can have. Made by [`labels!`](crate::labels).
pub trait Label: Copy + 'static {
    const NAME: &'static str;
    const VALUES: &'static [&'static str];

    /// Which of them it is.
    fn at(self) -> usize;
}

/// One label, or two.
pub trait Labels: Copy + 'static {
    /// Their names and values.
    fn sets() -> Vec<(&'static str, &'static [&'static str])>;

    fn at(self) -> usize;
}

impl<A: Label> Labels for A {
    fn sets() -> Vec<(&'static str, &'static [&'static str])> {
        vec![(A::NAME, A::VALUES)]
    }

    fn at(self) -> usize {
        Label::at(self)
    }
}

impl<A: Label, B: Label> Labels for (A, B) {
    fn sets() -> Vec<(&'static str, &'static [&'static str])> {
        vec![(A::NAME, A::VALUES), (B::NAME, B::VALUES)]
    }

    fn at(self) -> usize {
        self.0.at() * B::VALUES.len() + self.1.at()
    }
}

/// Defines a label: `labels! { pub enum Source = "source" { Warm = "warm", Cold = "cold" } }`.
#[macro_export]
macro_rules! labels {
    ($(#[$meta:meta])* $vis:vis enum $name:ident = $label:literal {
        $($(#[$of_value:meta])* $variant:ident = $value:literal),+ $(,)?
    }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        $vis enum $name {
            $($(#[$of_value])* $variant),+
        }

        impl $crate::Label for $name {
            const NAME: &'static str = $label;
            const VALUES: &'static [&'static str] = &[$($value),+];

            fn at(self) -> usize {
                self as usize
            }
        }
    };
}

/// A metric for each value of its labels.
pub struct Family<L, M> {
    all: Arc<[M]>,
    labels: PhantomData<fn(L)>,
}

pub type Counters<L> = Family<L, IntCounter>;
pub type Gauges<L> = Family<L, IntGauge>;
pub type Histograms<L> = Family<L, Histogram>;

impl<L, M> Clone for Family<L, M> {
    fn clone(&self) -> Self {
        Self { all: Arc::clone(&self.all), labels: PhantomData }
    }
}

impl<L, M: fmt::Debug> fmt::Debug for Family<L, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.all.fmt(f)
    }
}

impl<L: Labels, M> Family<L, M> {
    pub(crate) fn new(of: impl Fn(&[&str]) -> M) -> Self {
        let mut rows: Vec<Vec<&str>> = vec![Vec::new()];
        for (_, values) in L::sets() {
            let longer = |row: &Vec<&'static str>, value| row.iter().copied().chain([value]).collect();
            rows = rows.iter().flat_map(|row| values.iter().map(move |value| longer(row, *value))).collect();
        }
        Self { all: rows.iter().map(|row| of(row)).collect(), labels: PhantomData }
    }

    /// The one of these labels.
    pub fn of(&self, labels: L) -> &M {
        &self.all[labels.at()]
    }
}

impl<L: Labels> Counters<L> {
    pub(crate) fn from_vec(vec: &IntCounterVec) -> Self {
        Self::new(|row| vec.with_label_values(row))
    }

    pub fn inc(&self, labels: L) {
        self.of(labels).inc();
    }

    pub fn add(&self, labels: L, many: u64) {
        self.of(labels).inc_by(many);
    }
}

impl<L: Labels> Gauges<L> {
    pub(crate) fn from_vec(vec: &IntGaugeVec) -> Self {
        Self::new(|row| vec.with_label_values(row))
    }
}

impl<L: Labels> Histograms<L> {
    pub(crate) fn from_vec(vec: &HistogramVec) -> Self {
        Self::new(|row| vec.with_label_values(row))
    }

    pub fn took(&self, labels: L, took: Duration) {
        self.of(labels).observe(took.as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test")]
    use crate::Book;

    labels! { enum Size = "size" { Small = "small", Large = "large" } }
    labels! { enum Colour = "colour" { Red = "red", Blue = "blue" } }

    #[test]
    fn all_values_are_there_before_anything_is_counted_and_each_counts_alone() {
        let mut book = Book::new();
        let things = book.counters::<(Size, Colour)>("kernelbox_things_total", "Things.").unwrap();
        assert_eq!(book.text().unwrap().matches("kernelbox_things_total{").count(), 4);
        things.inc((Size::Large, Colour::Red));
        things.add((Size::Small, Colour::Blue), 3);
        let text = book.text().unwrap();
        assert!(text.contains("kernelbox_things_total{colour=\"red\",size=\"large\"} 1\n"), "{text}");
        assert!(text.contains("kernelbox_things_total{colour=\"blue\",size=\"small\"} 3\n"), "{text}");
        assert_eq!(text.matches("} 0\n").count(), 2);
    }
}
