//! Who owns a sync, how far the other side is behind, and up to where it shows what the owner wrote; read from the databases alone: it needs
//! no running connector.

use std::time::{Duration, SystemTime};

use tokio_postgres::{Row, Statement, error::SqlState, types::PgLsn};

use crate::{
    config::{Side, Sync},
    database::{
        DatabaseUrl,
        mysql::{MysqlSession, cell, text},
        postgres::Session,
    },
    error::{FlowError, UrlError},
    names::Flow,
    owner::{self, OwnerRow},
    plan::PlanTable,
    position::Lsn,
    source::mysql::stored,
    target::postgres::position::{ALL_LANES, APPLIED},
};

/// A database that answers later than this has not answered.
const PATIENCE: Duration = Duration::from_secs(2);

/// All that one database says, in one statement: what its owner row is, where its log ends, which server it is, how far the flow into it
/// has applied, and how far it shows all of that. A standby has no end of its own.
fn says(parked: &str) -> String {
    format!(
        "SELECT o.owner, o.epoch, o.state, l.written, l.inserted, clock_timestamp(),
       (SELECT system_identifier::text FROM pg_control_system()),
       ('x' || substr(pg_walfile_name(l.inserted), 1, 8))::bit(32)::int,
       p.applied, p.source_time, p.system_id, p.timeline, least(p.applied, {parked}), p.tables
FROM (SELECT CASE WHEN NOT pg_is_in_recovery() THEN pg_current_wal_lsn() END AS written,
             CASE WHEN NOT pg_is_in_recovery() THEN pg_current_wal_insert_lsn() END AS inserted) l
LEFT JOIN banyan.owner o ON o.install = $1 AND o.sync = $2 AND o.side = $3
LEFT JOIN (SELECT {APPLIED} AS applied, (array_agg(q.source_time ORDER BY q.source_time))[1] AS source_time, min(q.system_id) AS system_id,
       min(q.timeline) AS timeline, CASE WHEN count(DISTINCT to_jsonb(q) ->> 'tables') < 2 THEN min(to_jsonb(q) ->> 'tables') ELSE '[]' END AS tables
     FROM banyan.position q WHERE q.install = $1 AND q.sync = $2 AND q.flow = $4 AND q.phase = 'stream' AND q.role = 'applying'
     HAVING {ALL_LANES}) p ON true"
    )
}

/// What is parked is not shown: whoever has written since reads at the owner.
const PARKED: &str = "(SELECT min(commit_lsn) FROM banyan.parked WHERE install = $1 AND sync = $2 AND flow = $4 \
     AND state IN ('parked', 'retry', 'skip'))";
/// Where no connector of this version has made the table yet.
const NOTHING_PARKED: &str = "NULL::pg_lsn";

/// Reads one sync. Keeps a connection to each database, and makes it again when it broke.
#[derive(Debug)]
pub struct SyncReader {
    install: String,
    sync: String,
    legacy: Link,
    modern: Link,
    /// The tables by their names in legacy, and in modern.
    tables: [Vec<String>; 2],
    /// Asked first: what it had written then, the other must have applied when it is asked.
    owner: Side,
}

/// What both databases say at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SyncReading {
    /// Who owns, and the ownership's number; nothing while neither database answers, or before the sync was created.
    pub owner: Option<(Side, i64)>,
    /// Age of what the side away from the owner shows. Nothing is unknown, and counts as infinite.
    pub lag: Option<Duration>,
    /// The end of the owner's log: all that was committed before the reading began stands before it.
    pub written: Option<Lsn>,
    /// Up to where the side away from the owner shows all of that log: nothing behind it is parked. Nothing when it does not follow this very server and timeline.
    pub applied: Option<Lsn>,
}

struct Link {
    url: DatabaseUrl,
    line: Option<Line>,
}

/// An open session.
enum Line {
    /// `keeps`: the statement may be used again.
    Postgres {
        session: Session,
        statement: Statement,
        keeps: bool,
    },
    Mysql(Box<MysqlSession>),
}

/// What one database says.
struct Says {
    owner: Option<OwnerRow>,
    end: Option<End>,
    applied: Option<Applied>,
}

