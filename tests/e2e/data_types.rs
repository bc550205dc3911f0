//! The type table (`docs/reference/types.md`): each pair of types with the values at its edges, copied by a snapshot and sent by the
//! stream, read back on the other side.

use std::fmt::Write as _;

use banyan_connectors::{
    State,
    verify::{self, Counts, Difference, Event, Options, What},
};
use serde_json::json;

use crate::{
    data_basic::Running,
    data_mysql::start,
    harness::{Half, MariaDb, Postgres, Twin, eventually, secs},
};

/// A pair of types, and values of the first with the text of the second's.
type Case = (&'static str, &'static str, &'static [(&'static str, &'static str)]);

/// MariaDB's types into PostgreSQL's.
const MARIADB_TO_POSTGRES: &[Case] = &[
    ("tinyint", "smallint", &[("-128", "-128"), ("127", "127")]),
    ("tinyint unsigned", "smallint", &[("0", "0"), ("255", "255")]),
    ("tinyint(1)", "boolean", &[("0", "false"), ("1", "true")]),
    ("smallint", "smallint", &[("-32768", "-32768"), ("32767", "32767")]),
    ("smallint unsigned", "integer", &[("65535", "65535")]),
    ("mediumint", "integer", &[("-8388608", "-8388608"), ("8388607", "8388607")]),
    ("mediumint unsigned", "integer", &[("16777215", "16777215")]),
    ("int", "integer", &[("-2147483648", "-2147483648"), ("2147483647", "2147483647")]),
    ("int unsigned", "bigint", &[("4294967295", "4294967295")]),
    (
        "bigint",
        "bigint",
        &[("-9223372036854775808", "-9223372036854775808"), ("9223372036854775807", "9223372036854775807")],
    ),
    ("bigint unsigned", "numeric(20,0)", &[("18446744073709551615", "18446744073709551615"), ("0", "0")]),
    (
        "decimal(65,30)",
        "numeric(65,30)",
        &[
            (
                "-99999999999999999999999999999999999.999999999999999999999999999999",
                "-99999999999999999999999999999999999.999999999999999999999999999999",
            ),
            ("0.000000000000000000000000000001", "0.000000000000000000000000000001"),
            ("0", "0.000000000000000000000000000000"),
        ],
    ),
    ("decimal(10,2) unsigned", "numeric(10,2)", &[("99999999.99", "99999999.99"), ("0.01", "0.01")]),
    ("decimal(18,0)", "bigint", &[("-999999999999999999", "-999999999999999999")]),
    (
        "float",
        "real",
        &[
            ("0.1", "0.1"),
            ("-3.402823e38", "-3.402823e+38"),
            ("1.17549435e-38", "1.1754944e-38"),
            ("16777216", "1.6777216e+07"),
        ],
    ),
    (
        "double",
        "double precision",
        &[
            ("0.1", "0.1"),
            ("1.7976931348623157e308", "1.7976931348623157e+308"),
            ("2.2250738585072014e-308", "2.2250738585072014e-308"),
        ],
    ),
    ("bit(1)", "boolean", &[("b'0'", "false"), ("b'1'", "true")]),
    ("bit(10)", "bit(10)", &[("b'1000000001'", "1000000001"), ("b'1'", "0000000001")]),
    (
        "bit(64)",
        "bit(64)",
        &[("x'8000000000000001'", "1000000000000000000000000000000000000000000000000000000000000001")],
    ),
    ("year", "smallint", &[("1901", "1901"), ("2155", "2155"), ("'0000'", "0")]),
    ("date", "date", &[("'1000-01-01'", "1000-01-01"), ("'9999-12-31'", "9999-12-31"), ("'2024-02-29'", "2024-02-29")]),
    (
        "datetime",
        "timestamp(0) without time zone",
        &[("'1000-01-01 00:00:00'", "1000-01-01 00:00:00"), ("'9999-12-31 23:59:59'", "9999-12-31 23:59:59")],
    ),
    (
        "datetime(6)",
        "timestamp(6) without time zone",
        &[
            ("'9999-12-31 23:59:59.999999'", "9999-12-31 23:59:59.999999"),
            ("'2026-01-02 03:04:05.000001'", "2026-01-02 03:04:05.000001"),
        ],
    ),
    ("datetime(3)", "timestamp(3) without time zone", &[("'2026-01-02 03:04:05.678'", "2026-01-02 03:04:05.678")]),
    ("datetime(1)", "timestamp(6) with time zone", &[("'2026-01-02 03:04:05.6'", "2026-01-02 03:04:05.6+00")]),
    (
        "timestamp(6)",
        "timestamp(6) with time zone",
        &[
            ("'1970-01-01 00:00:01.000001'", "1970-01-01 00:00:01.000001+00"),
            ("'2038-01-19 03:14:07.999999'", "2038-01-19 03:14:07.999999+00"),
        ],
    ),
    ("timestamp", "timestamp(0) with time zone", &[("'2026-07-01 12:00:00'", "2026-07-01 12:00:00+00")]),
    (
        "time(6)",
        "interval",
        &[
            ("'-838:59:59.999999'", "-838:59:59.999999"),
            ("'838:59:59'", "838:59:59"),
            ("'-00:00:00.000001'", "-00:00:00.000001"),
        ],
    ),
    ("time(2)", "interval", &[("'-00:00:01.10'", "-00:00:01.1"), ("'25:00:00'", "25:00:00")]),
    ("time", "time without time zone", &[("'23:59:59'", "23:59:59")]),
    ("char(5)", "character varying(5)", &[("'ab'", "ab"), ("''", ""), ("'Bö😀'", "Bö😀")]),
    (
        "varchar(300)",
        "character varying(300)",
        &[("concat(repeat('ä', 299), ' ')", "ää"), ("'it''s \\\\ \"x\"'", "it's \\ \"x\"")],
    ),
    ("varchar(20) character set latin1", "text", &[("'Grüße €'", "Grüße €")]),
    ("varchar(20) character set greek", "text", &[("'Ελλάδα'", "Ελλάδα")]),
    ("varchar(20) character set utf16", "text", &[("'B😀'", "B😀")]),
    ("varchar(20) character set utf32", "text", &[("'B😀'", "B😀")]),
    ("text character set utf8mb3", "text", &[("'Ж'", "Ж")]),
    ("longtext", "text", &[("repeat('long', 50000)", "longlong")]),
    (
        "binary(4)",
        "bytea",
        &[("x'cafe'", "\\xcafe0000"), ("x'00000000'", "\\x00000000"), ("x'20202020'", "\\x20202020")],
    ),
    ("varbinary(10)", "bytea", &[("x'00ff00'", "\\x00ff00"), ("''", "\\x")]),
    ("longblob", "bytea", &[("x'5c783030'", "\\x5c783030")]),
    ("enum('small','it''s','ä')", "text", &[("'it''s'", "it's"), ("'ä'", "ä")]),
    ("set('a','b','c')", "text", &[("'a,c'", "a,c"), ("''", "")]),
    ("json", "jsonb", &[("'{\"a\": [1, 2.50, null, \"ä\"]}'", "{\"a\": [1, 2.50, null, \"ä\"]}")]),
    (
        "longtext",
        "json",
        &[("'{\"b\":1,  \"a\":12345678901234567890.123}'", "{\"b\":1,  \"a\":12345678901234567890.123}")],
    ),
    (
        "uuid",
        "uuid",
        &[
            ("'123e4567-e89b-12d3-a456-426655440000'", "123e4567-e89b-12d3-a456-426655440000"),
            ("'f47ac10b-58cc-4372-a567-0e02b2c3d479'", "f47ac10b-58cc-4372-a567-0e02b2c3d479"),
            ("'0190163d-8694-739b-aea5-966c26f8ad91'", "0190163d-8694-739b-aea5-966c26f8ad91"),
            ("'1ec9414c-232a-6b00-b3c8-9f6bdeced846'", "1ec9414c-232a-6b00-b3c8-9f6bdeced846"),
            ("'ffffffff-ffff-ffff-ffff-ffffffffffff'", "ffffffff-ffff-ffff-ffff-ffffffffffff"),
            ("'00000000-0000-0000-0000-000000000000'", "00000000-0000-0000-0000-000000000000"),
        ],
    ),
    (
        "inet6",
        "inet",
        &[
            ("'2001:db8::ff00:42:8329'", "2001:db8::ff00:42:8329/128"),
            ("'::'", "::/128"),
            ("'::ffff:192.0.2.128'", "::ffff:192.0.2.128/128"),
        ],
    ),
    ("inet4", "inet", &[("'192.0.2.7'", "192.0.2.7/32"), ("'0.0.0.0'", "0.0.0.0/32")]),
];

/// PostgreSQL's types into MariaDB's.
const POSTGRES_TO_MARIADB: &[Case] = &[
    ("boolean", "tinyint(1)", &[("true", "1"), ("false", "0")]),
    ("boolean", "bit(1)", &[("true", "1"), ("false", "0")]),
    ("smallint", "smallint", &[("-32768", "-32768")]),
    ("integer", "int", &[("2147483647", "2147483647")]),
    ("bigint", "bigint", &[("-9223372036854775808", "-9223372036854775808")]),
    ("bigint", "decimal(19,0)", &[("9223372036854775807", "9223372036854775807")]),
    (
        "numeric(65,30)",
        "decimal(65,30)",
        &[(
            "-99999999999999999999999999999999999.999999999999999999999999999999",
            "-99999999999999999999999999999999999.999999999999999999999999999999",
        )],
    ),
    (
        "numeric",
        "decimal(30,10)",
        &[("12345678901234567890.0123456789", "12345678901234567890.0123456789"), ("0.5", "0.5000000000")],
    ),
    ("real", "float", &[("0.1", "0.10000000149011612"), ("-3.402823e38", "-3.4028230607370965e38")]),
    (
        "double precision",
        "double",
        &[("0.1", "0.1"), ("1.7976931348623157e308", "1.7976931348623157e308"), ("5e-324", "5e-324")],
    ),
    ("bytea", "longblob", &[("'\\x00ff5c27'", "00FF5C27"), ("''", "")]),
    ("date", "date", &[("'0001-01-01'", "0001-01-01"), ("'9999-12-31'", "9999-12-31")]),
    (
        "timestamp",
        "datetime(6)",
        &[
            ("'9999-12-31 23:59:59.999999'", "9999-12-31 23:59:59.999999"),
            ("'0001-01-01 00:00:00'", "0001-01-01 00:00:00.000000"),
        ],
    ),
    ("timestamptz", "datetime(6)", &[("'2026-01-02 03:04:05.6+05:30'", "2026-01-01 21:34:05.600000")]),
    (
        "timestamptz",
        "timestamp(6)",
        &[
            ("'2026-07-01 12:00:00+02'", "2026-07-01 10:00:00.000000"),
            ("'1970-01-01 00:00:01+00'", "1970-01-01 00:00:01.000000"),
        ],
    ),
    ("time", "time(6)", &[("'23:59:59.999999'", "23:59:59.999999"), ("'24:00:00'", "24:00:00.000000")]),
    ("character varying(20)", "varchar(20)", &[("'it''s \\ 😀'", "it's \\ 😀"), ("''", "")]),
    ("character(5)", "char(5)", &[("'ab'", "ab")]),
    ("text", "longtext", &[("repeat('läng', 20000)", "läng"), ("E'tab\\tline\\n'", "tab\tline\n")]),
    ("bit(10)", "bit(10)", &[("B'1000000001'", "1000000001")]),
    ("uuid", "uuid", &[("'f47ac10b-58cc-4372-a567-0e02b2c3d479'", "f47ac10b-58cc-4372-a567-0e02b2c3d479")]),
    ("uuid", "char(36)", &[("'f47ac10b-58cc-4372-a567-0e02b2c3d479'", "f47ac10b-58cc-4372-a567-0e02b2c3d479")]),
    ("mood", "enum('sad','it''s','ok')", &[("'it''s'", "it's")]),
    ("mood", "varchar(10)", &[("'ok'", "ok")]),
    ("inet", "inet6", &[("'2001:db8::1'", "2001:db8::1")]),
    ("jsonb", "longtext", &[("'{\"a\": [1, 2.50]}'", "{\"a\": [1, 2.50]}")]),
    ("json", "longtext", &[("'{\"b\":1,  \"a\":2}'", "{\"b\":1,  \"a\":2}")]),
    ("interval", "longtext", &[("'-1 year 2 days 03:04:05.6'", "-1 years +2 days 03:04:05.6")]),
    ("timetz", "longtext", &[("'12:00:00+05:30'", "12:00:00+05:30")]),
    ("integer[]", "longtext", &[("'{1,NULL,3}'", "{1,NULL,3}")]),
    ("text[]", "longtext", &[("array['a,b', 'c\"d']", "{\"a,b\",\"c\\\"d\"}")]),
    ("int4range", "longtext", &[("'[1,5)'", "[1,5)"), ("'empty'", "empty")]),
    ("pair", "longtext", &[("row(1, 'x y')", "(1,\"x y\")")]),
    ("positive", "int", &[("7", "7")]),
    ("inet", "longtext", &[("'10.0.0.0/8'", "10.0.0.0/8")]),
    ("macaddr", "varchar(17)", &[("'08:00:2b:01:02:03'", "08:00:2b:01:02:03")]),
    ("hstore", "longtext", &[("'a=>1, b=>NULL'", "\"a\"=>\"1\", \"b\"=>NULL")]),
];

const POSTGRES_TYPES: &str = "CREATE TYPE mood AS ENUM ('sad', 'it''s', 'ok'); CREATE TYPE pair AS (a int, b text); \
     CREATE DOMAIN positive AS integer CHECK (VALUE > 0)";

fn ddl(cases: &[Case], second: bool) -> String {
    let mut sql = "CREATE TABLE edges (id int PRIMARY KEY".to_owned();
    for (at, (from, to, _)) in cases.iter().enumerate() {
        write!(sql, ", c{at} {} NULL", if second { to } else { from }).unwrap();
    }
    sql + ")"
}

/// Row `row` has the value of that number of each type; NULL where there is none.
fn insert(cases: &[Case], id: usize, row: usize) -> String {
    let values: Vec<&str> = cases.iter().map(|(.., values)| values.get(row).map_or("NULL", |value| value.0)).collect();
    format!("INSERT INTO edges VALUES ({id}, {})", values.join(", "))
}

/// How a column of the target is shown as text.
fn shown(kind: &str, at: usize, type_: &str) -> String {
    match kind {
        "postgres" => format!("c{at}::text"),
        _ if type_.starts_with("bit") => format!("bin(c{at})"),
        _ if type_.contains("blob") || type_.starts_with("binary") || type_.starts_with("varbinary") => {
            format!("hex(c{at})")
        }
        _ if type_ == "float" => format!("cast(c{at} AS double)"),
        _ => format!("cast(c{at} AS char)"),
    }
}

/// Copies row after row by snapshot, sends them again by stream, and reads both back.
async fn arrive(from: Half, to: Half, cases: &'static [Case]) {
    let rows = cases.iter().map(|(.., values)| values.len()).max().unwrap_or(0) + 1;
    for row in 0..rows {
        from.batch(&insert(cases, row, row)).await;
    }
    let twin = Twin::new(from, to, &[("edges", "id", "id")]);
    let running = start(&twin, "legacy", &json!({}));
    running.until([State::Applying, State::Watching]).await;
    for row in 0..rows {
        twin.legacy.batch(&insert(cases, 100 + row, row)).await;
    }
    // And as an UPDATE: every value goes into a row that had none.
    for row in 0..rows {
        twin.legacy.batch(&format!("INSERT INTO edges (id) VALUES ({})", 200 + row)).await;
        let sets: Vec<String> = cases
            .iter()
            .enumerate()
            .filter_map(|(at, (.., values))| values.get(row).map(|value| format!("c{at} = {}", value.0)))
            .collect();
        if !sets.is_empty() {
            twin.legacy.batch(&format!("UPDATE edges SET {} WHERE id = {}", sets.join(", "), 200 + row)).await;
        }
    }
    let last = 200 + rows - 1;
    eventually(secs(30), "the last row arrived", async || {
        let found = twin.modern.text(&format!("SELECT count(*) FROM edges WHERE id = {last}")).await;
        if found.as_deref() == Some("1") { Ok(()) } else { Err(format!("{:#?}", running.status())) }
    })
    .await;
    running.until([State::Applying, State::Watching]).await;
    let mut wrong = Vec::new();
    for (at, (source, target, values)) in cases.iter().enumerate() {
        for row in 0..rows {
            for (way, id) in [("snapshot", row), ("stream", 100 + row), ("update", 200 + row)] {
                let show = shown(twin.modern.kind(), at, target);
                let found = twin.modern.text(&format!("SELECT {show} FROM edges WHERE id = {id}")).await;
                let wanted = values.get(row).map(|value| value.1);
                // Long ones are said by how they begin.
                let same = match (&found, wanted) {
                    (Some(found), Some(wanted)) if found.len() > 250 => found.starts_with(wanted),
                    (found, wanted) => {
                        found.as_deref() == wanted
                            || bits(found.as_deref()) == bits(wanted) && target.starts_with("bit")
                    }
                };
                if !same {
                    wrong.push(format!("{source} into {target}, {way}: {found:?} instead of {wanted:?}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let findings = running.status();
    assert_eq!(findings.flows.iter().map(|flow| flow.violations).sum::<u64>(), 0);
    verified(&twin, &running, cases.len(), 3 * rows as u64).await;
    running.stop().await;
}

async fn compare(running: &Running, repair: Option<&str>) -> (Counts, Vec<Difference>) {
    let (mut found, options) = (Vec::new(), Options { repair: repair.map(str::to_owned), ..Options::default() });
    let mut tell = |event| {
        if let Event::Found(difference) = event {
            found.push(difference);
        }
    };
    let outcome = verify::run(&running.config, "shop", &options, &mut tell).await.unwrap();
    (*outcome.tables.values().next().unwrap(), found)
}

/// What arrived counts as equal, of every type; each column that has another value is found, and has the owner's again after a repair.
async fn verified(twin: &Twin, running: &Running, columns: usize, rows: u64) {
    let (counts, found) = compare(running, None).await;
    assert_eq!(found, []);
    assert_eq!(counts, Counts { rows, ..Counts::default() });
    let sets: Vec<String> = (0..columns).map(|at| format!("c{at} = NULL")).collect();
    twin.modern.batch(&format!("UPDATE edges SET {} WHERE id = 0", sets.join(", "))).await;
    // The values of another row.
    let sql = match twin.modern.kind() {
        "postgres" => {
            let sets: Vec<String> = (0..columns).map(|at| format!("c{at} = o.c{at}")).collect();
            format!("UPDATE edges x SET {} FROM edges o WHERE o.id = 100 AND x.id = 101", sets.join(", "))
        }
        _ => {
            let sets: Vec<String> = (0..columns).map(|at| format!("x.c{at} = o.c{at}")).collect();
            format!("UPDATE edges x JOIN edges o ON o.id = 100 SET {} WHERE x.id = 101", sets.join(", "))
        }
    };
    twin.modern.batch(&sql).await;
    let (_, found) = compare(running, None).await;
    let of = |id: &str| found.iter().find(|one| one.key["id"] == id).map(|one| (one.what, one.columns.clone()));
    let all: Vec<String> = (0..columns).map(|at| format!("c{at}")).collect();
    assert_eq!(of("0"), Some((What::Differs, all.clone())));
    // No case says one value twice.
    assert_eq!(of("101"), Some((What::Differs, all)));
    assert_eq!(found.len(), 2);
    let (_, found) = compare(running, Some("a test")).await;
    assert!(found.len() == 2 && found.iter().all(|one| one.repaired), "{found:?}");
    assert_eq!(compare(running, None).await.1, []);
}

fn bits(text: Option<&str>) -> Option<&str> {
    text.map(|text| text.trim_start_matches('0'))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_type_of_mariadb_arrives_in_postgresql_as_it_was() {
    let cases = MARIADB_TO_POSTGRES;
    let from = Half::mariadb(MariaDb::shared(), &ddl(cases, false)).await;
    let to = Half::postgres(Postgres::shared_modern(), &ddl(cases, true)).await;
    arrive(from, to, cases).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_type_of_postgresql_arrives_in_mariadb_as_it_was() {
    let cases = POSTGRES_TO_MARIADB;
    let from = Half::postgres(Postgres::shared_legacy(), "SELECT 1").await;
    from.batch(&format!("CREATE EXTENSION hstore; SET ROLE shop; {POSTGRES_TYPES}; {}", ddl(cases, false))).await;
    let to = Half::mariadb(MariaDb::shared(), &ddl(cases, true)).await;
    arrive(from, to, cases).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_type_of_mariadb_arrives_in_mariadb_as_it_was() {
    let from = Half::mariadb(MariaDb::shared(), &ddl(MARIADB_TO_POSTGRES, false)).await;
    let to = Half::mariadb(MariaDb::shared(), &ddl(MARIADB_TO_POSTGRES, false)).await;
    let rows = MARIADB_TO_POSTGRES.iter().map(|(.., values)| values.len()).max().unwrap_or(0);
    for row in 0..rows {
        from.batch(&insert(MARIADB_TO_POSTGRES, row, row)).await;
    }
    let list: Vec<String> =
        MARIADB_TO_POSTGRES.iter().enumerate().map(|(at, (type_, ..))| shown("mysql", at, type_)).collect();
    let list: &'static str = Box::leak(format!("id, {}", list.join(", ")).into_boxed_str());
    let twin = Twin::new(from, to, &[("edges", list, list)]);
    let running = start(&twin, "legacy", &json!({}));
    running.until([State::Applying, State::Watching]).await;
    for row in 0..rows {
        twin.legacy.batch(&insert(MARIADB_TO_POSTGRES, 100 + row, row)).await;
    }
    eventually(secs(30), "both sides are equal", async || {
        twin.equal().await.map_err(|odd| format!("{:#?}\n{odd}", running.status()))
    })
    .await;
    verified(&twin, &running, MARIADB_TO_POSTGRES.len(), 2 * rows as u64).await;
    running.stop().await;
}

/// The table of the guide names every pair that is tested here.
#[test]
fn the_type_table_names_every_tested_pair() {
    let page = include_str!("../../docs/reference/types.md");
    for (from, to, _) in MARIADB_TO_POSTGRES.iter().chain(POSTGRES_TO_MARIADB) {
        let word = |type_: &str| type_.split(['(', ' ']).next().unwrap_or_default().to_owned();
        let known = page
            .lines()
            .any(|line| line.split_once("| `").is_some() && line.contains(&word(from)) && line.contains(&word(to)));
        let own = ["mood", "pair", "positive"].contains(from);
        assert!(known || own, "docs/reference/types.md does not name `{from}` into `{to}`");
    }
}
