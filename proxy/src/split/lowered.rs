//! Users whom a lowered weight takes back to legacy, so that each of them is counted once, when they come: one bit a bucket.

use std::sync::atomic::{AtomicU64, Ordering};

use super::BUCKETS;
use crate::config::Weight;

/// Buckets that were modern's until a reload lowered the weight, and of which nobody has come since.
#[derive(Debug)]
pub struct Lowered {
    words: Box<[AtomicU64]>,
}

const BITS: usize = u64::BITS as usize;

// === impl Lowered ===

impl Lowered {
    /// What a reload from one weight to another leaves to be counted, with what an earlier one left; `None` when that is nothing.
    #[must_use]
    pub fn at_reload(before: Option<&Self>, old: Weight, new: Weight) -> Option<Self> {
        if before.is_none() && old <= new {
            return None;
        }
        let is_left = |bucket: u16| {
            bucket >= new.buckets() && (bucket < old.buckets() || before.is_some_and(|before| before.has(bucket)))
        };
        let words: Box<[AtomicU64]> = (0..usize::from(BUCKETS).div_ceil(BITS)).map(|_| AtomicU64::new(0)).collect();
        let mut is_empty = true;
        for bucket in (0..BUCKETS).filter(|bucket| is_left(*bucket)) {
            let (word, bit) = place(bucket);
            words[word].fetch_or(bit, Ordering::Relaxed);
            is_empty = false;
        }
        (!is_empty).then_some(Self { words })
    }

    /// Whether a user of this bucket comes for the first time since.
    pub(crate) fn take(&self, bucket: u16) -> bool {
        let (word, bit) = place(bucket);
        // Looked at first, so that what many share is seldom written.
        self.has(bucket) && self.words[word].fetch_and(!bit, Ordering::Relaxed) & bit != 0
    }

    fn has(&self, bucket: u16) -> bool {
        let (word, bit) = place(bucket);
        self.words.get(word).is_some_and(|word| word.load(Ordering::Relaxed) & bit != 0)
    }
}

fn place(bucket: u16) -> (usize, u64) {
    (usize::from(bucket) / BITS, 1 << (usize::from(bucket) % BITS))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weight(percent: f64) -> Weight {
        Weight::try_new(percent).unwrap()
    }

    fn left(lowered: Option<&Lowered>) -> Vec<u16> {
        (0..BUCKETS).filter(|bucket| lowered.is_some_and(|lowered| lowered.has(*bucket))).collect()
    }

    #[test]
    fn each_user_whom_a_lowered_weight_moves_back_is_counted_once() {
        let lowered = Lowered::at_reload(None, weight(50.0), weight(5.0)).unwrap();
        assert_eq!(left(Some(&lowered)), (500..5000).collect::<Vec<_>>());
        assert!(lowered.take(500));
        assert!(!lowered.take(500));
        assert!(!lowered.take(499));
        assert!(!lowered.take(5000));
    }

    #[test]
    fn raising_the_weight_again_forgets_those_who_are_back_on_modern() {
        let first = Lowered::at_reload(None, weight(1.0), weight(0.0)).unwrap();
        assert!(first.take(99));
        let second = Lowered::at_reload(Some(&first), weight(0.0), weight(0.5));
        assert_eq!(left(second.as_ref()), (50..99).collect::<Vec<_>>());
        assert!(Lowered::at_reload(second.as_ref(), weight(0.5), weight(100.0)).is_none());
    }

    #[test]
    fn a_weight_that_stays_moves_nobody() {
        assert!(Lowered::at_reload(None, weight(50.0), weight(50.0)).is_none());
    }
}
