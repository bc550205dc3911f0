//! MariaDB on one side or on both: the snapshot, every kind of change in either direction, and what stops a flow.

use banyan_connectors::{State, SyncReader, config::Side};
use serde_json::json;

use crate::{
    data_basic::Running,
    harness::{Half, MariaDb, Postgres, Twin, eventually, secs},
};

const MARIADB: &str = "
CREATE TABLE accounts (id bigint PRIMARY KEY, email varchar(200) NOT NULL, name varchar(200) NOT NULL) COLLATE utf8mb4_bin;
CREATE TABLE payments (
  id bigint PRIMARY KEY,
  account_id bigint NOT NULL,
  amount decimal(12,2) NOT NULL,
  note longtext,
  paid_at datetime(6) NOT NULL DEFAULT '2026-01-01'
)";

const POSTGRES: &str = "
CREATE TABLE accounts (id bigint PRIMARY KEY, email varchar(200) NOT NULL, name varchar(200) NOT NULL);
CREATE TABLE payments (
  id bigint PRIMARY KEY,
  account_id bigint NOT NULL,
  amount numeric(12,2) NOT NULL,
  note text,
  paid_at timestamp(6) NOT NULL DEFAULT '2026-01-01'
)";

const MARIADB_LISTS: [&str; 2] =
    ["id, email, name", "id, account_id, amount, note, date_format(paid_at, '%Y-%m-%d %H:%i:%s.%f')"];
const POSTGRES_LISTS: [&str; 2] =
    ["id, email, name", "id, account_id, amount, note, to_char(paid_at, 'YYYY-MM-DD HH24:MI:SS.US')"];

