//! Kafka can be reached, and a topic that stands already is as `order: transaction` needs it.
//!
//! A setting that a broker will not show is a warning: a broker that hides its settings may still keep them.

use std::{collections::HashMap, time::Duration};

use rdkafka::{
    ClientConfig, ClientContext,
    admin::{AdminClient, AdminOptions, OwnedResourceSpecifier, ResourceSpecifier},
    consumer::{BaseConsumer, Consumer, ConsumerContext},
    error::KafkaError,
};

use crate::{
    kafka::MAX_RECORD,
    names::{Flow, FlowNames},
};

use super::{Check, Findings};

const TIMEOUT: Duration = Duration::from_secs(5);
/// A broker that knows no such question (librdkafka's own) never answers it.
const SETTINGS_TIMEOUT: Duration = Duration::from_secs(2);
/// A stopped applier may stay away for so long before what it has not read is deleted.
const RETENTION: Duration = Duration::from_secs(24 * 3600);

/// A topic's settings by name.
type Settings = HashMap<String, Option<String>>;

/// Keeps librdkafka's own log lines to itself: what matters is a finding.
struct Quiet;

/// What the broker says of one topic.
struct Topic {
    name: String,
    partitions: usize,
    replicas: usize,
}

pub(super) async fn check(install: &str, sync: &str, brokers: Option<&str>, findings: &mut Findings<'_>) {
    let Some(brokers) = brokers else {
        findings.error(
            Check::Kafka,
            None,
            "the file",
            "a sync needs Kafka, and there is no `kafka`",
            "add `kafka: {brokers: \"host:9092\"}`",
        );
        return;
    };
    let flows = Flow::BOTH.map(|flow| (flow, FlowNames::new(install, sync, flow).topic()));
    let names = flows.clone().map(|(_, topic)| topic);
    let owned = brokers.to_owned();
    // librdkafka's question blocks.
    let asked = tokio::task::spawn_blocking(move || topics(&owned, &names)).await;
    let topics = match asked {
        Ok(Ok(topics)) => topics,
        Ok(Err(error)) => {
            let where_ = format!("Kafka ({brokers})");
            let what = format!("does not answer: {error}");
            findings.error(Check::Connect, None, where_, what, "start it, or correct `kafka.brokers`");
            return;
        }
        Err(_) => return,
    };
    let shown = describe(brokers, &topics).await;
    for (flow, topic) in topics
        .iter()
        .filter_map(|topic| flows.iter().find(|(_, name)| *name == topic.name).map(|(flow, _)| (*flow, topic)))
    {
        partitions(flow, topic, findings);
        settings(shown.get(&topic.name), flow, topic, findings);
    }
}

/// The topics that stand; a consumer asks, because a producer's question would make them.
fn topics(brokers: &str, names: &[String]) -> Result<Vec<Topic>, KafkaError> {
    let consumer: BaseConsumer<Quiet> =
        config(brokers).set("allow.auto.create.topics", "false").create_with_context(Quiet)?;
    let mut found = Vec::new();
    for name in names {
        let metadata = consumer.fetch_metadata(Some(name), TIMEOUT)?;
        let topic = metadata.topics().iter().find(|topic| topic.name() == name && topic.error().is_none());
        found.extend(topic.map(|topic| Topic {
            name: name.clone(),
            partitions: topic.partitions().len(),
            replicas: topic.partitions().first().map_or(0, |partition| partition.replicas().len()),
        }));
    }
    Ok(found)
}

fn partitions(flow: Flow, topic: &Topic, findings: &mut Findings<'_>) {
    if topic.partitions != 1 {
        findings.error(
            Check::Kafka,
            Some(flow),
            format!("Kafka topic {}", topic.name),
            format!("has {} partitions, and `order: transaction` needs exactly one", topic.partitions),
            "delete the topic; Banyan makes it anew",
        );
    }
}

