//! Columns that have another name on the other side, that stay on one side, or that are set there.

use banyan_connectors::{
    State,
    preflight::{self, Severity},
    verify::{self, Event, Options, What},
};
use serde_json::{Value, json};

use crate::{
    data_basic::Running,
    data_mysql::until_equal,
    harness::{Half, MariaDb, Postgres, Twin, eventually, secs},
};

const LEGACY: &str = "CREATE TABLE users (id bigint PRIMARY KEY, mail varchar(100) NOT NULL, md5 varchar(40), origin varchar(10) NOT NULL, \
     name varchar(50), tel varchar(20), UNIQUE (mail))";
const MODERN: &str = "CREATE TABLE people (name varchar(50), uid bigint PRIMARY KEY, email varchar(100) NOT NULL, \
     source varchar(10) NOT NULL, score int, search varchar(20) DEFAULT 'none', phone varchar(20), UNIQUE (email))";

/// The one table of the sync, with the keys that make both sides fit.
fn table(twin: &Twin) -> Value {
    json!({
        "legacy": twin.tables[0].legacy.0,
        "modern": twin.tables[0].modern.0,
        "rename": {"id": "uid", "mail": "email", "tel": "phone"},
        "leave_out": {"legacy": ["md5"], "modern": ["search"]},
        "set": {"modern": {"source": "shop", "score": "7"}, "legacy": {"origin": "new"}},
    })
}

async fn half(kind: &str, ddl: &str) -> Half {
    match kind {
        "mariadb" => Half::mariadb(MariaDb::shared(), &format!("{ddl} COLLATE utf8mb4_bin")).await,
        _ => Half::postgres(Postgres::shared_modern(), ddl).await,
    }
}

async fn twin(legacy: &str, modern: &str) -> Twin {
    let (legacy, modern) = (half(legacy, LEGACY).await, half(modern, MODERN).await);
    let mut twin = Twin::new(legacy, modern, &[("users", "id, mail, name, tel", "uid, email, name, phone")]);
    twin.tables[0].modern.0 = twin.modern.table("people");
    twin
}

fn start(twin: &Twin, owner: &str, keys: &Value) -> Running {
    let mut sync = twin.sync(owner);
    sync["tables"] = json!([table(twin)]);
    Running::sync(&twin.install, json!({"brokers": twin.brokers}), sync, keys)
}

