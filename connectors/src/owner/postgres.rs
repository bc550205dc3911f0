//! The owner's row in PostgreSQL.

use super::{OwnerRow, mark, parse};
use crate::{config::Side, database::postgres::Session, error::FlowError, names::literal};

/// Reads the row of `side` in its own database. A missing table is a missing row.
pub(crate) async fn read(
    session: &Session,
    install: &str,
    sync: &str,
    side: Side,
) -> Result<Option<OwnerRow>, FlowError> {
    let found = session
        .query_opt(
            "SELECT owner, epoch, state FROM banyan.owner WHERE install = $1 AND sync = $2 AND side = $3",
            &[&install, &sync, &side.as_str()],
        )
        .await;
    match found {
        Ok(row) => row.map(|row| parse(row.get(0), row.get(1), row.get(2))).transpose(),
        // undefined_table, invalid_schema_name
        Err(error) if error.code().is_some_and(|state| matches!(state.code(), "42P01" | "3F000")) => Ok(None),
        Err(error) => Err(FlowError::sql("reading the owner", &error)),
    }
}

/// Writes the row of `side`, and says `banyan.open` when it is the owner's.
pub(super) async fn insert(
    session: &Session,
    install: &str,
    sync: &str,
    side: Side,
    owner: Side,
    epoch: i64,
) -> Result<(), FlowError> {
    let open = side == owner;
    let row = format!(
        "INSERT INTO banyan.owner (install, sync, side, owner, epoch, state) VALUES ({}, {}, '{}', '{}', {epoch}, '{}') ON CONFLICT DO NOTHING RETURNING epoch",
        literal(install),
        literal(sync),
        side.as_str(),
        owner.as_str(),
        if open { "open" } else { "closed" },
    );
    let sql = if open {
        format!(
            "WITH made AS ({row}) SELECT pg_logical_emit_message(true, 'banyan.open', {}) FROM made",
            literal(&mark(install, sync, epoch))
        )
    } else {
        row
    };
    session.batch_execute(&sql).await.map_err(|error| FlowError::sql("writing the owner", &error))
}
