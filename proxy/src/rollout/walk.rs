//! The walk itself, without clocks, threads or files: what an interval's counts, a person or the file do to a standing.

use std::time::{Duration, UNIX_EPOCH};

use super::{
    Act, Arm, Counts, Event, Phase, Standing, What,
    gates::{self, Failed, Finding, Gate, Lag, Stands},
};
use crate::config::{OnFail, Rollout, Weight};

/// What one interval saw.
#[derive(Debug, Clone, Default)]
pub(super) struct Seen {
    pub(super) took: Duration,
    pub(super) counts: Counts,
    pub(super) lag: Lag,
    /// The circuit of an upstream that is modern's alone was open.
    pub(super) circuit_was_open: bool,
}

/// Which route, how the file wants it, and when.
#[derive(Debug, Clone, Copy)]
pub(super) struct Here<'r> {
    pub(super) route: &'r str,
    pub(super) spec: &'r Rollout,
    /// The weight in the file.
    pub(super) ceiling: Weight,
    /// Seconds since 1970.
    pub(super) now: u64,
}

/// Why a rollout begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found<'w> {
    /// The route has none yet.
    New,
    /// Nobody knows whether it had one: why.
    Unknown(&'w str),
}

/// The last intervals that are looked at together, beside the newest one and the whole step.
const RECENT: usize = 6;

// === impl Here ===

