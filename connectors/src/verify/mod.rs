//! Are both sides of a sync equal? Every row of every table, while the stream goes on.
//!
//! The owner's side says what is right. A chunk of its rows is read, then the other side is asked for the rows of the same keys once it has
//! applied everything that was committed before the reading. Where both differ, either may have been read in the middle of a change: those
//! rows are looked at again, until the owner's row was the same before and behind what the other side showed. Rows that only the other side
//! has are looked for the other way round.
//!
//! Keys, not ranges of keys: two databases may sort the same text differently, and agree on what equals what.

mod again;
mod kept;
mod mysql;
mod pass;
mod postgres;
mod repair;
mod schedule;
mod seat;
mod sides;
mod table;
mod throttle;

use std::{collections::BTreeMap, num::NonZeroU32};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{
    config::{Config, Side, Sync},
    database::DatabaseUrl,
    error::{FlowError, UrlError},
    names::{Flow, FlowNames},
    owner,
    plan::PlanTable,
};
pub use kept::Verified;
pub(crate) use schedule::{Schedule, watch};
use seat::Seat;
use sides::Sides;
use throttle::Throttle;

/// What to verify, and what to do about what is found.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// `schema.table` of the owner's side; none is all of the sync's tables.
    pub tables: Vec<String>,
    /// Rows a second at most; `None` as fast as it goes.
    pub rate: Option<NonZeroU32>,
    /// Write the owner's row to the other side where it differs; why, for the log.
    pub repair: Option<String>,
    /// Begin anew where an earlier run was interrupted.
    pub restart: bool,
}

/// What a run tells while it goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A table goes on from where an interrupted run had stopped.
    Resumed {
        /// `schema.table` of the owner's side.
        table: String,
        /// Rows that were looked at before.
        rows: u64,
    },
    /// So many rows of a table have been looked at.
    Progress {
        /// `schema.table` of the owner's side.
        table: String,
        /// Of both passes.
        rows: u64,
        /// As the owner's statistics guess.
        of: u64,
    },
    /// A row that is not the same on both sides.
    Found(Difference),
}

/// A row that is not the same on both sides.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// `schema.table` of the owner's side.
    pub table: String,
    /// The primary key, by column. These are values of a row: for the person who asked, never for a log.
    pub key: BTreeMap<String, String>,
    /// What is wrong on the side away from the owner.
    pub what: What,
    /// Where both sides have the row: in which columns they differ.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub columns: Vec<String>,
    /// The owner's row was written to the other side.
    pub repaired: bool,
}

/// How a row of the side away from the owner differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// The owner has it, the other side has not.
    Missing,
    /// The other side has it, the owner has not.
    Extra,
    /// Both have it, with other values.
    Differs,
}

/// What a run has found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Outcome {
    /// By `schema.table` of the owner's side.
    pub tables: BTreeMap<String, Counts>,
    /// Tables of the owner's side whose rows go to a function: nothing is known of what should be on the other side.
    pub not_compared: Vec<String>,
}

/// What was found in one table.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Rows of the owner's side that were looked at.
    pub rows: u64,
    /// Rows that the other side lacks.
    pub missing: u64,
    /// Rows that only the other side has.
    pub extra: u64,
    /// Rows with other values.
    pub differing: u64,
    /// Rows that changed each time they were looked at: nothing is known of them.
    pub undecided: u64,
    /// Of all these, rows that were made equal.
    pub repaired: u64,
}

/// Why a run ended before its end.
#[derive(Debug, Error)]
pub enum VerifyError {
    /// The file has no such sync.
    #[error("there is no sync `{0}` in the file")]
    NoSync(String),
    /// The sync has no such table.
    #[error("the sync `{sync}` has no table `{table}` on the side of its owner")]
    NoTable {
        /// The sync's name.
        sync: String,
        /// As it was asked for.
        table: String,
    },
    /// There is nothing to compare the table with.
    #[error(
        "the rows of `{table}` of the sync `{sync}` go to a function, and what should be on the other side is the function's to say"
    )]
    Function {
        /// The sync's name.
        sync: String,
        /// As it was asked for.
        table: String,
    },
    /// A database URL cannot be used.
    #[error("the {} database of the sync", .0.as_str())]
    Url(Side, #[source] UrlError),
    /// The flow is not so far, or stands still.
    #[error("{0}")]
    NotYet(String),
    /// The databases, or what they hold.
    #[error("{0}")]
    Flow(String),
}

