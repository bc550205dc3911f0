//! Requests over HTTP/2, as frames made by hand: what no library would send is sent as it stands here.

use std::net::SocketAddr;

use crate::harness::{Raw, client::Cut};

/// One request on a connection of its own.
pub(super) struct Case {
    pub(super) name: &'static str,
    /// In the order in which they are sent; names that begin with `:` are no different.
    fields: &'static [(&'static str, &'static str)],
    /// DATA frames; `None` ends the stream with its head.
    body: Option<&'static [&'static str]>,
    trailers: &'static [(&'static str, &'static str)],
    /// The upstream may answer before the rest comes: what the client sees is then a matter of luck.
    pub(super) races: bool,
}

const fn case(name: &'static str, fields: &'static [(&'static str, &'static str)]) -> Case {
    Case { name, fields, body: None, trailers: &[], races: false }
}

const fn with_body(
    name: &'static str,
    fields: &'static [(&'static str, &'static str)],
    body: &'static [&'static str],
) -> Case {
    Case { name, fields, body: Some(body), trailers: &[], races: false }
}

/// An ordinary head of this method and path, and what follows it.
macro_rules! head {
    ($method:literal, $path:literal $(, $name:literal: $value:literal)*) => {
        &[
            (":method", $method), (":scheme", "http"), (":authority", "shop.example"), (":path", $path),
            $(($name, $value)),*
        ]
    };
}

const HIDDEN: &str = "GET /hidden HTTP/1.1\r\nHost: a\r\n\r\n";

