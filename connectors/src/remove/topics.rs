//! A sync's topics in Kafka.

use super::{Item, Kind, Part};
use crate::{
    config::{Kafka, Sync},
    error::FlowError,
    kafka::{
        ask::{self, Asker, Topic},
        topics,
    },
    names::{Flow, FlowNames},
    outbox,
    plan::PlanTable,
};

pub(super) struct Topics<'c> {
    kafka: &'c Kafka,
    names: Vec<String>,
}

// === impl Topics ===

impl<'c> Topics<'c> {
    /// `config` is nothing where the file does not have the sync any more.
    pub(super) fn new(kafka: &'c Kafka, install: &str, sync: &str, config: Option<&Sync>) -> Self {
        let mut names = Vec::new();
        for flow in Flow::BOTH {
            let own = FlowNames::new(install, sync, flow);
            names.push(outbox::unrouted(&own.topic()));
            // Whatever `order` it has now: it may have had another.
            let tables = config.map_or_else(Vec::new, |sync| PlanTable::all(sync, flow));
            names.extend(tables.iter().map(|table| own.table_topic(&table.source)));
            names.push(own.topic());
        }
        Self { kafka, names }
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
        // Of `order: key`: it is named like the flow's topic.
        topics::delete_group(self.kafka, &item.name).await;
        topics::delete(self.kafka, &item.name).await
    }
}
