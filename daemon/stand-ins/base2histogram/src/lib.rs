//! What `openraft` counts of itself goes here, and nowhere.
//!
//! `openraft` keeps histograms that this project never reads. The crate that it keeps them in makes tables for every
//! precision that it offers when the first one is made: 26 MB, more than all else that a waiting `raftupd` takes. This
//! one has the same words, and counts nothing.
#![forbid(unsafe_code)]

use std::{fmt, marker::PhantomData};

/// A histogram that stays empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Histogram<T = ()>(PhantomData<T>);

impl<T> Histogram<T> {
    /// An empty one.
    pub fn new() -> Self {
        Self(PhantomData)
    }

    /// Forgets a value.
    pub fn record(&mut self, _value: u64) {}

    /// Forgets a value that came `_count` times.
    pub fn record_n(&mut self, _value: u64, _count: u64) {}

    /// Nothing was counted.
    pub fn percentile_stats(&self) -> PercentileStats {
        PercentileStats::default()
    }
}

impl<T> Default for Histogram<T> {
    fn default() -> Self {
        Self::new()
    }
}

/// What an empty histogram has to say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PercentileStats {
    pub samples: u64,
    pub p0_1: u64,
    pub p1: u64,
    pub p5: u64,
    pub p10: u64,
    pub p50: u64,
    pub p90: u64,
    pub p99: u64,
    pub p99_9: u64,
}

impl fmt::Display for PercentileStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("nothing was counted")
    }
}

/// A chart of empty histograms.
#[derive(Clone, Debug, Default)]
pub struct AsciiChart;

impl AsciiChart {
    /// An empty one.
    pub fn new() -> Self {
        Self
    }

    /// Leaves the histogram out.
    pub fn add<T>(self, _name: &str, _histogram: Histogram<T>) -> Self {
        self
    }
}
