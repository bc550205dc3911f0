//! Copies of tables in the target: what becomes of rows that are there already, and of rows that the source no longer has.

use std::collections::BTreeMap;

use super::{function::TargetFunction, pipe::Pipe, table::TargetTable};
use crate::{
    config::Target,
    database::postgres::Session,
    error::FlowError,
    names::{FlowNames, hash_bytes, literal, quote, quote_table},
    record::control::Load,
    target::applied::Loading,
};

/// The table that collects the keys seen in this copy, for `target: keep_matching`. Logged: after a crash it must agree with the
/// position row, or the end would delete what was seen.
pub(crate) fn seen_table(names: &FlowNames, table: &TargetTable) -> String {
    format!("banyan.{}", quote(&format!("{}{:016x}", names.seen(), hash_bytes(table.plan.target.as_bytes()))))
}

/// The statement that takes away all of the sync's rows. Tables that a source empties together must be emptied together, or their foreign
/// keys forbid it; where others' rows may be in a table, only its own go.
pub(crate) fn emptying<'t>(tables: impl Iterator<Item = &'t TargetTable>) -> String {
    let tables: Vec<&TargetTable> = tables.collect();
    if tables.iter().any(|table| table.plan.mapping.has_filter()) {
        // A table that another one points to is truncated with that one or not at all.
        let delete = |table: &&TargetTable| {
            let rows = table.plan.mapping.target_rows("x").unwrap_or_else(|| "true".to_owned());
            format!("DELETE FROM {} AS x WHERE {rows}", quote_table(&table.plan.target))
        };
        return tables.iter().map(delete).collect::<Vec<_>>().join("; ");
    }
    let names: Vec<String> = tables.iter().map(|table| quote_table(&table.plan.target)).collect();
    format!("TRUNCATE {}", names.join(", "))
}

/// Tables that are being filled.
pub(crate) async fn loading(session: &Session, names: &FlowNames) -> Result<BTreeMap<String, Loading>, FlowError> {
    let rows = session
        .query(
            "SELECT source_table, columns, keeps FROM banyan.loading WHERE install = $1 AND sync = $2 AND flow = $3",
            &[&names.install, &names.sync, &names.flow.as_str()],
        )
        .await
        .map_err(|e| FlowError::sql("reading which tables are being filled", &e))?;
    let one = |row: &tokio_postgres::Row| {
        let columns = usize::try_from(row.get::<_, i32>(1)).unwrap_or(0);
        (row.get(0), Loading { columns, keeps: row.get(2) })
    };
    Ok(rows.iter().map(one).collect())
}

/// At START. `again`: an earlier attempt of ours had begun to fill these tables, so what they hold came from it; as it did in those that it
/// left `half` filled. `loads` come in chunks.
pub(crate) async fn start(
    pipe: &mut Pipe,
    names: &FlowNames,
    tables: &[TargetTable],
    functions: &[TargetFunction],
    again: bool,
    half: &BTreeMap<String, Loading>,
    loads: &[Load],
) -> Result<BTreeMap<String, Loading>, FlowError> {
    let mut full = Vec::new();
    let mut empty = Vec::new();
    pipe.drain().await?;
    for table in tables {
        match table.plan.existing {
            Target::KeepMatching => make_seen(pipe, names, table).await?,
            Target::Replace => empty.push(table),
            Target::Refuse if again || half.contains_key(&table.plan.source) => {
                empty.push(table);
            }
            Target::Refuse => full.extend(rows_in(pipe, table).await?),
        }
    }
    refuse(&full)?;
    if !empty.is_empty() {
        pipe.simple("emptying the target's tables", emptying(empty.into_iter())).await?;
    }
    pipe.simple("beginning a copy", format!("DELETE FROM banyan.loading WHERE {}", mine(names))).await?;
    let mut all = BTreeMap::new();
    for load in loads {
        let keeps =
            !is_function(functions, &load.table) && find(tables, &load.table)?.plan.existing == Target::KeepMatching;
        all.insert(load.table.clone(), note(pipe, names, load, keeps).await?);
    }
    pipe.drain().await?;
    Ok(all)
}

/// What a function has made of rows from before is not known here, and stays.
fn is_function(functions: &[TargetFunction], source: &str) -> bool {
    functions.iter().any(|function| function.plan.source == source)
}

/// The copy of one table begins, while others are as they are. A table that was copied before holds what came from the source: it is made
/// equal, unless the file says that it is to be emptied.
pub(crate) async fn begin(
    pipe: &mut Pipe,
    names: &FlowNames,
    tables: &[TargetTable],
    functions: &[TargetFunction],
    load: &Load,
) -> Result<Loading, FlowError> {
    if is_function(functions, &load.table) {
        return note(pipe, names, load, false).await;
    }
    let table = find(tables, &load.table)?;
    let keeps = match table.plan.existing {
        Target::Replace => false,
        Target::KeepMatching => true,
        Target::Refuse => load.number > 1,
    };
    pipe.drain().await?;
    if keeps {
        make_seen(pipe, names, table).await?;
    } else if table.plan.existing == Target::Replace {
        // TRUNCATE takes no table to which foreign keys point, unless theirs are emptied as well.
        let name = quote_table(&table.plan.target);
        let pointed = "SELECT EXISTS (SELECT FROM pg_constraint WHERE contype = 'f' AND confrelid = to_regclass($1) AND conrelid <> confrelid)";
        let row = pipe.session().query_one(pointed, &[&name]).await;
        let is_pointed_to: bool = row.map_err(|e| FlowError::sql("looking for foreign keys", &e))?.get(0);
        let empty = match table.plan.mapping.has_filter() {
            false if is_pointed_to => format!("DELETE FROM {name}"),
            _ => emptying(std::iter::once(table)),
        };
        pipe.simple("emptying a table of the target", empty).await?;
    } else {
        refuse(&rows_in(pipe, table).await?.into_iter().collect::<Vec<_>>())?;
    }
    let loading = note(pipe, names, load, keeps).await?;
    pipe.drain().await?;
    Ok(loading)
}

