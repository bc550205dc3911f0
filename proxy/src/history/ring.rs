//! One route's slots, the oldest given up for the newest.

use std::collections::VecDeque;

use serde::Serialize;

use super::reading::Reading;
use crate::links::Owner;

/// What ten seconds came to.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Slot {
    /// Where it begins, in seconds since 1970.
    pub at: u64,
    /// Answers by legacy.
    pub legacy: u32,
    /// Answers by modern.
    pub modern: u32,
    /// Answers by Banyan itself.
    pub banyan: u32,
    /// Requests for which legacy was chosen, without those whose client went away.
    pub legacy_attempts: u32,
    /// Of them, those that failed.
    pub legacy_failed: u32,
    /// The same for modern.
    pub modern_attempts: u32,
    /// Of them, those that failed.
    pub modern_failed: u32,
    /// 99 of 100 of legacy's answers took less.
    pub legacy_p99_ms: Option<f32>,
    /// 99 of 100 of modern's answers took less.
    pub modern_p99_ms: Option<f32>,
    /// Comparisons.
    pub compared: u32,
    /// Of them, those that differ.
    pub mismatch: u32,
    /// Of those, the ones that differ in noise alone.
    pub noise: u32,
    /// Percent of the users that were modern's at its end.
    pub weight: f32,
}

#[derive(Debug, Default)]
pub(super) struct Ring(VecDeque<Slot>);

/// An hour.
const SLOTS: usize = 360;
/// Of all routes together.
const ALL_SLOTS: usize = SLOTS * 1000;

/// How many slots a route may have where there are so many.
pub(super) fn most(routes: usize) -> usize {
    SLOTS.min(ALL_SLOTS / routes.max(1))
}

// === impl Slot ===

impl Slot {
    pub(super) fn of(at: u64, reading: &Reading) -> Self {
        let count = |count: u64| u32::try_from(count).unwrap_or(u32::MAX);
        #[expect(clippy::cast_possible_truncation, reason = "a chart needs no more")]
        let short = |value: f64| value as f32;
        let [legacy, modern] = [Owner::Legacy, Owner::Modern].map(|side| reading.totals.side(side));
        Self {
            at,
            legacy: count(legacy.answers),
            modern: count(modern.answers),
            banyan: count(reading.totals.banyan),
            legacy_attempts: count(legacy.attempts),
            legacy_failed: count(legacy.failed),
            modern_attempts: count(modern.attempts),
            modern_failed: count(modern.failed),
            legacy_p99_ms: legacy.p99_ms().map(short),
            modern_p99_ms: modern.p99_ms().map(short),
            compared: count(reading.compared),
            mismatch: count(reading.mismatch),
            noise: count(reading.noise),
            weight: short(reading.weight),
        }
    }

    fn is_empty(&self) -> bool {
        let counts = [self.legacy, self.modern, self.banyan, self.legacy_attempts, self.modern_attempts, self.compared];
        counts.iter().all(|count| *count == 0)
    }
}

// === impl Ring ===

impl Ring {
    /// Adds one, and forgets what is older than an hour or more than may be kept.
    pub(super) fn add(&mut self, slot: Slot, most: usize) {
        let begin = slot.at.saturating_sub((SLOTS as u64 - 1) * super::STEP);
        while self.0.front().is_some_and(|oldest| oldest.at < begin) {
            self.0.pop_front();
        }
        if slot.is_empty() {
            return;
        }
        while self.0.len() >= most.max(1) {
            self.0.pop_front();
        }
        if self.0.len() == self.0.capacity() {
            // Not twice as many, as it would by itself.
            self.0.reserve_exact((SLOTS / 6).min(SLOTS.saturating_sub(self.0.len())).max(1));
        }
        self.0.push_back(slot);
    }

    pub(super) fn slots(&self) -> Vec<Slot> {
        self.0.iter().copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(at: u64, legacy: u32) -> Slot {
        Slot { legacy, ..Slot::of(at, &Reading::default()) }
    }

    #[test]
    fn a_ring_keeps_an_hour_and_no_slot_in_which_nothing_happened() {
        let mut ring = Ring::default();
        for at in 0..1000 {
            ring.add(slot(at * 10, u32::from(at % 2 == 0)), most(10));
        }
        let slots = ring.slots();
        assert_eq!(slots.len(), 180);
        assert!(slots.iter().all(|slot| slot.at >= 9990 - 3590 && slot.legacy == 1));
        (1000..1400).for_each(|at| ring.add(slot(at * 10, 0), most(10)));
        assert!(ring.slots().is_empty());
    }

    #[test]
    fn all_routes_together_keep_so_much_and_no_more() {
        assert_eq!((most(0), most(1), most(1000), most(15_000)), (360, 360, 360, 24));
        assert_eq!(size_of::<Slot>(), 72);
        let mut ring = Ring::default();
        (0..2000).for_each(|at| ring.add(slot(at * 10, 1), 24));
        assert_eq!(ring.slots().len(), 24);
        let mut ring = Ring::default();
        (0..2000).for_each(|at| ring.add(slot(at * 10, 1), most(1)));
        assert!(ring.0.capacity() <= SLOTS, "{}", ring.0.capacity());
    }
}
