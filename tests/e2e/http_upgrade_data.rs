//! The program changes while rows move: no two processes run the same flows, and users read what they wrote, through whichever process.

use std::{
    fs,
    os::unix::net::{UnixListener, UnixStream},
};

use serde_json::json;

use crate::{
    harness::{Banyan, Raw, Shop, Upstream, client::Answer, eventually, secs},
    http_upgrade_talk::Peer,
};

/// One synced route, all its reads to modern.
fn yaml(shop: &Shop, monolith: &Upstream, service: &Upstream) -> String {
    format!(
        "upstreams:\n  monolith: {{endpoints: [\"{}\"]}}\n  service: {{endpoints: [\"{}\"]}}\ndefault: monolith\nroutes:\n  - name: money\n    \
         match: {{path_prefix: /money}}\n    legacy: monolith\n    modern: service\n    weight: 100\n    sticky: [{{header: x-user-id}}]\n    sync: shop\n{}",
        monolith.url(),
        service.url(),
        // A busy machine may take longer than usual to begin the flows anew; what is unknown is more than that.
        shop.sync("legacy", "max_lag: 1m"),
    )
}

/// A request of a user who keeps no cookies.
async fn ask(raw: &mut Raw, method: &str, user: &str) -> Answer {
    raw.send(format!("{method} /money HTTP/1.1\r\nHost: test\r\nX-User-Id: {user}\r\nContent-Length: 0\r\n\r\n")).await;
    raw.answer().await.unwrap()
}

async fn answered_by(raw: &mut Raw, method: &str, user: &str) -> String {
    ask(raw, method, user).await.header("x-from").unwrap_or_default().to_owned()
}

