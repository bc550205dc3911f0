//! What a flow is doing, as its tasks report it and `status` shows it.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use serde::Serialize;

use crate::{
    config::Side,
    error::Verdict,
    metrics::FlowMetrics,
    names::Flow,
    position::{Generation, Lsn},
    target::postgres::parking::book::Parked,
    verify::Verified,
};

/// What a flow is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Not yet, or not any more, connected to all that it needs.
    Starting,
    /// The tables are being copied.
    Snapshot,
    /// Changes are being applied.
    Applying,
    /// The source is closed for writes: what is not an echo is a violation.
    Watching,
    /// A record before the present one is missing; it will be sent again.
    Gap,
    /// A table's columns changed: a person must see to it. All before the change is applied.
    Paused,
    /// Stopped with a reason that no retry mends.
    Stopped,
    /// Stopped until the tables are copied anew.
    NeedsSnapshot,
}

/// What a flow does with changes, by what stands in the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// The source is open for writes.
    Applying,
    /// The source is closed for writes.
    Watching,
}

/// One sync in `status`.
#[derive(Debug, Clone, Serialize)]
pub struct SyncStatus {
    /// Name in the file.
    pub name: String,
    /// The side that the databases say owns it; unknown until one has answered.
    pub owner: Option<Side>,
    /// The ownership's number.
    pub epoch: Option<i64>,
    /// Transactions that are parked, of both flows; nothing while one of them has not looked. Moving the owner takes 0.
    pub parked: Option<u64>,
    /// Legacy to modern, then modern to legacy.
    pub flows: Vec<FlowStatus>,
    /// What the last comparison of both sides has found, table by table; nothing of tables that were never compared.
    pub verified: Vec<Verified>,
}

/// One flow in `status`.
#[derive(Debug, Clone, Serialize)]
pub struct FlowStatus {
    /// Which direction.
    pub flow: Flow,
    /// Unknown before START was applied.
    pub role: Option<Role>,
    /// What it is doing.
    pub state: State,
    /// Which slot since the sync began.
    pub generation: Generation,
    /// The source position up to which the target has applied.
    pub watermark: Option<Lsn>,
    /// Age of what the target shows; unknown is infinite.
    pub lag_seconds: Option<f64>,
    /// Log of the source not yet applied.
    pub lag_bytes: Option<u64>,
    /// Log that the source keeps for the slot.
    pub retained_wal_bytes: Option<u64>,
    /// Changes found while the source was closed for writes.
    pub violations: u64,
    /// Transactions that the target refused and that wait for a person, with those that follow one; unknown while another process applies.
    pub parked: Option<u64>,
    /// Since when the oldest of them is parked: seconds since 1970.
    pub parked_since_unix: Option<u64>,
    /// Tables of the source whose rows may have changed without an event: it is not known whether both sides are equal before they are
    /// verified.
    pub needs_verify: Vec<String>,
    /// Tables that are being copied; none where another process reads the source.
    pub copies: Vec<CopyProgress>,
    /// What it waits for at this moment.
    pub waiting_for: Option<String>,
    /// Why it stopped, or why its last attempt ended.
    pub last_error: Option<String>,
}

/// How far the copy of a table is.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CopyProgress {
    /// `schema.table` of the source.
    pub table: String,
    /// Rows that were read and sent.
    pub rows: u64,
    /// Of the rows as they were read.
    pub bytes: u64,
    /// All rows, as the source's statistics guess.
    pub rows_total: u64,
    /// At the pace since this process went on with it; unknown before its first rows.
    pub eta_seconds: Option<f64>,
}

/// A task's own part of the state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Starting,
    Snapshot,
    Running,
    Gap,
    Paused,
    /// Another process does it.
    Away,
    Ended(Verdict),
}

/// Shared by the tasks of one flow.
#[derive(Debug)]
pub(crate) struct Board {
    flow: Flow,
    metrics: FlowMetrics,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    capture: Part,
    /// One, or with `order: key` one a lane.
    lanes: Vec<Lane>,
    lag: (Option<f64>, Option<u64>),
    retained: Option<u64>,
    /// Why the source keeps no log for the flow any more, in the words of an error.
    given_up: Option<String>,
    violations: u64,
    parked: Option<Parked>,
    needs_verify: Vec<String>,
    copies: Vec<CopyProgress>,
    waiting_for: Option<String>,
    capture_error: Option<String>,
    /// Why this process gets no lanes.
    seats_error: Option<String>,
}