/// The copy of one table is complete: rows that were there and did not come go.
pub(crate) async fn loaded(
    pipe: &mut Pipe,
    names: &FlowNames,
    tables: &[TargetTable],
    source: &str,
    loading: Loading,
) -> Result<(), FlowError> {
    if loading.keeps {
        delete_unseen(pipe, names, find(tables, source)?).await?;
    }
    let gone = format!("DELETE FROM banyan.loading WHERE {} AND source_table = {}", mine(names), literal(source));
    pipe.simple("ending a copy", gone).await?;
    pipe.drain().await
}

/// At END: rows that were not seen in this attempt go.
pub(crate) async fn end(pipe: &mut Pipe, names: &FlowNames, tables: &[TargetTable]) -> Result<(), FlowError> {
    for table in tables.iter().filter(|table| table.plan.existing == Target::KeepMatching) {
        delete_unseen(pipe, names, table).await?;
    }
    pipe.drain().await
}

fn find<'t>(tables: &'t [TargetTable], source: &str) -> Result<&'t TargetTable, FlowError> {
    tables
        .iter()
        .find(|table| table.plan.source == source)
        .ok_or_else(|| FlowError::Stop(format!("{source} is to be copied, and the file does not name this table")))
}

async fn note(pipe: &mut Pipe, names: &FlowNames, load: &Load, keeps: bool) -> Result<Loading, FlowError> {
    let sql = format!(
        "INSERT INTO banyan.loading (install, sync, flow, source_table, columns, keeps) VALUES ({}, {}, '{}', {}, {}, {keeps}) \
         ON CONFLICT (install, sync, flow, source_table) DO UPDATE SET columns = excluded.columns, keeps = excluded.keeps",
        literal(&names.install),
        literal(&names.sync),
        names.flow,
        literal(&load.table),
        load.columns
    );
    pipe.simple("beginning a copy", sql).await?;
    Ok(Loading { columns: load.columns, keeps })
}

async fn make_seen(pipe: &mut Pipe, names: &FlowNames, table: &TargetTable) -> Result<(), FlowError> {
    let keys: Vec<String> = table.key.iter().map(|&key| quote(&table.columns[key].name)).collect();
    let (seen, keys, name) = (seen_table(names, table), keys.join(", "), quote_table(&table.plan.target));
    pipe.simple(
        "making the set of seen keys",
        format!("DROP TABLE IF EXISTS {seen}; CREATE TABLE {seen} AS SELECT {keys} FROM {name} WITH NO DATA; ALTER TABLE {seen} ADD PRIMARY KEY ({keys})"),
    )
    .await
}

async fn delete_unseen(pipe: &mut Pipe, names: &FlowNames, table: &TargetTable) -> Result<(), FlowError> {
    let seen = seen_table(names, table);
    let same: Vec<String> =
        table.key.iter().map(|&key| quote(&table.columns[key].name)).map(|key| format!("s.{key} = x.{key}")).collect();
    pipe.simple(
        "deleting what the source lacks",
        format!(
            "DELETE FROM {} AS x WHERE NOT EXISTS (SELECT 1 FROM {seen} s WHERE {}) AND {}; DROP TABLE {seen}",
            quote_table(&table.plan.target),
            same.join(" AND "),
            table.plan.mapping.target_rows("x").as_deref().unwrap_or("true")
        ),
    )
    .await
}

/// What to say of a table that is not empty.
async fn rows_in(pipe: &Pipe, table: &TargetTable) -> Result<Option<String>, FlowError> {
    let row = pipe
        .session()
        .query_one(
            &format!(
                "SELECT count(*) FROM {} AS x WHERE {}",
                quote_table(&table.plan.target),
                table.plan.mapping.target_rows("x").as_deref().unwrap_or("true")
            ),
            &[],
        )
        .await
        .map_err(|e| FlowError::sql("counting the target's rows", &e))?;
    let rows: i64 = row.get(0);
    Ok((rows > 0).then(|| format!("`{}` holds {rows} rows", table.plan.target)))
}

fn refuse(full: &[String]) -> Result<(), FlowError> {
    if full.is_empty() {
        return Ok(());
    }
    Err(FlowError::Stop(format!(
        "the target is not empty: {}; say `target: replace` to empty it or `target: keep_matching` to make it equal",
        full.join(", ")
    )))
}

fn mine(names: &FlowNames) -> String {
    format!("install = {} AND sync = {} AND flow = '{}'", literal(&names.install), literal(&names.sync), names.flow)
}
