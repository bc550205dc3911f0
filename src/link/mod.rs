//! The data side as the proxy's links: who owns a sync, and how far the other side is behind.
//!
//! Asked on the answering path, fed from the databases: what they say wins. Until one has answered, the owner that was last known counts
//! (`kept`), else the file's. An unknown lag is infinite.

mod feed;
mod kept;
mod shown;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use banyan_connectors::config as data;
use banyan_proxy::{
    config::Config,
    links::{DataLinks, Hold, HoldStatus, Moment, Owner, Replicas, SyncLink},
};
use serde::Serialize;
use tokio::sync::{Notify, watch};

use crate::{config::Loaded, replicas::StateLog};
use kept::Kept;

/// The links of all syncs of the file in force.
#[derive(Debug)]
pub(crate) struct Links {
    links: RwLock<BTreeMap<String, Arc<Link>>>,
    kept: Kept,
    /// What is to be read; the feeding task starts over when it changes.
    wanted: watch::Sender<Arc<data::Config>>,
    /// What replicas share; `None` where there are none.
    replicas: Option<Arc<StateLog>>,
}

/// One sync's link.
#[derive(Debug)]
pub(crate) struct Link {
    /// Owner, where it is known from, and the epoch, in one word, so that a reader sees one truth.
    owner: AtomicU64,
    /// In microseconds; [`UNKNOWN`] when nobody knows.
    lag: AtomicU64,
    /// A [`Moment`].
    watermark: AtomicU64,
    /// The [`Moment`] of the latest write that was answered here.
    wrote: AtomicU64,
    /// Whoever reads the databases was woken since it last found that nobody waits: one wake-up serves all writes.
    is_awake: AtomicBool,
    wakes: Notify,
    hold: Arc<Hold>,
}

/// Where an owner is known from; a later one wins over an earlier one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Source {
    /// The file names it, and nothing else is known.
    File,
    /// It was the owner when this installation last ran.
    Kept,
    /// A database said so.
    Database,
}

/// An owner and how it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Known {
    pub(crate) owner: Owner,
    pub(crate) epoch: u64,
    pub(crate) source: Source,
}

/// One link in `status`.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct LinkStatus {
    pub(crate) name: String,
    pub(crate) owner: Owner,
    /// 0 while no database has answered.
    pub(crate) epoch: u64,
    pub(crate) known_from: Source,
    /// `null` is unknown, and counts as infinite.
    pub(crate) lag_seconds: Option<f64>,
    /// Its writes through this process.
    pub(crate) writes: HoldStatus,
}

const UNKNOWN: u64 = u64::MAX;

/// What the file alone says: the owner that it names, and no lag that anybody knows. For `check` and `explain`, which ask no database.
#[derive(Debug)]
pub(crate) struct FileLinks {
    owners: BTreeMap<String, Owner>,
    lag: Option<Duration>,
}

#[derive(Debug)]
struct FileLink {
    owner: Owner,
    lag: Option<Duration>,
    hold: Arc<Hold>,
}

// === impl Links ===

impl Links {
    /// Links for the syncs of this file, with what `state.dir` remembers of their owners.
    pub(crate) fn new(loaded: &Loaded) -> Self {
        let links = Self {
            links: RwLock::default(),
            kept: Kept::open(&loaded.proxy.state.dir),
            wanted: watch::Sender::new(Arc::new(loaded.connectors.clone())),
            replicas: None,
        };
        links.follow(loaded);
        links
    }

    /// With the log that replicas share.
    pub(crate) fn with_replicas(self, replicas: Option<Arc<StateLog>>) -> Self {
        Self { replicas, ..self }
    }

    /// Takes over the syncs of a new file; links that stay keep what they know.
    pub(crate) fn follow(&self, loaded: &Loaded) {
        let config = &loaded.proxy;
        let mut links = self.links.write().unwrap_or_else(PoisonError::into_inner);
        links.retain(|name, _| config.syncs.contains_key(name));
        for (name, sync) in &config.syncs {
            links.entry(name.clone()).or_insert_with(|| {
                let file = Known { owner: sync.owner, epoch: 0, source: Source::File };
                Arc::new(Link::new(self.kept.get(name).unwrap_or(file)))
            });
        }
        drop(links);
        self.wanted.send_replace(Arc::new(loaded.connectors.clone()));
    }

    /// Says so when the file names another owner than the one that is known: the file does not move owners.
    pub(crate) fn compare_with_file(&self, config: &Config) {
        for (name, sync) in &config.syncs {
            if let Some(known) = self.known(name)
                && known.owner != sync.owner
            {
                tracing::error!(
                    sync = name,
                    owner = known.owner.as_str(),
                    file = sync.owner.as_str(),
                    "the file names another owner than the sync has; an owner cannot be changed in the file in this version"
                );
            }
        }
    }

    /// The owner of a sync, as far as it is known.
    pub(crate) fn known(&self, name: &str) -> Option<Known> {
        self.link(name).map(|link| link.known())
    }

