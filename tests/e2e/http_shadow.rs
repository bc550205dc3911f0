//! Shadow and compare through real sockets: the other side gets copies of reads, and nothing that it does is felt on the way.

use std::time::{Duration, Instant};

use banyan_proxy::links::Owner;
use serde_json::{Value, json};

use crate::harness::{Front, Raw, Script, Upstream, eventually, front::request, secs};

/// A route `pay` under `/pay`, answered by the monolith and shadowed by the service, and more.
fn pay(more: impl Into<Value>) -> Value {
    let more = more.into();
    let mut route = json!({"name": "pay", "match": {"path_prefix": "/pay"}, "legacy": "monolith", "modern": "service",
        "shadow": {"percent": 100}, "compare": {}});
    route.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!([route])
}

fn payments() -> Upstream {
    Upstream::scripted(|_| Script::json(&json!({"id": 7, "amount": "19.90", "lines": [{"at": 1}, {"at": 2}]})))
}

fn copies(front: &Front, outcome: &str) -> f64 {
    front.metrics().sum("banyan_shadow_requests_total", &[("route", "pay"), ("outcome", outcome)])
}

fn compared(front: &Front, result: &str) -> f64 {
    front.metrics().sum("banyan_compare_total", &[("route", "pay"), ("result", result)])
}

async fn until_copies(front: &Front, outcome: &str, count: f64) {
    eventually(secs(15), &format!("{count} copies {outcome}"), async || copies(front, outcome) == count).await;
}

#[tokio::test]
async fn reads_are_copied_to_the_side_that_does_not_answer_and_compared() {
    let legacy = payments();
    let modern =
        Upstream::scripted(|_| Script::json(&json!({"lines": [{"at": 3}, {"at": 2}], "amount": 19.9, "id": 7})));
    let mut front = Front::start(legacy.addr(), &modern, pay(json!({"compare": {"samples": 5}})));
    let answer = front.ask("GET /pay/7?x=1", &[("Cookie", "banyan_w=x.y; a=1"), ("X-User-Id", "ann")]).await;
    assert_eq!(answer.json()["amount"], "19.90");
    until_copies(&front, "sent", 1.0).await;
    let copy = &modern.seen()[0];
    assert_eq!(copy.line(), "GET /pay/7?x=1 HTTP/1.1");
    assert_eq!(copy.header("x-banyan-shadow"), Some("1"));
    assert_eq!(copy.header("host"), Some("shop.example"));
    assert_eq!((copy.header("cookie"), copy.header("x-user-id")), (Some("a=1"), Some("ann")));
    assert!(copy.header("x-forwarded-for").is_some(), "as the answering side gets it");
    assert_eq!(legacy.seen()[0].header("x-banyan-shadow"), None);

    Raw::once(front.addr(), &request("POST /pay", &[("Connection", "close")], "amount=5")).await;
    front.ask("DELETE /pay/7", &[]).await;
    assert_eq!(legacy.seen().len(), 3);
    assert_eq!(modern.seen().len(), 1, "writes are not copied");

    assert_eq!(compared(&front, "mismatch"), 1.0);
    let status = serde_json::to_value(front.route("pay")).unwrap();
    let differences = status["compare"]["differences"].as_array().unwrap();
    let told: Vec<_> =
        differences.iter().map(|d| (&d["pointer"], &d["control"], &d["candidate"], &d["count"])).collect();
    assert_eq!(json!(told), json!([["/amount", "string", "number", 1], ["/lines/*/at", "number", "number", 1]]));
    assert_eq!(status["compare"]["samples"].as_array().unwrap().len(), 1);
    assert!(!status.to_string().contains("19.9"), "values stay out");

    front.reload(pay(json!({"compare": {"ignore": ["/amount", "/lines/*/at"]}})));
    front.ask("GET /pay/7", &[]).await;
    until_copies(&front, "sent", 2.0).await;
    assert_eq!(compared(&front, "ignored"), 1.0);
    front.reload(pay(json!({"weight": 100})));
    assert_eq!(front.ask("GET /pay/7", &[]).await.json()["amount"], 19.9);
    until_copies(&front, "sent", 3.0).await;
    assert_eq!(
        legacy.seen().last().unwrap().header("x-banyan-shadow"),
        Some("1"),
        "the shadow changes sides with the weight"
    );
}

