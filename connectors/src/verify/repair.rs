//! Writes the owner's row over the other side's where both differ, or deletes what the owner has not.
//!
//! Safe beside the applier: the position row is held, so that nothing is applied meanwhile, and the owner's row is weighed once more. If it
//! still is what it was when the other side had caught up with it, then whatever of it is still on its way begins from exactly this row. The
//! transaction carries the applier's own mark, so that the way back takes it for an echo and not for somebody who writes behind the owner's back.

use tokio_postgres::{Statement, types::ToSql};

use super::{
    What,
    again::Certain,
    pass::Run,
    sides::Sides,
    table::{CHUNK, Key, Row, Table, transposed},
};
use crate::{
    config::ApplyAs,
    database::postgres::Session,
    error::FlowError,
    names::literal,
    owner,
    target::{
        postgres::{
            parking::OPEN,
            table::{Shape, TargetTable, Write},
        },
        row::Layout as _,
    },
};

/// Rows of one transaction: as long as it lasts, nothing is applied.
const ROWS: usize = CHUNK / 10;
/// How long a transaction of the applier may hold up a repair.
const PATIENCE: &str = "10s";

/// How the other side's rows are written.
struct Writer {
    upsert: Statement,
    delete: Statement,
    keys: usize,
    columns: usize,
    /// The table may hold rows that are none of the sync's.
    has_filter: bool,
    /// Of the columns behind those.
    constants: Vec<Option<String>>,
}

/// What is to become of a row.
struct Change<'c> {
    at: usize,
    key: &'c Key,
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
            drop(run.sides.other.batch_execute("ROLLBACK").await);
        }
        for at in done? {
            written[start + at] = true;
        }
        start += chunk.len();
    }
    Ok(written)
}

/// What is parked would be tried on a row that it was not made for: an old value over the owner's, or a row that is there already.
pub(super) async fn refuse_beside_parked(sides: &Sides) -> Result<(), FlowError> {
    let names = &sides.names;
    let row = sides
        .other
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
    run: &Run<'_>,
    table: &Table,
    writer: &Writer,
    certain: &[Certain],
) -> Result<Vec<usize>, FlowError> {
    let (other, names) = (&run.sides.other, &run.sides.names);
    let doing = "repairing";
    let sql = |e: &tokio_postgres::Error| FlowError::sql(doing, e);
    let as_replica = match run.apply_as {
        ApplyAs::Replica => "SET LOCAL session_replication_role = replica;",
        ApplyAs::Origin => "",
    };
    let begin = format!("BEGIN; SET LOCAL lock_timeout = '{PATIENCE}'; {as_replica}");
    other.batch_execute(&begin).await.map_err(|e| sql(&e))?;
    let row = other
        .query_opt(
            "SELECT generation FROM banyan.position WHERE install = $1 AND sync = $2 AND flow = $3 AND partition = 0 \
             AND phase = 'stream' AND role = 'applying' FOR UPDATE",
            &[&names.install, &names.sync, &names.flow.as_str()],
        )
        .await
        .map_err(|e| sql(&e))?;
    let Some(row) = row else {
        return Err(FlowError::Busy("the owner has moved, or the tables are copied anew".into()));
    };
    refuse_beside_parked(run.sides).await?;
    let mark = owner::applied_mark(names, row.get(0), &owner::nonce());
    other
        .batch_execute(&format!("SELECT pg_logical_emit_message(true, 'banyan.applied', {})", literal(&mark)))
        .await
        .map_err(|e| sql(&e))?;
    let keys: Vec<Key> = certain.iter().map(|one| one.key.clone()).collect();
    let here = table.other.versions(other, &keys).await?;
    let now = table.owner.versions(&run.sides.owner, &keys).await?;
    let rows = table.owner.rows(&run.sides.owner, &keys).await?;
    let behind = table.owner.versions(&run.sides.owner, &keys).await?;
    let mut changes = Vec::new();
    for (at, ((((one, row), now), behind), here)) in certain.iter().zip(rows).zip(now).zip(behind).zip(here).enumerate()
    {
        let (own, other) = &one.versions;
        if now == *own && behind == *own && here == *other {
            changes.push(Change { at, key: &one.key, row: row.filter(|_| one.what != What::Extra) });
        }
    }
    let (gone, kept): (Vec<_>, Vec<_>) = changes.into_iter().partition(|change| change.row.is_none());
    let mut written = Vec::new();
    writer.write(other, &gone, &mut written).await?;
    writer.write(other, &kept, &mut written).await?;
    other
        .execute(
            "INSERT INTO banyan.repair (install, sync, flow, source_table, rows, why) VALUES ($1, $2, $3, $4, $5, $6)",
            &[
                &names.install,
                &names.sync,
                &names.flow.as_str(),
                &run.name,
                &i64::try_from(written.len()).unwrap_or(i64::MAX),
                &run.options.repair.as_deref().unwrap_or_default(),
            ],
        )
        .await
        .map_err(|e| sql(&e))?;
    other.batch_execute("COMMIT").await.map_err(|e| sql(&e))?;
    Ok(written)
}

