//! What people say to a flow that waits before a change of a table's columns: that the other side has followed, and it may go on.
//!
//! It is written down in the owner's database; whoever reads that side goes on. It is accepted only when everything before the change is applied
//! and the other side's table takes rows of exactly the shape that the log has there, which the catalogue may be ahead of.

use std::time::{Duration, Instant};

use serde::Serialize;
use thiserror::Error;
use tokio_postgres::types::PgLsn;

use crate::{
    config::{Side, Sync},
    database::{
        DatabaseUrl,
        mysql::{MysqlSession, cell, text},
        postgres::Session,
    },
    error::{FlowError, UrlError},
    names::{Flow, FlowNames},
    owner,
    plan::PlanTable,
    position::{Generation, Lsn},
    preflight,
    source::{
        mysql,
        postgres::schema::changes::{self, Met},
    },
    tables,
    target::{
        AGE,
        postgres::position::{ALL_LANES, APPLIED},
    },
};

/// Lets a flow of one sync go on. Connects anew for each call.
#[derive(Debug)]
pub struct ResumeDesk {
    install: String,
    name: String,
    sync: Sync,
    legacy: DatabaseUrl,
    modern: DatabaseUrl,
}

/// A change behind which a flow goes on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Resumed {
    /// `schema.table` of the owner's side.
    pub table: String,
    /// Which direction.
    pub flow: Flow,
    /// Of the table, in words.
    pub change: String,
    /// `taken` when the flow has gone on behind it; `resumed` while it has not come there.
    pub state: String,
    /// The table is being copied again: its rows from before may differ.
    pub copied_again: bool,
    /// Before what the flow waits next, where it does already.
    pub next: Option<String>,
}

/// Why it does not go on.
#[derive(Debug, Error)]
pub enum ResumeError {
    /// No flow of the sync waits for anybody.
    #[error("no flow of the sync `{0}` waits before a change of a table")]
    NotPaused(String),
    /// It waits for another table.
    #[error("the sync `{sync}` does not wait for `{asked}` but for `{table}`: {change}")]
    OtherTable {
        /// The sync.
        sync: String,
        /// As it was asked for.
        asked: String,
        /// For which it waits.
        table: String,
        /// What changed.
        change: String,
    },
    /// What stands before the change is not applied yet.
    #[error("{0}")]
    NotYet(String),
    /// The other side's table does not take the rows that come.
    #[error("`{table}`: {what}")]
    Unfit {
        /// `schema.table` of the owner's side.
        table: String,
        /// What is missing, and what would be right.
        what: String,
    },
    /// The databases do not say who owns the sync.
    #[error("the sync `{0}` has not begun: neither database says who owns it")]
    NoOwner(String),
    /// A database does not answer, or refuses.
    #[error("the {} database: {}", .0.as_str(), .1)]
    Database(Side, String),
}

/// A session on the owner's database.
enum Seat {
    Postgres(Session),
    Mysql(Box<MysqlSession>),
}

/// A change before which a flow waits.
struct Waiting {
    id: i64,
    generation: Generation,
    /// `schema.table` of the owner's side.
    table: String,
    what: String,
    /// What must be applied first.
    drained: Lsn,
    change: Change,
}

/// What each kind of database knows of it.
enum Change {
    Postgres(Box<Met>),
    /// The columns that come, and which are key.
    Mysql(Vec<(String, bool)>),
}

/// How long whoever asks waits until the flow has gone on.
const PATIENCE: Duration = Duration::from_secs(6);
const LOOK: Duration = Duration::from_millis(100);
const DOING: &str = "letting a flow go on";

// === impl ResumeDesk ===

impl ResumeDesk {
    /// Of the sync `name`; nothing is connected yet.
    ///
    /// # Errors
    ///
    /// When a database URL cannot be used.
    pub fn new(name: &str, sync: &Sync, install: &str) -> Result<Self, UrlError> {
        let (legacy, modern) = (DatabaseUrl::of(&sync.legacy)?, DatabaseUrl::of(&sync.modern)?);
        Ok(Self { install: install.to_owned(), name: name.to_owned(), sync: sync.clone(), legacy, modern })
    }