/// Verifies one sync on connections of its own: no running connector is needed but the one that applies. `tell` hears of every step.
///
/// # Errors
///
/// When there is no such sync or table, a database does not answer, the sync's tables are not copied yet, or the flow stands still.
/// What was looked at until then is kept: the next run goes on from there.
pub async fn run(
    config: &Config,
    sync: &str,
    options: &Options,
    tell: &mut (dyn FnMut(Event) + Send + std::marker::Sync),
) -> Result<Outcome, VerifyError> {
    let Some(found) = config.syncs.get(sync) else { return Err(VerifyError::NoSync(sync.to_owned())) };
    run_sync(&config.install, sync, found, options, tell).await
}

async fn run_sync(
    install: &str,
    name: &str,
    sync: &Sync,
    options: &Options,
    tell: &mut (dyn FnMut(Event) + Send + std::marker::Sync),
) -> Result<Outcome, VerifyError> {
    let (legacy, modern) = urls(sync)?;
    let flow = applying(install, name, &legacy, &modern).await?;
    let (functions, tables): (Vec<_>, Vec<_>) =
        PlanTable::all(sync, flow).into_iter().partition(|table| table.is_function);
    if let Some(asked) = options.tables.iter().find(|wanted| functions.iter().any(|own| own.source == **wanted)) {
        return Err(VerifyError::Function { sync: name.to_owned(), table: asked.clone() });
    }
    if let Some(table) = options.tables.iter().find(|wanted| !tables.iter().any(|table| table.source == **wanted)) {
        return Err(VerifyError::NoTable { sync: name.to_owned(), table: table.clone() });
    }
    let (owner, other) = if flow.source() == Side::Legacy { (&legacy, &modern) } else { (&modern, &legacy) };
    let mut sides = Sides::open(FlowNames::new(install, name, flow), owner, other).await?;
    if options.repair.is_some() {
        repair::refuse_beside_parked(&mut sides).await?;
    }
    let not_compared = if options.tables.is_empty() { functions } else { Vec::new() };
    let not_compared = not_compared.into_iter().map(|table| table.source).collect();
    let mut outcome = Outcome { tables: BTreeMap::new(), not_compared };
    let mut throttle = Throttle::new(options.rate);
    for table in &tables {
        if options.tables.is_empty() || options.tables.contains(&table.source) {
            let counts = pass::table(&mut sides, sync.apply_as, table, options, &mut throttle, tell).await?;
            outcome.tables.insert(table.source.clone(), counts);
        }
    }
    Ok(outcome)
}

/// Both databases of a sync, legacy first.
fn urls(sync: &Sync) -> Result<(DatabaseUrl, DatabaseUrl), VerifyError> {
    let url = |side, database| DatabaseUrl::of(database).map_err(|source| VerifyError::Url(side, source));
    Ok((url(Side::Legacy, &sync.legacy)?, url(Side::Modern, &sync.modern)?))
}

/// The flow away from the owner: what both databases say, the higher epoch first.
async fn applying(install: &str, sync: &str, legacy: &DatabaseUrl, modern: &DatabaseUrl) -> Result<Flow, FlowError> {
    let mut rows = Vec::new();
    for (side, url) in [(Side::Legacy, legacy), (Side::Modern, modern)] {
        let mut seat = Seat::connect(url, &format!("{install}/{sync}/verify")).await?;
        rows.extend(seat.owner(install, sync, side).await?);
    }
    let owner = owner::latest(rows).map(|row| row.owner);
    let none = || FlowError::Busy("the sync has not begun: neither database says who owns it".into());
    owner.map(Flow::away_from).ok_or_else(none)
}

// === impl Counts ===

impl Counts {
    /// Rows of which both sides are known to hold different things, as it is now.
    #[must_use]
    pub fn unequal(&self) -> u64 {
        (self.missing + self.extra + self.differing).saturating_sub(self.repaired)
    }

    fn count(&mut self, what: What) {
        match what {
            What::Missing => self.missing += 1,
            What::Extra => self.extra += 1,
            What::Differs => self.differing += 1,
        }
    }
}

// === impl VerifyError ===

impl From<FlowError> for VerifyError {
    fn from(error: FlowError) -> Self {
        match error {
            FlowError::Busy(_) => Self::NotYet(error.reason()),
            _ => Self::Flow(error.to_string()),
        }
    }
}
