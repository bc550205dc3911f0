//! `reads:` says the same everywhere: weight, owner, own writes, sending again, crossing, shadow.

use std::{sync::atomic::Ordering, time::Duration};

use serde_json::{Value, json};

use super::{Fixed, Setup, Upstream, again::forgetful, eventually};
use crate::{links::Owner, metrics::SHADOW_REQUESTS};

fn request(method: &str, path: &str, body: &str, more: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nHost: a\r\n{more}Content-Length: {}\r\n\r\n{body}", body.len())
}

fn route(reads: &Value, more: &Value) -> Value {
    let mut route = json!({
        "name": "shop", "match": {"path_prefix": "/"}, "legacy": "legacy", "modern": "modern", "weight": 100, "reads": reads,
    });
    route.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    route
}

#[tokio::test]
async fn declared_reads_follow_the_weight_and_declared_writes_the_owner() {
    let (legacy, modern) = (Upstream::named("legacy").await, Upstream::named("modern").await);
    let reads = json!({
        "also": [
            {"path": "/graphql", "query": {"op": {"regex": "get.*"}}},
            {"grpc": "shop.Orders/List*"},
            {"path": "/search/*", "methods": ["POST", "PUT"]},
            {"path": "/rpc", "headers": {"x-rpc": "read"}},
        ],
        "never": ["/logout", "/download/*"],
    });
    let bench = Setup::new(legacy.address)
        .upstream("modern", modern.address, &json!({}))
        .sync("money", Fixed(Owner::Legacy, Some(Duration::ZERO)))
        .route(route(&reads, &json!({"sync": "money"})))
        .start();
    let grpc = "Content-Type: application/grpc+proto\r\n";
    for (method, path, more, expected) in [
        ("GET", "/orders", "", "modern"),
        ("POST", "/orders", "", "legacy"),
        ("POST", "/graphql?op=getOrders", "", "modern"),
        ("POST", "/graphql?op=pay", "", "legacy"),
        ("PUT", "/graphql?op=getOrders", "", "legacy"),
        ("POST", "/graphql;a/?op=getOrders", "", "legacy"),
        ("POST", "/shop.Orders/ListAll", grpc, "modern"),
        ("POST", "/shop.Orders/List", "Content-Type: application/grpc-web\r\n", "legacy"),
        ("POST", "/shop.Orders/ListAll", "", "legacy"),
        ("POST", "/shop.Orders/Pay", grpc, "legacy"),
        ("PUT", "/search/a/b", "", "modern"),
        ("POST", "/search", "", "legacy"),
        ("POST", "/rpc", "X-Rpc: read\r\n", "modern"),
        ("POST", "/rpc", "X-Rpc: pay\r\n", "legacy"),
        ("GET", "/logout", "", "legacy"),
        ("GET", "/logout/", "", "legacy"),
        ("GET", "/x/..//%6cogout;a=b/", "", "legacy"),
        ("GET", "/logouts", "", "modern"),
        ("GET", "/download/7", "", "legacy"),
        ("GET", "/download", "", "modern"),
        ("GET", "/orders", "Connection: upgrade\r\nUpgrade: h2c\r\n", "legacy"),
    ] {
        // Without a key: nobody has written anything before.
        let answer = bench.ask(&request(method, path, "", more)).await;
        assert_eq!(answer.text(), expected, "{method} {path} {more}");
        let is_write = answer.header("set-cookie").is_some_and(|cookie| cookie.starts_with("banyan_w="));
        assert_eq!(is_write, expected == "legacy", "{method} {path}: only a write is remembered");
    }
}

#[tokio::test]
async fn methods_can_be_narrowed() {
    let (legacy, modern) = (Upstream::named("legacy").await, Upstream::named("modern").await);
    let bench = Setup::new(legacy.address)
        .upstream("modern", modern.address, &json!({}))
        .sync("money", Fixed(Owner::Legacy, Some(Duration::ZERO)))
        .route(route(&json!({"methods": ["HEAD", "REPORT"]}), &json!({"sync": "money"})))
        .start();
    for (method, expected) in [("GET", "legacy"), ("REPORT", "modern"), ("OPTIONS", "legacy")] {
        assert_eq!(bench.ask(&request(method, "/x", "", "")).await.text(), expected, "{method}");
    }
}

/// Reads a whole request and answers nothing.
async fn silent() -> Upstream {
    Upstream::scripted(|mut wire| async move {
        wire.request().await?;
        wire.reset();
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_declared_read_crosses_with_its_body_as_long_as_that_is_kept() {
    let legacy = Upstream::scripted(|mut wire| async move {
        loop {
            let (_, body) = wire.request().await?;
            wire.send(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len())).await?;
            wire.send(body).await?;
        }
    })
    .await;
    let modern = silent().await;
    let reads = json!({"also": [{"path": "/graphql"}], "never": ["/logout"]});
    let bench = Setup::new(legacy.address)
        .upstream("modern", modern.address, &json!({}))
        .route(route(&reads, &json!({"fallback": "reads"})))
        .start();
    let query = "{ orders { id } }";
    let answer = bench.ask(&request("POST", "/graphql", query, "")).await;
    assert_eq!((answer.status, answer.text()), (200, query));
    assert_eq!(bench.ask(&request("POST", "/graphql", &"x".repeat(65 * 1024), "")).await.status, 502);
    assert_eq!(bench.ask(&request("POST", "/pay", query, "")).await.status, 502);
    assert_eq!(bench.ask(&request("GET", "/logout", "", "")).await.status, 502);
}

#[tokio::test]
async fn a_declared_read_goes_again_to_the_same_upstream() {
    for (path, expected) in [("/graphql", (200, 2)), ("/pay", (502, 1))] {
        let (upstream, answered) = forgetful().await;
        let reads = json!({"also": [{"path": "/graphql"}]});
        let bench = Setup::new(upstream.address)
            .route(json!({"name": "shop", "match": {"path_prefix": "/"}, "legacy": "legacy", "reads": reads}))
            .workers(1)
            .start();
        let mut client = bench.client().await;
        client.send(request("GET", "/", "", "")).await;
        assert_eq!(client.answer().await.status, 200);
        client.send(request("POST", path, "a query", "")).await;
        let status = client.answer().await.status;
        assert_eq!((status, answered.load(Ordering::SeqCst)), expected, "{path}");
    }
}

#[tokio::test]
async fn only_reads_are_shadowed_with_their_bodies() {
    let (legacy, modern) = (Upstream::named("legacy").await, Upstream::named("modern").await);
    let reads = json!({"also": [{"path": "/search"}], "never": ["/logout"]});
    let bench = Setup::new(legacy.address)
        .upstream("modern", modern.address, &json!({}))
        .route(route(&reads, &json!({"weight": 0, "shadow": {"percent": 100}})))
        .start();
    let counted = |outcome| bench.metric(SHADOW_REQUESTS, &[("route", "shop"), ("outcome", outcome)]);
    for (method, path, body) in
        [("GET", "/logout", ""), ("POST", "/pay", ""), ("POST", "/search", "words"), ("POST", "/search", "")]
    {
        assert_eq!(bench.ask(&request(method, path, body, "")).await.text(), "legacy");
    }
    eventually("both searches are copied", || counted("sent") == 2.0).await;
    assert!(modern.bytes().starts_with("POST /search HTTP/1.1\r\n"), "{}", modern.bytes());
    assert_eq!(modern.bytes().matches(" HTTP/1.1").count(), 2);
    assert!(modern.bytes().contains("\r\n\r\nwords"), "{}", modern.bytes());
}
