//! The stream: from the binlog's events to records, transaction by transaction.
//!
//! What stands in Kafka as COMMIT or CHECKPOINT, by delivery report, is noted on the source now and then, and read again from there. A
//! transaction that carries the opposite flow's loop mark is our own: it leaves no record. `rows.rs` has what becomes of each row.

mod rows;

use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, Instant},
};

use futures_util::StreamExt as _;
use mysql_async::{BinlogStream, BinlogStreamRequest, binlog::events::Event};

use super::{
    charset::Charsets,
    event::{ARTIFICIAL, BadEvent, MariadbGtid, Query, Rotate, Rows, WireColumn, kind},
    outbox::{Kept, OutboxReader},
    outboxes::Outboxes,
    schema::{Altered, Schema},
    shape::{self, TableShape},
    snapshot::{Cells, frame, used_charsets},
    statement::{self, Statement},
    stored::{self, Opened, Place},
    value::Reader,
};
use crate::{
    database::mysql::{MysqlSession, MysqlUrl},
    error::FlowError,
    failpoint::{self, Point},
    kafka::produce::Outlet,
    owner,
    plan::Plan,
    position::{Generation, Lsn, Phase, Position},
    record::{
        FIRST_TIMELINE, Head, Kind,
        control::{Checkpoint, Commit},
        envelope::{Op, Stamp, TableFrame},
    },
    status::Board,
    timeline::Timeline,
};

/// How often an idle stream is looked at.
const TICK: Duration = Duration::from_millis(100);
/// The least time between two CHECKPOINTs of the owner's side.
const CHECKPOINT: Duration = Duration::from_secs(1);
/// The same of the other side, where mostly our own writes move the log: two flows must not keep each other busy.
const SLOW_CHECKPOINT: Duration = Duration::from_secs(10);
/// So much log behind makes a CHECKPOINT due on either side, and what was confirmed worth noting.
const MUCH: u64 = 16 << 20;
/// How often what stands in Kafka is noted on the source: each note moves its log.
const NOTE: Duration = Duration::from_secs(10);
/// How often the lock and the settings are looked at.
const LOOK: Duration = Duration::from_secs(10);
/// A source that has nothing to say says so this often, and is gone when it does not.
const HEARTBEAT_SECONDS: u64 = 5;
const SILENCE: Duration = Duration::from_secs(30);

/// One run of the stream.
struct Stream<'a> {
    plan: &'a Plan,
    outlet: &'a mut Outlet,
    generation: Generation,
    charsets: Charsets,
    schema: Schema,
    /// By which the rows that come are read.
    shape: Vec<TableShape>,
    /// Of the tables; behind them those that are or were outboxes.
    names: Vec<String>,
    outboxes: Outboxes,
    /// Their tables as the catalogue has them, in the order of `names`.
    outbox_shapes: Vec<Option<TableShape>>,
    frames: Vec<TableFrame>,
    readers: Vec<Vec<Reader>>,
    maps: HashMap<u64, Announced>,
    /// The number of the log's file that is being read.
    file: u64,
    /// The log has described itself.
    begun: bool,
    open: Option<Transaction>,
    /// The last end that was sent as COMMIT or CHECKPOINT.
    last_end: Lsn,
    /// The last transaction that was read, as the server numbers them; and the one that ends at `last_end`.
    gtid: String,
    last_gtid: String,
    /// How far the log was read without anything to send.
    read_to: Lsn,
    read_at: i64,
    /// Events were sent that no end behind them confirms yet.
    has_events: bool,
    epoch: i64,
    side_is_open: bool,
    before: Cells,
    after: Cells,
    key: Vec<u8>,
    value: Vec<u8>,
}

