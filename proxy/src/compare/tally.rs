//! What the comparisons of one route came to, in bounded memory: counts, the commonest differences, and a ring of redacted samples. All of it
//! in total, and the last day in slots of five minutes.

use std::{
    collections::VecDeque,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::Serialize;

use super::{
    Difference, NotComparable, Outcome, Place, Seen, Spot, Verdict,
    latency::Latency,
    noise::{LEAST, Noise},
    report::{Example, Latencies, NoiseReport, Noisy, Piece, Report, Reported},
};

/// Differences that are counted by themselves. The commonest ones stay, however many others pass by (the space-saving rule: a new one takes
/// the place, and the count, of the rarest).
const KEPT: usize = 128;
/// Where so many reads should have been sent twice and fewer than [`LEAST`] were, they never will be.
const GIVEN_UP: f64 = 200.0;
/// Differences that `status` shows.
const SHOWN: usize = 10;
/// Seconds of a slot.
const SLOT: u64 = 300;
/// A day of them. One takes about 1.3 KiB where all kinds of differences are counted.
const SLOTS: usize = 288;
/// Pieces that a report's trend has at most.
const PIECES: u64 = 12;

/// The comparisons of one route since its `compare` last changed.
#[derive(Debug, Clone)]
pub struct Tally {
    counts: [u64; Outcome::ALL.len()],
    differences: Vec<Counted>,
    /// The oldest first; those without a comparison are left out.
    slots: VecDeque<Slot>,
    noise: Noise,
    /// Of the comparisons that differed, those that did in noise alone.
    noise_alone: u64,
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
    /// The newest.
    example: Example,
}

/// What five minutes came to.
#[derive(Debug, Clone)]
struct Slot {
    /// Seconds since 1970.
    since: u64,
    counts: [u32; Outcome::ALL.len()],
    not_comparable: [u32; NotComparable::ALL.len()],
    /// Of those that differed, those that did in noise alone.
    noise: u32,
    legacy: Latency,
    modern: Latency,
    /// By their place among the differences that are counted.
    differences: Vec<u32>,
}

/// One comparison.
#[derive(Debug, Clone)]
pub struct Compared {
    /// The request's method.
    pub method: http::Method,
    /// What came of it.
    pub verdict: Verdict,
    /// How long legacy took to the head of its answer.
    pub legacy: Duration,
    /// The same of modern.
    pub modern: Duration,
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
    /// Of those, the ones that differ only where the answering side differs from itself.
    pub noise: u64,
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

/// One comparison that differed, without any value unless the file says `samples: full`.
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
        Self {
            counts: [0; Outcome::ALL.len()],
            differences: Vec::new(),
            slots: VecDeque::new(),
            noise: Noise::default(),
            noise_alone: 0,
            samples: VecDeque::new(),
            wanted: samples,
        }
    }

    /// Adds what comparing two answers of the side that answers gave.
    pub fn add_noise(&mut self, verdict: Verdict) {
        self.noise.add(verdict);
    }

    /// Whether nobody can say yet what is noise, where `resend` percent of the reads are sent twice. Where far too few of them ever come, since
    /// all answers set a cookie for example, there is nothing to wait for.
    #[must_use]
    pub fn is_learning(&self, resend: f64) -> bool {
        #[expect(clippy::cast_precision_loss, reason = "counts of comparisons are far below 2^52")]
        let resent = self.compared() as f64 * resend / 100.0;
        self.noise.compared < LEAST && resent < GIVEN_UP
    }

    /// Adds one comparison. Says whether it differs in noise alone.
    pub fn add(&mut self, compared: Compared, now: SystemTime) -> bool {
        let Compared { method, verdict, legacy, modern } = compared;
        let at = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        self.counts[verdict.outcome() as usize] += 1;
        let slot = self.slot(at);
        slot.counts[verdict.outcome() as usize] += 1;
        slot.legacy.add(legacy);
        slot.modern.add(modern);
        let spots = match verdict {
            Verdict::Mismatch(spots) => spots,
            Verdict::NotComparable(why) => {
                slot.not_comparable[why as usize] += 1;
                return false;
            }
            Verdict::Match | Verdict::Ignored => return false,
        };
        for spot in &spots {
            self.count(spot, &method, at);
        }
        let is_noise = spots.iter().all(|spot| self.is_noise(&spot.difference.place));
        self.noise_alone += u64::from(is_noise);
        if let Some(slot) = self.slots.back_mut() {
            slot.noise += u32::from(is_noise);
        }
        if self.wanted > 0 {
            if self.samples.len() >= self.wanted {
                self.samples.pop_front();
            }
            self.samples.push_back(Sample { at, method: method.as_str().to_owned(), differences: spots });
        }
        is_noise
    }

    /// Whether a place differs by itself about as often as between the sides.
    fn is_noise(&self, place: &Place) -> bool {
        let here = self.differences.iter().filter(|known| known.difference.place == *place);
        self.noise.is_noise(place, here.map(|known| known.count - known.inherited).sum(), self.compared())
    }

    fn compared(&self) -> u64 {
        let of = |outcome: Outcome| self.counts[outcome as usize];
        of(Outcome::Match) + of(Outcome::Mismatch) + of(Outcome::Ignored)
    }

    /// The slot of this moment, or the newest: a clock that is set back makes none out of order.
    fn slot(&mut self, at: u64) -> &mut Slot {
        let since = at - at % SLOT;
        if self.slots.back().is_none_or(|newest| newest.since < since) {
            if self.slots.len() >= SLOTS {
                self.slots.pop_front();
            }
            self.slots.push_back(Slot::new(since));
        }
        let newest = self.slots.len() - 1;
        &mut self.slots[newest]
    }

    fn count(&mut self, spot: &Spot, method: &http::Method, at: u64) {
        let example = Example {
            at,
            method: method.as_str().to_owned(),
            control_length: spot.control_length,
            candidate_length: spot.candidate_length,
            values: spot.values.clone(),
        };
        let new = |inherited| Counted {
            difference: spot.difference.clone(),
            count: inherited + 1,
            inherited,
            example: example.clone(),
        };
        let place = if let Some(place) = self.differences.iter().position(|known| known.difference == spot.difference) {
            let known = &mut self.differences[place];
            known.count += 1;
            known.example = example;
            place
        } else if self.differences.len() < KEPT {
            self.differences.push(new(0));
            self.differences.len() - 1
        } else {
            let rarest = (0..KEPT).min_by_key(|place| self.differences[*place].count).unwrap_or_default();
            self.differences[rarest] = new(self.differences[rarest].count);
            // What was counted there was another one.
            for slot in &mut self.slots {
                if let Some(count) = slot.differences.get_mut(rarest) {
                    *count = 0;
                }
            }
            rarest
        };
        if let Some(slot) = self.slots.back_mut() {
            if slot.differences.len() <= place {
                slot.differences.resize(place + 1, 0);
            }
            slot.differences[place] += 1;
        }
    }

    /// What the comparisons of this last while came to, in whole slots, and at most a day.
    #[must_use]
    pub fn report(&self, within: Duration, now: SystemTime) -> Report {
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let begin = now.saturating_sub(within.as_secs());
        let slots: Vec<&Slot> = self.slots.iter().filter(|slot| slot.since + SLOT > begin).collect();
        let since = slots.first().map_or(now, |slot| slot.since);
        let sum = |of: &dyn Fn(&Slot) -> u32| slots.iter().map(|slot| u64::from(of(slot))).sum::<u64>();
        let of = |outcome: Outcome| sum(&|slot| slot.counts[outcome as usize]);
        let latency = |of: fn(&Slot) -> &Latency| {
            let mut all = Latency::default();
            slots.iter().for_each(|slot| all.join(of(slot)));
            all.quantiles()
        };
        let mut differences: Vec<Reported> = self
            .differences
            .iter()
            .enumerate()
            .map(|(place, known)| Reported {
                difference: known.difference.clone(),
                count: sum(&|slot| slot.differences.get(place).copied().unwrap_or_default()),
                may_be_more: known.inherited > 0,
                is_noise: self.is_noise(&known.difference.place),
                example: known.example.clone(),
            })
            .filter(|reported| reported.count > 0)
            .collect();
        differences.sort_by(|a, b| b.count.cmp(&a.count).then_with(|| a.difference.cmp(&b.difference)));
        // As many slots a piece as leave no more than so many pieces.
        let until = now.max(since);
        let piece = ((until - since) / SLOT + 1).div_ceil(PIECES) * SLOT;
        let mut trend: Vec<Piece> = Vec::new();
        for slot in &slots {
            let at = since + (slot.since - since) / piece * piece;
            if trend.last().is_none_or(|last| last.since != at) {
                trend.push(Piece { since: at, compared: 0, mismatch: 0 });
            }
            if let Some(last) = trend.last_mut() {
                last.compared += slot.compared();
                last.mismatch += u64::from(slot.counts[Outcome::Mismatch as usize]);
            }
        }
        Report {
            since,
            until,
            compared: slots.iter().map(|slot| slot.compared()).sum(),
            matched: of(Outcome::Match),
            mismatch: of(Outcome::Mismatch),
            ignored: of(Outcome::Ignored),
            not_comparable: NotComparable::ALL
                .map(|why| (why, sum(&|slot| slot.not_comparable[why as usize])))
                .into_iter()
                .filter(|(_, count)| *count > 0)
                .collect(),
            noise: (self.noise.compared > 0).then(|| NoiseReport {
                resent: self.noise.compared,
                mismatch: sum(&|slot| slot.noise),
                places: self
                    .noise
                    .places
                    .iter()
                    .filter(|(place, _)| self.is_noise(place))
                    .map(|(place, differed)| Noisy { place: place.clone(), differed: *differed })
                    .collect(),
            }),
            differences,
            latency: Latencies { legacy: latency(|slot| &slot.legacy), modern: latency(|slot| &slot.modern) },
            trend,
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
            compared: self.compared(),
            matched: of(Outcome::Match),
            mismatch: of(Outcome::Mismatch),
            noise: self.noise_alone,
            ignored: of(Outcome::Ignored),
            not_comparable: of(Outcome::NotComparable),
            differences: shown.collect(),
            samples: self.samples.iter().cloned().collect(),
        }
    }
}

