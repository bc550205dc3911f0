//! `force:` and `pin:` of a route — users for whom the weight does not decide.

use std::collections::BTreeMap;

use garde::Validate;
use schemars::JsonSchema;
use secrecy::SecretString;
use serde::Deserialize;

use super::{HeaderName, Networks};

/// Testers choose their side by a header of the request: `x-banyan-side: modern`.
#[derive(Debug, Clone, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Force {
    /// The header that names the side, `legacy` or `modern`; from everybody else, and for upstreams, it is stripped. Default `x-banyan-side`.
    #[serde(default = "side_header")]
    #[garde(skip)]
    pub header: HeaderName,
    /// Networks whose clients may; their addresses are those behind `trusted_proxies`. Default: none.
    #[serde(default)]
    #[garde(skip)]
    pub allow: Networks,
    /// Who sends this in the header `x-banyan-secret` may too; 16 bytes or more. Default: nobody.
    #[serde(default)]
    #[garde(skip)]
    #[schemars(with = "Option<String>")]
    pub secret: Option<SecretString>,
}

/// Users who are on one side whatever the weight. Who is pinned to both is on legacy.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Pins {
    /// One customer first.
    #[garde(skip)]
    pub modern: Vec<Pin>,
    /// One customer back.
    #[garde(skip)]
    pub legacy: Vec<Pin>,
}

/// Who is meant: `{header: {x-tenant: [acme]}}`, `{cookie: {tenant: [acme]}}` or `{client: [192.0.2.0/24]}`; any of what is named.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Pin {
    /// Requests with one of these values in this header, also in one that `identity` copied.
    Header(BTreeMap<HeaderName, Vec<String>>),
    /// Requests with one of these values in this cookie.
    Cookie(BTreeMap<String, Vec<String>>),
    /// Clients of these networks; their addresses are those behind `trusted_proxies`.
    Client(Networks),
}

fn side_header() -> HeaderName {
    HeaderName::known("x-banyan-side")
}
