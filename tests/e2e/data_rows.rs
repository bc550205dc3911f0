//! What a row may hold, and what a snapshot does with rows that are there already.

use banyan_connectors::State;
use serde_json::{Value, json};

use crate::{
    data_basic::{Running, until_equal},
    harness::{Kafka, Shop, eventually, secs},
};

const LEGACY_OWNS: [State; 2] = [State::Applying, State::Watching];

/// A column of every kind that a migration may meet, at the edges of what it holds.
const TYPES: &str = "
CREATE TYPE mood AS ENUM ('glad', 'not \"so\"');
CREATE DOMAIN cents AS bigint CHECK (VALUE >= 0);
CREATE TYPE pair AS (a int, b text);
CREATE TABLE kinds (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  i2 smallint, r real, d double precision, n numeric, n2 numeric(12,2), m money, b boolean,
  c char(5), v varchar(20), txt text, q \"char\", nm name, by bytea,
  ts timestamp, tz timestamptz, dt date, ti time, tt timetz, iv interval,
  u uuid, j json, jb jsonb, x xml, ip inet, cd cidr, mac macaddr, bt bit(3), vb varbit,
  ia int[], ta text[][], e mood, ea mood[], dom cents, comp pair, rng tstzrange, p point, tsv tsvector, oi oid,
  twice bigint GENERATED ALWAYS AS (i2 * 2) STORED
);
CREATE TABLE pairs (a text, b int, body text, PRIMARY KEY (b, a));
CREATE TABLE whole (id int PRIMARY KEY, body text, n int);
ALTER TABLE whole REPLICA IDENTITY FULL;
CREATE TABLE \"Odd \"\"Table\" (\"Key\" int PRIMARY KEY, \"select\" text, \"a.b\" text);
CREATE TABLE bare (id int PRIMARY KEY);
";

