//! What the gates say of a step: does it have to be left (abort), and may the next one be taken (advance)? Two different tests: bad luck must not
//! roll anybody back, and no luck at all must not lead forward.

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};

use super::{
    Counts,
    counts::Arm,
    stats::{Share, detectable, is_above, is_worse},
};
use crate::config::Rollout;

/// What a verdict is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Gate {
    /// How long the step has lasted.
    Every,
    /// How many requests it saw.
    MinRequests,
    /// Requests that succeeded.
    SuccessRate,
    /// How long 99 of a hundred took at most.
    LatencyP99,
    /// Comparisons that differ.
    MismatchRate,
    /// How far the other database is behind.
    SyncLag,
    /// The circuit before modern.
    Circuit,
}

/// Why a step has to be left.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Failed {
    pub(super) gate: Gate,
    /// Both numbers, as they are said: `modern 97.1 % < legacy 99.9 %`.
    pub(super) words: String,
    /// As numbers: shares between 0 and 1, or seconds.
    pub(super) modern: Option<f64>,
    pub(super) legacy: Option<f64>,
    pub(super) requests: u64,
}

/// How one gate stands before the next step.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Finding {
    /// Which.
    pub gate: Gate,
    /// Whether it lets the next step be taken.
    pub stands: Stands,
    /// What is asked for, and what is: `≥ 1,000 requests, now 834`.
    pub words: String,
}

/// How a gate stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stands {
    /// It is inside.
    Holds,
    /// It is outside.
    Fails,
    /// There is too little to say it.
    Missing,
}

/// How far the other database was behind, over one interval.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Lag {
    /// No gate asks for it, or it was not looked at yet.
    #[default]
    Unseen,
    /// Nobody knew, at least once.
    Unknown,
    /// At best, and at last.
    Known { least: Duration, last: Duration },
}

/// One in a hundred may be slower than the 99th percentile.
const TAIL: f64 = 0.01;

/// Why the step must be left, looking at several spans of it, of which the last one is all of it. `before`, where legacy has no share: what it did
/// when it had one. `last`: what it did at the step before this one.
pub(super) fn abort(
    spec: &Rollout,
    spans: &[&Counts],
    before: Option<&Arm>,
    last: Option<&Arm>,
    look: u64,
) -> Option<Failed> {
    let limits = [
        spec.gates.success_rate.and_then(|gate| gate.min).is_some(),
        spec.gates.success_rate.and_then(|gate| gate.below_legacy).is_some(),
        spec.gates.latency_p99.and_then(|gate| gate.max).is_some(),
        spec.gates.latency_p99.and_then(|gate| gate.above_legacy).is_some(),
        spec.gates.mismatch_rate.is_some(),
    ];
    let tests = (limits.into_iter().filter(|is_given| *is_given).count() * spans.len()) as u64;
    let whole = spans.last().map(|step| &step.legacy);
    spans.iter().find_map(|span| {
        // Where its share is so small that nobody came to it meanwhile, what it did at this step until then, or at the last one.
        let known = [before, Some(&span.legacy), whole, last];
        let legacy = known.into_iter().flatten().find(|legacy| legacy.all() > 0).unwrap_or(&span.legacy);
        let judge = Judge { span, legacy, look, tests };
        judge.success(spec).or_else(|| judge.latency(spec)).or_else(|| judge.mismatches(spec))
    })
}

/// The lag is no matter of chance: above its limit all through an interval is too much.
pub(super) fn lags(spec: &Rollout, lag: Lag) -> Option<Failed> {
    let max = spec.gates.sync_lag?.max.0;
    let Lag::Known { least, .. } = lag else { return None };
    (least > max).then(|| Failed {
        gate: Gate::SyncLag,
        words: format!("{} behind > {}", time(least), time(max)),
        modern: Some(least.as_secs_f64()),
        legacy: None,
        requests: 0,
    })
}

