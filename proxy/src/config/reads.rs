//! `reads:` — which of a route's requests are reads. Everything else is a write.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use super::{HeaderName, Method, ShortOr, Wanted};

/// Which requests are reads. Without it: GET, HEAD and OPTIONS.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Reads {
    /// The methods of reads. Default: GET, HEAD and OPTIONS.
    pub methods: Option<Vec<Method>>,
    /// Requests that are reads whatever their method says, by what is seen of them without their body.
    pub also: Vec<AlsoRead>,
    /// Paths whose requests are never reads: `/logout`, or `/download/*` for everything below.
    pub never: Vec<String>,
}

/// Requests that are reads too: all that is given must hold.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AlsoRead {
    /// This path, or `/search/*` for everything below. In normal form.
    pub path: Option<String>,
    /// A gRPC method: `shop.Orders/Get`, or `shop.Orders/List*` for all that begin so.
    pub grpc: Option<String>,
    /// One of these methods. Default: POST.
    pub methods: Option<Vec<Method>>,
    /// As in a `match`.
    pub headers: BTreeMap<HeaderName, ShortOr<Wanted>>,
    /// As in a `match`.
    pub query: BTreeMap<String, ShortOr<Wanted>>,
}
