//! Writing in PostgreSQL: many rows a statement; which of them it does not take is found by halves.

use tokio_postgres::{Statement, types::ToSql};

use super::{Change, DOING, moved};
use crate::{
    config::ApplyAs,
    database::postgres::Session,
    error::FlowError,
    names::{FlowNames, literal},
    owner,
    plan::PlanTable,
    target::{
        postgres::table::{Shape, TargetTable, Write},
        row::Layout as _,
    },
    verify::table::Table,
};

/// How long a transaction of the applier may hold up a repair.
const PATIENCE: &str = "10s";

/// How the other side's rows are written.
pub(super) struct Writer {
    upsert: Statement,
    delete: Statement,
    keys: usize,
    columns: usize,
    /// The table may hold rows that are none of the sync's.
    has_filter: bool,
    /// Of the columns behind those.
    constants: Vec<Option<String>>,
}

pub(super) async fn begin(other: &Session, names: &FlowNames, apply_as: ApplyAs) -> Result<(), FlowError> {
    let sql = |e: &tokio_postgres::Error| FlowError::sql(DOING, e);
    let as_replica = match apply_as {
        ApplyAs::Replica => "SET LOCAL session_replication_role = replica;",
        ApplyAs::Origin => "",
    };
    let begin = format!("BEGIN; SET LOCAL lock_timeout = '{PATIENCE}'; {as_replica}");
    other.batch_execute(&begin).await.map_err(|e| sql(&e))?;
    // Of every lane: none may move meanwhile.
    let rows = other
        .query(
            "SELECT generation, coalesce((to_jsonb(q) ->> 'lanes')::int, 1)::bigint FROM banyan.position q WHERE install = $1 AND sync = $2 AND flow = $3 \
             AND phase = 'stream' AND role = 'applying' ORDER BY partition FOR UPDATE",
            &[&names.install, &names.sync, &names.flow.as_str()],
        )
        .await
        .map_err(|e| sql(&e))?;
    let is_whole =
        |row: &&tokio_postgres::Row| usize::try_from(row.get::<_, i64>(1)).is_ok_and(|lanes| lanes == rows.len());
    let row = rows.first().filter(is_whole).ok_or_else(moved)?;
    let mark = owner::applied_mark(names, row.get(0), &owner::nonce());
    other
        .batch_execute(&format!("SELECT pg_logical_emit_message(true, 'banyan.applied', {})", literal(&mark)))
        .await
        .map_err(|e| sql(&e))
}

pub(super) async fn commit(
    other: &Session,
    names: &FlowNames,
    table: &str,
    rows: u64,
    why: &str,
) -> Result<(), FlowError> {
    let sql = |e: &tokio_postgres::Error| FlowError::sql(DOING, e);
    other
        .execute(
            "INSERT INTO banyan.repair (install, sync, flow, source_table, rows, why) VALUES ($1, $2, $3, $4, $5, $6)",
            &[
                &names.install,
                &names.sync,
                &names.flow.as_str(),
                &table,
                &i64::try_from(rows).unwrap_or(i64::MAX),
                &why,
            ],
        )
        .await
        .map_err(|e| sql(&e))?;
    other.batch_execute("COMMIT").await.map_err(|e| sql(&e))
}

// === impl Writer ===

impl Writer {
    pub(super) async fn prepare(other: &Session, plan: &PlanTable, table: &Table) -> Result<Self, FlowError> {
        let target = TargetTable::load(other, plan).await?;
        let mut columns: Vec<usize> = table.other_columns.iter().filter_map(|name| target.column(name, 0)).collect();
        let count = columns.len();
        columns.extend(target.constants().iter().map(|(column, _)| *column));
        let sql = |write, columns| target.sql(&Shape { write, columns, moves_key: false }, "");
        let prepare = async |sql: String| other.prepare(&sql).await.map_err(|e| FlowError::sql(DOING, &e));
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
    pub(super) async fn write(
        &self,
        other: &Session,
        changes: &[Change<'_>],
        written: &mut Vec<usize>,
    ) -> Result<(), FlowError> {
        let sql = |e: &tokio_postgres::Error| FlowError::sql(DOING, e);
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
            let arrays: Vec<Vec<&str>> = (0..self.keys)
                .map(|i| part.iter().map(|change| change.key.get(i).map_or("", String::as_str)).collect())
                .collect();
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
