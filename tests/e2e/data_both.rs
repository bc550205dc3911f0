//! Two flows at once: violations, both databases in one server, and a random workload through sudden ends.

use banyan_connectors::State;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use serde_json::json;
use tokio_postgres::Client;

use crate::{
    data_basic::{Running, until_equal},
    harness::{Database, Kafka, Postgres, Shop, eventually, secs},
};

const LEGACY_OWNS: [State; 2] = [State::Applying, State::Watching];

/// Every change of a row takes the next number, so that a change that is applied twice shows.
const ITEMS: &str = "
CREATE SEQUENCE change;
CREATE TABLE items (id bigint PRIMARY KEY, change bigint NOT NULL DEFAULT nextval('change'), body text, big text);
CREATE TABLE notes (item bigint, line int, change bigint NOT NULL DEFAULT nextval('change'), body text, PRIMARY KEY (item, line));
CREATE TABLE audit (op text, source text, change bigint);
CREATE FUNCTION audit() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
  IF TG_OP = 'DELETE' THEN INSERT INTO public.audit VALUES (TG_OP, TG_TABLE_NAME, OLD.change);
  ELSE INSERT INTO public.audit VALUES (TG_OP, TG_TABLE_NAME, NEW.change); END IF;
  RETURN NULL;
END $$;
";

/// Fires for what an applier writes, too.
const AUDITED: &str = "
CREATE TRIGGER audit AFTER INSERT OR UPDATE OR DELETE ON items FOR EACH ROW EXECUTE FUNCTION audit();
CREATE TRIGGER audit AFTER INSERT OR UPDATE OR DELETE ON notes FOR EACH ROW EXECUTE FUNCTION audit();
ALTER TABLE items ENABLE ALWAYS TRIGGER audit;
ALTER TABLE notes ENABLE ALWAYS TRIGGER audit;
";

/// One random transaction; some end in a rollback, some stay open for a while.
async fn transaction(client: &Client, random: &mut StdRng) {
    client.batch_execute("BEGIN").await.unwrap();
    let mut failed = false;
    for _ in 0..random.random_range(1..12) {
        let (id, other) = (random.random_range(0..400), random.random_range(0..400));
        let body = format!("'{}'", "x\ty\\z\"".repeat(random.random_range(0..4)));
        let statement = match random.random_range(0..11) {
            0..=2 => format!("INSERT INTO items (id, body) VALUES ({id}, {body}) ON CONFLICT DO NOTHING"),
            3 => format!(
                "INSERT INTO items (id, big) SELECT {id}, string_agg(md5((i * {other})::text), '') FROM generate_series(1, 800) i ON CONFLICT DO NOTHING"
            ),
            4..=5 => format!("UPDATE items SET body = {body}, change = nextval('change') WHERE id IN ({id}, {other})"),
            6 => format!(
                "UPDATE items SET id = {other} + 1000 * (id / 1000 + 1), change = nextval('change') WHERE id = {id} \
                 AND NOT EXISTS (SELECT 1 FROM items WHERE id = {other} + 1000)"
            ),
            7 => format!("DELETE FROM items WHERE id IN ({id}, {other} + 1000)"),
            8 => format!("UPDATE items SET big = NULL, change = nextval('change') WHERE id = {id}"),
            9 => format!(
                "INSERT INTO notes (item, line, body) SELECT {id}, i, {body} FROM generate_series(1, {}) i ON CONFLICT DO NOTHING",
                1 + other % 60
            ),
            _ => format!("DELETE FROM notes WHERE item = {id} AND line % 2 = 0"),
        };
        if client.batch_execute(&statement).await.is_err() {
            failed = true;
            break;
        }
        if random.random_ratio(1, 12) {
            tokio::time::sleep(std::time::Duration::from_millis(random.random_range(1..150))).await;
        }
    }
    let end = if failed || random.random_ratio(1, 6) { "ROLLBACK" } else { "COMMIT" };
    client.batch_execute(end).await.unwrap();
}

