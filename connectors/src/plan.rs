//! What one flow has to do: compiled once from the file, then shared by its tasks.

use std::sync::Arc;

use crate::{
    config::{ApplyAs, Kafka, Sync, Target},
    database::DatabaseUrl,
    names::{Flow, FlowNames},
};

/// One direction of a sync.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) names: FlowNames,
    pub(crate) source: DatabaseUrl,
    pub(crate) target: DatabaseUrl,
    pub(crate) tables: Vec<PlanTable>,
    pub(crate) apply_as: ApplyAs,
    pub(crate) kafka: Arc<Kafka>,
    /// Bytes that this flow may hold between source and target.
    pub(crate) budget: usize,
}

/// One table of a flow, `schema.table` on both ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PlanTable {
    pub(crate) source: String,
    pub(crate) target: String,
    pub(crate) existing: Target,
}

// === impl Plan ===

impl Plan {
    /// The plan of `flow` of `sync`.
    pub(crate) fn new(
        names: FlowNames,
        sync: &Sync,
        legacy: &DatabaseUrl,
        modern: &DatabaseUrl,
        kafka: &Arc<Kafka>,
        budget: usize,
    ) -> Self {
        let (source, target) = match names.flow {
            Flow::LegacyToModern => (legacy, modern),
            Flow::ModernToLegacy => (modern, legacy),
        };
        let tables = sync.tables.iter().map(|table| {
            let (source, target) = match names.flow {
                Flow::LegacyToModern => (&table.legacy, &table.modern),
                Flow::ModernToLegacy => (&table.modern, &table.legacy),
            };
            PlanTable { source: source.clone(), target: target.clone(), existing: table.target.unwrap_or(sync.target) }
        });
        Self {
            tables: tables.collect(),
            names,
            source: source.clone(),
            target: target.clone(),
            apply_as: sync.apply_as,
            kafka: Arc::clone(kafka),
            budget,
        }
    }
}
