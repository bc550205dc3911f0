//! A reload closes no connection and drops no request.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use serde_json::json;

use super::{Client, Setup, Upstream, eventually};
use crate::table::Severity;

fn setup(legacy: &Upstream, modern: &Upstream, weight: u32) -> Setup {
    Setup::new(legacy.address).upstream("modern", modern.address, &json!({})).route(json!({
        "name": "payments", "match": { "path_prefix": "/payments" }, "legacy": "legacy", "modern": "modern", "weight": weight
    }))
}

const GET: &str = "GET /payments HTTP/1.1\r\nHost: a\r\n\r\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_under_load_loses_no_request() {
    let (legacy, modern) = (Upstream::named("legacy").await, Upstream::named("modern").await);
    let bench = setup(&legacy, &modern, 0).start();
    let address = bench.proxy.local_addrs()[0];
    let stop = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..16)
        .map(|_| {
            let stop = Arc::clone(&stop);
            tokio::spawn(async move {
                let mut client = Client::connect(address).await;
                let mut count = (0, 0);
                while !stop.load(Ordering::Relaxed) {
                    client.send(GET).await;
                    let answer = client.answer().await;
                    assert_eq!(answer.status, 200, "{}", answer.head);
                    match answer.text() {
                        "legacy" => count.0 += 1,
                        _ => count.1 += 1,
                    }
                }
                count
            })
        })
        .collect();
    for round in 0..50 {
        let next = setup(&legacy, &modern, if round % 2 == 0 { 100 } else { 0 });
        bench.proxy.reload(&next.config, &next.links).unwrap();
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    stop.store(true, Ordering::Relaxed);
    let mut all = (0, 0);
    for client in clients {
        let count = client.await.unwrap();
        all = (all.0 + count.0, all.1 + count.1);
    }
    assert!(all.0 > 100 && all.1 > 100, "{all:?}");
    // Counts survive, by the route's name.
    let counted = bench.metric("banyan_http_requests_total", &[("route", "payments")]);
    assert!((counted - f64::from(all.0 + all.1)).abs() < 0.1, "{counted} {all:?}");
}

#[tokio::test]
async fn a_config_that_does_not_compile_changes_nothing() {
    let (legacy, modern) = (Upstream::named("legacy").await, Upstream::named("modern").await);
    let bench = setup(&legacy, &modern, 100).start();
    let mut wrong = setup(&legacy, &modern, 0);
    wrong.config.default = "legcay".to_owned();
    let problems = bench.proxy.reload(&wrong.config, &wrong.links).unwrap_err();
    assert!(problems.iter().any(|problem| problem.severity == Severity::Error));
    assert_eq!(bench.ask(GET).await.text(), "modern");
}

#[tokio::test]
async fn pools_and_connections_outlive_a_reload() {
    let (legacy, modern) = (Upstream::named("legacy").await, Upstream::named("modern").await);
    let bench = setup(&legacy, &modern, 0).workers(1).start();
    let mut client = bench.client().await;
    for weight in [0, 0, 1] {
        client.send(GET).await;
        assert_eq!(client.answer().await.text(), "legacy");
        let next = setup(&legacy, &modern, weight).workers(1);
        bench.proxy.reload(&next.config, &next.links).unwrap();
    }
    assert_eq!(legacy.connections(), 1);
    assert_eq!(bench.proxy.status().upstreams[0].connections, 1);
    // What is idle at an upstream whose settings change is closed.
    let next = setup(&legacy, &modern, 0).workers(1).upstream("legacy", legacy.address, &json!({ "timeout": "7s" }));
    bench.proxy.reload(&next.config, &next.links).unwrap();
    eventually("it is closed", || bench.proxy.status().upstreams[0].connections == 0).await;
}

#[tokio::test]
async fn upstreams_that_are_gone_from_the_file_are_forgotten_when_nobody_uses_them() {
    let legacy = Upstream::named("legacy").await;
    let (tell, told) = tokio::sync::watch::channel(false);
    let slow = Upstream::scripted(move |mut wire| {
        let mut told = told.clone();
        async move {
            wire.request().await?;
            wire.send("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nha").await?;
            drop(told.wait_for(|told| *told).await);
            wire.send("lf").await
        }
    })
    .await;
    let named = |name: &str, at: &Upstream| {
        let route = json!({ "name": "payments", "match": { "path_prefix": "/payments" }, "legacy": name });
        Setup::new(legacy.address).upstream(name, at.address, &json!({})).route(route).workers(1)
    };
    let bench = named("slow", &slow).start();
    let mut client = bench.client().await;
    client.send(GET).await;
    client.head().await.unwrap();
    assert_eq!(client.take(2).await.unwrap(), b"ha");
    let known = || bench.proxy.shared().known_upstreams();
    let reload = |setup: Setup| bench.proxy.reload(&setup.config, &setup.links).map(drop).unwrap();
    for number in 0..50 {
        reload(named(&format!("service-{number}"), &legacy));
        assert_eq!(bench.ask(GET).await.text(), "legacy");
    }
    let is_known = |most: usize| {
        reload(named("last", &legacy));
        known() <= most
    };
    // `legacy`, `last`, and `slow`, which still answers somebody.
    eventually("the others are forgotten", || is_known(3)).await;
    assert_eq!(known(), 3);
    tell.send(true).unwrap();
    assert_eq!(client.take(2).await.unwrap(), b"lf");
    eventually("it is forgotten too", || is_known(2)).await;
}
