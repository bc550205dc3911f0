//! `cookies:` of a route — cookies of the same name that are not the same cookie.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

/// Cookies of a route's sides, whose names may clash in the browser.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Cookies {
    /// Those of `legacy`.
    pub legacy: SideCookies,
    /// Those of `modern`.
    pub modern: SideCookies,
    /// Cookies that both sides set on purpose, by the names that clients know: no clash is told of them.
    pub shared: Vec<String>,
}

/// One side's cookies.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SideCookies {
    /// The side's own name of a cookie, and the one that clients know it by: `{sid: m_sid}`. The other side's cookie of the own name does not
    /// reach this side.
    pub rename: BTreeMap<String, String>,
}