#[tokio::test]
async fn a_shadow_upstream_can_do_what_it_likes() {
    let hang: fn() -> Script = Script::stall;
    let endless = || {
        Script::send("HTTP/1.1 200 OK\r\nContent-Length: 1073741824\r\n\r\n").then_drip(
            vec![b'x'; 4 << 20],
            1 << 16,
            Duration::from_millis(1),
        )
    };
    for (what, script, outcome) in [
        ("hangs", hang, "timeout"),
        ("resets", Script::reset, "error"),
        ("hangs up", Script::hang_up, "error"),
        ("lies", || Script::lie(1000, "short"), "error"),
        ("never ends", endless, "sent"),
        (
            "drips its head",
            || Script::default().then_drip("HTTP/1.1 200 OK\r\n", 1, Duration::from_millis(100)),
            "timeout",
        ),
        ("talks nonsense", || Script::send("nonsense\r\n\r\n"), "error"),
    ] {
        let legacy = payments();
        let modern = Upstream::scripted(move |_| script());
        let settings = json!({"shadow": {"percent": 100, "timeout": "700ms", "concurrency": 4}});
        let front = Front::start(legacy.addr(), &modern, pay(settings));
        let mut raw = Raw::connect(front.addr()).await;
        let mut times = Vec::new();
        for _ in 0..100 {
            let began = Instant::now();
            raw.send(request("GET /pay/7", &[], "")).await;
            let answer = raw.answer().await.unwrap();
            times.push(began.elapsed());
            assert_eq!(answer.json()["amount"], "19.90", "{what}");
        }
        // The median, since the machine may be busy with other tests; an answer that waits for its shadow takes 700 ms.
        times.sort();
        assert!(times[50] < Duration::from_millis(300), "{what}: {times:?}");
        let total = || -> f64 {
            ["sent", "dropped_busy", "dropped_budget", "timeout", "error", "cancelled"]
                .map(|o| copies(&front, o))
                .iter()
                .sum()
        };
        eventually(secs(15), &format!("all copies are over: {what}"), async || total() == 100.0).await;
        assert!(copies(&front, outcome) > 0.0, "{what}");
        assert!(modern.open() <= 4, "{what}: at most as many connections as copies under way");
        assert_eq!(compared(&front, "match"), 0.0, "{what}");
    }
}

#[tokio::test]
async fn a_shadow_that_is_not_there_is_counted_and_not_felt() {
    let legacy = payments();
    let service = json!({"endpoints": ["http://127.0.0.1:1"]});
    let front = Front::with_service(legacy.addr(), service, pay(json!({})));
    assert_eq!(front.ask("GET /pay/7", &[]).await.status, 200);
    until_copies(&front, "error", 1.0).await;
}

#[tokio::test]
async fn a_client_that_goes_away_cancels_the_copy() {
    let head = "HTTP/1.1 200 OK\r\nContent-Length: 200000\r\n\r\n";
    let legacy =
        Upstream::scripted(move |_| Script::send(head).then_drip(vec![b'x'; 200_000], 500, Duration::from_millis(20)));
    let modern = Upstream::scripted(|_| Script::stall());
    let settings = json!({"shadow": {"percent": 100, "timeout": "60s"}});
    let front = Front::start(legacy.addr(), &modern, pay(settings));
    let mut raw = Raw::connect(front.addr()).await;
    raw.send(request("GET /pay", &[], "")).await;
    raw.exactly(1000).await.unwrap();
    eventually(secs(10), "the shadow has it", async || modern.seen().len() == 1).await;
    raw.reset();
    until_copies(&front, "cancelled", 1.0).await;
    eventually(secs(10), "the shadow's connection is closed", async || modern.open() == 0).await;
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_not_compared() {
    let legacy = Upstream::scripted(|_| Script::lie(1000, "half"));
    let modern = payments();
    let front = Front::start(legacy.addr(), &modern, pay(json!({})));
    let mut raw = Raw::connect(front.addr()).await;
    raw.send(request("GET /pay", &[], "")).await;
    assert!(raw.answer().await.is_err());
    until_copies(&front, "cancelled", 1.0).await;
    assert_eq!(compared(&front, "mismatch"), 0.0);
}

#[tokio::test]
async fn where_the_other_side_stepped_in_there_is_nothing_to_compare() {
    let legacy = Upstream::scripted(|_| Script::hang_up());
    let modern = payments();
    let front = Front::start(legacy.addr(), &modern, pay(json!({})));
    assert_eq!(front.ask("GET /pay", &[]).await.status, 200);
    until_copies(&front, "cancelled", 1.0).await;
    for result in ["match", "mismatch", "ignored", "not_comparable"] {
        assert_eq!(compared(&front, result), 0.0);
    }
}

#[tokio::test]
async fn while_the_sync_is_behind_answers_are_not_comparable() {
    let (legacy, modern) = (payments(), payments());
    let front = Front::start(legacy.addr(), &modern, pay(json!({"sync": "money"})));
    for (lag, result) in [(Some(secs(6)), "not_comparable"), (Some(Duration::ZERO), "match")] {
        front.data_says(Owner::Legacy, lag);
        front.ask("GET /pay/7", &[]).await;
        eventually(secs(10), result, async || compared(&front, result) == 1.0).await;
    }
    let compare = front.route("pay").compare.unwrap();
    assert_eq!((compare.compared, compare.matched, compare.not_comparable), (1, 1, 1));
}

#[tokio::test]
async fn heads_and_streamed_answers_are_compared_too() {
    let chunked = |pieces: &'static [&'static str]| {
        let body: String = pieces.iter().map(|piece| format!("{:x}\r\n{piece}\r\n", piece.len())).collect();
        Script::send(format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n{body}0\r\n\r\n"
        ))
    };
    let answer = move |seen: &crate::harness::upstream::Seen| match seen.method() {
        "HEAD" => Script::send("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 9000000\r\n\r\n"),
        _ => chunked(&["{\"a\"", ":", "1}"]),
    };
    let legacy = Upstream::scripted(answer);
    let modern = Upstream::scripted(move |seen| match seen.method() {
        "HEAD" => answer(seen),
        _ => chunked(&["{ \"a\": 1.0 }"]),
    });
    let front = Front::start(legacy.addr(), &modern, pay(json!({})));
    assert_eq!(front.ask("GET /pay", &[]).await.text(), "{\"a\":1}");
    let mut raw = Raw::connect(front.addr()).await;
    raw.send(request("HEAD /pay", &[], "")).await;
    assert_eq!(raw.answer_to("HEAD").await.unwrap().header("content-length"), Some("9000000"));
    eventually(secs(10), "both match", async || compared(&front, "match") == 2.0).await;
}

