//! How a route fares now: both sides beside each other.

use std::time::Duration;

use serde::Serialize;

use super::reading::Reading;
use crate::{links::Owner, metrics::RouteTotals};

/// What a route did in the last ten to twenty seconds; since the start, where that is less.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Recent {
    /// How long that is.
    pub seconds: f64,
    /// Answers, whoever gave them.
    pub requests_per_second: f64,
    /// Percent of what a side answered that modern did; `None` where neither did.
    pub modern_percent: Option<f64>,
    /// The monolith's side.
    pub legacy: SideRecent,
    /// The new side.
    pub modern: SideRecent,
    /// Comparisons of the shadow's answers.
    pub compared: u64,
    /// Of them, those that differ.
    pub mismatch: u64,
    /// Of those, the ones that differ only where the answering side differs from itself.
    pub noise: u64,
}

/// One side of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SideRecent {
    /// Answers that it gave.
    pub requests_per_second: f64,
    /// Requests for which it was chosen, without those whose client went away.
    pub attempts: u64,
    /// Of them, those that it did not answer, or with 500 and above; also where the other side stepped in.
    pub failed: u64,
    /// `failed` of `attempts`; `None` without any.
    pub error_percent: Option<f64>,
    /// 99 of 100 answers took less; `None` without any.
    pub p99_ms: Option<f64>,
}

// === impl Recent ===

impl Recent {
    #[expect(clippy::cast_precision_loss, reason = "counts of seconds need no more than 52 bits")]
    pub(super) fn of(reading: &Reading, took: Duration) -> Self {
        let seconds = took.as_secs_f64().max(0.001);
        let totals = &reading.totals;
        let [legacy, modern] = [Owner::Legacy, Owner::Modern].map(|side| SideRecent::of(totals, side, seconds));
        let answers = |side| totals.side(side).answers;
        let both = answers(Owner::Legacy) + answers(Owner::Modern);
        Self {
            seconds,
            requests_per_second: (both + totals.banyan) as f64 / seconds,
            modern_percent: (both > 0).then(|| answers(Owner::Modern) as f64 * 100.0 / both as f64),
            legacy,
            modern,
            compared: reading.compared,
            mismatch: reading.mismatch,
            noise: reading.noise,
        }
    }
}

// === impl SideRecent ===

impl SideRecent {
    #[expect(clippy::cast_precision_loss, reason = "counts of seconds need no more than 52 bits")]
    fn of(totals: &RouteTotals, side: Owner, seconds: f64) -> Self {
        let side = totals.side(side);
        Self {
            requests_per_second: side.answers as f64 / seconds,
            attempts: side.attempts,
            failed: side.failed,
            error_percent: (side.attempts > 0).then(|| side.failed as f64 * 100.0 / side.attempts as f64),
            p99_ms: side.p99_ms(),
        }
    }
}
