//! Transactions that are kept aside: whether a row is applied or parked, and what of it is not committed yet.
//!
//! In PostgreSQL alone. A target of another kind parks nothing, whatever `on_error` says: there the flow stops.

use std::time::{Duration, Instant};

use super::{Applier, refused::Trial};
use crate::{
    error::FlowError,
    failpoint::{self, Point},
    plan::Plan,
    position::{Lsn, Position},
    record::{
        control::Commit,
        envelope::{Envelope, Op},
    },
    target::{
        Writer,
        postgres::parking::{
            book::{Book, Parked},
            draft::{Change, Draft},
            held,
            keys::{Keys, Scratch},
        },
    },
};

/// How often requests are looked for, between source transactions and while something is parked.
const LOOK: Duration = Duration::from_secs(1);

/// What the applier knows of parked transactions.
pub(super) struct Parking {
    pub(super) keys: Keys,
    pub(super) book: Book,
    scratch: Scratch,
    /// The transaction that is to be parked.
    pub(super) draft: Option<Draft>,
    /// The one that the target refused, while it is tried again.
    pub(super) trial: Option<Trial>,
    /// What was parked is being applied.
    pub(super) replays: bool,
    /// No more may be parked; the stream waits.
    pub(super) is_full: bool,
    pub(super) looked: Instant,
}

/// Where a row goes.
pub(super) enum Way {
    Apply,
    /// It was stored.
    Parked,
    /// Its transaction will be parked, from its first row on: all was rolled back and must be read again.
    Again,
}

// === impl Parking ===

impl Parking {
    pub(super) async fn load(plan: &Plan, writer: &Writer) -> Result<Self, FlowError> {
        let (keys, book) = match writer {
            Writer::Postgres(writer) => {
                let session = writer.pipe.session();
                let keys = Keys::load(session, &writer.tables, &writer.functions).await?;
                let book = Book::load(session, &plan.names, &keys).await?;
                (keys, book)
            }
            Writer::Mysql(_) => (Keys::default(), Book::default()),
        };
        Ok(Self {
            keys,
            book,
            scratch: Scratch::default(),
            draft: None,
            trial: None,
            replays: false,
            is_full: false,
            looked: Instant::now(),
        })
    }

    pub(super) fn parked(&self) -> Parked {
        self.book.parked()
    }

    /// Whether the target transaction with this source transaction must end with it.
    pub(super) fn is_about(&self, lsn: Lsn) -> bool {
        self.trial.as_ref().is_some_and(|trial| trial.lsn == lsn)
            || self.draft.as_ref().is_some_and(|draft| draft.lsn == lsn)
    }

    /// On the last try, and later, each row is a statement of its own, so that the reason names the one that was refused.
    pub(super) fn names_the_row(&self, lsn: Lsn) -> bool {
        self.replays || self.trial.as_ref().is_some_and(|trial| trial.lsn == lsn && trial.is_last())
    }

    pub(super) fn is_time_to_look(&self) -> bool {
        !self.book.is_empty() && self.looked.elapsed() >= LOOK
    }

    pub(super) fn rolled_back(&mut self) {
        if let Some(draft) = &mut self.draft {
            draft.again();
        }
    }
}

// === impl Applier ===

