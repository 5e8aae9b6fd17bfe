//! A latency histogram of about 25 KB: two significant digits from 1 microsecond to 1 hour.

use std::time::Duration;

/// Longest duration in microseconds: an hour. Longer ones count as this.
const MICROS_MAX: u64 = 3_600_000_000;

/// Two significant digits: every value is exact to one percent.
const SIGNIFICANT_DIGITS: u8 = 2;

/// Upper bounds of the exposed buckets in microseconds. An unbounded bucket follows.
const BUCKET_MICROS: [u64; 18] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000,
    1_000_000, 2_500_000, 5_000_000, 10_000_000, 30_000_000, 60_000_000,
];

#[derive(Debug, Clone)]
pub struct Histogram {
    inner: hdrhistogram::Histogram<u64>,
    sum_micros: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self::new()
    }
}

impl Histogram {
    pub fn new() -> Self {
        let inner = hdrhistogram::Histogram::new_with_bounds(1, MICROS_MAX, SIGNIFICANT_DIGITS)
            .expect("the bounds are valid constants");
        Self { inner, sum_micros: 0 }
    }

    pub fn record_micros(&mut self, micros: u64) {
        // hdrhistogram counts 0 as its lowest value, which is 1.
        self.inner.saturating_record(micros.max(1));
        self.sum_micros = self.sum_micros.saturating_add(micros);
    }

    pub fn record(&mut self, duration: Duration) {
        self.record_micros(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX));
    }

    pub fn count(&self) -> u64 {
        self.inner.len()
    }

    pub fn sum_seconds(&self) -> f64 {
        micros_to_seconds(self.sum_micros)
    }

    /// Returns the buckets: upper bound in seconds (the last is infinite), and the number of
    /// durations in this bucket alone. The numbers add up to [`Histogram::count`].
    pub fn buckets(&self) -> Vec<(f64, u64)> {
        let mut buckets = Vec::with_capacity(BUCKET_MICROS.len() + 1);
        let mut bounds = BUCKET_MICROS.iter().peekable();
        let mut counted = 0;
        let mut in_bucket = 0;
        for recorded in self.inner.iter_recorded() {
            // The value is the top of its range. Its bottom decides, so that a duration exactly on
            // a bound is within it.
            let micros = self.inner.lowest_equivalent(recorded.value_iterated_to());
            while let Some(bound) = bounds.next_if(|bound| micros > **bound) {
                buckets.push((micros_to_seconds(*bound), in_bucket));
                counted += in_bucket;
                in_bucket = 0;
            }
            in_bucket += recorded.count_at_value();
        }
        for bound in bounds {
            buckets.push((micros_to_seconds(*bound), in_bucket));
            counted += in_bucket;
            in_bucket = 0;
        }
        buckets.push((f64::INFINITY, self.count() - counted));
        buckets
    }
}

fn micros_to_seconds(micros: u64) -> f64 {
    micros as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_agree_with_a_naive_count() {
        let mut histogram = Histogram::new();
        let mut recorded = Vec::new();
        let mut state = 1u64;
        for _ in 0..10_000 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let micros = (state >> 33) % (1 << ((state >> 58) % 30).max(1));
            recorded.push(micros);
            histogram.record_micros(micros);
        }
        let buckets = histogram.buckets();
        assert_eq!(buckets.len(), BUCKET_MICROS.len() + 1);
        assert_eq!(buckets.iter().map(|bucket| bucket.1).sum::<u64>(), 10_000);
        let mut cumulative = 0;
        for (bound, count) in buckets {
            cumulative += count;
            // One percent of resolution: between the plain counts at 0.98 and 1.02 of the bound.
            let under = |factor: f64| {
                let limit = bound * 1e6 * factor;
                recorded.iter().filter(|micros| **micros as f64 <= limit).count() as u64
            };
            assert!(under(0.98) <= cumulative && cumulative <= under(1.02), "bound {bound}");
        }
        let sum: u64 = recorded.iter().sum();
        assert!((histogram.sum_seconds() - sum as f64 / 1e6).abs() < 1e-6);
    }

    #[test]
    fn a_duration_on_a_bound_is_within_it() {
        for bound in BUCKET_MICROS {
            let mut histogram = Histogram::new();
            histogram.record_micros(bound);
            let at = histogram.buckets().into_iter().find(|bucket| bucket.1 == 1).unwrap();
            assert_eq!(at.0, micros_to_seconds(bound));
        }
    }

    #[test]
    fn zero_and_overlong_durations_are_counted() {
        let mut histogram = Histogram::new();
        histogram.record(Duration::ZERO);
        histogram.record(Duration::MAX);
        histogram.record(Duration::from_secs(7200));
        assert_eq!(histogram.count(), 3);
        assert_eq!(histogram.buckets().last().unwrap().1, 2);
        assert_eq!(histogram.buckets()[0].1, 1);
    }
}
