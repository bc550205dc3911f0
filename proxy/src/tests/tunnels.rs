//! Upgrades: only after the upstream's 101, only WebSocket, both ways, through a reload, ended by a drain.

use std::time::Duration;

use serde_json::json;
use tokio::io::AsyncWriteExt;

use super::{Bench, Client, Data, Setup, Upstream, eventually};
use crate::links::Owner;

const UPGRADE: &str = "GET /chat HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\nSec-WebSocket-Version: 13\r\n\r\n";
const SWITCHED: &str =
    "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: y\r\n\r\n";

/// Switches, says hello right behind the head, then echoes.
async fn echo() -> Upstream {
    Upstream::scripted(|mut wire| async move {
        let head = wire.head().await?.to_ascii_lowercase();
        assert!(head.contains("connection: upgrade\r\n") && head.contains("upgrade: websocket\r\n"), "{head}");
        wire.send(format!("{SWITCHED}hello")).await?;
        loop {
            let bytes = wire.some().await?;
            wire.send(bytes).await?;
        }
    })
    .await
}

async fn opened(bench: &Bench) -> Client {
    let mut client = bench.client().await;
    client.send(UPGRADE).await;
    let head = client.head().await.unwrap().to_ascii_lowercase();
    assert!(head.starts_with("http/1.1 101"), "{head}");
    assert!(head.contains("upgrade: websocket\r\n") && head.contains("sec-websocket-accept: y"), "{head}");
    assert_eq!(client.take(5).await.unwrap(), b"hello");
    client
}

async fn echoes(client: &mut Client, text: &str) {
    client.send(text).await;
    assert_eq!(client.take(text.len()).await.unwrap(), text.as_bytes());
}

#[tokio::test]
async fn a_tunnel_carries_bytes_both_ways() {
    for park in [false, true] {
        let upstream = echo().await;
        let bench = Setup::new(upstream.address).park_at_once(park).start();
        let mut client = opened(&bench).await;
        echoes(&mut client, "ping").await;
        // More than any buffer holds.
        let (much, mut got) = (vec![b'x'; 4 << 20], 0);
        let (mut read, mut write) = client.stream.into_split();
        let sends = tokio::spawn(async move { write.write_all(&much).await.map(|()| write) });
        let mut buffer = vec![0; 65536];
        while got < 4 << 20 {
            let count = tokio::io::AsyncReadExt::read(&mut read, &mut buffer).await.unwrap();
            assert!(count > 0);
            got += count;
        }
        drop(sends.await.unwrap().unwrap());
    }
}

#[tokio::test]
async fn what_a_client_sends_right_behind_its_request_is_not_lost() {
    let upstream = echo().await;
    let bench = Setup::new(upstream.address).start();
    let mut client = bench.client().await;
    client.send(format!("{UPGRADE}early")).await;
    client.head().await.unwrap();
    let mut all = client.take(10).await.unwrap();
    all.sort_unstable();
    let mut expected = b"helloearly".to_vec();
    expected.sort_unstable();
    assert_eq!(all, expected);
}

#[tokio::test]
async fn no_tunnel_is_opened_without_the_upstreams_101() {
    let upstream = Upstream::answering("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nno").await;
    let bench = Setup::new(upstream.address).workers(1).start();
    let mut client = bench.client().await;
    // What would go through a tunnel is a request, and passes the stations as one.
    client.send(format!("{UPGRADE}GET /next HTTP/1.1\r\nHost: a\r\nX-Banyan-Side: x\r\n\r\n")).await;
    assert_eq!(client.answer().await.text(), "no");
    assert_eq!(client.answer().await.text(), "no");
    let seen = upstream.bytes();
    assert!(seen.contains("GET /next HTTP/1.1\r\n") && !seen.contains("X-Banyan"), "{seen}");
}

