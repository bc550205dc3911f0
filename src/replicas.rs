//! `state: {shared: true}` — the log that replicas share their rollouts through: the compacted topic `<install>.state`, of one partition.
//!
//! Two consumers: one reads all of it, in every replica; the other joins the group `<install>.state`, whose only use is that Kafka gives the one
//! partition to one of them: that replica decides. Nobody commits an offset.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, anyhow};
use banyan_connectors::config::Kafka;
use banyan_proxy::{links::Replicas, rollout::RolloutsHandle};
use rdkafka::{
    ClientConfig, ClientContext, Message as _, Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, Consumer as _, ConsumerContext, Rebalance},
    error::{KafkaError, RDKafkaErrorCode},
    producer::{BaseRecord, DeliveryResult, ProducerContext, ThreadedProducer},
};
use tokio::time::sleep;
use tracing::{info, warn};

/// The log, for writing; reading is [`read`].
pub(crate) struct StateLog {
    topic: String,
    producer: ThreadedProducer<Quiet>,
    standing: Arc<Standing>,
}

/// What this replica is in the group.
struct Standing {
    /// Kafka has given it the partition.
    is_elected: AtomicBool,
    /// Where the log ended when it was; not known yet: -1.
    decides_from: AtomicI64,
    /// The next record to be read.
    next: AtomicI64,
}

/// Says nothing: the reader says once that the log is away.
struct Quiet;

/// Hears who was elected.
struct Election(Arc<Standing>);

/// A replica that was not heard for so long decides no more.
const SESSION: &str = "6000";
const TIMEOUT: Duration = Duration::from_secs(5);
/// Between two attempts at a Kafka that is away.
const PAUSE: Duration = Duration::from_secs(1);
/// So long is waited for a record, and for news of the election.
const POLL: Duration = Duration::from_millis(50);

// === impl StateLog ===

impl StateLog {
    /// Connects to nothing yet.
    ///
    /// # Errors
    /// When the brokers' names cannot be used.
    pub(crate) fn open(kafka: &Kafka, install: &str) -> anyhow::Result<Self> {
        let producer = config(kafka)
            .set("enable.idempotence", "true")
            .set("acks", "all")
            // What is older was written again meanwhile.
            .set("message.timeout.ms", "300000")
            .set("queue.buffering.max.kbytes", "65536")
            .create_with_context(Quiet)
            .context("no producer for the replicas' state")?;
        let standing =
            Standing { is_elected: AtomicBool::new(false), decides_from: AtomicI64::new(-1), next: AtomicI64::new(0) };
        Ok(Self { topic: format!("{install}.state"), producer, standing: Arc::new(standing) })
    }
}

impl fmt::Debug for StateLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StateLog").field("topic", &self.topic).finish_non_exhaustive()
    }
}

impl Replicas for StateLog {
    fn append(&self, key: String, value: Option<Vec<u8>>) {
        let mut record = BaseRecord::<String, Vec<u8>>::to(&self.topic).partition(0).key(&key);
        if let Some(value) = &value {
            record = record.payload(value);
        }
        // Full: what matters is written again.
        drop(self.producer.send(record));
    }

    fn decides(&self) -> bool {
        let Standing { is_elected, decides_from, next } = &*self.standing;
        let from = decides_from.load(Ordering::Acquire);
        is_elected.load(Ordering::Acquire) && from >= 0 && next.load(Ordering::Acquire) >= from
    }

    fn name(&self) -> &str {
        &self.topic
    }
}

/// Reads the log and takes part in the election, until it is dropped.
///
/// # Errors
/// When the log cannot be read any more; it is to be begun again.
pub(crate) async fn read(log: Arc<StateLog>, kafka: Kafka, rollouts: RolloutsHandle) -> anyhow::Result<()> {
    let mut was_told = false;
    while let Err(error) = ensure(&kafka, &log.topic).await {
        // Once, however often it is tried.
        if !std::mem::replace(&mut was_told, true) {
            warn!(topic = log.topic, "the replicas' state cannot be read: rollouts stay where they are: {error:#}");
        }
        sleep(PAUSE).await;
    }
    let stop = Arc::new(AtomicBool::new(false));
    let _stops = Stops(Arc::clone(&stop));
    // librdkafka's calls block.
    tokio::task::spawn_blocking(move || follow(&log, &kafka, &rollouts, &stop)).await?
}

/// Ends the thread when whoever waits for it is gone.
struct Stops(Arc<AtomicBool>);

