//! What all workers counted of one route since the start, and what came between two looks: for `status` and the history.

use super::{
    Answerer, Outcome, Shards,
    histogram::Sum,
    shard::{last_to_unix, side_index},
};
use crate::links::Owner;

/// One route's counts over all workers.
#[derive(Debug, Clone, Default)]
pub(crate) struct RouteTotals {
    /// Answers of Banyan itself.
    pub(crate) banyan: u64,
    /// By side: legacy, modern.
    sides: [SideTotals; 2],
    /// When the newest answer ended, in seconds since 1970; `None` before the first.
    pub(crate) last_request: Option<u64>,
}

/// One side of it.
#[derive(Debug, Clone, Default)]
pub(crate) struct SideTotals {
    /// Answers that it gave.
    pub(crate) answers: u64,
    /// Requests for which it was chosen, without those whose client went away.
    pub(crate) attempts: u64,
    /// Of them, those that it did not answer, or with 500 and above; also where the other side stepped in.
    pub(crate) failed: u64,
    durations: Sum,
}

// === impl RouteTotals ===

impl RouteTotals {
    pub(crate) fn of(shards: &Shards, route: &str) -> Self {
        let mut totals = Self::default();
        let mut last = 0;
        for worker in shards.workers(route) {
            let answers = |by: Answerer| worker.answered[by.index()].codes.seen().map(|(_, count)| count).sum::<u64>();
            totals.banyan += answers(Answerer::Banyan);
            last = last.max(worker.last.get());
            for side in [Owner::Legacy, Owner::Modern] {
                let sum = &mut totals.sides[side_index(side)];
                sum.answers += answers(Answerer::Side(side));
                sum.durations.add(&worker.answered[Answerer::Side(side).index()].duration);
                for outcome in Outcome::ALL {
                    let count = worker.attempts[side_index(side)][outcome as usize].get();
                    match outcome {
                        Outcome::Cancelled => {}
                        Outcome::Ok => sum.attempts += count,
                        Outcome::Error | Outcome::Timeout | Outcome::Refused => {
                            sum.attempts += count;
                            sum.failed += count;
                        }
                    }
                }
            }
        }
        totals.last_request = last_to_unix(last);
        totals
    }

    pub(crate) fn side(&self, side: Owner) -> &SideTotals {
        &self.sides[side_index(side)]
    }

    /// What came since an earlier look.
    pub(crate) fn since(&self, before: &Self) -> Self {
        Self {
            banyan: self.banyan.saturating_sub(before.banyan),
            sides: [0, 1].map(|side: usize| self.sides[side].since(&before.sides[side])),
            last_request: self.last_request,
        }
    }
}

// === impl SideTotals ===

impl SideTotals {
    /// The time in milliseconds that 99 of 100 answers stayed below; within a bucket as if answers were spread evenly.
    pub(crate) fn p99_ms(&self) -> Option<f64> {
        self.durations.quantile(0.99).map(|seconds| seconds * 1e3)
    }

    fn since(&self, before: &Self) -> Self {
        Self {
            answers: self.answers.saturating_sub(before.answers),
            attempts: self.attempts.saturating_sub(before.attempts),
            failed: self.failed.saturating_sub(before.failed),
            durations: self.durations.since(&before.durations),
        }
    }
}
