//! Parked transactions as people see them, and what people ask of them. It is written down in the target; whoever holds the flow does it,
//! so it works from every process that knows the databases.

use std::time::{Duration, Instant, SystemTime};

use serde::Serialize;
use thiserror::Error;
use tokio_postgres::{Row, types::PgLsn};

use crate::{
    config::{Side, Sync},
    database::{DatabaseUrl, postgres::Session},
    error::{FlowError, UrlError},
    names::Flow,
    position::Lsn,
    target::postgres::parking::OPEN,
};

/// Reads and asks of one sync. Connects anew for each call.
#[derive(Debug)]
pub struct ParkedDesk {
    install: String,
    sync: String,
    /// The target of each flow.
    targets: [(Flow, DatabaseUrl); 2],
}

/// A transaction of the source that is or was parked. It holds no value of a row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ParkedTransaction {
    /// Its number in the target.
    pub id: i64,
    /// Which direction.
    pub flow: Flow,
    /// `parked`; `retry` or `skip`: asked for, and not yet done; or how it ended: `applied`, `skipped`, `cleared` by a new copy.
    pub state: String,
    /// Table, position and SQLSTATE, or what it follows.
    pub reason: String,
    /// How often the target refused it; 0 for one that follows another.
    pub tries: i32,
    /// The first parked one that it touches.
    pub follows: Option<i64>,
    /// Changes.
    pub rows: i64,
    /// Of its records.
    pub bytes: i64,
    /// Which slot since the sync began.
    pub generation: i64,
    /// Where it was committed in the source's log.
    pub commit_lsn: Lsn,
    /// When it was committed there; seconds since 1970, as all times here.
    pub committed_unix: Option<u64>,
    /// When it was parked.
    pub parked_unix: u64,
    /// When it was last tried.
    pub tried_unix: u64,
    /// Who asked last.
    pub who: Option<String>,
    /// For which reason.
    pub why: Option<String>,
    /// When.
    pub asked_unix: Option<u64>,
    /// When it ended.
    pub ended_unix: Option<u64>,
}

/// The same with what it touches. Keys are values of rows.
#[derive(Debug, Clone, Serialize)]
pub struct ParkedDetail {
    /// What `list` shows too.
    #[serde(flatten)]
    pub transaction: ParkedTransaction,
    /// At most 1000.
    pub keys: Vec<ParkedKey>,
    /// At most 100.
    pub changes: Vec<ParkedChange>,
}

/// A key that a parked transaction touches.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ParkedKey {
    /// Of the target.
    pub table: String,
    /// `primary`, or the unique index.
    pub key: String,
    /// `own`; `gone`: the row leaves it; `ref`: a foreign key to it; `all`: the whole table.
    pub touch: String,
    /// Its text, several columns as a JSON array; a hash of a long one.
    pub text: String,
}

/// A change of a parked transaction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ParkedChange {
    /// Its place in the transaction.
    pub ordinal: i64,
    /// Of the target.
    pub table: String,
    /// `c`, `u`, `d` or `t`.
    pub op: String,
    /// The row before and after, when values were asked for.
    pub record: Option<serde_json::Value>,
}

/// What people can ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ParkedAct {
    /// Apply it now.
    Retry,
    /// Never apply it.
    Skip,
}

/// Why it cannot be told or asked.
#[derive(Debug, Error)]
pub enum ParkedError {
    /// There is none with this number.
    #[error("no transaction {0} is or was parked")]
    Unknown(i64),
    /// It has ended already.
    #[error("transaction {0} is {1} already")]
    Ended(i64, String),
    /// A database does not answer, or refuses.
    #[error("the {} database: {}", .0.as_str(), .1)]
    Database(Side, String),
}

/// How long whoever asks waits for what comes of it.
const PATIENCE: Duration = Duration::from_secs(6);
const LOOK: Duration = Duration::from_millis(100);

const COLUMNS: &str = "id, state, reason, tries, follows, rows, bytes, generation, commit_lsn, source_time, parked_at, tried_at, who, why, asked_at, ended_at";
const MINE: &str = "install = $1 AND sync = $2 AND flow = $3";

// === impl ParkedDesk ===

