//! `banyan run`: starts what the file says and keeps it running until a signal.

use std::{
    net::{SocketAddr, TcpListener},
    path::Path,
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, anyhow};
use banyan_connectors::Connectors;
use banyan_proxy::{Given, Proxy};
use clap::ValueEnum;
use futures_util::FutureExt as _;
use listenfd::ListenFd;
use prometheus::Registry;
use tokio::{
    runtime::Handle,
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
};
use tracing::{error, info, warn};

use super::output;
use crate::{
    admin,
    app::{App, Halves},
    config::{self, Loaded},
    handover::{self, Inherited, Offer, Takeover},
    link::Links,
    logs,
    metrics::Metrics,
    reload,
    replicas::{self, StateLog},
    tasks::Tasks,
    webhook,
};

/// `run` refuses its file (BSD's `EX_CONFIG`).
const REFUSED: u8 = 78;
/// Threads of everything that is not the answering path.
const BACKGROUND_THREADS: usize = 2;
/// What is in flight at SIGTERM gets so long; Kubernetes kills after 30.
const DRAIN: Duration = Duration::from_secs(25);

/// In the place of another process: so long may the databases take to say who owns the syncs and how far they are, before requests are answered.
const LINKS: Duration = Duration::from_secs(3);

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Run one half only; the other one runs elsewhere.
    #[arg(long, value_enum, value_name = "HALF")]
    only: Option<Half>,
    /// Take the place of the Banyan that runs with this file's `state.dir`: its listening sockets first, so that no connection is refused. Where
    /// none runs, start as ever. If this one does not become ready, the other goes on.
    #[arg(long)]
    take_over: bool,
}

/// One of the two halves of Banyan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Half {
    /// Answer requests.
    Proxy,
    /// Move rows.
    Connectors,
}

pub(super) fn run(path: &Path, args: &Args) -> anyhow::Result<ExitCode> {
    let accepted = match config::load(path) {
        Ok(accepted) => accepted,
        Err(report) => {
            output::report(&report, "; nothing was started");
            return Ok(ExitCode::from(REFUSED));
        }
    };
    if accepted.report.warnings() > 0 {
        output::report(&accepted.report, "");
    }
    let unreadable = accepted.loaded.unreadable(args.only != Some(Half::Connectors));
    if !unreadable.is_empty() {
        output::error(&anyhow!("{}; nothing was started", unreadable.join("; ")));
        return Ok(ExitCode::from(REFUSED));
    }
    logs::start();
    let given = handover::systemd::given();
    let background = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(BACKGROUND_THREADS)
        .thread_name("banyan-back")
        .enable_all()
        .build()
        .context("no background runtime")?;
    let done = background.block_on(serve(path, args, accepted.loaded, given));
    background.shutdown_timeout(Duration::from_secs(2));
    done.map(|()| ExitCode::SUCCESS)
}

/// Sockets that listen, and who had them before.
struct Sockets {
    takeover: Option<Takeover>,
    admin: Arc<TcpListener>,
    probes: Option<Arc<TcpListener>>,
    /// For the proxy.
    given: Vec<Given>,
}

