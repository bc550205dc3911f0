//! A small shop on both sides of a sync: two fresh databases, and a role with exactly what Banyan needs there.

use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{Value, json};

use super::{Database, Kafka, Postgres};

/// Banyan's login role. It owns nothing and is no superuser.
pub(crate) const ROLE: &str = "banyan";
/// Must never be seen in a log, a metric or an error.
pub(crate) const PASSWORD: &str = "pw-of-banyan";

/// Cluster-wide. `banyan` is a member of the tables' owner, as a publication demands, and may set what `apply_as: replica` sets.
const ROLES: &str = "
SELECT pg_advisory_xact_lock(1);
DO $$ BEGIN
  IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'shop') THEN
    CREATE ROLE shop;
    CREATE ROLE banyan LOGIN REPLICATION PASSWORD 'pw-of-banyan' IN ROLE shop;
    IF current_setting('server_version_num')::int >= 150000 THEN
      EXECUTE 'GRANT SET ON PARAMETER session_replication_role TO banyan';
    END IF;
  END IF;
END $$;
";

/// In each database. The origin functions are what a superuser grants where replication origins are wanted.
const GRANTS: &str = "
GRANT ALL ON SCHEMA public TO shop;
GRANT EXECUTE ON FUNCTION pg_replication_origin_create(text), pg_replication_origin_drop(text),
  pg_replication_origin_oid(text), pg_replication_origin_session_setup(text), pg_replication_origin_session_reset(),
  pg_replication_origin_session_is_setup(), pg_replication_origin_session_progress(boolean),
  pg_replication_origin_xact_setup(pg_lsn, timestamptz), pg_replication_origin_xact_reset(),
  pg_replication_origin_progress(text, boolean), pg_replication_origin_advance(text, pg_lsn) TO banyan;
GRANT SELECT ON pg_replication_origin, pg_replication_origin_status TO banyan;
";

/// The tables when a test does not bring its own.
const TABLES: &str = "
CREATE TABLE accounts (id bigint PRIMARY KEY, email text NOT NULL UNIQUE, name text NOT NULL);
CREATE TABLE payments (
  id bigint PRIMARY KEY,
  account_id bigint NOT NULL REFERENCES accounts,
  amount numeric(12,2) NOT NULL,
  note text,
  paid_at timestamptz NOT NULL DEFAULT now()
);
";

/// Two databases with the same tables.
pub(crate) struct Shop {
    pub(crate) legacy: Database,
    pub(crate) modern: Database,
    /// What the test's slots, origins and topics begin with.
    pub(crate) install: String,
    pub(crate) brokers: String,
    /// More keys of `kafka`: an object.
    pub(crate) kafka: Value,
    /// By which way Banyan comes to them.
    pub(crate) legacy_url: String,
    pub(crate) modern_url: String,
    pub(crate) tables: Vec<String>,
}

// === impl Shop ===

impl Shop {
    /// The shop's tables, on the shared servers and the shared Kafka.
    pub(crate) async fn fresh() -> Self {
        Self::fresh_with_modern_on(Postgres::shared_modern()).await
    }

    /// The same with the modern database on a server of the test's choice.
    pub(crate) async fn fresh_with_modern_on(modern: &Postgres) -> Self {
        let tables = ["public.accounts", "public.payments"];
        Self::on(Postgres::shared_legacy(), modern, &Kafka::shared().brokers(), TABLES, &tables).await
    }

    /// Tables of the test's own, made on both sides.
    pub(crate) async fn with(ddl: &str, tables: &[&str]) -> Self {
        Self::on(Postgres::shared_legacy(), Postgres::shared_modern(), &Kafka::shared().brokers(), ddl, tables).await
    }

    /// The same on servers of the test's choice; both databases may be in one server.
    pub(crate) async fn on(legacy: &Postgres, modern: &Postgres, brokers: &str, ddl: &str, tables: &[&str]) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let install = format!("t{}_{:04x}", COUNT.fetch_add(1, Ordering::Relaxed), rand::random::<u16>());
        let legacy = database(legacy, "legacy", ddl).await;
        let modern = database(modern, "modern", ddl).await;
        Self {
            legacy_url: legacy.url(ROLE, PASSWORD),
            modern_url: modern.url(ROLE, PASSWORD),
            legacy,
            modern,
            install,
            brokers: brokers.to_owned(),
            kafka: json!({}),
            tables: tables.iter().map(|&table| table.to_owned()).collect(),
        }
    }

    /// The file's lines for a sync named `shop` with this owner, and a monolith where nobody listens.
    pub(crate) fn file(&self, owner: &str) -> String {
        self.file_with(owner, "")
    }

    /// The same with more keys of the sync, such as `target: replace`.
    pub(crate) fn file_with(&self, owner: &str, keys: &str) -> String {
        let upstream = "upstreams:\n  monolith: {endpoints: [\"http://127.0.0.1:9\"]}\ndefault: monolith\n";
        format!("{upstream}{}", self.sync(owner, keys))
    }

    /// All keys of `kafka`.
    pub(crate) fn kafka(&self) -> Value {
        let mut keys = self.kafka.clone();
        keys["brokers"] = json!(self.brokers);
        keys
    }

    /// Only `install`, `kafka` and `syncs`, for files that bring upstreams and routes.
    pub(crate) fn sync(&self, owner: &str, keys: &str) -> String {
        let keys = if keys.is_empty() { String::new() } else { format!("    {keys}\n") };
        format!(
            "install: {}\nkafka: {}\nsyncs:\n  shop:\n    owner: {owner}\n    legacy: {{postgres: \
             \"{}\"}}\n    modern: {{postgres: \"{}\"}}\n{keys}    tables: [{}]\n",
            self.install,
            self.kafka(),
            self.legacy_url,
            self.modern_url,
            self.tables.join(", ")
        )
    }

    /// Whether every table of the sync has the same rows on both sides; else which differs first, and where.
    pub(crate) async fn equal(&self) -> Result<(), String> {
        for table in &self.tables {
            let (legacy, modern) = (self.legacy.rows(table).await, self.modern.rows(table).await);
            if legacy != modern {
                let only = |these: &[String], those: &[String]| {
                    let odd = these.iter().filter(|row| those.binary_search(row).is_err());
                    odd.take(3).map(|row| row.chars().take(120).collect()).collect::<Vec<String>>()
                };
                return Err(format!(
                    "{table}: {} rows in legacy, {} in modern; only in legacy {:?}, only in modern {:?}",
                    legacy.len(),
                    modern.len(),
                    only(&legacy, &modern),
                    only(&modern, &legacy),
                ));
            }
        }
        Ok(())
    }
}

pub(super) async fn database(server: &Postgres, prefix: &str, ddl: &str) -> Database {
    let database = server.database(prefix).await;
    database.batch(ROLES).await;
    database.batch(GRANTS).await;
    database.batch(&format!("GRANT CREATE ON DATABASE {} TO banyan", database.name)).await;
    database.batch(&format!("SET ROLE shop; {ddl}; RESET ROLE")).await;
    database
}
