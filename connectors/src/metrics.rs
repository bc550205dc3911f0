//! The data half's metrics: every name and label is here.

use std::time::SystemTime;

use prometheus::{
    GaugeVec, IntCounter, IntCounterVec, IntGaugeVec, Opts, Registry,
    core::{AtomicU64, GenericCounter},
};

use crate::{
    kafka::events::EventCounts,
    names::{Flow, FlowNames},
    record::envelope::Op,
    status::{CopyProgress, State},
};

/// Rows applied, by operation (`c`, `u`, `d`, `r` read by a snapshot, `t` truncated).
pub const CHANGES: &str = "banyan_sync_changes_total";
/// Age of what the target shows; absent while unknown.
pub const LAG_SECONDS: &str = "banyan_sync_lag_seconds";
/// Log between what is applied and the source's end; absent while unknown.
pub const LAG_BYTES: &str = "banyan_sync_lag_bytes";
/// Log that the source keeps for the flow's slot.
pub const RETAINED: &str = "banyan_sync_retained_wal_bytes";
/// So much of it may be kept (`slot.max_retained`).
pub const RETAINED_LIMIT: &str = "banyan_sync_retained_wal_limit_bytes";
/// 1 for the state the flow is in, 0 for all others.
pub const STATE: &str = "banyan_sync_state";
/// Changes found on a side that was closed for writes.
pub const VIOLATIONS: &str = "banyan_sync_violations_total";
/// Transactions that are parked.
pub const PARKED: &str = "banyan_sync_parked";
/// Transactions that were parked since the start.
pub const PARKED_TOTAL: &str = "banyan_sync_parked_total";
/// Rows of a table that its copy has read and sent; only while it is copied.
pub const COPY_ROWS: &str = "banyan_sync_copy_rows";
/// All rows of that table, as the source's statistics guess.
pub const COPY_ROWS_TOTAL: &str = "banyan_sync_copy_rows_estimate";
/// Bytes of the rows that its copy has read and sent.
pub const COPY_BYTES: &str = "banyan_sync_copy_bytes";
/// When the copy will be complete at its pace; absent before its first rows.
pub const COPY_ETA: &str = "banyan_sync_copy_eta_seconds";
/// Times that the target refused a transaction which stood alone; each try is one.
pub const REFUSED: &str = "banyan_sync_refused_total";
/// Tables whose rows may have changed without an event.
pub const NEEDS_VERIFY: &str = "banyan_sync_needs_verify";
/// When the last comparison of both sides ended, of the table for which that is longest ago; absent until all were compared.
pub const VERIFIED: &str = "banyan_sync_verified_timestamp_seconds";
/// Rows of which the last comparison found that both sides differ; absent until there was one.
pub const UNEQUAL: &str = "banyan_sync_unequal_rows";
/// Rows that changed each time the last comparison looked at them; absent until there was one.
pub const UNDECIDED: &str = "banyan_sync_undecided_rows";
/// Rows of outboxes that were sent as events.
pub const OUTBOX_EVENTS: &str = "banyan_outbox_events_total";
/// Events whose `aggregatetype` names no topic: they stand in the flow's own `….unrouted`.
pub const OUTBOX_UNROUTED: &str = "banyan_outbox_unrouted_total";
/// Rows of outboxes that were updated, which makes no event.
pub const OUTBOX_UPDATES: &str = "banyan_outbox_updates_total";
/// Tasks that ended and were started again.
pub const RESTARTS: &str = "banyan_task_restarts_total";

/// Labels of all that is of a flow.
const FLOW: [&str; 2] = ["sync", "flow"];
/// Of what is compared.
const SYNC: [&str; 1] = ["sync"];

/// The registered families.
#[derive(Debug, Clone)]
pub(crate) struct Metrics {
    changes: IntCounterVec,
    lag_seconds: GaugeVec,
    lag_bytes: IntGaugeVec,
    retained: IntGaugeVec,
    retained_limit: IntGaugeVec,
    state: IntGaugeVec,
    violations: IntCounterVec,
    parked: IntGaugeVec,
    parked_total: IntCounterVec,
    refused: IntCounterVec,
    needs_verify: IntGaugeVec,
    copy_rows: IntGaugeVec,
    copy_rows_total: IntGaugeVec,
    copy_bytes: IntGaugeVec,
    copy_eta: GaugeVec,
    verified: GaugeVec,
    unequal: IntGaugeVec,
    undecided: IntGaugeVec,
    outbox_events: IntCounterVec,
    outbox_unrouted: IntCounterVec,
    outbox_updates: IntCounterVec,
    restarts: IntCounterVec,
}

/// Of one sync: what verification has found.
#[derive(Debug, Clone)]
pub(crate) struct VerifyMetrics {
    all: Metrics,
    sync: String,
}

/// The same, for one flow.
#[derive(Debug, Clone)]
pub(crate) struct FlowMetrics {
    all: Metrics,
    sync: String,
    flow: Flow,
}

// === impl Metrics ===

