//! Ends: of a transaction as COMMIT, of what was read without anything to send as CHECKPOINT; to every lane that has or needs one.

use super::Stream;
use crate::{
    error::FlowError,
    failpoint::{self, Point},
    position::{Lsn, Phase, Position},
    record::{
        Head, Kind,
        control::{Checkpoint, Commit},
    },
};

// === impl Stream ===

impl Stream<'_> {
    pub(super) async fn commit(&mut self, end: Lsn) -> Result<(), FlowError> {
        let Some(open) = &self.open else {
            return Err(FlowError::Malformed { what: "an end without a beginning", at: end.to_string() });
        };
        self.read_to = self.read_to.max(end);
        self.read_at = open.at;
        if open.ordinal > 0 && !open.echo {
            failpoint::reached(Point::CommitRead);
            let at = open.at;
            for lane in self.lanes.all() {
                let head = self.head(lane, Kind::Commit, None)?;
                let count = head.position.ordinal;
                if count == 0 {
                    continue;
                }
                let rows = self.lanes.close(lane);
                let commit = Commit { end, count, at };
                self.value.clear();
                if self.plan.lanes.is_some() {
                    let tables = &self.plan.tables;
                    let named = rows.iter().map(|(index, count)| (tables[*index].source.as_str(), *count));
                    commit.write_with_rows(&mut self.value, named);
                } else {
                    commit.write(&mut self.value);
                }
                let confirms = self.lanes.ends(lane, end);
                self.outlet.tell(lane, head, "COMMIT", &self.value, Some(confirms)).await?;
            }
            if self.lanes.last_end() >= end {
                self.has_events = false;
            }
        }
        self.chunks.committed(end);
        self.emptied.committed(end);
        self.open = None;
        Ok(())
    }

    /// The last end that was sent to any lane.
    pub(super) fn sent_end(&self) -> Lsn {
        self.lanes.all().map(|lane| self.lanes.end_of(lane)).max().unwrap_or(Lsn::ZERO)
    }

    /// Says to the lanes that have nothing up to where others are that they are there, too.
    pub(super) async fn even_out(&mut self, end: Lsn) -> Result<(), FlowError> {
        for lane in self.lanes.all() {
            if self.lanes.end_of(lane) < end {
                self.checkpoint_of(lane, end).await?;
            }
        }
        Ok(())
    }

    /// Says in Kafka that the log holds nothing for the lanes that are behind (or for `all`) up to where it was read.
    pub(super) async fn checkpoint(&mut self, all: bool) -> Result<(), FlowError> {
        for lane in self.lanes.all() {
            if all || self.lanes.end_of(lane) < self.read_to {
                self.checkpoint_of(lane, self.read_to).await?;
            }
        }
        self.has_events = false;
        Ok(())
    }

    async fn checkpoint_of(&mut self, lane: u32, end: Lsn) -> Result<(), FlowError> {
        let head = Head {
            kind: Kind::Checkpoint,
            position: Position { generation: self.generation, phase: Phase::Stream, lsn: end, ordinal: 0 },
            from: self.lanes.end_of(lane),
            epoch: self.epoch,
            origin: self.plan.names.flow.source(),
            timeline: self.timeline.number,
        };
        self.value.clear();
        Checkpoint { at: self.read_at, timeline: self.timeline.clone() }.write(&mut self.value);
        let confirms = self.lanes.ends(lane, end);
        self.outlet.tell(lane, head, "CHECKPOINT", &self.value, Some(confirms)).await
    }
}
