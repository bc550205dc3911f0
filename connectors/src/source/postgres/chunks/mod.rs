//! Copies of tables in chunks by key, each emitted where it belongs in the stream; what is done survives every restart.
//!
//! `reader` reads a chunk in a snapshot of its own and *then* writes a mark into the source's log. Where the stream meets the mark, all that
//! the snapshot could see has gone by: the chunk's rows are sent there as part of the mark's transaction, except those that `touched` knows
//! to be superseded. `kept` is how far the copies are, written when a chunk stands in Kafka. A chunk whose mark is met after a restart has
//! no rows any more and sends none: it is read anew.

pub(crate) mod kept;
mod reader;
mod table;
mod touched;

use std::{
    cell::RefCell,
    collections::{BTreeMap, VecDeque},
    rc::Rc,
    time::Instant,
};

use tokio::sync::Notify;

use super::pgoutput::Tuple;
use crate::{
    database::postgres::Session,
    error::FlowError,
    failpoint::{self, Point},
    names::FlowNames,
    plan::Plan,
    position::Lsn,
    record::{control, envelope::Value},
    status::CopyProgress,
};
use kept::Kept;
pub(crate) use reader::run;
pub(crate) use table::{ChunkTable, Key};
pub(crate) use touched::{Fate, Fates};
use touched::{Touched, Visible};

/// So many chunks are read ahead of their marks.
const IN_FLIGHT: usize = 2;

/// So much of them may wait in Kafka for the target.
const AHEAD_ROWS: u64 = 50_000;
const AHEAD_BYTES: u64 = 64 << 20;
/// With more rows of a table to read again than this it is quicker, and takes less memory, to copy it from the beginning.
const MOST_AGAIN: usize = 50_000;

/// The copies of one capture, shared by the stream and the reader of the chunks.
pub(crate) struct Chunks {
    inner: RefCell<Inner>,
    /// The reader may have something to do.
    wake: Notify,
    /// By which columns `order: key` tells a table's rows apart.
    keys: BTreeMap<String, Vec<String>>,
}

struct Inner {
    loads: Vec<Load>,
    /// Read, and their marks not met.
    pending: VecDeque<Chunk>,
    /// Sent in the stream's open transaction.
    sent: Option<Sent>,
    /// Where the transactions of chunks end that the target may not have applied, with their rows and bytes.
    ends: VecDeque<(Lsn, u64, u64)>,
    touched: Touched,
}

/// A table that is being copied.
struct Load {
    /// In the plan.
    index: usize,
    table: Rc<ChunkTable>,
    number: i64,
    /// Up to where it was read; whether that is the end.
    after: Option<Key>,
    at_end: bool,
    /// To be read again.
    again: Vec<Key>,
    /// The same, sent and not known to stand in Kafka.
    unsettled: Vec<(Lsn, Vec<Key>)>,
    /// `again` grew by what the stream said.
    is_dirty: bool,
    /// There were more than may be remembered: the copy begins anew.
    is_spoilt: bool,
    /// What becomes true when all up to the end of a transaction stands in Kafka.
    steps: VecDeque<(Lsn, Step)>,
    /// Transactions that were open before all of the table's changes were in the stream have ended.
    is_fenced: bool,
    /// LOADED was sent.
    is_over: bool,
    rows: u64,
    bytes: u64,
    /// How often rows per second are guessed from: since when, and how many were there then.
    began: (Instant, u64),
}

#[derive(Clone)]
struct Step {
    after: Option<Key>,
    rows: u64,
    bytes: u64,
    is_end: bool,
}

/// Rows that one snapshot of the source saw.
pub(crate) struct Chunk {
    /// As its mark says it.
    pub(crate) id: String,
    load: usize,
    pub(crate) number: i64,
    seen: Visible,
    /// Lines of COPY, one behind the other, and where each ends.
    pub(crate) lines: Vec<u8>,
    pub(crate) ends: Vec<usize>,
    /// The last key of a range.
    last: Option<Key>,
    is_last: bool,
    /// The keys that were read again.
    again: Vec<Key>,
    /// Those that were to be, and must be asked for once more: their rows were too large together.
    rest: Vec<Key>,
}

