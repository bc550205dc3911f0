//! What may be sent again, and to whom. A request whose outcome is unknown goes again only to the same upstream, and only if that is harmless
//! there; the other side gets reads, and on an unsynced route also requests of which no byte was written.

use std::{rc::Rc, sync::Arc, time::Instant};

use http::{HeaderMap, Method, Request, StatusCode, Uri, Version, request, uri::PathAndQuery};
use hyper::body::Incoming;

use super::{Public, grpc};
use crate::{
    config::Fallback,
    error::Fault,
    listen::Turn,
    shadow::Waiting,
    table::{self, Route, Target},
    upstream::{Gate, Replay, RequestBody, Streamed, UpstreamSpec},
};

/// One request, ready to be put on the wire more than once.
pub(super) struct Outgoing {
    head: Box<request::Parts>,
    body: Supply,
    /// The normalised path, where it differs from the raw one.
    path: Option<String>,
    prefix_end: usize,
    is_read: bool,
    has_key: bool,
    /// The client waits for a `100 Continue`.
    expects: bool,
}

enum Supply {
    None,
    /// It can be read once; with who gets a copy of it.
    Once(Incoming, Option<Waiting>),
    Kept(Rc<Replay>),
    Spent,
}

/// Why one side did not answer.
pub(super) struct Missed {
    pub(super) fault: Fault,
    /// At least one byte may have been written.
    pub(super) sent: bool,
}

// === impl Missed ===

impl Missed {
    /// Nobody knows what became of it.
    pub(super) fn unknown() -> Self {
        Self { fault: Fault::Reset, sent: true }
    }
}

// === impl Outgoing ===

impl Outgoing {
    pub(super) fn new(
        head: Box<request::Parts>,
        (body, upload): (Incoming, Option<Waiting>),
        path: Option<String>,
        prefix_end: usize,
        is_read: bool,
        has_key: bool,
        expects: bool,
    ) -> Self {
        use hyper::body::Body;
        let body = if body.is_end_stream() { Supply::None } else { Supply::Once(body, upload) };
        Self { head, body, path, prefix_end, is_read, has_key, expects }
    }

    /// Whether the same upstream may get it twice.
    pub(super) fn is_repeatable(&self, upstream: &UpstreamSpec) -> bool {
        self.is_read || is_idempotent(&self.head.method) || (self.has_key && upstream.honours_keys)
    }

    /// Whether the other side may try after this.
    pub(super) fn may_cross(&self, route: &Route, missed: &Missed) -> bool {
        let is_allowed = match route.fallback() {
            Fallback::None => false,
            Fallback::Reads => self.is_read,
            Fallback::Unsent => self.is_read || !missed.sent,
        };
        // What one side has too much of would push its peak to the other.
        is_allowed
            && !matches!(missed.fault, Fault::ClientBody | Fault::BodyLate | Fault::Handshake | Fault::Overloaded)
            && self.has_body_left()
    }

    /// When the client of a gRPC call that came at that time stops waiting.
    pub(super) fn deadline(&self, began: Instant) -> Option<Instant> {
        began.checked_add(grpc::timeout(&self.head.headers)?)
    }

    /// Whether an answer of this status is looked for on the other side too.
    pub(super) fn may_look_elsewhere(&self, route: &Route, status: StatusCode) -> bool {
        self.is_read && route.fallback_on.contains(&status) && self.has_body_left()
    }

    /// What the client said, as long as it may be needed again.
    pub(super) fn headers(&self) -> &HeaderMap {
        &self.head.headers
    }

    /// Whether it may be needed for that.
    pub(super) fn is_looked_for(&self, route: &Route) -> bool {
        self.is_read && !route.fallback_on.is_empty()
    }

