//! The handle of a running proxy: start, reload, status, drain.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use serde::Serialize;
use tokio::runtime::Handle;

use crate::{
    compare::CompareStatus,
    config::{Config, Listener, ListenerTls},
    error::StartError,
    links::DataLinks,
    listen::{Compiled, Crew, Door, ListenerState, Offers, Shared, Tls, TlsFileError, TlsWatch, bind},
    metrics::{Holds, Requests, Shards, SideCounts, Upstreams},
    observe::Recorder,
    shadow::Shadow,
    split::{RecentWrites, Signer, Split},
    table::{Problem, RouteTable, Severity, Stage, SyncRoute},
    upstream::{TrustWatch, UpstreamSpec, UpstreamStatus, Warden},
};

/// A running proxy.
pub struct Proxy {
    shared: Arc<Shared>,
    crew: Crew,
    shadow: Arc<Shadow>,
    _warden: Warden,
    _trusts: TrustWatch,
    _tls_watch: TlsWatch,
    generation: AtomicU64,
}

/// What `status` shows of the proxy.
#[derive(Debug, Clone, Serialize)]
pub struct ProxyStatus {
    /// In the file's order; `default` is the last.
    pub routes: Vec<RouteStatus>,
    /// By name.
    pub upstreams: Vec<UpstreamStatus>,
    /// The sockets that clients connect to, in the order in which they were bound.
    pub listeners: Vec<ListenerStatus>,
    /// Open clients' connections, tunnels among them.
    pub connections: usize,
    /// Of these, how many wait for a request without holding any buffer.
    pub idle_connections: usize,
}

/// One route.
#[derive(Debug, Clone, Serialize)]
pub struct RouteStatus {
    /// Its name.
    pub name: String,
    /// Where it stands in its migration.
    pub stage: Stage,
    /// Percent in the file.
    pub weight_wanted: f64,
    /// Percent that holds.
    pub weight_effective: f64,
    /// Percent of the answers that modern gave, since the start; `None` before there was one.
    pub weight_seen: Option<f64>,
    /// Answers since the start.
    pub answers: SideCounts,
    /// The sync whose owner answers its writes.
    pub sync: Option<String>,
    /// All its reads go to the owner now: the other side is more than `max_lag` behind, or nobody knows how far.
    pub reads_at_owner: bool,
    /// What comparing the shadow's answers gave; `None` where nothing is compared.
    pub compare: Option<CompareStatus>,
    /// Why modern does not get what it should, in a few words.
    pub why: Option<String>,
}

/// One listening socket.
#[derive(Debug, Clone, Serialize)]
pub struct ListenerStatus {
    /// As in the file.
    pub bind: SocketAddr,
    /// Whether TLS is spoken there.
    pub tls: bool,
    /// Why the certificates and keys on disk are not the ones in force; `None` when they are.
    pub tls_trouble: Option<String>,
}

// === impl Proxy ===

impl Proxy {
    /// Binds every listener and starts the workers.
    ///
    /// `background` runs what the answering path never waits for; `registry` gets the metrics.
    ///
    /// # Errors
    /// See [`StartError`]; nothing keeps running then.
    pub fn start(
        config: &Config,
        links: &dyn DataLinks,
        background: &Handle,
        registry: &prometheus::Registry,
    ) -> Result<Self, StartError> {
        Self::start_with(config, links, background, registry, false)
    }

