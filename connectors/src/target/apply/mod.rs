//! The applier: from the topic's records to whole transactions in the target.
//!
//! Several source transactions make one target transaction while there is a backlog, in order and whole; an idle stream commits at
//! once. `order` judges each record, a `Writer` writes what it says, `start` begins a generation. `refused` is what follows when the target
//! does not take a row, `parking` keeps transactions aside, and `requests` does with them what people ask for.

mod altered;
mod barrier;
pub(super) mod inlet;
mod order;
mod parking;
mod refused;
mod requests;
mod start;

use std::{
    collections::HashMap,
    time::{Duration, Instant, SystemTime},
};

use rdkafka::Message as _;

use super::{Writer, applied::Applied, hole::HoleWatch};
use crate::{
    config::OnViolation,
    database::{DatabaseUrl, mysql::text},
    error::FlowError,
    failpoint::{self, Point},
    kafka::consume,
    names::Flow,
    plan::Plan,
    position::{Generation, Lsn, Phase, Position},
    record::{
        Head,
        envelope::{Envelope, Op},
    },
    status::{Board, Role},
};
use inlet::Inlet;
use parking::{Parking, Way};

/// A target transaction is ended at the next boundary when it has so many rows, or is so old.
const BATCH_ROWS: usize = 20_000;
const BATCH_AGE: Duration = Duration::from_millis(400);
/// The lease is renewed, and an idle watcher's progress stored, this often.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// A source transaction whose rest does not come is rolled back: an open one holds up the making of slots.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often the source is asked whether a hole can still close; and how often when none is known.
const HOLE_CHECK: Duration = Duration::from_secs(2);
const HOLE_CHECK_AT_EASE: Duration = Duration::from_secs(30);
/// How often the topic's settings are looked at again.
const TOPIC_CHECK: Duration = Duration::from_secs(60);

/// One attempt of the applier.
struct Applier<'a> {
    plan: &'a Plan,
    board: &'a Board,
    writer: Writer,
    /// What the target says.
    stored: Applied,
    /// What it will say when the open target transaction commits.
    next: Applied,
    /// The source transaction being read: its commit LSN, and the ordinal that comes next.
    source: Option<(Lsn, u64)>,
    /// Whether a target transaction is open, and since when.
    open: Option<Instant>,
    rows: usize,
    violations: HashMap<String, u64>,
    /// How many source transactions the open target transaction has begun, and which was the last.
    begun: usize,
    current: Lsn,
    /// The last one that has rows of a table's copy.
    chunk: Option<Lsn>,
    parking: Parking,
    /// Until this offset every source transaction is committed alone: one of them will turn out to be incomplete.
    cautious_until: i64,
    /// The offset of the last record that was looked at.
    seen: i64,
    gap: bool,
    /// Records of a generation went by whose START did not.
    unannounced: bool,
    /// Whether the broker tells how it keeps the topic.
    settings_shown: bool,
    /// Which topic is looked at next.
    turn: usize,
    last_commit: Instant,
}

/// What a record has led to.
enum Next {
    /// Read on.
    On,
    /// Everything after what is stored must be read again.
    Again,
}

/// Applies until something ends it.
pub(crate) async fn run(plan: &Plan, board: &Board) -> Result<(), FlowError> {
    let names = &plan.names;
    for table in &plan.tables {
        // From zero on: an alert must see the first one.
        board.metrics().violations(&table.source);
    }
    let settings_shown = inlet::ensure(plan, &mut 0).await?;
    let (writer, stored) = Writer::open(plan, board).await?;
    board.violations_so_far(violations(plan, &plan.target, names.flow).await?);
    let parking = Parking::load(plan, &writer).await?;
    board.parked(parking.parked());
    halted(plan).await?;
    let inlet = Inlet::open(plan)?;
    let offset = inlet.begin(&stored, &names.topic()).await?;
    board.applied(plan.lane, stored.role, stored.epoch, stored.generation, stored.watermark());
    if stored.generation > Generation::NONE {
        board.apply_running(plan.lane, stored.is_filling());
    }
    let mut applier = Applier {
        plan,
        board,
        writer,
        next: stored.clone(),
        stored,
        source: None,
        open: None,
        rows: 0,
        violations: HashMap::new(),
        begun: 0,
        current: Lsn::ZERO,
        chunk: None,
        parking,
        cautious_until: -1,
        seen: offset - 1,
        gap: false,
        unannounced: false,
        settings_shown,
        turn: 0,
        last_commit: Instant::now(),
    };
    let error = match applier.follow(&inlet).await {
        Err(error) if error.is_of_schema() => error,
        ended => return ended,
    };
    let seen = applier.writer.sum().to_owned();
    // Whoever alters a table must not wait for what is half applied.
    drop(applier);
    Err(altered::altered(plan, board, &seen, error).await)
}

