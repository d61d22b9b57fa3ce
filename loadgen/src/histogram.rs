//! Latencies in bounded memory: about 200 KB a histogram, however many calls.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::ser::{Serialize, SerializeStruct, Serializer};

/// One hour in µs; longer latencies count as this.
const MICROS_MAX: u64 = 3_600_000_000;

/// Percentiles of latency from the intended start, 0 without calls. In JSON: milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Latency {
    /// Half of the calls took at most this.
    pub p50: Duration,
    /// 95 % of the calls took at most this.
    pub p95: Duration,
    /// 99 % of the calls took at most this.
    pub p99: Duration,
    /// The slowest call.
    pub max: Duration,
}

/// Recorded latencies, three significant digits.
#[derive(Debug)]
pub(crate) struct Latencies(Histogram<u64>);

impl Default for Latencies {
    fn default() -> Self {
        // Fails only for senseless bounds, and these are constants.
        Self(Histogram::new_with_bounds(1, MICROS_MAX, 3).expect("constant bounds"))
    }
}

impl Latencies {
    pub(crate) fn record(&mut self, latency: Duration) {
        self.0
            .saturating_record(u64::try_from(latency.as_micros()).unwrap_or(MICROS_MAX));
    }

    pub(crate) fn clear(&mut self) {
        self.0.reset();
    }

    pub(crate) fn summary(&self) -> Latency {
        let at = |quantile| Duration::from_micros(self.0.value_at_quantile(quantile).min(self.0.max()));
        Latency {
            p50: at(0.50),
            p95: at(0.95),
            p99: at(0.99),
            max: Duration::from_micros(self.0.max()),
        }
    }
}

impl Serialize for Latency {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let ms = |latency: Duration| latency.as_secs_f64() * 1_000.0;
        let mut fields = serializer.serialize_struct("Latency", 4)?;
        fields.serialize_field("p50", &ms(self.p50))?;
        fields.serialize_field("p95", &ms(self.p95))?;
        fields.serialize_field("p99", &ms(self.p99))?;
        fields.serialize_field("max", &ms(self.max))?;
        fields.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_within_three_digits() {
        let mut latencies = Latencies::default();
        for ms in 1..=1_000 {
            latencies.record(Duration::from_millis(ms));
        }
        let Latency { p50, p95, p99, max } = latencies.summary();
        for (seen, wanted_ms) in [(p50, 500), (p95, 950), (p99, 990), (max, 1_000)] {
            assert!(
                seen.abs_diff(Duration::from_millis(wanted_ms)) <= Duration::from_millis(1),
                "{seen:?}"
            );
        }
    }

    #[test]
    fn nothing_recorded_is_zero_and_a_day_is_an_hour() {
        let mut latencies = Latencies::default();
        assert_eq!(latencies.summary(), Latency::default());
        latencies.record(Duration::from_secs(86_400));
        assert!(latencies.summary().max >= Duration::from_secs(3_590));
    }
}
