//! Reading the topics from their first record on, and again whenever somebody asks.
//!
//! No group and no committed offsets: the model lives in memory, so what was read by a process before this one is of no use to it.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use rdkafka::{
    ClientConfig, Message as _, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _},
    error::KafkaResult,
    message::{BorrowedMessage, Headers as _},
};
use serde_json::{Value, json};

use crate::model::{Event, Model};

/// How long Kafka may take for an answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often it is looked for topics and partitions that were not there before.
const LOOK: Duration = Duration::from_millis(500);
/// How long to wait for a record before it is looked whether somebody wants something else.
const POLL: Duration = Duration::from_millis(50);

/// The model, and how far it is.
pub(crate) struct Replay {
    brokers: String,
    topics: Vec<String>,
    read: Mutex<Read>,
    /// How often it was asked to begin again.
    wanted: AtomicU64,
    stopped: AtomicBool,
}

/// What was read since the last beginning.
#[derive(Default)]
struct Read {
    model: Model,
    places: BTreeMap<(String, i32), Place>,
    /// Which beginning it is; one that was only asked for has read nothing.
    beginning: u64,
    /// The topics were found at least once.
    looked: bool,
}

/// One partition.
struct Place {
    /// The next offset to be read.
    next: i64,
    /// What stood there when the reading began.
    goal: i64,
}

// === impl Replay ===

impl Replay {
    pub(crate) fn new(brokers: String, topics: Vec<String>) -> Self {
        Self { brokers, topics, read: Mutex::default(), wanted: AtomicU64::new(0), stopped: AtomicBool::new(false) }
    }

    pub(crate) fn begin_again(&self) {
        let beginning = self.wanted.fetch_add(1, Ordering::AcqRel) + 1;
        *self.lock() = Read { beginning, ..Read::default() };
    }

    pub(crate) fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
    }

    pub(crate) fn model<T>(&self, look: impl FnOnce(&Model) -> T) -> T {
        look(&self.lock().model)
    }

    pub(crate) fn stats(&self) -> Value {
        let read = self.lock();
        let offsets: BTreeMap<String, i64> = read
            .places
            .iter()
            .map(|((topic, partition), place)| (format!("{topic}/{partition}"), place.next))
            .collect();
        json!({
            "events": read.model.events(),
            "duplicates": read.model.doubled,
            "passed_over": read.model.passed_over,
            "rebuilds": read.beginning,
            "caught_up": read.looked && read.places.values().all(|place| place.next >= place.goal),
            "next_offsets": offsets,
        })
    }

    /// Reads until it is stopped. To be called once, on a thread of its own: Kafka's client blocks.
    pub(crate) fn run(&self) {
        while !self.stopped.load(Ordering::Acquire) {
            let beginning = self.wanted.load(Ordering::Acquire);
            *self.lock() = Read { beginning, ..Read::default() };
            if let Err(error) = self.read_from_the_first(beginning) {
                tracing::warn!("reading the events: {error}; beginning again");
                std::thread::sleep(LOOK);
            }
        }
    }

    fn read_from_the_first(&self, beginning: u64) -> KafkaResult<()> {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", &self.brokers)
            .set("group.id", "notifications")
            .set("enable.auto.commit", "false")
            .set("allow.auto.create.topics", "false")
            .set("auto.offset.reset", "error")
            .create()?;
        let mut looked: Option<Instant> = None;
        while !self.stopped.load(Ordering::Acquire) && self.wanted.load(Ordering::Acquire) == beginning {
            if looked.is_none_or(|at| at.elapsed() >= LOOK) {
                // A broker that is away is asked again.
                if self.look(&consumer, beginning).is_ok() {
                    self.with(beginning, |read| read.looked = true);
                }
                looked = Some(Instant::now());
            }
            match consumer.poll(POLL) {
                Some(Ok(message)) => self.with(beginning, |read| read.take(&message)),
                Some(Err(error)) if error.rdkafka_error_code().is_some_and(is_lost) => return Err(error),
                // Away for a moment.
                Some(Err(_)) | None => {}
            }
        }
        Ok(())
    }

    /// Begins to read partitions that are not read yet.
    fn look(&self, consumer: &BaseConsumer, beginning: u64) -> KafkaResult<()> {
        for topic in &self.topics {
            let found = consumer.fetch_metadata(Some(topic), PATIENCE)?;
            let partitions = found.topics().first().map_or(&[][..], |topic| topic.partitions());
            for partition in partitions.iter().map(rdkafka::metadata::MetadataPartition::id) {
                let key = (topic.clone(), partition);
                if self.lock().places.contains_key(&key) {
                    continue;
                }
                let (first, goal) = consumer.fetch_watermarks(topic, partition, PATIENCE)?;
                let mut new = TopicPartitionList::new();
                new.add_partition_offset(topic, partition, Offset::Offset(first))?;
                self.with(beginning, |read| {
                    read.places.insert(key, Place { next: first, goal });
                });
                consumer.incremental_assign(&new)?;
            }
        }
        Ok(())
    }

    /// Does something to what was read since this beginning; nothing when another one was asked for meanwhile.
    fn with(&self, beginning: u64, change: impl FnOnce(&mut Read)) {
        let mut read = self.lock();
        if read.beginning == beginning {
            change(&mut read);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Read> {
        self.read.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Records were deleted before they were read, or the topic was made anew: what was read is not what stands there.
fn is_lost(code: rdkafka::error::RDKafkaErrorCode) -> bool {
    use rdkafka::error::RDKafkaErrorCode as Code;
    matches!(code, Code::OffsetOutOfRange | Code::AutoOffsetReset | Code::UnknownTopicOrPartition | Code::UnknownTopic)
}

// === impl Read ===

impl Read {
    fn take(&mut self, message: &BorrowedMessage<'_>) {
        if let Some(place) = self.places.get_mut(&(message.topic().to_owned(), message.partition())) {
            place.next = message.offset() + 1;
        }
        let header = |name: &str| {
            let mut all = message.headers().into_iter().flat_map(|headers| headers.iter());
            all.find(|header| header.key == name).and_then(|header| std::str::from_utf8(header.value?).ok())
        };
        let (Some(id), Some(kind)) = (header("id"), header("eventType")) else {
            self.model.passed_over += 1;
            return;
        };
        self.model.take(&Event {
            id,
            kind,
            at: message.timestamp().to_millis().unwrap_or_default(),
            origin: header("origin").unwrap_or("somewhere"),
            payload: message.payload().unwrap_or_default(),
        });
    }
}
