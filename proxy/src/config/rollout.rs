//! `rollout:` of a route — the walk of its weight through steps, each behind gates.

use std::time::Duration;

use garde::Validate;
use schemars::JsonSchema;
use serde::Deserialize;

use super::{Percent, Period, Weight};

/// Walks the weight up by itself, step by step; a gate that fails takes it back. The route's `weight` is its ceiling.
#[derive(Debug, Clone, PartialEq, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Rollout {
    /// Weights to stand at, one after the other, each above the one before.
    #[garde(length(min = 1, max = 100))]
    pub steps: Vec<Weight>,
    /// How long a step takes at least. Default 15m.
    #[serde(with = "humantime_serde", default = "quarter_hour")]
    #[garde(skip)]
    #[schemars(with = "String")]
    pub every: Duration,
    /// What must hold at every step.
    #[serde(default)]
    #[garde(skip)]
    pub gates: Gates,
    /// A step ends after so many requests that the weight sent to modern, and to legacy as well where a gate holds them against each other; a
    /// gate on mismatches wants as many comparisons. Default 1000.
    #[serde(default = "thousand")]
    #[garde(range(min = 1))]
    pub min_requests: u64,
    /// How long 100 % is watched before it counts as done. Default 1h.
    #[serde(with = "humantime_serde", default = "hour")]
    #[garde(skip)]
    #[schemars(with = "String")]
    pub bake: Duration,
    /// Percent of the users who stay on legacy at the step of 100 until it is done, to be compared with. Default 0.
    #[serde(default)]
    #[garde(skip)]
    pub holdback: Percent,
    /// What a failed gate does. Default `rollback`.
    #[serde(default)]
    #[garde(skip)]
    pub on_fail: OnFail,
    /// Steps that are not taken before `banyan promote`. Default: none.
    #[serde(default)]
    #[garde(skip)]
    pub confirm: Vec<Weight>,
    /// Another number begins the rollout anew, also after a rollback: so that Git can do it. Default 1.
    #[serde(default = "one")]
    #[garde(skip)]
    pub generation: u32,
    /// How often the gates are looked at. Default 10s.
    #[serde(with = "humantime_serde", default = "ten_seconds")]
    #[garde(skip)]
    #[schemars(with = "String")]
    pub interval: Duration,
}

/// What must hold. Each is judged by requests that the weight decided over: not by pins, testers, shadows, or writes of a synced route.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Gates {
    /// Requests that modern answered: with anything but a 5xx, in time, without a fault. Default `{below_legacy: 0.5}`.
    pub success_rate: Option<SuccessRate>,
    /// How long 99 of a hundred requests waited at most for the head of their answer.
    pub latency_p99: Option<LatencyP99>,
    /// Comparisons that differ in more than noise. Needs `compare`.
    pub mismatch_rate: Option<MismatchRate>,
    /// How far the other database is behind. Needs `sync`.
    pub sync_lag: Option<SyncLag>,
}

/// One of both, or both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SuccessRate {
    /// Percent that must succeed.
    pub min: Option<Percent>,
    /// Percentage points that modern may be below legacy in the same time.
    pub below_legacy: Option<Percent>,
}

/// One of both, or both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LatencyP99 {
    /// The longest that it may be.
    #[schemars(with = "Option<String>")]
    pub max: Option<Period>,
    /// How much longer than legacy's in the same time it may be.
    #[schemars(with = "Option<String>")]
    pub above_legacy: Option<Period>,
}

/// A limit for comparisons.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MismatchRate {
    /// Percent of the comparisons that may differ.
    pub max: Percent,
}

/// A limit for the lag.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SyncLag {
    /// The farthest that it may be behind.
    #[schemars(with = "String")]
    pub max: Period,
}

/// What a failed gate does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnFail {
    /// The weight goes to 0 and stays there, until `banyan resume` or another `generation`.
    #[default]
    Rollback,
    /// The weight stays where it is, until `banyan resume` or `banyan rollback`.
    Pause,
}

// === impl Gates ===

impl Default for Gates {
    fn default() -> Self {
        let half_a_point = SuccessRate { min: None, below_legacy: Some(Percent::hundredths(50)) };
        Self { success_rate: Some(half_a_point), latency_p99: None, mismatch_rate: None, sync_lag: None }
    }
}

fn quarter_hour() -> Duration {
    Duration::from_secs(15 * 60)
}

fn hour() -> Duration {
    Duration::from_secs(60 * 60)
}

fn ten_seconds() -> Duration {
    Duration::from_secs(10)
}

fn thousand() -> u64 {
    1000
}

fn one() -> u32 {
    1
}
