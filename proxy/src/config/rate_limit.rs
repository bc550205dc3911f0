//! `rate_limit:` of a route — how many requests one key may make.

use std::time::Duration;

use garde::Validate;
use schemars::JsonSchema;
use serde::Deserialize;

use super::HeaderName;

/// So many requests a key in so much time; over it 429 with `Retry-After`. Counted in this process, over all its workers.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RateLimit {
    /// Requests that a key may make in `every`.
    #[garde(range(min = 1, max = 1_000_000))]
    pub requests: u32,
    /// The time in which it may make them, a day at most. Default 1s.
    #[serde(with = "humantime_serde", default = "one_second")]
    #[garde(skip)]
    #[schemars(with = "String")]
    pub every: Duration,
    /// Requests that may come at once after a pause. Default: as many as `requests`.
    #[serde(default)]
    #[garde(inner(range(min = 1, max = 1_000_000)))]
    pub burst: Option<u32>,
    /// What is counted by; the first that is present, and behind them the client's address. A header that a client chooses freely limits nobody.
    #[serde(default)]
    #[garde(skip)]
    pub key: Vec<RateKey>,
}

/// What tells one client from another: `{header: x-api-key}`, `{cookie: shop_id}` or `client_address`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RateKey {
    /// The raw bytes of this request header.
    Header(HeaderName),
    /// The raw bytes of this cookie.
    Cookie(String),
    /// The address behind `trusted_proxies`; of IPv6 the first eight bytes, since one client draws new addresses from one /64.
    ClientAddress,
}

fn one_second() -> Duration {
    Duration::from_secs(1)
}
