//! A change of a table's columns in words, with the types as the server writes them.

use std::collections::HashMap;

use super::shape::{Change, Column, Shape};
use crate::{database::postgres::Session, error::FlowError};

/// `column `amount` is now numeric(12,2), was integer`.
pub(super) async fn told(session: &Session, before: &Shape, after: &Shape) -> Result<String, FlowError> {
    let changes = before.changes(after);
    let types: Vec<(u32, i32)> =
        changes.iter().flat_map(columns).map(|column| (column.type_id, column.modifier)).collect();
    let (ids, modifiers): (Vec<u32>, Vec<i32>) = types.iter().copied().unzip();
    let rows = session
        .query(
            "SELECT format_type(t, m) FROM unnest($1::oid[], $2::int[]) WITH ORDINALITY AS u (t, m, n) ORDER BY n",
            &[&ids, &modifiers],
        )
        .await
        .map_err(|e| FlowError::sql("asking for the names of types", &e))?;
    let names: HashMap<(u32, i32), String> = types.into_iter().zip(rows.iter().map(|row| row.get(0))).collect();
    let parts: Vec<String> = changes.iter().map(|change| one(change, after, &names)).collect();
    Ok(if parts.is_empty() { "its key changed".to_owned() } else { parts.join(", ") })
}

fn columns(change: &Change) -> Vec<&Column> {
    match change {
        Change::Added(column) | Change::Dropped(column) | Change::Renamed(_, column) => vec![column],
        Change::Retyped(from, to) => vec![from, to],
        Change::Reordered | Change::Key => Vec::new(),
    }
}

fn one(change: &Change, after: &Shape, names: &HashMap<(u32, i32), String>) -> String {
    let kind = |column: &Column| names.get(&(column.type_id, column.modifier)).map_or("?", String::as_str);
    match change {
        Change::Added(column) => format!("it has a new column `{}` ({})", column.name, kind(column)),
        Change::Dropped(column) => format!("column `{}` was dropped", column.name),
        Change::Renamed(from, to) => format!("column `{from}` is now called `{}`", to.name),
        Change::Retyped(from, to) => format!("column `{}` is now {}, was {}", to.name, kind(to), kind(from)),
        Change::Reordered => "its columns stand in another order: the table was made anew".to_owned(),
        Change::Key if after.key().is_empty() => "nothing tells its rows apart any more: it has no key".to_owned(),
        Change::Key => format!("its rows are told apart by ({}) now", after.key().join(", ")),
    }
}
