//! The stream: from pgoutput's messages to records, transaction by transaction, and back to the server what stands in Kafka.
//!
//! Confirmed are only ends that stand in Kafka as COMMIT or CHECKPOINT, by delivery report, in order. A transaction that carries the
//! opposite flow's loop mark is our own: it leaves no record.

use std::{
    collections::{BTreeMap, HashMap},
    rc::Rc,
    time::{Duration, Instant},
};

use pgwire_replication::{Lsn as WireLsn, client::ReplicationEvent};

mod emptied;
mod ends;
mod rows;

use emptied::Emptied;

use super::{
    chunks::{self, Chunks, Fate},
    lanes,
    line::Line,
    outbox,
    pgoutput::{Message, Old, Relation, Tuple},
    schema::{Decision, Here, Judged, Schema, Shape, facts},
    slot::{self, Opened},
};
use crate::{
    database::postgres::{PostgresUrl, Session},
    error::FlowError,
    failpoint::{self, Point},
    kafka::{lanes::Lanes, produce::Outlet},
    outbox::{Columns, Event},
    owner,
    plan::Plan,
    position::{Generation, Lsn, Phase, Position},
    record::{
        Head, Kind,
        control::Load,
        envelope::{Connector, Op, Stamp, TableFrame, Value},
    },
    status::Board,
    timeline::Timeline,
};

/// Microseconds from 1970 to 2000, where PostgreSQL's clock begins.
const EPOCH_2000: i64 = 946_684_800_000_000;
/// How often the server is told what stands in Kafka, and how often an idle stream is looked at.
const TICK: Duration = Duration::from_millis(100);
/// The least time between two CHECKPOINTs of the owner's side.
const CHECKPOINT: Duration = Duration::from_secs(1);
/// The same of the other side, where mostly our own writes move the log: two flows must not keep each other busy.
const SLOW_CHECKPOINT: Duration = Duration::from_secs(10);
/// How often the publication and the tables' files are looked at: what somebody takes out of it is missing without a word, as a table that was made anew.
const PUBLICATION_CHECK: Duration = Duration::from_secs(10);
/// How often it is asked which tables are to be copied again.
const REQUESTS: Duration = Duration::from_secs(1);
/// How often it is told how far the copies are.
const SHOW: Duration = Duration::from_millis(500);
/// The same with `order: key`, where the target shows no more than the lane that is furthest behind: one without rows must not hold up all.
const CHECKPOINT_OF_LANES: Duration = Duration::from_millis(200);
/// So much log behind makes a CHECKPOINT due on either side.
const CHECKPOINT_BYTES: u64 = 16 << 20;

/// One run of the stream.
struct Stream<'a> {
    plan: &'a Plan,
    outlet: &'a mut Outlet,
    chunks: &'a Chunks,
    session: &'a Session,
    generation: Generation,
    timeline: Timeline,
    schema: Schema,
    /// What the stored shape says of outboxes.
    outbox_lines: Vec<&'a str>,
    frames: HashMap<u32, Rc<TableState>>,
    outboxes: HashMap<u32, OutboxState>,
    /// Tables that TRUNCATE emptied, with `order: key`.
    emptied: Emptied,
    open: Option<Transaction>,
    lanes: Lanes,
    /// By which columns `order: key` tells a table's rows apart.
    keys: &'a BTreeMap<String, Vec<String>>,
    /// How far the log was read without anything to send.
    read_to: Lsn,
    read_at: i64,
    /// Events were sent that no end behind them confirms yet.
    has_events: bool,
    epoch: i64,
    side_is_open: bool,
    key: Vec<u8>,
    value: Vec<u8>,
    /// The key that a row had before.
    old_key: Vec<u8>,
}

struct TableState {
    name: String,
    /// In the plan.
    index: usize,
    frame: TableFrame,
    columns: usize,
}

/// A table whose rows are events.
struct OutboxState {
    name: String,
    places: Columns,
    columns: usize,
}

