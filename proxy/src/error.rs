//! Every error that the answering path can meet, whose fault it is, and the one place that turns it into an HTTP answer.
//!
//! An answer names the route, the fault and what to do; never an address, a header or anything of the request's content.

use std::{io, net::SocketAddr};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use serde::Serialize;

use crate::{observe::LogError, split::SignerError, table::BadPath, table::Problem, trace::TraceId};

/// Why the proxy could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The config does not compile.
    #[error("{}", .0.iter().map(|problem| format!("`{}`: {}", problem.path, problem.message)).collect::<Vec<_>>().join("; "))]
    Config(Vec<Problem>),
    /// An address cannot be listened on.
    #[error("cannot listen on {bind}")]
    Listen {
        /// Which.
        bind: SocketAddr,
        /// What the system says.
        #[source]
        cause: io::Error,
    },
    /// A worker's thread or runtime could not be made.
    #[error("cannot start a worker")]
    Worker(#[source] io::Error),
    /// Cookies cannot be signed.
    #[error("no cookie can be signed")]
    Signer(#[from] SignerError),
    /// The access log cannot be opened.
    #[error(transparent)]
    AccessLog(#[from] LogError),
    /// The metrics' names are taken.
    #[error("the metrics are registered already")]
    Metrics(#[from] prometheus::Error),
}

/// Why Banyan answers a request itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Fault {
    #[error("the request has no Host header, or more than one")]
    Host,
    #[error("the request's target and its Host header name different hosts")]
    HostDiffers,
    #[error("the request's Transfer-Encoding is not exactly one `chunked`")]
    Framing,
    #[error("the request has more header lines than are allowed")]
    TooManyHeaders,
    #[error("{0}")]
    Path(#[from] BadPath),
    #[error("Banyan is no forward proxy")]
    Connect,
    #[error("too many requests; the next one may come in {seconds} s")]
    RateLimited {
        /// Until then it would be refused again.
        seconds: u32,
    },
    #[error("the request's body ended before its announced end")]
    ClientBody,
    #[error("the rest of the request's body did not come in time")]
    BodyLate,
    #[error("a WebSocket is opened by a GET with exactly one Sec-WebSocket-Key")]
    Handshake,
    #[error("no connection to the upstream")]
    Refused,
    #[error("no connection to the upstream in time")]
    ConnectTimeout,
    #[error("the TLS handshake with the upstream failed")]
    Tls,
    #[error("the upstream's certificate is not to be trusted")]
    Certificate,
    #[error("the upstream does not speak HTTP/2, which its `protocol` asks for")]
    NoHttp2,
    #[error("the upstream takes no WebSockets over HTTP/2, which its `protocol` asks for")]
    NoWebSocket,
    #[error("the upstream did not answer in time")]
    Timeout,
    #[error("the request took longer than its route allows")]
    Deadline,
    #[error("the upstream closed the connection before its answer")]
    Reset,
    #[error("the upstream's answer is no valid HTTP")]
    BadAnswer,
    #[error("the upstream switched protocols without being asked")]
    Unasked,
    #[error("the upstream has as many requests as it can take; this one was not sent")]
    Overloaded,
    #[error("too much of what the upstream was asked failed; this request was not sent")]
    CircuitOpen,
    #[error("the side that owns this route's data cannot be reached; nothing was written")]
    OwnerAway,
    #[error("the owner of this route's data is moving; nothing was written")]
    Held,
    #[error("the route has no side that could answer this request")]
    NoSide,
}

/// Whose fault an error is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Blame {
    Client,
    Upstream,
    Banyan,
}

/// How a client wants to be told.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    #[default]
    ProblemJson,
    Plain,
    /// As a gRPC status in a head without a body ("trailers-only").
    Grpc,
}

/// RFC 9457.
#[derive(Serialize)]
struct ProblemJson<'p> {
    #[serde(rename = "type")]
    kind: String,
    title: &'static str,
    status: u16,
    detail: &'p str,
    #[serde(skip_serializing_if = "Option::is_none")]
    route: Option<&'p str>,
    fault: Blame,
    trace_id: &'p str,
}

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