async fn every_change_arrives(legacy: &str, modern: &str, owner: &str) {
    let twin = twin(legacy, modern).await;
    let is_legacy = owner == "legacy";
    let (from, to) = if is_legacy { (&twin.legacy, &twin.modern) } else { (&twin.modern, &twin.legacy) };
    let row = |id: u32, name: &str, mail: &str| match is_legacy {
        true => format!("INSERT INTO users VALUES ({id}, '{mail}', 'secret', 'old', '{name}', '+{id}')"),
        false => format!("INSERT INTO people VALUES ('{name}', {id}, '{mail}', 'here', 1, 'words', '+{id}')"),
    };
    let (users, id, mail, own) =
        if is_legacy { ("users", "id", "mail", "md5") } else { ("people", "uid", "email", "search") };
    from.batch(&row(1, "Ann", "a@x")).await;
    from.batch(&row(2, "Bo", "b@x")).await;
    let running = start(&twin, owner, &json!({}));
    let states = if is_legacy { [State::Applying, State::Watching] } else { [State::Watching, State::Applying] };
    running.until(states).await;
    until_equal(&twin).await;
    for change in [
        row(3, "Cy", "c@x"),
        row(4, "Di", "d@x"),
        format!("UPDATE {users} SET name = 'Anna', {mail} = 'anna@x' WHERE {id} = 1"),
        format!("UPDATE {users} SET {own} = 'other' WHERE {id} = 2"),
        format!("UPDATE {users} SET {id} = 30 WHERE {id} = 3"),
        format!("DELETE FROM {users} WHERE {id} = 4"),
        row(5, "Ed", "e@x"),
    ] {
        from.batch(&change).await;
    }
    until_equal(&twin).await;
    let (count, wanted) = match is_legacy {
        true => ("SELECT count(*) FROM people WHERE source = 'shop' AND score = 7 AND search = 'none'", "4"),
        false => ("SELECT count(*) FROM users WHERE origin = 'new' AND md5 IS NULL", "4"),
    };
    assert_eq!(to.text(count).await.as_deref(), Some(wanted));
    from.batch(&format!("TRUNCATE TABLE {users}")).await;
    from.batch(&row(9, "Zo", "z@x")).await;
    until_equal(&twin).await;
    let status = running.status();
    assert_eq!(
        status.flows.iter().map(|flow| (flow.violations, flow.last_error.clone())).collect::<Vec<_>>(),
        [(0, None), (0, None)]
    );
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn from_postgresql_to_postgresql_columns_are_renamed_left_out_and_set() {
    every_change_arrives("postgres", "postgres", "legacy").await;
    every_change_arrives("postgres", "postgres", "modern").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn between_mariadb_and_postgresql_columns_are_renamed_left_out_and_set() {
    every_change_arrives("mariadb", "postgres", "legacy").await;
    every_change_arrives("mariadb", "postgres", "modern").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_whose_columns_differ_are_copied_over_others_compared_repaired_and_parked() {
    let twin = twin("postgres", "postgres").await;
    twin.legacy.batch("INSERT INTO users SELECT n, n || '@x', 'secret', 'old', 'N' || n, '+' || n FROM generate_series(1, 200) AS n").await;
    twin.modern.batch("INSERT INTO people VALUES ('odd', 5, 'odd@x', 'web', 1, 'words', NULL), ('gone', 900, 'gone@x', 'web', 1, NULL, NULL)").await;
    let running = start(&twin, "legacy", &json!({"target": "keep_matching", "snapshot": {"chunk": 50}}));
    running.until([State::Applying, State::Watching]).await;
    until_equal(&twin).await;
    let search = "SELECT search FROM people WHERE uid = 5";
    assert_eq!(twin.modern.text(search).await.as_deref(), Some("words"), "what stays there is not touched");
    let run = async |options: Options| {
        let mut found = Vec::new();
        let mut tell = |event| {
            if let Event::Found(difference) = event {
                found.push(difference);
            }
        };
        verify::run(&running.config, "shop", &options, &mut tell).await.unwrap();
        found.sort_by_key(|one| one.key["id"].clone());
        found
    };
    assert_eq!(run(Options::default()).await, []);
    twin.modern.batch("DELETE FROM people WHERE uid = 1; UPDATE people SET phone = '?', search = 'x' WHERE uid = 2; UPDATE people SET search = 'y' WHERE uid = 3").await;
    let found = run(Options { repair: Some("a test".into()), ..Options::default() }).await;
    let told: Vec<_> =
        found.iter().map(|one| (one.what, one.key["id"].as_str(), one.columns.join(","), one.repaired)).collect();
    assert_eq!(told, [(What::Missing, "1", String::new(), true), (What::Differs, "2", "tel".into(), true)]);
    until_equal(&twin).await;
    assert_eq!(twin.modern.text("SELECT source || score FROM people WHERE uid = 1").await.as_deref(), Some("shop7"));
    assert_eq!(run(Options::default()).await, []);

    // What the target refuses is parked by its own key, and comes when it is mended.
    twin.modern.batch("INSERT INTO people VALUES ('by hand', 1000, '1000@x', 'web', 1, NULL, NULL)").await;
    twin.legacy.batch("INSERT INTO users VALUES (1000, 'late@x', NULL, 'old', 'Late', NULL)").await;
    eventually(secs(20), "it is parked", async || running.status().flows[0].parked == Some(1)).await;
    twin.legacy.batch("UPDATE users SET tel = '+1000' WHERE id = 1000").await;
    eventually(secs(20), "what touches it follows", async || running.status().flows[0].parked == Some(2)).await;
    twin.modern.batch("DELETE FROM people WHERE uid = 1000").await;
    twin.modern.batch("UPDATE banyan.parked SET state = 'retry' WHERE state = 'parked'").await;
    eventually(secs(20), "nothing is parked", async || running.status().flows[0].parked == Some(0)).await;
    until_equal(&twin).await;
    running.stop().await;
}

const SHIPMENTS: &str =
    "CREATE TABLE shipments (id bigint PRIMARY KEY, land varchar(2), state varchar(10) NOT NULL, body text)";
const PARCELS: &str =
    "CREATE TABLE parcels (id bigint PRIMARY KEY, country varchar(2), state varchar(10) NOT NULL, body text)";

async fn only_some_rows(legacy: &str, modern: &str, owner: &str) {
    let (mut old, mut new) = (SHIPMENTS.to_owned(), PARCELS.to_owned());
    for (kind, ddl, table) in [(legacy, &mut old, "shipments"), (modern, &mut new, "parcels")] {
        if kind == "postgres" {
            let whole = format!(
                "; ALTER TABLE {table} REPLICA IDENTITY FULL; ALTER TABLE {table} ALTER body SET STORAGE EXTERNAL"
            );
            ddl.push_str(&whole);
        }
    }
    let (legacy, modern) = (half(legacy, &old).await, half(modern, &new).await);
    let columns = ["id, land, state, body", "id, country, state, body"];
    let mut twin = Twin::new(legacy, modern, &[("shipments", columns[0], columns[1])]);
    twin.tables[0].modern.0 = twin.modern.table("parcels");
    let is_legacy = owner == "legacy";
    let (from, to, table, into, land) = match is_legacy {
        true => (&twin.legacy, &twin.modern, "shipments", "parcels", "land"),
        false => (&twin.modern, &twin.legacy, "parcels", "shipments", "country"),
    };
    let row = |id: u32, land: &str, state: &str| {
        let land = if land.is_empty() { "NULL".to_owned() } else { format!("'{land}'") };
        format!("INSERT INTO {table} VALUES ({id}, {land}, '{state}', repeat('long ', 1000))")
    };
    for (id, land, state) in
        [(1, "de", "sent"), (2, "fr", "sent"), (3, "", "sent"), (4, "de", "draft"), (5, "de", "sent")]
    {
        from.batch(&row(id, land, state)).await;
    }
    // What the other side has of its own is none of the sync's.
    to.batch(&format!("INSERT INTO {into} VALUES (1000, 'fr', 'sent', 'own'), (1001, 'de', 'draft', 'own')")).await;
    let mut sync = twin.sync(owner);
    sync["tables"] = json!([{
        "legacy": twin.tables[0].legacy.0, "modern": twin.tables[0].modern.0, "rename": {"land": "country"},
        "rows": {"land": ["de", null], "state": ["sent", "done"]},
    }]);
    let running = Running::sync(&twin.install, json!({"brokers": twin.brokers}), sync.clone(), &json!({}));
    let states = if is_legacy { [State::Applying, State::Watching] } else { [State::Watching, State::Applying] };
    running.until(states).await;
    let is_so = async |wanted: &str| {
        let text = format!("SELECT id FROM {into} ORDER BY id");
        eventually(secs(30), "exactly the sync's rows are there", async || {
            let ids = to.lines(&text).await.join(" ");
            if ids == format!("{wanted} 1000 1001") { Ok(()) } else { Err(ids) }
        })
        .await;
    };
    is_so("1 3 5").await;
    for change in [
        row(6, "fr", "sent"),
        row(7, "de", "done"),
        format!("UPDATE {table} SET {land} = 'de' WHERE id = 2"),
        format!("UPDATE {table} SET state = 'sent' WHERE id = 4"),
        format!("UPDATE {table} SET {land} = 'fr' WHERE id = 1"),
        format!("UPDATE {table} SET {land} = 'it' WHERE id = 6"),
        format!("UPDATE {table} SET state = 'done' WHERE id = 3"),
        format!("UPDATE {table} SET id = 50, {land} = NULL WHERE id = 5"),
        format!("DELETE FROM {table} WHERE id IN (6, 7)"),
        format!("DELETE FROM {table} WHERE id = 6"),
    ] {
        from.batch(&change).await;
    }
    is_so("2 3 4 50").await;
    let same = format!(
        "SELECT count(*) FROM {into} WHERE id < 1000 AND body = repeat('long ', 1000) AND (id <> 3 OR state = 'done')"
    );
    assert_eq!(to.text(&same).await.as_deref(), Some("4"), "what did not change came with the row");
    // Rows that are not the sync's may be written by either side.
    to.batch(
        &format!("UPDATE {into} SET body = 'mine' WHERE id = 1000; DELETE FROM {into} WHERE id = 1001")
            .replace("; ", ";\n"),
    )
    .await;
    to.batch(&format!("INSERT INTO {into} VALUES (1001, 'de', 'draft', 'own')")).await;
    from.batch(&format!("TRUNCATE TABLE {table}")).await;
    from.batch(&row(8, "de", "sent")).await;
    is_so("8").await;
    let status = running.status();
    assert_eq!(
        status.flows.iter().map(|flow| (flow.violations, flow.last_error.clone())).collect::<Vec<_>>(),
        [(0, None), (0, None)]
    );
    to.batch(&format!("UPDATE {into} SET {} = 'fr' WHERE id = 8", if is_legacy { "country" } else { "land" })).await;
    let watching = usize::from(is_legacy);
    eventually(secs(20), "it was the sync's row", async || running.status().flows[watching].violations == 1).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn from_postgresql_to_postgresql_only_the_rows_that_the_file_names_are_the_syncs() {
    only_some_rows("postgres", "postgres", "legacy").await;
    only_some_rows("postgres", "postgres", "modern").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn between_mariadb_and_postgresql_only_the_rows_that_the_file_names_are_the_syncs() {
    only_some_rows("mariadb", "postgres", "legacy").await;
    only_some_rows("mariadb", "postgres", "modern").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn others_rows_survive_a_copy_over_them_and_are_not_compared() {
    for target in ["replace", "keep_matching"] {
        let whole = |ddl: &str, table: &str| format!("{ddl}; ALTER TABLE {table} REPLICA IDENTITY FULL");
        let legacy = half("postgres", &whole(SHIPMENTS, "shipments")).await;
        let modern = half("postgres", &whole(PARCELS, "parcels")).await;
        let mut twin = Twin::new(legacy, modern, &[("shipments", "id", "id")]);
        twin.tables[0].modern.0 = twin.modern.table("parcels");
        twin.legacy.batch("INSERT INTO shipments SELECT n, CASE WHEN n % 2 = 0 THEN 'de' ELSE 'fr' END, 'sent', 'x' FROM generate_series(1, 100) AS n").await;
        twin.modern.batch("INSERT INTO parcels VALUES (-1, 'fr', 'sent', 'own'), (-2, 'de', 'sent', 'stale'), (4, 'de', 'odd', 'stale')").await;
        let sync = of_one_country(&twin);
        let running = Running::sync(&twin.install, json!({"brokers": twin.brokers}), sync, &json!({"target": target}));
        running.until([State::Applying, State::Watching]).await;
        let ids = twin.modern.lines("SELECT id FROM parcels WHERE country <> 'de' OR id < 0 OR body = 'stale'").await;
        assert_eq!(
            (ids, twin.modern.text("SELECT count(*) FROM parcels").await.as_deref()),
            (vec!["-1".to_owned()], Some("51"))
        );
        let mut found = Vec::new();
        let outcome =
            verify::run(&running.config, "shop", &Options::default(), &mut |event| found.push(event)).await.unwrap();
        let counts = outcome.tables["public.shipments"];
        assert_eq!((counts.rows, counts.unequal()), (50, 0), "{found:?}");
        twin.modern
            .batch("UPDATE parcels SET country = 'it' WHERE id = 2; UPDATE parcels SET id = 3 WHERE id = 4")
            .await;
        let options = Options { repair: Some("a test".into()), ..Options::default() };
        let outcome = verify::run(&running.config, "shop", &options, &mut |_| {}).await.unwrap();
        let counts = outcome.tables["public.shipments"];
        assert_eq!(
            (counts.missing, counts.extra, counts.repaired),
            (2, 1, 2),
            "a row of somebody else is not written over"
        );
        let its = "SELECT count(*) FROM parcels WHERE country = 'de'";
        assert_eq!(twin.modern.text(its).await.as_deref(), Some("49"));

        // Nor does the stream, which parks what it cannot place.
        twin.legacy
            .batch(
                "UPDATE shipments SET body = 'y' WHERE id = 2; INSERT INTO shipments VALUES (1000, 'de', 'sent', 'x')",
            )
            .await;
        eventually(secs(20), "it is parked", async || running.status().flows[0].parked == Some(1)).await;
        twin.legacy.batch("INSERT INTO shipments VALUES (1001, 'de', 'sent', 'x')").await;
        eventually(secs(20), "others flow on", async || twin.modern.text(its).await.as_deref() == Some("50")).await;
        let others = "SELECT country || ' ' || body FROM parcels WHERE id = 2";
        assert_eq!(twin.modern.text(others).await.as_deref(), Some("it x"));
        running.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_stops_before_a_row_of_somebody_else() {
    for (own, target) in [
        ("(4, 'fr', 'sent', 'own')", "replace"),
        ("(4, 'fr', 'sent', 'own')", "keep_matching"),
        ("(900, 'fr', 'sent', 'x4')", "keep_matching"),
    ] {
        let whole = |ddl: &str, table: &str| format!("{ddl}; ALTER TABLE {table} REPLICA IDENTITY FULL");
        let legacy = half("postgres", &whole(SHIPMENTS, "shipments")).await;
        let modern =
            half("postgres", &format!("{}; ALTER TABLE parcels ADD UNIQUE (body)", whole(PARCELS, "parcels"))).await;
        let mut twin = Twin::new(legacy, modern, &[("shipments", "id", "id")]);
        twin.tables[0].modern.0 = twin.modern.table("parcels");
        twin.legacy
            .batch("INSERT INTO shipments SELECT n, 'de', 'sent', 'x' || n FROM generate_series(1, 9) AS n")
            .await;
        twin.modern.batch(&format!("INSERT INTO parcels VALUES {own}")).await;
        let start = || {
            Running::sync(
                &twin.install,
                json!({"brokers": twin.brokers}),
                of_one_country(&twin),
                &json!({"target": target}),
            )
        };
        let running = start();
        running.until([State::Stopped, State::Watching]).await;
        let why = running.status().flows[0].last_error.clone().unwrap();
        assert!(why.contains("none of the sync's `rows`") || why.ends_with("SQLSTATE 23505"), "{why}");
        assert_eq!(
            twin.modern.text("SELECT country || id FROM parcels").await.as_deref(),
            own.strip_prefix('(').map(|row| if row.starts_with('4') { "fr4" } else { "fr900" })
        );
        twin.modern.batch("DELETE FROM parcels WHERE country = 'fr'").await;
        running.stop().await;
        let running = start();
        running.until([State::Applying, State::Watching]).await;
        until_equal(&twin).await;
        // All tables of a TRUNCATE are emptied, whichever of them has others' rows.
        twin.legacy.batch("TRUNCATE shipments").await;
        until_equal(&twin).await;
        running.stop().await;
    }
}

/// A sync of the shipments of one country.
fn of_one_country(twin: &Twin) -> Value {
    let mut sync = twin.sync("legacy");
    sync["tables"] = json!([{
        "legacy": twin.tables[0].legacy.0, "modern": twin.tables[0].modern.0, "rename": {"land": "country"}, "rows": {"land": ["de"]},
    }]);
    sync
}

#[tokio::test]
async fn a_log_that_does_not_tell_old_values_cannot_tell_the_syncs_rows() {
    let twin = twin("postgres", "postgres").await;
    let running = start(&twin, "legacy", &json!({}));
    let mut sync = twin.sync("legacy");
    sync["tables"] = json!([table(&twin)]);
    sync["tables"][0]["rows"] = json!({"name": ["Ann"], "gone": ["x"]});
    let mut config = running.config.clone();
    config.syncs.insert("shop".into(), serde_json::from_value(sync).unwrap());
    let found: Vec<String> = preflight::check(&config).await.iter().map(ToString::to_string).collect();
    for wanted in [
        "run `ALTER TABLE \"public\".\"users\" REPLICA IDENTITY FULL`",
        "has no column `gone`, by which the file tells the sync's rows",
    ] {
        assert!(found.iter().any(|line| line.contains(wanted)), "{wanted}: {found:#?}");
    }
    running.stop().await;
}

#[tokio::test]
async fn preflight_tells_of_columns_that_the_file_names_and_that_do_not_fit() {
    let twin = twin("postgres", "postgres").await;
    let mut config = start(&twin, "legacy", &json!({}));
    let findings = async |config: &banyan_connectors::config::Config| {
        let found = preflight::check(config).await;
        let errors = found.into_iter().filter(|finding| finding.severity == Severity::Error);
        errors.map(|finding| format!("{finding}")).collect::<Vec<_>>()
    };
    assert_eq!(findings(&config.config).await, Vec::<String>::new());
    let odd = json!({
        "rename": {"id": "uid", "mail": "email", "fax": "phone", "name": "nick"},
        "leave_out": {"legacy": ["md5", "gone"], "modern": ["search", "name"]},
        "set": {"modern": {"source": null, "scores": "7"}},
    });
    let mut sync = twin.sync("legacy");
    sync["tables"] = json!([table(&twin)]);
    sync["tables"][0].as_object_mut().unwrap().extend(odd.as_object().unwrap().clone());
    config.config.syncs.insert("shop".into(), serde_json::from_value(sync).unwrap());
    let found = findings(&config.config).await;
    for wanted in [
        "`phone` is to take `fax` of the other side, which has no such column",
        "has no column `scores`, which the file sets",
        "`source` takes no NULL, to which the file sets it",
        "has no column `nick`, which the other side has",
        "has no column `tel`, which the other side has",
    ] {
        assert!(found.iter().any(|line| line.contains(wanted)), "{wanted}: {found:#?}");
    }
    config.stop().await;
}
