//! The way into Kafka: an idempotent producer whose reports say what stands there.
//!
//! One refused message ends it. What was queued behind is thrown away, and capture reads the slot again from what was confirmed.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use rdkafka::{
    ClientContext, Message as _,
    error::{KafkaError, RDKafkaErrorCode},
    message::{DeliveryResult, Header, Headers as _, OwnedHeaders},
    producer::{BaseRecord, Producer as _, ProducerContext, PurgeConfig, ThreadedProducer},
};

use super::{
    ROOM,
    client::{Ear, forbidden},
    events::{Events, Way},
    ledger::{Ledger, Ticket},
    most_records,
};
use crate::{
    config::Kafka,
    error::FlowError,
    failpoint::{self, Point},
    metrics::FlowMetrics,
    outbox::Event,
    plan::{Plan, PlanTable},
    position::{Lsn, Position},
    record::Head,
};

/// Kafka that takes nothing for so long is away.
const STALLED: Duration = Duration::from_secs(10);

/// A report comes so soon behind what it is about.
const REPORTED: Duration = Duration::from_secs(2);

/// A producer of one flow's records, and of its source's events.
pub(crate) struct Outlet {
    producer: ThreadedProducer<Reports>,
    /// Made with the first event.
    of_events: Option<ThreadedProducer<Reports>>,
    kafka: Arc<Kafka>,
    /// Bytes that `of_events` may hold.
    room: usize,
    reports: Arc<State>,
    topic: Arc<str>,
    /// With `order: key` the topics of the tables, by their place in the plan.
    tables: Vec<Arc<str>>,
    events: Events,
    /// The table whose events they are.
    outbox: Option<String>,
    /// Bytes.
    largest: usize,
    rows_sent: Sent,
    events_sent: Sent,
    /// What was confirmed when it was last looked, and since when events have held back all more.
    held: (Lsn, Instant),
    is_held: bool,
}

/// What was queued, and whether Kafka takes it.
struct Sent {
    count: u64,
    /// How many were delivered when it was last looked, and since when no more were.
    looked: (u64, Instant),
}

/// What the delivery reports have said so far.
#[derive(Default)]
struct State {
    confirmed: AtomicU64,
    rows: AtomicU64,
    events: AtomicU64,
    ledger: Mutex<Ledger>,
    failed: AtomicBool,
    failure: Mutex<Option<Failure>>,
    ear: Ear,
}

/// The first record that Kafka refused.
#[derive(Clone)]
struct Failure {
    topic: String,
    position: String,
    error: KafkaError,
}

struct Reports(Arc<State>);

/// What a partition needs whose readers see no `from`, by which a flow's own records tell a hole: of events, and of a table's rows.
const IN_ORDER: [(&str, &str); 2] = [
    // A partition that has just been made may refuse the first of several requests that are under way and take the second.
    ("max.in.flight.requests.per.connection", "1"),
    // Behind a record that Kafka refuses none may be written, or those of one key would stand in another order when all are sent again.
    ("enable.gapless.guarantee", "true"),
];

/// The same, of events.
const OF_EVENTS: [(&str, &str); 3] = [
    IN_ORDER[0],
    IN_ORDER[1],
    // Of records with a key and without a partition: as Java's clients choose, so that both agree.
    ("partitioner", "murmur2_random"),
];

/// A producer that holds at most `budget` bytes, or the largest record.
fn producer(
    kafka: &Kafka,
    budget: usize,
    reports: &Arc<State>,
    more: &[(&str, &str)],
) -> Result<ThreadedProducer<Reports>, FlowError> {
    // One that never has room for a record would be waited for without end.
    let queue = budget.max(kafka.topics.max_record() + ROOM);
    let mut settings = kafka.client();
    settings
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
        .set("queue.buffering.max.kbytes", queue.div_ceil(1024).to_string())
        .set("topic.metadata.refresh.interval.ms", "30000");
    for (key, value) in more {
        settings.set(*key, *value);
    }
    let made = settings.create_with_context(Reports(Arc::clone(reports)));
    made.map_err(|source| reports.ear.failed("making a producer", source))
}

// === impl Reports ===

impl ClientContext for Reports {
    // Refused connections are said once, by the supervisor, not by every broker thread.
    fn error(&self, error: KafkaError, reason: &str) {
        self.0.ear.hear(&error, reason);
    }

    fn log(&self, _: rdkafka::config::RDKafkaLogLevel, _: &str, _: &str) {}
}

