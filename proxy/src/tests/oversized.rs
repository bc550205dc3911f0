//! Too much of anything, over both protocols: it is answered as the RFCs say, costs no more memory than the limits allow, reaches no upstream, and
//! the next client is served.

use std::time::Duration;

use bytes::Bytes;
use h2::Reason;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use tokio::{io::AsyncWriteExt, time::timeout};

use super::{
    Bench, Setup, Upstream,
    http2::{ask, connect, request},
};

const PATIENCE: Duration = Duration::from_secs(10);
/// More than everything between a client and Banyan may hold (the kernel's buffers, and what Banyan reads of what it has refused).
const ENDLESS: usize = 64 << 20;

async fn bench() -> (Bench, Upstream) {
    let upstream = Upstream::named("ok").await;
    (Setup::new(upstream.address).workers(1).start(), upstream)
}

/// The statuses of all answers to these bytes, to the end of the connection.
async fn statuses(bench: &Bench, bytes: &[u8]) -> Vec<u16> {
    let mut client = bench.client().await;
    // It may be closed before all is sent.
    drop(client.stream.write_all(bytes).await);
    drop(client.stream.shutdown().await);
    let mut statuses = Vec::new();
    while let Some(answer) = client.try_answer(false).await {
        statuses.push(answer.status);
    }
    statuses
}

#[tokio::test]
async fn too_much_of_a_request_over_http1_is_refused_as_the_rfcs_say() {
    let (bench, upstream) = bench().await;
    let get = |target: &str, lines: &str| format!("GET {target} HTTP/1.1\r\nHost: a\r\n{lines}\r\n");
    let many = |line: &str, count: usize| line.repeat(count);
    let chunked = |body: &str| format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{body}");
    let length = |value: &str| format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {value}\r\n\r\nbody");
    // A target that is too long as such is a 414 (`limits.rs`): here the whole head is.
    for (what, status, bytes) in [
        ("a target", 431, get(&format!("/{}", "x".repeat(66_000)), "")),
        ("a query", 431, get(&format!("/?{}", "x".repeat(66_000)), "")),
        ("one header", 431, get("/", &format!("X: {}\r\n", "y".repeat(70_000)))),
        ("a header's name", 431, get("/", &format!("{}: y\r\n", "x".repeat(70_000)))),
        ("headers", 431, get("/", &many("X: y\r\n", 200))),
        ("cookies", 431, get("/", &many("Cookie: a=b\r\n", 200))),
        ("a cookie", 431, get("/", &format!("Cookie: {}\r\n", "a=b; ".repeat(20_000)))),
        ("a length that overflows", 400, length("18446744073709551616")),
        ("a length of many digits", 400, length(&"9".repeat(1000))),
        ("a chunk's size that overflows", 400, chunked("10000000000000000\r\n")),
        ("a chunk's size of many digits", 400, chunked(&format!("{}\r\nx\r\n0\r\n\r\n", "f".repeat(1000)))),
        ("an extension", 400, chunked(&format!("1;{}\r\nx\r\n0\r\n\r\n", "e".repeat(70_000)))),
        ("a trailer", 400, chunked(&format!("1\r\nx\r\n0\r\nX: {}\r\n\r\n", "y".repeat(70_000)))),
        ("trailers", 400, chunked(&format!("1\r\nx\r\n0\r\n{}\r\n", many("X: y\r\n", 200)))),
    ] {
        assert_eq!(statuses(&bench, bytes.as_bytes()).await, [status], "{what}");
    }
    // Of what was refused in its body, a beginning may have gone on; of no request all.
    assert!(!upstream.bytes().contains("\r\n0\r\n\r\n"), "{}", upstream.bytes());
    assert_eq!(bench.ask(&get("/", "")).await.text(), "ok");
}