// === impl Writer ===

impl Writer {
    async fn prepare(run: &Run<'_>, table: &Table) -> Result<Self, FlowError> {
        let other = &run.sides.other;
        let target = TargetTable::load(other, run.table).await?;
        let mut columns: Vec<usize> = table.other_columns.iter().filter_map(|name| target.column(name, 0)).collect();
        let count = columns.len();
        columns.extend(target.constants().iter().map(|(column, _)| *column));
        let sql = |write, columns| target.sql(&Shape { write, columns, moves_key: false }, "");
        let prepare = async |sql: String| other.prepare(&sql).await.map_err(|e| FlowError::sql("repairing", &e));
        Ok(Self {
            upsert: prepare(sql(Write::Merge, columns)).await?,
            delete: prepare(sql(Write::Delete, Vec::new())).await?,
            keys: table.key.len(),
            columns: count,
            has_filter: target.plan.mapping.has_filter(),
            constants: target.constants().iter().map(|(_, value)| value.clone()).collect(),
        })
    }

    /// Writes as many as the database takes: a row that it refuses is found by halves, and left.
    async fn write(&self, other: &Session, changes: &[Change<'_>], written: &mut Vec<usize>) -> Result<(), FlowError> {
        let sql = |e: &tokio_postgres::Error| FlowError::sql("repairing", e);
        let mut parts = vec![changes];
        while let Some(part) = parts.pop() {
            if part.is_empty() {
                continue;
            }
            other.batch_execute("SAVEPOINT part").await.map_err(|e| sql(&e))?;
            match self.write_all(other, part).await {
                Ok(true) => {
                    other.batch_execute("RELEASE part").await.map_err(|e| sql(&e))?;
                    written.extend(part.iter().map(|change| change.at));
                }
                // A lost connection stays lost; only what the database says of a row is worth a second try.
                Err(error) if error.code().is_none() => return Err(sql(&error)),
                Ok(false) | Err(_) => {
                    other.batch_execute("ROLLBACK TO part").await.map_err(|e| sql(&e))?;
                    if part.len() > 1 {
                        let (left, right) = part.split_at(part.len() / 2);
                        parts.extend([right, left]);
                    }
                }
            }
        }
        Ok(())
    }

    /// Whether all were written: a row with the same key that is none of the sync's is not touched.
    async fn write_all(&self, other: &Session, part: &[Change<'_>]) -> Result<bool, tokio_postgres::Error> {
        if part.iter().all(|change| change.row.is_none()) {
            let keys: Vec<Key> = part.iter().map(|change| change.key.clone()).collect();
            let arrays = transposed(&keys, self.keys);
            let parameters: Vec<&(dyn ToSql + Sync)> =
                arrays.iter().map(|array| array as &(dyn ToSql + Sync)).collect();
            return other.execute(&self.delete, &parameters).await.map(|_| true);
        }
        let arrays: Vec<Vec<Option<&str>>> = (0..self.columns)
            .map(|i| part.iter().map(|change| change.row.as_ref().and_then(|row| row.get(i)?.as_deref())).collect())
            .chain(self.constants.iter().map(|value| vec![value.as_deref(); part.len()]))
            .collect();
        let parameters: Vec<&(dyn ToSql + Sync)> = arrays.iter().map(|array| array as &(dyn ToSql + Sync)).collect();
        let hit = other.execute(&self.upsert, &parameters).await?;
        Ok(!self.has_filter || hit == part.len() as u64)
    }
}
