//! Where an event goes: its aggregate's topic, made when the first one comes, or the flow's own topic of events that no topic takes.

use std::{collections::HashSet, sync::Arc};

use prometheus::IntCounter;

use super::topics;
use crate::{
    config::Kafka,
    error::FlowError,
    metrics::FlowMetrics,
    outbox::{self, Event},
    position::Position,
};

/// A policy of the cluster, or another topic whose name differs in `.` and `_` alone.
const REFUSED: &str =
    "Kafka refuses to make its topic: there is one whose name differs in `.` and `_` alone, or a policy forbids it";

/// The topics of one capture's events.
pub(super) struct Events {
    kafka: Arc<Kafka>,
    /// Those that stand.
    known: HashSet<String>,
    /// Those that Kafka refuses to make.
    refused: HashSet<String>,
    /// For events that have no other topic.
    unrouted: String,
    counts: EventCounts,
    /// Whether somebody was told of one, and of an update. The rest is counted: whoever writes wrong rows writes many.
    told: [bool; 2],
}

/// What became of an outbox's rows.
pub(crate) struct EventCounts {
    pub(crate) sent: IntCounter,
    pub(crate) unrouted: IntCounter,
    pub(crate) updates: IntCounter,
}

/// Where one event goes.
pub(super) struct Way {
    pub(super) topic: String,
    /// The rule that its aggregate's type breaks.
    pub(super) broken: Option<&'static str>,
}

// === impl Events ===

impl Events {
    /// `topic` is the flow's own.
    pub(super) fn new(kafka: &Arc<Kafka>, topic: &str, metrics: &FlowMetrics) -> Self {
        Self {
            kafka: Arc::clone(kafka),
            known: HashSet::new(),
            refused: HashSet::new(),
            unrouted: outbox::unrouted(topic),
            counts: metrics.events(),
            told: [false; 2],
        }
    }

    /// Finds the topic, and makes sure that it stands.
    pub(super) async fn way(&mut self, event: &Event<'_>) -> Result<Way, FlowError> {
        let (mut topic, mut broken) = match event.row.topic() {
            Ok(topic) => (topic, None),
            Err(rule) => (self.unrouted.clone(), Some(rule)),
        };
        if self.refused.contains(&topic) {
            (topic, broken) = (self.unrouted.clone(), Some(REFUSED));
        }
        if !self.known.contains(&topic) {
            match topics::ensure_for_events(&self.kafka, &topic).await {
                Err(FlowError::Unnamed(_)) if broken.is_none() => {
                    self.refused.insert(topic);
                    (topic, broken) = (self.unrouted.clone(), Some(REFUSED));
                    topics::ensure_for_events(&self.kafka, &topic).await?;
                }
                ensured => ensured?,
            }
            self.known.insert(topic.clone());
        }
        self.counts.sent.inc();
        if let Some(rule) = broken {
            self.counts.unrouted.inc();
            if !std::mem::replace(&mut self.told[0], true) {
                tracing::warn!(
                    table = event.table,
                    position = %event.position,
                    topic,
                    "an event has no topic of its own: {rule}; it stands in the flow's topic for such events, as all that follow"
                );
            }
        }
        Ok(Way { topic, broken })
    }

    /// A row of an outbox was changed, which is no event.
    pub(super) fn updated(&mut self, table: &str, position: Position) {
        self.counts.updates.inc();
        if !std::mem::replace(&mut self.told[1], true) {
            tracing::warn!(
                table,
                %position,
                "a row of the outbox was updated, which makes no event and is passed over, as all that follow; insert another row instead"
            );
        }
    }
}
