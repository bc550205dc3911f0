//! A slot never fills its server's disk: beyond the limit it is dropped whatever else hangs, the server's own end of it is told in the same
//! state, and an idle database's slot moves on with the log that others write.

use banyan_connectors::State;
use serde_json::{Value, json};

use crate::{
    data_basic::{Running, until_equal},
    harness::{Database, Kafka, Postgres, Shop, eventually, secs},
};

const LEGACY_OWNS: [State; 2] = [State::Applying, State::Watching];
const ROWS: &str = "CREATE TABLE rows (id bigint PRIMARY KEY, word text NOT NULL)";
/// Far below what a file may say, so that little has to be written.
const TINY: &str = "4MiB";

/// Log that is of no interest to any flow.
async fn write_log(database: &Database, mebibytes: u32) {
    database
        .batch(&format!(
            "SELECT count(pg_logical_emit_message(false, 'noise', repeat('x', 1048576))) FROM generate_series(1, {mebibytes})"
        ))
        .await;
}

/// How many slots of this flow there are.
async fn slots(database: &Database, shop: &Shop, flow: &str) -> i64 {
    let name = format!("{}_shop_{flow}_0", shop.install);
    database.number(&format!("SELECT count(*) FROM pg_replication_slots WHERE slot_name = '{name}'")).await
}

/// Waits until the flow with this index needs a snapshot, and gives the reason.
async fn needs_snapshot(running: &Running, flow: usize) -> String {
    eventually(secs(40), "the flow needs a snapshot", async || {
        let flow = running.status().flows.remove(flow);
        if flow.state == State::NeedsSnapshot { Ok(()) } else { Err(format!("{flow:?}")) }
    })
    .await;
    running.status().flows[flow].last_error.clone().unwrap()
}

/// The slot goes while log is being written, and the reason names both figures.
async fn is_dropped(
    running: &Running,
    database: &Database,
    shop: &Shop,
    (index, flow): (usize, &str),
    mebibytes: u32,
) -> String {
    eventually(secs(40), "the slot is dropped", async || {
        // The server takes note now and then of how little a healthy slot needs.
        write_log(database, 2 * mebibytes).await;
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
        let left = slots(database, shop, flow).await;
        if left == 0 { Ok(()) } else { Err(format!("{:?}", running.status().flows[index])) }
    })
    .await;
    let why = needs_snapshot(running, index).await;
    let slot = format!("for the slot `{}_shop_{flow}_0`, and `slot.max_retained` is {mebibytes}.0 MiB", shop.install);
    assert!(why.starts_with("the source kept ") && why.contains(&slot), "{why}");
    println!("{why}");
    why
}