/// Under `violations: stop` nothing is applied while a violation of this sync stands in either database.
async fn halted(plan: &Plan) -> Result<(), FlowError> {
    if plan.violations == OnViolation::Stop {
        let flow = plan.names.flow;
        let found =
            violations(plan, &plan.target, flow).await? + violations(plan, &plan.source, flow.opposite()).await?;
        if found > 0 {
            plan.halt.pull();
        }
    }
    plan.halt.check()
}

/// How many violations of a flow stand in its target.
async fn violations(plan: &Plan, target: &DatabaseUrl, flow: Flow) -> Result<u64, FlowError> {
    let doing = "counting violations";
    let names = &plan.names;
    let application = names.application("violations");
    match target {
        DatabaseUrl::Postgres(url) => {
            let sql = |error: &tokio_postgres::Error| FlowError::sql(doing, error);
            let session = url.connect(&application).await?;
            let is_there = "SELECT to_regclass('banyan.violation') IS NOT NULL";
            if !session.query_one(is_there, &[]).await.map_err(|e| sql(&e))?.get::<_, bool>(0) {
                return Ok(0);
            }
            let count = "SELECT count(*) FROM banyan.violation WHERE install = $1 AND sync = $2 AND flow = $3";
            let row = session.query_one(count, &[&names.install, &names.sync, &flow.as_str()]).await;
            Ok(row.map_err(|e| sql(&e))?.get::<_, i64>(0).cast_unsigned())
        }
        DatabaseUrl::Mysql(url) => {
            let mut session = url.connect(&application).await?;
            let is_there = "SELECT count(*) FROM information_schema.tables WHERE table_schema = 'banyan' AND table_name = 'violation'";
            if session.value::<i64>(doing, is_there).await?.unwrap_or(0) == 0 {
                return Ok(0);
            }
            let count = format!(
                "SELECT count(*) FROM banyan.violation WHERE install = {} AND sync = {} AND flow = {}",
                text(&names.install),
                text(&names.sync),
                text(flow.as_str())
            );
            Ok(session.value::<u64>(doing, &count).await?.unwrap_or(0))
        }
    }
}

/// The stored offset must lie within the topic, and the record before it, if still there, must carry the stored position.
async fn check_offset(inlet: &consume::Inlet, stored: &Applied, topic: &str) -> Result<i64, FlowError> {
    let (low, high) = inlet.bounds()?;
    if stored.record.is_empty() {
        return Ok(low);
    }
    let offset = stored.offset;
    if offset < low {
        return Err(FlowError::NeedsSnapshot(format!(
            "the topic `{topic}` begins at offset {low}, and {offset} is the next to apply: its head was deleted too early"
        )));
    }
    if offset > high {
        return Err(FlowError::NeedsSnapshot(format!(
            "the topic `{topic}` ends at offset {high}, and {offset} is the next to apply: it was made anew or lost its end"
        )));
    }
    if offset > low {
        inlet.seek(offset - 1)?;
        let Some(message) = inlet.next(Duration::from_secs(10)).await? else {
            return Err(FlowError::Busy(format!("Kafka does not give the record before offset {offset} of `{topic}`")));
        };
        let carried = message.headers().and_then(|headers| Head::from_headers(headers).ok());
        if message.offset() == offset - 1 && carried.is_none_or(|head| head.position.to_string() != stored.record) {
            return Err(FlowError::NeedsSnapshot(format!(
                "the record before offset {offset} of the topic `{topic}` is not the one that was applied: the topic was made anew"
            )));
        }
    }
    Ok(offset)
}

