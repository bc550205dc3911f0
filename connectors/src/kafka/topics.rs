//! A flow's topic: made when missing, or waited for, checked before every use, and deleted when its sync is removed. The topics of events are
//! made, and nothing else.

use std::time::Duration;

use rdkafka::{
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    error::{KafkaError, RDKafkaErrorCode},
};

use super::{
    ROOM,
    ask::{self, Asker, Settings, Topic},
    client::{Ear, forbidden},
};
use crate::{config::Kafka, error::FlowError};

const TIMEOUT: Duration = Duration::from_secs(10);

/// A topic that may be used.
pub(crate) struct Ready {
    topic: String,
    in_sync: usize,
    /// The broker shows the topic's settings. One that will not gets a warning only, and need not be asked again.
    settings: Option<Settings>,
}

/// How a topic is made.
struct Wanted {
    partitions: i32,
    /// Nothing is for ever.
    retention: Option<Duration>,
}

/// Makes sure that `topic` exists with exactly as many partitions as there are `lanes`, or one, and keeps its records long and whole enough.
pub(crate) async fn ensure(kafka: &Kafka, topic: &str, lanes: Option<u32>) -> Result<Ready, FlowError> {
    let wanted = i32::try_from(lanes.unwrap_or(1)).unwrap_or(i32::MAX);
    match find_or_make(kafka, topic, &Wanted { partitions: wanted, retention: Some(kafka.topics.retention()) }).await? {
        Topic::Missing => Err(FlowError::Busy(format!("Kafka has not made the topic `{topic}` yet"))),
        Topic::Hidden => Err(ask::hidden(topic)),
        Topic::Stands { partitions, in_sync, .. } if i32::try_from(partitions) == Ok(wanted) => {
            let settings = ask::settings(kafka, &[topic], None).await.topics.remove(topic);
            check(kafka, topic, settings.as_ref())?;
            Ok(Ready { topic: topic.to_owned(), in_sync, settings })
        }
        Topic::Stands { partitions, .. } => Err(FlowError::Stop(match lanes {
            None => format!(
                "the topic `{topic}` has {partitions} partitions; `order: transaction` needs exactly one, or transactions lose their order"
            ),
            Some(lanes) => format!(
                "the topic `{topic}` has {partitions} partitions; `order: key` with `partitions: {lanes}` needs exactly {lanes}, or rows lose their order"
            ),
        })),
    }
}

/// Makes sure that a topic of events exists, with however many partitions: what it keeps, and for how long, is for who reads it to say.
pub(crate) async fn ensure_for_events(kafka: &Kafka, topic: &str) -> Result<(), FlowError> {
    let wish = &kafka.topics.outbox;
    let wanted = Wanted { partitions: i32::from(wish.partitions), retention: wish.retention };
    match find_or_make(kafka, topic, &wanted).await? {
        Topic::Missing => Err(FlowError::Busy(format!("Kafka has not made the topic `{topic}` yet"))),
        Topic::Hidden => Err(forbidden("see", topic, "WRITE")),
        Topic::Stands { .. } => Ok(()),
    }
}

