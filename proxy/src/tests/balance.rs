//! Several endpoints: by weight, to the less busy one, and by names whose addresses change.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use serde_json::json;

use super::{Setup, Upstream, eventually};

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

#[tokio::test]
async fn requests_are_spread_by_weight() {
    let (light, heavy) = (Upstream::named("light").await, Upstream::named("heavy").await);
    let endpoints = json!({ "endpoints": [
        format!("http://{}", light.address),
        { "url": format!("http://{}", heavy.address), "weight": 3 },
    ]});
    let bench = Setup::new(light.address).upstream("legacy", light.address, &endpoints).start();
    let mut client = bench.client().await;
    let mut counts = [0, 0];
    for _ in 0..400 {
        client.send(GET).await;
        counts[usize::from(client.answer().await.text() == "heavy")] += 1;
    }
    // 100 are expected; a draw as far off as 50 comes once in a hundred million times.
    assert!((50..150).contains(&counts[0]), "{counts:?}");
}

#[tokio::test]
async fn the_less_busy_endpoint_gets_the_request_whichever_worker_asks() {
    let came = Arc::new(AtomicUsize::new(0));
    let counting = |answers: bool| {
        let came = Arc::clone(&came);
        Upstream::scripted(move |mut wire| {
            let came = Arc::clone(&came);
            async move {
                loop {
                    wire.request().await?;
                    came.fetch_add(1, Ordering::SeqCst);
                    if !answers {
                        return std::future::pending().await;
                    }
                    wire.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await?;
                }
            }
        })
    };
    let (stuck, well) = (counting(false).await, counting(true).await);
    let endpoints = json!({ "endpoints": [format!("http://{}", stuck.address), format!("http://{}", well.address)] });
    let bench = Setup::new(well.address).upstream("legacy", well.address, &endpoints).workers(4).start();
    let mut clients = Vec::new();
    for number in 1..=40 {
        // A connection of its own for each request: they spread over the workers.
        let mut client = bench.client().await;
        let before = stuck.connections();
        client.send(GET).await;
        eventually("the request came", || came.load(Ordering::SeqCst) == number).await;
        if stuck.connections() == before {
            client.answer().await;
        }
        clients.push(client);
    }
    // The first one that came to it is under way for ever; no other follows.
    assert_eq!(stuck.connections(), 1);
}

#[tokio::test]
async fn a_name_is_looked_up_and_connections_to_an_address_that_vanished_are_drained() {
    let (old, new) = (Upstream::named("old").await, Upstream::named("new").await);
    let name = format!("localhost:{}", old.address.port());
    let endpoints = json!({ "endpoints": [format!("http://{name}")] });
    let bench = Setup::new(old.address).upstream("legacy", old.address, &endpoints).workers(1).start();
    let mut client = bench.client().await;
    client.send(GET).await;
    assert_eq!(client.answer().await.text(), "old");
    let connections = || bench.proxy.status().upstreams[0].connections;
    assert_eq!(connections(), 1);

    let shared = bench.proxy.shared();
    let spec = Arc::clone(&shared.current.load().upstreams[0]);
    let looked_up = Some((&spec.endpoints[0].authority, vec![new.address]));
    assert!(shared.upstream_state("legacy").follow(&spec, looked_up));
    // Without a request: the sweep closes it.
    eventually("the old connection is closed", || connections() == 0).await;
    client.send(GET).await;
    assert_eq!(client.answer().await.text(), "new");
}

#[tokio::test]
async fn a_name_that_nobody_knows_is_a_502() {
    let legacy = Upstream::named("legacy").await;
    let endpoints = json!({ "endpoints": ["http://nobody.invalid:80"], "connect_timeout": "200ms" });
    let bench = Setup::new(legacy.address).upstream("legacy", legacy.address, &endpoints).start();
    assert_eq!(bench.ask(GET).await.status, 502);
}

#[tokio::test]
async fn an_endpoint_that_a_reload_takes_out_gets_no_more_requests() {
    let (one, two) = (Upstream::named("one").await, Upstream::named("two").await);
    let both = json!({ "endpoints": [format!("http://{}", one.address), format!("http://{}", two.address)] });
    let setup = Setup::new(one.address).upstream("legacy", one.address, &both);
    let (mut config, links) = (setup.config.clone(), setup.links.clone());
    let bench = setup.start();
    for _ in 0..10 {
        bench.ask(GET).await;
    }
    let only = json!({ "endpoints": [format!("http://{}", two.address)] });
    config.upstreams.insert("legacy".to_owned(), serde_json::from_value(only).unwrap());
    bench.proxy.reload(&config, &links).unwrap();
    for _ in 0..20 {
        assert_eq!(bench.ask(GET).await.text(), "two");
    }
}
