//! `order: key`: a topic a table, rows in lanes by their keys; nothing of a row is lost, doubled or out of order, whatever is killed when.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use banyan_connectors::State;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use serde_json::Value;
use tokio::task::JoinHandle;
use tokio_postgres::{Client, Error};

use crate::harness::{Banyan, Database, Kafka, Record, Shop, eventually, secs};

pub(crate) const KEY: &str = "order: key\n    partitions: 3\n    on_error: stop";
const LANES: i32 = 3;

/// The audit has a row's changes in their order, under its key. A change of the key is an end and a beginning.
const DDL: &str = "
CREATE TABLE audit (n bigserial PRIMARY KEY, row text NOT NULL, what text NOT NULL);
CREATE FUNCTION audit() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  old_key text; new_key text; begins text; ends text;
BEGIN
  IF TG_OP <> 'INSERT' THEN
    old_key := TG_TABLE_NAME || ' ' || (to_jsonb(OLD) ->> 'id') || ' ' || coalesce(to_jsonb(OLD) ->> 'k', '');
    ends := 'DELETE ' || hash_record_extended(OLD, 0);
  END IF;
  IF TG_OP <> 'DELETE' THEN
    new_key := TG_TABLE_NAME || ' ' || (to_jsonb(NEW) ->> 'id') || ' ' || coalesce(to_jsonb(NEW) ->> 'k', '');
    begins := 'INSERT ' || hash_record_extended(NEW, 0);
  END IF;
  IF old_key = new_key THEN
    INSERT INTO public.audit (row, what) VALUES (new_key, 'UPDATE ' || ends || ' ' || begins);
  ELSE
    INSERT INTO public.audit (row, what) SELECT * FROM (VALUES (old_key, ends), (new_key, begins)) AS v (row, what) WHERE row IS NOT NULL;
  END IF;
  RETURN NULL;
END $$;
CREATE TABLE items (id bigint PRIMARY KEY, n int NOT NULL, name text, body text);
ALTER TABLE items ALTER body SET STORAGE EXTERNAL;
ALTER TABLE items REPLICA IDENTITY FULL;
CREATE TABLE pairs (id bigint, k text, n int NOT NULL, PRIMARY KEY (id, k));
CREATE TRIGGER audited AFTER INSERT OR UPDATE OR DELETE ON items FOR EACH ROW EXECUTE FUNCTION audit();
CREATE TRIGGER audited AFTER INSERT OR UPDATE OR DELETE ON pairs FOR EACH ROW EXECUTE FUNCTION audit();
ALTER TABLE items ENABLE ALWAYS TRIGGER audited;
ALTER TABLE pairs ENABLE ALWAYS TRIGGER audited;
";

const TABLES: [&str; 2] = ["public.items", "public.pairs"];

/// Writers that do to the tables what applications do, each to keys of its own.
pub(crate) struct Writers {
    stop: Arc<AtomicBool>,
    committed: Arc<AtomicU64>,
    tasks: Vec<JoinHandle<()>>,
}

