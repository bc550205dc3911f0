//! `banyan sync remove`: all that Banyan made for a sync goes, nothing else does, and what broke off in the middle is gone on with.

use std::process::Output;

use banyan_connectors::State;
use serde_json::{Value, json};

use crate::{
    data_basic::{Running, until_equal},
    data_mysql,
    harness::{Banyan, Database, Half, Kafka, MariaDb, Postgres, Shop, Twin, eventually, secs, shop::PASSWORD},
};

const LEGACY_OWNS: [State; 2] = [State::Applying, State::Watching];

/// All that a PostgreSQL server and this database know of, but for temporary things.
const POSTGRES: &str = "
SELECT 'schema ' || nspname || ' ' || coalesce(nspacl::text, '') FROM pg_namespace WHERE nspname !~ '^pg_(toast_)?temp'
UNION ALL SELECT 'relation ' || c.oid::regclass::text || ' ' || relkind::text || relreplident::text || relhastriggers::text || coalesce(relacl::text, '')
  FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace WHERE nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast')
UNION ALL SELECT 'column ' || a.attrelid::regclass::text || ' ' || attname FROM pg_attribute a JOIN pg_class c ON c.oid = attrelid
  JOIN pg_namespace n ON n.oid = relnamespace WHERE nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast')
UNION ALL SELECT 'function ' || oid::regprocedure::text || coalesce(proacl::text, '') FROM pg_proc
UNION ALL SELECT 'type ' || oid::regtype::text FROM pg_type
UNION ALL SELECT 'trigger ' || tgname FROM pg_trigger WHERE NOT tgisinternal
UNION ALL SELECT 'event trigger ' || evtname FROM pg_event_trigger
UNION ALL SELECT 'publication ' || pubname FROM pg_publication
UNION ALL SELECT 'subscription ' || subname FROM pg_subscription
UNION ALL SELECT 'slot ' || slot_name FROM pg_replication_slots
UNION ALL SELECT 'origin ' || roname FROM pg_replication_origin
UNION ALL SELECT 'role ' || rolname FROM pg_roles
UNION ALL SELECT 'setting ' || setdatabase::text || ' ' || setrole::text || ' ' || setconfig::text FROM pg_db_role_setting
UNION ALL SELECT 'extension ' || extname FROM pg_extension
UNION ALL SELECT 'lock ' || objid::text FROM pg_locks WHERE locktype = 'advisory'
UNION ALL SELECT 'session ' || application_name FROM pg_stat_activity WHERE application_name LIKE '%/%'
ORDER BY 1";

/// The same of a MariaDB server.
const MARIADB: &str = "
SELECT concat('database ', schema_name) FROM information_schema.schemata
UNION ALL SELECT concat('table ', table_schema, '.', table_name) FROM information_schema.tables WHERE table_schema <> 'information_schema'
UNION ALL SELECT concat('trigger ', trigger_schema, '.', trigger_name) FROM information_schema.triggers
UNION ALL SELECT concat('routine ', routine_schema, '.', routine_name) FROM information_schema.routines
UNION ALL SELECT concat('event ', event_schema, '.', event_name) FROM information_schema.events
UNION ALL SELECT concat('user ', user, '@', host) FROM mysql.user
UNION ALL SELECT concat('grant ', grantee, ' ', table_schema, ' ', privilege_type) FROM information_schema.schema_privileges
ORDER BY 1";

/// A Banyan that is never started, for its file and its verbs.
fn with_file(install: &str, brokers: &str, sync: &Value) -> Banyan {
    Banyan::with(&format!(
        "upstreams:\n  monolith: {{endpoints: [\"http://127.0.0.1:9\"]}}\ndefault: monolith\ninstall: {install}\n\
         kafka: {{brokers: \"{brokers}\"}}\nsyncs: {}\n",
        json!({"shop": sync})
    ))
}

fn remove(banyan: &Banyan, arguments: &[&str]) -> (i32, String) {
    let Output { status, stdout, stderr } = banyan.verb(&[&["sync", "remove", "shop"], arguments].concat());
    let told = String::from_utf8(stdout).unwrap() + &String::from_utf8(stderr).unwrap();
    println!("--- {arguments:?}\n{told}");
    (status.code().unwrap(), told)
}

fn topics(install: &str) -> [String; 2] {
    ["legacy_to_modern", "modern_to_legacy"].map(|flow| format!("{install}.shop.{flow}"))
}

