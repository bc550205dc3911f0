//! Copies of tables in chunks of the stream: resumed wherever they were, under any writes, one table at a time, and no faster than asked.

use std::time::Duration;

use banyan_connectors::{SnapshotDesk, State};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use serde_json::{Value, json};

use crate::{
    data_basic::{Running, until_equal},
    harness::{Banyan, Kafka, Postgres, Shop, eventually, secs},
    workload::{self, Workload},
};

const LEGACY_OWNS: [State; 2] = [State::Applying, State::Watching];
const COPYING: [State; 2] = [State::Snapshot, State::Watching];
const SETTLED: Duration = Duration::from_secs(120);
const ROWS: &str = "CREATE TABLE rows (id bigint PRIMARY KEY, word text NOT NULL); \
     CREATE TABLE more (a text, b int, word text, PRIMARY KEY (b, a))";

/// A shop whose legacy `rows` holds 1 to `rows`, with the tables of a sync.
async fn shop(rows: u32, tables: &[&str]) -> Shop {
    let shop = Shop::with(ROWS, tables).await;
    fill(&shop, rows).await;
    shop
}

async fn fill(shop: &Shop, rows: u32) {
    shop.legacy
        .batch(&format!("INSERT INTO rows SELECT n, 'old' FROM generate_series(1, {rows}) AS n; ANALYZE rows"))
        .await;
}

/// Rows that copies have put into the topic, by table.
fn read_by_copies(shop: &Shop, table: &str) -> usize {
    read_into(Kafka::shared(), shop, table)
}

fn read_into(kafka: &Kafka, shop: &Shop, table: &str) -> usize {
    let topic = format!("{}.shop.legacy_to_modern", shop.install);
    let is = |record: &&crate::harness::kafka::Record| {
        let value: Value = serde_json::from_slice(record.payload.as_deref().unwrap_or_default()).unwrap_or_default();
        value["op"] == "r" && value["source"]["table"] == table
    };
    kafka.records(&topic).iter().filter(is).count()
}

/// Drops a slot as soon as its server has noticed that nobody reads it any more.
async fn drop_slot(shop: &Shop, slot: &str) {
    let drop = format!(
        "SELECT count(pg_drop_replication_slot(slot_name)) FROM pg_replication_slots WHERE slot_name = '{slot}' AND NOT active"
    );
    eventually(secs(20), "the slot is dropped", async || shop.legacy.number(&drop).await == 1).await;
}

async fn generation(shop: &Shop) -> i64 {
    shop.legacy.number("SELECT generation FROM banyan.capture WHERE flow = 'legacy_to_modern'").await
}

