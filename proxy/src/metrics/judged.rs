//! What one worker counts for a route with a rollout: attempts that the weight decided over, and how long their answers took to begin.

use std::{sync::Arc, time::Duration};

use super::{Counter, Outcome, Shards, shard::side_index};
use crate::{
    compare::latency::{BUCKETS, bucket},
    links::Owner,
    rollout::Arm,
};

/// By side.
#[derive(Debug)]
pub(super) struct Judged([Side; 2]);

#[derive(Debug)]
struct Side {
    ok: Counter,
    failed: Counter,
    /// Of `ok`: their answers broke off.
    spoiled: Counter,
    times: [Counter; BUCKETS],
}

// === impl Judged ===

impl Default for Judged {
    fn default() -> Self {
        let side = || Side {
            ok: Counter::default(),
            failed: Counter::default(),
            spoiled: Counter::default(),
            times: std::array::from_fn(|_| Counter::default()),
        };
        Self([side(), side()])
    }
}

impl Judged {
    /// What its client gave up, or got wrong itself, says nothing of a side.
    pub(super) fn count(&self, side: Owner, outcome: Outcome, took: Duration) {
        let side = &self.0[side_index(side)];
        match outcome {
            Outcome::Cancelled => return,
            Outcome::Ok => side.ok.add(1),
            Outcome::Error | Outcome::Timeout | Outcome::Refused => side.failed.add(1),
        }
        side.times[bucket(took)].add(1);
    }

    /// An answer that began well broke off.
    pub(super) fn spoiled(&self, side: Owner) {
        self.0[side_index(side)].spoiled.add(1);
    }

    fn add_to(&self, side: Owner, arm: &mut Arm) {
        let side = &self.0[side_index(side)];
        // In this order: what is counted meanwhile must not be spoiled before it was well.
        let spoiled = side.spoiled.get();
        arm.ok += side.ok.get().saturating_sub(spoiled);
        arm.failed += side.failed.get() + spoiled;
        for (bucket, count) in side.times.iter().enumerate().filter(|(_, count)| count.get() > 0) {
            *arm.times.entry(bucket).or_default() += count.get();
        }
    }
}

// === impl Shards ===

impl Shards {
    /// What was counted of a route over all workers, since the start: legacy's and modern's.
    pub(crate) fn judged(&self, route: &Arc<str>) -> (Arm, Arm) {
        let (mut legacy, mut modern) = (Arm::default(), Arm::default());
        for worker in self.workers(route) {
            if let Some(judged) = worker.judged.get() {
                judged.add_to(Owner::Legacy, &mut legacy);
                judged.add_to(Owner::Modern, &mut modern);
            }
        }
        (legacy, modern)
    }
}
