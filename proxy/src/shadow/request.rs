//! The head of a copy: the same request as the answering side gets, marked, without what belongs to one connection or to Banyan.

use bytes::BytesMut;
use http::{
    HeaderMap, HeaderName, HeaderValue, Request, Uri, Version,
    header::{
        CONNECTION, CONTENT_LENGTH, COOKIE, EXPECT, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRAILER,
        TRANSFER_ENCODING, UPGRADE,
    },
    request::Parts,
    uri::PathAndQuery,
};

use super::buffer::Upload;
use crate::{
    split::WRITES_COOKIE,
    table::Target,
    trace::{TRACEPARENT, Trace},
};

/// Tells the shadow upstream that nobody waits for its answer.
const MARK: HeaderName = HeaderName::from_static("x-banyan-shadow");

/// The copy for one target; `None` when its path cannot be written, which the answering side would have refused too.
pub(super) fn copy(head: &Parts, target: &Target, path: &str, prefix_end: usize) -> Option<Request<Upload>> {
    // Copied, as the values of headers are: the client's bytes would hold the whole buffer that they were read into.
    let path_and_query = match target.path_and_query(path, prefix_end, head.uri.query()) {
        Some(rewritten) => PathAndQuery::try_from(rewritten).ok()?,
        None => PathAndQuery::try_from(head.uri.path_and_query()?.as_str()).ok()?,
    };
    let mut request = Request::new(Upload::default());
    *request.method_mut() = head.method.clone();
    *request.uri_mut() = Uri::from(path_and_query);
    *request.version_mut() = Version::HTTP_11;
    *request.headers_mut() = apart(clean(&head.headers));
    if let Some(nothing) = head.headers.get(CONTENT_LENGTH).filter(|length| *length == "0") {
        // Some servers refuse a write that does not say so; of a body the length is known when it has come.
        request.headers_mut().insert(CONTENT_LENGTH, nothing.clone());
    }
    target.shape_request(request.headers_mut());
    Some(request)
}

/// RFC 9110, 7.6.1: what `Connection` names goes with it.
fn clean(given: &HeaderMap) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(given.len() + 1);
    let connection: Vec<&[u8]> = given
        .get_all(CONNECTION)
        .iter()
        .flat_map(|line| line.as_bytes().split(|b| *b == b','))
        .map(<[u8]>::trim_ascii)
        .collect();
    for (name, value) in given {
        if is_left_out(name) || connection.iter().any(|token| token.eq_ignore_ascii_case(name.as_str().as_bytes())) {
            continue;
        }
        if name == COOKIE {
            if let Some(rest) = without_own_writes(value) {
                headers.append(name, rest);
            }
            continue;
        }
        if name == TRACEPARENT {
            // In the same trace, but nobody's child: what nobody waits for is not recorded beside what the client got.
            if let Some(trace) = Trace::parse(value.as_bytes()) {
                headers.insert(name, trace.child().unsampled().header());
            }
            continue;
        }
        headers.append(name, value.clone());
    }
    headers.insert(MARK, HeaderValue::from_static("1"));
    headers
}

/// The same headers in a buffer of their own.
pub(super) fn apart(mut headers: HeaderMap) -> HeaderMap {
    let mut all = BytesMut::with_capacity(headers.values().map(HeaderValue::len).sum());
    for value in headers.values_mut() {
        all.extend_from_slice(value.as_bytes());
        let is_sensitive = value.is_sensitive();
        // What was a value is one.
        if let Ok(mut own) = HeaderValue::from_maybe_shared(all.split().freeze()) {
            own.set_sensitive(is_sensitive);
            *value = own;
        }
    }
    headers
}

fn is_left_out(name: &HeaderName) -> bool {
    const NAMES: [HeaderName; 9] = [
        CONNECTION,
        CONTENT_LENGTH,
        EXPECT,
        PROXY_AUTHENTICATE,
        PROXY_AUTHORIZATION,
        TE,
        TRAILER,
        TRANSFER_ENCODING,
        UPGRADE,
    ];
    NAMES.contains(name)
        || matches!(name.as_str(), "keep-alive" | "proxy-connection")
        || name.as_str().starts_with("x-banyan-")
}

