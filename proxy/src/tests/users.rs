//! Users for whom the weight does not decide: testers and pins.

use std::time::Duration;

use serde_json::{Value, json};

use super::{Bench, Data, Fixed, Setup, Upstream, eventually};
use crate::links::{Moment, Owner};

const SECRET: &str = "a-secret-of-testers";

/// A route `pay` under `/pay` between two upstreams, and more.
async fn sides(more: Value) -> (Upstream, Upstream, Setup) {
    let (legacy, modern) = (Upstream::named("legacy").await, Upstream::named("modern").await);
    let mut route = json!({"name": "pay", "match": {"path_prefix": "/pay"}, "legacy": "legacy", "modern": "modern"});
    route.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let setup = Setup::new(legacy.address).upstream("modern", modern.address, &json!({})).route(route);
    (legacy, modern, setup)
}

async fn ask(bench: &Bench, line: &str, headers: &str) -> super::Answer {
    bench.ask(&format!("{line} HTTP/1.1\r\nHost: a\r\n{headers}\r\n")).await
}

async fn side(bench: &Bench, line: &str, headers: &str) -> String {
    ask(bench, line, headers).await.text().to_owned()
}

fn moves(bench: &Bench, reason: &str) -> f64 {
    bench.metric("banyan_side_moves_total", &[("route", "pay"), ("reason", reason)])
}

#[tokio::test]
async fn a_tester_from_an_allowed_network_names_the_side_and_the_answer_says_it() {
    let (legacy, modern, setup) = sides(json!({"force": {"allow": ["127.0.0.0/8"]}})).await;
    let bench = setup.start();
    let answer = ask(&bench, "GET /pay/1", "X-Banyan-Side: modern\r\n").await;
    assert_eq!((answer.text(), answer.header("x-banyan-side")), ("modern", Some("modern")));
    let answer = ask(&bench, "POST /pay", "X-Banyan-Side: legacy\r\n").await;
    assert_eq!((answer.text(), answer.header("x-banyan-side")), ("legacy", Some("legacy")));
    let answer = ask(&bench, "GET /pay/1", "").await;
    assert_eq!((answer.text(), answer.header("x-banyan-side")), ("legacy", None));
    assert_eq!(moves(&bench, "force"), 1.0, "legacy is where the weight has them");
    for upstream in [&legacy, &modern] {
        assert!(!upstream.bytes().to_ascii_lowercase().contains("x-banyan-"), "{}", upstream.bytes());
    }
}

#[tokio::test]
async fn from_everybody_else_the_header_is_stripped_and_says_nothing() {
    let force = json!({"header": "x-test-side", "allow": ["192.0.2.0/24"], "secret": SECRET});
    let (legacy, modern, setup) = sides(json!({ "force": force })).await;
    let bench = setup.start();
    for headers in ["", "X-Banyan-Secret: wrong\r\n", "X-Forwarded-For: 192.0.2.1\r\n", "X-Banyan-Secret:\r\n"] {
        let answer = ask(&bench, "GET /pay/1", &format!("X-Test-Side: modern\r\n{headers}")).await;
        assert_eq!((answer.text(), answer.header("x-banyan-side")), ("legacy", None), "{headers}");
    }
    let with = format!("X-Test-Side: modern\r\nX-Banyan-Secret: {SECRET}\r\n");
    assert_eq!(side(&bench, "GET /pay/1", &with).await, "modern");
    for upstream in [&legacy, &modern] {
        let bytes = upstream.bytes().to_ascii_lowercase();
        assert!(!bytes.contains("x-test-side") && !bytes.contains("secret"), "{bytes}");
    }
}

#[tokio::test]
async fn a_testers_network_is_that_of_the_client_behind_trusted_proxies() {
    let (_legacy, _modern, mut setup) = sides(json!({"force": {"allow": ["192.0.2.0/24"]}})).await;
    setup.config.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()];
    let bench = setup.start();
    let from = |client: &str| format!("X-Banyan-Side: modern\r\nX-Forwarded-For: {client}\r\n");
    assert_eq!(side(&bench, "GET /pay", &from("192.0.2.9")).await, "modern");
    assert_eq!(side(&bench, "GET /pay", &from("192.0.2.9, 198.51.100.1")).await, "legacy");
}

#[tokio::test]
async fn a_tester_never_takes_a_write_from_its_owner() {
    let more = json!({"sync": "money", "weight": 100, "force": {"allow": ["127.0.0.0/8"]}});
    let (_legacy, _modern, setup) = sides(more).await;
    let bench = setup.sync("money", Fixed(Owner::Legacy, None)).start();
    let forced = "X-Banyan-Side: modern\r\n";
    let write = ask(&bench, "POST /pay", forced).await;
    assert_eq!((write.text(), write.header("x-banyan-side")), ("legacy", Some("legacy")));
    assert_eq!(side(&bench, "GET /pay", forced).await, "modern", "who asks for a side sees it, even behind");
    assert_eq!(side(&bench, "GET /pay", "").await, "legacy");
    assert_eq!(moves(&bench, "force"), 0.0, "the weight is modern's, and the write stayed");
}

