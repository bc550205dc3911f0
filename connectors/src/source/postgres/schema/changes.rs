//! `banyan.schema_change` in the source: every change of a table's columns that a flow has met in its stream, where, and what became of it.
//!
//! It is the memory of which shape holds where: the stream is read again from what was confirmed, from before changes that were taken.

use tokio_postgres::{Row, types::PgLsn};

use super::{Here, facts::Facts, shape::Shape};
use crate::{
    database::postgres::Session,
    error::FlowError,
    names::{FlowNames, literal},
    position::{Generation, Lsn},
};

/// Where in the stream: the transaction, and the record before which the change shows itself.
pub(crate) type Place = (Lsn, u64);

/// A change that was met.
#[derive(Debug, Clone)]
pub(crate) struct Met {
    pub(crate) id: i64,
    pub(crate) at: Place,
    pub(crate) before: Shape,
    pub(crate) after: Shape,
    pub(crate) state: State,
    /// In words.
    pub(crate) what: String,
    /// The end of the transaction before: what the target has applied when it has all that stands before the change.
    pub(crate) drained: Lsn,
    /// Rows of the table stand in the same transaction, before the change.
    pub(crate) is_split: bool,
    /// The target's table when the flow paused.
    pub(crate) target: Option<Facts>,
}

/// What became of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// The flow waits before it, for a person.
    Paused,
    /// A person has said that it may go on; it has not come there yet.
    Resumed,
    /// The flow has gone on behind it.
    Taken,
    /// No change of the columns: rows may have changed without an event.
    Unverified,
}

// === impl Met ===

impl Met {
    /// Whether a person has let the flow go on behind this very change. A chunk of a copy that told of it does not come again, and so it is
    /// met at a later place.
    pub(super) fn is_resumed(&self, at: Place, after: &Shape) -> bool {
        self.state == State::Resumed && self.at <= at && self.after == *after
    }

    /// One that is not noted yet.
    pub(crate) fn new(
        here: Here,
        before: Shape,
        after: Shape,
        state: State,
        what: String,
        target: Option<Facts>,
    ) -> Self {
        let Here { at, drained, is_split } = here;
        Self { id: 0, at, before, after, state, what, drained, is_split, target }
    }
}

const COLUMNS: &str = "id, lsn, ordinal, before, after, state, what, drained, split, target::text";
const MINE: &str = "install = $1 AND sync = $2 AND flow = $3 AND generation = $4";

/// All changes of this generation that were met, in the order of the stream.
pub(crate) async fn met(session: &Session, names: &FlowNames, generation: Generation) -> Result<Vec<Met>, FlowError> {
    let sql = format!(
        "SELECT {COLUMNS} FROM banyan.schema_change WHERE {MINE} AND state IN ('paused', 'resumed', 'taken') ORDER BY lsn, ordinal"
    );
    let rows = session
        .query(&sql, &[&names.install, &names.sync, &names.flow.as_str(), &generation.get()])
        .await
        .map_err(|e| FlowError::sql("reading the changes of the tables", &e))?;
    Ok(rows.iter().filter_map(read).collect())
}

/// The change before which a flow waits.
pub(crate) async fn paused(
    session: &Session,
    names: &FlowNames,
    generation: Generation,
) -> Result<Option<Met>, FlowError> {
    Ok(met(session, names, generation).await?.into_iter().find(|met| met.state == State::Paused))
}

fn read(row: &Row) -> Option<Met> {
    let state = match row.get(5) {
        "paused" => State::Paused,
        "resumed" => State::Resumed,
        _ => State::Taken,
    };
    Some(Met {
        id: row.get(0),
        at: (row.get::<_, PgLsn>(1).into(), row.get::<_, i64>(2).cast_unsigned()),
        before: Shape::parse(row.get(3))?,
        after: Shape::parse(row.get(4))?,
        state,
        what: row.get(6),
        drained: row.get::<_, PgLsn>(7).into(),
        is_split: row.get(8),
        target: row.get::<_, Option<&str>>(9).and_then(|text| serde_json::from_str(text).ok()),
    })
}