/// The end of a database's log.
struct End {
    /// Handed to the system.
    written: Lsn,
    /// With what stands in memory only: nothing that was committed is behind it.
    inserted: Lsn,
    now: SystemTime,
    server: (String, i32),
}

/// How far a flow has applied.
struct Applied {
    upto: Lsn,
    /// The same, or where the first parked transaction begins.
    shown: Lsn,
    source_time: SystemTime,
    /// The tables of the source whose copy has at least begun, as a JSON array; nothing where an earlier version wrote the row.
    tables: Option<String>,
    /// System identifier and timeline of the server that it reads from: places in the logs of two servers have no order.
    server: (String, i32),
}

// === impl SyncReader ===

impl SyncReader {
    /// A reader of the sync `name`; nothing is connected yet.
    ///
    /// # Errors
    ///
    /// When a database URL cannot be used.
    pub fn new(name: &str, sync: &Sync, install: &str) -> Result<Self, UrlError> {
        let link = |database: &crate::config::Database| Ok(Link { url: DatabaseUrl::of(database)?, line: None });
        Ok(Self {
            install: install.to_owned(),
            sync: name.to_owned(),
            legacy: link(&sync.legacy)?,
            modern: link(&sync.modern)?,
            tables: [Flow::LegacyToModern, Flow::ModernToLegacy]
                .map(|flow| PlanTable::all(sync, flow).into_iter().map(|table| table.source).collect()),
            owner: sync.owner,
        })
    }

    /// Asks both databases; either may be down. Returns within a few seconds whatever happens.
    pub async fn read(&mut self) -> SyncReading {
        let reading = self.read_in_order(self.owner).await;
        match reading.owner {
            Some((owner, _)) if owner != self.owner => {
                self.owner = owner;
                self.read_in_order(owner).await
            }
            _ => reading,
        }
    }

    async fn read_in_order(&mut self, first: Side) -> SyncReading {
        let (install, sync) = (self.install.as_str(), self.sync.as_str());
        let (source, target, tables) = match first {
            Side::Legacy => (&mut self.legacy, &mut self.modern, &self.tables[0]),
            Side::Modern => (&mut self.modern, &mut self.legacy, &self.tables[1]),
        };
        let source = source.says(install, sync, first).await;
        let target = target.says(install, sync, first.other()).await;
        let rows = [&source, &target].into_iter().flatten().filter_map(|says| says.owner);
        let Some(owner) = owner::latest(rows) else { return SyncReading::default() };
        let owner = Some((owner.owner, owner.epoch));
        let Some(end) = source.and_then(|says| says.end).filter(|_| owner.is_some_and(|(owner, _)| owner == first))
        else {
            return SyncReading { owner, ..SyncReading::default() };
        };
        // A table that the file has named since may be empty there.
        let applied = target
            .and_then(|says| says.applied)
            .filter(|applied| applied.server == end.server && applied.holds(tables));
        let lag = applied.as_ref().map(|applied| match applied.upto >= end.written {
            true => Duration::ZERO,
            false => end.now.duration_since(applied.source_time).unwrap_or_default(),
        });
        SyncReading { owner, lag, written: Some(end.inserted), applied: applied.map(|applied| applied.shown) }
    }
}

// === impl Applied ===

impl Applied {
    fn holds(&self, tables: &[String]) -> bool {
        let Some(held) = &self.tables else { return true };
        let held: Vec<String> = serde_json::from_str(held).unwrap_or_default();
        tables.iter().all(|table| held.contains(table))
    }
}

// === impl Link ===

impl Link {
    /// Asks on the connection; a failure or a late answer drops it.
    async fn says(&mut self, install: &str, sync: &str, side: Side) -> Option<Says> {
        let url = &self.url;
        let kept = self.line.take().filter(|line| !line.is_closed());
        let asked = tokio::time::timeout(PATIENCE, async {
            let mut line = match kept {
                Some(line) => line,
                None => Line::open(url, &format!("{install}/reader")).await?,
            };
            let says = line.says(install, sync, side).await?;
            Ok::<_, FlowError>((line, says))
        });
        let (line, says) = asked.await.ok()?.ok()?;
        self.line = Some(line);
        Some(says)
    }
}

// === impl Line ===

