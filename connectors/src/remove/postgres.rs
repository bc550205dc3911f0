//! What Banyan made for a sync in a PostgreSQL database and its server.

use std::time::Duration;

use tokio::time::Instant;
use tokio_postgres::error::SqlState;

use super::{Item, Kind, Seat};
use crate::{
    database::postgres::Session,
    error::FlowError,
    names::{literal, quote},
    source::postgres::slot,
    tables,
};

/// A file has no more.
const MOST_LANES: u32 = 64;
/// How long a slot or an origin may still be in use by a session that is ending.
const PATIENCE: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(200);

/// The parts whose sessions tell a running Banyan where no lock does: while it waits for Kafka it holds none.
const PARTS: [&str; 5] = ["measure", "capture", "slot", "snapshot", "apply"];

pub(super) struct Own {
    pub(super) session: Session,
    pub(super) seat: Seat,
}

/// A table of the schema `banyan`.
struct Table {
    name: String,
    /// Its rows say whose they are.
    of_sync: bool,
    /// They belong to a row of `banyan.parked`.
    of_parked: bool,
}

// === impl Own ===

impl Own {
    pub(super) async fn find(&self) -> Result<Vec<Item>, FlowError> {
        let (seat, slot, origin) = (&self.seat, self.seat.reads.slot(), self.seat.writes.slot());
        let publication = seat.reads.publication();
        let row = self
            .session
            .query_one(
                "SELECT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = $1 AND database = current_database()), \
                     EXISTS (SELECT FROM pg_publication WHERE pubname = $2), \
                     ARRAY(SELECT roname FROM pg_replication_origin WHERE roname = $3 OR roname ~ ('^' || $3 || '_[0-9]+$') ORDER BY 1), to_regnamespace('banyan') IS NOT NULL",
                &[&slot, &publication, &origin],
            )
            .await
            .map_err(|e| failed(&e))?;
        let mut items = Vec::new();
        if row.get(0) {
            let statement = format!("SELECT pg_drop_replication_slot({})", literal(&slot));
            items.push(seat.item(Kind::Slot, slot, statement));
        }
        if row.get(1) {
            let statement = format!("DROP PUBLICATION {}", quote(&publication));
            items.push(seat.item(Kind::Publication, publication, statement));
        }
        // One, or with `order: key` one a lane.
        for origin in row.get::<_, Vec<String>>(2) {
            let statement = format!("SELECT pg_replication_origin_drop({})", literal(&origin));
            items.push(seat.item(Kind::Origin, origin, statement));
        }
        if row.get(3) {
            self.find_in_schema(&mut items).await?;
        }
        Ok(items)
    }