/// Writers until `stop`; some transactions of each are open while others commit.
async fn writers(
    database: &Database,
    seed: u64,
    stop: &tokio_util::sync::CancellationToken,
) -> Vec<tokio::task::JoinHandle<u64>> {
    let mut writers = Vec::new();
    for i in 0..4 {
        let (client, stop) = (database.session().await, stop.clone());
        writers.push(tokio::spawn(async move {
            let mut random = StdRng::seed_from_u64(seed + i);
            let mut done = 0;
            while !stop.is_cancelled() {
                transaction(&client, &mut random).await;
                done += 1;
            }
            done
        }));
    }
    writers
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_random_workload_survives_sudden_ends_and_nothing_is_applied_twice() {
    let shop = Shop::with(ITEMS, &["public.items", "public.notes"]).await;
    shop.modern.batch(AUDITED).await;
    let seed = rand::rng().random();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    shop.legacy.batch("INSERT INTO items (id, body) SELECT i, 'before' FROM generate_series(0, 300, 3) i").await;
    let stop = tokio_util::sync::CancellationToken::new();
    let writers = writers(&shop.legacy, seed, &stop).await;
    // The first ends come while the tables are being copied.
    for i in 0..8_u64 {
        let running = Running::start(&shop, "legacy", &json!({}));
        tokio::time::sleep(std::time::Duration::from_millis(random.random_range(50..(400 + 400 * i)))).await;
        running.stop().await;
    }
    let running = Running::start(&shop, "legacy", &json!({}));
    running.until(LEGACY_OWNS).await;
    stop.cancel();
    let mut transactions = 0;
    for writer in writers {
        transactions += writer.await.unwrap();
    }
    until_equal(&shop).await;
    let twice = "SELECT count(*) FROM (SELECT op, source, change FROM audit GROUP BY 1, 2, 3 HAVING count(*) > 1) d";
    // A snapshot attempt that was given up is emptied and copied again: only changes count.
    let changed_twice = format!("{twice} WHERE op <> 'INSERT'");
    assert_eq!(shop.modern.number(&changed_twice).await, 0, "seed {seed}");
    println!("{transactions} transactions, {} rows", shop.modern.count("items").await);
    assert_eq!(running.status().flows[1].violations, 0, "seed {seed}");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_behind_the_owners_back_is_a_violation_and_is_not_applied() {
    let shop = Shop::fresh().await;
    let running = Running::start(&shop, "legacy", &json!({}));
    running.until(LEGACY_OWNS).await;
    shop.modern.batch("INSERT INTO accounts VALUES (7, 'intruder@x', 'I'), (8, 'intruder8@x', 'I')").await;
    eventually(secs(20), "both violations are counted", async || running.status().flows[1].violations == 2).await;
    assert_eq!(shop.legacy.count("accounts").await, 0);
    let stored = "SELECT string_agg(source_table || ' ' || op || ' ' || epoch, ', ') FROM banyan.violation";
    assert_eq!(shop.legacy.text(stored).await.as_deref(), Some("public.accounts c 1, public.accounts c 1"));
    let metrics = prometheus::TextEncoder::new().encode_to_string(&running.registry.gather()).unwrap();
    let line = "banyan_sync_violations_total{flow=\"modern_to_legacy\",sync=\"shop\",table=\"public.accounts\"} 2";
    assert!(metrics.contains(line), "{metrics}");
    running.until(LEGACY_OWNS).await;
    running.stop().await;
    // Stored, so they outlive the process.
    let running = Running::start(&shop, "legacy", &json!({}));
    running.until(LEGACY_OWNS).await;
    assert_eq!(running.status().flows[1].violations, 2);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_databases_may_be_in_one_server_and_an_idle_pair_falls_quiet() {
    let server = Postgres::shared_legacy();
    let shop = Shop::on(server, server, &Kafka::shared().brokers(), ITEMS, &["public.items", "public.notes"]).await;
    shop.legacy.batch("INSERT INTO items (id) SELECT generate_series(1, 500)").await;
    let running = Running::start(&shop, "legacy", &json!({}));
    running.until(LEGACY_OWNS).await;
    shop.legacy.batch("UPDATE items SET body = 'changed'; DELETE FROM items WHERE id % 2 = 0").await;
    until_equal(&shop).await;
    assert_eq!(shop.modern.count("items").await, 250);
    assert_eq!(running.status().flows[1].violations, 0);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_slot_waits_for_an_open_transaction_its_process_is_named() {
    let shop = Shop::fresh().await;
    let writer = shop.legacy.session().await;
    writer.batch_execute("BEGIN; INSERT INTO accounts VALUES (1, 'a@x', 'A')").await.unwrap();
    let pid: i32 = writer.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
    let running = Running::start(&shop, "legacy", &json!({}));
    eventually(secs(20), "the blocking process is named", async || {
        let waiting = running.status().flows[0].waiting_for.clone().unwrap_or_default();
        if waiting.contains(&pid.to_string()) { Ok(()) } else { Err(waiting) }
    })
    .await;
    writer.batch_execute("COMMIT").await.unwrap();
    running.until(LEGACY_OWNS).await;
    until_equal(&shop).await;
    assert_eq!(running.status().flows[0].waiting_for, None);
    running.stop().await;
}
