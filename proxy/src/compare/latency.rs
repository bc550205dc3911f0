//! How long answers took, in a histogram of fixed size.

use std::time::Duration;

use serde::Serialize;

/// Everything below is one bucket: 64 µs.
const SHORTEST: u32 = 6;
/// Buckets each doubling is divided into, so that a quantile is at most an eighth too high or too low.
const STEPS: usize = 4;
/// Up to 2^27 µs, more than two minutes; longer ones count as that.
pub(crate) const BUCKETS: usize = (27 - SHORTEST as usize) * STEPS + 1;

/// Counts by how long.
#[derive(Debug, Clone)]
pub(super) struct Latency([u32; BUCKETS]);

/// How long answers took, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Quantiles {
    /// Half of them took less.
    pub p50_ms: f64,
    /// 99 of a hundred took less.
    pub p99_ms: f64,
}

// === impl Latency ===

impl Default for Latency {
    fn default() -> Self {
        Self([0; BUCKETS])
    }
}

impl Latency {
    pub(super) fn add(&mut self, took: Duration) {
        let count = &mut self.0[bucket(took)];
        *count = count.saturating_add(1);
    }

    pub(super) fn join(&mut self, other: &Self) {
        for (count, more) in self.0.iter_mut().zip(other.0) {
            *count = count.saturating_add(more);
        }
    }

    /// `None` without a single one.
    pub(super) fn quantiles(&self) -> Option<Quantiles> {
        let all: u64 = self.0.iter().map(|count| u64::from(*count)).sum();
        (all > 0).then(|| Quantiles { p50_ms: self.at(all.div_ceil(2)), p99_ms: self.at((all * 99).div_ceil(100)) })
    }

    /// The middle of the bucket in which the so-manyth of them is.
    fn at(&self, rank: u64) -> f64 {
        let mut below = 0;
        let found = self.0.iter().position(|count| {
            below += u64::from(*count);
            below >= rank
        });
        f64::midpoint(edge(found.unwrap_or(BUCKETS - 1)), edge(found.unwrap_or(BUCKETS - 1) + 1)) / 1000.0
    }
}

/// Where a duration is counted.
pub(crate) fn bucket(took: Duration) -> usize {
    let micros = took.as_micros().min(u128::from(u32::MAX)) as u64;
    let octave = micros.max(1).ilog2();
    if octave < SHORTEST {
        return 0;
    }
    // Of the bits behind the first one, the two highest.
    let step = (micros >> (octave - 2)) as usize & (STEPS - 1);
    ((octave - SHORTEST) as usize * STEPS + step + 1).min(BUCKETS - 1)
}

/// Where a bucket begins, in microseconds.
pub(crate) fn edge(bucket: usize) -> f64 {
    let Some(above) = bucket.checked_sub(1) else { return 0.0 };
    let octave = 1_u64 << (SHORTEST as usize + above / STEPS).min(40);
    octave as f64 * (1.0 + (above % STEPS) as f64 / STEPS as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_lies_in_its_bucket() {
        for micros in [0, 63, 64, 79, 80, 127, 128, 1000, 5_000_000, 60_000_000] {
            let bucket = bucket(Duration::from_micros(micros));
            assert!((edge(bucket)..edge(bucket + 1)).contains(&(micros as f64)), "{micros} in {bucket}");
        }
        assert_eq!(bucket(Duration::from_secs(86_400)), BUCKETS - 1);
    }

    #[test]
    fn quantiles_are_near_what_was_added() {
        let mut latency = Latency::default();
        assert_eq!(latency.quantiles(), None);
        for millis in 1..=1000 {
            latency.add(Duration::from_millis(millis));
        }
        let Quantiles { p50_ms, p99_ms } = latency.quantiles().unwrap();
        assert!((437.0..=563.0).contains(&p50_ms) && (866.0..=1114.0).contains(&p99_ms), "{p50_ms} {p99_ms}");
    }
}