async fn once(banyan: &Banyan, method: &str, user: &str) -> String {
    answered_by(&mut Raw::connect(banyan.http()).await, method, user).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_upgrade_flows_go_on_in_the_new_process_and_users_read_what_they_wrote() {
    let shop = Shop::fresh().await;
    let (monolith, service) = (Upstream::named("legacy"), Upstream::named("modern"));
    let mut banyan = Banyan::with(&yaml(&shop, &monolith, &service)).start().await;
    banyan.flow_state("shop", "legacy_to_modern", &["applying"], secs(60)).await;
    banyan.flow_state("shop", "modern_to_legacy", &["watching"], secs(60)).await;
    eventually(secs(30), "reads follow the weight", async || once(&banyan, "GET", "ann").await == "modern").await;
    let insert = async |from: u32| {
        let rows =
            format!("INSERT INTO accounts SELECT id, 'm' || id, 'n' FROM generate_series({from}, {from} + 99) id");
        shop.legacy.batch(&rows).await;
    };
    insert(1).await;

    for round in 1..=2 {
        let [mut writes, mut reads] = [Raw::connect(banyan.http()).await, Raw::connect(banyan.http()).await];
        for kept in [&mut writes, &mut reads] {
            assert_eq!(answered_by(kept, "GET", "ann").await, "modern");
        }
        let mut old = banyan.take_over().await;
        insert(1000 * round).await;
        // Written through the old process, read through the new one, and the other way round.
        let written = ask(&mut writes, "POST", "bob").await;
        assert_eq!((written.header("x-from"), written.header("connection")), (Some("legacy"), Some("close")));
        assert_eq!(once(&banyan, "GET", "bob").await, "legacy");
        assert_eq!(once(&banyan, "POST", "eve").await, "legacy");
        let read = ask(&mut reads, "GET", "eve").await;
        assert_eq!((read.header("x-from"), read.header("connection")), (Some("legacy"), Some("close")));
        drop((writes, reads));
        assert_eq!(old.wait(secs(45)).and_then(|status| status.code()), Some(0), "{}", banyan.log());
        eventually(secs(10), "reads follow the weight again", async || {
            once(&banyan, "GET", "ann").await == "modern" && once(&banyan, "GET", "bob").await == "modern"
        })
        .await;
        banyan.flow_state("shop", "legacy_to_modern", &["applying"], secs(60)).await;
        banyan.flow_state("shop", "modern_to_legacy", &["watching"], secs(60)).await;
        // How far the databases are was known before the first request.
        let moves = |reason| [("route", "money"), ("reason", reason)];
        let metrics = banyan.metrics().await;
        assert_eq!(metrics.get("banyan_side_moves_total", &moves("lag")), Some(0.0));
        assert!(metrics.get("banyan_side_moves_total", &moves("own_writes")).unwrap() >= 1.0);
        assert_eq!(metrics.sum("banyan_task_restarts_total", &[]), 0.0);
    }
    insert(9000).await;
    eventually(secs(60), "both databases are equal", async || shop.equal().await).await;
    assert_eq!(shop.modern.count("accounts").await, 400);
    let link = banyan.status().await["links"][0].clone();
    assert_eq!((&link["owner"], &link["known_from"]), (&"legacy".into(), &"database".into()), "{link}");
    assert!(!banyan.log().contains("will be started again"), "{}", banyan.log());
}

/// Slots of the shop that somebody reads, on both sides.
async fn read_slots(shop: &Shop) -> i64 {
    let sql = format!("SELECT count(*) FROM pg_replication_slots WHERE slot_name LIKE '{}%' AND active", shop.install);
    shop.legacy.number(&sql).await + shop.modern.number(&sql).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_upgrade_the_old_process_says_that_its_flows_have_ended_when_they_have() {
    let shop = Shop::fresh().await;
    let (monolith, service) = (Upstream::named("legacy"), Upstream::named("modern"));
    let mut banyan = Banyan::with(&yaml(&shop, &monolith, &service)).start().await;
    banyan.flow_state("shop", "legacy_to_modern", &["applying"], secs(60)).await;
    banyan.flow_state("shop", "modern_to_legacy", &["watching"], secs(60)).await;
    assert_eq!(read_slots(&shop).await, 2);
    let mut peer = Peer::new(UnixStream::connect(banyan.folder().join("state/take-over.sock")).unwrap());
    peer.say(&json!({"say": "hello", "protocol": 1, "version": "0", "pid": 1}));
    peer.hear("offered");
    assert_eq!(read_slots(&shop).await, 2);
    peer.say(&json!({"say": "ready"}));
    peer.hear("going");
    peer.hear("released");
    eventually(secs(2), "its slots are free", async || read_slots(&shop).await == 0).await;
    assert_eq!(banyan.wait(secs(45)).and_then(|status| status.code()), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_upgrade_the_new_process_begins_its_flows_when_the_old_ones_have_ended() {
    let shop = Shop::fresh().await;
    let (monolith, service) = (Upstream::named("legacy"), Upstream::named("modern"));
    let mut banyan = Banyan::with(&yaml(&shop, &monolith, &service)).arg("--take-over");
    let state = banyan.folder().join("state");
    fs::create_dir(&state).unwrap();
    let old = UnixListener::bind(state.join("take-over.sock")).unwrap();
    banyan.spawn();
    let mut peer = Peer::new(old.accept().unwrap().0);
    assert_eq!(peer.hear("hello")["protocol"], 1);
    peer.say(&json!({"say": "offered", "version": "0", "pid": 1}));
    peer.hear("ready");
    peer.say(&json!({"say": "going"}));
    eventually(secs(20), "it answers", async || once(&banyan, "POST", "ann").await == "legacy").await;
    // It has no flows, and would have begun them by now.
    let ended = eventually(secs(3), "a slot is read", async || read_slots(&shop).await > 0);
    assert!(tokio::time::timeout(secs(2), ended).await.is_err());
    assert_eq!(banyan.status().await["syncs"], json!([]));
    peer.say(&json!({"say": "released"}));
    banyan.flow_state("shop", "legacy_to_modern", &["applying"], secs(60)).await;
    // Until the old one has ended, nobody here knows what it has answered.
    eventually(secs(30), "the lag is known", async || banyan.status().await["links"][0]["lag_seconds"].is_number())
        .await;
    for _ in 0..20 {
        assert_eq!(once(&banyan, "GET", "ann").await, "legacy");
    }
    // Nor when yet another one asks to take over meanwhile, and does not.
    let mut other = Peer::new(UnixStream::connect(state.join("take-over.sock")).unwrap());
    other.say(&json!({"say": "hello", "protocol": 1, "version": "0", "pid": 1}));
    other.hear("offered");
    drop(other);
    eventually(secs(10), "it goes on", async || {
        banyan.log().contains("it ended before it was ready; this one goes on")
    })
    .await;
    // Longer than `read_your_writes`, after which they would follow the weight.
    tokio::time::timeout(secs(6), async {
        loop {
            assert_eq!(once(&banyan, "GET", "ann").await, "legacy");
        }
    })
    .await
    .unwrap_err();
    drop(peer);
    eventually(secs(10), "reads follow the weight", async || once(&banyan, "GET", "ann").await == "modern").await;
}
