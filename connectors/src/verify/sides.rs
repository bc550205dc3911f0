//! Both databases of a run: the owner's, which is right, and the other's, which follows it.

use std::time::Duration;

use tokio::time::Instant;
use tokio_postgres::types::PgLsn;

use crate::{
    database::postgres::{PostgresUrl, Session},
    error::FlowError,
    names::FlowNames,
    position::Lsn,
    source::postgres::slot,
    tables,
};

/// How long the other side may stand still while the run waits for it.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(50);
const LONGEST_LOOK: Duration = Duration::from_millis(500);

/// The connections of one run.
pub(super) struct Sides {
    pub(super) owner: Session,
    pub(super) other: Session,
    pub(super) names: FlowNames,
    /// The owner's server, as the position row of the other side must name it: places in two servers' logs have no order.
    server: (String, i32),
}

/// How far the other side has applied, and whose log that is a place in.
struct Applied {
    upto: Lsn,
    server: (String, i32),
}

// === impl Sides ===

impl Sides {
    /// Connects, and sees to it that no other run of the same flow is under way.
    pub(super) async fn open(names: FlowNames, owner: &PostgresUrl, other: &PostgresUrl) -> Result<Self, FlowError> {
        let owner = owner.connect(&names.application("verify")).await?;
        let other = other.connect(&names.application("verify")).await?;
        tables::postgres(&other).await?;
        slot::lock(&other, names.lock("verify"), "verification").await?;
        let row = owner
            .query_one(
                "SELECT (SELECT system_identifier::text FROM pg_control_system()), \
                 ('x' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))::bit(32)::int",
                &[],
            )
            .await
            .map_err(|e| FlowError::sql("asking the owner which server it is", &e))?;
        let sides = Self { owner, other, names, server: (row.get(0), row.get(1)) };
        if sides.applied().await?.is_none() {
            return Err(FlowError::Busy(
                "the tables are not copied yet: nothing can be compared before they are".into(),
            ));
        }
        Ok(sides)
    }

    /// Waits until the other side shows everything that the owner had committed when this was called.
    pub(super) async fn settle(&self) -> Result<(), FlowError> {
        let doing = "asking the owner how far its log goes";
        // Whatever a session has seen was in the log before. The mark's own commit moves the log on, and has it written out.
        let row = self
            .owner
            .query_one("SELECT pg_current_wal_insert_lsn(), pg_logical_emit_message(true, 'banyan.verify', '')", &[])
            .await
            .map_err(|e| FlowError::sql(doing, &e))?;
        let wanted = Lsn::from(row.get::<_, PgLsn>(0));
        let (mut last, mut moved, mut look) = (Lsn::ZERO, Instant::now(), LOOK);
        loop {
            let Some(applied) = self.applied().await? else {
                return Err(FlowError::Busy("the tables are being copied anew".into()));
            };
            if applied.server != self.server {
                return Err(FlowError::Busy("the other side follows another server than the owner's".into()));
            }
            if applied.upto >= wanted {
                return Ok(());
            }
            if applied.upto > last {
                (last, moved, look) = (applied.upto, Instant::now(), LOOK);
            }
            if moved.elapsed() > PATIENCE {
                return Err(FlowError::Busy(format!(
                    "the flow stands still at {last}, before {wanted}; `banyan status` says why"
                )));
            }
            tokio::time::sleep(look).await;
            look = (look * 2).min(LONGEST_LOOK);
        }
    }

    async fn applied(&self) -> Result<Option<Applied>, FlowError> {
        let names = &self.names;
        let row = self
            .other
            .query_opt(
                "SELECT applied, system_id, timeline FROM banyan.position WHERE install = $1 AND sync = $2 AND flow = $3 \
                 AND partition = 0 AND phase = 'stream' AND role = 'applying'",
                &[&names.install, &names.sync, &names.flow.as_str()],
            )
            .await
            .map_err(|e| FlowError::sql("asking the other side how far it is", &e))?;
        Ok(row.map(|row| Applied { upto: row.get::<_, PgLsn>(0).into(), server: (row.get(1), row.get(2)) }))
    }
}
