//! The way into Kafka: an idempotent producer whose reports, in order, say what stands there.
//!
//! One refused message ends it. What was queued behind is thrown away, and capture reads the slot again from what was confirmed.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use rdkafka::{
    ClientContext, Message as _,
    error::{KafkaError, RDKafkaErrorCode},
    message::{DeliveryResult, Headers as _},
    producer::{BaseRecord, Producer as _, ProducerContext, PurgeConfig, ThreadedProducer},
};

use super::{
    client::{Ear, forbidden},
    most_records,
};
use crate::{config::Kafka, error::FlowError, position::Lsn, record::Head};

/// Kafka that takes nothing for so long is away.
const STALLED: Duration = Duration::from_secs(10);

/// A producer of one flow's records.
pub(crate) struct Outlet {
    producer: ThreadedProducer<Reports>,
    reports: Arc<State>,
    topic: Arc<str>,
    /// Bytes.
    largest: usize,
    sent: u64,
    /// How many were delivered when it was last looked, and since when no more were.
    looked: (u64, Instant),
}

/// What the delivery reports have said so far.
#[derive(Default)]
struct State {
    confirmed: AtomicU64,
    delivered: AtomicU64,
    failed: AtomicBool,
    failure: Mutex<Option<(String, KafkaError)>>,
    ear: Ear,
}

struct Reports(Arc<State>);

// === impl Reports ===

impl ClientContext for Reports {
    // Refused connections are said once, by the supervisor, not by every broker thread.
    fn error(&self, error: KafkaError, reason: &str) {
        self.0.ear.hear(&error, reason);
    }

    fn log(&self, _: rdkafka::config::RDKafkaLogLevel, _: &str, _: &str) {}
}

impl ProducerContext for Reports {
    /// The end that a COMMIT or CHECKPOINT confirms; zero for all other records.
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, end: usize) {
        let state = &self.0;
        match result {
            Ok(_) => {
                // Reports of one partition come in order, and nothing behind a failure counts.
                if end != 0 && !state.failed.load(Ordering::Acquire) {
                    state.confirmed.store(end as u64, Ordering::Release);
                }
                state.delivered.fetch_add(1, Ordering::Release);
            }
            Err((error, message)) => {
                if !state.failed.swap(true, Ordering::AcqRel) {
                    let position = message
                        .headers()
                        .and_then(|headers| headers.iter().find(|header| header.key == "position"))
                        .and_then(|header| header.value)
                        .map(|value| String::from_utf8_lossy(value).into_owned());
                    let failure = Some((position.unwrap_or_default(), error.clone()));
                    *state.failure.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = failure;
                }
            }
        }
    }
}

// === impl Outlet ===

impl Outlet {
    /// A producer into partition 0 of `topic` that holds at most `budget` bytes.
    pub(crate) fn open(kafka: &Kafka, topic: &str, budget: usize) -> Result<Self, FlowError> {
        let reports = Arc::new(State::default());
        let producer = kafka
            .client()
            .set("enable.idempotence", "true")
            .set("acks", "all")
            // Never given up: while Kafka is away the queue fills, and capture waits.
            .set("message.timeout.ms", "0")
            .set("linger.ms", "5")
            .set("batch.num.messages", "10000")
            .set("batch.size", "1000000")
            .set("message.max.bytes", kafka.topics.max_record().to_string())
            .set("compression.type", kafka.topics.compression.as_str())
            .set("queue.buffering.max.messages", most_records(budget).to_string())
            .set("queue.buffering.max.kbytes", (budget / 1024).max(1024).to_string())
            .set("topic.metadata.refresh.interval.ms", "30000")
            .create_with_context(Reports(Arc::clone(&reports)))
            .map_err(|source| reports.ear.failed("making a producer", source))?;
        let largest = kafka.topics.max_record();
        Ok(Self { producer, reports, topic: topic.into(), largest, sent: 0, looked: (0, Instant::now()) })
    }

