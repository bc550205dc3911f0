//! What became of a route's copies, and what comparing them gave.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use prometheus::{IntCounter, IntCounterVec, Opts, Registry};

use super::record::Recorder;
use crate::{
    compare::{self, CompareStatus, Compared, Report, Tally, Verdict},
    config::Compare,
    metrics::{COMPARE, COMPARE_NOISE, LABEL_OUTCOME, LABEL_RESULT, LABEL_ROUTE, SHADOW_REQUESTS},
};

/// What became of one copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The shadow answered, and so did the side that counts.
    Sent,
    /// Not sent: as many as `concurrency` are under way, or the background is behind.
    DroppedBusy,
    /// Not sent: as many as [`SHADOW_REQUESTS`](super::SHADOW_REQUESTS) are under way, over all routes.
    DroppedRequests,
    /// Not sent: as many as [`SHADOW_CONNECTIONS`](super::SHADOW_CONNECTIONS) are open, over all routes.
    DroppedConnections,
    /// Not sent, or not compared: the process holds all the bytes it may.
    DroppedBudget,
    /// Not sent: the request's body is longer than `max_body`.
    BodyTooLong,
    /// Not over within `timeout`.
    Timeout,
    /// The shadow could not be reached, or its answer broke off.
    Error,
    /// The client was gone, or got no answer from the other side, before the end; a write was not sent then.
    Cancelled,
}

/// The counters of all routes.
#[derive(Debug, Clone)]
pub(super) struct Metrics {
    pub(super) requests: IntCounterVec,
    pub(super) compared: IntCounterVec,
    pub(super) noise: IntCounterVec,
}

/// The counts of one route, which outlive reloads.
#[derive(Debug)]
pub(super) struct RouteCounts {
    /// Copies under way.
    pub(super) busy: Arc<AtomicUsize>,
    requests: [IntCounter; Outcome::ALL.len()],
    compared: [IntCounter; compare::Outcome::ALL.len()],
    noise: IntCounter,
    /// What a rollout is judged by: comparisons, and those that differ in more than noise; only while it is known what is noise.
    judged: [AtomicU64; 2],
    /// Never locked on the answering path.
    tally: Mutex<(Option<Compare>, Tally)>,
    /// As `tally`.
    recorder: Mutex<Option<Arc<Recorder>>>,
    /// What the answering path sees of it.
    is_recorded: AtomicBool,
}

// === impl Outcome ===

impl Outcome {
    /// Every outcome, so that metrics begin at zero.
    pub(super) const ALL: [Self; 9] = [
        Self::Sent,
        Self::DroppedBusy,
        Self::DroppedRequests,
        Self::DroppedConnections,
        Self::DroppedBudget,
        Self::BodyTooLong,
        Self::Timeout,
        Self::Error,
        Self::Cancelled,
    ];

    /// The label's value.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sent => "sent",
            Self::DroppedBusy => "dropped_busy",
            Self::DroppedRequests => "dropped_requests",
            Self::DroppedConnections => "dropped_connections",
            Self::DroppedBudget => "dropped_budget",
            Self::BodyTooLong => "body_too_long",
            Self::Timeout => "timeout",
            Self::Error => "error",
            Self::Cancelled => "cancelled",
        }
    }
}

// === impl Metrics ===

impl Metrics {
    pub(super) fn register(registry: &Registry) -> prometheus::Result<Self> {
        let requests = Opts::new(SHADOW_REQUESTS, "Copies of requests by what became of them");
        let compared = Opts::new(COMPARE, "Comparisons of the shadow's answer with what the client got, by result");
        let noise = Opts::new(
            COMPARE_NOISE,
            "Of the comparisons that differ, those that do only where the answering side differs from itself",
        );
        let metrics = Self {
            requests: IntCounterVec::new(requests, &[LABEL_ROUTE, LABEL_OUTCOME])?,
            compared: IntCounterVec::new(compared, &[LABEL_ROUTE, LABEL_RESULT])?,
            noise: IntCounterVec::new(noise, &[LABEL_ROUTE])?,
        };
        registry.register(Box::new(metrics.requests.clone()))?;
        registry.register(Box::new(metrics.compared.clone()))?;
        registry.register(Box::new(metrics.noise.clone()))?;
        Ok(metrics)
    }
}

// === impl RouteCounts ===

impl RouteCounts {
    pub(super) fn new(metrics: &Metrics, route: &Arc<str>) -> Self {
        Self {
            busy: Arc::default(),
            requests: Outcome::ALL.map(|outcome| metrics.requests.with_label_values(&[&**route, outcome.as_str()])),
            compared: compare::Outcome::ALL
                .map(|result| metrics.compared.with_label_values(&[&**route, result.as_str()])),
            noise: metrics.noise.with_label_values(&[&**route]),
            judged: Default::default(),
            tally: Mutex::new((None, Tally::new(0))),
            recorder: Mutex::default(),
            is_recorded: AtomicBool::new(false),
        }
    }

