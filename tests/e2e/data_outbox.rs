//! Outboxes: rows that become events on topics of their own, from either side and either kind of database, at least once and in order.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use banyan_connectors::{
    State,
    preflight::{self, Check},
};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use serde_json::{Value, json};

use crate::{
    data_basic::{Running, until_equal},
    harness::{Banyan, Cluster, Half, Kafka, MariaDb, Postgres, Record, Shop, Twin, eventually, secs},
};

const LEGACY_OWNS: [State; 2] = [State::Applying, State::Watching];

const POSTGRES: &str = "CREATE TABLE items (id bigint PRIMARY KEY, name varchar(200) NOT NULL);
CREATE TABLE outbox (n bigserial PRIMARY KEY, payload jsonb, type varchar(255) NOT NULL, aggregateid varchar(255) NOT NULL,
  aggregatetype varchar(255) NOT NULL, id uuid NOT NULL)";

const MARIADB: &str = "CREATE TABLE items (id bigint PRIMARY KEY, name varchar(200) NOT NULL) COLLATE utf8mb4_bin;
CREATE TABLE outbox (id char(36) CHARACTER SET latin1 PRIMARY KEY, aggregatetype varchar(255) NOT NULL, aggregateid varchar(255) NOT NULL,
  type varchar(255) NOT NULL, payload json, extra datetime DEFAULT now())";

/// Text of an event's row.
const ID: &str = "4d47e190-0402-4048-bc2c-";

async fn half(kind: &str) -> Half {
    match kind {
        "mariadb" => Half::mariadb(MariaDb::shared(), MARIADB).await,
        "legacy" => Half::postgres(Postgres::shared_legacy(), POSTGRES).await,
        _ => Half::postgres(Postgres::shared_modern(), POSTGRES).await,
    }
}

/// Items and an outbox on each side.
async fn twin(legacy: &str, modern: &str) -> Twin {
    Twin::new(half(legacy).await, half(modern).await, &[("items", "id, name", "id, name")])
}

fn outboxes(twin: &Twin) -> Value {
    json!({"outbox": {"legacy": twin.legacy.table("outbox"), "modern": twin.modern.table("outbox")}})
}

/// What inserts an event with the number `n`.
fn event(aggregate: &str, key: &str, n: u32, payload: &str) -> String {
    format!(
        "INSERT INTO outbox (id, aggregatetype, aggregateid, type, payload) VALUES ('{ID}{n:012}', '{aggregate}', '{key}', 'Made', {payload})"
    )
}

fn header<'r>(record: &'r Record, name: &str) -> Option<&'r str> {
    let (_, value) = record.headers.iter().find(|(key, _)| key == name)?;
    Some(std::str::from_utf8(value).unwrap())
}

fn text(bytes: Option<&Vec<u8>>) -> String {
    bytes.map_or_else(|| "nothing".to_owned(), |bytes| String::from_utf8(bytes.clone()).unwrap())
}

/// The records of a topic as `number origin key value`, by their number. One that was sent twice is the same in every word, its place included.
fn told(kafka: &Kafka, topic: &str) -> Vec<String> {
    let mut places = BTreeMap::new();
    for (_, record) in kafka.all_records(topic) {
        assert_eq!(header(&record, "eventType"), Some("Made"));
        let id = header(&record, "id").unwrap().strip_prefix(ID).unwrap().trim_start_matches('0').to_owned();
        let (key, value) = (text(record.key.as_ref()), text(record.payload.as_ref()));
        let line = format!("{id} {} {key} {value}", header(&record, "origin").unwrap());
        let place = header(&record, "position").unwrap().to_owned();
        assert_eq!(places.entry(line).or_insert_with(|| place.clone()), &place);
    }
    places.into_keys().collect()
}

async fn until_told(topic: &str, wanted: &[&str]) {
    eventually(secs(30), &format!("{topic} has {wanted:?}"), async || {
        let told = told(Kafka::shared(), topic);
        if told == wanted { Ok(()) } else { Err(told) }
    })
    .await;
}