    pub(crate) fn start_with(
        config: &Config,
        links: &dyn DataLinks,
        background: &Handle,
        registry: &prometheus::Registry,
        park_at_once: bool,
    ) -> Result<Self, StartError> {
        let (table, _) = RouteTable::compile(config, links).map_err(StartError::Config)?;
        let split = Split::new(Signer::of(config)?, Arc::<RecentWrites>::default());
        let sockets = config.listeners.iter().map(|listener| bind(listener.bind)).collect::<Result<Vec<_>, _>>()?;
        let listeners = config.listeners.iter().zip(&sockets).map(|(listener, socket)| ListenerState {
            bind: listener.bind,
            local: socket.local_addr().unwrap_or(listener.bind),
            open: AtomicUsize::new(0),
            idle: AtomicUsize::new(0),
        });
        let doors = config.listeners.iter().enumerate().map(|(index, listener)| door(index, listener, None));
        let doors = doors.collect::<Result<_, _>>().map_err(|problem| StartError::Config(vec![problem]))?;
        let workers = config.workers.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
        let shards = Arc::new(Shards::default());
        let recorder = Recorder::start(background, registry)?;
        recorder.follow(&config.observe)?;
        let shadow = Shadow::start(background, registry)?;
        let shadows = shadow.compile(config, &table);
        let compiled = Compiled::new(config, 0, table, split, shadows, doors);
        let shared = Arc::new(Shared::new(compiled, shards, listeners.collect(), workers.max(1), recorder));
        shared.follow();
        let warden = Warden::start(background, Arc::clone(&shared));
        let weights = Arc::clone(&shared);
        registry.register(Box::new(Requests::new(Arc::clone(&shared.shards), move || {
            let current = weights.current.load();
            current.table.routes().iter().map(|route| (Arc::clone(&route.name), route.weight, route.weight)).collect()
        })?))?;
        let synced = Arc::clone(&shared);
        registry.register(Box::new(Holds::new(move || {
            let current = synced.current.load();
            let syncs = current.table.routes().iter().filter_map(|route| route.sync.as_ref());
            syncs.map(|sync| (Arc::clone(&sync.name), Arc::clone(sync.link.hold()))).collect()
        })?))?;
        registry.register(Box::new(Upstreams::new(Arc::clone(&shared))?))?;
        let tls_watch = TlsWatch::start(&shared, background, registry)?;
        let crew = Crew::start(&shared, &sockets, park_at_once)?;
        let trusts = TrustWatch::start(Arc::clone(&shared), background);
        Ok(Self {
            shared,
            crew,
            shadow,
            _warden: warden,
            _trusts: trusts,
            _tls_watch: tls_watch,
            generation: AtomicU64::new(0),
        })
    }

    /// Compiles the whole config and swaps it in; requests under way end with the old one, connections stay open.
    ///
    /// Gives what deserves a second look, keys that only a restart changes among it.
    ///
    /// # Errors
    /// Everything that is wrong with it; nothing has changed then.
    pub fn reload(&self, config: &Config, links: &dyn DataLinks) -> Result<Vec<Problem>, Vec<Problem>> {
        let (mut table, mut warnings) = RouteTable::compile(config, links)?;
        let signer = Signer::of(config).map_err(|error| vec![Problem::error("secret", error.to_string())])?;
        let current = self.shared.current.load_full();
        table.follow(&current.table);
        let doors = self.doors(config, &current.doors, &mut warnings)?;
        let follows = self.shared.recorder.follow(&config.observe);
        follows.map_err(|error| vec![Problem::error("access_log.to", error.to_string())])?;
        if config.workers.is_some_and(|workers| workers.max(1) != self.shared.workers) {
            warnings.push(needs_restart("workers"));
        }
        let generation = self.generation.fetch_add(1, Ordering::Relaxed) + 1;
        let split = current.split.with_signer(signer);
        let shadows = self.shadow.compile(config, &table);
        self.shared.swap(Compiled::new(config, generation, table, split, shadows, doors));
        Ok(warnings)
    }

    /// Of the sockets that are bound; others than those need a restart.
    fn doors(&self, config: &Config, old: &[Door], warnings: &mut Vec<Problem>) -> Result<Vec<Door>, Vec<Problem>> {
        let bound = &self.shared.listeners;
        for (index, listener) in config.listeners.iter().enumerate() {
            if bound.iter().all(|bound| bound.bind != listener.bind) {
                warnings.push(needs_restart(&format!("listeners[{index}].bind")));
            }
        }
        let kept = bound.iter().zip(old).map(|(bound, old)| {
            let same = config.listeners.iter().enumerate().find(|(_, listener)| listener.bind == bound.bind);
            if same.is_none() {
                warnings
                    .push(Problem::warning("listeners", format!("`{}` is listened on until a restart", bound.bind)));
            }
            same.map_or_else(|| Ok(old.clone()), |(index, listener)| door(index, listener, Some(old)))
        });
        kept.collect::<Result<_, _>>().map_err(|problem| vec![problem])
    }

