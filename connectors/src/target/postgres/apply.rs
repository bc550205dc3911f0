//! The applier: from the topic's records to whole transactions in the target.
//!
//! What is old is skipped. What comes behind a hole is passed over, in the state `gap`: capture will send it again. Several source
//! transactions make one target transaction while there is a backlog, in order and whole; an idle stream commits at once.

use std::{
    collections::HashMap,
    time::{Duration, Instant, SystemTime},
};

use rdkafka::{Message as _, message::BorrowedMessage};
use tokio_postgres::types::PgLsn;

use super::{
    fold::{Row, Run},
    load,
    pipe::Pipe,
    position::{self, Applied, Holder, Parameter},
    table::{TargetTable, Write},
};
use crate::{
    config::{ApplyAs, Target},
    error::FlowError,
    kafka::{consume::Inlet, topics},
    names::quote_table,
    plan::Plan,
    position::{Generation, Lsn, Phase, Position},
    record::{
        Head, Kind,
        control::{Checkpoint, Commit, End, Start},
        envelope::{Envelope, Op},
    },
    status::{Board, Role},
};

/// A target transaction is ended at the next boundary when it has so many rows, or is so old.
const BATCH_ROWS: usize = 20_000;
const BATCH_AGE: Duration = Duration::from_millis(400);
/// The lease is renewed, and an idle watcher's progress stored, this often.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// A source transaction whose rest does not come is rolled back: an open one holds up the making of slots.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often a hole is looked at, when the topic has nothing more.
const HOLE_CHECK: Duration = Duration::from_secs(2);
/// How often the topic's settings are looked at again.
const TOPIC_CHECK: Duration = Duration::from_secs(60);

/// One attempt of the applier.
struct Applier<'a> {
    plan: &'a Plan,
    board: &'a Board,
    pipe: Pipe,
    holder: Holder,
    tables: Vec<TargetTable>,
    /// What the target says.
    stored: Applied,
    /// What it will say when the open target transaction commits.
    next: Applied,
    /// The source transaction being read: its commit LSN, and the ordinal that comes next.
    source: Option<(Lsn, u64)>,
    /// Whether a target transaction is open, and since when.
    open: Option<Instant>,
    rows: usize,
    run: Option<Run>,
    row: Row,
    truncated: Vec<(usize, Position)>,
    changes: HashMap<(usize, Op), u64>,
    violations: HashMap<String, u64>,
    /// Until this offset every source transaction is committed alone: one of them will turn out to be incomplete.
    cautious_until: i64,
    /// The offset of the last record that was looked at.
    seen: i64,
    gap: bool,
    /// Whether the broker tells how it keeps the topic.
    settings_shown: bool,
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
    let session = plan.target.connect(&names.application("apply")).await?;
    if plan.apply_as == ApplyAs::Replica {
        session.batch_execute("SET session_replication_role = replica").await.map_err(|error| {
            match error.code() {
                Some(state) if state.code() == "42501" => FlowError::Stop(
                    "the target does not let this role set session_replication_role: grant it (`GRANT SET ON PARAMETER session_replication_role`, or superuser), or say `apply_as: origin`, which lets triggers and foreign keys fire"
                        .into(),
                ),
                _ => FlowError::sql("setting session_replication_role", &error),
            }
        })?;
    }
    let mut tables = Vec::with_capacity(plan.tables.len());
    for table in &plan.tables {
        tables.push(TargetTable::load(&session, table).await?);
    }
    let settings_shown = topics::ensure(&plan.brokers, &names.topic()).await?;
    let row = session
        .query_one("SELECT to_regclass('banyan.violation') IS NOT NULL", &[])
        .await
        .map_err(|e| FlowError::sql("connecting", &e))?;
    if row.get(0) {
        let row = session
            .query_one(
                "SELECT count(*) FROM banyan.violation WHERE install = $1 AND sync = $2 AND flow = $3",
                &[&names.install, &names.sync, &names.flow.as_str()],
            )
            .await
            .map_err(|e| FlowError::sql("counting violations", &e))?;
        board.violations_so_far(row.get::<_, i64>(0).cast_unsigned());
    }
    let (pipe, holder, stored) = position::take(plan, session).await?;
    let inlet = Inlet::open(&plan.brokers, &names.topic(), plan.budget / 3)?;
    let offset = check_offset(&inlet, &stored, &names.topic()).await?;
    inlet.seek(offset)?;
    board.applied(stored.role, stored.epoch, stored.generation, stored.watermark());
    if stored.generation > Generation::NONE {
        board.apply_running(stored.phase == Phase::Snapshot);
    }
    let mut applier = Applier {
        plan,
        board,
        pipe,
        holder,
        tables,
        next: stored.clone(),
        stored,
        source: None,
        open: None,
        rows: 0,
        run: None,
        row: Row::default(),
        truncated: Vec::new(),
        changes: HashMap::new(),
        violations: HashMap::new(),
        cautious_until: -1,
        seen: offset - 1,
        gap: false,
        settings_shown,
        last_commit: Instant::now(),
    };
    applier.follow(&inlet).await
}

