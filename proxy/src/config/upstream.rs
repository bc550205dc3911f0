//! `upstreams:` — a named set of endpoints that answers requests.

use std::time::Duration;

use garde::Validate;
use schemars::JsonSchema;
use serde::Deserialize;

use super::{Circuit, Ejection, Health, Retries, Short, ShortOr, UpstreamLimits, UpstreamTls};

/// One upstream.
#[derive(Debug, Clone, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Upstream {
    /// Where it listens; each request goes to the less busy one of two that are drawn by their weights.
    #[garde(length(min = 1), dive)]
    pub endpoints: Vec<ShortOr<Endpoint>>,
    /// How long a connect may take, the TLS handshake included. Default 1s.
    #[serde(with = "humantime_serde", default = "one_second")]
    #[garde(skip)]
    #[schemars(with = "String")]
    pub connect_timeout: Duration,
    /// How long it may take until the head of its answer. Default 30s; over it: 504. A route's `timeout` wins.
    #[serde(with = "humantime_serde", default = "thirty_seconds")]
    #[garde(skip)]
    #[schemars(with = "String")]
    pub timeout: Duration,
    /// How long an idle connection is kept for the next request; keep it below the backend's own. Default 4s (Node's is 5s).
    #[serde(with = "humantime_serde", default = "four_seconds")]
    #[garde(skip)]
    #[schemars(with = "String")]
    pub idle_time: Duration,
    /// How long it may send nothing in the middle of an answer. Default 5m; over it the answer is broken off.
    #[serde(with = "humantime_serde", default = "five_minutes")]
    #[garde(skip)]
    #[schemars(with = "String")]
    pub body_idle: Duration,
    /// How often the names of endpoints are looked up again, in the background. Default 30s; addresses that vanished are drained.
    #[serde(with = "humantime_serde", default = "thirty_seconds")]
    #[garde(skip)]
    #[schemars(with = "String")]
    pub resolve_every: Duration,
    /// How long an endpoint that came, or came back, has less than its share; it begins at a tenth. Default: it has all of it at once.
    #[serde(with = "humantime_serde", default)]
    #[garde(skip)]
    #[schemars(with = "Option<String>")]
    pub slow_start: Option<Duration>,
    /// What it is spared, over all workers.
    #[serde(default)]
    #[garde(dive)]
    pub limits: Option<UpstreamLimits>,
    /// Asks every endpoint for a path, again and again; one that fails gets no requests. When all fail, all are used.
    #[serde(default)]
    #[garde(dive)]
    pub health: Option<Health>,
    /// Leaves an endpoint out after errors in a row.
    #[serde(default)]
    #[garde(dive)]
    pub ejection: Option<Ejection>,
    /// Leaves the upstream alone when too much fails, where it is some route's `modern`.
    #[serde(default)]
    #[garde(dive)]
    pub circuit: Option<Circuit>,
    /// How much may be sent to it again after an unknown outcome. Default: 20 % of the requests and 10 a second.
    #[serde(default)]
    #[garde(dive)]
    pub retries: Option<Retries>,
    /// `honoured`: a request with an `Idempotency-Key` may be sent again to this upstream, whatever its method.
    #[serde(default)]
    #[garde(skip)]
    pub idempotency_key: IdempotencyKey,
    /// What its endpoints speak. `http1` (default) or `http2`; `auto`: over TLS, what they choose.
    #[serde(default)]
    #[garde(skip)]
    pub protocol: Protocol,
    /// Whom TLS trusts and who Banyan says it is; left out, the endpoints' scheme still decides whether there is TLS.
    #[serde(default)]
    #[garde(dive)]
    pub tls: Option<UpstreamTls>,
}

/// One endpoint: `http://host:port`, `https://host:port`, or `{url: …}`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Endpoint {
    /// `http://host:port`, or `https://host:port` for TLS; nothing behind the port. A name is looked up in the background; each of its addresses
    /// is an endpoint.
    #[garde(custom(origin))]
    pub url: String,
    /// Its share of the requests, against the weights of the others. Default 1, at most 100.
    #[serde(default = "one")]
    #[garde(range(min = 1, max = 100))]
    pub weight: u32,
}

/// What an upstream does with an `Idempotency-Key`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum IdempotencyKey {
    /// Nothing is known of it: a write whose outcome is unknown is not sent again.
    #[default]
    Ignored,
    /// The upstream answers a repeated key with the first answer.
    Honoured,
}

/// What is spoken with an upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// HTTP/1.1: one request at a time on a connection.
    #[default]
    Http1,
    /// HTTP/2, in the clear too (h2c, by prior knowledge): requests share connections.
    Http2,
    /// Over TLS what the upstream chooses (ALPN); in the clear HTTP/1.1.
    Auto,
}

// === impl Upstream ===

impl Upstream {
    /// Its endpoints are spoken to over TLS. Only meaningful once compiled: then either all of them are, or none.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        self.endpoints.iter().any(|endpoint| endpoint.0.is_tls())
    }
}

// === impl Endpoint ===

impl Endpoint {
    /// Its address begins with `https://`.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        self.url.starts_with("https://")
    }

    /// `host:port`, with the scheme's port where none is given. Only meaningful once validated.
    #[must_use]
    pub fn authority(&self) -> String {
        let (scheme, rest) = self.url.split_once("://").unwrap_or(("http", &self.url));
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let port = if scheme == "https" { 443 } else { 80 };
        match rest.parse::<http::uri::Authority>() {
            Ok(authority) if authority.port().is_none() => format!("{authority}:{port}"),
            _ => rest.to_owned(),
        }
    }
}

impl Short for Endpoint {
    const EXPECTING: &'static str = "an address such as `http://127.0.0.1:7001`, or a map with `url`";

    fn short(text: &str) -> Result<Self, String> {
        Ok(Self { url: text.to_owned(), weight: one() })
    }
}

fn origin(url: &str, (): &()) -> garde::Result {
    let wrong = |why: &str| garde::Error::new(format!("{why}; expected an address such as `http://127.0.0.1:7001`"));
    let uri: http::Uri = url.parse().map_err(|_| wrong("not an address"))?;
    if !matches!(uri.scheme_str(), Some("http" | "https")) {
        return Err(wrong("the address must begin with `http://` or `https://`"));
    }
    let Some(authority) = uri.authority() else { return Err(wrong("the address names no host")) };
    if authority.host().is_empty() {
        return Err(wrong("the address names no host"));
    }
    if authority.as_str().contains('@') {
        return Err(wrong("an address carries no user name"));
    }
    if uri.path() != "/" || uri.query().is_some() {
        return Err(wrong("an address ends after its port; a path belongs to a route's `rewrite`"));
    }
    Ok(())
}

fn one() -> u32 {
    1
}

fn one_second() -> Duration {
    Duration::from_secs(1)
}

fn thirty_seconds() -> Duration {
    Duration::from_secs(30)
}

fn five_minutes() -> Duration {
    Duration::from_mins(5)
}

fn four_seconds() -> Duration {
    Duration::from_secs(4)
}
