//! A transaction that the target refuses is parked whole, what touches its keys follows it, all others flow on, and nothing is ever dropped.

use banyan_connectors::{ParkedAct, ParkedTransaction, State};
use serde_json::{Value, json};

use crate::{
    data_basic::{Running, until_equal},
    harness::{Shop, eventually, secs},
};

const LEGACY_OWNS: [State; 2] = [State::Applying, State::Watching];

/// A healthy sync with two accounts.
async fn healthy(keys: &Value) -> (Shop, Running) {
    let shop = Shop::fresh().await;
    shop.legacy.batch("INSERT INTO accounts VALUES (1, 'secret-1@x', 'A'), (2, 'secret-2@x', 'B')").await;
    let running = Running::start(&shop, "legacy", keys);
    running.until(LEGACY_OWNS).await;
    until_equal(&shop).await;
    (shop, running)
}

/// What is parked, once there are so many.
async fn parked(running: &Running, count: usize) -> Vec<ParkedTransaction> {
    let what = format!("{count} transactions are parked");
    let all = eventually(secs(30), &what, async || {
        let all = running.desk().list(false).await.unwrap();
        if all.len() == count && running.status().parked == Some(count as u64) {
            Ok(all)
        } else {
            Err((all, running.status().flows.remove(0).last_error))
        }
    })
    .await;
    let shown = format!("{all:?} {:?} {}", running.status(), running.metrics());
    assert!(!shown.contains("secret"), "a value of a row is shown: {shown}");
    all
}

async fn retry(running: &Running, id: i64) -> ParkedTransaction {
    running.desk().ask(id, ParkedAct::Retry, "ann", "mended").await.unwrap()
}

/// Waits until modern has this account: the stream has come so far.
async fn arrives(shop: &Shop, account: i64) {
    let sql = format!("SELECT count(*) FROM accounts WHERE id = {account}");
    eventually(secs(30), "the row arrives", async || shop.modern.number(&sql).await == 1).await;
}

