//! Places in which the side that answers differs from itself: the same read, asked twice, gives a time, an id, a counter that is another one.
//! They are learnt from reads that are sent once more, and what differs there alone is no difference of the sides.

use super::{Place, Verdict};

/// Places that are counted; those that come later are not, so that a map keyed by chance takes no memory.
const KEPT: usize = 128;
/// Before so many reads were sent twice, nothing is called noise.
pub(super) const LEAST: u64 = 20;
/// A place that differed once may have been changed by somebody between the two.
const TWICE: u64 = 2;

/// What reads that were sent twice differed in.
#[derive(Debug, Clone, Default)]
pub(super) struct Noise {
    pub(super) compared: u64,
    pub(super) places: Vec<(Place, u64)>,
}

// === impl Noise ===

impl Noise {
    /// Adds what comparing two answers of one side gave.
    pub(super) fn add(&mut self, verdict: Verdict) {
        let spots = match verdict {
            Verdict::NotComparable(_) => return,
            Verdict::Mismatch(spots) => spots,
            Verdict::Match | Verdict::Ignored => Vec::new(),
        };
        self.compared += 1;
        let mut places: Vec<Place> = spots.into_iter().map(|spot| spot.difference.place).collect();
        // One place may differ in several ways.
        places.sort();
        places.dedup();
        for place in places {
            if let Some((_, count)) = self.places.iter_mut().find(|(known, _)| *known == place) {
                *count += 1;
            } else if self.places.len() < KEPT {
                self.places.push((place, 1));
            }
        }
    }

    /// Of the reads that were sent twice, those that differed here.
    pub(super) fn count(&self, place: &Place) -> u64 {
        self.places.iter().find(|(known, _)| known == place).map_or(0, |(_, count)| *count)
    }

    /// Whether a place differs by itself about as often as it differs between the sides: at least half as often as in `differed` of `compared`
    /// comparisons. Where it differs much more often than that, the sides differ too.
    pub(super) fn is_noise(&self, place: &Place, differed: u64, compared: u64) -> bool {
        let count = self.count(place);
        self.compared >= LEAST
            && count >= TWICE
            && u128::from(count) * u128::from(compared) * 2 >= u128::from(differed) * u128::from(self.compared)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::{Difference, NotComparable, Seen, Spot};

    fn differs(places: &[&str]) -> Verdict {
        let spot = |place: &&str| Spot {
            difference: Difference {
                place: Place::Pointer((*place).to_owned()),
                control: Seen::Number,
                candidate: Seen::Number,
            },
            control_length: 1,
            candidate_length: 1,
            values: None,
        };
        Verdict::Mismatch(places.iter().map(spot).collect())
    }

    fn at(place: &str) -> Place {
        Place::Pointer(place.to_owned())
    }

    #[test]
    fn a_place_that_differs_by_itself_as_often_as_between_the_sides_is_noise() {
        let mut noise = Noise::default();
        for read in 0..100 {
            noise.add(differs(if read % 10 == 0 { &["/at", "/at", "/rare"] } else { &["/at"] }));
        }
        assert_eq!((noise.compared, noise.count(&at("/at")), noise.count(&at("/rare"))), (100, 100, 10));
        assert!(noise.is_noise(&at("/at"), 1000, 1000));
        assert!(noise.is_noise(&at("/rare"), 110, 1000), "a little more is chance");
        assert!(!noise.is_noise(&at("/rare"), 900, 1000), "the sides differ too");
        assert!(!noise.is_noise(&at("/other"), 5, 1000));
    }

    #[test]
    fn nothing_is_noise_before_enough_was_seen() {
        let mut noise = Noise::default();
        for _ in 0..LEAST - 1 {
            noise.add(differs(&["/at"]));
        }
        noise.add(Verdict::NotComparable(NotComparable::TooLong));
        assert!(!noise.is_noise(&at("/at"), 5, 5));
        noise.add(Verdict::Match);
        assert!(noise.is_noise(&at("/at"), 5, 5));
        let mut once = Noise::default();
        once.add(differs(&["/at"]));
        (0..100).for_each(|_| once.add(Verdict::Match));
        assert!(!once.is_noise(&at("/at"), 1, 100), "somebody may have changed it between the two");
    }

    #[test]
    fn places_without_number_take_no_memory() {
        let mut noise = Noise::default();
        for read in 0..1000 {
            noise.add(differs(&[&format!("/{read}")]));
        }
        assert_eq!((noise.compared, noise.places.len()), (1000, KEPT));
    }
}