impl ParkedDesk {
    /// Of the sync `name`; nothing is connected yet.
    ///
    /// # Errors
    ///
    /// When a database URL cannot be used.
    pub fn new(name: &str, sync: &Sync, install: &str) -> Result<Self, UrlError> {
        let target = |flow: Flow| {
            let database = if flow.target() == Side::Legacy { &sync.legacy } else { &sync.modern };
            Ok((flow, DatabaseUrl::of(database)?))
        };
        let [forth, back] = Flow::BOTH;
        Ok(Self { install: install.to_owned(), sync: name.to_owned(), targets: [target(forth)?, target(back)?] })
    }

    /// What is parked, the oldest first; with `ended` also what was.
    ///
    /// # Errors
    ///
    /// When one of both databases does not answer.
    pub async fn list(&self, ended: bool) -> Result<Vec<ParkedTransaction>, ParkedError> {
        let mut all = Vec::new();
        for (flow, url) in &self.targets {
            let error = |error: FlowError| refused(*flow, &error);
            let Some(session) = self.session(*flow, url).await? else { continue };
            let open = if ended { String::new() } else { format!("AND state IN {OPEN}") };
            let sql = format!("SELECT {COLUMNS} FROM banyan.parked WHERE {MINE} {open} ORDER BY id");
            let rows = session.query(&sql, &[&self.install, &self.sync, &flow.as_str()]).await;
            let rows = rows.map_err(|e| error(FlowError::sql("reading what is parked", &e)))?;
            all.extend(rows.iter().map(|row| ParkedTransaction::read(*flow, row)));
        }
        Ok(all)
    }

    /// One of them, with its keys, and the values of its rows only if they are asked for.
    ///
    /// # Errors
    ///
    /// When there is none, or a database does not answer.
    pub async fn show(&self, id: i64, values: bool) -> Result<ParkedDetail, ParkedError> {
        let (session, transaction) = self.find(id).await?;
        let error = |error: &tokio_postgres::Error| refused(transaction.flow, &FlowError::sql("reading it", error));
        let keys = "SELECT target_table, key_name, role, key FROM banyan.parked_key WHERE parked = $1 LIMIT 1000";
        let keys = session.query(keys, &[&id]).await.map_err(|e| error(&e))?;
        let keys = keys.into_iter().map(|row| ParkedKey {
            table: row.get(0),
            key: row.get(1),
            touch: row.get(2),
            text: row.get(3),
        });
        // Only what a page can show; the rest is in the table.
        let changes = "SELECT ordinal, target_table, op, CASE WHEN $2 AND octet_length(record) < 100000 THEN record END \
             FROM banyan.parked_row WHERE parked = $1 ORDER BY ordinal LIMIT 100";
        let changes = session.query(changes, &[&id, &values]).await.map_err(|e| error(&e))?;
        let record = |value: Option<Vec<u8>>| {
            let value: serde_json::Value = serde_json::from_slice(&value?).ok()?;
            Some(serde_json::json!({"before": value["before"], "after": value["after"]}))
        };
        let changes = changes.into_iter().map(|row| ParkedChange {
            ordinal: row.get(0),
            table: row.get(1),
            op: row.get(2),
            record: record(row.get(3)),
        });
        Ok(ParkedDetail { keys: keys.collect(), changes: changes.collect(), transaction })
    }

    /// Writes down what `who` asks, and waits a few seconds for what comes of it: the state is still `retry` or `skip` when nobody has
    /// done it by then.
    ///
    /// # Errors
    ///
    /// When there is none, it has ended, or a database does not answer.
    pub async fn ask(&self, id: i64, act: ParkedAct, who: &str, why: &str) -> Result<ParkedTransaction, ParkedError> {
        let (session, transaction) = self.find(id).await?;
        let flow = transaction.flow;
        let error = |error: &tokio_postgres::Error| refused(flow, &FlowError::sql("asking for it", error));
        let note = format!(
            "UPDATE banyan.parked SET state = $2, who = $3, why = $4, asked_at = now() WHERE id = $1 AND state IN {OPEN}"
        );
        let noted = session.execute(&note, &[&id, &act.as_str(), &who, &why]).await.map_err(|e| error(&e))?;
        if noted == 0 {
            return Err(ParkedError::Ended(id, transaction.state));
        }
        let until = Instant::now() + PATIENCE;
        loop {
            tokio::time::sleep(LOOK).await;
            match self.one(&session, flow, id).await? {
                Some(now) if now.state == act.as_str() && Instant::now() < until => {}
                Some(now) => return Ok(now),
                None => return Err(ParkedError::Unknown(id)),
            }
        }
    }

