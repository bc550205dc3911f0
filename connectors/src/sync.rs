//! One sync: two flows that share an owner. Which of them applies and which watches, each learns from its own stream.

use std::{
    sync::{Arc, Mutex, PoisonError},
    thread::JoinHandle,
};

use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    config::{self, Side},
    database::DatabaseUrl,
    error::StartError,
    flow,
    metrics::Metrics,
    names::{Flow, FlowNames},
    owner::Owners,
    plan::{self, Halt, Plan},
    preflight::Gate,
    status::{Board, Role, SyncStatus},
    verify::{self, Schedule, Verified},
};

/// A running sync.
pub(crate) struct RunningSync {
    name: String,
    boards: [Arc<Board>; 2],
    verified: Arc<Mutex<Vec<Verified>>>,
    pub(crate) threads: Vec<JoinHandle<()>>,
}

/// What all syncs of a process share.
pub(crate) struct Shared<'a> {
    pub(crate) install: &'a str,
    pub(crate) kafka: &'a Arc<config::Kafka>,
    /// Bytes for each flow.
    pub(crate) budget: usize,
    pub(crate) metrics: &'a Metrics,
    pub(crate) cancel: &'a CancellationToken,
    pub(crate) tasks: &'a TaskTracker,
}

// === impl RunningSync ===

impl RunningSync {
    /// Starts both flows. Nothing is connected yet when this returns.
    pub(crate) fn start(name: &str, sync: &config::Sync, shared: &Shared<'_>) -> Result<Self, StartError> {
        let url = |side: Side, database: &config::Database| {
            DatabaseUrl::of(database).map_err(|source| StartError::Url { sync: name.to_owned(), side, source })
        };
        let (legacy, modern) = (url(Side::Legacy, &sync.legacy)?, url(Side::Modern, &sync.modern)?);
        let mut threads = Vec::new();
        let owners = Arc::new(Owners {
            install: shared.install.to_owned(),
            sync: name.to_owned(),
            legacy: legacy.clone(),
            modern: modern.clone(),
            wish: sync.owner,
            gate: Gate::new(shared.install, name, sync, shared.kafka),
        });
        let boards = Flow::BOTH.map(|flow| {
            let names = FlowNames::new(shared.install, name, flow);
            Arc::new(Board::new(flow, shared.metrics.flow(&names), plan::lanes(sync)))
        });
        let halt = Arc::new(Halt::default());
        for (flow, board) in Flow::BOTH.into_iter().zip(&boards) {
            let names = FlowNames::new(shared.install, name, flow);
            let plan = Arc::new(Plan::new(names, sync, &legacy, &modern, shared.kafka, shared.budget, &halt));
            threads.extend(flow::spawn(&plan, &owners, board, shared.cancel).map_err(StartError::Thread)?);
            shared.tasks.spawn(flow::measure(plan, Arc::clone(board), shared.cancel.clone()));
        }
        let verified = Arc::<Mutex<_>>::default();
        let schedule = Schedule {
            install: shared.install.to_owned(),
            name: name.to_owned(),
            sync: sync.clone(),
            metrics: shared.metrics.verify(name),
            board: Arc::clone(&verified),
        };
        shared.tasks.spawn(verify::watch(schedule, shared.cancel.clone()));
        Ok(Self { name: name.to_owned(), boards, verified, threads })
    }

    /// The owner is the source of the flow that applies.
    pub(crate) fn status(&self) -> SyncStatus {
        let flows: Vec<_> = self.boards.iter().map(|board| board.status()).collect();
        let applying = flows.iter().find(|flow| flow.role == Some(Role::Applying));
        let owner = applying.map(|flow| flow.flow.source());
        let epoch = self.boards.iter().filter_map(|board| board.epoch()).max();
        let parked = flows.iter().map(|flow| flow.parked).sum();
        let verified = self.verified.lock().unwrap_or_else(PoisonError::into_inner).clone();
        SyncStatus { name: self.name.clone(), owner, epoch, parked, flows, verified }
    }
}