    /// Lets the sync's flow go on behind the change before which it waits, and waits a few seconds until it has. `table`: only if it is that one.
    ///
    /// # Errors
    ///
    /// When no flow waits, something before the change is on its way or parked, the other side's table does not fit, or a database does not
    /// answer. Nothing is changed then.
    pub async fn resume(&self, table: Option<&str>, who: &str, why: &str) -> Result<Resumed, ResumeError> {
        let flow = self.flow().await?;
        let names = FlowNames::new(&self.install, &self.name, flow);
        let at = |e: FlowError| ResumeError::Database(flow.source(), e.reason());
        let mut seat = match self.url(flow.source()) {
            DatabaseUrl::Postgres(url) => {
                let session = url.connect(&names.application("resume")).await.map_err(at)?;
                tables::postgres(&session).await.map_err(at)?;
                Seat::Postgres(session)
            }
            DatabaseUrl::Mysql(url) => {
                let mut session = url.connect(&names.application("resume")).await.map_err(at)?;
                tables::mysql(&mut session).await.map_err(at)?;
                Seat::Mysql(Box::new(session))
            }
        };
        let Some(waiting) = seat.waiting(&names).await.map_err(at)? else {
            return Err(ResumeError::NotPaused(self.name.clone()));
        };
        if let Some(asked) = table.filter(|asked| *asked != waiting.table) {
            let (sync, asked) = (self.name.clone(), asked.to_owned());
            return Err(ResumeError::OtherTable { sync, asked, table: waiting.table, change: waiting.what });
        }
        let tables = PlanTable::all(&self.sync, flow);
        let Some(own) = tables.iter().find(|own| own.source == waiting.table) else {
            return Err(ResumeError::NotYet(format!(
                "the file does not name `{}` any more: restart Banyan",
                waiting.table
            )));
        };
        self.is_drained(&names, &waiting, own).await?;
        let (target, application) = (self.url(flow.target()), names.application("resume"));
        let unfit = seat.unfit(&waiting, target, own, &application).await;
        let unfit = unfit.map_err(|e| ResumeError::Database(flow.target(), e.reason()))?;
        if !unfit.is_empty() {
            return Err(ResumeError::Unfit { table: waiting.table, what: unfit.join("; ") });
        }
        // By then whoever applies has seen how the table is now.
        tokio::time::sleep(AGE * 2).await;
        if !seat.note(waiting.id, who, why).await.map_err(at)? {
            return Err(ResumeError::NotPaused(self.name.clone()));
        }
        let until = Instant::now() + PATIENCE;
        loop {
            tokio::time::sleep(LOOK).await;
            let (state, copied_again, what) = seat.became(waiting.id).await.map_err(at)?;
            if state == "paused" {
                return Err(ResumeError::Unfit { table: waiting.table, what });
            }
            if state != "resumed" || Instant::now() > until {
                let next = seat.waiting(&names).await.map_err(at)?;
                let next = next.map(|next| format!("{}: {}", next.table, next.what));
                return Ok(Resumed { table: waiting.table, flow, change: waiting.what, state, copied_again, next });
            }
        }
    }

    fn url(&self, side: Side) -> &DatabaseUrl {
        match side {
            Side::Legacy => &self.legacy,
            Side::Modern => &self.modern,
        }
    }

