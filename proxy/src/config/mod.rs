//! The proxy's share of `routes.yaml` as serde structs: shapes and defaults, no IO, nothing compiled.
//!
//! `src/config.rs` of the root package joins it with the connectors' share; `table/` turns it into what a request is matched against.
//! A key is here only when it works.

mod cookies;
mod identity;
mod itself;
mod listener;
mod matches;
mod observe;
mod rate_limit;
mod reads;
mod rollout;
mod route;
mod shadow;
mod short;
mod upstream;
mod upstream_rules;
mod upstream_tls;
mod users;
mod weight;

use std::{path::PathBuf, time::Duration};

use garde::Validate;
use ipnet::IpNet;
use schemars::JsonSchema;
use secrecy::SecretString;
use serde::Deserialize;

pub use cookies::{Cookies, SideCookies};
pub use identity::Identity;
pub use itself::{Redirect, RedirectStatus, Respond, Scheme};
pub use listener::{CertificateFiles, Limits, Listener, ListenerTls, ProxyProtocol, TlsVersion};
pub use matches::{HeaderName, Match, Method, Networks, Wanted};
pub use observe::{AccessLog, Collector, Errors, Export, LogTarget, Observe, Tracing};
pub use rate_limit::{RateKey, RateLimit};
pub use reads::{AlsoRead, Reads};
pub use rollout::{Gates, LatencyP99, MismatchRate, OnFail, Rollout, SuccessRate, SyncLag};
pub use route::{Fallback, HeaderChanges, Headers, Keyless, Rewrite, Route, Side, Sticky};
pub use shadow::{Compare, Noise, Of, Period, Pointer, Samples, Shadow, Tolerance};
pub use short::{OneOrMany, Short, ShortOr, TEXT_OR_MAP};
pub use upstream::{Endpoint, IdempotencyKey, Protocol, Upstream};
pub use upstream_rules::{Adaptive, AdaptiveForm, Circuit, Ejection, Health, Retries, UpstreamLimits};
pub use upstream_tls::UpstreamTls;
pub use users::{Force, Pin, Pins};
pub use weight::{Percent, Weight};

/// A map with names as keys, sorted by them.
pub type Named<T> = std::collections::BTreeMap<String, T>;

/// All that the proxy reads from the file. Built by the root package from the top-level keys of the same names.
#[derive(Debug, Clone)]
pub struct Config {
    /// Data-plane threads; `None` is one a core.
    pub workers: Option<usize>,
    /// The sockets that clients connect to; at least one.
    pub listeners: Vec<Listener>,
    /// Where running state is kept.
    pub state: State,
    /// The key of signed cookies; `None`: made once in `state.dir/secret`.
    pub secret: Option<SecretString>,
    /// Peers whose `X-Forwarded-*` are believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Named sets of endpoints.
    pub upstreams: Named<Upstream>,
    /// The upstream that answers what no route matches.
    pub default: String,
    /// In the file's order; precedence is by the match, not by this order (see `table/`).
    pub routes: Vec<Route>,
    /// The upstream that knows who a request comes from.
    pub identity: Option<Identity>,
    /// What the routes need to know of the file's `syncs`.
    pub syncs: Named<SyncRules>,
    /// What is kept of single requests.
    pub observe: Observe,
}

/// What the answering path must know of a sync; the root package fills it from the connectors' config.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyncRules {
    /// The owner that the file names; what the databases say wins over it.
    pub owner: crate::links::Owner,
    /// How far the clocks of two replicas may differ, and for how long a write whose outcome is unknown may still happen.
    pub read_your_writes: Duration,
    /// Above this lag all reads of the sync's routes go to the owner.
    pub max_lag: Duration,
}

/// Where running state is kept between restarts.
#[derive(Debug, Clone, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct State {
    /// A directory of Banyan's own, made if missing. A relative one counts from the folder that Banyan is started in. Default `./banyan-state`. A
    /// change needs a restart.
    #[garde(skip)]
    pub dir: PathBuf,
    /// Several replicas share one rollout a route, through the topic `<install>.state` of `kafka`. Default false. A change needs a restart.
    #[garde(skip)]
    pub shared: bool,
}

// === impl State ===

impl Default for State {
    fn default() -> Self {
        Self { dir: PathBuf::from("./banyan-state"), shared: false }
    }
}