#[tokio::test]
async fn only_websocket_is_tunnelled() {
    let upstream = Upstream::answering("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
    let bench = Setup::new(upstream.address).start();
    let answer = bench
        .ask("GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: x\r\n\r\n")
        .await;
    assert_eq!(answer.status, 200);
    let seen = upstream.bytes().to_ascii_lowercase();
    assert!(!seen.contains("h2c") && !seen.contains("http2-settings"), "{seen}");
}

#[tokio::test]
async fn one_end_may_stop_sending_and_still_hear() {
    let upstream = Upstream::scripted(|mut wire| async move {
        wire.head().await?;
        wire.send(SWITCHED).await?;
        while wire.take(1).await.is_ok() {}
        wire.send("last words").await
    })
    .await;
    let bench = Setup::new(upstream.address).start();
    let mut client = bench.client().await;
    client.send(UPGRADE).await;
    client.head().await.unwrap();
    client.send("abc").await;
    client.stream.shutdown().await.unwrap();
    assert_eq!(client.take(10).await.unwrap(), b"last words");
    assert!(client.is_closed().await);
    eventually("nothing is left", || bench.proxy.status().connections == 0).await;
}

#[tokio::test]
async fn a_tunnel_outlives_a_reload() {
    let (old, new) = (echo().await, Upstream::named("new").await);
    let bench = Setup::new(old.address).start();
    let mut client = opened(&bench).await;
    let next = Setup::new(new.address).route(json!({ "name": "r", "match": { "path": "/r" }, "legacy": "legacy" }));
    bench.proxy.reload(&next.config, &next.links).unwrap();
    assert_eq!(bench.ask("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.text(), "new");
    echoes(&mut client, "still here").await;
}

#[tokio::test]
async fn a_drain_waits_for_tunnels_no_longer_than_it_is_told() {
    let upstream = echo().await;
    let bench = Setup::new(upstream.address).start();
    let mut client = opened(&bench).await;
    let draining = tokio::spawn(bench.proxy.drain(Duration::from_millis(500)));
    echoes(&mut client, "still here").await;
    tokio::time::timeout(Duration::from_secs(5), draining).await.unwrap().unwrap();
    assert!(client.is_closed().await);
}

#[tokio::test]
async fn a_tunnel_of_a_synced_route_is_closed_with_notice_when_the_owner_moves() {
    let legacy = Upstream::scripted(|mut wire| async move {
        wire.head().await?;
        // A frame of three bytes, and half of the next: the notice cannot come inside it.
        wire.send([SWITCHED.as_bytes(), b"\x82\x03abc\x82\x04de"].concat()).await?;
        wire.take(1).await?;
        wire.send("fg").await?;
        std::future::pending().await
    })
    .await;
    let modern = Upstream::named("modern").await;
    let data = Data::new();
    let bench = Setup::new(legacy.address)
        .upstream("modern", modern.address, &json!({}))
        .sync("chat", data.clone())
        .route(json!({ "name": "chat", "match": { "path": "/chat" }, "legacy": "legacy", "modern": "modern", "weight": 100, "sync": "chat" }))
        .start();
    let mut client = bench.client().await;
    client.send(UPGRADE).await;
    assert!(client.head().await.unwrap().starts_with("HTTP/1.1 101"));
    assert_eq!(client.take(9).await.unwrap(), b"\x82\x03abc\x82\x04de");
    client.send("x").await;
    assert_eq!(client.take(2).await.unwrap(), b"fg");
    data.owned_by(Owner::Modern);
    assert_eq!(client.take(4).await.unwrap(), b"\x88\x02\x03\xf4");
    assert!(client.is_closed().await);
}

#[tokio::test]
async fn a_drain_closes_tunnels_with_notice_one_by_one() {
    let upstream = Upstream::scripted(|mut wire| async move {
        wire.head().await?;
        wire.send(SWITCHED).await?;
        wire.take(usize::MAX).await.map(drop)
    })
    .await;
    let bench = Setup::new(upstream.address).start();
    let mut clients = Vec::new();
    for _ in 0..40 {
        let mut client = bench.client().await;
        client.send(UPGRADE).await;
        assert!(client.head().await.unwrap().starts_with("HTTP/1.1 101"));
        clients.push(client);
    }
    let labels = [("route", "default"), ("side", "legacy")];
    assert_eq!(bench.metric("banyan_tunnels", &labels), 40.0);
    let registry = bench.registry.clone();
    let draining = tokio::spawn(bench.proxy.drain(Duration::from_secs(6)));
    let ends = clients.into_iter().map(|mut client| async move {
        assert_eq!(client.take(4).await.unwrap(), b"\x88\x02\x03\xf4");
        tokio::time::Instant::now()
    });
    let mut ends = futures_util::future::join_all(ends).await;
    ends.sort();
    // Four seconds are spread over: that all of 40 fall into a quarter of them does not happen.
    assert!(ends[39].duration_since(ends[0]) > Duration::from_secs(1));
    tokio::time::timeout(Duration::from_secs(20), draining).await.unwrap().unwrap();
    let bench_counts = registry.gather();
    let opened = bench_counts.iter().find(|family| family.name() == "banyan_tunnels_total").unwrap();
    let opened: f64 = opened.get_metric().iter().map(|metric| metric.get_counter().get_value()).sum();
    let open = bench_counts.iter().find(|family| family.name() == "banyan_tunnels").unwrap();
    let open: f64 = open.get_metric().iter().map(|metric| metric.get_gauge().get_value()).sum();
    assert_eq!((opened, open), (40.0, 0.0));
}

#[tokio::test]
async fn a_users_websockets_go_to_the_side_of_their_key() {
    let (legacy, modern) = (echo().await, echo().await);
    let bench = Setup::new(legacy.address)
        .upstream("modern", modern.address, &json!({}))
        .route(json!({ "name": "chat", "match": { "path": "/chat" }, "legacy": "legacy", "modern": "modern", "weight": 50, "sticky": [{ "header": "x-user-id" }] }))
        .start();
    let mut sides = Vec::new();
    for user in 0..16 {
        let asked = UPGRADE.replace("Host: a\r\n", &format!("Host: a\r\nX-User-Id: {user}\r\n"));
        let before = legacy.connections();
        for again in 0..2 {
            let mut client = bench.client().await;
            client.send(&asked).await;
            assert!(client.head().await.unwrap().starts_with("HTTP/1.1 101"));
            assert_eq!(client.take(5).await.unwrap(), b"hello");
            let at_legacy = legacy.connections() - before;
            assert!(at_legacy == 0 || at_legacy == again + 1, "user {user} changed sides");
        }
        sides.push(legacy.connections() > before);
    }
    assert!(sides.contains(&true) && sides.contains(&false));
    let opened = |side| bench.metric("banyan_tunnels_total", &[("route", "chat"), ("side", side)]);
    assert_eq!(opened("legacy") + opened("modern"), 32.0);
}