/// The cookies without `banyan_w`; `None` when nothing is left.
fn without_own_writes(value: &HeaderValue) -> Option<HeaderValue> {
    let is_own = |pair: &&[u8]| {
        pair.trim_ascii_start().strip_prefix(WRITES_COOKIE.as_bytes()).is_some_and(|rest| rest.first() == Some(&b'='))
    };
    let pairs: Vec<&[u8]> = value.as_bytes().split(|b| *b == b';').collect();
    if !pairs.iter().any(&is_own) {
        return Some(value.clone());
    }
    let rest: Vec<&[u8]> = pairs.into_iter().filter(|pair| !is_own(pair)).collect();
    let joined = rest.join(&b';');
    let joined = joined.trim_ascii();
    if joined.is_empty() { None } else { HeaderValue::from_bytes(joined).ok() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::{Changes, Own, Shaping};

    fn head(lines: &[(&'static str, &'static str)]) -> Parts {
        let mut request = Request::get("http://shop.example/payments/7?x=1");
        for (name, value) in lines {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn target(rewrite: Option<&str>) -> Target {
        let own = Own::new(["http://10.0.0.2:7002"].into_iter(), None);
        Target { upstream: "u".into(), index: 0, rewrite: rewrite.map(Into::into), own, shaping: None }
    }

    #[test]
    fn a_copy_is_marked_and_carries_nothing_of_one_connection_or_of_banyan() {
        let head = head(&[
            ("host", "shop.example"),
            ("connection", "keep-alive, X-Hop"),
            ("x-hop", "1"),
            ("keep-alive", "5"),
            ("te", "trailers"),
            ("x-banyan-side", "modern"),
            ("x-banyan-shadow", "0"),
            ("cookie", "a=1; banyan_w=signed; b=2"),
            ("cookie", "banyan_w=signed"),
            ("x-user-id", "ann"),
        ]);
        let copy = copy(&head, &target(None), "/payments/7", 9).unwrap();
        assert_eq!(copy.uri(), "/payments/7?x=1");
        let mut names: Vec<&str> = copy.headers().keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["cookie", "host", "x-banyan-shadow", "x-user-id"]);
        assert_eq!(copy.headers()[MARK], "1");
        let cookies: Vec<_> = copy.headers().get_all(COOKIE).iter().collect();
        assert_eq!(cookies, ["a=1; b=2"]);
    }

    #[test]
    fn a_copy_is_rewritten_for_its_own_side() {
        let copy = copy(&head(&[]), &target(Some("/v2")), "/payments/7", 9).unwrap();
        assert_eq!(copy.uri(), "/v2/7?x=1");
        let set = [(HeaderName::from_static("x-tenant"), HeaderValue::from_static("acme"))].into();
        let shaping = Shaping {
            host: Some(HeaderValue::from_static("payments.internal")),
            request: Changes { set, ..Changes::default() },
            ..Shaping::default()
        };
        let target = Target { shaping: Some(Box::new(shaping)), ..target(None) };
        let copy = super::copy(&head(&[("host", "shop.example")]), &target, "/payments/7", 9).unwrap();
        assert_eq!(
            (&copy.headers()["host"], &copy.headers()["x-tenant"]),
            (&"payments.internal".parse().unwrap(), &"acme".parse().unwrap())
        );
    }

    #[test]
    fn a_copy_stays_in_its_trace_and_is_not_recorded() {
        let head = head(&[("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")]);
        let copy = copy(&head, &target(None), "/payments/7", 9).unwrap();
        let told = copy.headers()[TRACEPARENT].to_str().unwrap();
        assert!(told.starts_with("00-0af7651916cd43dd8448eb211c80319c-") && told.ends_with("-00"), "{told}");
        assert!(!told.contains("b7ad6b7169203331"), "{told}");
    }
}
