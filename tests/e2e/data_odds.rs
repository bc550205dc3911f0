//! Odd things that happen to slots, sources, publications and topics behind Banyan's back: none of them is a silent loss.

use std::time::Duration;

use banyan_connectors::State;
use rdkafka::{
    message::{Header, OwnedHeaders},
    producer::{FutureProducer, FutureRecord},
};
use serde_json::json;

use crate::{
    data_basic::{Running, until_equal},
    harness::{Kafka, Postgres, Shop, eventually, secs},
};

const LEGACY_OWNS: [State; 2] = [State::Applying, State::Watching];
const ROWS: &str =
    "CREATE TABLE rows (id bigint PRIMARY KEY, word text NOT NULL); CREATE TABLE bare (id bigint PRIMARY KEY)";

/// A sync of the tables above whose first copy, of one row, is complete.
async fn copied() -> (Shop, Running) {
    let shop = Shop::with(ROWS, &["public.rows", "public.bare"]).await;
    shop.legacy.batch("INSERT INTO rows VALUES (1, 'copied')").await;
    let running = Running::start(&shop, "legacy", &json!({}));
    running.until(LEGACY_OWNS).await;
    until_equal(&shop).await;
    (shop, running)
}

fn slot(shop: &Shop) -> String {
    format!("{}_shop_l2m_0", shop.install)
}

/// Nobody reads the slot any more.
async fn until_free(shop: &Shop) {
    let active = format!("SELECT active::text FROM pg_replication_slots WHERE slot_name = '{}'", slot(shop));
    eventually(secs(10), "the slot is free", async || shop.legacy.text(&active).await.as_deref() == Some("false"))
        .await;
}

