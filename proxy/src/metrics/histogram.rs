//! A histogram of durations with fixed bounds that one thread writes and any may read.

use std::time::Duration;

use super::Counter;

/// Upper bounds in nanoseconds, from 25 µs to 60 s; one more bucket stands behind them.
const BOUNDS: [u64; 18] = [
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    2_500_000_000,
    10_000_000_000,
    60_000_000_000,
];

/// Counts by duration.
#[derive(Debug, Default)]
pub(crate) struct Histogram {
    buckets: [Counter; BOUNDS.len() + 1],
    nanos: Counter,
}

/// Several histograms, summed.
#[derive(Debug, Clone, Default)]
pub(super) struct Sum {
    buckets: [u64; BOUNDS.len() + 1],
    nanos: u64,
}

// === impl Histogram ===

impl Histogram {
    pub(crate) fn observe(&self, took: Duration) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let bucket = BOUNDS.iter().position(|bound| nanos <= *bound).unwrap_or(BOUNDS.len());
        self.buckets[bucket].add(1);
        self.nanos.add(nanos);
    }
}

// === impl Sum ===

impl Sum {
    pub(super) fn add(&mut self, part: &Histogram) {
        for (sum, count) in self.buckets.iter_mut().zip(&part.buckets) {
            *sum += count.get();
        }
        self.nanos += part.nanos.get();
    }

    /// In the form that is rendered; `None` when nothing was seen.
    pub(super) fn render(&self) -> Option<prometheus::proto::Histogram> {
        let total: u64 = self.buckets.iter().sum();
        if total == 0 {
            return None;
        }
        let mut cumulative = 0;
        let buckets = BOUNDS.iter().zip(self.buckets).map(|(bound, count)| {
            cumulative += count;
            let mut bucket = prometheus::proto::Bucket::default();
            bucket.set_upper_bound(seconds(*bound));
            bucket.set_cumulative_count(cumulative);
            bucket
        });
        let mut histogram = prometheus::proto::Histogram::default();
        histogram.set_bucket(buckets.collect());
        histogram.set_sample_count(total);
        histogram.set_sample_sum(seconds(self.nanos));
        Some(histogram)
    }
}

#[expect(clippy::cast_precision_loss, reason = "a sum of durations needs no more than 52 bits")]
fn seconds(nanos: u64) -> f64 {
    nanos as f64 / 1e9
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_counts_in_every_bucket_that_is_as_long() {
        let one = Histogram::default();
        one.observe(Duration::from_micros(25));
        one.observe(Duration::from_micros(26));
        one.observe(Duration::from_secs(90));
        let mut sum = Sum::default();
        sum.add(&one);
        sum.add(&one);
        let rendered = sum.render().unwrap();
        let counts: Vec<u64> = rendered.get_bucket().iter().map(prometheus::proto::Bucket::cumulative_count).collect();
        assert_eq!(counts[..3], [2, 4, 4]);
        assert_eq!(rendered.get_sample_count(), 6);
        assert!((rendered.get_sample_sum() - 180.000_102).abs() < 1e-9);
    }
}