// === impl Applier ===

impl Applier<'_> {
    async fn follow(&mut self, inlet: &Inlet) -> Result<(), FlowError> {
        loop {
            match self.read_on(inlet).await {
                Ok(()) => return Ok(()),
                Err(error) => self.refused(inlet, error).await?,
            }
        }
    }

    async fn read_on(&mut self, inlet: &Inlet) -> Result<(), FlowError> {
        let (mut last_message, mut last_topic) = (Instant::now(), Instant::now());
        let mut holes = HoleWatch::new();
        loop {
            if self.source.is_none() {
                self.plan.halt.check()?;
                if self.parking.is_time_to_look() {
                    self.requests().await?;
                }
            }
            let record = match inlet.ready(&self.next)? {
                Some(record) => record,
                None => {
                    if self.source.is_none() && self.is_due(false) {
                        self.commit().await?;
                        continue;
                    }
                    match inlet.next(&self.next, Duration::from_millis(500)).await? {
                        Some(record) => record,
                        None => {
                            if self.source.is_some() && self.open.is_some() && last_message.elapsed() > PATIENCE {
                                self.roll_back().await?;
                                // What was complete with it is stored first when it is read again.
                                self.cautious_until = self.seen;
                                self.again(inlet)?;
                                last_message = Instant::now();
                            } else if self.source.is_none() && self.last_commit.elapsed() > HEARTBEAT {
                                self.commit().await?;
                            }
                            self.look(&mut holes, inlet).await?;
                            continue;
                        }
                    }
                }
            };
            last_message = Instant::now();
            if self.settings_shown && self.open.is_none() && last_topic.elapsed() > TOPIC_CHECK {
                inlet::ensure(self.plan, &mut self.turn).await?;
                last_topic = Instant::now();
            }
            let offset = record.offset();
            self.seen = offset;
            if let Next::Again = self.take(&record).await? {
                self.cautious_until = offset;
                self.again(inlet)?;
                continue;
            }
            // Skipping old records for long must not cost the lease.
            if self.source.is_none() && (self.is_due(true) || self.last_commit.elapsed() > HEARTBEAT) {
                self.commit().await?;
            }
            // A busy topic has no end at which to look.
            if !self.is_whole() {
                self.look(&mut holes, inlet).await?;
            }
        }
    }

    async fn look(&self, holes: &mut HoleWatch, inlet: &Inlet) -> Result<(), FlowError> {
        if self.source.is_some() {
            return Ok(());
        }
        let pause = if self.is_whole() { HOLE_CHECK_AT_EASE } else { HOLE_CHECK };
        holes.look(self.plan, inlet, self.seen, &self.next, pause).await
    }

    fn again(&mut self, inlet: &Inlet) -> Result<(), FlowError> {
        self.seen = inlet.again(&self.stored)? - 1;
        Ok(())
    }

    fn is_whole(&self) -> bool {
        !self.gap && !self.unannounced && self.stored.phase == Phase::Stream
    }

    /// Whether what is complete should be committed now; `more` records may be waiting.
    fn is_due(&self, more: bool) -> bool {
        if self.next == self.stored {
            return false;
        }
        match self.open {
            Some(since) if more => {
                self.rows >= BATCH_ROWS
                    || since.elapsed() >= BATCH_AGE
                    || self.seen <= self.cautious_until
                    || self.parking.is_about(self.current)
            }
            Some(_) => true,
            // Only a CHECKPOINT moved: the owner's side at once, the other at the pace of the heartbeat.
            None => !more && (self.next.role == Some(Role::Applying) || self.last_commit.elapsed() > HEARTBEAT),
        }
    }

    async fn roll_back(&mut self) -> Result<(), FlowError> {
        self.source = None;
        self.rows = 0;
        self.begun = 0;
        self.parking.rolled_back();
        self.violations.clear();
        self.next = self.stored.clone();
        let open = self.open.take().is_some();
        self.writer.roll_back(open).await
    }

    async fn open(&mut self) -> Result<(), FlowError> {
        if self.open.is_none() {
            self.writer.begin(&self.stored).await?;
            self.open = Some(Instant::now());
        }
        Ok(())
    }

    async fn commit(&mut self) -> Result<(), FlowError> {
        self.open().await?;
        self.writer.commit(&self.stored, &self.next).await?;
        self.committed();
        self.open = None;
        self.rows = 0;
        let begun = std::mem::take(&mut self.begun);
        self.last_commit = Instant::now();
        self.stored = self.next.clone();
        let violated = !self.violations.is_empty();
        for (table, rows) in self.violations.drain() {
            self.board.metrics().violations(&table).inc_by(rows);
            self.board.violated(rows);
        }
        let Applied { role, epoch, generation, .. } = self.stored;
        self.board.applied(self.plan.lane, role, epoch, generation, self.stored.watermark());
        if begun > 0 {
            self.settled().await?;
        }
        if violated && self.plan.violations == OnViolation::Stop {
            self.plan.halt.pull();
            self.plan.halt.check()?;
        }
        if !self.gap && !self.parking.is_full && self.stored.generation > Generation::NONE {
            self.board.apply_running(self.plan.lane, self.stored.is_filling());
        }
        Ok(())
    }

    /// What was committed is in the target, and nowhere else.
    fn committed(&self) {
        if self.next.loading.len() < self.stored.loading.len() {
            failpoint::reached(Point::ApplyEnded);
        }
        if self.parking.draft.as_ref().is_some_and(|draft| draft.id().is_some()) {
            failpoint::reached(Point::ParkCommitted);
        } else if self.begun > 0 {
            failpoint::reached(Point::ApplyCommitted);
        } else if self.parking.replays {
            failpoint::reached(Point::ReplayCommitted);
        }
    }

    /// Takes a row of the source: it is applied, or parked with its transaction.
    async fn write(&mut self, envelope: &Envelope<'_>, record: &[u8], at: Position) -> Result<Next, FlowError> {
        // A row of a copy is the row as it is there, with all that is parked before it. Whatever changes it later follows what is parked, as ever.
        if envelope.op == Op::Read {
            return self.put(envelope, at).await.map(|()| Next::On);
        }
        match self.divert(envelope, record, at).await? {
            Way::Apply => self.put(envelope, at).await.map(|()| Next::On),
            Way::Parked => Ok(Next::On),
            Way::Again => Ok(Next::Again),
        }
    }

    /// Hands a row to the writer.
    async fn put(&mut self, envelope: &Envelope<'_>, at: Position) -> Result<(), FlowError> {
        self.rows += 1;
        let loading = self.next.loading(&envelope.schema, &envelope.table);
        self.writer.row(envelope, at, !self.parking.names_the_row(at.lsn), loading).await
    }

    /// The source was closed for writes here.
    async fn violation(&mut self, envelope: &Envelope<'_>, at: Position) -> Result<(), FlowError> {
        let table = format!("{}.{}", envelope.schema, envelope.table);
        self.rows += 1;
        // Ordinals are a lane's, and a violation is the flow's.
        let lanes = self.plan.lanes.map_or(1, u64::from);
        let at = Position { ordinal: at.ordinal * lanes + u64::from(self.plan.lane), ..at };
        self.writer.violation(&table, envelope.op, self.next.epoch, at).await?;
        *self.violations.entry(table).or_default() += 1;
        Ok(())
    }
}

fn time(micros: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_micros(u64::try_from(micros).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::owner;

    #[test]
    fn a_time_before_1970_is_the_beginning() {
        assert_eq!(time(-1), SystemTime::UNIX_EPOCH);
        assert_eq!(time(1_000_000), SystemTime::UNIX_EPOCH + Duration::from_secs(1));
    }

    #[test]
    fn the_loop_mark_of_an_applier_is_an_echo_for_the_opposite_flow() {
        let names = crate::names::FlowNames::new("banyan", "s", crate::names::Flow::LegacyToModern);
        let opposite = crate::names::FlowNames::new("banyan", "s", crate::names::Flow::ModernToLegacy);
        assert!(owner::is_echo(owner::applied_mark(&names, 1, "x").as_bytes(), &opposite));
    }
}