pub(crate) async fn half(kind: &str) -> (Half, [&'static str; 2]) {
    match kind {
        "mariadb" => (Half::mariadb(MariaDb::shared(), MARIADB).await, MARIADB_LISTS),
        _ => (Half::postgres(Postgres::shared_modern(), POSTGRES).await, POSTGRES_LISTS),
    }
}

/// The shop's tables on these kinds of databases.
pub(crate) async fn shop(legacy: &str, modern: &str) -> Twin {
    let ((legacy, old), (modern, new)) = (half(legacy).await, half(modern).await);
    Twin::new(legacy, modern, &[("accounts", old[0], new[0]), ("payments", old[1], new[1])])
}

pub(crate) fn start(twin: &Twin, owner: &str, keys: &serde_json::Value) -> Running {
    Running::sync(&twin.install, json!({"brokers": twin.brokers}), twin.sync(owner), keys)
}

pub(crate) async fn until_equal(twin: &Twin) {
    eventually(secs(30), "both sides are equal", async || twin.equal().await).await;
}

/// One source transaction each, in words that both servers understand.
const EVERYTHING: [&str; 8] = [
    "INSERT INTO accounts VALUES (3, 'c@x', 'Cy \"quoted\" it''s 😀'), (4, 'd@x', 'D')",
    "INSERT INTO payments (id, account_id, amount, note) VALUES (10, 3, 10.50, NULL), (11, 4, 0.01, ''), (12, 4, 7, repeat('long ', 20000))",
    "UPDATE payments SET amount = amount + 1",
    "UPDATE payments SET id = id + 100 WHERE id >= 11",
    "UPDATE payments SET note = 'short' WHERE id = 10",
    "DELETE FROM payments WHERE id = 111",
    "BEGIN; INSERT INTO accounts VALUES (5, 'e@x', 'never'); ROLLBACK",
    "BEGIN; INSERT INTO accounts VALUES (6, 'f@x', 'F'); UPDATE accounts SET email = 'ff@x' WHERE id = 6; \
     DELETE FROM accounts WHERE id = 6; INSERT INTO accounts VALUES (6, 'fff@x', 'F'); COMMIT",
];

async fn both_ways(legacy: &str, modern: &str, owner: &str) {
    let twin = shop(legacy, modern).await;
    let (from, to) = if owner == "legacy" { (&twin.legacy, &twin.modern) } else { (&twin.modern, &twin.legacy) };
    from.batch("INSERT INTO accounts VALUES (1, 'a@x', 'Ann'), (2, 'b@x', 'Bö\tb')").await;
    from.batch("INSERT INTO payments VALUES (1, 1, 9.99, 'first', '2026-01-02 03:04:05.678')").await;
    let running = start(&twin, owner, &json!({}));
    let states =
        if owner == "legacy" { [State::Applying, State::Watching] } else { [State::Watching, State::Applying] };
    running.until(states).await;
    until_equal(&twin).await;
    assert_eq!(to.text("SELECT count(*) FROM payments").await.as_deref(), Some("1"));

    for transaction in EVERYTHING {
        from.batch(transaction).await;
    }
    until_equal(&twin).await;
    assert_eq!(to.text("SELECT count(*) FROM accounts").await.as_deref(), Some("5"));

    for table in ["payments", "accounts"] {
        from.batch(&format!("TRUNCATE TABLE {table}")).await;
    }
    from.batch("INSERT INTO accounts VALUES (1, 'again@x', 'Ann')").await;
    until_equal(&twin).await;
    running.until(states).await;
    // Nothing of it came back as a change, nor as a violation.
    let status = running.status();
    assert_eq!(status.flows.iter().map(|flow| flow.violations).collect::<Vec<_>>(), [0, 0]);
    assert_eq!(status.owner.map(banyan_connectors::config::Side::as_str), Some(owner));
    eventually(secs(20), "the lag is known and small", async || {
        let status = running.status();
        let lags: Vec<_> = status.flows.iter().map(|flow| flow.lag_seconds).collect();
        if lags.iter().all(|lag| lag.is_some_and(|lag| lag < 15.0)) { Ok(()) } else { Err(format!("{status:#?}")) }
    })
    .await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_change_of_a_mariadb_owner_arrives_in_postgresql() {
    both_ways("mariadb", "postgres", "legacy").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_change_of_a_postgresql_owner_arrives_in_mariadb() {
    both_ways("mariadb", "postgres", "modern").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_change_of_a_mariadb_owner_arrives_in_mariadb() {
    both_ways("mariadb", "mariadb", "legacy").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_reader_knows_owner_and_lag_of_a_mariadb_without_any_connector() {
    for owner in ["legacy", "modern"] {
        let twin = shop("mariadb", "postgres").await;
        let sync = serde_json::from_value(twin.sync(owner)).unwrap();
        let mut reader = SyncReader::new("shop", &sync, &twin.install).unwrap();
        assert_eq!(reader.read().await.owner, None, "nothing was made yet");
        let running = start(&twin, owner, &json!({}));
        let from = if owner == "legacy" { &twin.legacy } else { &twin.modern };
        let side = if owner == "legacy" { Side::Legacy } else { Side::Modern };
        eventually(secs(30), "the other side follows", async || {
            let reading = reader.read().await;
            let is_near = reading.lag.is_some_and(|lag| lag < secs(5));
            if reading.owner == Some((side, 1)) && is_near { Ok(()) } else { Err(format!("{reading:?}")) }
        })
        .await;
        from.batch("INSERT INTO accounts VALUES (1, 'a@x', 'Ann')").await;
        let written = reader.read().await.written.expect("the owner's log has an end");
        eventually(secs(30), "what was written is applied", async || {
            let reading = reader.read().await;
            if reading.applied.is_some_and(|applied| applied >= written) { Ok(()) } else { Err(format!("{reading:?}")) }
        })
        .await;
        until_equal(&twin).await;
        running.stop().await;
        // A table that the file names and the target has never heard of may be empty there.
        let mut file = twin.sync(owner);
        let tables = file["tables"].as_array_mut().unwrap();
        tables.push(json!({"legacy": "shop.another", "modern": "public.another"}));
        let mut grown = SyncReader::new("shop", &serde_json::from_value(file).unwrap(), &twin.install).unwrap();
        let (known, unknown) = (reader.read().await, grown.read().await);
        assert!(known.applied.is_some() && unknown.owner == known.owner, "{known:?} {unknown:?}");
        assert_eq!((unknown.lag, unknown.applied), (None, None));
    }
}
