//! Upstreams that are down, slow, broken or lying; clients that go away; code that panics.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::{Bench, Fixed, Setup, Upstream, eventually};
use crate::links::{Moment, Owner, SyncLink};

const GET: &str = "GET /payments HTTP/1.1\r\nHost: a\r\n\r\n";

/// An address that refuses.
async fn nobody() -> std::net::SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

async fn fault(bench: &Bench, request: &str) -> (u16, Value) {
    let answer = bench.ask(request).await;
    assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{}", answer.head);
    (answer.status, serde_json::from_slice(&answer.body).unwrap())
}

fn route(more: &Value) -> Value {
    let mut route = json!({ "name": "payments", "match": { "path_prefix": "/payments" }, "modern": "modern" });
    route.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    route
}

async fn modern_at(address: std::net::SocketAddr, more: Value) -> Bench {
    let legacy = Upstream::named("legacy").await;
    Setup::new(legacy.address).upstream("modern", address, &json!({})).route(route(&more)).start()
}

#[tokio::test]
async fn a_refused_connection_is_a_502_that_names_the_route_and_the_fault() {
    let bench = modern_at(nobody().await, json!({})).await;
    let (status, problem) = fault(&bench, GET).await;
    assert_eq!(status, 502);
    assert_eq!((&problem["route"], &problem["fault"]), (&json!("payments"), &json!("upstream")));
    assert!(!problem.to_string().contains("127.0.0.1"), "{problem}");
    let answer = bench.ask("GET /payments HTTP/1.1\r\nHost: a\r\nAccept: text/plain\r\n\r\n").await;
    let (before, id) = answer.text().split_once(", trace ").unwrap();
    assert_eq!(before, "502 Bad Gateway: no connection to the upstream (route `payments`");
    assert_eq!(id.strip_suffix(")\n").map(str::len), Some(32), "{id}");
    let refused = bench.metric("banyan_route_attempts_total", &[("route", "payments"), ("outcome", "refused")]);
    assert!((refused - 2.0).abs() < 0.1, "{refused}");
}

#[tokio::test]
async fn a_late_answer_is_a_504() {
    let upstream = Upstream::scripted(|mut wire| async move {
        wire.request().await?;
        std::future::pending().await
    })
    .await;
    let bench = modern_at(upstream.address, json!({ "timeout": "200ms" })).await;
    let began = Instant::now();
    let (status, problem) = fault(&bench, GET).await;
    assert_eq!((status, &problem["type"]), (504, &json!("urn:banyan:error:timeout")));
    assert!((200..2000).contains(&began.elapsed().as_millis()), "{:?}", began.elapsed());
}

#[tokio::test]
async fn the_time_for_an_answer_begins_when_the_body_is_there() {
    let upstream = Upstream::named("modern").await;
    let bench = modern_at(upstream.address, json!({ "timeout": "300ms" })).await;
    let mut client = bench.client().await;
    client.send("POST /payments HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n").await;
    for _ in 0..10 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        client.send("x").await;
    }
    assert_eq!(client.answer().await.text(), "modern");
}

#[tokio::test]
async fn a_reset_before_the_answer_is_a_502() {
    let upstream = Upstream::scripted(|mut wire| async move {
        wire.request().await?;
        wire.reset();
        Ok(())
    })
    .await;
    let bench = modern_at(upstream.address, json!({})).await;
    let (status, problem) = fault(&bench, GET).await;
    assert_eq!((status, &problem["type"]), (502, &json!("urn:banyan:error:reset")));
}

#[tokio::test]
async fn an_answer_that_is_no_http_is_a_502() {
    for lie in [
        "SSH-2.0-OpenSSH\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\n\r\n",
    ] {
        let bench = modern_at(Upstream::answering(lie).await.address, json!({})).await;
        let (status, problem) = fault(&bench, GET).await;
        assert_eq!((status, &problem["fault"]), (502, &json!("upstream")), "{lie:?}");
    }
}