    /// Queues one record; waits while the queue is full. `confirms` is the source's end that stands in Kafka with it.
    pub(crate) async fn send(
        &mut self,
        head: Head,
        table: &str,
        key: &[u8],
        value: &[u8],
        confirms: Option<Lsn>,
    ) -> Result<(), FlowError> {
        let opaque = confirms.map_or(0, |end| usize::try_from(end.get()).unwrap_or(0));
        let topic = Arc::clone(&self.topic);
        let mut record = BaseRecord::<[u8], [u8], usize>::with_opaque_to(&topic, opaque)
            .partition(0)
            .headers(head.to_headers())
            .payload(value);
        if !key.is_empty() {
            record = record.key(key);
        }
        loop {
            match self.producer.send(record) {
                Ok(()) => {
                    self.sent += 1;
                    return Ok(());
                }
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                    self.check()?;
                    self.look()?;
                    record = back;
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::MessageSizeTooLarge), _)) => {
                    return Err(FlowError::Stop(format!(
                        "{table} at {}: the change makes a record larger than the {} bytes of `kafka.topics.max_record`",
                        head.position, self.largest
                    )));
                }
                Err((source, _)) => {
                    return Err(self.barred().unwrap_or_else(|| self.reports.ear.failed("queueing a record", source)));
                }
            }
        }
    }

    /// Fails as soon as Kafka has refused a record.
    pub(crate) fn check(&self) -> Result<(), FlowError> {
        if !self.reports.failed.load(Ordering::Acquire) {
            return Ok(());
        }
        // Whatever is queued behind must not reach Kafka any more.
        self.producer.purge(PurgeConfig::default().queue().inflight());
        let failure = self.reports.failure.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
        let (position, source) =
            failure.unwrap_or((String::new(), KafkaError::MessageProduction(RDKafkaErrorCode::Fail)));
        match source.rdkafka_error_code() {
            Some(RDKafkaErrorCode::MessageSizeTooLarge | RDKafkaErrorCode::InvalidRecord) => {
                Err(FlowError::Stop(format!(
                    "Kafka takes no record as large as the one at {position}: raise max.message.bytes of the topic `{}`",
                    self.topic
                )))
            }
            Some(RDKafkaErrorCode::TopicAuthorizationFailed) => Err(forbidden("write to", &self.topic, "WRITE")),
            _ => Err(self.barred().unwrap_or(FlowError::Refused { position, source })),
        }
    }

    /// A producer that begins where it may write to nothing is told of the cluster, not of its topic: idempotence needs an id first.
    fn barred(&self) -> Option<FlowError> {
        let (code, _) = self.producer.client().fatal_error()?;
        let is_barred = code == RDKafkaErrorCode::ClusterAuthorizationFailed;
        is_barred.then(|| forbidden("write to", &self.topic, "WRITE"))
    }

    /// To be called now and then: fails when Kafka has taken nothing for long. A source that shuts down waits for its readers, so whoever
    /// cannot read on must let go of it.
    pub(crate) fn look(&mut self) -> Result<(), FlowError> {
        let delivered = self.reports.delivered.load(Ordering::Acquire);
        if delivered != self.looked.0 || delivered == self.sent {
            self.looked = (delivered, Instant::now());
        }
        if self.looked.1.elapsed() < STALLED {
            return Ok(());
        }
        let source = KafkaError::MessageProduction(RDKafkaErrorCode::BrokerTransportFailure);
        Err(self.reports.ear.failed("waiting for Kafka to take records", source))
    }

    /// Up to which end of the source everything stands in Kafka; zero before the first.
    pub(crate) fn confirmed(&self) -> Lsn {
        Lsn::new(self.reports.confirmed.load(Ordering::Acquire))
    }

    /// Waits until all that was sent stands in Kafka.
    pub(crate) async fn settle(&self) -> Result<(), FlowError> {
        while self.reports.delivered.load(Ordering::Acquire) < self.sent {
            self.check()?;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        self.check()
    }
}