    /// Makes ready to be sent more than once, if there is a body.
    pub(super) fn keep_body(&mut self, turn: &Rc<Turn>) {
        self.body = match std::mem::replace(&mut self.body, Supply::Spent) {
            Supply::Once(incoming, upload) => {
                Supply::Kept(Rc::new(Replay::new(Streamed::new(incoming, Rc::clone(turn), upload))))
            }
            other => other,
        };
    }

    /// The request for one upstream; `None` when the body is gone. `again`: another copy may be wanted later. `keeps_case`: the upstream gets
    /// header names in the client's case, which hyper keeps in an extension.
    pub(super) fn request(
        &mut self,
        target: &Target,
        turn: &Rc<Turn>,
        again: bool,
        keeps_case: bool,
    ) -> Option<Request<RequestBody>> {
        let body = match &mut self.body {
            Supply::None => RequestBody::None,
            Supply::Kept(replay) => replay.body()?,
            Supply::Spent => return None,
            once => match std::mem::replace(once, Supply::Spent) {
                Supply::Once(incoming, upload) => {
                    RequestBody::Streamed(Streamed::new(incoming, Rc::clone(turn), upload))
                }
                _ => return None,
            },
        };
        let uri = self.uri(target);
        // What is made one side's must not come back for the other.
        let again = again || target.shaping.is_some();
        let mut request = Request::new(body);
        *request.method_mut() = self.head.method.clone();
        *request.headers_mut() = if again { self.head.headers.clone() } else { std::mem::take(&mut self.head.headers) };
        target.shape_request(request.headers_mut());
        // Only the first copy has them: they hold the case of the names, which costs as much to copy as the headers, and a second copy is
        // rare. It goes out in title case.
        if keeps_case {
            *request.extensions_mut() = std::mem::take(&mut self.head.extensions);
        }
        *request.uri_mut() = uri;
        *request.version_mut() = Version::HTTP_11;
        if self.expects && !matches!(request.body(), RequestBody::None) {
            let gate = Arc::new(Gate::default());
            let opens = Arc::clone(&gate);
            hyper::ext::on_informational(&mut request, move |interim| {
                if interim.status() == http::StatusCode::CONTINUE {
                    opens.open();
                }
            });
            request = request.map(|body| body.gated(gate));
        }
        Some(request)
    }

    /// What the client knows the requested place by.
    pub(super) fn public<'p>(&'p self, public: &'p Public) -> table::Public<'p> {
        let path = self.path.as_deref().unwrap_or_else(|| self.head.uri.path());
        public.with_prefix(path, self.prefix_end)
    }

    /// Takes back a request of which no byte was written.
    pub(super) fn take_back(&mut self, request: Request<RequestBody>) {
        let (head, body) = request.into_parts();
        // Otherwise it was a copy. There is no head without a `Host`.
        if self.head.headers.is_empty() {
            self.head.headers = head.headers;
        }
        if self.head.extensions.is_empty() {
            self.head.extensions = head.extensions;
        }
        if let (Supply::Spent, Some((incoming, upload))) = (&self.body, body.into_unread()) {
            self.body = Supply::Once(incoming, upload);
        }
    }

    /// Origin form: the raw path and query as they came, or what a rewrite makes of them.
    fn uri(&self, target: &Target) -> Uri {
        let uri = &self.head.uri;
        let normalised = self.path.as_deref().unwrap_or_else(|| uri.path());
        if let Some(rewritten) = target.path_and_query(normalised, self.prefix_end, uri.query())
            && let Ok(rewritten) = rewritten.parse::<PathAndQuery>()
        {
            return rewritten.into();
        }
        if uri.authority().is_none() {
            return uri.clone();
        }
        uri.path_and_query().cloned().map_or_else(Uri::default, Uri::from)
    }

    fn has_body_left(&self) -> bool {
        match &self.body {
            Supply::None | Supply::Once(..) => true,
            Supply::Kept(replay) => replay.body().is_some(),
            Supply::Spent => false,
        }
    }
}

/// RFC 9110, 9.2.2.
fn is_idempotent(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE | Method::PUT | Method::DELETE)
}
