//! The source's server is lost and a standby promoted: the flow goes on there where that is provably right, and says so where it is not.

use std::time::Duration;

use banyan_connectors::{
    State,
    preflight::{self, Severity},
};
use rdkafka::{
    message::{Header, OwnedHeaders},
    producer::{FutureProducer, FutureRecord},
};
use serde_json::json;

use crate::{
    data_basic::Running,
    harness::{
        Kafka, Postgres, Shop, Wire, eventually, secs,
        shop::{PASSWORD, ROLE},
    },
    workload::{self, Workload, assert_equal_and_once, settle},
};

const LEGACY_OWNS: [State; 2] = [State::Applying, State::Watching];
const SETTLED: Duration = Duration::from_secs(60);

/// A server of the legacy database with a standby, and an address that leads to the one that is primary.
struct Pair {
    primary: Postgres,
    standby: Postgres,
    address: Wire,
    shop: Shop,
    /// Of flows that read the server.
    slots: i64,
}

impl Pair {
    /// The modern database is on the same server, or on another.
    async fn new(ddl: &str, tables: &[String], modern: Option<&Postgres>) -> Self {
        let primary = Postgres::newest();
        let tables: Vec<&str> = tables.iter().map(String::as_str).collect();
        let mut shop = Shop::on(&primary, modern.unwrap_or(&primary), &Kafka::shared().brokers(), ddl, &tables).await;
        let address = Wire::to(primary.port());
        shop.legacy.move_behind(&address).await;
        if modern.is_none() {
            shop.modern.move_behind(&address).await;
        }
        (shop.legacy_url, shop.modern_url) = (shop.legacy.url(ROLE, PASSWORD), shop.modern.url(ROLE, PASSWORD));
        let standby = primary.standby("standby").await;
        Self { primary, standby, address, shop, slots: if modern.is_none() { 2 } else { 1 } }
    }

    /// The standby has copies of the flows' slots that would outlive its promotion. Whoever copies rests for longer each time it finds nothing new, so it
    /// begins here; and a copy is complete when the slot has passed a note of what is running, which a checkpoint makes.
    async fn until_slots_are_kept(&self) {
        self.until_slots_are_kept_by(&self.standby).await;
    }

    async fn until_slots_are_kept_by(&self, standby: &Postgres) {
        let standby = standby.connect("postgres").await;
        let sql = "SELECT count(*) FROM pg_replication_slots WHERE synced AND NOT temporary AND failover";
        for sql in ["ALTER SYSTEM SET sync_replication_slots = on", "SELECT pg_reload_conf()"] {
            standby.batch_execute(sql).await.unwrap();
        }
        eventually(SETTLED, "the standby has copies of the slots", async || {
            self.shop.legacy.batch("CHECKPOINT").await;
            standby.query_one(sql, &[]).await.unwrap().get::<_, i64>(0) == self.slots
        })
        .await;
    }