/// Nothing went wrong anywhere.
fn assert_clean(running: &Running) {
    let status = running.status();
    let odd = |flow: &banyan_connectors::FlowStatus| {
        (flow.violations, flow.parked.unwrap_or_default(), flow.last_error.clone())
    };
    for flow in &status.flows {
        assert_eq!(odd(flow), (0, 0, None), "{flow:?}");
    }
    let metrics = running.metrics();
    let refused =
        metrics.lines().filter(|line| line.starts_with("banyan_sync_refused_total{") && !line.ends_with(" 0"));
    assert_eq!(refused.count(), 0, "{metrics}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_a_write_storm_the_copy_ends_equal_and_nothing_is_parked() {
    let seed = rand::random();
    println!("seed {seed}");
    let ddl = format!("{}{}", workload::AUDIT, workload::ddl("pay"));
    let tables = workload::tables("pay");
    let tables: Vec<&str> = tables.iter().map(String::as_str).collect();
    let shop = Shop::with(&ddl, &tables).await;
    // The writers' keys lie between these, and move by a million and back.
    let books = "INSERT INTO pay_book (id, title, price, body) SELECT n, 'book ' || n, n, \
         CASE WHEN n % 2 = 0 THEN repeat(md5(n::text), 100) END FROM generate_series(1, 3200) AS n";
    shop.legacy.batch(&format!("{books}; INSERT INTO pay_line SELECT id, 1, 'line' FROM pay_book")).await;
    let writers = Workload::start(&shop.legacy, "pay", seed);
    let keys = json!({"snapshot": {"chunk": 100, "rows_per_second": 3000}});
    let running = Running::start(&shop, "legacy", &keys);
    running.until(COPYING).await;
    let before = writers.committed();
    eventually(SETTLED, "the tables are copied", async || {
        let status = running.status();
        if status.flows[0].state == State::Applying { Ok(()) } else { Err(format!("{status:#?}")) }
    })
    .await;
    println!("{} transactions while the tables were copied", writers.committed() - before);
    writers.advance(20).await;
    writers.finish().await;
    eventually(SETTLED, "both sides are equal", async || shop.equal().await).await;
    assert_clean(&running);
    running.stop().await;
}

/// Killed again and again while the table is copied and changed.
async fn killed_in_the_middle(keys: &str, before: &str) {
    const COPIED: u32 = 30_000;
    const CHUNK: usize = 500;
    let shop = shop(COPIED, &["public.rows"]).await;
    shop.modern.batch(before).await;
    let keys = format!("snapshot: {{chunk: {CHUNK}, rows_per_second: 6000}}\n    {keys}");
    let mut banyan = Banyan::with(&shop.file_with("legacy", &keys)).start().await;
    let mut random = StdRng::seed_from_u64(rand::random());
    let (mut kills, mut last) = (0, 0);
    let writer = shop.legacy.session().await;
    let writing = tokio::spawn(async move {
        for n in 1.. {
            let (id, other) = (n * 7919 % 30_000, n * 104_729 % 30_000);
            let sql = format!(
                "UPDATE rows SET word = 'new {n}' WHERE id = {id}; DELETE FROM rows WHERE id = {other}; \
                 UPDATE rows SET id = id + 1000000 WHERE id = {id} + 1; UPDATE rows SET id = -id WHERE id = {id} + 2"
            );
            if writer.batch_execute(&sql).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
    });
    let state = "SELECT coalesce((SELECT CASE WHEN state = 'loaded' THEN -1 ELSE rows END FROM banyan.snapshot), 0)";
    while kills < 5 {
        let made = "SELECT count(*) FROM pg_tables WHERE schemaname = 'banyan' AND tablename = 'snapshot'";
        eventually(SETTLED, "the copy gets on", async || {
            if shop.legacy.number(made).await == 0 {
                return false;
            }
            let now = shop.legacy.number(state).await;
            assert_ne!(now, -1, "the copy was over before it was killed {kills} times");
            now > last
        })
        .await;
        tokio::time::sleep(Duration::from_millis(random.random_range(0..400))).await;
        banyan.kill();
        last = shop.legacy.number(state).await;
        banyan.start_again().await;
        kills += 1;
    }
    banyan.flow_state("shop", "legacy_to_modern", &["applying"], SETTLED).await;
    writing.abort();
    eventually(SETTLED, "both sides are equal", async || shop.equal().await).await;
    assert_eq!(generation(&shop).await, 1);
    let read = read_by_copies(&shop, "rows");
    println!("{read} rows read for {COPIED}, with {kills} kills");
    // Two are read ahead; what stands in Kafka is noted soon after.
    let more = (kills + 1) * 5 * CHUNK;
    assert!(read <= COPIED as usize + more, "{read} rows were read");
    let metrics = banyan.metrics().await;
    for odd in ["banyan_sync_violations_total", "banyan_sync_parked", "banyan_sync_refused_total"] {
        assert_eq!(metrics.sum(odd, &[]), 0.0, "{odd}");
    }
    assert_eq!(
        shop.modern
            .number("SELECT count(*) FROM pg_tables WHERE schemaname = 'banyan' AND tablename LIKE 'seen%'")
            .await,
        0
    );
}

#[tokio::test]
async fn killed_in_the_middle_the_copy_goes_on_where_it_was() {
    killed_in_the_middle("", "").await;
}

#[tokio::test]
async fn killed_in_the_middle_a_matching_copy_deletes_at_its_end_what_the_source_lacks() {
    let before = "INSERT INTO rows VALUES (-1000000, 'not in the source'), (1, 'differs'), (29000, 'old'), (2000000, 'nor this')";
    killed_in_the_middle("target: keep_matching", before).await;
}

#[tokio::test]
async fn killed_in_the_middle_a_replacing_copy_empties_the_table_once() {
    killed_in_the_middle("target: replace", "INSERT INTO rows VALUES (-1000000, 'not in the source'), (1, 'differs')")
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kafka_and_both_databases_restarted_in_the_middle_delay_the_copy_and_begin_nothing_anew() {
    let (legacy, modern, kafka) = (Postgres::dedicated(), Postgres::dedicated(), Kafka::dedicated());
    let mut shop = Shop::on(&legacy, &modern, &kafka.brokers(), ROWS, &["public.rows"]).await;
    fill(&shop, 30_000).await;
    let running = Running::start(&shop, "legacy", &json!({"snapshot": {"chunk": 500, "rows_per_second": 1500}}));
    running.until(COPYING).await;
    let rounds: [&dyn Fn(); 4] = [
        &|| {
            kafka.kill();
            kafka.start();
        },
        &|| {
            legacy.crash();
            legacy.start();
        },
        &|| {
            legacy.stop();
            legacy.start();
        },
        &|| {
            modern.crash();
            modern.start();
        },
    ];
    for (n, end_and_start) in rounds.iter().enumerate() {
        let before = shop.modern.count("rows").await;
        eventually(SETTLED, "the copy goes on", async || shop.modern.count("rows").await > before).await;
        shop.legacy.batch(&format!("UPDATE rows SET word = 'round {n}' WHERE id % 100 = {n}; UPDATE rows SET id = -id WHERE id % 100 = 1{n}")).await;
        let state = shop.legacy.text("SELECT state FROM banyan.snapshot").await;
        assert_eq!(state.as_deref(), Some("loading"), "the copy was over too soon");
        end_and_start();
        shop.legacy.reconnect().await;
        shop.modern.reconnect().await;
    }
    eventually(SETTLED, "the table is copied", async || running.status().flows[0].state == State::Applying).await;
    eventually(SETTLED, "both sides are equal", async || shop.equal().await).await;
    let read = read_into(&kafka, &shop, "rows");
    println!("{read} rows read for 30000");
    assert!(read <= 30_000 + 5 * 5 * 500 && generation(&shop).await == 1, "{read} rows were read");
    assert_eq!((running.status().flows[0].parked, running.status().flows[1].violations), (Some(0), 0));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_the_target_refuses_stops_the_copy_which_goes_on_there_when_it_is_mended() {
    let shop = shop(3_000, &["public.rows"]).await;
    shop.modern.batch("ALTER TABLE rows ADD CONSTRAINT odd CHECK (id <> 1700)").await;
    let running = Running::start(&shop, "legacy", &json!({"snapshot": {"chunk": 500}}));
    running.until([State::Stopped, State::Watching]).await;
    let why = running.status().flows[0].last_error.clone().unwrap();
    assert!(why.starts_with("public.rows at 1:stream:") && why.ends_with("SQLSTATE 23514"), "{why}");
    assert_eq!((running.status().flows[0].parked, shop.modern.count("rows").await), (Some(0), 1_500));
    running.stop().await;
    shop.modern.batch("ALTER TABLE rows DROP CONSTRAINT odd").await;
    let running = Running::start(&shop, "legacy", &json!({"snapshot": {"chunk": 500}}));
    running.until(LEGACY_OWNS).await;
    until_equal(&shop).await;
    assert_eq!(generation(&shop).await, 1);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_open_across_the_copy_or_a_part_of_it_is_neither_lost_nor_overwritten() {
    let shop = shop(3_000, &["public.rows"]).await;
    let keys = json!({"snapshot": {"chunk": 100, "rows_per_second": 1000}});
    let running = Running::start(&shop, "legacy", &keys);
    running.until(COPYING).await;
    let (long, short) = (shop.legacy.session().await, shop.legacy.session().await);
    let change = |base: u32| {
        format!(
            "BEGIN; UPDATE rows SET word = 'new' WHERE id IN ({0}, {1}); DELETE FROM rows WHERE id IN ({0} + 1, {1} + 1); \
             UPDATE rows SET id = -id WHERE id IN ({0} + 2, {1} + 2); INSERT INTO rows VALUES (-{1}, 'made')",
            base,
            base + 2_000
        )
    };
    long.batch_execute(&change(500)).await.unwrap();
    short.batch_execute(&change(600)).await.unwrap();
    eventually(secs(20), "a part is copied", async || shop.modern.count("rows").await > 1_000).await;
    short.batch_execute("COMMIT").await.unwrap();
    running.until(LEGACY_OWNS).await;
    until_equal(&shop).await;
    long.batch_execute("COMMIT").await.unwrap();
    until_equal(&shop).await;
    eventually(secs(20), "the last change is there", async || shop.modern.count("rows WHERE word = 'new'").await == 4)
        .await;
    until_equal(&shop).await;
    assert_clean(&running);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_moves_behind_what_was_read_and_is_not_sent_whole_is_not_lost() {
    let ddl = "CREATE TABLE blobs (id bigint PRIMARY KEY, n int, body text); ALTER TABLE blobs ALTER body SET STORAGE EXTERNAL";
    let shop = Shop::with(ddl, &["public.blobs"]).await;
    shop.legacy
        .batch("INSERT INTO blobs SELECT n, n, repeat(md5(n::text), 100) FROM generate_series(1, 2000) AS n")
        .await;
    let keys = json!({"snapshot": {"chunk": 50, "rows_per_second": 200}});
    let running = Running::start(&shop, "legacy", &keys);
    running.until(COPYING).await;
    eventually(secs(20), "a part is copied", async || shop.modern.count("blobs").await > 200).await;
    shop.legacy.batch("DELETE FROM blobs WHERE id = 5; UPDATE blobs SET id = 5 WHERE id = 1900; UPDATE blobs SET n = -n WHERE id IN (6, 1901)").await;
    eventually(secs(10), "the change has gone by", async || {
        shop.modern.number("SELECT count(*) FROM blobs WHERE n = -6").await == 1
    })
    .await;
    assert!(shop.modern.count("blobs").await < 1_800, "the copy has passed the row already");
    // What is to be read again is known after a restart, too.
    let written = shop.legacy.text("SELECT pg_current_wal_lsn()").await.unwrap();
    let sent = format!(
        "SELECT confirmed_flush_lsn >= '{written}' FROM pg_replication_slots WHERE slot_name LIKE '{}%l2m%'",
        shop.install
    );
    eventually(secs(20), "the slot has forgotten it", async || shop.legacy.text(&sent).await.as_deref() == Some("t"))
        .await;
    running.stop().await;
    let running = Running::start(&shop, "legacy", &keys);
    running.until(LEGACY_OWNS).await;
    until_equal(&shop).await;
    assert_eq!(shop.modern.number("SELECT n FROM blobs WHERE id = 5").await, 1_900);
    assert_clean(&running);
    running.stop().await;
}

/// A source where a commit may wait for a standby that is not there: it stands in the log, and nobody sees it.
async fn slow_shop(server: &Postgres) -> Shop {
    let shop = Shop::on(server, Postgres::shared_modern(), &Kafka::shared().brokers(), ROWS, &["public.rows"]).await;
    fill(&shop, 2_000).await;
    shop
}

const SLOW: &str = "\nsynchronous_standby_names = 'nobody'\nsynchronous_commit = local\n";
const RELEASE: &str = "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";

/// Begins a commit that is not seen; the target has it.
async fn commit_unseen(shop: &Shop) -> tokio::task::JoinHandle<()> {
    let session = shop.legacy.session().await;
    let committing = tokio::spawn(async move {
        session
            .batch_execute("SET synchronous_commit = on; UPDATE rows SET word = 'new' WHERE id IN (1900, 1901)")
            .await
            .unwrap();
    });
    eventually(secs(20), "the target has what nobody sees", async || {
        shop.modern.count("rows WHERE word = 'new'").await == 2
    })
    .await;
    assert_eq!(shop.legacy.count("rows WHERE word = 'new'").await, 0);
    assert!(shop.modern.count("rows").await < 1_800, "the copy has passed the rows already");
    committing
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_stands_in_the_log_and_is_not_seen_yet_is_not_overwritten() {
    let server = Postgres::with_settings(SLOW);
    let shop = slow_shop(&server).await;
    let running = Running::start(&shop, "legacy", &json!({"snapshot": {"chunk": 100, "rows_per_second": 200}}));
    running.until(COPYING).await;
    let committing = commit_unseen(&shop).await;
    running.until(LEGACY_OWNS).await;
    assert_eq!(shop.modern.count("rows WHERE word = 'new'").await, 2);
    shop.legacy.batch(RELEASE).await;
    committing.await.unwrap();
    until_equal(&shop).await;
    assert_clean(&running);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_restart_the_copy_waits_for_commits_that_were_sent_before_and_are_not_seen_yet() {
    let server = Postgres::with_settings(SLOW);
    let shop = slow_shop(&server).await;
    let keys = json!({"snapshot": {"chunk": 100, "rows_per_second": 100}});
    let running = Running::start(&shop, "legacy", &keys);
    running.until(COPYING).await;
    let committing = commit_unseen(&shop).await;
    let sent =
        "SELECT confirmed_flush_lsn >= pg_current_wal_lsn() FROM pg_replication_slots WHERE slot_name LIKE '%l2m%'";
    eventually(secs(20), "the slot has forgotten it", async || shop.legacy.text(sent).await.as_deref() == Some("t"))
        .await;
    running.stop().await;
    let running = Running::start(&shop, "legacy", &keys);
    eventually(secs(20), "it is told what the copy waits for", async || {
        let flow = running.status().flows.remove(0);
        let waiting = flow.waiting_for.clone().unwrap_or_default();
        if waiting.contains("the copy waits for open transactions") { Ok(()) } else { Err(format!("{flow:?}")) }
    })
    .await;
    let rows = shop.modern.count("rows").await;
    tokio::time::sleep(secs(1)).await;
    assert_eq!(shop.modern.count("rows").await, rows);
    shop.legacy.batch(RELEASE).await;
    committing.await.unwrap();
    running.until(LEGACY_OWNS).await;
    until_equal(&shop).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_joins_a_running_sync_is_copied_alone_and_the_others_stream_on() {
    let mut shop = shop(1_000, &["public.rows"]).await;
    let running = Running::start(&shop, "legacy", &json!({}));
    running.until(LEGACY_OWNS).await;
    let noted = "banyan.snapshot WHERE state = 'loaded'";
    eventually(secs(10), "the end of the copy is noted", async || shop.legacy.count(noted).await == 1).await;
    let mut reader = running.reader();
    eventually(secs(10), "the reader knows how far the target is", async || reader.read().await.applied.is_some())
        .await;
    running.stop().await;
    shop.legacy.batch("INSERT INTO more SELECT 'k' || n, n % 7, 'old' FROM generate_series(1, 2000) AS n").await;
    // Open when the table comes into the publication: what it did before is in no stream.
    let before = shop.legacy.session().await;
    before
        .batch_execute(
            "BEGIN; INSERT INTO more VALUES ('early', 1, 'x'); UPDATE more SET word = 'early' WHERE a = 'k1000'",
        )
        .await
        .unwrap();
    shop.tables.push("public.more".to_owned());
    let keys = json!({"snapshot": {"chunk": 100, "rows_per_second": 800}});
    let running = Running::start(&shop, "legacy", &keys);
    // Whoever has read the file before the table's copy begins must not send its readers to where it is empty.
    let mut early = running.reader();
    let lag = early.read().await.lag;
    assert!(lag.is_none() && reader.read().await.lag.is_some(), "{lag:?}");
    eventually(secs(20), "the copy waits", async || running.status().flows[0].waiting_for.is_some()).await;
    before.batch_execute("UPDATE more SET word = 'late' WHERE a = 'k1001'; COMMIT").await.unwrap();
    eventually(secs(20), "the copy is under way", async || shop.modern.count("more").await > 100).await;
    shop.legacy
        .batch("UPDATE rows SET word = 'meanwhile' WHERE id <= 10; UPDATE more SET word = 'meanwhile' WHERE b = 3")
        .await;
    eventually(secs(5), "the other table streams on", async || {
        shop.modern.count("rows WHERE word = 'meanwhile'").await == 10
    })
    .await;
    let status = running.status();
    assert_eq!((status.flows[0].state, status.flows[0].lag_seconds), (State::Snapshot, None));
    assert!(running.reader().read().await.applied.is_none(), "users must not read a side that is being filled");
    running.until(LEGACY_OWNS).await;
    until_equal(&shop).await;
    assert_eq!((generation(&shop).await, read_by_copies(&shop, "rows")), (1, 1_000));
    assert_clean(&running);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_table_is_copied_again_while_the_others_stream_on() {
    for target in ["refuse", "replace"] {
        let shop = shop(2_000, &["public.rows", "public.more"]).await;
        shop.legacy.batch("INSERT INTO more SELECT 'k' || n, n, 'old' FROM generate_series(1, 100) AS n").await;
        let keys = json!({"target": target, "snapshot": {"chunk": 100, "rows_per_second": 1000}});
        let running = Running::start(&shop, "legacy", &keys);
        running.until(LEGACY_OWNS).await;
        until_equal(&shop).await;
        shop.modern.batch("DELETE FROM rows WHERE id % 3 = 0; UPDATE rows SET word = 'lost' WHERE id % 3 = 1; INSERT INTO rows VALUES (-1, 'odd')").await;
        let desk = SnapshotDesk::new("shop", &running.config.syncs["shop"], &running.config.install).unwrap();
        let noted = "banyan.snapshot WHERE state = 'loaded'";
        eventually(secs(10), "the end of the copies is noted", async || shop.legacy.count(noted).await == 2).await;
        eventually(secs(20), "the changes by hand are seen", async || running.status().flows[1].violations == 1_334)
            .await;
        let copy = desk.ask("public.rows", "ann", "an import went wrong").await.unwrap();
        assert_eq!((copy.state.as_str(), copy.number), ("loading", 2));
        assert!(desk.ask("public.rows", "ann", "").await.unwrap_err().to_string().contains("is being copied"));
        assert!(
            desk.ask("public.none", "ann", "").await.unwrap_err().to_string().contains("has no table `public.none`")
        );
        running.until(COPYING).await;
        shop.legacy.batch("UPDATE more SET word = 'meanwhile'; UPDATE rows SET word = 'new' WHERE id % 50 = 1; DELETE FROM rows WHERE id % 50 = 2").await;
        eventually(secs(3), "the other table streams on", async || {
            shop.modern.count("more WHERE word = 'meanwhile'").await == 100
        })
        .await;
        running.until(LEGACY_OWNS).await;
        until_equal(&shop).await;
        assert_eq!((generation(&shop).await, read_by_copies(&shop, "more")), (1, 100));
        let status = running.status();
        assert_eq!((status.flows[0].parked, &status.flows[0].last_error), (Some(0), &None));
        // What was done to the other side by hand, and nothing of the copy.
        assert_eq!(status.flows[1].violations, 1_334);
        running.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_are_read_again_may_be_larger_than_a_chunk() {
    let ddl = "CREATE TABLE blobs (id bigint PRIMARY KEY, n int, body text); ALTER TABLE blobs ALTER body SET STORAGE EXTERNAL";
    let shop = Shop::with(ddl, &["public.blobs"]).await;
    shop.legacy
        .batch(
            "INSERT INTO blobs SELECT n, n, '' FROM generate_series(1, 3000) AS n; \
             INSERT INTO blobs SELECT n, n, repeat(md5(n::text), 3200) FROM generate_series(10001, 10200) AS n",
        )
        .await;
    let running = Running::start(&shop, "legacy", &json!({"snapshot": {"chunk": 500, "rows_per_second": 600}}));
    running.until(COPYING).await;
    eventually(secs(20), "a part is copied", async || shop.modern.count("blobs").await > 200).await;
    // Behind what was read, and without their large values in the log.
    shop.legacy.batch("UPDATE blobs SET id = -id WHERE id > 10000").await;
    running.until(LEGACY_OWNS).await;
    until_equal(&shop).await;
    assert_clean(&running);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_with_something_parked_is_copied_again_whole() {
    let shop = shop(2_000, &["public.rows"]).await;
    let running = Running::start(&shop, "legacy", &json!({}));
    running.until(LEGACY_OWNS).await;
    until_equal(&shop).await;
    let noted = "banyan.snapshot WHERE state = 'loaded'";
    eventually(secs(10), "the end of the copy is noted", async || shop.legacy.count(noted).await == 1).await;
    // In the way of the owner's row.
    shop.modern.batch("INSERT INTO rows VALUES (5000, 'by hand')").await;
    shop.legacy.batch("INSERT INTO rows VALUES (5000, 'new')").await;
    eventually(secs(20), "it is parked", async || running.status().flows[0].parked == Some(1)).await;
    let desk = SnapshotDesk::new("shop", &running.config.syncs["shop"], &running.config.install).unwrap();
    desk.ask("public.rows", "ann", "made equal").await.unwrap();
    eventually(SETTLED, "the copy is complete", async || shop.legacy.count(noted).await == 1).await;
    running.until(LEGACY_OWNS).await;
    until_equal(&shop).await;
    assert_eq!(running.status().flows[0].parked, Some(1), "a person says what becomes of it");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_copy_keeps_to_its_rate() {
    let shop = shop(8_000, &["public.rows"]).await;
    let running = Running::start(&shop, "legacy", &json!({"snapshot": {"chunk": 100, "rows_per_second": 1000}}));
    running.until(LEGACY_OWNS).await;
    let took =
        "SELECT (extract(epoch FROM ended_at - began_at) * 1000)::int FROM banyan.snapshot WHERE state = 'loaded'";
    let took = eventually(secs(10), "the end is noted", async || shop.legacy.text(took).await).await;
    let millis: u32 = took.parse().unwrap();
    assert!(millis >= 7_800, "{millis} ms");
    until_equal(&shop).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_target_stands_still_the_copy_does_and_tells_how_far_it_is() {
    let shop = shop(90_000, &["public.rows"]).await;
    let lock = shop.modern.session().await;
    lock.batch_execute("BEGIN; LOCK TABLE rows IN SHARE MODE").await.unwrap();
    let running = Running::start(&shop, "legacy", &json!({"snapshot": {"chunk": 2000}}));
    let copy = eventually(SETTLED, "the copy has gone ahead", async || {
        let status = running.status();
        let copy = status.flows[0].copies.first().filter(|copy| copy.rows >= 50_000).cloned();
        copy.ok_or_else(|| format!("{status:?}"))
    })
    .await;
    // What is on its way arrives.
    tokio::time::sleep(secs(2)).await;
    let copy = running.status().flows[0].copies.first().cloned().unwrap_or(copy);
    assert_eq!((copy.table.as_str(), copy.rows_total), ("public.rows", 90_000));
    assert!(
        copy.rows <= 60_000 && copy.bytes > 2 * copy.rows && copy.eta_seconds.is_some_and(|eta| eta > 0.0),
        "{copy:?}"
    );
    let line = "banyan_sync_copy_rows{flow=\"legacy_to_modern\",sync=\"shop\",table=\"public.rows\"}";
    assert!(running.metrics().contains(line), "{}", running.metrics());
    tokio::time::sleep(secs(2)).await;
    assert_eq!(running.status().flows[0].copies[0].rows, copy.rows, "nothing is read while the target stands still");
    lock.batch_execute("ROLLBACK").await.unwrap();
    running.until(LEGACY_OWNS).await;
    until_equal(&shop).await;
    eventually(secs(5), "nothing is told of a copy that is over", async || {
        running.status().flows[0].copies.is_empty() && !running.metrics().contains(line)
    })
    .await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_lost_its_slot_in_the_middle_is_made_anew_over_its_own_rows() {
    let shop = shop(3_000, &["public.rows"]).await;
    let keys = json!({"snapshot": {"chunk": 100, "rows_per_second": 1000}});
    let running = Running::start(&shop, "legacy", &keys);
    running.until(COPYING).await;
    eventually(secs(20), "a part is copied", async || shop.modern.count("rows").await > 200).await;
    running.stop().await;
    let slot = format!("{}_shop_l2m_0", shop.install);
    drop_slot(&shop, &slot).await;
    shop.legacy.batch("DELETE FROM rows WHERE id <= 100").await;
    shop.legacy.batch("UPDATE banyan.capture SET state = 'abandoned' WHERE flow = 'legacy_to_modern'").await;
    let running = Running::start(&shop, "legacy", &keys);
    running.until(LEGACY_OWNS).await;
    until_equal(&shop).await;
    assert_eq!((generation(&shop).await, shop.modern.count("rows").await), (2, 2_900));
    running.stop().await;
    // A copy that was complete is the file's to decide on.
    drop_slot(&shop, &slot).await;
    shop.legacy.batch("UPDATE banyan.capture SET state = 'abandoned' WHERE flow = 'legacy_to_modern'").await;
    let running = Running::start(&shop, "legacy", &keys);
    running.until([State::Stopped, State::Watching]).await;
    let why = running.status().flows[0].last_error.clone().unwrap();
    assert!(why.contains("the target is not empty: `public.rows` holds 2900 rows"), "{why}");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_over_rows_that_were_there_makes_room_where_another_unique_index_allows_only_one() {
    let ddl = "CREATE TABLE people (id bigint PRIMARY KEY, mail text UNIQUE, first text, last text, pin int, UNIQUE NULLS NOT DISTINCT (first, last))";
    for way in ["chunks", "again"] {
        let shop = Shop::with(ddl, &["public.people"]).await;
        // In the target all have another's mail and name, and somebody has one who is gone.
        let people = |mail: &str, name: &str| {
            format!(
                "INSERT INTO people SELECT n, 'm' || {mail}, nullif('f' || {name}, 'f7'), 'l', n FROM generate_series(1, 500) AS n"
            )
        };
        shop.legacy.batch(&people("n", "n")).await;
        let odd =
            format!("{}; INSERT INTO people VALUES (900, 'm500', 'odd', 'l', 1)", people("(n % 499 + 1)", "(501 - n)"));
        let keys = json!({"target": if way == "chunks" { "keep_matching" } else { "refuse" }, "snapshot": {"chunk": 50, "rows_per_second": 500}});
        if way == "chunks" {
            shop.modern.batch(&odd.replace("m' || (n % 499 + 1)", "m' || (n % 499 + 1 + (n / 500) * 600)")).await;
        }
        let running = Running::start(&shop, "legacy", &keys);
        if way == "again" {
            running.until(LEGACY_OWNS).await;
            until_equal(&shop).await;
            let noted = "banyan.snapshot WHERE state = 'loaded'";
            eventually(secs(10), "the end of the copy is noted", async || shop.legacy.count(noted).await == 1).await;
            shop.modern.batch("UPDATE people SET mail = 'x' || id, first = 'g' || id; UPDATE people SET mail = 'm' || (id % 500 + 1), first = 'f' || (501 - id); DELETE FROM people WHERE id % 9 = 0").await;
            let desk = SnapshotDesk::new("shop", &running.config.syncs["shop"], &running.config.install).unwrap();
            desk.ask("public.people", "ann", "an import went wrong").await.unwrap();
        }
        running.until(COPYING).await;
        // What the stream brings meanwhile meets the same rows: some of it is before, some behind what was copied.
        for n in [3, 250, 480] {
            shop.legacy.batch(&format!("UPDATE people SET mail = 'new{n}' WHERE id = {n}; UPDATE people SET mail = 'm{n}' WHERE id = {n} + 1; UPDATE people SET first = NULL, last = NULL WHERE id = {n} + 2; DELETE FROM people WHERE id = {n} + 2")).await;
        }
        running.until(LEGACY_OWNS).await;
        until_equal(&shop).await;
        let flow = &running.status().flows[0];
        assert_eq!((flow.parked, &flow.last_error), (Some(0), &None), "{way}");
        running.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_more_rows_move_than_can_be_remembered_the_copy_begins_anew() {
    let ddl =
        "CREATE TABLE blobs (id bigint PRIMARY KEY, body text); ALTER TABLE blobs ALTER body SET STORAGE EXTERNAL";
    let shop = Shop::with(ddl, &["public.blobs"]).await;
    shop.legacy.batch("INSERT INTO blobs SELECT n, repeat(md5(n::text), 65) FROM generate_series(1, 70000) AS n").await;
    let running = Running::start(&shop, "legacy", &json!({"snapshot": {"chunk": 1000, "rows_per_second": 4000}}));
    running.until(COPYING).await;
    eventually(secs(20), "a part is copied", async || shop.modern.count("blobs").await > 1_000).await;
    shop.legacy.batch("UPDATE blobs SET id = -id").await;
    eventually(SETTLED, "the table is copied", async || running.status().flows[0].state == State::Applying).await;
    until_equal(&shop).await;
    assert_eq!((shop.legacy.number("SELECT number FROM banyan.snapshot").await, generation(&shop).await), (2, 1));
    assert_clean(&running);
    running.stop().await;
}