/// What is asked for before the next step, and what is.
pub(super) fn advance(spec: &Rollout, step: &Counts, before: Option<&Arm>, lag: Lag) -> Vec<Finding> {
    let mut findings = Vec::new();
    let (modern, legacy) = (&step.modern, legacy_of(step, before));
    let mut find = |gate, stands, words: String| findings.push(Finding { gate, stands, words });
    let is_relative = spec.gates.success_rate.is_some_and(|gate| gate.below_legacy.is_some())
        || spec.gates.latency_p99.is_some_and(|gate| gate.above_legacy.is_some());
    let (least, seen) = (spec.min_requests, modern.all());
    find(Gate::MinRequests, enough(seen, least), format!("≥ {} requests, now {}", group(least), group(seen)));
    if is_relative && legacy.all() < least && legacy.all() < seen {
        let words = format!("≥ {} requests on legacy, now {}", group(least), group(legacy.all()));
        find(Gate::MinRequests, enough(legacy.all(), least), words);
    }
    if let Some(gate) = spec.gates.success_rate {
        let (ours, theirs) = (modern.failures(), legacy.failures());
        if let Some(min) = gate.min {
            let stands = inside(modern.all(), ours.rate() <= 1.0 - share(min.percent()));
            find(Gate::SuccessRate, stands, format!("success ≥ {}, now {}", percent(share(min.percent())), kept(ours)));
        }
        if let Some(below) = gate.below_legacy {
            let is_in = ours.rate() <= theirs.rate() + share(below.percent());
            let stands = inside(modern.all().min(legacy.all()), is_in);
            let words = format!("success ≥ legacy's {} − {}, now {}", kept(theirs), below.percent(), kept(ours));
            find(Gate::SuccessRate, stands, words);
        }
    }
    if let Some(gate) = spec.gates.latency_p99 {
        let (ours, theirs) = (modern.p99(), legacy.p99());
        let said = |p99: Option<Duration>| p99.map_or_else(|| "unknown".to_owned(), time);
        if let Some(max) = gate.max {
            let stands = ours.map_or(Stands::Missing, |ours| inside(1, ours <= max.0));
            find(Gate::LatencyP99, stands, format!("p99 ≤ {}, now {}", time(max.0), said(ours)));
        }
        if let Some(above) = gate.above_legacy {
            let both = ours.zip(theirs);
            let stands = both.map_or(Stands::Missing, |(ours, theirs)| inside(1, ours <= theirs + above.0));
            let words = format!("p99 ≤ legacy's {} + {}, now {}", said(theirs), time(above.0), said(ours));
            find(Gate::LatencyP99, stands, words);
        }
    }
    if let Some(gate) = spec.gates.mismatch_rate {
        let (mismatches, max) = (step.mismatches(), share(gate.max.percent()));
        if step.compared < least {
            let words = format!("≥ {} comparisons, now {}", group(least), group(step.compared));
            find(Gate::MismatchRate, Stands::Missing, words);
        }
        let words = match step.compared {
            0 => format!("mismatch ≤ {}, nothing compared yet", percent(max)),
            _ => format!("mismatch ≤ {}, now {}", percent(max), percent(mismatches.rate())),
        };
        find(Gate::MismatchRate, inside(step.compared, mismatches.rate() <= max), words);
    }
    if let Some(gate) = spec.gates.sync_lag {
        let (stands, now) = match lag {
            Lag::Known { last, .. } => (inside(1, last <= gate.max.0), time(last)),
            Lag::Unseen | Lag::Unknown => (Stands::Missing, "unknown".to_owned()),
        };
        find(Gate::SyncLag, stands, format!("{} behind at most, now {now}", time(gate.max.0)));
    }
    findings
}

/// What a step that went well can claim: how small a rise of failures would have stood out.
pub(super) fn could_have_seen(step: &Counts, before: Option<&Arm>) -> String {
    let legacy = legacy_of(step, before).failures();
    let seen = detectable(step.modern.all(), legacy);
    let floor = legacy.rate();
    format!("failures of {} against legacy's {} would most likely have been seen", percent(seen), percent(floor))
}

/// The legacy arm of a span, or the last one there was, where there is none any more.
fn legacy_of<'c>(span: &'c Counts, before: Option<&'c Arm>) -> &'c Arm {
    before.unwrap_or(&span.legacy)
}

struct Judge<'s> {
    span: &'s Counts,
    legacy: &'s Arm,
    look: u64,
    tests: u64,
}

// === impl Judge ===