impl Here<'_> {
    /// A rollout that nothing is known of.
    pub(super) fn begin(self, found: Found<'_>) -> (Standing, Event) {
        let first = self.spec.steps.first().copied().unwrap_or_default();
        let mut standing = Standing::at(first, self.spec.generation, self.now);
        let (what, why) = match found {
            Found::New => (What::Begun, "the first step".to_owned()),
            Found::Unknown(why) => {
                (What::Paused, format!("{why}; at the first step until `banyan resume {}`", self.route))
            }
        };
        if what == What::Paused {
            (standing.phase, standing.why) = (Phase::Paused, why.clone());
        }
        let event = self.event(what, Weight::ZERO, &standing, "start", why);
        standing.happened(&event);
        (standing, event)
    }

    /// What holds of the weight.
    pub(super) fn effective(self, standing: &Standing) -> Weight {
        let step = match (standing.phase, standing.step) {
            (Phase::RolledBack, _) => Weight::ZERO,
            (Phase::Walking | Phase::Paused, Weight::FULL) => Weight::FULL.less(self.spec.holdback),
            (_, step) => step,
        };
        step.min(self.ceiling)
    }

    /// The step behind this one.
    pub(super) fn next(self, standing: &Standing) -> Option<Weight> {
        self.spec.steps.iter().copied().find(|step| *step > standing.step)
    }

    /// Follows what the file says now.
    pub(super) fn follow(self, standing: &mut Standing) -> Option<Event> {
        let before = self.effective(standing);
        if standing.generation != self.spec.generation {
            standing.generation = self.spec.generation;
            return Some(self.again(standing, before, "file", &format!("generation {}", self.spec.generation)));
        }
        if !self.spec.steps.contains(&standing.step) {
            // Never forward: that takes the gates. Below all of them it stays, and the first one is its next.
            if let Some(below) = self.spec.steps.iter().copied().rfind(|step| *step <= standing.step) {
                standing.begin_step(below, self.now);
            }
        }
        if standing.phase == Phase::Done && self.next(standing).is_some() {
            standing.phase = Phase::Walking;
            standing.begin_step(standing.step, self.now);
            let event = self.event(What::Resumed, before, standing, "file", "the file has more steps".to_owned());
            standing.happened(&event);
            return Some(event);
        }
        None
    }

    /// One interval later.
    pub(super) fn look(self, standing: &mut Standing, seen: &Seen) -> Option<Event> {
        let effective = self.effective(standing);
        if matches!(standing.phase, Phase::RolledBack | Phase::Done) || effective == Weight::ZERO {
            standing.forget();
            return None;
        }
        if let Some(failed) = self.watch(standing, seen) {
            return self.fail(standing, &failed);
        }
        if standing.phase == Phase::Paused {
            return None;
        }
        if self.ceiling >= standing.step {
            standing.ran_millis += u64::try_from(seen.took.as_millis()).unwrap_or_default();
        }
        let is_through = self.findings(standing, seen.lag).iter().all(|finding| finding.stands == Stands::Holds);
        if !is_through || self.ceiling < standing.step {
            return None;
        }
        match self.next(standing) {
            None => Some(self.finish(standing)),
            Some(next) if next > self.ceiling => None,
            Some(next) if self.spec.confirm.contains(&next) => self.ask(standing, next),
            Some(next) => Some(self.step(standing, next, "gates", "")),
        }
    }

    /// Adds what an interval saw, and says whether a gate fails by it.
    pub(super) fn watch(self, standing: &mut Standing, seen: &Seen) -> Option<Failed> {
        self.forget_what_fewer_saw(standing);
        standing.counted_at = self.effective(standing);
        standing.looks += 1;
        standing.counts.add(&seen.counts);
        standing.recent.push_back(seen.counts.clone());
        if standing.recent.len() > RECENT {
            standing.recent.pop_front();
        }
        self.failed(standing, seen)
    }

    /// It says nothing of so many users as there are now.
    fn forget_what_fewer_saw(self, standing: &mut Standing) {
        if self.effective(standing) > standing.counted_at {
            standing.forget();
            standing.ran_millis = 0;
        }
    }

    /// What must hold before the next step, and what does.
    pub(super) fn findings(self, standing: &Standing, lag: Lag) -> Vec<Finding> {
        let is_last = standing.step == Weight::FULL;
        let least = if is_last { self.spec.bake } else { self.spec.every };
        let ran = Duration::from_millis(standing.ran_millis);
        let stands = if ran >= least { Stands::Holds } else { Stands::Missing };
        let seconds = |time: Duration| humantime::format_duration(Duration::from_secs(time.as_secs())).to_string();
        let words = format!("{} at this step, now {}", seconds(least), seconds(ran));
        let mut findings = vec![Finding { gate: Gate::Every, stands, words }];
        findings.extend(gates::advance(self.spec, &standing.counts, before_of(standing), lag));
        findings
    }

    /// What a person does.
    pub(super) fn act(self, standing: &mut Standing, act: Act, by: &str, why: &str, lag: Lag) -> Result<Event, String> {
        let (before, route) = (self.effective(standing), self.route);
        let why = if why.is_empty() { "no reason given".to_owned() } else { why.to_owned() };
        let (phase, what) = match (act, standing.phase) {
            (Act::Rollback, Phase::RolledBack) => return Err("it is rolled back already".to_owned()),
            (Act::Rollback, _) => (Phase::RolledBack, What::RolledBack),
            (Act::Pause, Phase::Walking) => (Phase::Paused, What::Paused),
            (Act::Pause, phase) => return Err(format!("it is {} and does not walk", said(phase))),
            (Act::Resume, Phase::Paused) => (Phase::Walking, What::Resumed),
            (Act::Resume, Phase::RolledBack) => return Ok(self.again(standing, before, by, &why)),
            (Act::Resume, phase) => return Err(format!("it is {}: there is nothing to resume", said(phase))),
            (Act::Promote, Phase::Walking) => return self.promote(standing, by, &why, lag),
            (Act::Promote, phase) => {
                return Err(format!("it is {}; `banyan resume {route}` first", said(phase)));
            }
        };
        standing.phase = phase;
        standing.begin_step(standing.step, self.now);
        standing.why = if what == What::Resumed { String::new() } else { format!("by {by}: {why}") };
        let event = self.event(what, before, standing, by, why);
        standing.happened(&event);
        Ok(event)
    }

    /// Takes one step and skips no gate, only the time.
    fn promote(self, standing: &mut Standing, by: &str, why: &str, lag: Lag) -> Result<Event, String> {
        let Some(next) = self.next(standing) else { return Err("it is at its last step".to_owned()) };
        if next > self.ceiling {
            let ceiling = self.ceiling;
            return Err(format!("the next step is {next} %, and the file's weight is {ceiling} %: raise it first"));
        }
        // The file may have raised the weight since the last look.
        self.forget_what_fewer_saw(standing);
        let findings = self.findings(standing, lag);
        let missing: Vec<&str> = findings
            .iter()
            .filter(|finding| finding.gate != Gate::Every && finding.stands != Stands::Holds)
            .map(|finding| finding.words.as_str())
            .collect();
        if missing.is_empty() {
            Ok(self.step(standing, next, by, why))
        } else {
            Err(format!("a gate is in the way: {}", missing.join("; ")))
        }
    }

    fn failed(self, standing: &Standing, seen: &Seen) -> Option<Failed> {
        if seen.circuit_was_open {
            let words = "it was open".to_owned();
            return Some(Failed { gate: Gate::Circuit, words, modern: None, legacy: None, requests: 0 });
        }
        let mut recent = Counts::default();
        standing.recent.iter().for_each(|counts| recent.add(counts));
        let spans = [&seen.counts, &recent, &standing.counts];
        let (before, last) = (before_of(standing), standing.before.as_ref());
        let failed = gates::abort(self.spec, &spans, before, last, standing.looks);
        failed.or_else(|| gates::lags(self.spec, seen.lag))
    }

    /// Does what the file wants of a gate that failed.
    pub(super) fn fail(self, standing: &mut Standing, failed: &Failed) -> Option<Event> {
        let before = self.effective(standing);
        let (phase, what) = match self.spec.on_fail {
            OnFail::Rollback => (Phase::RolledBack, What::RolledBack),
            // It stands already.
            OnFail::Pause if standing.phase == Phase::Paused => return None,
            OnFail::Pause => (Phase::Paused, What::Paused),
        };
        standing.phase = phase;
        standing.why = format!("by gate {}: {}", failed.gate, failed.words);
        standing.begin_step(standing.step, self.now);
        let mut event = self.event(what, before, standing, "gates", format!("{}: {}", failed.gate, failed.words));
        event.gate = Some(failed.gate);
        (event.modern, event.legacy) = (failed.modern, failed.legacy);
        event.requests = Some(failed.requests).filter(|requests| *requests > 0);
        standing.happened(&event);
        Some(event)
    }

    /// `said`: why a person wants it.
    fn step(self, standing: &mut Standing, next: Weight, by: &str, said: &str) -> Event {
        let before = self.effective(standing);
        let seen = gates::could_have_seen(&standing.counts, before_of(standing));
        let why = if said.is_empty() { seen } else { format!("{said}; {seen}") };
        let (modern, requests) = (standing.counts.modern.failures(), standing.counts.modern.all());
        self.remember_legacy(standing);
        standing.begin_step(next, self.now);
        standing.why = String::new();
        let mut event = self.event(What::Advanced, before, standing, by, why);
        (event.modern, event.requests) = (Some(1.0 - modern.rate()), Some(requests));
        standing.happened(&event);
        event
    }

    fn finish(self, standing: &mut Standing) -> Event {
        let before = self.effective(standing);
        let why = gates::could_have_seen(&standing.counts, before_of(standing));
        let (modern, requests) = (standing.counts.modern.failures(), standing.counts.modern.all());
        self.remember_legacy(standing);
        standing.phase = Phase::Done;
        standing.begin_step(standing.step, self.now);
        standing.why = String::new();
        let mut event = self.event(What::Done, before, standing, "gates", why);
        (event.modern, event.requests) = (Some(1.0 - modern.rate()), Some(requests));
        standing.happened(&event);
        event
    }

    fn ask(self, standing: &mut Standing, next: Weight) -> Option<Event> {
        if std::mem::replace(&mut standing.has_asked, true) {
            return None;
        }
        let why = format!("the gates let it go to {next} %; it waits for `banyan promote {}`", self.route);
        let event = self.event(What::Waits, self.effective(standing), standing, "gates", why);
        standing.happened(&event);
        Some(event)
    }

    fn again(self, standing: &mut Standing, before: Weight, by: &str, why: &str) -> Event {
        standing.phase = Phase::Walking;
        standing.before = None;
        standing.why = String::new();
        standing.begin_step(self.spec.steps.first().copied().unwrap_or_default(), self.now);
        let event = self.event(What::Resumed, before, standing, by, format!("{why}; from the first step"));
        standing.happened(&event);
        event
    }

    /// At 100 % there will be nobody left to compare with.
    fn remember_legacy(self, standing: &mut Standing) {
        if standing.counted_at < Weight::FULL && standing.counts.legacy.all() > 0 {
            standing.before = Some(standing.counts.legacy.clone());
        }
    }

    fn event(self, what: What, from: Weight, standing: &Standing, by: &str, why: String) -> Event {
        Event {
            at: self.now,
            route: self.route.to_owned(),
            what,
            from,
            to: self.effective(standing),
            by: by.to_owned(),
            why,
            gate: None,
            modern: None,
            legacy: None,
            requests: None,
            id: None,
        }
    }

    /// `12:03`, in UTC; with its day, when that is not today.
    fn moment(self, at: u64) -> String {
        let text = |at: u64| humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(at)).to_string();
        let (then, now) = (text(at), text(self.now));
        let (day, time) = (&then[..10], &then[11..16]);
        if now.starts_with(day) { time.to_owned() } else { format!("{day} {time}") }
    }

    /// What it waits for, in words.
    pub(super) fn waits_for(self, standing: &Standing, lag: Lag) -> String {
        match standing.phase {
            Phase::RolledBack | Phase::Paused => {
                return format!("{} {} {}", said(standing.phase), self.moment(standing.since), standing.why);
            }
            Phase::Done => return String::new(),
            Phase::Walking => {}
        }
        if self.ceiling < standing.step {
            return format!("waits at the file's weight of {} %", self.ceiling);
        }
        let findings = self.findings(standing, lag);
        let open: Vec<&str> = findings
            .iter()
            .filter(|finding| finding.stands != Stands::Holds)
            .map(|finding| finding.words.as_str())
            .collect();
        match (self.next(standing), open.is_empty()) {
            (Some(next), true) if next > self.ceiling => {
                format!("to {next} %: raise the file's weight of {} %", self.ceiling)
            }
            (Some(next), true) if self.spec.confirm.contains(&next) => {
                format!("to {next} %: waits for `banyan promote {}`", self.route)
            }
            (Some(next), _) => format!("to {next} %: {}", open.join("; ")),
            (None, _) => format!("to be done: {}", open.join("; ")),
        }
    }
}

/// What legacy did at the last step that it had a share of, where it has none now. Some requests of that step are still answered in this one, and
/// are no share.
fn before_of(standing: &Standing) -> Option<&Arm> {
    standing.before.as_ref().filter(|_| standing.counted_at == Weight::FULL)
}

fn said(phase: Phase) -> &'static str {
    match phase {
        Phase::Walking => "walking",
        Phase::Paused => "paused",
        Phase::RolledBack => "rolled back",
        Phase::Done => "done",
    }
}
