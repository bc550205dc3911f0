//! What the source remembers of `order: key`: over how many lanes the rows are spread, and by which columns. Both stay as they are for as long as
//! the generation lives, whatever becomes of the file and of the tables: one row in two lanes would have no order.

use std::{collections::BTreeMap, fmt::Display};

use serde::{Deserialize, Serialize};

use crate::{database::postgres::Session, error::FlowError, names::quote_table, plan::Plan};

/// `lanes` of `banyan.capture`.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    partitions: u32,
    /// The primary key of each table, in the table's order.
    keys: BTreeMap<String, Vec<String>>,
}

/// By which columns each table's rows are told apart; none without lanes. `stored` is what a generation that goes on has; of one that begins all is
/// noted anew.
pub(super) async fn take(
    session: &Session,
    plan: &Plan,
    stored: Option<Option<&str>>,
) -> Result<BTreeMap<String, Vec<String>>, FlowError> {
    let before: Option<Kept> = match stored {
        Some(Some(text)) => Some(
            serde_json::from_str(text)
                .map_err(|_| FlowError::Stop("banyan.capture says what this version does not know".into()))?,
        ),
        _ => None,
    };
    if stored.is_some() && before.as_ref().map(|kept| kept.partitions) != plan.lanes {
        return Err(FlowError::Stop(other_order(&plan.names.sync, before.map(|kept| kept.partitions), plan.lanes)));
    }
    let Some(partitions) = plan.lanes else {
        if stored.is_none() {
            note(session, plan, None).await?;
        }
        return Ok(BTreeMap::new());
    };
    let is_new = before.is_none();
    let mut kept = Kept { partitions, ..before.unwrap_or_default() };
    let known = kept.keys.len();
    for table in &plan.tables {
        if !kept.keys.contains_key(&table.source) {
            kept.keys.insert(table.source.clone(), primary(session, &table.source).await?);
        }
    }
    if is_new || kept.keys.len() > known {
        note(session, plan, Some(serde_json::json!(kept).to_string())).await?;
    }
    Ok(kept.keys)
}

/// The file's order is not the one that the sync began with.
pub(crate) fn other_order(sync: &str, began: Option<u32>, now: Option<u32>) -> String {
    let order = |lanes: Option<u32>| match lanes {
        Some(lanes) => format!("`order: key` and `partitions: {lanes}`"),
        None => "`order: transaction`".to_owned(),
    };
    format!(
        "the sync began with {}, and the file says {}, which takes a new copy of its tables: run `banyan sync remove {sync}`, say `target: keep_matching`, and \
         start again; or write what it began with",
        order(began),
        order(now)
    )
}

/// What tells a table's rows apart is not what the sync began with, or is not in the log.
pub(super) fn another_key(table: &str, at: impl Display) -> FlowError {
    FlowError::Stop(format!(
        "{table} at {at}: the log does not tell its rows apart by the key that `order: key` spreads them by: the table's primary key was changed, or its \
         REPLICA IDENTITY is another; put it right, or copy the tables anew"
    ))
}

async fn primary(session: &Session, table: &str) -> Result<Vec<String>, FlowError> {
    let row = session
        .query_one(
            "SELECT ARRAY(SELECT a.attname::text FROM pg_index i \
                 JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1]) \
                 WHERE i.indrelid = to_regclass($1) AND i.indisprimary ORDER BY a.attnum)",
            &[&quote_table(table)],
        )
        .await
        .map_err(|e| FlowError::sql("asking for a table's key", &e))?;
    let key: Vec<String> = row.get(0);
    if key.is_empty() {
        return Err(FlowError::Stop(format!("the source's table `{table}` is not there, or has no primary key")));
    }
    Ok(key)
}

async fn note(session: &Session, plan: &Plan, lanes: Option<String>) -> Result<(), FlowError> {
    let names = &plan.names;
    session
        .execute(
            "UPDATE banyan.capture SET lanes = $4 WHERE install = $1 AND sync = $2 AND flow = $3",
            &[&names.install, &names.sync, &names.flow.as_str(), &lanes],
        )
        .await
        .map_err(|e| FlowError::sql("noting the lanes", &e))?;
    Ok(())
}
