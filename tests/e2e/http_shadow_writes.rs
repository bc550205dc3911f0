//! Copies of requests with a body and of writes: when they are sent, what they carry, and when there is none.

use std::time::Duration;

use banyan_proxy::links::Owner;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use crate::harness::{Front, Raw, Script, Upstream, eventually, front::request, secs};

/// A route `pay` under `/pay` that shadows what `shadow` says, and more.
fn pay(shadow: impl Into<Value>, more: impl Into<Value>) -> Value {
    let (shadow, more) = (shadow.into(), more.into());
    let mut settings = json!({"percent": 100});
    settings.as_object_mut().unwrap().extend(shadow.as_object().unwrap().clone());
    let mut route = json!({"name": "pay", "match": {"path_prefix": "/pay"}, "legacy": "monolith", "modern": "service",
        "shadow": settings, "compare": {}});
    route.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!([route])
}

fn posts() -> Value {
    json!({"methods": ["GET", "POST"]})
}

fn answers(amount: &'static str) -> Upstream {
    Upstream::scripted(move |_| Script::json(&json!({"id": 7, "amount": amount})))
}

fn copies(front: &Front, outcome: &str) -> f64 {
    front.metrics().sum("banyan_shadow_requests_total", &[("route", "pay"), ("outcome", outcome)])
}

/// Waits until so many came to this, and nothing to anything else.
async fn until_copies(front: &Front, outcome: &str, count: f64) {
    let all = || front.metrics().sum("banyan_shadow_requests_total", &[("route", "pay")]);
    eventually(secs(15), &format!("{count} copies {outcome}"), async || copies(front, outcome) == count).await;
    assert_eq!(all(), count);
}

fn compared(front: &Front, result: &str) -> f64 {
    front.metrics().sum("banyan_compare_total", &[("route", "pay"), ("result", result)])
}

