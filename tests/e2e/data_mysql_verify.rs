//! `banyan sync verify` where a side is MariaDB: what differs is found by row and column and made equal, what does not is never called
//! different beside writers, and an interrupted run goes on.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use banyan_connectors::{
    State,
    verify::{self, Counts, Difference, Event, Options, Outcome, What},
};
use serde_json::json;

use crate::{
    data_basic::Running,
    data_mysql::{shop, start, until_equal},
    data_verify::interrupt,
    harness::{Half, Twin, eventually, secs},
};

async fn run(running: &Running, options: &Options) -> (Outcome, Vec<Difference>) {
    let mut found = Vec::new();
    let mut tell = |event| {
        if let Event::Found(difference) = event {
            found.push(difference);
        }
    };
    let outcome = verify::run(&running.config, "shop", options, &mut tell).await.unwrap();
    found.sort_by_key(|one: &Difference| (one.table.clone(), one.key["id"].parse::<i64>().unwrap()));
    (outcome, found)
}

fn repair() -> Options {
    Options { repair: Some("a test".into()), ..Options::default() }
}

fn rows(from: i64, to: i64) -> String {
    let one = |id| format!("({id}, 1, {id}.50, NULL, '2026-01-02 03:04:05.678')");
    format!("INSERT INTO payments VALUES {}", (from..to).map(one).collect::<Vec<_>>().join(", "))
}