impl Drop for Stops {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

fn follow(log: &StateLog, kafka: &Kafka, rollouts: &RolloutsHandle, stop: &AtomicBool) -> anyhow::Result<()> {
    let standing = &log.standing;
    standing.is_elected.store(false, Ordering::Release);
    let reader: BaseConsumer<Quiet> = consumer(kafka, &format!("{}.reader", log.topic))
        .create_with_context(Quiet)
        .context("no consumer for the replicas' state")?;
    let mut all = TopicPartitionList::new();
    all.add_partition_offset(&log.topic, 0, Offset::Beginning)?;
    reader.assign(&all)?;
    let elected: BaseConsumer<Election> = consumer(kafka, &log.topic)
        .set("session.timeout.ms", SESSION)
        .set("heartbeat.interval.ms", "1000")
        .create_with_context(Election(Arc::clone(standing)))
        .context("no part in the replicas' election")?;
    elected.subscribe(&[&log.topic])?;
    let mut until = None;
    let (mut is_away, mut is_barred) = (false, false);
    while !stop.load(Ordering::Acquire) {
        if until.is_none() {
            until = end(&reader, &log.topic);
        }
        if standing.is_elected.load(Ordering::Acquire)
            && standing.decides_from.load(Ordering::Acquire) < 0
            && let Some(end) = end(&reader, &log.topic)
        {
            standing.decides_from.store(end, Ordering::Release);
            info!(topic = log.topic, "this replica decides over the rollouts");
        }
        match reader.poll(POLL) {
            Some(Ok(message)) => {
                is_away = false;
                let key = message.key().and_then(|key| std::str::from_utf8(key).ok()).unwrap_or_default();
                rollouts.heard(key, message.payload());
                standing.next.store(message.offset() + 1, Ordering::Release);
            }
            Some(Err(error)) => {
                if !std::mem::replace(&mut is_away, true) {
                    warn!(
                        topic = log.topic,
                        "the replicas' state cannot be read: rollouts stay where they are: {error}"
                    );
                }
            }
            None => {
                // Compaction may have taken the last records before the end.
                if let Ok(position) = reader.position()
                    && let Some(Offset::Offset(next)) =
                        position.find_partition(&log.topic, 0).map(|partition| partition.offset())
                {
                    standing.next.fetch_max(next, Ordering::AcqRel);
                }
            }
        }
        if until.is_some_and(|until| standing.next.load(Ordering::Acquire) >= until) {
            rollouts.is_current();
            until = Some(i64::MAX);
        }
        // Its records are nobody's business; being polled keeps it in the group.
        if let Some(Err(error)) = elected.poll(Duration::ZERO)
            && error.rdkafka_error_code() == Some(RDKafkaErrorCode::GroupAuthorizationFailed)
            && !std::mem::replace(&mut is_barred, true)
        {
            warn!(
                topic = log.topic,
                "Kafka does not let this replica into the group of this name: it decides over no rollout"
            );
        }
    }
    Ok(())
}

/// Where the log ends now.
fn end(reader: &BaseConsumer<Quiet>, topic: &str) -> Option<i64> {
    reader.fetch_watermarks(topic, 0, TIMEOUT).ok().map(|(_, end)| end)
}

/// Makes the topic where it is missing.
async fn ensure(kafka: &Kafka, topic: &str) -> anyhow::Result<()> {
    let (asked, name) = (kafka.clone(), topic.to_owned());
    if tokio::task::spawn_blocking(move || asked.has_topic(&name)).await?.map_err(|error| anyhow!(error))? {
        return Ok(());
    }
    if !kafka.topics.create {
        anyhow::bail!(
            "there is no topic `{topic}`, and `kafka.topics.create: false` leaves making it to others: one partition, cleanup.policy=compact, \
             max.message.bytes=4194304"
        );
    }
    let admin: AdminClient<Quiet> = config(kafka).create_with_context(Quiet)?;
    let replication = TopicReplication::Fixed(kafka.topics.replication.map_or(-1, i32::from));
    let least = kafka.topics.min_insync_replicas.map(|least| least.to_string());
    let mut new =
        NewTopic::new(topic, 1, replication).set("cleanup.policy", "compact").set("max.message.bytes", "4194304");
    if let Some(least) = &least {
        new = new.set("min.insync.replicas", least);
    }
    let options = AdminOptions::new().operation_timeout(Some(TIMEOUT)).request_timeout(Some(TIMEOUT));
    for made in admin.create_topics([&new], &options).await? {
        match made {
            Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
            Err((topic, code)) => anyhow::bail!("`{topic}`: {code}"),
        }
    }
    Ok(())
}

fn config(kafka: &Kafka) -> ClientConfig {
    let mut config = kafka.client();
    config.set("message.max.bytes", "4000000");
    config
}

fn consumer(kafka: &Kafka, group: &str) -> ClientConfig {
    let mut config = config(kafka);
    config
        .set("group.id", group)
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("auto.offset.reset", "earliest")
        .set("allow.auto.create.topics", "false")
        .set("fetch.wait.max.ms", "50");
    config
}

// === impl Quiet ===

impl ClientContext for Quiet {
    fn error(&self, _: KafkaError, _: &str) {}

    fn log(&self, _: RDKafkaLogLevel, _: &str, _: &str) {}
}

impl ConsumerContext for Quiet {}

impl ProducerContext for Quiet {
    type DeliveryOpaque = ();

    fn delivery(&self, _: &DeliveryResult<'_>, (): ()) {}
}

// === impl Election ===

impl ClientContext for Election {
    fn error(&self, _: KafkaError, _: &str) {}

    fn log(&self, _: RDKafkaLogLevel, _: &str, _: &str) {}
}

impl ConsumerContext for Election {
    fn post_rebalance(&self, _: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        let is_elected = matches!(rebalance, Rebalance::Assign(partitions) if partitions.count() > 0);
        self.0.decides_from.store(-1, Ordering::Release);
        self.0.is_elected.store(is_elected, Ordering::Release);
    }
}
