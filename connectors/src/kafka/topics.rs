//! A flow's topic: made when missing, and checked before every use.

use std::time::Duration;

use rdkafka::{
    ClientConfig,
    admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication},
    client::DefaultClientContext,
    consumer::{BaseConsumer, Consumer},
    error::{KafkaError, RDKafkaErrorCode},
    types::RDKafkaRespErr,
};

use super::MAX_RECORD;
use crate::error::FlowError;

const TIMEOUT: Duration = Duration::from_secs(10);
/// A broker that knows no such question (librdkafka's own) never answers it, and every start waits so long.
const SETTINGS_TIMEOUT: Duration = Duration::from_secs(1);

/// Makes sure that `topic` exists with exactly one partition, and keeps its records long and whole enough.
///
/// Whether the broker shows the topic's settings: one that will not gets a warning only, and need not be asked again.
pub(crate) async fn ensure(brokers: &str, topic: &str) -> Result<bool, FlowError> {
    let mut partitions = count(brokers, topic)?;
    if partitions == 0 {
        make(brokers, topic).await?;
        for _ in 0..20 {
            partitions = count(brokers, topic)?;
            if partitions > 0 {
                break;
            }
            // The controller's word takes a moment to reach the broker that was asked.
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    match partitions {
        0 => Err(FlowError::Busy(format!("Kafka has not made the topic `{topic}` yet"))),
        1 => check_settings(brokers, topic).await,
        n => Err(FlowError::Stop(format!(
            "the topic `{topic}` has {n} partitions; `order: transaction` needs exactly one, or transactions lose their order"
        ))),
    }
}

fn config(brokers: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers).set_log_level(rdkafka::config::RDKafkaLogLevel::Critical);
    config
}

fn kafka(doing: &'static str) -> impl Fn(KafkaError) -> FlowError {
    move |source| FlowError::Kafka { doing, source }
}

/// A consumer asks, because a producer's question would make the topic, with as many partitions as the broker likes.
fn count(brokers: &str, topic: &str) -> Result<usize, FlowError> {
    let doing = "asking Kafka for the topic";
    let consumer: BaseConsumer =
        config(brokers).set("allow.auto.create.topics", "false").create().map_err(kafka(doing))?;
    let metadata = consumer.fetch_metadata(Some(topic), TIMEOUT).map_err(kafka(doing))?;
    let Some(found) = metadata.topics().iter().find(|found| found.name() == topic) else { return Ok(0) };
    match found.error() {
        None => Ok(found.partitions().len()),
        Some(
            RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART
            | RDKafkaRespErr::RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE,
        ) => Ok(0),
        Some(error) => Err(FlowError::Kafka { doing, source: KafkaError::MetadataFetch(error.into()) }),
    }
}

async fn make(brokers: &str, topic: &str) -> Result<(), FlowError> {
    let doing = "making the topic";
    let admin: AdminClient<DefaultClientContext> = config(brokers).create().map_err(kafka(doing))?;
    let size = (MAX_RECORD + (64 << 10)).to_string();
    // -1: the broker's own default. A week is as long as a stopped applier may stay away.
    let new = NewTopic::new(topic, 1, TopicReplication::Fixed(-1))
        .set("cleanup.policy", "delete")
        .set("retention.ms", "604800000")
        .set("retention.bytes", "-1")
        .set("max.message.bytes", &size);
    let options = AdminOptions::new().operation_timeout(Some(TIMEOUT)).request_timeout(Some(TIMEOUT));
    for result in admin.create_topics([&new], &options).await.map_err(kafka(doing))? {
        match result {
            Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
            Err((_, code)) => return Err(FlowError::Kafka { doing, source: KafkaError::AdminOp(code) }),
        }
    }
    Ok(())
}

async fn check_settings(brokers: &str, topic: &str) -> Result<bool, FlowError> {
    let admin: AdminClient<DefaultClientContext> =
        config(brokers).create().map_err(kafka("asking Kafka for the topic's settings"))?;
    let options = AdminOptions::new().request_timeout(Some(SETTINGS_TIMEOUT));
    let answer = admin.describe_configs([&ResourceSpecifier::Topic(topic)], &options).await;
    let Some(settings) = answer.ok().and_then(|mut all| all.pop()).and_then(Result::ok) else {
        tracing::warn!(topic, "the broker does not show the topic's settings; they are taken on trust");
        return Ok(false);
    };
    let value = |name: &str| settings.get(name).and_then(|entry| entry.value.clone());
    if let Some(policy) = value("cleanup.policy").filter(|policy| policy != "delete") {
        return Err(FlowError::Stop(format!(
            "the topic `{topic}` has cleanup.policy={policy}; compaction would eat changes, it must be `delete`"
        )));
    }
    if let Some(bytes) =
        value("max.message.bytes").and_then(|v| v.parse::<usize>().ok()).filter(|bytes| *bytes < MAX_RECORD)
    {
        tracing::warn!(
            topic,
            bytes,
            "the topic takes smaller records than Banyan may write; a larger row will stop the flow"
        );
    }
    Ok(true)
}