const KINDS: &str = "INSERT INTO kinds (i2, r, d, n, n2, m, b, c, v, txt, q, nm, by, ts, tz, dt, ti, tt, iv, u, j, jb, x, ip, cd, mac, bt, vb, ia, ta, e, ea, dom, comp, rng, p, tsv, oi) VALUES
 (-32768, 'NaN', 1e-307, 'NaN', -9999999999.99, '-$92,233.75', true, 'ab', 'é', E'tab\\tnew\\nline\\\\N', 'q', 'name', '\\x00ff5c', 'infinity', '-infinity', '0044-03-15 BC', '24:00', '23:59:59.999999-15:59', '-178000000 years 1 mon -3 days 04:05:06.789', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', '{\"a\":  1, \"a\": 2}', '{\"b\": [null, \"\\u00e9\"]}', '<a>&amp;</a>', '::1/64', '10.0.0.0/8', '08:00:2b:01:02:03', B'101', B'', '{1,NULL,3}', '{{a,\"b,\\\"c\"},{\"\",NULL}}', 'not \"so\"', '{glad,NULL}', 5, '(1,\"x,\\\"y\")', '[2026-01-01,)', '(1.5,-0)', '''a b'':1A', 4294967295),
 (7, 1e38, 0.1, 1e-20, 0, 0, false, '', '', '', '', '', '', '4713-01-01 BC', '294276-12-31 23:59:59.999999+00', 'infinity', '00:00:00.000001', '00:00+00', '0', NULL, 'null', 'null', '', '1.2.3.4', '::/0', NULL, B'000', B'1', '{}', '{}', 'glad', '{}', 0, '(,)', 'empty', '(0,0)', '', 0),
 (NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL)";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_of_value_and_table_arrives_as_it_was() {
    let tables = ["public.kinds", "public.pairs", "public.whole", "public.bare"];
    let mut shop = Shop::with(TYPES, &tables).await;
    shop.tables.push("public.Odd \"Table".into());
    let odd_rows =
        async |shop: &Shop| (shop.legacy.rows("\"Odd \"\"Table\"").await, shop.modern.rows("\"Odd \"\"Table\"").await);
    // Once through the snapshot, once through the stream.
    shop.legacy.batch(KINDS).await;
    shop.legacy.batch("INSERT INTO \"Odd \"\"Table\" VALUES (1, 'a', NULL); INSERT INTO bare VALUES (1)").await;
    let running = Running::start(&shop, "legacy", &json!({}));
    running.until(LEGACY_OWNS).await;
    shop.legacy.batch(KINDS).await;
    shop.legacy.batch("UPDATE kinds SET i2 = 5, txt = txt || 'x' WHERE id > 1").await;
    shop.legacy
        .batch("INSERT INTO pairs SELECT 'k' || i, i % 3, (SELECT string_agg(md5((i * j)::text), '') FROM generate_series(1, 200) j) FROM generate_series(1, 30) i")
        .await;
    shop.legacy.batch("UPDATE pairs SET b = b + 10 WHERE a < 'k2'; UPDATE pairs SET a = b::text || a; DELETE FROM pairs WHERE b = 2").await;
    shop.legacy.batch("INSERT INTO whole SELECT i, repeat(md5(i::text), 200), i FROM generate_series(1, 20) i").await;
    shop.legacy
        .batch(
            "UPDATE whole SET n = n + 1; UPDATE whole SET id = id + 100 WHERE id > 10; DELETE FROM whole WHERE id < 5",
        )
        .await;
    shop.legacy
        .batch("UPDATE \"Odd \"\"Table\" SET \"a.b\" = '\"'; INSERT INTO bare VALUES (2); UPDATE bare SET id = id + 10; DELETE FROM bare WHERE id = 12")
        .await;
    let same = async || {
        let (legacy, modern) = odd_rows(&shop).await;
        legacy == modern && legacy == ["(1,a,\"\"\"\")"]
    };
    eventually(secs(20), "the oddly named table is equal", same).await;
    let plain = Shop { tables: tables.map(str::to_owned).into(), ..shop };
    until_equal(&plain).await;
    assert_eq!(plain.modern.count("kinds").await, 6);
    assert_eq!(plain.modern.count("bare").await, 1);
    running.until(LEGACY_OWNS).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_is_not_empty_is_refused_and_says_how_many_rows_it_holds() {
    let shop = Shop::fresh().await;
    shop.modern.batch("INSERT INTO accounts VALUES (1, 'old@x', 'O'), (2, 'older@x', 'O')").await;
    let running = Running::start(&shop, "legacy", &json!({}));
    eventually(secs(20), "refused", async || running.status().flows[0].state == State::Stopped).await;
    let error = running.status().flows[0].last_error.clone().unwrap();
    assert!(
        error.contains("public.accounts") && error.contains("2 rows") && error.contains("keep_matching"),
        "{error}"
    );
    assert!(!error.contains("payments"), "{error}");
    assert_eq!(shop.modern.count("accounts").await, 2);
    running.stop().await;

    // The answer is given in the file.
    shop.legacy.batch("INSERT INTO accounts VALUES (3, 'new@x', 'N')").await;
    let running = Running::start(&shop, "legacy", &json!({"target": "replace"}));
    running.until(LEGACY_OWNS).await;
    until_equal(&shop).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keep_matching_touches_only_what_differs() {
    let shop = Shop::fresh().await;
    shop.legacy
        .batch("INSERT INTO accounts SELECT i, i || '@x', 'N' FROM generate_series(1, 6000) i; INSERT INTO payments VALUES (1, 1, 1, 'n', 'epoch')")
        .await;
    shop.modern
        .batch(
            "INSERT INTO accounts SELECT i, i || '@x', CASE WHEN i = 5 THEN 'differs' ELSE 'N' END FROM generate_series(1, 5000) i; \
             INSERT INTO accounts VALUES (9000, '9000@x', 'only here')",
        )
        .await;
    let before =
        "SELECT count(DISTINCT xmin::text) || ' ' || min(xmin::text) FROM accounts WHERE id <= 5000 AND id <> 5";
    let untouched = shop.modern.text(before).await;
    let running = Running::start(&shop, "legacy", &json!({"target": "keep_matching"}));
    running.until(LEGACY_OWNS).await;
    until_equal(&shop).await;
    assert_eq!(shop.modern.text(before).await, untouched);
    assert_eq!(shop.modern.number("SELECT count(*) FROM pg_class WHERE relname LIKE 'seen%'").await, 0);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_stands_in_kafka_is_debeziums_envelope_with_lossless_text() {
    let shop = Shop::fresh().await;
    let running = Running::start(&shop, "legacy", &json!({}));
    running.until(LEGACY_OWNS).await;
    shop.legacy.batch("INSERT INTO accounts VALUES (1, 'a@x', 'A'); INSERT INTO payments VALUES (7, 1, 1.10, NULL, '2026-01-02 03:04:05+00'); UPDATE payments SET id = 8").await;
    until_equal(&shop).await;
    eventually(secs(10), "the payment is there", async || shop.modern.count("payments").await == 1).await;
    let records = Kafka::shared().records(&format!("{}.shop.legacy_to_modern", shop.install));
    let header = |i: usize, name: &str| {
        let headers: &Vec<(String, Vec<u8>)> = &records[i].headers;
        headers.iter().find(|(key, _)| key == name).map(|(_, value)| String::from_utf8(value.clone()).unwrap())
    };
    let kinds: Vec<_> = (0..records.len())
        .map(|i| header(i, "kind").unwrap_or("row".into()))
        .filter(|kind| kind != "checkpoint")
        .collect();
    assert_eq!(kinds, ["start", "loaded", "commit", "loaded", "commit", "row", "row", "row", "commit"]);
    let rows: Vec<usize> = (0..records.len()).filter(|i| header(*i, "kind").is_none()).collect();
    let value = |i: usize| serde_json::from_slice::<Value>(records[i].payload.as_ref().unwrap()).unwrap();
    let update = value(rows[2]);
    assert_eq!(update["before"], json!({"id": "7"}), "a key change is one record that carries the old key");
    assert_eq!(
        update["after"],
        json!({"id": "8", "account_id": "1", "amount": "1.10", "note": null, "paid_at": "2026-01-02 03:04:05+00"})
    );
    assert_eq!((&update["op"], &update["source"]["table"]), (&json!("u"), &json!("payments")));
    assert_eq!(serde_json::from_slice::<Value>(records[rows[2]].key.as_ref().unwrap()).unwrap(), json!({"id": "8"}));
    for name in ["position", "from", "epoch", "origin"] {
        assert!(header(rows[0], name).is_some(), "{name}");
    }
    assert_eq!(header(rows[0], "origin").as_deref(), Some("legacy"));
    let positions: Vec<_> = rows.iter().map(|i| header(*i, "position").unwrap()).collect();
    assert!(
        positions[0].ends_with(":0") && positions[1].ends_with(":1") && positions[2].ends_with(":2"),
        "{positions:?}"
    );
    running.stop().await;
}
