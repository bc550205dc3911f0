//! What a record means where it stands: old, in order, or behind a hole.
//!
//! What is old is skipped. What comes behind a hole is passed over, in the state `gap`: capture will send it again. A row of another
//! transaction than the open one rolls the open one back; a COMMIT counts only with the right number of records before it.

use super::{Applier, Next, inlet::Record, time};
use crate::{
    error::FlowError,
    failpoint::{self, Point},
    mapping::Part,
    position::{Phase, Position},
    record::{
        FIRST_TIMELINE, Head, Kind,
        control::{Checkpoint, Commit, End, Load},
        envelope::{Envelope, Op},
        json::BadJson,
    },
    status::Role,
    timeline::Timeline,
};

/// Whether a change concerns the sync cannot be told.
pub(super) fn untold(table: &str, at: Position) -> FlowError {
    FlowError::Stop(format!(
        "{table} at {at}: the record does not say what the row was or is in all columns of the file's `rows`: the table needs REPLICA IDENTITY \
         FULL, and records from before `rows` was written cannot be judged: copy the tables anew"
    ))
}

// === impl Applier ===

impl Applier<'_> {
    pub(super) async fn take(&mut self, record: &Record<'_>) -> Result<Next, FlowError> {
        let next = self.judge(record).await?;
        // It was taken.
        if let Next::On = next
            && self.next.offset == record.offset() + 1
        {
            for (table, place) in record.read() {
                if let Some(own) = self.next.topics.get_mut(*table) {
                    *own = Some(*place);
                }
            }
        }
        Ok(next)
    }

    async fn judge(&mut self, record: &Record<'_>) -> Result<Next, FlowError> {
        let offset = record.offset();
        let bad = |what| FlowError::Malformed { what, at: format!("offset {offset}") };
        let head = record.head().ok_or_else(|| bad("a record without Banyan's headers"))?;
        let value = record.value();
        if head.kind == Kind::Start {
            return self.start(head, value, offset).await;
        }
        if head.position.generation != self.next.generation {
            // Older, or of a generation whose START was not (yet) seen.
            self.unannounced |= head.position.generation > self.next.generation;
            return Ok(Next::On);
        }
        match (head.position.phase, self.next.phase) {
            (Phase::Snapshot, Phase::Stream) => Ok(Next::On),
            (Phase::Stream, Phase::Snapshot) => self.hole().await,
            (Phase::Snapshot, Phase::Snapshot) => self.snapshot_record(head, value, offset).await,
            (Phase::Stream, Phase::Stream) => self.stream_record(head, value, offset).await,
        }
    }

    async fn snapshot_record(&mut self, head: Head, value: &[u8], offset: i64) -> Result<Next, FlowError> {
        let bad = |_| FlowError::Malformed { what: "a record that is not Banyan's", at: format!("offset {offset}") };
        if head.position.ordinal < self.next.ordinal {
            return Ok(Next::On);
        }
        if head.position.ordinal > self.next.ordinal {
            return self.hole().await;
        }
        if head.kind == Kind::End {
            let end: End = serde_json::from_slice(value).map_err(|_| bad(()))?;
            self.open().await?;
            self.writer.snapshot_end().await?;
            self.next.phase = Phase::Stream;
            self.next.applied = end.consistent_point.parse().map_err(|_| bad(()))?;
            self.next.ordinal = 0;
            self.next.source_time = time(end.at);
            failpoint::reached(Point::ApplyEnd);
        } else {
            let row = Envelope::parse(value).map_err(|_| bad(()))?;
            let table = self.plan.has_filters.then(|| format!("{}.{}", row.schema, row.table));
            self.open().await?;
            match self.plan.part_of(row).map_err(|_| bad(()))? {
                Part::Its(envelope) => self.put(&envelope, head.position).await?,
                Part::Others => {}
                Part::Untold => return Err(untold(&table.unwrap_or_default(), head.position)),
            }
            self.next.ordinal += 1;
        }
        self.progressed(head.position, offset);
        if head.kind == Kind::End {
            self.commit().await?;
            failpoint::reached(Point::ApplyEnded);
        }
        Ok(Next::On)
    }

    async fn stream_record(&mut self, head: Head, value: &[u8], offset: i64) -> Result<Next, FlowError> {
        let bad = |_| FlowError::Malformed { what: "a record that is not Banyan's", at: format!("offset {offset}") };
        let position = head.position;
        let ours = self.next.timeline.max(FIRST_TIMELINE);
        if head.timeline < ours {
            // Of a server that is left: its places mean nothing any more.
            return Ok(Next::On);
        }
        if head.timeline > ours && head.kind != Kind::Checkpoint {
            // Only a CHECKPOINT says where the timelines parted, and whoever reads that server sends one before all else.
            return self.hole().await;
        }
        if head.kind == Kind::Checkpoint {
            let checkpoint = Checkpoint::parse(value).map_err(bad)?;
            if let Next::Again = self.moved(&checkpoint.timeline).await? {
                return Ok(Next::Again);
            }
            if position.lsn <= self.next.applied {
                return Ok(Next::On);
            }
            if head.from > self.next.applied {
                return self.hole().await;
            }
            // The open transaction's capture ended in its middle. Whoever writes this sends it again, and from here on.
            if self.source.is_some()
                && let Next::Again = self.hole().await?
            {
                return Ok(Next::Again);
            }
            self.next.applied = position.lsn;
            self.next.source_time = self.next.source_time.max(time(checkpoint.at));
            self.progressed(position, offset);
            return Ok(Next::On);
        }
        // Equal is new: a transaction may begin its commit record where the one before ended.
        if position.lsn < self.next.applied {
            return Ok(Next::On);
        }
        if head.from > self.next.applied {
            return self.hole().await;
        }
        let expected = match self.source {
            Some((lsn, next)) if lsn == position.lsn => next,
            None => 0,
            // A row of another transaction: the open one will never be whole.
            Some(_) => match self.hole().await? {
                Next::Again => return Ok(Next::Again),
                Next::On => 0,
            },
        };
        if head.kind == Kind::Commit {
            let commit = Commit::parse(value).map_err(bad)?;
            if commit.count != expected || self.source.is_none() {
                return self.hole().await;
            }
            self.open().await?;
            self.parked_ends(commit).await?;
            self.source = None;
            self.next.applied = commit.end;
            self.next.source_time = time(commit.at);
            self.progressed(position, offset);
            return Ok(Next::On);
        }
        if position.ordinal < expected {
            return Ok(Next::On);
        }
        if position.ordinal > expected {
            return self.hole().await;
        }
        // Lanes meet here, each with nothing open.
        if matches!(head.kind, Kind::Load | Kind::Loaded) && !self.meet(position, async |_| Ok(true)).await? {
            return self.hole().await;
        }
        self.open().await?;
        if self.source.is_none() {
            self.begun += 1;
            self.current = position.lsn;
        }
        self.source = Some((position.lsn, expected + 1));
        match head.kind {
            Kind::Open | Kind::Fence => {
                self.writer.flush().await?;
                self.next.role = Some(if head.kind == Kind::Open { Role::Applying } else { Role::Watching });
                self.next.epoch = head.epoch;
                // Whoever is opened has been kept in step by the opposite flow.
                self.next.tables = self.plan.tables_of(None);
            }
            Kind::Load => {
                self.chunk = Some(position.lsn);
                let load: Load = serde_json::from_slice(value).map_err(|_| bad(BadJson))?;
                self.next.tables.insert(load.table.clone());
                if self.leads() {
                    let loading = self.writer.load(&load).await?;
                    self.next.loading.insert(load.table, loading);
                }
            }
            Kind::Loaded => {
                self.chunk = Some(position.lsn);
                let load: Load = serde_json::from_slice(value).map_err(|_| bad(BadJson))?;
                // A capture that was killed before it could note this says it once more.
                if let Some(loading) = self.next.loading.remove(&load.table)
                    && self.leads()
                {
                    self.writer.loaded(&load.table, loading).await?;
                    failpoint::reached(Point::ApplyEnd);
                }
            }
            _ => {
                failpoint::reached(Point::ApplyRead);
                let envelope = Envelope::parse(value).map_err(bad)?;
                if envelope.op == Op::Read {
                    self.chunk = Some(position.lsn);
                }
                let table = self.plan.has_filters.then(|| format!("{}.{}", envelope.schema, envelope.table));
                let is_applying = self.next.role == Some(Role::Applying);
                let envelope = match self.plan.part_of(envelope).map_err(bad)? {
                    Part::Its(envelope) => envelope,
                    Part::Others => return Ok(Next::On),
                    Part::Untold if is_applying => return Err(untold(&table.unwrap_or_default(), position)),
                    // Whatever it was, somebody should look.
                    Part::Untold => Envelope::parse(value).map_err(bad)?,
                };
                if is_applying {
                    return self.write(&envelope, value, position).await;
                }
                self.violation(&envelope, position).await?;
            }
        }
        Ok(Next::On)
    }

    /// The source may be another server by now. What that one never had must not be here.
    async fn moved(&mut self, timeline: &Timeline) -> Result<Next, FlowError> {
        let (before, applied, number) = (self.next.timeline, self.next.applied, timeline.number);
        if number < before {
            return Ok(Next::On);
        }
        if number == before {
            if !self.next.followed.is_empty() && self.next.followed != timeline.followed {
                return Err(FlowError::NeedsSnapshot(format!(
                    "the source is another server of timeline {number} than the one that was applied: two standbys were promoted, and this one does \
                     not have what the other has written"
                )));
            }
            self.next.followed.clone_from(&timeline.followed);
            return Ok(Next::On);
        }
        let lost = match timeline.left(before) {
            Some(parted) if applied <= parted => None,
            Some(parted) => Some(format!(
                "they parted at {parted}, and all up to {applied} is applied here: the source does not have what lies between"
            )),
            None => Some("its log is not the continuation of the one that was applied".to_owned()),
        };
        if let Some(lost) = lost {
            return Err(FlowError::NeedsSnapshot(format!(
                "the source moved from timeline {before} to {number} (a standby was promoted, or a backup restored): {lost}"
            )));
        }
        // Half a transaction of the server before: another may begin in the same place of this one's log.
        if self.source.is_some()
            && let Next::Again = self.hole().await?
        {
            return Ok(Next::Again);
        }
        self.next.timeline = number;
        self.next.followed.clone_from(&timeline.followed);
        self.commit().await?;
        Ok(Next::On)
    }

    /// A record was taken in order.
    fn progressed(&mut self, position: Position, offset: i64) {
        self.next.offset = offset + 1;
        self.next.record = position.to_string();
        if std::mem::take(&mut self.gap) {
            tracing::info!(flow = self.plan.names.flow.as_str(), "the gap is closed");
            self.board.apply_running(self.plan.lane, self.next.is_filling());
        }
    }

    /// Something before this record is missing. An open source transaction will never be whole here: it goes.
    async fn hole(&mut self) -> Result<Next, FlowError> {
        if !std::mem::replace(&mut self.gap, true) {
            tracing::warn!(flow = self.plan.names.flow.as_str(), applied = %self.next.applied, "a record is missing; waiting for it to be sent again");
            self.board.apply_gap(self.plan.lane);
        }
        if self.source.is_none() {
            return Ok(Next::On);
        }
        // Only what is complete moves the offset; what the open transaction says of roles and copies is gone with it.
        let others = self.next.offset != self.stored.offset;
        self.roll_back().await?;
        // What was complete went with it, and is read again, more carefully.
        Ok(if others { Next::Again } else { Next::On })
    }
}
