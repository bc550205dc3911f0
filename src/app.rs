//! One running Banyan: both halves, the file in force, and what the admin listener tells of them.

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use banyan_connectors::Connectors;
use banyan_proxy::{Proxy, metrics::NO_ROUTE, table::DEFAULT};
use prometheus::Registry;
use serde::Serialize;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;

use crate::{
    admin::{Door, FileStatus, Live, Status},
    config::{Loaded, RestartKeys},
    handover::Taken,
    link::Links,
    marks::Marks,
    metrics::Metrics,
};

/// Everything that runs, shared with the admin listener and the watcher of the file.
pub(crate) struct App {
    path: PathBuf,
    started: Instant,
    ready: AtomicBool,
    registry: Registry,
    pub(crate) metrics: Metrics,
    pub(crate) links: Arc<Links>,
    /// Of the admin listener.
    pub(crate) door: Arc<Door>,
    /// What is streamed to the page.
    pub(crate) live: Live,
    /// What changed when, for its charts.
    pub(crate) marks: Marks,
    /// One reading of all metrics or of the status at a time.
    pub(crate) gathers: Semaphore,
    /// Held by whoever judges the file.
    pub(crate) judging: Arc<tokio::sync::Mutex<()>>,
    /// Cancelled when another process has taken this one's place: the file and the admin listener are its own then.
    pub(crate) leaves: CancellationToken,
    /// How many other processes answer the same users.
    others: watch::Sender<usize>,
    file: Mutex<InForce>,
    proxy: RwLock<Option<Proxy>>,
    connectors: RwLock<Option<Connectors>>,
}

/// Another process answers the same users, until this is dropped. There may be two: one that leaves, and one that comes.
pub(crate) struct Beside(Arc<App>);

/// The file in force, and what is known of the one on disk.
pub(crate) struct InForce {
    pub(crate) loaded: Loaded,
    /// What only a restart changes, as the process was started with it.
    pub(crate) started_with: RestartKeys,
    /// The bytes on disk when they were last judged; `None` when they could not be read.
    pub(crate) judged: Option<Vec<u8>>,
    pub(crate) status: FileStatus,
    /// The file that was refused last, as long as the process lives.
    pub(crate) refused: Option<Refused>,
}

/// A file that changed nothing.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Refused {
    /// Seconds since 1970.
    pub(crate) at: u64,
    /// How many errors it has.
    pub(crate) errors: usize,
    /// All of them as `banyan check` shows them, without any secret.
    pub(crate) report: String,
}

/// The halves that run in this process.
pub(crate) struct Halves {
    pub(crate) proxy: Option<Proxy>,
    pub(crate) connectors: Option<Connectors>,
}

// === impl App ===

