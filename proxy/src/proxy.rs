//! The handle of a running proxy: start, reload, status, drain.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use serde::Serialize;
use tokio::runtime::Handle;

use crate::{
    clash::{CookieClash, Watch},
    compare::{CompareStatus, Report},
    config::{Config, ListenerTls},
    error::StartError,
    history::{History, Recent, RouteHistory},
    links::{DataLinks, Moment},
    listen::{
        Compiled, Crew, Door, Farewell, Given, ListenerState, Offers, Shared, Stop, Tls, TlsFileError, TlsWatch, Wanted,
    },
    metrics::{Certificates, Holds, NO_ROUTE, Requests, RouteTotals, Shards, SideCounts, Upstreams},
    observe::Recorder,
    rollout::{Phase, RolloutStatus, Rollouts},
    shadow::{NoRecording, RecordLimits, Recording, Shadow},
    split::{RecentWrites, Signer, Split},
    table::{Problem, Route, RouteTable, Severity, Stage, SyncRoute, Target},
    upstream::{TrustWatch, UpstreamSpec, UpstreamStatus, Warden},
};

/// A running proxy.
pub struct Proxy {
    shared: Arc<Shared>,
    crew: Crew,
    shadow: Arc<Shadow>,
    rollouts: Rollouts,
    cookies: Watch,
    history: History,
    _warden: Warden,
    _trusts: TrustWatch,
    _tls_watch: TlsWatch,
    generation: AtomicU64,
    /// Of the answering path, where the file says nothing: one a core, as it was at the start.
    cores: usize,
}