impl ProducerContext for Reports {
    /// A ticket of the ledger.
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, ticket: usize) {
        let (state, ticket) = (&self.0, Ticket::of(ticket));
        match result {
            Ok(message) => {
                // Nothing behind a failure counts.
                if ticket != Ticket::NONE {
                    failpoint::reached(Point::ReportBefore);
                }
                let counts = ticket != Ticket::NONE && !state.failed.load(Ordering::Acquire);
                if let Some(end) = counts.then(|| state.ledger().delivered(ticket, message.topic())).flatten() {
                    state.confirmed.fetch_max(end.get(), Ordering::AcqRel);
                    failpoint::reached(Point::ReportAfter);
                }
                let delivered = if ticket.is_event() { &state.events } else { &state.rows };
                delivered.fetch_add(1, Ordering::Release);
            }
            Err((error, message)) => {
                if !state.failed.swap(true, Ordering::AcqRel) {
                    let position = message
                        .headers()
                        .and_then(|headers| headers.iter().find(|header| header.key == "position"))
                        .and_then(|header| header.value)
                        .map(|value| String::from_utf8_lossy(value).into_owned());
                    let (topic, position) = (message.topic().to_owned(), position.unwrap_or_default());
                    let failure = Some(Failure { topic, position, error: error.clone() });
                    *state.failure.lock().unwrap_or_else(PoisonError::into_inner) = failure;
                }
            }
        }
    }
}

// === impl Sent ===

impl Sent {
    fn nothing() -> Self {
        Self { count: 0, looked: (0, Instant::now()) }
    }

    /// One more was queued. If none waited, the time begins with it.
    fn queued(&mut self, delivered: &AtomicU64) {
        let delivered = delivered.load(Ordering::Acquire);
        if delivered >= self.count {
            self.looked = (delivered, Instant::now());
        }
        self.count += 1;
    }

    /// To be called now and then, with how many were delivered: whether some wait, and Kafka has taken none for long.
    fn stalls(&mut self, delivered: &AtomicU64) -> bool {
        let delivered = delivered.load(Ordering::Acquire);
        if delivered != self.looked.0 || delivered == self.count {
            self.looked = (delivered, Instant::now());
        }
        self.looked.1.elapsed() >= STALLED
    }

    fn is_delivered(&self, delivered: &AtomicU64) -> bool {
        delivered.load(Ordering::Acquire) >= self.count
    }
}

// === impl State ===

impl State {
    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Outlet ===

impl Outlet {
    /// A producer into `topic` and the topics of the tables, and into topics of events, that holds at most a third of the flow's memory.
    pub(crate) fn open(plan: &Plan, topic: &str, metrics: &FlowMetrics) -> Result<Self, FlowError> {
        let (kafka, budget) = (&plan.kafka, plan.budget / 3);
        let room = budget / 3;
        let reports = Arc::new(State::default());
        let own = if plan.outbox.is_some() { budget - room } else { budget };
        let producer = producer(kafka, own, &reports, if plan.lanes.is_some() { &IN_ORDER } else { &[] })?;
        let topic_of = |table: &PlanTable| Arc::from(plan.names.table_topic(&table.source));
        let tables = plan.tables.iter().filter(|_| plan.lanes.is_some()).map(topic_of).collect();
        let largest = kafka.topics.max_record();
        let events = Events::new(kafka, topic, metrics);
        Ok(Self {
            producer,
            of_events: None,
            kafka: Arc::clone(kafka),
            room,
            reports,
            topic: topic.into(),
            tables,
            events,
            outbox: plan.outbox.clone(),
            largest,
            rows_sent: Sent::nothing(),
            events_sent: Sent::nothing(),
            held: (Lsn::ZERO, Instant::now()),
            is_held: false,
        })
    }

    /// Queues one record of a flow that has no lanes; waits while the queue is full. `confirms` is the source's end that stands in Kafka with it.
    pub(crate) async fn send(
        &mut self,
        head: Head,
        table: &str,
        key: &[u8],
        value: &[u8],
        confirms: Option<Lsn>,
    ) -> Result<(), FlowError> {
        let ticket = confirms.map_or(Ticket::NONE, |end| self.reports.ledger().end(end));
        let topic = Arc::clone(&self.topic);
        self.record(&topic, 0, ticket, head, table, key, value).await
    }

    /// Queues what a lane is told besides rows; waits while the queue is full. `confirms` is the source's end up to which with it all lanes' records
    /// stand in Kafka.
    pub(crate) async fn tell(
        &mut self,
        lane: u32,
        head: Head,
        what: &str,
        value: &[u8],
        confirms: Option<Lsn>,
    ) -> Result<(), FlowError> {
        let ticket = confirms.map_or(Ticket::NONE, |end| self.reports.ledger().end(end));
        let topic = Arc::clone(&self.topic);
        self.record(&topic, lane, ticket, head, what, &[], value).await
    }