#[tokio::test]
async fn an_answer_over_the_bound_passes_whole_and_is_compared_by_its_hash() {
    let big = "x".repeat(300_000);
    let (left, right) = (big.clone(), big.clone());
    let legacy = Upstream::scripted(move |_| Script::ok(&left));
    let modern = Upstream::scripted(move |request| {
        Script::ok(&if request.line().contains("other") { right.replacen('x', "y", 1) } else { right.clone() })
    });
    let front = Front::start(legacy.addr(), &modern, pay(json!({})));
    assert_eq!(front.ask("GET /pay", &[]).await.text().len(), big.len());
    eventually(secs(10), "the same", async || compared(&front, "match") == 1.0).await;
    assert_eq!(front.ask("GET /pay/other", &[]).await.text(), big);
    eventually(secs(10), "not the same", async || compared(&front, "mismatch") == 1.0).await;
}

#[tokio::test]
async fn places_that_differ_by_themselves_are_learnt_from_reads_that_are_sent_twice() {
    let count = std::sync::atomic::AtomicU64::new(0);
    let legacy = Upstream::scripted(move |request| {
        let at = count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let body = json!({"at": at, "amount": "19.90"});
        match request.line().contains("/begins") {
            true => {
                Script::answer(200, &[("Set-Cookie", "sid=1"), ("Content-Type", "application/json")], &body.to_string())
            }
            false => Script::json(&body),
        }
    });
    let modern = Upstream::scripted(|request| {
        let amount = if request.line().contains("/wrong") { json!(19.9) } else { json!("19.90") };
        Script::json(&json!({"at": -1, "amount": amount}))
    });
    let front = Front::start(legacy.addr(), &modern, pay(json!({"compare": {"noise": {"resend": 100}}})));
    for _ in 0..30 {
        front.ask("GET /pay/7", &[]).await;
    }
    until_copies(&front, "sent", 30.0).await;
    let marked = || legacy.seen().iter().filter(|seen| seen.header("x-banyan-shadow") == Some("1")).count();
    eventually(secs(10), "all are sent twice", async || marked() == 30).await;
    eventually(secs(10), "the last are noise", async || {
        front.ask("GET /pay/7", &[]).await;
        front.metrics().sum("banyan_compare_noise_total", &[("route", "pay")]) >= 5.0
    })
    .await;

    let (noise, twice) = (front.metrics().sum("banyan_compare_noise_total", &[("route", "pay")]), marked());
    front.ask("GET /pay/wrong", &[]).await;
    eventually(secs(10), "it was sent twice", async || marked() > twice).await;
    // Copies are compared beside: the one before may have been counted last.
    let told = eventually(secs(10), "it was compared", async || {
        let told = serde_json::to_value(front.report("pay")).unwrap();
        if told["differences"].as_array().unwrap().iter().any(|one| one["place"] == "/amount") {
            Ok(told)
        } else {
            Err(told.to_string())
        }
    })
    .await;
    let is_noise = |place: &str| {
        let all = told["differences"].as_array().unwrap();
        all.iter().find(|one| one["place"] == place).map(|one| one["is_noise"].clone())
    };
    assert_eq!((is_noise("/at"), is_noise("/amount")), (Some(true.into()), Some(false.into())), "{told}");
    assert!(told["mismatch"].as_f64().unwrap() > told["noise"]["mismatch"].as_f64().unwrap(), "{told}");
    // At most the one that was on its way, besides.
    assert!(front.metrics().sum("banyan_compare_noise_total", &[("route", "pay")]) <= noise + 1.0);

    // What began something with a cookie would begin it again.
    let (before, copied) = (marked(), copies(&front, "sent"));
    front.ask("GET /pay/begins", &[]).await;
    until_copies(&front, "sent", copied + 1.0).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(marked(), before);
}