/// The source transaction that is being read.
struct Transaction {
    commit_lsn: Lsn,
    xid: u32,
    /// Microseconds since 1970.
    at: i64,
    ordinal: u64,
    /// Rows of outboxes, which count by themselves: they stand in other topics, and no COMMIT counts them.
    events: u64,
    /// Changes of rows so far, sent or not.
    changes: u64,
    /// Our own opposite flow wrote it.
    echo: bool,
    /// Of which tables it has changed rows so far, by their place in the plan.
    changed: Vec<usize>,
}

/// Reads the slot until something ends it.
pub(crate) async fn run(
    plan: &Plan,
    url: &PostgresUrl,
    opened: &mut Opened,
    from: Lsn,
    chunks: &Chunks,
    outlet: &mut Outlet,
    board: &Board,
) -> Result<(), FlowError> {
    let row =
        owner::postgres::read(&opened.session, &plan.names.install, &plan.names.sync, plan.names.flow.source()).await?;
    let schema = Schema::open(&opened.session, &plan.names, opened.generation, &opened.shape).await?;
    let shape = opened.shape.clone();
    let mut stream = Stream {
        plan,
        outlet,
        chunks,
        session: &opened.session,
        generation: opened.generation,
        timeline: opened.timeline.clone(),
        schema,
        outbox_lines: outbox::lines(&shape).collect(),
        frames: HashMap::new(),
        outboxes: HashMap::new(),
        emptied: Emptied::open(&opened.session, plan).await?,
        open: None,
        lanes: Lanes::new(plan.lanes, from),
        keys: &opened.keys,
        read_to: from,
        read_at: 0,
        has_events: false,
        epoch: row.map_or(0, |row| row.epoch),
        side_is_open: row.is_some_and(|row| row.open),
        key: Vec::with_capacity(256),
        value: Vec::with_capacity(4096),
        old_key: Vec::new(),
    };
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let (mut shown, mut is_shown) = (Instant::now(), false);
    let (mut confirmed, mut checkpoint, mut asked) = (Lsn::ZERO, Instant::now(), Instant::now());
    let mut published: Option<Instant> = None;
    // Nobody asks for copies of a side that is closed for writes.
    let copies = plan.copies_in_chunks() && stream.side_is_open;
    let mut reader = Box::pin(chunks::run(plan, url, opened.generation, chunks, board));
    if stream.timeline.is_later() {
        // Before all else: whoever applies must know that the source is another server, and may have gone on from before what is here.
        stream.checkpoint(true).await?;
    }
    board.capture_running();
    loop {
        tokio::select! {
            biased;
            _ = tick.tick() => {
                stream.outlet.check()?;
                stream.outlet.look()?;
                if let Some(change) = stream.outlet.held() {
                    board.waiting(change);
                }
                let now_confirmed = stream.outlet.confirmed();
                if copies {
                    chunks.begin_anew(&opened.session, plan).await?;
                }
                if now_confirmed > confirmed {
                    confirmed = now_confirmed;
                    chunks.settle(&opened.session, &plan.names, confirmed).await?;
                    stream.emptied.settle(&opened.session, &plan.names, confirmed).await?;
                    failpoint::reached(Point::ConfirmBefore);
                    opened.replication.update_applied_lsn(WireLsn::from_u64(confirmed.get()));
                    failpoint::reached(Point::ConfirmAfter);
                }
                if published.is_none_or(|last| last.elapsed() >= PUBLICATION_CHECK) {
                    slot::check_publication(&opened.session, plan, false).await?;
                    stream.look(board).await?;
                    published = Some(Instant::now());
                }
                if (is_shown || chunks.is_busy()) && shown.elapsed() >= SHOW {
                    let progress = chunks.progress();
                    is_shown = !progress.is_empty();
                    board.copying(&progress);
                    shown = Instant::now();
                }
                if copies && asked.elapsed() >= REQUESTS {
                    chunks.take_requests(&opened.session, plan).await?;
                    asked = Instant::now();
                }
                let last_end = stream.lanes.last_end();
                let pause = if stream.side_is_open && plan.lanes.is_some() {
                    CHECKPOINT_OF_LANES
                } else if stream.side_is_open || stream.has_events || stream.read_to.since(last_end) > CHECKPOINT_BYTES {
                    CHECKPOINT
                } else {
                    SLOW_CHECKPOINT
                };
                if stream.open.is_none() && stream.read_to > last_end && checkpoint.elapsed() >= pause {
                    checkpoint = Instant::now();
                    stream.checkpoint(false).await?;
                }
            }
            ended = &mut reader, if copies => ended?,
            event = opened.replication.recv() => match event.map_err(|e| FlowError::replication("reading the stream", &e))? {
                Some(event) => stream.take(event).await?,
                None => return Err(FlowError::Lost { doing: "reading the stream", kind: None }),
            },
        }
    }
}

