//! The way out of Kafka for one lane of `order: key`: its partition of the flow's topic, and the same partition of every table's topic.
//!
//! A transaction's rows are asked for when its COMMIT was read, which says how many stand in which topic, and are given in their order, the
//! COMMIT behind them. So nothing is begun that nobody finished, and what waits, waits in Kafka. In a table's topic, what is older than the
//! transaction was applied or is sent twice; what is younger is passed over: the capture that sent it lacked what is looked for, and whoever
//! sends that sends all behind it again.

use std::{
    collections::{BTreeMap, HashSet, VecDeque},
    sync::Arc,
};

use futures_util::{FutureExt as _, StreamExt as _};
use rdkafka::{
    Message as _, Offset, TopicPartitionList,
    consumer::{Consumer as _, StreamConsumer, stream_consumer::StreamPartitionQueue},
    error::KafkaError,
    message::OwnedMessage,
};
use serde::Deserialize;

use super::{
    client::Ear,
    consume::{self, TIMEOUT},
};
use crate::{
    config::Kafka,
    error::FlowError,
    plan::Plan,
    position::{Phase, Position},
    record::{FIRST_TIMELINE, Head, Kind},
    target::applied::{Applied, Place},
};

/// So many records of the flow's topic are kept that were read ahead of a transaction whose rows have not come, at most.
const AHEAD: usize = 1_000;

/// A reader of one lane.
pub(crate) struct LaneInlet {
    kafka: Arc<Kafka>,
    lane: u32,
    /// Bytes.
    budget: usize,
    /// The flow's topic, and behind it the tables' in the order of the plan.
    topics: Vec<String>,
    tables: Vec<String>,
    reader: Option<Reader>,
    /// Offsets of COMMITs whose rows will never come: of a chunk of a copy, that only the capture had which was killed amid it.
    dead: HashSet<i64>,
}

/// What is read from one place on.
struct Reader {
    consumer: Arc<StreamConsumer<Ear>>,
    queues: Vec<Queue>,
    /// Records of the flow's topic before their COMMIT.
    marks: Vec<Given>,
    open: Option<Open>,
    /// Records of the flow's topic that were read while rows were waited for.
    ahead: VecDeque<Given>,
    /// There were more of them, which were looked at and must be read once more.
    has_dropped: bool,
}

/// One partition.
struct Queue {
    topic: String,
    queue: StreamPartitionQueue<Ear>,
    /// What the consumer gave itself.
    here: VecDeque<OwnedMessage>,
    /// The record that must stand before the first one.
    before: Option<(i64, String)>,
    /// Up to where it was polled.
    polled: i64,
    /// The next record, looked at and not taken.
    next: Option<Given>,
    /// What was taken or passed over last.
    taken: Option<(i64, Position)>,
}

/// A transaction whose rows are being given.
struct Open {
    commit: Given,
    /// Of records, its COMMIT left out.
    count: u64,
    next: u64,
    marks: VecDeque<Given>,
    /// By table, how many rows have not been given.
    left: Vec<(usize, u64)>,
}

/// What is given: who it is, what it says, and where it stands.
pub(crate) struct Given {
    pub(crate) head: Head,
    message: OwnedMessage,
    /// In the flow's topic; of a row that of its COMMIT.
    pub(crate) offset: i64,
    /// With a COMMIT: up to where the topics of its tables were read.
    pub(crate) read: Vec<(usize, Place)>,
}

/// Of a COMMIT's value.
#[derive(Deserialize)]
struct Rows {
    count: u64,
    rows: BTreeMap<String, u64>,
}

// === impl Given ===

impl Given {
    fn new(message: OwnedMessage) -> Result<Self, FlowError> {
        let offset = message.offset();
        let head = message.headers().and_then(|headers| Head::from_headers(headers.as_borrowed()).ok());
        let Some(head) = head else {
            return Err(FlowError::Malformed {
                what: "a record without Banyan's headers",
                at: format!("offset {offset} of `{}`", message.topic()),
            });
        };
        Ok(Self { head, message, offset, read: Vec::new() })
    }

    pub(crate) fn value(&self) -> &[u8] {
        self.message.payload().unwrap_or_default()
    }

    /// Whether it stands in the same transaction, of the same server.
    fn is_beside(&self, other: Head) -> bool {
        let of = |head: Head| (head.position.generation, head.position.phase, head.position.lsn, head.timeline);
        of(self.head) == of(other)
    }
}