/// Writes a row that touches nothing, and waits for it.
async fn flows_on(shop: &Shop, account: i64) {
    shop.legacy.batch(&format!("INSERT INTO accounts VALUES ({account}, '{account}@x', 'ok')")).await;
    arrives(shop, account).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_conflicts_is_parked_after_three_tries_and_all_others_flow_on() {
    let (shop, running) = healthy(&json!({})).await;
    shop.modern.batch("INSERT INTO accounts VALUES (3, 'secret@x', 'X')").await;
    // All of a transaction, and of a batch only that one.
    let ones = |from: i32| -> String {
        (from..from + 10)
            .map(|i| format!("BEGIN; INSERT INTO accounts VALUES ({i}, '{i}@x', 'ok'); COMMIT; "))
            .collect()
    };
    let bad = "BEGIN; INSERT INTO accounts VALUES (4, '4@x', 'with'), (5, 'secret@x', 'secret'); COMMIT; ";
    shop.legacy.batch(&format!("{}{bad}{}", ones(10), ones(110))).await;
    let [one] = &parked(&running, 1).await[..] else { panic!() };
    assert!(
        one.reason.starts_with("public.accounts at 1:stream:") && one.reason.ends_with(":1: SQLSTATE 23505"),
        "{one:?}"
    );
    assert_eq!((one.tries, one.follows, one.rows, one.state.as_str()), (3, None, 2, "parked"));
    arrives(&shop, 119).await;
    flows_on(&shop, 200).await;
    assert_eq!(shop.modern.number("SELECT count(*) FROM accounts WHERE id IN (4, 5)").await, 0);
    running.until(LEGACY_OWNS).await;
    // It is not tried again by itself.
    let tried = "banyan_sync_refused_total{flow=\"legacy_to_modern\",sync=\"shop\"} 3";
    assert!(running.metrics().contains(tried), "{}", running.metrics());
    assert!(running.metrics().contains("banyan_sync_parked{flow=\"legacy_to_modern\",sync=\"shop\"} 1"));
    assert!(running.metrics().contains("banyan_sync_parked_total{flow=\"legacy_to_modern\",sync=\"shop\"} 1"));
    assert!(running.status().flows[0].parked_since_unix.is_some());

    let again = retry(&running, one.id).await;
    assert_eq!((again.state.as_str(), again.tries), ("parked", 4), "{again:?}");
    assert!(again.reason.ends_with(":1: SQLSTATE 23505"), "{again:?}");
    shop.modern.batch("DELETE FROM accounts WHERE id = 3").await;
    let applied = retry(&running, one.id).await;
    assert_eq!(
        (applied.state.as_str(), applied.who.as_deref(), applied.why.as_deref()),
        ("applied", Some("ann"), Some("mended"))
    );
    until_equal(&shop).await;
    parked(&running, 0).await;
    assert_eq!(
        shop.modern
            .number("SELECT (SELECT count(*) FROM banyan.parked_row) + (SELECT count(*) FROM banyan.parked_key)")
            .await,
        0
    );
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_data_the_target_refuses_is_parked_and_applied_once_it_is_mended() {
    let (shop, running) = healthy(&json!({})).await;
    shop.legacy.batch("INSERT INTO payments VALUES (1, 1, 1, 'n', 'epoch'), (2, 1, 1, 'n', 'epoch')").await;
    until_equal(&shop).await;
    // What is done to the target, what the source does then, what the reason ends with, and what mends it.
    let cases = [
        (
            "ALTER TABLE accounts ALTER name TYPE varchar(4)",
            "UPDATE accounts SET name = 'secret and long' WHERE id = 1",
            "SQLSTATE 22001",
            "ALTER TABLE accounts ALTER name TYPE text",
        ),
        (
            "ALTER TABLE payments ALTER note SET NOT NULL",
            "INSERT INTO payments VALUES (3, 1, 1, NULL, 'epoch')",
            "SQLSTATE 23502",
            "ALTER TABLE payments ALTER note DROP NOT NULL",
        ),
        (
            "ALTER TABLE payments ADD CONSTRAINT small CHECK (amount < 100)",
            "UPDATE payments SET amount = 1000 WHERE id = 1",
            "SQLSTATE 23514",
            "ALTER TABLE payments DROP CONSTRAINT small",
        ),
        (
            "DELETE FROM payments WHERE id = 2",
            "UPDATE payments SET note = 'secret' WHERE id = 2",
            "1 of 1 changed rows are not in the target: both sides differ",
            "INSERT INTO payments VALUES (2, 1, 1, 'n', 'epoch')",
        ),
        (
            "DELETE FROM payments WHERE id = 2",
            "DELETE FROM payments WHERE id = 2",
            "1 of 1 changed rows are not in the target: both sides differ",
            "INSERT INTO payments VALUES (2, 1, 1, 'secret', 'epoch')",
        ),
        (
            "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'not so: %', NEW.email; END $$; \
             CREATE TRIGGER no BEFORE INSERT ON accounts FOR EACH ROW WHEN (NEW.id = 7) EXECUTE FUNCTION no(); ALTER TABLE accounts ENABLE ALWAYS TRIGGER no",
            "INSERT INTO accounts VALUES (7, 'secret@x', 'S')",
            "SQLSTATE P0001",
            "DROP TRIGGER no ON accounts",
        ),
    ];
    for (i, (breaks, change, reason, mends)) in cases.into_iter().enumerate() {
        shop.modern.batch(breaks).await;
        shop.legacy.batch(change).await;
        let [one] = &parked(&running, 1).await[..] else { panic!() };
        assert!(one.reason.ends_with(reason), "{one:?}");
        flows_on(&shop, 1000 + i64::try_from(i).unwrap()).await;
        shop.modern.batch(mends).await;
        let now = retry(&running, one.id).await;
        assert_eq!(now.state, "applied", "{now:?}");
        until_equal(&shop).await;
    }
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_refused_only_at_the_end_of_its_transaction_is_parked_too() {
    let (shop, running) = healthy(&json!({"apply_as": "origin"})).await;
    let later = "ALTER TABLE accounts DROP CONSTRAINT accounts_email_key; \
         ALTER TABLE accounts ADD CONSTRAINT later UNIQUE (email) DEFERRABLE INITIALLY DEFERRED";
    shop.modern.batch(&format!("{later}; INSERT INTO accounts VALUES (50, 'secret-50@x', 'X')")).await;
    shop.legacy.batch("INSERT INTO accounts VALUES (51, 'secret-50@x', 'Y')").await;
    let [one] = &parked(&running, 1).await[..] else { panic!() };
    assert_eq!((one.reason.as_str(), one.tries), ("committing: SQLSTATE 23505", 3));
    flows_on(&shop, 100).await;
    shop.modern.batch("DELETE FROM accounts WHERE id = 50").await;
    assert_eq!(retry(&running, one.id).await.state, "applied");
    until_equal(&shop).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_touches_a_parked_key_follows_it_in_order_also_after_a_restart() {
    let (shop, running) = healthy(&json!({})).await;
    shop.modern.batch("ALTER TABLE accounts ADD CONSTRAINT short CHECK (length(name) < 5)").await;
    shop.legacy.batch("INSERT INTO accounts VALUES (4, 'u@x', 'secret and long')").await;
    let first = parked(&running, 1).await[0].id;
    let followers = [
        "UPDATE accounts SET name = 'n' WHERE id = 4",
        // By the old key, then by the new one.
        "UPDATE accounts SET id = 40 WHERE id = 4",
        "UPDATE accounts SET name = 'm' WHERE id = 40",
        // By the unique key that the first one brought: it would be free here.
        "UPDATE accounts SET email = 'v@x' WHERE id = 40",
        "INSERT INTO accounts VALUES (5, 'u@x', 'E')",
        // A child, and a transaction of which only the last row touches.
        "INSERT INTO payments VALUES (1, 40, 1, 'n', 'epoch')",
        "INSERT INTO accounts VALUES (6, '6@x', 'six'), (7, '7@x', 'sev'); UPDATE accounts SET name = 'l' WHERE id = 40",
        // By a follower's key.
        "UPDATE accounts SET name = 'x' WHERE id = 6",
    ];
    for (i, change) in followers.iter().enumerate() {
        shop.legacy.batch(change).await;
        let all = parked(&running, i + 2).await;
        let last = all.last().unwrap();
        assert!(last.tries == 0 && last.follows.is_some(), "{change}: {last:?}");
        flows_on(&shop, 100 + i64::try_from(i).unwrap()).await;
    }
    running.stop().await;
    let running = Running::start(&shop, "legacy", &json!({}));
    running.until(LEGACY_OWNS).await;
    shop.legacy.batch("DELETE FROM payments WHERE id = 1; DELETE FROM accounts WHERE id = 40").await;
    let count = followers.len() + 2;
    let all = parked(&running, count).await;
    flows_on(&shop, 300).await;

    // None of them goes before what it follows.
    let (last, touched) = (all[count - 1].id, all[count - 1].follows);
    let refused = retry(&running, last).await;
    assert_eq!((refused.state.as_str(), refused.follows, refused.tries), ("parked", touched, 0), "{refused:?}");

    shop.modern.batch("ALTER TABLE accounts DROP CONSTRAINT short").await;
    assert_eq!(retry(&running, first).await.state, "applied");
    parked(&running, 0).await;
    until_equal(&shop).await;
    let order = "SELECT string_agg(id::text, ' ' ORDER BY ended_at) = string_agg(id::text, ' ' ORDER BY id) FROM banyan.parked WHERE state = 'applied'";
    assert_eq!(shop.modern.text(order).await.as_deref(), Some("t"));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_parent_may_change_while_children_wait_but_not_go_away() {
    let (shop, running) = healthy(&json!({})).await;
    shop.modern.batch("ALTER TABLE payments ALTER note SET NOT NULL").await;
    shop.legacy.batch("INSERT INTO payments VALUES (1, 1, 1, NULL, 'epoch')").await;
    let first = parked(&running, 1).await[0].id;
    // Neither a sister nor a change of the parent follows.
    shop.legacy
        .batch("INSERT INTO payments VALUES (2, 1, 1, 'n', 'epoch'); UPDATE accounts SET name = 'ok' WHERE id = 1")
        .await;
    let came = "SELECT (SELECT count(*) FROM payments) + (SELECT count(*) FROM accounts WHERE name = 'ok')";
    eventually(secs(20), "both came", async || shop.modern.number(came).await == 2).await;
    shop.legacy.batch("DELETE FROM payments WHERE id = 1").await;
    shop.legacy.batch("DELETE FROM payments WHERE id = 2").await;
    shop.legacy.batch("DELETE FROM accounts WHERE id = 1").await;
    let all = parked(&running, 3).await;
    assert_eq!(all.iter().map(|one| one.follows).collect::<Vec<_>>(), [None, Some(first), Some(first)]);
    shop.modern.batch("ALTER TABLE payments ALTER note DROP NOT NULL").await;
    assert_eq!(running.desk().retry_all("ann", "").await.unwrap(), 3);
    parked(&running, 0).await;
    until_equal(&shop).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn emptying_a_table_follows_all_that_is_parked_of_it_and_what_comes_after_follows_that() {
    let (shop, running) = healthy(&json!({})).await;
    shop.legacy.batch("INSERT INTO payments VALUES (1, 1, 1, 'n', 'epoch')").await;
    shop.modern.batch("ALTER TABLE payments ALTER note SET NOT NULL").await;
    shop.legacy.batch("INSERT INTO payments VALUES (2, 1, 1, NULL, 'epoch')").await;
    let first = parked(&running, 1).await[0].id;
    shop.legacy.batch("TRUNCATE payments").await;
    parked(&running, 2).await;
    shop.legacy.batch("INSERT INTO payments VALUES (3, 1, 1, 'n', 'epoch')").await;
    let all = parked(&running, 3).await;
    assert!(all[2].follows == Some(all[1].id), "{all:?}");
    flows_on(&shop, 100).await;
    assert_eq!(shop.modern.count("payments").await, 1);
    shop.modern.batch("ALTER TABLE payments ALTER note DROP NOT NULL").await;
    retry(&running, first).await;
    parked(&running, 0).await;
    until_equal(&shop).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_skipped_is_never_applied_and_says_who_and_why_for_ever() {
    let (shop, running) = healthy(&json!({})).await;
    shop.modern.batch("DELETE FROM accounts WHERE id = 2").await;
    shop.legacy.batch("UPDATE accounts SET name = 'secret' WHERE id = 2").await;
    let first = parked(&running, 1).await[0].id;
    shop.legacy.batch("UPDATE accounts SET name = 'then' WHERE id = 2").await;
    shop.legacy.batch("DELETE FROM accounts WHERE id = 2").await;
    parked(&running, 3).await;
    let desk = running.desk();
    let skipped = desk.ask(first, ParkedAct::Skip, "ann", "the row is gone on purpose").await.unwrap();
    assert_eq!((skipped.state.as_str(), skipped.who.as_deref()), ("skipped", Some("ann")));
    // What followed it was tried, and has a reason of its own now.
    let all = eventually(secs(20), "the next one was tried", async || {
        let all = running.desk().list(false).await.unwrap();
        let tried = all.len() == 2 && all[0].tries == 1 && all[1].follows == Some(all[0].id);
        if tried { Ok(all) } else { Err(all) }
    })
    .await;
    assert!(all[0].reason.contains("not in the target"), "{all:?}");
    for one in &all {
        eventually(secs(20), "it is skipped", async || {
            desk.ask(one.id, ParkedAct::Skip, "ann", "so is this").await.is_ok_and(|one| one.state == "skipped")
        })
        .await;
    }
    parked(&running, 0).await;
    until_equal(&shop).await;
    let error = desk.ask(first, ParkedAct::Retry, "ann", "").await.unwrap_err().to_string();
    assert_eq!(error, format!("transaction {first} is skipped already"));
    let ended = desk.list(true).await.unwrap();
    assert_eq!((ended.len(), ended[0].why.as_deref()), (3, Some("the row is gone on purpose")));
    assert_eq!(shop.modern.number("SELECT count(*) FROM banyan.parked_row").await, 0);
    let error = desk.ask(999, ParkedAct::Retry, "ann", "").await.unwrap_err().to_string();
    assert_eq!(error, "no transaction 999 is or was parked");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_no_more_may_be_parked_the_flow_stops_drops_nothing_and_goes_on_when_there_is_room() {
    for keys in [json!({"parked_limit": 2}), json!({"parked_bytes": "800B"})] {
        let (shop, running) = healthy(&keys).await;
        shop.modern.batch("ALTER TABLE accounts ADD CONSTRAINT short CHECK (length(name) < 5)").await;
        for id in 3..7 {
            shop.legacy.batch(&format!("INSERT INTO accounts VALUES ({id}, '{id}@x', 'secret and long')")).await;
        }
        let most = if keys["parked_limit"] == 2 { 2 } else { 1 };
        running.until([State::Stopped, State::Watching]).await;
        let error = running.status().flows[0].last_error.clone().unwrap();
        let key = keys.as_object().unwrap().keys().next().unwrap();
        assert!(error.contains(&format!("`{key}`")) && error.contains("SQLSTATE 23514"), "{error}");
        let all = parked(&running, most).await;
        assert_eq!(running.status().flows[0].state, State::Stopped);
        shop.modern.batch("ALTER TABLE accounts DROP CONSTRAINT short").await;
        assert_eq!(retry(&running, all[0].id).await.state, "applied");
        running.until(LEGACY_OWNS).await;
        running.desk().retry_all("ann", "").await.unwrap();
        parked(&running, 0).await;
        until_equal(&shop).await;
        running.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_parent_that_comes_a_moment_later_is_waited_for_and_nothing_is_parked() {
    let mut shop = Shop::fresh().await;
    shop.legacy.batch("INSERT INTO accounts VALUES (1, 'a@x', 'A')").await;
    // Another sync brings the accounts.
    shop.tables = vec!["public.payments".into()];
    let running = Running::start(&shop, "legacy", &json!({"apply_as": "origin"}));
    running.until(LEGACY_OWNS).await;
    shop.legacy.batch("INSERT INTO payments VALUES (1, 1, 1, 'n', 'epoch')").await;
    let refused = "banyan_sync_refused_total{flow=\"legacy_to_modern\",sync=\"shop\"} 1";
    eventually(secs(20), "it was refused once", async || running.metrics().contains(refused)).await;
    shop.modern.batch("INSERT INTO accounts VALUES (1, 'a@x', 'A')").await;
    until_equal(&shop).await;
    assert!(running.desk().list(true).await.unwrap().is_empty());
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_copy_of_the_tables_clears_what_is_parked_and_says_so() {
    let (shop, running) = healthy(&json!({})).await;
    shop.modern.batch("INSERT INTO accounts VALUES (3, 'secret@x', 'X')").await;
    shop.legacy.batch("INSERT INTO accounts VALUES (4, 'secret@x', 'Y')").await;
    parked(&running, 1).await;
    running.stop().await;
    shop.legacy.batch("UPDATE banyan.capture SET state = 'abandoned' WHERE flow = 'legacy_to_modern'").await;
    let slot = format!("SELECT pg_drop_replication_slot('{}_shop_l2m_0')", shop.install);
    eventually(secs(20), "the slot is dropped", async || {
        shop.legacy.session().await.batch_execute(&slot).await.is_ok()
    })
    .await;
    shop.modern.batch("DELETE FROM accounts WHERE id = 3").await;
    let running = Running::start(&shop, "legacy", &json!({"target": "keep_matching"}));
    running.until(LEGACY_OWNS).await;
    until_equal(&shop).await;
    parked(&running, 0).await;
    let [one] = &running.desk().list(true).await.unwrap()[..] else { panic!() };
    assert_eq!((one.state.as_str(), one.why.as_deref()), ("cleared", Some("the tables are copied anew")));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_whose_change_is_parked_while_their_table_is_copied_over_them_stay() {
    let shop = Shop::with("CREATE TABLE rows (id bigint PRIMARY KEY, word text NOT NULL)", &["public.rows"]).await;
    let fill = "INSERT INTO rows SELECT n, 'old' FROM generate_series(1, 4000) AS n";
    shop.legacy.batch(&format!("{fill}; ANALYZE rows")).await;
    shop.modern.batch(&format!("{fill}; ALTER TABLE rows ADD CONSTRAINT good CHECK (word <> 'bad')")).await;
    let keys = json!({"target": "keep_matching", "snapshot": {"chunk": 500, "rows_per_second": 1000}});
    let running = Running::start(&shop, "legacy", &keys);
    running.until([State::Snapshot, State::Watching]).await;
    eventually(secs(20), "a part is copied", async || {
        running.status().flows[0].copies.first().is_some_and(|copy| copy.rows >= 500)
    })
    .await;
    // Some of the rows are read already and on their way: the stream has them as they are now.
    shop.legacy.batch("UPDATE rows SET word = CASE WHEN id = 1 THEN 'bad' ELSE 'new' END").await;
    let [one] = &parked(&running, 1).await[..] else { panic!() };
    running.until(LEGACY_OWNS).await;
    assert_eq!(shop.modern.count("rows").await, 4_000);
    shop.modern.batch("ALTER TABLE rows DROP CONSTRAINT good").await;
    retry(&running, one.id).await;
    parked(&running, 0).await;
    until_equal(&shop).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_something_is_parked_whoever_wrote_since_is_not_shown_the_other_side() {
    let (shop, running) = healthy(&json!({})).await;
    let mut reader = running.reader();
    let mut shown = async || {
        let reading = reader.read().await;
        (reading.written.unwrap(), reading.applied.unwrap(), reading.lag)
    };
    shop.modern.batch("INSERT INTO accounts VALUES (3, 'secret@x', 'X')").await;
    let before = shown().await.0;
    shop.legacy.batch("INSERT INTO accounts VALUES (4, 'secret@x', 'Y')").await;
    let id = parked(&running, 1).await[0].id;
    flows_on(&shop, 100).await;
    let (written, applied, lag) = shown().await;
    assert!(before <= applied && applied < written, "{before} {applied} {written}");
    // All others see a side that is in step.
    assert!(lag.is_some_and(|lag| lag < secs(5)), "{lag:?}");
    shop.modern.batch("DELETE FROM accounts WHERE id = 3").await;
    retry(&running, id).await;
    eventually(secs(20), "all is shown again", async || {
        let (_, applied, _) = shown().await;
        applied >= written
    })
    .await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_violation_stops_both_flows_where_the_file_says_so_until_it_is_dealt_with() {
    let keys = json!({"violations": "stop"});
    let (shop, running) = healthy(&keys).await;
    shop.modern.batch("INSERT INTO accounts VALUES (7, 'secret-7@x', 'I')").await;
    running.until([State::Stopped, State::Stopped]).await;
    for flow in running.status().flows {
        let error = flow.last_error.unwrap();
        assert!(error.contains("`violations: stop`") && error.contains("banyan.violation"), "{error}");
    }
    assert_eq!(running.status().flows[1].violations, 1);
    let stored = "SELECT source_table || ' ' || op || ' ' || (lsn > '0/0')::text FROM banyan.violation";
    assert_eq!(shop.legacy.text(stored).await.as_deref(), Some("public.accounts c true"));
    running.stop().await;
    let running = Running::start(&shop, "legacy", &keys);
    running.until([State::Stopped, State::Stopped]).await;
    running.stop().await;
    shop.modern.batch("DELETE FROM accounts WHERE id = 7").await;
    let running = Running::start(&shop, "legacy", &json!({}));
    running.until(LEGACY_OWNS).await;
    eventually(secs(20), "the mending was seen", async || running.status().flows[1].violations == 2).await;
    running.stop().await;
    shop.legacy.batch("DELETE FROM banyan.violation").await;
    let running = Running::start(&shop, "legacy", &keys);
    running.until(LEGACY_OWNS).await;
    until_equal(&shop).await;
    running.stop().await;
}
