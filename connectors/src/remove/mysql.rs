//! What Banyan made for a sync on a MariaDB or MySQL server: rows in the database `banyan`, which all syncs of the server share.

use super::{Item, Kind, Seat};
use crate::{
    database::mysql::{MysqlSession, cell, quote, text},
    error::FlowError,
    tables,
};

const LOOKING: &str = "looking for what Banyan made";
const REMOVING: &str = "removing";

pub(super) struct Own {
    pub(super) session: MysqlSession,
    pub(super) seat: Seat,
}

/// A table of the database `banyan`.
struct Table {
    name: String,
    /// Its rows say whose they are.
    of_sync: bool,
    /// They belong to a row of `banyan.parked`.
    of_parked: bool,
}

// === impl Own ===

impl Own {
    pub(super) async fn find(&mut self) -> Result<Vec<Item>, FlowError> {
        let (install, sync) = (text(&self.seat.reads.install), text(&self.seat.reads.sync));
        let mine = format!("install = {install} AND sync = {sync}");
        let mut items = Vec::new();
        let is_there: Option<u64> = self
            .session
            .value(LOOKING, "SELECT count(*) FROM information_schema.schemata WHERE schema_name = 'banyan'")
            .await?;
        if is_there != Some(1) {
            return Ok(items);
        }
        let all = self.tables().await?;
        let (mut rows, mut others, mut parked, mut deletes) = (0, false, 0, Vec::new());
        for table in all.iter().filter(|table| table.of_parked) {
            deletes.push(format!(
                "DELETE FROM banyan.{} WHERE parked IN (SELECT id FROM banyan.parked WHERE {mine})",
                quote(&table.name)
            ));
        }
        for table in all.iter().filter(|table| table.of_sync) {
            let name = quote(&table.name);
            let count = format!("SELECT coalesce(sum({mine}), 0), count(*) FROM banyan.{name}");
            let row = self.session.first(LOOKING, &count).await?;
            let number = |at| row.as_ref().and_then(|row| cell::<u64>(row, at)).unwrap_or(0);
            rows += number(0);
            others |= number(1) > number(0);
            deletes.push(format!("DELETE FROM banyan.{name} WHERE {mine}"));
            if table.name == "parked" {
                let waiting =
                    format!("SELECT count(*) FROM banyan.parked WHERE {mine} AND state IN ('parked', 'retry', 'skip')");
                parked = self.session.value(LOOKING, &waiting).await?.unwrap_or(0);
            }
        }
        for table in all.iter().filter(|table| self.seat.is_seen(&table.name)) {
            let statement = format!("DROP TABLE banyan.{}", quote(&table.name));
            items.push(self.seat.item(Kind::SeenKeys, &table.name, statement));
        }
        if rows > 0 {
            items.push(self.seat.rows(rows, parked, deletes.join("; ")));
        }
        others |= all.iter().any(|table| table.name.starts_with("seen_") && !self.seat.is_seen(&table.name));
        let is_ours = all.is_empty() || all.iter().any(|table| is_own(&table.name) || self.seat.is_seen(&table.name));
        if !others && is_ours {
            items.push(self.seat.item(Kind::Tables, "database `banyan`", "DROP DATABASE banyan"));
        }
        Ok(items)
    }

    pub(super) async fn lock(&mut self) -> Result<(), FlowError> {
        self.session.lock(&self.seat.reads.application("capture"), "capture").await?;
        self.session.lock(&self.seat.writes.application("apply"), "position row").await
    }

    pub(super) async fn remove(&mut self, item: &Item) -> Result<(), FlowError> {
        match item.kind {
            Kind::Tables => {
                // No other sync makes tables between the last look and the end of the database.
                self.session.lock_in(tables::MYSQL_LOCK, 5).await?;
                let removed = self.remove_tables().await;
                // The sync's other database may be on the same server.
                self.session.unlock(tables::MYSQL_LOCK).await?;
                removed
            }
            Kind::Rows => {
                let removed = self.remove_rows(&item.statement).await;
                if removed.is_err() {
                    // What comes after must not commit a half of it.
                    self.session.run(REMOVING, "ROLLBACK").await?;
                }
                removed
            }
            _ => self.session.run(REMOVING, &item.statement).await.map(drop),
        }
    }

    async fn remove_rows(&mut self, statements: &str) -> Result<(), FlowError> {
        self.session.run(REMOVING, "BEGIN").await?;
        for statement in statements.split("; ") {
            self.session.run(REMOVING, statement).await?;
        }
        self.session.run(REMOVING, "COMMIT").await.map(drop)
    }

    /// The tables, and the database if nothing of others is in it; nothing when another sync has begun since they were looked at.
    async fn remove_tables(&mut self) -> Result<(), FlowError> {
        let all = self.tables().await?;
        let own: Vec<String> = all
            .iter()
            .filter(|table| is_own(&table.name))
            .map(|table| format!("banyan.{}", quote(&table.name)))
            .collect();
        if !own.is_empty() {
            // Who writes to them waits, and then finds no table.
            self.session.run(REMOVING, "SET lock_wait_timeout = 5").await?;
            self.session.run(REMOVING, &format!("LOCK TABLES {} WRITE", own.join(" WRITE, "))).await?;
            let mut rows = 0;
            for table in all.iter().filter(|table| table.of_sync) {
                let any = format!("SELECT count(*) FROM banyan.{}", quote(&table.name));
                rows += self.session.value::<u64>(REMOVING, &any).await?.unwrap_or(0);
            }
            if rows == 0 {
                self.session.run(REMOVING, &format!("DROP TABLE {}", own.join(", "))).await?;
            }
            self.session.run(REMOVING, "UNLOCK TABLES").await?;
            if rows > 0 {
                return Ok(());
            }
        }
        let others: Option<u64> = self
            .session
            .value(
                LOOKING,
                "SELECT (SELECT count(*) FROM information_schema.tables WHERE table_schema = 'banyan') \
                     + (SELECT count(*) FROM information_schema.routines WHERE routine_schema = 'banyan') \
                     + (SELECT count(*) FROM information_schema.events WHERE event_schema = 'banyan')",
            )
            .await?;
        if others == Some(0) {
            self.session.run(REMOVING, "DROP DATABASE IF EXISTS banyan").await?;
        }
        Ok(())
    }

    async fn tables(&mut self) -> Result<Vec<Table>, FlowError> {
        let rows = self
            .session
            .rows(
                LOOKING,
                "SELECT t.TABLE_NAME, \
                     (SELECT count(*) FROM information_schema.COLUMNS c WHERE c.TABLE_SCHEMA = 'banyan' AND c.TABLE_NAME = t.TABLE_NAME \
                         AND c.COLUMN_NAME IN ('install', 'sync')), \
                     (SELECT count(*) FROM information_schema.COLUMNS c WHERE c.TABLE_SCHEMA = 'banyan' AND c.TABLE_NAME = t.TABLE_NAME \
                         AND c.COLUMN_NAME = 'parked') \
                 FROM information_schema.TABLES t WHERE t.TABLE_SCHEMA = 'banyan' ORDER BY 1",
            )
            .await?;
        let table = |row: &mysql_async::Row| {
            let name: String = cell(row, 0).unwrap_or_default();
            let is_own = is_own(&name);
            let has = |at, columns| cell::<u64>(row, at) == Some(columns);
            Table { of_sync: is_own && has(1, 2), of_parked: is_own && has(2, 1), name }
        };
        Ok(rows.iter().map(table).collect())
    }
}

fn is_own(table: &str) -> bool {
    tables::of_mysql().any(|own| own == table)
}
