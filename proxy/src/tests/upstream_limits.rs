//! What an upstream is spared, counted over all workers.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tokio::sync::Semaphore;

use super::{Bench, Setup, Upstream, eventually};

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// Answers a request for each permit that it is given.
async fn gated() -> (Upstream, Arc<Semaphore>, Arc<AtomicUsize>) {
    let (gate, came) = (Arc::new(Semaphore::new(0)), Arc::<AtomicUsize>::default());
    let (opens, counts) = (Arc::clone(&gate), Arc::clone(&came));
    let upstream = Upstream::scripted(move |mut wire| {
        let (opens, counts) = (Arc::clone(&opens), Arc::clone(&counts));
        async move {
            loop {
                wire.request().await?;
                counts.fetch_add(1, Ordering::SeqCst);
                opens.acquire().await.unwrap().forget();
                wire.send(OK).await?;
            }
        }
    })
    .await;
    (upstream, gate, came)
}

fn limited(upstream: &Upstream, limits: &Value) -> Bench {
    let settings = json!({ "limits": limits });
    Setup::new(upstream.address).upstream("legacy", upstream.address, &settings).workers(4).start()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_cap_of_four_with_four_workers_serves_everybody() {
    let (busy, most) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
    let (now, peak) = (Arc::clone(&busy), Arc::clone(&most));
    let upstream = Upstream::scripted(move |mut wire| {
        let (now, peak) = (Arc::clone(&now), Arc::clone(&peak));
        async move {
            loop {
                wire.request().await?;
                peak.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(1)).await;
                now.fetch_sub(1, Ordering::SeqCst);
                wire.send(OK).await?;
            }
        }
    })
    .await;
    let bench = limited(&upstream, &json!({ "connections": 4, "queue": 1000, "queue_time": "60s" }));
    let bench = Arc::new(bench);
    let mut tasks = tokio::task::JoinSet::new();
    // More clients than workers and connections: whichever worker they come to, everybody is served.
    for _ in 0..48 {
        let bench = Arc::clone(&bench);
        tasks.spawn(async move {
            let mut client = bench.client().await;
            for _ in 0..20 {
                client.send(GET).await;
                let answer = client.answer().await;
                assert_eq!(answer.status, 200, "{}", answer.text());
                let open = bench.proxy.status().upstreams[0].connections;
                assert!(open <= 4, "{open} connections");
            }
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap();
    }
    assert!(most.load(Ordering::SeqCst) <= 4);
    // One after the other, from connections that spread over the workers: the idle ones of others are closed for them.
    for _ in 0..40 {
        assert_eq!(bench.ask(GET).await.status, 200);
    }
}

#[tokio::test]
async fn in_flight_counts_over_all_workers_and_beyond_the_queue_is_a_503_at_once() {
    let (upstream, gate, came) = gated().await;
    let bench = limited(&upstream, &json!({ "in_flight": 2, "queue": 1, "queue_time": "60s" }));
    let mut clients = Vec::new();
    for number in 1..=2 {
        let mut client = bench.client().await;
        client.send(GET).await;
        eventually("it came", || came.load(Ordering::SeqCst) == number).await;
        clients.push(client);
    }
    let mut waits = bench.client().await;
    waits.send(GET).await;
    eventually("one waits", || bench.proxy.status().upstreams[0].queued == 1).await;
    let answer = bench.ask(GET).await;
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("1")));
    let problem: Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!((&problem["type"], &problem["fault"]), (&json!("urn:banyan:error:overloaded"), &json!("upstream")));
    assert!(bench.metric("banyan_upstream_refused_total", &[("reason", "queue_full")]) > 0.5);
    assert_eq!(came.load(Ordering::SeqCst), 2);
    gate.add_permits(3);
    for mut client in clients {
        assert_eq!(client.answer().await.status, 200);
    }
    assert_eq!(waits.answer().await.status, 200);
}

