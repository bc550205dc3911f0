//! What a rollout tells: one event, one line of the log, and the metric moves with it.

use super::{Event, Gate, What, metrics::Metrics};

// === impl Event ===

impl Event {
    /// An audit line: who, when, what, why.
    pub(super) fn tell(&self, metrics: &Metrics) {
        let Self { route, from, to, by, why, .. } = self;
        let (gate, what) = (self.gate.map(Gate::as_str), self.what.as_str());
        let (modern, legacy, requests) = (self.modern, self.legacy, self.requests);
        let is_bad = self.gate.is_some() || self.what == What::RolledBack;
        if is_bad {
            tracing::warn!(%route, %from, %to, by, gate, modern, legacy, requests, why, "rollout {what}");
        } else {
            tracing::info!(%route, %from, %to, by, modern, legacy, requests, why, "rollout {what}");
        }
        if self.what == What::RolledBack {
            metrics.rolled_back(route, gate.unwrap_or("person"));
        }
    }
}
