//! `access_log:` and `tracing:` — what is kept of each request besides the counts.

use std::{borrow::Cow, path::PathBuf};

use garde::Validate;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, de};

use super::Percent;

/// All that is kept of single requests. Nothing, unless the file asks for it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Observe {
    /// One line a request; `None`: none.
    pub access_log: Option<AccessLog>,
    /// Whether Banyan is a hop of its own in traces; `None`: it passes them on.
    pub tracing: Option<Tracing>,
}

/// One line of JSON a request. What stands in it is listed in `docs/reference/access-log.md`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AccessLog {
    /// `stdout`, or a file's path (with a `/` in it), which is opened anew when it was renamed or removed. Default `stdout`.
    #[garde(skip)]
    pub to: LogTarget,
    /// Percent of the requests that get a line. Default 100.
    #[garde(skip)]
    pub sample: Percent,
    /// Whether a request that failed gets its line even if it was not drawn; at most 1,000 such lines a second. Default `always`.
    #[garde(skip)]
    pub errors: Errors,
    /// Adds the client's address, which is personal data. Default false.
    #[garde(skip)]
    pub client: bool,
    /// Adds the request's path, which may be personal data; never its query. Default false: only what the route's `match` says.
    #[garde(skip)]
    pub path: bool,
}

/// Banyan as a hop in traces (W3C Trace Context).
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Tracing {
    /// Percent of the traces that begin here and are marked as sampled, which services take for a decision. A trace that comes with a request
    /// keeps its mark. Default 100.
    #[garde(skip)]
    pub sample: Percent,
    /// Sends sampled requests to a collector as spans, in the background. Left out: none.
    #[garde(dive)]
    pub export: Option<Export>,
}

/// Where spans go. Needs a Banyan that was built with the feature `otlp`, as it is by default.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Export {
    /// The collector's address, for example `http://127.0.0.1:4318`: OTLP over HTTP with JSON, at `/v1/traces` below it. Without TLS: a
    /// collector beside Banyan passes them on.
    #[garde(skip)]
    pub otlp: Collector,
    /// The `service.name` of the spans. Default `banyan`.
    #[serde(default = "banyan")]
    #[garde(length(min = 1, max = 64))]
    pub service: String,
}

/// A collector's address, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Collector {
    authority: String,
    path: String,
}

/// Where the access log is written.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum LogTarget {
    /// Standard output. Banyan's own log goes to standard error.
    #[default]
    Stdout,
    /// Appended to this file, which is made if missing (0640).
    File(PathBuf),
}

/// Which failed requests get a line: a 5xx, an answer of Banyan's own, one that broke off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Errors {
    /// All of them.
    #[default]
    Always,
    /// Those that were drawn, like any other.
    Sampled,
}

// === impl AccessLog ===

impl Default for AccessLog {
    fn default() -> Self {
        Self { to: LogTarget::default(), sample: Percent::FULL, errors: Errors::default(), client: false, path: false }
    }
}

// === impl Tracing ===

impl Default for Tracing {
    fn default() -> Self {
        Self { sample: Percent::FULL, export: None }
    }
}

// === impl Collector ===

impl Collector {
    /// `host:port`.
    #[must_use]
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// Where spans are taken.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }
}

impl<'de> Deserialize<'de> for Collector {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let uri =
            text.parse::<http::Uri>().ok().filter(|uri| uri.scheme_str() == Some("http") && uri.query().is_none());
        let authority =
            uri.as_ref().and_then(http::Uri::authority).filter(|authority| !authority.as_str().contains('@'));
        let (Some(uri), Some(authority)) = (&uri, authority) else {
            let wrong =
                "the collector's address is no `http://host:port`; expected for example `http://127.0.0.1:4318`";
            return Err(de::Error::custom(wrong));
        };
        let port = authority.port_u16().unwrap_or(4318);
        Ok(Self {
            authority: format!("{}:{port}", authority.host()),
            path: format!("{}/v1/traces", uri.path().trim_end_matches('/')),
        })
    }
}

impl JsonSchema for Collector {
    fn schema_name() -> Cow<'static, str> {
        "Collector".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^http://" })
    }
}

fn banyan() -> String {
    "banyan".to_owned()
}

// === impl LogTarget ===

impl<'de> Deserialize<'de> for LogTarget {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match text.as_str() {
            "stdout" => Ok(Self::Stdout),
            // A word that is only meant as one must not become a file of that name.
            path if path.contains('/') && !path.ends_with('/') => Ok(Self::File(path.into())),
            _ => Err(de::Error::custom(format_args!(
                "`{text}` is no place for a log; expected `stdout`, or a file's path with a `/` in it"
            ))),
        }
    }
}

impl JsonSchema for LogTarget {
    fn schema_name() -> Cow<'static, str> {
        "LogTarget".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^(stdout|.*/.*[^/])$" })
    }
}
