//! Writes while a sync is held: they wait, reads go on, and afterwards whoever owns the sync by then answers them.

use std::time::Duration;

use serde_json::json;
use tokio::{io::AsyncWriteExt, sync::mpsc};

use super::{Bench, Client, Data, Setup, Upstream, eventually};
use crate::links::{HoldLimits, Owner, SyncLink};

const POST: &str = "POST /payments HTTP/1.1\r\nHost: shop.example\r\nContent-Length: 5\r\n\r\nhello";
const GET: &str = "GET /payments HTTP/1.1\r\nHost: shop.example\r\n\r\n";

/// Both sides of a synced route, and one that nobody holds.
struct Sides {
    legacy: Upstream,
    modern: Upstream,
    data: Data,
    bench: Bench,
}

fn long() -> HoldLimits {
    HoldLimits { time: Duration::from_secs(3600), ..HoldLimits::default() }
}

// === impl Sides ===

impl Sides {
    async fn new() -> Self {
        Self::over(Upstream::named("legacy").await).await
    }

    async fn over(legacy: Upstream) -> Self {
        let (modern, data) = (Upstream::named("modern").await, Data::new());
        let route = |name: &str, more| {
            let mut route = json!({
                "name": name, "match": { "path_prefix": format!("/{name}") }, "legacy": "legacy", "modern": "modern", "weight": 100,
            });
            route.as_object_mut().unwrap().extend::<serde_json::Map<_, _>>(more);
            route
        };
        let synced = json!({ "sync": "money" }).as_object().unwrap().clone();
        let bench = Setup::new(legacy.address)
            .upstream("modern", modern.address, &json!({}))
            .sync("money", data.clone())
            .route(route("payments", synced))
            .route(route("free", serde_json::Map::new()))
            .start();
        Self { legacy, modern, data, bench }
    }

    fn hold(&self) -> &std::sync::Arc<crate::links::Hold> {
        self.data.hold()
    }

    /// A write that is sent and waits.
    async fn waits(&self) -> Client {
        let before = self.hold().status().held;
        let mut client = self.bench.client().await;
        client.send(POST).await;
        eventually("the write waits", || self.hold().status().held > before).await;
        client
    }

    fn held(&self, outcome: &str) -> f64 {
        self.bench.metric("banyan_sync_held_writes_total", &[("sync", "money"), ("outcome", outcome)])
    }
}

#[tokio::test]
async fn while_a_sync_is_held_writes_wait_and_reads_go_on_and_then_the_new_owner_answers() {
    let sides = Sides::new().await;
    let held = sides.hold().begin(long()).unwrap();
    assert!(sides.hold().begin(long()).is_none(), "one hold at a time");
    let mut clients = Vec::new();
    for _ in 0..4 {
        clients.push(sides.waits().await);
    }
    assert_eq!(sides.bench.ask(GET).await.text(), "modern");
    assert_eq!(sides.bench.ask(&POST.replace("payments", "free")).await.text(), "modern");
    assert_eq!(sides.bench.ask(&POST.replace("payments", "other")).await.text(), "legacy");
    assert!((sides.bench.metric("banyan_sync_writes_held", &[("sync", "money")]) - 4.0).abs() < 0.1);
    let seen = |side: &Upstream| side.bytes().matches("POST /payments").count();
    assert_eq!((seen(&sides.legacy), seen(&sides.modern)), (0, 0));

    sides.data.owned_by(Owner::Modern);
    drop(held);
    for client in &mut clients {
        let answer = client.answer().await;
        assert_eq!(answer.text(), "modern");
        assert!(answer.header("set-cookie").is_some_and(|cookie| cookie.starts_with("banyan_w=")));
    }
    assert_eq!((seen(&sides.legacy), seen(&sides.modern)), (0, 4));
    assert_eq!(sides.bench.ask(POST).await.text(), "modern");
    assert!((sides.held("released") - 4.0).abs() < 0.1);
    assert_eq!(sides.hold().status(), crate::links::HoldStatus::default());
}

#[tokio::test]
async fn a_hold_that_is_given_up_releases_to_the_owner_that_was() {
    let sides = Sides::new().await;
    let held = sides.hold().begin(long()).unwrap();
    let mut client = sides.waits().await;
    drop(held);
    assert_eq!(client.answer().await.text(), "legacy");
}

#[tokio::test]
async fn a_write_that_waited_too_long_or_finds_no_room_is_told_to_come_again() {
    let sides = Sides::new().await;
    for (limits, outcome) in [
        (HoldLimits { time: Duration::from_millis(50), ..long() }, "late"),
        (HoldLimits { time: Duration::ZERO, ..long() }, "late"),
        (HoldLimits { writes: 0, ..long() }, "full"),
        (HoldLimits { bytes: 10, ..long() }, "full"),
    ] {
        let before = sides.held(outcome);
        let held = sides.hold().begin(limits).unwrap();
        let mut client = sides.bench.client().await;
        client.send(POST).await;
        let refused = client.answer().await;
        assert_eq!((refused.status, refused.header("retry-after")), (503, Some("1")), "{limits:?}");
        assert!(refused.text().contains("urn:banyan:error:held") && refused.text().contains("payments"), "{refused:?}");
        assert_eq!(refused.header("set-cookie"), None);
        assert!((sides.held(outcome) - before - 1.0).abs() < 0.1, "{limits:?}");
        drop(held);
        assert_eq!(sides.bench.ask(POST).await.text(), "legacy");
    }
}