    /// The flow away from the owner: what both databases say, the higher epoch first.
    async fn flow(&self) -> Result<Flow, ResumeError> {
        let application = format!("{}/resume", self.install);
        let mut found = Vec::new();
        for side in [Side::Legacy, Side::Modern] {
            let error = |e: FlowError| ResumeError::Database(side, e.reason());
            let row = match self.url(side) {
                DatabaseUrl::Postgres(url) => {
                    let session = url.connect(&application).await.map_err(error)?;
                    owner::postgres::read(&session, &self.install, &self.name, side).await.map_err(error)?
                }
                DatabaseUrl::Mysql(url) => {
                    let mut session = url.connect(&application).await.map_err(error)?;
                    owner::mysql::read(&mut session, &self.install, &self.name, side).await.map_err(error)?
                }
            };
            found.extend(row);
        }
        let owner = owner::latest(found).map(|row| row.owner);
        owner.map(Flow::away_from).ok_or_else(|| ResumeError::NoOwner(self.name.clone()))
    }

    /// Everything before the change is applied, and nothing of the table is parked: rows of the old shape fit the old table alone.
    async fn is_drained(&self, names: &FlowNames, waiting: &Waiting, table: &PlanTable) -> Result<(), ResumeError> {
        let (side, generation) = (names.flow.target(), waiting.generation);
        let error = |e: &FlowError| ResumeError::Database(side, e.reason());
        let (applied, parked) = match self.url(side) {
            DatabaseUrl::Postgres(url) => {
                let session = url.connect(&names.application("resume")).await.map_err(|e| error(&e))?;
                let row = session
                    .query_opt(
                        &format!("SELECT {APPLIED}, (SELECT count(DISTINCT p.id) FROM banyan.parked p JOIN banyan.parked_row r ON r.parked = p.id \
                             WHERE p.install = $1 AND p.sync = $2 AND p.flow = $3 AND p.state IN ('parked', 'retry', 'skip') AND r.target_table = $5) \
                         FROM banyan.position q WHERE q.install = $1 AND q.sync = $2 AND q.flow = $3 AND q.generation = $4 HAVING {ALL_LANES}"),
                        &[&names.install, &names.sync, &names.flow.as_str(), &generation.get(), &table.label()],
                    )
                    .await
                    .map_err(|e| error(&FlowError::sql(DOING, &e)))?;
                row.map_or((Lsn::ZERO, 0), |row| (Lsn::from(row.get::<_, PgLsn>(0)), row.get::<_, i64>(1)))
            }
            DatabaseUrl::Mysql(url) => {
                let mut session = url.connect(&names.application("resume")).await.map_err(|e| error(&e))?;
                let sql = format!(
                    "SELECT applied FROM banyan.position WHERE install = {} AND sync = {} AND flow = {} AND part = 0 AND generation = {generation}",
                    text(&names.install),
                    text(&names.sync),
                    text(names.flow.as_str())
                );
                let row = session.first(DOING, &sql).await.map_err(|e| error(&e))?;
                (row.and_then(|row| cell(&row, 0)).map_or(Lsn::ZERO, Lsn::new), 0)
            }
        };
        if applied < waiting.drained {
            return Err(ResumeError::NotYet(format!(
                "rows from before the change are still on their way: applied up to {applied} of {}; ask again in a moment, and see `banyan status` if that stands still",
                waiting.drained
            )));
        }
        if parked > 0 {
            return Err(ResumeError::NotYet(format!(
                "{parked} parked transaction{} hold rows of `{}` from before the change: retry or skip them first (`banyan sync parked list {}`)",
                if parked == 1 { "" } else { "s" },
                table.target,
                self.name
            )));
        }
        Ok(())
    }
}

// === impl Seat ===

