//! A session on one of a run's databases, and what is asked of it beside rows.

use tokio_postgres::types::PgLsn;

use crate::{
    config::Side,
    database::{
        DatabaseUrl,
        mysql::{MysqlSession, cell, text},
        postgres::Session,
    },
    error::FlowError,
    names::FlowNames,
    owner::{self, OwnerRow},
    position::Lsn,
    source::{mysql::stored, postgres::slot},
    tables,
    target::postgres::position::{ALL_LANES, APPLIED},
};

/// A run may be told to go slowly, and what it has asked for waits meanwhile.
const SLOW: &str = "SET wait_timeout = 28800, innodb_lock_wait_timeout = 10";

/// One of both.
pub(super) enum Seat {
    Postgres(Session),
    Mysql(Box<MysqlSession>),
}

/// How far a side has applied, and whose log that is a place in.
pub(super) struct Applied {
    pub(super) upto: Lsn,
    pub(super) server: (String, i32),
}

// === impl Seat ===

impl Seat {
    pub(super) async fn connect(url: &DatabaseUrl, application: &str) -> Result<Self, FlowError> {
        Ok(match url {
            DatabaseUrl::Postgres(url) => Self::Postgres(url.connect(application).await?),
            DatabaseUrl::Mysql(url) => {
                let mut session = url.connect(application).await?;
                session.run("connecting", SLOW).await?;
                Self::Mysql(Box::new(session))
            }
        })
    }

    pub(super) async fn make_tables(&mut self) -> Result<(), FlowError> {
        match self {
            Self::Postgres(session) => tables::postgres(session).await,
            Self::Mysql(session) => tables::mysql(session).await,
        }
    }

    /// Sees to it that no other run of the same flow is under way.
    pub(super) async fn lock(&mut self, names: &FlowNames) -> Result<(), FlowError> {
        match self {
            Self::Postgres(session) => slot::lock(session, names.lock("verify"), "verification").await,
            Self::Mysql(session) => session.lock(&names.application("verify"), "verification").await,
        }
    }

    pub(super) async fn owner(&mut self, install: &str, sync: &str, side: Side) -> Result<Option<OwnerRow>, FlowError> {
        match self {
            Self::Postgres(session) => owner::postgres::read(session, install, sync, side).await,
            Self::Mysql(session) => owner::mysql::read(session, install, sync, side).await,
        }
    }

    /// Which server it is, as the position row of the side that follows it must name it.
    pub(super) async fn server(&mut self) -> Result<(String, i32), FlowError> {
        match self {
            Self::Postgres(session) => {
                let row = session
                    .query_one(
                        "SELECT (SELECT system_identifier::text FROM pg_control_system()), \
                         ('x' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))::bit(32)::int",
                        &[],
                    )
                    .await
                    .map_err(|e| FlowError::sql("asking the owner which server it is", &e))?;
                Ok((row.get(0), row.get(1)))
            }
            Self::Mysql(session) => Ok((stored::system_id(session).await?, 0)),
        }
    }

    /// A place in the log behind everything that anybody has seen until now. Whatever stands before it in the log is seen when this returns.
    pub(super) async fn end(&mut self, names: &FlowNames) -> Result<Lsn, FlowError> {
        match self {
            Self::Postgres(session) => {
                // Whatever a session has seen was in the log before. The mark's own commit moves the log on, and has it written out.
                let row = session
                    .query_one(
                        "SELECT pg_current_wal_insert_lsn(), pg_logical_emit_message(true, 'banyan.verify', '')",
                        &[],
                    )
                    .await
                    .map_err(|e| FlowError::sql("asking the owner how far its log goes", &e))?;
                Ok(row.get::<_, PgLsn>(0).into())
            }
            Self::Mysql(session) => {
                // What was written is in the binlog before anybody sees it, for long where a replica must have it first. Commits are shown in their
                // order: behind the mark's own all before it are.
                let at = stored::place(session).await?.lsn;
                let flow = names.flow.as_str();
                let mark = owner::mysql::say(&names.install, &names.sync, flow, "verify", &owner::nonce());
                session.run("marking the owner's log", &mark).await?;
                Ok(at)
            }
        }
    }

    /// How far the flow into this database is; nothing while it does not apply a stream.
    pub(super) async fn applied(&mut self, names: &FlowNames) -> Result<Option<Applied>, FlowError> {
        let doing = "asking the other side how far it is";
        match self {
            Self::Postgres(session) => {
                let row = session
                    .query_opt(
                        &format!(
                            "SELECT {APPLIED}, min(q.system_id), min(q.timeline) FROM banyan.position q WHERE q.install = $1 AND q.sync = $2 \
                             AND q.flow = $3 AND q.phase = 'stream' AND q.role = 'applying' HAVING {ALL_LANES}"
                        ),
                        &[&names.install, &names.sync, &names.flow.as_str()],
                    )
                    .await
                    .map_err(|e| FlowError::sql(doing, &e))?;
                Ok(row.map(|row| Applied { upto: row.get::<_, PgLsn>(0).into(), server: (row.get(1), row.get(2)) }))
            }
            Self::Mysql(session) => {
                let sql = format!(
                    "SELECT applied, system_id, timeline FROM banyan.position \
                     WHERE {} AND part = 0 AND phase = 'stream' AND role = 'applying'",
                    of_flow(names)
                );
                let row = session.first(doing, &sql).await?;
                Ok(row.map(|row| Applied {
                    upto: Lsn::new(cell(&row, 0).unwrap_or(0)),
                    server: (cell(&row, 1).unwrap_or_default(), cell(&row, 2).unwrap_or(0)),
                }))
            }
        }
    }
}

/// The flow's rows of a table of Banyan's, as a condition of MariaDB and MySQL.
pub(super) fn of_flow(names: &FlowNames) -> String {
    format!(
        "install = {} AND sync = {} AND flow = {}",
        text(&names.install),
        text(&names.sync),
        text(names.flow.as_str())
    )
}
