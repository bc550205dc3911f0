//! Which route answers, over real sockets.

use serde_json::json;

use super::{Setup, Upstream};

#[tokio::test]
async fn a_client_behind_a_trusted_proxy_is_matched_by_its_own_address() {
    let (legacy, office) = (Upstream::named("legacy").await, Upstream::named("office").await);
    for is_trusted in [true, false] {
        let mut setup = Setup::new(legacy.address).upstream("office", office.address, &json!({})).route(
            json!({"name": "office", "match": {"path_prefix": "/", "client": ["10.0.0.0/8"]}, "legacy": "office"}),
        );
        if is_trusted {
            setup.config.trusted_proxies.push("127.0.0.0/8".parse().unwrap());
        }
        let bench = setup.start();
        let from = |address: &str| format!("GET / HTTP/1.1\r\nhost: h\r\nx-forwarded-for: {address}\r\n\r\n");
        let inside = if is_trusted { "office" } else { "legacy" };
        assert_eq!(bench.ask(&from("10.1.2.3")).await.text(), inside);
        assert_eq!(bench.ask(&from("192.0.2.7")).await.text(), "legacy");
    }
}

#[tokio::test]
async fn patterns_and_query_parameters_are_matched_in_one_spelling() {
    let (legacy, receipts) = (Upstream::named("legacy").await, Upstream::named("receipts").await);
    let bench = Setup::new(legacy.address)
        .upstream("receipts", receipts.address, &json!({}))
        .route(json!({
            "name": "receipts",
            "match": {"path_regex": "/payments/[0-9]+/receipt", "query": {"as of": {"regex": "20[0-9]{2}"}}},
            "legacy": "receipts",
        }))
        .start();
    for (target, expected) in [
        ("/payments/7/receipt?as+of=2026", "receipts"),
        ("/x/..//payments/%37/receipt?a=b&%61s%20of=20%32%36", "receipts"),
        ("/payments/7/receipt?as+of=1999&as+of=2026", "legacy"),
        ("/payments/7/receipt", "legacy"),
        ("/payments/7/receipt/2?as+of=2026", "legacy"),
    ] {
        let answer = bench.ask(&format!("GET {target} HTTP/1.1\r\nhost: h\r\n\r\n")).await;
        assert_eq!(answer.text(), expected, "{target}");
    }
    assert!(receipts.bytes().contains("GET /x/..//payments/%37/receipt?a=b&%61s%20of=20%32%36 HTTP/1.1"), "as it came");
}