    /// What it does now.
    #[must_use]
    pub fn status(&self) -> ProxyStatus {
        let current = self.shared.current.load();
        let status = |spec: &Arc<UpstreamSpec>| UpstreamStatus::of(spec, &self.shared.upstream_state(&spec.name));
        let upstreams: Vec<UpstreamStatus> = current.upstreams.iter().map(status).collect();
        let routes = current.table.routes().iter().map(|route| {
            let answers = SideCounts::of(&self.shared.shards, &route.name);
            RouteStatus {
                name: route.name.to_string(),
                stage: route.stage(),
                weight_wanted: route.weight.percent(),
                weight_effective: route.weight.percent(),
                weight_seen: answers.modern_percent(),
                answers,
                sync: route.sync.as_ref().map(|sync| sync.name.to_string()),
                reads_at_owner: route.sync.as_ref().is_some_and(SyncRoute::is_behind),
                compare: current.shadows.status(route),
                why: route.modern.as_ref().and_then(|modern| upstreams[modern.index].why()),
            }
        });
        let routes = routes.collect();
        let listeners = self.shared.listeners.iter().zip(&current.doors).map(|(listener, door)| ListenerStatus {
            bind: listener.bind,
            tls: door.tls.is_some(),
            tls_trouble: door.tls.as_ref().and_then(|tls| tls.trouble()),
        });
        let sum = |of: fn(&ListenerState) -> &AtomicUsize| {
            self.shared.listeners.iter().map(|listener| of(listener).load(Ordering::Relaxed)).sum()
        };
        ProxyStatus {
            routes,
            upstreams,
            listeners: listeners.collect(),
            connections: sum(|listener| &listener.open),
            idle_connections: sum(|listener| &listener.idle),
        }
    }

    /// Where it listens, in the config's order; with the port that the system chose for port 0.
    #[must_use]
    pub fn local_addrs(&self) -> Vec<SocketAddr> {
        self.shared.listeners.iter().map(|listener| listener.local).collect()
    }

    #[cfg(test)]
    pub(crate) fn shared(&self) -> &Shared {
        &self.shared
    }

    /// Whether every worker runs; `/livez` asks.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.crew.is_whole()
    }

    /// Stops accepting and lets what is in flight finish; comes back when all is done, or after `at_most`.
    pub async fn drain(self, at_most: Duration) {
        self.crew.drain(at_most).await;
        self.shared.recorder.flush(LAST_LINES).await;
    }
}

/// What has been answered is logged before the process ends, unless that takes longer.
const LAST_LINES: Duration = Duration::from_secs(2);

/// How a listener treats its clients. TLS whose files are named as before keeps what it has.
fn door(index: usize, listener: &Listener, old: Option<&Door>) -> Result<Door, Problem> {
    let kept = old.and_then(|old| old.tls.clone()).filter(|tls| Some(tls.spec()) == listener.tls.as_ref());
    let tls = match (&listener.tls, kept) {
        (Some(_), Some(kept)) => Some(kept),
        (Some(spec), None) => {
            let opened = Tls::open(spec, Offers::Both);
            let opened = opened.map_err(|error| tls_problem(&format!("listeners[{index}].tls"), &error))?;
            Some(Arc::new(opened))
        }
        (None, _) => None,
    };
    let spoken_for_by = listener.proxy_protocol.as_ref().map_or_else(Box::default, |one| one.from.get().into());
    Ok(Door { limits: listener.limits.clone(), tls, spoken_for_by })
}

fn tls_problem(path: &str, error: &TlsFileError) -> Problem {
    Problem::error(path, error.told())
}

/// What is wrong with the files that a config names. One that cannot be read is only a warning: who checks a config may be another user, on
/// another machine, than who runs it.
#[must_use]
pub fn check_files(config: &Config) -> Vec<Problem> {
    let tls = config.listeners.iter().enumerate().filter_map(|(index, listener)| Some((index, listener.tls.as_ref()?)));
    tls.filter_map(|(index, tls)| check_tls(&format!("listeners[{index}].tls"), tls)).collect()
}

/// The same for the TLS of one listener; `path` is where it stands.
#[must_use]
pub fn check_tls(path: &str, tls: &ListenerTls) -> Option<Problem> {
    let error = Tls::open(tls, Offers::Both).err()?;
    let problem = tls_problem(path, &error);
    Some(if error.is_unreadable() { Problem { severity: Severity::Warning, ..problem } } else { problem })
}

fn needs_restart(path: &str) -> Problem {
    Problem::warning(path, "a change of this key takes effect after a restart")
}
