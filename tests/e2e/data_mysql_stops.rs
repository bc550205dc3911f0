//! What stops a flow from MariaDB, says why, and shows no value; and what does not.

use banyan_connectors::{State, preflight};
use serde_json::json;

use crate::{
    data_basic::Running,
    data_mysql::{shop, start, until_equal},
    harness::{Half, MariaDb, Postgres, Twin, eventually, secs},
};

/// Waits until the flow from legacy is in this state, and gives the reason.
async fn reason(running: &Running, state: State) -> String {
    eventually(secs(30), &format!("the flow is {state:?}"), async || {
        let status = running.status();
        if status.flows[0].state == state { Ok(()) } else { Err(format!("{status:#?}")) }
    })
    .await;
    running.status().flows[0].last_error.clone().unwrap_or_default()
}

async fn applying() -> (Twin, Running) {
    let twin = shop("mariadb", "postgres").await;
    twin.legacy.batch("INSERT INTO accounts VALUES (1, 'a@x', 'Ann')").await;
    let running = start(&twin, "legacy", &json!({}));
    running.until([State::Applying, State::Watching]).await;
    until_equal(&twin).await;
    (twin, running)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_column_pauses_the_flow_before_its_first_row_and_an_index_does_not() {
    let (twin, running) = applying().await;
    twin.legacy.batch("CREATE INDEX by_name ON accounts (name)").await;
    twin.legacy.batch("ALTER TABLE payments COMMENT = 'x'").await;
    twin.legacy.batch("INSERT INTO accounts VALUES (2, 'b@x', 'before')").await;
    until_equal(&twin).await;
    twin.legacy.batch("ALTER TABLE accounts ADD COLUMN secret varchar(20) NOT NULL DEFAULT 'hunter2'").await;
    twin.legacy.batch("INSERT INTO accounts VALUES (3, 'c@x', 'after', 'hunter2')").await;
    let why = reason(&running, State::Paused).await;
    assert!(
        why.contains("accounts at ") && why.contains("has a new column `secret`") && !why.contains("hunter2"),
        "{why}"
    );
    assert_eq!(twin.modern.text("SELECT max(id) FROM accounts").await.as_deref(), Some("2"));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_statement_in_the_log_and_a_dropped_table_stop_the_flow() {
    for (sql, says) in [
        (
            "SET SESSION binlog_format = STATEMENT; INSERT INTO accounts VALUES (9, 'n@x', 'N')",
            "as a statement and not as rows",
        ),
        ("DROP TABLE payments", "was dropped"),
        ("RENAME TABLE payments TO payments_old", "was renamed"),
        (
            "XA START 'x'; INSERT INTO accounts VALUES (9, 'n@x', 'N'); XA END 'x'; XA PREPARE 'x'; XA COMMIT 'x'",
            "distributed (XA) transaction",
        ),
    ] {
        let (twin, running) = applying().await;
        twin.legacy.batch(sql).await;
        let why = reason(&running, State::Stopped).await;
        assert!(why.contains(says), "{sql}: {why}");
        running.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_value_that_postgresql_does_not_take_stops_the_flow_without_showing_it() {
    let ddl = "CREATE TABLE t (id int PRIMARY KEY, d date)";
    let legacy = Half::mariadb(MariaDb::shared(), ddl).await;
    let twin = Twin::new(legacy, Half::postgres(Postgres::shared_modern(), ddl).await, &[("t", "id, d", "id, d")]);
    let running = start(&twin, "legacy", &json!({"on_error": "stop"}));
    running.until([State::Applying, State::Watching]).await;
    twin.legacy.batch("INSERT INTO t VALUES (1, '2024-02-29')").await;
    until_equal(&twin).await;
    twin.legacy.batch("SET SESSION sql_mode = ''; INSERT INTO t VALUES (2, '0000-00-00')").await;
    let why = reason(&running, State::Stopped).await;
    assert!(why.contains("public.t at ") && why.contains("SQLSTATE 22008") && !why.contains("0000-00"), "{why}");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_value_that_mariadb_would_change_stops_the_flow_and_is_not_changed() {
    let legacy = Half::mariadb(MariaDb::shared(), "CREATE TABLE t (id int PRIMARY KEY, n decimal(6,2))").await;
    let modern = Half::postgres(Postgres::shared_modern(), "CREATE TABLE t (id int PRIMARY KEY, n numeric)").await;
    let twin = Twin::new(legacy, modern, &[("t", "id, n", "id, n::numeric(6,2)")]);
    twin.modern.batch("INSERT INTO t VALUES (1, 1234.56)").await;
    let running = start(&twin, "modern", &json!({}));
    running.until([State::Watching, State::Applying]).await;
    until_equal(&twin).await;
    // Rounded with a note, by this server's own rules.
    twin.modern.batch("INSERT INTO t VALUES (2, 0.125)").await;
    eventually(secs(30), "the flow into MariaDB stops", async || {
        let status = running.status();
        if status.flows[1].state == State::Stopped { Ok(()) } else { Err(format!("{status:#?}")) }
    })
    .await;
    let why = running.status().flows[1].last_error.clone().unwrap_or_default();
    assert!(why.contains("would have changed it") && !why.contains("0.125"), "{why}");
    assert_eq!(twin.legacy.text("SELECT count(*) FROM t").await.as_deref(), Some("1"));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_behind_the_owners_back_is_a_violation_in_either_kind_of_database() {
    let (twin, running) = applying().await;
    twin.modern.batch("INSERT INTO accounts VALUES (7, 'v@x', 'V')").await;
    let maria = shop("mariadb", "postgres").await;
    let second = start(&maria, "modern", &json!({}));
    second.until([State::Watching, State::Applying]).await;
    maria.legacy.batch("INSERT INTO accounts VALUES (7, 'v@x', 'V'), (8, 'w@x', 'W')").await;
    eventually(secs(30), "both are counted", async || {
        let counted = [running.status().flows[1].violations, second.status().flows[0].violations];
        if counted == [1, 2] { Ok(()) } else { Err(format!("{counted:?}")) }
    })
    .await;
    let kept = "SELECT count(*) FROM banyan.violation WHERE install = ";
    assert_eq!(twin.legacy.text(&format!("{kept}'{}'", twin.install)).await.as_deref(), Some("1"));
    assert_eq!(maria.modern.text(&format!("{kept}'{}'", maria.install)).await.as_deref(), Some("2"));
    assert_eq!(maria.modern.text("SELECT count(*) FROM accounts").await.as_deref(), Some("0"), "not applied");
    running.stop().await;
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_is_gone_or_began_anew_needs_a_snapshot_and_a_kept_one_does_not() {
    for (sql, says) in [("PURGE BINARY LOGS TO", "deleted the binlog"), ("RESET MASTER", "")] {
        let mariadb = MariaDb::dedicated();
        let legacy = Half::mariadb(&mariadb, "CREATE TABLE t (id int PRIMARY KEY)").await;
        let modern = Half::postgres(Postgres::shared_modern(), "CREATE TABLE t (id int PRIMARY KEY)").await;
        let twin = Twin::new(legacy, modern, &[("t", "id", "id")]);
        let running = start(&twin, "legacy", &json!({}));
        running.until([State::Applying, State::Watching]).await;
        running.stop().await;
        for id in 1..4 {
            twin.legacy.batch(&format!("INSERT INTO t VALUES ({id}); FLUSH BINARY LOGS")).await;
        }
        let running = start(&twin, "legacy", &json!({}));
        running.until([State::Applying, State::Watching]).await;
        until_equal(&twin).await;
        running.stop().await;
        twin.legacy.batch("INSERT INTO t VALUES (10); FLUSH BINARY LOGS").await;
        let Half::Mariadb(schema) = &twin.legacy else { panic!("MariaDB is legacy here") };
        match sql {
            "RESET MASTER" => twin.legacy.batch(sql).await,
            // A reader that is gone keeps the file that it read until the server has something to send to it.
            purge => {
                eventually(secs(30), "the log is purged", async || {
                    twin.legacy.batch("FLUSH BINARY LOGS").await;
                    let last = schema.query("SHOW BINARY LOGS").await.pop().and_then(|row| row[0].clone()).unwrap();
                    twin.legacy.batch(&format!("{purge} '{last}'")).await;
                    schema.query("SHOW BINARY LOGS").await.len() == 1
                })
                .await;
            }
        }
        twin.legacy.batch("INSERT INTO t VALUES (11)").await;
        let running = start(&twin, "legacy", &json!({}));
        let why = reason(&running, State::NeedsSnapshot).await;
        assert!(why.contains(says) && why.contains("copy the tables anew"), "{sql}: {why}");
        assert_eq!(twin.modern.text("SELECT max(id) FROM t").await.as_deref(), Some("3"), "nothing was passed over");
        running.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_are_there_before_the_copy_are_refused_replaced_or_kept_in_mariadb() {
    for (target, wanted) in [("refuse", None), ("replace", Some("2")), ("keep_matching", Some("2"))] {
        let twin = shop("mariadb", "postgres").await;
        twin.modern.batch("INSERT INTO accounts VALUES (1, 'a@x', 'Ann'), (2, 'b@x', 'Bob')").await;
        twin.legacy
            .batch("INSERT INTO accounts VALUES (1, 'a@x', 'Ann'), (2, 'b@x', 'other'), (3, 'c@x', 'gone')")
            .await;
        let running = start(&twin, "modern", &json!({"target": target}));
        if wanted.is_some() {
            running.until([State::Watching, State::Applying]).await;
            until_equal(&twin).await;
            assert_eq!(twin.legacy.text("SELECT count(*) FROM accounts").await.as_deref(), wanted);
            let seen = "SELECT count(*) FROM information_schema.tables WHERE table_schema = 'banyan' AND table_name LIKE 'seen%'";
            let seen = format!("{seen} AND table_name LIKE '%{}%'", twin.install);
            eventually(secs(10), "the set of seen keys is dropped", async || {
                twin.legacy.text(&seen).await.as_deref() == Some("0")
            })
            .await;
        } else {
            eventually(secs(30), "the rows are refused", async || {
                let status = running.status();
                let why = status.flows[1].last_error.clone().unwrap_or_default();
                if why.contains("holds 3 rows") { Ok(()) } else { Err(format!("{status:#?}")) }
            })
            .await;
            assert_eq!(twin.legacy.text("SELECT count(*) FROM accounts").await.as_deref(), Some("3"));
        }
        running.stop().await;
    }
}

async fn found(twin: &Twin) -> Vec<String> {
    let findings = preflight::check(&Running::config(
        &twin.install,
        json!({"brokers": twin.brokers}),
        twin.sync("legacy"),
        &json!({}),
    ))
    .await;
    findings.iter().map(|finding| format!("{:?} {:?} {finding}", finding.severity, finding.check)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn preflight_says_what_a_mariadb_lacks_and_finds_nothing_in_one_that_lacks_nothing() {
    let twin = shop("mariadb", "postgres").await;
    // A server that lets zero dates in, as MariaDB does unless told otherwise.
    let all = found(&twin).await;
    assert!(
        all.len() == 1 && all[0].starts_with("Warning Columns") && all[0].contains("does not hold a zero date"),
        "{all:#?}"
    );

    let bare = MariaDb::with_settings(&[
        "--binlog-row-metadata=NO_LOG",
        "--binlog-format=MIXED",
        "--binlog-expire-logs-seconds=3600",
    ]);
    let legacy = Half::mariadb(
        &bare,
        "CREATE TABLE p (id int PRIMARY KEY) ENGINE=InnoDB;
         CREATE TABLE t (id int PRIMARY KEY, p int, n bigint unsigned, g point, w varchar(10) CHARACTER SET gbk, z date, \
             f double, FOREIGN KEY (p) REFERENCES p (id) ON DELETE CASCADE);
         CREATE TABLE m (id int PRIMARY KEY) ENGINE=MyISAM;
         CREATE TABLE k (id int)",
    )
    .await;
    let modern = Half::postgres(
        Postgres::shared_modern(),
        "CREATE TABLE t (id int PRIMARY KEY, p int, n bigint, g text, w text, z date, f real); CREATE TABLE m (id int PRIMARY KEY); CREATE TABLE k (id int)",
    )
    .await;
    let twin = Twin::new(legacy, modern, &[("t", "id", "id"), ("m", "id", "id"), ("k", "id", "id")]);
    let Half::Mariadb(schema) = &twin.legacy else { panic!("MariaDB is legacy here") };
    twin.legacy
        .batch(&format!(
            "REVOKE REPLICATION SLAVE ON *.* FROM banyan@'%'; REVOKE DELETE ON `{}`.* FROM banyan@'%'",
            schema.name
        ))
        .await;
    let all = found(&twin).await;
    let says = all.join("\n");
    for wanted in [
        "`binlog_row_metadata` is `NO_LOG`, and capture needs `FULL`",
        "`binlog_format` is `MIXED`, and capture needs `ROW`",
        "the binlog is deleted after 1.0 hours",
        "lacks REPLICATION SLAVE",
        "lacks DELETE",
        "its engine is MyISAM",
        "has no primary key",
        "`t_ibfk_1` changes rows of it by itself",
        "Warning Columns modern table public.t",
        "does not hold a number above 9223372036854775807 of bigint",
        "not all that point holds fits there",
        "character set `gbk`, which cannot be carried",
        "`f` is real, and not all that double holds fits there; make it double precision",
    ] {
        assert!(says.contains(wanted), "no `{wanted}` in\n{says}");
    }
}
