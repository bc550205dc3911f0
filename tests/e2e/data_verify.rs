//! `banyan sync verify`: what differs is found whatever goes on meanwhile, what does not is never called different, and a repair makes both
//! sides equal without stopping the stream or looking like somebody else's write.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use banyan_connectors::{
    State,
    verify::{self, Counts, Difference, Event, Options, Outcome, VerifyError, What},
};
use serde_json::{Value, json};

use crate::{
    data_basic::{Running, until_equal},
    harness::{Banyan, Shop, eventually, secs},
    workload::{self, Workload},
};

const LEGACY_OWNS: [State; 2] = [State::Applying, State::Watching];

/// Begins a run, and ends it when its first batch is kept.
pub(crate) async fn interrupt(running: &Running, options: &Options) {
    let (config, begun) = (running.config.clone(), options.clone());
    let (send, mut progress) = tokio::sync::mpsc::unbounded_channel();
    let interrupted =
        tokio::spawn(async move { verify::run(&config, "shop", &begun, &mut |event| drop(send.send(event))).await });
    // The second batch is told when the first is kept.
    let mut told = 0;
    while told < 2 {
        if let Event::Progress { .. } = progress.recv().await.unwrap() {
            told += 1;
        }
    }
    interrupted.abort();
    assert!(interrupted.await.unwrap_err().is_cancelled());
}

async fn run(running: &Running, options: &Options) -> Result<(Outcome, Vec<Difference>), VerifyError> {
    let mut found = Vec::new();
    let mut tell = |event| {
        if let Event::Found(difference) = event {
            found.push(difference);
        }
    };
    let outcome = verify::run(&running.config, "shop", options, &mut tell).await?;
    Ok((outcome, found))
}

async fn compare(running: &Running) -> (Outcome, Vec<Difference>) {
    run(running, &Options::default()).await.unwrap()
}

async fn repair(running: &Running) -> (Outcome, Vec<Difference>) {
    run(running, &Options { repair: Some("a test".into()), ..Options::default() }).await.unwrap()
}

