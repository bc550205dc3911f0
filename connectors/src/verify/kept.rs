//! What is kept of a run in the database that was verified: where an interrupted one goes on, and what the last whole one found.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::{
    Counts,
    seat::{Seat, of_flow},
    sides::Sides,
    table::Key,
};
use crate::{
    database::mysql::{cell, text},
    error::FlowError,
    names::FlowNames,
};

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
pub(super) async fn interrupted(sides: &mut Sides, table: &str) -> Result<Option<Progress>, FlowError> {
    let doing = "reading how far the verification was";
    let names = &sides.names;
    let run: Option<String> = match &mut sides.other {
        Seat::Postgres(session) => session
            .query_opt(
                "SELECT run::text FROM banyan.verified WHERE install = $1 AND sync = $2 AND flow = $3 AND source_table = $4 AND run IS NOT NULL",
                &[&names.install, &names.sync, &names.flow.as_str(), &table],
            )
            .await
            .map_err(|e| FlowError::sql(doing, &e))?
            .map(|row| row.get(0)),
        Seat::Mysql(session) => {
            let sql =
                format!("SELECT run FROM banyan.verified WHERE {} AND source_table = {}", of_flow(names), text(table));
            session.value(doing, &sql).await?
        }
    };
    // What another version has left is begun anew.
    let kept = run.and_then(|run| serde_json::from_str::<Kept>(&run).ok());
    let kept = kept.filter(|kept| kept.began.elapsed().is_ok_and(|age| age < FRESH));
    let progress = |Kept { began, pass, after, looked_at, counts }| Progress { began, pass, after, looked_at, counts };
    Ok(kept.map(progress))
}

/// Keeps how far a run is.
pub(super) async fn keep(sides: &mut Sides, table: &str, progress: &Progress) -> Result<(), FlowError> {
    let Progress { began, pass, after, looked_at, counts } = progress.clone();
    let kept = json(&Kept { began, pass, after, looked_at, counts })?;
    let postgres = "INSERT INTO banyan.verified (install, sync, flow, source_table, run) VALUES ($1, $2, $3, $4, $5::text::jsonb) \
         ON CONFLICT (install, sync, flow, source_table) DO UPDATE SET run = excluded.run";
    let mysql = |run: &str| format!("run = {run}");
    write(sides, table, &kept, postgres, mysql).await
}

/// Keeps what a whole run has found.
pub(super) async fn end(sides: &mut Sides, table: &str, counts: Counts) -> Result<(), FlowError> {
    let found = json(&counts)?;
    let postgres = "INSERT INTO banyan.verified (install, sync, flow, source_table, found, ended_at) \
         VALUES ($1, $2, $3, $4, $5::text::jsonb, clock_timestamp()) ON CONFLICT (install, sync, flow, source_table) \
         DO UPDATE SET run = NULL, found = excluded.found, ended_at = excluded.ended_at";
    let mysql = |found: &str| format!("run = NULL, found = {found}, ended_at = SYSDATE(6)");
    write(sides, table, &found, postgres, mysql).await
}

fn json(value: &impl Serialize) -> Result<String, FlowError> {
    serde_json::to_string(value).map_err(|_| FlowError::Stop("a count could not be written".into()))
}

/// `mysql` says what is set, of the value as a literal.
async fn write(
    sides: &mut Sides,
    table: &str,
    value: &str,
    postgres: &str,
    mysql: impl Fn(&str) -> String,
) -> Result<(), FlowError> {
    let doing = "keeping how far the verification is";
    let names = &sides.names;
    match &mut sides.other {
        Seat::Postgres(session) => session
            .execute(postgres, &[&names.install, &names.sync, &names.flow.as_str(), &table, &value])
            .await
            .map(drop)
            .map_err(|e| FlowError::sql(doing, &e)),
        Seat::Mysql(session) => {
            let (install, sync, flow) = (text(&names.install), text(&names.sync), text(names.flow.as_str()));
            let (table, set) = (text(table), mysql(&text(value)));
            let own = format!("install = {install}, sync = {sync}, flow = {flow}, source_table = {table}");
            let sql = format!("INSERT INTO banyan.verified SET {own}, {set} ON DUPLICATE KEY UPDATE {set}");
            session.run(doing, &sql).await.map(drop)
        }
    }
}

/// What the last whole runs of a flow have found, table by table; nothing of tables that were never verified.
pub(super) async fn found(seat: &mut Seat, names: &FlowNames) -> Result<Vec<Verified>, FlowError> {
    let doing = "reading what was verified";
    let verified = |table: String, at: SystemTime, found: &str| {
        Some(Verified { table, at, counts: serde_json::from_str(found).ok()? })
    };
    match seat {
        Seat::Postgres(session) => {
            let rows = session
                .query(
                    "SELECT source_table, ended_at, found::text FROM banyan.verified \
                     WHERE install = $1 AND sync = $2 AND flow = $3 AND ended_at IS NOT NULL ORDER BY source_table",
                    &[&names.install, &names.sync, &names.flow.as_str()],
                )
                .await
                .map_err(|e| FlowError::sql(doing, &e))?;
            Ok(rows.iter().filter_map(|row| verified(row.get(0), row.get(1), row.get(2))).collect())
        }
        Seat::Mysql(session) => {
            let sql = format!(
                "SELECT source_table, TIMESTAMPDIFF(MICROSECOND, '1970-01-01', ended_at), found FROM banyan.verified \
                 WHERE {} AND ended_at IS NOT NULL ORDER BY source_table",
                of_flow(names)
            );
            let rows = session.rows(doing, &sql).await?;
            let one = |row: &mysql_async::Row| {
                let at = SystemTime::UNIX_EPOCH + Duration::from_micros(cell(row, 1)?);
                verified(cell(row, 0)?, at, &cell::<String>(row, 2)?)
            };
            Ok(rows.iter().filter_map(one).collect())
        }
    }
}
