//! A modern side that fails: its circuit opens, readers do not notice, and it comes back by itself.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::{Bench, Data, Fixed, Setup, Upstream, eventually};
use crate::links::{Owner, SyncLink};

fn request(method: &str) -> String {
    format!("{method} /payments HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
}

/// Modern, that answers 500 while it is sick; what came; and a proxy whose route reads from it.
struct Scene {
    bench: Bench,
    is_sick: Arc<AtomicBool>,
    came: Arc<AtomicUsize>,
    legacy: Upstream,
    _modern: Upstream,
}

async fn scene(circuit: Value, more: Value) -> Scene {
    scene_of(circuit, more, Fixed(Owner::Modern, Some(Duration::ZERO))).await
}

/// The same over data that the test scripts.
async fn scene_of(circuit: Value, more: Value, data: impl SyncLink + 'static) -> Scene {
    let (is_sick, came) = (Arc::new(AtomicBool::new(true)), Arc::<AtomicUsize>::default());
    let (sick, counts) = (Arc::clone(&is_sick), Arc::clone(&came));
    let modern = Upstream::scripted(move |mut wire| {
        let (sick, counts) = (Arc::clone(&sick), Arc::clone(&counts));
        async move {
            loop {
                wire.request().await?;
                counts.fetch_add(1, Ordering::SeqCst);
                let status = if sick.load(Ordering::SeqCst) { "500 Sick" } else { "200 OK" };
                wire.send(format!("HTTP/1.1 {status}\r\ncontent-length: 6\r\n\r\nmodern")).await?;
            }
        }
    })
    .await;
    let legacy = Upstream::named("legacy").await;
    let mut route = json!({ "name": "payments", "match": { "path_prefix": "/payments" }, "legacy": "legacy",
        "modern": "modern", "weight": 100, "fallback": "reads" });
    route.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let mut setup = Setup::new(legacy.address).upstream("modern", modern.address, &json!({ "circuit": circuit }));
    if route.get("sync").is_some() {
        setup = setup.sync("payments", data);
    }
    Scene { bench: setup.route(route).start(), is_sick, came, legacy, _modern: modern }
}

impl Scene {
    fn circuit(&self) -> &'static str {
        let upstreams = self.bench.proxy.status().upstreams;
        upstreams.iter().find(|upstream| upstream.name == "modern").unwrap().circuit.unwrap().as_str()
    }

    /// Asks until enough has failed.
    async fn open(&self) {
        for _ in 0..6 {
            self.bench.ask(&request("GET")).await;
        }
        eventually("the circuit is open", || self.circuit() == "open").await;
    }

    fn moved(&self) -> f64 {
        self.bench.metric("banyan_side_moves_total", &[("route", "payments"), ("reason", "circuit")])
    }
}

fn rules(open_for: &str) -> Value {
    json!({ "min_requests": 6, "open_for": open_for, "probes": 2 })
}

#[tokio::test]
async fn while_it_is_open_readers_are_answered_by_legacy_at_once() {
    let scene = scene(rules("10m"), json!({})).await;
    scene.open().await;
    let before = scene.came.load(Ordering::SeqCst);
    for _ in 0..10 {
        let answer = scene.bench.ask(&request("GET")).await;
        assert_eq!((answer.status, answer.text()), (200, "legacy"));
    }
    assert_eq!(scene.came.load(Ordering::SeqCst), before);
    assert!((scene.moved() - 10.0).abs() < 0.1, "{}", scene.moved());
    let state = |state| scene.bench.metric("banyan_upstream_circuit", &[("upstream", "modern"), ("state", state)]);
    assert!(state("open") > 0.5 && state("closed") < 0.5);
    let opened = [("upstream", "modern"), ("event", "circuit_opened")];
    assert!((scene.bench.metric("banyan_upstream_events_total", &opened) - 1.0).abs() < 0.1);
}

#[tokio::test]
async fn what_may_not_cross_is_a_503_and_reaches_nobody() {
    let scene = scene(rules("10m"), json!({})).await;
    scene.open().await;
    let before = scene.came.load(Ordering::SeqCst);
    let answer = scene.bench.ask(&request("POST")).await;
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("1")));
    let problem: Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(problem["type"], "urn:banyan:error:circuit_open");
    assert_eq!(scene.came.load(Ordering::SeqCst), before);
    assert!(!scene.legacy.bytes().contains("POST"));
}

#[tokio::test]
async fn on_a_synced_route_reads_cross_and_say_so_and_writes_wait_for_their_owner() {
    let scene = scene(rules("10m"), json!({ "sync": "payments" })).await;
    scene.open().await;
    let read = scene.bench.ask(&request("GET")).await;
    assert_eq!((read.text(), read.header("x-banyan-stale")), ("legacy", Some("1")));
    assert_eq!(scene.bench.ask(&request("POST")).await.status, 503);
    assert!(!scene.legacy.bytes().contains("POST"));
}

