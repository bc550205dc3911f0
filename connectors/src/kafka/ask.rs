//! What Kafka says of topics and brokers, without changing anything.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use rdkafka::{
    admin::{AdminClient, AdminOptions, ConfigResource, OwnedResourceSpecifier, ResourceSpecifier},
    consumer::{BaseConsumer, Consumer as _},
    error::KafkaError,
    types::RDKafkaRespErr,
};

use super::client::{Ear, forbidden};
use crate::{config::Kafka, error::FlowError};

const TIMEOUT: Duration = Duration::from_secs(10);
/// So often it is looked at what was heard meanwhile.
const SLICE: Duration = Duration::from_millis(500);
/// A broker that knows no such question (librdkafka's own) never answers it, and every start waits so long.
const SETTINGS_TIMEOUT: Duration = Duration::from_secs(1);
/// That one knows neither TLS nor a log-in, which take a while to a broker far away.
const SETTINGS_TIMEOUT_SECURED: Duration = Duration::from_secs(5);

/// Asks for topics. A consumer, because a producer's question would make the topic, with as many partitions as the broker likes.
pub(crate) struct Asker {
    consumer: BaseConsumer<Ear>,
}

/// What the brokers say of one topic.
#[derive(Debug)]
pub(crate) struct Answer {
    /// The brokers that are up.
    pub(crate) brokers: Vec<i32>,
    pub(crate) topic: Topic,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Topic {
    Missing,
    /// It may stand or not: Banyan's user may not see it.
    Hidden,
    /// It stands; replicas are those of its first partition.
    Stands {
        partitions: usize,
        replicas: usize,
        in_sync: usize,
    },
}

/// A topic's or a broker's settings by name.
pub(crate) struct Settings(HashMap<String, Option<String>>);

/// What is shown of settings; what is not, is left out.
#[derive(Default)]
pub(crate) struct Shown {
    pub(crate) topics: HashMap<String, Settings>,
    pub(crate) broker: Option<Settings>,
}

// === impl Kafka ===

impl Kafka {
    /// Whether a topic stands. Blocks for 10 s at most.
    ///
    /// # Errors
    ///
    /// In words: no broker answers, Banyan is not let in, or it may not see the topic.
    pub fn has_topic(&self, topic: &str) -> Result<bool, String> {
        let answer = Asker::open(self).and_then(|asker| asker.topic(topic)).map_err(|error| error.reason())?;
        match answer.topic {
            Topic::Stands { .. } => Ok(true),
            Topic::Missing => Ok(false),
            Topic::Hidden => Err(hidden(topic).reason()),
        }
    }
}

/// The error where a topic cannot be seen.
pub(crate) fn hidden(topic: &str) -> FlowError {
    forbidden("see", topic, "READ, WRITE, DESCRIBE_CONFIGS")
}

// === impl Asker ===

impl Asker {
    pub(crate) fn open(kafka: &Kafka) -> Result<Self, FlowError> {
        let consumer = kafka
            .client()
            .set("allow.auto.create.topics", "false")
            .create_with_context(Ear::default())
            .map_err(|source| Ear::default().failed("making a client of Kafka", source))?;
        Ok(Self { consumer })
    }

    /// What the brokers say of a topic. Blocks for 10 s at most.
    pub(crate) fn topic(&self, name: &str) -> Result<Answer, FlowError> {
        let doing = "asking Kafka for the topic";
        let end = Instant::now() + TIMEOUT;
        let metadata = loop {
            match self.consumer.fetch_metadata(Some(name), SLICE) {
                Ok(metadata) => break metadata,
                Err(source) => {
                    // What the library's threads heard comes to whoever polls; there are no records here.
                    for _ in 0..100 {
                        drop(self.consumer.poll(Duration::ZERO));
                    }
                    let ear = self.consumer.context();
                    if ear.refused() || Instant::now() >= end {
                        return Err(ear.failed(doing, source));
                    }
                }
            }
        };
        let brokers = metadata.brokers().iter().map(rdkafka::metadata::MetadataBroker::id).collect();
        let Some(found) = metadata.topics().iter().find(|found| found.name() == name) else {
            return Ok(Answer { brokers, topic: Topic::Missing });
        };
        let topic = match found.error() {
            None => {
                let first = found.partitions().first();
                Topic::Stands {
                    partitions: found.partitions().len(),
                    replicas: first.map_or(0, |first| first.replicas().len()),
                    in_sync: first.map_or(0, |first| first.isr().len()),
                }
            }
            Some(
                RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART
                | RDKafkaRespErr::RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE,
            ) => Topic::Missing,
            Some(RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED) => Topic::Hidden,
            Some(error) => return Err(FlowError::Kafka { doing, source: KafkaError::MetadataFetch(error.into()) }),
        };
        Ok(Answer { brokers, topic })
    }
}

/// What is shown of these topics' settings and of one broker's, in one question.
pub(crate) async fn settings(kafka: &Kafka, topics: &[&str], broker: Option<i32>) -> Shown {
    let Ok(admin) = kafka.client().create_with_context::<_, AdminClient<Ear>>(Ear::default()) else {
        return Shown::default();
    };
    let at_most = if kafka.tls.is_none() && kafka.sasl.is_none() { SETTINGS_TIMEOUT } else { SETTINGS_TIMEOUT_SECURED };
    let options = AdminOptions::new().request_timeout(Some(at_most));
    let topics = topics.iter().map(|topic| ResourceSpecifier::Topic(topic));
    let specifiers: Vec<_> = topics.chain(broker.map(ResourceSpecifier::Broker)).collect();
    if specifiers.is_empty() {
        return Shown::default();
    }
    let mut shown = Shown::default();
    for resource in admin.describe_configs(&specifiers, &options).await.unwrap_or_default().into_iter().flatten() {
        let ConfigResource { specifier, entries } = resource;
        let settings = Settings(entries.into_iter().map(|entry| (entry.name, entry.value)).collect());
        match specifier {
            OwnedResourceSpecifier::Topic(name) => drop(shown.topics.insert(name, settings)),
            OwnedResourceSpecifier::Broker(_) => shown.broker = Some(settings),
            OwnedResourceSpecifier::Group(_) => {}
        }
    }
    shown
}

// === impl Settings ===

impl Settings {
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).and_then(Option::as_deref)
    }

    pub(crate) fn number(&self, name: &str) -> Option<i64> {
        self.text(name).and_then(|value| value.parse().ok())
    }
}
