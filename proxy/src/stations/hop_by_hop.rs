//! Headers that are said to the next hop alone (RFC 9110, 7.6.1), and the two that are put back when they are wanted there too.
//!
//! `Transfer-Encoding` is not touched on a request: there is at most one `chunked`, and hyper frames the upstream's leg by it.

use http::{HeaderMap, HeaderName, HeaderValue, header};

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// What only Banyan may say begins so.
pub(super) const OURS: &str = "x-banyan-";

/// Strips a request's; says whether it asks for trailers.
pub(super) fn strip_request(headers: &mut HeaderMap, connection: bool, others: bool) {
    let trailers = others && has_token(headers, &header::TE, "trailers");
    strip(headers, connection, others);
    if trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
}

/// What a look at an answer's headers found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stripped {
    /// False when its `Transfer-Encoding` is not exactly one `chunked`: then nobody can say where it ends.
    pub(super) is_framed: bool,
    /// There is a header that may carry the upstream's own address.
    pub(super) names_itself: bool,
}

/// Strips an answer's, and its framing, which is made anew for the client; and what only Banyan may say.
pub(super) fn strip_answer(headers: &mut HeaderMap) -> Stripped {
    let (mut connection, mut others, mut encodings, mut names_itself, mut ours) = (false, false, 0, false, false);
    for name in headers.keys() {
        match *name {
            header::CONNECTION => connection = true,
            header::TRANSFER_ENCODING => encodings = headers.get_all(name).iter().count(),
            header::TE | header::UPGRADE => others = true,
            header::LOCATION | header::CONTENT_LOCATION | header::SET_COOKIE => names_itself = true,
            _ => {
                let name = name.as_str();
                others |= name == "keep-alive" || name == "proxy-connection";
                ours |= name.starts_with(OURS);
            }
        }
    }
    strip(headers, connection, others);
    if ours {
        strip_ours(headers);
    }
    if encodings == 0 {
        return Stripped { is_framed: true, names_itself };
    }
    // A length beside it would be a second framing.
    headers.remove(header::CONTENT_LENGTH);
    let encoding = headers.remove(header::TRANSFER_ENCODING);
    let is_framed =
        encodings == 1 && encoding.is_some_and(|encoding| encoding.as_bytes().eq_ignore_ascii_case(b"chunked"));
    Stripped { is_framed, names_itself }
}

/// An upgrade to WebSocket, which is the only protocol that is tunnelled: `h2c` would let requests past the routes.
pub(super) fn asks_websocket(headers: &HeaderMap) -> bool {
    let mut protocols = headers.get_all(header::UPGRADE).iter();
    let is_websocket = protocols.next().is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"));
    is_websocket && protocols.next().is_none() && has_token(headers, &header::CONNECTION, "upgrade")
}

/// Puts the upgrade back.
pub(super) fn put_websocket(headers: &mut HeaderMap) {
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
}

/// An upstream's word under Banyan's names, `x-banyan-side` say, would be taken for Banyan's.
#[cold]
fn strip_ours(headers: &mut HeaderMap) {
    let names: Vec<HeaderName> = headers.keys().filter(|name| name.as_str().starts_with(OURS)).cloned().collect();
    for name in names {
        headers.remove(name);
    }
}

fn strip(headers: &mut HeaderMap, connection: bool, others: bool) {
    if connection && names_others(headers) {
        let named: Vec<HeaderName> = tokens(headers, &header::CONNECTION)
            .filter_map(|token| HeaderName::from_bytes(token).ok())
            .filter(|name| !is_framing(name))
            .collect();
        for name in named {
            headers.remove(name);
        }
    }
    if connection {
        headers.remove(header::CONNECTION);
    }
    if others {
        for name in [KEEP_ALIVE, PROXY_CONNECTION, header::TE, header::UPGRADE] {
            headers.remove(name);
        }
    }
}

/// Not where `Connection` says only what nearly everybody says: `Keep-Alive` itself is among the usual names.
fn names_others(headers: &HeaderMap) -> bool {
    let mut lines = headers.get_all(header::CONNECTION).iter().map(HeaderValue::as_bytes);
    let is_plain = |line: &[u8]| line.eq_ignore_ascii_case(b"keep-alive") || line.eq_ignore_ascii_case(b"close");
    !(lines.next().is_some_and(is_plain) && lines.next().is_none())
}