impl Metrics {
    pub(crate) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let with = |more: &[&'static str]| [&FLOW, more].concat();
        let new = Self {
            changes: IntCounterVec::new(Opts::new(CHANGES, "Rows applied to the target."), &with(&["table", "op"]))?,
            lag_seconds: GaugeVec::new(Opts::new(LAG_SECONDS, "Age of what the target shows."), &FLOW)?,
            lag_bytes: IntGaugeVec::new(Opts::new(LAG_BYTES, "Log of the source not yet applied."), &FLOW)?,
            retained: IntGaugeVec::new(Opts::new(RETAINED, "Log that the source keeps for the slot."), &FLOW)?,
            retained_limit: IntGaugeVec::new(
                Opts::new(RETAINED_LIMIT, "Log that the source may keep for the slot."),
                &FLOW,
            )?,
            state: IntGaugeVec::new(Opts::new(STATE, "1 for the state the flow is in."), &with(&["state"]))?,
            violations: IntCounterVec::new(
                Opts::new(VIOLATIONS, "Changes found on a side that was closed for writes."),
                &with(&["table"]),
            )?,
            parked: IntGaugeVec::new(Opts::new(PARKED, "Transactions that are parked."), &FLOW)?,
            parked_total: IntCounterVec::new(Opts::new(PARKED_TOTAL, "Transactions that were parked."), &FLOW)?,
            refused: IntCounterVec::new(Opts::new(REFUSED, "Tries that the target refused."), &FLOW)?,
            needs_verify: IntGaugeVec::new(Opts::new(NEEDS_VERIFY, "Tables that should be verified."), &FLOW)?,
            copy_rows: IntGaugeVec::new(Opts::new(COPY_ROWS, "Rows of a copy so far."), &with(&["table"]))?,
            copy_rows_total: IntGaugeVec::new(
                Opts::new(COPY_ROWS_TOTAL, "Rows of its table, a guess."),
                &with(&["table"]),
            )?,
            copy_bytes: IntGaugeVec::new(Opts::new(COPY_BYTES, "Bytes of a copy so far."), &with(&["table"]))?,
            copy_eta: GaugeVec::new(Opts::new(COPY_ETA, "Time until a copy is complete."), &with(&["table"]))?,
            verified: GaugeVec::new(Opts::new(VERIFIED, "When both sides were last compared."), &SYNC)?,
            unequal: IntGaugeVec::new(Opts::new(UNEQUAL, "Rows in which both sides differed then."), &SYNC)?,
            undecided: IntGaugeVec::new(Opts::new(UNDECIDED, "Rows that kept changing then."), &SYNC)?,
            outbox_events: IntCounterVec::new(Opts::new(OUTBOX_EVENTS, "Events sent of outboxes."), &FLOW)?,
            outbox_unrouted: IntCounterVec::new(Opts::new(OUTBOX_UNROUTED, "Events without a topic."), &FLOW)?,
            outbox_updates: IntCounterVec::new(Opts::new(OUTBOX_UPDATES, "Updated rows of outboxes."), &FLOW)?,
            restarts: IntCounterVec::new(Opts::new(RESTARTS, "Tasks started again."), &["task"])?,
        };
        registry.register(Box::new(new.changes.clone()))?;
        registry.register(Box::new(new.lag_seconds.clone()))?;
        registry.register(Box::new(new.lag_bytes.clone()))?;
        registry.register(Box::new(new.retained.clone()))?;
        registry.register(Box::new(new.retained_limit.clone()))?;
        registry.register(Box::new(new.state.clone()))?;
        registry.register(Box::new(new.violations.clone()))?;
        registry.register(Box::new(new.parked.clone()))?;
        registry.register(Box::new(new.parked_total.clone()))?;
        registry.register(Box::new(new.refused.clone()))?;
        registry.register(Box::new(new.needs_verify.clone()))?;
        for gauge in [&new.copy_rows, &new.copy_rows_total, &new.copy_bytes] {
            registry.register(Box::new(gauge.clone()))?;
        }
        registry.register(Box::new(new.copy_eta.clone()))?;
        registry.register(Box::new(new.verified.clone()))?;
        registry.register(Box::new(new.unequal.clone()))?;
        registry.register(Box::new(new.undecided.clone()))?;
        for counter in [&new.outbox_events, &new.outbox_unrouted, &new.outbox_updates] {
            registry.register(Box::new(counter.clone()))?;
        }
        registry.register(Box::new(new.restarts.clone()))?;
        Ok(new)
    }

    pub(crate) fn verify(&self, sync: &str) -> VerifyMetrics {
        VerifyMetrics { all: self.clone(), sync: sync.to_owned() }
    }

    pub(crate) fn flow(&self, names: &FlowNames) -> FlowMetrics {
        FlowMetrics { all: self.clone(), sync: names.sync.clone(), flow: names.flow }
    }
}

// === impl VerifyMetrics ===

