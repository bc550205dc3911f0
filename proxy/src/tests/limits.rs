//! What one client may take.

use std::time::{Duration, Instant};

use bytesize::ByteSize;

use super::{Setup, Upstream, eventually};

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

#[tokio::test]
async fn a_head_with_too_many_bytes_or_lines_is_a_431() {
    let upstream = Upstream::named("ok").await;
    for headers in [100, 20] {
        let bench = Setup::new(upstream.address)
            .limits(|limits| {
                limits.header_bytes = ByteSize::kib(4);
                limits.headers = headers;
            })
            .start();
        let long = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(5000));
        assert_eq!(bench.ask(&long).await.status, 431);
        let many = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: 1\r\n".repeat(headers));
        assert_eq!(bench.ask(&many).await.status, 431);
        let enough = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: 1\r\n".repeat(headers - 1));
        assert_eq!(bench.ask(&enough).await.status, 200);
    }
}

#[tokio::test]
async fn a_target_that_is_too_long_is_a_414() {
    let upstream = Upstream::named("ok").await;
    let bench = Setup::new(upstream.address).limits(|limits| limits.header_bytes = ByteSize::kib(256)).start();
    let long = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(70_000));
    assert_eq!(bench.ask(&long).await.status, 414);
}

#[tokio::test]
async fn a_head_that_takes_too_long_is_a_408() {
    let upstream = Upstream::named("ok").await;
    for park in [false, true] {
        let bench = Setup::new(upstream.address)
            .limits(|limits| limits.head_time = Duration::from_millis(300))
            .park_at_once(park)
            .start();
        let mut client = bench.client().await;
        // The second head as well as the first.
        client.send(GET).await;
        assert_eq!(client.answer().await.status, 200);
        let began = Instant::now();
        client.send("GET / HT").await;
        for _ in 0..20 {
            tokio::time::sleep(Duration::from_millis(50)).await;
            if client.stream.try_write(b"x").is_err() {
                break;
            }
            if began.elapsed() > Duration::from_millis(600) {
                break;
            }
        }
        assert_eq!(client.answer().await.status, 408);
        assert!(client.is_closed().await);
        assert!((300..3000).contains(&began.elapsed().as_millis()), "{:?}", began.elapsed());
    }
}

#[tokio::test]
async fn an_idle_connection_is_closed_after_its_time_and_a_slow_answer_is_not() {
    let upstream = Upstream::scripted(|mut wire| async move {
        loop {
            wire.request().await?;
            tokio::time::sleep(Duration::from_millis(900)).await;
            wire.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await?;
        }
    })
    .await;
    for park in [false, true] {
        let bench = Setup::new(upstream.address)
            .limits(|limits| limits.idle_time = Duration::from_millis(300))
            .park_at_once(park)
            .start();
        let mut client = bench.client().await;
        client.send(GET).await;
        assert_eq!(client.answer().await.text(), "ok");
        let began = Instant::now();
        assert!(client.is_closed().await);
        assert!((300..2000).contains(&began.elapsed().as_millis()), "{:?}", began.elapsed());
        // One that never says anything goes too.
        assert!(bench.client().await.is_closed().await);
    }
}

#[tokio::test]
async fn one_connection_more_than_allowed_is_closed_at_once() {
    let upstream = Upstream::named("ok").await;
    let bench = Setup::new(upstream.address).limits(|limits| limits.connections = 3).start();
    let mut clients = Vec::new();
    for _ in 0..3 {
        let mut client = bench.client().await;
        client.send(GET).await;
        assert_eq!(client.answer().await.status, 200);
        clients.push(client);
    }
    assert!(bench.client().await.is_closed().await);
    clients.pop();
    eventually("a place is free", || bench.proxy.status().connections == 2).await;
    assert_eq!(bench.ask(GET).await.status, 200);
}

#[tokio::test]
async fn an_idle_upstream_connection_is_closed_after_its_time() {
    let upstream = Upstream::named("ok").await;
    let bench = Setup::new(upstream.address)
        .upstream("legacy", upstream.address, &serde_json::json!({ "idle_time": "100ms" }))
        .start();
    assert_eq!(bench.ask(GET).await.status, 200);
    let connections = || bench.proxy.status().upstreams[0].connections;
    assert_eq!(connections(), 1);
    eventually("it is closed", || connections() == 0).await;
}
