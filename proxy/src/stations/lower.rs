//! Makes of an HTTP/2 head what every other station knows: one `Host`, one `Cookie`, and an upgrade instead of an extended CONNECT.
//!
//! h2 has refused by now what RFC 9113, 8.2 forbids (names in capitals, `Connection` and its like, any `TE` but `trailers`, line ends in
//! values, a length that the data does not have).

use base64::{Engine, engine::general_purpose::STANDARD};
use http::{HeaderMap, HeaderValue, Method, header, request};
use hyper::ext::Protocol;

use super::hop_by_hop;
use crate::error::Fault;

/// `has_body`: more than the head comes. `most`: how many header lines are allowed.
pub(super) fn lower(head: &mut request::Parts, has_body: bool, most: usize) -> Result<(), Fault> {
    if head.headers.len() > most {
        return Err(Fault::TooManyHeaders);
    }
    let is_measured = length(&head.headers)?;
    if has_body && !is_measured {
        // Said in words, since hyper takes it for granted that a GET without a framing has no body.
        head.headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    if let Some(authority) = head.uri.authority()
        && !head.headers.contains_key(header::HOST)
    {
        let host = HeaderValue::from_str(authority.as_str()).map_err(|_| Fault::Host)?;
        head.headers.insert(header::HOST, host);
    }
    join_cookies(&mut head.headers);
    if head.method == Method::CONNECT {
        websocket(head)?;
    }
    Ok(())
}

/// Whether there is a length. h2 holds the data against the first one only.
fn length(headers: &HeaderMap) -> Result<bool, Fault> {
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    let Some(first) = lengths.next() else { return Ok(false) };
    let is_number = !first.is_empty() && first.as_bytes().iter().all(u8::is_ascii_digit);
    if is_number && lengths.next().is_none() { Ok(true) } else { Err(Fault::Framing) }
}

/// A client may cut them at will, for the sake of compression (RFC 9113, 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    if headers.get_all(header::COOKIE).iter().nth(1).is_none() {
        return;
    }
    let crumbs: Vec<&[u8]> = headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if let Ok(cookie) = HeaderValue::from_bytes(&crumbs.join(&b"; "[..])) {
        headers.insert(header::COOKIE, cookie);
    }
}

/// RFC 8441: as the upstream knows it from HTTP/1.1, with a key of Banyan's own.
fn websocket(head: &mut request::Parts) -> Result<(), Fault> {
    let protocol = head.extensions.remove::<Protocol>().ok_or(Fault::Connect)?;
    if !protocol.as_str().eq_ignore_ascii_case("websocket") {
        return Err(Fault::Connect);
    }
    let mut key = [0; 16];
    getrandom::fill(&mut key).map_err(|_| Fault::NoSide)?;
    let key = HeaderValue::try_from(STANDARD.encode(key)).map_err(|_| Fault::NoSide)?;
    head.method = Method::GET;
    head.headers.insert(header::SEC_WEBSOCKET_KEY, key);
    hop_by_hop::put_websocket(&mut head.headers);
    Ok(())
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn lowered(lines: &[(&'static str, &'static str)]) -> Result<HeaderMap, Fault> {
        let (mut head, ()) = Request::get("https://shop/x").body(()).unwrap().into_parts();
        for (name, value) in lines {
            head.headers.append(*name, HeaderValue::from_static(value));
        }
        lower(&mut head, false, 4).map(|()| head.headers)
    }

    #[test]
    fn an_authority_becomes_the_host_where_there_is_none() {
        assert_eq!(lowered(&[]).unwrap()["host"], "shop");
        assert_eq!(lowered(&[("host", "other")]).unwrap()["host"], "other");
    }

    #[test]
    fn crumbs_become_one_cookie() {
        let headers = lowered(&[("cookie", "a=1"), ("x", "y"), ("cookie", "b=2; c=3")]).unwrap();
        assert_eq!(headers.get_all("cookie").iter().collect::<Vec<_>>(), ["a=1; b=2; c=3"]);
    }

    #[test]
    fn a_length_is_one_number() {
        assert!(lowered(&[("content-length", "5")]).is_ok());
        for bad in [
            &[("content-length", "5"), ("content-length", "5")][..],
            &[("content-length", "+5")],
            &[("content-length", "")],
        ] {
            assert_eq!(lowered(bad).unwrap_err(), Fault::Framing, "{bad:?}");
        }
    }

    #[test]
    fn there_are_no_more_headers_than_allowed() {
        assert_eq!(
            lowered(&[("a", "1"), ("b", "2"), ("c", "3"), ("d", "4"), ("e", "5")]).unwrap_err(),
            Fault::TooManyHeaders
        );
    }
}
