//! Answers that never end, or end late, pass as they come; and clients that know no chunks.

use std::time::Duration;

use serde_json::json;
use tokio::{sync::watch, time::timeout};

use super::{
    Bench, Setup, Upstream,
    http2::{connect, request},
};

const PATIENCE: Duration = Duration::from_secs(10);
const EVENTS: usize = 5;

/// Sends the next event only when the client has seen the one before.
async fn events(seen: watch::Receiver<usize>) -> Upstream {
    Upstream::scripted(move |mut wire| {
        let mut seen = seen.clone();
        async move {
            wire.request().await?;
            wire.send("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
                .await?;
            for number in 0..EVENTS {
                drop(seen.wait_for(|seen| *seen >= number).await);
                wire.send(format!("{:x}\r\ndata: {number}\n\n\r\n", 9)).await?;
            }
            wire.send("0\r\n\r\n").await
        }
    })
    .await
}

/// With a shadow, whose upstream never answers.
async fn with_shadow(upstream: &Upstream) -> (Bench, Upstream) {
    let modern = Upstream::scripted(|mut wire| async move { wire.take(usize::MAX).await.map(drop) }).await;
    let bench = Setup::new(upstream.address)
        .upstream("modern", modern.address, &json!({}))
        .route(json!({
            "name": "events", "match": { "path": "/events" }, "legacy": "legacy", "modern": "modern", "weight": 0,
            "shadow": { "percent": 100 }, "compare": {},
        }))
        .start();
    (bench, modern)
}

#[tokio::test]
async fn each_event_arrives_before_the_next_is_sent() {
    let (tell, seen) = watch::channel(0);
    let upstream = events(seen).await;
    let (bench, _modern) = with_shadow(&upstream).await;
    let mut client = bench.client().await;
    client.send("GET /events HTTP/1.1\r\nHost: a\r\n\r\n").await;
    client.head().await.unwrap();
    for number in 0..EVENTS {
        assert_eq!(client.take(14).await.unwrap(), format!("9\r\ndata: {number}\n\n\r\n").as_bytes());
        tell.send_replace(number + 1);
    }
}

#[tokio::test]
async fn each_event_arrives_before_the_next_is_sent_over_http2_too() {
    let (tell, seen) = watch::channel(0);
    let upstream = events(seen).await;
    let (bench, _modern) = with_shadow(&upstream).await;
    let (sender, _) = connect(&bench).await;
    let (answer, _) = sender.clone().ready().await.unwrap().send_request(request("GET", "/events"), true).unwrap();
    let mut body = timeout(PATIENCE, answer).await.unwrap().unwrap().into_body();
    for number in 0..EVENTS {
        let event = timeout(PATIENCE, body.data()).await.unwrap().unwrap().unwrap();
        assert_eq!(event, format!("data: {number}\n\n"));
        tell.send_replace(number + 1);
    }
    while let Some(rest) = timeout(PATIENCE, body.data()).await.unwrap() {
        assert!(rest.unwrap().is_empty());
    }
}

#[tokio::test]
async fn the_head_of_a_long_poll_arrives_before_its_body() {
    let upstream = Upstream::scripted(|mut wire| async move {
        wire.request().await?;
        wire.send("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n").await?;
        std::future::pending().await
    })
    .await;
    let (bench, _modern) = with_shadow(&upstream).await;
    let mut client = bench.client().await;
    client.send("GET /events HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert!(client.head().await.unwrap().starts_with("HTTP/1.1 200"));
    let (sender, _) = connect(&bench).await;
    let (answer, _) = sender.clone().ready().await.unwrap().send_request(request("GET", "/events"), true).unwrap();
    assert_eq!(timeout(PATIENCE, answer).await.unwrap().unwrap().status(), 200);
}

#[tokio::test]
async fn an_http10_client_gets_no_chunks_and_keeps_its_connection_only_if_it_asks() {
    let upstream = Upstream::scripted(|mut wire| async move {
        loop {
            let (head, _) = wire.request().await?;
            if head.starts_with("GET /chunks") {
                wire.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n").await?;
            } else {
                wire.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await?;
            }
        }
    })
    .await;
    let bench = Setup::new(upstream.address).start();
    let answer = bench.ask("GET /chunks HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n").await;
    assert_eq!((answer.status, answer.header("transfer-encoding"), answer.text()), (200, None, "abc"));

    let mut client = bench.client().await;
    client.send("GET / HTTP/1.0\r\nHost: a\r\n\r\n").await;
    assert_eq!(client.answer().await.text(), "ok");
    assert!(client.is_closed().await);

    let mut client = bench.client().await;
    for _ in 0..3 {
        client.send("GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n").await;
        let answer = client.answer().await;
        assert_eq!((answer.text(), answer.header("connection")), ("ok", Some("keep-alive")));
    }
    assert!(upstream.bytes().contains("GET / HTTP/1.1\r\n"));
}
