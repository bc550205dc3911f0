//! Tables that change in mid-stream and whose columns the file maps: one that has another name on the other side, and one that stays on its side.

use serde_json::json;

use crate::{
    data_basic::{Running, until_equal},
    data_schema::{DDL, LEGACY_OWNS, SETTLED, copies, drained, ends_well, paused, resume, writer},
    harness::{Shop, eventually},
};

/// The file's keys for `items` with what it says of its columns.
fn tables(key: &str, value: &serde_json::Value) -> serde_json::Value {
    json!({"tables": [{"legacy": "public.items", "modern": "public.items", key: value}, "public.other"]})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renamed_column_is_followed_by_the_name_that_it_has_on_the_other_side() {
    let shop = Shop::with(DDL, &["public.items", "public.other"]).await;
    shop.modern.batch("ALTER TABLE items RENAME COLUMN a TO amount").await;
    shop.legacy.batch("INSERT INTO items SELECT n, n, 'old' FROM generate_series(1, 200) AS n").await;
    let sync = |keys: &serde_json::Value| Running::start(&shop, "legacy", keys);
    let running = sync(&tables("rename", &json!({"a": "amount"})));
    running.until(LEGACY_OWNS).await;
    until_equal(&shop).await;
    let writer = writer(&shop).await;

    // Another type: the other side has to follow, and rows come again.
    shop.legacy.batch("ALTER TABLE items ALTER COLUMN a TYPE numeric(12,2) USING a / 100.0").await;
    let why = paused(&running).await;
    assert!(why.contains("column `a` is now numeric(12,2), was integer"), "{why}");
    let error = resume(&running).await.unwrap_err().to_string();
    assert!(error.contains("`amount` is integer, and not all that numeric(12,2) holds fits there"), "{error}");
    drained(&shop).await;
    shop.modern.batch("ALTER TABLE items ALTER COLUMN amount TYPE numeric(12,2)").await;
    assert!(resume(&running).await.unwrap().copied_again);
    eventually(SETTLED, "both sides are equal", async || shop.equal().await).await;
    assert_eq!(copies(&shop).await, 2);

    // A column beside it flows on.
    shop.modern.batch("ALTER TABLE items ADD COLUMN note text").await;
    shop.legacy.batch("ALTER TABLE items ADD COLUMN note text; INSERT INTO items VALUES (500000, 1, 'x', 'new')").await;
    eventually(SETTLED, "a row with the new column is there", async || {
        shop.modern.count("items WHERE note = 'new' AND amount = 1").await == 1
    })
    .await;
    assert_eq!(copies(&shop).await, 2);

    // Another name in the source: the file has to follow.
    shop.legacy.batch("ALTER TABLE items RENAME COLUMN a TO sum").await;
    let why = paused(&running).await;
    assert!(why.contains("column `a` is now called `sum`"), "{why}");
    let error = resume(&running).await.unwrap_err().to_string();
    assert!(error.contains("`amount` is to take `a`") && error.contains("correct `rename` of this table"), "{error}");
    drained(&shop).await;
    running.stop().await;
    let running = sync(&tables("rename", &json!({"sum": "amount"})));
    assert!(paused(&running).await.contains("column `a` is now called `sum`"));
    assert_eq!(resume(&running).await.unwrap().state, "taken");
    ends_well(&shop, &running, writer).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_column_that_stays_on_its_side_may_change_in_any_way() {
    let shop = Shop::with(DDL, &["public.items", "public.other"]).await;
    shop.legacy.batch("ALTER TABLE items ADD COLUMN own int, ADD COLUMN once int").await;
    shop.legacy.batch("INSERT INTO items SELECT n, n, 'old', n FROM generate_series(1, 200) AS n").await;
    let keys = tables("leave_out", &json!({"legacy": ["own", "once", "late"]}));
    let running = Running::start(&shop, "legacy", &keys);
    running.until(LEGACY_OWNS).await;
    let writer = writer(&shop).await;
    let mut rows = 500_000;
    let mut flows_on = async |change: &str| {
        rows += 1;
        let row = format!("items WHERE id = {rows}");
        shop.legacy.batch(&format!("{change}; INSERT INTO items (id, b) VALUES ({rows}, 'behind')")).await;
        eventually(SETTLED, change, async || shop.modern.count(&row).await == 1).await;
    };
    flows_on("ALTER TABLE items ALTER COLUMN own TYPE numeric(9,2)").await;
    // All rows were written anew: what else that changed no event tells.
    eventually(SETTLED, "it asks to be verified", async || running.status().flows[0].needs_verify == ["public.items"])
        .await;
    flows_on("ALTER TABLE items ADD COLUMN late text NOT NULL DEFAULT 'late'").await;
    flows_on("ALTER TABLE items DROP COLUMN once").await;
    flows_on("ALTER TABLE items DROP COLUMN own").await;
    // It looks as it did.
    flows_on("ALTER TABLE items DROP COLUMN late; ALTER TABLE items ADD COLUMN late text NOT NULL DEFAULT 'again'")
        .await;
    let count = "SELECT facts -> 'public.items' ->> 'count' FROM banyan.capture WHERE flow = 'legacy_to_modern'";
    eventually(SETTLED, "that was noticed", async || shop.legacy.text(count).await.as_deref() == Some("7")).await;
    let met = "SELECT state, what FROM banyan.schema_change WHERE flow = 'legacy_to_modern' AND state <> 'unverified' ORDER BY id";
    let told = [
        "taken|column `own` is now numeric(9,2), was integer",
        "taken|it has a new column `late` (text)",
        "taken|column `once` was dropped",
        "taken|column `own` was dropped",
    ];
    assert_eq!(shop.legacy.lines(met).await, told);

    // What is sent is judged as ever.
    shop.modern.batch("ALTER TABLE items ADD COLUMN note text").await;
    flows_on("ALTER TABLE items ADD COLUMN note text").await;
    assert_eq!(copies(&shop).await, 1);
    shop.legacy.batch("ALTER TABLE items DROP COLUMN late, DROP COLUMN a").await;
    let why = paused(&running).await;
    assert!(why.contains("column `a` was dropped"), "{why}");
    drained(&shop).await;
    shop.modern.batch("ALTER TABLE items DROP COLUMN a").await;
    assert!(!resume(&running).await.unwrap().copied_again);
    ends_well(&shop, &running, writer).await;
    assert_eq!(copies(&shop).await, 1);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_column_flows_on_where_only_some_rows_are_the_sync_s() {
    let shop = Shop::with(DDL, &["public.items", "public.other"]).await;
    for side in [&shop.legacy, &shop.modern] {
        side.batch("ALTER TABLE items REPLICA IDENTITY FULL").await;
    }
    let rows =
        "INSERT INTO items SELECT n, n, CASE WHEN n % 2 = 0 THEN 'in' ELSE 'out' END FROM generate_series(1, 200) AS n";
    shop.legacy.batch(rows).await;
    let running = Running::start(&shop, "legacy", &tables("rows", &json!({"b": ["in"]})));
    running.until(LEGACY_OWNS).await;
    assert_eq!(shop.modern.count("items").await, 100);
    // The other side's own row has a value there.
    shop.modern
        .batch("ALTER TABLE items ADD COLUMN note text; INSERT INTO items VALUES (-1, 1, 'theirs', 'own')")
        .await;
    shop.legacy.batch("ALTER TABLE items ADD COLUMN note text; INSERT INTO items VALUES (500, 1, 'in', 'new')").await;
    eventually(SETTLED, "a row with the new column is there", async || {
        shop.modern.count("items WHERE note = 'new'").await == 1
    })
    .await;
    shop.legacy.batch("UPDATE items SET note = 'all'").await;
    eventually(SETTLED, "the others are changed", async || shop.modern.count("items WHERE note = 'all'").await == 101)
        .await;
    assert_eq!(shop.modern.lines("SELECT * FROM items WHERE b <> 'in'").await, ["-1|1|theirs|own"]);
    assert_eq!(copies(&shop).await, 1);
    running.until(LEGACY_OWNS).await;
    running.stop().await;
}