// === impl LaneInlet ===

impl LaneInlet {
    /// A reader of the plan's lane that has not begun, and holds some `budget` bytes.
    pub(crate) fn new(plan: &Plan, budget: usize) -> Self {
        let tables: Vec<String> = plan.tables.iter().map(|table| table.source.clone()).collect();
        let topics =
            std::iter::once(plan.names.topic()).chain(tables.iter().map(|table| plan.names.table_topic(table)));
        Self {
            kafka: Arc::clone(&plan.kafka),
            lane: plan.lane,
            budget: (budget / (tables.len() + 1)).max(64 << 10),
            topics: topics.collect(),
            tables,
            reader: None,
            dead: HashSet::new(),
        }
    }

    fn partition(&self) -> i32 {
        i32::try_from(self.lane).unwrap_or(i32::MAX)
    }

    /// Begins behind what is applied; all topics must hold it. Gives the offset in the flow's topic.
    pub(crate) fn begin(&mut self, applied: &Applied) -> Result<i64, FlowError> {
        self.reader = None;
        let consumer = Arc::new(consume::consumer(&self.kafka, &self.topics[0], self.budget)?);
        let (mut queues, mut list) = (Vec::new(), TopicPartitionList::new());
        let partition = self.partition();
        for (at, topic) in self.topics.iter().enumerate() {
            let (low, high) = bounds(&consumer, topic, partition)?;
            let stored = match at.checked_sub(1) {
                None => (!applied.record.is_empty()).then(|| (applied.offset, applied.record.clone())),
                Some(table) => {
                    let place = applied.topics.get(table).copied().flatten();
                    place.map(|place| (place.offset, place.position.to_string()))
                }
            };
            let (begin, before) = match stored {
                None => (low, None),
                // Rows that come twice, the second time for nothing, may go unread; of others a COMMIT tells that they are missing.
                Some((offset, _)) if offset < low && at > 0 => (low, None),
                Some((offset, _)) if offset < low => {
                    return Err(FlowError::NeedsSnapshot(format!(
                        "partition {partition} of the topic `{topic}` begins at offset {low}, and {offset} is the next to apply: its head was deleted too early"
                    )));
                }
                Some((offset, _)) if offset > high => {
                    return Err(FlowError::NeedsSnapshot(format!(
                        "partition {partition} of the topic `{topic}` ends at offset {high}, and {offset} is the next to apply: it was made anew or lost its end"
                    )));
                }
                Some((offset, _)) if offset == low => (low, None),
                Some((offset, record)) => (offset - 1, Some((offset - 1, record))),
            };
            // Before the consumer is told to read: what it reads must come here from the first record on.
            let Some(queue) = consumer.split_partition_queue(topic, partition) else {
                return Err(FlowError::Busy(format!("Kafka does not give partition {partition} of `{topic}`")));
            };
            queues.push(Queue {
                topic: topic.clone(),
                queue,
                here: VecDeque::new(),
                before,
                polled: begin,
                next: None,
                taken: None,
            });
            list.add_partition_offset(topic, partition, Offset::Offset(begin))
                .map_err(|source| FlowError::Kafka { doing: "seeking in the topic", source })?;
        }
        consumer.assign(&list).map_err(|source| FlowError::Kafka { doing: "seeking in the topic", source })?;
        let first = queues.first().map_or(0, |control| control.polled + i64::from(control.before.is_some()));
        self.reader = Some(Reader {
            consumer,
            queues,
            marks: Vec::new(),
            open: None,
            ahead: VecDeque::new(),
            has_dropped: false,
        });
        Ok(first)
    }

    /// The offsets that the next records of all topics will get.
    pub(crate) fn ends(&self) -> Result<Vec<i64>, FlowError> {
        let Some(reader) = &self.reader else { return Ok(Vec::new()) };
        let end = |topic: &String| bounds(&reader.consumer, topic, self.partition()).map(|(_, high)| high);
        self.topics.iter().map(end).collect()
    }

    /// Whether all that stands before these offsets was looked at, as far as anything there is waited for.
    pub(crate) fn has_read(&self, ends: &[i64]) -> bool {
        let Some(reader) = &self.reader else { return false };
        let waits = |at: usize| match (&reader.open, at.checked_sub(1)) {
            (_, None) => true,
            (Some(open), Some(table)) => open.left.iter().any(|(own, left)| *own == table && *left > 0),
            (None, Some(_)) => false,
        };
        reader
            .queues
            .iter()
            .zip(ends)
            .enumerate()
            .all(|(at, (queue, end))| !waits(at) || queue.next.is_some() || queue.polled >= *end)
    }

