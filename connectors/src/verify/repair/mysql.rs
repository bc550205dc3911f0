//! Writing in MariaDB and MySQL: a statement a row, so that none changes another row than the one that it is about.

use mysql_async::prelude::Queryable as _;

use super::{Change, DOING, moved};
use crate::{
    config::ApplyAs,
    database::mysql::{MysqlSession, in_time, text},
    error::{FlowError, is_of_row},
    names::FlowNames,
    owner,
    plan::PlanTable,
    target::{
        mysql::{literal::Unfit, table::TargetTable},
        row::Layout as _,
    },
    verify::{What, seat::of_flow, table::Table},
};

/// How the other side's rows are written.
pub(super) struct Writer {
    target: TargetTable,
    /// Where each column that is compared stands in the target's.
    columns: Vec<usize>,
}

pub(super) async fn begin(other: &mut MysqlSession, names: &FlowNames) -> Result<(), FlowError> {
    let applies = format!("{} AND part = 0 AND phase = 'stream' AND role = 'applying'", of_flow(names));
    let generation = format!("SELECT generation FROM banyan.position WHERE {applies}");
    let generation: i64 = other.value(DOING, &generation).await?.ok_or_else(moved)?;
    other.run(DOING, "BEGIN").await?;
    // Whoever reads the log finds the mark before any row. The applier takes both rows in the same order.
    let mark = owner::applied_mark(names, generation, &owner::nonce());
    let say = owner::mysql::say(&names.install, &names.sync, names.flow.as_str(), "applied", &mark);
    other.run(DOING, &say).await?;
    let hold =
        format!("SELECT generation FROM banyan.position WHERE {applies} AND generation = {generation} FOR UPDATE");
    other.value::<i64>(DOING, &hold).await?.ok_or_else(moved).map(drop)
}

pub(super) async fn commit(
    other: &mut MysqlSession,
    names: &FlowNames,
    table: &str,
    rows: u64,
    why: &str,
) -> Result<(), FlowError> {
    let sql = format!(
        "INSERT INTO banyan.repair SET install = {}, sync = {}, flow = {}, source_table = {}, `rows` = {rows}, why = {}, who = USER()",
        text(&names.install),
        text(&names.sync),
        text(names.flow.as_str()),
        text(table),
        text(why)
    );
    other.run(DOING, &sql).await?;
    other.run(DOING, "COMMIT").await.map(drop)
}

// === impl Writer ===

impl Writer {
    pub(super) async fn prepare(
        other: &mut MysqlSession,
        plan: &PlanTable,
        apply_as: ApplyAs,
        table: &Table,
    ) -> Result<Self, FlowError> {
        if apply_as == ApplyAs::Replica {
            other.run("setting foreign_key_checks", "SET foreign_key_checks = 0").await?;
        }
        let target = TargetTable::load(other, plan).await?;
        let columns = table.other_columns.iter().filter_map(|name| target.column(name, 0)).collect();
        Ok(Self { target, columns })
    }

    /// Writes as many as the database takes: a row that it refuses, or would change on its way, is left.
    pub(super) async fn write(
        &self,
        other: &mut MysqlSession,
        changes: &[Change<'_>],
        written: &mut Vec<usize>,
    ) -> Result<(), FlowError> {
        for change in changes {
            let Ok(Some(sql)) = self.statement(change) else { continue };
            other.run(DOING, "SAVEPOINT part").await?;
            if put(other, &sql).await? {
                other.run(DOING, "RELEASE SAVEPOINT part").await?;
                written.push(change.at);
            } else {
                other.run(DOING, "ROLLBACK TO SAVEPOINT part").await?;
            }
        }
        Ok(())
    }

    /// Nothing where the row is but its key.
    fn statement(&self, change: &Change<'_>) -> Result<Option<Vec<u8>>, Unfit> {
        let target = &self.target;
        let Some(row) = &change.row else {
            let mut sql = format!("DELETE FROM {} WHERE ", target.sql_name).into_bytes();
            self.only(change, &mut sql)?;
            return Ok(Some(sql));
        };
        let values = self.columns.iter().zip(row).map(|(&column, value)| (column, value.as_deref()));
        let constants = target.constants().iter().map(|(column, value)| (*column, value.as_deref()));
        // A row that is missing is inserted alone: it must not become another one that has the same key for this server.
        let is_new = change.what == What::Missing;
        let word = if is_new { "INSERT INTO" } else { "UPDATE" };
        let mut sql = format!("{word} {} SET ", target.sql_name).into_bytes();
        let start = sql.len();
        for (column, value) in values.chain(constants).filter(|(column, _)| is_new || !target.key.contains(column)) {
            if sql.len() > start {
                sql.push(b',');
            }
            sql.extend_from_slice(target.columns[column].sql_name.as_bytes());
            sql.push(b'=');
            target.columns[column].class.write(&mut sql, value.map(str::as_bytes))?;
        }
        if sql.len() == start {
            return Ok(None);
        }
        if !is_new {
            sql.extend_from_slice(b" WHERE ");
            self.only(change, &mut sql)?;
        }
        Ok(Some(sql))
    }

    /// The sync's row with this key.
    fn only(&self, change: &Change<'_>, sql: &mut Vec<u8>) -> Result<(), Unfit> {
        let target = &self.target;
        sql.extend_from_slice(target.own_rows().as_bytes());
        for (&column, value) in target.key.iter().zip(change.key) {
            sql.extend_from_slice(format!(" AND {} = ", target.columns[column].sql_name).as_bytes());
            target.columns[column].class.write(sql, Some(value.as_bytes()))?;
        }
        Ok(())
    }
}

/// Whether the statement has written its row, as it is.
async fn put(other: &mut MysqlSession, sql: &[u8]) -> Result<bool, FlowError> {
    let putting = async {
        let answers = match other.conn.query_iter(sql).await {
            Ok(answers) => answers,
            Err(mysql_async::Error::Server(error)) if is_of_row(error.code) => return Ok(false),
            Err(error) => return Err(FlowError::mysql(DOING, &error)),
        };
        let is_whole = answers.affected_rows() == 1 && answers.warnings() == 0;
        answers.drop_result().await.map_err(|error| FlowError::mysql(DOING, &error))?;
        Ok(is_whole)
    };
    in_time(DOING, putting).await
}