/// What `status` shows of the proxy.
#[derive(Debug, Clone, Serialize)]
pub struct ProxyStatus {
    /// In the file's order; `default` is the last.
    pub routes: Vec<RouteStatus>,
    /// By name.
    pub upstreams: Vec<UpstreamStatus>,
    /// Cookies that both sides were seen to set under one name, as far as the routes are as they were then.
    pub cookie_clashes: Vec<CookieClash>,
    /// The sockets that clients connect to, in the file's order.
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
    /// What it answers, in words, one a match: `GET shop.example/pay`. Of headers only the names. Empty for `default`.
    #[serde(rename = "match")]
    pub matched: Vec<String>,
    /// The upstream of the monolith's side; `None` once it is retired.
    pub legacy: Option<String>,
    /// The upstream of the new side; `None` before it is begun.
    pub modern: Option<String>,
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
    /// When the newest of them ended, in seconds since 1970; `None` before there was one.
    pub last_request_unix: Option<u64>,
    /// The last ten to twenty seconds; `None` for a route that came a moment ago.
    pub recent: Option<Recent>,
    /// The sync whose owner answers its writes.
    pub sync: Option<String>,
    /// All its reads go to the owner now: the other side is more than `max_lag` behind, or nobody knows how far.
    pub reads_at_owner: bool,
    /// What comparing the shadow's answers gave; `None` where nothing is compared.
    pub compare: Option<CompareStatus>,
    /// How its rollout stands; `None` without one.
    pub rollout: Option<RolloutStatus>,
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

/// Why a route has no report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoReport {
    /// The file names none.
    #[error("there is no such route")]
    NoRoute,
    /// It has no `shadow` with `compare`.
    #[error("this route compares nothing: it has no `compare`")]
    NotCompared,
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
        Self::start_with(config, links, background, registry, (Vec::new(), RecentWrites::default()), false)
    }

    /// The same on sockets that listen already, where the config names their addresses; the others are bound. `others_write`: the process that
    /// has handed them on answers as well, until [`others_write`](Self::others_write) says that it does not.
    ///
    /// # Errors
    /// See [`StartError`]; nothing keeps running then.
    pub fn start_on(
        given: Vec<Given>,
        others_write: bool,
        config: &Config,
        links: &dyn DataLinks,
        background: &Handle,
        registry: &prometheus::Registry,
    ) -> Result<Self, StartError> {
        let recent = RecentWrites::default();
        if others_write {
            recent.others_write();
        }
        Self::start_with(config, links, background, registry, (given, recent), false)
    }

    pub(crate) fn start_with(
        config: &Config,
        links: &dyn DataLinks,
        background: &Handle,
        registry: &prometheus::Registry,
        (given, recent): (Vec<Given>, RecentWrites),
        park_at_once: bool,
    ) -> Result<Self, StartError> {
        let (mut table, _) = RouteTable::compile(config, links).map_err(StartError::Config)?;
        let others_write = recent.do_others_write();
        let split = Split::new(Signer::of(config)?, Arc::new(recent));
        let wanted = wanted(config, &[]).map_err(|problem| StartError::Config(vec![problem]))?;
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let workers = config.workers.unwrap_or(cores).max(1);
        let shards = Arc::new(Shards::default());
        let recorder = Recorder::start(background, registry)?;
        recorder.follow(&config.observe)?;
        let shadow = Shadow::start(background, registry)?;
        let shadows = shadow.compile(config, &table);
        let rollouts = Rollouts::open(config, links.replicas(), registry, others_write)?;
        rollouts.attach(&mut table);
        rollouts.follow(config, &table);
        let cookies = Watch::start(background, registry)?;
        let compiled = Compiled::new(config, 0, table, split, shadows, cookies.compile(config));
        let shared = Arc::new(Shared::new(compiled, shards, workers, recorder));
        shared.follow();
        let warden = Warden::start(background, Arc::clone(&shared));
        let rollouts = rollouts.start(background, Arc::clone(&shared));
        let weights = Arc::clone(&shared);
        registry.register(Box::new(Requests::new(Arc::clone(&shared.shards), move || {
            let current = weights.current.load();
            current
                .table
                .routes()
                .iter()
                .map(|route| (Arc::clone(&route.name), route.weight, route.effective()))
                .collect()
        })?))?;
        let synced = Arc::clone(&shared);
        registry.register(Box::new(Holds::new(move || {
            let current = synced.current.load();
            let syncs = current.table.routes().iter().filter_map(|route| route.sync.as_ref());
            syncs.map(|sync| (Arc::clone(&sync.name), Arc::clone(sync.link.hold()))).collect()
        })?))?;
        registry.register(Box::new(Upstreams::new(Arc::clone(&shared))?))?;
        registry.register(Box::new(Certificates::new(Arc::clone(&shared))?))?;
        let history = History::start(background, Arc::clone(&shared));
        let tls_watch = TlsWatch::start(&shared, background, registry)?;
        let crew = Crew::start(&shared, wanted, workers, given, park_at_once)?;
        let trusts = TrustWatch::start(Arc::clone(&shared), background);
        Ok(Self {
            shared,
            crew,
            shadow,
            rollouts,
            cookies,
            history,
            _warden: warden,
            _trusts: trusts,
            _tls_watch: tls_watch,
            generation: AtomicU64::new(0),
            cores,
        })
    }

    /// Compiles the whole config and swaps it in; requests under way end with the old one, connections stay open. New listeners and workers
    /// begin before those that are gone end. Waits a moment for the workers.
    ///
    /// Gives what deserves a second look.
    ///
    /// # Errors
    /// Everything that is wrong with it; nothing has changed then.
    pub fn reload(&self, config: &Config, links: &dyn DataLinks) -> Result<Vec<Problem>, Vec<Problem>> {
        let (mut table, warnings) = RouteTable::compile(config, links)?;
        let signer = Signer::of(config).map_err(|error| vec![Problem::error("secret", error.to_string())])?;
        let current = self.shared.current.load_full();
        self.rollouts.attach(&mut table);
        table.follow(&current.table);
        let wanted = wanted(config, &self.shared.listeners.load()).map_err(|problem| vec![problem])?;
        let follows = self.shared.recorder.follow(&config.observe);
        follows.map_err(|error| vec![Problem::error("access_log.to", error.to_string())])?;
        let swap = || {
            let generation = self.generation.fetch_add(1, Ordering::Relaxed) + 1;
            let split = current.split.with_signer(signer);
            let shadows = self.shadow.compile(config, &table);
            let jars = self.cookies.compile(config);
            self.rollouts.follow(config, &table);
            self.shared.swap(Compiled::new(config, generation, table, split, shadows, jars));
            // Series are bounded by the file, not by all files that there ever were.
            let current = self.shared.current.load();
            let routes = current.table.routes();
            self.shared.shards.keep(|name| name == NO_ROUTE || routes.iter().any(|route| *route.name == *name));
        };
        let workers = config.workers.unwrap_or(self.cores).max(1);
        if let Err(error) = self.crew.follow(wanted, workers, swap) {
            // What was open for the file before is so again; it was writable a moment ago.
            drop(self.shared.recorder.follow(&current.observe));
            return Err(vec![no_crew(config, &error)]);
        }
        Ok(warnings)
    }

    /// What it does now.
    #[must_use]
    pub fn status(&self) -> ProxyStatus {
        let current = self.shared.current.load();
        let status = |spec: &Arc<UpstreamSpec>| UpstreamStatus::of(spec, &self.shared.upstream_state(&spec.name));
        let upstreams: Vec<UpstreamStatus> = current.upstreams.iter().map(status).collect();
        let routes = current.table.routes().iter().map(|route| {
            let answers = SideCounts::of(&self.shared.shards, &route.name);
            let rollout = self.rollouts.status(&route.name);
            let upstream = |side: Option<&Target>| side.map(|side| side.upstream.to_string());
            RouteStatus {
                name: route.name.to_string(),
                matched: route.matched.to_vec(),
                legacy: upstream(route.legacy.as_ref()),
                modern: upstream(route.modern.as_ref()),
                stage: route.stage(),
                weight_wanted: route.weight.percent(),
                weight_effective: route.effective().percent(),
                weight_seen: answers.modern_percent(),
                answers,
                last_request_unix: RouteTotals::of(&self.shared.shards, &route.name).last_request,
                recent: self.history.recent(&self.shared, &current, route.index),
                sync: route.sync.as_ref().map(|sync| sync.name.to_string()),
                reads_at_owner: route.sync.as_ref().is_some_and(SyncRoute::is_behind),
                compare: current.shadows.status(route),
                why: why(rollout.as_ref(), route.modern.as_ref().and_then(|modern| upstreams[modern.index].why())),
                rollout,
            }
        });
        let routes = routes.collect();
        let listeners = self.shared.listeners.load();
        let listeners = listeners.iter().map(|listener| {
            let tls = listener.door().tls.clone();
            let tls_trouble = tls.as_ref().and_then(|tls| tls.trouble());
            ListenerStatus { bind: listener.bind, tls: tls.is_some(), tls_trouble }
        });
        let (connections, idle_connections) = self.shared.clients();
        let cookie_clashes = self.cookies.clashes();
        ProxyStatus { routes, upstreams, cookie_clashes, listeners: listeners.collect(), connections, idle_connections }
    }

    /// What comparing a route's answers came to within the last while.
    ///
    /// # Errors
    /// When there is no such route, or it compares nothing.
    pub fn report(&self, route: &str, within: Duration) -> Result<Report, NoReport> {
        let current = self.shared.current.load();
        let route = current.table.routes().iter().find(|known| *known.name == *route).ok_or(NoReport::NoRoute)?;
        current.shadows.report(route, within).ok_or(NoReport::NotCompared)
    }

    /// The rollouts of its routes.
    #[must_use]
    pub fn rollouts(&self) -> &Rollouts {
        &self.rollouts
    }

    /// How a route fared in the last hour; `None` where there is no such route.
    #[must_use]
    pub fn history(&self, route: &str) -> Option<RouteHistory> {
        let current = self.shared.current.load();
        let is_there = current.table.routes().iter().any(|known| *known.name == *route);
        is_there.then(|| self.history.of(route))
    }

    /// What comparing came to within the last while, of every route that compares, in the config's order.
    #[must_use]
    pub fn reports(&self, within: Duration) -> Vec<(String, Report)> {
        let current = self.shared.current.load();
        let report = |route: &Arc<Route>| Some((route.name.to_string(), current.shadows.report(route, within)?));
        current.table.routes().iter().filter_map(report).collect()
    }

    /// Begins to record a route's reads.
    ///
    /// # Errors
    /// When there is no such route, the file does not allow it, or a recording goes on.
    pub fn record(&self, route: &str, limits: RecordLimits) -> Result<Recording, NoRecording> {
        let current = self.shared.current.load();
        let route = current.table.routes().iter().find(|known| *known.name == *route).ok_or(NoRecording::NoRoute)?;
        current.shadows.record(route, limits)
    }

    /// Where it listens, in the config's order; with the port that the system chose for port 0.
    #[must_use]
    pub fn local_addrs(&self) -> Vec<SocketAddr> {
        self.crew.local_addrs()
    }

    /// Duplicates of the sockets that it listens on, for another process.
    ///
    /// # Errors
    /// When there are no descriptors left.
    pub fn sockets(&self) -> io::Result<Vec<Given>> {
        self.crew.sockets()
    }

    /// Whether another process answers the same users on the same sockets now. Meanwhile nobody knows here what they write there, and all reads
    /// with a key follow the owner; afterwards until the other side shows what was written until then.
    pub fn others_write(&self, do_they: bool) {
        let current = self.shared.current.load();
        if do_they {
            current.split.recent().others_write();
        } else {
            // A write whose outcome is unknown may still be under way for so long.
            let syncs = current.table.routes().iter().filter_map(|route| route.sync.as_ref());
            let longest = syncs.map(|sync| sync.read_your_writes).max().unwrap_or_default();
            current.split.recent().others_wrote(Moment::now() + longest);
            self.rollouts.decide();
        }
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
        self.stop(at_most, Farewell::Soon).await;
    }

    /// The same where another process goes on: connections that wait for a request may still send one, and are then told to come again.
    pub async fn hand_over(self, at_most: Duration) {
        self.stop(at_most, Farewell::Answered).await;
    }

    async fn stop(self, at_most: Duration, farewell: Farewell) {
        self.crew.stop(Stop { until: Instant::now() + at_most, farewell }).await;
        self.shared.recorder.flush(LAST_LINES).await;
    }
}

