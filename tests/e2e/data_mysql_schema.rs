//! Tables of MariaDB that change in mid-stream, on either side: nothing is copied again there, so more waits for a person; nothing is lost.

use std::time::Duration;

use banyan_connectors::{ResumeDesk, ResumeError, Resumed, State};
use serde_json::json;

use crate::{
    data_basic::Running,
    data_mysql::start,
    harness::{Half, MariaDb, Postgres, Twin, eventually, secs},
};

const SETTLED: Duration = Duration::from_secs(60);
const MARIADB: &str = "CREATE TABLE items (id bigint PRIMARY KEY, a int, b varchar(50)) COLLATE utf8mb4_bin";
const POSTGRES: &str = "CREATE TABLE items (id bigint PRIMARY KEY, a int, b varchar(50))";

/// A sync that streams, with some rows; `list` is what to compare at the end.
async fn streaming(legacy: &str, list: &'static str) -> (Twin, Running) {
    streaming_with(legacy, list, &json!({})).await
}

/// The same with more keys of the table.
async fn streaming_with(legacy: &str, list: &'static str, keys: &serde_json::Value) -> (Twin, Running) {
    let half = async |kind: &str| match kind {
        "mariadb" => Half::mariadb(MariaDb::shared(), MARIADB).await,
        _ => Half::postgres(Postgres::shared_modern(), POSTGRES).await,
    };
    let (legacy, modern) = match legacy {
        "mariadb" => (half("mariadb").await, half("postgres").await),
        _ => (half("postgres").await, half("mariadb").await),
    };
    let twin = Twin::new(legacy, modern, &[("items", list, list)]);
    twin.legacy.batch("INSERT INTO items VALUES (1, 1, 'old'), (2, 2, 'old'), (3, 3, 'old')").await;
    let mut table = json!({"legacy": twin.tables[0].legacy.0, "modern": twin.tables[0].modern.0});
    table.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
    let running = start(&twin, "legacy", &json!({"tables": [table]}));
    running.until([State::Applying, State::Watching]).await;
    eventually(SETTLED, "the rows are copied", async || {
        twin.modern.text("SELECT count(*) FROM items").await.as_deref() == Some("3")
    })
    .await;
    (twin, running)
}

async fn paused(running: &Running, says: &str) {
    eventually(SETTLED, "the flow waits", async || {
        let flow = running.status().flows.remove(0);
        let why = flow.last_error.clone().unwrap_or_default();
        if flow.state == State::Paused && why.contains(says) { Ok(()) } else { Err(format!("{flow:#?}")) }
    })
    .await;
}

/// Asks until what stands before the change is applied.
async fn resume(running: &Running) -> Result<Resumed, ResumeError> {
    let desk = ResumeDesk::new("shop", &running.config.syncs["shop"], &running.config.install).unwrap();
    eventually(SETTLED, "everything before the change is applied", async || {
        match desk.resume(None, "ann", "followed").await {
            Err(ResumeError::NotYet(why)) => Err(why),
            other => Ok(other),
        }
    })
    .await
}