/// The stored offset must lie within the topic, and the record before it, if still there, must carry the stored position.
async fn check_offset(inlet: &Inlet, stored: &Applied, topic: &str) -> Result<i64, FlowError> {
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
        let (mut last_message, mut last_check, mut last_topic) = (Instant::now(), Instant::now(), Instant::now());
        loop {
            let message = match inlet.ready()? {
                Some(message) => message,
                None => {
                    if self.source.is_none() && self.is_due(false) {
                        self.commit().await?;
                        continue;
                    }
                    match inlet.next(Duration::from_millis(500)).await? {
                        Some(message) => message,
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
                            if last_check.elapsed() > HOLE_CHECK {
                                self.check_hole(inlet).await?;
                                last_check = Instant::now();
                            }
                            continue;
                        }
                    }
                }
            };
            last_message = Instant::now();
            if self.settings_shown && self.open.is_none() && last_topic.elapsed() > TOPIC_CHECK {
                topics::ensure(&self.plan.brokers, &self.plan.names.topic()).await?;
                last_topic = Instant::now();
            }
            let offset = message.offset();
            if let Next::Again = self.take(&message).await? {
                self.cautious_until = offset;
                self.again(inlet)?;
                continue;
            }
            self.seen = offset;
            if self.source.is_none() && self.is_due(true) {
                self.commit().await?;
            }
        }
    }

    fn again(&mut self, inlet: &Inlet) -> Result<(), FlowError> {
        let offset = if self.stored.record.is_empty() { inlet.bounds()?.0 } else { self.stored.offset };
        self.seen = offset - 1;
        inlet.seek(offset)
    }

    /// Whether what is complete should be committed now; `more` records may be waiting.
    fn is_due(&self, more: bool) -> bool {
        if self.next == self.stored {
            return false;
        }
        match self.open {
            Some(since) if more => {
                self.rows >= BATCH_ROWS || since.elapsed() >= BATCH_AGE || self.seen <= self.cautious_until
            }
            Some(_) => true,
            // Only a CHECKPOINT moved: the owner's side at once, the other at the pace of the heartbeat.
            None => !more && (self.next.role == Some(Role::Applying) || self.last_commit.elapsed() > HEARTBEAT),
        }
    }

    async fn take(&mut self, message: &BorrowedMessage<'_>) -> Result<Next, FlowError> {
        let offset = message.offset();
        let bad = |what| FlowError::Malformed { what, at: format!("offset {offset}") };
        let head = message
            .headers()
            .and_then(|headers| Head::from_headers(headers).ok())
            .ok_or_else(|| bad("a record without Banyan's headers"))?;
        let value = message.payload().unwrap_or_default();
        if head.position.generation != self.next.generation {
            return if head.kind == Kind::Start && head.position.generation > self.next.generation {
                self.start(head, value, offset).await
            } else {
                // Older, or of a generation whose START was not (yet) seen.
                Ok(Next::On)
            };
        }
        match (head.position.phase, self.next.phase, head.kind) {
            (Phase::Snapshot, Phase::Stream, _) | (_, _, Kind::Start) => Ok(Next::On),
            (Phase::Stream, Phase::Snapshot, _) => self.hole().await,
            (Phase::Snapshot, Phase::Snapshot, _) => self.snapshot_record(head, value, offset).await,
            (Phase::Stream, Phase::Stream, _) => self.stream_record(head, value, offset).await,
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
            self.flush().await?;
            load::end(&mut self.pipe, &self.plan.names, &self.tables).await?;
            self.next.phase = Phase::Stream;
            self.next.applied = end.consistent_point.parse().map_err(|_| bad(()))?;
            self.next.ordinal = 0;
            self.next.source_time = time(end.at);
        } else {
            let envelope = Envelope::parse(value).map_err(|_| bad(()))?;
            self.open().await?;
            self.write(&envelope, head.position).await?;
            self.next.ordinal += 1;
        }
        self.progressed(head.position, offset);
        if head.kind == Kind::End {
            self.commit().await?;
        }
        Ok(Next::On)
    }

    async fn stream_record(&mut self, head: Head, value: &[u8], offset: i64) -> Result<Next, FlowError> {
        let bad = |_| FlowError::Malformed { what: "a record that is not Banyan's", at: format!("offset {offset}") };
        let position = head.position;
        if head.kind == Kind::Checkpoint {
            if position.lsn <= self.next.applied {
                return Ok(Next::On);
            }
            if head.from > self.next.applied || self.source.is_some() {
                return self.hole().await;
            }
            let checkpoint = Checkpoint::parse(value).map_err(bad)?;
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
        self.open().await?;
        self.source = Some((position.lsn, expected + 1));
        match head.kind {
            Kind::Open | Kind::Fence => {
                self.flush().await?;
                self.next.role = Some(if head.kind == Kind::Open { Role::Applying } else { Role::Watching });
                self.next.epoch = head.epoch;
            }
            _ => {
                let envelope = Envelope::parse(value).map_err(bad)?;
                if self.next.role == Some(Role::Applying) {
                    self.write(&envelope, position).await?;
                } else {
                    self.violation(&envelope, position).await?;
                }
            }
        }
        Ok(Next::On)
    }

    /// A record was taken in order.
    fn progressed(&mut self, position: Position, offset: i64) {
        self.next.offset = offset + 1;
        self.next.record = position.to_string();
        if std::mem::take(&mut self.gap) {
            tracing::info!(flow = self.plan.names.flow.as_str(), "the gap is closed");
            self.board.apply_running(self.next.phase == Phase::Snapshot);
        }
    }

    /// Something before this record is missing. An open source transaction will never be whole here: it goes.
    async fn hole(&mut self) -> Result<Next, FlowError> {
        if !std::mem::replace(&mut self.gap, true) {
            tracing::warn!(flow = self.plan.names.flow.as_str(), applied = %self.next.applied, "a record is missing; waiting for it to be sent again");
            self.board.apply_gap();
        }
        if self.source.is_none() {
            return Ok(Next::On);
        }
        let others = self.next != self.stored;
        self.roll_back().await?;
        // What was complete went with it, and is read again, more carefully.
        Ok(if others { Next::Again } else { Next::On })
    }

    async fn roll_back(&mut self) -> Result<(), FlowError> {
        self.run = None;
        self.truncated.clear();
        self.source = None;
        self.rows = 0;
        self.changes.clear();
        self.violations.clear();
        self.next = self.stored.clone();
        if self.open.take().is_some() {
            self.pipe.discard().await;
            self.pipe.simple("rolling back", "ROLLBACK".into()).await?;
            self.pipe.drain().await?;
        }
        Ok(())
    }

    async fn open(&mut self) -> Result<(), FlowError> {
        if self.open.is_none() {
            self.holder.begin(&mut self.pipe, &self.stored).await?;
            self.open = Some(Instant::now());
        }
        Ok(())
    }

    async fn commit(&mut self) -> Result<(), FlowError> {
        self.open().await?;
        self.flush().await?;
        self.holder.commit(&mut self.pipe, &self.stored, &self.next).await?;
        self.open = None;
        self.rows = 0;
        self.last_commit = Instant::now();
        self.stored = self.next.clone();
        for ((table, op), rows) in self.changes.drain() {
            self.tables[table].count(self.board.metrics(), op, rows);
        }
        for (table, rows) in self.violations.drain() {
            self.board.metrics().violations(&table).inc_by(rows);
            self.board.violated(rows);
        }
        self.board.applied(self.stored.role, self.stored.epoch, self.stored.generation, self.stored.watermark());
        if !self.gap && self.stored.generation > Generation::NONE {
            self.board.apply_running(self.stored.phase == Phase::Snapshot);
        }
        Ok(())
    }

    /// Adds a row to the run, or begins the next.
    async fn write(&mut self, envelope: &Envelope<'_>, at: Position) -> Result<(), FlowError> {
        let Some(table) = self.tables.iter().position(|table| table.is(&envelope.schema, &envelope.table)) else {
            return Err(FlowError::Stop(format!(
                "{}.{} at {at}: the file does not name this table",
                envelope.schema, envelope.table
            )));
        };
        self.rows += 1;
        if envelope.op == Op::Truncate {
            // Tables that a source empties together must be emptied together, or their foreign keys forbid it.
            self.flush_run().await?;
            self.truncated.push((table, at));
            return Ok(());
        }
        let target = &self.tables[table];
        self.row.read(envelope, target, at)?;
        let write = match envelope.op {
            Op::Create => Write::Insert,
            Op::Update => Write::Update,
            Op::Read if target.plan.existing == Target::KeepMatching => Write::Merge,
            Op::Read => Write::Insert,
            Op::Delete | Op::Truncate => Write::Delete,
        };
        if let Some(run) = self.run.as_mut().filter(|run| run.takes(table, target, write, envelope.op, &self.row)) {
            return run.push(target, &self.row, at);
        }
        let run = Run::begin(table, target, write, envelope.op, &self.row, at)?;
        self.flush().await?;
        self.run = Some(run);
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), FlowError> {
        self.flush_run().await?;
        if self.truncated.is_empty() {
            return Ok(());
        }
        let truncated = std::mem::take(&mut self.truncated);
        let names: Vec<String> =
            truncated.iter().map(|(table, _)| quote_table(&self.tables[*table].plan.target)).collect();
        for (table, _) in &truncated {
            *self.changes.entry((*table, Op::Truncate)).or_default() += 1;
        }
        self.pipe.drain().await?;
        let emptied = self.pipe.session().batch_execute(&format!("TRUNCATE {}", names.join(", "))).await;
        let (table, at) = truncated[0];
        emptied.map_err(|e| FlowError::sql("emptying tables", &e).at(&self.tables[table].plan.target, at))
    }

    /// Sends the run as one statement; every row must be hit.
    async fn flush_run(&mut self) -> Result<(), FlowError> {
        let Some(run) = self.run.take() else { return Ok(()) };
        let table = &mut self.tables[run.table];
        *self.changes.entry((run.table, run.op)).or_default() += run.rows as u64;
        let seen = load::seen_table(&self.plan.names, run.table);
        let mut shape = run.shape;
        if shape.write == Write::Update && table.settable(&shape).next().is_none() {
            // Nothing but the key, and the key stayed.
            return Ok(());
        }
        let notes_seen = shape.write == Write::Merge;
        let mut columns = run.columns;
        if notes_seen {
            shape.write = Write::Seen;
            // The keys are noted first; the arrays are then given away to the rows.
            let statement = statement(&mut self.pipe, table, &shape, &seen).await?;
            let session = self.pipe.session();
            session
                .execute_raw(&statement, columns.iter().map(|column| column as &dyn tokio_postgres::types::ToSql))
                .await
                .map_err(|e| FlowError::sql("noting the keys seen", &e))?;
            shape.write = Write::Merge;
        }
        let statement = statement(&mut self.pipe, table, &shape, &seen).await?;
        let mut parameters = run.old_key;
        parameters.append(&mut columns);
        let (name, rows, first, last) = (table.plan.target.clone(), run.rows as u64, run.first, run.last);
        self.pipe
            .execute(statement, parameters, run.bytes, move |found| match found {
                Ok(hit) if hit == rows || notes_seen => Ok(()),
                Ok(hit) => Err(FlowError::Divergence {
                    table: name,
                    position: if rows == 1 { first.to_string() } else { format!("{first} to {last}") },
                    what: format!(
                        "{} of {rows} changed rows are not in the target: both sides differ",
                        rows - hit.min(rows)
                    ),
                }),
                Err(error) => Err(FlowError::sql("applying", &error).at(&name, first)),
            })
            .await
    }

    async fn violation(&mut self, envelope: &Envelope<'_>, at: Position) -> Result<(), FlowError> {
        let names = &self.plan.names;
        let table = format!("{}.{}", envelope.schema, envelope.table);
        let statement = self
            .pipe
            .prepare(
                "storing a violation",
                "INSERT INTO banyan.violation (install, sync, flow, generation, lsn, ordinal, source_table, op, epoch) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
            )
            .await?;
        let parameters = vec![
            Parameter::Text(names.install.clone()),
            Parameter::Text(names.sync.clone()),
            Parameter::Text(names.flow.as_str().into()),
            Parameter::Int(at.generation.get()),
            Parameter::Lsn(PgLsn::from(at.lsn.get())),
            Parameter::Int(at.ordinal.cast_signed()),
            Parameter::Text(table.clone()),
            Parameter::Text(envelope.op.as_str().into()),
            Parameter::Int(self.next.epoch),
        ];
        *self.violations.entry(table).or_default() += 1;
        self.rows += 1;
        self.pipe
            .execute(statement, parameters, 0, |found| {
                found.map(drop).map_err(|error| FlowError::sql("storing a violation", &error))
            })
            .await
    }

    /// The first record of a generation: what the role is, and whether the tables are filled anew.
    async fn start(&mut self, head: Head, value: &[u8], offset: i64) -> Result<Next, FlowError> {
        let bad = |_| FlowError::Malformed { what: "a START that is not Banyan's", at: format!("offset {offset}") };
        let start: Start = serde_json::from_slice(value).map_err(|_| bad(()))?;
        if !self.is_ours(&head, &start).await? {
            return Ok(Next::On);
        }
        if self.source.is_some() {
            self.roll_back().await?;
        } else if self.open.is_some() {
            self.commit().await?;
        }
        self.board.apply_running(start.snapshot);
        // An earlier attempt of ours passed the check of what the target held, and then began to fill it.
        let again = self.stored.generation >= Generation::new(start.since);
        self.open().await?;
        if start.snapshot {
            load::start(&mut self.pipe, &self.plan.names, &self.tables, again).await?;
        }
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
            slot: start.slot,
            source_time: time(start.at),
        };
        self.gap = false;
        self.commit().await?;
        Ok(Next::On)
    }

    /// A topic may outlive a database: only the START that the source remembers counts.
    async fn is_ours(&self, head: &Head, start: &Start) -> Result<bool, FlowError> {
        let names = &self.plan.names;
        let session = self.plan.source.connect(&names.application("start")).await?;
        let row = session
            .query_opt(
                "SELECT generation, nonce FROM banyan.capture WHERE install = $1 AND sync = $2 AND flow = $3",
                &[&names.install, &names.sync, &names.flow.as_str()],
            )
            .await
            .map_err(|e| FlowError::sql("asking the source for its generation", &e))?;
        Ok(row.is_some_and(|row| {
            row.get::<_, i64>(0) == head.position.generation.get() && row.get::<_, &str>(1) == start.nonce
        }))
    }

    /// When the topic has nothing more: is the source's slot past what is applied here? Then nothing will ever close the hole.
    async fn check_hole(&mut self, inlet: &Inlet) -> Result<(), FlowError> {
        if self.source.is_some() {
            return Ok(());
        }
        let names = &self.plan.names;
        // A source that cannot be asked now cannot have been seen to be past us.
        let Ok(session) = self.plan.source.connect(&names.application("hole")).await else { return Ok(()) };
        let Ok(Some(row)) = session
            .query_opt(
                "SELECT c.generation, c.state, s.confirmed_flush_lsn FROM banyan.capture c LEFT JOIN pg_replication_slots s ON s.slot_name = c.slot \
                 WHERE c.install = $1 AND c.sync = $2 AND c.flow = $3",
                &[&names.install, &names.sync, &names.flow.as_str()],
            )
            .await
        else {
            return Ok(());
        };
        let generation = Generation::new(row.get(0));
        let complete = row.get::<_, &str>(1) == "streaming";
        let confirmed = row.get::<_, Option<PgLsn>>(2).map(Lsn::from);
        // Read after what the source said: all that it confirmed stands before this end.
        let (_, high) = inlet.bounds()?;
        if self.seen + 1 < high || !complete {
            return Ok(());
        }
        if generation != self.next.generation {
            return Err(FlowError::NeedsSnapshot(format!(
                "the source is at generation {generation} and the target at {}, and the topic does not hold what lies between",
                self.next.generation
            )));
        }
        if self.next.phase == Phase::Snapshot || confirmed.is_some_and(|confirmed| confirmed > self.next.applied) {
            return Err(FlowError::NeedsSnapshot(format!(
                "the source has forgotten what lies behind {}, and the topic does not hold all of it",
                self.next.applied
            )));
        }
        Ok(())
    }
}

async fn statement(
    pipe: &mut Pipe,
    table: &mut TargetTable,
    shape: &super::table::Shape,
    seen: &str,
) -> Result<tokio_postgres::Statement, FlowError> {
    if let Some(statement) = table.statement(shape) {
        return Ok(statement.clone());
    }
    let statement = pipe.prepare("preparing a statement", &table.sql(shape, seen)).await?;
    table.remember(shape.clone(), statement.clone());
    Ok(statement)
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