// === impl Fault ===

impl Fault {
    pub(crate) fn status(self) -> StatusCode {
        match self {
            Self::Host | Self::HostDiffers | Self::Framing | Self::Path(_) | Self::ClientBody | Self::Handshake => {
                StatusCode::BAD_REQUEST
            }
            Self::TooManyHeaders => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::BodyLate => StatusCode::REQUEST_TIMEOUT,
            Self::Connect => StatusCode::METHOD_NOT_ALLOWED,
            Self::RateLimited { .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::Refused
            | Self::Tls
            | Self::Certificate
            | Self::NoHttp2
            | Self::NoWebSocket
            | Self::Reset
            | Self::BadAnswer
            | Self::Unasked => StatusCode::BAD_GATEWAY,
            Self::ConnectTimeout | Self::Timeout | Self::Deadline => StatusCode::GATEWAY_TIMEOUT,
            Self::Overloaded | Self::CircuitOpen | Self::OwnerAway | Self::Held | Self::NoSide => {
                StatusCode::SERVICE_UNAVAILABLE
            }
        }
    }

    pub(crate) fn blame(self) -> Blame {
        match self {
            Self::Host
            | Self::HostDiffers
            | Self::Framing
            | Self::TooManyHeaders
            | Self::Path(_)
            | Self::Connect
            | Self::ClientBody
            | Self::BodyLate
            | Self::Handshake
            | Self::RateLimited { .. } => Blame::Client,
            Self::Held | Self::NoSide => Blame::Banyan,
            _ => Blame::Upstream,
        }
    }

    /// One word that programs can match on; part of the problem's `type`.
    pub(crate) fn code(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::HostDiffers => "host_differs",
            Self::Framing => "framing",
            Self::TooManyHeaders => "too_many_headers",
            Self::Path(_) => "path",
            Self::Connect => "connect",
            Self::ClientBody => "client_body",
            Self::BodyLate => "body_late",
            Self::Handshake => "handshake",
            Self::RateLimited { .. } => "rate_limited",
            Self::Refused => "refused",
            Self::ConnectTimeout => "connect_timeout",
            Self::Tls => "tls",
            Self::NoHttp2 => "no_http2",
            Self::NoWebSocket => "no_websocket",
            Self::Certificate => "certificate",
            Self::Timeout => "timeout",
            Self::Deadline => "deadline",
            Self::Reset => "reset",
            Self::BadAnswer => "bad_answer",
            Self::Unasked => "unasked_upgrade",
            Self::Overloaded => "overloaded",
            Self::CircuitOpen => "circuit_open",
            Self::OwnerAway => "owner_away",
            Self::Held => "held",
            Self::NoSide => "no_side",
        }
    }

    /// After an ambiguous request nothing that follows on its connection can be trusted.
    fn closes(self) -> bool {
        self.blame() == Blame::Client && !matches!(self, Self::RateLimited { .. })
    }

