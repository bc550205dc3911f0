//! Preflight finds what would stop a sync, says where and how to mend it, and changes nothing.

use banyan_connectors::{
    State,
    config::Config,
    preflight::{self, Check, Finding, Severity},
};
use serde_json::json;

use crate::{
    data_basic::Running,
    harness::{
        Kafka, Postgres, Shop,
        shop::{PASSWORD, ROLE},
    },
};

const ITEMS: &str = "CREATE TABLE items (id bigint PRIMARY KEY, name text NOT NULL)";

/// A shop of one table, `items`.
async fn shop() -> Shop {
    Shop::with(ITEMS, &["public.items"]).await
}

/// The connectors' share of a file with this shop as its one sync, and more keys of the sync.
fn config(shop: &Shop, keys: &serde_json::Value) -> Config {
    let mut sync = json!({
        "owner": "legacy",
        "legacy": {"postgres": shop.legacy_url},
        "modern": {"postgres": shop.modern_url},
        "tables": shop.tables,
    });
    sync.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
    Config {
        install: shop.install.clone(),
        memory: "64MiB".parse().unwrap(),
        kafka: Some(serde_json::from_value(shop.kafka()).unwrap()),
        syncs: [("shop".to_owned(), serde_json::from_value(sync).unwrap())].into(),
    }
}

/// Schemas, publications and slots of both databases, and whether there are topics: all that Banyan makes.
async fn objects(shop: &Shop) -> [Option<String>; 4] {
    let names = "SELECT string_agg(x, ' ' ORDER BY x) FROM (SELECT nspname FROM pg_namespace WHERE nspname !~ '^pg_' UNION ALL \
                 SELECT pubname FROM pg_publication UNION ALL SELECT slot_name FROM pg_replication_slots \
                 WHERE database = current_database()) AS all_of (x)";
    let topic = |flow| Kafka::shared().ends(&format!("{}.shop.{flow}", shop.install)).map(|ends| format!("{ends:?}"));
    [shop.legacy.text(names).await, shop.modern.text(names).await, topic("legacy_to_modern"), topic("modern_to_legacy")]
}

async fn findings(shop: &Shop) -> Vec<Finding> {
    preflight::check(&config(shop, &json!({}))).await
}

/// The one finding there is, of this check, as `severity where: what; fix`.
#[track_caller]
fn only(found: &[Finding], check: Check) -> String {
    let [finding] = found else { panic!("not one finding: {found:#?}") };
    assert_eq!(finding.check, check, "{finding:#?}");
    format!("{:?} {finding}", finding.severity)
}

/// Whether `text` has all of these pieces.
#[track_caller]
fn says(text: &str, pieces: &[&str]) {
    for piece in pieces {
        assert!(text.contains(piece), "no {piece:?} in {text:?}");
    }
    assert!(!text.contains(PASSWORD), "{text}");
}

#[tokio::test]
async fn a_shop_that_is_ready_has_no_findings_and_is_left_as_it_was() {
    let shop = Shop::fresh().await;
    let before = objects(&shop).await;
    assert_eq!(findings(&shop).await, []);
    assert_eq!(objects(&shop).await, before);
}

#[tokio::test]
async fn a_sync_with_a_finding_stops_before_anything_is_made() {
    let shop = shop().await;
    shop.legacy.batch("ALTER TABLE items DROP CONSTRAINT items_pkey").await;
    let before = objects(&shop).await;
    let running = Running::start(&shop, "legacy", &json!({}));
    running.until([State::Stopped, State::Stopped]).await;
    for flow in running.status().flows {
        says(&flow.last_error.unwrap(), &["legacy table public.items", "add a primary key"]);
    }
    assert_eq!(objects(&shop).await, before);
    running.stop().await;
}

#[tokio::test]
async fn a_database_that_is_away_or_refuses_the_password_is_one_finding_each() {
    let mut shop = shop().await;
    shop.legacy_url = shop.legacy.url(ROLE, "not-the-password");
    shop.modern_url = shop.modern.url_through(1, ROLE, PASSWORD);
    let found = findings(&shop).await;
    let [legacy, modern] = found.as_slice() else { panic!("{found:#?}") };
    assert!(legacy.is_error() && legacy.may_pass() && legacy.check == Check::Connect);
    says(&legacy.to_string(), &["legacy database", "SQLSTATE 28P01", "`syncs.shop.legacy.postgres`"]);
    says(&modern.to_string(), &["modern database (127.0.0.1:1/", "no connection", "start the server"]);
    assert!(!format!("{found:?}").contains("not-the-password"));
}

