//! Refuses what two servers could read in two ways, as far as hyper shows it, and strips what only Banyan may say.
//!
//! hyper has settled the framing before this station sees a request (`docs/reference/http-behaviour.md` lists how); heads are not parsed
//! twice.

use std::task::{Context, Poll};

use futures_util::future::{Either, Ready, ready};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, Version, header, uri::Scheme};
use hyper::body::Body;
use tower::{Layer, Service};

use super::{
    arrival::{Arrival, Checked, Failure, Reply},
    hop_by_hop::OURS,
    lower,
};
use crate::{
    error::{Fault, Form},
    spelling,
    trace::Trace,
};

#[derive(Debug, Clone, Copy)]
pub(crate) struct Stage;

#[derive(Debug, Clone, Copy)]
pub(crate) struct Station<S>(S);

/// What one pass over a request's headers found, so that later stations need not look for what is not there.
#[derive(Debug, Default, Clone, Copy)]
#[expect(clippy::struct_excessive_bools, reason = "a set of headers, not a state")]
pub(crate) struct Seen {
    hosts: usize,
    /// HTTP/1.0 knows requests that name no host.
    pub(super) is_hostless: bool,
    encodings: usize,
    /// `Connection`: there may be more to strip than the usual names.
    pub(super) connection: bool,
    /// One of the usual hop-by-hop names.
    pub(super) hop: bool,
    pub(super) upgrade: bool,
    pub(super) expect: bool,
    pub(super) idempotency_key: bool,
    /// `X-Forwarded-*` or `Forwarded`.
    pub(super) forwarded: bool,
    banyan: bool,
    /// What the client wants an error of Banyan's as.
    pub(super) form: Form,
    pub(super) traceparent: bool,
    /// What it says; `None` when it is malformed, or there is more than one. Later the hop that the upstream is told.
    pub(super) trace: Option<Trace>,
}

const THEIRS: &str = "x-forwarded-";

// === impl Stage ===

impl<S> Layer<S> for Stage {
    type Service = Station<S>;

    fn layer(&self, inner: S) -> Station<S> {
        Station(inner)
    }
}

// === impl Station ===

impl<S: Service<Checked, Response = Reply, Error = Failure>> Service<Arrival> for Station<S> {
    type Response = Reply;
    type Error = Failure;
    type Future = Either<Ready<Result<Reply, Failure>>, S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, mut arrival: Arrival) -> Self::Future {
        let lowered = match arrival.head.version {
            Version::HTTP_2 => lower(&mut arrival),
            _ => Ok(()),
        };
        let mut seen = Seen::in_headers(&arrival.head.headers);
        if seen.hosts == 0 && arrival.head.version == Version::HTTP_10 {
            of_old(&mut arrival, &mut seen);
        }
        match lowered.and_then(|()| check(&arrival.head.method, &arrival.head.uri, &arrival.head.headers, seen)) {
            Ok(()) => {
                if let Some(identity) = arrival.table.compiled.table.identity() {
                    identity.copied().strip(&mut arrival.head.headers);
                    if !arrival.body.is_end_stream() {
                        arrival.turn.forbids(identity.copied());
                    }
                }
                let said = if seen.banyan { Some(Box::new(strip_ours(&mut arrival.head.headers))) } else { None };
                Either::Right(self.0.call(Checked { arrival, seen, said }))
            }
            Err(fault) => {
                let failure = Checked { arrival, seen, said: None }.fails(fault);
                Either::Left(ready(Err(failure)))
            }
        }
    }
}

// === impl Seen ===

impl Seen {
    pub(super) fn in_headers(headers: &HeaderMap) -> Self {
        let mut seen = Self::default();
        for (name, value) in headers {
            match *name {
                header::HOST => seen.hosts += 1,
                header::TRANSFER_ENCODING => seen.encodings += 1,
                header::CONNECTION => seen.connection = true,
                header::UPGRADE => (seen.upgrade, seen.hop) = (true, true),
                header::TE => seen.hop = true,
                header::EXPECT => seen.expect = true,
                header::FORWARDED => seen.forwarded = true,
                header::ACCEPT if value.as_bytes().trim_ascii_start().starts_with(b"text/plain") => {
                    seen.form = Form::Plain;
                }
                header::CONTENT_TYPE if is_grpc(value.as_bytes()) => seen.form = Form::Grpc,
                _ => match name.as_str() {
                    "keep-alive" | "proxy-connection" => seen.hop = true,
                    "idempotency-key" => seen.idempotency_key = true,
                    "traceparent" => {
                        let is_first = !std::mem::replace(&mut seen.traceparent, true);
                        seen.trace = if is_first { Trace::parse(value.as_bytes()) } else { None };
                    }
                    name if spelling::begins(name, OURS) => seen.banyan = true,
                    name if spelling::begins(name, THEIRS) => seen.forwarded = true,
                    _ => {}
                },
            }
        }
        seen
    }
}

/// `application/grpc`, `application/grpc+proto` and so on; not `application/grpc-web`, whose clients read a body.
fn is_grpc(kind: &[u8]) -> bool {
    kind.strip_prefix(b"application/grpc").is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';' | b' ')))
}

