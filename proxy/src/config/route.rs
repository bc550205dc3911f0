//! `routes:` — a match, its legacy upstream, its modern upstream, and the weight between them.

use std::{collections::BTreeMap, time::Duration};

use garde::Validate;
use schemars::JsonSchema;
use serde::Deserialize;

use super::{
    Compare, Cookies, Force, HeaderName, Match, OneOrMany, Pins, RateLimit, Reads, Redirect, Respond, Rollout, Shadow,
    Short, ShortOr, Weight,
};

/// One route.
#[derive(Debug, Clone, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// Unique in the file; metrics and errors carry it.
    #[garde(length(min = 1, max = 64), pattern(r"^[a-z0-9][a-z0-9_.-]*$"))]
    pub name: String,
    /// What it answers; a list is "any of".
    #[serde(rename = "match")]
    #[garde(dive)]
    pub matches: OneOrMany<Match>,
    /// The monolith's side. Left out: retired, modern answers everything.
    #[serde(default)]
    #[garde(dive)]
    pub legacy: Option<ShortOr<Side>>,
    /// The new side. Left out: not begun, legacy answers everything.
    #[serde(default)]
    #[garde(dive)]
    pub modern: Option<ShortOr<Side>>,
    /// Sends the client elsewhere, instead of `legacy` and `modern`.
    #[serde(default)]
    #[garde(skip)]
    pub redirect: Option<Redirect>,
    /// Answers always the same, instead of `legacy` and `modern`.
    #[serde(default)]
    #[garde(skip)]
    pub respond: Option<Respond>,
    /// Percent of its users (keys) whose reads modern answers. Default 0; without `legacy` it is 100.
    #[serde(default)]
    #[garde(skip)]
    #[schemars(with = "Weight")]
    pub weight: Option<Weight>,
    /// Routes of one group move their users together. Default: the sync's name, else the route's.
    #[serde(default)]
    #[garde(inner(length(min = 1, max = 64)))]
    pub group: Option<String>,
    /// What tells one user from another; the first that is present wins, behind them Banyan's own cookie.
    #[serde(default)]
    #[garde(skip)]
    pub sticky: Vec<Sticky>,
    /// What a request without any key does between weight 0 and 100. Default: legacy.
    #[serde(default)]
    #[garde(skip)]
    pub keyless: Keyless,
    /// Users who are on one side whatever the weight; beats it. Default: nobody.
    #[serde(default)]
    #[garde(dive)]
    pub pin: Option<Pins>,
    /// Testers who name their side themselves; beats pins. Default: nobody.
    #[serde(default)]
    #[garde(dive)]
    pub force: Option<Force>,
    /// How many requests one key may make; over it 429. Default: any number.
    #[serde(default)]
    #[garde(dive)]
    pub rate_limit: Option<RateLimit>,
    /// The sync whose owner answers this route's writes.
    #[serde(default)]
    #[garde(skip)]
    pub sync: Option<String>,
    /// How long until the head of the answer; wins over the upstream's.
    #[serde(with = "humantime_serde", default)]
    #[garde(skip)]
    #[schemars(with = "Option<String>")]
    pub timeout: Option<Duration>,
    /// All of a request, from its head to the end of its answer: waiting, trying again and the other side included. Default: none.
    #[serde(with = "humantime_serde", default)]
    #[garde(skip)]
    #[schemars(with = "Option<String>")]
    pub deadline: Option<Duration>,
    /// What may be tried on the other side. Default: `reads` on synced routes, else `unsent` below weight 100 and `none` at 100.
    #[serde(default)]
    #[garde(skip)]
    pub fallback: Option<Fallback>,
    /// Statuses, 400 to 599, of which a read is asked of the other side too: assets, half-built services. If that fails, or has such a status as
    /// well, the first answer stands. Default: none.
    #[serde(default)]
    #[garde(inner(range(min = 400, max = 599)))]
    pub fallback_on: Vec<u16>,
    /// Adds `x-banyan-side` to every answer. Default false.
    #[serde(default)]
    #[garde(skip)]
    pub expose: bool,
    /// Cookies of its sides that would clash in the browser. Default: all names stay as they are.
    #[serde(default)]
    #[garde(skip)]
    pub cookies: Option<Cookies>,
    /// Which requests are reads. Default: GET, HEAD and OPTIONS.
    #[serde(default)]
    #[garde(skip)]
    pub reads: Option<Reads>,
    /// Sends copies of reads to the side that does not answer.
    #[serde(default)]
    #[garde(dive)]
    pub shadow: Option<Shadow>,
    /// Compares the shadow's answer with what the client got.
    #[serde(default)]
    #[garde(dive)]
    pub compare: Option<Compare>,
    /// Walks the weight up by itself, behind gates; `weight` is its ceiling then.
    #[serde(default)]
    #[garde(dive)]
    pub rollout: Option<Rollout>,
}

/// One side of a route.
#[derive(Debug, Clone, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Side {
    /// An upstream's name.
    #[garde(skip)]
    pub upstream: String,
    /// What its paths look like there. Left out: forwarded as they came.
    #[serde(default)]
    #[garde(dive)]
    pub rewrite: Option<Rewrite>,
    /// The `Host` that it is asked as, `name` or `name:port`. Left out: the client's.
    #[serde(default)]
    #[garde(skip)]
    pub host: Option<String>,
    /// Headers that are changed on the way there and on the way back.
    #[serde(default)]
    #[garde(skip)]
    pub headers: Headers,
}

/// Changes of one side's headers.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Headers {
    /// Of its requests.
    pub request: HeaderChanges,
    /// Of its answers.
    pub response: HeaderChanges,
}

/// Changes of headers: first what is removed, then what is set, then what is added. Not of those that frame a message, belong to one hop or
/// are Banyan's.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct HeaderChanges {
    /// Takes the place of all lines of the same name.
    pub set: BTreeMap<HeaderName, String>,
    /// One more line.
    pub add: BTreeMap<HeaderName, String>,
    /// All lines of these names.
    pub remove: Vec<HeaderName>,
}

/// How a path is rewritten for one side.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Rewrite {
    /// Stands in place of the prefix that matched.
    #[garde(pattern(r"^/"))]
    pub path_prefix: String,
}

/// Where a user's key is found: `{header: x-user-id}` or `{cookie: banyan_id}`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Sticky {
    /// The raw bytes of this request header.
    Header(HeaderName),
    /// The raw bytes of this cookie.
    Cookie(String),
}

/// What a request without any key does between weight 0 and 100.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Keyless {
    /// Legacy below weight 100, modern at 100.
    #[default]
    Legacy,
    /// The client's address draws the bucket.
    ClientAddress,
}

/// What may be tried on the other side when the chosen one fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Fallback {
    /// Nothing.
    None,
    /// Reads.
    Reads,
    /// Reads, and requests of which no byte was written. Refused on a synced route.
    Unsent,
}

// === impl Side ===

impl Short for Side {
    const EXPECTING: &'static str = "an upstream's name, or a map with `upstream`";

    fn short(text: &str) -> Result<Self, String> {
        Ok(Self { upstream: text.to_owned(), rewrite: None, host: None, headers: Headers::default() })
    }
}