/// Starts both halves, the admin listener and the watcher; returns after a signal, or when another process has taken over, when everything has
/// ended.
async fn serve(path: &Path, args: &Args, loaded: Loaded, given: ListenFd) -> anyhow::Result<()> {
    let mut signals = Signals::new()?;
    // Before anything listens: a SIGHUP that nobody waits for yet would end the process.
    let hangup = Arc::new(tokio::sync::Mutex::new(signal(SignalKind::hangup())?));
    let registry = Registry::new();
    let metrics = Metrics::register()?;
    let tasks = Tasks::new(metrics.clone());
    let asked = tokio::select! {
        asked = ask(&loaded, args) => asked?,
        signal = signals.next() => return not_taken_over(signal),
    };
    // The admin listener's port first: a second Banyan on this machine should fail before it touches anything.
    let Sockets { mut takeover, admin, probes, given } = sockets(&loaded, asked, given)?;
    let door = admin::Door::open(&loaded.admin, admin.local_addr()?, keys(&loaded.proxy.state.dir)?)?;
    let log = match &loaded.connectors.kafka {
        Some(kafka) if loaded.proxy.state.shared => Some(Arc::new(StateLog::open(kafka, &loaded.connectors.install)?)),
        _ => None,
    };
    let links = Arc::new(Links::new(&loaded).with_replicas(log.clone()));
    links.compare_with_file(&loaded.proxy);
    let fed = Arc::clone(&links);
    tasks.spawn("links", move || Arc::clone(&fed).feed());
    if takeover.is_some() {
        tokio::select! {
            () = links.known_before(Instant::now() + LINKS) => {}
            signal = signals.next() => return not_taken_over(signal),
        }
    }
    let (background, beside) = (Handle::current(), takeover.is_some());
    let proxy = match args.only {
        Some(Half::Connectors) => None,
        _ => Some(Proxy::start_on(given, beside, &loaded.proxy, &*links, &background, &registry)?),
    };
    let flows = match args.only {
        Some(Half::Proxy) => None,
        _ if loaded.connectors.syncs.is_empty() => None,
        _ => Some(loaded.connectors.clone()),
    };
    // In the place of another process they begin when its own have ended.
    let (flows, later) = if takeover.is_some() { (None, flows) } else { (flows, None) };
    let connectors = flows.map(|flows| Connectors::start(&flows, &registry)).transpose()?;
    // Who is to stop says nothing: behind `ready` both would be gone.
    let ended = takeover.as_mut().and_then(|takeover| match signals.next().now_or_never() {
        Some(signal) => Some(not_taken_over(signal)),
        None => takeover.ready().err().map(Err),
    });
    if let Some(ended) = ended {
        // Who came here meanwhile is answered here.
        if let Some(proxy) = proxy {
            proxy.hand_over(DRAIN).await;
        }
        return ended;
    }
    tell_addresses(proxy.as_ref(), &loaded, &admin, probes.as_ref())?;

    let offer = Offer::new(&loaded, args.only.map(Half::name), &admin, probes.as_ref());
    let halves = Halves { proxy, connectors };
    let events = halves.proxy.as_ref().map(|proxy| proxy.rollouts().events());
    if let (Some(proxy), Some(log), Some(kafka)) = (&halves.proxy, log, &loaded.connectors.kafka) {
        let (rollouts, kafka) = (proxy.rollouts().handle(), kafka.clone());
        tasks.spawn("replicas", move || replicas::read(Arc::clone(&log), kafka.clone(), rollouts.clone()));
    }
    let app = Arc::new(App::new(path, loaded, registry, metrics.clone(), links, Arc::new(door), halves));
    if let Some(events) = events {
        let (shared, events) = (Arc::clone(&app), Arc::new(tokio::sync::Mutex::new(events)));
        tasks.spawn("webhook", move || webhook::tell(Arc::clone(&shared), Arc::clone(&events)));
    }
    let shared = Arc::clone(&app);
    tasks.spawn("admin", move || admin::serve(Arc::clone(&admin), Arc::clone(&shared)));
    if let Some(probes) = probes {
        let shared = Arc::clone(&app);
        tasks.spawn("probes", move || admin::serve_probes(Arc::clone(&probes), Arc::clone(&shared)));
    }
    let shared = Arc::clone(&app);
    tasks.spawn("stream", move || admin::feed(Arc::clone(&shared)));
    let shared = Arc::clone(&app);
    tasks.spawn("admin_tls", move || Arc::clone(&shared.door).watch(metrics.clone()));
    let shared = Arc::clone(&app);
    tasks.spawn("reload", move || reload::watch(Arc::clone(&shared), Arc::clone(&hangup)));
    handover::systemd::ready();

    let (tell, mut told) = mpsc::channel(1);
    let rest = async {
        if let Some(takeover) = takeover {
            succeed(&app, takeover, later).await;
        }
        // Whoever takes over from this one finds it whole.
        let (shared, offer) = (Arc::clone(&app), Arc::new(offer));
        tasks.spawn("handover", move || handover::offer(Arc::clone(&shared), Arc::clone(&offer), tell.clone()));
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = rest => {}
        signal = signals.next() => {
            info!(signal, "stopping: not ready any more, what is in flight finishes");
            tokio::select! {
                () = app.stop(DRAIN) => info!("stopped"),
                _ = signals.next() => error!("stopped at once by a second signal"),
            }
        }
        Some(taken) = told.recv() => {
            info!(by = taken.pid, version = taken.version, "another process has taken over: what is in flight here finishes");
            tokio::select! {
                () = app.hand_over(taken, DRAIN) => info!("stopped"),
                // A service manager sends the first to both processes, and this one ends anyway.
                _ = async { (signals.next().await, signals.next().await) } => error!("stopped at once by a second signal"),
            }
        }
    }
    tasks.stop().await;
    Ok(())
}

