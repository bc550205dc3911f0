//! A user reads what they wrote, through the whole proxy: at the owner, until the other side shows it.

use std::{net::SocketAddr, time::Duration};

use serde_json::json;
use tokio::net::TcpListener;

use super::{Bench, Data, Setup, Upstream};
use crate::links::Owner;

/// A synced route whose reads all go to `modern`, or with `weight` 0 to `legacy`; other replicas' clocks may be `apart` from this one's.
fn bench(data: &Data, weight: u8, [legacy, modern]: [SocketAddr; 2], apart: Duration) -> Bench {
    let route = json!({
        "name": "payments", "match": { "path_prefix": "/payments" }, "legacy": "legacy", "modern": "modern",
        "weight": weight, "sync": "payments", "sticky": [{ "header": "x-user-id" }],
    });
    let mut setup = Setup::new(legacy).upstream("modern", modern, &json!({})).sync("payments", data.clone());
    setup.config.syncs.get_mut("payments").unwrap().read_your_writes = apart;
    setup.route(route).start()
}

fn request(method: &str, more: &str) -> String {
    format!("{method} /payments HTTP/1.1\r\nHost: shop.example\r\n{more}\r\n")
}

async fn ask(bench: &Bench, method: &str, more: &str) -> String {
    bench.ask(&request(method, more)).await.text().to_owned()
}

/// A write without a key; what a browser sends back after it.
async fn write(bench: &Bench) -> String {
    let written = bench.ask(&request("POST", "Content-Length: 0\r\n")).await;
    let cookie = written.header("set-cookie").unwrap().split(';').next().unwrap().to_owned();
    assert!(cookie.starts_with("banyan_w="), "{cookie}");
    format!("Cookie: {cookie}\r\n")
}

#[tokio::test]
async fn after_a_write_a_users_reads_follow_the_owner_until_the_other_side_shows_it() {
    let (legacy, modern) = (Upstream::named("legacy").await, Upstream::named("modern").await);
    for (owner, weight, owns, other) in
        [(Owner::Legacy, 100, "legacy", "modern"), (Owner::Modern, 0, "modern", "legacy")]
    {
        let data = Data::new();
        data.owned_by(owner);
        let bench = bench(&data, weight, [legacy.address, modern.address], Duration::ZERO);
        assert_eq!(ask(&bench, "GET", "").await, other);
        let cookie = write(&bench).await;
        let ann = "X-User-Id: ann\r\n";
        assert_eq!(ask(&bench, "PUT", &format!("{ann}Content-Length: 0\r\n")).await, owns);
        assert!(data.writes() >= 2);
        // Time alone brings nobody back.
        tokio::time::sleep(Duration::from_millis(50)).await;
        for _ in 0..4 {
            assert_eq!(ask(&bench, "GET", &cookie).await, owns);
            assert_eq!(ask(&bench, "GET", ann).await, owns);
            assert_eq!(ask(&bench, "GET", "X-User-Id: bob\r\n").await, other);
        }
        let moves = bench.metric("banyan_side_moves_total", &[("route", "payments"), ("reason", "own_writes")]);
        assert!((moves - 8.0).abs() < 0.1, "{moves}");
        data.shows_nothing();
        assert_eq!(ask(&bench, "GET", &cookie).await, owns);
        data.shows_all();
        assert_eq!(ask(&bench, "GET", &cookie).await, other);
        assert_eq!(ask(&bench, "GET", ann).await, other);
    }
}

#[tokio::test]
async fn what_a_writer_has_deleted_is_not_looked_for_on_the_other_side() {
    let legacy = Upstream::scripted(|mut wire| async move {
        loop {
            wire.request().await?;
            wire.send("HTTP/1.1 404 Not Found\r\ncontent-length: 4\r\n\r\ngone").await?;
        }
    })
    .await;
    let modern = Upstream::named("modern").await;
    let data = Data::new();
    let route = json!({
        "name": "payments", "match": { "path_prefix": "/payments" }, "legacy": "legacy", "modern": "modern",
        "weight": 0, "sync": "payments", "sticky": [{ "header": "x-user-id" }], "fallback_on": [404],
    });
    let setup = Setup::new(legacy.address).upstream("modern", modern.address, &json!({}));
    let bench = setup.sync("payments", data.clone()).route(route).start();
    let ann = "X-User-Id: ann\r\n";
    assert_eq!(ask(&bench, "GET", ann).await, "modern");
    assert_eq!(ask(&bench, "DELETE", ann).await, "gone");
    let cookie = write(&bench).await;
    for who in [ann, &cookie] {
        assert_eq!(ask(&bench, "GET", who).await, "gone");
    }
    assert_eq!(ask(&bench, "GET", "X-User-Id: bob\r\n").await, "modern");
    data.shows_all();
    assert_eq!(ask(&bench, "GET", ann).await, "modern");
}

#[tokio::test]
async fn a_users_cookie_counts_at_another_replica_which_allows_for_its_clock() {
    let (one, other) = (Data::new(), Data::new());
    let (legacy, modern) = (Upstream::named("legacy").await, Upstream::named("modern").await);
    let both = [legacy.address, modern.address];
    let first = bench(&one, 100, both, Duration::ZERO);
    let wary = bench(&other, 100, both, Duration::from_secs(3600));
    let exact = bench(&other, 100, both, Duration::ZERO);
    let cookie = write(&first).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(ask(&exact, "GET", &cookie).await, "legacy", "its watermark has not passed the time of the write");
    other.shows_all();
    assert_eq!(ask(&exact, "GET", &cookie).await, "modern");
    assert_eq!(ask(&wary, "GET", &cookie).await, "legacy", "the first one's clock may be ahead");
    assert_eq!(ask(&wary, "GET", "").await, "modern");
    assert_eq!(ask(&first, "GET", &cookie).await, "legacy", "the first one's watermark has not moved");
}

#[tokio::test]
async fn while_the_owner_is_away_a_writer_reads_at_the_other_side_and_is_told_so() {
    let legacy = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, modern) = (legacy.local_addr().unwrap(), Upstream::named("modern").await);
    let data = Data::new();
    let bench = bench(&data, 100, [address, modern.address], Duration::ZERO);
    let answers = tokio::spawn(async move {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let (mut stream, _) = legacy.accept().await.unwrap();
        drop(legacy);
        let _ = stream.read(&mut [0; 1024]).await.unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n").await.unwrap();
    });
    let cookie = write(&bench).await;
    answers.await.unwrap();
    let stale = bench.ask(&request("GET", &cookie)).await;
    assert_eq!((stale.text(), stale.header("x-banyan-stale")), ("modern", Some("1")));
    let fresh = bench.ask(&request("GET", "")).await;
    assert_eq!((fresh.text(), fresh.header("x-banyan-stale")), ("modern", None));
    // The write itself goes nowhere else.
    assert_eq!(bench.ask(&request("POST", &format!("{cookie}Content-Length: 0\r\n"))).await.status, 503);
}
