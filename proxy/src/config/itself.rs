//! `redirect:` and `respond:` — routes that Banyan answers by itself, without any upstream.

use std::{borrow::Cow, collections::BTreeMap};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;

use super::HeaderName;

/// Sends the client elsewhere. What is left out stays as it was asked for; the query stays in any case.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Redirect {
    /// 301, 302, 303, 307 or 308. Default 302.
    pub status: RedirectStatus,
    /// `http` or `https`.
    pub scheme: Option<Scheme>,
    /// A name, without a port.
    pub host: Option<String>,
    /// Left out: the client's, or with `scheme` that scheme's usual one.
    pub port: Option<u16>,
    /// This path, in normal form.
    pub path: Option<String>,
    /// Stands in place of the prefix that matched, in normal form.
    pub path_prefix: Option<String>,
}

/// Answers always the same.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Respond {
    /// 200 to 599.
    #[schemars(range(min = 200, max = 599))]
    pub status: u16,
    /// Headers of the answer. With a body, `content-type` is `text/plain; charset=utf-8` unless it stands here.
    #[serde(default)]
    pub headers: BTreeMap<HeaderName, String>,
    /// Text of at most 64 KiB. Default: none.
    #[serde(default)]
    pub body: Option<String>,
}

/// How a redirect is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RedirectStatus(u16);

/// A URL's scheme.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Scheme {
    /// `http`.
    Http,
    /// `https`.
    Https,
}

// === impl Scheme ===

impl Scheme {
    /// As it is written.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

// === impl RedirectStatus ===

impl RedirectStatus {
    /// One of the five.
    #[must_use]
    pub fn get(self) -> u16 {
        self.0
    }
}

impl Default for RedirectStatus {
    fn default() -> Self {
        Self(302)
    }
}

impl<'de> Deserialize<'de> for RedirectStatus {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let status = u16::deserialize(deserializer)?;
        match status {
            301 | 302 | 303 | 307 | 308 => Ok(Self(status)),
            _ => Err(serde::de::Error::custom(format_args!(
                "`{status}` does not send anybody elsewhere; expected 301, 302, 303, 307 or 308"
            ))),
        }
    }
}

impl JsonSchema for RedirectStatus {
    fn schema_name() -> Cow<'static, str> {
        "RedirectStatus".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "integer", "enum": [301, 302, 303, 307, 308] })
    }
}
