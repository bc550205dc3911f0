//! What an upstream is spared and how it is watched: limits, health checks, ejection, circuit, retries.

use std::{borrow::Cow, fmt, time::Duration};

use garde::Validate;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{
    Deserialize, Deserializer,
    de::{self, MapAccess, Visitor, value::MapAccessDeserializer},
};

use super::Percent;

/// Asks every endpoint for a path, again and again.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Health {
    /// What is asked for, by GET.
    #[garde(pattern(r"^/"))]
    pub path: String,
    /// From one check to the next. Default 5s.
    #[serde(with = "humantime_serde", default = "five_seconds")]
    #[garde(skip)]
    #[schemars(with = "String")]
    pub every: Duration,
    /// How long an answer may take. Default 1s.
    #[serde(with = "humantime_serde", default = "one_second")]
    #[garde(skip)]
    #[schemars(with = "String")]
    pub timeout: Duration,
    /// Passed checks in a row until it gets requests again. Default 2.
    #[serde(default = "two")]
    #[garde(range(min = 1, max = 100))]
    pub healthy_after: u32,
    /// Failed checks in a row until it gets none. Default 3.
    #[serde(default = "three")]
    #[garde(range(min = 1, max = 100))]
    pub unhealthy_after: u32,
    /// Statuses that pass. Default: 200 to 399.
    #[serde(default)]
    #[garde(inner(range(min = 100, max = 599)))]
    pub status: Vec<u16>,
}

/// Leaves an endpoint out after errors in a row: 5xx, resets, answers that do not come, refused connections.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Ejection {
    /// Errors in a row, over all workers. Default 5.
    #[garde(range(min = 1, max = 10_000))]
    pub after: u32,
    /// How long the first time; each time in a row it is as much longer, up to ten times. Default 30s.
    #[serde(rename = "for", with = "humantime_serde")]
    #[garde(skip)]
    #[schemars(with = "String")]
    pub time: Duration,
    /// Never more than this share of the endpoints at once. Default 50.
    #[garde(skip)]
    pub at_most_percent: Percent,
}

/// Leaves a modern upstream alone when too much of what it is asked fails. What the route's `fallback` lets cross goes to legacy at once, the
/// rest is answered 503.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Circuit {
    /// Share of the window's requests that failed: 5xx, resets, no answer or no connection in time. Default 50.
    #[garde(skip)]
    pub failures: Percent,
    /// Over how long it is measured. Default 10s.
    #[serde(with = "humantime_serde")]
    #[garde(skip)]
    #[schemars(with = "String")]
    pub window: Duration,
    /// With fewer requests in the window nothing is decided. Default 20.
    #[garde(range(min = 1))]
    pub min_requests: u64,
    /// An answer whose head takes longer counts as failed. Default: none does.
    #[serde(with = "humantime_serde")]
    #[garde(skip)]
    #[schemars(with = "Option<String>")]
    pub slower_than: Option<Duration>,
    /// How long it stays open the first time; each time in a row it is as much longer, up to six times. Default 5s.
    #[serde(with = "humantime_serde")]
    #[garde(skip)]
    #[schemars(with = "String")]
    pub open_for: Duration,
    /// Requests that try, once that time is over; when fewer of them fail than `failures` says, it closes. Default 5.
    #[garde(range(min = 1, max = 1_000))]
    pub probes: u64,
}

/// What an upstream is spared, over all workers. Left out, there is no limit.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct UpstreamLimits {
    /// Open connections, idle ones and tunnels among them.
    #[garde(inner(range(min = 1)))]
    pub connections: Option<usize>,
    /// Requests under way, from the head to the end of the answer. A tunnel is none.
    #[garde(inner(range(min = 1)))]
    pub in_flight: Option<usize>,
    /// Requests that wait for a place; one more is answered 503 at once. Default 100.
    #[garde(skip)]
    pub queue: usize,
    /// How long one may wait; over it: 503. Default 1s.
    #[serde(with = "humantime_serde")]
    #[garde(skip)]
    #[schemars(with = "String")]
    pub queue_time: Duration,
    /// Finds out by itself how many requests the upstream can take at once, from how long it takes; `in_flight` then is the most.
    #[garde(dive)]
    pub adaptive: Option<AdaptiveForm>,
}