/// A table that was announced: the same bytes mean the same again.
struct Announced {
    bytes: Vec<u8>,
    columns: Vec<WireColumn>,
    whose: Whose,
    /// What reads it, if it is an outbox.
    events: Option<OutboxReader>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Whose {
    /// One of the plan's, by its index.
    Ours(usize),
    /// `banyan.mark`.
    Mark,
    /// An outbox, by its place among the names.
    Outbox(usize),
    Other,
}

/// The source transaction that is being read.
struct Transaction {
    commit_lsn: Lsn,
    /// Microseconds since 1970.
    at: i64,
    ordinal: u64,
    events: Kept,
    /// Our own opposite flow wrote it.
    echo: bool,
    /// An end follows; else its one statement is the end.
    begun: bool,
    /// How it ends is not known yet.
    prepared: bool,
    gtid: String,
}

/// Reads the log until something ends it.
pub(crate) async fn run(
    plan: &Plan,
    url: &MysqlUrl,
    opened: &mut Opened,
    outlet: &mut Outlet,
    board: &Board,
) -> Result<(), FlowError> {
    let doing = "reading the binlog";
    let names = &plan.names;
    let row = owner::mysql::read(&mut opened.session, &names.install, &names.sync, names.flow.source()).await?;
    let outboxes = opened.outboxes.clone();
    let mut outbox_shapes = Vec::new();
    for table in outboxes.tables() {
        outbox_shapes.push(shape::read_one(&mut opened.session, &table).await?);
    }
    let mut used = used_charsets(&opened.shape);
    used.extend(outbox_shapes.iter().flatten().flat_map(|table| used_charsets(std::slice::from_ref(table))));
    if !outbox_shapes.is_empty() {
        // What an outbox's columns were before they were altered, the log alone knows; this was the servers' default for long.
        used.push("latin1".to_owned());
    }
    let charsets = Charsets::read(&mut opened.session, used.iter().map(String::as_str)).await?;
    let from = Place { log: opened.log.clone(), lsn: opened.from };
    let mut events = request(plan, url, &from).await?;
    let (shape, schema) = (opened.shape.clone(), Schema::open(opened, plan).await?);
    let flavor = opened.session.flavor;
    let mut stream = Stream {
        plan,
        outlet,
        generation: opened.generation,
        names: shape.iter().map(|table| table.name.clone()).chain(outboxes.tables()).collect(),
        outboxes,
        outbox_shapes,
        frames: shape.iter().map(|table| frame(plan, flavor, table)).collect(),
        readers: shape
            .iter()
            .map(|table| table.columns.iter().map(|column| Reader::new(column, &charsets)).collect())
            .collect(),
        charsets,
        schema,
        shape,
        maps: HashMap::new(),
        file: from.lsn.get() >> 32,
        begun: false,
        open: None,
        last_end: from.lsn,
        gtid: String::new(),
        last_gtid: String::new(),
        read_to: from.lsn,
        read_at: 0,
        has_events: false,
        epoch: row.map_or(0, |row| row.epoch),
        side_is_open: row.is_some_and(|row| row.open),
        before: Cells::default(),
        after: Cells::default(),
        key: Vec::with_capacity(256),
        value: Vec::with_capacity(4096),
    };
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let (mut checkpoint, mut noted, mut looked, mut heard) =
        (Instant::now(), Instant::now(), Instant::now(), Instant::now());
    // Ends that may be noted, each with the transaction before it.
    let mut ends: VecDeque<(Lsn, String)> = VecDeque::new();
    let mut note = from.lsn;
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
                if heard.elapsed() > SILENCE {
                    return Err(FlowError::Lost { doing, kind: Some(std::io::ErrorKind::TimedOut) });
                }
                let pause = if stream.side_is_open || stream.has_events || stream.read_to.since(stream.last_end) > MUCH {
                    CHECKPOINT
                } else {
                    SLOW_CHECKPOINT
                };
                if stream.open.is_none() && stream.read_to > stream.last_end && checkpoint.elapsed() >= pause {
                    checkpoint = Instant::now();
                    stream.checkpoint().await?;
                }
                if ends.back().is_none_or(|(end, _)| *end < stream.last_end) && stream.last_end > note {
                    ends.push_back((stream.last_end, stream.last_gtid.clone()));
                }
                let confirmed = stream.outlet.confirmed();
                let known = ends.partition_point(|(end, _)| *end <= confirmed);
                if known > 0 && (noted.elapsed() >= NOTE || confirmed.since(note) > MUCH) {
                    if let Some((end, gtid)) = ends.drain(..known).next_back() {
                        failpoint::reached(Point::ConfirmBefore);
                        stored::confirm(opened, plan, end, &gtid).await?;
                        failpoint::reached(Point::ConfirmAfter);
                        note = end;
                    }
                    (noted, looked) = (Instant::now(), Instant::now());
                }
                if looked.elapsed() >= LOOK {
                    opened.session.still_locked(&opened.lock).await?;
                    stored::check_settings(&mut opened.session).await?;
                    looked = Instant::now();
                }
            }
            event = events.next() => {
                match event {
                    Some(Ok(event)) => {
                        stream.take(&event, &mut opened.session).await?;
                        // That may have waited for Kafka, while the server went on sending.
                        heard = Instant::now();
                    }
                    Some(Err(error)) => return Err(refused(doing, &error, &from)),
                    None => return Err(FlowError::Lost { doing, kind: None }),
                }
            }
        }
    }
}