struct Sent {
    load: usize,
    number: i64,
    rows: u64,
    bytes: u64,
    step: Step,
    again: Vec<Key>,
}

/// What the reader is to do next.
enum Want {
    Range(usize, Option<Key>),
    Again(usize, Vec<Key>),
    /// Nothing is left to read, and that must stand in the stream.
    Last(usize),
    /// A mark must be met first.
    Mark,
    Nothing,
}

// === impl Chunks ===

impl Chunks {
    /// The copies that are under way.
    pub(crate) async fn open(
        session: &Session,
        plan: &Plan,
        keys: &BTreeMap<String, Vec<String>>,
    ) -> Result<Self, FlowError> {
        let chunks = Self {
            inner: RefCell::new(Inner {
                loads: Vec::new(),
                pending: VecDeque::new(),
                sent: None,
                ends: VecDeque::new(),
                touched: Touched::default(),
            }),
            wake: Notify::new(),
            keys: keys.clone(),
        };
        if plan.copies_in_chunks() {
            for kept in kept::loading(session, &plan.names).await? {
                chunks.add(session, plan, kept).await?;
            }
        }
        Ok(chunks)
    }

    /// How many columns the table has; nothing when the file does not name it.
    async fn add(&self, session: &Session, plan: &Plan, kept: Kept) -> Result<Option<usize>, FlowError> {
        let Kept { table: name, number, after, again, rows, bytes } = kept;
        let Some(index) = plan.tables.iter().position(|table| table.source == name) else { return Ok(None) };
        let table = Rc::new(ChunkTable::load(session, plan, &name, self.keys.get(&name)).await?);
        let columns = table.columns();
        let load = Load {
            index,
            table,
            number,
            after,
            at_end: false,
            again,
            unsettled: Vec::new(),
            is_dirty: false,
            is_spoilt: false,
            steps: VecDeque::new(),
            is_fenced: false,
            is_over: false,
            rows,
            bytes,
            began: (Instant::now(), rows),
        };
        let mut inner = self.inner.borrow_mut();
        inner.loads.retain(|other| other.index != index);
        // What was read of a copy that was under way is of no use any more, and would keep the reader waiting.
        inner.pending.retain(|chunk| chunk.load != index);
        drop(inner.sent.take_if(|sent| sent.load == index));
        inner.loads.push(load);
        inner.loads.sort_by_key(|load| load.index);
        drop(inner);
        self.wake.notify_one();
        Ok(Some(columns))
    }

    /// Whether any table is being copied.
    pub(crate) fn is_busy(&self) -> bool {
        self.inner.borrow().loads.iter().any(|load| !load.is_over)
    }

    /// Whether this table is being copied.
    pub(crate) fn is_loading(&self, index: usize) -> bool {
        self.inner.borrow().loads.iter().any(|load| load.index == index && !load.is_over)
    }

    /// Prepares one more copy of a table, in place of one that is under way; it begins where its word stands in the log.
    pub(crate) async fn again(
        &self,
        session: &Session,
        plan: &Plan,
        table: &str,
        number: i64,
    ) -> Result<Option<control::Load>, FlowError> {
        let kept = Kept { table: table.to_owned(), number, after: None, again: Vec::new(), rows: 0, bytes: 0 };
        // Before the table's changes can supersede anything they must be remembered.
        let columns = self.add(session, plan, kept).await?;
        Ok(columns.map(|columns| control::Load { table: table.to_owned(), number, columns }))
    }

    /// Begins the copies that people ask for.
    pub(crate) async fn take_requests(&self, session: &Session, plan: &Plan) -> Result<(), FlowError> {
        for (table, number) in kept::asked(session, &plan.names).await? {
            self.begin(session, plan, table, number).await?;
        }
        Ok(())
    }

