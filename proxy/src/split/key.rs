//! Finds what tells one user from another: the route's sticky list, then Banyan's own cookie.

use std::{borrow::Cow, net::IpAddr};

use http::HeaderMap;

use super::{cookie, id::ID_COOKIE};
use crate::{
    config::Keyless,
    table::{KeySource, Route},
};

/// A user's key and where it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key<'r> {
    /// Raw bytes; never empty.
    pub bytes: Cow<'r, [u8]>,
    /// The place in the route's sticky list; `None` for Banyan's own cookie and for the client's address.
    pub source: Option<usize>,
}

/// The first key that is present. An empty header or cookie is none: else all who lack one would be one user.
#[must_use]
pub fn find_key<'r>(route: &Route, headers: &'r HeaderMap) -> Option<Key<'r>> {
    let listed = route.sticky.iter().enumerate().find_map(|(at, source)| {
        let bytes = match source {
            KeySource::Header(name) => headers.get(name).map(http::HeaderValue::as_bytes).filter(|v| !v.is_empty()),
            KeySource::Cookie(name) => cookie::find(headers, name),
        }?;
        Some(Key { bytes: Cow::Borrowed(bytes), source: Some(at) })
    });
    listed.or_else(|| Some(Key { bytes: Cow::Borrowed(cookie::find(headers, ID_COOKIE)?), source: None }))
}

/// The key that stands in for a missing one: the client's address where the route says so.
pub(crate) fn keyless(route: &Route, client: IpAddr) -> Option<Key<'static>> {
    if route.keyless != Keyless::ClientAddress {
        return None;
    }
    Some(Key { bytes: Cow::Owned(address_key(client)), source: None })
}

/// A client's address as a key: IPv4 by its four bytes (mapped ones too), IPv6 by its first eight, since one user draws new addresses from one
/// /64.
#[must_use]
pub fn address_key(client: IpAddr) -> Vec<u8> {
    match client.to_canonical() {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets()[..8].to_vec(),
    }
}