// === impl Stream ===

impl Stream<'_> {
    async fn take(&mut self, event: ReplicationEvent) -> Result<(), FlowError> {
        match event {
            ReplicationEvent::XLogData { data, .. } => self.change(&data).await,
            ReplicationEvent::Begin { final_lsn, xid, commit_time_micros } => {
                let at = commit_time_micros + EPOCH_2000;
                let commit_lsn = Lsn::new(final_lsn.as_u64());
                let changed = Vec::new();
                for lane in self.lanes.all() {
                    self.lanes.close(lane);
                }
                self.open =
                    Some(Transaction { commit_lsn, xid, at, ordinal: 0, events: 0, changes: 0, echo: false, changed });
                Ok(())
            }
            ReplicationEvent::Commit { end_lsn, .. } => self.commit(Lsn::new(end_lsn.as_u64())).await,
            ReplicationEvent::KeepAlive { wal_end, server_time_micros, .. } => {
                // Everything that was committed before this place has been sent before this message.
                if self.open.is_none() {
                    self.read_to = self.read_to.max(Lsn::new(wal_end.as_u64()));
                    self.read_at = server_time_micros + EPOCH_2000;
                }
                Ok(())
            }
            ReplicationEvent::Message { transactional: true, prefix, content, .. } => {
                self.mark(&prefix, &content).await
            }
            ReplicationEvent::Message { .. } | ReplicationEvent::StoppedAt { .. } => Ok(()),
        }
    }

    /// The head of the open transaction's next record in a lane; counts it. `row`: it stands in the topic of the table with this place in the plan.
    fn head(&mut self, lane: u32, kind: Kind, row: Option<usize>) -> Result<Head, FlowError> {
        let Some(open) = self.open.as_mut() else {
            return Err(FlowError::Malformed {
                what: "a change outside of a transaction",
                at: self.read_to.to_string(),
            });
        };
        let ordinal = if kind == Kind::Commit {
            self.lanes.count(lane)
        } else {
            open.ordinal += 1;
            self.lanes.next(lane, row)
        };
        let position = Position { generation: self.generation, phase: Phase::Stream, lsn: open.commit_lsn, ordinal };
        let (from, epoch, origin) = (self.lanes.end_of(lane), self.epoch, self.plan.names.flow.source());
        Ok(Head { kind, position, from, epoch, origin, timeline: self.timeline.number })
    }

    /// Of a row of the open transaction.
    fn stamp(&self, op: Op) -> Stamp {
        let of = |open: &Transaction| Stamp { op, committed: open.at, xid: open.xid, lsn: open.commit_lsn };
        self.open.as_ref().map_or(Stamp { op, committed: 0, xid: 0, lsn: Lsn::ZERO }, of)
    }

    /// Queues what is no row for every lane.
    async fn tell(&mut self, kind: Kind, what: &str, value: &[u8]) -> Result<(), FlowError> {
        for lane in self.lanes.all() {
            let head = self.head(lane, kind, None)?;
            self.outlet.tell(lane, head, what, value, None).await?;
        }
        Ok(())
    }

    async fn mark(&mut self, prefix: &str, content: &[u8]) -> Result<(), FlowError> {
        let names = &self.plan.names;
        match prefix {
            "banyan.applied" if owner::is_echo(content, names) => {
                if let Some(open) = self.open.as_mut().filter(|open| open.ordinal == 0) {
                    open.echo = true;
                }
                Ok(())
            }
            "banyan.open" | "banyan.fence" => {
                let Some(epoch) = owner::mark_epoch(content, names) else { return Ok(()) };
                self.epoch = epoch;
                self.side_is_open = prefix == "banyan.open";
                self.tell(if self.side_is_open { Kind::Open } else { Kind::Fence }, prefix, content).await
            }
            "banyan.load" => {
                let Some(load) = chunks::kept::marked(content, names, "load") else { return Ok(()) };
                self.emptied.begins_anew(self.plan, &load);
                self.tell(Kind::Load, prefix, load.to_string().as_bytes()).await
            }
            "banyan.loaded" => {
                let Some(load) = chunks::kept::marked(content, names, "load") else { return Ok(()) };
                self.tell(Kind::Loaded, prefix, load.to_string().as_bytes()).await
            }
            "banyan.chunk" => match chunks::kept::marked(content, names, "chunk") {
                Some(serde_json::Value::String(id)) => self.chunk(&id).await,
                _ => Ok(()),
            },
            _ => Ok(()),
        }
    }

    /// The rows of a chunk whose mark stands here: those that nobody has changed since its snapshot.
    async fn chunk(&mut self, id: &str) -> Result<(), FlowError> {
        // Of an earlier process: its rows are gone, and will be read anew.
        let Some((chunk, fates, table)) = self.chunks.take(id) else { return Ok(()) };
        let Some(index) = self.plan.tables.iter().position(|own| own.source == table.name) else { return Ok(()) };
        if self.schema.latest(&table.name).is_none_or(|latest| !latest.has_columns_of(&table.shape)) {
            // No row has told of the change yet. Once it is taken the copy begins anew, without this chunk.
            return self.announced(index, &table.shape, true).await;
        }
        let (mut line, mut own, mut start, mut rows, mut again) = (Line::default(), Vec::new(), 0, 0, Vec::new());
        for (at, end) in chunk.ends.iter().enumerate() {
            if at % 1_000 == 999 {
                // The next chunk is on its way meanwhile.
                tokio::task::yield_now().await;
            }
            line.parse(&chunk.lines[start..*end]);
            start = *end;
            table.write_key(&mut own, &line.values());
            match fates.of(&own) {
                Fate::Current => {}
                Fate::Superseded => continue,
                Fate::Again => {
                    again.push(table.key_of(&line.values()));
                    continue;
                }
            }
            self.key.clear();
            self.value.clear();
            table.frame.write_key(&mut self.key, line.values());
            let stamp = self.stamp(Op::Read);
            table.frame.write(&mut self.value, None::<(std::iter::Empty<Value<'_>>, bool)>, Some(line.values()), stamp);
            self.send_row(index, &table.name).await?;
            rows += 1;
        }
        failpoint::reached(Point::ChunkQueued);
        let number = chunk.number;
        // Lanes meet at LOADED, which then stands in a transaction of its own.
        if self.chunks.sent(chunk, rows, again) && self.plan.lanes.is_none() {
            let loaded = Load { table: table.name.clone(), number, columns: table.columns() };
            let text = serde_json::json!(loaded).to_string();
            self.tell(Kind::Loaded, &table.name, text.as_bytes()).await?;
        }
        Ok(())
    }

    /// Remembers what a change touches, for the chunks that are under way.
    fn touch(&self, message: &Message<'_>, is_sent: bool) {
        let Some(xid) = self.open.as_ref().map(|open| open.xid) else { return };
        let (relation, old, new) = match message {
            Message::Insert { relation, new } => (relation, Old::None, Some(*new)),
            Message::Update { relation, old, new } => (relation, *old, Some(*new)),
            Message::Delete { relation, old } => (relation, *old, None),
            Message::Truncate { .. } => return self.chunks.touch_all(xid),
            _ => return,
        };
        let Some(table) = self.frames.get(relation) else { return };
        let old = match old {
            Old::None => None,
            Old::Key(tuple) | Old::Row(tuple) => Some(tuple),
        };
        self.chunks.touch(xid, table.index, old, new, is_sent);
    }

    async fn change(&mut self, data: &[u8]) -> Result<(), FlowError> {
        let echo = self.open.as_ref().is_some_and(|open| open.echo);
        let bad = |_| FlowError::Malformed { what: "a message that is not pgoutput's", at: self.read_to.to_string() };
        let message = Message::decode(data).map_err(bad)?;
        if self.chunks.is_busy() {
            self.touch(&message, !echo);
        }
        match message {
            Message::Relation(relation) => self.relation(&relation).await,
            _ if echo => Ok(()),
            Message::Insert { relation, new } if self.outboxes.contains_key(&relation) => {
                self.event(relation, new).await
            }
            Message::Update { relation, .. } if self.outboxes.contains_key(&relation) => {
                let (position, table) = (self.event_position()?, &self.outboxes[&relation].name);
                self.outlet.outbox_updated(table, position);
                Ok(())
            }
            // Whoever deletes at once what was inserted has published it all the same.
            Message::Delete { relation, .. } if self.outboxes.contains_key(&relation) => Ok(()),
            Message::Insert { relation, new } => self.row(relation, Op::Create, Old::None, Some(new)).await,
            Message::Update { relation, old, new } => self.row(relation, Op::Update, old, Some(new)).await,
            Message::Delete { relation, old } => self.row(relation, Op::Delete, old, None).await,
            Message::Truncate { relations } => {
                for relation in relations {
                    if !self.outboxes.contains_key(&relation) {
                        self.row(relation, Op::Truncate, Old::None, None).await?;
                    }
                }
                Ok(())
            }
            Message::Other => Ok(()),
        }
    }

    /// Checks the announced shape against the one that was copied, and writes the frame of the table's records.
    async fn relation(&mut self, relation: &Relation) -> Result<(), FlowError> {
        let shape = Shape::of(relation);
        let name = shape.table.clone();
        self.outboxes.remove(&relation.id);
        let Some(index) = self.plan.tables.iter().position(|table| table.source == name) else {
            self.frames.remove(&relation.id);
            if self.outbox_lines.iter().any(|line| outbox::is_of(line, &name)) {
                let places = Columns::find(relation.columns.iter().map(|column| column.name.as_str()));
                self.outboxes.insert(relation.id, OutboxState { name, places, columns: relation.columns.len() });
                return Ok(());
            }
            // A partition is announced beside its root, by whose name its rows come. Rows by any other name find no frame.
            return Ok(());
        };
        self.announced(index, &shape, true).await?;
        let key = self.keys.get(&name);
        if key.is_some_and(|key| !relation.is_told_apart_by(key)) {
            return Err(lanes::another_key(&name, self.sent_end()));
        }
        let frame = TableFrame::new(
            Connector::Postgres,
            &self.plan.names.topic(),
            self.plan.source.database(),
            &relation.schema,
            &relation.table,
            relation
                .columns
                .iter()
                .map(|column| (column.name.as_str(), key.map_or(column.is_key, |key| key.contains(&column.name)))),
        );
        let state = TableState { name, index, frame, columns: relation.columns.len() };
        self.frames.insert(relation.id, Rc::new(state));
        Ok(())
    }

    /// A table is as `shape` says from here on. `has_rows`: what cannot be carried has come; else it may be waited for.
    async fn announced(&mut self, index: usize, shape: &Shape, has_rows: bool) -> Result<(), FlowError> {
        let table = &self.plan.tables[index];
        let last_end = self.sent_end();
        let (at, is_split) = self
            .open
            .as_ref()
            .map_or(((last_end, 0), false), |open| ((open.commit_lsn, open.ordinal), open.changed.contains(&index)));
        let before = match self.schema.judge(at, shape) {
            Some(Judged::Known) => return Ok(()),
            Some(Judged::Keyed) => return self.schema.learn(self.session, self.plan, shape).await,
            Some(Judged::Other(before)) => before,
            None => return Err(FlowError::Stop(format!("{} at {}: the table was never copied", shape.table, at.0))),
        };
        let here = Here { at, drained: last_end, is_split };
        let decision = if self.side_is_open {
            self.schema.decide(self.session, self.plan, table, here, &before, shape).await?
        } else {
            // Nobody applies what stands here: people change this side first.
            Decision::Take { facts: facts::read(self.session, &shape.table).await?, copies: false }
        };
        let (facts, copies) = match decision {
            Decision::Take { facts, copies } => (facts, copies),
            Decision::Pause(_) if !has_rows => return Ok(()),
            Decision::Pause(wants) => {
                // All before it gets to the target while the flow waits, and a copy that ends there is known to have ended.
                self.even_out(last_end).await?;
                self.outlet.settle().await?;
                self.chunks.settle(self.session, &self.plan.names, self.outlet.confirmed()).await?;
                return Err(self.schema.pause(self.session, self.plan, table, here, (before, shape), &wants).await?);
            }
        };
        let mut load = None;
        // What was read of it until now has not all of its columns.
        if copies || self.chunks.is_loading(index) {
            let number = chunks::kept::next(self.session, &self.plan.names, &shape.table).await?;
            load = self.chunks.again(self.session, self.plan, &shape.table, number).await?;
        }
        let what = self.schema.take(self.session, self.plan, here, (before, shape), facts, load.as_ref()).await?;
        let names = &self.plan.names;
        let (sync, flow, copied_again) = (&names.sync, names.flow.as_str(), load.is_some());
        tracing::warn!(sync, flow, table = shape.table, at = %at.0, what, copied_again, "a table's columns changed");
        Ok(())
    }

    /// Looks at the catalogue for what no event tells.
    async fn look(&mut self, board: &Board) -> Result<(), FlowError> {
        if !self.side_is_open {
            return Ok(());
        }
        let (session, plan) = (self.session, self.plan);
        let found = self.schema.look(session, plan, self.read_to).await?;
        if self.open.is_none() {
            for (index, shape) in found.ahead {
                self.announced(index, &shape, false).await?;
            }
        }
        for (index, why) in found.again {
            let table = &plan.tables[index].source;
            if !plan.copies_in_chunks() {
                return Err(FlowError::Stop(format!("{table}: {why}, which no event tells of; copy the tables anew")));
            }
            let number = chunks::kept::next(session, &plan.names, table).await?;
            let Some(load) = self.chunks.again(session, plan, table, number).await? else { continue };
            self.schema.comes_again(session, plan, index, why, self.read_to, &load).await?;
            let (sync, flow) = (&plan.names.sync, plan.names.flow.as_str());
            tracing::warn!(sync, flow, table, why, "a table is copied again");
        }
        board.needs_verify(self.schema.needs_verify(session, plan).await?);
        Ok(())
    }

    /// Where the next event of the open transaction stands; counts it.
    fn event_position(&mut self) -> Result<Position, FlowError> {
        let Some(open) = self.open.as_mut() else {
            return Err(FlowError::Malformed {
                what: "an event outside of a transaction",
                at: self.read_to.to_string(),
            });
        };
        let ordinal = open.events;
        open.events += 1;
        Ok(Position { generation: self.generation, phase: Phase::Stream, lsn: open.commit_lsn, ordinal })
    }

    /// A row of an outbox was inserted. The stream has only what was committed, so it may be sent at once.
    async fn event(&mut self, relation: u32, new: Tuple<'_>) -> Result<(), FlowError> {
        let position = self.event_position()?;
        let outbox = &self.outboxes[&relation];
        if new.len() != outbox.columns {
            let what = "a row with another number of columns than its table";
            return Err(FlowError::Malformed { what, at: position.to_string() });
        }
        self.has_events = true;
        let event = Event {
            row: outbox.places.row(new.values()),
            table: &outbox.name,
            position,
            origin: self.plan.names.flow.source(),
            at: self.open.as_ref().map_or(0, |open| open.at),
        };
        self.outlet.publish(&event).await
    }
}