fn seed() -> u64 {
    let given = std::env::var("BANYAN_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = given.unwrap_or_else(rand::random);
    println!("BANYAN_TEST_SEED={seed}");
    seed
}

pub(crate) async fn shop() -> Shop {
    let shop = Shop::with(DDL, &TABLES).await;
    let rows = "SELECT n, n, 'item ' || n, repeat('b', 3000) FROM generate_series(50000, 50299) AS n";
    shop.legacy.batch(&format!("INSERT INTO items {rows}")).await;
    shop
}

// === impl Writers ===

impl Writers {
    pub(crate) fn start(database: &Database, seed: u64) -> Self {
        let (stop, committed) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let tasks = (0..3_u64).map(|number| {
            let (url, stop, committed) = (database.url("postgres", "none"), Arc::clone(&stop), Arc::clone(&committed));
            let mut random = StdRng::seed_from_u64(seed ^ number);
            tokio::spawn(async move {
                let (mut client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.unwrap();
                let driver = tokio::spawn(connection);
                while !stop.load(Ordering::Relaxed) {
                    match transaction(&mut client, (number + 1) * 1_000, &mut random).await {
                        Ok(()) => drop(committed.fetch_add(1, Ordering::Relaxed)),
                        // A key that is taken: rolled back whole.
                        Err(_) => client.batch_execute("ROLLBACK").await.unwrap(),
                    }
                    tokio::time::sleep(Duration::from_millis(random.random_range(0..12))).await;
                }
                driver.abort();
            })
        });
        Self { tasks: tasks.collect(), stop, committed }
    }

    pub(crate) async fn advance(&self, more: u64) {
        let wanted = self.committed.load(Ordering::Relaxed) + more;
        eventually(secs(60), "the writers get on", async || self.committed.load(Ordering::Relaxed) >= wanted).await;
    }

    pub(crate) async fn finish(self) {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.unwrap();
        }
    }
}

/// Some changes of some rows in one transaction; now and then it is rolled back.
async fn transaction(client: &mut Client, base: u64, random: &mut StdRng) -> Result<(), Error> {
    let transaction = client.transaction().await?;
    for _ in 0..random.random_range(1..6) {
        let (one, other) = (base + random.random_range(0..40), base + random.random_range(0..40));
        let letter = ["a", "b", "c"][random.random_range(0..3)];
        let statement = match random.random_range(0..9) {
            0 | 1 => {
                format!("INSERT INTO items VALUES ({one}, 1, 'x', repeat('{letter}', 3000)) ON CONFLICT DO NOTHING")
            }
            2 | 3 => format!("UPDATE items SET n = n + 1 WHERE id = {one}"),
            4 => format!("UPDATE items SET body = repeat('{letter}', 2500), name = NULL WHERE id IN ({one}, {other})"),
            // The body stays, and is not in the log but as the old row has it.
            5 => format!(
                "UPDATE items SET id = {other} WHERE id = {one} AND NOT EXISTS (SELECT FROM items WHERE id = {other})"
            ),
            6 => format!("DELETE FROM items WHERE id = {one}"),
            7 => format!(
                "INSERT INTO pairs VALUES ({one}, '{letter}', 1) ON CONFLICT (id, k) DO UPDATE SET n = pairs.n + 1"
            ),
            _ => format!("DELETE FROM pairs WHERE id = {one}"),
        };
        transaction.batch_execute(&statement).await?;
    }
    if random.random_range(0..10) == 0 { transaction.rollback().await } else { transaction.commit().await }
}

fn header(record: &Record, name: &str) -> String {
    let value = record.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone());
    String::from_utf8(value.unwrap_or_default()).unwrap()
}

fn json(bytes: Option<&Vec<u8>>) -> Value {
    serde_json::from_slice(bytes.expect("bytes")).unwrap()
}

/// Generation, commit LSN and ordinal of a position.
fn place(record: &Record) -> (i64, u64, u64) {
    let position = header(record, "position");
    let parts: Vec<&str> = position.split(':').collect();
    let (high, low) = parts[2].split_once('/').unwrap();
    let lsn = u64::from_str_radix(high, 16).unwrap() << 32 | u64::from_str_radix(low, 16).unwrap();
    (parts[0].parse().unwrap(), lsn, parts[3].parse().unwrap())
}

/// What a plain consumer that knows nothing of Banyan's headers makes of a table's topic: the last word on each key. Where a capture was killed it
/// sees some of it twice, as from Debezium.
fn folded(records: &[(i32, Record)]) -> BTreeMap<String, Value> {
    let (mut rows, mut lanes) = (BTreeMap::new(), BTreeMap::new());
    for (partition, record) in records {
        let key = json(record.key.as_ref()).to_string();
        assert_eq!(lanes.entry(key.clone()).or_insert(*partition), partition, "{key} stands in one partition");
        match json(record.payload.as_ref())["after"].take() {
            Value::Null => drop(rows.remove(&key)),
            // Large values that stayed are in the row before.
            Value::Object(after) => {
                let row = rows.entry(key).or_insert_with(|| Value::Object(serde_json::Map::new()));
                row.as_object_mut().unwrap().extend(after);
            }
            other => panic!("{other}"),
        }
    }
    rows
}

