//! A sync's topics in Kafka.

use super::{Item, Kind, Part};
use crate::{
    config::Kafka,
    error::FlowError,
    kafka::{
        ask::{self, Asker, Topic},
        topics,
    },
    names::{Flow, FlowNames},
    outbox,
};

pub(super) struct Topics<'c> {
    kafka: &'c Kafka,
    names: [String; 4],
}

// === impl Topics ===

impl<'c> Topics<'c> {
    pub(super) fn new(kafka: &'c Kafka, install: &str, sync: &str) -> Self {
        let [one, other] = Flow::BOTH.map(|flow| FlowNames::new(install, sync, flow).topic());
        Self { kafka, names: [outbox::unrouted(&one), outbox::unrouted(&other), one, other] }
    }

    pub(super) fn place(&self) -> String {
        format!("Kafka ({})", self.kafka.brokers)
    }

    pub(super) fn find(&self) -> Result<Vec<Item>, FlowError> {
        let asker = Asker::open(self.kafka)?;
        let mut items = Vec::new();
        for name in &self.names {
            match asker.topic(name)?.topic {
                Topic::Missing => {}
                Topic::Hidden => return Err(ask::hidden(name)),
                Topic::Stands { .. } => items.push(Item {
                    part: Part::Topics,
                    place: self.place(),
                    kind: Kind::Topic,
                    name: name.clone(),
                    statement: format!(
                        "kafka-topics.sh --bootstrap-server {} --delete --topic {name}",
                        self.kafka.brokers
                    ),
                }),
            }
        }
        Ok(items)
    }

    pub(super) async fn remove(&self, item: &Item) -> Result<(), FlowError> {
        topics::delete(self.kafka, &item.name).await
    }
}
