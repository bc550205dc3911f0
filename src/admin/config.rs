//! `admin:` — the listener for people and for Prometheus, and who may ask it what.

use std::net::SocketAddr;

use banyan_proxy::config::ListenerTls;
use garde::Validate;
use schemars::JsonSchema;
use secrecy::SecretString;
use serde::Deserialize;

/// The admin listener.
#[derive(Debug, Clone, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Admin {
    /// Address and port. Another one than of loopback only with `tls`; then reading needs a token too. Default `127.0.0.1:9901`.
    /// A change needs a restart.
    #[serde(default = "bind")]
    #[garde(skip)]
    #[schemars(with = "String")]
    pub(crate) bind: SocketAddr,
    /// Answers TLS here, and nothing else; as `listeners[].tls`, with HTTP/1.1 alone. Left out: plain TCP, on loopback. A change from one to the
    /// other needs a restart.
    #[serde(default)]
    #[garde(dive)]
    pub(crate) tls: Option<ListenerTls>,
    /// Address and port of a second listener that answers `/livez` and `/readyz` and nothing else, in plain HTTP to everybody: for a kubelet or a
    /// load balancer, while `bind` stays on loopback. Left out: there is none. A change needs a restart.
    #[serde(default)]
    #[garde(skip)]
    #[schemars(with = "Option<String>")]
    pub(crate) probes: Option<SocketAddr>,
    /// Who may ask, besides the holder of `state.dir/admin.token`.
    #[serde(default)]
    #[garde(skip)]
    pub(crate) tokens: Tokens,
    /// Names by which browsers reach this listener, without port. `localhost` and literal addresses always serve; any other name could lead
    /// a browser here without its user's knowledge, and is refused.
    #[serde(default)]
    #[garde(inner(length(min = 1, max = 253)))]
    pub(crate) hosts: Vec<String>,
}

/// Secrets of 32 bytes or more, sent as `Authorization: Bearer …`.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Tokens {
    /// May read `/metrics` and the state. As soon as there is one, reading needs a token; where `bind` is not on loopback, always.
    #[schemars(with = "Option<String>")]
    pub(crate) view: Option<SecretString>,
    /// May change something too, for example read the file again.
    #[schemars(with = "Option<String>")]
    pub(crate) operate: Option<SecretString>,
}

// === impl Admin ===

impl Default for Admin {
    fn default() -> Self {
        Self { bind: bind(), tls: None, probes: None, tokens: Tokens::default(), hosts: Vec::new() }
    }
}

fn bind() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 9901))
}