// === impl Slot ===

impl Slot {
    fn new(since: u64) -> Self {
        Self {
            since,
            counts: [0; Outcome::ALL.len()],
            not_comparable: [0; NotComparable::ALL.len()],
            noise: 0,
            legacy: Latency::default(),
            modern: Latency::default(),
            differences: Vec::new(),
        }
    }

    fn compared(&self) -> u64 {
        let of = |outcome: Outcome| u64::from(self.counts[outcome as usize]);
        of(Outcome::Match) + of(Outcome::Mismatch) + of(Outcome::Ignored)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mismatch(pointer: &str) -> Verdict {
        let difference =
            Difference { place: Place::Pointer(pointer.to_owned()), control: Seen::String, candidate: Seen::Number };
        Verdict::Mismatch(vec![Spot { difference, control_length: 5, candidate_length: 4, values: None }])
    }

    fn add(tally: &mut Tally, verdict: Verdict) {
        add_at(tally, verdict, 0);
    }

    fn add_at(tally: &mut Tally, verdict: Verdict, seconds: u64) {
        let (legacy, modern) = (Duration::from_millis(100), Duration::from_millis(10));
        let compared = Compared { method: http::Method::GET, verdict, legacy, modern };
        tally.add(compared, UNIX_EPOCH + Duration::from_secs(seconds));
    }

    fn report(tally: &Tally, within: u64, now: u64) -> Report {
        tally.report(Duration::from_secs(within), UNIX_EPOCH + Duration::from_secs(now))
    }

    #[test]
    fn a_report_is_of_the_last_while_alone() {
        let mut tally = Tally::new(0);
        for minute in 0..60 {
            add_at(&mut tally, if minute < 30 { mismatch("/old") } else { mismatch("/new") }, minute * 60);
            add_at(&mut tally, Verdict::Match, minute * 60);
            add_at(&mut tally, Verdict::NotComparable(NotComparable::TooLong), minute * 60);
        }
        let all = report(&tally, 3600, 3599);
        assert_eq!((all.since, all.compared, all.mismatch, all.matched), (0, 120, 60, 60));
        assert_eq!(all.not_comparable, [(NotComparable::TooLong, 60)].into());
        let places = |report: &Report| -> Vec<(String, u64)> {
            report.differences.iter().map(|one| (one.difference.place.to_string(), one.count)).collect()
        };
        assert_eq!(places(&all), [("/new".to_owned(), 30), ("/old".to_owned(), 30)]);
        assert_eq!(all.trend.len(), 12);
        assert_eq!(all.trend.iter().map(|piece| (piece.compared, piece.mismatch)).collect::<Vec<_>>(), [(10, 5); 12]);
        let last = report(&tally, 600, 3599);
        assert_eq!((last.since, last.compared), (2700, 30), "whole slots: of ten minutes and one second, three");
        assert_eq!(places(&last), [("/new".to_owned(), 15)]);
        let (legacy, modern) = (all.latency.legacy.unwrap(), all.latency.modern.unwrap());
        assert!((87.0..113.0).contains(&legacy.p50_ms) && (8.7..11.3).contains(&modern.p99_ms));
        let nothing = report(&tally, 60, 90_000);
        assert_eq!((nothing.compared, nothing.since, nothing.trend.len()), (0, 90_000, 0));
    }

    #[test]
    fn what_differs_in_noise_alone_is_told_apart_and_nothing_else() {
        let mut tally = Tally::new(0);
        for _ in 0..50 {
            tally.add_noise(mismatch("/at"));
            add(&mut tally, mismatch("/at"));
        }
        let both = match (mismatch("/at"), mismatch("/amount")) {
            (Verdict::Mismatch(one), Verdict::Mismatch(other)) => Verdict::Mismatch([one, other].concat()),
            _ => unreachable!(),
        };
        add(&mut tally, both);
        let report = report(&tally, 300, 0);
        let noise = report.noise.unwrap();
        // The first ones came before enough was known.
        assert_eq!((report.mismatch, noise.resent, noise.mismatch), (51, 50, 31));
        assert_eq!(noise.places, [Noisy { place: Place::Pointer("/at".to_owned()), differed: 50 }]);
        let told: Vec<bool> = report.differences.iter().map(|one| one.is_noise).collect();
        assert_eq!(told, [true, false]);
    }

    #[test]
    fn a_day_is_kept_and_no_more_whatever_arrives() {
        let mut tally = Tally::new(0);
        for slot in 0..1000 {
            for kind in 0..200 {
                add_at(&mut tally, mismatch(&format!("/{slot}_{kind}")), slot * SLOT);
            }
        }
        assert_eq!((tally.slots.len(), tally.differences.len()), (SLOTS, KEPT));
        assert!(tally.slots.iter().all(|slot| slot.differences.len() <= KEPT));
        let day = report(&tally, 200_000, 1000 * SLOT);
        assert_eq!((day.compared, day.trend.len()), (288 * 200, 12));
        assert!(day.differences.iter().all(|one| one.may_be_more));
    }

    #[test]
    fn a_clock_that_is_set_back_loses_nothing() {
        let mut tally = Tally::new(0);
        add_at(&mut tally, Verdict::Match, 10_000);
        add_at(&mut tally, Verdict::Match, 5_000);
        assert_eq!(report(&tally, 3600, 10_000).compared, 2);
        // A report of a time before the first slot is of nothing odd.
        assert_eq!(report(&tally, 3600, 5_000).compared, 2);
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
