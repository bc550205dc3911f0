//! Which of a route's requests are reads, where the file says it: by method, path, header and query, never by the body.
//!
//! A request that is wrongly taken for a read may reach the side that does not own the rows; so what makes a read is matched narrowly (no
//! parameters in a segment), and what makes none generously (with parameters, with a slash at its end).

use http::{Method, header::CONTENT_TYPE, request::Parts};

use super::{
    normalise,
    path::without_parameters,
    rule::{Normal, Rule},
};

/// A route's `reads:`, compiled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reads {
    pub(super) methods: Vec<Method>,
    pub(super) also: Vec<Also>,
    pub(super) never: Vec<Place>,
}

/// Requests that are reads too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Also {
    pub(super) place: Option<Place>,
    pub(super) is_grpc: bool,
    /// Methods, headers and query; its host and path say nothing.
    pub(super) rule: Rule,
}

/// A path, or the beginning of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    text: Box<str>,
    /// Any rest; a beginning that ends in `/` wants one.
    is_open: bool,
}

/// What says whether a request is a read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ReadBy {
    /// `reads.methods`, or the method as everywhere.
    Method,
    /// `reads.also`.
    Also,
    /// `reads.never`.
    Never,
}

// === impl Reads ===

impl Reads {
    /// Whether a request is a read, upgrades aside, and what says so.
    #[must_use]
    pub fn is_read(&self, head: &Parts) -> (bool, ReadBy) {
        // What cannot be matched was refused before.
        let Ok(path) = normalise(head.uri.path()) else { return (false, ReadBy::Never) };
        if self.never.iter().any(|place| place.takes_any_form(&path)) {
            return (false, ReadBy::Never);
        }
        if self.methods.contains(&head.method) {
            return (true, ReadBy::Method);
        }
        // Neither host nor client is asked for.
        let request = Normal::of(head, &path, [0; 4].into());
        let is_also = self.also.iter().any(|also| also.takes(head, &request));
        (is_also, if is_also { ReadBy::Also } else { ReadBy::Method })
    }
}

// === impl Also ===

impl Also {
    fn takes(&self, head: &Parts, request: &Normal<'_>) -> bool {
        self.place.as_ref().is_none_or(|place| place.takes(request.path))
            && (!self.is_grpc || is_grpc(head))
            && self.rule.holds(request)
    }
}

fn is_grpc(head: &Parts) -> bool {
    let kind = head.headers.get(CONTENT_TYPE).map(http::HeaderValue::as_bytes).unwrap_or_default();
    let rest = kind.get(..16).filter(|start| start.eq_ignore_ascii_case(b"application/grpc")).map(|_| &kind[16..]);
    rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';' | b' ')))
}

// === impl Place ===

impl Place {
    /// `/a`, or `/a/*`; of gRPC also `/shop.Orders/List*`.
    pub(super) fn new(text: &str) -> Self {
        match text.strip_suffix('*') {
            Some(start) => Self { text: start.into(), is_open: true },
            None => Self { text: text.into(), is_open: false },
        }
    }

    fn takes(&self, path: &str) -> bool {
        match path.strip_prefix(&*self.text) {
            Some(rest) if self.is_open => !rest.is_empty(),
            Some(rest) => rest.is_empty(),
            None => false,
        }
    }

    /// With and without the parameters of its segments, and a slash at its end.
    fn takes_any_form(&self, path: &str) -> bool {
        let takes = |path: &str| self.takes(path) || path.strip_suffix('/').is_some_and(|path| self.takes(path));
        takes(path) || (path.contains(';') && takes(&without_parameters(path)))
    }
}