    /// The gRPC status code (gRPC's `statuscodes.md` and `http-grpc-status-mapping.md`). `UNAVAILABLE` invites clients to send again: only
    /// where nothing can have happened, or where gRPC's own mapping says so.
    fn grpc_status(self) -> &'static str {
        match self {
            Self::Timeout | Self::BodyLate => "4", // DEADLINE_EXCEEDED: it may have happened
            _ => match self.status() {
                StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT => "14", // UNAVAILABLE
                StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => "8", // RESOURCE_EXHAUSTED
                StatusCode::FORBIDDEN => "7",                                                       // PERMISSION_DENIED
                StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => "12",                     // UNIMPLEMENTED
                _ => "13",                                                                          // INTERNAL
            },
        }
    }

    /// gRPC's clients read the status of the call, not HTTP's.
    fn grpc(self, route: Option<&str>) -> (StatusCode, HeaderMap, Option<Bytes>) {
        let at = route.map(|route| format!(" (route {route})")).unwrap_or_default();
        // Percent-encoding would be needed for what is neither printable nor ASCII, and for `%`: there is none.
        let message = format!("{self}{at}").replace(['%', '`'], "");
        let mut headers = HeaderMap::with_capacity(4);
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert(GRPC_STATUS, HeaderValue::from_static(self.grpc_status()));
        if let Ok(message) = HeaderValue::from_str(&message) {
            headers.insert(GRPC_MESSAGE, message);
        }
        if self.closes() {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        (StatusCode::OK, headers, None)
    }

    /// The whole answer; no body: the head is all of it.
    pub(crate) fn answer(
        self,
        route: Option<&str>,
        trace: TraceId,
        form: Form,
    ) -> (StatusCode, HeaderMap, Option<Bytes>) {
        if form == Form::Grpc {
            return self.grpc(route);
        }
        let plain = form == Form::Plain;
        let status = self.status();
        let title = status.canonical_reason().unwrap_or_default();
        let detail = self.to_string();
        let mut headers = HeaderMap::with_capacity(4);
        let body = if plain {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
            let at = route.map(|route| format!("route `{route}`, ")).unwrap_or_default();
            format!("{} {title}: {detail} ({at}trace {trace})\n", status.as_u16()).into_bytes()
        } else {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
            let problem = ProblemJson {
                kind: format!("urn:banyan:error:{}", self.code()),
                title,
                status: status.as_u16(),
                detail: &detail,
                route,
                fault: self.blame(),
                trace_id: &trace.to_string(),
            };
            serde_json::to_vec(&problem).unwrap_or_default()
        };
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Self::RateLimited { seconds } = self {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        if self.closes() {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        (status, headers, Some(body.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_the_route_the_fault_and_the_trace() {
        let trace = TraceId::random();
        let (status, headers, body) = Fault::Refused.answer(Some("payments"), trace, Form::ProblemJson);
        let body = body.unwrap();
        assert_eq!(status, 502);
        assert_eq!(headers["content-type"], "application/problem+json");
        let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(body["route"], "payments");
        assert_eq!(body["fault"], "upstream");
        assert_eq!(body["status"], 502);
        assert_eq!(body["trace_id"], trace.to_string());
    }

    #[test]
    fn an_error_is_plain_text_for_who_asks_for_it() {
        let trace = TraceId::random();
        let (_, headers, body) = Fault::Timeout.answer(Some("payments"), trace, Form::Plain);
        assert_eq!(headers["content-type"], "text/plain; charset=utf-8");
        let expected =
            format!("504 Gateway Timeout: the upstream did not answer in time (route `payments`, trace {trace})\n");
        assert_eq!(body.unwrap(), expected.as_bytes());
    }

    #[test]
    fn a_grpc_client_is_told_by_a_head_alone() {
        let (status, headers, body) = Fault::Refused.answer(Some("payments"), TraceId::random(), Form::Grpc);
        assert_eq!((status, body), (StatusCode::OK, None));
        assert_eq!(headers["content-type"], "application/grpc");
        assert_eq!(headers["grpc-status"], "14");
        assert_eq!(headers["grpc-message"], "no connection to the upstream (route payments)");
        assert_eq!(Fault::Timeout.answer(None, TraceId::random(), Form::Grpc).1["grpc-status"], "4");
        assert_eq!(Fault::Framing.answer(None, TraceId::random(), Form::Grpc).1["grpc-status"], "13");
    }

    #[test]
    fn only_a_client_at_fault_loses_its_connection() {
        assert!(Fault::Framing.answer(None, TraceId::random(), Form::Plain).1.contains_key("connection"));
        assert!(!Fault::Refused.answer(None, TraceId::random(), Form::Plain).1.contains_key("connection"));
    }
}