#[tokio::test]
async fn a_server_without_logical_log_slots_or_senders_is_told_what_to_set() {
    let settings = "wal_level = replica\nmax_replication_slots = 1\nmax_wal_senders = 1\n";
    let server = Postgres::with_settings(settings);
    let brokers = Kafka::shared().brokers();
    // Both databases in one server: it needs two slots.
    let shop = Shop::on(&server, &server, &brokers, ITEMS, &["public.items"]).await;
    let found: Vec<String> = findings(&shop).await.iter().map(|finding| finding.what.clone() + &finding.fix).collect();
    let text = found.join("\n");
    says(&text, &["`wal_level` is `replica`", "ALTER SYSTEM SET wal_level = logical"]);
    says(&text, &["needs 2 more replication slots on this server, and 1 of 1 are free", "max_replication_slots = 2"]);
    says(&text, &["needs 2 more WAL senders", "max_wal_senders = 2"]);
    says(&text, &["would take 2 more replication origins", "1 of 1 are free"]);
    assert_eq!(found.len(), 5, "{text}");
}

#[tokio::test]
async fn a_role_with_too_few_privileges_is_told_each_grant() {
    let shop = shop().await;
    // A second role: the harness's own keeps its privileges for the tests beside this one.
    let role = format!("weak_{}", shop.install);
    shop.legacy.batch(&format!("CREATE ROLE {role} LOGIN PASSWORD '{PASSWORD}'")).await;
    shop.legacy.batch(&format!("GRANT SELECT ON items TO {role}")).await;
    shop.legacy.batch("ALTER TABLE items ENABLE ROW LEVEL SECURITY").await;
    let weak = Shop { legacy_url: shop.legacy.url(&role, PASSWORD), ..shop };
    let found = findings(&weak).await;
    assert!(found.iter().all(|finding| finding.is_error() && finding.where_.contains("legacy")), "{found:#?}");
    let text: String = found.iter().map(|finding| format!("{finding}\n")).collect();
    says(&text, &["may not replicate", &format!("ALTER ROLE \"{role}\" REPLICATION"), "GRANT rds_replication"]);
    says(&text, &["its publication and the schema `banyan`", "GRANT CREATE ON DATABASE"]);
    says(&text, &["no member of the table's owner"]);
    says(&text, &["lacks INSERT, UPDATE, DELETE", "GRANT INSERT, UPDATE, DELETE ON \"public\".\"items\""]);
    says(&text, &["row security hides rows", "BYPASSRLS"]);
    // Both ways out of what `apply_as: replica` needs.
    says(&text, &["may not set `session_replication_role`", "SET ON PARAMETER", "write `apply_as: origin`"]);
    let origin = preflight::check(&config(&weak, &json!({"apply_as": "origin"}))).await;
    assert!(!origin.iter().any(|finding| finding.check == Check::ReplicationRole), "{origin:#?}");
    let replace = preflight::check(&config(&weak, &json!({"owner": "modern", "target": "replace"}))).await;
    says(&format!("{replace:?}"), &["lacks INSERT, UPDATE, DELETE, TRUNCATE"]);
}