    async fn fail_over(&mut self) {
        self.primary.crash();
        self.standby.start();
        self.standby.promote().await;
        self.address.redirect(self.standby.port());
        self.shop.legacy.reconnect().await;
        self.shop.modern.reconnect().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_that_was_promoted_is_followed_and_nothing_is_lost_or_doubled() {
    let ddl = format!("{}{}", workload::AUDIT, workload::ddl("pay"));
    let mut pair = Pair::new(&ddl, &workload::tables("pay"), None).await;
    let session = pair.shop.legacy.session().await;
    for sql in ["ALTER SYSTEM SET synchronized_standby_slots = 'standby'", "SELECT pg_reload_conf()"] {
        session.batch_execute(sql).await.unwrap();
    }
    let running = Running::start(&pair.shop, "legacy", &json!({}));
    running.until(LEGACY_OWNS).await;
    settle(&pair.shop.legacy, &pair.shop.modern, "pay", 0, SETTLED).await;
    let modern = &pair.shop.modern;
    eventually(SETTLED, "no table is being filled", async || modern.count("banyan.loading").await == 0).await;
    let work = Workload::start(&pair.shop.legacy, "pay", 7);
    work.advance(50).await;
    pair.until_slots_are_kept().await;
    work.advance(50).await;
    pair.fail_over().await;
    work.advance(50).await;
    work.finish().await;
    settle(&pair.shop.legacy, &pair.shop.modern, "pay", 1, SETTLED).await;
    assert_equal_and_once(&pair.shop).await;
    running.until(LEGACY_OWNS).await;
    assert_eq!(running.status().flows[1].violations, 0);
    // What is written into went back to an earlier state, and what only watches has moved as well.
    for (database, flow) in [(&pair.shop.modern, "legacy_to_modern"), (&pair.shop.legacy, "modern_to_legacy")] {
        let timeline = format!("SELECT timeline FROM banyan.position WHERE flow = '{flow}'");
        eventually(SETTLED, "the new timeline is applied", async || database.number(&timeline).await == 2).await;
    }
    // Whoever asks how far the other side is compares it with the server that there is now.
    let mut reader = running.reader();
    eventually(SETTLED, "the lag is known", async || {
        let reading = reader.read().await;
        if reading.lag.is_some() { Ok(()) } else { Err(format!("{reading:?}")) }
    })
    .await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_promoted_standby_never_had_needs_a_snapshot_as_a_slot_does_that_it_never_had() {
    let ddl = "CREATE TABLE items (id bigint PRIMARY KEY, name text)";
    let mut pair = Pair::new(ddl, &["public.items".to_owned()], Some(Postgres::shared_modern())).await;
    let running = Running::start(&pair.shop, "legacy", &json!({}));
    running.until(LEGACY_OWNS).await;
    pair.shop.legacy.batch("INSERT INTO items VALUES (1, 'a')").await;
    pair.until_slots_are_kept().await;
    let findings = preflight::check(&running.config).await;
    let of_standby = |finding: &&preflight::Finding| finding.fix.contains("synchronized_standby_slots");
    let warning = findings.iter().find(of_standby).unwrap_or_else(|| panic!("no warning: {findings:?}"));
    assert!(warning.severity == Severity::Warning && warning.what.starts_with("1 standby reads"), "{warning}");

    pair.standby.stop();
    pair.shop.legacy.batch("INSERT INTO items VALUES (2, 'only here')").await;
    eventually(SETTLED, "the row is applied", async || pair.shop.modern.count("items").await == 2).await;
    pair.fail_over().await;
    let needs = async |running: &Running, says: &str| {
        eventually(secs(60), "the flow says what it needs", async || {
            let flow = running.status().flows.remove(0);
            let why = flow.last_error.clone().unwrap_or_default();
            if flow.state == State::NeedsSnapshot && why.contains(says) { Ok(()) } else { Err(format!("{flow:#?}")) }
        })
        .await;
    };
    needs(&running, "the source moved from timeline 1 to 2").await;
    needs(&running, "the source does not have what lies between").await;
    running.stop().await;

    let slot = format!("{}_shop_l2m_0", pair.shop.install);
    pair.shop.legacy.batch(&format!("SELECT pg_drop_replication_slot('{slot}')")).await;
    pair.shop.legacy.batch("UPDATE banyan.capture SET timeline = 1").await;
    let running = Running::start(&pair.shop, "legacy", &json!({}));
    needs(&running, "had no copy of the slot").await;
    running.stop().await;
}

/// What a capture would write that still reads the server that was left: a whole transaction, behind all that was applied.
async fn send_as_the_lost_primary(shop: &Shop) {
    let topic = format!("{}.shop.legacy_to_modern", shop.install);
    let producer: FutureProducer = Kafka::shared().client().create().unwrap();
    let row =
        r#"{"before":null,"after":{"id":"99","name":"lost"},"source":{"schema":"public","table":"items"},"op":"c"}"#;
    let commit = r#"{"end":281470681743360,"count":1,"ts_us":1}"#;
    for (position, kind, value) in [("1:stream:FFFF/0:0", "row", row), ("1:stream:FFFF/0:1", "commit", commit)] {
        let headers = [("position", position), ("from", "0/1"), ("epoch", "1"), ("origin", "legacy"), ("kind", kind)]
            .into_iter()
            .fold(OwnedHeaders::new(), |headers, (key, value)| headers.insert(Header { key, value: Some(value) }));
        let record = FutureRecord::<(), str>::to(&topic).partition(0).headers(headers).payload(value);
        producer.send(record, secs(10)).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_second_of_two_standbys_that_was_promoted_lacks_what_the_first_has_written() {
    let ddl = "CREATE TABLE items (id bigint PRIMARY KEY, name text)";
    let mut pair = Pair::new(ddl, &["public.items".to_owned()], Some(Postgres::shared_modern())).await;
    let other = pair.primary.standby("other").await;
    let running = Running::start(&pair.shop, "legacy", &json!({}));
    running.until(LEGACY_OWNS).await;
    pair.shop.legacy.batch("INSERT INTO items VALUES (1, 'a')").await;
    pair.until_slots_are_kept().await;
    pair.until_slots_are_kept_by(&other).await;
    pair.fail_over().await;
    // Each of both begins timeline 2, where it is promoted.
    other.promote().await;
    let modern = &pair.shop.modern;
    eventually(SETTLED, "the flow has moved", async || {
        let moved = "flow = 'legacy_to_modern' AND timeline = 2 AND followed <> ''";
        modern.number(&format!("SELECT count(*) FROM banyan.position WHERE {moved}")).await == 1
    })
    .await;
    send_as_the_lost_primary(&pair.shop).await;
    pair.shop.legacy.batch("INSERT INTO items VALUES (2, 'only at the first')").await;
    eventually(SETTLED, "the row is applied", async || modern.count("items").await == 2).await;
    assert_eq!(modern.rows("items").await, ["(1,a)", "(2,\"only at the first\")"]);

    pair.standby.crash();
    pair.address.redirect(other.port());
    pair.shop.legacy.reconnect().await;
    pair.shop.legacy.batch("INSERT INTO items VALUES (3, 'only at the second')").await;
    eventually(SETTLED, "the flow says what the source lacks", async || {
        let flow = running.status().flows.remove(0);
        let why = flow.last_error.clone().unwrap_or_default();
        if flow.state == State::NeedsSnapshot && why.contains("two standbys were promoted") {
            Ok(())
        } else {
            Err(format!("{flow:#?}"))
        }
    })
    .await;
    assert_eq!(pair.shop.modern.number("SELECT count(*) FROM items WHERE id = 3").await, 0);
    running.stop().await;
}