fn settings(shown: Option<&Settings>, flow: Flow, topic: &Topic, findings: &mut Findings<'_>) {
    let (flow, where_) = (Some(flow), format!("Kafka topic {}", topic.name));
    let Some(shown) = shown else {
        let what = "the broker does not show its settings, so they were not checked";
        let fix = "let Banyan describe the topic's configuration, or see to it yourself: cleanup.policy=delete, a long retention";
        findings.warning(Check::Kafka, flow, where_, what, fix);
        return;
    };
    let text = |name: &str| shown.get(name).and_then(Option::as_deref);
    let number = |name: &str| text(name).and_then(|value| value.parse::<i64>().ok());
    let mut add = |is_error: bool, what: String, set: &str| {
        let severity = if is_error { super::Severity::Error } else { super::Severity::Warning };
        let fix = format!("set {set} for this topic");
        findings.add(severity, Check::Kafka, flow, where_.clone(), what, fix);
    };
    if let Some(policy) = text("cleanup.policy").filter(|policy| *policy != "delete") {
        add(
            true,
            format!("cleanup.policy is `{policy}`: compaction eats changes that were not applied yet"),
            "cleanup.policy=delete",
        );
    }
    let wanted = i64::try_from(RETENTION.as_millis()).unwrap_or(i64::MAX);
    if let Some(kept) = number("retention.ms").filter(|kept| *kept >= 0 && *kept < wanted) {
        let kept = Duration::from_millis(kept.unsigned_abs());
        add(
            false,
            format!("keeps records for {kept:?} only; an applier that is away for longer needs a new copy"),
            "retention.ms=604800000",
        );
    }
    if let Some(bytes) = number("retention.bytes").filter(|bytes| *bytes >= 0) {
        add(false, format!("keeps {bytes} bytes only, applied or not"), "retention.bytes=-1");
    }
    let replicas = i64::try_from(topic.replicas).unwrap_or(i64::MAX);
    if let Some(least) = number("min.insync.replicas") {
        if least > replicas {
            add(
                true,
                format!("min.insync.replicas is {least} with {replicas} replicas: it takes no record"),
                "min.insync.replicas to fewer than its replicas",
            );
        } else if least < 2 && replicas > 1 {
            add(
                false,
                "a record acknowledged by one replica alone can be lost with it".to_owned(),
                "min.insync.replicas=2",
            );
        }
    }
    let largest = i64::try_from(MAX_RECORD).unwrap_or(i64::MAX);
    if let Some(bytes) = number("max.message.bytes").filter(|bytes| *bytes < largest) {
        add(
            false,
            format!(
                "takes records up to {bytes} bytes, Banyan writes up to {largest}: a larger row would stop the flow"
            ),
            &format!("max.message.bytes={}", largest + 65_536),
        );
    }
}

/// What the broker shows of these topics' settings, in one question; a topic whose settings it hides is left out.
async fn describe(brokers: &str, topics: &[Topic]) -> HashMap<String, Settings> {
    let Ok(admin) = config(brokers).create_with_context::<_, AdminClient<Quiet>>(Quiet) else { return HashMap::new() };
    let options = AdminOptions::new().request_timeout(Some(SETTINGS_TIMEOUT));
    let specifiers: Vec<_> = topics.iter().map(|topic| ResourceSpecifier::Topic(&topic.name)).collect();
    let answer =
        if specifiers.is_empty() { Ok(Vec::new()) } else { admin.describe_configs(&specifiers, &options).await };
    let shown = answer.unwrap_or_default().into_iter().flatten().filter_map(|resource| match resource.specifier {
        OwnedResourceSpecifier::Topic(name) => {
            Some((name, resource.entries.into_iter().map(|entry| (entry.name, entry.value)).collect()))
        }
        _ => None,
    });
    shown.collect()
}

fn config(brokers: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers).set_log_level(rdkafka::config::RDKafkaLogLevel::Critical);
    config
}

// === impl Quiet ===

impl ClientContext for Quiet {
    fn log(&self, _: rdkafka::config::RDKafkaLogLevel, _: &str, _: &str) {}

    fn error(&self, _: KafkaError, _: &str) {}
}

impl ConsumerContext for Quiet {}
