//! What is sent, and what the upstream answers to it.

use crate::harness::{Script, upstream::Seen};

/// One request, or several on one connection. Its path tells the upstream what to answer.
pub(super) struct Case {
    pub(super) name: &'static str,
    pub(super) bytes: &'static [u8],
    /// A second request stands behind the first by right.
    pub(super) pipelines: bool,
}

const fn case(name: &'static str, bytes: &'static str) -> Case {
    Case { name, bytes: bytes.as_bytes(), pipelines: false }
}

/// `GET` with these header lines.
macro_rules! get {
    ($path:literal, $lines:literal) => {
        concat!("GET ", $path, " HTTP/1.1\r\nHost: shop.example\r\n", $lines, "\r\n")
    };
}

/// `POST` with these header lines and this body.
macro_rules! post {
    ($lines:literal, $body:literal) => {
        concat!("POST /a HTTP/1.1\r\nHost: shop.example\r\n", $lines, "\r\n", $body)
    };
}

/// Would be a request of its own if the framing before it was read in another way.
macro_rules! hidden {
    () => {
        "GET /hidden HTTP/1.1\r\nHost: a\r\n\r\n"
    };
}

pub(super) const CASES: &[Case] = &[
    // --- ordinary requests
    case("an ordinary GET", get!("/a?b=c&d=e", "Accept: */*\r\nUser-Agent: t\r\n")),
    case("two in a row", concat!(get!("/a", ""), get!("/b", ""))),
    case("HEAD", "HEAD /head HTTP/1.1\r\nHost: shop.example\r\n\r\n"),
    case("OPTIONS *", "OPTIONS * HTTP/1.1\r\nHost: shop.example\r\n\r\n"),
    case("TRACE", "TRACE /a HTTP/1.1\r\nHost: shop.example\r\n\r\n"),
    case("an unknown method", "PURGE /a HTTP/1.1\r\nHost: shop.example\r\n\r\n"),
    case("a method in lower case", "get /a HTTP/1.1\r\nHost: shop.example\r\n\r\n"),
    case("a GET with a body", "GET /a HTTP/1.1\r\nHost: shop.example\r\nContent-Length: 4\r\n\r\nbody"),
    case("a POST without a length", "POST /a HTTP/1.1\r\nHost: shop.example\r\n\r\n"),
    case("a POST of a length", post!("Content-Length: 4\r\n", "body")),
    case("a POST in chunks", post!("Transfer-Encoding: chunked\r\n", "2\r\nbo\r\n2\r\ndy\r\n0\r\n\r\n")),
    case("chunk extensions", post!("Transfer-Encoding: chunked\r\n", "4;x=y\r\nbody\r\n0\r\n\r\n")),
    case(
        "trailers of a request",
        post!("Transfer-Encoding: chunked\r\nTrailer: x-sum\r\n", "4\r\nbody\r\n0\r\nX-Sum: 7\r\n\r\n"),
    ),
    case("an empty line before a request", "\r\nGET /a HTTP/1.1\r\nHost: shop.example\r\n\r\n"),
    case("HTTP/1.0", "GET /a HTTP/1.0\r\nHost: shop.example\r\n\r\n"),
    case("HTTP/1.0 without Host", "GET /a HTTP/1.0\r\n\r\n"),
    case("HTTP/1.0 with keep-alive", "GET /a HTTP/1.0\r\nHost: shop.example\r\nConnection: keep-alive\r\n\r\n"),
    case("HTTP/1.2", "GET /a HTTP/1.2\r\nHost: shop.example\r\n\r\n"),
    case("HTTP/2.0 in a request line", "GET /a HTTP/2.0\r\nHost: shop.example\r\n\r\n"),
    // --- targets
    case("an absolute target", "GET http://shop.example/a HTTP/1.1\r\nHost: shop.example\r\n\r\n"),
    case("an absolute target of another host", "GET http://other.example/a HTTP/1.1\r\nHost: shop.example\r\n\r\n"),
    case("two slashes", get!("//a", "")),
    case("dots in a path", get!("/x/../a", "")),
    case("dots above the root", get!("/../a", "")),
    case("encoded dots", get!("/x/%2e%2e/a", "")),
    case("an encoded slash", get!("/x%2fa", "")),
    case("a bad percent", get!("/%zz", "")),
    case("an encoded NUL", get!("/%00", "")),
    case("a fragment", get!("/a#b", "")),
    case("a quote in a query", get!("/a?b=\"c\"", "")),
    case("a bar in a query", get!("/a?b=c|d", "")),
    case("a backslash in a path", get!("/a\\b", "")),
    case("a target without a slash", "GET a HTTP/1.1\r\nHost: shop.example\r\n\r\n"),
    case("two spaces in a request line", "GET  /a HTTP/1.1\r\nHost: shop.example\r\n\r\n"),
    // --- hosts
    case("no Host", "GET /a HTTP/1.1\r\n\r\n"),
    case("two equal Hosts", "GET /a HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n"),
    case("two Hosts", "GET /a HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"),
    case("an empty Host", "GET /a HTTP/1.1\r\nHost:\r\n\r\n"),
    case("a Host with a slash", "GET /a HTTP/1.1\r\nHost: a/b\r\n\r\n"),
    case("a Host with a user", "GET /a HTTP/1.1\r\nHost: u@a\r\n\r\n"),
    // --- header lines
    case("header names with `_`", get!("/a", "x_y: 1\r\n")),
    case("the same header twice", get!("/a", "X-A: 1\r\nX-A: 2\r\n")),
    case("two Cookie lines", get!("/a", "Cookie: a=1\r\nCookie: b=2\r\n")),
    case("an empty header value", get!("/a", "X-A:\r\n")),
    case("a tab in a value", get!("/a", "X-A: 1\t2\r\n")),
    case("a byte above 127 in a value", get!("/a", "X-A: ä\r\n")),
    case("a space before a colon", get!("/a", "X-A : 1\r\n")),
    case("a folded line", get!("/a", "X-A: 1\r\n 2\r\n")),
    case("NUL in a value", get!("/a", "X-A: 1\0\r\n")),
    case("a bare CR in a value", get!("/a", "X-A: 1\r2\r\n")),
    case("a line without a colon", get!("/a", "X-A\r\n")),
    case("a space in a header name", get!("/a", "X A: 1\r\n")),
    case("bare LF at lines' ends", "GET /a HTTP/1.1\nHost: shop.example\n\n"),
    // --- one hop only
    case("what Connection names", get!("/a", "Connection: close, X-Hop\r\nX-Hop: 1\r\n")),
    case("Connection names Content-Length", post!("Connection: content-length\r\nContent-Length: 4\r\n", "body")),
    case("Keep-Alive and Proxy-Connection", get!("/a", "Keep-Alive: timeout=5\r\nProxy-Connection: keep-alive\r\n")),
    case("TE", get!("/a", "TE: trailers, gzip\r\nConnection: TE\r\n")),
    case(
        "Upgrade: h2c",
        get!(
            "/a",
            "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n"
        ),
    ),
    case("Proxy-Authorization", get!("/a", "Proxy-Authorization: Basic eDp5\r\n")),
    case("Max-Forwards", get!("/a", "Max-Forwards: 0\r\n")),
    case("Via", get!("/a", "Via: 1.1 other\r\n")),
    case("Forwarded", get!("/a", "Forwarded: for=192.0.2.1\r\n")),
    case("Accept-Encoding and Range", get!("/a", "Accept-Encoding: gzip\r\nRange: bytes=0-1\r\n")),
    // --- smuggling
    case(
        "Content-Length and chunked",
        post!(
            "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n",
            "0\r\n\r\nGET /hidden HTTP/1.1\r\nHost: a\r\n\r\n"
        ),
    ),
    case("the same length twice", post!("Content-Length: 4\r\nContent-Length: 4\r\n", "body")),
    case(
        "lengths that differ",
        post!("Content-Length: 4\r\nContent-Length: 5\r\n", "bodyGET /hidden HTTP/1.1\r\nHost: a\r\n\r\n"),
    ),
    case("a list of lengths", post!("Content-Length: 4, 4\r\n", "body")),
    case("a length with `+`", post!("Content-Length: +4\r\n", "body")),
    case("a length with zeros", post!("Content-Length: 0004\r\n", "body")),
    case("a length in hex", post!("Content-Length: 0x4\r\n", "body")),
    case("a negative length", post!("Content-Length: -4\r\n", "body")),
    case(
        "an encoding that is no chunked",
        post!("Transfer-Encoding: gzip\r\n", "GET /hidden HTTP/1.1\r\nHost: a\r\n\r\n"),
    ),
    case("chunked in other letters", post!("Transfer-Encoding: Chunked\r\n", "4\r\nbody\r\n0\r\n\r\n")),
    case(
        "chunked twice",
        post!(
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            "0\r\n\r\nGET /hidden HTTP/1.1\r\nHost: a\r\n\r\n"
        ),
    ),
    case(
        "gzip, chunked",
        post!("Transfer-Encoding: gzip, chunked\r\n", "0\r\n\r\nGET /hidden HTTP/1.1\r\nHost: a\r\n\r\n"),
    ),
    case(
        "chunked, identity",
        post!("Transfer-Encoding: chunked, identity\r\n", "0\r\n\r\nGET /hidden HTTP/1.1\r\nHost: a\r\n\r\n"),
    ),
    case(
        "a space before Transfer-Encoding's colon",
        post!(
            "Transfer-Encoding : chunked\r\nContent-Length: 5\r\n",
            "0\r\n\r\nGET /hidden HTTP/1.1\r\nHost: a\r\n\r\n"
        ),
    ),
    case(
        "vertical tab before chunked",
        post!(
            "Transfer-Encoding: \u{b}chunked\r\nContent-Length: 5\r\n",
            "0\r\n\r\nGET /hidden HTTP/1.1\r\nHost: a\r\n\r\n"
        ),
    ),
    case("a bad chunk size", post!("Transfer-Encoding: chunked\r\n", "x\r\nbody\r\n0\r\n\r\n")),
    case("a chunk size with 0x", post!("Transfer-Encoding: chunked\r\n", "0x4\r\nbody\r\n0\r\n\r\n")),
    case("a chunk that is longer than it says", post!("Transfer-Encoding: chunked\r\n", "2\r\nbody\r\n0\r\n\r\n")),
    case("a chunk ended by LF alone", post!("Transfer-Encoding: chunked\r\n", "4\r\nbody\n0\r\n\r\n")),
    case("a chunk size ended by LF alone", post!("Transfer-Encoding: chunked\r\n", "4\nbody\r\n0\r\n\r\n")),
    case(
        "chunked in HTTP/1.0",
        "POST /a HTTP/1.0\r\nHost: shop.example\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n",
    ),
    Case {
        pipelines: true,
        ..case("a request behind a GET's head", concat!(get!("/a", "Content-Length: 0\r\n"), hidden!()))
    },
    // --- answers
    case("an answer in chunks", get!("/chunked", "")),
    case("an answer in chunks to HTTP/1.0", "GET /chunked HTTP/1.0\r\nHost: shop.example\r\n\r\n"),
    case("an answer with trailers", get!("/trailers", "TE: trailers\r\n")),
    case("an answer to the end of the connection", get!("/rest", "")),
    case("an answer with both framings", get!("/both", "")),
    case("an answer with two lengths", get!("/lengths", "")),
    case("an answer with the same length twice", get!("/same", "")),
    case("an answer with a folded line", get!("/folded", "")),
    case("204 with a length", get!("/204", "")),
    case("304 with a length", get!("/304", "")),
    case("hop-by-hop headers of an answer", get!("/hop", "")),
    case("two cookies of an answer", get!("/cookies", "")),
    case("an unknown status", get!("/status", "")),
];