    /// Writes down that all are to be tried, the oldest first; how many there are.
    ///
    /// # Errors
    ///
    /// When a database does not answer.
    pub async fn retry_all(&self, who: &str, why: &str) -> Result<u64, ParkedError> {
        let mut asked = 0;
        for (flow, url) in &self.targets {
            let Some(session) = self.session(*flow, url).await? else { continue };
            let note = format!(
                "UPDATE banyan.parked SET state = 'retry', who = $4, why = $5, asked_at = now() WHERE {MINE} AND state = 'parked'"
            );
            let noted = session.execute(&note, &[&self.install, &self.sync, &flow.as_str(), &who, &why]).await;
            asked += noted.map_err(|e| refused(*flow, &FlowError::sql("asking for it", &e)))?;
        }
        Ok(asked)
    }

    /// In whichever of both targets it is; where both know the number, the one that has not ended.
    async fn find(&self, id: i64) -> Result<(Session, ParkedTransaction), ParkedError> {
        let mut found = None;
        for (flow, url) in &self.targets {
            let Some(session) = self.session(*flow, url).await? else { continue };
            if let Some(transaction) = self.one(&session, *flow, id).await? {
                if transaction.is_open() {
                    return Ok((session, transaction));
                }
                found.get_or_insert((session, transaction));
            }
        }
        found.ok_or(ParkedError::Unknown(id))
    }

    async fn one(&self, session: &Session, flow: Flow, id: i64) -> Result<Option<ParkedTransaction>, ParkedError> {
        let sql = format!("SELECT {COLUMNS} FROM banyan.parked WHERE {MINE} AND id = $4");
        let row = session.query_opt(&sql, &[&self.install, &self.sync, &flow.as_str(), &id]).await;
        let row = row.map_err(|e| refused(flow, &FlowError::sql("reading what is parked", &e)))?;
        Ok(row.map(|row| ParkedTransaction::read(flow, &row)))
    }

    /// Nothing where nothing was ever parked, and where nothing can be.
    async fn session(&self, flow: Flow, url: &DatabaseUrl) -> Result<Option<Session>, ParkedError> {
        let DatabaseUrl::Postgres(url) = url else { return Ok(None) };
        let session = url.connect(&format!("{}/parked", self.install)).await.map_err(|e| refused(flow, &e))?;
        let is_there = session.query_one("SELECT to_regclass('banyan.parked') IS NOT NULL", &[]).await;
        let is_there = is_there.map_err(|e| refused(flow, &FlowError::sql("reading what is parked", &e)))?;
        Ok(is_there.get::<_, bool>(0).then_some(session))
    }
}

fn refused(flow: Flow, error: &FlowError) -> ParkedError {
    ParkedError::Database(flow.target(), error.to_string())
}

// === impl ParkedTransaction ===

impl ParkedTransaction {
    fn read(flow: Flow, row: &Row) -> Self {
        let time = |at: usize| row.get::<_, Option<SystemTime>>(at).map(unix);
        Self {
            id: row.get(0),
            flow,
            state: row.get(1),
            reason: row.get(2),
            tries: row.get(3),
            follows: row.get(4),
            rows: row.get(5),
            bytes: row.get(6),
            generation: row.get(7),
            commit_lsn: row.get::<_, PgLsn>(8).into(),
            committed_unix: time(9),
            parked_unix: time(10).unwrap_or_default(),
            tried_unix: time(11).unwrap_or_default(),
            who: row.get(12),
            why: row.get(13),
            asked_unix: time(14),
            ended_unix: time(15),
        }
    }

    /// Whether it waits for somebody or something.
    #[must_use]
    pub fn is_open(&self) -> bool {
        matches!(self.state.as_str(), "parked" | "retry" | "skip")
    }
}

// === impl ParkedAct ===

impl ParkedAct {
    /// As the state that asks for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Retry => "retry",
            Self::Skip => "skip",
        }
    }
}

fn unix(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
