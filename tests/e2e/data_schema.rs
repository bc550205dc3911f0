//! Tables that change in mid-stream: what flows on, what is copied again by itself, what waits for a person, and that nothing is lost by any of it.

use std::time::Duration;

use banyan_connectors::{ResumeDesk, ResumeError, Resumed, State};
use serde_json::json;
use tokio::task::JoinHandle;

use crate::{
    data_basic::{Running, until_equal},
    harness::{Banyan, Shop, eventually, secs},
};

pub(crate) const LEGACY_OWNS: [State; 2] = [State::Applying, State::Watching];
pub(crate) const SETTLED: Duration = Duration::from_secs(60);
pub(crate) const DDL: &str =
    "CREATE TABLE items (id bigint PRIMARY KEY, a int, b text); CREATE TABLE other (id bigint PRIMARY KEY, word text)";

/// 200 rows in `items` on both sides, and a sync that streams.
async fn streaming() -> (Shop, Running) {
    let shop = Shop::with(DDL, &["public.items", "public.other"]).await;
    shop.legacy.batch("INSERT INTO items SELECT n, n, 'old' FROM generate_series(1, 200) AS n").await;
    let running = Running::start(&shop, "legacy", &json!({}));
    running.until(LEGACY_OWNS).await;
    until_equal(&shop).await;
    (shop, running)
}

