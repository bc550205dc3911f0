//! Sending again: to the same upstream only what is harmless there, to the other side only what the route allows, and never a write across.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::{Fixed, Setup, Upstream};
use crate::links::Owner;

fn request(method: &str, body: &str, more: &str) -> String {
    format!("{method} /payments HTTP/1.1\r\nHost: a\r\n{more}Content-Length: {}\r\n\r\n{body}", body.len())
}

/// Answers the first request of its first connection, then closes that connection when the second has come.
pub(super) async fn forgetful() -> (Upstream, Arc<AtomicUsize>) {
    let answered = Arc::new(AtomicUsize::new(0));
    let counts = Arc::clone(&answered);
    let upstream = Upstream::scripted(move |mut wire| {
        let counts = Arc::clone(&counts);
        async move {
            loop {
                let (_, body) = wire.request().await?;
                if wire.number == 0 && counts.load(Ordering::SeqCst) == 1 {
                    return Ok(());
                }
                counts.fetch_add(1, Ordering::SeqCst);
                wire.send(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len())).await?;
                wire.send(body).await?;
            }
        }
    })
    .await;
    (upstream, answered)
}

/// A second request on a connection that dies under it.
async fn second(method: &str, body: &str, more: &str, settings: Value) -> (u16, usize) {
    let (upstream, answered) = forgetful().await;
    let bench = Setup::new(upstream.address).upstream("legacy", upstream.address, &settings).workers(1).start();
    let mut client = bench.client().await;
    client.send(request("GET", "", "")).await;
    assert_eq!(client.answer().await.status, 200);
    client.send(request(method, body, more)).await;
    let answer = client.answer().await;
    if answer.status == 200 {
        assert_eq!(answer.text(), body);
    }
    (answer.status, answered.load(Ordering::SeqCst))
}

#[tokio::test]
async fn an_idempotent_request_goes_again_to_the_same_upstream() {
    for method in ["GET", "PUT", "DELETE", "OPTIONS"] {
        assert_eq!(second(method, "", "", json!({})).await, (200, 2), "{method}");
    }
    assert_eq!(second("PUT", "the whole body", "", json!({})).await, (200, 2));
}

#[tokio::test]
async fn a_write_whose_outcome_is_unknown_does_not_go_again() {
    assert_eq!(second("POST", "pay", "", json!({})).await, (502, 1));
    assert_eq!(second("PATCH", "pay", "", json!({})).await, (502, 1));
    let key = "Idempotency-Key: 7\r\n";
    assert_eq!(second("POST", "pay", key, json!({})).await, (502, 1));
    assert_eq!(second("POST", "pay", "", json!({ "idempotency_key": "honoured" })).await, (502, 1));
}

#[tokio::test]
async fn a_write_with_a_key_goes_again_where_the_upstream_honours_it() {
    let key = "Idempotency-Key: 7\r\n";
    assert_eq!(second("POST", "pay", key, json!({ "idempotency_key": "honoured" })).await, (200, 2));
}

#[tokio::test]
async fn a_body_over_the_replay_buffer_does_not_go_again() {
    let body = "x".repeat(65 * 1024);
    assert_eq!(second("PUT", &body, "", json!({})).await, (502, 1));
}