/// By the path of the case.
pub(super) fn answer(seen: &Seen) -> Script {
    let send = |bytes: &str| Script::send(bytes.as_bytes());
    match seen.path().trim_start_matches('/') {
        "probe" => Script::ok("probed"),
        "head" => send("HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n"),
        "chunked" => send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"),
        "trailers" => send(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n2\r\nok\r\n0\r\nX-Sum: 7\r\n\r\n",
        ),
        "rest" => send("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nok").then_close(),
        "both" => {
            send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n")
        }
        "lengths" => send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok").then_close(),
        "same" => send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok"),
        "folded" => send("HTTP/1.1 200 OK\r\nX-A: 1\r\n 2\r\nContent-Length: 2\r\n\r\nok").then_close(),
        "204" => send("HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n"),
        "304" => send("HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\nETag: \"x\"\r\n\r\n"),
        "hop" => send(
            "HTTP/1.1 200 OK\r\nConnection: X-Hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\nContent-Length: 2\r\n\r\nok",
        ),
        "cookies" => send("HTTP/1.1 200 OK\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\nContent-Length: 2\r\n\r\nok"),
        "status" => send("HTTP/1.1 299 Odd\r\nContent-Length: 2\r\n\r\nok"),
        _ => Script::ok("ok"),
    }
}
