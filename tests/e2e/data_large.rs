//! A large table: memory does not grow with it, and a copy that was killed in the middle does not begin anew.
//!
//! `BANYAN_TEST_ROWS=10000000 ./tests/run a_large_table` is the real thing; without, it is as large as a test may be.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::{
    data_basic::Running,
    data_faults::resident,
    harness::{Banyan, Shop, eventually, secs},
};

const DDL: &str = "CREATE TABLE events (id bigint PRIMARY KEY, account int NOT NULL, amount numeric(12,2) NOT NULL, note text, at timestamptz NOT NULL)";
/// What a database says of all rows at once.
const SUM: &str = "SELECT count(*) || ' ' || coalesce(sum(hashtextextended(e::text, 0)), 0) FROM events e";
/// Bytes that Banyan may hold of rows.
const BUDGET: &str = "64MiB";

fn rows() -> i64 {
    let given = std::env::var("BANYAN_TEST_ROWS").ok();
    given.map_or(150_000, |rows| rows.parse().expect("BANYAN_TEST_ROWS is a number"))
}

#[tokio::test]
async fn a_large_table_is_copied_in_flat_memory_and_goes_on_after_a_kill() {
    let rows = rows();
    let patience = Duration::from_secs(60 + u64::try_from(rows / 5_000).unwrap());
    let shop = Shop::with(DDL, &["public.events"]).await;
    shop.legacy
        .batch(&format!(
            "INSERT INTO events SELECT n, n % 1000, n / 100.0, CASE WHEN n % 3 > 0 THEN md5(n::text) END, '2026-01-01'::timestamptz + n * interval '1 s' \
             FROM generate_series(1, {rows}) AS n; ANALYZE events"
        ))
        .await;
    let file = format!("memory: {BUDGET}\n{}", shop.file("legacy"));
    let mut banyan = Banyan::with(&file).start().await;
    let (begun, before) = (Instant::now(), resident(&banyan));
    let sent = "SELECT coalesce((SELECT rows FROM banyan.snapshot), 0)";
    let mut most = [before; 2];
    eventually(patience, "half of the table stands in Kafka", async || {
        most[0] = most[0].max(resident(&banyan));
        shop.legacy.number("SELECT count(*) FROM pg_tables WHERE tablename = 'snapshot'").await == 1
            && shop.legacy.number(sent).await >= rows / 2
    })
    .await;
    banyan.kill();
    let by_then = shop.legacy.number(sent).await;
    assert!(by_then < rows, "the copy was over before it was killed");
    banyan.start_again().await;
    eventually(patience, "the table is loaded", async || {
        most[1] = most[1].max(resident(&banyan));
        shop.modern.number("SELECT count(*) FROM pg_tables WHERE tablename = 'loading'").await == 1
            && shop.legacy.number("SELECT count(*) FROM banyan.snapshot WHERE state = 'loaded'").await == 1
            && shop.modern.count("banyan.loading").await == 0
    })
    .await;
    let took = begun.elapsed();
    assert_eq!(shop.legacy.text(SUM).await, shop.modern.text(SUM).await);
    let read = shop.legacy.number(sent).await;
    println!(
        "{rows} rows in {took:.1?}; {read} read, {by_then} before the kill; {before} MiB before, {} and {} MiB at most before and behind it",
        most[0], most[1]
    );
    // What was read ahead, and not noted yet, is read again: a few chunks of ten thousand.
    assert!(read <= rows + 60_000, "{read} rows were read");
    let generations = "SELECT generation FROM banyan.capture WHERE flow = 'legacy_to_modern'";
    assert_eq!(shop.legacy.number(generations).await, 1);
    // The budget, and what allocators and librdkafka's own buffers hold beside it.
    assert!(most.iter().all(|most| *most < before + 96), "{before} MiB before, {most:?} MiB at most");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_as_large_as_the_file_allows_goes_through_however_little_memory_there_is_for_it() {
    let ddl = "CREATE TABLE rows (id bigint PRIMARY KEY, word text); \
               CREATE TABLE outbox (id bigint PRIMARY KEY, aggregatetype text, aggregateid text, type text, payload text)";
    let mut shop = Shop::with(ddl, &["public.rows"]).await;
    // A third of 32 MiB is what the flow has for its queue of rows and events.
    shop.kafka = json!({"topics": {"max_record": "32MiB"}});
    let running = Running::start(&shop, "legacy", &json!({"outbox": {"legacy": "public.outbox"}}));
    running.until([banyan_connectors::State::Applying, banyan_connectors::State::Watching]).await;
    shop.legacy.batch("INSERT INTO rows SELECT n, repeat(md5(n::text), 400000) FROM generate_series(1, 3) n").await;
    shop.legacy.batch("INSERT INTO outbox VALUES (1, 'large', '1', 't', repeat('e', 12000000))").await;
    shop.legacy
        .batch("UPDATE rows SET word = repeat(word, 2) WHERE id = 2; INSERT INTO rows VALUES (4, 'behind')")
        .await;
    eventually(secs(60), "both sides are equal", async || shop.equal().await).await;
    assert_eq!(shop.modern.count("rows").await, 4);
    running.stop().await;
}
