//! What is recorded of a request, taken while it passes: by name, and only where a recording is under way.

use http::{
    HeaderName,
    header::{ACCEPT, ACCEPT_LANGUAGE, CONTENT_TYPE, HOST},
};

use super::{Secrets, secrets};
use crate::{shadow::Offer, table::KeySource};

/// A read as it is recorded.
#[derive(Debug)]
pub(in crate::shadow) struct Asked {
    pub(super) method: String,
    pub(super) target: String,
    pub(super) prefix: usize,
    pub(super) headers: Vec<(String, String)>,
}

/// What a recording is told of a request.
#[derive(Debug)]
pub(in crate::shadow) enum Told {
    /// A read.
    Read(Box<Asked>),
    /// A read with a body, which is not recorded.
    WithBody,
}

/// What answers depend on most, and is no secret; the last two say what the client knows the place by.
const HEADERS: [HeaderName; 6] = [
    HOST,
    ACCEPT,
    ACCEPT_LANGUAGE,
    CONTENT_TYPE,
    HeaderName::from_static("x-forwarded-proto"),
    HeaderName::from_static("x-forwarded-host"),
];

impl Asked {
    /// With the headers above, and those that tell the route's users apart.
    pub(in crate::shadow) fn of(offer: &Offer<'_>, secrets: &Secrets) -> Self {
        let route = offer.found.route;
        let is_sticky = |name: &HeaderName| {
            route.sticky.iter().any(|source| matches!(source, KeySource::Header(sticky) if sticky == name))
        };
        let is_wanted = |name: &HeaderName| (HEADERS.contains(name) || is_sticky(name)) && !secrets.has_header(name);
        let lines = offer.head.headers.iter().filter(|(name, _)| is_wanted(name));
        let target = offer.head.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
        Self {
            method: offer.head.method.as_str().to_owned(),
            target: target.to_owned(),
            prefix: offer.found.prefix_end,
            headers: lines
                .filter_map(|(name, value)| Some((name.as_str().to_owned(), value.to_str().ok()?.to_owned())))
                .collect(),
        }
    }

    /// Its query looks as if a secret stood in it.
    pub(super) fn has_secret(&self) -> bool {
        self.target.split_once('?').is_some_and(|(_, query)| secrets::is_in_query(query))
    }
}
