//! A route by weight, keep-alive on both legs, streaming, metrics, reload and drain.

use std::time::Duration;

use serde_json::json;

use super::{Setup, Upstream, eventually};

const GET: &str = "GET /payments/7?x=1 HTTP/1.1\r\nHost: shop.example\r\n\r\n";

fn payments(weight: u32) -> serde_json::Value {
    json!({ "name": "payments", "match": { "path_prefix": "/payments" }, "legacy": "legacy", "modern": "modern", "weight": weight })
}

#[tokio::test]
async fn a_route_goes_to_legacy_or_modern_by_its_weight() {
    let (legacy, modern) = (Upstream::named("legacy").await, Upstream::named("modern").await);
    for (weight, expected) in [(0, "legacy"), (100, "modern")] {
        let bench =
            Setup::new(legacy.address).upstream("modern", modern.address, &json!({})).route(payments(weight)).start();
        assert_eq!(bench.ask(GET).await.text(), expected);
        assert_eq!(bench.ask("GET /other HTTP/1.1\r\nHost: a\r\n\r\n").await.text(), "legacy");
    }
}

#[tokio::test]
async fn both_legs_are_kept_alive() {
    let legacy = Upstream::named("legacy").await;
    let bench = Setup::new(legacy.address).workers(1).start();
    let mut client = bench.client().await;
    for _ in 0..5 {
        client.send(GET).await;
        assert_eq!(client.answer().await.text(), "legacy");
    }
    assert_eq!(legacy.connections(), 1);
    assert_eq!(legacy.bytes().matches("GET /payments/7?x=1 HTTP/1.1\r\n").count(), 5);
}

#[tokio::test]
async fn bodies_stream_both_ways() {
    let legacy = Upstream::scripted(|mut wire| async move {
        let head = wire.head().await?;
        assert!(head.starts_with("POST /up HTTP/1.1\r\n"));
        // The head of the answer goes out before the request's body is whole.
        wire.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await?;
        for _ in 0..3 {
            let part = wire.take(4).await?;
            wire.send([b"4\r\n", &part[..], b"\r\n"].concat()).await?;
        }
        wire.send("0\r\n\r\n").await
    })
    .await;
    let bench = Setup::new(legacy.address).start();
    let mut client = bench.client().await;
    client.send("POST /up HTTP/1.1\r\nHost: a\r\nContent-Length: 12\r\n\r\n").await;
    let head = client.head().await.unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK"), "{head}");
    for part in ["aaaa", "bbbb", "cccc"] {
        client.send(part).await;
        assert_eq!(client.take(9).await.unwrap(), format!("4\r\n{part}\r\n").as_bytes());
    }
    assert_eq!(client.take(5).await.unwrap(), b"0\r\n\r\n");
}

#[tokio::test]
async fn large_bodies_pass_with_back_pressure() {
    let legacy = Upstream::scripted(|mut wire| async move {
        loop {
            let (_, body) = wire.request().await?;
            wire.send(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len())).await?;
            wire.send(body).await?;
        }
    })
    .await;
    let bench = Setup::new(legacy.address).start();
    let body: Vec<u8> = (0..8 << 20).map(|at: u32| (at % 251) as u8).collect();
    let mut client = bench.client().await;
    for _ in 0..2 {
        client.send(format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", body.len())).await;
        client.send(&body).await;
        assert!(client.answer().await.body == body);
    }
}

#[tokio::test]
async fn answers_are_counted_by_route_side_and_code() {
    let (legacy, modern) = (
        Upstream::named("legacy").await,
        Upstream::answering("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n").await,
    );
    let bench = Setup::new(legacy.address).upstream("modern", modern.address, &json!({})).route(payments(100)).start();
    bench.ask(GET).await;
    bench.ask("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    bench.ask("GET / HTTP/1.1\r\n\r\n").await;
    let count = |route: &str, side: &str, code: &str| {
        bench.metric("banyan_http_requests_total", &[("route", route), ("side", side), ("code", code)])
    };
    eventually("three answers", || count("payments", "modern", "404") > 0.0).await;
    assert!((count("payments", "modern", "404") - 1.0).abs() < 0.1);
    assert!((count("default", "legacy", "200") - 1.0).abs() < 0.1);
    assert!((count("-", "banyan", "400") - 1.0).abs() < 0.1);
    let attempts =
        bench.metric("banyan_route_attempts_total", &[("route", "payments"), ("side", "modern"), ("outcome", "ok")]);
    assert!((attempts - 1.0).abs() < 0.1);
    assert!(
        (bench.metric("banyan_route_weight_percent", &[("route", "payments"), ("kind", "wanted")]) - 100.0).abs() < 0.1
    );
}

#[tokio::test]
async fn what_is_in_flight_finishes_when_the_proxy_drains() {
    let (go, gone) = tokio::sync::watch::channel(false);
    let legacy = Upstream::scripted(move |mut wire| {
        let mut gone = gone.clone();
        async move {
            wire.request().await?;
            gone.wait_for(|go| *go).await.ok();
            wire.send("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ndone").await
        }
    })
    .await;
    let bench = Setup::new(legacy.address).start();
    let mut idle = bench.client().await;
    let mut busy = bench.client().await;
    busy.send(GET).await;
    eventually("the request arrives", || legacy.bytes().contains("GET /payments")).await;
    let address = bench.proxy.local_addrs()[0];
    let draining = tokio::spawn(bench.proxy.drain(Duration::from_secs(10)));
    assert!(idle.is_closed().await);
    eventually("the listener is closed", || std::net::TcpStream::connect(address).is_err()).await;
    go.send(true).unwrap();
    let answer = busy.answer().await;
    assert_eq!((answer.text(), answer.header("connection")), ("done", Some("close")));
    assert!(busy.is_closed().await);
    tokio::time::timeout(Duration::from_secs(5), draining).await.unwrap().unwrap();
}