impl Line {
    async fn open(url: &DatabaseUrl, application: &str) -> Result<Self, FlowError> {
        Ok(match url {
            DatabaseUrl::Postgres(url) => {
                let sql = |error| FlowError::sql("reading the sync", &error);
                let session = url.connect(application).await?;
                match session.prepare(&says(PARKED)).await {
                    Ok(statement) => Self::Postgres { session, statement, keeps: true },
                    Err(error) if error.code() == Some(&SqlState::UNDEFINED_TABLE) => {
                        let statement = session.prepare(&says(NOTHING_PARKED)).await.map_err(sql)?;
                        Self::Postgres { session, statement, keeps: false }
                    }
                    Err(error) => return Err(sql(error)),
                }
            }
            DatabaseUrl::Mysql(url) => Self::Mysql(Box::new(url.connect(application).await?)),
        })
    }

    /// Whether it is of no more use.
    fn is_closed(&self) -> bool {
        matches!(self, Self::Postgres { session, keeps, .. } if session.is_closed() || !keeps)
    }

    async fn says(&mut self, install: &str, sync: &str, side: Side) -> Result<Says, FlowError> {
        let into = if side == Side::Modern { Flow::LegacyToModern } else { Flow::ModernToLegacy };
        match self {
            Self::Postgres { session, statement, .. } => {
                let row = session.query_one(statement, &[&install, &sync, &side.as_str(), &into.as_str()]).await;
                Says::read(&row.map_err(|error| FlowError::sql("reading the sync", &error))?)
            }
            Self::Mysql(session) => Says::ask(session, install, sync, side, into).await,
        }
    }
}

// === impl Says ===

impl Says {
    fn read(row: &Row) -> Result<Self, FlowError> {
        let lsn = |at: usize| row.get::<_, Option<PgLsn>>(at).map(Lsn::from);
        let server = |at: usize| row.get::<_, Option<String>>(at).zip(row.get::<_, Option<i32>>(at + 1));
        let owner =
            row.get::<_, Option<&str>>(0).map(|owner| owner::parse(owner, row.get(1), row.get(2))).transpose()?;
        let end = match (lsn(3), lsn(4), server(6)) {
            (Some(written), Some(inserted), Some(server)) => Some(End { written, inserted, now: row.get(5), server }),
            _ => None,
        };
        let applied = match (lsn(8), server(10), lsn(12)) {
            (Some(upto), Some(server), Some(shown)) => {
                Some(Applied { upto, shown, source_time: row.get(9), tables: row.get(13), server })
            }
            _ => None,
        };
        Ok(Self { owner, end, applied })
    }

    /// MariaDB and MySQL. What was written is in the binlog before anybody sees it.
    async fn ask(
        session: &mut MysqlSession,
        install: &str,
        sync: &str,
        side: Side,
        into: Flow,
    ) -> Result<Self, FlowError> {
        let owner = owner::mysql::read(session, install, sync, side).await?;
        let sql = format!(
            "SELECT applied, TIMESTAMPDIFF(MICROSECOND, '1970-01-01', source_time), system_id, timeline, tables FROM banyan.position \
             WHERE install = {} AND sync = {} AND flow = {} AND part = 0 AND phase = 'stream' AND role = 'applying'",
            text(install),
            text(sync),
            text(into.as_str())
        );
        let applied = session.first("reading the sync", &sql).await?.map(|row| Applied {
            upto: Lsn::new(cell(&row, 0).unwrap_or(0)),
            // Nothing is parked in a database of this kind.
            shown: Lsn::new(cell(&row, 0).unwrap_or(0)),
            source_time: SystemTime::UNIX_EPOCH + Duration::from_micros(cell(&row, 1).unwrap_or(0)),
            tables: cell(&row, 4),
            server: (cell(&row, 2).unwrap_or_default(), cell(&row, 3).unwrap_or(0)),
        });
        // Before the end is asked for: what was seen until then stands before it.
        let now = stored::now(session).await?;
        let written = stored::place(session).await?.lsn;
        let server = (stored::system_id(session).await?, 0);
        Ok(Self { owner, end: Some(End { written, inserted: written, now, server }), applied })
    }
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.url.fmt(f)
    }
}