/// How the number of requests at once is found: a gradient on latency, after Netflix' concurrency-limits and Envoy's adaptive concurrency.
#[derive(Debug, Clone, PartialEq, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Adaptive {
    /// Where it begins. Default 20.
    #[garde(range(min = 1))]
    pub start: usize,
    /// Never less. Default 2.
    #[garde(range(min = 1))]
    pub min: usize,
    /// Never more. Default 1000.
    #[garde(range(min = 1))]
    pub max: usize,
    /// Answers may take so many times as long as at little load before the limit falls. Default 1.1.
    #[garde(range(min = 1.0, max = 10.0))]
    pub tolerance: f64,
}

/// `true`, or a map.
#[derive(Debug, Clone, PartialEq)]
pub struct AdaptiveForm(pub Option<Adaptive>);

/// How much may be sent to this upstream again after an unknown outcome.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Retries {
    /// Share of the requests. Default 20.
    #[garde(skip)]
    pub percent: Percent,
    /// And so many a second besides. Default 10.
    #[garde(range(max = 1_000_000))]
    pub at_least: usize,
}

// === impl Ejection ===

impl Default for Ejection {
    fn default() -> Self {
        Self { after: 5, time: Duration::from_secs(30), at_most_percent: Percent::hundredths(5_000) }
    }
}

// === impl Circuit ===

impl Default for Circuit {
    fn default() -> Self {
        Self {
            failures: Percent::hundredths(5_000),
            window: Duration::from_secs(10),
            min_requests: 20,
            slower_than: None,
            open_for: five_seconds(),
            probes: 5,
        }
    }
}

// === impl UpstreamLimits ===

impl UpstreamLimits {
    /// The rules of an adaptive limit, when there is one.
    #[must_use]
    pub fn adaptive(&self) -> Option<&Adaptive> {
        self.adaptive.as_ref().and_then(|form| form.0.as_ref())
    }
}

impl Default for UpstreamLimits {
    fn default() -> Self {
        Self { connections: None, in_flight: None, queue: 100, queue_time: one_second(), adaptive: None }
    }
}

// === impl Adaptive ===

impl Eq for Adaptive {}

impl Default for Adaptive {
    fn default() -> Self {
        Self { start: 20, min: 2, max: 1_000, tolerance: 1.1 }
    }
}

// === impl AdaptiveForm ===

impl Eq for AdaptiveForm {}

impl<'de> Deserialize<'de> for AdaptiveForm {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Form;
        impl<'de> Visitor<'de> for Form {
            type Value = AdaptiveForm;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("`true`, `false`, or a map")
            }

            fn visit_bool<E: de::Error>(self, is_on: bool) -> Result<AdaptiveForm, E> {
                Ok(AdaptiveForm(is_on.then(Adaptive::default)))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<AdaptiveForm, A::Error> {
                Adaptive::deserialize(MapAccessDeserializer::new(map)).map(|adaptive| AdaptiveForm(Some(adaptive)))
            }
        }
        deserializer.deserialize_any(Form)
    }
}

impl JsonSchema for AdaptiveForm {
    fn schema_name() -> Cow<'static, str> {
        "AdaptiveForm".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let long = generator.subschema_for::<Adaptive>();
        json_schema!({ "anyOf": [{ "type": "boolean" }, long] })
    }
}

impl Validate for AdaptiveForm {
    type Context = ();

    fn validate_into(&self, context: &(), parent: &mut dyn FnMut() -> garde::Path, report: &mut garde::Report) {
        if let Some(adaptive) = &self.0 {
            adaptive.validate_into(context, parent, report);
        }
    }
}

// === impl Retries ===

impl Default for Retries {
    fn default() -> Self {
        Self { percent: Percent::hundredths(2_000), at_least: 10 }
    }
}

fn one_second() -> Duration {
    Duration::from_secs(1)
}

fn five_seconds() -> Duration {
    Duration::from_secs(5)
}

fn two() -> u32 {
    2
}

fn three() -> u32 {
    3
}
