//! What one flow has to do: compiled once from the file, then shared by its tasks.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use crate::{
    config::{self, ApplyAs, Kafka, OnError, OnViolation, Order, Slot, Snapshot, Sync, Target},
    database::DatabaseUrl,
    error::FlowError,
    mapping::{Mapping, Part},
    names::{Flow, FlowNames},
    record::{envelope::Envelope, json::BadJson},
};

/// One direction of a sync; with `order: key` one lane of it.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) names: FlowNames,
    pub(crate) source: DatabaseUrl,
    pub(crate) target: DatabaseUrl,
    pub(crate) tables: Vec<PlanTable>,
    /// Of some table only some rows are the sync's.
    pub(crate) has_filters: bool,
    /// The source's table of events.
    pub(crate) outbox: Option<String>,
    /// With `order: key` over how many lanes the rows are spread; nothing with `order: transaction`.
    pub(crate) lanes: Option<u32>,
    /// Which of them this is for whoever applies.
    pub(crate) lane: u32,
    pub(crate) apply_as: ApplyAs,
    pub(crate) park: Park,
    pub(crate) violations: OnViolation,
    pub(crate) snapshot: Snapshot,
    pub(crate) slot: Slot,
    /// Of both flows.
    pub(crate) halt: Arc<Halt>,
    pub(crate) kafka: Arc<Kafka>,
    /// Bytes that this flow may hold between source and target.
    pub(crate) budget: usize,
}

/// What becomes of a transaction that the target refuses.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Park {
    pub(crate) on_error: OnError,
    /// Transactions.
    pub(crate) limit: u64,
    /// Of all their records.
    pub(crate) bytes: u64,
}

/// Pulled by the flow that finds a violation under `violations: stop`; both flows of the sync end by it.
#[derive(Debug, Default)]
pub(crate) struct Halt(AtomicBool);

/// One table of a flow's source, `schema.table`, and where its changes go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PlanTable {
    pub(crate) source: String,
    /// `schema.table`, or `schema.function`.
    pub(crate) target: String,
    /// A function of the target takes its changes; there is no table.
    pub(crate) is_function: bool,
    pub(crate) existing: Target,
    pub(crate) mapping: Mapping,
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
        halt: &Arc<Halt>,
    ) -> Self {
        let (source, target) = match names.flow {
            Flow::LegacyToModern => (legacy, modern),
            Flow::ModernToLegacy => (modern, legacy),
        };
        Self {
            tables: PlanTable::all(sync, names.flow),
            has_filters: sync.tables.iter().any(|table| !table.rows.is_empty()),
            outbox: sync.outbox.on(names.flow.source()).map(str::to_owned),
            names,
            source: source.clone(),
            target: target.clone(),
            lanes: lanes(sync),
            lane: 0,
            apply_as: sync.apply_as,
            park: Park { on_error: sync.on_error, limit: sync.parked_limit, bytes: sync.parked_bytes.as_u64() },
            violations: sync.violations,
            snapshot: sync.snapshot,
            slot: sync.slot,
            halt: Arc::clone(halt),
            kafka: Arc::clone(kafka),
            budget,
        }
    }

    /// What of a change concerns the sync, by the file's `rows` of its table.
    pub(crate) fn part_of<'e>(&self, envelope: Envelope<'e>) -> Result<Part<'e>, BadJson> {
        let is_its = |table: &&PlanTable| table.mapping.has_filter() && table.is(&envelope.schema, &envelope.table);
        match self.tables.iter().find(is_its) {
            Some(table) => table.mapping.part_of(envelope),
            None => Ok(Part::Its(envelope)),
        }
    }

    /// Names of the source's tables that the target holds, as its position row says them; an earlier version said none and held all.
    pub(crate) fn tables_of(&self, said: Option<&str>) -> BTreeSet<String> {
        let said = said.and_then(|said| serde_json::from_str(said).ok());
        said.unwrap_or_else(|| self.tables.iter().map(|table| table.source.clone()).collect())
    }

    /// The same plan for whoever applies this lane.
    pub(crate) fn for_lane(&self, lane: u32) -> Self {
        Self { lane, budget: self.budget / usize::try_from(self.lanes.unwrap_or(1)).unwrap_or(1), ..self.clone() }
    }

    /// The lane as the position row has it.
    pub(crate) fn partition(&self) -> i32 {
        i32::try_from(self.lane).unwrap_or(i32::MAX)
    }

    /// The name of what each lane has of its own.
    pub(crate) fn of_lane(&self, name: &str, mark: char) -> String {
        match self.lanes {
            Some(_) => format!("{name}{mark}{}", self.lane),
            None => name.to_owned(),
        }
    }

    /// Whether tables are copied in chunks of the stream; else all of them in one piece, before it.
    pub(crate) fn copies_in_chunks(&self) -> bool {
        matches!((&self.source, &self.target), (DatabaseUrl::Postgres(_), DatabaseUrl::Postgres(_)))
    }
}

/// Over how many lanes the rows of a sync are spread; nothing where each transaction stays whole.
pub(crate) fn lanes(sync: &Sync) -> Option<u32> {
    (sync.order == Order::Key).then(|| sync.partitions.map_or(4, u32::from))
}

// === impl PlanTable ===

impl PlanTable {
    /// The tables of a sync, as `flow` reads and writes them.
    pub(crate) fn all(sync: &Sync, flow: Flow) -> Vec<Self> {
        let one = |table: &config::Table| {
            // Of a table of the other side alone nothing comes this way.
            let source = table.on(flow.source())?;
            let function = table.apply.as_ref().map(|apply| apply.function.as_str());
            Some(Self {
                source: source.to_owned(),
                target: table.on(flow.target()).or(function)?.to_owned(),
                is_function: function.is_some(),
                existing: table.target.unwrap_or(sync.target),
                mapping: Mapping::of(table, flow),
            })
        };
        sync.tables.iter().filter_map(one).collect()
    }

    /// Whether this is `schema.table` of the source.
    pub(crate) fn is(&self, schema: &str, table: &str) -> bool {
        self.source.split_once('.') == Some((schema, table))
    }

    /// What its rows are called in the target, in errors, metrics and where they are parked: the table, or the function and whose rows it takes.
    pub(crate) fn label(&self) -> String {
        if self.is_function { format!("{}({})", self.target, self.source) } else { self.target.clone() }
    }
}

// === impl Halt ===

impl Halt {
    pub(crate) fn pull(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    pub(crate) fn check(&self) -> Result<(), FlowError> {
        if !self.0.load(Ordering::Relaxed) {
            return Ok(());
        }
        Err(FlowError::Stop(
            "somebody wrote to the side that does not own the rows, and the file says `violations: stop`: banyan.violation of both databases has \
             the tables and positions; when they are mended, delete its rows of this sync and restart"
                .into(),
        ))
    }
}
