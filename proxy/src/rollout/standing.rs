//! Where a route's rollout stands: what is kept over restarts, and what was done to it.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::{Arm, Counts, Gate};
use crate::config::Weight;

/// All of one route's rollout that outlives the process.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Standing {
    /// Grows each time that replicas share it: of two that change the same standing, the first one counts.
    pub revision: u64,
    /// The file's number that it began with.
    pub generation: u32,
    /// The step it is at, as the file writes it.
    pub step: Weight,
    /// Whether it walks.
    pub phase: Phase,
    /// Why it does not, or what comes next, in words.
    pub why: String,
    /// Seconds since 1970 when the step or the phase began.
    pub since: u64,
    /// Milliseconds that it walked at this step; time in which no Banyan ran does not count.
    pub ran_millis: u64,
    /// How often the gates were looked at since the step began.
    pub looks: u64,
    /// The weight under which the counts came.
    pub counted_at: Weight,
    /// What was seen since the step began.
    pub counts: Counts,
    /// What legacy did at the last step that it had a share of.
    pub before: Option<Arm>,
    /// That it waits for somebody's word was told.
    pub has_asked: bool,
    /// What happened, the newest last.
    pub history: VecDeque<Event>,
    /// What the last intervals saw, the newest last. Not kept: a restart loses a minute of keenness.
    #[serde(skip)]
    pub(super) recent: VecDeque<Counts>,
}

/// Whether a rollout walks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// It takes the next step when the gates let it.
    Walking,
    /// It stays where it is; gates still roll it back.
    Paused,
    /// Everybody is on legacy, until somebody resumes it or the file has another generation.
    RolledBack,
    /// It has taken its last step.
    Done,
}

/// Something that happened to a rollout: one line of the log, of `banyan history`, and one call of the webhook.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Seconds since 1970.
    pub at: u64,
    /// The route's name.
    pub route: String,
    /// What.
    pub what: What,
    /// Percent that held before.
    pub from: Weight,
    /// Percent that holds from now on.
    pub to: Weight,
    /// `gates`, `file`, `start`, or the name of the token whose holder did it.
    pub by: String,
    /// Why, in words.
    pub why: String,
    /// The gate that failed.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub gate: Option<Gate>,
    /// What the gate saw of modern: a share between 0 and 1, or seconds.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub modern: Option<f64>,
    /// The same of legacy.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub legacy: Option<f64>,
    /// How many requests it saw.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub requests: Option<u64>,
    /// What a replica asked for, by which it knows that it was done.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub id: Option<String>,
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// The first step was taken.
    Begun,
    /// The next step was taken.
    Advanced,
    /// The gates let it go on, but the file wants somebody's word.
    Waits,
    /// The weight went to 0.
    RolledBack,
    /// It stays where it is.
    Paused,
    /// It goes on.
    Resumed,
    /// The last step has passed.
    Done,
}

/// What people do to a rollout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Act {
    /// Take one step now, if the gates let it.
    Promote,
    /// Stay.
    Pause,
    /// Go on; after a rollback from the first step.
    Resume,
    /// Everybody to legacy.
    Rollback,
}

/// How many events are kept a route.
const HISTORY: usize = 100;

// === impl Standing ===

impl Standing {
    /// At a step, with nothing seen.
    pub(super) fn at(step: Weight, generation: u32, now: u64) -> Self {
        Self {
            revision: 0,
            generation,
            step,
            phase: Phase::Walking,
            why: String::new(),
            since: now,
            ran_millis: 0,
            looks: 0,
            counted_at: Weight::ZERO,
            counts: Counts::default(),
            before: None,
            has_asked: false,
            history: VecDeque::new(),
            recent: VecDeque::new(),
        }
    }

    /// What was seen belongs to another step from now on.
    pub(super) fn begin_step(&mut self, step: Weight, now: u64) {
        (self.step, self.since, self.ran_millis) = (step, now, 0);
        self.forget();
    }

    /// What was seen does not count any more.
    pub(super) fn forget(&mut self) {
        (self.looks, self.has_asked) = (0, false);
        self.counts = Counts::default();
        self.recent.clear();
    }

    pub(super) fn happened(&mut self, event: &Event) {
        if self.history.len() == HISTORY {
            self.history.pop_front();
        }
        self.history.push_back(event.clone());
    }
}

// === impl Phase ===

impl Phase {
    /// Every phase, for metrics.
    pub(crate) const ALL: [Self; 4] = [Self::Walking, Self::Paused, Self::RolledBack, Self::Done];

    /// As `status` and metrics write it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Walking => "walking",
            Self::Paused => "paused",
            Self::RolledBack => "rolled_back",
            Self::Done => "done",
        }
    }
}

// === impl What ===

impl What {
    /// In words, as the log writes it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Begun => "begun",
            Self::Advanced => "advanced",
            Self::Waits => "waits",
            Self::RolledBack => "rolled back",
            Self::Paused => "paused",
            Self::Resumed => "resumed",
            Self::Done => "done",
        }
    }
}

// === impl Act ===

impl Act {
    /// As paths and the command line write it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Promote => "promote",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Rollback => "rollback",
        }
    }
}
