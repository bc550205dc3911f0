//! Banyan's data half: change data capture between PostgreSQL, MariaDB and MySQL over Kafka, in both directions.
//!
//! It knows no HTTP routing.

use std::{sync::Arc, time::Duration};

use prometheus::Registry;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub mod config;
mod database;
mod error;
#[doc(hidden)]
pub mod failpoint;
mod flow;
#[cfg(any(test, feature = "fuzz"))]
#[doc(hidden)]
pub mod fuzz;
mod kafka;
mod mapping;
pub mod metrics;
mod names;
mod outbox;
mod owner;
mod parked;
mod plan;
mod position;
pub mod preflight;
mod reader;
mod record;
pub mod remove;
mod resume;
mod snapshot;
mod source;
mod status;
mod sync;
mod tables;
mod target;
mod task;
mod timeline;
pub mod verify;

pub use crate::{
    error::{StartError, UrlError},
    names::{Flow, FlowNames},
    parked::{ParkedAct, ParkedChange, ParkedDesk, ParkedDetail, ParkedError, ParkedKey, ParkedTransaction},
    position::{Generation, Lsn},
    reader::{SyncReader, SyncReading},
    resume::{ResumeDesk, ResumeError, Resumed},
    snapshot::{SnapshotDesk, SnapshotError, TableCopy},
    status::{CopyProgress, FlowStatus, Role, State, SyncStatus},
};

/// How long a stopping process waits for its flows. Whatever they leave undone, the next start finds.
const STOP: Duration = Duration::from_secs(10);

/// All syncs of the file, running.
pub struct Connectors {
    syncs: Vec<sync::RunningSync>,
    cancel: CancellationToken,
    tasks: TaskTracker,
}

// === impl Connectors ===

impl Connectors {
    /// Starts every sync. Call it inside the background runtime. Returns before anything is connected: databases and Kafka may come later.
    ///
    /// # Errors
    ///
    /// When there are syncs but no Kafka, a database URL cannot be used, or a metric's name is taken.
    pub fn start(config: &config::Config, registry: &Registry) -> Result<Self, StartError> {
        let metrics = metrics::Metrics::register(registry)?;
        let (cancel, tasks) = (CancellationToken::new(), TaskTracker::new());
        let mut running = Self { syncs: Vec::new(), cancel, tasks };
        if config.syncs.is_empty() {
            return Ok(running);
        }
        let Some(kafka) = &config.kafka else { return Err(StartError::NoKafka) };
        let memory = usize::try_from(config.memory.as_u64()).unwrap_or(usize::MAX);
        let shared = sync::Shared {
            install: &config.install,
            kafka: &Arc::new(kafka.clone()),
            budget: memory / (2 * config.syncs.len()),
            metrics: &metrics,
            cancel: &running.cancel,
            tasks: &running.tasks,
        };
        let mut syncs = Vec::new();
        for (name, sync) in &config.syncs {
            syncs.push(sync::RunningSync::start(name, sync, &shared)?);
        }
        running.syncs = syncs;
        Ok(running)
    }

    /// What every sync is doing.
    #[must_use]
    pub fn status(&self) -> Vec<SyncStatus> {
        self.syncs.iter().map(sync::RunningSync::status).collect()
    }

    /// Ends all flows, and waits for them, but not for long.
    pub async fn stop(mut self) {
        self.cancel.cancel();
        self.tasks.close();
        let threads: Vec<_> = self.syncs.iter_mut().flat_map(|sync| std::mem::take(&mut sync.threads)).collect();
        let joined = tokio::task::spawn_blocking(move || threads.into_iter().for_each(|thread| drop(thread.join())));
        drop(tokio::time::timeout(STOP, async { tokio::join!(self.tasks.wait(), joined) }).await);
    }
}

impl Drop for Connectors {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}
