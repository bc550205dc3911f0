//! A snapshot's START and END in MariaDB and MySQL: what becomes of rows that are there already, and of rows that the source no longer has.
//!
//! Statements that make or drop a table commit whatever is open, so a session of their own runs them; TRUNCATE does too, so tables are
//! emptied by DELETE.

use super::{
    batch::{Batch, Wanted},
    table::TargetTable,
};
use crate::{
    config::Target,
    database::mysql::{MysqlSession, MysqlUrl, quote},
    error::FlowError,
    names::FlowNames,
};

/// The table that collects the keys seen in this attempt, for `target: keep_matching`.
pub(crate) fn seen_table(names: &FlowNames, index: usize) -> String {
    format!("banyan.{}", quote(&format!("{}{index}", names.seen())))
}

fn keys(table: &TargetTable) -> String {
    let keys: Vec<&str> = table.key.iter().map(|&key| table.columns[key].sql_name.as_str()).collect();
    keys.join(", ")
}

/// At START. `again`: an earlier attempt of ours had begun to fill these tables, so what they hold came from it.
pub(crate) async fn start(
    session: &mut MysqlSession,
    batch: &mut Batch,
    url: &MysqlUrl,
    names: &FlowNames,
    tables: &[TargetTable],
    again: bool,
) -> Result<(), FlowError> {
    let mut full = Vec::new();
    for (i, table) in tables.iter().enumerate() {
        let name = &table.sql_name;
        match table.plan.existing {
            Target::KeepMatching
                if table.plan.mapping.has_filter() || table.plan.mapping.untouched().next().is_some() =>
            {
                return Err(FlowError::Stop(format!(
                    "`{}` has rows or columns of its own (`rows`, `leave_out`), which `target: keep_matching` cannot keep apart in MariaDB and MySQL: say `replace`",
                    table.plan.target
                )));
            }
            Target::KeepMatching => {
                let doing = "making the set of seen keys";
                let seen = seen_table(names, i);
                let mut maker = url.connect(&names.application("seen")).await?;
                maker
                    .run(
                        doing,
                        &format!(
                            "CREATE TABLE IF NOT EXISTS {seen} (PRIMARY KEY ({0})) ENGINE=InnoDB AS SELECT {0} FROM {name} LIMIT 0",
                            keys(table)
                        ),
                    )
                    .await?;
                batch.push(Wanted::Anything { doing }, format!("DELETE FROM {seen}").as_bytes());
            }
            Target::Refuse if !again => {
                let rows: Option<u64> = session
                    .value(
                        "counting the target's rows",
                        &format!("SELECT count(*) FROM {name} WHERE {}", table.own_rows()),
                    )
                    .await?;
                if rows.is_some_and(|rows| rows > 0) {
                    full.push(format!("`{}` holds {} rows", table.plan.target, rows.unwrap_or(0)));
                }
            }
            Target::Replace | Target::Refuse => {
                batch.push(
                    Wanted::Anything { doing: "emptying the target's tables" },
                    format!("DELETE FROM {name} WHERE {}", table.own_rows()).as_bytes(),
                );
            }
        }
    }
    if full.is_empty() {
        return Ok(());
    }
    Err(FlowError::Stop(format!(
        "the target is not empty: {}; say `target: replace` to empty it or `target: keep_matching` to make it equal",
        full.join(", ")
    )))
}

/// At END: rows that were not seen in this attempt go.
pub(crate) fn end(batch: &mut Batch, names: &FlowNames, tables: &[TargetTable]) {
    for (i, table) in tables.iter().enumerate().filter(|(_, table)| table.plan.existing == Target::KeepMatching) {
        let doing = "deleting what the source lacks";
        let seen = seen_table(names, i);
        let same: Vec<String> =
            table.key.iter().map(|&key| &table.columns[key].sql_name).map(|key| format!("s.{key} = x.{key}")).collect();
        let delete = format!(
            "DELETE x FROM {} AS x WHERE NOT EXISTS (SELECT 1 FROM {seen} s WHERE {}) AND {}",
            table.sql_name,
            same.join(" AND "),
            table.own_rows()
        );
        batch.push(Wanted::Anything { doing }, delete.as_bytes());
        batch.push(Wanted::Anything { doing }, format!("DELETE FROM {seen}").as_bytes());
    }
}

/// When END is committed.
pub(crate) async fn tidy(url: &MysqlUrl, names: &FlowNames, tables: &[TargetTable]) -> Result<(), FlowError> {
    let mut session = None;
    for (i, _) in tables.iter().enumerate().filter(|(_, table)| table.plan.existing == Target::KeepMatching) {
        let session = match &mut session {
            Some(session) => session,
            None => session.insert(url.connect(&names.application("seen")).await?),
        };
        session.run("dropping the set of seen keys", &format!("DROP TABLE IF EXISTS {}", seen_table(names, i))).await?;
    }
    Ok(())
}
