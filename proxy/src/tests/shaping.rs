//! What one side is asked as and answers as: host, headers, and its own address in its answers.

use serde_json::{Value, json};

use super::{Setup, Upstream};

const GET: &str = "GET /pay/7?x=1 HTTP/1.1\r\nHost: shop.example:8080\r\nX-Debug: 1\r\nX-Tenant: theirs\r\n\r\n";

fn route(weight: u32, legacy: &Value, modern: &Value) -> Value {
    json!({
        "name": "pay", "match": {"path_prefix": "/pay"}, "legacy": legacy, "modern": modern, "weight": weight,
        "fallback": "reads",
    })
}

/// Names in any case, since the legacy leg has them in another.
fn lower(upstream: &Upstream) -> String {
    upstream.bytes().to_ascii_lowercase()
}

#[tokio::test]
async fn each_side_gets_its_own_host_and_headers() {
    let (legacy, modern) = (Upstream::named("legacy").await, Upstream::named("modern").await);
    let changes = json!({
        "request": {"set": {"x-tenant": "acme"}, "add": {"x-more": "1"}, "remove": ["x-debug"]},
        "response": {"set": {"x-served": "modern"}, "remove": ["content-type"]},
    });
    let side = json!({"upstream": "modern", "host": "pay.internal", "headers": changes});
    for (weight, name) in [(0, "legacy"), (100, "modern")] {
        let bench = Setup::new(legacy.address)
            .upstream("modern", modern.address, &json!({}))
            .route(route(weight, &json!("legacy"), &side))
            .start();
        let answer = bench.ask(GET).await;
        assert_eq!(answer.text(), name);
        assert_eq!(answer.header("x-served"), (name == "modern").then_some("modern"));
    }
    let (legacy, modern) = (lower(&legacy), lower(&modern));
    for line in ["host: shop.example:8080\r\n", "x-tenant: theirs\r\n", "x-debug: 1\r\n"] {
        assert!(legacy.contains(line), "{legacy}");
    }
    for line in
        ["\r\nhost: pay.internal\r\n", "x-forwarded-host: shop.example:8080\r\n", "x-tenant: acme\r\n", "x-more: 1\r\n"]
    {
        assert!(modern.contains(line), "{modern}");
    }
    assert!(!modern.contains("x-debug") && !modern.contains("theirs") && !legacy.contains("x-more"), "{modern}");
}

#[tokio::test]
async fn what_is_made_for_one_side_does_not_reach_the_other() {
    let legacy = Upstream::named("legacy").await;
    let modern = Upstream::scripted(|mut wire| async move {
        wire.request().await?;
        wire.reset();
        Ok(())
    })
    .await;
    let side = json!({"upstream": "modern", "host": "pay.internal", "headers": {"request": {"add": {"x-more": "1"}}}});
    let bench = Setup::new(legacy.address)
        .upstream("modern", modern.address, &json!({}))
        .route(route(100, &json!({"upstream": "legacy", "headers": {"request": {"add": {"x-more": "2"}}}}), &side))
        .start();
    assert_eq!(bench.ask(GET).await.text(), "legacy");
    assert!(lower(&modern).contains("\r\nhost: pay.internal\r\n"));
    let legacy = lower(&legacy);
    assert!(legacy.contains("host: shop.example:8080\r\n") && legacy.contains("x-more: 2\r\n"), "{legacy}");
    assert!(!legacy.contains("pay.internal") && !legacy.contains("x-more: 1"), "{legacy}");
}

/// Sends the client to its own address, and sets cookies for it.
async fn self_centred() -> Upstream {
    Upstream::scripted(|mut wire| async move {
        let own = wire.stream.local_addr()?;
        loop {
            wire.request().await?;
            wire.send(format!(
                "HTTP/1.1 302 Found\r\nlocation: http://{own}/v2/8?y=2\r\ncontent-location: /v2/7\r\n\
                 set-cookie: a=1; Domain=pay.internal; Path=/v2\r\nset-cookie: b=2; Path=/\r\ncontent-length: 0\r\n\r\n"
            ))
            .await?;
        }
    })
    .await
}

#[tokio::test]
async fn an_upstreams_own_address_is_said_as_the_public_one() {
    let (legacy, modern) = (Upstream::named("legacy").await, self_centred().await);
    for (is_trusted, expected) in
        [(false, "http://shop.example:8080/pay/8?y=2"), (true, "https://front.example/pay/8?y=2")]
    {
        let side = json!({"upstream": "modern", "host": "pay.internal", "rewrite": {"path_prefix": "/v2"}});
        let mut setup = Setup::new(legacy.address).upstream("modern", modern.address, &json!({})).route(route(
            100,
            &json!("legacy"),
            &side,
        ));
        if is_trusted {
            setup.config.trusted_proxies.push("127.0.0.0/8".parse().unwrap());
        }
        let bench = setup.start();
        let told = "Host: shop.example:8080\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: front.example\r\n";
        let answer = bench.ask(&format!("GET /pay/7 HTTP/1.1\r\n{told}\r\n")).await;
        assert_eq!((answer.header("location"), answer.header("content-location")), (Some(expected), Some("/pay/7")));
        let domain = if is_trusted { "front.example" } else { "shop.example" };
        let cookies = format!("set-cookie: a=1; Domain={domain}; Path=/pay\r\nset-cookie: b=2; Path=/\r\n");
        assert!(answer.head.contains(&cookies), "{}", answer.head);
    }
    assert!(modern.bytes().contains("GET /v2/7 HTTP/1.1"));
}

#[tokio::test]
async fn the_default_route_says_its_address_as_the_public_one_and_leaves_any_other() {
    let legacy = self_centred().await;
    let bench = Setup::new(legacy.address).start();
    let answer = bench.ask(GET).await;
    assert_eq!(answer.header("location"), Some("http://shop.example:8080/v2/8?y=2"));
    assert_eq!(answer.header("content-location"), Some("/v2/7"));
    assert!(answer.head.contains("Domain=pay.internal; Path=/v2"), "{}", answer.head);
}
