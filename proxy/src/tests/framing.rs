//! A request with ambiguous framing is answered 400 and its connection closed, or forwarded with exactly one framing. Proven from what the
//! upstream was sent: never a second request, never a second framing.

use serde_json::json;

use super::{Answer, Setup, Upstream};

/// Would be a request of its own if the framing before it was read in another way.
const HIDDEN: &str = "GET /hidden HTTP/1.1\r\nHost: a\r\n\r\n";

struct Seen {
    answer: Option<Answer>,
    closed: bool,
    upstream: String,
}

/// Sends these bytes on one connection, in one piece or byte by byte.
async fn send(bytes: &str, in_pieces: bool, park_at_once: bool) -> Seen {
    let upstream = Upstream::named("ok").await;
    let bench = Setup::new(upstream.address).workers(1).park_at_once(park_at_once).start();
    let mut client = bench.client().await;
    if in_pieces {
        for byte in bytes.as_bytes() {
            if tokio::io::AsyncWriteExt::write_all(&mut client.stream, &[*byte]).await.is_err() {
                break;
            }
            tokio::task::yield_now().await;
        }
    } else {
        client.send(bytes).await;
    }
    let answer = client.try_answer(false).await;
    let probe = tokio::time::timeout(std::time::Duration::from_millis(300), client.is_closed()).await;
    Seen { answer, closed: probe.unwrap_or(false), upstream: upstream.bytes() }
}

async fn refused(bytes: String) {
    for (in_pieces, park) in [(false, false), (true, false), (false, true), (true, true)] {
        let seen = send(&bytes, in_pieces, park).await;
        assert_eq!(seen.answer.map(|answer| answer.status), Some(400), "{bytes:?}");
        assert!(seen.closed, "{bytes:?}");
        assert_eq!(seen.upstream, "", "{bytes:?}");
    }
}

#[tokio::test]
async fn what_two_servers_could_read_in_two_ways_is_refused_and_the_connection_closed() {
    for lines in [
        "Host: a\r\nHost: a\r\n",                                // two hosts
        "Host: a\r\nHost: b\r\n",                                // that differ
        "",                                                      // none
        "Host: a, b\r\n",                                        // two in one
        "Host: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n", // lengths that differ
        "Host: a\r\nContent-Length: +5\r\n",                     // no length
        "Host: a\r\nContent-Length: 5, 5\r\n",                   // a list of lengths
        "Host: a\r\nContent-Length: 0x5\r\n",                    // another base
        "Host: a\r\nContent-Length: -1\r\n",                     // below zero
        "Host: a\r\nTransfer-Encoding: gzip\r\n",                // no chunked
        "Host: a\r\nTransfer-Encoding: chunked, gzip\r\n",       // chunked is not the last
        "Host: a\r\nTransfer-Encoding: gzip, chunked\r\n",       // more than chunked
        "Host: a\r\nTransfer-Encoding: chunked, chunked\r\n",    // twice
        "Host: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "Host: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
        "Host: a\r\nTransfer-Encoding: xchunked\r\n",
        "Host: a\r\nTransfer-Encoding : chunked\r\n", // a space before the colon
        "Host : a\r\n",
        "Host: a\r\nX: 1\r\n folded\r\n", // obs-fold
        "Host: a\r\n X: 1\r\n",
        "Host: a\r\nX: 1\0\r\n",     // NUL
        "Host: a\r\nX: 1\rY: 2\r\n", // a bare CR
        "Host: a\r\nX\r\n",          // no colon
        "Host: a\r\nX Y: 1\r\n",     // no header name
    ] {
        refused(format!("POST /first HTTP/1.1\r\n{lines}\r\n{HIDDEN}")).await;
    }
}

#[tokio::test]
async fn http_1_0_has_no_chunks() {
    refused(format!("POST /first HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{HIDDEN}")).await;
}

#[tokio::test]
async fn a_target_that_two_servers_could_read_in_two_ways_is_refused() {
    for line in [
        "GET http://b/first HTTP/1.1", // another host than Host
        "GET http://a:81/first HTTP/1.1",
        "GET http://u@a/first HTTP/1.1",
        "CONNECT a:80 HTTP/1.1",
        "GET /../first HTTP/1.1",
        "GET /a/%2e%2e/%2f../first HTTP/1.1",
        "GET /%zz HTTP/1.1",
        "GET /%00 HTTP/1.1",
        "GET  /first HTTP/1.1",
        "GET /first  HTTP/1.1",
        "GET first HTTP/1.1",
        "GET /first HTTP/1.1 ",
        "GET /first HTTP/2.0",
    ] {
        let bytes = format!("{line}\r\nHost: a\r\n\r\n{HIDDEN}");
        let seen = send(&bytes, false, false).await;
        let status = seen.answer.map(|answer| answer.status);
        assert!(matches!(status, Some(400 | 405)) || (status.is_none() && seen.closed), "{line} {status:?}");
        assert!(seen.closed, "{line}");
        assert_eq!(seen.upstream, "", "{line}");
    }
}