impl VerifyMetrics {
    /// Nothing of what was never compared.
    pub(crate) fn show(&self, oldest: Option<SystemTime>, found: Option<(u64, u64)>) {
        let labels = [self.sync.as_str()];
        match oldest.and_then(|at| at.duration_since(SystemTime::UNIX_EPOCH).ok()) {
            Some(at) => self.all.verified.with_label_values(&labels).set(at.as_secs_f64()),
            None => drop(self.all.verified.remove_label_values(&labels)),
        }
        let number = |rows| i64::try_from(rows).unwrap_or(i64::MAX);
        match found {
            Some((unequal, undecided)) => {
                self.all.unequal.with_label_values(&labels).set(number(unequal));
                self.all.undecided.with_label_values(&labels).set(number(undecided));
            }
            None => {
                drop(self.all.unequal.remove_label_values(&labels));
                drop(self.all.undecided.remove_label_values(&labels));
            }
        }
    }
}

// === impl FlowMetrics ===

impl FlowMetrics {
    fn labels(&self) -> [&str; 2] {
        [&self.sync, self.flow.as_str()]
    }

    /// Kept by the applier: looking a counter up costs more than a row should.
    pub(crate) fn changes(&self, table: &str, op: Op) -> IntCounter {
        let [sync, flow] = self.labels();
        self.all.changes.with_label_values(&[sync, flow, table, op.as_str()])
    }

    pub(crate) fn violations(&self, table: &str) -> GenericCounter<AtomicU64> {
        let [sync, flow] = self.labels();
        self.all.violations.with_label_values(&[sync, flow, table])
    }

    /// From zero on, once the target was asked: an alert must see the first one.
    pub(crate) fn parked(&self, count: u64) {
        let labels = self.labels();
        self.all.parked.with_label_values(&labels).set(i64::try_from(count).unwrap_or(i64::MAX));
        drop(self.all.parked_total.with_label_values(&labels));
        drop(self.all.refused.with_label_values(&labels));
    }

    pub(crate) fn needs_verify(&self, tables: usize) {
        self.all.needs_verify.with_label_values(&self.labels()).set(i64::try_from(tables).unwrap_or(i64::MAX));
    }

    pub(crate) fn parked_one(&self) {
        self.all.parked_total.with_label_values(&self.labels()).inc();
    }

    pub(crate) fn refused(&self) {
        self.all.refused.with_label_values(&self.labels()).inc();
    }

    /// Of the flow's outbox; from zero on, once they were asked for.
    pub(crate) fn events(&self) -> EventCounts {
        let (all, labels) = (&self.all, self.labels());
        EventCounts {
            sent: all.outbox_events.with_label_values(&labels),
            unrouted: all.outbox_unrouted.with_label_values(&labels),
            updates: all.outbox_updates.with_label_values(&labels),
        }
    }

    /// Of the flow's task; from zero on, once it was asked for.
    pub(crate) fn restarts(&self, task: &str) -> IntCounter {
        self.all.restarts.with_label_values(&[&format!("{}/{}/{task}", self.sync, self.flow)])
    }

    pub(crate) fn state(&self, now: State) {
        let [sync, flow] = self.labels();
        for state in State::ALL {
            self.all.state.with_label_values(&[sync, flow, state.as_str()]).set(i64::from(state == now));
        }
    }

    /// An unknown lag is absent: a number that once was true would look like health.
    pub(crate) fn lag(&self, seconds: Option<f64>, bytes: Option<u64>) {
        let labels = self.labels();
        match seconds {
            Some(seconds) => self.all.lag_seconds.with_label_values(&labels).set(seconds),
            None => drop(self.all.lag_seconds.remove_label_values(&labels)),
        }
        match bytes {
            Some(bytes) => self.all.lag_bytes.with_label_values(&labels).set(i64::try_from(bytes).unwrap_or(i64::MAX)),
            None => drop(self.all.lag_bytes.remove_label_values(&labels)),
        }
    }

    /// Those that ended go: a number that stands still would look like a copy that does.
    pub(crate) fn copies(&self, before: &[CopyProgress], now: &[CopyProgress]) {
        let all = &self.all;
        let [sync, flow] = self.labels();
        for CopyProgress { table, .. } in before.iter().filter(|old| !now.iter().any(|new| new.table == old.table)) {
            for gauge in [&all.copy_rows, &all.copy_rows_total, &all.copy_bytes] {
                drop(gauge.remove_label_values(&[sync, flow, table]));
            }
            drop(all.copy_eta.remove_label_values(&[sync, flow, table]));
        }
        for CopyProgress { table, rows, bytes, rows_total, eta_seconds } in now {
            for (gauge, value) in [(&all.copy_rows, rows), (&all.copy_rows_total, rows_total), (&all.copy_bytes, bytes)]
            {
                gauge.with_label_values(&[sync, flow, table]).set(i64::try_from(*value).unwrap_or(i64::MAX));
            }
            if let Some(eta) = eta_seconds {
                all.copy_eta.with_label_values(&[sync, flow, table]).set(*eta);
            }
        }
    }

    pub(crate) fn retained_limit(&self, bytes: u64) {
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        self.all.retained_limit.with_label_values(&self.labels()).set(bytes);
    }

    pub(crate) fn retained(&self, bytes: Option<u64>) {
        let labels = self.labels();
        match bytes {
            Some(bytes) => self.all.retained.with_label_values(&labels).set(i64::try_from(bytes).unwrap_or(i64::MAX)),
            None => drop(self.all.retained.remove_label_values(&labels)),
        }
    }
}
