//! Tables whose changes go to a function of the other side: every change is one call, in its place among all others, and what the function refuses
//! is parked as any row is. The example is run as it stands in `examples/split-customers`.

use std::{fs, path::Path, process::Output, time::Duration};

use banyan_connectors::{
    ParkedAct, State,
    preflight::{self, Check, Severity},
    verify,
};
use serde_json::{Value, json};

use crate::{
    data_basic::Running,
    data_mysql,
    harness::{Banyan, Database, Half, MariaDb, Postgres, Shop, Twin, eventually, secs},
};

const LEGACY_OWNS: [State; 2] = [State::Applying, State::Watching];
const SETTLED: Duration = Duration::from_secs(120);

/// A note that PostgreSQL stores beside its row, and leaves out of the log where it stayed.
const LONG: &str = "(SELECT string_agg(md5(i::text), '') FROM generate_series(1, 2000) i)";

fn example(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/split-customers").join(file);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// What modern should have of each customer, and what it has.
const CUSTOMERS: &str = "SELECT concat_ws('|', id, name, lower(email), coalesce(md5(notes), ''), coalesce(city, '')) FROM customers ORDER BY id";
const PEOPLE: &str = "SELECT concat_ws('|', p.id, p.name, p.email, coalesce(md5(p.notes), ''), coalesce(a.city, '')) \
     FROM crm.people p LEFT JOIN crm.addresses a ON a.person_id = p.id ORDER BY p.id";

fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// Waits until modern has exactly the customers of legacy.
async fn until_split(legacy: &Half, modern: &Half) {
    eventually(SETTLED, "every customer is a person with an address", async || {
        let (customers, people) = (legacy.lines(CUSTOMERS).await, modern.lines(PEOPLE).await);
        if customers == people { Ok(()) } else { Err((customers, people)) }
    })
    .await;
}

/// The example's databases.
async fn split_shop() -> Shop {
    let mut shop = Shop::with("", &["public.customers"]).await;
    shop.legacy.batch(&format!("SET ROLE shop; {}; RESET ROLE", example("legacy.sql"))).await;
    shop.modern.batch(&example("modern.sql")).await;
    shop.tables.clear();
    shop
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_example_splits_a_table_in_two_through_kills_refusals_and_copies() {
    let shop = split_shop().await;
    shop.legacy
        .batch(&format!(
            "INSERT INTO customers VALUES (1, 'Ann', 'Ann@x', 'A street', '1', 'Graz', {LONG}), (2, 'Bo', 'bo@x', NULL, NULL, '', 'n'), \
             (3, 'Cy', 'cy@x', 'C street', '3', 'Bern', NULL)"
        ))
        .await;
    let sync = example("routes.yaml")
        .replace("${LEGACY_DB_URL}", &shop.legacy_url)
        .replace("${MODERN_DB_URL}", &shop.modern_url);
    let file = format!(
        "upstreams:\n  monolith: {{endpoints: [\"http://127.0.0.1:9\"]}}\ndefault: monolith\ninstall: {}\nkafka: {}\n{sync}",
        shop.install,
        shop.kafka()
    );
    let mut banyan = Banyan::with(&file);
    let checked = banyan.verb(&["check", "--connect"]);
    assert!(checked.status.success() && !out(&checked).contains("warning"), "{}", out(&checked));
    banyan = banyan.start().await;
    let (legacy, modern) = (Half::Postgres(shop.legacy), Half::Postgres(shop.modern));
    until_split(&legacy, &modern).await;
    banyan.flow_state("customers", "legacy_to_modern", &["applying"], SETTLED).await;
    // No table comes the other way, and nothing stops it.
    banyan.flow_state("customers", "modern_to_legacy", &["watching"], SETTLED).await;

    for change in [
        &format!(
            "INSERT INTO customers VALUES (4, 'Di', 'di@x', 'D street', '4', 'Ulm', {LONG}), (5, 'Ed', 'ed@x', NULL, NULL, NULL, NULL)"
        ),
        // The long notes are not in the log of these.
        "UPDATE customers SET name = name || '!'",
        "UPDATE customers SET id = id + 100 WHERE id IN (1, 5)",
        "UPDATE customers SET city = '' WHERE id = 4; UPDATE customers SET city = 'Linz', zip = '0', street = 'E' WHERE id = 105",
        "UPDATE customers SET notes = NULL WHERE id = 4; UPDATE customers SET notes = 'short' WHERE id = 101",
        "DELETE FROM customers WHERE id = 3",
        "INSERT INTO customers VALUES (6, 'Flo', 'flo@x', NULL, NULL, NULL, NULL); DELETE FROM customers WHERE id = 6; \
         INSERT INTO customers VALUES (6, 'Flo', 'flo2@x', NULL, NULL, NULL, NULL)",
    ] {
        legacy.batch(change).await;
    }
    until_split(&legacy, &modern).await;
    legacy.batch("TRUNCATE customers").await;
    legacy
        .batch(&format!(
            "INSERT INTO customers SELECT i, 'n', i || '@x', 's', 'z', 'c', {LONG} FROM generate_series(1, 5) i"
        ))
        .await;
    until_split(&legacy, &modern).await;

    // Killed again and again, no call is lost and none is made twice.
    modern
        .batch(
            "CREATE TABLE crm.calls (id bigint); CREATE FUNCTION crm.count() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS \
             $$ BEGIN INSERT INTO crm.calls VALUES (NEW.id); RETURN NULL; END $$; \
             CREATE TRIGGER count AFTER INSERT OR UPDATE ON crm.people FOR EACH ROW EXECUTE FUNCTION crm.count(); \
             ALTER TABLE crm.people ENABLE ALWAYS TRIGGER count",
        )
        .await;
    let calls = "SELECT count(*) FROM crm.calls";
    let called = async || modern.text(calls).await.unwrap().parse::<i64>().unwrap();
    let mut made = 0;
    for _ in 0..4 {
        let before = made;
        for i in 0..60 {
            legacy
                .batch(&match i % 3 {
                    0 => format!("INSERT INTO customers VALUES ({}, 'x', 'x@x')", 1000 + made),
                    _ => format!("UPDATE customers SET name = 'r{made}' WHERE id = {}", 1 + i % 5),
                })
                .await;
            made += 1;
        }
        eventually(SETTLED, "it is in the middle of them", async || called().await > before).await;
        banyan.kill();
        banyan.spawn();
    }
    until_split(&legacy, &modern).await;
    assert_eq!(called().await, made);

    // What the function refuses is parked with all that comes to the same customer; others flow on.
    let parked = |count: usize| {
        let banyan = &banyan;
        async move {
            eventually(SETTLED, &format!("{count} are parked"), async || {
                let output = banyan.verb(&["sync", "parked", "list", "customers", "-o", "json"]);
                let all: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
                let all = all["parked"].as_array().cloned().unwrap_or_default();
                if all.len() == count { Ok(all) } else { Err((all, out(&output))) }
            })
            .await
        }
    };
    legacy.batch("INSERT INTO customers VALUES (2000, 'secret', 'nowhere', NULL, NULL, NULL, NULL)").await;
    let first = parked(1).await;
    let reason = first[0]["reason"].as_str().unwrap();
    assert!(
        reason.starts_with("crm.customer_changed(public.customers) at 1:stream:")
            && reason.ends_with(": SQLSTATE P0001"),
        "{reason}"
    );
    legacy.batch("UPDATE customers SET id = 2001 WHERE id = 2000").await;
    legacy.batch("UPDATE customers SET name = 'renamed' WHERE id = 2001").await;
    legacy.batch("UPDATE customers SET name = 'flows on' WHERE id = 1").await;
    let all = parked(3).await;
    let id = all[0]["id"].to_string();
    // By the old key, then by the new one.
    assert_eq!([&all[1]["follows"], &all[2]["follows"]], [&all[0]["id"], &all[1]["id"]]);
    let on = "SELECT count(*) FROM crm.people WHERE id = 1 AND name = 'flows on'";
    eventually(SETTLED, "other customers flow on", async || modern.text(on).await.as_deref() == Some("1")).await;
    let shown = out(&banyan.verb(&["sync", "parked", "show", "customers", &id]));
    assert!(shown.contains("own   crm.customer_changed(public.customers)  primary (id)  2000"), "{shown}");
    assert!(!banyan.log().contains("secret") && !banyan.log().contains("nowhere"), "{}", banyan.log());
    // Mended, as its owner would.
    let mended = example("modern.sql");
    let (_, function) = mended.split_once("CREATE FUNCTION").unwrap();
    let (function, _) = function.split_once("GRANT").unwrap();
    modern.batch(&format!("CREATE OR REPLACE FUNCTION {}", function.replace("'%@%'", "'%'"))).await;
    let retried = banyan.verb(&["sync", "parked", "retry", "customers", &id]);
    assert!(retried.status.success(), "{}", out(&retried));
    parked(0).await;
    until_split(&legacy, &modern).await;

    // Copied once more: the function takes rows that it has.
    let before = called().await;
    let again = banyan.verb(&["sync", "snapshot", "customers", "--table", "public.customers"]);
    assert!(again.status.success(), "{}", out(&again));
    let total: i64 = legacy.text("SELECT count(*) FROM customers").await.unwrap().parse().unwrap();
    legacy.batch("UPDATE customers SET name = 'meanwhile' WHERE id = 2").await;
    eventually(SETTLED, "every row was told again", async || {
        called().await >= before + total
            && modern.text("SELECT count(*) FROM banyan.loading").await.as_deref() == Some("0")
    })
    .await;
    until_split(&legacy, &modern).await;

    let verified = banyan.verb(&["sync", "verify", "customers"]);
    assert!(
        verified.status.success() && out(&verified).contains("public.customers: not compared"),
        "{}",
        out(&verified)
    );
    let asked = banyan.verb(&["sync", "verify", "customers", "--table", "public.customers"]);
    assert!(!asked.status.success() && out(&asked).contains("go to a function"), "{}", out(&asked));
    let status = banyan.status().await;
    assert_eq!(
        (&status["syncs"][0]["flows"][0]["violations"], &status["syncs"][0]["flows"][1]["violations"]),
        (&json!(0), &json!(0)),
        "{status}"
    );
    banyan.stop(secs(30));
    let removed = banyan.verb(&["sync", "remove", "customers", "--yes"]);
    assert!(removed.status.success(), "{}", out(&removed));
}

/// Keeps all that it is told, and how many orders there were then.
const LOG: &str = "
CREATE TABLE told (n bigint GENERATED ALWAYS AS IDENTITY, op text, old jsonb, new jsonb, orders bigint);
CREATE FUNCTION changed(op text, old jsonb, new jsonb) RETURNS void LANGUAGE plpgsql SET search_path = public AS $$ BEGIN
  IF new ->> 'name' = 'refused' THEN RAISE 'no'; END IF;
  INSERT INTO told (op, old, new, orders) SELECT changed.op, changed.old, changed.new, count(*) FROM orders;
END $$;";

/// What was told since `n`, without large values.
async fn told(database: &Database, n: i64) -> Vec<String> {
    database
        .lines(&format!(
            "SELECT concat_ws(' ', op, coalesce(old::text, '-'), coalesce(CASE WHEN length(new ->> 'big') > 100 THEN jsonb_set(new, '{{big}}', '\"large\"') ELSE new END::text, '-'), orders) \
             FROM told WHERE n > {n} ORDER BY n"
        ))
        .await
}

async fn until_told(database: &Database, n: i64, wanted: &[&str]) {
    eventually(secs(60), "the function was told", async || {
        let told = told(database, n).await;
        if told == wanted { Ok(()) } else { Err(told) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_function_is_told_exactly_what_the_log_has_in_its_place_among_other_tables() {
    let ddl = "CREATE TABLE orders (id bigint PRIMARY KEY, customer bigint)";
    let shop = Shop::with(ddl, &["public.orders"]).await;
    shop.legacy
        .batch("SET ROLE shop; CREATE TABLE customers (id bigint PRIMARY KEY, name text, rate float8, big text); CREATE TABLE own (id bigint PRIMARY KEY); RESET ROLE")
        .await;
    shop.modern.batch(&format!("SET ROLE shop; {LOG} CREATE TABLE own (id bigint PRIMARY KEY); RESET ROLE")).await;
    let tables = json!({"tables": [
        "public.orders",
        {"legacy": "public.customers", "apply": {"function": "public.changed"}},
        // Of the other side alone, and nobody writes it: legacy owns the rows.
        {"modern": "public.own", "apply": {"function": "public.nobody"}},
    ]});
    shop.legacy.batch(&format!("INSERT INTO customers VALUES (1, 'a \"b\"', 'NaN', {LONG})")).await;
    let running = Running::start(&shop, "legacy", &tables);
    running.until(LEGACY_OWNS).await;
    until_told(&shop.modern, 0, &[r#"snapshot - {"id": "1", "big": "large", "name": "a \"b\"", "rate": "NaN"} 0"#])
        .await;
    eventually(secs(60), "the copy has ended", async || shop.modern.count("banyan.loading").await == 0).await;

    // What only the other direction would call is missing, which is a warning as long as that direction watches.
    let found = preflight::check(&running.config).await;
    let [one] = &found[..] else { panic!("{found:#?}") };
    assert_eq!((one.check, one.severity), (Check::Functions, Severity::Warning), "{one}");
    assert!(
        one.to_string().contains("legacy function public.nobody")
            && one.fix.contains(r#"CREATE FUNCTION "public"."nobody"(op text, old jsonb, new jsonb)"#),
        "{one}"
    );

    // Orders and customers in one transaction: each call sees what came before it and nothing else.
    shop.legacy
        .batch(
            "INSERT INTO orders VALUES (1, 1), (2, 1); INSERT INTO customers VALUES (2, NULL, 0.1); INSERT INTO orders VALUES (3, 2); \
             UPDATE customers SET rate = 1 WHERE id = 1; DELETE FROM orders WHERE id < 3; UPDATE customers SET id = 7 WHERE id = 1; \
             DELETE FROM customers WHERE id = 2; DELETE FROM customers; DELETE FROM orders",
        )
        .await;
    until_told(
        &shop.modern,
        1,
        &[
            r#"insert - {"id": "2", "big": null, "name": null, "rate": "0.1"} 2"#,
            // The large value stayed: it is in no log.
            r#"update - {"id": "1", "name": "a \"b\"", "rate": "1"} 3"#,
            r#"update {"id": "1"} {"id": "7", "name": "a \"b\"", "rate": "1"} 1"#,
            r#"delete {"id": "2"} - 1"#,
            r#"delete {"id": "7"} - 1"#,
        ],
    )
    .await;

    // Other columns hold up nothing: they are told as they are. What rows of before have of them is told once more.
    let n = shop.modern.number("SELECT max(n) FROM told").await;
    shop.legacy.batch("INSERT INTO customers VALUES (1, 'a')").await;
    shop.legacy.batch("ALTER TABLE customers DROP COLUMN big, ADD COLUMN mail varchar(9); INSERT INTO customers VALUES (2, 'b', 1, 'm')").await;
    until_told(
        &shop.modern,
        n,
        &[
            r#"insert - {"id": "1", "big": null, "name": "a", "rate": null} 0"#,
            r#"insert - {"id": "2", "mail": "m", "name": "b", "rate": "1"} 0"#,
        ],
    )
    .await;
    shop.legacy.batch("ALTER TABLE customers ADD COLUMN tier int NOT NULL DEFAULT 3; UPDATE customers SET name = 'c' WHERE id = 2").await;
    eventually(secs(60), "rows of before are told with what they have now", async || {
        let last = told(&shop.modern, n + 2).await;
        let has = |row: &str| last.iter().any(|told| told.starts_with(row));
        if has(r#"snapshot - {"id": "1", "mail": null, "name": "a", "rate": null, "tier": "3"}"#)
            && (has(r#"snapshot - {"id": "2", "mail": "m", "name": "c""#)
                || has(r#"update - {"id": "2", "mail": "m", "name": "c""#))
            && shop.modern.count("banyan.loading").await == 0
        {
            Ok(())
        } else {
            Err(last)
        }
    })
    .await;
    running.until(LEGACY_OWNS).await;

    // One that is refused holds up its own row alone, and what stands in a transaction with it.
    let desk = running.desk();
    shop.legacy.batch("INSERT INTO customers VALUES (3, 'refused')").await;
    let first = eventually(secs(60), "it is parked", async || desk.list(false).await.unwrap().pop()).await;
    assert!(
        first.reason.starts_with("public.changed(public.customers) at 1:stream:")
            && first.reason.ends_with("SQLSTATE P0001"),
        "{first:?}"
    );
    let n = shop.modern.number("SELECT max(n) FROM told").await;
    shop.legacy.batch("UPDATE customers SET name = 'd' WHERE id = 1").await;
    shop.legacy.batch("INSERT INTO orders VALUES (10, 3); DELETE FROM customers WHERE id = 3").await;
    shop.legacy.batch("INSERT INTO orders VALUES (11, 1)").await;
    until_told(&shop.modern, n, &[r#"update - {"id": "1", "mail": null, "name": "d", "rate": null, "tier": "3"} 0"#])
        .await;
    eventually(secs(60), "an order of nobody's arrives", async || shop.modern.count("orders").await == 1).await;
    assert_eq!(
        desk.list(false).await.unwrap().iter().map(|one| one.follows).collect::<Vec<_>>(),
        [None, Some(first.id)]
    );
    // The row is never right: it is skipped, and what followed it is applied.
    desk.ask(first.id, ParkedAct::Skip, "ann", "a test").await.unwrap();
    until_told(
        &shop.modern,
        n,
        &[
            r#"update - {"id": "1", "mail": null, "name": "d", "rate": null, "tier": "3"} 0"#,
            r#"delete {"id": "3"} - 2"#,
        ],
    )
    .await;

    // A function that is gone, or would not be called with NULLs, is waited for; nothing is lost.
    let n = shop.modern.number("SELECT max(n) FROM told").await;
    for (breaks, mends, says) in [
        ("DROP FUNCTION changed(text, jsonb, jsonb)", LOG.split_once("CREATE FUNCTION").unwrap().1, "no such function"),
        ("ALTER FUNCTION changed(text, jsonb, jsonb) STRICT", "", "is STRICT"),
    ] {
        shop.modern.batch(breaks).await;
        shop.legacy.batch("DELETE FROM customers WHERE id = 2; INSERT INTO customers VALUES (2, 'e')").await;
        eventually(secs(60), "the flow waits for the function", async || {
            let flow = running.status().flows.remove(0);
            if flow.last_error.as_ref().is_some_and(|error| error.contains(says)) {
                Ok(())
            } else {
                Err(format!("{flow:?}"))
            }
        })
        .await;
        let mends = if mends.is_empty() {
            "ALTER FUNCTION changed(text, jsonb, jsonb) CALLED ON NULL INPUT".to_owned()
        } else {
            format!("SET ROLE shop; CREATE FUNCTION {mends}; RESET ROLE")
        };
        shop.modern.batch(&mends).await;
        running.until(LEGACY_OWNS).await;
    }
    let (deleted, inserted) = (
        r#"delete {"id": "2"} - 2"#,
        r#"insert - {"id": "2", "mail": null, "name": "e", "rate": null, "tier": "3"} 2"#,
    );
    until_told(&shop.modern, n, &[deleted, inserted, deleted, inserted]).await;
    shop.legacy.batch("TRUNCATE customers").await;
    until_told(&shop.modern, n, &[deleted, inserted, deleted, inserted, "truncate - - 2"]).await;

    // Behind the owner's back, and not applied.
    shop.modern.batch("INSERT INTO own VALUES (1)").await;
    eventually(secs(60), "it is a violation", async || running.status().flows[1].violations == 1).await;
    let outcome = verify::run(&running.config, "shop", &verify::Options::default(), &mut |_| {}).await.unwrap();
    assert_eq!(
        (outcome.tables.keys().collect::<Vec<_>>(), outcome.not_compared),
        (vec![&"public.orders".to_owned()], vec!["public.customers".to_owned()])
    );
    running.stop().await;
}

/// Takes each change at its word: an INSERT of what is there fails, an UPDATE or DELETE of what is not does nothing.
const AT_ITS_WORD: &str = "
CREATE TABLE items (id bigint PRIMARY KEY, v bigint, big text);
CREATE FUNCTION item(op text, old jsonb, new jsonb) RETURNS void LANGUAGE plpgsql SET search_path = public AS $$ BEGIN
  CASE op
  WHEN 'insert' THEN INSERT INTO items VALUES ((new ->> 'id')::bigint, (new ->> 'v')::bigint, new ->> 'big');
  WHEN 'update' THEN UPDATE items SET id = (new ->> 'id')::bigint, v = (new ->> 'v')::bigint, big = CASE WHEN new ? 'big' THEN new ->> 'big' ELSE big END
    WHERE id = coalesce(old ->> 'id', new ->> 'id')::bigint;
  WHEN 'delete' THEN DELETE FROM items WHERE id = (old ->> 'id')::bigint;
  WHEN 'snapshot' THEN INSERT INTO items VALUES ((new ->> 'id')::bigint, (new ->> 'v')::bigint, new ->> 'big')
    ON CONFLICT (id) DO UPDATE SET v = excluded.v, big = excluded.big;
  END CASE;
END $$;";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_a_table_is_copied_its_changes_reach_a_function_that_takes_each_at_its_word() {
    let shop = Shop::with("", &["public.items"]).await;
    shop.legacy
        .batch(&format!(
            "SET ROLE shop; CREATE TABLE items (id bigint PRIMARY KEY, v bigint, big text); RESET ROLE; \
             INSERT INTO items SELECT i, 0, CASE WHEN i % 7 = 0 THEN {LONG} END FROM generate_series(1, 1500) i"
        ))
        .await;
    shop.modern.batch(&format!("SET ROLE shop; {AT_ITS_WORD} RESET ROLE")).await;
    let keys = json!({
        "tables": [{"legacy": "public.items", "apply": {"function": "public.item"}}],
        "snapshot": {"chunk": 50, "rows_per_second": 500},
    });
    let running = Running::start(&shop, "legacy", &keys);
    eventually(secs(60), "the copy has begun", async || shop.modern.count("items").await > 0).await;
    let mut i = 0;
    while shop.modern.count("banyan.loading").await > 0 {
        i += 1;
        // All over the table, before and behind the place where the copy is: whole and not, by the same key and by another.
        let at = i * 37 % 1500 + 1;
        shop.legacy
            .batch(&match i % 5 {
                0 => format!("UPDATE items SET id = id + 10000 WHERE id = {at}"),
                1 => format!("DELETE FROM items WHERE id = {at}"),
                // Before the place where the copy is, but not for ever.
                2 => format!("INSERT INTO items VALUES ({}, {i}, NULL)", if i < 500 { 5000 + i } else { -i }),
                _ => format!("UPDATE items SET v = {i} WHERE id = {at}"),
            })
            .await;
    }
    assert!(i > 20, "{i} changes came while it was copied");
    eventually(secs(60), "the function has made the same of it", async || shop.equal().await).await;
    running.until(LEGACY_OWNS).await;
    assert_eq!(running.desk().list(true).await.unwrap(), []);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_example_takes_the_changes_of_a_mariadb_too() {
    let legacy = Half::mariadb(MariaDb::shared(), &example("legacy.mariadb.sql")).await;
    let modern = Half::postgres(Postgres::shared_modern(), "").await;
    modern.batch(&example("modern.sql")).await;
    let twin = Twin::new(legacy, modern, &[]);
    let table = twin.legacy.table("customers");
    twin.legacy.batch("INSERT INTO customers VALUES (1, 'Ann', 'Ann@x', 's', 'z', 'Graz', repeat('long ', 20000)), (2, 'Bo', 'bo@x', NULL, NULL, '', NULL)").await;
    let running = data_mysql::start(
        &twin,
        "legacy",
        &json!({"tables": [{"legacy": table, "apply": {"function": "crm.customer_changed"}}]}),
    );
    running.until(LEGACY_OWNS).await;
    until_split(&twin.legacy, &twin.modern).await;
    for change in [
        "INSERT INTO customers VALUES (3, 'Cy \"q\" 😀', 'cy@x', 's', 'z', 'Ulm', 'n'), (4, 'Di', 'di@x', NULL, NULL, NULL, NULL)",
        "UPDATE customers SET name = concat(name, '!')",
        "UPDATE customers SET id = id + 100 WHERE id IN (1, 4)",
        "UPDATE customers SET city = '' WHERE id = 3",
        "DELETE FROM customers WHERE id = 2",
        "ALTER TABLE customers ADD COLUMN tier int NOT NULL DEFAULT 3",
        "UPDATE customers SET notes = 'short', tier = 4 WHERE id = 101",
    ] {
        twin.legacy.batch(change).await;
    }
    until_split(&twin.legacy, &twin.modern).await;
    twin.legacy.batch("INSERT INTO customers (id, name, email) VALUES (7, 'refused', 'nowhere')").await;
    let desk = running.desk();
    let first = eventually(secs(60), "it is parked", async || desk.list(false).await.unwrap().pop()).await;
    twin.legacy.batch("UPDATE customers SET name = 'later', email = 'some@where' WHERE id = 7").await;
    twin.legacy.batch("UPDATE customers SET name = 'flows on' WHERE id = 3").await;
    eventually(secs(60), "others flow on", async || {
        twin.modern.text("SELECT name FROM crm.people WHERE id = 3").await.as_deref() == Some("flows on")
    })
    .await;
    assert_eq!(desk.list(false).await.unwrap().len(), 2);
    desk.ask(first.id, ParkedAct::Skip, "ann", "what follows has an address").await.unwrap();
    until_split(&twin.legacy, &twin.modern).await;
    running.until(LEGACY_OWNS).await;
    running.stop().await;
}