#[tokio::test]
async fn of_what_never_ends_no_more_is_read_than_the_limits_allow() {
    let (bench, _upstream) = bench().await;
    let piece = vec![b'x'; 64 << 10];
    for begin in [
        "GET /",
        "GET / HTTP/1.1\r\nHost: a\r\nX: ",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1;",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nX: ",
    ] {
        let mut client = bench.client().await;
        client.send(begin).await;
        let mut written = 0;
        while written < ENDLESS {
            match timeout(PATIENCE, client.stream.write(&piece)).await.expect("it reads or closes") {
                Ok(count) => written += count,
                Err(_) => break,
            }
        }
        assert!(written < ENDLESS, "{begin:?} is read without end");
    }
    assert_eq!(bench.ask("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.text(), "ok");
}

#[tokio::test]
async fn too_much_of_a_request_over_http2_is_refused_and_the_connection_serves_on() {
    let (bench, upstream) = bench().await;
    let (sender, _) = connect(&bench).await;
    let with = |headers: HeaderMap| {
        let mut asked = request("GET", "/");
        *asked.headers_mut() = headers;
        asked
    };
    let value = |text: String| HeaderValue::from_str(&text).unwrap();
    let many = |name: &'static str, count| {
        (0..count).map(|_| (HeaderName::from_static(name), HeaderValue::from_static("a=b"))).collect()
    };
    let one = |name: &'static str, text: String| [(HeaderName::from_static(name), value(text))].into_iter().collect();
    for (what, asked) in [
        ("headers", with(many("x-many", 200))),
        ("one header", with(one("x-long", "y".repeat(70_000)))),
        ("a cookie", with(one("cookie", "a=b; ".repeat(20_000)))),
    ] {
        match ask(&sender, asked).await {
            Ok((status, _)) => assert_eq!(status, StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "{what}"),
            Err(error) => assert!(error.is_reset(), "{what}: {error}"),
        }
    }
    // Crumbs are one cookie (RFC 9113, 8.2.3), however many they come in, as long as they fit.
    let before = upstream.bytes().len();
    assert_eq!(before, 0, "{}", upstream.bytes());
    let (status, _) = ask(&sender, with(many("cookie", 90))).await.unwrap();
    assert_eq!(status, 200);
    assert_eq!(upstream.bytes().to_ascii_lowercase().matches("cookie: ").count(), 1);
    assert_eq!(ask(&sender, request("GET", "/")).await.unwrap().1, "ok");
}

/// What is sent as a body of a stream, and how its request was answered.
async fn post(
    bench: &Bench,
    length: &str,
    body: &[&str],
    trailers: Option<HeaderMap>,
) -> Result<StatusCode, h2::Error> {
    let (sender, _) = connect(bench).await;
    let mut sender = sender.ready().await?;
    let mut asked = request("POST", "/post");
    if !length.is_empty() {
        asked.headers_mut().insert("content-length", length.parse().unwrap());
    }
    if trailers.is_some() {
        asked.headers_mut().clear();
        asked.headers_mut().insert("te", HeaderValue::from_static("trailers"));
        let named = trailers.iter().flat_map(HeaderMap::keys).map(HeaderName::as_str).collect::<Vec<_>>().join(", ");
        asked.headers_mut().insert("trailer", named.parse().unwrap());
    }
    let (answer, mut up) = sender.send_request(asked, false)?;
    for (at, piece) in body.iter().enumerate() {
        // The stream may have been reset meanwhile; the answer tells.
        drop(up.send_data(Bytes::copy_from_slice(piece.as_bytes()), at + 1 == body.len() && trailers.is_none()));
    }
    if let Some(trailers) = trailers {
        drop(up.send_trailers(trailers));
    }
    timeout(PATIENCE, answer).await.expect("it is answered or reset").map(|answer| answer.status())
}

#[tokio::test]
async fn a_length_over_http2_that_is_not_the_bodys_is_no_request_to_an_http1_upstream() {
    let (bench, upstream) = bench().await;
    assert_eq!(post(&bench, "5", &["12", "345"], None).await.unwrap(), 200);
    let whole = upstream.bytes();
    assert!(whole.ends_with("12345"), "{whole}");
    // Too short, too long at once, too long later; and numbers that are none.
    for (length, body) in [
        ("5", &["123"][..]),
        ("5", &["1234567"]),
        ("5", &["12345", "67"]),
        ("18446744073709551616", &["1"]),
        ("-1", &["1"]),
        ("0x5", &["12345"]),
    ] {
        match post(&bench, length, body, None).await {
            Ok(status) => assert_eq!(status, 400, "{length} {body:?}"),
            Err(error) => assert_eq!(error.reason(), Some(Reason::PROTOCOL_ERROR), "{length} {body:?}"),
        }
        let came = upstream.bytes()[whole.len()..].to_owned();
        let (_, sent) = came.rsplit_once("\r\n\r\n").unwrap_or_default();
        assert!(sent.len() < 5, "{length} {body:?}: the upstream has a whole body: {came}");
    }
}

#[tokio::test]
async fn trailers_over_http2_have_the_same_bounds() {
    let (bench, upstream) = bench().await;
    let name = |at| HeaderName::try_from(format!("x-{at}")).unwrap();
    let many: HeaderMap = (0..300).map(|at| (name(at), HeaderValue::from_str(&"y".repeat(400)).unwrap())).collect();
    // h2 reads on behind the bound, for HPACK's sake, and keeps nothing of it.
    assert_eq!(post(&bench, "", &["body"], Some(many)).await.unwrap(), 200);
    let trailers = upstream.bytes().split_once("\r\n0\r\n").unwrap().1.len();
    assert!((50 << 10..64 << 10).contains(&trailers), "{trailers}");
}