async fn ends_well(twin: &Twin, running: Running) {
    eventually(SETTLED, "both sides are equal", async || twin.equal().await).await;
    running.until([State::Applying, State::Watching]).await;
    assert_eq!(running.status().flows[1].violations, 0);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plain_column_flows_on_and_one_with_a_default_waits_for_a_person() {
    let (twin, running) = streaming("mariadb", "id, a, b, note, c").await;
    twin.legacy.batch("INSERT INTO items (id) VALUES (10)").await;
    twin.modern.batch("ALTER TABLE items ADD COLUMN note varchar(20)").await;
    twin.legacy.batch("ALTER TABLE items ADD COLUMN note varchar(20)").await;
    twin.legacy.batch("INSERT INTO items VALUES (11, 1, 'x', 'new')").await;
    eventually(SETTLED, "the row is there", async || {
        twin.modern.text("SELECT count(*) FROM items WHERE note = 'new'").await.as_deref() == Some("1")
    })
    .await;
    twin.modern.batch("ALTER TABLE items ADD COLUMN c int DEFAULT 7").await;
    twin.legacy.batch("ALTER TABLE items ADD COLUMN c int DEFAULT 7").await;
    twin.legacy.batch("INSERT INTO items (id, c) VALUES (12, 8)").await;
    paused(&running, "rows from before are not sent again").await;
    assert_eq!(resume(&running).await.unwrap().state, "taken");
    ends_well(&twin, running).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropped_and_renamed_columns_of_mariadb_pause_the_flow_which_goes_on_after_restarts() {
    let (twin, running) = streaming("mariadb", "id, label").await;
    twin.legacy.batch("INSERT INTO items VALUES (20, 1, 'before')").await;
    twin.legacy.batch("ALTER TABLE items DROP COLUMN a").await;
    twin.legacy.batch("INSERT INTO items VALUES (21, 'between')").await;
    // Both are in the catalogue before the first is met.
    twin.legacy.batch("ALTER TABLE items CHANGE COLUMN b label varchar(50)").await;
    twin.legacy.batch("INSERT INTO items VALUES (22, 'behind'); UPDATE items SET label = 'changed' WHERE id = 1; DELETE FROM items WHERE id = 2").await;
    paused(&running, "column `a` was dropped").await;
    let config = running.config.clone();
    running.stop().await;
    let running = start(&twin, "legacy", &json!({}));
    assert_eq!(running.config.install, config.install);
    paused(&running, "column `a` was dropped").await;
    let first = resume(&running).await.unwrap();
    assert!(first.state == "taken" && first.change.contains("`a` was dropped"), "{first:?}");
    paused(&running, "column `b` is now called `label`").await;
    let error = resume(&running).await.unwrap_err().to_string();
    assert!(error.contains("has no column `label`"), "{error}");
    twin.modern.batch("ALTER TABLE items DROP COLUMN a; ALTER TABLE items RENAME COLUMN b TO label").await;
    resume(&running).await.unwrap();
    eventually(SETTLED, "both sides are equal", async || twin.equal().await).await;
    running.stop().await;
    // What was confirmed may lie before changes that were taken.
    let running = start(&twin, "legacy", &json!({}));
    running.until([State::Applying, State::Watching]).await;
    twin.legacy.batch("INSERT INTO items VALUES (23, 'last')").await;
    ends_well(&twin, running).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn into_mariadb_a_flow_waits_for_the_column_and_reads_the_table_anew() {
    let (twin, running) = streaming("postgres", "id, a, b, note, plain").await;
    twin.legacy
        .batch("ALTER TABLE items ADD COLUMN note varchar(20); INSERT INTO items VALUES (30, 1, 'x', 'new')")
        .await;
    paused(&running, "has no column `note`").await;
    twin.modern.batch("ALTER TABLE items ADD COLUMN note varchar(20)").await;
    assert_eq!(resume(&running).await.unwrap().state, "taken");
    twin.legacy.batch("UPDATE items SET note = 'all'").await;
    // A second one was there first.
    twin.modern.batch("ALTER TABLE items ADD COLUMN plain int").await;
    twin.legacy.batch("ALTER TABLE items ADD COLUMN plain int; INSERT INTO items VALUES (32, 1, 'x', 'y', 1)").await;
    // The side that is closed for writes may change at any time.
    twin.modern.batch("ALTER TABLE items ADD COLUMN more int").await;
    twin.legacy.batch("INSERT INTO items VALUES (31, 1, 'x', 'y', 2)").await;
    ends_well(&twin, running).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mariadb_that_is_closed_for_writes_may_change_at_any_time() {
    let (twin, running) = streaming("postgres", "id, a, b").await;
    twin.modern.batch("ALTER TABLE items ADD COLUMN more int DEFAULT 5; ALTER TABLE items DROP COLUMN more").await;
    twin.legacy.batch("INSERT INTO items VALUES (40, 1, 'x')").await;
    eventually(secs(30), "the row is there", async || {
        twin.modern.text("SELECT count(*) FROM items WHERE id = 40").await.as_deref() == Some("1")
    })
    .await;
    ends_well(&twin, running).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn columns_that_stay_on_their_side_may_change_in_any_way_beside_mariadb() {
    for legacy in ["mariadb", "postgres"] {
        let keys = json!({"leave_out": {"legacy": ["own", "late"]}});
        let (twin, running) = streaming_with(legacy, "id, a, b", &keys).await;
        let mut id = 50;
        for change in [
            "ADD COLUMN own int NOT NULL DEFAULT 7",
            "ADD COLUMN late varchar(20)",
            if legacy == "mariadb" { "MODIFY COLUMN own bigint" } else { "ALTER COLUMN own TYPE bigint" },
            "DROP COLUMN own",
            "DROP COLUMN late",
        ] {
            id += 1;
            twin.legacy.batch(&format!("ALTER TABLE items {change}")).await;
            twin.legacy.batch(&format!("INSERT INTO items (id, b) VALUES ({id}, 'behind')")).await;
            let row = format!("SELECT count(*) FROM items WHERE id = {id}");
            eventually(SETTLED, change, async || twin.modern.text(&row).await.as_deref() == Some("1")).await;
        }
        // What is sent is judged as ever.
        twin.legacy.batch("ALTER TABLE items DROP COLUMN b").await;
        twin.legacy.batch("INSERT INTO items (id, a) VALUES (60, 1)").await;
        paused(&running, "column `b` was dropped").await;
        running.stop().await;
    }
}
