//! A snapshot's START and END in the target: what becomes of rows that are there already, and of rows that the source no longer has.

use super::{pipe::Pipe, table::TargetTable};
use crate::{
    config::Target,
    error::FlowError,
    names::{FlowNames, quote, quote_table},
};

/// The table that collects the keys seen in this attempt, for `target: keep_matching`. Logged: after a crash it must agree with the
/// position row, or END would delete what was seen.
pub(crate) fn seen_table(names: &FlowNames, index: usize) -> String {
    format!("banyan.{}", quote(&format!("{}{index}", names.seen())))
}

/// At START. `again`: an earlier attempt of ours had begun to fill these tables, so what they hold came from it.
pub(crate) async fn start(
    pipe: &mut Pipe,
    names: &FlowNames,
    tables: &[TargetTable],
    again: bool,
) -> Result<(), FlowError> {
    let mut full = Vec::new();
    let mut empty = Vec::new();
    pipe.drain().await?;
    for (i, table) in tables.iter().enumerate() {
        let name = quote_table(&table.plan.target);
        match table.plan.existing {
            Target::KeepMatching => {
                let keys: Vec<String> = table.key.iter().map(|&key| quote(&table.columns[key].name)).collect();
                let (seen, keys) = (seen_table(names, i), keys.join(", "));
                pipe.simple(
                    "making the set of seen keys",
                    format!("DROP TABLE IF EXISTS {seen}; CREATE TABLE {seen} AS SELECT {keys} FROM {name} WITH NO DATA; ALTER TABLE {seen} ADD PRIMARY KEY ({keys})"),
                )
                .await?;
            }
            Target::Replace => empty.push(name),
            Target::Refuse if again => empty.push(name),
            Target::Refuse => {
                let row = pipe
                    .session()
                    .query_one(&format!("SELECT count(*) FROM {name}"), &[])
                    .await
                    .map_err(|e| FlowError::sql("counting the target's rows", &e))?;
                let rows: i64 = row.get(0);
                if rows > 0 {
                    full.push(format!("`{}` holds {rows} rows", table.plan.target));
                }
            }
        }
    }
    if !full.is_empty() {
        return Err(FlowError::Stop(format!(
            "the target is not empty: {}; say `target: replace` to empty it or `target: keep_matching` to make it equal",
            full.join(", ")
        )));
    }
    if !empty.is_empty() {
        pipe.simple("emptying the target's tables", format!("TRUNCATE {}", empty.join(", "))).await?;
    }
    pipe.drain().await
}

/// At END: rows that were not seen in this attempt go.
pub(crate) async fn end(pipe: &mut Pipe, names: &FlowNames, tables: &[TargetTable]) -> Result<(), FlowError> {
    for (i, table) in tables.iter().enumerate() {
        if table.plan.existing != Target::KeepMatching {
            continue;
        }
        let seen = seen_table(names, i);
        let same: Vec<String> = table
            .key
            .iter()
            .map(|&key| quote(&table.columns[key].name))
            .map(|key| format!("s.{key} = x.{key}"))
            .collect();
        pipe.simple(
            "deleting what the source lacks",
            format!(
                "DELETE FROM {} AS x WHERE NOT EXISTS (SELECT 1 FROM {seen} s WHERE {}); DROP TABLE {seen}",
                quote_table(&table.plan.target),
                same.join(" AND ")
            ),
        )
        .await?;
    }
    pipe.drain().await
}