async fn rows_of(database: &Database, table: &str, key: &str) -> BTreeMap<String, Value> {
    let sql = format!(
        "SELECT to_json(key_of)::text || E'\\t' || to_jsonb(t)::text FROM {table} t, LATERAL (SELECT {key}) key_of"
    );
    let lines = database.lines(&sql).await;
    let as_text = |value: Value| {
        let fields = value.as_object().unwrap().iter().map(|(name, value)| {
            let text = match value {
                Value::Null => Value::Null,
                Value::String(text) => Value::String(text.clone()),
                other => Value::String(other.to_string()),
            };
            (name.clone(), text)
        });
        Value::Object(fields.collect())
    };
    let one = |line: &String| {
        let (key, row) = line.split_once('\t').unwrap();
        (as_text(serde_json::from_str(key).unwrap()).to_string(), as_text(serde_json::from_str(row).unwrap()))
    };
    lines.iter().map(one).collect()
}

/// Every COMMIT of every lane has as many records before it as it says, each in the topic that it says.
fn commits_count_right(kafka: &Kafka, topic: &str) {
    let mut rows: BTreeMap<(i32, (i64, u64)), BTreeMap<u64, String>> = BTreeMap::new();
    for table in TABLES {
        for (lane, record) in kafka.all_records(&format!("{topic}.{table}")) {
            let (generation, lsn, ordinal) = place(&record);
            let before = rows.entry((lane, (generation, lsn))).or_default().insert(ordinal, table.to_owned());
            assert!(before.is_none_or(|before| before == table), "one place, two tables");
        }
    }
    let mut lanes = BTreeSet::new();
    for (lane, record) in kafka.all_records(topic).into_iter().filter(|(_, record)| header(record, "kind") == "commit")
    {
        let (generation, lsn, ordinal) = place(&record);
        let commit = json(record.payload.as_ref());
        let mut counted: BTreeMap<&str, u64> = BTreeMap::new();
        for table in rows.get(&(lane, (generation, lsn))).into_iter().flat_map(BTreeMap::values) {
            *counted.entry(table).or_default() += 1;
        }
        let said = commit["rows"].as_object().unwrap();
        let said: BTreeMap<&str, u64> = said.iter().map(|(table, n)| (table.as_str(), n.as_u64().unwrap())).collect();
        assert_eq!(said, counted, "lane {lane} at {}", header(&record, "position"));
        assert_eq!((commit["count"].as_u64(), ordinal), (Some(ordinal), commit["count"].as_u64().unwrap()));
        lanes.insert(lane);
    }
    assert_eq!(lanes.len(), usize::try_from(LANES).unwrap(), "every lane has rows");
}

#[tokio::test]
async fn a_row_stands_in_one_partition_of_its_tables_topic_in_order_and_a_kill_loses_nothing() {
    let shop = shop().await;
    let seed = seed();
    let kafka = Kafka::shared();
    let mut banyan = Banyan::with(&shop.file_with("legacy", KEY)).start().await;
    let topic = format!("{}.shop.legacy_to_modern", shop.install);
    let writers = Writers::start(&shop.legacy, seed);
    let mut random = StdRng::seed_from_u64(seed);
    for _ in 0..3 {
        writers.advance(random.random_range(20..150)).await;
        banyan.kill();
        banyan.start_again().await;
    }
    writers.advance(100).await;
    writers.finish().await;
    for (table, key) in [("items", "t.id"), ("pairs", "t.id, t.k")] {
        let topic = format!("{topic}.public.{table}");
        eventually(secs(60), "the topic has the table", async || {
            let (read, rows) = (folded(&kafka.all_records(&topic)), rows_of(&shop.legacy, table, key).await);
            if read == rows { Ok(()) } else { Err(format!("{table}: {} keys, {} rows", read.len(), rows.len())) }
        })
        .await;
    }
    commits_count_right(kafka, &topic);
}

/// The copy is complete: from here on every operation counts.
pub(crate) async fn copied(shop: &Shop) {
    let made = "SELECT count(*) FROM pg_tables WHERE schemaname = 'banyan' AND tablename = 'repair'";
    eventually(secs(60), "Banyan's tables are there", async || shop.modern.number(made).await == 1).await;
    eventually(secs(60), "no table is being filled", async || {
        let lanes = shop
            .modern
            .number("SELECT count(*) FROM banyan.position WHERE flow = 'legacy_to_modern' AND phase = 'stream'")
            .await;
        shop.modern.count("banyan.loading").await == 0 && lanes == i64::from(LANES)
    })
    .await;
    eventually(secs(60), "the copy is equal", async || shop.equal().await).await;
    for database in [&shop.legacy, &shop.modern] {
        database.batch("TRUNCATE audit").await;
    }
}

