//! Where lanes meet: START, LOAD and LOADED concern whole tables, so all that came before is applied in every lane first, and nothing that comes
//! behind is in any.
//!
//! A lane stores what it has and notes in its position row that it waits. When all wait, lane 0 does what is to be done and moves on, with its row
//! in one transaction, and by that row all others know. Each may end at any time: whoever takes its row comes to the same record again.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use super::{Applier, HEARTBEAT};
use crate::{
    error::FlowError,
    failpoint::{self, Point},
    position::{Phase, Position},
    target::{Writer, applied::Loading, postgres::position::LaneRow},
};

/// How often the other lanes are looked at.
const LOOK: Duration = Duration::from_millis(25);
/// How often somebody who waits asks whether there is still a reason to.
const ASK: Duration = Duration::from_secs(1);

// === impl LaneRow ===

impl LaneRow {
    /// Whether the lane has done what the record at `at` says.
    fn is_past(&self, at: Position) -> bool {
        if self.generation != at.generation {
            return self.generation > at.generation;
        }
        at.phase == Phase::Snapshot || self.phase != Phase::Snapshot.as_str() && self.applied > at.lsn
    }

    /// Whether it has come to a generation that knows nothing of `at`.
    fn is_beyond(&self, at: Position) -> bool {
        self.generation > at.generation || self.barrier.is_some_and(|barrier| barrier.generation > at.generation)
    }
}

// === impl Applier ===

impl Applier<'_> {
    /// Whether what all lanes meet at is for this applier to do; so it is where there are none.
    pub(super) fn leads(&self) -> bool {
        self.plan.lane == 0
    }

    /// Waits until every lane is at this record, and for those that do not lead until it is done. False when nobody will meet there any more.
    pub(super) async fn meet(
        &mut self,
        at: Position,
        still: impl AsyncFn(&Self) -> Result<bool, FlowError>,
    ) -> Result<bool, FlowError> {
        let Some(lanes) = self.plan.lanes else { return Ok(true) };
        self.next.barrier = at.to_string();
        self.commit().await?;
        failpoint::reached(Point::LanesWait);
        let (own, mut asked) = (self.plan.lane, Instant::now());
        let is_met = loop {
            self.plan.halt.check()?;
            let rows = self.lane_rows().await?;
            let is_done = if self.leads() {
                let is_here = |row: &&LaneRow| row.lane != own && (row.barrier == Some(at) || row.is_past(at));
                rows.iter().filter(is_here).count() + 1 >= usize::try_from(lanes).unwrap_or(usize::MAX)
            } else {
                rows.iter().any(|row| row.lane == 0 && row.is_past(at))
            };
            if is_done {
                failpoint::reached(Point::LanesMet);
                break true;
            }
            if rows.iter().any(|row| row.is_beyond(at)) {
                break false;
            }
            if asked.elapsed() > ASK {
                if !still(self).await? {
                    break false;
                }
                asked = Instant::now();
            }
            if self.last_commit.elapsed() > HEARTBEAT {
                self.commit().await?;
            }
            tokio::time::sleep(LOOK).await;
        };
        self.next.barrier.clear();
        if is_met && !self.leads() {
            self.next.loading = self.loading_now().await?;
        }
        Ok(is_met)
    }

    async fn lane_rows(&self) -> Result<Vec<LaneRow>, FlowError> {
        match &self.writer {
            Writer::Postgres(writer) => writer.lane_rows().await,
            Writer::Mysql(_) => Ok(Vec::new()),
        }
    }

    async fn loading_now(&self) -> Result<BTreeMap<String, Loading>, FlowError> {
        match &self.writer {
            Writer::Postgres(writer) => writer.loading_now().await,
            Writer::Mysql(_) => Ok(self.next.loading.clone()),
        }
    }
}