#[tokio::test]
async fn one_customer_is_first_one_is_back_and_a_tester_beats_both() {
    let more = json!({
        "weight": 50,
        "sticky": [{"header": "x-user-id"}],
        "force": {"allow": ["127.0.0.0/8"]},
        "pin": {"modern": [{"header": {"x-tenant": ["acme"]}}, {"cookie": {"tenant": ["acme"]}}],
                "legacy": [{"header": {"x-tenant": ["initech"]}}]},
    });
    let (_legacy, _modern, setup) = sides(more).await;
    let bench = setup.start();
    for user in 0..20 {
        let user = format!("X-User-Id: user-{user}\r\n");
        assert_eq!(side(&bench, "GET /pay", &format!("{user}X-Tenant: acme\r\n")).await, "modern");
        assert_eq!(side(&bench, "POST /pay", &format!("{user}Cookie: a=b; tenant=acme\r\n")).await, "modern");
        assert_eq!(side(&bench, "GET /pay", &format!("{user}X-Tenant: initech\r\n")).await, "legacy");
        let forced = format!("{user}X-Tenant: initech\r\nX-Banyan-Side: modern\r\n");
        assert_eq!(side(&bench, "GET /pay", &forced).await, "modern");
    }
    // Each user counts once a request that left the side of their bucket: with 20 users there are some on either.
    let pinned = moves(&bench, "pin");
    assert!(pinned > 0.0 && pinned < 60.0, "{pinned}");
}

#[tokio::test]
async fn a_pinned_users_writes_stay_with_the_owner_and_so_do_reads_while_the_other_side_is_behind() {
    let more = json!({"sync": "money", "pin": {"modern": [{"header": {"x-tenant": ["acme"]}}]}});
    for (lag, read) in [(Some(Duration::ZERO), "modern"), (None, "legacy")] {
        let (_legacy, _modern, setup) = sides(more.clone()).await;
        let bench = setup.sync("money", Fixed(Owner::Legacy, lag)).start();
        assert_eq!(side(&bench, "GET /pay", "X-Tenant: acme\r\n").await, read);
        assert_eq!(side(&bench, "POST /pay", "X-Tenant: acme\r\n").await, "legacy");
        let reason = if read == "modern" { "pin" } else { "lag" };
        assert_eq!(moves(&bench, reason), 1.0);
    }
    // Without cookies, by the user's key.
    let mut keyed = more;
    keyed["sticky"] = json!([{"header": "x-user-id"}]);
    let (_legacy, _modern, setup) = sides(keyed).await;
    let data = Data::new();
    let bench = setup.sync("money", data.clone()).start();
    let ann = "X-Tenant: acme\r\nX-User-Id: ann\r\n";
    data.shows_all();
    assert_eq!(side(&bench, "GET /pay", ann).await, "modern");
    // What is written before this moment counts as shown.
    let shown = Moment::now() + Duration::from_millis(2);
    eventually("that moment is over", || Moment::now() > shown).await;
    assert_eq!(side(&bench, "PUT /pay/1", ann).await, "legacy");
    assert_eq!(side(&bench, "GET /pay", ann).await, "legacy", "a user reads what they wrote");
}

#[tokio::test]
async fn without_a_key_the_client_behind_trusted_proxies_draws_the_bucket() {
    let (_legacy, _modern, mut setup) = sides(json!({"weight": 50, "keyless": "client_address"})).await;
    setup.config.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()];
    let seed = crate::split::seed("pay");
    let bench = setup.start();
    let mut seen = std::collections::BTreeSet::new();
    for host in 1..=20 {
        let client = format!("192.0.2.{host}");
        let bucket = crate::split::bucket(seed, &crate::split::address_key(client.parse().unwrap()));
        let expected = if bucket < 5000 { "modern" } else { "legacy" };
        let from = format!("X-Forwarded-For: 6.6.6.6, {client}\r\n");
        assert_eq!(side(&bench, "GET /pay", &from).await, expected, "{client}");
        seen.insert(expected);
    }
    assert_eq!(seen.len(), 2);
}