async fn published(legacy: &str, modern: &str) {
    let twin = twin(legacy, modern).await;
    let aggregate = format!("{}_order", twin.install);
    let topic = format!("outbox.event.{aggregate}");
    twin.legacy.batch(&event(&aggregate, "k", 1, "'{\"before\": 1}'")).await;
    let running = Running::sync(&twin.install, json!({"brokers": twin.brokers}), twin.sync("legacy"), &outboxes(&twin));
    running.until(LEGACY_OWNS).await;

    let begun = std::time::SystemTime::now();
    let with_row =
        |id: u32, event: &str, end: &str| format!("BEGIN; INSERT INTO items VALUES ({id}, 'i'); {event}; {end}");
    twin.legacy.batch(&with_row(2, &event(&aggregate, "a", 2, "'{\"n\": \"ö\"}'"), "COMMIT")).await;
    twin.legacy.batch(&with_row(3, &event(&aggregate, "a", 3, "'{}'"), "ROLLBACK")).await;
    // The row is gone at once, and published all the same; two of one transaction; no payload.
    twin.legacy
        .batch(&format!(
            "BEGIN; {}; DELETE FROM outbox WHERE id = '{ID}{:012}'; COMMIT",
            event(&aggregate, "b", 4, "'[4]'"),
            4
        ))
        .await;
    twin.legacy
        .batch(&format!("BEGIN; {}; {}; COMMIT", event(&aggregate, "a", 5, "NULL"), event(&aggregate, "c", 6, "'6'")))
        .await;
    // The side that only watches has an outbox of its own.
    twin.modern.batch(&event(&aggregate, "a", 7, "'{\"n\": 7}'")).await;
    twin.legacy.batch(&format!("UPDATE outbox SET type = 'Changed' WHERE id = '{ID}{:012}'", 2)).await;
    twin.legacy.batch("DELETE FROM outbox").await;
    let wanted =
        ["2 legacy a {\"n\": \"ö\"}", "4 legacy b [4]", "5 legacy a nothing", "6 legacy c 6", "7 modern a {\"n\": 7}"];
    until_told(&topic, &wanted).await;
    // What no topic can be named after is kept in one of the flow's own.
    twin.legacy.batch(&with_row(8, &event("no such topic!", "a", 8, "'8'"), "COMMIT")).await;
    eventually(secs(30), "both sides are equal", async || twin.equal().await).await;
    let unrouted = format!("{}.shop.legacy_to_modern.unrouted", twin.install);
    until_told(&unrouted, &["8 legacy a 8"]).await;
    let (_, record) = &Kafka::shared().all_records(&unrouted)[0];
    assert_eq!(header(record, "aggregatetype"), Some("no such topic!"));
    assert!(header(record, "unrouted").unwrap().contains("letters, digits"));

    // Events of one key stand in one partition, in their order; places are unique; times are those of the commits.
    let records = Kafka::shared().all_records(&topic);
    let of_a: Vec<_> = records.iter().filter(|(_, record)| record.key.as_deref() == Some(b"a")).collect();
    assert!(of_a.iter().all(|(partition, _)| *partition == of_a[0].0));
    let positions: BTreeSet<_> = records.iter().map(|(_, record)| header(record, "position").unwrap()).collect();
    assert_eq!(positions.len(), records.len());
    let oldest = begun.duration_since(std::time::UNIX_EPOCH).unwrap().as_millis();
    for (_, record) in &records {
        // MariaDB's log has whole seconds.
        assert!(u128::try_from(record.timestamp).unwrap() + 1_000 >= oldest, "{record:?}");
    }
    until_told(&topic, &wanted).await;
    // Nothing of an outbox is copied, and none is a violation.
    assert_eq!(twin.modern.text("SELECT count(*) FROM outbox").await.as_deref(), Some("1"));
    assert_eq!(twin.legacy.text("SELECT count(*) FROM outbox").await.as_deref(), Some("1"));
    running.until(LEGACY_OWNS).await;
    assert!(running.status().flows.iter().all(|flow| flow.violations == 0));
    let metrics = running.metrics();
    for line in [
        "banyan_outbox_events_total{flow=\"legacy_to_modern\",sync=\"shop\"} 5",
        "banyan_outbox_events_total{flow=\"modern_to_legacy\",sync=\"shop\"} 1",
        "banyan_outbox_unrouted_total{flow=\"legacy_to_modern\",sync=\"shop\"} 1",
        "banyan_outbox_updates_total{flow=\"legacy_to_modern\",sync=\"shop\"} 1",
    ] {
        assert!(metrics.contains(line), "no {line} in {metrics}");
    }
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_rows_of_an_outbox_are_events_on_either_side() {
    published("legacy", "modern").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_rows_of_an_outbox_are_events_from_either_kind_of_database() {
    published("mariadb", "modern").await;
}

/// Waits until the applied item and the events tell that all was read.
async fn passes(twin: &Twin, item: u32) {
    twin.legacy.batch(&format!("INSERT INTO items VALUES ({item}, 'i')")).await;
    eventually(secs(30), "both sides are equal", async || twin.equal().await).await;
}

async fn altered(legacy: &str, alterations: [&str; 3]) {
    let twin = twin(legacy, "modern").await;
    let aggregate = format!("{}_order", twin.install);
    let topic = format!("outbox.event.{aggregate}");
    let start =
        || Running::sync(&twin.install, json!({"brokers": twin.brokers}), twin.sync("legacy"), &outboxes(&twin));
    let insert = async |n: u32| twin.legacy.batch(&event(&aggregate, "a", n, "'1'")).await;
    let running = start();
    running.until(LEGACY_OWNS).await;
    insert(1).await;
    let [column, types, both] = alterations;
    twin.legacy.batch(&format!("ALTER TABLE outbox {column}")).await;
    insert(2).await;
    twin.legacy.batch(&format!("ALTER TABLE outbox {types}")).await;
    insert(3).await;
    until_told(&topic, &["1 legacy a 1", "2 legacy a 1", "3 legacy a 1"]).await;
    running.until(LEGACY_OWNS).await;
    running.stop().await;
    // Rows of more than one shape wait, and the catalogue knows the last one alone.
    insert(4).await;
    twin.legacy.batch(&format!("ALTER TABLE outbox {both}")).await;
    insert(5).await;
    let running = start();
    running.until(LEGACY_OWNS).await;
    until_told(&topic, &["1 legacy a 1", "2 legacy a 1", "3 legacy a 1", "4 legacy a 1", "5 legacy a 1"]).await;
    twin.legacy.batch("TRUNCATE TABLE outbox").await;
    passes(&twin, 1).await;
    // What lacks a column is put aside: no log can be mended.
    twin.legacy.batch("ALTER TABLE outbox DROP COLUMN aggregateid").await;
    let dropped = event(&aggregate, "a", 6, "'1'").replace("aggregateid, ", "").replace("'a', ", "");
    twin.legacy.batch(&dropped).await;
    let unrouted = format!("{}.shop.legacy_to_modern.unrouted", twin.install);
    until_told(&unrouted, &["6 legacy nothing 1"]).await;
    let (_, record) = &Kafka::shared().all_records(&unrouted)[0];
    assert_eq!(header(record, "unrouted"), Some("the outbox has no column `aggregateid`"));
    running.until(LEGACY_OWNS).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outbox_may_be_altered_at_any_time() {
    let widened = "ALTER type TYPE text, ALTER payload TYPE text USING payload::text";
    altered(
        "legacy",
        ["ADD COLUMN first int DEFAULT 1", widened, "DROP COLUMN first, ADD COLUMN last text, ALTER id TYPE text"],
    )
    .await;
    // The labels of rows that wait are those that the log has, not those that the catalogue has now; so are numbers.
    let retyped = "MODIFY type ENUM('Made', 'Sent') NOT NULL, MODIFY payload int unsigned";
    altered(
        "mariadb",
        [
            "ADD COLUMN first int FIRST",
            retyped,
            "DROP COLUMN first, ADD COLUMN last text, MODIFY id varchar(50) CHARACTER SET utf8mb4, \
             MODIFY type ENUM('Seen', 'Sent', 'Made') NOT NULL, MODIFY payload longtext",
        ],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_rolled_back_and_stands_in_the_log_all_the_same_is_neither_event_nor_row() {
    let twin = twin("mariadb", "modern").await;
    let aggregate = format!("{}_order", twin.install);
    let topic = format!("outbox.event.{aggregate}");
    let running = Running::sync(&twin.install, json!({"brokers": twin.brokers}), twin.sync("legacy"), &outboxes(&twin));
    running.until(LEGACY_OWNS).await;
    let Half::Mariadb(legacy) = &twin.legacy else { panic!("it was made so") };
    let [file, place] = &legacy.query("SHOW MASTER STATUS").await[0][..2] else { panic!() };
    let (file, place) = (file.clone().unwrap(), place.clone().unwrap());
    // A temporary table comes and goes whatever becomes of the transaction, which is why the server logs all of it.
    let temporary = "CREATE TEMPORARY TABLE own (n int); DROP TEMPORARY TABLE own";
    for (n, end) in [(1, "ROLLBACK"), (2, "COMMIT")] {
        let rows = format!("{}; INSERT INTO items VALUES (90{n}, 'i')", event(&aggregate, "a", n, "'1'"));
        twin.legacy.batch(&format!("BEGIN; {rows}; {temporary}; {end}")).await;
    }
    let log = legacy.query(&format!("SHOW BINLOG EVENTS IN '{file}' FROM {place}")).await;
    assert!(log.iter().any(|event| event[5].as_deref() == Some("ROLLBACK")), "the log has no roll-back: {log:?}");
    passes(&twin, 1).await;
    until_told(&topic, &["2 legacy a 1"]).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_statement_in_the_log_may_tidy_an_outbox_and_one_that_adds_to_it_stops_the_flow_until_it_is_passed_over() {
    let twin = twin("mariadb", "modern").await;
    let aggregate = format!("{}_order", twin.install);
    let topic = format!("outbox.event.{aggregate}");
    let start =
        |more: &Value| Running::sync(&twin.install, json!({"brokers": twin.brokers}), twin.sync("legacy"), more);
    let running = start(&outboxes(&twin));
    running.until(LEGACY_OWNS).await;
    let insert = |n: u32| event(&aggregate, "a", n, "'1'");
    let as_statement = async |sql: &str| twin.legacy.batch(&format!("SET binlog_format = STATEMENT; {sql}")).await;
    twin.legacy.batch(&insert(1)).await;
    as_statement("UPDATE outbox SET type = 'Sent'; DELETE FROM outbox WHERE type = 'Sent'").await;
    twin.legacy.batch(&insert(2)).await;
    passes(&twin, 1).await;
    until_told(&topic, &["1 legacy a 1", "2 legacy a 1"]).await;
    as_statement(&insert(3)).await;
    let error = eventually(secs(30), "the flow stops", async || {
        let flow = running.status().flows.remove(0);
        if flow.state == State::Stopped { Ok(flow.last_error.unwrap()) } else { Err(flow.last_error) }
    })
    .await;
    assert!(error.contains(".outbox at "), "{error}");
    assert!(error.contains("new rows of it stand in the binlog as a statement"), "{error}");
    assert!(error.contains("start once without `outbox`"), "{error}");
    twin.legacy.batch(&insert(4)).await;
    running.stop().await;

    // Taken out of the file, what was written until then is still published, but for what the log does not have.
    let running = start(&json!({}));
    running.until(LEGACY_OWNS).await;
    until_told(&topic, &["1 legacy a 1", "2 legacy a 1", "4 legacy a 1"]).await;
    twin.legacy.batch(&insert(5)).await;
    passes(&twin, 2).await;
    running.stop().await;
    twin.legacy.batch(&insert(6)).await;
    let running = start(&outboxes(&twin));
    running.until(LEGACY_OWNS).await;
    twin.legacy.batch(&insert(7)).await;
    until_told(&topic, &["1 legacy a 1", "2 legacy a 1", "4 legacy a 1", "7 legacy a 1"]).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_applied_makes_no_event_even_where_a_trigger_writes_one() {
    let twin = twin("legacy", "modern").await;
    let aggregate = format!("{}_order", twin.install);
    let topic = format!("outbox.event.{aggregate}");
    let insert = event(&aggregate, "a", 1, "'1'")
        .replace(&format!("'{ID}{:012}'", 1), "gen_random_uuid()")
        .replace("INTO outbox", "INTO public.outbox");
    twin.modern
        .batch(&format!(
            "CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {insert}; RETURN NULL; END $$; \
             CREATE TRIGGER tell AFTER INSERT ON items FOR EACH ROW EXECUTE FUNCTION tell(); ALTER TABLE items ENABLE ALWAYS TRIGGER tell"
        ))
        .await;
    let running = Running::sync(&twin.install, json!({"brokers": twin.brokers}), twin.sync("legacy"), &outboxes(&twin));
    running.until(LEGACY_OWNS).await;
    passes(&twin, 1).await;
    twin.modern.batch(&event(&aggregate, "a", 2, "'2'")).await;
    until_told(&topic, &["2 modern a 2"]).await;
    assert_eq!(twin.modern.text("SELECT count(*) FROM outbox").await.as_deref(), Some("2"));
    running.stop().await;
}

/// A shop of items alone, and an outbox on either side.
async fn shop() -> Shop {
    Shop::with(POSTGRES, &["public.items"]).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outbox_comes_into_a_running_sync_and_goes_again() {
    let shop = shop().await;
    let aggregate = format!("{}_order", shop.install);
    let topic = format!("outbox.event.{aggregate}");
    let insert = async |n: u32| shop.legacy.batch(&event(&aggregate, "a", n, "'1'")).await;
    let item = async |id: u32| shop.legacy.batch(&format!("INSERT INTO items VALUES ({id}, 'i')")).await;
    let with = json!({"outbox": {"legacy": "public.outbox"}});

    let running = Running::start(&shop, "legacy", &json!({}));
    running.until(LEGACY_OWNS).await;
    insert(1).await;
    item(1).await;
    until_equal(&shop).await;
    running.stop().await;

    let running = Running::start(&shop, "legacy", &with);
    running.until(LEGACY_OWNS).await;
    insert(2).await;
    item(2).await;
    until_told(&topic, &["2 legacy a 1"]).await;
    until_equal(&shop).await;
    running.stop().await;

    // Written while nobody reads, and then the file has no outbox any more: it was one when the row was written.
    insert(3).await;
    let running = Running::start(&shop, "legacy", &json!({}));
    running.until(LEGACY_OWNS).await;
    insert(4).await;
    item(3).await;
    until_equal(&shop).await;
    until_told(&topic, &["2 legacy a 1", "3 legacy a 1"]).await;
    running.stop().await;

    let running = Running::start(&shop, "legacy", &with);
    running.until(LEGACY_OWNS).await;
    insert(5).await;
    until_told(&topic, &["2 legacy a 1", "3 legacy a 1", "5 legacy a 1"]).await;
    // Taken out behind Banyan's back, events would be missing without a word.
    let publication = format!("{}_shop_l2m_0", shop.install);
    shop.legacy.batch(&format!("ALTER PUBLICATION {publication} DROP TABLE outbox")).await;
    eventually(secs(30), "the flow stops", async || running.status().flows[0].state == State::Stopped).await;
    let error = running.status().flows[0].last_error.clone().unwrap();
    assert!(error.contains("its outbox"), "{error}");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_that_kafka_refuses_holds_all_that_is_behind_it() {
    let shop = shop().await;
    let aggregate = format!("{}_order", shop.install);
    let topic = format!("outbox.event.{aggregate}");
    Kafka::shared().create_topic(&topic, 2, &[("max.message.bytes", "3000")]).await;
    let with = json!({"outbox": {"legacy": "public.outbox"}});
    let running = Running::start(&shop, "legacy", &with);
    running.until(LEGACY_OWNS).await;
    shop.legacy.batch(&event(&aggregate, "a", 1, "'1'")).await;
    until_told(&topic, &["1 legacy a 1"]).await;

    let before = shop.legacy.text("SELECT pg_current_wal_lsn()").await.unwrap();
    let large = "to_jsonb(repeat('x', 5000))";
    shop.legacy
        .batch(&format!("BEGIN; INSERT INTO items VALUES (1, 'i'); {}; COMMIT", event(&aggregate, "a", 2, large)))
        .await;
    shop.legacy.batch("INSERT INTO items VALUES (2, 'i')").await;
    // On their way when the refusal comes: none of them may stand before the one that is refused.
    for n in 3..60 {
        shop.legacy.batch(&event(&aggregate, "a", n, "'3'")).await;
    }
    eventually(secs(30), "the flow stops", async || running.status().flows[0].state == State::Stopped).await;
    let error = running.status().flows[0].last_error.clone().unwrap();
    for word in ["the event of public.outbox at 1:stream:", "too large: raise max.message.bytes of the topic", &topic] {
        assert!(error.contains(word), "no {word:?} in {error}");
    }
    assert!(!error.contains("xxx"));
    running.stop().await;
    assert_eq!(told(Kafka::shared(), &topic), ["1 legacy a 1"], "an event stands before one that comes before it");
    let confirmed = format!(
        "SELECT count(*) FROM pg_replication_slots WHERE slot_name = '{}_shop_l2m_0' AND confirmed_flush_lsn > '{before}'",
        shop.install
    );
    assert_eq!(shop.legacy.number(&confirmed).await, 0, "what is behind the event was confirmed");

    Kafka::shared().alter_topic(&topic, &[("max.message.bytes", "1000000")]).await;
    let running = Running::start(&shop, "legacy", &with);
    running.until(LEGACY_OWNS).await;
    until_equal(&shop).await;
    let order = eventually(secs(30), "all events have arrived", async || {
        let mut order: Vec<u32> = Vec::new();
        for (_, record) in Kafka::shared().all_records(&topic) {
            let n = header(&record, "id").unwrap().strip_prefix(ID).unwrap().parse().unwrap();
            if !order.contains(&n) {
                order.push(n);
            }
        }
        if order.len() == 59 { Ok(order) } else { Err(order) }
    })
    .await;
    assert_eq!(order, (1..60).collect::<Vec<_>>());
    assert_eq!(shop.modern.count("items").await, 2);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_that_takes_no_event_like_this_is_told_with_what_to_change() {
    for (setting, value) in [("message.timestamp.before.max.ms", "0"), ("cleanup.policy", "compact")] {
        let shop = shop().await;
        for side in [&shop.legacy, &shop.modern] {
            side.batch("ALTER TABLE outbox ALTER aggregateid DROP NOT NULL").await;
        }
        let aggregate = format!("{}_order", shop.install);
        let topic = format!("outbox.event.{aggregate}");
        Kafka::shared().create_topic(&topic, 1, &[(setting, value)]).await;
        let with = json!({"outbox": {"legacy": "public.outbox"}});
        let running = Running::start(&shop, "legacy", &with);
        running.until(LEGACY_OWNS).await;
        // More than one, so that one may meet the producer that the first has ended.
        for n in 1..20 {
            shop.legacy.batch(&event(&aggregate, "no key", n, "'[1]'").replace("'no key'", "NULL")).await;
        }
        let error = eventually(secs(30), "the flow stops", async || {
            let flow = running.status().flows.remove(0);
            if flow.state == State::Stopped { Ok(flow.last_error.unwrap()) } else { Err(flow.last_error) }
        })
        .await;
        for word in ["the event of public.outbox at 1:stream:", setting, &topic] {
            assert!(error.contains(word), "no {word:?} in {error}");
        }
        running.stop().await;
        Kafka::shared().alter_topic(&topic, &[]).await;
        let running = Running::start(&shop, "legacy", &with);
        running.until(LEGACY_OWNS).await;
        eventually(secs(30), "the events arrive", async || told(Kafka::shared(), &topic).len() == 19).await;
        running.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outbox_that_cannot_be_published_is_found_before_anything_is_made() {
    let twin = twin("legacy", "mariadb").await;
    let found = async |keys: &Value| -> Vec<String> {
        let config = Running::config(&twin.install, json!({"brokers": twin.brokers}), twin.sync("legacy"), keys);
        let all = preflight::check(&config).await;
        let found: Vec<_> =
            all.iter().filter(|finding| finding.check == Check::Outbox).map(ToString::to_string).collect();
        println!("{found:#?}");
        found
    };
    let none: [&str; 0] = [];
    assert_eq!(found(&outboxes(&twin)).await, none);
    let elsewhere = json!({"outbox": {"legacy": "public.events", "modern": twin.modern.table("events")}});
    let [legacy, modern] = &found(&elsewhere).await[..] else { panic!("not two findings") };
    assert!(
        legacy.contains("there is no such outbox") && legacy.contains("CREATE TABLE \"public\".\"events\" (id uuid"),
        "{legacy}"
    );
    assert!(modern.contains("there is no such outbox") && modern.contains("payload json)"), "{modern}");
    // What it says to run makes it right.
    for (half, finding) in [(&twin.legacy, legacy), (&twin.modern, modern)] {
        half.batch(finding.split('`').nth(1).unwrap()).await;
    }
    twin.legacy.batch("ALTER TABLE events OWNER TO shop").await;
    assert_eq!(found(&elsewhere).await, none);
    twin.legacy.batch("ALTER TABLE events DROP COLUMN type, DROP CONSTRAINT events_pkey; ALTER TABLE events SET UNLOGGED, OWNER TO postgres").await;
    twin.modern.batch("ALTER TABLE events DROP COLUMN payload, ENGINE=Aria").await;
    let told = found(&elsewhere).await;
    let pieces = [
        "has no column `type`",
        "is unlogged",
        "refuse every DELETE",
        "no member of the table's owner",
        "has no column `payload`",
        "its engine is Aria",
    ];
    assert_eq!(told.len(), pieces.len());
    for (finding, piece) in told.iter().zip(pieces) {
        assert!(finding.contains(piece), "no {piece:?} in {finding}");
    }
    let running = Running::sync(&twin.install, json!({"brokers": twin.brokers}), twin.sync("legacy"), &elsewhere);
    running.until([State::Stopped, State::Stopped]).await;
    assert!(Kafka::shared().ends(&format!("{}.shop.legacy_to_modern", twin.install)).is_none(), "a topic was made");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removal_leaves_outbox_and_events_and_says_so() {
    let shop = shop().await;
    let aggregate = format!("{}_order", shop.install);
    let topic = format!("outbox.event.{aggregate}");
    let file = shop.file_with("legacy", "outbox: {legacy: public.outbox, modern: public.outbox}");
    let mut banyan = Banyan::with(&file).start().await;
    banyan.flow_state("shop", "legacy_to_modern", &["applying"], secs(60)).await;
    // A slot that is still being made holds its session open for a moment behind the process.
    banyan.flow_state("shop", "modern_to_legacy", &["watching"], secs(60)).await;
    shop.legacy.batch(&event(&aggregate, "a", 1, "'1'")).await;
    shop.legacy.batch(&event("no topic!", "a", 2, "'2'")).await;
    until_told(&topic, &["1 legacy a 1"]).await;
    let unrouted = format!("{}.shop.legacy_to_modern.unrouted", shop.install);
    until_told(&unrouted, &["2 legacy a 2"]).await;
    banyan.stop(secs(20));
    let output = banyan.verb(&["sync", "remove", "shop", "--yes"]);
    let said = String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{said}");
    assert!(said.contains("the outbox public.outbox of legacy and the topics `outbox.event.…`"), "{said}");
    assert!(said.contains(&format!("topic `{unrouted}`")), "{said}");
    assert_eq!(told(Kafka::shared(), &topic), ["1 legacy a 1"]);
    assert!(Kafka::shared().ends(&unrouted).is_none());
    assert_eq!(shop.legacy.count("outbox").await, 2);
    let published = "SELECT count(*) FROM pg_publication_tables";
    assert_eq!(shop.legacy.number(published).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_that_kafka_does_not_take_yet_hold_back_the_source_and_not_the_rows() {
    let cluster = Cluster::of_three();
    let mut shop = shop().await;
    shop.brokers = cluster.brokers();
    let aggregate = format!("{}_order", shop.install);
    let topic = format!("outbox.event.{aggregate}");
    let running = Running::start(&shop, "legacy", &json!({"outbox": {"legacy": "public.outbox"}}));
    running.until(LEGACY_OWNS).await;
    let [first, .., last] = cluster.nodes() else { panic!("no cluster") };
    first.create_topic(&topic, 1, &[("min.insync.replicas", "3")]).await;
    last.kill();
    let before = shop.legacy.text("SELECT pg_current_wal_lsn()").await.unwrap();
    shop.legacy.batch(&event(&aggregate, "a", 1, "'1'")).await;
    for id in 1..5 {
        shop.legacy.batch(&format!("INSERT INTO items VALUES ({id}, 'i')")).await;
    }
    until_equal(&shop).await;
    let restarts = || {
        let metrics = running.metrics();
        let of_capture =
            |line: &&str| line.starts_with("banyan_task_restarts_total{task=\"shop/legacy_to_modern/capture\"}");
        metrics.lines().find(of_capture).map(str::to_owned)
    };
    let before_waiting = restarts();
    let waits = async |wanted: bool| {
        eventually(secs(60), "the flow says what it waits for", async || {
            let flow = running.status().flows.remove(0);
            let says = flow.waiting_for.as_ref().is_some_and(|what| what.contains(&topic));
            if says == wanted { Ok(()) } else { Err(format!("{flow:?}")) }
        })
        .await;
    };
    waits(true).await;
    // It holds its place, and reads on: nothing is sent again for what only waits.
    shop.legacy.batch("INSERT INTO items VALUES (5, 'i')").await;
    until_equal(&shop).await;
    running.until(LEGACY_OWNS).await;
    assert_eq!(restarts(), before_waiting, "capture began again");
    let confirmed = format!(
        "SELECT count(*) FROM pg_replication_slots WHERE slot_name = '{}_shop_l2m_0' AND confirmed_flush_lsn > '{before}'",
        shop.install
    );
    assert_eq!(shop.legacy.number(&confirmed).await, 0, "what is behind the event was confirmed");
    last.start();
    eventually(secs(60), "the event arrives", async || told(first, &topic) == ["1 legacy a 1"]).await;
    waits(false).await;
    eventually(secs(30), "the source is told", async || shop.legacy.number(&confirmed).await == 1).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_whose_topic_kafka_refuses_to_make_is_put_aside() {
    let shop = shop().await;
    let running = Running::start(&shop, "legacy", &json!({"outbox": {"legacy": "public.outbox"}}));
    running.until(LEGACY_OWNS).await;
    // Two names that differ in `.` and `_` alone have one name in Kafka's metrics.
    let (stands, collides) = (format!("{}_paid", shop.install), format!("{}.paid", shop.install));
    shop.legacy.batch(&event(&stands, "a", 1, "'1'")).await;
    until_told(&format!("outbox.event.{stands}"), &["1 legacy a 1"]).await;
    shop.legacy.batch(&event(&collides, "a", 2, "'2'")).await;
    shop.legacy.batch(&event(&stands, "a", 3, "'3'")).await;
    shop.legacy.batch(&event(&collides, "a", 4, "'4'")).await;
    until_told(&format!("outbox.event.{stands}"), &["1 legacy a 1", "3 legacy a 3"]).await;
    let unrouted = format!("{}.shop.legacy_to_modern.unrouted", shop.install);
    until_told(&unrouted, &["2 legacy a 2", "4 legacy a 4"]).await;
    let (_, record) = &Kafka::shared().all_records(&unrouted)[0];
    assert!(header(record, "unrouted").unwrap().contains("differs in `.` and `_` alone"));
    assert_eq!(running.status().flows[0].last_error, None);
    running.stop().await;
}

/// Writes transactions with events of eight keys until the end, and some that are rolled back. Gives what was committed, by key and in order.
async fn write(half: &Half, aggregate: &str, seed: u64, end: Instant) -> BTreeMap<String, Vec<u32>> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut committed: BTreeMap<String, Vec<u32>> = BTreeMap::new();
    let mut n = 0;
    while Instant::now() < end {
        let commits = random.random_range(0..5) > 0;
        let mut statements = vec!["BEGIN".to_owned()];
        if random.random_range(0..2) == 0 && aggregate.ends_with("legacy") {
            statements.push(format!("INSERT INTO items VALUES ({}, 'i')", n + 1));
        }
        for _ in 0..random.random_range(1..4) {
            n += 1;
            let key = format!("k{}", random.random_range(0..8));
            statements.push(event(aggregate, &key, n, if commits { "'\"kept\"'" } else { "'\"rolled back\"'" }));
            if commits {
                committed.entry(key).or_default().push(n);
            }
        }
        if random.random_range(0..3) == 0 {
            statements.push("DELETE FROM outbox".to_owned());
        }
        statements.push(if commits { "COMMIT" } else { "ROLLBACK" }.to_owned());
        half.batch(&statements.join("; ")).await;
        tokio::time::sleep(Duration::from_millis(random.random_range(0..20))).await;
    }
    committed
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_random_moments_every_event_arrives_and_in_order() {
    let seed = std::env::var("BANYAN_TEST_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(rand::random);
    println!("BANYAN_TEST_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let kafka = Kafka::dedicated();
    let mut twin = twin("legacy", "mariadb").await;
    twin.brokers = kafka.brokers();
    let mut sync = twin.sync("legacy");
    sync["outbox"] = outboxes(&twin)["outbox"].clone();
    let mut banyan = Banyan::with(&format!(
        "upstreams:\n  monolith: {{endpoints: [\"http://127.0.0.1:9\"]}}\ndefault: monolith\ninstall: {}\nkafka: {{brokers: \"{}\"}}\nsyncs: {}\n",
        twin.install,
        twin.brokers,
        json!({"shop": sync})
    ))
    .start()
    .await;
    banyan.flow_state("shop", "legacy_to_modern", &["applying"], secs(60)).await;
    banyan.flow_state("shop", "modern_to_legacy", &["watching"], secs(60)).await;

    let aggregates = ["legacy", "modern"].map(|side| format!("{}_{side}", twin.install));
    let end = Instant::now() + secs(20);
    let faults = async {
        let mut round = 0;
        while Instant::now() < end || round < 4 {
            tokio::time::sleep(Duration::from_millis(random.random_range(300..3_000))).await;
            banyan.kill();
            if round == 2 {
                kafka.kill();
                kafka.start();
            }
            round += 1;
            banyan.start_again().await;
        }
    };
    let [legacy, modern] = &aggregates;
    let (of_legacy, of_modern, ()) =
        tokio::join!(write(&twin.legacy, legacy, seed, end), write(&twin.modern, modern, seed + 1, end), faults);
    for (aggregate, committed) in aggregates.iter().zip([of_legacy, of_modern]) {
        let topic = format!("outbox.event.{aggregate}");
        let count: usize = committed.values().map(Vec::len).sum();
        assert!(count > 100, "the writer got on: {count}");
        let found = eventually(secs(120), "every event has arrived", async || {
            let mut found: BTreeMap<String, Vec<u32>> = BTreeMap::new();
            let (mut seen, mut doubled) = (BTreeSet::new(), 0);
            for (_, record) in kafka.all_records(&topic) {
                assert_eq!(text(record.payload.as_ref()), "\"kept\"", "a rolled-back transaction was published");
                let n: u32 = header(&record, "id").unwrap().strip_prefix(ID).unwrap().parse().unwrap();
                if seen.insert(n) {
                    found.entry(text(record.key.as_ref())).or_default().push(n);
                } else {
                    doubled += 1;
                }
            }
            println!("{topic}: {} of {count}, {doubled} twice", seen.len());
            if seen.len() == count { Ok(found) } else { Err(seen.len()) }
        })
        .await;
        assert_eq!(found, committed, "{topic}");
    }
    eventually(secs(60), "both sides are equal", async || twin.equal().await).await;
}
