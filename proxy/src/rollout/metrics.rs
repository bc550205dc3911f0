//! What Prometheus sees of rollouts.

use std::{
    collections::BTreeSet,
    sync::{Mutex, PoisonError},
};

use prometheus::{GaugeVec, IntCounter, IntCounterVec, Opts, Registry};

use super::{
    Event, Gate, Phase, Standing,
    gates::{Lag, Stands},
    walk::Here,
};
use crate::{
    config::Rollout,
    metrics::{
        LABEL_PHASE, LABEL_REASON, LABEL_ROUTE, LABEL_VERDICT, ROLLOUT_MISMATCH_LIMIT, ROLLOUT_PHASE,
        ROLLOUT_ROLLBACKS, ROLLOUT_STEP, ROLLOUT_UNKEPT, ROLLOUT_VERDICTS,
    },
};

/// The handles.
pub(super) struct Metrics {
    step: GaugeVec,
    phase: GaugeVec,
    mismatch_limit: GaugeVec,
    /// The routes that these three show.
    shown: Mutex<BTreeSet<String>>,
    verdicts: IntCounterVec,
    rollbacks: IntCounterVec,
    unkept: IntCounter,
}

const VERDICTS: [&str; 3] = ["inside", "inconclusive", "failed"];

// === impl Metrics ===

impl Metrics {
    pub(super) fn register(registry: &Registry) -> prometheus::Result<Self> {
        let step = Opts::new(ROLLOUT_STEP, "The step that a route's rollout is at");
        let phase = Opts::new(ROLLOUT_PHASE, "1 for the phase that a route's rollout is in");
        let limit =
            Opts::new(ROLLOUT_MISMATCH_LIMIT, "Percent of the comparisons that may differ, by the rollout's gate");
        let verdicts = Opts::new(ROLLOUT_VERDICTS, "What the gates said, at each look");
        let rollbacks = Opts::new(ROLLOUT_ROLLBACKS, "Rollbacks by reason: the gate that failed, or `person`");
        let metrics = Self {
            step: GaugeVec::new(step, &[LABEL_ROUTE])?,
            shown: Mutex::default(),
            phase: GaugeVec::new(phase, &[LABEL_ROUTE, LABEL_PHASE])?,
            mismatch_limit: GaugeVec::new(limit, &[LABEL_ROUTE])?,
            verdicts: IntCounterVec::new(verdicts, &[LABEL_ROUTE, LABEL_VERDICT])?,
            rollbacks: IntCounterVec::new(rollbacks, &[LABEL_ROUTE, LABEL_REASON])?,
            unkept: IntCounter::new(ROLLOUT_UNKEPT, "Attempts to keep rollouts in `state.dir` that failed")?,
        };
        registry.register(Box::new(metrics.step.clone()))?;
        registry.register(Box::new(metrics.phase.clone()))?;
        registry.register(Box::new(metrics.mismatch_limit.clone()))?;
        registry.register(Box::new(metrics.verdicts.clone()))?;
        registry.register(Box::new(metrics.rollbacks.clone()))?;
        registry.register(Box::new(metrics.unkept.clone()))?;
        Ok(metrics)
    }

    /// All that there are now, and no others.
    pub(super) fn show(&self, rollouts: &[(&str, &Rollout, &Standing)]) {
        // What is gone is taken away by itself: a scrape in between must not miss the rest.
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        shown.retain(|route| {
            let stays = rollouts.iter().any(|(name, ..)| name == route);
            if !stays {
                drop(self.step.remove_label_values(&[route]));
                drop(self.mismatch_limit.remove_label_values(&[route]));
                for phase in Phase::ALL {
                    drop(self.phase.remove_label_values(&[route, phase.as_str()]));
                }
            }
            stays
        });
        for (route, spec, standing) in rollouts {
            shown.insert((*route).to_owned());
            match spec.gates.mismatch_rate {
                Some(gate) => self.mismatch_limit.with_label_values(&[route]).set(gate.max.percent()),
                None => drop(self.mismatch_limit.remove_label_values(&[route])),
            }
            self.step.with_label_values(&[route]).set(standing.step.percent());
            for phase in Phase::ALL {
                let is_in = f64::from(u8::from(standing.phase == phase));
                self.phase.with_label_values(&[route, phase.as_str()]).set(is_in);
            }
            // From zero on: an alert must find its series, and a rate see the first one.
            for verdict in VERDICTS {
                self.verdicts.with_label_values(&[route, verdict]);
            }
            for reason in Gate::FAILING.map(Gate::as_str).into_iter().chain(["person"]) {
                self.rollbacks.with_label_values(&[route, reason]);
            }
        }
    }

    pub(super) fn judged(&self, here: Here<'_>, standing: &Standing, event: Option<&Event>, lag: Lag) {
        let verdict = match event {
            Some(event) if event.gate.is_some() => "failed",
            // A step was taken: all of them held.
            Some(_) => "inside",
            None if matches!(standing.phase, Phase::RolledBack | Phase::Done) => return,
            None => {
                let findings = here.findings(standing, lag);
                let open = findings.iter().any(|one| one.gate != Gate::Every && one.stands != Stands::Holds);
                if open { "inconclusive" } else { "inside" }
            }
        };
        self.verdicts.with_label_values(&[here.route, verdict]).inc();
    }

    pub(super) fn rolled_back(&self, route: &str, reason: &str) {
        self.rollbacks.with_label_values(&[route, reason]).inc();
    }

    pub(super) fn unkept(&self) {
        self.unkept.inc();
    }
}
