//! Both sides may call their cookies the same: in the browser each has a name of its own.

use serde_json::{Value, json};

use super::{Bench, Setup, Upstream, eventually, legs::http2};

/// Says its name, and sets the cookies `sid` and `seen`.
async fn service(name: &'static str) -> Upstream {
    Upstream::scripted(move |mut wire| async move {
        loop {
            wire.request().await?;
            let cookies = format!("Set-Cookie: sid=of-{name}; Path=/; HttpOnly\r\nSet-Cookie: seen=1\r\n");
            wire.send(format!("HTTP/1.1 200 OK\r\n{cookies}content-length: {}\r\n\r\n{name}", name.len())).await?;
        }
    })
    .await
}

/// A route `pay` with pinned users on modern, whose `sid` clients know as `m_sid`.
async fn scene(more: Value) -> (Upstream, Upstream, Bench) {
    let (legacy, modern) = (service("legacy").await, service("modern").await);
    let mut route = json!({
        "name": "pay", "match": {"path_prefix": "/pay"}, "legacy": "legacy", "modern": "modern",
        "pin": {"modern": [{"header": {"x-on": ["modern"]}}]}, "cookies": {"modern": {"rename": {"sid": "m_sid"}}},
    });
    route.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let bench = Setup::new(legacy.address).upstream("modern", modern.address, &json!({})).route(route).start();
    (legacy, modern, bench)
}

fn get(headers: &str) -> String {
    format!("GET /pay HTTP/1.1\r\nHost: shop.test\r\n{headers}\r\n")
}

/// The `Cookie` lines that an upstream got, in lower case.
fn cookies(upstream: &Upstream) -> Vec<String> {
    let bytes = upstream.bytes().to_ascii_lowercase();
    bytes.lines().filter(|line| line.starts_with("cookie:")).map(str::to_owned).collect()
}

const BOTH: &str = "Cookie: a=1; sid=of-legacy; b=2;m_sid=of-modern\r\n";

#[tokio::test]
async fn each_side_sets_and_gets_its_own_cookie_of_the_same_name() {
    let (legacy, modern, bench) = scene(json!({})).await;
    let set = |answer: &super::Answer| -> Vec<String> {
        let lines = answer
            .head
            .lines()
            .filter_map(|line| line.to_ascii_lowercase().strip_prefix("set-cookie: ").map(str::to_owned));
        lines.collect()
    };
    let answer = bench.ask(&get(BOTH)).await;
    assert_eq!(
        (answer.text(), set(&answer)),
        ("legacy", vec!["sid=of-legacy; path=/; httponly".to_owned(), "seen=1".to_owned()])
    );
    let answer = bench.ask(&get(&format!("X-On: modern\r\n{BOTH}"))).await;
    assert_eq!(
        (answer.text(), set(&answer)),
        ("modern", vec!["m_sid=of-modern; path=/; httponly".to_owned(), "seen=1".to_owned()])
    );
    bench.ask(&get("X-On: modern\r\nCookie: sid=of-legacy\r\nCookie: a=1\r\n")).await;
    bench.ask(&get("X-On: modern\r\nCookie: sid=of-legacy\r\n")).await;
    assert_eq!(cookies(&legacy), ["cookie: a=1; sid=of-legacy; b=2;m_sid=of-modern"], "legacy's are as they came");
    assert_eq!(cookies(&modern), ["cookie: a=1; b=2;sid=of-modern", "cookie: a=1"], "no other side's session");
}

#[tokio::test]
async fn crumbs_of_http2_and_copies_are_renamed_too() {
    let (legacy, modern, bench) = scene(json!({"shadow": {"percent": 100}})).await;
    let (mut sender, _driver) = http2(&bench).await;
    let mut request = http::Request::get("http://shop.test/pay");
    for crumb in ["sid=of-legacy", "m_sid=of-modern", "a=1"] {
        request = request.header("cookie", crumb);
    }
    let (answer, _) = sender.send_request(request.body(()).unwrap(), true).unwrap();
    assert_eq!(answer.await.unwrap().headers()["set-cookie"], "sid=of-legacy; Path=/; HttpOnly");
    assert_eq!(cookies(&legacy), ["cookie: sid=of-legacy; m_sid=of-modern; a=1"]);
    eventually("the copy came", || !cookies(&modern).is_empty()).await;
    assert_eq!(cookies(&modern), ["cookie: sid=of-modern; a=1"]);
}

#[tokio::test]
async fn compared_cookies_have_the_names_that_clients_know() {
    for (rename, result) in [("m_sid", "mismatch"), ("other", "mismatch"), ("sid", "match")] {
        let same = "HTTP/1.1 200 OK\r\nset-cookie: sid=1\r\ncontent-length: 0\r\n\r\n";
        let modern_sets = "HTTP/1.1 200 OK\r\nset-cookie: own=1\r\ncontent-length: 0\r\n\r\n";
        let (legacy, modern) = (Upstream::answering(same).await, Upstream::answering(modern_sets).await);
        let bench = Setup::new(legacy.address)
            .upstream("modern", modern.address, &json!({}))
            .route(json!({
                "name": "pay", "match": {"path_prefix": "/pay"}, "legacy": "legacy", "modern": "modern",
                "cookies": {"modern": {"rename": {"own": rename}}}, "shadow": {"percent": 100},
                "compare": {"headers": ["set-cookie"]},
            }))
            .start();
        bench.ask(&get("")).await;
        let counted = || bench.metric("banyan_compare_total", &[("route", "pay"), ("result", result)]);
        eventually("it is compared", || counted() > 0.5).await;
    }
}

#[tokio::test]
async fn what_crosses_to_the_other_side_has_the_clients_names_again() {
    let (legacy, gone) =
        (service("legacy").await, std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap());
    let bench = Setup::new(legacy.address)
        .upstream("modern", gone, &json!({}))
        .route(json!({
            "name": "pay", "match": {"path_prefix": "/pay"}, "legacy": "legacy", "modern": "modern", "weight": 100,
            "fallback": "reads", "cookies": {"modern": {"rename": {"sid": "m_sid"}}},
        }))
        .start();
    assert_eq!(bench.ask(&get(BOTH)).await.text(), "legacy");
    assert_eq!(cookies(&legacy), ["cookie: a=1; sid=of-legacy; b=2;m_sid=of-modern"]);
}