/// Writes rows that every shape of `items` takes, until it is stopped: new ones, changed ones, and some go again.
pub(crate) async fn writer(shop: &Shop) -> JoinHandle<()> {
    let session = shop.legacy.session().await;
    tokio::spawn(async move {
        for n in 1_000_u64.. {
            let sql = format!(
                "INSERT INTO items (id) VALUES ({n}); UPDATE items SET id = -id WHERE id = {}; DELETE FROM items WHERE id = {}; \
                 INSERT INTO other VALUES ({n}, 'w')",
                n % 200,
                n - 50
            );
            if session.batch_execute(&sql).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
}

fn desk(running: &Running) -> ResumeDesk {
    ResumeDesk::new("shop", &running.config.syncs["shop"], &running.config.install).unwrap()
}

/// Waits until the flow from legacy waits for a person, and gives the reason.
pub(crate) async fn paused(running: &Running) -> String {
    eventually(SETTLED, "the flow waits", async || {
        let flow = running.status().flows.remove(0);
        if flow.state == State::Paused { Ok(()) } else { Err(format!("{flow:#?}")) }
    })
    .await;
    running.status().flows[0].last_error.clone().unwrap()
}

/// Asks until what stands before the change is applied.
pub(crate) async fn resume(running: &Running) -> Result<Resumed, ResumeError> {
    let desk = desk(running);
    eventually(SETTLED, "everything before the change is applied", async || {
        match desk.resume(None, "ann", "the other side has followed").await {
            Err(ResumeError::NotYet(why)) => Err(why),
            other => Ok(other),
        }
    })
    .await
}

/// Waits until everything before the change is applied: from then on the other side may lose what rows of before have.
pub(crate) async fn drained(shop: &Shop) {
    let place = "SELECT drained::text FROM banyan.schema_change WHERE state = 'paused'";
    let drained = shop.legacy.text(place).await.unwrap();
    let applied = format!("banyan.position WHERE flow = 'legacy_to_modern' AND applied >= '{drained}'");
    eventually(SETTLED, "everything before the change is applied", async || shop.modern.count(&applied).await == 1)
        .await;
}

pub(crate) async fn copies(shop: &Shop) -> i64 {
    shop.legacy
        .number("SELECT number FROM banyan.snapshot WHERE source_table = 'public.items' AND flow = 'legacy_to_modern'")
        .await
}

/// Ends the writer; then both sides are equal, nothing is parked, and nothing came twice.
pub(crate) async fn ends_well(shop: &Shop, running: &Running, writer: JoinHandle<()>) {
    writer.abort();
    drop(writer.await);
    eventually(SETTLED, "both sides are equal", async || shop.equal().await).await;
    eventually(SETTLED, "the flow applies", async || {
        let flow = running.status().flows.remove(0);
        if flow.state == State::Applying { Ok(()) } else { Err(format!("{flow:#?}")) }
    })
    .await;
    until_equal(shop).await;
    let status = running.status();
    assert_eq!((status.flows[0].parked, status.flows[1].violations), (Some(0), 0), "{status:#?}");
    assert!(shop.legacy.count("other").await > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_column_that_is_null_throughout_flows_on_where_the_other_side_has_it() {
    let (shop, running) = streaming().await;
    let writer = writer(&shop).await;
    shop.modern.batch("ALTER TABLE items ADD COLUMN note text").await;
    shop.legacy.batch("ALTER TABLE items ADD COLUMN note text; INSERT INTO items VALUES (500000, 1, 'x', 'new')").await;
    eventually(SETTLED, "a row with the new column is there", async || {
        shop.modern.count("items WHERE note = 'new'").await == 1
    })
    .await;
    ends_well(&shop, &running, writer).await;
    assert_eq!(copies(&shop).await, 1);
    let taken = "SELECT state || ' ' || what FROM banyan.schema_change WHERE flow = 'legacy_to_modern'";
    assert_eq!(shop.legacy.lines(taken).await, ["taken it has a new column `note` (text)"]);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_constant_default_on_both_sides_flows_on_and_another_is_copied_again() {
    for (modern, copied) in [("7", 1), ("8", 2)] {
        let (shop, running) = streaming().await;
        let writer = writer(&shop).await;
        shop.modern.batch(&format!("ALTER TABLE items ADD COLUMN c int NOT NULL DEFAULT {modern}")).await;
        shop.legacy
            .batch(
                "ALTER TABLE items ADD COLUMN c int NOT NULL DEFAULT 7; INSERT INTO items VALUES (500000, 1, 'x', 9)",
            )
            .await;
        eventually(SETTLED, "a row with the new column is there", async || {
            shop.modern.count("items WHERE c = 9").await == 1
        })
        .await;
        ends_well(&shop, &running, writer).await;
        assert_eq!(copies(&shop).await, copied, "default {modern}");
        assert_eq!(shop.modern.count("items WHERE c NOT IN (7, 9)").await, 0);
        running.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_column_whose_values_no_event_tells_is_copied_again_by_itself() {
    let (shop, running) = streaming().await;
    let writer = writer(&shop).await;
    shop.modern.batch("ALTER TABLE items ADD COLUMN made double precision").await;
    // Each row gets a value of its own.
    shop.legacy.batch("ALTER TABLE items ADD COLUMN made double precision DEFAULT random()").await;
    eventually(SETTLED, "the values are there", async || shop.modern.count("items WHERE made IS NOT NULL").await > 200)
        .await;
    ends_well(&shop, &running, writer).await;
    assert_eq!(copies(&shop).await, 2);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_column_with_values_of_a_table_that_nobody_writes_is_noticed_all_the_same() {
    let (shop, running) = streaming().await;
    shop.modern.batch("ALTER TABLE items ADD COLUMN c int").await;
    shop.legacy.batch("ALTER TABLE items ADD COLUMN c int DEFAULT 7").await;
    eventually(SETTLED, "the values are there", async || shop.modern.count("items WHERE c = 7").await == 200).await;
    assert_eq!(copies(&shop).await, 2);
    // What pauses the flow waits for a row.
    shop.legacy.batch("ALTER TABLE items DROP COLUMN c").await;
    shop.legacy.batch("INSERT INTO other VALUES (1, 'flows on')").await;
    eventually(SETTLED, "another table flows on", async || shop.modern.count("other").await == 1).await;
    running.until(LEGACY_OWNS).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_changes_in_the_middle_of_its_copy_ends_equal() {
    let shop = Shop::with(DDL, &["public.items", "public.other"]).await;
    shop.legacy.batch("INSERT INTO items SELECT n, n, 'old' FROM generate_series(1, 4000) AS n").await;
    let keys = json!({"snapshot": {"chunk": 100, "rows_per_second": 1000}});
    let running = Running::start(&shop, "legacy", &keys);
    eventually(SETTLED, "a part is copied", async || shop.modern.count("items").await > 500).await;
    shop.modern.batch("ALTER TABLE items ADD COLUMN c int").await;
    shop.legacy.batch("ALTER TABLE items ADD COLUMN c int DEFAULT 7; UPDATE items SET a = -1 WHERE id = 3").await;
    eventually(SETTLED, "a part has come with it", async || shop.modern.count("items WHERE c = 7").await > 500).await;
    assert!(shop.modern.count("items WHERE c = 7").await < 4_000);
    // The chunks cannot be read as they were; nothing else tells of it.
    shop.legacy.batch("ALTER TABLE items DROP COLUMN a").await;
    let why = paused(&running).await;
    assert!(why.contains("column `a` was dropped"), "{why}");
    resume(&running).await.unwrap();
    eventually(SETTLED, "the copy ends", async || running.status().flows[0].state == State::Applying).await;
    shop.modern.batch("ALTER TABLE items DROP COLUMN a").await;
    shop.legacy.batch("INSERT INTO other VALUES (1, 'w')").await;
    eventually(SETTLED, "both sides are equal", async || shop.equal().await).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_column_that_the_other_side_lacks_pauses_the_flow_until_it_is_there() {
    let (shop, running) = streaming().await;
    let writer = writer(&shop).await;
    shop.legacy.batch("ALTER TABLE items ADD COLUMN secret text DEFAULT 'hunter2'").await;
    let why = paused(&running).await;
    assert!(why.starts_with("public.items at ") && why.contains("has a new column `secret` (text)"), "{why}");
    assert!(why.contains("add it: secret text") && why.contains("banyan sync resume shop"), "{why}");
    assert!(!why.contains("hunter2"), "{why}");
    let error = resume(&running).await.unwrap_err();
    assert!(matches!(&error, ResumeError::Unfit { table, .. } if table == "public.items"), "{error}");
    assert!(error.to_string().contains("has no column `secret`"), "{error}");
    // What stands before the change is there, and nothing behind it; the other flow is untouched.
    assert_eq!(running.status().flows[1].state, State::Watching);
    let before = shop.modern.count("items").await;
    tokio::time::sleep(secs(1)).await;
    assert_eq!(shop.modern.count("items").await, before);
    shop.modern.batch("ALTER TABLE items ADD COLUMN secret text DEFAULT 'hunter2'").await;
    let other = desk(&running).resume(Some("public.other"), "ann", "").await.unwrap_err();
    assert!(other.to_string().contains("but for `public.items`"), "{other}");
    let resumed = resume(&running).await.unwrap();
    assert_eq!((resumed.state.as_str(), resumed.copied_again, resumed.next), ("taken", false, None));
    ends_well(&shop, &running, writer).await;
    let kept =
        shop.legacy.lines("SELECT state, who, why FROM banyan.schema_change WHERE flow = 'legacy_to_modern'").await;
    assert_eq!(kept, ["taken|ann|the other side has followed"]);
    assert!(matches!(desk(&running).resume(None, "ann", "").await, Err(ResumeError::NotPaused(_))));
    running.stop().await;
}

/// A change of the owner's table, how the flow tells of it, what the other side must do, and whether its rows come again.
async fn pauses(change: &str, says: &str, unfit: Option<&str>, follow: &str, copied_again: bool) {
    let (shop, running) = streaming().await;
    let writer = writer(&shop).await;
    shop.legacy.batch(change).await;
    let why = paused(&running).await;
    assert!(why.starts_with("public.items at ") && why.contains(says), "{change}: {why}");
    if let Some(unfit) = unfit {
        let error = resume(&running).await.unwrap_err().to_string();
        assert!(error.contains(unfit), "{change}: {error}");
        assert_eq!(running.status().flows[0].state, State::Paused, "{change}");
    }
    drained(&shop).await;
    shop.modern.batch(follow).await;
    let resumed = resume(&running).await.unwrap();
    assert_eq!((resumed.state.as_str(), resumed.copied_again), ("taken", copied_again), "{change}");
    ends_well(&shop, &running, writer).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_column_pauses_the_flow_and_needs_no_copy() {
    let drop = "ALTER TABLE items DROP COLUMN a";
    pauses(drop, "column `a` was dropped", None, drop, false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renamed_column_pauses_the_flow_and_needs_no_copy_when_the_other_side_renames_it_too() {
    let rename = "ALTER TABLE items RENAME COLUMN b TO label";
    pauses(rename, "column `b` is now called `label`", Some("has no column `label`"), rename, false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_column_that_took_the_place_of_another_is_copied_again() {
    let (shop, running) = streaming().await;
    let writer = writer(&shop).await;
    // In the log it looks like a renamed one.
    shop.legacy
        .batch("BEGIN; ALTER TABLE items DROP COLUMN b; ALTER TABLE items ADD COLUMN label text DEFAULT 'all'; COMMIT")
        .await;
    paused(&running).await;
    drained(&shop).await;
    shop.modern.batch("ALTER TABLE items RENAME COLUMN b TO label").await;
    assert!(resume(&running).await.unwrap().copied_again);
    ends_well(&shop, &running, writer).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_column_of_another_type_pauses_the_flow_and_is_copied_again() {
    let retype = "ALTER TABLE items ALTER COLUMN a TYPE numeric(12,2) USING a / 100.0";
    let says = "column `a` is now numeric(12,2), was integer";
    let follow = "ALTER TABLE items ALTER COLUMN a TYPE numeric(12,2)";
    pauses(retype, says, Some("`a` is integer, and not all that numeric(12,2) holds fits there"), follow, true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_is_dropped_pauses_the_flow_and_goes_on_when_it_is_back() {
    let (shop, running) = streaming().await;
    let writer = writer(&shop).await;
    shop.legacy
        .batch("ALTER TABLE items DROP CONSTRAINT items_pkey; INSERT INTO items VALUES (600000, 1, 'keyless')")
        .await;
    let why = paused(&running).await;
    assert!(why.contains("it has no key"), "{why}");
    shop.legacy.batch("ALTER TABLE items ADD PRIMARY KEY (id); INSERT INTO items VALUES (600001, 1, 'keyed')").await;
    assert!(!resume(&running).await.unwrap().copied_again);
    eventually(SETTLED, "both rows are there", async || shop.modern.count("items WHERE b LIKE 'key%'").await == 2)
        .await;
    writer.abort();
    until_equal(&shop).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_amid_the_rows_of_its_transaction_is_carried_whole() {
    let (shop, running) = streaming().await;
    let writer = writer(&shop).await;
    shop.legacy
        .batch(
            "BEGIN; INSERT INTO items VALUES (700000, 1, 'before'); UPDATE items SET a = -1 WHERE id = 7; \
             ALTER TABLE items DROP COLUMN a; INSERT INTO items VALUES (700001, 'behind'); \
             ALTER TABLE items ADD COLUMN c int; INSERT INTO items VALUES (700002, 'last', 3); COMMIT",
        )
        .await;
    let why = paused(&running).await;
    assert!(why.contains("column `a` was dropped"), "{why}");
    drained(&shop).await;
    // Rows from before the change must still fit.
    shop.modern.batch("ALTER TABLE items DROP COLUMN a").await;
    let error = resume(&running).await.unwrap_err().to_string();
    assert!(error.contains("the same transaction has rows from before the change") && error.contains("`a`"), "{error}");
    shop.modern.batch("ALTER TABLE items ADD COLUMN a int, ADD COLUMN c int").await;
    let resumed = resume(&running).await.unwrap();
    assert_eq!(resumed.state, "taken");
    eventually(SETTLED, "the last row is there", async || {
        shop.modern.count("items WHERE id IN (700000, 700001, 700002)").await == 3
    })
    .await;
    writer.abort();
    drop(writer.await);
    shop.modern.batch("ALTER TABLE items DROP COLUMN a").await;
    eventually(SETTLED, "both sides are equal", async || shop.equal().await).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_changes_while_it_waits_are_two_pauses() {
    let (shop, running) = streaming().await;
    let writer = writer(&shop).await;
    shop.legacy.batch("ALTER TABLE items DROP COLUMN a; INSERT INTO items VALUES (800000, 'one')").await;
    paused(&running).await;
    drained(&shop).await;
    shop.legacy.batch("ALTER TABLE items RENAME COLUMN b TO label; INSERT INTO items VALUES (800001, 'two')").await;
    shop.modern.batch("ALTER TABLE items DROP COLUMN a").await;
    let resumed = resume(&running).await.unwrap();
    assert!(resumed.change.contains("`a` was dropped"), "{resumed:?}");
    let why = eventually(SETTLED, "it waits again", async || {
        running.status().flows[0]
            .last_error
            .clone()
            .filter(|why| why.contains("is now called `label`"))
            .ok_or("not yet")
    })
    .await;
    assert!(why.starts_with("public.items at "), "{why}");
    drained(&shop).await;
    assert_eq!(shop.modern.count("items WHERE b = 'one'").await, 1, "all before the second change is there");
    shop.modern.batch("ALTER TABLE items RENAME COLUMN b TO label").await;
    resume(&running).await.unwrap();
    ends_well(&shop, &running, writer).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_side_that_is_closed_for_writes_may_change_at_any_time() {
    let (shop, running) = streaming().await;
    let writer = writer(&shop).await;
    shop.modern
        .batch("ALTER TABLE items ADD COLUMN extra int; ALTER TABLE items ADD COLUMN more text DEFAULT 'm'")
        .await;
    let at = shop.modern.count("other").await;
    eventually(SETTLED, "rows flow on", async || shop.modern.count("other").await > at + 20).await;
    shop.modern.batch("ALTER TABLE items DROP COLUMN extra, DROP COLUMN more").await;
    ends_well(&shop, &running, writer).await;
    assert_eq!(running.status().flows[1].state, State::Watching);
    running.stop().await;
    // The change is not met anew after a restart.
    let running = Running::start(&shop, "legacy", &json!({}));
    running.until(LEGACY_OWNS).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_from_before_that_no_longer_fits_stops_the_flow_which_goes_on_when_it_does() {
    let (shop, running) = streaming().await;
    // Too early: rows that have it are still to come.
    shop.modern.batch("ALTER TABLE items RENAME COLUMN b TO label").await;
    shop.legacy.batch("INSERT INTO items VALUES (900000, 1, 'early')").await;
    eventually(SETTLED, "the flow stops", async || running.status().flows[0].state == State::Stopped).await;
    let why = running.status().flows[0].last_error.clone().unwrap();
    assert!(why.contains("the target has no column `b`") && !why.contains("early"), "{why}");
    shop.modern.batch("ALTER TABLE items RENAME COLUMN label TO b").await;
    running.until(LEGACY_OWNS).await;
    until_equal(&shop).await;
    running.stop().await;
}

#[tokio::test]
async fn killed_while_it_waits_and_when_it_goes_on_nothing_is_lost() {
    let shop = Shop::with(DDL, &["public.items", "public.other"]).await;
    shop.legacy.batch("INSERT INTO items SELECT n, n, 'old' FROM generate_series(1, 200) AS n").await;
    let mut banyan = Banyan::with(&shop.file("legacy")).start().await;
    banyan.flow_state("shop", "legacy_to_modern", &["applying"], SETTLED).await;
    let writer = writer(&shop).await;
    let rename = "ALTER TABLE items RENAME COLUMN b TO label";
    shop.legacy
        .batch(&format!(
            "BEGIN; UPDATE other SET word = 'x'; {rename}; INSERT INTO items VALUES (950000, 1, 'new'); COMMIT"
        ))
        .await;
    banyan.flow_state("shop", "legacy_to_modern", &["paused"], SETTLED).await;
    banyan.kill();
    banyan.start_again().await;
    banyan.flow_state("shop", "legacy_to_modern", &["paused"], SETTLED).await;
    assert_eq!(
        banyan.metrics().await.sum("banyan_sync_state", &[("flow", "legacy_to_modern"), ("state", "paused")]),
        1.0
    );
    let said = |output: std::process::Output| {
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
    };
    let status = said(banyan.verb(&["status"]));
    assert!(status.contains("paused") && status.contains("column `b` is now called `label`"), "{status}");
    let asked = eventually(SETTLED, "all before is applied", async || {
        let asked = banyan.verb(&["sync", "resume", "shop"]);
        let text = said(asked.clone());
        if text.contains("still on their way") { Err(text) } else { Ok(asked) }
    })
    .await;
    assert_eq!(asked.status.code(), Some(1));
    assert!(said(asked).contains("has no column `label`"));
    drained(&shop).await;
    shop.modern.batch(rename).await;
    let asked = banyan.verb(&["sync", "resume", "shop", "--reason", "renamed there, too"]);
    banyan.kill();
    assert_eq!(asked.status.code(), Some(0), "{}", said(asked));
    assert_eq!(said(asked), "public.items: goes on\n");
    banyan.start_again().await;
    banyan.flow_state("shop", "legacy_to_modern", &["applying"], SETTLED).await;
    writer.abort();
    drop(writer.await);
    eventually(SETTLED, "both sides are equal", async || shop.equal().await).await;
    let log = banyan.log();
    assert!(log.contains("asked to go on behind a change of a table") && log.contains("admin.token"), "{log}");
    assert!(!log.contains("'new'"), "{log}");
}

/// Compares both sides of every table; whether they are equal.
async fn verified_equal(running: &Running) -> bool {
    let options = banyan_connectors::verify::Options::default();
    let outcome = banyan_connectors::verify::run(&running.config, "shop", &options, &mut |_| {}).await.unwrap();
    outcome.tables.values().all(|counts| counts.unequal() == 0 && counts.undecided == 0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_in_new_files_ask_to_be_verified_and_an_emptied_table_does_not() {
    let (shop, running) = streaming().await;
    let writer = writer(&shop).await;
    // Each row has another value now, and no event says so.
    shop.legacy.batch("ALTER TABLE items ALTER COLUMN a TYPE int USING a + 1").await;
    let asks = async || {
        let asked = running.status().flows[0].needs_verify.clone();
        if asked == ["public.items"] { Ok(()) } else { Err(asked) }
    };
    eventually(SETTLED, "the table asks to be verified", asks).await;
    let line = "banyan_sync_needs_verify{flow=\"legacy_to_modern\",sync=\"shop\"} 1";
    assert!(running.metrics().contains(line), "{}", running.metrics());
    assert!(!verified_equal(&running).await, "the values differ");
    eventually(SETTLED, "it still asks", asks).await;
    let desk =
        banyan_connectors::SnapshotDesk::new("shop", &running.config.syncs["shop"], &running.config.install).unwrap();
    desk.ask("public.items", "ann", "written anew").await.unwrap();
    let quiet = async || running.status().flows[0].needs_verify.is_empty();
    eventually(SETTLED, "the copy has mended it", quiet).await;
    shop.legacy.batch("VACUUM FULL items").await;
    eventually(SETTLED, "it asks again", asks).await;
    writer.abort();
    drop(writer.await);
    eventually(SETTLED, "both sides are equal", async || shop.equal().await).await;
    assert!(verified_equal(&running).await);
    eventually(SETTLED, "being verified it asks no more", quiet).await;
    shop.legacy.batch("TRUNCATE items; INSERT INTO items VALUES (1, 1, 'again')").await;
    until_equal(&shop).await;
    let files = "SELECT facts -> 'public.items' ->> 'files' FROM banyan.capture WHERE flow = 'legacy_to_modern'";
    let now = "SELECT pg_relation_filenode('items')::text";
    eventually(SETTLED, "the new file is known", async || {
        let (noted, now) = (shop.legacy.text(files).await.unwrap(), shop.legacy.text(now).await.unwrap());
        noted.contains(&now)
    })
    .await;
    assert!(quiet().await);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partitions_that_come_and_go_with_rows_are_copied_again_and_new_ones_are_not() {
    let ddl = "CREATE TABLE parts (id bigint PRIMARY KEY, word text) PARTITION BY RANGE (id); \
         CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (1000); \
         CREATE TABLE parts_2 PARTITION OF parts FOR VALUES FROM (1000) TO (2000)";
    let shop = Shop::with(ddl, &["public.parts"]).await;
    shop.legacy.batch("INSERT INTO parts SELECT n, 'old' FROM generate_series(500, 1500) AS n").await;
    let running = Running::start(&shop, "legacy", &json!({}));
    running.until(LEGACY_OWNS).await;
    until_equal(&shop).await;
    let copies =
        async || shop.legacy.number("SELECT number FROM banyan.snapshot WHERE flow = 'legacy_to_modern'").await;
    let known = async |part: &str| {
        let is_known = format!(
            "SELECT jsonb_exists(facts -> 'public.parts' -> 'files', '{part}'::regclass::oid::text) FROM banyan.capture WHERE flow = 'legacy_to_modern'"
        );
        shop.legacy.text(&is_known).await.as_deref() == Some("t")
    };
    let new = "CREATE TABLE parts_3 PARTITION OF parts FOR VALUES FROM (2000) TO (3000)";
    shop.modern.batch(new).await;
    shop.legacy.batch(&format!("SET ROLE shop; {new}; RESET ROLE; INSERT INTO parts VALUES (2500, 'new')")).await;
    until_equal(&shop).await;
    eventually(SETTLED, "the new partition is known", async || known("parts_3").await).await;
    assert_eq!(copies().await, 1);
    // Rows that go without an event.
    shop.legacy.batch("ALTER TABLE parts DETACH PARTITION parts_1").await;
    eventually(SETTLED, "they go there, too", async || shop.modern.count("parts WHERE id < 1000").await == 0).await;
    until_equal(&shop).await;
    assert_eq!(copies().await, 2);
    // Rows that come without one.
    shop.legacy.batch("ALTER TABLE parts ATTACH PARTITION parts_1 FOR VALUES FROM (0) TO (1000)").await;
    eventually(SETTLED, "they come", async || shop.modern.count("parts WHERE id < 1000").await == 500).await;
    until_equal(&shop).await;
    assert_eq!(copies().await, 3);
    shop.legacy.batch("TRUNCATE parts; INSERT INTO parts VALUES (1, 'last')").await;
    until_equal(&shop).await;
    running.until(LEGACY_OWNS).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leaf_that_the_file_names_is_a_table_of_its_own() {
    let ddl = "CREATE TABLE parts (id bigint PRIMARY KEY, word text) PARTITION BY RANGE (id); \
         CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (1000); \
         CREATE TABLE parts_2 PARTITION OF parts FOR VALUES FROM (1000) TO (2000)";
    let shop = Shop::with(ddl, &["public.parts_1"]).await;
    shop.legacy.batch("INSERT INTO parts SELECT n, 'old' FROM generate_series(500, 1500) AS n").await;
    let running = Running::start(&shop, "legacy", &json!({}));
    running.until(LEGACY_OWNS).await;
    shop.legacy.batch("UPDATE parts SET word = 'new' WHERE id IN (500, 1500); TRUNCATE parts_2; UPDATE parts SET id = id + 500 WHERE id = 501").await;
    until_equal(&shop).await;
    assert_eq!((shop.modern.count("parts_1").await, shop.modern.count("parts_2").await), (499, 0));
    shop.legacy.batch("TRUNCATE parts").await;
    until_equal(&shop).await;
    // The column comes to the leaf with its root.
    shop.modern.batch("ALTER TABLE parts ADD COLUMN note text").await;
    shop.legacy.batch("ALTER TABLE parts ADD COLUMN note text; INSERT INTO parts VALUES (7, 'w', 'n')").await;
    until_equal(&shop).await;
    running.until(LEGACY_OWNS).await;
    running.stop().await;
}
