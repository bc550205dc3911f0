//! What passes and what does not: headers, their case, HEAD, trailers, interim answers, versions.

use std::time::{Duration, Instant};

use serde_json::json;

use super::{Setup, Upstream};

const GET: &str = "GET / HTTP/1.1\r\nHost: shop.example\r\n\r\n";

/// What the upstream is sent for a request.
async fn forwarded(request: &str) -> String {
    let upstream = Upstream::named("ok").await;
    let bench = Setup::new(upstream.address).start();
    assert_eq!(bench.ask(request).await.status, 200);
    upstream.bytes()
}

#[tokio::test]
async fn what_belongs_to_one_hop_stays_there() {
    let seen = forwarded(
        "GET / HTTP/1.1\r\nHost: shop.example\r\nConnection: keep-alive, X-Hop\r\nX-Hop: 1\r\nKeep-Alive: 5\r\nProxy-Connection: x\r\nTE: trailers, gzip\r\nUpgrade: h2c\r\nX-Banyan-Side: modern\r\nX-End: 2\r\n\r\n",
    )
    .await;
    let expected = "GET / HTTP/1.1\r\nHost: shop.example\r\n";
    assert!(seen.starts_with(expected), "{seen}");
    let lower = seen.to_ascii_lowercase();
    for gone in ["\r\nconnection", "x-hop", "keep-alive", "proxy-connection", "gzip", "upgrade", "x-banyan"] {
        assert!(!lower.contains(gone), "{gone}: {seen}");
    }
    assert!(lower.contains("te: trailers\r\n"), "{seen}");
    assert!(seen.contains("X-End: 2\r\n"), "{seen}");
}

#[tokio::test]
async fn an_answers_hop_by_hop_headers_stay_there_too() {
    let upstream = Upstream::answering(
        "HTTP/1.1 200 OK\r\nConnection: X-Hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\nContent-Length: 2\r\n\r\nok",
    )
    .await;
    let bench = Setup::new(upstream.address).start();
    let answer = bench.ask(GET).await;
    assert_eq!((answer.header("x-hop"), answer.header("keep-alive"), answer.header("connection")), (None, None, None));
}

#[tokio::test]
async fn the_upstream_is_told_who_the_client_is() {
    // CGI and its kin read `_` as `-`.
    let seen = forwarded(
        "GET / HTTP/1.1\r\nHost: shop.example\r\nX-Forwarded-For: 6.6.6.6\r\nForwarded: for=6.6.6.6\r\nX_Forwarded_For: 6.6.6.6\r\nX-Forwarded_Proto: 6.6.6.6\r\nX_Banyan-Side: 6.6.6.6\r\nx_other: 7\r\n\r\n",
    )
    .await;
    assert!(seen.contains("x_other: 7\r\n"), "{seen}");
    assert!(seen.contains("X-Forwarded-For: 127.0.0.1\r\n"), "{seen}");
    assert!(seen.contains("X-Forwarded-Proto: http\r\n"), "{seen}");
    assert!(seen.contains("X-Forwarded-Host: shop.example\r\n"), "{seen}");
    assert!(!seen.contains("6.6.6.6"), "{seen}");
}

#[tokio::test]
async fn a_trusted_proxy_is_believed() {
    let upstream = Upstream::named("ok").await;
    let mut setup = Setup::new(upstream.address);
    setup.config.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()];
    let bench = setup.start();
    bench.ask("GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 192.0.2.7\r\nX-Forwarded-Proto: https\r\n\r\n").await;
    let seen = upstream.bytes();
    assert!(seen.contains("X-Forwarded-For: 192.0.2.7, 127.0.0.1\r\n"), "{seen}");
    assert!(seen.contains("X-Forwarded-Proto: https\r\n"), "{seen}");
}

#[tokio::test]
async fn header_names_keep_their_case_on_the_legacy_leg() {
    let seen = forwarded("GET / HTTP/1.1\r\nhOst: a\r\nx-ODD-case: 1\r\nETag: 2\r\n\r\n").await;
    for line in ["hOst: a\r\n", "x-ODD-case: 1\r\n", "ETag: 2\r\n", "X-Forwarded-For: "] {
        assert!(seen.contains(line), "{line}: {seen}");
    }
    let upstream = Upstream::answering("HTTP/1.1 200 OK\r\nX-ODD-Answer: 1\r\ncontent-LENGTH: 0\r\n\r\n").await;
    let bench = Setup::new(upstream.address).start();
    let answer = bench.ask(GET).await;
    assert!(answer.head.contains("X-ODD-Answer: 1\r\n"), "{}", answer.head);
}

