//! What the gates are judged by: attempts and their time by side, and comparisons. Sums that can be added, and subtracted from later ones.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

use super::stats::Share;
#[cfg(test)]
use crate::compare::latency::bucket;
use crate::compare::latency::edge;

/// Of the requests that the weight decided over.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Counts {
    /// Those that it sent to legacy.
    pub legacy: Arm,
    /// Those that it sent to modern.
    pub modern: Arm,
    /// Answers that were compared, whichever side answered.
    pub compared: u64,
    /// Of these, those that differ in more than noise.
    pub differ: u64,
}

/// What one side made of them.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Arm {
    /// Answered with less than 500.
    pub ok: u64,
    /// A 5xx, a reset, no answer in time, no connection.
    pub failed: u64,
    /// Until the head of the answer; by buckets of the histogram that comparisons have too.
    pub times: BTreeMap<usize, u64>,
}

// === impl Counts ===

impl Counts {
    pub(super) fn add(&mut self, more: &Self) {
        self.legacy.add(&more.legacy);
        self.modern.add(&more.modern);
        self.compared += more.compared;
        self.differ += more.differ;
    }

    /// What came since an earlier count.
    pub(super) fn since(&self, earlier: &Self) -> Self {
        Self {
            legacy: self.legacy.since(&earlier.legacy),
            modern: self.modern.since(&earlier.modern),
            compared: self.compared.saturating_sub(earlier.compared),
            differ: self.differ.saturating_sub(earlier.differ),
        }
    }

    pub(super) fn mismatches(&self) -> Share {
        // A noise that is counted a moment later than its mismatch may make it seem more.
        Share::new(self.differ.min(self.compared), self.compared)
    }
}

// === impl Arm ===

impl Arm {
    fn add(&mut self, more: &Self) {
        self.ok += more.ok;
        self.failed += more.failed;
        for (bucket, count) in &more.times {
            *self.times.entry(*bucket).or_default() += count;
        }
    }

    fn since(&self, earlier: &Self) -> Self {
        let before = |bucket: &usize| earlier.times.get(bucket).copied().unwrap_or_default();
        let times = self.times.iter().map(|(bucket, count)| (*bucket, count.saturating_sub(before(bucket))));
        Self {
            ok: self.ok.saturating_sub(earlier.ok),
            failed: self.failed.saturating_sub(earlier.failed),
            times: times.filter(|(_, count)| *count > 0).collect(),
        }
    }

    pub(super) fn all(&self) -> u64 {
        self.ok + self.failed
    }

    pub(super) fn failures(&self) -> Share {
        Share::new(self.failed, self.all())
    }

    /// Those that surely took longer; a bucket that the limit divides is left out.
    pub(super) fn slower(&self, than: Duration) -> Share {
        let micros = than.as_secs_f64() * 1e6;
        let slow = self.times.iter().filter(|(bucket, _)| edge(**bucket) >= micros).map(|(_, count)| count).sum();
        Share::new(slow, self.timed())
    }

    /// 99 of a hundred took less; within a bucket as if they were spread evenly. `None` without a single one.
    pub(super) fn p99(&self) -> Option<Duration> {
        let all = self.timed();
        let rank = (all * 99).div_ceil(100);
        let mut below = 0;
        for (bucket, count) in &self.times {
            if below + count >= rank.max(1) {
                #[expect(clippy::cast_precision_loss, reason = "counts of requests are far below 2^52")]
                let share = (rank - below) as f64 / *count as f64;
                let micros = edge(*bucket) + (edge(bucket + 1) - edge(*bucket)) * share;
                return Some(Duration::from_secs_f64(micros / 1e6));
            }
            below += count;
        }
        None
    }

    fn timed(&self) -> u64 {
        self.times.values().sum()
    }

    #[cfg(test)]
    pub(super) fn of(ok: u64, failed: u64, took: Duration) -> Self {
        Self { ok, failed, times: BTreeMap::from([(bucket(took), ok + failed)]) }
    }

    #[cfg(test)]
    pub(super) fn saw(&mut self, took: Duration, count: u64) {
        *self.times.entry(bucket(took)).or_default() += count;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_since_and_before_make_it_all() {
        let before = Counts { legacy: Arm::of(3, 1, Duration::from_millis(5)), compared: 2, ..Counts::default() };
        let mut all = before.clone();
        all.legacy.ok += 4;
        all.legacy.saw(Duration::from_millis(80), 4);
        all.differ = 1;
        let since = all.since(&before);
        assert_eq!((since.legacy.all(), since.legacy.times.len(), since.differ), (4, 1, 1));
        let mut sum = before;
        sum.add(&since);
        assert_eq!(sum, all);
    }

    #[test]
    fn a_quantile_lies_in_its_bucket_and_slower_ones_behind_it() {
        let mut arm = Arm::default();
        assert_eq!(arm.p99(), None);
        arm.saw(Duration::from_millis(10), 985);
        arm.saw(Duration::from_millis(200), 15);
        let p99 = arm.p99().unwrap();
        assert!(p99 > Duration::from_millis(160) && p99 < Duration::from_millis(240), "{p99:?}");
        assert_eq!(arm.slower(Duration::from_millis(100)), Share::new(15, 1000));
        assert_eq!(arm.slower(Duration::from_millis(300)), Share::new(0, 1000));
    }
}