#[tokio::test]
async fn who_wrote_reads_at_the_other_side_while_the_owners_circuit_is_open_and_is_told_so() {
    let data = Data::new();
    data.owned_by(Owner::Modern);
    for (fallback, expected) in [("reads", (200, "legacy", Some("1"))), ("none", (503, "", None))] {
        let more =
            json!({ "sync": "payments", "weight": 0, "sticky": [{ "header": "x-user-id" }], "fallback": fallback });
        let scene = scene_of(rules("10m"), more, data.clone()).await;
        scene.is_sick.store(false, Ordering::SeqCst);
        let ask = async |method: &str, user: &str| {
            scene.bench.ask(&request(method).replace("Host: a", &format!("Host: a\r\nX-User-Id: {user}"))).await
        };
        assert_eq!(ask("POST", "ann").await.text(), "modern");
        // By the weight she would be on legacy, which may not show it yet.
        assert_eq!((ask("GET", "ann").await.text(), ask("GET", "bob").await.text()), ("modern", "legacy"));
        scene.is_sick.store(true, Ordering::SeqCst);
        for _ in 0..6 {
            ask("GET", "ann").await;
        }
        eventually("the circuit is open", || scene.circuit() == "open").await;
        let before = scene.came.load(Ordering::SeqCst);
        let read = ask("GET", "ann").await;
        let text = if read.status == 200 { read.text() } else { "" };
        assert_eq!((read.status, text, read.header("x-banyan-stale")), expected);
        let bob = ask("GET", "bob").await;
        assert_eq!((bob.text(), bob.header("x-banyan-stale")), ("legacy", None), "he is where the weight has him");
        assert_eq!(ask("POST", "ann").await.status, 503, "a write waits for its owner");
        assert_eq!(scene.came.load(Ordering::SeqCst), before);
        let stale = scene.bench.proxy.status().routes[0].answers.stale;
        assert_eq!(stale, u64::from(fallback == "reads"));
        // Once legacy shows it, nothing is stale.
        data.shows_all();
        let read = ask("GET", "ann").await;
        assert_eq!((read.text(), read.header("x-banyan-stale")), ("legacy", None));
    }
}

#[tokio::test]
async fn a_few_reads_try_and_bring_it_back() {
    let scene = scene(rules("100ms"), json!({})).await;
    scene.open().await;
    scene.is_sick.store(false, Ordering::SeqCst);
    for _ in 0..500 {
        let answer = scene.bench.ask(&request("GET")).await;
        assert_eq!(answer.status, 200);
        if scene.circuit() == "closed" {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(scene.circuit(), "closed");
    assert_eq!(scene.bench.ask(&request("GET")).await.text(), "modern");
}

#[tokio::test]
async fn slow_answers_open_it_too() {
    // It answers well, and takes longer than anybody may.
    let scene = scene(json!({ "min_requests": 6, "open_for": "10m", "slower_than": "1ns" }), json!({})).await;
    scene.is_sick.store(false, Ordering::SeqCst);
    for _ in 0..6 {
        assert_eq!(scene.bench.ask(&request("GET")).await.status, 200);
    }
    eventually("the circuit is open", || scene.circuit() == "open").await;
    assert_eq!(scene.bench.ask(&request("GET")).await.text(), "legacy");
}

#[tokio::test]
async fn a_client_that_is_slow_to_send_makes_no_slow_upstream() {
    let came = Arc::<AtomicUsize>::default();
    let counts = Arc::clone(&came);
    let upstream = Upstream::scripted(move |mut wire| {
        let counts = Arc::clone(&counts);
        async move {
            loop {
                wire.head().await?;
                counts.fetch_add(1, Ordering::SeqCst);
                wire.take(4).await?;
                wire.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await?;
            }
        }
    })
    .await;
    let settings = json!({ "circuit": { "min_requests": 3, "open_for": "10m", "slower_than": "200ms" } });
    let route = json!({ "name": "payments", "match": { "path_prefix": "/payments" }, "modern": "modern" });
    let bench = Setup::new(upstream.address).upstream("modern", upstream.address, &settings).route(route).start();
    for number in 1..=6 {
        let mut client = bench.client().await;
        client.send("POST /payments HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nha").await;
        eventually("its head came", || came.load(Ordering::SeqCst) == number).await;
        // What is slow here is the client, which takes longer than the upstream may.
        tokio::time::sleep(Duration::from_millis(250)).await;
        client.send("lf").await;
        assert_eq!(client.answer().await.text(), "ok", "after {number}");
    }
}

#[tokio::test]
async fn connections_that_fail_and_answers_that_do_not_come_open_it_and_readers_see_no_error() {
    let dead = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let hangs = Upstream::scripted(|mut wire| async move {
        wire.request().await?;
        std::future::pending().await
    })
    .await;
    let legacy = Upstream::named("legacy").await;
    for at in [dead, hangs.address] {
        let settings = json!({ "circuit": rules("10m"), "timeout": "100ms" });
        let route = json!({ "name": "payments", "match": { "path_prefix": "/payments" }, "legacy": "legacy",
            "modern": "modern", "weight": 100, "fallback": "reads" });
        let bench = Setup::new(legacy.address).upstream("modern", at, &settings).route(route).start();
        let is_open = || bench.metric("banyan_upstream_circuit", &[("upstream", "modern"), ("state", "open")]) > 0.5;
        for _ in 0..6 {
            assert_eq!(bench.ask(&request("GET")).await.text(), "legacy");
        }
        eventually("the circuit is open", is_open).await;
        let before = hangs.connections();
        assert_eq!(bench.ask(&request("GET")).await.text(), "legacy");
        assert_eq!(hangs.connections(), before);
    }
}

#[tokio::test]
async fn the_death_of_an_upstream_is_one_event_however_many_requests_fail() {
    let dead = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let bench = Setup::new(dead).start();
    let downs = || bench.metric("banyan_upstream_events_total", &[("upstream", "legacy"), ("event", "down")]);
    for _ in 0..3 {
        assert_eq!(bench.ask(&request("GET")).await.status, 502);
        eventually("it is noticed", || downs() > 0.5).await;
    }
    assert!((downs() - 1.0).abs() < 0.1);
    assert!(bench.proxy.status().upstreams[0].is_down);
}