    /// Queues a row of the table with this place in the plan; waits while the queue is full.
    pub(crate) async fn row(
        &mut self,
        lane: u32,
        head: Head,
        (index, table): (usize, &str),
        key: &[u8],
        value: &[u8],
    ) -> Result<(), FlowError> {
        let (topic, ticket) = match self.tables.get(index) {
            Some(topic) => (Arc::clone(topic), self.reports.ledger().row(topic)),
            None => (Arc::clone(&self.topic), Ticket::NONE),
        };
        self.record(&topic, lane, ticket, head, table, key, value).await
    }

    #[expect(clippy::too_many_arguments, reason = "where a record goes, who it is and what it says")]
    async fn record(
        &mut self,
        topic: &str,
        partition: u32,
        ticket: Ticket,
        head: Head,
        table: &str,
        key: &[u8],
        value: &[u8],
    ) -> Result<(), FlowError> {
        let mut record = BaseRecord::<[u8], [u8], usize>::with_opaque_to(topic, ticket.get())
            .partition(i32::try_from(partition).unwrap_or(i32::MAX))
            .headers(head.to_headers())
            .payload(value);
        if !key.is_empty() {
            record = record.key(key);
        }
        self.queue(false, record, table, head.position).await
    }

    /// Queues an event; waits while the queue is full. No end that is sent later is confirmed before the event stands in Kafka.
    pub(crate) async fn publish(&mut self, event: &Event<'_>) -> Result<(), FlowError> {
        if self.of_events.is_none() {
            self.of_events = Some(producer(&self.kafka, self.room, &self.reports, &OF_EVENTS)?);
        }
        let Way { topic, broken } = self.events.way(event).await?;
        let (row, position) = (&event.row, event.position.to_string());
        let mut headers = OwnedHeaders::new_with_capacity(6)
            .insert(Header { key: "id", value: row.id })
            .insert(Header { key: "eventType", value: row.kind })
            .insert(Header { key: "position", value: Some(&position) })
            .insert(Header { key: "origin", value: Some(event.origin.as_str()) });
        if let Some(rule) = broken {
            headers = headers
                .insert(Header { key: "aggregatetype", value: row.aggregate_type })
                .insert(Header { key: "unrouted", value: Some(rule) });
        }
        let ticket = self.reports.ledger().event(&topic);
        let mut record = BaseRecord::<[u8], [u8], usize>::with_opaque_to(&topic, ticket.get())
            .headers(headers)
            .timestamp(event.at / 1_000);
        if let Some(key) = row.aggregate_id {
            record = record.key(key);
        }
        if let Some(payload) = row.payload {
            record = record.payload(payload);
        }
        self.queue(true, record, event.table, event.position).await
    }

    /// A row of an outbox was changed, which is no event.
    pub(crate) fn outbox_updated(&mut self, table: &str, position: Position) {
        self.events.updated(table, position);
    }