    /// Begins those copies anew of which too much is to be read again. To be called before the source is told what stands in Kafka.
    pub(crate) async fn begin_anew(&self, session: &Session, plan: &Plan) -> Result<(), FlowError> {
        let spoilt: Vec<(String, i64)> = {
            let inner = self.inner.borrow();
            let spoilt = inner.loads.iter().filter(|load| load.is_spoilt);
            spoilt.map(|load| (load.table.name.clone(), load.number + 1)).collect()
        };
        for (table, number) in spoilt {
            tracing::info!(table, "so many of its keys change that the copy begins anew");
            self.begin(session, plan, table, number).await?;
        }
        Ok(())
    }

    async fn begin(&self, session: &Session, plan: &Plan, table: String, number: i64) -> Result<(), FlowError> {
        let Some(load) = self.again(session, plan, &table, number).await? else { return Ok(()) };
        let (begin, announce) = (kept::begin(&plan.names, &load), kept::announce(&plan.names, &load));
        session
            .batch_execute(&format!("BEGIN; {begin} {announce} COMMIT"))
            .await
            .map_err(|e| FlowError::sql("beginning to copy a table again", &e))
    }

    /// A streamed change of a row. `is_sent`: the target learns of it through this stream.
    pub(crate) fn touch<'a>(
        &self,
        xid: u32,
        index: usize,
        old: Option<Tuple<'a>>,
        new: Option<Tuple<'a>>,
        is_sent: bool,
    ) {
        let mut inner = self.inner.borrow_mut();
        let Inner { loads, touched, .. } = &mut *inner;
        let Some(load) = loads.iter_mut().find(|load| load.index == index && !load.is_over) else { return };
        let (mut old_key, mut new_key) = (Vec::new(), Vec::new());
        let lacks = !is_sent || new.is_some_and(|new| new.values().any(|value| value == Value::Unchanged));
        if let Some(old) = old {
            load.table.write_key(&mut old_key, &old.values());
        }
        // A part of the key that is stored elsewhere and stayed is said with the old row alone.
        let whole = |new: Tuple<'a>| {
            new.values().enumerate().map(move |(at, value)| match (value, old) {
                (Value::Unchanged, Some(old)) => old.values().nth(at).unwrap_or(value),
                _ => value,
            })
        };
        if let Some(new) = new {
            load.table.write_key(&mut new_key, &whole(new));
            touched.row(xid, index, &new_key, lacks);
        }
        if old.is_some() && old_key != new_key {
            touched.row(xid, index, &old_key, !is_sent);
            // The target may not have the row under its old key, and the chunks may have passed the new one.
            if let Some(new) = new.filter(|_| lacks && !load.is_spoilt) {
                load.again.push(load.table.key_of(&whole(new)));
                load.is_dirty = true;
                if load.again.len() > MOST_AGAIN {
                    load.again = Vec::new();
                    load.is_spoilt = true;
                }
            }
        }
    }

    /// A streamed change of a whole table.
    pub(crate) fn touch_all(&self, xid: u32) {
        self.inner.borrow_mut().touched.everything(xid);
    }

    /// The chunk whose mark the stream has met, and what became of its rows since.
    pub(crate) fn take(&self, id: &str) -> Option<(Chunk, Fates, Rc<ChunkTable>)> {
        let mut inner = self.inner.borrow_mut();
        let at = inner.pending.iter().position(|chunk| chunk.id == id)?;
        let chunk = inner.pending.remove(at)?;
        let load = inner.loads.iter().find(|load| load.index == chunk.load && load.number == chunk.number)?;
        let (index, table) = (load.index, Rc::clone(&load.table));
        let fates = inner.touched.fates(&chunk.seen, index);
        // Chunks are read one after the other: the later ones see all that this one sees.
        inner.touched.forget(&chunk.seen);
        Some((chunk, fates, table))
    }

    /// A chunk's rows were sent, but those that are to be read again. Whether the table is complete with them.
    pub(crate) fn sent(&self, chunk: Chunk, rows: u64, again: Vec<Key>) -> bool {
        let mut inner = self.inner.borrow_mut();
        let more = inner.pending.iter().any(|other| other.load == chunk.load);
        let Some(load) = inner.loads.iter_mut().find(|load| load.index == chunk.load) else { return false };
        if !load.is_spoilt {
            load.again.extend(again);
        }
        load.rows += rows;
        load.bytes += chunk.lines.len() as u64;
        load.is_over = load.at_end && load.again.is_empty() && !more && !load.is_spoilt;
        let step = Step { after: chunk.last, rows: load.rows, bytes: load.bytes, is_end: load.is_over };
        let is_over = load.is_over;
        let bytes = chunk.lines.len() as u64;
        inner.sent = Some(Sent { load: chunk.load, number: chunk.number, rows, bytes, step, again: chunk.again });
        if !inner.loads.iter().any(|load| !load.is_over) {
            inner.touched.clear();
        }
        drop(inner);
        self.wake.notify_one();
        is_over
    }

    /// The stream's open transaction ends here.
    pub(crate) fn committed(&self, end: Lsn) {
        let mut inner = self.inner.borrow_mut();
        let Some(Sent { load: index, number, rows, bytes, step, again }) = inner.sent.take() else { return };
        inner.ends.push_back((end, rows, bytes));
        if let Some(load) = inner.loads.iter_mut().find(|load| load.index == index && load.number == number) {
            load.steps.push_back((end, step));
            if !again.is_empty() {
                load.unsettled.push((end, again));
            }
        }
    }

    /// Keeps what stands in Kafka. To be called before the source is told so: what is to be read again would be forgotten.
    pub(crate) async fn settle(&self, session: &Session, names: &FlowNames, confirmed: Lsn) -> Result<(), FlowError> {
        let mut all = Vec::new();
        {
            let mut inner = self.inner.borrow_mut();
            let Inner { loads, pending, sent, .. } = &mut *inner;
            let open = sent.as_ref().map(|sent| sent.load);
            for load in loads.iter_mut().filter(|load| !load.is_spoilt) {
                let mut last = None;
                while let Some((_, step)) = load.steps.pop_front_if(|(end, _)| *end <= confirmed) {
                    last = Some(match last {
                        // Only a range moves the key.
                        Some(Step { after, .. }) if step.after.is_none() => Step { after, ..step },
                        _ => step,
                    });
                }
                load.unsettled.retain(|(end, _)| *end > confirmed);
                if last.is_none() && !load.is_dirty {
                    continue;
                }
                load.is_dirty = false;
                // More than need be is no harm: what was sent already is read once more.
                let waiting = pending.iter().filter(|chunk| chunk.load == load.index).flat_map(|chunk| &chunk.again);
                let unsettled = load.unsettled.iter().flat_map(|(_, keys)| keys);
                let sent = sent.iter().filter(|sent| sent.load == load.index).flat_map(|sent| &sent.again);
                let again = load.again.iter().chain(waiting).chain(sent).chain(unsettled).cloned().collect();
                let Step { after, rows, bytes, is_end } =
                    last.unwrap_or(Step { after: None, rows: load.rows, bytes: load.bytes, is_end: false });
                let table = load.table.name.clone();
                all.push((
                    Kept { table, number: load.number, after, again, rows, bytes },
                    is_end,
                    load.table.columns(),
                ));
            }
            loads.retain(|load| !load.is_over || !load.steps.is_empty() || open == Some(load.index));
        }
        for (kept, is_end, columns) in all {
            failpoint::reached(Point::ChunkDelivered);
            // Lanes meet at LOADED: it stands in a transaction of its own, behind all rows of the copy.
            let load = control::Load { table: kept.table.clone(), number: kept.number, columns };
            let word = if is_end && !self.keys.is_empty() { kept::loaded(names, &load) } else { String::new() };
            kept::keep(session, names, &kept, is_end, &word).await?;
            failpoint::reached(Point::ChunkKept);
        }
        Ok(())
    }

    /// How far the copies are.
    pub(crate) fn progress(&self) -> Vec<CopyProgress> {
        let inner = self.inner.borrow();
        let one = |load: &Load| {
            let rows_total = load.table.guess.max(load.rows);
            let rate = (load.rows - load.began.1) as f64 / load.began.0.elapsed().as_secs_f64().max(0.001);
            let eta_seconds = (rate > 0.0).then(|| (rows_total - load.rows) as f64 / rate);
            CopyProgress { table: load.table.name.clone(), rows: load.rows, bytes: load.bytes, rows_total, eta_seconds }
        };
        inner.loads.iter().filter(|load| !load.is_over).map(one).collect()
    }

    /// What the reader is to do; keys are handed out at most `limit` at a time.
    fn want(&self, limit: usize) -> Want {
        let mut inner = self.inner.borrow_mut();
        let Inner { loads, pending, .. } = &mut *inner;
        let Some(load) = loads.iter_mut().find(|load| !load.is_over) else { return Want::Nothing };
        if load.is_spoilt {
            return Want::Mark;
        }
        let in_flight = pending.iter().filter(|chunk| chunk.load == load.index).count();
        if pending.len() >= IN_FLIGHT {
            Want::Mark
        } else if !load.again.is_empty() {
            // They stay here until the chunk is read: whatever is kept meanwhile must name them.
            Want::Again(load.index, load.again.iter().take(limit).cloned().collect())
        } else if !load.at_end {
            Want::Range(load.index, load.after.clone())
        } else if in_flight > 0 {
            Want::Mark
        } else {
            Want::Last(load.index)
        }
    }

    fn table(&self, index: usize) -> Option<(Rc<ChunkTable>, i64)> {
        let inner = self.inner.borrow();
        let load = inner.loads.iter().find(|load| load.index == index)?;
        Some((Rc::clone(&load.table), load.number))
    }

    /// The transactions have ended that were open when the copies of this process began.
    fn fenced(&self, indexes: &[usize]) {
        let mut inner = self.inner.borrow_mut();
        inner.loads.iter_mut().filter(|load| indexes.contains(&load.index)).for_each(|load| load.is_fenced = true);
    }

    fn unfenced(&self) -> Vec<usize> {
        self.inner.borrow().loads.iter().filter(|load| !load.is_fenced).map(|load| load.index).collect()
    }

    /// A chunk was read, and its mark will follow.
    fn push(&self, mut chunk: Chunk) {
        let mut inner = self.inner.borrow_mut();
        let is_its = |load: &&mut Load| load.index == chunk.load && load.number == chunk.number && !load.is_spoilt;
        // Of a copy that has begun anew meanwhile nothing is of use.
        let Some(load) = inner.loads.iter_mut().find(is_its) else { return };
        if chunk.last.is_some() {
            load.after.clone_from(&chunk.last);
        }
        load.at_end |= chunk.is_last;
        load.again.drain(..chunk.again.len() + chunk.rest.len());
        load.again.append(&mut chunk.rest);
        inner.pending.push_back(chunk);
    }

    /// Whether so much was sent that the target has not applied that more would only fill Kafka. The target has all up to `applied`.
    fn is_ahead(&self, applied: Option<Lsn>) -> bool {
        let mut inner = self.inner.borrow_mut();
        if let Some(applied) = applied {
            while inner.ends.pop_front_if(|(end, ..)| *end <= applied).is_some() {}
        }
        let (rows, bytes) = inner.ends.iter().fold((0, 0), |(rows, bytes), end| (rows + end.1, bytes + end.2));
        rows >= AHEAD_ROWS || bytes >= AHEAD_BYTES
    }

    /// No chunk is under way: what this snapshot sees, every later one will.
    fn forget(&self, seen: &Visible) {
        let mut inner = self.inner.borrow_mut();
        if inner.pending.is_empty() {
            inner.touched.forget(seen);
        }
    }
}