impl Applier<'_> {
    /// Judges a row, and stores it when its transaction is parked.
    pub(super) async fn divert(
        &mut self,
        envelope: &Envelope<'_>,
        record: &[u8],
        at: Position,
    ) -> Result<Way, FlowError> {
        let Parking { keys, book, scratch, draft, .. } = &mut self.parking;
        let Writer::Postgres(writer) = &mut self.writer else { return Ok(Way::Apply) };
        if book.is_empty() && draft.is_none() {
            return Ok(Way::Apply);
        }
        let table = writer.read(envelope, at)?;
        let follows = book.touched(keys, table, &writer.row, envelope.op, scratch);
        let is_drafted = draft.as_ref().is_some_and(|draft| draft.lsn == at.lsn);
        if !is_drafted {
            let Some(first) = follows else { return Ok(Way::Apply) };
            let reason = format!("{} at {at}: it follows {first}", keys.label(table));
            *draft = Some(Draft::new(at.lsn, reason, Some(first), 0));
            if at.ordinal > 0 {
                self.roll_back().await?;
                return Ok(Way::Again);
            }
        }
        self.park(table, envelope, record, at, follows).await.map(|()| Way::Parked)
    }

    /// Stores the row that was just read.
    async fn park(
        &mut self,
        table: usize,
        envelope: &Envelope<'_>,
        record: &[u8],
        at: Position,
        follows: Option<i64>,
    ) -> Result<(), FlowError> {
        // What was written before it goes first.
        self.writer.flush().await?;
        self.rows += 1;
        let loading = self.next.loading(&envelope.schema, &envelope.table);
        let Parking { keys, book, scratch, draft, .. } = &mut self.parking;
        let (Some(draft), Writer::Postgres(writer)) = (draft, &mut self.writer) else { return Ok(()) };
        if envelope.op != Op::Truncate && loading.is_some_and(|loading| loading.keeps) {
            writer.keep(table).await?;
        }
        draft.follows = [draft.follows, follows].into_iter().flatten().min();
        let Parked { count, bytes, .. } = book.parked();
        let limit = self.plan.park.limit;
        if count >= limit {
            return Err(FlowError::Full(format!(
                "{count} transactions are parked, which is `parked_limit`: see `banyan sync parked list {}`; next is {}",
                self.plan.names.sync, draft.reason
            )));
        }
        let all = bytes + draft.size().1 + record.len() as u64;
        if all > self.plan.park.bytes {
            return Err(FlowError::Full(format!(
                "{count} transactions of {bytes} bytes are parked, and the next would make more than `parked_bytes`: see `banyan sync parked list {}`; next is {}",
                self.plan.names.sync, draft.reason
            )));
        }
        if draft.id().is_none() {
            draft.begin(&mut writer.pipe, &self.plan.names, at.generation).await?;
        }
        let change = Change { table, op: envelope.op, row: &writer.row, record, ordinal: at.ordinal };
        let known = book.keys();
        draft.put(&mut writer.pipe, change, keys, known, scratch).await
    }

    /// At the end of a source transaction.
    pub(super) async fn parked_ends(&mut self, commit: Commit) -> Result<(), FlowError> {
        match (&mut self.parking.draft, &mut self.writer) {
            (Some(draft), Writer::Postgres(writer)) if draft.id().is_some() => {
                draft.end(&mut writer.pipe, commit).await?;
                failpoint::reached(Point::ParkWritten);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Source transactions were committed, parked or applied.
    pub(super) async fn settled(&mut self) -> Result<(), FlowError> {
        self.parking.trial = self.parking.trial.take().filter(|trial| trial.lsn != self.current);
        let Some(draft) = self.parking.draft.take_if(|draft| draft.id().is_some()) else { return Ok(()) };
        let id = draft.id().unwrap_or_default();
        let (rows, bytes) = draft.size();
        let Parking { keys, book, .. } = &mut self.parking;
        if let Writer::Postgres(writer) = &self.writer {
            book.add(writer.pipe.session(), id, keys).await?;
        }
        self.board.parked(book.parked());
        self.board.metrics().parked_one();
        let Draft { reason, follows, tries, .. } = draft;
        let names = &self.plan.names;
        let (sync, flow) = (&names.sync, names.flow.as_str());
        tracing::warn!(sync, flow, id, rows, bytes, tries, follows, reason, "a transaction was parked");
        Ok(())
    }

    /// In the transaction that begins a new copy of the tables.
    pub(super) async fn clear_parked(&mut self) -> Result<(), FlowError> {
        let Writer::Postgres(writer) = &mut self.writer else { return Ok(()) };
        writer.pipe.simple("clearing what is parked", held::clear(&self.plan.names)).await
    }

    pub(super) fn parked_is_cleared(&mut self) {
        let Parked { count, .. } = self.parking.parked();
        if count > 0 {
            let (sync, flow) = (&self.plan.names.sync, self.plan.names.flow.as_str());
            tracing::warn!(sync, flow, count, "the tables are copied anew: what was parked is cleared");
        }
        self.parking.book.clear();
        self.parking.draft = None;
        self.parking.trial = None;
        self.board.parked(Parked::default());
    }
}