async fn find_or_make(kafka: &Kafka, topic: &str, wanted: &Wanted) -> Result<Topic, FlowError> {
    let asker = Asker::open(kafka)?;
    let mut found = asker.topic(topic)?.topic;
    if found == Topic::Missing {
        make(kafka, topic, wanted).await?;
        for _ in 0..20 {
            found = asker.topic(topic)?.topic;
            if found != Topic::Missing {
                break;
            }
            // The controller's word takes a moment to reach the broker that was asked.
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    Ok(found)
}

async fn make(kafka: &Kafka, topic: &str, wanted: &Wanted) -> Result<(), FlowError> {
    let doing = "making the topic";
    let wish = &kafka.topics;
    if !wish.create {
        let partitions = match wanted.partitions {
            1 => "one partition".to_owned(),
            more => format!("{more} partitions, say"),
        };
        return Err(FlowError::Busy(format!(
            "there is no topic `{topic}`, and `kafka.topics.create: false` leaves making it to others: {partitions}, cleanup.policy=delete"
        )));
    }
    let admin: AdminClient<Ear> =
        kafka.client().create_with_context(Ear::default()).map_err(|source| Ear::default().failed(doing, source))?;
    let size = (wish.max_record() + ROOM).to_string();
    let retention = wanted.retention.map_or_else(|| "-1".to_owned(), |kept| kept.as_millis().to_string());
    let least = wish.min_insync_replicas.map(|least| least.to_string());
    // -1: the broker's own default.
    let replication = TopicReplication::Fixed(wish.replication.map_or(-1, i32::from));
    let mut new = NewTopic::new(topic, wanted.partitions, replication)
        .set("cleanup.policy", "delete")
        .set("retention.ms", &retention)
        .set("retention.bytes", "-1")
        .set("max.message.bytes", &size);
    if let Some(least) = &least {
        new = new.set("min.insync.replicas", least);
    }
    let options = AdminOptions::new().operation_timeout(Some(TIMEOUT)).request_timeout(Some(TIMEOUT));
    let made = admin.create_topics([&new], &options).await;
    for result in made.map_err(|source| admin.inner().context().failed(doing, source))? {
        match result {
            Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
            Err((_, RDKafkaErrorCode::TopicAuthorizationFailed | RDKafkaErrorCode::ClusterAuthorizationFailed)) => {
                return Err(forbidden("make", topic, "CREATE"));
            }
            Err((_, RDKafkaErrorCode::InvalidReplicationFactor)) => {
                return Err(FlowError::Busy(format!(
                    "Kafka has too few brokers for the topic `{topic}`: start them, or lower `kafka.topics.replication`"
                )));
            }
            Err((_, RDKafkaErrorCode::InvalidTopic | RDKafkaErrorCode::PolicyViolation)) => {
                return Err(FlowError::Unnamed(topic.to_owned()));
            }
            Err((_, code)) => return Err(FlowError::Kafka { doing, source: KafkaError::AdminOp(code) }),
        }
    }
    Ok(())
}

/// Deletes the group of this name, in which nothing is stored. Whether there is one, or somebody is in it, does not matter.
pub(crate) async fn delete_group(kafka: &Kafka, group: &str) {
    if let Ok(admin) = kafka.client().create_with_context::<_, AdminClient<Ear>>(Ear::default()) {
        drop(admin.delete_groups(&[group], &AdminOptions::new().request_timeout(Some(TIMEOUT))).await);
    }
}

/// Deletes `topic` with all its records; one that is not there is deleted.
pub(crate) async fn delete(kafka: &Kafka, topic: &str) -> Result<(), FlowError> {
    let doing = "deleting the topic";
    let admin: AdminClient<Ear> =
        kafka.client().create_with_context(Ear::default()).map_err(|source| Ear::default().failed(doing, source))?;
    let options = AdminOptions::new().operation_timeout(Some(TIMEOUT)).request_timeout(Some(TIMEOUT));
    let deleted = admin.delete_topics(&[topic], &options).await;
    for result in deleted.map_err(|source| admin.inner().context().failed(doing, source))? {
        match result {
            Ok(_) | Err((_, RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic)) => {}
            Err((_, RDKafkaErrorCode::TopicAuthorizationFailed | RDKafkaErrorCode::ClusterAuthorizationFailed)) => {
                return Err(forbidden("delete", topic, "DELETE"));
            }
            Err((_, code)) => return Err(FlowError::Kafka { doing, source: KafkaError::AdminOp(code) }),
        }
    }
    // The controller's word takes a moment to reach the broker that is asked next.
    let asker = Asker::open(kafka)?;
    for _ in 0..50 {
        if asker.topic(topic)?.topic == Topic::Missing {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

fn check(kafka: &Kafka, topic: &str, settings: Option<&Settings>) -> Result<(), FlowError> {
    let Some(settings) = settings else {
        tracing::warn!(topic, "the broker does not show the topic's settings; they are taken on trust");
        return Ok(());
    };
    if let Some(policy) = settings.text("cleanup.policy").filter(|policy| *policy != "delete") {
        return Err(FlowError::Stop(format!(
            "the topic `{topic}` has cleanup.policy={policy}; compaction would eat changes, it must be `delete`"
        )));
    }
    let largest = i64::try_from(kafka.topics.max_record()).unwrap_or(i64::MAX);
    if let Some(bytes) = settings.number("max.message.bytes").filter(|bytes| *bytes < largest) {
        tracing::warn!(
            topic,
            bytes,
            "the topic takes smaller records than Banyan may write; a larger row will stop the flow"
        );
    }
    Ok(())
}

// === impl Ready ===

impl Ready {
    /// Whether the broker shows the topic's settings, so that asking again makes sense.
    pub(crate) fn shows_settings(&self) -> bool {
        self.settings.is_some()
    }

    /// Fails while Kafka takes no record because too few copies stand; those that were written can be read all the same.
    pub(crate) fn takes_records(&self) -> Result<(), FlowError> {
        let least = self.settings.as_ref().and_then(|settings| settings.number("min.insync.replicas"));
        let in_sync = i64::try_from(self.in_sync).unwrap_or(i64::MAX);
        match least.filter(|least| *least > in_sync) {
            Some(least) => Err(FlowError::Busy(format!(
                "the topic `{}` takes no records: {in_sync} of its replicas are in sync, and min.insync.replicas is {least}",
                self.topic
            ))),
            None => Ok(()),
        }
    }
}