/// Notes a change, before which the flow waits or which it takes. A statement without an end.
pub(crate) fn note(names: &FlowNames, generation: Generation, met: &Met, copies: bool) -> String {
    let (state, ended) = match met.state {
        State::Paused => ("paused", "NULL"),
        State::Resumed => ("resumed", "NULL"),
        State::Taken => ("taken", "clock_timestamp()"),
        State::Unverified => ("unverified", "NULL"),
    };
    let target = met.target.as_ref().and_then(|facts| serde_json::to_string(facts).ok());
    format!(
        "INSERT INTO banyan.schema_change (install, sync, flow, generation, source_table, lsn, ordinal, before, after, state, what, drained, split, \
         target, copies, ended_at) VALUES ({}, {}, '{}', {generation}, {}, '{}', {}, {}, {}, '{state}', {}, '{}', {}, {}, {copies}, {ended})",
        literal(&names.install),
        literal(&names.sync),
        names.flow,
        literal(&met.after.table),
        met.at.0,
        met.at.1,
        literal(&met.before.to_string()),
        literal(&met.after.to_string()),
        literal(&met.what),
        met.drained,
        met.is_split,
        target.map_or("NULL".to_owned(), |target| literal(&target)),
    )
}

/// Tables whose rows may have changed without an event, and that were not verified since.
pub(crate) async fn unverified(
    session: &Session,
    names: &FlowNames,
    generation: Generation,
) -> Result<Vec<String>, FlowError> {
    let sql = format!(
        "SELECT DISTINCT source_table FROM banyan.schema_change WHERE {MINE} AND state = 'unverified' ORDER BY 1"
    );
    let rows = session
        .query(&sql, &[&names.install, &names.sync, &names.flow.as_str(), &generation.get()])
        .await
        .map_err(|e| FlowError::sql("reading which tables should be verified", &e))?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Both sides of a table were found equal by a look that began then.
pub(crate) async fn verified(
    session: &Session,
    names: &FlowNames,
    table: &str,
    began: std::time::SystemTime,
) -> Result<(), FlowError> {
    crate::tables::postgres(session).await?;
    session
        .execute(
            "UPDATE banyan.schema_change SET state = 'verified', ended_at = clock_timestamp() \
             WHERE install = $1 AND sync = $2 AND flow = $3 AND source_table = $4 AND state = 'unverified' AND seen_at <= $5",
            &[&names.install, &names.sync, &names.flow.as_str(), &table, &began],
        )
        .await
        .map_err(|e| FlowError::sql("noting that a table was verified", &e))?;
    Ok(())
}

/// The flow goes on behind a change that it had noted. A statement without an end.
pub(crate) fn taken(id: i64, copies: bool) -> String {
    format!(
        "UPDATE banyan.schema_change SET state = 'taken', copies = {copies}, ended_at = clock_timestamp() WHERE id = {id}"
    )
}

/// Stores the shape of the tables, and what the catalogue said; what else stands with them, of outboxes, stays. A statement without an end.
pub(crate) fn store(
    names: &FlowNames,
    generation: Generation,
    shapes: &[Shape],
    facts: &super::facts::AllFacts,
) -> String {
    format!(
        "UPDATE banyan.capture SET facts = {1}, shape = {0} || coalesce((SELECT string_agg(E'\\n' || line, '') \
             FROM regexp_split_to_table(shape, E'\\n') AS line WHERE line <> '' AND left(line, 1) <> '\"'), '') WHERE install = {2} AND sync = {3} AND flow = '{4}' AND generation = {generation}",
        literal(&Shape::lines(shapes)),
        literal(&serde_json::json!(facts).to_string()),
        literal(&names.install),
        literal(&names.sync),
        names.flow
    )
}
