//! What the comparisons of one route came to, in bounded memory: counts, the commonest differences, and a ring of redacted samples.

use std::{
    collections::VecDeque,
    time::{SystemTime, UNIX_EPOCH},
};

use serde::Serialize;

use super::{Difference, Outcome, Place, Seen, Spot, Verdict};

/// Differences that are counted by themselves. The commonest ones stay, however many others pass by (the space-saving rule: a new one takes
/// the place, and the count, of the rarest).
const KEPT: usize = 128;
/// Differences that `status` shows.
const SHOWN: usize = 10;

/// The comparisons of one route since its `compare` last changed.
#[derive(Debug, Clone)]
pub struct Tally {
    counts: [u64; Outcome::ALL.len()],
    differences: Vec<Counted>,
    samples: VecDeque<Sample>,
    /// How many samples are kept.
    wanted: usize,
}

#[derive(Debug, Clone)]
struct Counted {
    difference: Difference,
    count: u64,
    /// By how much the count may be too high.
    inherited: u64,
}

/// A route's comparisons, for `status`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct CompareStatus {
    /// All of them.
    pub compared: u64,
    /// Nothing differed.
    #[serde(rename = "match")]
    pub matched: u64,
    /// Something differed.
    pub mismatch: u64,
    /// Only what the file says to ignore differed.
    pub ignored: u64,
    /// It could not be said; not part of `compared`.
    pub not_comparable: u64,
    /// The ten commonest differences.
    pub differences: Vec<DifferenceCount>,
    /// Redacted samples, the newest last; empty unless `samples` is given.
    pub samples: Vec<Sample>,
}

/// How often two answers differed in one way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DifferenceCount {
    /// `/amount`, `status`, `header content-type`, `body`.
    pub pointer: Place,
    /// What the control had there.
    pub control: Seen,
    /// What the candidate had there.
    pub candidate: Seen,
    /// Comparisons that differed so.
    pub count: u64,
    /// By how much the count may be too high, because rarer differences shared its place.
    pub at_most_too_high: u64,
}

/// One comparison that differed, without any value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Sample {
    /// Seconds since 1970.
    pub at: u64,
    /// The request's method.
    pub method: String,
    /// What differed, with lengths.
    pub differences: Vec<Spot>,
}

// === impl Tally ===

impl Tally {
    /// Nothing yet; keeps so many samples.
    #[must_use]
    pub fn new(samples: usize) -> Self {
        Self { counts: [0; Outcome::ALL.len()], differences: Vec::new(), samples: VecDeque::new(), wanted: samples }
    }

    /// Adds one comparison.
    pub fn add(&mut self, method: &http::Method, verdict: Verdict, now: SystemTime) {
        self.counts[verdict.outcome() as usize] += 1;
        let Verdict::Mismatch(spots) = verdict else { return };
        for spot in &spots {
            self.count(&spot.difference);
        }
        if self.wanted > 0 {
            if self.samples.len() >= self.wanted {
                self.samples.pop_front();
            }
            let at = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
            self.samples.push_back(Sample { at, method: method.as_str().to_owned(), differences: spots });
        }
    }

    fn count(&mut self, difference: &Difference) {
        if let Some(known) = self.differences.iter_mut().find(|known| known.difference == *difference) {
            known.count += 1;
        } else if self.differences.len() < KEPT {
            self.differences.push(Counted { difference: difference.clone(), count: 1, inherited: 0 });
        } else if let Some(rarest) = self.differences.iter_mut().min_by_key(|known| known.count) {
            *rarest = Counted { difference: difference.clone(), count: rarest.count + 1, inherited: rarest.count };
        }
    }

    /// What `status` shows.
    #[must_use]
    pub fn status(&self) -> CompareStatus {
        let of = |outcome: Outcome| self.counts[outcome as usize];
        let mut commonest: Vec<&Counted> = self.differences.iter().collect();
        commonest.sort_by(|a, b| b.count.cmp(&a.count).then_with(|| a.difference.cmp(&b.difference)));
        let shown = commonest.into_iter().take(SHOWN).map(|known| DifferenceCount {
            pointer: known.difference.place.clone(),
            control: known.difference.control,
            candidate: known.difference.candidate,
            count: known.count,
            at_most_too_high: known.inherited,
        });
        CompareStatus {
            compared: of(Outcome::Match) + of(Outcome::Mismatch) + of(Outcome::Ignored),
            matched: of(Outcome::Match),
            mismatch: of(Outcome::Mismatch),
            ignored: of(Outcome::Ignored),
            not_comparable: of(Outcome::NotComparable),
            differences: shown.collect(),
            samples: self.samples.iter().cloned().collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mismatch(pointer: &str) -> Verdict {
        let difference =
            Difference { place: Place::Pointer(pointer.to_owned()), control: Seen::String, candidate: Seen::Number };
        Verdict::Mismatch(vec![Spot { difference, control_length: 5, candidate_length: 4 }])
    }

    fn add(tally: &mut Tally, verdict: Verdict) {
        tally.add(&http::Method::GET, verdict, UNIX_EPOCH);
    }

    #[test]
    fn the_commonest_differences_stay_however_many_others_pass_by() {
        let mut tally = Tally::new(0);
        for round in 0..2_000 {
            add(&mut tally, mismatch("/amount"));
            for noise in 0..5 {
                add(&mut tally, mismatch(&format!("/noise_{round}_{noise}")));
            }
        }
        assert!(tally.differences.len() <= KEPT);
        let status = tally.status();
        assert_eq!(status.differences[0].pointer, Place::Pointer("/amount".to_owned()));
        let first = &status.differences[0];
        assert!((2_000..=2_000 + first.at_most_too_high).contains(&first.count), "{first:?}");
        assert_eq!(status.differences.len(), SHOWN);
    }

    #[test]
    fn what_cannot_be_compared_is_not_part_of_what_was() {
        let mut tally = Tally::new(0);
        add(&mut tally, Verdict::Match);
        add(&mut tally, Verdict::Ignored);
        add(&mut tally, mismatch("/a"));
        add(&mut tally, Verdict::NotComparable(super::super::NotComparable::SyncBehind));
        let status = tally.status();
        assert_eq!((status.compared, status.not_comparable), (3, 1));
    }

    #[test]
    fn samples_are_off_until_asked_for_and_a_ring_then() {
        let mut off = Tally::new(0);
        add(&mut off, mismatch("/a"));
        assert!(off.status().samples.is_empty());
        let mut ring = Tally::new(2);
        for pointer in ["/a", "/b", "/c"] {
            add(&mut ring, mismatch(pointer));
        }
        let kept: Vec<String> =
            ring.status().samples.iter().map(|sample| sample.differences[0].difference.place.to_string()).collect();
        assert_eq!(kept, ["/b", "/c"]);
    }
}
