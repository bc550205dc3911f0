//! Kafka can be reached, the flows' topics stand or can be made, and those that stand are as `order` and the file want them.
//!
//! A setting that a broker will not show is a warning: a broker that hides its settings may still keep them. `replica.fetch.max.bytes` is not
//! looked at: followers fetch a larger record all the same (KIP-74). Nor is the broker's `message.max.bytes`: the topic's own setting counts.

use std::time::Duration;

use crate::{
    config::{Kafka, KafkaTopics, Sync},
    error::FlowError,
    kafka::{
        ROOM,
        ask::{self, Answer, Asker, Settings, Shown, Topic},
    },
    names::{Flow, FlowNames},
    plan::{self, PlanTable},
};

use super::{Check, Findings, Severity};

/// An applier may be away for a day at least before what it has not read is deleted.
const RETENTION: Duration = Duration::from_hours(24);

/// Where the findings of one topic go.
struct Place<'f, 'g> {
    flow: Flow,
    name: String,
    /// So many it must have.
    partitions: u32,
    findings: &'f mut Findings<'g>,
}

pub(super) async fn check(install: &str, name: &str, sync: &Sync, kafka: Option<&Kafka>, findings: &mut Findings<'_>) {
    let Some(kafka) = kafka else {
        findings.error(
            Check::Kafka,
            None,
            "the file",
            "a sync needs Kafka, and there is no `kafka`",
            "add `kafka: {brokers: \"host:9092\"}`",
        );
        return;
    };
    let lanes = plan::lanes(sync);
    let of_flow = |flow: Flow| {
        let names = FlowNames::new(install, name, flow);
        let tables = PlanTable::all(sync, flow).into_iter().filter(|_| lanes.is_some());
        let tables: Vec<String> = tables.map(|table| names.table_topic(&table.source)).collect();
        std::iter::once(names.topic()).chain(tables).map(move |topic| (flow, topic))
    };
    let topics: Vec<(Flow, String)> = Flow::BOTH.into_iter().flat_map(of_flow).collect();
    let (asked, names): (_, Vec<String>) = (kafka.clone(), topics.iter().map(|(_, topic)| topic.clone()).collect());
    // librdkafka's question blocks.
    let answers = match tokio::task::spawn_blocking(move || ask_for(&asked, &names)).await {
        Ok(Ok(answers)) => answers,
        Ok(Err(error)) => {
            let what = format!("does not answer: {}", error.reason());
            let fix = "start it, or correct `kafka.brokers`, `kafka.tls` or `kafka.sasl`";
            findings.error(Check::Connect, None, format!("Kafka ({})", kafka.brokers), what, fix);
            return;
        }
        Err(_) => return,
    };
    let standing = answers.iter().zip(&topics).filter(|(answer, _)| matches!(answer.topic, Topic::Stands { .. }));
    let standing: Vec<&str> = standing.map(|(_, (_, name))| name.as_str()).collect();
    let broker = answers.first().and_then(|answer| answer.brokers.first()).copied();
    let mut shown = ask::settings(kafka, &standing, broker).await;
    requests(kafka, &shown, findings);
    for (answer, (flow, name)) in answers.iter().zip(topics) {
        let settings = shown.topics.remove(&name);
        let mut place = Place { flow, name, partitions: lanes.unwrap_or(1), findings };
        match answer.topic {
            Topic::Hidden => place.hidden(),
            Topic::Missing => place.missing(&kafka.topics, answer.brokers.len()),
            Topic::Stands { partitions, replicas, .. } => {
                place.copies(partitions, replicas, &kafka.topics);
                match settings {
                    Some(settings) => place.settings(&settings, replicas, &kafka.topics),
                    None => place.not_shown(),
                }
            }
        }
    }
}

fn ask_for(kafka: &Kafka, names: &[String]) -> Result<Vec<Answer>, FlowError> {
    let asker = Asker::open(kafka)?;
    names.iter().map(|name| asker.topic(name)).collect()
}

/// A record travels in a request, which has a limit of its own. What is read back is asked for in sizes that fit.
fn requests(kafka: &Kafka, shown: &Shown, findings: &mut Findings<'_>) {
    let needed = in_bytes(kafka.topics.max_record() + ROOM);
    let most = shown.broker.as_ref().and_then(|settings| settings.number("socket.request.max.bytes"));
    if let Some(most) = most.filter(|most| *most < needed) {
        findings.error(
            Check::Kafka,
            None,
            format!("Kafka ({})", kafka.brokers),
            format!("the brokers take requests up to {most} bytes, and a record of `kafka.topics.max_record` makes one of {needed}"),
            format!("set socket.request.max.bytes={needed} on every broker, or lower `kafka.topics.max_record`"),
        );
    }
}

fn in_bytes(size: usize) -> i64 {
    i64::try_from(size).unwrap_or(i64::MAX)
}

// === impl Place ===

impl Place<'_, '_> {
    fn add(&mut self, severity: Severity, check: Check, what: impl Into<String>, fix: impl Into<String>) {
        let where_ = format!("Kafka topic {}", self.name);
        self.findings.add(severity, check, Some(self.flow), where_, what, fix);
    }