/// The process whose place this one is to take, where there is one, and its sockets. Aside, since a signal is heard meanwhile.
async fn ask(loaded: &Loaded, args: &Args) -> anyhow::Result<Option<(Takeover, Inherited)>> {
    if !args.take_over {
        return Ok(None);
    }
    let (dir, half) = (loaded.proxy.state.dir.clone(), args.only.map(Half::name));
    let asked = tokio::task::spawn_blocking(move || handover::ask(&dir, half)).await?.context("`--take-over`")?;
    match &asked {
        Some((old, _)) => info!(of = old.pid, version = old.version, "taking over"),
        None => {
            let dir = std::path::absolute(&loaded.proxy.state.dir).unwrap_or_else(|_| loaded.proxy.state.dir.clone());
            let hint = "a process that serves with another `state.dir`, or was started in another folder with a relative one, is not found";
            warn!(dir = %dir.display(), "nobody runs with this `state.dir` to take over from; {hint}");
        }
    }
    Ok(asked)
}

/// The other process has not been told to go, and does not hear it now.
fn not_taken_over(signal: &str) -> anyhow::Result<()> {
    info!(signal, "stopping before it took over: the process before goes on");
    Ok(())
}

/// The sockets that were handed on, those that systemd has, and of the admin listener's whatever is left to bind.
fn sockets(loaded: &Loaded, asked: Option<(Takeover, Inherited)>, given: ListenFd) -> anyhow::Result<Sockets> {
    let (takeover, mut inherited) =
        asked.map_or_else(|| (None, Inherited::default()), |(old, sockets)| (Some(old), sockets));
    handover::systemd::sockets(given, loaded, &mut inherited);
    let (admin, probes) = (loaded.admin.bind, loaded.admin.probes);
    let admin = inherited.admin(admin).map_or_else(|| bind("admin.bind", admin), Ok)?;
    let probes =
        probes.map(|probes| inherited.probes(probes).map_or_else(|| bind("admin.probes", probes), Ok)).transpose()?;
    Ok(Sockets { takeover, admin: Arc::new(admin), probes: probes.map(Arc::new), given: inherited.listeners() })
}

fn tell_addresses(
    proxy: Option<&Proxy>,
    loaded: &Loaded,
    admin: &TcpListener,
    probes: Option<&Arc<TcpListener>>,
) -> anyhow::Result<()> {
    for address in proxy.map(Proxy::local_addrs).unwrap_or_default() {
        info!(%address, routes = loaded.proxy.routes.len(), "listening");
    }
    info!(address = %admin.local_addr()?, tls = loaded.admin.tls.is_some(), "admin listening");
    if let Some(probes) = probes {
        info!(address = %probes.local_addr()?, "listening for probes");
    }
    Ok(())
}

/// Begins the flows when those of the process before have ended, and waits aside for its end.
async fn succeed(app: &Arc<App>, mut takeover: Takeover, flows: Option<banyan_connectors::config::Config>) {
    let beside = app.beside();
    let waited = tokio::task::spawn_blocking(move || (takeover.released(), takeover)).await;
    let takeover = match waited {
        Ok((Ok(()), takeover)) => Some(takeover),
        Ok((Err(error), takeover)) => {
            // Its flows and these cannot both go on: slots and leases see to that.
            warn!("the process before did not say that its flows have ended: {error:#}");
            Some(takeover)
        }
        Err(_) => None,
    };
    // Requests are answered already: without flows too.
    match flows.map(|flows| Connectors::start(&flows, app.registry())).transpose() {
        Ok(Some(connectors)) => app.adopt(connectors),
        Ok(None) => {}
        Err(error) => error!("the flows cannot begin, restart Banyan: {error:#}"),
    }
    // Nothing of it needs to be waited for: it ends with the other process, or with this one.
    drop(tokio::task::spawn_blocking(move || {
        takeover.into_iter().for_each(Takeover::ended);
        drop(beside);
        info!("the process before has ended");
    }));
}

/// With the token that the command line on this machine finds by itself.
fn keys(state: &Path) -> anyhow::Result<admin::Keys> {
    let kept = admin::kept_token(state);
    if let Err(error) = &kept {
        let path = admin::token_path(state);
        warn!(path = %path.display(), "there is no token for the command line; `admin.tokens` of the file still serve: {error}");
    }
    admin::Keys::try_new(kept.ok().as_ref())
}

fn bind(key: &str, address: SocketAddr) -> anyhow::Result<TcpListener> {
    let listener = TcpListener::bind(address).with_context(|| format!("`{key}`: cannot listen on {address}"))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// SIGTERM and SIGINT.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

// === impl Signals ===

impl Signals {
    fn new() -> anyhow::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

// === impl Half ===

impl Half {
    fn name(self) -> &'static str {
        match self {
            Self::Proxy => "proxy",
            Self::Connectors => "connectors",
        }
    }
}
