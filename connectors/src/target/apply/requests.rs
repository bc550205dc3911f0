//! What people ask of parked transactions: they note it in the target, and whoever holds the flow does it, between two source transactions.

use std::time::{Duration, Instant};

use super::{Applier, order::untold};
use crate::{
    error::{FlowError, Verdict},
    failpoint::{self, Point},
    mapping::Part,
    position::{Phase, Position},
    record::envelope::Envelope,
    status::Role,
    target::{
        Writer,
        postgres::{
            self,
            parking::{
                book::Book,
                held::{self, Request},
            },
        },
    },
};

/// After so long the stream has its turn.
const TURN: Duration = Duration::from_secs(5);

// === impl Applier ===

impl Applier<'_> {
    /// Does what was asked for, the oldest first; those that followed one that has ended were asked for with it.
    pub(super) async fn requests(&mut self) -> Result<(), FlowError> {
        if self.next != self.stored || self.open.is_some() {
            self.commit().await?;
        }
        let began = Instant::now();
        let mut ended = false;
        while self.stored.role == Some(Role::Applying) && began.elapsed() < TURN {
            let Some(writer) = self.holder() else { break };
            let Some(request) = held::request(writer.pipe.session(), &self.plan.names).await? else { break };
            ended |= if request.skips { self.skip(&request).await? } else { self.retry(&request).await? };
        }
        if ended {
            if let Some(writer) = self.holder() {
                let (session, names) = (writer.pipe.session(), &self.plan.names);
                self.parking.book = Book::load(session, names, &self.parking.keys).await?;
            }
            // What it follows may have ended: it is judged again.
            drop(self.parking.draft.take_if(|draft| draft.is_follower()));
            self.board.parked(self.parking.parked());
        }
        self.parking.looked = Instant::now();
        Ok(())
    }

    /// Whether it has ended; else it stays, and says why.
    async fn retry(&mut self, request: &Request) -> Result<bool, FlowError> {
        let Request { id, who, why, .. } = request;
        let names = &self.plan.names;
        let (sync, flow) = (&names.sync, names.flow.as_str());
        let Some(writer) = self.holder() else { return Ok(false) };
        if let Some(first) = held::follows(writer.pipe.session(), names, *id).await? {
            let reason = format!("it follows {first}, which is still parked");
            held::stays(writer.pipe.session(), *id, &reason, Some(first)).await?;
            return Ok(false);
        }
        self.parking.replays = true;
        let applied = self.apply_parked(request).await;
        self.parking.replays = false;
        match applied {
            Ok(()) => {
                tracing::warn!(sync, flow, id, by = who, why, "a parked transaction was applied");
                Ok(true)
            }
            Err(error) if error.verdict() == Verdict::Retry => Err(error),
            Err(error) => {
                self.roll_back().await?;
                self.board.metrics().refused();
                let reason = error.to_string();
                if let Some(writer) = self.holder() {
                    held::stays(writer.pipe.session(), *id, &reason, None).await?;
                }
                tracing::warn!(sync, flow, id, by = who, why, reason, "a parked transaction was refused again");
                Ok(false)
            }
        }
    }

    /// Its changes in their order, and its end, in one target transaction; a piece at a time is in memory.
    async fn apply_parked(&mut self, request: &Request) -> Result<(), FlowError> {
        let Request { id, generation, commit, .. } = *request;
        self.open().await?;
        let mut ordinal = -1;
        while let Writer::Postgres(writer) = &mut self.writer {
            writer.pipe.drain().await?;
            let records = held::records(writer.pipe.session(), id, ordinal).await?;
            let Some(last) = records.last() else { break };
            ordinal = last.ordinal;
            for record in &records {
                let place = record.ordinal.cast_unsigned();
                let at = Position { generation, phase: Phase::Stream, lsn: commit, ordinal: place };
                let bad = |_| FlowError::Malformed { what: "a parked record that is not Banyan's", at: at.to_string() };
                let row = Envelope::parse(&record.value).map_err(bad)?;
                let table = self.plan.has_filters.then(|| format!("{}.{}", row.schema, row.table));
                match self.plan.part_of(row).map_err(bad)? {
                    Part::Its(envelope) => self.put(&envelope, at).await?,
                    Part::Others => {}
                    Part::Untold => return Err(untold(&table.unwrap_or_default(), at)),
                }
            }
        }
        self.writer.flush().await?;
        failpoint::reached(Point::ReplayWritten);
        self.ends(id, "applied").await
    }

    async fn skip(&mut self, request: &Request) -> Result<bool, FlowError> {
        let Request { id, who, why, .. } = request;
        self.open().await?;
        self.ends(*id, "skipped").await?;
        let (sync, flow) = (&self.plan.names.sync, self.plan.names.flow.as_str());
        tracing::warn!(sync, flow, id, by = who, why, "a parked transaction was skipped");
        Ok(true)
    }

    /// In the open target transaction, which ends with it.
    async fn ends(&mut self, id: i64, state: &str) -> Result<(), FlowError> {
        if let Writer::Postgres(writer) = &mut self.writer {
            writer.pipe.simple("ending a parked transaction", held::end(id, state)).await?;
        }
        self.commit().await
    }

    /// The target that can hold something parked.
    fn holder(&self) -> Option<&postgres::Writer> {
        match &self.writer {
            Writer::Postgres(writer) => Some(writer),
            Writer::Mysql(_) => None,
        }
    }
}