pub(super) const CASES: &[Case] = &[
    // --- ordinary requests
    case("an ordinary GET", head!("GET", "/a?b=c&d=e", "accept": "*/*", "user-agent": "t")),
    case("HEAD", head!("HEAD", "/head")),
    case("an unknown method", head!("PURGE", "/a")),
    case("OPTIONS *", head!("OPTIONS", "*")),
    with_body("a POST of a length", head!("POST", "/a", "content-length": "4"), &["bo", "dy"]),
    with_body("a POST without a length", head!("POST", "/a"), &["body"]),
    case("a POST without a body", head!("POST", "/a")),
    with_body("a GET with a body", head!("GET", "/a"), &["body"]),
    Case {
        name: "trailers of a request",
        fields: head!("POST", "/a", "trailer": "x-sum"),
        body: Some(&["body"]),
        trailers: &[("x-sum", "7")],
        races: false,
    },
    case("cookies in crumbs", head!("GET", "/a", "cookie": "a=1", "cookie": "b=2")),
    case("the same header twice", head!("GET", "/a", "x-a": "1", "x-a": "2")),
    case("te: trailers", head!("GET", "/a", "te": "trailers")),
    case("an answer with trailers", head!("GET", "/trailers", "te": "trailers")),
    case("an answer to the end of the connection", head!("GET", "/rest")),
    case("an answer with two lengths", head!("GET", "/lengths")),
    case("an answer's hop-by-hop headers", head!("GET", "/hop")),
    case("304 with a length", head!("GET", "/304")),
    // --- pseudo-header fields
    case("no method", &[(":scheme", "http"), (":authority", "a"), (":path", "/a")]),
    case("no scheme", &[(":method", "GET"), (":authority", "a"), (":path", "/a")]),
    case("no path", &[(":method", "GET"), (":scheme", "http"), (":authority", "a")]),
    case("an empty path", head!("GET", "")),
    case("a path without a slash", head!("GET", "a")),
    case("a path in absolute form", head!("GET", "http://other.example/a")),
    case("a path with a space", head!("GET", "/a b")),
    case("a path with a fragment", head!("GET", "/a#b")),
    case("a path of two lines", head!("GET", "/a HTTP/1.1\r\nx-hidden: 1\r\n\r\nGET /hidden")),
    case("a method of two words", head!("GET /hidden", "/a")),
    case("two paths", head!("GET", "/a", ":path": "/b")),
    case(
        "a pseudo-header behind another",
        &[(":method", "GET"), (":scheme", "http"), (":authority", "a"), ("x-a", "1"), (":path", "/a")],
    ),
    case("an unknown pseudo-header", head!("GET", "/a", ":x": "1")),
    case("a response's pseudo-header", head!("GET", "/a", ":status": "200")),
    case("a scheme that is none", &[(":method", "GET"), (":scheme", "a b"), (":authority", "a"), (":path", "/a")]),
    case("another scheme", &[(":method", "GET"), (":scheme", "https"), (":authority", "a"), (":path", "/a")]),
    case("CONNECT", &[(":method", "CONNECT"), (":authority", "shop.example:80")]),
    // --- hosts
    case("host alone", &[(":method", "GET"), (":scheme", "http"), (":path", "/a"), ("host", "shop.example")]),
    case("neither authority nor host", &[(":method", "GET"), (":scheme", "http"), (":path", "/a")]),
    case("host as the authority", head!("GET", "/a", "host": "shop.example")),
    case("host besides the authority", head!("GET", "/a", "host": "other.example")),
    case("two hosts", head!("GET", "/a", "host": "shop.example", "host": "shop.example")),
    case(
        "an authority with a user",
        &[(":method", "GET"), (":scheme", "http"), (":authority", "u@a"), (":path", "/a")],
    ),
    case(
        "an authority with a slash",
        &[(":method", "GET"), (":scheme", "http"), (":authority", "a/b"), (":path", "/a")],
    ),
    // --- fields
    case("a name in upper case", head!("GET", "/a", "X-A": "1")),
    case("a name with a colon", head!("GET", "/a", "x:a": "1")),
    case("a name with a space", head!("GET", "/a", "x a": "1")),
    case("a name with `_`", head!("GET", "/a", "x_y": "1")),
    case("an empty name", head!("GET", "/a", "": "1")),
    case("a name of two lines", head!("GET", "/a", "x-a: 1\r\nx-hidden": "1")),
    case("a value of two lines", head!("GET", "/a", "x-a": "1\r\nx-hidden: 1")),
    case("a value with a bare LF", head!("GET", "/a", "x-a": "1\nx-hidden: 1")),
    case("a value with NUL", head!("GET", "/a", "x-a": "1\x002")),
    case("a value with spaces around it", head!("GET", "/a", "x-a": " 1 ")),
    case("connection", head!("GET", "/a", "connection": "x-hop", "x-hop": "1")),
    case("keep-alive", head!("GET", "/a", "keep-alive": "timeout=5")),
    case("proxy-connection", head!("GET", "/a", "proxy-connection": "keep-alive")),
    case("upgrade", head!("GET", "/a", "upgrade": "h2c")),
    case("te: gzip", head!("GET", "/a", "te": "gzip")),
    case("x-forwarded-for", head!("GET", "/a", "x-forwarded-for": "192.0.2.1")),
    // --- smuggling by the way down
    with_body("transfer-encoding", head!("POST", "/a", "transfer-encoding": "chunked"), &["0\r\n\r\n", HIDDEN]),
    Case {
        races: true,
        ..with_body("a length of 0 and a body", head!("POST", "/a", "content-length": "0"), &[HIDDEN])
    },
    with_body("a body longer than its length", head!("POST", "/a", "content-length": "2"), &["body"]),
    with_body("a body shorter than its length", head!("POST", "/a", "content-length": "9"), &["body"]),
    case("a length and no body", head!("POST", "/a", "content-length": "4")),
    with_body("two lengths", head!("POST", "/a", "content-length": "4", "content-length": "5"), &["body"]),
    with_body("the same length twice", head!("POST", "/a", "content-length": "4", "content-length": "4"), &["body"]),
    with_body("a list of lengths", head!("POST", "/a", "content-length": "4, 4"), &["body"]),
    with_body("a length with `+`", head!("POST", "/a", "content-length": "+4"), &["body"]),
    with_body(
        "a length of two lines",
        head!("POST", "/a", "content-length": "4\r\ntransfer-encoding: chunked"),
        &["body"],
    ),
    Case {
        name: "a pseudo-header among the trailers",
        fields: head!("POST", "/a"),
        body: Some(&["body"]),
        trailers: &[(":path", "/hidden")],
        races: false,
    },
    Case {
        name: "a length among the trailers",
        fields: head!("POST", "/a"),
        body: Some(&["body"]),
        trailers: &[("content-length", "9")],
        races: false,
    },
];

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;
const PRIORITY: u8 = 0x20;

/// What is asked behind the case on the same connection, if there still is one.
const PROBE: &[(&str, &str)] = head!("GET", "/probe");

/// What the client saw of a case: the status or the error, and whether the connection was kept.
pub(super) async fn client(case: &Case, http: SocketAddr) -> String {
    let mut raw = Raw::connect(http).await;
    raw.send([PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()).await;
    let ends = |is_last: bool| if is_last { END_STREAM } else { 0 };
    raw.send(frame(HEADERS, END_HEADERS | ends(case.body.is_none()), 1, &block(case.fields))).await;
    let chunks = case.body.unwrap_or_default();
    for (at, chunk) in chunks.iter().enumerate() {
        let is_last = at + 1 == chunks.len() && case.trailers.is_empty();
        raw.send(frame(DATA, ends(is_last), 1, chunk.as_bytes())).await;
    }
    if !case.trailers.is_empty() {
        raw.send(frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(case.trailers))).await;
    }
    let (first, is_over) = answer(&mut raw, 1).await;
    if is_over {
        return format!("{first}, closed");
    }
    raw.send(frame(HEADERS, END_HEADERS | END_STREAM, 3, &block(PROBE))).await;
    let (probe, _) = answer(&mut raw, 3).await;
    format!("{first}, {}", if probe == "200" { "kept" } else { "closed" })
}