/// Both sides are equal, and every change of every row was applied once and in its order.
pub(crate) async fn equal_and_once(shop: &Shop) {
    eventually(secs(90), "both sides are equal", async || shop.equal().await).await;
    let audit = "SELECT row, what FROM audit ORDER BY row, n";
    let (done, applied) = (shop.legacy.lines(audit).await, shop.modern.lines(audit).await);
    let odd = done.iter().zip(&applied).find(|(done, applied)| done != applied);
    assert!(odd.is_none() && done.len() == applied.len(), "{} done, {} applied: {odd:?}", done.len(), applied.len());
    assert!(done.len() > 300, "only {} changes", done.len());
    let lanes =
        "SELECT count(*) FROM banyan.position WHERE flow = 'legacy_to_modern' AND barrier = '' AND role = 'applying'";
    assert_eq!(shop.modern.number(lanes).await, i64::from(LANES));
}

#[tokio::test]
async fn killed_at_random_moments_every_change_of_a_row_is_applied_once_and_in_order() {
    let shop = shop().await;
    let seed = seed();
    let mut random = StdRng::seed_from_u64(seed);
    let keys = format!("{KEY}\n    snapshot: {{chunk: 20, rows_per_second: 300}}");
    let mut banyan = Banyan::with(&shop.file_with("legacy", &keys)).start().await;
    let writers = Writers::start(&shop.legacy, seed);
    // While the tables are copied, too, and the lanes meet.
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(random.random_range(300..2_500))).await;
        banyan.kill();
        banyan.start_again().await;
    }
    writers.finish().await;
    copied(&shop).await;
    let writers = Writers::start(&shop.legacy, seed ^ 77);
    for _ in 0..4 {
        writers.advance(random.random_range(20..150)).await;
        banyan.kill();
        banyan.start_again().await;
    }
    writers.advance(100).await;
    writers.finish().await;
    equal_and_once(&shop).await;
}

fn applies(banyan: &Banyan) -> usize {
    banyan.log().matches("this process applies the lane").count()
}

#[tokio::test]
async fn lanes_move_between_processes_that_come_go_freeze_and_die_and_nothing_is_lost_or_doubled() {
    let shop = shop().await;
    let seed = seed();
    let file = shop.file_with("legacy", KEY);
    let another = || Banyan::with(&file).arg("--only").arg("connectors");
    let mut first = another().start().await;
    copied(&shop).await;
    let writers = Writers::start(&shop.legacy, seed);
    let mut second = another().start().await;
    eventually(secs(40), "the second process gets lanes", async || applies(&second) > 0).await;
    writers.advance(50).await;
    let third = another().start().await;
    eventually(secs(40), "the third process gets lanes", async || applies(&third) > 0).await;
    writers.advance(50).await;
    // One dies, and its lanes go to those who live.
    let before = applies(&first) + applies(&third);
    second.kill();
    eventually(secs(60), "its lanes are taken over", async || applies(&first) + applies(&third) > before).await;
    writers.advance(50).await;
    // One freezes for longer than its lease, and comes back as if nothing had been. The first one reads the source.
    signal(&third, "STOP");
    let before = applies(&first);
    eventually(secs(90), "its lanes are taken over", async || applies(&first) > before).await;
    writers.advance(50).await;
    let mark = "INSERT INTO items SELECT n, 0, 'late', NULL FROM generate_series(90000, 90029) AS n";
    shop.legacy.batch(mark).await;
    let late = "SELECT count(*) FROM items WHERE name = 'late'";
    eventually(secs(90), "all lanes are applied without it", async || shop.modern.number(late).await == 30).await;
    signal(&third, "CONT");
    second.start_again().await;
    writers.advance(100).await;
    assert!(first.stop(secs(20)).success());
    writers.advance(50).await;
    writers.finish().await;
    equal_and_once(&shop).await;
}

fn signal(banyan: &Banyan, name: &str) {
    let done = std::process::Command::new("kill").arg(format!("-{name}")).arg(banyan.pid().to_string()).status();
    assert!(done.unwrap().success());
}