    pub(super) fn copy(&self, outcome: Outcome) {
        self.requests[outcome as usize].inc();
    }

    pub(super) fn compared(&self, compared: Compared) {
        let outcome = compared.verdict.outcome();
        self.compared[outcome as usize].inc();
        let mut tally = self.tally.lock().unwrap_or_else(PoisonError::into_inner);
        let (rules, tally) = &mut *tally;
        let resend = rules.as_ref().and_then(|rules| rules.noise).map(|noise| noise.resend.percent());
        let is_learning = resend.is_some_and(|resend| tally.is_learning(resend));
        let is_noise = tally.add(compared, SystemTime::now());
        if is_noise {
            self.noise.inc();
        }
        if !is_learning && outcome != compare::Outcome::NotComparable {
            let differs = outcome == compare::Outcome::Mismatch && !is_noise;
            self.judged[0].fetch_add(1, Ordering::Relaxed);
            self.judged[1].fetch_add(u64::from(differs), Ordering::Relaxed);
        }
    }

    /// Of two answers of the side that answers.
    pub(super) fn resent(&self, verdict: Verdict) {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner).1.add_noise(verdict);
    }

    pub(super) fn report(&self, within: Duration) -> Report {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner).1.report(within, SystemTime::now())
    }

    /// Begins a new tally when what is compared has changed: the old differences say nothing of the new rules.
    pub(super) fn compare_by(&self, compare: &Compare) {
        let mut tally = self.tally.lock().unwrap_or_else(PoisonError::into_inner);
        if tally.0.as_ref() != Some(compare) {
            *tally = (Some(compare.clone()), Tally::new(compare.samples.count()));
        }
    }

    /// All that were compared since the start while it was known what is noise, and of these those that differ in more. Neither ever falls.
    pub(super) fn net(&self) -> (u64, u64) {
        let [compared, differ] = &self.judged;
        // In this order: what is counted meanwhile must not differ before it was compared.
        let differ = differ.load(Ordering::Relaxed);
        (compared.load(Ordering::Relaxed), differ)
    }

    /// Whether requests are to be told to a recording.
    pub(super) fn is_recorded(&self) -> bool {
        self.is_recorded.load(Ordering::Relaxed)
    }

    /// The recording that goes on.
    pub(super) fn recorder(&self) -> Option<Arc<Recorder>> {
        let mut recorder = self.recorder.lock().unwrap_or_else(PoisonError::into_inner);
        if recorder.as_ref().is_some_and(|recorder| recorder.is_over()) {
            *recorder = None;
            self.is_recorded.store(false, Ordering::Relaxed);
        }
        recorder.clone()
    }

    /// Begins a recording; says whether it is the only one.
    pub(super) fn record(&self, new: Recorder) -> bool {
        let mut recorder = self.recorder.lock().unwrap_or_else(PoisonError::into_inner);
        if recorder.as_ref().is_some_and(|recorder| !recorder.is_over()) {
            return false;
        }
        *recorder = Some(Arc::new(new));
        self.is_recorded.store(true, Ordering::Relaxed);
        true
    }

    /// Ends the recording, if there is one.
    pub(super) fn end_recording(&self) {
        *self.recorder.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.is_recorded.store(false, Ordering::Relaxed);
    }

    pub(super) fn status(&self) -> CompareStatus {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner).1.status()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::compare::{Difference, Place, Seen, Spot};

    fn differs() -> Verdict {
        let difference =
            Difference { place: Place::Pointer("/at".to_owned()), control: Seen::Number, candidate: Seen::Number };
        Verdict::Mismatch(vec![Spot { difference, control_length: 1, candidate_length: 1, values: None }])
    }

    fn compare(counts: &RouteCounts, times: u64) {
        for _ in 0..times {
            let took = Duration::from_millis(3);
            counts.compared(Compared { method: http::Method::GET, verdict: differs(), legacy: took, modern: took });
        }
    }

    #[test]
    fn no_rollout_is_judged_by_comparisons_before_noise_was_learnt() {
        let metrics = Metrics::register(&Registry::new()).unwrap();
        let counts = RouteCounts::new(&metrics, &Arc::from("payments"));
        let rules = |json| -> Compare { serde_json::from_value(json).unwrap() };
        counts.compare_by(&rules(serde_json::json!({"noise": {"resend": 1}})));
        compare(&counts, 50);
        assert_eq!(counts.net(), (0, 0), "a time in each answer, that nobody knows yet to be one");
        (0..20).for_each(|_| counts.resent(differs()));
        compare(&counts, 10);
        assert_eq!(counts.net(), (10, 0));

        // Other rules: it is learnt anew.
        counts.compare_by(&rules(serde_json::json!({"noise": {"resend": 1}, "ignore": ["/id"]})));
        compare(&counts, 50);
        assert_eq!(counts.net(), (10, 0));

        // Nobody wants it to be learnt.
        counts.compare_by(&rules(serde_json::json!({})));
        compare(&counts, 5);
        assert_eq!(counts.net(), (15, 5));
    }
}