    /// Whether rows are on their way whose COMMIT is here.
    pub(crate) fn waits_for_rows(&self) -> bool {
        self.reader.as_ref().is_some_and(|reader| reader.open.is_some())
    }

    /// The next record if it is here already.
    pub(crate) fn ready(&mut self, applied: &Applied) -> Result<Option<Given>, FlowError> {
        loop {
            let Some(reader) = &mut self.reader else { return Ok(None) };
            if reader.open.is_some() {
                if let Some(given) = reader.of_open()? {
                    return Ok(Some(given));
                }
                let Some(dead) = reader.look_ahead(applied)? else { return Ok(None) };
                // What was passed over on the way counts again.
                self.dead.insert(dead);
                self.begin(applied)?;
                continue;
            }
            if reader.has_dropped {
                self.begin(applied)?;
                continue;
            }
            let Some(given) = reader.control()? else { return Ok(None) };
            let (head, at) = (given.head, given.head.position);
            match head.kind {
                Kind::Open | Kind::Fence | Kind::Load | Kind::Loaded => {
                    let is_known = |own: &Given| own.head.position == at;
                    if !reader.marks.iter().any(is_known) {
                        reader.marks.push(given);
                    }
                }
                Kind::Commit if self.dead.contains(&given.offset) => {}
                Kind::Commit if is_next(head, applied) => {
                    let rows: Rows = serde_json::from_slice(given.value()).map_err(|_| FlowError::Malformed {
                        what: "a COMMIT that is no lane's",
                        at: format!("offset {} of `{}`", given.offset, self.topics[0]),
                    })?;
                    let mut left = Vec::new();
                    for (table, count) in rows.rows {
                        match self.tables.iter().position(|own| *own == table) {
                            Some(index) => left.push((index, count)),
                            None => {
                                return Err(FlowError::Stop(format!(
                                    "{table} at {at}: the file does not name this table"
                                )));
                            }
                        }
                    }
                    let (mut marks, others): (Vec<_>, Vec<_>) =
                        std::mem::take(&mut reader.marks).into_iter().partition(|mark| mark.is_beside(head));
                    marks.sort_by_key(|mark| mark.head.position.ordinal);
                    reader.marks = others.into_iter().filter(|mark| mark.head.position > at).collect();
                    let count = rows.count;
                    reader.open = Some(Open { commit: given, count, next: 0, marks: marks.into(), left });
                }
                _ => return Ok(Some(given)),
            }
        }
    }
}

/// Whether a transaction comes right behind what is applied; of any other the COMMIT alone says all that there is to say.
fn is_next(head: Head, applied: &Applied) -> bool {
    head.position.generation == applied.generation
        && applied.phase == Phase::Stream
        && head.timeline == applied.timeline.max(FIRST_TIMELINE)
        && head.position.lsn >= applied.applied
        && head.from <= applied.applied
}

/// Whether a later record of the flow's topic says what comes right behind what is applied, in the place of the transaction of `own`.
fn is_instead(head: Head, own: Head, applied: &Applied) -> bool {
    match head.kind {
        Kind::Start => head.position.generation > own.position.generation,
        Kind::Commit | Kind::Checkpoint => {
            // Of another server places behind it mean nothing: only whether it sends again what is missing here.
            let is_behind =
                head.timeline > own.timeline || head.timeline == own.timeline && head.position.lsn > own.position.lsn;
            head.position.generation == own.position.generation && is_behind && head.from <= applied.applied
        }
        _ => false,
    }
}

fn bounds(consumer: &StreamConsumer<Ear>, topic: &str, partition: i32) -> Result<(i64, i64), FlowError> {
    consumer
        .fetch_watermarks(topic, partition, TIMEOUT)
        .map_err(|source| consumer.context().failed("asking Kafka for the topic's bounds", source))
}

// === impl Reader ===

impl Reader {
    /// The next record of the flow's topic.
    fn control(&mut self) -> Result<Option<Given>, FlowError> {
        match self.ahead.pop_front() {
            Some(given) => Ok(Some(given)),
            None => self.poll(0),
        }
    }