/// Asks for the log from a place on.
async fn request(plan: &Plan, url: &MysqlUrl, from: &Place) -> Result<BinlogStream, FlowError> {
    let doing = "reading the binlog";
    let mut session = url.connect(&plan.names.application("binlog")).await?;
    let period = HEARTBEAT_SECONDS * 1_000_000_000;
    session
        .run(
            doing,
            &format!(
                "SET @master_heartbeat_period = {period}, @source_heartbeat_period = {period}, @mariadb_slave_capability = 4"
            ),
        )
        .await?;
    // Each reader of a server has a number of its own; one that comes back puts the one before it out.
    let number = u32::try_from(plan.names.lock("binlog").cast_unsigned() >> 33).unwrap_or(1) | 0x4000_0000;
    let file = from.file();
    let request = BinlogStreamRequest::new(number).with_filename(file.as_bytes()).with_pos(from.offset());
    session.conn.get_binlog_stream(request).await.map_err(|error| refused(doing, &error, from))
}

/// 1236: the server cannot read its log from there.
fn refused(doing: &'static str, error: &mysql_async::Error, from: &Place) -> FlowError {
    match FlowError::mysql(doing, error) {
        FlowError::Mysql { code: 1236, .. } => FlowError::NeedsSnapshot(format!(
            "the source no longer has its binlog from {} on (error 1236 of the server)",
            from.name()
        )),
        FlowError::Mysql { code: 1227 | 1045, .. } => FlowError::Stop(
            "the source does not let this user read the binlog: run `GRANT REPLICATION SLAVE ON *.* TO …`".into(),
        ),
        other => other,
    }
}

/// Where a transaction begins.
fn first(generation: Generation, lsn: Lsn) -> Position {
    Position { generation, phase: Phase::Stream, lsn, ordinal: 0 }
}

fn micros(seconds: u32) -> i64 {
    i64::from(seconds) * 1_000_000
}

// === impl Stream ===