#[tokio::test]
async fn an_answer_to_head_has_a_length_and_no_body() {
    let upstream = Upstream::answering("HTTP/1.1 200 OK\r\ncontent-length: 1234\r\n\r\n").await;
    let bench = Setup::new(upstream.address).workers(1).start();
    let mut client = bench.client().await;
    for _ in 0..3 {
        client.send("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let answer = client.head_answer().await;
        assert_eq!((answer.status, answer.header("content-length")), (200, Some("1234")));
    }
    assert_eq!(upstream.connections(), 1);
}

#[tokio::test]
async fn answers_without_a_body_pass() {
    for (line, status) in [("204 No Content", 204), ("304 Not Modified", 304)] {
        let upstream = Upstream::scripted(move |mut wire| async move {
            loop {
                wire.request().await?;
                wire.send(format!("HTTP/1.1 {line}\r\netag: \"x\"\r\n\r\n")).await?;
            }
        })
        .await;
        let bench = Setup::new(upstream.address).workers(1).start();
        let mut client = bench.client().await;
        for _ in 0..2 {
            client.send(GET).await;
            let answer = client.answer().await;
            assert_eq!((answer.status, answer.header("etag")), (status, Some("\"x\"")));
        }
    }
}

#[tokio::test]
async fn trailers_pass_both_ways() {
    let upstream = Upstream::scripted(|mut wire| async move {
        let (head, body) = wire.request().await?;
        assert!(head.to_ascii_lowercase().contains("trailer: x-sum\r\n"), "{head}");
        let body = String::from_utf8(body).unwrap().to_ascii_lowercase();
        assert!(body.ends_with("0\r\nx-sum: 7\r\n\r\n"), "{body}");
        wire.send("HTTP/1.1 200 OK\r\ntrailer: x-check\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nx-check: 9\r\n\r\n").await
    })
    .await;
    let bench = Setup::new(upstream.address).start();
    let answer = bench
        .ask("POST / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nConnection: TE\r\nTrailer: x-sum\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nx-sum: 7\r\n\r\n")
        .await;
    assert_eq!((answer.text(), answer.trailers.to_ascii_lowercase().as_str()), ("ok", "x-check: 9\r\n"));
}

#[tokio::test]
async fn an_upstream_without_a_length_is_read_to_its_end() {
    let upstream = Upstream::scripted(|mut wire| async move {
        wire.request().await?;
        wire.send("HTTP/1.0 200 OK\r\n\r\nall of it").await
    })
    .await;
    let bench = Setup::new(upstream.address).start();
    let answer = bench.ask(GET).await;
    assert_eq!((answer.text(), answer.header("transfer-encoding")), ("all of it", Some("chunked")));
    let answer = bench.ask("GET / HTTP/1.0\r\nHost: a\r\n\r\n").await;
    assert_eq!((answer.text(), answer.header("transfer-encoding")), ("all of it", None));
}

#[tokio::test]
async fn the_side_is_told_where_the_route_says_so() {
    let modern = Upstream::named("modern").await;
    let bench = Setup::new(modern.address)
        .upstream("modern", modern.address, &json!({}))
        .route(json!({ "name": "open", "match": { "path": "/open" }, "modern": "modern", "expose": true }))
        .start();
    assert_eq!(bench.ask("GET /open HTTP/1.1\r\nHost: a\r\n\r\n").await.header("x-banyan-side"), Some("modern"));
    assert_eq!(bench.ask(GET).await.header("x-banyan-side"), None);
}

const EXPECT: &str = "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n";

#[tokio::test]
async fn a_client_is_told_to_go_on_when_the_upstream_says_so() {
    let upstream = Upstream::scripted(|mut wire| async move {
        let head = wire.head().await?;
        assert!(head.to_ascii_lowercase().contains("expect: 100-continue\r\n"), "{head}");
        wire.send("HTTP/1.1 100 Continue\r\n\r\n").await?;
        let body = wire.take(4).await?;
        wire.send("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n").await?;
        wire.send(body).await
    })
    .await;
    let bench = Setup::new(upstream.address).start();
    let mut client = bench.client().await;
    let began = Instant::now();
    client.send(EXPECT).await;
    assert_eq!(client.head().await.unwrap(), "HTTP/1.1 100 Continue\r\n");
    assert!(began.elapsed() < Duration::from_millis(900), "{:?}", began.elapsed());
    client.send("body").await;
    assert_eq!(client.answer().await.text(), "body");
}

#[tokio::test]
async fn a_client_is_not_told_to_go_on_when_the_upstream_refuses() {
    let upstream = Upstream::scripted(|mut wire| async move {
        wire.head().await?;
        wire.send("HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\nno").await
    })
    .await;
    let bench = Setup::new(upstream.address).start();
    let mut client = bench.client().await;
    client.send(EXPECT).await;
    let answer = client.answer().await;
    assert_eq!((answer.status, answer.text()), (403, "no"));
    // The body that was never sent cannot be told from a next request.
    assert!(client.is_closed().await);
}

#[tokio::test]
async fn a_client_is_told_to_go_on_after_a_second_of_silence() {
    let upstream = Upstream::named("ok").await;
    let bench = Setup::new(upstream.address).start();
    let mut client = bench.client().await;
    let began = Instant::now();
    client.send(EXPECT).await;
    assert_eq!(client.head().await.unwrap(), "HTTP/1.1 100 Continue\r\n");
    assert!(began.elapsed() >= Duration::from_millis(990), "{:?}", began.elapsed());
    client.send("body").await;
    assert_eq!(client.answer().await.text(), "ok");
}

#[tokio::test]
async fn early_hints_are_not_passed_on() {
    let upstream = Upstream::answering(
        "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
    )
    .await;
    let bench = Setup::new(upstream.address).start();
    assert_eq!(bench.ask(GET).await.text(), "ok");
}