/// What one applier says.
#[derive(Debug, Clone)]
struct Lane {
    part: Part,
    role: Option<Role>,
    epoch: Option<i64>,
    generation: Generation,
    /// Up to where, and the source's time of it; unknown until the tables are complete.
    applied: Option<(Lsn, SystemTime)>,
    error: Option<String>,
}

/// The tasks of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Task {
    Capture,
    /// Of this lane.
    Apply(u32),
    /// Membership in the group that gives lanes to processes.
    Seats,
}

// === impl State ===

impl State {
    /// All, in the order of the documentation.
    pub const ALL: [Self; 8] = [
        Self::Starting,
        Self::Snapshot,
        Self::Applying,
        Self::Watching,
        Self::Gap,
        Self::Paused,
        Self::Stopped,
        Self::NeedsSnapshot,
    ];

    /// As metrics write it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Snapshot => "snapshot",
            Self::Applying => "applying",
            Self::Watching => "watching",
            Self::Gap => "gap",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
            Self::NeedsSnapshot => "needs_snapshot",
        }
    }
}

// === impl Role ===

impl Role {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Applying => "applying",
            Self::Watching => "watching",
        }
    }
}

// === impl Task ===

impl Task {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Capture => "capture",
            Self::Apply(_) => "apply",
            Self::Seats => "lanes",
        }
    }
}

// === impl Board ===

impl Board {
    pub(crate) fn new(flow: Flow, metrics: FlowMetrics, lanes: Option<u32>) -> Self {
        metrics.state(State::Starting);
        let inner = Inner {
            capture: Part::Starting,
            lanes: (0..lanes.unwrap_or(1)).map(|_| Lane::starting()).collect(),
            lag: (None, None),
            retained: None,
            given_up: None,
            violations: 0,
            parked: None,
            needs_verify: Vec::new(),
            copies: Vec::new(),
            waiting_for: None,
            capture_error: None,
            seats_error: None,
        };
        Self { flow, metrics, inner: Mutex::new(inner) }
    }