#[tokio::test]
async fn a_write_whose_client_has_left_is_not_sent_when_the_hold_ends() {
    let sides = Sides::new().await;
    let held = sides.hold().begin(long()).unwrap();
    let reset = sides.waits().await;
    socket2::SockRef::from(&reset.stream).set_linger(Some(Duration::ZERO)).unwrap();
    drop(reset);
    let nobody = || sides.hold().status().held == 0;
    eventually("a reset is noticed", nobody).await;
    drop(sides.waits().await);
    eventually("an end is noticed", nobody).await;
    // Bytes that nobody reads hide the end; this one sends more than is read ahead.
    let mut large = sides.bench.client().await;
    large
        .send(format!("POST /payments HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n{}", "x".repeat(40_000)))
        .await;
    eventually("it waits", || sides.hold().status().held > 0).await;
    drop(large);
    eventually("an end behind unread bytes is noticed", nobody).await;
    let mut half = sides.waits().await;
    half.stream.shutdown().await.unwrap();
    assert_eq!(half.answer().await.status, 503);
    eventually("nobody waits", nobody).await;
    assert!((sides.held("left") - 4.0).abs() < 0.1);
    drop(held);
    assert_eq!(sides.bench.ask(POST).await.text(), "legacy");
    assert_eq!(sides.legacy.bytes().matches("POST /payments").count(), 1);
}

#[tokio::test]
async fn a_hold_is_drained_when_every_write_that_began_before_has_ended() {
    let (go, going) = mpsc::unbounded_channel::<&str>();
    let going = std::sync::Arc::new(tokio::sync::Mutex::new(going));
    let legacy = Upstream::scripted(move |mut wire| {
        let going = std::sync::Arc::clone(&going);
        async move {
            wire.request().await?;
            let mut going = going.lock().await;
            while let Some(part) = going.recv().await {
                wire.send(part).await?;
            }
            Ok(())
        }
    })
    .await;
    let sides = Sides::over(legacy).await;
    let mut client = sides.bench.client().await;
    client.send(POST).await;
    eventually("it is under way", || sides.hold().status().under_way == 1).await;
    let held = sides.hold().begin(long()).unwrap();
    let drained =
        async |patience: u64| tokio::time::timeout(Duration::from_millis(patience), held.drained()).await.is_ok();
    assert!(!drained(50).await, "nothing was answered");
    go.send("HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\n").unwrap();
    assert!(client.head().await.unwrap().starts_with("HTTP/1.1 200"));
    assert!(!drained(50).await, "the head is not the end");
    go.send("stored").unwrap();
    assert!(drained(5000).await);
    assert_eq!(client.take(6).await.unwrap(), b"stored");
    assert_eq!(sides.hold().status().under_way, 0);
}

#[tokio::test]
async fn a_write_that_broke_off_is_not_under_way_any_more_and_its_user_waits() {
    let legacy = Upstream::scripted(|mut wire| async move {
        wire.request().await?;
        wire.reset();
        Ok(())
    })
    .await;
    let sides = Sides::over(legacy).await;
    assert_eq!(sides.bench.ask(POST).await.status, 502);
    assert_eq!((sides.data.writes(), sides.hold().status().under_way), (1, 0));
}

#[tokio::test]
async fn under_a_hold_tunnels_stay_and_are_closed_with_notice_only_when_the_owner_has_moved() {
    let legacy = Upstream::scripted(|mut wire| async move {
        wire.head().await?;
        wire.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n").await?;
        loop {
            let bytes = wire.some().await?;
            wire.send(bytes).await?;
        }
    })
    .await;
    let sides = Sides::over(legacy).await;
    let upgrade = "GET /payments/chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\nSec-WebSocket-Version: 13\r\n\r\n";
    let mut open = sides.bench.client().await;
    open.send(upgrade).await;
    assert!(open.head().await.unwrap().starts_with("HTTP/1.1 101"));

    let held = sides.hold().begin(long()).unwrap();
    held.drained().await;
    open.send(b"\x82\x02ab").await;
    assert_eq!(open.take(4).await.unwrap(), b"\x82\x02ab");
    // A new one is a write, and waits.
    let mut late = sides.bench.client().await;
    late.send(upgrade).await;
    eventually("the upgrade waits", || sides.hold().status().held == 1).await;

    sides.data.owned_by(Owner::Modern);
    assert_eq!(open.take(4).await.unwrap(), b"\x88\x02\x03\xf4");
    assert!(open.is_closed().await);
    drop(held);
    assert_eq!(late.answer().await.text(), "modern");
}