#[tokio::test]
async fn an_answer_shorter_than_it_says_does_not_look_whole() {
    for (version, answer) in [
        ("1.1", "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf"),
        ("1.1", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n"),
        ("1.0", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n"),
    ] {
        let upstream = Upstream::scripted(move |mut wire| async move {
            wire.request().await?;
            wire.send(answer).await?;
            tokio::time::sleep(Duration::from_millis(50)).await;
            Ok(())
        })
        .await;
        let bench = modern_at(upstream.address, json!({})).await;
        let mut client = bench.client().await;
        client.send(format!("GET /payments HTTP/{version}\r\nHost: a\r\n\r\n")).await;
        let mut all = Vec::new();
        let read = tokio::io::AsyncReadExt::read_to_end(&mut client.stream, &mut all).await;
        // A client that reads to the end of the connection must see a reset; the others count.
        assert!(read.is_err() || version == "1.1" && !all.ends_with(b"0\r\n\r\n"), "{version} {all:?}");
    }
}

#[tokio::test]
async fn what_follows_a_whole_answer_is_no_answer_to_the_next_request() {
    let upstream = Upstream::answering(
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil",
    )
    .await;
    let bench = Setup::new(upstream.address).workers(1).start();
    let mut client = bench.client().await;
    for _ in 0..3 {
        client.send(GET).await;
        assert_eq!(client.answer().await.text(), "ok");
    }
    assert_eq!(upstream.connections(), 3);
}

#[tokio::test]
async fn an_early_answer_to_a_half_sent_body_arrives_and_the_connection_is_closed() {
    let upstream = Upstream::scripted(|mut wire| async move {
        wire.head().await?;
        wire.send("HTTP/1.1 413 Content Too Large\r\ncontent-length: 3\r\n\r\nbig").await?;
        std::future::pending().await
    })
    .await;
    for park in [false, true] {
        let bench = Setup::new(upstream.address).park_at_once(park).start();
        let mut client = bench.client().await;
        client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\nsome of it").await;
        let answer = client.answer().await;
        assert_eq!((answer.status, answer.text()), (413, "big"));
        // The rest would spell a request.
        client.stream.try_write(b"GET /hidden HTTP/1.1\r\nHost: a\r\n\r\n").ok();
        assert!(client.is_closed().await);
        assert!(!upstream.bytes().contains("/hidden"));
    }
}

#[tokio::test]
async fn a_client_that_goes_away_takes_its_upstream_request_with_it() {
    let upstream = Upstream::scripted(|mut wire| async move {
        wire.request().await?;
        wire.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await?;
        loop {
            wire.send("4\r\nmore\r\n").await?;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    let bench = Setup::new(upstream.address).start();
    let mut client = bench.client().await;
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    client.head().await.unwrap();
    drop(client);
    let connections = || bench.proxy.status().upstreams.iter().map(|upstream| upstream.connections).sum::<usize>();
    eventually("the upstream's connection is closed", || connections() == 0).await;
    eventually("the client's is gone too", || bench.proxy.status().connections == 0).await;
}

#[tokio::test]
async fn one_dead_endpoint_of_two_harms_nobody() {
    let alive = Upstream::named("alive").await;
    let endpoints = json!({ "endpoints": [format!("http://{}", nobody().await), format!("http://{}", alive.address)] });
    let bench = Setup::new(alive.address).upstream("legacy", alive.address, &endpoints).start();
    for _ in 0..10 {
        assert_eq!(bench.ask(GET).await.text(), "alive");
    }
}

struct Panics;

impl SyncLink for Panics {
    fn owner(&self) -> Owner {
        panic!("in a test")
    }

    fn lag(&self) -> Option<Duration> {
        None
    }

    fn watermark(&self) -> Moment {
        Moment::NEVER
    }

    fn wrote(&self, _: Moment) {}

    fn hold(&self) -> &std::sync::Arc<crate::links::Hold> {
        crate::tests::never_held()
    }
}

#[tokio::test]
async fn a_request_that_panics_hurts_nobody_else() {
    let upstream = Upstream::named("ok").await;
    let mut setup = Setup::new(upstream.address)
        .upstream("modern", upstream.address, &json!({}))
        .sync("broken", Fixed(Owner::Legacy, None))
        .workers(1)
        .route(route(&json!({ "legacy": "legacy", "weight": 50, "sync": "broken" })));
    setup.links.0.insert("broken".to_owned(), std::sync::Arc::new(Panics));
    let bench = setup.start();
    let mut other = bench.client().await;
    other.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(other.answer().await.text(), "ok");
    for _ in 0..3 {
        let mut unlucky = bench.client().await;
        unlucky.send("POST /payments HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n").await;
        assert!(unlucky.is_closed().await);
    }
    other.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(other.answer().await.text(), "ok");
    assert!(bench.proxy.is_whole());
}