async fn found_and_repaired(legacy: &str, modern: &str, owner: &str) {
    let twin = shop(legacy, modern).await;
    let (from, to) = if owner == "legacy" { (&twin.legacy, &twin.modern) } else { (&twin.modern, &twin.legacy) };
    from.batch("INSERT INTO accounts VALUES (1, 'a@x', 'Ann'), (2, 'b@x', 'it''s Bö')").await;
    from.batch(&rows(0, 1200)).await;
    let running = start(&twin, owner, &json!({}));
    let states =
        if owner == "legacy" { [State::Applying, State::Watching] } else { [State::Watching, State::Applying] };
    running.until(states).await;
    until_equal(&twin).await;
    let name = from.table("payments");
    let (outcome, found) = run(&running, &Options::default()).await;
    assert_eq!(found, []);
    assert_eq!(outcome.tables[&name], Counts { rows: 1200, ..Counts::default() });

    for sql in [
        "DELETE FROM payments WHERE id IN (0, 700)",
        "UPDATE payments SET note = '', amount = 0.01 WHERE id = 77",
        "UPDATE payments SET paid_at = '2026-01-02 03:04:05.679' WHERE id = 78",
        "INSERT INTO payments VALUES (5000, 1, 1, 'nobody paid it', '2026-01-01')",
        "UPDATE accounts SET name = 'ann' WHERE id = 1",
    ] {
        to.batch(sql).await;
    }
    let behind = || running.status().flows.iter().map(|flow| flow.violations).sum::<u64>();
    eventually(secs(30), "they are violations", async || behind() == 6).await;
    let (outcome, found) = run(&running, &Options::default()).await;
    let wrong = Counts { rows: 1200, missing: 2, extra: 1, differing: 2, ..Counts::default() };
    assert_eq!(outcome.tables[&name], wrong);
    let told: Vec<_> = found.iter().map(|one| (one.key["id"].as_str(), one.what, one.columns.join(","))).collect();
    let none = String::new();
    assert_eq!(
        told,
        [
            ("1", What::Differs, "name".to_owned()),
            ("0", What::Missing, none.clone()),
            ("77", What::Differs, "amount,note".to_owned()),
            ("78", What::Differs, "paid_at".to_owned()),
            ("700", What::Missing, none.clone()),
            ("5000", What::Extra, none),
        ]
    );
    let (outcome, found) = run(&running, &repair()).await;
    assert_eq!(outcome.tables[&name], Counts { repaired: 5, ..wrong });
    assert!(found.iter().all(|one| one.repaired), "{found:?}");
    twin.equal().await.unwrap();
    // The stream goes on over what was repaired, and the repair came back as nothing.
    from.batch("UPDATE payments SET amount = amount + 1 WHERE id IN (0, 77)").await;
    from.batch("DELETE FROM payments WHERE id = 700").await;
    until_equal(&twin).await;
    running.until(states).await;
    assert_eq!(behind(), 6);
    assert_eq!(run(&running, &Options::default()).await.1, []);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_differs_from_a_mariadb_owner_in_postgresql_is_found_and_repaired() {
    found_and_repaired("mariadb", "postgres", "legacy").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_differs_from_a_postgresql_owner_in_mariadb_is_found_and_repaired() {
    found_and_repaired("mariadb", "postgres", "modern").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_differs_between_two_mariadbs_is_found_and_repaired() {
    found_and_repaired("mariadb", "mariadb", "legacy").await;
}

/// Rows that come and go, and change to and fro, until told to stop.
async fn write(half: &Half, stop: &AtomicBool) {
    let mut round = 0;
    while !stop.load(Ordering::Relaxed) {
        round += 1;
        let id = round * 7 % 300;
        for sql in match round % 3 {
            0 => vec![format!("UPDATE payments SET note = 'n{round}' WHERE id BETWEEN {id} AND {id} + 20")],
            1 => vec![
                format!("UPDATE payments SET amount = 1 WHERE id = {id}"),
                format!("UPDATE payments SET amount = {id}.50 WHERE id = {id}"),
            ],
            _ => vec![format!("DELETE FROM payments WHERE id = {id}"), rows(id, id + 1)],
        } {
            half.batch(&sql).await;
        }
    }
}

async fn nothing_false(twin: &Twin) {
    twin.legacy.batch("INSERT INTO accounts VALUES (1, 'a@x', 'Ann')").await;
    twin.legacy.batch(&rows(0, 320)).await;
    let running = start(twin, "legacy", &json!({}));
    running.until([State::Applying, State::Watching]).await;
    until_equal(twin).await;
    let stop = Arc::new(AtomicBool::new(false));
    let checking = async {
        for round in 0..3 {
            let (outcome, found) = run(&running, &Options::default()).await;
            assert_eq!(found, [], "round {round}");
            assert!(outcome.tables[&twin.legacy.table("payments")].rows >= 300);
        }
        twin.modern.batch("UPDATE accounts SET name = 'wrong' WHERE id = 1").await;
        let (_, found) = run(&running, &repair()).await;
        assert!(found.len() == 1 && found[0].repaired, "{found:?}");
        stop.store(true, Ordering::Relaxed);
    };
    tokio::join!(checking, write(&twin.legacy, &stop));
    until_equal(twin).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn beside_writers_of_mariadb_nothing_that_is_equal_is_called_different() {
    nothing_false(&shop("mariadb", "postgres").await).await;
    nothing_false(&shop("mariadb", "mariadb").await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_interrupted_run_over_mariadb_goes_on() {
    let twin = shop("mariadb", "postgres").await;
    for start in 0..12 {
        twin.legacy.batch(&rows(start * 5_000, (start + 1) * 5_000)).await;
    }
    let running = start(&twin, "legacy", &json!({}));
    running.until([State::Applying, State::Watching]).await;
    let name = twin.legacy.table("payments");
    eventually(secs(60), "all rows arrived", async || {
        twin.modern.text("SELECT count(*) FROM payments").await.as_deref() == Some("60000")
    })
    .await;
    twin.modern.batch("DELETE FROM payments WHERE id = 3").await;
    let options = Options { tables: vec![name.clone()], ..Options::default() };
    interrupt(&running, &options).await;
    let (mut resumed, began) = (None, Instant::now());
    let mut tell = |event| {
        if let Event::Resumed { rows, .. } = event {
            resumed = Some(rows);
        }
    };
    let outcome = eventually(secs(30), "the connection that was cut is noticed", async || {
        verify::run(&running.config, "shop", &options, &mut |event| tell(event)).await.map_err(|e| e.to_string())
    })
    .await;
    assert!(resumed.is_some_and(|rows| rows >= 50_000), "{resumed:?}");
    assert_eq!(outcome.tables[&name], Counts { rows: 60_000, missing: 1, ..Counts::default() });
    println!("resumed in {:?}", began.elapsed());
    let whole = Instant::now();
    let (outcome, _) = run(&running, &Options { restart: true, ..options }).await;
    println!("60,000 rows in {:?}", whole.elapsed());
    assert_eq!(outcome.tables[&name], Counts { rows: 60_000, missing: 1, ..Counts::default() });
    running.stop().await;
}