#[tokio::test]
async fn who_waits_while_a_reload_takes_the_limit_away_is_answered() {
    let (upstream, gate, came) = gated().await;
    let setup =
        |limits: Value| Setup::new(upstream.address).upstream("legacy", upstream.address, &json!({ "limits": limits }));
    for limit in ["in_flight", "connections"] {
        let bench = setup(json!({ limit: 1, "queue": 1, "queue_time": "2s" })).start();
        let before = came.load(Ordering::SeqCst);
        let (mut first, mut waits) = (bench.client().await, bench.client().await);
        first.send(GET).await;
        eventually("it came", || came.load(Ordering::SeqCst) == before + 1).await;
        waits.send(GET).await;
        eventually("one waits", || bench.proxy.status().upstreams[0].queued == 1).await;
        let other = if limit == "in_flight" { "connections" } else { "in_flight" };
        let next = setup(json!({ other: 9 }));
        bench.proxy.reload(&next.config, &next.links).unwrap();
        gate.add_permits(2);
        assert_eq!((first.answer().await.status, waits.answer().await.status), (200, 200), "{limit}");
    }
}

#[tokio::test]
async fn who_waits_too_long_gets_a_503() {
    let (upstream, _gate, came) = gated().await;
    let bench = limited(&upstream, &json!({ "in_flight": 1, "queue": 10, "queue_time": "200ms" }));
    let mut first = bench.client().await;
    first.send(GET).await;
    eventually("it came", || came.load(Ordering::SeqCst) == 1).await;
    let began = Instant::now();
    assert_eq!(bench.ask(GET).await.status, 503);
    assert!(began.elapsed() >= Duration::from_millis(200));
    assert!(bench.metric("banyan_upstream_refused_total", &[("reason", "queue_time")]) > 0.5);
}

#[tokio::test]
async fn a_client_that_goes_away_gives_its_place_back() {
    let (tell, told) = tokio::sync::watch::channel(false);
    let upstream = Upstream::scripted(move |mut wire| {
        let mut told = told.clone();
        async move {
            let (head, _) = wire.request().await?;
            if !head.starts_with("GET /long") {
                return wire.send(OK).await;
            }
            wire.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await?;
            drop(told.wait_for(|told| *told).await);
            // That the client has gone is noticed when something is written to it.
            loop {
                wire.send("4\r\nmore\r\n").await?;
                tokio::task::yield_now().await;
            }
        }
    })
    .await;
    let bench = limited(&upstream, &json!({ "in_flight": 1, "queue": 1, "queue_time": "60s" }));
    let mut first = bench.client().await;
    first.send(GET.replace("GET /", "GET /long")).await;
    first.head().await.unwrap();
    let mut waits = bench.client().await;
    waits.send(GET).await;
    eventually("one waits", || bench.proxy.status().upstreams[0].queued == 1).await;
    socket2::SockRef::from(&first.stream).set_linger(Some(Duration::ZERO)).unwrap();
    drop(first);
    tell.send(true).unwrap();
    assert_eq!(waits.answer().await.status, 200);
}

#[tokio::test]
async fn a_full_modern_side_does_not_push_its_peak_to_legacy() {
    let legacy = Upstream::named("legacy").await;
    let (modern, _gate, came) = gated().await;
    let limits = json!({ "limits": { "in_flight": 1, "queue": 0 } });
    let route = json!({ "name": "payments", "match": { "path_prefix": "/" }, "legacy": "legacy", "modern": "modern",
        "weight": 99, "keyless": "client_address", "fallback": "unsent" });
    let bench = Setup::new(legacy.address).upstream("modern", modern.address, &limits).route(route).start();
    let mut first = bench.client().await;
    first.send(GET).await;
    eventually("it came", || came.load(Ordering::SeqCst) == 1).await;
    assert_eq!(bench.ask(GET).await.status, 503);
    assert_eq!(legacy.connections(), 0);
}