impl Seat {
    /// The change before which the flow waits.
    async fn waiting(&mut self, names: &FlowNames) -> Result<Option<Waiting>, FlowError> {
        match self {
            Self::Postgres(session) => {
                let row = session
                    .query_opt(
                        "SELECT generation FROM banyan.capture WHERE install = $1 AND sync = $2 AND flow = $3 AND state = 'streaming'",
                        &[&names.install, &names.sync, &names.flow.as_str()],
                    )
                    .await
                    .map_err(|e| FlowError::sql(DOING, &e))?;
                let Some(generation) = row.map(|row| Generation::new(row.get(0))) else { return Ok(None) };
                let met = changes::paused(session, names, generation).await?;
                Ok(met.map(|met| Waiting {
                    id: met.id,
                    generation,
                    table: met.after.table.clone(),
                    what: met.what.clone(),
                    drained: met.drained,
                    change: Change::Postgres(Box::new(met)),
                }))
            }
            Self::Mysql(session) => {
                let sql = format!(
                    "SELECT generation FROM banyan.capture WHERE install = {} AND sync = {} AND flow = {} AND state = 'streaming'",
                    text(&names.install),
                    text(&names.sync),
                    text(names.flow.as_str())
                );
                let Some(generation) = session.value(DOING, &sql).await?.map(Generation::new) else { return Ok(None) };
                let met = mysql::schema::waiting(session, names, generation).await?;
                Ok(met.map(|met| Waiting {
                    id: i64::try_from(met.id).unwrap_or(i64::MAX),
                    generation,
                    table: met.after.name.clone(),
                    what: met.what.clone(),
                    drained: met.drained,
                    change: Change::Mysql(mysql::schema::sent(&met.after)),
                }))
            }
        }
    }

    /// What the other side's table does not take of the rows that come; of both shapes, where one transaction has rows of both.
    async fn unfit(
        &mut self,
        waiting: &Waiting,
        target: &DatabaseUrl,
        table: &PlanTable,
        application: &str,
    ) -> Result<Vec<String>, FlowError> {
        match (self, &waiting.change) {
            (Self::Postgres(session), Change::Postgres(met)) => {
                let source = preflight::Source::Postgres { session, shape: &met.after };
                let mut what = preflight::misfits(source, target, table, application).await?;
                if met.is_split {
                    let source = preflight::Source::Postgres { session, shape: &met.before };
                    let before = preflight::misfits(source, target, table, application).await?;
                    what.extend(before.iter().map(|what| {
                        format!("the same transaction has rows from before the change, which must fit as well until it is applied: {what}")
                    }));
                }
                Ok(what)
            }
            (Self::Mysql(session), Change::Mysql(columns)) => {
                let source = preflight::Source::Mysql { session, table: &table.source, columns };
                preflight::misfits(source, target, table, application).await
            }
            _ => Ok(Vec::new()),
        }
    }

    /// Writes down that the flow may go on; whether it still waited.
    async fn note(&mut self, id: i64, who: &str, why: &str) -> Result<bool, FlowError> {
        match self {
            Self::Postgres(session) => {
                let sql = "UPDATE banyan.schema_change SET state = 'resumed', who = $2, why = $3, resumed_at = clock_timestamp() \
                     WHERE id = $1 AND state = 'paused'";
                let changed = session.execute(sql, &[&id, &who, &why]).await.map_err(|e| FlowError::sql(DOING, &e))?;
                Ok(changed == 1)
            }
            Self::Mysql(session) => {
                let sql = format!(
                    "UPDATE banyan.schema_change SET state = 'resumed', who = {}, why = {}, resumed_at = now(6) WHERE id = {id} AND state = 'paused'",
                    text(who),
                    text(why)
                );
                Ok(session.run(DOING, &sql).await? == 1)
            }
        }
    }

    /// The state of the change, whether its table is copied again, and what it is in words.
    async fn became(&mut self, id: i64) -> Result<(String, bool, String), FlowError> {
        match self {
            Self::Postgres(session) => {
                let sql = "SELECT state, copies, what FROM banyan.schema_change WHERE id = $1";
                let row = session.query_one(sql, &[&id]).await.map_err(|e| FlowError::sql(DOING, &e))?;
                Ok((row.get(0), row.get(1), row.get(2)))
            }
            Self::Mysql(session) => {
                let sql = format!("SELECT state, what FROM banyan.schema_change WHERE id = {id}");
                let row = session.first(DOING, &sql).await?;
                let word = |at| row.as_ref().and_then(|row| cell::<String>(row, at)).unwrap_or_default();
                Ok((word(0), false, word(1)))
            }
        }
    }
}
