//! START, the first record of a generation.

use std::collections::BTreeMap;

use super::{Applier, Next, time};
use crate::{
    error::FlowError,
    failpoint::{self, Point},
    position::{Generation, Lsn, Phase},
    record::{Head, control::Start},
    source::{SourceLink, postgres::lanes::other_order},
    status::Role,
    target::applied::{Applied, Loading},
};

// === impl Applier ===

impl Applier<'_> {
    /// The first record of a generation: what the role is, and whether the tables are filled anew.
    pub(super) async fn start(&mut self, head: Head, value: &[u8], offset: i64) -> Result<Next, FlowError> {
        let bad = |_| FlowError::Malformed { what: "a START that is not Banyan's", at: format!("offset {offset}") };
        let start: Start = serde_json::from_slice(value).map_err(|_| bad(()))?;
        if !self.is_ours(&head, &start).await? {
            return Ok(Next::On);
        }
        // A source that was made anew counts its generations anew, and its log: nothing of it may be compared with what was applied before.
        let (generation, stored) = (head.position.generation, &self.stored);
        if stored.generation > Generation::NONE
            && (generation <= stored.generation || start.system_id != stored.system_id)
        {
            return Err(FlowError::NeedsSnapshot(format!(
                "the source begins with generation {generation}, and the target holds generation {} of a source that is no more",
                stored.generation
            )));
        }
        if self.source.is_some() {
            self.roll_back().await?;
        } else if self.open.is_some() {
            self.commit().await?;
        }
        if start.lanes != self.plan.lanes {
            return Err(FlowError::Stop(other_order(&self.plan.names.sync, start.lanes, self.plan.lanes)));
        }
        let is_ours = async |applier: &Self| applier.is_ours(&head, &start).await;
        if !self.meet(head.position, is_ours).await? {
            return Ok(Next::On);
        }
        let is_copied = start.snapshot || !start.loads.is_empty();
        self.board.apply_running(self.plan.lane, is_copied);
        // An earlier attempt of ours passed the check of what the target held, and then began to fill it.
        let again = self.stored.generation >= Generation::new(start.since);
        self.open().await?;
        let mut loading = BTreeMap::new();
        if !self.leads() {
            loading = std::mem::take(&mut self.next.loading);
        } else if is_copied {
            loading = self.writer.snapshot_start(again, &self.stored.loading, &start.loads).await?;
            self.clear_parked().await?;
        } else {
            for table in self.stored.loading.keys() {
                self.writer.loaded(table, Loading { columns: 0, keeps: false }).await?;
            }
        }
        let tables = match start.loads.as_slice() {
            [] => self.plan.tables_of(None),
            loads => loads.iter().map(|load| load.table.clone()).collect(),
        };
        let point: Lsn = start.consistent_point.parse().map_err(|_| bad(()))?;
        self.next = Applied {
            generation: head.position.generation,
            phase: if start.snapshot { Phase::Snapshot } else { Phase::Stream },
            applied: if start.snapshot { Lsn::ZERO } else { point },
            ordinal: 0,
            offset: offset + 1,
            record: head.position.to_string(),
            role: Some(if start.open { Role::Applying } else { Role::Watching }),
            epoch: head.epoch,
            system_id: start.system_id,
            timeline: start.timeline,
            followed: String::new(),
            slot: start.slot,
            source_time: time(start.at),
            tables,
            loading,
            topics: self.next.topics.clone(),
            barrier: String::new(),
        };
        (self.gap, self.unannounced) = (false, false);
        failpoint::reached(Point::ApplyStart);
        self.commit().await?;
        failpoint::reached(Point::ApplyStarted);
        if is_copied && self.leads() {
            self.parked_is_cleared();
        }
        Ok(Next::On)
    }

    /// A topic may outlive a database: only the START that the source remembers counts.
    async fn is_ours(&self, head: &Head, start: &Start) -> Result<bool, FlowError> {
        let mut link = SourceLink::connect(self.plan, "start").await?;
        let remembered = link.ask(&self.plan.names).await?;
        Ok(remembered.is_some_and(|says| says.generation == head.position.generation && says.nonce == start.nonce))
    }
}