/// What a message is framed and found by cannot be made to disappear.
fn is_framing(name: &HeaderName) -> bool {
    matches!(*name, header::HOST | header::CONTENT_LENGTH | header::TRANSFER_ENCODING | header::CONNECTION)
}

fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    tokens(headers, name).any(|found| {
        let found = found.split(|b| *b == b';').next().unwrap_or_default();
        found.trim_ascii().eq_ignore_ascii_case(token.as_bytes())
    })
}

fn tokens<'h>(headers: &'h HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'h [u8]> {
    headers.get_all(name).iter().flat_map(|line| line.as_bytes().split(|b| *b == b',')).map(<[u8]>::trim_ascii)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::headers;

    #[test]
    fn what_connection_names_is_stripped_too() {
        let mut said = headers(&[
            ("connection", "close, X-Secret"),
            ("connection", "x-other"),
            ("x-secret", "1"),
            ("x-other", "2"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "keep-alive"),
            ("x-kept", "3"),
        ]);
        strip_request(&mut said, true, true);
        assert_eq!(said, headers(&[("x-kept", "3")]));
    }

    #[test]
    fn an_answer_loses_what_was_said_to_banyan_alone() {
        for connection in ["keep-alive", "Close", "keep-alive, x-secret", "x-secret"] {
            let mut said = headers(&[("connection", connection), ("keep-alive", "timeout=5"), ("x-kept", "3")]);
            if connection.contains("x-secret") {
                said.insert("x-secret", HeaderValue::from_static("1"));
            }
            strip_answer(&mut said);
            assert_eq!(said, headers(&[("x-kept", "3")]), "{connection}");
        }
        let mut said = headers(&[("proxy-connection", "keep-alive"), ("upgrade", "h2c"), ("te", "trailers")]);
        strip_answer(&mut said);
        assert!(said.is_empty());
    }

    #[test]
    fn what_frames_a_message_cannot_be_stripped_by_naming_it() {
        let mut said = headers(&[("connection", "content-length, host"), ("content-length", "5"), ("host", "a")]);
        strip_request(&mut said, true, false);
        assert_eq!(said, headers(&[("content-length", "5"), ("host", "a")]));
    }

    #[test]
    fn an_answer_has_one_framing_or_none() {
        let mut both = headers(&[("transfer-encoding", "Chunked"), ("content-length", "5"), ("keep-alive", "x")]);
        assert!(strip_answer(&mut both).is_framed);
        assert_eq!(both, headers(&[]));
        let mut length = headers(&[("content-length", "5"), ("connection", "keep-alive")]);
        assert!(strip_answer(&mut length).is_framed);
        assert_eq!(length, headers(&[("content-length", "5")]));
        assert!(!strip_answer(&mut headers(&[("transfer-encoding", "gzip")])).is_framed);
        assert!(
            !strip_answer(&mut headers(&[("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")]))
                .is_framed
        );
    }

    #[test]
    fn an_upstream_says_nothing_under_banyans_names() {
        let mut said = headers(&[("x-banyan-stale", "1"), ("x-bananas", "3"), ("x-banyan-side", "legacy")]);
        assert!(strip_answer(&mut said).is_framed);
        assert_eq!(said, headers(&[("x-bananas", "3")]));
    }

    #[test]
    fn a_wish_for_trailers_is_put_back() {
        let mut said = headers(&[("te", "gzip;q=0.5, Trailers"), ("connection", "te")]);
        strip_request(&mut said, true, true);
        assert_eq!(said, headers(&[("te", "trailers")]));
    }

    #[test]
    fn only_websocket_is_tunnelled() {
        assert!(asks_websocket(&headers(&[("upgrade", "WebSocket"), ("connection", "keep-alive, Upgrade")])));
        assert!(!asks_websocket(&headers(&[("upgrade", "h2c"), ("connection", "upgrade")])));
        assert!(!asks_websocket(&headers(&[("upgrade", "websocket")])));
        assert!(!asks_websocket(&headers(&[("upgrade", "websocket"), ("upgrade", "h2c"), ("connection", "upgrade")])));
    }
}
