//! What is kept of a run in the database that was verified: where an interrupted one goes on, and what the last whole one found.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::{Counts, sides::Sides, table::Key};
use crate::{database::postgres::Session, error::FlowError, names::FlowNames};

/// What the last whole run found in one table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Verified {
    /// `schema.table` of the owner's side.
    pub table: String,
    /// When it ended, by the clock of the database that was verified.
    #[serde(serialize_with = "humantime_serde::serialize")]
    pub at: SystemTime,
    /// What it found.
    pub counts: Counts,
}

/// An interrupted run is begun anew when it is older: what was looked at then says little of today.
const FRESH: Duration = Duration::from_secs(24 * 3600);

/// Where a run is in one table.
#[derive(Debug, Clone)]
pub(super) struct Progress {
    pub(super) began: SystemTime,
    pub(super) pass: Pass,
    /// The last key that was looked at in this pass.
    pub(super) after: Option<Key>,
    /// Rows of both passes.
    pub(super) looked_at: u64,
    pub(super) counts: Counts,
}

/// Whose rows are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Pass {
    Owner,
    Other,
}

/// The row's `run` while one is under way. What it has found so far goes along.
#[derive(Serialize, Deserialize)]
struct Kept {
    /// Without it, it is older than any bound.
    #[serde(default = "long_ago", with = "humantime_serde")]
    began: SystemTime,
    pass: Pass,
    after: Option<Key>,
    looked_at: u64,
    counts: Counts,
}

// === impl Progress ===

impl Default for Progress {
    /// At the beginning of a run that begins now.
    fn default() -> Self {
        Self { began: SystemTime::now(), pass: Pass::Owner, after: None, looked_at: 0, counts: Counts::default() }
    }
}

fn long_ago() -> SystemTime {
    SystemTime::UNIX_EPOCH
}

/// Where an interrupted run of this table goes on.
pub(super) async fn interrupted(sides: &Sides, table: &str) -> Result<Option<Progress>, FlowError> {
    let names = &sides.names;
    let row = sides
        .other
        .query_opt(
            "SELECT run::text FROM banyan.verified WHERE install = $1 AND sync = $2 AND flow = $3 AND source_table = $4 AND run IS NOT NULL",
            &[&names.install, &names.sync, &names.flow.as_str(), &table],
        )
        .await
        .map_err(|e| FlowError::sql("reading how far the verification was", &e))?;
    // What another version has left is begun anew.
    let kept = row.and_then(|row| serde_json::from_str::<Kept>(row.get(0)).ok());
    let kept = kept.filter(|kept| kept.began.elapsed().is_ok_and(|age| age < FRESH));
    let progress = |Kept { began, pass, after, looked_at, counts }| Progress { began, pass, after, looked_at, counts };
    Ok(kept.map(progress))
}

/// Keeps how far a run is.
pub(super) async fn keep(sides: &Sides, table: &str, progress: &Progress) -> Result<(), FlowError> {
    let Progress { began, pass, after, looked_at, counts } = progress.clone();
    let kept = Kept { began, pass, after, looked_at, counts };
    write(
        sides,
        table,
        &kept,
        "INSERT INTO banyan.verified (install, sync, flow, source_table, run) VALUES ($1, $2, $3, $4, $5::text::jsonb) \
         ON CONFLICT (install, sync, flow, source_table) DO UPDATE SET run = excluded.run",
    )
    .await
}

/// Keeps what a whole run has found.
pub(super) async fn end(sides: &Sides, table: &str, counts: Counts) -> Result<(), FlowError> {
    write(
        sides,
        table,
        &counts,
        "INSERT INTO banyan.verified (install, sync, flow, source_table, found, ended_at) \
         VALUES ($1, $2, $3, $4, $5::text::jsonb, clock_timestamp()) ON CONFLICT (install, sync, flow, source_table) \
         DO UPDATE SET run = NULL, found = excluded.found, ended_at = excluded.ended_at",
    )
    .await
}

async fn write(sides: &Sides, table: &str, value: &impl Serialize, statement: &str) -> Result<(), FlowError> {
    let text = serde_json::to_string(value).map_err(|_| FlowError::Stop("a count could not be written".into()))?;
    let names = &sides.names;
    sides
        .other
        .execute(statement, &[&names.install, &names.sync, &names.flow.as_str(), &table, &text])
        .await
        .map_err(|e| FlowError::sql("keeping how far the verification is", &e))?;
    Ok(())
}

/// What the last whole runs of a flow have found, table by table; nothing of tables that were never verified.
pub(super) async fn found(session: &Session, names: &FlowNames) -> Result<Vec<Verified>, FlowError> {
    let rows = session
        .query(
            "SELECT source_table, ended_at, found::text FROM banyan.verified \
             WHERE install = $1 AND sync = $2 AND flow = $3 AND ended_at IS NOT NULL ORDER BY source_table",
            &[&names.install, &names.sync, &names.flow.as_str()],
        )
        .await
        .map_err(|e| FlowError::sql("reading what was verified", &e))?;
    let verified = |row: &tokio_postgres::Row| {
        let counts = serde_json::from_str(row.get(2)).ok()?;
        Some(Verified { table: row.get(0), at: row.get(1), counts })
    };
    Ok(rows.iter().filter_map(verified).collect())
}
