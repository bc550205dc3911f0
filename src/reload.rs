//! Takes over the file when it changes on disk, or at SIGHUP: validate whole, compile whole, swap; else everything stays as it is.

use std::{path::PathBuf, sync::Arc, time::Duration};

use anyhow::Context as _;
use notify::{
    EventKind, RecommendedWatcher, RecursiveMode, Watcher as _,
    event::{AccessKind, AccessMode},
};
use serde::Serialize;
use tokio::{
    signal::unix::Signal,
    sync::{Mutex, mpsc},
    time::{Instant, sleep, timeout_at},
};
use tracing::{error, info, warn};

use crate::{
    app::{App, Refused, unix_now},
    config::{self, Accepted, Against, Diagnostic, Report},
    metrics::ReloadResult,
    plan::Plan,
};

/// Quiet for so long: whoever writes the file is done.
const QUIET: Duration = Duration::from_millis(50);
/// Somebody who never stops writing is not waited for longer.
const LONGEST_WAIT: Duration = Duration::from_millis(500);
/// Lines that a log gets of one reload.
const MOST_CHANGES: usize = 20;
/// A file with errors may be half written: it is read once more after this.
const SECOND_LOOK: Duration = Duration::from_millis(150);
/// Where the system tells nothing (network file systems), the file is looked at this often.
const LOOK: Duration = Duration::from_secs(5);

/// What became of a changed file: writes the log line, the metric and the status together.
enum Event<'r> {
    Accepted(&'r Taken),
    Refused { report: &'r Report },
}

/// A file that is in force now.
struct Taken {
    warnings: usize,
    routes: usize,
    restart: Vec<String>,
    plan: Plan,
}

/// What became of the file, for whoever asked for it.
#[derive(Debug, Serialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub(crate) enum Outcome {
    /// It is in force.
    Accepted {
        file: String,
        routes: usize,
        warnings: usize,
        restart_needed: Vec<String>,
        /// What it changed.
        plan: Plan,
    },
    /// It has errors, and changed nothing.
    Refused { file: String, errors: usize, diagnostics: Vec<Diagnostic> },
}

/// Watches the file until it is dropped; `hangup` is SIGHUP, which one watcher at a time waits for.
///
/// # Errors
/// When judging the file panicked.
pub(crate) async fn watch(app: Arc<App>, hangup: Arc<Mutex<Signal>>) -> anyhow::Result<()> {
    let (tell, mut told) = mpsc::channel(1);
    // Kept to the end: dropping it ends the watch.
    let watcher = watcher(&app, tell.clone());
    if let Err(error) = &watcher {
        warn!("the system cannot watch the file, it is looked at every {LOOK:?} instead: {error:#}");
    }
    let mut hangup = hangup.lock().await;
    loop {
        let forced = tokio::select! {
            Some(()) = told.recv() => {
                settle(&mut told).await;
                false
            }
            Some(()) = hangup.recv() => true,
            () = app.leaves.cancelled() => return Ok(()),
            () = sleep(LOOK) => false,
        };
        look(&app, forced).await?;
    }
}

fn watcher(app: &App, tell: mpsc::Sender<()>) -> anyhow::Result<RecommendedWatcher> {
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // Reading the file is an event too, and must not lead to reading it again.
        let reading = |kind| match kind {
            EventKind::Access(AccessKind::Close(AccessMode::Write)) => false,
            EventKind::Access(_) => true,
            _ => false,
        };
        if !event.is_ok_and(|event| reading(event.kind)) {
            // Full: it was told already.
            let _ = tell.try_send(());
        }
    })?;
    for folder in folders(app) {
        watcher.watch(&folder, RecursiveMode::NonRecursive).with_context(|| format!("`{}`", folder.display()))?;
    }
    Ok(watcher)
}

/// The folder that holds the file; and, where the file is a link, the folder of what it leads to. Kubernetes swaps a link in the first one.
fn folders(app: &App) -> Vec<PathBuf> {
    let parent = |path: &std::path::Path| match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    let mut folders = vec![parent(app.path())];
    if let Ok(target) = app.path().canonicalize() {
        let behind = parent(&target);
        if folders[0].canonicalize().ok().as_ref() != Some(&behind) {
            folders.push(behind);
        }
    }
    folders
}

async fn settle(told: &mut mpsc::Receiver<()>) {
    let latest = Instant::now() + LONGEST_WAIT;
    while timeout_at(latest.min(Instant::now() + QUIET), told.recv()).await.is_ok() {
        if Instant::now() >= latest {
            return;
        }
    }
}

/// Reads the file again, whether or not it changed.
///
/// # Errors
/// When judging it panicked.
pub(crate) async fn now(app: &Arc<App>) -> anyhow::Result<Outcome> {
    look(app, true).await?.context("the file was not judged")
}

