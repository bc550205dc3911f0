//! What was counted of a route up to one moment.

use crate::{
    listen::{Compiled, Shared},
    metrics::RouteTotals,
    table::Route,
};

/// Since the start, or between two looks.
#[derive(Debug, Clone, Default)]
pub(super) struct Reading {
    pub(super) totals: RouteTotals,
    pub(super) compared: u64,
    pub(super) mismatch: u64,
    /// Of `mismatch`, those that differ in noise alone.
    pub(super) noise: u64,
    /// Of the moment, not a count: percent of the users that are modern's.
    pub(super) weight: f64,
}

// === impl Reading ===

impl Reading {
    pub(super) fn of(shared: &Shared, current: &Compiled, route: &Route) -> Self {
        let compare = current.shadows.status(route).unwrap_or_default();
        Self {
            totals: RouteTotals::of(&shared.shards, &route.name),
            compared: compare.compared,
            mismatch: compare.mismatch,
            noise: compare.noise,
            weight: route.effective().percent(),
        }
    }

    /// What came since an earlier one.
    pub(super) fn since(&self, before: &Self) -> Self {
        // Other rules of comparing begin a new tally at zero.
        let is_anew = self.compared < before.compared || self.mismatch < before.mismatch;
        let since = |now: u64, before: u64| if is_anew { now } else { now.saturating_sub(before) };
        Self {
            totals: self.totals.since(&before.totals),
            compared: since(self.compared, before.compared),
            mismatch: since(self.mismatch, before.mismatch),
            noise: since(self.noise, before.noise),
            weight: self.weight,
        }
    }
}