/// What stops or delays the flow from legacy to modern.
async fn refused(shop: &Shop, keys: &serde_json::Value) -> String {
    let running = crate::data_basic::Running::start(shop, "legacy", keys);
    let error = eventually(secs(60), "it stops", async || {
        let flow = running.status().flows.remove(0);
        match flow.state {
            State::Stopped | State::NeedsSnapshot => Ok(flow.last_error.unwrap_or_default()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    running.stop().await;
    error
}

fn by_key(partitions: u32) -> serde_json::Value {
    serde_json::json!({"order": "key", "partitions": partitions, "on_error": "stop"})
}

#[tokio::test]
async fn what_would_let_rows_of_different_keys_meet_is_refused_before_anything_is_made() {
    let ddl = "CREATE TABLE a (id bigint PRIMARY KEY, email text UNIQUE);
        CREATE TABLE b (id numeric PRIMARY KEY, n int);
        CREATE TABLE c (id bigint PRIMARY KEY, n int, UNIQUE (n, id))";
    let shop = Shop::with(ddl, &["public.a", "public.b", "public.c"]).await;
    let error = refused(&shop, &by_key(2)).await;
    for part in [
        "public.a (",
        "rows of different keys meet in `a_email_key`, and with `order: key` they do not wait for each other",
        "write `order: transaction` for this sync, or drop the index or constraint",
        "its primary key has `id numeric`",
    ] {
        assert!(error.contains(part), "{part} in {error}");
    }
    assert!(!error.contains("public.c"), "an index that holds the whole key lets no others meet: {error}");
    assert_eq!(shop.legacy.number("SELECT count(*) FROM pg_publication").await, 0);
}

#[tokio::test]
async fn another_order_than_the_sync_began_with_is_refused_and_a_removal_takes_all_of_it_away() {
    let shop = Shop::with("CREATE TABLE t (id bigint PRIMARY KEY, n int)", &["public.t"]).await;
    shop.legacy.batch("INSERT INTO t SELECT n, n FROM generate_series(1, 50) AS n").await;
    let running = crate::data_basic::Running::start(&shop, "legacy", &by_key(2));
    eventually(secs(60), "the copy is equal", async || shop.equal().await).await;
    eventually(secs(60), "it applies, and its lag is known", async || {
        let flow = running.status().flows.remove(0);
        (flow.state == State::Applying && flow.lag_seconds.is_some()).then_some(()).ok_or(format!("{flow:?}"))
    })
    .await;
    let mut reader = running.reader();
    eventually(secs(30), "the proxy knows how far it is", async || {
        let reading = reader.read().await;
        if reading.applied >= reading.written && reading.applied.is_some() {
            Ok(())
        } else {
            Err(format!("{reading:?}"))
        }
    })
    .await;
    running.stop().await;
    let error = refused(&shop, &serde_json::json!({})).await;
    assert!(error.contains("2 partitions") || error.contains("began with `order: key` and `partitions: 2`"), "{error}");
    let error = refused(&shop, &by_key(3)).await;
    assert!(error.contains("2 partitions") || error.contains("began with `order: key` and `partitions: 2`"), "{error}");
    let banyan = Banyan::with(&shop.file_with("legacy", "order: key\n    partitions: 2\n    on_error: stop"));
    let removed = banyan.verb(&["sync", "remove", "shop", "--yes"]);
    assert!(removed.status.success(), "{}", String::from_utf8_lossy(&removed.stderr));
    let topics = ["legacy_to_modern", "legacy_to_modern.public.t", "modern_to_legacy", "modern_to_legacy.public.t"];
    for topic in topics {
        let topic = format!("{}.shop.{topic}", shop.install);
        assert!(Kafka::shared().all_records(&topic).is_empty(), "{topic} is gone");
    }
    let left = "SELECT (SELECT count(*) FROM pg_tables WHERE schemaname = 'banyan') + (SELECT count(*) FROM pg_replication_origin WHERE roname LIKE '";
    assert_eq!(shop.modern.number(&format!("{left}{}%')", shop.install)).await, 0);
}

#[tokio::test]
async fn an_emptied_table_is_copied_again_whatever_is_killed_meanwhile() {
    let shop = shop().await;
    let seed = seed();
    let mut random = StdRng::seed_from_u64(seed);
    let keys = format!("{KEY}\n    snapshot: {{chunk: 20, rows_per_second: 500}}");
    let mut banyan = Banyan::with(&shop.file_with("legacy", &keys)).start().await;
    copied(&shop).await;
    for round in 0..3 {
        let writers = Writers::start(&shop.legacy, seed ^ round);
        writers.advance(60).await;
        // Keys that were there come again in the transaction that emptied the table, and behind it.
        let rows = "SELECT n, 7, 'anew', repeat('c', 2500) FROM generate_series(50000, 50149) AS n";
        shop.legacy.batch(&format!("BEGIN; TRUNCATE items; INSERT INTO items {rows}; COMMIT")).await;
        shop.legacy.batch("UPDATE items SET n = n + 1 WHERE id > 50000").await;
        tokio::time::sleep(Duration::from_millis(random.random_range(0..1_500))).await;
        banyan.kill();
        banyan.start_again().await;
        writers.advance(60).await;
        writers.finish().await;
        eventually(secs(90), "both sides are equal", async || shop.equal().await).await;
        eventually(secs(60), "no table is being filled", async || shop.modern.count("banyan.loading").await == 0).await;
    }
    assert_eq!(shop.legacy.number("SELECT count(*) FROM banyan.snapshot WHERE emptied IS NOT NULL").await, 0);
    assert!(
        shop.legacy.number("SELECT max(number) FROM banyan.snapshot WHERE source_table = 'public.items'").await >= 4
    );
}

#[tokio::test]
async fn tables_that_join_at_once_are_copied_and_every_lane_goes_on() {
    let tables = ["a", "b", "c"];
    let ddl: String =
        tables.iter().map(|table| format!("CREATE TABLE {table} (id bigint PRIMARY KEY, n int);")).collect();
    let mut shop = Shop::with(&ddl, &["public.a"]).await;
    for table in tables {
        shop.legacy.batch(&format!("INSERT INTO {table} SELECT n, n FROM generate_series(1, 100) AS n")).await;
    }
    let running = crate::data_basic::Running::start(&shop, "legacy", &by_key(2));
    eventually(secs(60), "the copy is equal", async || shop.equal().await).await;
    running.stop().await;
    shop.tables = tables.iter().map(|table| format!("public.{table}")).collect();
    let running = crate::data_basic::Running::start(&shop, "legacy", &by_key(2));
    eventually(secs(60), "what joined is equal", async || shop.equal().await).await;
    for table in tables {
        shop.legacy.batch(&format!("UPDATE {table} SET n = n + 1; DELETE FROM {table} WHERE id > 90")).await;
    }
    eventually(secs(60), "all of it streams", async || shop.equal().await).await;
    eventually(secs(60), "no table is being filled", async || shop.modern.count("banyan.loading").await == 0).await;
    running.stop().await;
}

#[tokio::test]
async fn a_table_whose_primary_key_was_changed_stops_before_its_next_row() {
    let shop = Shop::with("CREATE TABLE t (id bigint, k text, n int, PRIMARY KEY (id, k))", &["public.t"]).await;
    shop.legacy.batch("INSERT INTO t SELECT n, 'k', n FROM generate_series(1, 20) AS n").await;
    let running = crate::data_basic::Running::start(&shop, "legacy", &by_key(2));
    eventually(secs(60), "the copy is equal", async || shop.equal().await).await;
    for database in [&shop.modern, &shop.legacy] {
        database.batch("ALTER TABLE t DROP CONSTRAINT t_pkey, ADD PRIMARY KEY (id)").await;
    }
    let before = shop.modern.rows("t").await;
    shop.legacy.batch("UPDATE t SET k = 'other', n = 0").await;
    let error = eventually(secs(60), "it stops", async || {
        let flow = running.status().flows.remove(0);
        if flow.state == State::Stopped { Ok(flow.last_error.unwrap_or_default()) } else { Err(format!("{flow:?}")) }
    })
    .await;
    assert!(error.contains("public.t at ") && error.contains("the table's primary key was changed"), "{error}");
    assert_eq!(shop.modern.rows("t").await, before);
    running.stop().await;
}
