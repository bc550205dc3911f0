//! A histogram of durations with fixed bounds that one thread writes and any may read.

use std::time::Duration;

use super::Counter;

/// Upper bounds in nanoseconds, from 25 µs to 60 s; one more bucket stands behind them. Finer than what `/metrics` shows, so that a quantile that
/// is read from them is at most about a quarter too high or too low.
const BOUNDS: [u64; 46] = [
    25_000,
    35_000,
    50_000,
    70_000,
    100_000,
    160_000,
    250_000,
    350_000,
    500_000,
    700_000,
    1_000_000,
    1_300_000,
    1_700_000,
    2_500_000,
    3_500_000,
    5_000_000,
    7_000_000,
    10_000_000,
    13_000_000,
    17_000_000,
    25_000_000,
    30_000_000,
    35_000_000,
    42_000_000,
    50_000_000,
    60_000_000,
    70_000_000,
    85_000_000,
    100_000_000,
    130_000_000,
    170_000_000,
    250_000_000,
    300_000_000,
    350_000_000,
    420_000_000,
    500_000_000,
    600_000_000,
    700_000_000,
    850_000_000,
    1_000_000_000,
    1_600_000_000,
    2_500_000_000,
    5_000_000_000,
    10_000_000_000,
    25_000_000_000,
    60_000_000_000,
];
/// Those that `/metrics` shows: each is a series a route and side.
const SHOWN: [u64; 18] = [
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
#[derive(Debug)]
pub(crate) struct Histogram {
    buckets: [Counter; BOUNDS.len() + 1],
    nanos: Counter,
}

/// Several histograms, summed.
#[derive(Debug, Clone)]
pub(super) struct Sum {
    buckets: [u64; BOUNDS.len() + 1],
    nanos: u64,
}

// === impl Histogram ===

impl Default for Histogram {
    fn default() -> Self {
        Self { buckets: std::array::from_fn(|_| Counter::default()), nanos: Counter::default() }
    }
}

impl Histogram {
    pub(crate) fn observe(&self, took: Duration) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let bucket = BOUNDS.partition_point(|bound| *bound < nanos);
        self.buckets[bucket].add(1);
        self.nanos.add(nanos);
    }
}

// === impl Sum ===

impl Default for Sum {
    fn default() -> Self {
        Self { buckets: [0; BOUNDS.len() + 1], nanos: 0 }
    }
}

impl Sum {
    pub(super) fn add(&mut self, part: &Histogram) {
        for (sum, count) in self.buckets.iter_mut().zip(&part.buckets) {
            *sum += count.get();
        }
        self.nanos += part.nanos.get();
    }

    /// What came since an earlier sum.
    pub(super) fn since(&self, before: &Self) -> Self {
        let mut since = self.clone();
        for (count, before) in since.buckets.iter_mut().zip(before.buckets) {
            *count = count.saturating_sub(before);
        }
        since.nanos = since.nanos.saturating_sub(before.nanos);
        since
    }

    /// The time in seconds that this share stayed below, as if the durations of a bucket were spread evenly; of what is longer than the last
    /// bound, that bound. `None` when nothing was seen.
    #[expect(clippy::cast_precision_loss, reason = "counts of durations need no more than 52 bits")]
    pub(super) fn quantile(&self, share: f64) -> Option<f64> {
        let total: u64 = self.buckets.iter().sum();
        if total == 0 {
            return None;
        }
        let wanted = total as f64 * share;
        let (mut low, mut below) = (0, 0);
        for (bound, count) in BOUNDS.iter().zip(self.buckets) {
            if (below + count) as f64 >= wanted && count > 0 {
                let part = (wanted - below as f64) / count as f64;
                return Some(seconds(low) + (seconds(*bound) - seconds(low)) * part);
            }
            (low, below) = (*bound, below + count);
        }
        Some(seconds(low))
    }

    /// In the form that is rendered; `None` when nothing was seen.
    pub(super) fn render(&self) -> Option<prometheus::proto::Histogram> {
        let total: u64 = self.buckets.iter().sum();
        if total == 0 {
            return None;
        }
        let mut cumulative = 0;
        let all = BOUNDS.iter().zip(self.buckets).map(|(bound, count)| {
            cumulative += count;
            (bound, cumulative)
        });
        let buckets = all.filter(|(bound, _)| SHOWN.contains(bound)).map(|(bound, cumulative)| {
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
    fn every_bound_that_is_shown_is_one_and_they_rise() {
        assert!(BOUNDS.is_sorted_by(|a, b| a < b) && SHOWN.iter().all(|shown| BOUNDS.contains(shown)));
    }

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

    #[test]
    fn a_quantile_lies_in_the_bucket_of_its_duration_and_a_difference_holds_only_what_came_between() {
        let mut sum = Sum::default();
        assert_eq!(sum.quantile(0.99), None);
        let one = Histogram::default();
        (0..100).for_each(|_| one.observe(Duration::from_millis(3)));
        sum.add(&one);
        let before = sum.clone();
        let p99 = sum.quantile(0.99).unwrap();
        assert!((0.0025..=0.0035).contains(&p99), "{p99}");
        one.observe(Duration::from_secs(70));
        let mut sum = Sum::default();
        sum.add(&one);
        assert_eq!(sum.since(&before).quantile(0.99), Some(60.0));
        assert_eq!(before.since(&before).quantile(0.99), None);
    }
}
