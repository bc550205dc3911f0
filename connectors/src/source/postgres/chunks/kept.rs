//! `banyan.snapshot` in the source: how far each table's copy is, and what people ask.

use serde_json::Value as Json;

use super::table::Key;
use crate::{
    database::postgres::Session,
    error::FlowError,
    names::{FlowNames, literal},
    record::control::Load,
};

/// A copy that is under way.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) table: String,
    pub(super) number: i64,
    /// All before it stands in Kafka, except `again`.
    pub(super) after: Option<Key>,
    pub(super) again: Vec<Key>,
    pub(super) rows: u64,
    pub(super) bytes: u64,
}

const MINE: &str = "install = $1 AND sync = $2 AND flow = $3";

/// All copies that are under way.
pub(super) async fn loading(session: &Session, names: &FlowNames) -> Result<Vec<Kept>, FlowError> {
    let sql = format!(
        "SELECT source_table, number, after::text, again::text, rows, bytes \
         FROM banyan.snapshot WHERE {MINE} AND state = 'loading'"
    );
    let rows = session.query(&sql, &[&names.install, &names.sync, &names.flow.as_str()]).await;
    let rows = rows.map_err(|e| FlowError::sql("reading how far the copy is", &e))?;
    let key = |text: Option<&str>| text.and_then(|text| serde_json::from_str(text).ok());
    Ok(rows
        .iter()
        .map(|row| Kept {
            table: row.get(0),
            number: row.get(1),
            after: key(row.get(2)),
            again: serde_json::from_str(row.get(3)).unwrap_or_default(),
            rows: row.get::<_, i64>(4).cast_unsigned(),
            bytes: row.get::<_, i64>(5).cast_unsigned(),
        })
        .collect())
}

/// Begins the copies of a new generation, which knows nothing of earlier ones.
pub(crate) fn begin_all(names: &FlowNames, loads: &[Load]) -> String {
    let mut sql = format!("DELETE FROM banyan.snapshot WHERE {};", mine(names));
    for load in loads {
        sql.push_str(&begin(names, load));
    }
    sql
}

/// Begins a copy of a table; it may have been copied before.
pub(crate) fn begin(names: &FlowNames, load: &Load) -> String {
    let (install, sync) = (literal(&names.install), literal(&names.sync));
    format!(
        "INSERT INTO banyan.snapshot (install, sync, flow, source_table, state, number) \
         VALUES ({install}, {sync}, '{}', {}, 'loading', {}) ON CONFLICT (install, sync, flow, source_table) DO UPDATE SET \
         state = 'loading', number = excluded.number, after = NULL, again = '[]', rows = 0, bytes = 0, began_at = clock_timestamp(), ended_at = NULL;",
        names.flow,
        literal(&load.table),
        load.number
    )
}

/// Says in the log that a copy begins; in the transaction that notes it.
pub(crate) fn announce(names: &FlowNames, load: &Load) -> String {
    format!(
        "SELECT pg_logical_emit_message(true, 'banyan.load', {});",
        literal(&mark(names, "load", &serde_json::json!(load)))
    )
}

/// Begins a copy of a table that was emptied in the place that `at` says, and announces it.
pub(crate) async fn empty(session: &Session, names: &FlowNames, load: &Load, at: &str) -> Result<(), FlowError> {
    let note = format!(
        "UPDATE banyan.snapshot SET emptied = {} WHERE {} AND source_table = {};",
        literal(at),
        mine(names),
        literal(&load.table)
    );
    session
        .batch_execute(&format!("BEGIN; {} {note} {} COMMIT", begin(names, load), announce(names, load)))
        .await
        .map_err(|e| FlowError::sql("beginning to copy an emptied table", &e))
}