    /// The next record of one partition, if it is here.
    fn poll(&mut self, at: usize) -> Result<Option<Given>, FlowError> {
        self.listen()?;
        let Some(queue) = self.queues.get_mut(at) else { return Ok(None) };
        loop {
            let message = match queue.here.pop_front() {
                Some(message) => Some(message),
                None => match queue.queue.stream().next().now_or_never() {
                    Some(Some(found)) => {
                        let found = found.map(|message| message.detach());
                        consume::sort(self.consumer.context(), &queue.topic, found)?
                    }
                    _ => None,
                },
            };
            let Some(message) = message else { return Ok(None) };
            queue.polled = message.offset() + 1;
            let given = Given::new(message)?;
            let Some((offset, record)) = queue.before.take() else { return Ok(Some(given)) };
            if given.offset == offset && given.head.position.to_string() != record {
                return Err(FlowError::NeedsSnapshot(format!(
                    "the record at offset {offset} of the topic `{}` is not the one that was applied: the topic was made anew",
                    queue.topic
                )));
            }
            if given.offset > offset {
                return Ok(Some(given));
            }
        }
    }

    /// What the consumer itself has to say.
    fn listen(&mut self) -> Result<(), FlowError> {
        while let Some(Some(found)) = self.consumer.stream().next().now_or_never() {
            let found: Result<OwnedMessage, KafkaError> = found.map(|message| message.detach());
            let topic = self.queues.first().map_or("", |queue| queue.topic.as_str());
            if let Some(message) = consume::sort(self.consumer.context(), topic, found)?
                && let Some(queue) = self.queues.iter_mut().find(|queue| queue.topic == message.topic())
            {
                queue.here.push_back(message);
            }
        }
        Ok(())
    }

    /// The next record of the open transaction, if it has come.
    fn of_open(&mut self) -> Result<Option<Given>, FlowError> {
        let Some(mut open) = self.open.take() else { return Ok(None) };
        if open.next == open.count {
            let Open { mut commit, left, .. } = open;
            for (table, _) in left {
                if let Some((offset, position)) = self.queues.get(table + 1).and_then(|queue| queue.taken) {
                    commit.read.push((table, Place { offset: offset + 1, position }));
                }
            }
            return Ok(Some(commit));
        }
        let mut found = None;
        if open.marks.front().is_some_and(|mark| mark.head.position.ordinal == open.next) {
            found = open.marks.pop_front();
        }
        for (table, left) in open.left.iter_mut().filter(|(_, left)| *left > 0) {
            if found.is_none() {
                found = self.row(*table + 1, open.commit.head, open.next)?;
                *left -= u64::from(found.is_some());
            }
        }
        if let Some(given) = &mut found {
            open.next += 1;
            given.offset = open.commit.offset;
            // Another run than the COMMIT's may have sent it, which had sent something else before.
            given.head.from = open.commit.head.from;
        }
        self.open = Some(open);
        Ok(found)
    }

    /// The transaction's row with this ordinal, if it is the next one of this topic that matters.
    fn row(&mut self, queue: usize, commit: Head, ordinal: u64) -> Result<Option<Given>, FlowError> {
        loop {
            let next = match self.queues.get_mut(queue).and_then(|queue| queue.next.take()) {
                Some(next) => next,
                None => match self.poll(queue)? {
                    Some(next) => next,
                    None => return Ok(None),
                },
            };
            let Some(queue) = self.queues.get_mut(queue) else { return Ok(None) };
            let (is_its, own) = (next.is_beside(commit), next.head.position);
            if is_its && own.ordinal > ordinal {
                queue.next = Some(next);
                return Ok(None);
            }
            queue.taken = Some((next.offset, own));
            if is_its && own.ordinal == ordinal {
                return Ok(Some(next));
            }
        }
    }

    /// Whether the open transaction was given up by whoever sent it: a later capture says what comes behind what is applied, and it is not this one.
    /// Gives the offset of its COMMIT.
    fn look_ahead(&mut self, applied: &Applied) -> Result<Option<i64>, FlowError> {
        let Some(open) = &self.open else { return Ok(None) };
        let (own, offset) = (open.commit.head, open.commit.offset);
        if self.ahead.iter().any(|given| is_instead(given.head, own, applied)) {
            return Ok(Some(offset));
        }
        while let Some(given) = self.poll(0)? {
            if is_instead(given.head, own, applied) {
                return Ok(Some(offset));
            }
            if self.ahead.len() < AHEAD && !self.has_dropped {
                self.ahead.push_back(given);
            } else {
                self.has_dropped = true;
            }
        }
        Ok(None)
    }
}