impl App {
    pub(crate) fn new(
        path: &Path,
        loaded: Loaded,
        registry: Registry,
        metrics: Metrics,
        links: Arc<Links>,
        door: Arc<Door>,
        halves: Halves,
    ) -> Self {
        let judged = Some(loaded.text.as_bytes().to_vec());
        let status = FileStatus { path: path.display().to_string(), in_force: true, ..FileStatus::default() };
        Self {
            path: path.to_owned(),
            started: Instant::now(),
            ready: AtomicBool::new(true),
            registry,
            metrics,
            links,
            door,
            live: Live::default(),
            marks: Marks::default(),
            gathers: Semaphore::new(1),
            judging: Arc::default(),
            leaves: CancellationToken::new(),
            others: watch::Sender::new(0),
            file: Mutex::new(InForce { started_with: loaded.restart.clone(), loaded, judged, status, refused: None }),
            proxy: RwLock::new(halves.proxy),
            connectors: RwLock::new(halves.connectors),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn registry(&self) -> &Registry {
        &self.registry
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Relaxed)
    }

    /// The file in force; not to be held across an await.
    pub(crate) fn file(&self) -> MutexGuard<'_, InForce> {
        self.file.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The routes that answer now, with the two that no file names; none where nothing is answered here.
    pub(crate) fn route_names(&self) -> HashSet<String> {
        let names = self.with_proxy(|_| {
            let file = self.file();
            let routes = file.loaded.proxy.routes.iter().map(|route| route.name.clone());
            routes.chain([DEFAULT.to_owned(), NO_ROUTE.to_owned()]).collect()
        });
        names.unwrap_or_default()
    }

    /// Does something with the proxy, when this process has one.
    pub(crate) fn with_proxy<T>(&self, act: impl FnOnce(&Proxy) -> T) -> Option<T> {
        self.proxy.read().unwrap_or_else(PoisonError::into_inner).as_ref().map(act)
    }

    pub(crate) fn status(&self) -> Status {
        let connectors = self.connectors.read().unwrap_or_else(PoisonError::into_inner);
        Status {
            version: env!("CARGO_PKG_VERSION"),
            now_unix: unix_now(),
            ready: self.is_ready(),
            uptime_seconds: self.started.elapsed().as_secs(),
            file: self.file().status.clone(),
            admin: self.door.status(),
            proxy: self.with_proxy(Proxy::status),
            links: self.links.status(),
            syncs: connectors.as_ref().map(Connectors::status).unwrap_or_default(),
        }
    }

    /// Another process answers the same users from now on.
    pub(crate) fn beside(self: &Arc<Self>) -> Beside {
        self.others.send_modify(|others| {
            *others += 1;
            self.with_proxy(|proxy| proxy.others_write(true));
        });
        Beside(Arc::clone(self))
    }

    /// Flows that begin later than the rest.
    pub(crate) fn adopt(&self, connectors: Connectors) {
        *self.connectors.write().unwrap_or_else(PoisonError::into_inner) = Some(connectors);
    }

    /// Another process answers from now on. Ends the flows, so that it can begin them, and lets what is in flight finish.
    pub(crate) async fn hand_over(&self, taken: Taken, at_most: Duration) {
        self.leaves.cancel();
        let Halves { proxy, connectors } = self.take_halves();
        let drained = async {
            if let Some(proxy) = proxy {
                proxy.hand_over(at_most).await;
            }
        };
        let released = async {
            end_flows(connectors).await;
            taken.released().await
        };
        // The other process knows of nobody but this one: whose place this one took has to end first.
        let mut others = self.others.subscribe();
        let alone = tokio::time::timeout(at_most, others.wait_for(|others| *others <= 1));
        // Kept to the end, which the other process sees.
        let _taken = tokio::join!(drained, released, alone).1;
    }

    /// Says "not ready" first, then lets what is in flight finish and stops the flows, both at once: Kubernetes kills after 30 s.
    pub(crate) async fn stop(&self, at_most: Duration) {
        self.ready.store(false, Ordering::Relaxed);
        let Halves { proxy, connectors } = self.take_halves();
        let drained = async {
            if let Some(proxy) = proxy {
                proxy.drain(at_most).await;
            }
        };
        tokio::join!(drained, end_flows(connectors));
    }

    /// For whoever ends them.
    fn take_halves(&self) -> Halves {
        Halves {
            proxy: self.proxy.write().unwrap_or_else(PoisonError::into_inner).take(),
            connectors: self.connectors.write().unwrap_or_else(PoisonError::into_inner).take(),
        }
    }
}

// === impl Beside ===

impl Drop for Beside {
    fn drop(&mut self) {
        let Self(app) = self;
        app.others.send_modify(|others| {
            *others -= 1;
            if *others == 0 {
                app.with_proxy(|proxy| proxy.others_write(false));
            }
        });
    }
}

pub(crate) fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// What a flow leaves undone, the next start finds.
async fn end_flows(connectors: Option<Connectors>) {
    if let Some(connectors) = connectors {
        connectors.stop().await;
    }
}