/// Tables that were emptied, and where.
pub(crate) async fn emptied(session: &Session, names: &FlowNames) -> Result<Vec<(String, String)>, FlowError> {
    let sql = format!("SELECT source_table, emptied FROM banyan.snapshot WHERE {MINE} AND emptied IS NOT NULL");
    let rows = session.query(&sql, &[&names.install, &names.sync, &names.flow.as_str()]).await;
    let rows = rows.map_err(|e| FlowError::sql("asking which tables were emptied", &e))?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// The copy that makes up for it has begun.
pub(crate) async fn refilled(session: &Session, names: &FlowNames, table: &str, at: &str) -> Result<(), FlowError> {
    let sql = format!("UPDATE banyan.snapshot SET emptied = NULL WHERE {MINE} AND source_table = $4 AND emptied = $5");
    let done = session.execute(&sql, &[&names.install, &names.sync, &names.flow.as_str(), &table, &at]).await;
    done.map(drop).map_err(|e| FlowError::sql("noting that an emptied table is copied", &e))
}

/// What the log says where a copy has ended, in the transaction that notes it.
pub(super) fn loaded(names: &FlowNames, load: &Load) -> String {
    mark(names, "load", &serde_json::json!(load))
}

/// What a mark of this flow carries.
pub(super) fn mark(names: &FlowNames, what: &str, value: &Json) -> String {
    serde_json::json!({"install": names.install, "sync": names.sync, "flow": names.flow, what: value}).to_string()
}

/// What a mark of this flow says; nothing when it is another's.
pub(crate) fn marked(content: &[u8], names: &FlowNames, what: &str) -> Option<Json> {
    let mut mark: Json = serde_json::from_slice(content).ok()?;
    let is_ours = mark["install"] == names.install.as_str()
        && mark["sync"] == names.sync.as_str()
        && mark["flow"] == names.flow.as_str();
    is_ours.then(|| mark[what].take())
}

/// Tables that somebody wants to be copied again, and the numbers of those copies.
pub(super) async fn asked(session: &Session, names: &FlowNames) -> Result<Vec<(String, i64)>, FlowError> {
    let sql = format!("SELECT source_table, number + 1 FROM banyan.snapshot WHERE {MINE} AND state = 'asked'");
    let rows = session.query(&sql, &[&names.install, &names.sync, &names.flow.as_str()]).await;
    let rows = rows.map_err(|e| FlowError::sql("asking what is to be copied again", &e))?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// The number of the next copy of a table. Never the first: what the target holds of it came from here.
pub(crate) async fn next(session: &Session, names: &FlowNames, table: &str) -> Result<i64, FlowError> {
    let sql = format!(
        "SELECT greatest(coalesce(max(number), 0) + 1, 2) FROM banyan.snapshot WHERE {MINE} AND source_table = $4"
    );
    let row = session.query_one(&sql, &[&names.install, &names.sync, &names.flow.as_str(), &table]).await;
    Ok(row.map_err(|e| FlowError::sql("asking what is to be copied again", &e))?.get(0))
}

/// Keeps that all up to here stands in Kafka. Without a key the one before stays. With its end `word` comes into the log, if there is one.
pub(super) async fn keep(
    session: &Session,
    names: &FlowNames,
    kept: &Kept,
    is_end: bool,
    word: &str,
) -> Result<(), FlowError> {
    let doing = "keeping how far the copy is";
    let (after, again) = (serde_json::json!(kept.after).to_string(), serde_json::json!(kept.again).to_string());
    let sql = format!(
        "WITH kept AS (UPDATE banyan.snapshot SET after = coalesce(nullif($6::text::jsonb, 'null'), after), again = $7::text::jsonb, \
         rows = $8, bytes = $9, state = CASE WHEN $10 THEN 'loaded' ELSE state END, ended_at = CASE WHEN $10 THEN clock_timestamp() END \
         WHERE {MINE} AND source_table = $4 AND number = $5 AND state = 'loading' RETURNING state) \
         SELECT CASE WHEN state = 'loaded' AND $11::text <> '' THEN pg_logical_emit_message(true, 'banyan.loaded', $11::text) END FROM kept"
    );
    session
        .query(
            &sql,
            &[
                &names.install,
                &names.sync,
                &names.flow.as_str(),
                &kept.table,
                &kept.number,
                &after,
                &again,
                &kept.rows.cast_signed(),
                &kept.bytes.cast_signed(),
                &is_end,
                &word,
            ],
        )
        .await
        .map_err(|e| FlowError::sql(doing, &e))?;
    if is_end {
        // All rows came as they were after it.
        let sql = format!(
            "UPDATE banyan.schema_change c SET state = 'verified', ended_at = clock_timestamp() FROM banyan.snapshot s \
             WHERE (s.install, s.sync, s.flow, s.source_table) = (c.install, c.sync, c.flow, c.source_table) AND c.seen_at < s.began_at \
             AND c.state = 'unverified' AND s.{} AND s.source_table = $4",
            MINE.replace(" AND ", " AND s.")
        );
        session
            .execute(&sql, &[&names.install, &names.sync, &names.flow.as_str(), &kept.table])
            .await
            .map_err(|e| FlowError::sql(doing, &e))?;
    }
    Ok(())
}

fn mine(names: &FlowNames) -> String {
    format!("install = {} AND sync = {} AND flow = '{}'", literal(&names.install), literal(&names.sync), names.flow)
}