fn limit(most: &str) -> Value {
    json!({"slot": {"max_retained": most}, "target": "keep_matching"})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_beyond_the_limit_is_dropped_though_it_is_read_and_no_other_is_made_before_a_person_acts() {
    for (index, flow, name) in [(0, "l2m", "legacy_to_modern"), (1, "m2l", "modern_to_legacy")] {
        let shop = Shop::with(ROWS, &["public.rows"]).await;
        shop.legacy.batch("INSERT INTO rows VALUES (1, 'copied')").await;
        let running = Running::start(&shop, "legacy", &json!({}));
        running.until(LEGACY_OWNS).await;
        until_equal(&shop).await;
        running.stop().await;
        let source = if flow == "l2m" { &shop.legacy } else { &shop.modern };
        let running = Running::start(&shop, "legacy", &limit("64MiB"));
        running.until(LEGACY_OWNS).await;
        let why = is_dropped(&running, source, &shop, (index, flow), 64).await;
        let metrics = running.metrics();
        let limit_shown = format!("banyan_sync_retained_wal_limit_bytes{{flow=\"{name}\",sync=\"shop\"}} 67108864");
        assert!(metrics.contains(&limit_shown), "{metrics}");
        running.stop().await;

        // A restart, with room enough, makes no slot by itself.
        shop.legacy.batch("INSERT INTO rows VALUES (2, 'in no slot')").await;
        let running = Running::start(&shop, "legacy", &limit("50GiB"));
        assert_eq!(needs_snapshot(&running, index).await, why);
        tokio::time::sleep(secs(3)).await;
        assert_eq!((slots(source, &shop, flow).await, needs_snapshot(&running, index).await), (0, why));
        running.stop().await;

        // What the reason says to do, done; other tests' log may have been too much for the other flow.
        for database in [&shop.legacy, &shop.modern] {
            database.batch("UPDATE banyan.capture SET state = 'abandoned' WHERE state = 'dropped'").await;
        }
        let running = Running::start(&shop, "legacy", &limit("50GiB"));
        running.until(LEGACY_OWNS).await;
        until_equal(&shop).await;
        assert_eq!((slots(source, &shop, flow).await, shop.modern.count("rows").await), (1, 2));
        running.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_that_is_dropped_in_the_middle_of_a_copy_is_not_taken_for_complete() {
    let shop = Shop::with(ROWS, &["public.rows"]).await;
    shop.legacy.batch("INSERT INTO rows SELECT i, repeat(md5(i::text), 30) FROM generate_series(1, 100000) i").await;
    let running = Running::start(&shop, "legacy", &limit(TINY));
    eventually(secs(30), "the copy begins", async || slots(&shop.legacy, &shop, "l2m").await == 1).await;
    write_log(&shop.legacy, 8).await;
    eventually(secs(30), "the slot is dropped", async || slots(&shop.legacy, &shop, "l2m").await == 0).await;
    let state = "SELECT state FROM banyan.capture WHERE flow = 'legacy_to_modern'";
    assert_eq!(shop.legacy.text(state).await.as_deref(), Some("dropped"));
    let why = needs_snapshot(&running, 0).await;
    assert!(why.contains("`slot.max_retained` is 4.0 MiB"), "{why}");
    let capture = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = '{}/shop/legacy_to_modern/capture'",
        shop.install
    );
    eventually(secs(60), "the copy has ended", async || shop.legacy.number(&capture).await == 0).await;
    tokio::time::sleep(secs(2)).await;
    eventually(secs(30), "capture has ended", async || shop.legacy.number(&capture).await == 0).await;
    running.stop().await;
    let running = Running::start(&shop, "legacy", &limit("50GiB"));
    assert_eq!((needs_snapshot(&running, 0).await, slots(&shop.legacy, &shop, "l2m").await), (why, 0));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stalled_kafka_takes_nobody_down() {
    let kafka = Kafka::dedicated();
    let (legacy, modern) = (Postgres::shared_legacy(), Postgres::shared_modern());
    let shop = Shop::on(legacy, modern, &kafka.brokers_through_wire(), ROWS, &["public.rows"]).await;
    let running = Running::start(&shop, "legacy", &limit("64MiB"));
    running.until(LEGACY_OWNS).await;
    kafka.wire().pause();
    shop.legacy.batch("INSERT INTO rows VALUES (1, 'waits for Kafka')").await;
    let written = std::time::Instant::now();
    write_log(&shop.legacy, 80).await;
    eventually(secs(30), "the slot is dropped", async || slots(&shop.legacy, &shop, "l2m").await == 0).await;
    println!("dropped {:?} after the log was written", written.elapsed());
    let why = needs_snapshot(&running, 0).await;
    assert!(why.contains("`slot.max_retained` is 64.0 MiB"), "{why}");
    running.stop().await;
    // Kafka is still away, and so are all tasks of the flow: the state is told all the same.
    let running = Running::start(&shop, "legacy", &limit("64MiB"));
    assert_eq!(needs_snapshot(&running, 0).await, why);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_slot_of_a_flow_that_stands_still_is_dropped_too_and_one_that_is_to_be_kept_is_kept() {
    for (end, dropped) in [("drop", true), ("warn", false)] {
        let shop = Shop::with(ROWS, &["public.rows"]).await;
        let keys = json!({"slot": {"max_retained": TINY, "on_exceed": "warn"}});
        let running = Running::start(&shop, "legacy", &keys);
        running.until(LEGACY_OWNS).await;
        running.stop().await;
        shop.legacy.batch("ALTER TABLE rows ADD COLUMN more text; INSERT INTO rows VALUES (1, 'a', 'b')").await;
        let running = Running::start(&shop, "legacy", &keys);
        running.until([State::Paused, State::Watching]).await;
        write_log(&shop.legacy, 8).await;
        running.stop().await;

        let running = Running::start(&shop, "legacy", &json!({"slot": {"max_retained": TINY, "on_exceed": end}}));
        if dropped {
            is_dropped(&running, &shop.legacy, &shop, (0, "l2m"), 4).await;
        } else {
            running.until([State::Paused, State::Watching]).await;
            tokio::time::sleep(secs(4)).await;
            let flow = running.status().flows.remove(0);
            assert!(flow.retained_wal_bytes > Some(8 << 20) && flow.state == State::Paused, "{flow:?}");
            assert_eq!(slots(&shop.legacy, &shop, "l2m").await, 1);
        }
        running.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_that_the_server_itself_gave_up_ends_in_the_same_state() {
    let settings = "max_slot_wal_keep_size = 32MB\nmin_wal_size = 32MB\nmax_wal_size = 64MB\n";
    let server = Postgres::with_settings(settings);
    let shop = Shop::on(&server, Postgres::shared_modern(), &Kafka::shared().brokers(), ROWS, &["public.rows"]).await;
    let running = Running::start(&shop, "legacy", &json!({}));
    running.until(LEGACY_OWNS).await;
    running.stop().await;
    eventually(secs(60), "the server invalidates the slot", async || {
        write_log(&shop.legacy, 64).await;
        shop.legacy.batch("SELECT pg_switch_wal(); CHECKPOINT").await;
        let lost =
            format!("SELECT wal_status FROM pg_replication_slots WHERE slot_name = '{}_shop_l2m_0'", shop.install);
        shop.legacy.text(&lost).await.as_deref() == Some("lost")
    })
    .await;
    // Where no Kafka answers, only who measures can tell.
    let sync = json!({
        "owner": "legacy",
        "legacy": {"postgres": shop.legacy_url},
        "modern": {"postgres": shop.modern_url},
        "tables": shop.tables,
    });
    let running = Running::sync(&shop.install, json!({"brokers": "127.0.0.1:9"}), sync, &json!({}));
    let why = needs_snapshot(&running, 0).await;
    running.stop().await;
    let words = format!(
        "the source has deleted log that the slot `{}_shop_l2m_0` still needed: it keeps no more than its `max_slot_wal_keep_size`",
        shop.install
    );
    assert!(why.starts_with(&words), "{why}");
    let running = Running::start(&shop, "legacy", &json!({}));
    running.until([State::NeedsSnapshot, State::Watching]).await;
    assert_eq!(running.status().flows[0].last_error.as_deref(), Some(why.as_str()));
    running.stop().await;
    shop.legacy.batch("UPDATE banyan.capture SET state = 'abandoned' WHERE flow = 'legacy_to_modern'").await;
    let running = Running::start(&shop, "legacy", &limit("50GiB"));
    running.until(LEGACY_OWNS).await;
    running.stop().await;

    // One that the server does not let go is told, and dropped as soon as it can be.
    shop.legacy.batch("ALTER ROLE banyan NOREPLICATION").await;
    let running = Running::start(&shop, "legacy", &limit(TINY));
    eventually(secs(30), "it is told that the slot is still there", async || {
        let there = slots(&shop.legacy, &shop, "l2m").await;
        if !running.status().flows[0].last_error.iter().any(|why| why.contains("max_retained")) {
            write_log(&shop.legacy, 8).await;
        }
        let flow = running.status().flows.remove(0);
        let told =
            flow.last_error.iter().any(|why| why.contains("; it is still there (dropping the slot: SQLSTATE 42501)"));
        if there == 1 && told && flow.state == State::NeedsSnapshot { Ok(()) } else { Err(format!("{flow:?}")) }
    })
    .await;
    shop.legacy.batch("ALTER ROLE banyan REPLICATION").await;
    eventually(secs(30), "the slot is dropped", async || slots(&shop.legacy, &shop, "l2m").await == 0).await;
    eventually(secs(10), "nothing is told of it any more", async || {
        !needs_snapshot(&running, 0).await.contains("it is still there")
    })
    .await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_database_keeps_no_log_while_others_of_its_server_write() {
    let server = Postgres::dedicated();
    let shop = Shop::on(&server, &server, &Kafka::shared().brokers(), ROWS, &["public.rows"]).await;
    let noisy = server.database("noisy").await;
    let keep_little = async |running: &Running, flows: usize| {
        for _ in 0..10 {
            write_log(&noisy, 40).await;
        }
        eventually(secs(60), "the slots keep little", async || {
            // What a slot keeps moves when the server notes which transactions run, at a checkpoint or every 15 s.
            noisy.batch("CHECKPOINT").await;
            tokio::time::sleep(secs(1)).await;
            let kept = running.status().flows.into_iter().take(flows).map(|flow| flow.retained_wal_bytes);
            let kept: Vec<_> = kept.collect();
            if kept.iter().all(|kept| kept.is_some_and(|kept| kept < 24 << 20)) { Ok(()) } else { Err(kept) }
        })
        .await;
    };
    let running = Running::start(&shop, "legacy", &json!({}));
    running.until(LEGACY_OWNS).await;
    // Both flows: the one that applies and the one that watches.
    keep_little(&running, 2).await;
    running.until(LEGACY_OWNS).await;
    running.stop().await;

    // Where the other flow is away nobody writes into the source at all, not even a lease.
    let other = format!("{}.shop.modern_to_legacy", shop.install);
    Kafka::shared().alter_topic(&other, &[("cleanup.policy", "compact")]).await;
    let running = Running::start(&shop, "legacy", &json!({}));
    running.until([State::Applying, State::Stopped]).await;
    keep_little(&running, 1).await;
    shop.legacy.batch("INSERT INTO rows VALUES (1, 'after the noise')").await;
    until_equal(&shop).await;
    assert_eq!(shop.modern.count("rows").await, 1);
    running.stop().await;
}