#[tokio::test]
async fn who_makes_too_many_requests_is_refused_and_told_when_to_come_again() {
    let limit = json!({"requests": 2, "every": "1h", "key": [{"header": "x-api-key"}]});
    let (legacy, _modern, setup) = sides(json!({ "rate_limit": limit })).await;
    let bench = setup.start();
    let ann = "X-Api-Key: ann\r\n";
    for _ in 0..2 {
        // Each on a connection of its own: both workers count together.
        assert_eq!(side(&bench, "GET /pay", ann).await, "legacy");
    }
    let mut client = bench.client().await;
    for _ in 0..2 {
        client.send(format!("GET /pay HTTP/1.1\r\nHost: a\r\n{ann}\r\n")).await;
        let refused = client.answer().await;
        assert_eq!(refused.status, 429);
        assert_eq!(refused.header("content-type"), Some("application/problem+json"));
        let wait: u64 = refused.header("retry-after").unwrap().parse().unwrap();
        assert!((1700..=1800).contains(&wait), "{wait}");
        let problem: Value = serde_json::from_str(refused.text()).unwrap();
        assert_eq!((&problem["route"], &problem["fault"]), (&json!("pay"), &json!("client")));
        assert_eq!(problem["type"], "urn:banyan:error:rate_limited");
    }
    // The connection stays: others, and other routes, are answered on it.
    client.send("GET /pay HTTP/1.1\r\nHost: a\r\nX-Api-Key: bob\r\n\r\n").await;
    assert_eq!(client.answer().await.text(), "legacy");
    client.send(format!("GET /other HTTP/1.1\r\nHost: a\r\n{ann}\r\n")).await;
    assert_eq!(client.answer().await.text(), "legacy");
    assert_eq!(bench.metric("banyan_rate_limited_total", &[("route", "pay")]), 2.0);
    assert_eq!(legacy.bytes().matches("GET /pay ").count(), 3, "what is refused costs the upstream nothing");
}

#[tokio::test]
async fn a_read_that_one_side_has_not_got_is_asked_of_the_other() {
    let legacy = Upstream::named("legacy").await;
    // A body that is not read to its end when the other side is asked.
    let modern = Upstream::scripted(|mut wire| async move {
        loop {
            wire.request().await?;
            wire.send(format!("HTTP/1.1 404 Not Found\r\ncontent-length: {}\r\n\r\n", 4 + (1 << 20))).await?;
            wire.send([&b"none"[..], &vec![b'x'; 1 << 20][..]].concat()).await?;
        }
    })
    .await;
    let more = json!({"weight": 100, "expose": true, "fallback": "none", "fallback_on": [404, 410]});
    let route = |more: &Value| {
        let mut route =
            json!({"name": "pay", "match": {"path_prefix": "/pay"}, "legacy": "legacy", "modern": "modern"});
        route.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        route
    };
    let bench = Setup::new(legacy.address)
        .workers(1)
        .upstream("modern", modern.address, &json!({}))
        .route(route(&more))
        .start();
    let mut client = bench.client().await;
    for _ in 0..3 {
        client.send("GET /pay/7 HTTP/1.1\r\nHost: a\r\nX-Mine: 1\r\n\r\n").await;
        let found = client.answer().await;
        assert_eq!((found.status, found.text(), found.header("x-banyan-side")), (200, "legacy", Some("legacy")));
    }
    assert!(legacy.bytes().to_ascii_lowercase().contains("x-mine: 1"), "the other side gets the whole head");
    let write = ask(&bench, "POST /pay", "Content-Length: 0\r\n").await;
    assert_eq!((write.status, write.header("x-banyan-side")), (404, Some("modern")), "a write never changes side");
    let found = |outcome| bench.metric("banyan_fallback_on_total", &[("route", "pay"), ("outcome", outcome)]);
    assert_eq!((found("found"), found("not_found")), (3.0, 0.0));

    // Nothing listens there any more: the first answer stands, whole.
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let bench = Setup::new(gone).upstream("modern", modern.address, &json!({})).route(route(&more)).start();
    let first = ask(&bench, "GET /pay/7", "").await;
    assert_eq!((first.status, first.text().len()), (404, 4 + (1 << 20)));
    assert_eq!(bench.metric("banyan_fallback_on_total", &[("route", "pay"), ("outcome", "not_found")]), 1.0);
}

#[tokio::test]
async fn who_looks_on_the_other_side_waits_for_no_place_while_it_has_one() {
    let upstream = Upstream::scripted(|mut wire| async move {
        loop {
            let (head, _) = wire.request().await?;
            let status = if head.starts_with("GET /pay/full") { "200 OK" } else { "404 Not Found" };
            // More than is read at once: the answer has its place until it is passed on.
            let body = "x".repeat(1 << 20);
            wire.send(format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len())).await?;
        }
    })
    .await;
    // Both sides are one upstream, and it takes one request at a time.
    for limits in [json!({ "in_flight": 1 }), json!({ "connections": 1 })] {
        let mut settings = json!({ "limits": { "queue": 5, "queue_time": "10m" }, "connect_timeout": "10m" });
        settings["limits"].as_object_mut().unwrap().extend(limits.as_object().unwrap().clone());
        let bench = Setup::new(upstream.address)
            .upstream("one", upstream.address, &settings)
            .route(json!({ "name": "pay", "match": { "path_prefix": "/pay" }, "legacy": "one", "modern": "one", "weight": 0,
                "fallback_on": [404] }))
            .start();
        let asked =
            tokio::time::timeout(std::time::Duration::from_secs(20), bench.ask("GET /pay HTTP/1.1\r\nHost: a\r\n\r\n"));
        assert_eq!(asked.await.expect("it waits for itself").status, 404);
        // And the place is free again.
        assert_eq!(bench.ask("GET /pay/full HTTP/1.1\r\nHost: a\r\n\r\n").await.status, 200);
    }
}