fn counts(outcome: &Outcome, table: &str) -> Counts {
    outcome.tables[table]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_the_same_is_found_and_repaired_and_is_nobodys_violation() {
    let shop = Shop::fresh().await;
    shop.legacy
        .batch(
            "INSERT INTO accounts SELECT i, i || '@x', 'A' FROM generate_series(1, 50) i; \
             INSERT INTO payments SELECT i, 1 + i % 50, i, NULL, now() FROM generate_series(1, 12000) i",
        )
        .await;
    let running = Running::start(&shop, "legacy", &json!({}));
    running.until(LEGACY_OWNS).await;
    until_equal(&shop).await;
    let (outcome, found) = compare(&running).await;
    assert_eq!(found, []);
    assert_eq!(counts(&outcome, "public.payments"), Counts { rows: 12_000, ..Counts::default() });

    shop.modern
        .batch(
            "DELETE FROM payments WHERE id IN (1, 5000, 12000); UPDATE payments SET note = '', amount = 0.01 WHERE id = 77; \
             INSERT INTO payments VALUES (0, 1, 1, 'nobody paid it', now()), (999999, 1, 1, NULL, now())",
        )
        .await;
    eventually(secs(10), "they are violations", async || running.status().flows[1].violations == 6).await;
    let (outcome, found) = compare(&running).await;
    let payments = Counts { rows: 12_000, missing: 3, extra: 2, differing: 1, ..Counts::default() };
    assert_eq!(counts(&outcome, "public.payments"), payments);
    assert_eq!(counts(&outcome, "public.accounts"), Counts { rows: 50, ..Counts::default() });
    let differs: Vec<_> = found.iter().filter(|one| one.what == What::Differs).collect();
    assert_eq!((differs[0].key["id"].as_str(), differs[0].columns.join(",")), ("77", "amount,note".to_owned()));
    let keys = |what| {
        let mut keys: Vec<&str> =
            found.iter().filter(|one| one.what == what).map(|one| one.key["id"].as_str()).collect();
        keys.sort_unstable();
        keys
    };
    assert_eq!((keys(What::Missing), keys(What::Extra)), (vec!["1", "12000", "5000"], vec!["0", "999999"]));

    let (outcome, found) = repair(&running).await;
    assert_eq!(counts(&outcome, "public.payments"), Counts { repaired: 6, ..payments });
    assert!(found.iter().all(|one| one.repaired), "{found:?}");
    shop.equal().await.unwrap();
    let kept = "SELECT rows || ' ' || why || ' ' || who FROM banyan.repair WHERE source_table = 'public.payments' AND rows > 0";
    assert_eq!(shop.modern.text(kept).await.as_deref(), Some("4 a test banyan"), "one of each pass");
    // The stream goes on over what was repaired, and the repair came back as nothing.
    shop.legacy
        .batch("UPDATE payments SET amount = amount + 1 WHERE id IN (1, 77); DELETE FROM payments WHERE id = 5000")
        .await;
    until_equal(&shop).await;
    assert_eq!(running.status().flows[1].violations, 6);
    assert_eq!(compare(&running).await.1, []);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn beside_writers_nothing_that_is_equal_is_called_different() {
    let ddl = format!("{}{}", workload::AUDIT, workload::ddl("w"));
    let tables = workload::tables("w");
    let shop = Shop::with(&ddl, &tables.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let running = Running::start(&shop, "legacy", &json!({}));
    running.until(LEGACY_OWNS).await;
    let writers = Workload::start(&shop.legacy, "w", 7);
    writers.advance(200).await;
    for round in 0..2 {
        let (outcome, found) = compare(&running).await;
        assert_eq!(found, [], "round {round}");
        assert!(counts(&outcome, "public.w_book").rows > 0);
    }
    // One row is wrong while all others move.
    shop.legacy.batch("INSERT INTO w_book (id, title, price) VALUES (-1, 'still', 1), (-2, 'still too', 1)").await;
    eventually(secs(10), "they arrive", async || {
        shop.modern.number("SELECT count(*) FROM w_book WHERE id < 0").await == 2
    })
    .await;
    shop.modern.batch("DELETE FROM w_book WHERE id = -1; UPDATE w_book SET price = 2 WHERE id = -2").await;
    let (_, found) = compare(&running).await;
    let mut keys: Vec<_> = found.iter().map(|one| (one.key["id"].as_str(), one.what)).collect();
    keys.sort_unstable_by_key(|(key, _)| *key);
    assert_eq!(keys, [("-1", What::Missing), ("-2", What::Differs)]);
    let (_, found) = repair(&running).await;
    assert!(found.len() == 2 && found.iter().all(|one| one.repaired), "{found:?}");
    writers.finish().await;
    workload::settle(&shop.legacy, &shop.modern, "w", 1, secs(60)).await;
    until_equal(&shop).await;
    assert_eq!(running.status().flows[0].state, State::Applying);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_change_while_they_are_repaired_end_as_the_owner_has_them() {
    let shop = Shop::fresh().await;
    shop.legacy.batch("INSERT INTO accounts SELECT i, i || '@x', 'A' FROM generate_series(1, 2000) i").await;
    let running = Running::start(&shop, "legacy", &json!({}));
    running.until(LEGACY_OWNS).await;
    until_equal(&shop).await;
    let stop = Arc::new(AtomicBool::new(false));
    let (until, writer) = (Arc::clone(&stop), shop.legacy.session().await);
    let writing = tokio::spawn(async move {
        let mut round = 0;
        while !until.load(Ordering::Relaxed) {
            round += 1;
            let key = round * 7 % 2000 + 1;
            let sql = match round % 3 {
                0 => format!("UPDATE accounts SET name = 'n{round}' WHERE id BETWEEN {key} AND {key} + 20"),
                // Back and forth: what is on its way leads to the same row.
                1 => format!(
                    "UPDATE accounts SET name = 'x' WHERE id = {key}; UPDATE accounts SET name = 'A' WHERE id = {key}"
                ),
                _ => format!(
                    "DELETE FROM accounts WHERE id = {key}; INSERT INTO accounts VALUES ({key}, '{key}@x', 'A')"
                ),
            };
            writer.batch_execute(&sql).await.unwrap();
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
    });
    // A row that is missing here is a divergence for the applier, which is another test's: values alone.
    for round in 0..5 {
        // The lock first: row by row it would come to a deadlock with the applier.
        let wrong = format!("UPDATE accounts SET name = 'wrong {round}' WHERE id % 3 = 0");
        shop.modern.batch(&format!("BEGIN; LOCK TABLE accounts IN EXCLUSIVE MODE; {wrong}; COMMIT")).await;
        repair(&running).await;
    }
    stop.store(true, Ordering::Relaxed);
    writing.await.unwrap();
    repair(&running).await;
    until_equal(&shop).await;
    assert_eq!(running.status().flows[0].state, State::Applying);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_count_as_the_other_side_keeps_them_and_keys_as_they_are() {
    let legacy = "CREATE TABLE \"Öl \"\"x\" (\"K-1\" text COLLATE \"C\", k2 int, n int, f numeric(12,4), c varchar(9), t timestamp, \
                  j jsonb, b bytea, a int[], gone int GENERATED ALWAYS AS (n * 2) STORED, PRIMARY KEY (\"K-1\", k2))";
    let shop = Shop::with(legacy, &[]).await;
    shop.modern
        .batch(
            "SET ROLE shop; ALTER TABLE \"Öl \"\"x\" DROP gone; ALTER TABLE \"Öl \"\"x\" ALTER n TYPE bigint, ALTER f TYPE numeric(20,8), ALTER c TYPE text, \
             ALTER \"K-1\" TYPE text COLLATE \"und-x-icu\", ADD more text DEFAULT 'own', \
             ADD gone bigint GENERATED ALWAYS AS (n * 2) STORED",
        )
        .await;
    let tables = json!([{"legacy": "public.Öl \"x", "modern": "public.Öl \"x"}]);
    let rows = "INSERT INTO \"Öl \"\"x\" (\"K-1\", k2, n, f, c, t, j, b, a) VALUES ";
    let one = |key: &str, n: i32| {
        format!("('{key}', {n}, {n}, 1.5, 'c', '2026-01-01', '{{\"b\": 1, \"a\": null}}', '\\x00ff', '{{1,NULL}}')")
    };
    let keys = ["a", "B", "ä", "", "a b", "Z", "_", "NULL"];
    let values: Vec<String> = keys.iter().zip(0..).map(|(key, n)| one(key, n)).collect();
    shop.legacy
        .batch(&format!(
            "{rows}{}; {rows} ('n', 9, NULL, 'NaN', NULL, 'infinity', NULL, NULL, NULL)",
            values.join(", ")
        ))
        .await;
    let running = Running::start(&shop, "legacy", &json!({ "tables": tables }));
    running.until(LEGACY_OWNS).await;
    let (outcome, found) = compare(&running).await;
    assert_eq!((found.as_slice(), counts(&outcome, "public.Öl \"x").rows), (&[][..], 9));
    shop.modern
        .batch("UPDATE \"Öl \"\"x\" SET c = NULL WHERE \"K-1\" = 'ä'; DELETE FROM \"Öl \"\"x\" WHERE \"K-1\" = ''")
        .await;
    let (_, found) = repair(&running).await;
    let mut told: Vec<String> =
        found.iter().map(|one| format!("{}/{} {:?}", one.key["K-1"], one.key["k2"], one.what)).collect();
    told.sort();
    assert_eq!(told, ["/3 Missing", "ä/2 Differs"]);
    assert_eq!(compare(&running).await.1, []);
    assert_eq!(
        shop.modern.number("SELECT count(*) FROM \"Öl \"\"x\" WHERE more = 'own'").await,
        9,
        "what is its own stays"
    );
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_interrupted_run_goes_on_and_a_row_that_cannot_be_written_stays_listed() {
    let shop = Shop::fresh().await;
    shop.legacy.batch("INSERT INTO accounts SELECT i, i || '@x', 'A' FROM generate_series(1, 120000) i").await;
    let running = Running::start(&shop, "legacy", &json!({}));
    running.until(LEGACY_OWNS).await;
    until_equal(&shop).await;
    // The row of the owner has the address that another row holds here.
    shop.modern.batch("DELETE FROM accounts WHERE id = 3; UPDATE accounts SET email = '3@x' WHERE id = 119000").await;
    let options = Options { tables: vec!["public.accounts".into()], ..Options::default() };
    interrupt(&running, &options).await;
    let mut resumed = None;
    let mut tell = |event| {
        if let Event::Resumed { rows, .. } = event {
            resumed = Some(rows);
        }
    };
    let outcome = eventually(secs(10), "the connection that was cut is noticed", async || {
        verify::run(&running.config, "shop", &options, &mut |event| tell(event))
            .await
            .map_err(|error| error.to_string())
    })
    .await;
    assert!(resumed.is_some_and(|rows| rows >= 50_000), "{resumed:?}");
    let found = Counts { rows: 120_000, missing: 1, differing: 1, ..Counts::default() };
    assert_eq!(counts(&outcome, "public.accounts"), found);
    let keep = Options { repair: Some("x".into()), ..options };
    let (outcome, _) = run(&running, &keep).await.unwrap();
    assert_eq!(counts(&outcome, "public.accounts"), Counts { repaired: 1, ..found }, "3 only after 119000");
    let (outcome, _) = run(&running, &keep).await.unwrap();
    assert_eq!(
        counts(&outcome, "public.accounts"),
        Counts { rows: 120_000, missing: 1, repaired: 1, ..Counts::default() }
    );
    shop.equal().await.unwrap();
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_verb_lists_what_differs_and_the_schedule_shows_it() {
    let shop = Shop::fresh().await;
    shop.legacy.batch("INSERT INTO accounts VALUES (1, 'secret-1@x', 'A'), (2, 'secret-2@x', 'B')").await;
    let file = shop.file_with("legacy", "verify: {every: 1h, rate: 100000}");
    let mut banyan = Banyan::with(&file);
    // Nothing runs, and nothing was copied.
    let output = banyan.verb(&["sync", "verify", "shop"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("has not begun"), "{output:?}");
    banyan = banyan.start().await;
    eventually(secs(60), "the schedule has run", async || {
        banyan.metrics().await.get("banyan_sync_unequal_rows", &[("sync", "shop")]) == Some(0.0)
    })
    .await;
    assert!(banyan.metrics().await.get("banyan_sync_verified_timestamp_seconds", &[("sync", "shop")]).unwrap() > 1.7e9);
    let output = banyan.verb(&["sync", "verify", "shop"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "public.accounts: 2 rows, all equal\npublic.payments: 0 rows, all equal\n"
    );
    shop.modern.batch("UPDATE accounts SET name = 'secret' WHERE id = 2").await;
    let output = banyan.verb(&["sync", "verify", "shop", "-o", "json"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(told["equal"], false);
    assert_eq!(
        told["differences"],
        json!([{"table": "public.accounts", "key": {"id": "2"}, "what": "differs", "columns": ["name"], "repaired": false}])
    );
    // What somebody else has found is shown, too.
    eventually(secs(45), "the running process shows it", async || {
        banyan.metrics().await.get("banyan_sync_unequal_rows", &[("sync", "shop")]) == Some(1.0)
    })
    .await;
    let status = banyan.status().await;
    assert_eq!(status["syncs"][0]["verified"][0]["counts"]["differing"], 1, "{status:#}");
    let output = banyan.verb(&["sync", "verify", "shop", "--repair"]);
    assert_eq!(output.status.code(), Some(2), "no reason: {output:?}");
    let output = banyan.verb(&["sync", "verify", "shop", "--repair", "--reason", "set by hand"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.starts_with("public.accounts  id=2  differs in name; repaired\n"), "{said}");
    shop.equal().await.unwrap();
    for (arguments, hint) in
        [(["nope"].as_slice(), "no sync `nope`"), (&["shop", "--table", "public.nope"], "no table `public.nope`")]
    {
        let output = banyan.verb(&[&["sync", "verify"], arguments].concat());
        assert!(String::from_utf8_lossy(&output.stderr).contains(hint), "{output:?}");
    }
    assert!(!banyan.log().contains("secret"));
    assert!(banyan.stop(Duration::from_secs(20)).success());
}
