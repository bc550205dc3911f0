//! Who owns a sync and how far the other side is behind, read from the databases alone: it needs no running connector.

use std::time::{Duration, SystemTime};

use tokio_postgres::types::PgLsn;

use crate::{
    config::{Side, Sync},
    database::{DatabaseUrl, Session},
    error::{FlowError, UrlError},
    names::{Flow, FlowNames},
    owner::{self, OwnerRow},
    position::Lsn,
};

/// A database that answers later than this has not answered.
const PATIENCE: Duration = Duration::from_secs(2);

/// Reads one sync. Keeps a connection to each database, and makes it again when it broke.
#[derive(Debug)]
pub struct SyncReader {
    install: String,
    sync: String,
    legacy: Link,
    modern: Link,
}

/// What both databases say at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SyncReading {
    /// Who owns, and the ownership's number; nothing while neither database answers, or before the sync was created.
    pub owner: Option<(Side, i64)>,
    /// Age of what the side away from the owner shows. Nothing is unknown, and counts as infinite.
    pub lag: Option<Duration>,
}

struct Link {
    url: DatabaseUrl,
    session: Option<Session>,
}

// === impl SyncReader ===

impl SyncReader {
    /// A reader of the sync `name`; nothing is connected yet.
    ///
    /// # Errors
    ///
    /// When a database URL cannot be used.
    pub fn new(name: &str, sync: &Sync, install: &str) -> Result<Self, UrlError> {
        let link = |database: &crate::config::Database| {
            Ok(Link { url: DatabaseUrl::try_new(&database.postgres)?, session: None })
        };
        Ok(Self {
            install: install.to_owned(),
            sync: name.to_owned(),
            legacy: link(&sync.legacy)?,
            modern: link(&sync.modern)?,
        })
    }

    /// Asks both databases; either may be down. Returns within a few seconds whatever happens.
    pub async fn read(&mut self) -> SyncReading {
        let (install, sync) = (self.install.as_str(), self.sync.as_str());
        let (legacy, modern) = tokio::join!(
            self.legacy.owner(install, sync, Side::Legacy),
            self.modern.owner(install, sync, Side::Modern)
        );
        // The higher epoch wins, and of two alike the one that is open.
        let owner = [legacy, modern].into_iter().flatten().max_by_key(|row| (row.epoch, row.open));
        let Some(owner) = owner.map(|row| (row.owner, row.epoch)) else { return SyncReading::default() };
        let flow = if owner.0 == Side::Legacy { Flow::LegacyToModern } else { Flow::ModernToLegacy };
        let names = FlowNames::new(install, sync, flow);
        let (source, target) = match owner.0 {
            Side::Legacy => (&mut self.legacy, &mut self.modern),
            Side::Modern => (&mut self.modern, &mut self.legacy),
        };
        // The source first: what it had written then, the target must have now.
        let lag = match source.end().await {
            Some((end, now)) => target.applied(&names).await.map(|(applied, source_time)| {
                if applied >= end { Duration::ZERO } else { now.duration_since(source_time).unwrap_or_default() }
            }),
            None => None,
        };
        SyncReading { owner: Some(owner), lag }
    }
}

// === impl Link ===

impl Link {
    /// Runs `ask` on the connection; a failure or a late answer drops it.
    async fn ask<T>(&mut self, install: &str, ask: impl AsyncFnOnce(&Session) -> Result<T, FlowError>) -> Option<T> {
        let url = &self.url;
        let kept = self.session.take().filter(|session| !session.is_closed());
        let asked = tokio::time::timeout(PATIENCE, async {
            let session = match kept {
                Some(session) => session,
                None => url.connect(&format!("{install}/reader")).await?,
            };
            let answer = ask(&session).await?;
            Ok::<_, FlowError>((session, answer))
        });
        let (session, answer) = asked.await.ok()?.ok()?;
        self.session = Some(session);
        Some(answer)
    }

    async fn owner(&mut self, install: &str, sync: &str, side: Side) -> Option<OwnerRow> {
        self.ask(install, async |session| owner::read(session, install, sync, side).await).await.flatten()
    }

    async fn end(&mut self) -> Option<(Lsn, SystemTime)> {
        self.ask("banyan", async |session| {
            let row = session
                .query_one("SELECT pg_current_wal_lsn(), clock_timestamp()", &[])
                .await
                .map_err(|e| FlowError::sql("measuring", &e))?;
            Ok((row.get::<_, PgLsn>(0).into(), row.get(1)))
        })
        .await
    }

    async fn applied(&mut self, names: &FlowNames) -> Option<(Lsn, SystemTime)> {
        self.ask(&names.install, async |session| {
            let row = session
                .query_opt(
                    "SELECT applied, source_time FROM banyan.position WHERE install = $1 AND sync = $2 AND flow = $3 AND partition = 0 \
                     AND phase = 'stream' AND role = 'applying'",
                    &[&names.install, &names.sync, &names.flow.as_str()],
                )
                .await
                .map_err(|e| FlowError::sql("measuring", &e))?;
            Ok(row.map(|row| (row.get::<_, PgLsn>(0).into(), row.get(1))))
        })
        .await
        .flatten()
    }
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.url.fmt(f)
    }
}