#[tokio::test]
async fn a_table_without_identity_would_break_the_monolith_and_is_refused_on_either_side() {
    for side in ["legacy", "modern"] {
        let shop = shop().await;
        let database = if side == "legacy" { &shop.legacy } else { &shop.modern };
        database.batch("ALTER TABLE items DROP CONSTRAINT items_pkey").await;
        let text = only(&findings(&shop).await, Check::Identity);
        says(&text, &["Error", side, "public.items", "refuse every UPDATE and DELETE", "add a primary key"]);
        database.batch("ALTER TABLE items REPLICA IDENTITY FULL").await;
        says(&only(&findings(&shop).await, Check::Identity), &["Error", side, "has no primary key"]);
        database.batch("ALTER TABLE items ADD PRIMARY KEY (id) DEFERRABLE, REPLICA IDENTITY DEFAULT").await;
        // The server itself does not take such a key for an identity.
        let refused = database
            .session()
            .await
            .batch_execute(
                "CREATE PUBLICATION p FOR TABLE items; INSERT INTO items VALUES (1, ''); UPDATE items SET name = 'x'",
            )
            .await;
        assert_eq!(refused.unwrap_err().code().unwrap().code(), "55000");
        says(&only(&findings(&shop).await, Check::Identity), &["Error", side, "DEFERRABLE", "refuse every UPDATE"]);
        database
            .batch("ALTER TABLE items DROP CONSTRAINT items_pkey, ADD PRIMARY KEY (id), REPLICA IDENTITY NOTHING")
            .await;
        says(&only(&findings(&shop).await, Check::Identity), &["Error", side, "REPLICA IDENTITY DEFAULT"]);
        database.batch("CREATE UNIQUE INDEX by_name ON items (name)").await;
        database.batch("ALTER TABLE items REPLICA IDENTITY USING INDEX by_name").await;
        says(&only(&findings(&shop).await, Check::Identity), &["Error", "(name)", "(id)"]);
    }
    // Alike on both sides, and still not what rows are found by.
    let shop = shop().await;
    for database in [&shop.legacy, &shop.modern] {
        database
            .batch(
                "CREATE UNIQUE INDEX by_name ON items (name); ALTER TABLE items REPLICA IDENTITY USING INDEX by_name",
            )
            .await;
    }
    let found = findings(&shop).await;
    assert_eq!(found.len(), 2, "{found:#?}");
    says(&only(&found[..1], Check::Identity), &["Error legacy", "(name)", "primary key (id)"]);
}

#[tokio::test]
async fn a_table_that_is_missing_or_cannot_be_published_is_named() {
    let shop = shop().await;
    shop.modern.batch("DROP TABLE items").await;
    says(&only(&findings(&shop).await, Check::Identity), &["Error modern table public.items", "no such table"]);
    shop.modern.batch("SET ROLE shop; CREATE VIEW items AS SELECT 1::bigint AS id, ''::text AS name; RESET ROLE").await;
    says(&only(&findings(&shop).await, Check::Identity), &["is a view"]);
    shop.modern
        .batch(&format!("DROP VIEW items; SET ROLE shop; {ITEMS}; ALTER TABLE items SET UNLOGGED; RESET ROLE"))
        .await;
    says(&only(&findings(&shop).await, Check::Identity), &["is unlogged", "SET LOGGED"]);
}

#[tokio::test]
async fn columns_and_types_must_fit_in_the_direction_that_applies_and_warn_in_the_other() {
    let shop = shop().await;
    shop.modern.batch("ALTER TABLE items ALTER name TYPE varchar(5), ALTER name DROP NOT NULL").await;
    let found = findings(&shop).await;
    let text: Vec<String> = found.iter().map(|f| format!("{:?} {:?} {}", f.severity, f.flow, f.what)).collect();
    says(
        &text.join("\n"),
        &[
            "Error Some(LegacyToModern) `name` is character varying(5), and not all that text holds fits there",
            "Warning Some(ModernToLegacy) `name` takes no NULL",
        ],
    );
    assert_eq!(found.len(), 2, "{text:?}");
    shop.modern.batch("ALTER TABLE items ALTER name TYPE text, ALTER name SET NOT NULL, ADD extra int NOT NULL").await;
    let text: String = findings(&shop).await.iter().map(|f| format!("{:?} {f}\n", f.severity)).collect();
    says(&text, &["Error modern", "`extra` is NOT NULL without a default", "Warning legacy", "has no column `extra`"]);
    shop.modern.batch("ALTER TABLE items DROP extra, ADD twice text GENERATED ALWAYS AS (name || name) STORED").await;
    assert_eq!(findings(&shop).await, []);
    shop.legacy.batch("ALTER TABLE items ADD twice text").await;
    let text: String = findings(&shop).await.iter().map(|f| format!("{:?} {f}\n", f.severity)).collect();
    says(&text, &["Error modern", "generates the column `twice`"]);
}

#[tokio::test]
async fn a_target_with_rows_is_refused_until_the_file_says_what_becomes_of_them() {
    let shop = shop().await;
    shop.legacy.batch("INSERT INTO items VALUES (1, 'the owner''s')").await;
    assert_eq!(findings(&shop).await, []);
    shop.modern.batch("INSERT INTO items SELECT n, 'x' FROM generate_series(1, 3) AS n").await;
    let text = only(&findings(&shop).await, Check::Existing);
    says(&text, &["Error modern table public.items", "holds 3 rows", "`target: replace`", "`target: keep_matching`"]);
    for target in ["replace", "keep_matching"] {
        assert_eq!(preflight::check(&config(&shop, &json!({"target": target}))).await, []);
    }
    let table = json!({"tables": [{"legacy": "public.items", "modern": "public.items", "target": "replace"}]});
    assert_eq!(preflight::check(&config(&shop, &table)).await, []);
}