#[tokio::test]
async fn two_framings_become_one_and_the_connection_is_closed() {
    for (in_pieces, park) in [(false, false), (true, false), (false, true), (true, true)] {
        let body = format!("0\r\n\r\n{HIDDEN}");
        for lines in [
            format!("Content-Length: {}\r\nTransfer-Encoding: chunked\r\n", body.len()),
            format!("Transfer-Encoding: chunked\r\nContent-Length: {}\r\n", body.len()),
        ] {
            let seen = send(&format!("POST /first HTTP/1.1\r\nHost: a\r\n{lines}\r\n{body}"), in_pieces, park).await;
            assert_eq!(seen.answer.map(|answer| answer.status), Some(200));
            assert!(seen.closed);
            assert!(!seen.upstream.contains("hidden"), "{}", seen.upstream);
            let upstream = seen.upstream.to_ascii_lowercase();
            assert!(upstream.contains("transfer-encoding: chunked\r\n"), "{upstream}");
            assert!(!upstream.contains("content-length"), "{upstream}");
        }
    }
}

#[tokio::test]
async fn a_length_that_is_said_twice_is_forwarded_once() {
    for park in [false, true] {
        let bytes =
            format!("POST /first HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nContent-Length: 4\r\n\r\nbody{HIDDEN}");
        let seen = send(&bytes, false, park).await;
        assert_eq!(seen.answer.map(|answer| answer.status), Some(200));
        assert_eq!(seen.upstream.to_ascii_lowercase().matches("content-length: 4\r\n").count(), 1);
        // What stands behind the body is a request of its own, for everybody.
        assert_eq!(seen.upstream.matches("GET /hidden").count(), 1);
    }
}

#[tokio::test]
async fn bare_line_feeds_are_forwarded_as_line_ends() {
    let seen = send("GET /first HTTP/1.1\nHost: a\nX-One: 1\n\n", false, false).await;
    assert_eq!(seen.answer.map(|answer| answer.status), Some(200));
    assert!(seen.upstream.contains("X-One: 1\r\n"), "{}", seen.upstream);
    assert!(!seen.upstream.replace("\r\n", "").contains('\n'), "{}", seen.upstream);
}

#[tokio::test]
async fn a_target_in_absolute_form_is_forwarded_in_origin_form() {
    let seen = send("GET http://A:80/first?x=1 HTTP/1.1\r\nHost: a\r\n\r\n", false, false).await;
    assert_eq!(seen.answer.map(|answer| answer.status), Some(200));
    assert!(seen.upstream.starts_with("GET /first?x=1 HTTP/1.1\r\n"), "{}", seen.upstream);
}

#[tokio::test]
async fn the_raw_path_is_forwarded_and_the_normalised_one_matched() {
    let (legacy, modern) = (Upstream::named("legacy").await, Upstream::named("modern").await);
    let bench = Setup::new(legacy.address)
        .upstream("modern", modern.address, &serde_json::json!({}))
        .route(serde_json::json!({ "name": "payments", "match": { "path_prefix": "/payments" }, "modern": "modern" }))
        .start();
    for path in ["//payments/7", "/%70ayments/7", "/x/../payments/7", "/./payments//7?a=%2f"] {
        let answer = bench.ask(&format!("POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")).await;
        assert_eq!(answer.text(), "modern", "{path}");
        assert!(modern.bytes().contains(&format!("POST {path} HTTP/1.1\r\n")), "{}", modern.bytes());
    }
    assert_eq!(legacy.bytes(), "");
}

#[tokio::test]
async fn an_answer_with_two_framings_reaches_the_client_with_one() {
    let upstream = Upstream::answering(
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    )
    .await;
    let bench = Setup::new(upstream.address).start();
    let answer = bench.ask("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!((answer.text(), answer.header("content-length")), ("hello", None));
}

#[tokio::test]
async fn a_request_of_http_1_0_may_name_no_host() {
    let (legacy, modern) = (Upstream::named("legacy").await, Upstream::named("modern").await);
    let route = |name: &str, matches: serde_json::Value| json!({ "name": name, "match": matches, "legacy": "modern" });
    let bench = Setup::new(legacy.address)
        .upstream("modern", modern.address, &json!({}))
        .route(route("host", json!({ "path_prefix": "/", "host": "shop.example" })))
        .route(route("path", json!({ "path_prefix": "/pay" })))
        .start();
    // Not one with a condition on the host; and the upstream is asked by its own name.
    for (line, upstream, asked, named) in [
        ("GET /a HTTP/1.0\r\n", &legacy, "GET /a HTTP/1.1", legacy.address.to_string()),
        ("GET /pay HTTP/1.0\r\n", &modern, "GET /pay HTTP/1.1", modern.address.to_string()),
        ("GET http://shop.example/b HTTP/1.0\r\n", &modern, "GET /b HTTP/1.1", "shop.example".to_owned()),
    ] {
        let before = upstream.bytes().len();
        let mut client = bench.client().await;
        client.send(format!("{line}\r\n")).await;
        assert_eq!(client.answer().await.status, 200, "{line}");
        assert!(client.is_closed().await, "a 1.0 client did not ask to keep it");
        let bytes = upstream.bytes()[before..].to_ascii_lowercase();
        assert!(bytes.starts_with(&asked.to_ascii_lowercase()), "{bytes}");
        assert_eq!(bytes.matches("\r\nhost: ").count(), 1, "{bytes}");
        assert!(bytes.contains(&format!("\r\nhost: {named}\r\n")), "{bytes}");
    }
    // A second Host is no better there, and 1.1 must name one.
    for refused in ["GET / HTTP/1.0\r\nHost: a\r\nHost: a\r\n\r\n", "GET / HTTP/1.1\r\n\r\n"] {
        assert_eq!(bench.ask(refused).await.status, 400, "{refused}");
    }
}