/// Waits until the flow from legacy to modern is in `state`, and gives the reason.
async fn ends_in(running: &Running, state: State) -> String {
    eventually(secs(30), &format!("the flow is {state:?}"), async || {
        let flow = running.status().flows.remove(0);
        if flow.state == state { Ok(()) } else { Err(format!("{flow:?}")) }
    })
    .await;
    running.status().flows[0].last_error.clone().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_that_somebody_made_anew_is_a_loss_that_is_seen_however_busy_the_source_is() {
    let (shop, running) = copied().await;
    running.stop().await;
    until_free(&shop).await;
    shop.legacy.batch(&format!("SELECT pg_drop_replication_slot('{}')", slot(&shop))).await;
    shop.legacy.batch("INSERT INTO rows VALUES (2, 'in no slot')").await;
    shop.legacy.batch(&format!("SELECT pg_create_logical_replication_slot('{}', 'pgoutput')", slot(&shop))).await;
    let writer = shop.legacy.session().await;
    let writing = tokio::spawn(async move {
        for id in 10.. {
            writer.batch_execute(&format!("INSERT INTO rows VALUES ({id}, 'later')")).await.unwrap();
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    let running = Running::start(&shop, "legacy", &json!({}));
    let why = ends_in(&running, State::NeedsSnapshot).await;
    writing.abort();
    assert!(why.contains("the source has forgotten what lies behind"), "{why}");
    assert_eq!(shop.modern.rows("rows").await, ["(1,copied)"]);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_a_transaction_of_a_capture_that_died_is_dropped_by_the_checkpoint_of_the_next() {
    let (shop, running) = copied().await;
    running.stop().await;
    let topic = format!("{}.shop.legacy_to_modern", shop.install);
    let producer: FutureProducer = Kafka::shared().client().create().unwrap();
    let header = |key, value| Header { key, value: Some(value) };
    let headers = OwnedHeaders::new()
        .insert(header("position", "1:stream:FFFF/0:0"))
        .insert(header("from", "0/1"))
        .insert(header("epoch", "1"))
        .insert(header("origin", "legacy"));
    let row =
        r#"{"before":null,"after":{"id":"9","word":"half"},"source":{"schema":"public","table":"rows"},"op":"c"}"#;
    let record = FutureRecord::<(), str>::to(&topic).partition(0).headers(headers).payload(row);
    let half = producer.send(record, secs(10)).await.unwrap().offset;
    let running = Running::start(&shop, "legacy", &json!({}));
    // Log that holds nothing for this flow, so that its progress is a CHECKPOINT.
    shop.legacy.batch("SELECT pg_logical_emit_message(true, 'test', '')").await;
    eventually(secs(20), "a checkpoint stands behind the half transaction", async || {
        let kind = ("kind".to_owned(), b"checkpoint".to_vec());
        Kafka::shared().records(&topic).iter().any(|record| record.offset > half && record.headers.contains(&kind))
    })
    .await;
    shop.legacy.batch("INSERT INTO rows VALUES (2, 'whole')").await;
    running.until(LEGACY_OWNS).await;
    eventually(secs(20), "the row is there", async || shop.modern.count("rows").await == 2).await;
    until_equal(&shop).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_whose_log_went_back_is_not_followed() {
    let (shop, running) = copied().await;
    running.stop().await;
    shop.modern.batch("UPDATE banyan.position SET applied = 'FFFF/0' WHERE flow = 'legacy_to_modern'").await;
    let running = Running::start(&shop, "legacy", &json!({}));
    shop.legacy.batch("INSERT INTO rows VALUES (2, 'would be taken for old')").await;
    let why = ends_in(&running, State::NeedsSnapshot).await;
    assert!(why.contains("went back"), "{why}");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_that_counts_its_generations_anew_is_not_taken_for_the_one_that_was_copied() {
    let (shop, running) = copied().await;
    running.stop().await;
    until_free(&shop).await;
    shop.legacy.batch(&format!("SELECT pg_drop_replication_slot('{}')", slot(&shop))).await;
    shop.legacy.batch("DELETE FROM banyan.capture; UPDATE rows SET word = 'of another life'").await;
    let running = Running::start(&shop, "legacy", &json!({"target": "replace"}));
    let why = ends_in(&running, State::NeedsSnapshot).await;
    assert!(why.contains("a source that is no more"), "{why}");
    assert_eq!(shop.modern.rows("rows").await, ["(1,copied)"]);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_publication_that_was_narrowed_stops_the_flow_instead_of_losing_updates() {
    for narrowed in ["SET (publish = 'insert')", "SET (publish_via_partition_root = false)"] {
        let (shop, running) = copied().await;
        running.stop().await;
        shop.legacy.batch(&format!("ALTER PUBLICATION {} {narrowed}", slot(&shop))).await;
        shop.legacy.batch("UPDATE rows SET word = 'lost?'").await;
        let running = Running::start(&shop, "legacy", &json!({}));
        let why = ends_in(&running, State::Stopped).await;
        assert!(why.contains("does not hold every change"), "{why}");
        running.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_key_that_the_target_cannot_set_stops_the_flow() {
    for change in ["UPDATE rows SET id = 5, word = 'moved'", "INSERT INTO bare VALUES (1); UPDATE bare SET id = 2"] {
        let (shop, running) = copied().await;
        running.stop().await;
        for table in ["rows", "bare"] {
            shop.modern.batch(&format!("ALTER TABLE {table} ALTER id ADD GENERATED ALWAYS AS IDENTITY")).await;
        }
        let running = Running::start(&shop, "legacy", &json!({}));
        running.until(LEGACY_OWNS).await;
        shop.legacy.batch("UPDATE rows SET word = 'stays'; INSERT INTO rows VALUES (2, 'new')").await;
        until_equal(&shop).await;
        shop.legacy.batch("DELETE FROM rows WHERE id = 2").await;
        until_equal(&shop).await;
        shop.legacy.batch(change).await;
        let why = ends_in(&running, State::Stopped).await;
        assert!(why.contains(" at 1:stream:") && !why.contains("moved"), "{why}");
        assert_eq!(shop.modern.rows("rows").await, ["(1,stays)"]);
        running.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_process_does_not_end_an_applier_that_is_at_work_beyond_its_lease() {
    let (shop, first) = copied().await;
    let lock = shop.modern.session().await;
    lock.batch_execute("BEGIN; LOCK TABLE rows").await.unwrap();
    // As if the transaction had been open for longer than a lease: the row cannot be renewed before its end.
    shop.modern.batch("UPDATE banyan.position SET lease_until = now() - interval '1 hour'").await;
    shop.legacy.batch("INSERT INTO rows VALUES (2, 'slow')").await;
    let at_work = format!(
        "SELECT string_agg(pid::text, ' ') FROM pg_stat_activity WHERE application_name = '{}/shop/legacy_to_modern/apply' \
         AND wait_event_type = 'Lock'",
        shop.install
    );
    eventually(secs(10), "the applier waits for the lock", async || shop.modern.text(&at_work).await.is_some()).await;
    let pid = shop.modern.text(&at_work).await;
    let second = Running::start(&shop, "legacy", &json!({}));
    eventually(secs(20), "the second has tried", async || {
        let metrics = prometheus::TextEncoder::new().encode_to_string(&second.registry.gather()).unwrap();
        let tried =
            metrics.lines().find(|line| line.contains("task_restarts_total{task=\"shop/legacy_to_modern/apply\"}"));
        if tried.is_some_and(|line| !line.ends_with(" 0")) { Ok(()) } else { Err(metrics) }
    })
    .await;
    tokio::time::sleep(secs(1)).await;
    assert_eq!(shop.modern.text(&at_work).await, pid, "the first was ended");
    lock.batch_execute("ROLLBACK").await.unwrap();
    until_equal(&shop).await;
    second.stop().await;
    first.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copied_anew_by_the_guide_the_target_is_emptied_only_when_the_file_says_so() {
    let (shop, running) = copied().await;
    running.stop().await;
    until_free(&shop).await;
    shop.legacy.batch(&format!("SELECT pg_drop_replication_slot('{}')", slot(&shop))).await;
    let guide = std::fs::read_to_string("docs/guides/databases.md").unwrap();
    let statement = guide.lines().find(|line| line.starts_with("UPDATE banyan.capture")).unwrap();
    shop.legacy.batch(&statement.replace("<install>", &shop.install).replace("<sync>", "shop")).await;
    shop.legacy.batch("UPDATE rows SET word = 'in no slot'").await;
    let running = Running::start(&shop, "legacy", &json!({}));
    let why = ends_in(&running, State::Stopped).await;
    assert!(why.contains("`public.rows` holds 1 rows"), "{why}");
    assert_eq!(shop.modern.rows("rows").await, ["(1,copied)"]);
    running.stop().await;
    let running = Running::start(&shop, "legacy", &json!({"target": "replace"}));
    running.until(LEGACY_OWNS).await;
    until_equal(&shop).await;
    assert_eq!(running.status().flows[1].violations, 0);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn applied_rows_carry_an_origin_where_permitted_and_none_where_not() {
    for permitted in [true, false] {
        let shop = Shop::with(ROWS, &["public.rows", "public.bare"]).await;
        if !permitted {
            shop.modern.batch("REVOKE EXECUTE ON FUNCTION pg_replication_origin_session_setup(text) FROM banyan").await;
        }
        let running = Running::start(&shop, "legacy", &json!({}));
        running.until(LEGACY_OWNS).await;
        shop.legacy.batch("INSERT INTO rows VALUES (1, 'a')").await;
        until_equal(&shop).await;
        eventually(secs(10), "the row is there", async || shop.modern.count("rows").await == 1).await;
        let origins =
            "SELECT count(*) FROM pg_replication_origin WHERE roname LIKE '%shop_l2m_0' AND roname LIKE '%INSTALL%'";
        let origins = origins.replace("INSTALL", &shop.install);
        assert_eq!(shop.modern.number(&origins).await, i64::from(permitted));
        running.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_taken_out_of_the_publication_or_made_anew_stops_the_running_flow() {
    for change in
        ["ALTER PUBLICATION SLOT DROP TABLE bare", "DROP TABLE bare; CREATE TABLE bare (id bigint PRIMARY KEY)"]
    {
        let (shop, running) = copied().await;
        shop.legacy.batch(&change.replace("SLOT", &slot(&shop))).await;
        shop.legacy.batch("INSERT INTO bare VALUES (1)").await;
        let why = ends_in(&running, State::Stopped).await;
        assert!(why.contains("does not hold every change"), "{why}");
        running.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn columns_that_a_key_only_includes_and_rows_that_change_partitions_are_carried() {
    const DDL: &str = "
        CREATE TABLE covered (id bigint, n int, word text, PRIMARY KEY (id) INCLUDE (n));
        CREATE TABLE parts (id bigint, region text, body text, PRIMARY KEY (id, region)) PARTITION BY LIST (region);
        CREATE TABLE parts_a PARTITION OF parts FOR VALUES IN ('a');
        CREATE TABLE parts_b PARTITION OF parts FOR VALUES IN ('b');";
    let shop = Shop::with(DDL, &["public.covered", "public.parts"]).await;
    shop.legacy.batch("INSERT INTO covered VALUES (1, 1, 'x'), (2, 2, 'y'); INSERT INTO parts VALUES (1, 'a', 'x'), (2, 'b', 'y')").await;
    shop.modern.batch("INSERT INTO covered VALUES (1, 7, 'x')").await;
    let running = Running::start(&shop, "legacy", &json!({"target": "keep_matching"}));
    running.until(LEGACY_OWNS).await;
    until_equal(&shop).await;
    shop.legacy
        .batch(
            "UPDATE covered SET n = n + 10; UPDATE covered SET id = 5 WHERE id = 2; DELETE FROM covered WHERE id = 1",
        )
        .await;
    shop.legacy
        .batch("INSERT INTO parts SELECT 3, 'a', string_agg(md5(i::text), '') FROM generate_series(1, 1000) AS i")
        .await;
    // A row that moves is deleted there and inserted here, with all that is stored outside of it.
    shop.legacy.batch("UPDATE parts SET region = CASE region WHEN 'a' THEN 'b' ELSE 'a' END").await;
    shop.legacy.batch("DELETE FROM parts WHERE id = 1; INSERT INTO covered VALUES (9, 9, 'last')").await;
    eventually(secs(20), "the last row is there", async || {
        let there = shop.modern.count("covered WHERE id = 9").await == 1;
        if there { Ok(()) } else { Err(format!("{:?}", running.status().flows[0])) }
    })
    .await;
    until_equal(&shop).await;
    assert_eq!(shop.modern.rows("covered").await, ["(5,12,y)", "(9,9,last)"]);
    assert_eq!(shop.modern.number("SELECT length(body) FROM parts_b WHERE id = 3").await, 32_000);
    running.until(LEGACY_OWNS).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_that_waits_for_others_for_long_is_made_once() {
    let server = Postgres::dedicated();
    let ddl = "CREATE TABLE items (id bigint PRIMARY KEY)";
    let shop = Shop::on(&server, Postgres::shared_modern(), &Kafka::shared().brokers(), ddl, &["public.items"]).await;
    let writer = shop.legacy.session().await;
    writer.batch_execute("CREATE TABLE other (id int); BEGIN; INSERT INTO other VALUES (1)").await.unwrap();
    let running = Running::start(&shop, "legacy", &json!({}));
    eventually(secs(30), "the slot waits", async || running.status().flows[0].waiting_for.is_some()).await;
    // Longer than Kafka may take nothing: that time begins with the first record.
    tokio::time::sleep(secs(11)).await;
    writer.batch_execute("COMMIT").await.unwrap();
    running.until([State::Applying, State::Watching]).await;
    let generation = "SELECT generation FROM banyan.capture WHERE flow = 'legacy_to_modern'";
    assert_eq!(shop.legacy.number(generation).await, 1);
    running.stop().await;
}
