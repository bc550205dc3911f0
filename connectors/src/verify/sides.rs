//! Both databases of a run: the owner's, which is right, and the other's, which follows it.

use std::time::Duration;

use tokio::time::Instant;

use super::seat::{Applied, Seat};
use crate::{database::DatabaseUrl, error::FlowError, names::FlowNames, position::Lsn};

/// How long the other side may stand still while the run waits for it.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(50);
const LONGEST_LOOK: Duration = Duration::from_millis(500);

/// The connections of one run.
pub(super) struct Sides {
    pub(super) owner: Seat,
    pub(super) other: Seat,
    pub(super) names: FlowNames,
    /// The owner's server: places in two servers' logs have no order.
    server: (String, i32),
}

// === impl Sides ===

impl Sides {
    /// Connects, and sees to it that no other run of the same flow is under way.
    pub(super) async fn open(names: FlowNames, owner: &DatabaseUrl, other: &DatabaseUrl) -> Result<Self, FlowError> {
        let mut owner = Seat::connect(owner, &names.application("verify")).await?;
        let mut other = Seat::connect(other, &names.application("verify")).await?;
        other.make_tables().await?;
        other.lock(&names).await?;
        let server = owner.server().await?;
        let mut sides = Self { owner, other, names, server };
        if sides.applied().await?.is_none() {
            return Err(FlowError::Busy(
                "the tables are not copied yet: nothing can be compared before they are".into(),
            ));
        }
        Ok(sides)
    }

    /// Waits until the other side shows everything that the owner had committed when this was called.
    pub(super) async fn settle(&mut self) -> Result<(), FlowError> {
        let wanted = self.owner.end(&self.names).await?;
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

    async fn applied(&mut self) -> Result<Option<Applied>, FlowError> {
        self.other.applied(&self.names).await
    }
}
