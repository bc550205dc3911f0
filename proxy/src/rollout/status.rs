//! What `status` and the page show of a rollout.

use serde::Serialize;

use super::{Finding, Phase, Walk, walk::Here};
use crate::config::Weight;

/// How one route's rollout stands.
#[derive(Debug, Clone, Serialize)]
pub struct RolloutStatus {
    /// Whether it walks.
    pub phase: Phase,
    /// The step it is at, in percent.
    pub step: Weight,
    /// The step behind it.
    pub next: Option<Weight>,
    /// All of them.
    pub steps: Vec<Weight>,
    /// Percent in the file, which no step goes above.
    pub ceiling: Weight,
    /// Seconds since 1970 when the step or the phase began.
    pub since: u64,
    /// Why it stands where it stands, or what the next step waits for.
    pub why: String,
    /// What is asked for before the next step, and what is.
    pub gates: Vec<Finding>,
    /// Requests that the gates have seen since the step began.
    pub requests_legacy: u64,
    /// The same of modern.
    pub requests_modern: u64,
    /// The file's number.
    pub generation: u32,
}

// === impl RolloutStatus ===

impl RolloutStatus {
    pub(super) fn of(here: Here<'_>, walk: &Walk) -> Self {
        let standing = &walk.standing;
        let is_held = walk.among.as_ref().is_some_and(|among| among.demand.is_some());
        let walks = matches!(standing.phase, Phase::Walking | Phase::Paused);
        Self {
            phase: if is_held { Phase::RolledBack } else { standing.phase },
            step: standing.step,
            next: here.next(standing),
            steps: here.spec.steps.clone(),
            ceiling: here.ceiling,
            since: standing.since,
            why: match is_held && standing.phase != Phase::RolledBack {
                true => "rolled back here; the other replicas have not heard of it yet".to_owned(),
                false => here.waits_for(standing, walk.last_lag),
            },
            gates: if walks { here.findings(standing, walk.last_lag) } else { Vec::new() },
            requests_legacy: standing.counts.legacy.all(),
            requests_modern: standing.counts.modern.all(),
            generation: standing.generation,
        }
    }
}
