//! Which lanes of `order: key` this process applies: those whose partitions of the flow's topic Kafka gives to it, as one of the group that is named
//! like the topic.
//!
//! Nothing is read and nothing committed there. The group says who should try, so that more processes make lighter work; that nothing is lost or
//! doubled when it errs is for the lock, the lease and the compare-and-set of each lane's position row.

use std::{collections::BTreeSet, time::Duration};

use rdkafka::{
    ClientContext, TopicPartitionList,
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, Consumer as _, ConsumerContext, Rebalance, StreamConsumer},
    error::{KafkaError, RDKafkaErrorCode},
};
use tokio::sync::watch;

use super::{
    client::{Ear, forbidden},
    topics,
};
use crate::{error::FlowError, plan::Plan};

/// A member that is not heard of for so long has no lanes any more. Brokers take no less unless they are told to.
const SESSION: Duration = Duration::from_secs(6);
/// Of errors that pass by themselves.
const PAUSE: Duration = Duration::from_millis(200);

/// The lanes that are this process's to apply.
pub(crate) type Seats = BTreeSet<u32>;

struct Member {
    ear: Ear,
    seats: watch::Sender<Seats>,
}

/// Takes all seats away when the membership ends.
struct Leaves<'s>(&'s watch::Sender<Seats>);

/// Is a member of the group until something ends it.
pub(crate) async fn hold(plan: &Plan, seats: &watch::Sender<Seats>) -> Result<(), FlowError> {
    let topic = plan.names.topic();
    topics::ensure(&plan.kafka, &topic, plan.lanes).await?;
    let _leaves = Leaves(seats);
    let member = Member { ear: Ear::default(), seats: seats.clone() };
    let consumer: StreamConsumer<Member> = plan
        .kafka
        .client()
        .set("group.id", &topic)
        .set("client.id", plan.names.application("lanes"))
        .set("partition.assignment.strategy", "cooperative-sticky")
        .set("session.timeout.ms", SESSION.as_millis().to_string())
        .set("heartbeat.interval.ms", (SESSION.as_millis() / 4).to_string())
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("auto.offset.reset", "latest")
        .set("allow.auto.create.topics", "false")
        // What comes before the partitions are paused is thrown away.
        .set("queued.max.messages.kbytes", "64")
        .set("fetch.message.max.bytes", "65536")
        .create_with_context(member)
        .map_err(|source| Ear::default().failed("making a consumer", source))?;
    consumer.subscribe(&[&topic]).map_err(|source| FlowError::Kafka { doing: "joining the group", source })?;
    loop {
        let Err(source) = consumer.recv().await.map(drop) else { continue };
        match source.rdkafka_error_code() {
            Some(RDKafkaErrorCode::GroupAuthorizationFailed) => {
                return Err(FlowError::Busy(format!(
                    "Kafka does not let Banyan into the group `{topic}`, by which the lanes of `order: key` are given to processes: allow its user READ on that group"
                )));
            }
            Some(RDKafkaErrorCode::TopicAuthorizationFailed) => return Err(forbidden("read from", &topic, "READ")),
            Some(RDKafkaErrorCode::Fatal) => return Err(consumer.context().ear.failed("holding lanes", source)),
            _ => tokio::time::sleep(PAUSE).await,
        }
    }
}

fn lanes(list: &TopicPartitionList) -> impl Iterator<Item = u32> {
    list.elements()
        .into_iter()
        .filter_map(|element| u32::try_from(element.partition()).ok())
        .collect::<Vec<_>>()
        .into_iter()
}

// === impl Leaves ===

impl Drop for Leaves<'_> {
    fn drop(&mut self) {
        self.0.send_modify(BTreeSet::clear);
    }
}

// === impl Member ===

impl ClientContext for Member {
    fn error(&self, error: KafkaError, reason: &str) {
        self.ear.hear(&error, reason);
    }

    fn log(&self, _: RDKafkaLogLevel, _: &str, _: &str) {}
}

impl ConsumerContext for Member {
    fn pre_rebalance(&self, _: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        match rebalance {
            Rebalance::Revoke(list) => self.seats.send_modify(|seats| {
                for lane in lanes(list) {
                    seats.remove(&lane);
                }
            }),
            Rebalance::Error(_) => self.seats.send_modify(BTreeSet::clear),
            Rebalance::Assign(_) => {}
        }
    }

    fn post_rebalance(&self, consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        if let Rebalance::Assign(list) = rebalance {
            // Whoever applies a lane has a consumer of its own, which reads from where the target is.
            drop(consumer.pause(list));
            self.seats.send_modify(|seats| seats.extend(lanes(list)));
        }
    }
}
