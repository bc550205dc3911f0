//! A sync between databases of different kinds, and how both sides are compared: row by row, each side writing its rows in the same words.

use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{Value, json};

use super::{
    Database, Kafka, MariaDb, Postgres, Schema,
    shop::{PASSWORD, ROLE},
};

/// One side.
pub(crate) enum Half {
    Mariadb(Schema),
    Postgres(Database),
}

/// One table: its name on either side, and a list of expressions whose text is the same on both sides for the same row.
pub(crate) struct Twins {
    pub(crate) legacy: (String, &'static str),
    pub(crate) modern: (String, &'static str),
}

/// Two databases with tables that correspond.
pub(crate) struct Twin {
    pub(crate) legacy: Half,
    pub(crate) modern: Half,
    pub(crate) legacy_url: String,
    pub(crate) modern_url: String,
    pub(crate) tables: Vec<Twins>,
    pub(crate) install: String,
    pub(crate) brokers: String,
}

// === impl Half ===

impl Half {
    /// A fresh database on a MariaDB, and a user with exactly what Banyan needs there.
    pub(crate) async fn mariadb(server: &MariaDb, ddl: &str) -> Self {
        let schema = server.schema("shop").await;
        let user = format!("{ROLE}@'%'");
        for statement in [
            format!("CREATE USER IF NOT EXISTS {user} IDENTIFIED BY '{PASSWORD}'"),
            format!("GRANT REPLICATION SLAVE ON *.* TO {user}"),
            format!("GRANT ALL ON banyan.* TO {user}"),
            format!("GRANT SELECT, INSERT, UPDATE, DELETE ON `{}`.* TO {user}", schema.name),
        ]
        .iter()
        .map(String::as_str)
        .chain(ddl.split(";\n").map(str::trim).filter(|statement| !statement.is_empty()))
        {
            schema.batch(statement).await;
        }
        Self::Mariadb(schema)
    }

    pub(crate) async fn postgres(server: &Postgres, ddl: &str) -> Self {
        Self::Postgres(super::shop::database(server, "shop", ddl).await)
    }

    /// Runs one transaction's statements: `;` and a line's end between them.
    pub(crate) async fn batch(&self, sql: &str) {
        match self {
            Self::Mariadb(schema) => schema.batch(sql).await,
            Self::Postgres(database) => database.batch(sql).await,
        }
    }

    pub(crate) async fn text(&self, sql: &str) -> Option<String> {
        match self {
            Self::Mariadb(schema) => schema.text(sql).await,
            Self::Postgres(database) => database.text(sql).await,
        }
    }

    /// `schema.table`, as the file writes it.
    pub(crate) fn table(&self, name: &str) -> String {
        match self {
            Self::Mariadb(schema) => format!("{}.{name}", schema.name),
            Self::Postgres(_) => format!("public.{name}"),
        }
    }

    pub(crate) fn url(&self) -> String {
        match self {
            Self::Mariadb(schema) => schema.url(ROLE, PASSWORD),
            Self::Postgres(database) => database.url(ROLE, PASSWORD),
        }
    }

    /// The same through a wire's port.
    pub(crate) fn url_through(&self, port: u16) -> String {
        match self {
            Self::Mariadb(schema) => schema.url_through(port, ROLE, PASSWORD),
            Self::Postgres(database) => database.url_through(port, ROLE, PASSWORD),
        }
    }

    /// The first column of every row.
    pub(crate) async fn lines(&self, sql: &str) -> Vec<String> {
        match self {
            Self::Mariadb(schema) => {
                let rows = schema.query(sql).await;
                rows.into_iter().filter_map(|row| row.into_iter().next()?).collect()
            }
            Self::Postgres(database) => database.lines(sql).await,
        }
    }

    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Mariadb(_) => "mysql",
            Self::Postgres(_) => "postgres",
        }
    }

    pub(crate) async fn rows(&self, table: &str, list: &str) -> Vec<String> {
        let mut rows: Vec<String> = match self {
            Self::Mariadb(schema) => {
                let mut parts = table.splitn(2, '.');
                let (own, name) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
                let rows = schema.query(&format!("SELECT {list} FROM `{own}`.`{name}`")).await;
                rows.into_iter()
                    .map(|row| {
                        row.into_iter().map(|cell| cell.unwrap_or_else(|| "NULL".into())).collect::<Vec<_>>().join("|")
                    })
                    .collect()
            }
            Self::Postgres(database) => {
                let mut parts = table.splitn(2, '.');
                let (own, name) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
                database.lines(&format!("SELECT {list} FROM \"{own}\".\"{name}\"")).await
            }
        };
        rows.sort();
        rows
    }
}

// === impl Twin ===

impl Twin {
    /// `tables`: the name, and what to compare in legacy and in modern.
    pub(crate) fn new(legacy: Half, modern: Half, tables: &[(&str, &'static str, &'static str)]) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let install = format!("m{}_{:04x}", COUNT.fetch_add(1, Ordering::Relaxed), rand::random::<u16>());
        let tables = tables
            .iter()
            .map(|(name, old, new)| Twins { legacy: (legacy.table(name), old), modern: (modern.table(name), new) })
            .collect();
        Self {
            legacy_url: legacy.url(),
            modern_url: modern.url(),
            legacy,
            modern,
            tables,
            install,
            brokers: Kafka::shared().brokers(),
        }
    }

    /// The sync `shop` as the file has it.
    pub(crate) fn sync(&self, owner: &str) -> Value {
        let tables: Vec<Value> =
            self.tables.iter().map(|table| json!({"legacy": table.legacy.0, "modern": table.modern.0})).collect();
        json!({
            "owner": owner,
            "legacy": {self.legacy.kind(): self.legacy_url},
            "modern": {self.modern.kind(): self.modern_url},
            "tables": tables,
        })
    }

    /// Whether every table has the same rows on both sides; else which differs first, and where.
    pub(crate) async fn equal(&self) -> Result<(), String> {
        for table in &self.tables {
            let legacy = self.legacy.rows(&table.legacy.0, table.legacy.1).await;
            let modern = self.modern.rows(&table.modern.0, table.modern.1).await;
            if legacy != modern {
                let only = |these: &[String], those: &[String]| {
                    let odd = these.iter().filter(|row| those.binary_search(row).is_err());
                    odd.take(3).map(|row| row.chars().take(1_200).collect()).collect::<Vec<String>>()
                };
                return Err(format!(
                    "{}: {} rows in legacy, {} in modern; only in legacy {:#?}, only in modern {:#?}",
                    table.legacy.0,
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