#[tokio::test]
async fn a_stale_connection_is_replaced_for_any_method() {
    for _ in 0..20 {
        let upstream = Upstream::scripted(|mut wire| async move {
            wire.request().await?;
            wire.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await
            // ... and closed without a word.
        })
        .await;
        let bench = Setup::new(upstream.address).workers(1).start();
        let mut client = bench.client().await;
        for _ in 0..5 {
            client.send(request("POST", "pay", "")).await;
            assert_eq!(client.answer().await.status, 200);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(upstream.connections(), 5);
    }
}

async fn nobody() -> std::net::SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

/// Takes a request and never answers it.
async fn silent() -> Upstream {
    Upstream::scripted(|mut wire| async move {
        wire.request().await?;
        wire.reset();
        Ok(())
    })
    .await
}

/// Modern is chosen and fails; legacy could answer.
async fn crossing(modern: std::net::SocketAddr, method: &str, more: &Value) -> (u16, String, Option<String>) {
    let legacy = Upstream::named("legacy").await;
    let mut route = json!({
        "name": "payments", "match": { "path_prefix": "/payments" }, "legacy": "legacy", "modern": "modern", "weight": 99.99,
        "sticky": [{ "header": "x-user-id" }],
    });
    route.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let mut setup = Setup::new(legacy.address).upstream("modern", modern, &json!({}));
    if route.get("sync").is_some() {
        setup = setup.sync("payments", Fixed(Owner::Modern, Some(Duration::ZERO)));
    }
    let bench = setup.route(route).start();
    let answer = bench.ask(&request(method, "", "X-User-Id: ann\r\n")).await;
    (answer.status, answer.text().to_owned(), answer.header("x-banyan-stale").map(str::to_owned))
}

#[tokio::test]
async fn on_an_unsynced_route_reads_cross_and_writes_only_unsent() {
    let legacy = |status: u16, text: &str| (status, text.to_owned(), None);
    assert_eq!(crossing(nobody().await, "GET", &json!({})).await, legacy(200, "legacy"));
    assert_eq!(crossing(nobody().await, "POST", &json!({})).await, legacy(200, "legacy"));
    assert_eq!(crossing(silent().await.address, "GET", &json!({})).await, legacy(200, "legacy"));
    assert_eq!(crossing(silent().await.address, "POST", &json!({})).await.0, 502);
    // A PUT may be sent twice to one backend; two backends would both have it.
    assert_eq!(crossing(silent().await.address, "PUT", &json!({})).await.0, 502);
}

#[tokio::test]
async fn what_the_route_says_of_fallback_holds() {
    assert_eq!(crossing(nobody().await, "GET", &json!({ "fallback": "none" })).await.0, 502);
    assert_eq!(crossing(nobody().await, "GET", &json!({ "fallback": "reads" })).await.0, 200);
    assert_eq!(crossing(nobody().await, "POST", &json!({ "fallback": "reads" })).await.0, 502);
    assert_eq!(crossing(nobody().await, "GET", &json!({ "weight": 100 })).await.0, 502);
}

#[tokio::test]
async fn on_a_synced_route_reads_cross_and_say_so_and_writes_never_do() {
    let sync = json!({ "sync": "payments" });
    assert_eq!(crossing(nobody().await, "GET", &sync).await, (200, "legacy".to_owned(), Some("1".to_owned())));
    assert_eq!(crossing(nobody().await, "POST", &sync).await.0, 503);
    assert_eq!(crossing(silent().await.address, "POST", &sync).await.0, 502);
}

#[tokio::test]
async fn nothing_is_sent_again_once_the_answer_has_begun() {
    let upstream = Upstream::scripted(|mut wire| async move {
        wire.request().await?;
        wire.send("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf").await?;
        tokio::time::sleep(Duration::from_millis(20)).await;
        wire.reset();
        Ok(())
    })
    .await;
    let legacy = Upstream::named("legacy").await;
    let bench = Setup::new(legacy.address)
        .upstream("modern", upstream.address, &json!({}))
        .route(json!({ "name": "payments", "match": { "path_prefix": "/payments" }, "legacy": "legacy", "modern": "modern", "weight": 100, "fallback": "reads" }))
        .start();
    let mut client = bench.client().await;
    client.send(request("GET", "", "")).await;
    assert!(client.try_answer(false).await.is_none());
    assert_eq!((upstream.connections(), legacy.connections()), (1, 0));
}

#[tokio::test]
async fn beyond_the_budget_nothing_goes_again() {
    let none = json!({ "retries": { "percent": 0, "at_least": 0 } });
    assert_eq!(second("GET", "", "", none).await, (502, 1));
    assert_eq!(second("GET", "", "", json!({ "retries": { "percent": 0, "at_least": 1 } })).await, (200, 2));
}

#[tokio::test]
async fn a_reset_on_a_fresh_connection_goes_again_once() {
    let upstream = Upstream::scripted(|mut wire| async move {
        wire.request().await?;
        if wire.number < 2 {
            wire.reset();
            return Ok(());
        }
        wire.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await
    })
    .await;
    let bench = Setup::new(upstream.address).workers(1).start();
    // The first and the second connection are reset: once more, not for ever.
    assert_eq!(bench.ask(&request("GET", "", "")).await.status, 502);
    assert_eq!(bench.ask(&request("GET", "", "")).await.status, 200);
    assert_eq!(upstream.connections(), 3);
}