/// What has been answered is logged before the process ends, unless that takes longer.
const LAST_LINES: Duration = Duration::from_secs(2);

/// Why modern does not get what the file wants: first what stands, then what ails, then what is to come.
fn why(rollout: Option<&RolloutStatus>, upstream: Option<String>) -> Option<String> {
    let stands = rollout.filter(|rollout| matches!(rollout.phase, Phase::RolledBack | Phase::Paused));
    let comes = rollout.filter(|rollout| rollout.phase == Phase::Walking);
    stands.map(|rollout| rollout.why.clone()).or(upstream).or_else(|| comes.map(|rollout| rollout.why.clone()))
}

/// The listeners of a config. TLS whose files are named as before keeps what it has.
fn wanted(config: &Config, old: &[Arc<ListenerState>]) -> Result<Vec<Wanted>, Problem> {
    let wanted = config.listeners.iter().enumerate().map(|(index, listener)| {
        let old = old.iter().filter(|old| old.bind == listener.bind);
        let mut old = old.filter_map(|old| old.door().tls.clone());
        let kept = old.find(|tls| Some(tls.spec()) == listener.tls.as_ref());
        let tls = match (&listener.tls, kept) {
            (Some(_), Some(kept)) => Some(kept),
            (Some(spec), None) => {
                let opened = Tls::open(spec, Offers::Both);
                Some(Arc::new(opened.map_err(|error| tls_problem(&format!("listeners[{index}].tls"), &error))?))
            }
            (None, _) => None,
        };
        let spoken_for_by = listener.proxy_protocol.as_ref().map_or_else(Box::default, |one| one.from.get().into());
        let door = Arc::new(Door::new(listener.limits.clone(), tls, spoken_for_by));
        Ok(Wanted { bind: listener.bind, door })
    });
    wanted.collect()
}

/// Why a config that is right by itself cannot be followed.
fn no_crew(config: &Config, error: &StartError) -> Problem {
    match error {
        StartError::Listen { bind, cause } => {
            let index = config.listeners.iter().position(|listener| listener.bind == *bind).unwrap_or_default();
            Problem::error(format!("listeners[{index}].bind"), format!("cannot listen on {bind}: {cause}"))
        }
        StartError::Worker(cause) => Problem::error("workers", format!("{error}: {cause}")),
        other => Problem::error("", other.to_string()),
    }
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