/// The end of a stream, and whether it was the connection's as well.
async fn answer(raw: &mut Raw, wanted: u32) -> (String, bool) {
    let mut status = None;
    loop {
        let head = match raw.exactly(9).await {
            Ok(head) => head,
            Err(Cut::Silence) => {
                return (status.map_or("silence".to_owned(), |status| format!("{status}, silence")), true);
            }
            Err(_) => return (status.map_or("no answer".to_owned(), |status| format!("{status}, cut off")), true),
        };
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let (kind, flags) = (head[3], head[4]);
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        let Ok(payload) = raw.exactly(length as usize).await else { return ("half a frame".to_owned(), true) };
        match kind {
            SETTINGS if flags & ACK == 0 => raw.send(frame(SETTINGS, ACK, 0, &[])).await,
            PING if flags & ACK == 0 => raw.send(frame(PING, ACK, 0, &payload)).await,
            GOAWAY => {
                let code = u32::from_be_bytes([payload[4], payload[5], payload[6], payload[7]]);
                // Who says farewell without an error still answers what it has begun.
                if code != 0 || status.is_some() {
                    return (format!("GOAWAY {}", reason(code)), true);
                }
            }
            RST_STREAM if stream == wanted => {
                let reset = reason(u32::from_be_bytes([payload[0], payload[1], payload[2], payload[3]]));
                return (
                    status.map_or(format!("RST_STREAM {reset}"), |status| format!("{status}, then {reset}")),
                    false,
                );
            }
            HEADERS if stream == wanted => {
                status = status.or_else(|| Some(status_of(unpadded(flags, &payload))));
                if flags & END_STREAM != 0 {
                    return (status.unwrap_or_default(), false);
                }
            }
            DATA if stream == wanted && flags & END_STREAM != 0 => return (status.unwrap_or_default(), false),
            _ => {}
        }
    }
}

/// Names of RFC 9113, 7.
fn reason(code: u32) -> &'static str {
    match code {
        0 => "NO_ERROR",
        1 => "PROTOCOL_ERROR",
        2 => "INTERNAL_ERROR",
        5 => "STREAM_CLOSED",
        7 => "REFUSED_STREAM",
        8 => "CANCEL",
        9 => "COMPRESSION_ERROR",
        11 => "ENHANCE_YOUR_CALM",
        13 => "HTTP_1_1_REQUIRED",
        _ => "another error",
    }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Fields as HPACK literals that are not indexed and not compressed (RFC 7541, 6.2.2): any bytes at all.
fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let text = |text: &str| {
        assert!(text.len() < 127, "longer ones need more than one byte for their length");
        [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat()
    };
    fields.iter().flat_map(|(name, value)| [vec![0], text(name), text(value)].concat()).collect()
}

/// The block of a HEADERS frame.
fn unpadded(flags: u8, payload: &[u8]) -> &[u8] {
    let (mut from, mut to) = (0, payload.len());
    if flags & PADDED != 0 {
        (from, to) = (1, to - usize::from(payload[0]));
    }
    &payload[from + if flags & PRIORITY != 0 { 5 } else { 0 }..to]
}

/// `:status`, which comes first: by number where HPACK knows it, else as three digits, mostly in Huffman's code (RFC 7541, appendices A and B).
fn status_of(mut block: &[u8]) -> String {
    // Changes of the table's size may stand before it.
    while block[0] & 0xe0 == 0x20 {
        block = &block[if block[0] & 0x1f == 0x1f { 2 } else { 1 }..];
    }
    if block[0] & 0x80 != 0 {
        let known = ["200", "204", "206", "304", "400", "404", "500"];
        return known[usize::from(block[0] & 0x7f) - 8].to_owned();
    }
    // A literal, by the number of its name or with its name; that one may be in Huffman's code, too.
    let by_number = block[0] & if block[0] & 0x40 != 0 { 0x3f } else { 0x0f };
    block = if by_number == 0 { &block[2 + usize::from(block[1] & 0x7f)..] } else { &block[1..] };
    let (length, bytes) = (usize::from(block[0] & 0x7f), &block[1..]);
    if block[0] & 0x80 == 0 {
        return String::from_utf8_lossy(&bytes[..length]).into_owned();
    }
    let mut bits = bytes[..length].iter().flat_map(|byte| (0..8).rev().map(move |at| u32::from(byte >> at & 1)));
    let mut take = |count: usize| bits.by_ref().take(count).fold(0, |all, bit| all << 1 | bit);
    let digit = |_| match take(5) {
        low @ 0..=2 => low,
        // 3 to 9 take a sixth bit.
        high => (high << 1 | take(1)) - 0x19 + 3,
    };
    (0..3).map(digit).map(|digit| digit.to_string()).collect()
}
