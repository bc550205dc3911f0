//! What people ask of the copies of tables: it is written down in the owner's database; whoever reads that side does it.

use std::time::{Duration, Instant};

use serde::Serialize;
use thiserror::Error;

use crate::{
    config::{Side, Sync},
    database::{DatabaseUrl, postgres::Session},
    error::{FlowError, UrlError},
    names::Flow,
    owner,
    plan::PlanTable,
};

/// Asks for copies of one sync's tables. Connects anew for each call.
#[derive(Debug)]
pub struct SnapshotDesk {
    install: String,
    name: String,
    sync: Sync,
    legacy: DatabaseUrl,
    modern: DatabaseUrl,
}

/// A copy of a table as its source knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TableCopy {
    /// `schema.table` of the owner's side.
    pub table: String,
    /// Which direction.
    pub flow: Flow,
    /// `asked`, `loading` or `loaded`.
    pub state: String,
    /// Which copy of the table since all were last copied anew.
    pub number: i64,
    /// Rows that stand in Kafka.
    pub rows: i64,
}

/// Why it cannot be asked.
#[derive(Debug, Error)]
pub enum SnapshotError {
    /// The sync has no such table on the owner's side.
    #[error("the sync `{0}` has no table `{1}` on the side of its owner")]
    NoTable(String, String),
    /// It is being copied at this moment, or has never been.
    #[error("`{0}` is being copied already, or was not copied yet")]
    Busy(String),
    /// Only between two PostgreSQL databases a table is copied by itself.
    #[error("the sync `{0}` has a database that is not PostgreSQL: its tables are copied all together")]
    Kind(String),
    /// The databases do not say who owns the sync.
    #[error("the sync `{0}` has not begun: neither database says who owns it")]
    NoOwner(String),
    /// A database does not answer, or refuses.
    #[error("the {} database: {}", .0.as_str(), .1)]
    Database(Side, String),
}

/// How long whoever asks waits until it has begun.
const PATIENCE: Duration = Duration::from_secs(6);
const LOOK: Duration = Duration::from_millis(100);

// === impl SnapshotDesk ===

impl SnapshotDesk {
    /// Of the sync `name`; nothing is connected yet.
    ///
    /// # Errors
    ///
    /// When a database URL cannot be used.
    pub fn new(name: &str, sync: &Sync, install: &str) -> Result<Self, UrlError> {
        let (legacy, modern) = (DatabaseUrl::of(&sync.legacy)?, DatabaseUrl::of(&sync.modern)?);
        Ok(Self { install: install.to_owned(), name: name.to_owned(), sync: sync.clone(), legacy, modern })
    }

    /// Writes down that `table` is to be copied again, and waits a few seconds until that has begun: the state is still `asked` when nobody
    /// has begun by then.
    ///
    /// # Errors
    ///
    /// When there is no such table, its copy is under way, or a database does not answer.
    pub async fn ask(&self, table: &str, who: &str, why: &str) -> Result<TableCopy, SnapshotError> {
        let (flow, session) = self.source().await?;
        let error = |e: &tokio_postgres::Error| {
            SnapshotError::Database(flow.source(), FlowError::sql("asking for a copy", e).to_string())
        };
        if !PlanTable::all(&self.sync, flow).iter().any(|own| own.source == table) {
            return Err(SnapshotError::NoTable(self.name.clone(), table.to_owned()));
        }
        let mine = "install = $1 AND sync = $2 AND flow = $3 AND source_table = $4";
        let asked = session
            .execute(
                &format!(
                    "UPDATE banyan.snapshot SET state = 'asked', who = $5, why = $6 WHERE {mine} AND state = 'loaded'"
                ),
                &[&self.install, &self.name, &flow.as_str(), &table, &who, &why],
            )
            .await
            .map_err(|e| error(&e))?;
        if asked == 0 {
            return Err(SnapshotError::Busy(table.to_owned()));
        }
        let until = Instant::now() + PATIENCE;
        loop {
            tokio::time::sleep(LOOK).await;
            let row = session
                .query_one(
                    &format!("SELECT state, number, rows FROM banyan.snapshot WHERE {mine}"),
                    &[&self.install, &self.name, &flow.as_str(), &table],
                )
                .await
                .map_err(|e| error(&e))?;
            let copy =
                TableCopy { table: table.to_owned(), flow, state: row.get(0), number: row.get(1), rows: row.get(2) };
            if copy.state != "asked" || Instant::now() > until {
                return Ok(copy);
            }
        }
    }

    /// The flow away from the owner, and a session on its source.
    async fn source(&self) -> Result<(Flow, Session), SnapshotError> {
        let (DatabaseUrl::Postgres(legacy), DatabaseUrl::Postgres(modern)) = (&self.legacy, &self.modern) else {
            return Err(SnapshotError::Kind(self.name.clone()));
        };
        let mut found = Vec::new();
        for (side, url) in [(Side::Legacy, legacy), (Side::Modern, modern)] {
            let error = |e: FlowError| SnapshotError::Database(side, e.to_string());
            let session = url.connect(&format!("{}/snapshot", self.install)).await.map_err(error)?;
            let row = owner::postgres::read(&session, &self.install, &self.name, side).await.map_err(error)?;
            found.extend(row.map(|row| (row, side, session)));
        }
        let owner = owner::latest(found.iter().map(|(row, ..)| *row)).map(|row| row.owner);
        let own = found.into_iter().find(|(_, side, _)| Some(*side) == owner);
        let Some((_, side, session)) = own else { return Err(SnapshotError::NoOwner(self.name.clone())) };
        Ok((Flow::away_from(side), session))
    }
}