    /// Waits until the databases have said of every sync how far it is, but no longer than that: reads would go to the owners meanwhile.
    pub(crate) async fn known_before(&self, late: Instant) {
        const LOOK: Duration = Duration::from_millis(20);
        let is_known = || self.status().iter().all(|link| link.lag_seconds.is_some());
        while !is_known() && Instant::now() < late {
            tokio::time::sleep(LOOK).await;
        }
    }

    pub(crate) fn status(&self) -> Vec<LinkStatus> {
        let links = self.links.read().unwrap_or_else(PoisonError::into_inner);
        let status = |(name, link): (&String, &Arc<Link>)| {
            let Known { owner, epoch, source } = link.known();
            let lag_seconds = link.lag().map(|lag| lag.as_secs_f64());
            let writes = link.hold.status();
            LinkStatus { name: name.clone(), owner, epoch, known_from: source, lag_seconds, writes }
        };
        links.iter().map(status).collect()
    }

    fn link(&self, name: &str) -> Option<Arc<Link>> {
        self.links.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }
}

impl DataLinks for Links {
    fn sync(&self, name: &str) -> Option<Arc<dyn SyncLink>> {
        self.link(name).map(|link| link as Arc<dyn SyncLink>)
    }

    fn replicas(&self) -> Option<Arc<dyn Replicas>> {
        self.replicas.clone().map(|log| log as Arc<dyn Replicas>)
    }
}

// === impl Link ===

impl Link {
    fn new(known: Known) -> Self {
        Self {
            owner: AtomicU64::new(known.pack()),
            lag: AtomicU64::new(UNKNOWN),
            watermark: AtomicU64::new(Moment::NEVER.get()),
            wrote: AtomicU64::new(Moment::NEVER.get()),
            is_awake: AtomicBool::new(false),
            wakes: Notify::new(),
            hold: Arc::default(),
        }
    }

    /// Whether a write that was answered here may not be seen at the other side.
    fn is_awaited(&self) -> bool {
        self.wrote.load(Ordering::Acquire) >= self.watermark.load(Ordering::Acquire)
    }

    /// Comes back when a write is answered; at once when one was.
    async fn is_written(&self) {
        self.is_awake.store(false, Ordering::SeqCst);
        // A write between the last look and here found everybody awake.
        if !self.is_awaited() {
            self.wakes.notified().await;
        }
        self.is_awake.store(true, Ordering::SeqCst);
    }

    fn known(&self) -> Known {
        Known::unpack(self.owner.load(Ordering::Relaxed))
    }
}

impl SyncLink for Link {
    fn owner(&self) -> Owner {
        self.known().owner
    }

    fn lag(&self) -> Option<Duration> {
        match self.lag.load(Ordering::Relaxed) {
            UNKNOWN => None,
            micros => Some(Duration::from_micros(micros)),
        }
    }

    fn watermark(&self) -> Moment {
        Moment::new(self.watermark.load(Ordering::Acquire))
    }

    fn hold(&self) -> &Arc<Hold> {
        &self.hold
    }

    fn wrote(&self, at: Moment) {
        self.wrote.fetch_max(at.get(), Ordering::SeqCst);
        if !self.is_awake.load(Ordering::SeqCst) && !self.is_awake.swap(true, Ordering::SeqCst) {
            self.wakes.notify_one();
        }
    }
}

// === impl Known ===

impl Known {
    fn pack(self) -> u64 {
        let owner = match self.owner {
            Owner::Legacy => 0,
            Owner::Modern => 1,
        };
        let source = match self.source {
            Source::File => 0,
            Source::Kept => 1,
            Source::Database => 2,
        };
        (self.epoch << 3) | (source << 1) | owner
    }

    fn unpack(word: u64) -> Self {
        let owner = if word & 1 == 0 { Owner::Legacy } else { Owner::Modern };
        let source = match (word >> 1) & 3 {
            0 => Source::File,
            1 => Source::Kept,
            _ => Source::Database,
        };
        Self { owner, epoch: word >> 3, source }
    }
}

// === impl FileLinks ===

impl FileLinks {
    pub(crate) fn new(config: &Config) -> Self {
        Self { owners: config.syncs.iter().map(|(name, sync)| (name.clone(), sync.owner)).collect(), lag: None }
    }

    /// As if every sync were in step, so that the weight shows.
    pub(crate) fn in_step(config: &Config) -> Self {
        Self { lag: Some(Duration::ZERO), ..Self::new(config) }
    }
}

impl DataLinks for FileLinks {
    fn sync(&self, name: &str) -> Option<Arc<dyn SyncLink>> {
        let owner = *self.owners.get(name)?;
        Some(Arc::new(FileLink { owner, lag: self.lag, hold: Arc::default() }))
    }
}

impl SyncLink for FileLink {
    fn owner(&self) -> Owner {
        self.owner
    }

    fn lag(&self) -> Option<Duration> {
        self.lag
    }

    /// Nobody has written here.
    fn watermark(&self) -> Moment {
        Moment::now() + Duration::from_millis(1)
    }

    fn hold(&self) -> &Arc<Hold> {
        &self.hold
    }

    fn wrote(&self, _: Moment) {}
}