fn check(method: &Method, uri: &Uri, headers: &HeaderMap, seen: Seen) -> Result<(), Fault> {
    if *method == Method::CONNECT {
        return Err(Fault::Connect);
    }
    if seen.hosts != 1 && !seen.is_hostless {
        return Err(Fault::Host);
    }
    let host = headers.get(header::HOST).map_or(&b""[..], |host| host.as_bytes());
    if host.iter().any(|byte| matches!(byte, 0..=b' ' | b'/' | b'\\' | b'@' | b',' | b'?' | b'#' | 0x7f..)) {
        return Err(Fault::Host);
    }
    let default_port: &[u8] = if uri.scheme() == Some(&Scheme::HTTPS) { b":443" } else { b":80" };
    let bare = |host: &'_ [u8]| host.strip_suffix(default_port).unwrap_or(host).to_ascii_lowercase();
    if let Some(authority) = uri.authority()
        && bare(authority.as_str().as_bytes()) != bare(host)
    {
        return Err(Fault::HostDiffers);
    }
    if seen.encodings > 0 {
        let encoding = headers.get(header::TRANSFER_ENCODING).map_or(&b""[..], |value| value.as_bytes());
        if seen.encodings > 1 || !encoding.trim_ascii().eq_ignore_ascii_case(b"chunked") {
            return Err(Fault::Framing);
        }
    }
    Ok(())
}

/// RFC 1945 has no `Host`: old health checks send none. What an absolute target names is one.
#[cold]
fn of_old(arrival: &mut Arrival, seen: &mut Seen) {
    let named = arrival.head.uri.authority().map(|authority| HeaderValue::from_str(authority.as_str()));
    match named {
        None => seen.is_hostless = true,
        Some(Ok(host)) => {
            arrival.head.headers.insert(header::HOST, host);
            seen.hosts = 1;
        }
        // Answered as one that names none.
        Some(Err(_)) => {}
    }
}

fn lower(arrival: &mut Arrival) -> Result<(), Fault> {
    let most = arrival.headers_allowed();
    let has_body = !arrival.body.is_end_stream();
    lower::lower(&mut arrival.head, has_body, most)
}

/// `X-Banyan-*` is Banyan's word; a client cannot say it to an upstream. What it said is kept for those who may ask Banyan for something.
#[cold]
fn strip_ours(headers: &mut HeaderMap) -> HeaderMap {
    let ours: Vec<HeaderName> = headers.keys().filter(|name| spelling::begins(name.as_str(), OURS)).cloned().collect();
    ours.into_iter().filter_map(|name| headers.remove(&name).map(|value| (name, value))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(target: &str, lines: &[(&'static str, &str)]) -> Result<(), Fault> {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, value.parse().unwrap());
        }
        check(&Method::POST, &target.parse().unwrap(), &headers, Seen::in_headers(&headers))
    }

    #[test]
    fn a_request_has_exactly_one_host() {
        assert_eq!(checked("/", &[("host", "a")]), Ok(()));
        assert_eq!(checked("/", &[]), Err(Fault::Host));
        assert_eq!(checked("/", &[("host", "a"), ("host", "a")]), Err(Fault::Host));
        for bad in ["a,b", "a b", "u@a", "a/b"] {
            assert_eq!(checked("/", &[("host", bad)]), Err(Fault::Host), "{bad}");
        }
    }

    #[test]
    fn an_absolute_target_agrees_with_the_host() {
        assert_eq!(checked("http://A/x", &[("host", "a:80")]), Ok(()));
        assert_eq!(checked("http://b/x", &[("host", "a")]), Err(Fault::HostDiffers));
        assert_eq!(checked("http://a:81/x", &[("host", "a")]), Err(Fault::HostDiffers));
    }

    #[test]
    fn a_transfer_encoding_is_exactly_one_chunked() {
        let with = |lines: &[(&'static str, &str)]| checked("/", &[&[("host", "a")], lines].concat());
        assert_eq!(with(&[("transfer-encoding", "Chunked ")]), Ok(()));
        for bad in ["gzip, chunked", "chunked, chunked", "identity", "chunked;q=1"] {
            assert_eq!(with(&[("transfer-encoding", bad)]), Err(Fault::Framing), "{bad}");
        }
        assert_eq!(with(&[("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")]), Err(Fault::Framing));
    }

    #[test]
    fn what_only_banyan_may_say_is_stripped() {
        let mut headers = HeaderMap::new();
        headers.insert("x-banyan-side", "modern".parse().unwrap());
        headers.insert("x-bananas", "3".parse().unwrap());
        assert!(Seen::in_headers(&headers).banyan);
        let said = strip_ours(&mut headers);
        assert_eq!((headers.len(), said.len()), (1, 1));
        headers.insert("x_banyan_side", "modern".parse().unwrap());
        assert!(Seen::in_headers(&headers).banyan);
        let said = strip_ours(&mut headers);
        assert_eq!((headers.len(), said.get("x-banyan-side")), (1, None));
    }
}
