//! Which endpoint gets the next request: the less busy one of two that are drawn ("power of two choices"), by weight.
//!
//! How busy an endpoint is, is counted over all workers; where nothing is under way at either, the draw alone decides, so that weights hold at
//! any load. An upstream with one endpoint never comes here.

use std::{cell::Cell, rc::Rc, time::Duration};

use super::pool::Local;
use crate::listen::Tick;

/// The endpoints of an upstream as one worker sees them.
#[derive(Default)]
pub(super) struct Endpoints {
    pub(super) all: Vec<Rc<Local>>,
    /// Places in `all` of those in turn; of all of them when none would be.
    usable: Vec<usize>,
    /// All usable ones have the same weight, and none is warming up.
    is_even: bool,
}

/// A worker's dice: xorshift64* (Vigna, 2016), good enough to spread load and two nanoseconds fast.
pub(super) struct Dice(Cell<u64>);

// === impl Endpoints ===

impl Endpoints {
    pub(super) fn new(all: Vec<Rc<Local>>) -> Self {
        let mut usable: Vec<usize> = (0..all.len()).filter(|at| all[*at].endpoint.is_usable()).collect();
        if usable.is_empty() {
            // Whoever is to blame, nobody is helped by asking none.
            usable = (0..all.len()).collect();
        }
        let mut weights = usable.iter().map(|at| &all[*at].endpoint);
        let first = weights.next().map(|endpoint| endpoint.weight());
        let is_even = !usable.iter().any(|at| all[*at].endpoint.is_warming())
            && weights.all(|endpoint| Some(endpoint.weight()) == first);
        Self { all, usable, is_even }
    }

    /// All that may be asked, the one to be asked first at its head. The rest follow in their order, for when it refuses.
    pub(super) fn in_turn(&self, dice: &Dice, now: Tick, slow_start: Duration) -> impl Iterator<Item = &Rc<Local>> {
        let first = self.choose(dice, now, slow_start);
        let count = self.usable.len();
        (0..count).map(move |step| &self.all[self.usable[(first + step) % count]])
    }

    /// The one to be asked first.
    pub(super) fn pick(&self, dice: &Dice, now: Tick, slow_start: Duration) -> Option<&Rc<Local>> {
        match self.all.as_slice() {
            [only] => Some(only),
            _ => self.in_turn(dice, now, slow_start).next(),
        }
    }

    /// A place in `usable`.
    fn choose(&self, dice: &Dice, now: Tick, slow_start: Duration) -> usize {
        let count = self.usable.len();
        if count < 2 {
            return 0;
        }
        let first = self.draw(dice, slow_start);
        // Another one than the first.
        let second = if count == 2 { 1 - first } else { (first + 1 + dice.below(count as u64 - 1)) % count };
        let chosen = if self.is_busier(first, second, slow_start) { second } else { first };
        let is_shunned = |at: usize| self.all[self.usable[at]].is_shunned(now);
        if !is_shunned(chosen) {
            return chosen;
        }
        (0..count).map(|step| (chosen + step) % count).find(|at| !is_shunned(*at)).unwrap_or(chosen)
    }

    fn draw(&self, dice: &Dice, slow_start: Duration) -> usize {
        if self.is_even {
            return dice.below(self.usable.len() as u64);
        }
        let weight = |at: &usize| self.all[*at].endpoint.hundredths(slow_start);
        let mut left = dice.below(self.usable.iter().map(weight).sum()) as u64;
        for (place, at) in self.usable.iter().enumerate() {
            match left.checked_sub(weight(at)) {
                Some(rest) => left = rest,
                None => return place,
            }
        }
        // The clock went on between the sum and the search.
        0
    }

    fn is_busier(&self, one: usize, other: usize, slow_start: Duration) -> bool {
        let [one, other] = [one, other].map(|at| &self.all[self.usable[at]].endpoint);
        let (busy, against) = (one.in_flight() as u64, other.in_flight() as u64);
        if self.is_even || busy + against == 0 {
            return busy > against;
        }
        (busy + 1) * other.hundredths(slow_start) > (against + 1) * one.hundredths(slow_start)
    }
}

// === impl Dice ===

impl Dice {
    pub(super) fn new() -> Self {
        Self(Cell::new(getrandom::u64().unwrap_or_default() | 1))
    }

    /// 0 to `bound` - 1.
    fn below(&self, bound: u64) -> usize {
        let mut state = self.0.get();
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        self.0.set(state);
        let drawn = state.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 32;
        usize::try_from((drawn * bound) >> 32).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{super::Endpoint, *};

    fn endpoints(weights: &[u32]) -> Endpoints {
        let local = |(at, weight): (usize, &u32)| {
            let address = ([127, 0, 0, 1], 7000 + u16::try_from(at).unwrap()).into();
            Rc::new(Local::new(Arc::new(Endpoint::new("test:80".into(), address, *weight, 2))))
        };
        Endpoints::new(weights.iter().enumerate().map(local).collect())
    }

    fn shares(endpoints: &Endpoints, busy: impl Fn(&Endpoint)) -> Vec<u32> {
        let dice = Dice::new();
        let mut counts = vec![0; endpoints.all.len()];
        for _ in 0..20_000 {
            let picked = endpoints.pick(&dice, 0, Duration::from_secs(10)).unwrap();
            busy(&picked.endpoint);
            counts[endpoints.all.iter().position(|other| Rc::ptr_eq(other, picked)).unwrap()] += 1;
        }
        counts
    }

    #[test]
    fn idle_endpoints_get_their_weight() {
        let counts = shares(&endpoints(&[1, 3]), |_| ());
        assert!((4_500..5_500).contains(&counts[0]), "{counts:?}");
        assert!(shares(&endpoints(&[1, 1, 1, 1]), |_| ()).iter().all(|count| (4_500..5_500).contains(count)));
    }

    #[test]
    fn busy_endpoints_get_their_weight_too() {
        // Nothing ever ends: the counts are what is in flight.
        let counts = shares(&endpoints(&[1, 3]), |picked| picked.began(1));
        assert!((4_800..5_200).contains(&counts[0]), "{counts:?}");
        let counts = shares(&endpoints(&[1, 1, 1, 1]), |picked| picked.began(0));
        assert!(counts.iter().all(|count| (4_950..5_050).contains(count)), "{counts:?}");
    }

    #[test]
    fn a_stuck_endpoint_gets_little() {
        let slow = endpoints(&[1, 1]);
        for _ in 0..10 {
            slow.all[0].endpoint.began(0);
        }
        assert_eq!(shares(&slow, |_| ())[0], 0);
    }

    #[test]
    fn an_endpoint_that_has_just_come_gets_a_tenth() {
        let fresh = endpoints(&[1, 1]);
        fresh.all[0].endpoint.warms();
        let fresh = Endpoints::new(fresh.all);
        let counts = shares(&fresh, |_| ());
        assert!((1_500..2_500).contains(&counts[0]), "{counts:?}");
    }
}