impl Judge<'_> {
    fn success(&self, spec: &Rollout) -> Option<Failed> {
        let gate = spec.gates.success_rate?;
        let (ours, theirs) = (self.span.modern.failures(), self.legacy.failures());
        let fails = |words: String| {
            let legacy = (theirs.all > 0).then(|| 1.0 - theirs.rate());
            let modern = Some(1.0 - ours.rate());
            Failed { gate: Gate::SuccessRate, words, modern, legacy, requests: ours.all }
        };
        if let Some(below) = gate.below_legacy
            && is_worse(ours, theirs, share(below.percent()), self.look, self.tests)
        {
            return Some(fails(format!("modern {} < legacy {}", kept(ours), kept(theirs))));
        }
        let min = share(gate.min?.percent());
        // What legacy does not reach in the same time either is not modern's fault.
        let is_blamed = theirs.all == 0 || theirs.rate() <= 1.0 - min;
        (is_blamed && is_above(ours, 1.0 - min, self.look, self.tests))
            .then(|| fails(format!("modern {} < {}", kept(ours), percent(min))))
    }

    fn latency(&self, spec: &Rollout) -> Option<Failed> {
        let gate = spec.gates.latency_p99?;
        let (ours, theirs) = (self.span.modern.p99()?, self.legacy.p99());
        let fails = |words: String| Failed {
            gate: Gate::LatencyP99,
            words,
            modern: Some(ours.as_secs_f64()),
            legacy: theirs.map(|theirs| theirs.as_secs_f64()),
            requests: self.span.modern.all(),
        };
        if let (Some(above), Some(theirs)) = (gate.above_legacy, theirs) {
            let slow = self.span.modern.slower(theirs + above.0);
            // Of legacy itself about one in a hundred is slower than its own 99th percentile, whatever the buckets say.
            let own = self.legacy.slower(theirs);
            let own = Share::new(own.failed.max(own.all / 100), own.all);
            if is_worse(slow, own, 0.0, self.look, self.tests) {
                return Some(fails(format!("modern {} > legacy {} + {}", time(ours), time(theirs), time(above.0))));
            }
        }
        let max = gate.max?.0;
        let is_blamed = theirs.is_none_or(|theirs| theirs <= max);
        (is_blamed && is_above(self.span.modern.slower(max), TAIL, self.look, self.tests))
            .then(|| fails(format!("modern {} > {}", time(ours), time(max))))
    }

    fn mismatches(&self, spec: &Rollout) -> Option<Failed> {
        let max = share(spec.gates.mismatch_rate?.max.percent());
        let mismatches = self.span.mismatches();
        is_above(mismatches, max, self.look, self.tests).then(|| Failed {
            gate: Gate::MismatchRate,
            words: format!("{} of {} differ > {}", percent(mismatches.rate()), group(mismatches.all), percent(max)),
            modern: Some(mismatches.rate()),
            legacy: None,
            requests: mismatches.all,
        })
    }
}

// === impl Gate ===

impl Gate {
    /// Those that can fail, for metrics that begin at zero.
    pub(crate) const FAILING: [Self; 5] =
        [Self::SuccessRate, Self::LatencyP99, Self::MismatchRate, Self::SyncLag, Self::Circuit];

    /// As the file, the log and metrics write it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Every => "every",
            Self::MinRequests => "min_requests",
            Self::SuccessRate => "success_rate",
            Self::LatencyP99 => "latency_p99",
            Self::MismatchRate => "mismatch_rate",
            Self::SyncLag => "sync_lag",
            Self::Circuit => "circuit",
        }
    }
}

impl fmt::Display for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

fn enough(seen: u64, least: u64) -> Stands {
    if seen >= least { Stands::Holds } else { Stands::Missing }
}

fn inside(seen: u64, is_in: bool) -> Stands {
    match (seen, is_in) {
        (0, _) => Stands::Missing,
        (_, true) => Stands::Holds,
        (_, false) => Stands::Fails,
    }
}

fn share(percent: f64) -> f64 {
    percent / 100.0
}

/// Of requests that did not fail.
fn kept(failures: Share) -> String {
    if failures.all == 0 { "unknown".to_owned() } else { percent(1.0 - failures.rate()) }
}

/// `97.1 %`, `99.98 %`: at most three digits behind the point, and none in vain.
pub(super) fn percent(share: f64) -> String {
    let text = format!("{:.3}", share * 100.0);
    format!("{} %", text.trim_end_matches('0').trim_end_matches('.'))
}

/// `81 ms`, `2.5 s`.
pub(super) fn time(time: Duration) -> String {
    let millis = time.as_secs_f64() * 1000.0;
    match millis {
        0.0..10.0 => format!("{millis:.1} ms"),
        10.0..1000.0 => format!("{millis:.0} ms"),
        _ => format!("{:.1} s", millis / 1000.0),
    }
}

/// `12,410`
pub(super) fn group(count: u64) -> String {
    let digits = count.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}