    fn hidden(&mut self) {
        let what = "Kafka does not let Banyan see it";
        self.add(Severity::Error, Check::Access, what, "give its user READ, WRITE and DESCRIBE_CONFIGS there");
    }

    fn missing(&mut self, wish: &KafkaTopics, brokers: usize) {
        if !wish.create {
            let replication =
                wish.replication.map_or(String::new(), |copies| format!(" --replication-factor {copies}"));
            let least = wish
                .min_insync_replicas
                .map_or(String::new(), |least| format!(" --config min.insync.replicas={least}"));
            let fix = format!(
                "kafka-topics.sh --create --topic {} --partitions {}{replication} --config cleanup.policy=delete --config retention.ms={} \
                 --config retention.bytes=-1 --config max.message.bytes={}{least}",
                self.name,
                self.partitions,
                wish.retention().as_millis(),
                wish.max_record() + ROOM,
            );
            let what = "is not there, and `kafka.topics.create: false` leaves making it to others";
            self.add(Severity::Error, Check::Access, what, fix);
        } else if let Some(copies) = wish.replication.filter(|copies| usize::from(*copies) > brokers) {
            let what = format!("cannot be made with {copies} replicas: {brokers} of the brokers are up");
            self.add(Severity::Error, Check::Access, what, "start them, or lower `kafka.topics.replication`");
        }
    }

    fn copies(&mut self, partitions: usize, replicas: usize, wish: &KafkaTopics) {
        if u32::try_from(partitions) != Ok(self.partitions) {
            let (what, wanted) = match self.partitions {
                1 => (
                    format!("has {partitions} partitions, and `order: transaction` needs exactly one"),
                    "one partition".to_owned(),
                ),
                lanes => (
                    format!(
                        "has {partitions} partitions, and `order: key` with `partitions: {lanes}` needs exactly {lanes}"
                    ),
                    format!("{lanes} partitions"),
                ),
            };
            let fix = if wish.create {
                "delete the topic; Banyan makes it anew".to_owned()
            } else {
                format!("delete the topic and make it anew with {wanted}")
            };
            self.add(Severity::Error, Check::Kafka, what, fix);
        }
        if let Some(copies) = wish.replication.filter(|copies| usize::from(*copies) != replicas) {
            let what = format!("has {replicas} replicas, and `kafka.topics.replication` is {copies}");
            self.add(
                Severity::Warning,
                Check::Kafka,
                what,
                "move it with kafka-reassign-partitions.sh, or change the key",
            );
        }
    }

    fn not_shown(&mut self) {
        let what = "the broker does not show its settings, so they were not checked";
        let fix = "let Banyan describe the topic's configuration, or see to it yourself: cleanup.policy=delete, a long retention";
        self.add(Severity::Warning, Check::Kafka, what, fix);
    }

    fn settings(&mut self, shown: &Settings, replicas: usize, wish: &KafkaTopics) {
        let mut wrong = |severity: Severity, what: String, set: &str| {
            self.add(severity, Check::Kafka, what, format!("set {set} for this topic"));
        };
        if let Some(policy) = shown.text("cleanup.policy").filter(|policy| *policy != "delete") {
            wrong(
                Severity::Error,
                format!("cleanup.policy is `{policy}`: compaction eats changes that were not applied yet"),
                "cleanup.policy=delete",
            );
        }
        let wanted = wish.retention.unwrap_or(RETENTION).max(RETENTION);
        if let Some(kept) =
            shown.number("retention.ms").filter(|kept| *kept >= 0 && kept.unsigned_abs() < millis(wanted))
        {
            let kept = Duration::from_millis(kept.unsigned_abs());
            wrong(
                Severity::Warning,
                format!("keeps records for {kept:?} only; an applier that is away for longer needs a new copy"),
                &format!("retention.ms={}", millis(wish.retention().max(RETENTION))),
            );
        }
        if let Some(bytes) = shown.number("retention.bytes").filter(|bytes| *bytes >= 0) {
            wrong(Severity::Warning, format!("keeps {bytes} bytes only, applied or not"), "retention.bytes=-1");
        }
        if let Some(least) = shown.number("min.insync.replicas") {
            if least > in_bytes(replicas) {
                wrong(
                    Severity::Error,
                    format!("min.insync.replicas is {least} with {replicas} replicas: it takes no record"),
                    "min.insync.replicas to fewer than its replicas",
                );
            } else if let Some(wanted) = wish.min_insync_replicas.filter(|wanted| i64::from(*wanted) != least) {
                wrong(
                    Severity::Warning,
                    format!("min.insync.replicas is {least}, and `kafka.topics.min_insync_replicas` is {wanted}"),
                    &format!("min.insync.replicas={wanted}"),
                );
            } else if least < 2 && replicas > 1 {
                wrong(
                    Severity::Warning,
                    "a record acknowledged by one replica alone can be lost with it".to_owned(),
                    "min.insync.replicas=2",
                );
            }
        }
        let largest = in_bytes(wish.max_record());
        if let Some(bytes) = shown.number("max.message.bytes").filter(|bytes| *bytes < largest) {
            wrong(
                Severity::Warning,
                format!(
                    "takes records up to {bytes} bytes, Banyan writes up to {largest}: a larger row would stop the flow"
                ),
                &format!("max.message.bytes={}", in_bytes(wish.max_record() + ROOM)),
            );
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
