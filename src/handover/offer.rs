//! The running process's side: it can be asked for its sockets, and goes on whatever becomes of who asks, until that one is ready.

use std::{
    fs, io,
    net::{SocketAddr, TcpListener},
    os::{
        fd::AsFd as _,
        unix::{fs::PermissionsExt as _, net::UnixStream},
    },
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, bail};
use tokio::{
    net::UnixListener,
    sync::{OwnedMutexGuard, mpsc},
};
use tracing::{info, warn};

use super::{Message, PROTOCOL, Role, Socket, path, wire::Wire};
use crate::{
    app::{App, Beside},
    config::Loaded,
};

/// What this process can hand on, besides what the proxy listens on.
pub(crate) struct Offer {
    path: PathBuf,
    admin: (SocketAddr, Arc<TcpListener>),
    probes: Option<(SocketAddr, Arc<TcpListener>)>,
}

/// Another process is ready in this one's place.
pub(crate) struct Taken {
    pub(crate) pid: u32,
    pub(crate) version: String,
    wire: Wire,
    _beside: Beside,
    /// The file is judged no more.
    _judging: OwnedMutexGuard<()>,
}

/// A conversation at whose end the other one is ready.
struct Talked {
    wire: Wire,
    pid: u32,
    version: String,
    beside: Beside,
}

/// For the first words.
const HELLO: Duration = Duration::from_secs(5);
/// The new process binds what it was not given, looks at the databases, and starts its workers.
const READY: Duration = Duration::from_secs(60);

/// Waits for one who takes over, and tells of it.
///
/// # Errors
/// When the socket fails.
pub(crate) async fn offer(app: Arc<App>, offer: Arc<Offer>, tell: mpsc::Sender<Taken>) -> anyhow::Result<()> {
    let listener = match listen(&offer.path) {
        Ok(listener) => listener,
        Err(error) => {
            warn!(path = %offer.path.display(), "this process cannot be taken over, `state.dir` must be writable: {error}");
            return Ok(());
        }
    };
    loop {
        let (stream, _) = listener.accept().await?;
        match converse(&app, &offer, stream.into_std()?).await {
            Ok(taken) => {
                // Whoever would hear of it has been told to stop by a signal.
                drop(tell.send(taken).await);
                return Ok(());
            }
            Err(error) => warn!("another process asked to take over, and did not: {error:#}; this one goes on"),
        }
    }
}

/// The place is taken by a rename, so that at any moment whoever listens there is the one that answers.
fn listen(path: &Path) -> io::Result<UnixListener> {
    let draft = path.with_extension(format!("{}.new", std::process::id()));
    drop(fs::remove_file(&draft));
    let listener = UnixListener::bind(&draft)?;
    let placed = fs::set_permissions(&draft, fs::Permissions::from_mode(0o600)).and_then(|()| fs::rename(&draft, path));
    if placed.is_err() {
        drop(fs::remove_file(&draft));
    }
    placed.map(|()| listener)
}

async fn converse(app: &Arc<App>, offer: &Offer, stream: UnixStream) -> anyhow::Result<Taken> {
    // What is offered must not change meanwhile.
    let judging = Arc::clone(&app.judging).lock_owned().await;
    let sockets = offer.sockets(app)?;
    let shared = Arc::clone(app);
    let talked = tokio::task::spawn_blocking(move || talk(Wire::try_new(stream)?, sockets, &shared));
    let Talked { wire, pid, version, beside } = talked.await??;
    Ok(Taken { pid, version, wire, _beside: beside, _judging: judging })
}

fn talk(mut wire: Wire, sockets: Vec<Socket>, app: &Arc<App>) -> anyhow::Result<Talked> {
    let Some(Message::Hello { protocol, version, pid }) = wire.hear(HELLO)? else { bail!("it did not say who it is") };
    if protocol != PROTOCOL {
        let own = env!("CARGO_PKG_VERSION");
        let why = format!(
            "Banyan {own} hands over by protocol {PROTOCOL}, Banyan {version} takes over by protocol {protocol}: stop the one, then start the other"
        );
        wire.say(&Message::Refused { why }, None)?;
        bail!("it takes over by protocol {protocol}, this one hands over by {PROTOCOL}");
    }
    info!(pid, version, "another process asks to take over");
    // From now on it may answer a user's write, and this one their next read.
    let beside = app.beside();
    for Socket { role, bind, socket } in sockets {
        wire.say(&Message::Socket { role, bind }, Some(socket.as_fd()))?;
    }
    let version_here = env!("CARGO_PKG_VERSION").to_owned();
    wire.say(&Message::Offered { version: version_here, pid: std::process::id() }, None)?;
    match wire.hear(READY).context("it is not ready")? {
        Some(Message::Ready) => {
            wire.say(&Message::Going, None)?;
            Ok(Talked { wire, pid, version, beside })
        }
        Some(_) => bail!("it says what it should not"),
        None => bail!("it ended before it was ready"),
    }
}

// === impl Offer ===

impl Offer {
    /// `half`: the one that runs alone, where one does.
    pub(crate) fn new(
        loaded: &Loaded,
        half: Option<&str>,
        admin: &Arc<TcpListener>,
        probes: Option<&Arc<TcpListener>>,
    ) -> Self {
        Self {
            path: path(&loaded.proxy.state.dir, half),
            admin: (loaded.admin.bind, Arc::clone(admin)),
            probes: loaded.admin.probes.zip(probes.cloned()),
        }
    }

    fn sockets(&self, app: &App) -> anyhow::Result<Vec<Socket>> {
        let listeners = app.with_proxy(banyan_proxy::Proxy::sockets).transpose()?.unwrap_or_default();
        let listeners = listeners.into_iter().map(|given| Ok((Role::Listener, given.bind, given.socket)));
        let clone = |role, (bind, socket): &(SocketAddr, Arc<TcpListener>)| Ok((role, *bind, socket.try_clone()?));
        let admin = clone(Role::Admin, &self.admin);
        let probes = self.probes.as_ref().map(|probes| clone(Role::Probes, probes));
        let all = listeners.chain([admin]).chain(probes);
        all.map(|one| one.map(|(role, bind, socket)| Socket { role, bind, socket })).collect()
    }
}

// === impl Taken ===

impl Taken {
    /// Says that the flows have ended. What is returned is to be kept until the process ends: the new one sees that.
    pub(crate) async fn released(self) -> Option<Self> {
        let told = tokio::task::spawn_blocking(move || {
            if let Err(error) = self.wire.say(&Message::Released, None) {
                warn!("the process that took over does not hear that the flows have ended: {error:#}");
            }
            self
        });
        told.await.ok()
    }
}