/// The table of keys that a snapshot which broke off leaves behind.
async fn interrupted_snapshot(half: &Half, install: &str, flow: &str) {
    half.batch(&format!("CREATE TABLE banyan.seen_{install}_shop_{flow}_0_0 (id bigint)")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn removed_without_trace_from_both_kinds_of_databases_and_kafka() {
    const TABLE: &str = "CREATE TABLE accounts (id bigint PRIMARY KEY, name varchar(200) NOT NULL)";
    let (old, new) = (MariaDb::dedicated(), Postgres::dedicated());
    let legacy = Half::mariadb(&old, &format!("{TABLE} COLLATE utf8mb4_bin")).await;
    let twin = Twin::new(legacy, Half::postgres(&new, TABLE).await, &[("accounts", "id, name", "id, name")]);
    let catalogues = async || (twin.legacy.lines(MARIADB).await, twin.modern.lines(POSTGRES).await);
    let before = catalogues().await;
    assert!(before.0.len() > 20 && before.1.len() > 1000);

    twin.legacy.batch("INSERT INTO accounts VALUES (1, 'Ann')").await;
    let running = data_mysql::start(&twin, "legacy", &json!({}));
    running.until(LEGACY_OWNS).await;
    data_mysql::until_equal(&twin).await;
    let banyan = with_file(&twin.install, &twin.brokers, &twin.sync("legacy"));

    // A running Banyan is not taken anything from.
    let (code, told) = remove(&banyan, &["--yes"]);
    assert!(code == 1 && told.contains("a Banyan runs this sync; stop it"), "{told}");
    twin.legacy.batch("INSERT INTO accounts VALUES (2, 'Bo')").await;
    data_mysql::until_equal(&twin).await;
    running.until(LEGACY_OWNS).await;
    running.stop().await;

    interrupted_snapshot(&twin.modern, &twin.install, "l2m").await;
    interrupted_snapshot(&twin.legacy, &twin.install, "m2l").await;
    let full = catalogues().await;
    for (arguments, wanted) in [(&["--dry-run"][..], 0), (&[][..], 1)] {
        let (code, told) = remove(&banyan, arguments);
        assert_eq!(code, wanted, "{told}");
        for thing in [
            "  topic `",
            "  replication slot `",
            "  publication `",
            "  replication origin `",
            "  schema `banyan` with",
            "  database `banyan` with",
            "_shop_l2m_0_0`",
            "_shop_m2l_0_0`",
            " rows in Banyan's own tables",
        ] {
            assert!(told.contains(thing), "no {thing} in\n{told}");
        }
        assert!(catalogues().await == full && Kafka::shared().ends(&topics(&twin.install)[0]).is_some());
    }

    let (code, told) = remove(&banyan, &["--yes"]);
    assert!(code == 0 && told.contains("take the sync out of the file too"), "{told}");
    let after = catalogues().await;
    assert_eq!(after.0, before.0);
    assert_eq!(after.1, before.1);
    for topic in topics(&twin.install) {
        assert_eq!(Kafka::shared().ends(&topic), None, "{topic}");
    }
    twin.equal().await.unwrap();
    assert_eq!(twin.modern.text("SELECT count(*) FROM accounts").await.as_deref(), Some("2"));
    for _ in 0..2 {
        let (code, told) = remove(&banyan, &["--yes"]);
        assert!(code == 0 && told == "there is nothing of this sync to remove\n", "{told}");
    }
}

/// The first block of SQL behind a heading of the DBA's page, statement by statement.
fn block_of(heading: &str) -> Vec<String> {
    let page = std::fs::read_to_string("docs/guides/dba.md").unwrap();
    let (_, rest) = page.split_once(heading).unwrap();
    let block = rest.split("```sql\n").nth(1).unwrap().split("```").next().unwrap();
    let bare: Vec<&str> = block.lines().map(|line| line.split("--").next().unwrap()).collect();
    bare.join("\n").split(';').map(|one| one.trim().to_owned()).filter(|one| !one.is_empty()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_dbas_page_grants_is_enough_to_run_a_sync_and_to_remove_it() {
    let (old, new) = (MariaDb::dedicated(), Postgres::dedicated());
    let (legacy, modern) = (old.schema("shop").await, new.database("pay").await);
    let columns = "(id bigint PRIMARY KEY, name varchar(200) NOT NULL)";
    legacy.batch(&format!("CREATE TABLE accounts {columns} COLLATE utf8mb4_bin")).await;
    modern.batch("CREATE ROLE shop_owner").await;
    modern.batch("GRANT ALL ON SCHEMA public TO shop_owner").await;
    modern.batch(&format!("SET ROLE shop_owner; CREATE TABLE accounts {columns}; RESET ROLE")).await;
    for statement in block_of("### PostgreSQL, to copy") {
        let statement = statement.replace("'…'", &format!("'{PASSWORD}'"));
        modern.batch(&statement.replace("DATABASE shop ", &format!("DATABASE {} ", modern.name))).await;
    }
    for statement in block_of("### MariaDB and MySQL, to copy") {
        let statement = statement.replace("'…'", &format!("'{PASSWORD}'"));
        legacy.batch(&statement.replace("shop.*", &format!("`{}`.*", legacy.name))).await;
    }
    let tables = [("accounts", "id, name", "id, name")];
    let twin = Twin::new(Half::Mariadb(legacy), Half::Postgres(modern), &tables);
    for owner in ["legacy", "modern"] {
        let mut sync = twin.sync(owner);
        sync["target"] = json!("replace");
        let banyan = with_file(&twin.install, &twin.brokers, &sync);
        let checked = banyan.verb(&["check", "--connect"]);
        let told = String::from_utf8_lossy(&checked.stdout).into_owned() + &String::from_utf8_lossy(&checked.stderr);
        assert!(checked.status.success(), "{told}");
        let from = if owner == "legacy" { &twin.legacy } else { &twin.modern };
        let running = data_mysql::start(&twin, owner, &json!({"target": "replace"}));
        from.batch("INSERT INTO accounts SELECT count(*) + 1, 'Ann' FROM accounts").await;
        data_mysql::until_equal(&twin).await;
        running.stop().await;
        let (code, told) = remove(&banyan, &["--yes"]);
        assert_eq!(code, 0, "{told}");
        let (code, told) = remove(&banyan, &["--yes"]);
        assert!(code == 0 && told == "there is nothing of this sync to remove\n", "{told}");
    }
}

fn sync_of(shop: &Shop, table: &str) -> Value {
    json!({
        "owner": "legacy",
        "legacy": {"postgres": shop.legacy_url},
        "modern": {"postgres": shop.modern_url},
        "tables": [table],
    })
}

/// What is left of an install in one database and its server.
async fn left(database: &Database, install: &str) -> Vec<String> {
    let sql = format!(
        "SELECT 'slot ' || slot_name FROM pg_replication_slots WHERE slot_name LIKE '{install}%' \
         UNION ALL SELECT 'origin ' || roname FROM pg_replication_origin WHERE roname LIKE '{install}%' \
         UNION ALL SELECT 'publication ' || pubname FROM pg_publication WHERE pubname LIKE '{install}%' \
         UNION ALL SELECT 'schema ' || nspname FROM pg_namespace WHERE nspname = 'banyan' ORDER BY 1"
    );
    database.lines(&sql).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_broke_off_is_gone_on_with_and_another_sync_of_the_same_databases_flows_on() {
    let ddl = "CREATE TABLE mine (id bigint PRIMARY KEY); CREATE TABLE theirs (id bigint PRIMARY KEY)";
    let shop = Shop::with(ddl, &["public.mine", "public.theirs"]).await;
    let (one, two) = (shop.install.clone(), format!("o{}", &shop.install[1..]));
    let kafka = json!({"brokers": shop.brokers});
    let start = |install: &str, table: &str| Running::sync(install, kafka.clone(), sync_of(&shop, table), &json!({}));
    let mine = start(&one, "public.mine");
    let theirs = start(&two, "public.theirs");
    mine.until(LEGACY_OWNS).await;
    theirs.until(LEGACY_OWNS).await;
    shop.legacy.batch("INSERT INTO mine VALUES (1); INSERT INTO theirs VALUES (1)").await;
    until_equal(&shop).await;
    mine.stop().await;

    // Half of it went before, and a publication has become somebody else's.
    let banyan = with_file(&one, &shop.brokers, &sync_of(&shop, "public.mine"));
    let slot = format!("{one}_shop_l2m_0");
    let free = format!("SELECT count(*) FROM pg_replication_slots WHERE slot_name = '{slot}' AND active");
    eventually(secs(10), "the slot is free", async || shop.legacy.number(&free).await == 0).await;
    shop.legacy
        .batch(&format!(
            "SELECT pg_drop_replication_slot('{slot}'); DELETE FROM banyan.capture WHERE install = '{one}'"
        ))
        .await;
    shop.legacy.batch(&format!("ALTER PUBLICATION {slot} OWNER TO postgres")).await;
    Kafka::shared().delete_topic(&topics(&one)[0]).await;
    let (code, told) = remove(&banyan, &["--yes"]);
    let statement = format!("DROP PUBLICATION \"{slot}\"");
    assert!(code == 1 && told.contains(&format!("left: publication `{slot}` of the legacy database")), "{told}");
    assert!(told.contains("SQLSTATE 42501\n") && told.contains(&format!("hint: run `{statement}` there")), "{told}");
    shop.legacy.batch(&statement).await;
    let (code, told) = remove(&banyan, &[]);
    assert!(code == 0 && told == "there is nothing of this sync to remove\n", "{told}");

    // What they share stands, and the other sync never noticed.
    for database in [&shop.legacy, &shop.modern] {
        assert_eq!(left(database, &one).await, ["schema banyan"]);
        let whose = database.lines("SELECT DISTINCT install FROM banyan.owner").await;
        assert_eq!(whose, [two.as_str()]);
    }
    shop.legacy.batch("INSERT INTO theirs VALUES (2)").await;
    until_equal(&shop).await;
    assert_eq!(shop.modern.count("theirs").await, 2);
    theirs.until(LEGACY_OWNS).await;
    theirs.stop().await;

    // A Banyan that waits for Kafka holds no lock, and runs the sync all the same.
    let banyan = with_file(&two, &shop.brokers, &sync_of(&shop, "public.theirs"));
    let waiting = Running::sync(&two, json!({"brokers": "127.0.0.1:9"}), sync_of(&shop, "public.theirs"), &json!({}));
    eventually(secs(20), "it is refused", async || {
        let (code, told) = remove(&banyan, &["--yes", "--keep", "topics"]);
        if code == 1 && told.contains("/measure` is open: a Banyan runs this sync") { Ok(()) } else { Err(told) }
    })
    .await;
    waiting.stop().await;

    // The last one takes the schema along; topics that others read may stay.
    eventually(secs(20), "it is removed", async || {
        let (code, told) = remove(&banyan, &["--yes", "--keep", "topics"]);
        if code == 0 { Ok(()) } else { Err(told) }
    })
    .await;
    for database in [&shop.legacy, &shop.modern] {
        assert_eq!(left(database, &two).await, Vec::<String>::new());
    }
    assert!(Kafka::shared().ends(&topics(&two)[0]).is_some());
    let (code, told) = remove(&banyan, &["--yes", "-o", "json"]);
    let told: Value = serde_json::from_str(&told[..=told.rfind('}').unwrap()]).unwrap();
    assert_eq!((code, told["items"].as_array().unwrap().len(), &told["left"]), (0, 2, &json!([])));
    assert_eq!(Kafka::shared().ends(&topics(&two)[0]), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sync_that_the_file_does_not_name_and_a_database_that_is_away_are_told_before_anything_is_done() {
    let shop = Shop::with("CREATE TABLE mine (id bigint PRIMARY KEY)", &["public.mine"]).await;
    let running = Running::start(&shop, "legacy", &json!({}));
    running.until(LEGACY_OWNS).await;
    running.stop().await;
    let mut sync = sync_of(&shop, "public.mine");
    sync["modern"] = json!({"postgres": "postgres://banyan:hunter2@127.0.0.1:9/away"});
    let banyan = with_file(&shop.install, &shop.brokers, &sync);
    let before = left(&shop.legacy, &shop.install).await;
    let (code, told) = remove(&banyan, &["--yes"]);
    assert!(code == 1 && told.contains("`--keep modern` leaves what is there as it is"), "{told}");
    assert!(!told.contains("hunter2"), "{told}");
    assert_eq!(left(&shop.legacy, &shop.install).await, before);
    // Nobody would tell that a Banyan still writes to them.
    let (code, told) = remove(&banyan, &["--yes", "--keep", "modern", "--keep", "legacy"]);
    assert!(code == 1 && told.contains("with both databases kept nobody can tell"), "{told}");
    // A database that is no more must not keep the other one full.
    eventually(secs(20), "it is removed there", async || remove(&banyan, &["--yes", "--keep", "modern"]).0 == 0).await;
    assert_eq!(left(&shop.legacy, &shop.install).await, Vec::<String>::new());

    let Output { status, stderr, .. } = banyan.verb(&["sync", "remove", "gone", "--yes"]);
    let told = String::from_utf8(stderr).unwrap();
    assert!(status.code() == Some(1) && told.contains("there is no sync `gone` in the file"), "{told}");
}