#[tokio::test]
async fn a_write_is_copied_when_the_answering_side_has_answered_whichever_side_that_is() {
    for (weight, is_modern) in [(0, false), (100, true)] {
        let slow = || {
            Upstream::scripted(|seen| {
                let answer = Script::json(&json!({"id": 7, "amount": "19.90"}));
                if seen.header("x-banyan-shadow").is_some() { answer } else { answer.after(Duration::from_millis(600)) }
            })
        };
        let (legacy, modern) = (slow(), slow());
        let front = Front::start(legacy.addr(), &modern, pay(posts(), json!({"weight": weight})));
        let (answering, shadow) = if is_modern { (&modern, &legacy) } else { (&legacy, &modern) };
        let mut raw = Raw::connect(front.addr()).await;
        raw.send(request("POST /pay?x=1", &[("Content-Type", "application/json")], r#"{"amount":5}"#)).await;
        eventually(secs(10), "the answering side has all of it", async || answering.seen().len() == 1).await;
        // It takes 600 ms to answer; that is time enough for a copy that does not wait for it.
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert!(shadow.seen().is_empty(), "a write that is not answered is not copied");
        assert_eq!(raw.answer().await.unwrap().json()["amount"], "19.90");

        eventually(secs(10), "the copy", async || shadow.seen().len() == 1).await;
        let copy = &shadow.seen()[0];
        assert_eq!(copy.line(), "POST /pay?x=1 HTTP/1.1");
        assert_eq!((copy.header("x-banyan-shadow"), copy.body.as_slice()), (Some("1"), &br#"{"amount":5}"#[..]));
        assert_eq!(
            (copy.header("content-type"), copy.header("content-length")),
            (Some("application/json"), Some("12"))
        );
        assert_eq!(answering.seen()[0].header("x-banyan-shadow"), None);
        until_copies(&front, "sent", 1.0).await;
        assert_eq!(compared(&front, "match"), 1.0);
        assert_eq!(serde_json::to_value(front.report("pay")).unwrap()["compared"], 1);
    }
}

#[tokio::test]
async fn what_a_write_is_answered_is_compared_too() {
    let (legacy, modern) = (answers("19.90"), answers("19.91"));
    let front = Front::start(legacy.addr(), &modern, pay(posts(), json!({})));
    Raw::once(front.addr(), &request("POST /pay", &[("Connection", "close")], "amount=5")).await;
    until_copies(&front, "sent", 1.0).await;
    let told = serde_json::to_value(front.report("pay")).unwrap();
    assert_eq!(
        (&told["differences"][0]["place"], &told["differences"][0]["example"]["method"]),
        (&"/amount".into(), &"POST".into())
    );
}

#[tokio::test]
async fn a_body_goes_to_the_answering_side_at_once_and_to_the_copy_when_it_is_whole() {
    let modern = answers("1");
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let front = Front::start(listener.local_addr().unwrap(), &modern, pay(posts(), json!({})));
    let mut raw = Raw::connect(front.addr()).await;
    raw.send("POST /pay HTTP/1.1\r\nHost: shop.example\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n").await;
    let (mut legacy, _) = listener.accept().await.unwrap();
    let (mut seen, mut piece) = (String::new(), [0; 1024]);
    while !seen.contains("first") {
        let read = tokio::time::timeout(secs(10), legacy.read(&mut piece)).await.unwrap().unwrap();
        seen.push_str(std::str::from_utf8(&piece[..read]).unwrap());
    }
    raw.send("6\r\nsecond\r\n0\r\n\r\n").await;
    while !seen.ends_with("0\r\n\r\n") {
        let read = tokio::time::timeout(secs(10), legacy.read(&mut piece)).await.unwrap().unwrap();
        seen.push_str(std::str::from_utf8(&piece[..read]).unwrap());
    }
    assert!(modern.seen().is_empty());
    legacy.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await.unwrap();
    assert_eq!(raw.answer().await.unwrap().status, 200);
    eventually(secs(10), "the copy", async || modern.seen().len() == 1).await;
    assert_eq!(modern.seen()[0].body, b"firstsecond");
}

#[tokio::test]
async fn a_body_over_the_bound_passes_whole_and_is_not_copied() {
    let (legacy, modern) = (answers("1"), answers("1"));
    let shadow = json!({"methods": ["POST"], "max_body": "64KiB"});
    let front = Front::start(legacy.addr(), &modern, pay(shadow, json!({})));
    let big = "x".repeat(70_000);
    Raw::once(front.addr(), &request("POST /pay", &[("Connection", "close")], &big)).await;
    until_copies(&front, "body_too_long", 1.0).await;
    let pieces: String = big
        .as_bytes()
        .chunks(7_000)
        .map(|piece| format!("{:x}\r\n{}\r\n", piece.len(), "y".repeat(piece.len())))
        .collect();
    let chunked = format!(
        "POST /pay HTTP/1.1\r\nHost: shop.example\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n{pieces}0\r\n\r\n"
    );
    assert_eq!(Raw::once(front.addr(), &chunked).await.status, 200);
    until_copies(&front, "body_too_long", 2.0).await;
    assert_eq!(legacy.seen()[0].body.len(), big.len());
    assert!(legacy.seen()[1].body.len() > big.len(), "with its framing");
    Raw::once(front.addr(), &request("POST /pay", &[("Connection", "close")], &big[..65_536])).await;
    eventually(secs(10), "one that is just short enough", async || modern.seen().len() == 1).await;
    assert_eq!(modern.seen()[0].body.len(), 65_536);
}

#[tokio::test]
async fn a_client_that_breaks_off_in_its_body_leaves_no_copy() {
    let (legacy, modern) = (answers("1"), answers("1"));
    let front = Front::start(legacy.addr(), &modern, pay(posts(), json!({})));
    let mut raw = Raw::connect(front.addr()).await;
    raw.send("POST /pay HTTP/1.1\r\nHost: shop.example\r\nContent-Length: 100\r\n\r\nhalf of it").await;
    eventually(secs(10), "it is on its way", async || legacy.open() == 1).await;
    raw.reset();
    until_copies(&front, "cancelled", 1.0).await;
    assert_eq!(modern.accepted(), 0);
}

#[tokio::test]
async fn a_write_that_gets_no_answer_leaves_no_copy() {
    let (legacy, modern) = (Upstream::scripted(|_| Script::hang_up()), answers("1"));
    let front = Front::start(legacy.addr(), &modern, pay(posts(), json!({})));
    let answer = Raw::once(front.addr(), &request("POST /pay", &[("Connection", "close")], "amount=5")).await;
    assert_eq!(answer.status, 502);
    until_copies(&front, "cancelled", 1.0).await;
    assert_eq!(modern.accepted(), 0);
}

#[tokio::test]
async fn no_write_is_copied_that_no_method_names() {
    let (legacy, modern) = (answers("1"), answers("1"));
    let routes = pay(json!({"methods": ["GET", "PUT"]}), json!({"reads": {"never": ["/pay/logout"]}}));
    let front = Front::start(legacy.addr(), &modern, routes);
    for line in ["POST /pay", "DELETE /pay/7", "GET /pay/logout", "OPTIONS /pay"] {
        Raw::once(front.addr(), &request(line, &[("Connection", "close")], "")).await;
    }
    let upgrade = [
        ("Connection", "Upgrade"),
        ("Upgrade", "websocket"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];
    front.ask("GET /pay/chat", &upgrade).await;
    front.ask("PUT /pay/7", &[("Content-Length", "0")]).await;
    until_copies(&front, "sent", 1.0).await;
    assert_eq!(modern.seen().iter().map(|seen| seen.line().to_owned()).collect::<Vec<_>>(), ["PUT /pay/7 HTTP/1.1"]);
    assert_eq!(modern.seen()[0].header("content-length"), Some("0"));
}

#[tokio::test]
async fn on_a_synced_route_writes_are_copied_to_the_side_that_does_not_own_the_rows() {
    let (legacy, modern) = (answers("1"), answers("1"));
    let shadow = json!({"methods": ["POST"], "discards_writes": true});
    let front = Front::start(legacy.addr(), &modern, pay(shadow, json!({"sync": "money", "weight": 100})));
    for (owner, answering, shadow) in [(Owner::Legacy, &legacy, &modern), (Owner::Modern, &modern, &legacy)] {
        front.data_says(owner, Some(Duration::ZERO));
        let before = copies(&front, "sent");
        Raw::once(front.addr(), &request("POST /pay", &[("Connection", "close")], "amount=5")).await;
        until_copies(&front, "sent", before + 1.0).await;
        assert_eq!(answering.seen().last().unwrap().header("x-banyan-shadow"), None);
        assert_eq!(shadow.seen().last().unwrap().header("x-banyan-shadow"), Some("1"));
    }
    assert_eq!(compared(&front, "match"), 2.0);
}

#[tokio::test]
async fn a_declared_read_with_a_body_is_copied_without_waiting_for_its_answer() {
    let legacy = Upstream::scripted(|_| Script::json(&json!({"a": 1})).after(secs(2)));
    let modern = Upstream::scripted(|_| Script::json(&json!({"a": 1})));
    let reads = json!({"reads": {"also": [{"path": "/pay/graphql"}]}});
    let front = Front::start(legacy.addr(), &modern, pay(json!({}), reads));
    let mut raw = Raw::connect(front.addr()).await;
    raw.send(request("POST /pay/graphql", &[], "{ payments { amount } }")).await;
    eventually(Duration::from_millis(1500), "the copy comes before the answer", async || modern.seen().len() == 1)
        .await;
    assert_eq!(modern.seen()[0].body, b"{ payments { amount } }");
    assert_eq!(raw.answer().await.unwrap().status, 200);
    until_copies(&front, "sent", 1.0).await;
    assert_eq!(compared(&front, "match"), 1.0);
    // The copy does not wait for a body, and legacy's time does not begin before its end: both sides' are told from there.
    let told = serde_json::to_value(front.report("pay")).unwrap();
    assert!(told["latency"]["legacy"]["p50_ms"].as_f64().unwrap() >= 1500.0, "{told}");
}