impl Stream<'_> {
    async fn take(&mut self, event: &Event, session: &mut MysqlSession) -> Result<(), FlowError> {
        let header = event.header();
        let (type_id, data) = (header.event_type_raw(), event.data());
        let at = micros(header.timestamp());
        let is_artificial = header.flags_raw() & ARTIFICIAL != 0 || header.log_pos() == 0;
        let end = Lsn::new(self.file << 32 | u64::from(header.log_pos()));
        let read_to = self.read_to;
        let bad =
            |_: BadEvent| FlowError::Malformed { what: "an event that is not the binlog's", at: read_to.to_string() };
        match type_id {
            // The first only says which file was asked for, before anybody knows whether events end with a checksum.
            kind::ROTATE if !self.begun => return Ok(()),
            kind::ROTATE => {
                let rotate = Rotate::decode(data).map_err(bad)?;
                let place = Place::of(&String::from_utf8_lossy(rotate.file), rotate.position)?;
                self.file = place.lsn.get() >> 32;
                self.maps.clear();
                return Ok(());
            }
            // Tables are announced anew behind it.
            kind::FORMAT_DESCRIPTION => {
                self.begun = true;
                self.maps.clear();
                return Ok(());
            }
            kind::HEARTBEAT => return Ok(()),
            kind::INCIDENT => {
                return Err(FlowError::NeedsSnapshot(format!(
                    "the source notes at {end} that its binlog lost something"
                )));
            }
            _ => {}
        }
        if !is_artificial && end < self.read_to {
            return Err(FlowError::Stop(format!(
                "a file of the source's binlog is larger than the 4 GiB whose offsets its events can name (behind {}); keep transactions smaller, and copy the tables anew",
                self.read_to
            )));
        }
        match type_id {
            kind::MARIADB_GTID => {
                let gtid = MariadbGtid::decode(data).map_err(bad)?;
                let name = format!("{}-{}-{}", gtid.domain, header.server_id(), gtid.sequence);
                self.begin(end, header.event_size(), at, name);
                if let Some(open) = &mut self.open {
                    (open.begun, open.prepared) = (!gtid.is_standalone(), gtid.is_prepared());
                }
            }
            kind::GTID | kind::ANONYMOUS_GTID | kind::GTID_TAGGED => {
                self.begin(end, header.event_size(), at, String::new());
            }
            kind::QUERY => self.query(Query::decode(data).map_err(bad)?, end, at).await?,
            kind::EXECUTE_LOAD_QUERY => self.query(Query::decode_load(data).map_err(bad)?, end, at).await?,
            kind::XID => self.commit(end, at).await?,
            // The transaction's second half comes later, as a statement; what it changed of ours would be known only then.
            kind::XA_PREPARE => self.ended(),
            kind::TABLE_MAP => self.table_map(data, session).await?,
            kind::WRITE_ROWS
            | kind::UPDATE_ROWS
            | kind::DELETE_ROWS
            | kind::WRITE_ROWS_V1
            | kind::UPDATE_ROWS_V1
            | kind::DELETE_ROWS_V1 => self.rows(Rows::decode(type_id, data).map_err(bad)?).await?,
            kind::PARTIAL_UPDATE_ROWS => {
                return Err(FlowError::Stop(format!(
                    "the binlog at {end} has parts of JSON values alone: set `binlog_row_value_options` to nothing"
                )));
            }
            kind::TRANSACTION_PAYLOAD => {
                return Err(FlowError::Stop(format!(
                    "the binlog at {end} is compressed: set `binlog_transaction_compression` off"
                )));
            }
            compressed if kind::COMPRESSED.contains(&compressed) => {
                return Err(FlowError::Stop(format!("the binlog at {end} is compressed: set `log_bin_compress` off")));
            }
            _ => {}
        }
        if self.open.is_none() && !is_artificial {
            self.read_to = self.read_to.max(end);
            self.read_at = self.read_at.max(at);
        }
        Ok(())
    }

    /// The transaction's place is where its first event begins: the end of the one before, or something between.
    fn begin(&mut self, end: Lsn, size: u32, at: i64, gtid: String) {
        let commit_lsn = Lsn::new(end.get().saturating_sub(u64::from(size)));
        self.open = Some(Transaction {
            commit_lsn,
            at,
            ordinal: 0,
            events: Kept::default(),
            echo: false,
            begun: false,
            prepared: false,
            gtid,
        });
    }

    async fn query(&mut self, query: Query<'_>, end: Lsn, at: i64) -> Result<(), FlowError> {
        let (sql, database) = (String::from_utf8_lossy(query.sql), String::from_utf8_lossy(query.database));
        let begun = self.open.as_ref().is_some_and(|open| open.begun);
        match statement::read(&sql, &database, &self.names) {
            Statement::Begin => {
                if let Some(open) = &mut self.open {
                    open.begun = true;
                }
                return Ok(());
            }
            Statement::XaStart => {
                if let Some(open) = &mut self.open {
                    (open.begun, open.prepared) = (true, true);
                }
                return Ok(());
            }
            Statement::Commit => return self.commit(end, at).await,
            Statement::Rollback => {
                // What was sent of it has no COMMIT, and never counts.
                self.ended();
                return Ok(());
            }
            Statement::RollbackTo => {
                let ours = self.open.as_ref().is_some_and(|open| open.ordinal > 0 || !open.events.is_empty());
                if ours {
                    return Err(FlowError::Stop(format!(
                        "a transaction before {end} changed tables of more than one engine and rolled a part of it back, which cannot be followed"
                    )));
                }
            }
            // What empties or tidies an outbox takes no event back, and nobody reads what was there before it was dropped or made anew.
            Statement::Truncate(table) | Statement::Altered(table, _) | Statement::Unfollowed(table, _)
                if table >= self.shape.len() => {}
            Statement::NewRows(table) if table >= self.shape.len() => self.unknown_events(end)?,
            Statement::Truncate(table) => self.row(table, Op::Truncate).await?,
            Statement::NewRows(table) => self.unfollowed(table, end, statement::NO_ROWS)?,
            Statement::Unfollowed(table, why) => self.unfollowed(table, end, why)?,
            Statement::Altered(table, is_plain) => {
                let so_far = &mut self.schema.altered[table];
                *so_far = match (*so_far, is_plain) {
                    (Altered::Plainly, true) => Altered::Plainly,
                    _ => Altered::Otherwise,
                };
            }
            Statement::Other => {}
        }
        if begun { Ok(()) } else { self.commit(end, at).await }
    }

    /// A statement whose rows are not in the log; one of our own opposite flow's is none to us.
    fn unfollowed(&self, table: usize, end: Lsn, why: &str) -> Result<(), FlowError> {
        if self.open.as_ref().is_some_and(|open| open.echo) {
            return Ok(());
        }
        Err(FlowError::Stop(format!("{} at {end}: {why}; copy the tables anew", self.names[table])))
    }

    /// The same where the rows were events: of whichever table is the outbox here, since a statement may name more than one.
    fn unknown_events(&self, end: Lsn) -> Result<(), FlowError> {
        let Some(name) = self.outboxes.table_at(self.here()) else { return Ok(()) };
        let Some(stretch) = self.outboxes.at(name, self.here()) else { return Ok(()) };
        if stretch.has_ended() {
            // A person has read the error below, and said so.
            tracing::warn!(table = name, at = %end, "new rows of what was an outbox stand in the binlog as a statement: no event was made of them");
            return Ok(());
        }
        Err(FlowError::Stop(format!(
            "{name} at {end}: new rows of it stand in the binlog as a statement and not as rows, so that their events are not known; publish them by \
             hand, and start once without `outbox` in the file, which passes them over"
        )))
    }

    /// The place of the open transaction.
    fn here(&self) -> Lsn {
        self.open.as_ref().map_or(self.read_to, |open| open.commit_lsn)
    }

    /// Sends the events of the transaction that has committed.
    async fn publish(&mut self, at: i64) -> Result<(), FlowError> {
        let Some(open) = self.open.as_mut().filter(|open| !open.events.is_empty() && !open.echo) else { return Ok(()) };
        let (events, lsn) = (std::mem::take(&mut open.events), open.commit_lsn);
        let Some(table) = self.outboxes.table_at(lsn) else { return Ok(()) };
        self.has_events = true;
        let (first, origin) = (first(self.generation, lsn), self.plan.names.flow.source());
        events.publish(table, first, origin, at, self.outlet).await
    }

    fn malformed(&self, what: &'static str) -> FlowError {
        FlowError::Malformed { what, at: self.read_to.to_string() }
    }

    /// The head of the next record of the open transaction; counts it.
    fn head(&mut self, kind: Kind) -> Result<(Head, Stamp), FlowError> {
        let Some(open) = self.open.as_mut() else {
            return Err(self.malformed("a change outside of a transaction"));
        };
        let position =
            Position { generation: self.generation, phase: Phase::Stream, lsn: open.commit_lsn, ordinal: open.ordinal };
        let stamp = Stamp { op: Op::Create, committed: open.at, xid: 0, lsn: open.commit_lsn };
        if kind != Kind::Commit {
            open.ordinal += 1;
        }
        Ok((
            Head {
                kind,
                position,
                from: self.last_end,
                epoch: self.epoch,
                origin: self.plan.names.flow.source(),
                timeline: FIRST_TIMELINE,
            },
            stamp,
        ))
    }

    async fn commit(&mut self, end: Lsn, at: i64) -> Result<(), FlowError> {
        self.publish(at).await?;
        let Some(open) = &self.open else { return Ok(()) };
        if open.ordinal > 0 && !open.echo {
            failpoint::reached(Point::CommitRead);
            let count = open.ordinal;
            let (head, _) = self.head(Kind::Commit)?;
            self.value.clear();
            Commit { end, count, at }.write(&mut self.value);
            self.outlet.send(head, "COMMIT", &[], &self.value, Some(end)).await?;
            self.last_end = end;
            self.has_events = false;
            self.ended();
            self.last_gtid.clone_from(&self.gtid);
        }
        self.ended();
        Ok(())
    }

    /// The open transaction has gone by, whatever became of it.
    fn ended(&mut self) {
        if let Some(open) = self.open.take() {
            self.gtid = open.gtid;
        }
    }

    /// Says in Kafka that the log holds nothing for this flow up to where it was read.
    async fn checkpoint(&mut self) -> Result<(), FlowError> {
        let head = Head {
            kind: Kind::Checkpoint,
            position: Position { generation: self.generation, phase: Phase::Stream, lsn: self.read_to, ordinal: 0 },
            from: self.last_end,
            epoch: self.epoch,
            origin: self.plan.names.flow.source(),
            timeline: FIRST_TIMELINE,
        };
        self.value.clear();
        Checkpoint { at: self.read_at, timeline: Timeline::default() }.write(&mut self.value);
        self.outlet.send(head, "CHECKPOINT", &[], &self.value, Some(self.read_to)).await?;
        self.last_end = self.read_to;
        self.has_events = false;
        self.last_gtid.clone_from(&self.gtid);
        Ok(())
    }
}