    pub(crate) fn metrics(&self) -> &FlowMetrics {
        &self.metrics
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut Inner)) {
        let mut inner = self.lock();
        let before = inner.state();
        change(&mut inner);
        let after = inner.state();
        drop(inner);
        if before != after {
            self.metrics.state(after);
            tracing::info!(
                flow = self.flow.as_str(),
                from = before.as_str(),
                to = after.as_str(),
                "the flow's state changed"
            );
        }
    }

    pub(crate) fn capture_snapshot(&self) {
        self.change(|inner| inner.capture = Part::Snapshot);
    }

    pub(crate) fn capture_running(&self) {
        self.change(|inner| {
            inner.capture = Part::Running;
            inner.capture_error = None;
        });
    }

    /// The applier is at work; `snapshot` while the tables are being copied.
    pub(crate) fn apply_running(&self, lane: u32, snapshot: bool) {
        self.change_lane(lane, |lane| {
            lane.part = if snapshot { Part::Snapshot } else { Part::Running };
            lane.error = None;
        });
    }

    pub(crate) fn apply_gap(&self, lane: u32) {
        self.change_lane(lane, |lane| lane.part = Part::Gap);
    }

    /// This process is to apply the lane.
    pub(crate) fn seated(&self, lane: u32) {
        self.change(|inner| {
            inner.seats_error = None;
            if let Some(lane) = usize::try_from(lane).ok().and_then(|lane| inner.lanes.get_mut(lane)) {
                lane.part = Part::Starting;
            }
        });
    }

    /// Nobody of this process applies the lane.
    pub(crate) fn away(&self, lane: u32) {
        self.change_lane(lane, |lane| {
            lane.part = Part::Away;
            lane.error = None;
        });
    }

    fn change_lane(&self, lane: u32, change: impl FnOnce(&mut Lane)) {
        self.change(|inner| {
            if let Some(lane) = usize::try_from(lane).ok().and_then(|lane| inner.lanes.get_mut(lane)) {
                change(lane);
            }
        });
    }

    pub(crate) fn restarting(&self, task: Task, error: &str) {
        self.stands_still(task);
        self.change(|inner| inner.set(task, Part::Starting, error));
    }

    pub(crate) fn ended(&self, task: Task, verdict: Verdict, error: &str) {
        self.stands_still(task);
        self.change(|inner| inner.set(task, Part::Ended(verdict), error));
    }

    /// Capture waits for a person.
    pub(crate) fn paused(&self, why: &str) {
        self.stands_still(Task::Capture);
        self.change(|inner| inner.set(Task::Capture, Part::Paused, why));
    }

    fn stands_still(&self, task: Task) {
        if task == Task::Capture {
            self.copying(&[]);
        }
    }

    pub(crate) fn waiting(&self, what: Option<String>) {
        self.lock().waiting_for = what;
    }

    /// What the target says; `applied` is nothing while the tables are not complete.
    pub(crate) fn applied(
        &self,
        lane: u32,
        role: Option<Role>,
        epoch: i64,
        generation: Generation,
        applied: Option<(Lsn, SystemTime)>,
    ) {
        self.change_lane(lane, |lane| {
            lane.role = role;
            lane.epoch = role.map(|_| epoch);
            lane.generation = generation;
            lane.applied = applied;
        });
    }

    pub(crate) fn violated(&self, more: u64) {
        self.lock().violations += more;
    }

    pub(crate) fn violations_so_far(&self, all: u64) {
        self.lock().violations = all;
    }

    /// How far the copies are. Where none is under way the metrics have none.
    pub(crate) fn copying(&self, copies: &[CopyProgress]) {
        let mut inner = self.lock();
        let before = std::mem::replace(&mut inner.copies, copies.to_vec());
        drop(inner);
        self.metrics.copies(&before, copies);
    }

    pub(crate) fn needs_verify(&self, tables: Vec<String>) {
        self.metrics.needs_verify(tables.len());
        self.lock().needs_verify = tables;
    }

    pub(crate) fn parked(&self, parked: Parked) {
        self.lock().parked = Some(parked);
        self.metrics.parked(parked.count);
    }

    /// The ownership's number, as the stream last said.
    pub(crate) fn epoch(&self) -> Option<i64> {
        self.lock().lanes.iter().filter_map(|lane| lane.epoch).max()
    }

    pub(crate) fn watermark(&self) -> Option<(Lsn, SystemTime)> {
        self.lock().applied()
    }

    pub(crate) fn measured(&self, lag: Option<Duration>, bytes: Option<u64>, retained: Option<u64>) {
        let seconds = lag.map(|lag| lag.as_secs_f64());
        let mut inner = self.lock();
        inner.lag = (seconds, bytes);
        inner.retained = retained;
        drop(inner);
        self.metrics.lag(seconds, bytes);
        self.metrics.retained(retained);
    }

    /// What the source says of the flow's slot. Its tasks may not get to know: they wait for Kafka, or have ended.
    pub(crate) fn given_up(&self, why: Option<String>) {
        self.change(|inner| inner.given_up = why);
    }

    pub(crate) fn status(&self) -> FlowStatus {
        let inner = self.lock();
        FlowStatus {
            flow: self.flow,
            role: inner.role(),
            state: inner.state(),
            generation: inner.lanes.iter().map(|lane| lane.generation).min().unwrap_or_default(),
            watermark: inner.applied().map(|(applied, _)| applied),
            // What was measured before the tables began to be filled says nothing of them.
            lag_seconds: inner.applied().and(inner.lag.0),
            lag_bytes: inner.applied().and(inner.lag.1),
            retained_wal_bytes: inner.retained,
            violations: inner.violations,
            parked: inner.parked.map(|parked| parked.count),
            parked_since_unix: inner.parked.and_then(|parked| parked.since).map(unix),
            needs_verify: inner.needs_verify.clone(),
            copies: inner.copies.clone(),
            waiting_for: inner.waiting_for.clone(),
            last_error: inner.error().cloned(),
        }
    }
}