#[tokio::test]
async fn what_fires_for_applied_rows_is_listed_and_what_writes_synced_tables_is_refused() {
    let ddl = format!(
        "{ITEMS}; CREATE TABLE parts (id bigint PRIMARY KEY, item bigint REFERENCES items ON DELETE CASCADE); \
         CREATE TABLE journal (what text); \
         CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO journal VALUES (TG_OP); RETURN NEW; END'; \
         CREATE FUNCTION part() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO public.parts VALUES (NEW.id, NEW.id); RETURN NEW; END'; \
         CREATE TRIGGER noted AFTER INSERT ON items FOR EACH ROW EXECUTE FUNCTION note()"
    );
    let shop = Shop::with(&ddl, &["public.items", "public.parts"]).await;
    // Ordinary triggers and foreign keys are silent as replica.
    assert_eq!(findings(&shop).await, []);
    let origin = async || preflight::check(&config(&shop, &json!({"apply_as": "origin"}))).await;
    let of = |found: &[Finding], severity, side: &str| -> String {
        let those = found.iter().filter(|f| f.severity == severity && f.where_.starts_with(side));
        those.map(|f| format!("{f}\n")).collect()
    };
    let found = origin().await;
    assert!(found.iter().all(|finding| finding.check == Check::Triggers));
    says(&of(&found, Severity::Warning, "modern"), &["the trigger `noted` (function public.note) fires"]);
    says(
        &of(&found, Severity::Error, "modern"),
        &["`parts_item_fkey` cascades into public.parts", "`apply_as: replica`"],
    );
    shop.modern.batch("CREATE TRIGGER parted AFTER INSERT ON items FOR EACH ROW EXECUTE FUNCTION part()").await;
    says(
        &of(&origin().await, Severity::Error, "modern"),
        &["`parted` (function public.part) fires", "writes public.parts"],
    );
    shop.modern.batch("ALTER TABLE items ENABLE ALWAYS TRIGGER parted").await;
    let text = only(&findings(&shop).await, Check::Triggers);
    says(&text, &["Error modern", "`parted`", "`apply_as: replica`", "ENABLE TRIGGER"]);
}

#[tokio::test]
async fn kafka_that_is_away_is_a_finding() {
    let mut shop = shop().await;
    shop.brokers = "127.0.0.1:1".to_owned();
    let text = only(&findings(&shop).await, Check::Connect);
    says(&text, &["Error Kafka (127.0.0.1:1)", "does not answer", "`kafka.brokers`"]);
    let mut none = config(&shop, &json!({}));
    none.kafka = None;
    says(&only(&preflight::check(&none).await, Check::Kafka), &["a sync needs Kafka"]);
}

#[tokio::test]
async fn a_topic_that_stands_must_keep_order_and_records() {
    let shop = shop().await;
    let kafka = Kafka::shared();
    let (forth, back) =
        (format!("{}.shop.legacy_to_modern", shop.install), format!("{}.shop.modern_to_legacy", shop.install));
    kafka.create_topic(&forth, 3, &[("max.message.bytes", "20000000")]).await;
    let settings = [
        ("cleanup.policy", "compact"),
        ("retention.ms", "60000"),
        ("retention.bytes", "1000000"),
        ("min.insync.replicas", "2"),
    ];
    kafka.create_topic(&back, 1, &settings).await;
    let found = findings(&shop).await;
    let of = |topic: &str| -> String {
        let those = found.iter().filter(|f| f.where_.ends_with(topic));
        those.map(|f| format!("{:?} {f}\n", f.severity)).collect()
    };
    says(&of(&forth), &["Error", "has 3 partitions"]);
    says(&of(&back), &["cleanup.policy is `compact`", "cleanup.policy=delete", "keeps records for 60s only"]);
    says(&of(&back), &["keeps 1000000 bytes only", "min.insync.replicas is 2 with 1 replicas: it takes no record"]);
    says(&of(&back), &["Warning", "takes records up to 1048588 bytes", "max.message.bytes="]);
    assert_eq!(found.len(), 6, "{found:#?}");
}
