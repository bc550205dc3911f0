//! One compiled match: what it wants of a request besides its host and path, and where it stands among others of the same host and path.

use std::{cmp::Reverse, net::IpAddr};

use http::{HeaderMap, HeaderName, Method};
use ipnet::IpNet;

use super::{pattern::Pattern, query};

/// What a request is matched by.
#[derive(Debug, Clone, Copy)]
pub struct Normal<'r> {
    /// The method.
    pub method: &'r Method,
    /// Without port; in any case.
    pub host: &'r str,
    /// In the normal form of [`normalise`](super::normalise).
    pub path: &'r str,
    /// As it came, without `?`.
    pub query: Option<&'r str>,
    /// All headers.
    pub headers: &'r HeaderMap,
    /// The client's address, behind trusted proxies.
    pub client: IpAddr,
}

/// One compiled match.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) host: HostRule,
    pub(super) path: PathRule,
    /// Empty: any.
    pub(super) methods: Vec<Method>,
    /// Headers that must have exactly this value.
    pub(super) headers: Vec<(HeaderName, Box<[u8]>)>,
    /// What few matches want; most requests never look here.
    pub(super) rare: Option<Box<Rare>>,
    /// Which route it belongs to.
    pub(super) route: usize,
    /// Which of the route's matches it is.
    pub(super) index: usize,
}

/// Hosts are in lower case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum HostRule {
    Exact(Box<str>),
    /// `*.shop.example`, kept as `.shop.example`.
    Below(Box<str>),
    Any,
}

/// Paths are in the normal form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum PathRule {
    Exact(Box<str>),
    Regex(Pattern),
    /// Without a trailing slash; empty is every path.
    Prefix(Box<str>),
}

/// What few matches want.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Rare {
    /// Besides those of an exact value.
    pub(super) headers: Vec<(HeaderName, Value)>,
    pub(super) query: Vec<(Box<str>, Value)>,
    /// Empty: any.
    pub(super) client: Vec<IpNet>,
}

/// What a value must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    Exact(Box<[u8]>),
    Fits(Pattern),
    Present(bool),
}

/// What of a rule does not hold, besides its host and path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unmet<'r> {
    Method,
    Header(&'r HeaderName),
    Query(&'r str),
    Client,
}

// === impl Normal ===

impl<'r> Normal<'r> {
    /// A request's head with its normalised path. The host is the target's (absolute form) or the `Host` header's.
    #[must_use]
    pub fn of(head: &'r http::request::Parts, path: &'r str, client: IpAddr) -> Self {
        let host = match head.uri.authority() {
            Some(authority) => authority.as_str(),
            None => head.headers.get(http::header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default(),
        };
        let query = head.uri.query();
        Self { method: &head.method, host: without_port(host), path, query, headers: &head.headers, client }
    }
}

/// `shop.example:8080` and `shop.example.` are both `shop.example`.
fn without_port(host: &str) -> &str {
    let host = match host.rfind(':') {
        Some(colon) if host[colon..].bytes().skip(1).all(|b| b.is_ascii_digit()) => &host[..colon],
        _ => host,
    };
    host.strip_suffix('.').unwrap_or(host)
}

// === impl PathRule ===

impl PathRule {
    /// As the file has it, and nothing of a request.
    pub(super) fn text(&self) -> &str {
        match self {
            Self::Exact(path) => path,
            Self::Regex(pattern) => pattern.as_str(),
            Self::Prefix(prefix) if prefix.is_empty() => "/",
            Self::Prefix(prefix) => prefix,
        }
    }
}

// === impl Rule ===

impl Rule {
    /// Whether all holds that it wants besides its host and path.
    pub(super) fn holds(&self, request: &Normal<'_>) -> bool {
        (self.methods.is_empty() || self.methods.contains(request.method))
            && self.headers.iter().all(|(name, value)| has_line(request.headers, name, value))
            && self.rare.as_ref().is_none_or(|rare| rare.unmet(request).is_none())
    }

    /// The first thing that does not hold, besides its host and path.
    pub(super) fn unmet(&self, request: &Normal<'_>) -> Option<Unmet<'_>> {
        if !self.methods.is_empty() && !self.methods.contains(request.method) {
            return Some(Unmet::Method);
        }
        let header = self.headers.iter().find(|(name, value)| !has_line(request.headers, name, value));
        match (header, &self.rare) {
            (Some((name, _)), _) => Some(Unmet::Header(name)),
            (None, Some(rare)) => rare.unmet(request),
            (None, None) => None,
        }
    }

    /// Sorts rules of one host and one path: with methods first, then the most headers, the most query parameters, with clients, then the
    /// file's order.
    pub(super) fn precedence(&self) -> impl Ord + use<> {
        let (headers, query, any_client) = match &self.rare {
            Some(rare) => (rare.headers.len(), rare.query.len(), rare.client.is_empty()),
            None => (0, 0, true),
        };
        let headers = Reverse(headers + self.headers.len());
        (self.methods.is_empty(), headers, Reverse(query), any_client, self.route, self.index)
    }
}

fn has_line(headers: &HeaderMap, name: &HeaderName, value: &[u8]) -> bool {
    headers.get_all(name).iter().any(|line| line.as_bytes() == value)
}

// === impl Rare ===

impl Rare {
    /// The first thing that does not hold.
    fn unmet(&self, request: &Normal<'_>) -> Option<Unmet<'_>> {
        let header = self.headers.iter().find(|(name, value)| !value.holds_for_header(name, request.headers));
        if let Some((name, _)) = header {
            return Some(Unmet::Header(name));
        }
        let query =
            self.query.iter().find(|(name, value)| !value.holds_for_query(name, request.query.unwrap_or_default()));
        if let Some((name, _)) = query {
            return Some(Unmet::Query(name));
        }
        let is_client = self.client.is_empty() || self.client.iter().any(|net| net.contains(&request.client));
        (!is_client).then_some(Unmet::Client)
    }
}

// === impl Value ===

impl Value {
    /// On one of the header's lines.
    fn holds_for_header(&self, name: &HeaderName, headers: &HeaderMap) -> bool {
        match self {
            Self::Exact(value) => has_line(headers, name, value),
            Self::Fits(pattern) => headers.get_all(name).iter().any(|line| pattern.fits(line.as_bytes())),
            Self::Present(wanted) => headers.contains_key(name) == *wanted,
        }
    }

    /// For the first parameter of this name.
    fn holds_for_query(&self, name: &str, query: &str) -> bool {
        let given = query::first(query, name);
        match self {
            Self::Exact(value) => given.is_some_and(|given| given.is(value)),
            Self::Fits(pattern) => given.is_some_and(|given| pattern.fits(&given.decoded())),
            Self::Present(wanted) => given.is_some() == *wanted,
        }
    }

    /// Whether whatever holds this holds `other` too, for certain.
    pub(super) fn implies(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Exact(value), Self::Fits(pattern)) => pattern.fits(value),
            (Self::Exact(_) | Self::Fits(_), Self::Present(true)) => true,
            _ => self == other,
        }
    }
}
