//! Where changes go. `apply` judges the records, the same for every target; a [`Writer`] puts what they say into one kind of database.

pub(crate) mod applied;
pub(crate) mod apply;
mod hole;
pub(crate) mod mysql;
pub(crate) mod postgres;
pub(crate) mod row;

use std::{collections::BTreeMap, time::Duration};

use applied::{Applied, Loading};

use crate::{
    database::DatabaseUrl,
    error::FlowError,
    plan::Plan,
    position::Position,
    record::{
        control::Load,
        envelope::{Envelope, Op},
    },
    status::Board,
};

/// A target transaction looks whether its tables were altered when the last look is older. Whoever lets a flow go on behind a change of a table
/// waits longer than this first.
pub(crate) const AGE: Duration = Duration::from_millis(250);

const NO_CHUNKS: &str = "a target of this kind takes no chunks";

/// The target of one flow: its tables and its position row, held by this applier alone.
///
/// Every call but [`Writer::open`] belongs to one applier, which makes them one after the other. What was handed over counts when
/// [`Writer::commit`] returns Ok, and then all of it, with the position; before that, none of it.
pub(crate) enum Writer {
    Postgres(postgres::Writer),
    Mysql(mysql::Writer),
}

// === impl Writer ===

impl Writer {
    /// Connects, looks the tables up, takes the position row, and says where it stands.
    pub(crate) async fn open(plan: &Plan, board: &Board) -> Result<(Self, Applied), FlowError> {
        Ok(match &plan.target {
            DatabaseUrl::Postgres(url) => {
                let (writer, applied) = postgres::Writer::open(plan, url, board).await?;
                (Self::Postgres(writer), applied)
            }
            DatabaseUrl::Mysql(url) => {
                let (writer, applied) = mysql::Writer::open(plan, url, board).await?;
                (Self::Mysql(writer), applied)
            }
        })
    }

    /// The sum of the tables' columns as they were looked up.
    pub(crate) fn sum(&self) -> &str {
        match self {
            Self::Postgres(writer) => writer.catalogue.sum(),
            Self::Mysql(writer) => writer.catalogue.sum(),
        }
    }

    /// Opens a target transaction: the position row is ours and where we left it, and our mark comes before the first row.
    pub(crate) async fn begin(&mut self, at: &Applied) -> Result<(), FlowError> {
        match self {
            Self::Postgres(writer) => writer.begin(at).await,
            Self::Mysql(writer) => writer.begin(at).await,
        }
    }

    /// Writes what is left, moves the position row from `old` to `new`, and commits.
    pub(crate) async fn commit(&mut self, old: &Applied, new: &Applied) -> Result<(), FlowError> {
        match self {
            Self::Postgres(writer) => writer.commit(old, new).await,
            Self::Mysql(writer) => writer.commit(old, new).await,
        }
    }

    /// Forgets what was handed over since the last commit. `open`: a target transaction was begun.
    pub(crate) async fn roll_back(&mut self, open: bool) -> Result<(), FlowError> {
        match self {
            Self::Postgres(writer) => writer.roll_back(open).await,
            Self::Mysql(writer) => writer.roll_back(open).await,
        }
    }

    /// Adds a changed row, or a truncated table. `folds`: it may share a statement with others. `loading`: the table is being filled.
    pub(crate) async fn row(
        &mut self,
        envelope: &Envelope<'_>,
        at: Position,
        folds: bool,
        loading: Option<Loading>,
    ) -> Result<(), FlowError> {
        match self {
            Self::Postgres(writer) => writer.row(envelope, at, folds, loading).await,
            Self::Mysql(writer) => writer.row(envelope, at).await,
        }
    }

    /// Sends what was collected to the server.
    pub(crate) async fn flush(&mut self) -> Result<(), FlowError> {
        match self {
            Self::Postgres(writer) => writer.flush().await,
            Self::Mysql(writer) => writer.flush().await,
        }
    }

    /// Stores that `table` of the source was changed while it was closed for writes.
    pub(crate) async fn violation(&mut self, table: &str, op: Op, epoch: i64, at: Position) -> Result<(), FlowError> {
        match self {
            Self::Postgres(writer) => writer.violation(table, op, epoch, at).await,
            Self::Mysql(writer) => writer.violation(table, op, epoch, at).await,
        }
    }

    /// A snapshot begins. `again`: an earlier attempt of ours had begun to fill these tables, so what they hold came from it; or at least
    /// `half` of them. `loads` come in chunks of the stream; gives how their tables are filled.
    pub(crate) async fn snapshot_start(
        &mut self,
        again: bool,
        half: &BTreeMap<String, Loading>,
        loads: &[Load],
    ) -> Result<BTreeMap<String, Loading>, FlowError> {
        match self {
            Self::Postgres(writer) => writer.snapshot_start(again, half, loads).await,
            Self::Mysql(_) if !loads.is_empty() => Err(FlowError::Stop(NO_CHUNKS.into())),
            Self::Mysql(writer) => writer.snapshot_start(again).await.map(|()| BTreeMap::new()),
        }
    }

    /// The copy of one table begins, in chunks of the stream.
    pub(crate) async fn load(&mut self, load: &Load) -> Result<Loading, FlowError> {
        match self {
            Self::Postgres(writer) => writer.load(load).await,
            Self::Mysql(_) => Err(FlowError::Stop(NO_CHUNKS.into())),
        }
    }

    /// The copy of one table is complete.
    pub(crate) async fn loaded(&mut self, table: &str, loading: Loading) -> Result<(), FlowError> {
        match self {
            Self::Postgres(writer) => writer.loaded(table, loading).await,
            Self::Mysql(_) => Err(FlowError::Stop(NO_CHUNKS.into())),
        }
    }

    /// A snapshot is complete: rows that it did not have go.
    pub(crate) async fn snapshot_end(&mut self) -> Result<(), FlowError> {
        match self {
            Self::Postgres(writer) => writer.snapshot_end().await,
            Self::Mysql(writer) => writer.snapshot_end().await,
        }
    }
}
