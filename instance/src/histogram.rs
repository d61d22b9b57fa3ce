//! A histogram that many threads add to without a lock.
//!
//! Rejected: prometheus-client's own, which takes a lock per observation; what it renders is used.

use prometheus_client::encoding::{EncodeLabelSet, EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Counts per bucket, in integers.
#[derive(Debug)]
pub(crate) struct Histogram {
    /// Upper bounds, rising.
    bounds: &'static [u64],
    /// So many make one of the metric's unit; a divisor, so that 100,000 µs are 0.1 and not 0.09999999999999999.
    per: f64,
    /// One per bound, and one for what is above.
    counts: Box<[AtomicU64]>,
    sum: AtomicU64,
}

impl Histogram {
    pub(crate) fn new(bounds: &'static [u64], per: f64) -> Self {
        Self {
            bounds,
            per,
            counts: (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect(),
            sum: AtomicU64::new(0),
        }
    }

    pub(crate) fn observe(&self, value: u64) {
        let bucket = self.bounds.partition_point(|bound| *bound < value);
        self.counts[bucket].fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(value, Ordering::Relaxed);
    }

    pub(crate) fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), std::fmt::Error> {
        let counts = self.counts.iter().map(|count| count.load(Ordering::Relaxed));
        let bounds = self.bounds.iter().map(|bound| *bound as f64 / self.per);
        let buckets: Vec<(f64, u64)> = bounds.chain([f64::INFINITY]).zip(counts).collect();
        let count = buckets.iter().map(|(_, count)| count).sum();
        let sum = self.sum.load(Ordering::Relaxed) as f64 / self.per;
        encoder.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
    }
}

/// Histograms with labels, gathered at scrape time.
#[derive(Debug)]
pub(crate) struct Gathered<L>(pub(crate) Vec<(L, Source)>);

/// One histogram without labels.
#[derive(Debug)]
pub(crate) struct Bare(pub(crate) Source);

impl EncodeMetric for Bare {
    fn encode(&self, encoder: MetricEncoder<'_>) -> Result<(), std::fmt::Error> {
        self.0.histogram().encode(encoder)
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }
}

/// Where a histogram is kept.
#[derive(Debug)]
pub(crate) enum Source {
    Outcome(Arc<crate::call::Durations>, usize),
    Store(
        Arc<crate::store_watch::Measures>,
        fn(&crate::store_watch::Measures) -> &Histogram,
    ),
}

impl Source {
    fn histogram(&self) -> &Histogram {
        match self {
            Self::Outcome(durations, index) => &durations.all()[*index],
            Self::Store(measures, pick) => pick(measures),
        }
    }
}

impl<L: EncodeLabelSet + std::fmt::Debug + Send + Sync + 'static> EncodeMetric for Gathered<L> {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), std::fmt::Error> {
        for (labels, source) in &self.0 {
            source.histogram().encode(encoder.encode_family(labels)?)?;
        }
        Ok(())
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_falls_into_the_first_bucket_that_holds_it() {
        let histogram = Histogram::new(&[10, 20], 1.0);
        for value in [0, 10, 11, 20, 21] {
            histogram.observe(value);
        }
        let counts: Vec<u64> = histogram
            .counts
            .iter()
            .map(|count| count.load(Ordering::Relaxed))
            .collect();
        assert_eq!(counts, [2, 2, 1]);
        assert_eq!(histogram.sum.load(Ordering::Relaxed), 62);
    }
}
