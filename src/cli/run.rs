//! `banyan run`: starts what the file says and keeps it running until a signal.

use std::{
    net::{SocketAddr, TcpListener},
    path::Path,
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use banyan_connectors::Connectors;
use banyan_proxy::Proxy;
use clap::ValueEnum;
use prometheus::Registry;
use tokio::{
    runtime::Handle,
    signal::unix::{SignalKind, signal},
};
use tracing::{error, info, warn};

use super::output;
use crate::{
    admin,
    app::{App, Halves},
    config::{self, Loaded},
    link::Links,
    logs,
    metrics::Metrics,
    reload,
    tasks::Tasks,
};

/// `run` refuses its file (BSD's `EX_CONFIG`).
const REFUSED: u8 = 78;
/// Threads of everything that is not the answering path.
const BACKGROUND_THREADS: usize = 2;
/// What is in flight at SIGTERM gets so long; Kubernetes kills after 30.
const DRAIN: Duration = Duration::from_secs(25);

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Run one half only; the other one runs elsewhere.
    #[arg(long, value_enum, value_name = "HALF")]
    only: Option<Half>,
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
    logs::start();
    let background = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(BACKGROUND_THREADS)
        .thread_name("banyan-back")
        .enable_all()
        .build()
        .context("no background runtime")?;
    let done = background.block_on(serve(path, args.only, accepted.loaded));
    background.shutdown_timeout(Duration::from_secs(2));
    done.map(|()| ExitCode::SUCCESS)
}

/// Starts both halves, the admin listener and the watcher; returns after a signal, when everything has ended.
async fn serve(path: &Path, only: Option<Half>, loaded: Loaded) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    // Before anything listens: a SIGHUP that nobody waits for yet would end the process.
    let hangup = Arc::new(tokio::sync::Mutex::new(signal(SignalKind::hangup())?));
    let registry = Registry::new();
    let metrics = Metrics::register()?;
    let tasks = Tasks::new(metrics.clone());
    let links = Arc::new(Links::new(&loaded));
    links.compare_with_file(&loaded.proxy);

    // The admin listener's port first: a second Banyan on this machine should fail before it touches anything.
    let admin = bind("admin.bind", loaded.admin.bind)?;
    let probes = loaded.admin.probes.map(|address| bind("admin.probes", address)).transpose()?;
    let door = admin::Door::open(&loaded.admin, admin.local_addr()?, keys(&loaded.proxy.state.dir)?)?;
    let proxy = match only {
        Some(Half::Connectors) => None,
        _ => Some(Proxy::start(&loaded.proxy, &*links, &Handle::current(), &registry)?),
    };
    let connectors = match only {
        Some(Half::Proxy) => None,
        _ if loaded.connectors.syncs.is_empty() => None,
        _ => Some(Connectors::start(&loaded.connectors, &registry)?),
    };
    if let Some(proxy) = &proxy {
        for address in proxy.local_addrs() {
            info!(%address, routes = loaded.proxy.routes.len(), "listening");
        }
    }
    info!(address = %admin.local_addr()?, tls = loaded.admin.tls.is_some(), "admin listening");

    let halves = Halves { proxy, connectors };
    let app = Arc::new(App::new(path, loaded, registry, metrics.clone(), links, Arc::new(door), halves));
    let (shared, socket) = (Arc::clone(&app), Arc::new(admin));
    tasks.spawn("admin", move || admin::serve(Arc::clone(&socket), Arc::clone(&shared)));
    if let Some(probes) = probes {
        info!(address = %probes.local_addr()?, "listening for probes");
        let (shared, socket) = (Arc::clone(&app), Arc::new(probes));
        tasks.spawn("probes", move || admin::serve_probes(Arc::clone(&socket), Arc::clone(&shared)));
    }
    let shared = Arc::clone(&app);
    tasks.spawn("admin_tls", move || Arc::clone(&shared.door).watch(metrics.clone()));
    let shared = Arc::clone(&app);
    tasks.spawn("reload", move || reload::watch(Arc::clone(&shared), Arc::clone(&hangup)));

    let shared = Arc::clone(&app);
    tasks.spawn("links", move || Arc::clone(&shared.links).feed());

    let signal = tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    };
    info!(signal, "stopping: not ready any more, what is in flight finishes");
    tokio::select! {
        () = app.stop(DRAIN) => info!("stopped"),
        _ = terminate.recv() => error!("stopped at once by a second signal"),
        _ = interrupt.recv() => error!("stopped at once by a second signal"),
    }
    tasks.stop().await;
    Ok(())
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
