//! Routes that Banyan answers by itself.

use serde_json::json;

use super::{Setup, Upstream, eventually};
use crate::metrics::HTTP_REQUESTS;

#[tokio::test]
async fn a_redirect_keeps_the_query_and_asks_no_upstream() {
    let legacy = Upstream::named("legacy").await;
    for is_trusted in [false, true] {
        let mut setup = Setup::new(legacy.address)
            .route(json!({
                "name": "moved", "match": {"path_prefix": "/old"},
                "redirect": {"status": 308, "path_prefix": "/new"},
            }))
            .route(json!({"name": "tls", "match": {"path": "/login"}, "redirect": {"scheme": "https"}}));
        if is_trusted {
            setup.config.trusted_proxies.push("127.0.0.0/8".parse().unwrap());
        }
        let bench = setup.start();
        let told = "Host: shop.example:8080\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: front.example\r\n";
        let answer = bench.ask(&format!("GET /x/../old//%37?a=%20b HTTP/1.1\r\n{told}\r\n")).await;
        let public = if is_trusted { "https://front.example" } else { "http://shop.example:8080" };
        assert_eq!((answer.status, answer.header("location")), (308, Some(format!("{public}/new/7?a=%20b").as_str())));
        let answer = bench.ask("GET /login HTTP/1.1\r\nHost: shop.example:8080\r\n\r\n").await;
        assert_eq!((answer.status, answer.header("location")), (302, Some("https://shop.example/login")));
        let counted = || bench.metric(HTTP_REQUESTS, &[("route", "moved"), ("side", "banyan"), ("code", "308")]) > 0.0;
        eventually("the answer is counted as Banyan's", counted).await;
    }
    assert_eq!(legacy.connections(), 0);
}

#[tokio::test]
async fn a_fixed_answer_has_its_status_headers_and_body() {
    let legacy = Upstream::named("legacy").await;
    let bench = Setup::new(legacy.address)
        .route(json!({
            "name": "gone", "match": {"path_prefix": "/v1"},
            "respond": {"status": 410, "headers": {"x-why": "moved"}, "body": "gone\n"},
        }))
        .route(json!({"name": "empty", "match": {"path": "/ping"}, "respond": {"status": 204}}))
        .start();
    let mut client = bench.client().await;
    for _ in 0..2 {
        client.send("GET /v1/x HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let answer = client.answer().await;
        assert_eq!((answer.status, answer.text(), answer.header("x-why")), (410, "gone\n", Some("moved")));
        assert_eq!(answer.header("content-type"), Some("text/plain; charset=utf-8"));
        client.send("HEAD /v1/x HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert_eq!(client.head_answer().await.status, 410);
        client.send("GET /ping HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let answer = client.answer().await;
        assert_eq!((answer.status, answer.text()), (204, ""));
    }
    // A body that nobody reads could hold a request.
    client.send("POST /v1/x HTTP/1.1\r\nHost: a\r\nContent-Length: 99999\r\n\r\n").await;
    assert_eq!(client.answer().await.status, 410);
    assert!(client.is_closed().await);
    assert_eq!(legacy.connections(), 0);
}