    async fn queue(
        &mut self,
        is_event: bool,
        mut record: BaseRecord<'_, [u8], [u8], usize>,
        table: &str,
        position: Position,
    ) -> Result<(), FlowError> {
        failpoint::reached(Point::QueueBefore);
        loop {
            let producer = self.of_events.as_ref().filter(|_| is_event).unwrap_or(&self.producer);
            match producer.send(record) {
                Ok(()) => {
                    failpoint::reached(Point::QueueAfter);
                    if is_event {
                        self.events_sent.queued(&self.reports.events);
                    } else {
                        self.rows_sent.queued(&self.reports.rows);
                    }
                    return Ok(());
                }
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                    self.check()?;
                    self.look()?;
                    if is_event {
                        self.look_at_events()?;
                    }
                    record = back;
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::MessageSizeTooLarge), _)) => {
                    return Err(FlowError::Stop(format!(
                        "{table} at {position}: the change makes a record larger than the {} bytes of `kafka.topics.max_record`",
                        self.largest
                    )));
                }
                Err((source, _)) => {
                    self.until_reported().await?;
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
        for producer in self.producers() {
            producer.purge(PurgeConfig::default().queue().inflight());
        }
        let failure = self.reports.failure.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Failure { topic, position, error } = failure.unwrap_or_else(|| Failure {
            topic: self.topic.to_string(),
            position: String::new(),
            error: KafkaError::MessageProduction(RDKafkaErrorCode::Fail),
        });
        let record = match &self.outbox {
            Some(outbox) if topic != *self.topic && !self.tables.iter().any(|table| topic == **table) => {
                format!("the event of {outbox}")
            }
            _ => "the record".to_owned(),
        };
        match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::MessageSizeTooLarge) => Err(FlowError::Stop(format!(
                "Kafka does not take {record} at {position}, which is too large: raise max.message.bytes of the topic `{topic}`"
            ))),
            // The broker says the same of both.
            Some(RDKafkaErrorCode::InvalidTimestamp | RDKafkaErrorCode::InvalidRecord) => {
                Err(FlowError::Stop(format!(
                    "Kafka calls {record} at {position} invalid: its time is outside of message.timestamp.before.max.ms and after.max.ms of the topic `{topic}`, or it has no key and the topic's cleanup.policy is compact"
                )))
            }
            Some(RDKafkaErrorCode::TopicAuthorizationFailed) => Err(forbidden("write to", &topic, "WRITE")),
            _ => Err(self.barred().unwrap_or(FlowError::Refused { position, source: error })),
        }
    }

    /// After a refusal that ends a producer nothing more can be queued, before the report of the record that was refused has said what to do.
    async fn until_reported(&self) -> Result<(), FlowError> {
        let end = Instant::now() + REPORTED;
        while self.producers().any(|producer| producer.client().fatal_error().is_some()) && Instant::now() < end {
            self.check()?;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        self.check()
    }

    fn producers(&self) -> impl Iterator<Item = &ThreadedProducer<Reports>> {
        std::iter::once(&self.producer).chain(&self.of_events)
    }

    /// A producer that begins where it may write to nothing is told of the cluster, not of its topic: idempotence needs an id first.
    fn barred(&self) -> Option<FlowError> {
        let (code, _) = self.producers().find_map(|producer| producer.client().fatal_error())?;
        let is_barred = code == RDKafkaErrorCode::ClusterAuthorizationFailed;
        is_barred.then(|| forbidden("write to", &self.topic, "WRITE"))
    }

    /// To be called now and then: fails when Kafka has taken nothing of the flow for long. A source that shuts down waits for its readers, so whoever
    /// cannot read on must let go of it.
    pub(crate) fn look(&mut self) -> Result<(), FlowError> {
        if !self.rows_sent.stalls(&self.reports.rows) {
            return Ok(());
        }
        let source = KafkaError::MessageProduction(RDKafkaErrorCode::BrokerTransportFailure);
        Err(self.reports.ear.failed("waiting for Kafka to take records", source))
    }

    /// The same of events, for whoever cannot read on without them.
    fn look_at_events(&mut self) -> Result<(), FlowError> {
        if !self.events_sent.stalls(&self.reports.events) {
            return Ok(());
        }
        Err(FlowError::Busy(format!(
            "Kafka takes no {} on {}, and the flow cannot read on: it may hold no more of them",
            self.beside(),
            self.reports.ledger().missing().join(", ")
        )))
    }

    /// To be called now and then: what a person should know when it changes. Kafka may take all records of the flow and not an event, of whose topic
    /// too few copies stand: then nothing is confirmed any more, and the source keeps its log.
    pub(crate) fn held(&mut self) -> Option<Option<String>> {
        let confirmed = self.confirmed();
        let ledger = self.reports.ledger();
        let late = ledger.late();
        if confirmed != self.held.0 || late.is_empty() {
            self.held = (confirmed, Instant::now());
        }
        let is_held = self.held.1.elapsed() >= STALLED;
        (std::mem::replace(&mut self.is_held, is_held) != is_held).then(|| {
            is_held.then(|| {
                format!(
                    "Kafka takes no {} on {}, and nothing behind them is confirmed to the source, which keeps its log",
                    self.beside(),
                    late.join(", ")
                )
            })
        })
    }

    /// What stands beside the records by which the flow goes on.
    fn beside(&self) -> &'static str {
        if self.tables.is_empty() { "events" } else { "records" }
    }

    /// Up to which end of the source everything stands in Kafka; zero before the first.
    pub(crate) fn confirmed(&self) -> Lsn {
        Lsn::new(self.reports.confirmed.load(Ordering::Acquire))
    }

    /// Waits until all that was sent stands in Kafka; fails as [`look`](Self::look) does.
    pub(crate) async fn settle(&mut self) -> Result<(), FlowError> {
        while !self.rows_sent.is_delivered(&self.reports.rows) || !self.events_sent.is_delivered(&self.reports.events) {
            self.check()?;
            self.look()?;
            self.look_at_events()?;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        self.check()
    }
}
