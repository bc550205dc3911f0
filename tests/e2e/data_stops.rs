//! What stops a flow: whatever a retry would not mend, and under `on_error: stop` a row that the target refuses. Each says where, and
//! never a value.

use banyan_connectors::State;
use serde_json::json;

use crate::{
    data_basic::{Running, until_equal},
    harness::{Kafka, Shop, eventually, secs},
};

const LEGACY_OWNS: [State; 2] = [State::Applying, State::Watching];

/// Runs `break_it` on a healthy sync, and gives the error with which the forward flow stops.
async fn stopped_by(break_it: impl AsyncFnOnce(&Shop)) -> String {
    let shop = Shop::fresh().await;
    shop.legacy.batch("INSERT INTO accounts VALUES (1, 'secret-1@x', 'A'), (2, 'secret-2@x', 'B')").await;
    let keys = json!({"on_error": "stop"});
    let running = Running::start(&shop, "legacy", &keys);
    running.until(LEGACY_OWNS).await;
    until_equal(&shop).await;
    break_it(&shop).await;
    eventually(secs(20), "the flow stops", async || {
        let flow = running.status().flows.remove(0);
        if flow.state == State::Stopped { Ok(()) } else { Err(format!("{flow:?}")) }
    })
    .await;
    let error = running.status().flows[0].last_error.clone().unwrap();
    assert!(!error.contains("secret"), "a value of a row is shown: {error}");
    running.stop().await;
    // A restart does not step over it.
    let running = Running::start(&shop, "legacy", &keys);
    eventually(secs(20), "it stops again", async || running.status().flows[0].state == State::Stopped).await;
    assert_eq!(running.status().flows[0].last_error.as_deref(), Some(error.as_str()));
    running.stop().await;
    println!("{error}");
    error
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_insert_that_conflicts_names_table_position_and_sqlstate() {
    let error = stopped_by(async |shop| {
        shop.modern.batch("INSERT INTO accounts VALUES (3, 'secret-3@x', 'X')").await;
        shop.legacy.batch("INSERT INTO accounts VALUES (3, 'secret-33@x', 'Y')").await;
    })
    .await;
    assert!(error.starts_with("public.accounts at 1:stream:") && error.ends_with("SQLSTATE 23505"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_update_that_hits_no_row_stops_the_flow() {
    let error = stopped_by(async |shop| {
        shop.modern.batch("DELETE FROM accounts WHERE id = 2").await;
        shop.legacy.batch("UPDATE accounts SET name = 'secret'").await;
    })
    .await;
    assert!(error.starts_with("public.accounts at 1:stream:"), "{error}");
    assert!(error.contains("not in the target"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delete_that_hits_no_row_stops_the_flow() {
    let error = stopped_by(async |shop| {
        shop.modern.batch("DELETE FROM accounts WHERE id = 2").await;
        shop.legacy.batch("DELETE FROM accounts WHERE id = 2").await;
    })
    .await;
    assert!(error.starts_with("public.accounts at 1:stream:"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_value_that_the_target_does_not_take_stops_the_flow_without_showing_it() {
    let error = stopped_by(async |shop| {
        shop.modern.batch("ALTER TABLE accounts ALTER name TYPE varchar(4)").await;
        shop.legacy.batch("INSERT INTO accounts VALUES (3, 'three@x', 'secret and long')").await;
    })
    .await;
    assert!(error.ends_with("SQLSTATE 22001"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_owner_in_the_file_is_refused() {
    let shop = Shop::fresh().await;
    let running = Running::start(&shop, "legacy", &json!({}));
    running.until(LEGACY_OWNS).await;
    running.stop().await;
    let running = Running::start(&shop, "modern", &json!({}));
    running.until([State::Stopped, State::Stopped]).await;
    let error = running.status().flows[0].last_error.clone().unwrap();
    assert!(error.contains("the databases say that legacy owns the sync `shop`, the file says modern"), "{error}");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_that_became_compacted_stops_its_flow_alone() {
    let shop = Shop::fresh().await;
    let running = Running::start(&shop, "legacy", &json!({}));
    running.until(LEGACY_OWNS).await;
    running.stop().await;
    let topic = format!("{}.shop.legacy_to_modern", shop.install);
    Kafka::shared().alter_topic(&topic, &[("cleanup.policy", "compact")]).await;
    let running = Running::start(&shop, "legacy", &json!({}));
    running.until([State::Stopped, State::Watching]).await;
    let error = running.status().flows[0].last_error.clone().unwrap();
    assert!(error.contains("cleanup.policy=compact"), "{error}");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_that_was_dropped_needs_a_snapshot() {
    let shop = Shop::fresh().await;
    let running = Running::start(&shop, "legacy", &json!({}));
    running.until(LEGACY_OWNS).await;
    running.stop().await;
    let slot = format!("{}_shop_l2m_0", shop.install);
    let drop = format!("SELECT pg_drop_replication_slot('{slot}')");
    eventually(secs(10), "the slot is free", async || {
        shop.legacy
            .text(&format!("SELECT active FROM pg_replication_slots WHERE slot_name = '{slot}'"))
            .await
            .as_deref()
            == Some("f")
    })
    .await;
    shop.legacy.batch(&drop).await;
    let running = Running::start(&shop, "legacy", &json!({}));
    running.until([State::NeedsSnapshot, State::Watching]).await;
    let error = running.status().flows[0].last_error.clone().unwrap();
    assert!(error.contains(&slot) && error.contains("SET state = 'abandoned'"), "{error}");
    running.stop().await;

    // What the error says to do, done: rows that were lost with the slot arrive, equal ones stay.
    shop.legacy.batch("INSERT INTO accounts VALUES (1, 'a@x', 'A')").await;
    shop.legacy.batch("UPDATE banyan.capture SET state = 'abandoned' WHERE flow = 'legacy_to_modern'").await;
    let running = Running::start(&shop, "legacy", &json!({"target": "keep_matching"}));
    running.until(LEGACY_OWNS).await;
    until_equal(&shop).await;
    assert_eq!(shop.modern.count("accounts").await, 1);
    running.stop().await;
}
