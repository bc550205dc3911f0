//! Is modern worse, or was it chance? Shares of failed requests, held against a limit or against each other.
//!
//! Both tests are likelihood ratios: how much better do the counts fit to "modern is as bad as it looks" than to "modern is just within its limit".
//! Twice the logarithm of that ratio is distributed as the square of a normal variable (Wilks 1938), so its signed root is a `z`, which stays
//! true far out in the tails and for few failures, where a difference divided by its standard error does not.

/// So many of so many.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Share {
    pub(super) failed: u64,
    pub(super) all: u64,
}

/// The chance, over all looks at one step together, that a service which is just within its limits is called ill.
const FALSE_ALARM: f64 = 0.001;
/// Fewer failures above the limit are never enough.
const LEAST_SURPLUS: f64 = 10.0;
/// 95 % sure, and seen in 80 of a hundred cases: the two quantiles of the normal distribution, added.
const DETECTED: f64 = 1.645 + 0.842;

// === impl Share ===

impl Share {
    pub(super) fn new(failed: u64, all: u64) -> Self {
        Self { failed, all }
    }

    /// Between 0 and 1; 0 of nothing.
    pub(super) fn rate(self) -> f64 {
        if self.all == 0 { 0.0 } else { float(self.failed) / float(self.all) }
    }

    /// Failures above what a rate allows.
    fn surplus(self, rate: f64) -> f64 {
        float(self.failed) - float(self.all) * rate
    }

    /// How much worse the counts fit to this rate than to their own, as a logarithm.
    fn misfit(self, rate: f64) -> f64 {
        let rate = rate.clamp(1e-12, 1.0 - 1e-12);
        let (own, all) = (self.rate(), float(self.all));
        let part = |share: f64, of: f64| if share > 0.0 { share * (share / of).ln() } else { 0.0 };
        all * (part(own, rate) + part(1.0 - own, 1.0 - rate))
    }
}

/// Whether so many failures can be no chance where at most `limit` (0 to 1) may fail. `look`: the how-manyth at this step, from 1;
/// `tests`: how many are made at each.
pub(super) fn is_above(modern: Share, limit: f64, look: u64, tests: u64) -> bool {
    modern.surplus(limit) >= LEAST_SURPLUS && is_no_chance(modern.misfit(limit), look, tests)
}

/// The same where modern may fail by `margin` (0 to 1) more than legacy does.
pub(super) fn is_worse(modern: Share, legacy: Share, margin: f64, look: u64, tests: u64) -> bool {
    legacy.all > 0
        && modern.surplus(legacy.rate() + margin) >= LEAST_SURPLUS
        && is_no_chance(misfit_of_both(modern, legacy, margin), look, tests)
}

/// How badly the counts fit to "modern fails by just `margin` more", for the rate of legacy that fits best: the sum is convex in it, and its
/// least lies between what both show.
fn misfit_of_both(modern: Share, legacy: Share, margin: f64) -> f64 {
    let of = |rate: f64| legacy.misfit(rate) + modern.misfit(rate + margin);
    let (mut low, mut high) = (legacy.rate(), (modern.rate() - margin).max(legacy.rate()));
    for _ in 0..60 {
        let third = (high - low) / 3.0;
        if of(low + third) < of(high - third) {
            high -= third;
        } else {
            low += third;
        }
    }
    of(f64::midpoint(low, high))
}

/// The chance of a false alarm is shared out to all looks: the k-th may have 1 / k (k + 1) of it, which makes 1 over all of them, however many
/// there are. Looking often costs no truth then, only some keenness.
fn is_no_chance(misfit: f64, look: u64, tests: u64) -> bool {
    let look = float(look.max(1));
    let allowed = FALSE_ALARM / (look * (look + 1.0)) / float(tests.max(1));
    let z = (2.0 * misfit).sqrt();
    libm::erfc(z / std::f64::consts::SQRT_2) / 2.0 < allowed
}

/// The smallest rate of failures that would have stood out against legacy's, in most cases, with so many requests.
pub(super) fn detectable(modern: u64, legacy: Share) -> f64 {
    let (modern, all) = (float(modern.max(1)), float(legacy.all.max(1)));
    // With no failure at all, the rate that would have shown half of one.
    let rate = legacy.rate().max(0.5 / all);
    let is_seen = |other: f64| {
        let deviation = (other * (1.0 - other) / modern + rate * (1.0 - rate) / all).sqrt();
        other - rate >= DETECTED * deviation
    };
    let (mut low, mut high) = (rate, 1.0);
    for _ in 0..50 {
        let middle = f64::midpoint(low, high);
        if is_seen(middle) { high = middle } else { low = middle }
    }
    high
}

#[expect(clippy::cast_precision_loss, reason = "counts of requests are far below 2^52")]
fn float(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng, rngs::SmallRng};

    use super::*;

    fn draw(random: &mut SmallRng, all: u64, rate: f64) -> Share {
        Share::new((0..all).filter(|_| random.random_bool(rate)).count() as u64, all)
    }

    #[test]
    fn a_clear_difference_is_no_chance_and_a_small_one_may_be() {
        assert!(is_worse(Share::new(50, 1000), Share::new(1, 1000), 0.0, 1, 1));
        assert!(!is_worse(Share::new(5, 1000), Share::new(1, 1000), 0.0, 1, 1), "five failures are never enough");
        assert!(!is_worse(Share::new(115, 10_000), Share::new(100, 10_000), 0.0, 1, 1));
        assert!(!is_worse(Share::new(50, 1000), Share::new(1, 1000), 0.05, 1, 1), "within the margin");
        assert!(!is_worse(Share::new(50, 50), Share::default(), 0.0, 1, 1), "there is nothing to hold it against");
        assert!(is_above(Share::new(50, 50), 0.01, 1, 1));
        assert!(!is_above(Share::new(20, 1000), 0.02, 1, 1));
    }

    /// An hour at an interval of ten seconds, at the very edge of what is allowed.
    #[test]
    fn looking_often_does_not_make_a_healthy_service_ill() {
        let mut random = SmallRng::seed_from_u64(7);
        let mut alarms = 0;
        for _ in 0..200 {
            let (mut modern, mut legacy) = (Share::default(), Share::default());
            for look in 1..=360 {
                let (one, other) = (draw(&mut random, 50, 0.03), draw(&mut random, 200, 0.02));
                modern = Share::new(modern.failed + one.failed, modern.all + one.all);
                legacy = Share::new(legacy.failed + other.failed, legacy.all + other.all);
                if is_worse(modern, legacy, 0.01, look, 2) || is_worse(one, other, 0.01, look, 2) {
                    alarms += 1;
                    break;
                }
            }
        }
        assert!(alarms <= 2, "{alarms} false alarms in 200 hours");
    }

    #[test]
    fn a_sudden_failure_is_seen_at_once_however_long_it_went_well() {
        for look in [1, 360, 10_000] {
            assert!(is_worse(Share::new(15, 50), Share::new(1, 950), 0.002, look, 6), "look {look}");
        }
    }

    #[test]
    fn what_can_be_seen_is_what_the_tables_say() {
        // 0.1 % against how much, with as many on both sides; a doubling takes about 20,000.
        let against = |all: u64| detectable(all, Share::new(all / 1000, all));
        assert!((0.006..0.009).contains(&against(1000)), "{}", against(1000));
        assert!((0.0019..0.0021).contains(&against(20_000)), "{}", against(20_000));
    }
}
