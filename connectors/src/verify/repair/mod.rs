//! Writes the owner's row over the other side's where both differ, or deletes what the owner has not.
//!
//! Safe beside the applier: the position row is held, so that nothing is applied meanwhile, and the owner's row is weighed once more. If it
//! still is what it was when the other side had caught up with it, then whatever of it is still on its way begins from exactly this row. The
//! transaction carries the applier's own mark, so that the way back takes it for an echo and not for somebody who writes behind the owner's back.

mod mysql;
mod postgres;

use super::{
    What,
    again::Certain,
    pass::Run,
    seat::Seat,
    sides::Sides,
    table::{CHUNK, Key, Row, Table},
};
use crate::{error::FlowError, target::postgres::parking::OPEN};

/// Rows of one transaction: as long as it lasts, nothing is applied.
const ROWS: usize = CHUNK / 10;
const DOING: &str = "repairing";

/// How the other side's rows are written.
enum Writer {
    Postgres(postgres::Writer),
    Mysql(Box<mysql::Writer>),
}

/// What is to become of a row.
struct Change<'c> {
    at: usize,
    key: &'c Key,
    what: What,
    /// `None`: it goes.
    row: Option<Row>,
}

/// Says of each row whether it was written.
pub(super) async fn write(run: &mut Run<'_>, table: &Table, certain: &[Certain]) -> Result<Vec<bool>, FlowError> {
    let writer = Writer::prepare(run, table).await?;
    let mut written = vec![false; certain.len()];
    let mut start = 0;
    for chunk in certain.chunks(ROWS) {
        let done = transaction(run, table, &writer, chunk).await;
        if done.is_err() {
            // The next run of the same connection must find no open transaction.
            match &mut run.sides.other {
                Seat::Postgres(session) => drop(session.batch_execute("ROLLBACK").await),
                Seat::Mysql(session) => drop(session.run(DOING, "ROLLBACK").await),
            }
        }
        for at in done? {
            written[start + at] = true;
        }
        start += chunk.len();
    }
    Ok(written)
}

/// What is parked would be tried on a row that it was not made for: an old value over the owner's, or a row that is there already.
pub(super) async fn refuse_beside_parked(sides: &mut Sides) -> Result<(), FlowError> {
    let names = &sides.names;
    // Nothing is parked in MariaDB and MySQL.
    let Seat::Postgres(other) = &sides.other else { return Ok(()) };
    let row = other
        .query_one(
            &format!(
                "SELECT count(*) FROM banyan.parked WHERE install = $1 AND sync = $2 AND flow = $3 AND state IN {OPEN}"
            ),
            &[&names.install, &names.sync, &names.flow.as_str()],
        )
        .await
        .map_err(|e| FlowError::sql("counting what is parked", &e))?;
    match row.get::<_, i64>(0) {
        0 => Ok(()),
        count => Err(FlowError::Busy(format!(
            "nothing is repaired while transactions are parked ({count}): retry or skip them first, `banyan sync parked list {}`",
            names.sync
        ))),
    }
}

async fn transaction(
    run: &mut Run<'_>,
    table: &Table,
    writer: &Writer,
    certain: &[Certain],
) -> Result<Vec<usize>, FlowError> {
    writer.begin(run).await?;
    refuse_beside_parked(run.sides).await?;
    let keys: Vec<Key> = certain.iter().map(|one| one.key.clone()).collect();
    let here = table.other.versions(&mut run.sides.other, &keys).await?;
    // What the log has, and nobody was shown yet, is shown from here on.
    run.sides.owner.end(&run.sides.names).await?;
    let now = table.owner.versions(&mut run.sides.owner, &keys).await?;
    let rows = table.owner.rows(&mut run.sides.owner, &keys).await?;
    let behind = table.owner.versions(&mut run.sides.owner, &keys).await?;
    let mut changes = Vec::new();
    for (at, ((((one, row), now), behind), here)) in certain.iter().zip(rows).zip(now).zip(behind).zip(here).enumerate()
    {
        let (own, other) = &one.versions;
        let fits = row.is_some() == (one.what != What::Extra);
        if fits && now == *own && behind == *own && here == *other {
            let row = row.filter(|_| one.what != What::Extra);
            changes.push(Change { at, key: &one.key, what: one.what, row });
        }
    }
    let (gone, kept): (Vec<_>, Vec<_>) = changes.into_iter().partition(|change| change.row.is_none());
    let mut written = Vec::new();
    writer.write(run, &gone, &mut written).await?;
    writer.write(run, &kept, &mut written).await?;
    writer.commit(run, written.len() as u64).await?;
    Ok(written)
}

fn moved() -> FlowError {
    FlowError::Busy("the owner has moved, or the tables are copied anew".into())
}

// === impl Writer ===

impl Writer {
    async fn prepare(run: &mut Run<'_>, table: &Table) -> Result<Self, FlowError> {
        Ok(match &mut run.sides.other {
            Seat::Postgres(other) => Self::Postgres(postgres::Writer::prepare(other, run.table, table).await?),
            Seat::Mysql(other) => {
                Self::Mysql(Box::new(mysql::Writer::prepare(other, run.table, run.apply_as, table).await?))
            }
        })
    }

    /// Opens a transaction that holds the position row and carries the mark.
    async fn begin(&self, run: &mut Run<'_>) -> Result<(), FlowError> {
        let names = &run.sides.names;
        match &mut run.sides.other {
            Seat::Postgres(other) => postgres::begin(other, names, run.apply_as).await,
            Seat::Mysql(other) => mysql::begin(other, names).await,
        }
    }

    /// Writes as many as the database takes, and notes which.
    async fn write(
        &self,
        run: &mut Run<'_>,
        changes: &[Change<'_>],
        written: &mut Vec<usize>,
    ) -> Result<(), FlowError> {
        match (self, &mut run.sides.other) {
            (Self::Postgres(writer), Seat::Postgres(other)) => writer.write(other, changes, written).await,
            (Self::Mysql(writer), Seat::Mysql(other)) => writer.write(other, changes, written).await,
            _ => Ok(()),
        }
    }

    /// Says how many, and why.
    async fn commit(&self, run: &mut Run<'_>, rows: u64) -> Result<(), FlowError> {
        let (names, why) = (&run.sides.names, run.options.repair.as_deref().unwrap_or_default());
        match &mut run.sides.other {
            Seat::Postgres(other) => postgres::commit(other, names, &run.name, rows, why).await,
            Seat::Mysql(other) => mysql::commit(other, names, &run.name, rows, why).await,
        }
    }
}