    async fn find_in_schema(&self, items: &mut Vec<Item>) -> Result<(), FlowError> {
        let (install, sync) = (&self.seat.reads.install, &self.seat.reads.sync);
        let all = self.tables().await?;
        let (mut rows, mut others, mut parked, mut deletes) = (0, false, 0, Vec::new());
        let mine = format!("install = {} AND sync = {}", literal(install), literal(sync));
        for table in all.iter().filter(|table| table.of_parked) {
            deletes.push(format!(
                "DELETE FROM banyan.{} WHERE parked IN (SELECT id FROM banyan.parked WHERE {mine})",
                quote(&table.name)
            ));
        }
        for table in all.iter().filter(|table| table.of_sync) {
            let name = quote(&table.name);
            let count = format!(
                "SELECT count(*) FILTER (WHERE {mine}), count(*) FILTER (WHERE ({mine}) IS NOT TRUE) FROM banyan.{name}"
            );
            let row = self.session.query_one(&count, &[]).await.map_err(|e| failed(&e))?;
            rows += row.get::<_, i64>(0).cast_unsigned();
            others |= row.get::<_, i64>(1) > 0;
            deletes.push(format!("DELETE FROM banyan.{name} WHERE {mine}"));
            if table.name == "parked" {
                let waiting =
                    format!("SELECT count(*) FROM banyan.parked WHERE {mine} AND state IN ('parked', 'retry', 'skip')");
                let row = self.session.query_one(&waiting, &[]).await.map_err(|e| failed(&e))?;
                parked = row.get::<_, i64>(0).cast_unsigned();
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
        // A schema in which only others' tables stand is not Banyan's any more.
        let is_ours = all.is_empty() || all.iter().any(|table| is_own(&table.name) || self.seat.is_seen(&table.name));
        if !others && is_ours {
            items.push(self.seat.item(Kind::Tables, "schema `banyan`", "DROP SCHEMA banyan CASCADE"));
        }
        Ok(())
    }

    pub(super) async fn lock(&self) -> Result<(), FlowError> {
        let Seat { reads, writes, .. } = &self.seat;
        slot::lock(&self.session, reads.lock("capture"), "capture").await?;
        slot::lock(&self.session, writes.lock("apply"), "position row").await?;
        for lane in 0..MOST_LANES {
            slot::lock(&self.session, writes.lock(&format!("apply/{lane}")), "position row of a lane").await?;
        }
        slot::lock(&self.session, writes.lock("verify"), "verification").await?;
        let applications: Vec<String> =
            [reads, writes].into_iter().flat_map(|names| PARTS.map(|part| names.application(part))).collect();
        let connected = self
            .session
            .query_opt(
                "SELECT application_name FROM pg_stat_activity WHERE application_name = ANY ($1) LIMIT 1",
                &[&applications],
            )
            .await
            .map_err(|e| failed(&e))?;
        match connected {
            Some(row) => Err(FlowError::Busy(format!("a session `{}` is open", row.get::<_, &str>(0)))),
            None => Ok(()),
        }
    }

    pub(super) async fn remove(&mut self, item: &Item) -> Result<(), FlowError> {
        let end = Instant::now() + PATIENCE;
        loop {
            let done = match item.kind {
                Kind::Tables => self.remove_tables().await,
                // Several statements in one message are one transaction.
                _ => self.session.batch_execute(&item.statement).await,
            };
            match done {
                Err(error) if error.code() == Some(&SqlState::OBJECT_IN_USE) && Instant::now() < end => {
                    tokio::time::sleep(LOOK).await;
                }
                // Gone meanwhile.
                Err(error) if error.code() == Some(&SqlState::UNDEFINED_OBJECT) => return Ok(()),
                done => return done.map_err(|e| FlowError::sql("removing", &e)),
            }
        }
    }

    /// The tables, and the schema if nothing of others is in it; nothing when another sync has begun since they were looked at.
    async fn remove_tables(&mut self) -> Result<(), tokio_postgres::Error> {
        let all = tables_of(&self.session).await?;
        let own: Vec<String> = all
            .iter()
            .filter(|table| is_own(&table.name))
            .map(|table| format!("banyan.{}", quote(&table.name)))
            .collect();
        let transaction = self.session.transaction().await?;
        // Who makes these tables takes this lock, and who writes to them waits for the other one.
        let lock = format!("SET LOCAL lock_timeout = '5s'; SELECT pg_advisory_xact_lock({})", tables::LOCK);
        transaction.batch_execute(&lock).await?;
        if !own.is_empty() {
            let own = own.join(", ");
            transaction.batch_execute(&format!("LOCK TABLE {own} IN ACCESS EXCLUSIVE MODE")).await?;
            for table in all.iter().filter(|table| table.of_sync) {
                let any = format!("SELECT EXISTS (SELECT FROM banyan.{})", quote(&table.name));
                if transaction.query_one(&any, &[]).await?.get(0) {
                    return Ok(());
                }
            }
            transaction.batch_execute(&format!("DROP TABLE {own}")).await?;
        }
        let is_empty = "SELECT NOT EXISTS (SELECT FROM pg_class WHERE relnamespace = to_regnamespace('banyan')) \
             AND NOT EXISTS (SELECT FROM pg_proc WHERE pronamespace = to_regnamespace('banyan')) \
             AND NOT EXISTS (SELECT FROM pg_type WHERE typnamespace = to_regnamespace('banyan'))";
        if transaction.query_one(is_empty, &[]).await?.get(0) {
            transaction.batch_execute("DROP SCHEMA IF EXISTS banyan").await?;
        }
        transaction.commit().await
    }

    async fn tables(&self) -> Result<Vec<Table>, FlowError> {
        tables_of(&self.session).await.map_err(|e| failed(&e))
    }
}

async fn tables_of(session: &Session) -> Result<Vec<Table>, tokio_postgres::Error> {
    let rows = session
        .query(
            "SELECT c.relname::text, \
                 (SELECT count(*) FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attname IN ('install', 'sync')) = 2, \
                 EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attname = 'parked') \
             FROM pg_class c WHERE c.relnamespace = to_regnamespace('banyan') AND c.relkind IN ('r', 'p') ORDER BY 1",
            &[],
        )
        .await?;
    let table = |row: tokio_postgres::Row| {
        let name: String = row.get(0);
        let is_own = is_own(&name);
        Table { of_sync: is_own && row.get(1), of_parked: is_own && row.get(2), name }
    };
    Ok(rows.into_iter().map(table).collect())
}

fn is_own(table: &str) -> bool {
    tables::of_postgres().any(|own| own == table)
}

fn failed(error: &tokio_postgres::Error) -> FlowError {
    FlowError::sql("looking for what Banyan made", error)
}