// === impl Lane ===

impl Lane {
    fn starting() -> Self {
        let generation = Generation::NONE;
        Self { part: Part::Starting, role: None, epoch: None, generation, applied: None, error: None }
    }
}

// === impl Inner ===

impl Inner {
    fn set(&mut self, task: Task, part: Part, error: &str) {
        match task {
            Task::Capture => {
                self.capture = part;
                self.waiting_for = None;
                self.capture_error = Some(error.to_owned());
            }
            Task::Seats => {
                self.seats_error = Some(error.to_owned());
                if let Part::Ended(_) = part {
                    self.lanes.iter_mut().for_each(|lane| lane.part = part);
                }
            }
            Task::Apply(lane) => {
                if let Some(lane) = usize::try_from(lane).ok().and_then(|lane| self.lanes.get_mut(lane)) {
                    (lane.part, lane.error) = (part, Some(error.to_owned()));
                }
            }
        }
    }

    fn error(&self) -> Option<&String> {
        let lanes = self.lanes.iter().filter_map(|lane| lane.error.as_ref());
        self.given_up.iter().chain(&self.capture_error).chain(lanes).chain(&self.seats_error).next()
    }

    /// The same of all lanes, or unknown.
    fn role(&self) -> Option<Role> {
        let role = self.lanes.first()?.role;
        role.filter(|role| self.lanes.iter().all(|lane| lane.role == Some(*role)))
    }

    /// As far as every lane is.
    fn applied(&self) -> Option<(Lsn, SystemTime)> {
        let all: Option<Vec<_>> = self.lanes.iter().map(|lane| lane.applied).collect();
        let all = all?;
        Some((all.iter().map(|(lsn, _)| *lsn).min()?, all.iter().map(|(_, time)| *time).min()?))
    }

    /// The worst of all tasks.
    fn state(&self) -> State {
        let lanes = || self.lanes.iter().map(|lane| lane.part);
        let parts: Vec<Part> = std::iter::once(self.capture).chain(lanes()).collect();
        let any = |part| parts.contains(&part);
        if self.given_up.is_some() || any(Part::Ended(Verdict::NeedsSnapshot)) {
            State::NeedsSnapshot
        } else if parts.iter().any(|part| matches!(part, Part::Ended(_))) {
            State::Stopped
        } else if any(Part::Paused) {
            State::Paused
        } else if lanes().any(|part| part == Part::Gap) {
            State::Gap
        } else if any(Part::Starting) {
            State::Starting
        } else if any(Part::Snapshot) {
            State::Snapshot
        } else {
            match self.role() {
                Some(Role::Applying) => State::Applying,
                Some(Role::Watching) => State::Watching,
                None => State::Starting,
            }
        }
    }
}

fn unix(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use prometheus::Registry;

    use super::*;
    use crate::{metrics::Metrics, names::FlowNames};

    #[test]
    fn the_worse_task_decides() {
        let metrics = Metrics::register(&Registry::new()).unwrap();
        let names = FlowNames::new("banyan", "s", Flow::LegacyToModern);
        let board = Board::new(names.flow, metrics.flow(&names), None);
        let state = || board.status().state;
        assert_eq!(state(), State::Starting);
        board.capture_running();
        board.apply_running(0, true);
        assert_eq!(state(), State::Snapshot);
        board.apply_running(0, false);
        board.applied(0, Some(Role::Watching), 1, Generation::new(1), Some((Lsn::new(1), SystemTime::now())));
        assert_eq!(state(), State::Watching);
        board.apply_gap(0);
        assert_eq!(state(), State::Gap);
        board.ended(Task::Capture, Verdict::Stop, "why");
        assert_eq!((state(), board.status().last_error.as_deref()), (State::Stopped, Some("why")));
        board.given_up(Some("the slot".into()));
        assert_eq!((state(), board.status().last_error.as_deref()), (State::NeedsSnapshot, Some("the slot")));
        board.given_up(None);
        assert_eq!(state(), State::Stopped);
        board.ended(Task::Apply(0), Verdict::NeedsSnapshot, "hole");
        assert_eq!(state(), State::NeedsSnapshot);
    }
}