/// Judges the file if it is another one than at the last look, or if a person asks for it; `None` where nothing is new.
async fn look(app: &Arc<App>, forced: bool) -> anyhow::Result<Option<Outcome>> {
    // One after the other, whoever asks.
    let _turn = app.judging.lock().await;
    let mut forced = forced;
    loop {
        let (path, against) = (app.path().to_owned(), against(app));
        let known = if forced { None } else { Some(app.file().judged.clone()) };
        let judged = tokio::task::spawn_blocking(move || {
            let bytes = config::read(&path);
            let same = known.is_some_and(|known| known.as_deref() == bytes.as_deref().ok());
            (!same).then(|| {
                let name = path.display().to_string();
                let verdict = match &bytes {
                    Ok(bytes) => config::check(&name, bytes, &|variable| std::env::var(variable).ok(), &against),
                    Err(unreadable) => Err(Box::new(unreadable.report(&name))),
                };
                (bytes.ok(), verdict)
            })
        });
        let Some((bytes, verdict)) = judged.await? else { return Ok(None) };
        if verdict.is_err() {
            sleep(SECOND_LOOK).await;
            let path = app.path().to_owned();
            let again = tokio::task::spawn_blocking(move || config::read(&path).ok()).await?;
            if again != bytes {
                forced = true;
                continue;
            }
        }
        app.file().judged = bytes;
        let taken = verdict.and_then(|accepted| take_over(app, accepted));
        let event = match &taken {
            Ok(taken) => Event::Accepted(taken),
            Err(report) => Event::Refused { report },
        };
        event.tell(app);
        return Ok(Some(Outcome::new(app, taken)));
    }
}

/// Who owns each sync, which a file cannot change.
fn against(app: &App) -> Against {
    let file = app.file();
    let owners = file.loaded.proxy.syncs.iter().map(|(name, sync)| {
        let known = app.links.known(name).map_or(sync.owner, |known| known.owner);
        (name.clone(), (sync.owner, known))
    });
    Against { owners: owners.collect() }
}

fn take_over(app: &App, accepted: Accepted) -> Result<Taken, Box<Report>> {
    let Accepted { loaded, mut report } = accepted;
    let admin_tls = match app.door.prepare(&loaded.admin) {
        Ok(tls) => tls,
        Err(problem) => {
            report.add(&problem);
            return Err(Box::new(report));
        }
    };
    app.links.follow(&loaded);
    if let Some(Err(problems)) = app.with_proxy(|proxy| proxy.reload(&loaded.proxy, &*app.links)) {
        for problem in problems {
            report.add(&problem);
        }
        app.links.follow(&app.file().loaded);
        return Err(Box::new(report));
    }
    if let Some(tls) = admin_tls {
        app.door.take(tls);
    }
    let mut file = app.file();
    // Against what the process was started with: what still waits for a restart keeps waiting.
    let restart = file.started_with.changed(&loaded.restart);
    let routes = loaded.proxy.routes.len();
    let plan = Plan::new(&file.loaded, &loaded);
    file.loaded = loaded;
    Ok(Taken { warnings: report.warnings(), routes, restart, plan })
}

// === impl Outcome ===

impl Outcome {
    fn new(app: &App, taken: Result<Taken, Box<Report>>) -> Self {
        let file = app.path().display().to_string();
        match taken {
            Ok(Taken { warnings, routes, restart, plan }) => {
                Self::Accepted { file, routes, warnings, restart_needed: restart, plan }
            }
            Err(report) => Self::Refused { file, errors: report.errors(), diagnostics: report.diagnostics },
        }
    }

    pub(crate) fn is_accepted(&self) -> bool {
        matches!(self, Self::Accepted { .. })
    }
}

// === impl Event ===

impl Event<'_> {
    fn tell(self, app: &App) {
        let now = unix_now();
        let mut file = app.file();
        let status = &mut file.status;
        status.last_reload_unix = Some(now);
        match self {
            Self::Accepted(Taken { warnings, routes, restart, plan }) => {
                info!(file = status.path, routes, warnings, "took over the file");
                tell_changes(plan);
                if !restart.is_empty() {
                    warn!(
                        keys = restart.join(", "),
                        "changed keys that need a restart; until then the old values hold"
                    );
                }
                status.in_force = true;
                status.reloads += 1;
                status.errors = 0;
                status.first_error = None;
                status.restart_needed.clone_from(restart);
                app.marks.file(now, plan);
                app.metrics.reloaded(ReloadResult::Accepted);
            }
            Self::Refused { report } => {
                let first = report.first_error();
                error!(
                    errors = report.errors(),
                    first = first.as_deref().unwrap_or_default(),
                    "refused the file, the old one stays in force; `banyan check` tells everything"
                );
                status.in_force = false;
                status.errors = report.errors();
                status.first_error = first;
                let (errors, told) = (report.errors(), format!("{}{}", report.render(false), report.count()));
                file.refused = Some(Refused { at: now, errors, report: told });
                app.metrics.reloaded(ReloadResult::Refused);
            }
        }
    }
}

/// What `banyan plan` says of it, one event a change.
fn tell_changes(plan: &Plan) {
    for change in plan.changes.iter().take(MOST_CHANGES) {
        let meaning = change.meaning();
        info!(of = change.subject(), what = change.what, effect = meaning, "changed");
    }
    let more = plan.changes.len().saturating_sub(MOST_CHANGES);
    if more > 0 {
        info!(changes = more, "and more; `banyan plan` tells all of them");
    }
}
