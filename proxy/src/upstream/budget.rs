//! How many requests may be sent to the same upstream again: a share of all, so that an upstream which fails does not get a multiple of its load.
//!
//! Workers take; the background refills once a tick, from what all of them sent. After Finagle's and Linkerd's retry budgets.

use std::{
    collections::VecDeque,
    sync::atomic::{AtomicUsize, Ordering},
};

use super::warden::TICK;
use crate::config;

/// What is left.
#[derive(Debug, Default)]
pub(crate) struct Budget(AtomicUsize);

/// Refills it. Lives as long as the upstream's settings.
#[derive(Debug)]
pub(super) struct Refill {
    rules: config::Retries,
    /// Retries earned in each tick of the last ten seconds, and not yet given out whole.
    earned: VecDeque<f64>,
    rest: f64,
}

/// What was earned longer ago is lost.
const KEPT_TICKS: usize = 100;

// === impl Budget ===

impl Budget {
    /// Takes one, if there is one.
    pub(crate) fn take(&self) -> bool {
        self.0.fetch_update(Ordering::AcqRel, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
    }

    /// What a new upstream may do before the first refill.
    pub(super) fn begin(&self, rules: &config::Retries) {
        self.0.store(rules.at_least, Ordering::Relaxed);
    }
}

// === impl Refill ===

impl Refill {
    pub(super) fn new(rules: config::Retries) -> Self {
        Self { rules, earned: VecDeque::new(), rest: 0.0 }
    }

    /// One tick, in which so many requests were sent.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "small positive numbers"
    )]
    pub(super) fn tick(&mut self, budget: &Budget, requests: u64) {
        let earned =
            self.rules.at_least as f64 * TICK.as_secs_f64() + requests as f64 * self.rules.percent.percent() / 100.0;
        self.earned.push_back(earned);
        if self.earned.len() > KEPT_TICKS {
            self.earned.pop_front();
        }
        self.rest += earned;
        let whole = self.rest as usize;
        self.rest -= whole as f64;
        let most = (self.earned.iter().sum::<f64>() as usize).max(self.rules.at_least);
        let fill = |left: usize| Some((left + whole).min(most));
        let _ = budget.0.fetch_update(Ordering::AcqRel, Ordering::Relaxed, fill);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(budget: &Budget) -> usize {
        (0..10_000).filter(|_| budget.take()).count()
    }

    #[test]
    fn a_share_of_what_was_sent_and_a_least_number_may_go_again() {
        let rules: config::Retries = serde_json::from_str(r#"{"percent": 20, "at_least": 10}"#).unwrap();
        let (budget, mut refill) = (Budget::default(), Refill::new(rules.clone()));
        budget.begin(&rules);
        assert_eq!(taken(&budget), 10);
        refill.tick(&budget, 100);
        assert_eq!(taken(&budget), 21);
        assert_eq!(taken(&budget), 0);
    }

    #[test]
    fn what_nobody_used_for_ten_seconds_is_lost() {
        let rules: config::Retries = serde_json::from_str(r#"{"percent": 20, "at_least": 10}"#).unwrap();
        let (budget, mut refill) = (Budget::default(), Refill::new(rules));
        for _ in 0..1_000 {
            refill.tick(&budget, 0);
        }
        assert!((99..=100).contains(&taken(&budget)));
    }
}
