//! The new process's side.

use std::{
    io::ErrorKind,
    net::{SocketAddr, TcpListener},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, bail};
use banyan_proxy::Given;
use tracing::warn;

use super::{Message, PROTOCOL, Role, Socket, path, wire::Wire};

/// Sockets that listen already.
#[derive(Default)]
pub(crate) struct Inherited(Vec<Socket>);

/// The process that has handed them on, and still runs.
pub(crate) struct Takeover {
    pub(crate) pid: u32,
    pub(crate) version: String,
    path: PathBuf,
    wire: Wire,
}

/// The old process may be at the end of another conversation, or of judging its file.
const ANSWER: Duration = Duration::from_secs(70);
/// It has nothing to do but to say so.
const GOING: Duration = Duration::from_secs(10);
/// Flows get ten seconds to end.
const RELEASE: Duration = Duration::from_secs(15);

/// Asks the process that runs with this `state.dir` for its sockets; `None` where none runs.
///
/// # Errors
/// When it does not hand them on.
pub(crate) fn ask(state: &Path, half: Option<&str>) -> anyhow::Result<Option<(Takeover, Inherited)>> {
    let path = path(state, half);
    let stream = match UnixStream::connect(&path) {
        Ok(stream) => stream,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("`{}`", path.display())),
    };
    let mut wire = Wire::try_new(stream)?;
    let hello =
        Message::Hello { protocol: PROTOCOL, version: env!("CARGO_PKG_VERSION").to_owned(), pid: std::process::id() };
    wire.say(&hello, None)?;
    let mut sockets = Vec::new();
    loop {
        match wire.hear(ANSWER).context("the running Banyan")? {
            Some(Message::Socket { role, bind }) => {
                let socket = TcpListener::from(wire.descriptor()?);
                sockets.push(Socket { role, bind, socket });
            }
            Some(Message::Offered { version, pid }) => {
                return Ok(Some((Takeover { pid, version, path, wire }, Inherited(sockets))));
            }
            Some(Message::Refused { why }) => bail!("the running Banyan does not hand over: {why}"),
            Some(_) => bail!("the running Banyan says what it should not"),
            None => bail!("the running Banyan ended the conversation; its log says why"),
        }
    }
}

// === impl Inherited ===

impl Inherited {
    /// One that came another way, unless there is one for the same.
    pub(super) fn add(&mut self, role: Role, bind: SocketAddr, socket: TcpListener) {
        if !self.0.iter().any(|one| one.role == role && one.bind == bind) {
            self.0.push(Socket { role, bind, socket });
        }
    }

    fn take(&mut self, role: Role, bind: SocketAddr) -> Option<TcpListener> {
        let at = self.0.iter().position(|one| one.role == role && one.bind == bind)?;
        Some(self.0.swap_remove(at).socket)
    }

    pub(crate) fn admin(&mut self, bind: SocketAddr) -> Option<TcpListener> {
        self.take(Role::Admin, bind)
    }

    pub(crate) fn probes(&mut self, bind: SocketAddr) -> Option<TcpListener> {
        self.take(Role::Probes, bind)
    }

    /// Those for the proxy; the others are let go.
    pub(crate) fn listeners(self) -> Vec<Given> {
        let listeners = self.0.into_iter().filter(|one| one.role == Role::Listener);
        listeners.map(|Socket { bind, socket, .. }| Given { bind, socket }).collect()
    }
}

// === impl Takeover ===

impl Takeover {
    /// Says that this process accepts, and hears that the other one takes nobody new from now on.
    ///
    /// # Errors
    /// When the other one did not wait so long, and goes on.
    pub(crate) fn ready(&mut self) -> anyhow::Result<()> {
        let agreed = self.wire.say(&Message::Ready, None).and_then(|()| self.wire.hear(GOING));
        if matches!(agreed, Ok(Some(Message::Going))) {
            return Ok(());
        }
        match UnixStream::connect(&self.path) {
            Ok(_) => bail!("the running Banyan waited no longer, and goes on"),
            Err(_) => {
                warn!(pid = self.pid, "the process that handed its sockets on is gone already");
                Ok(())
            }
        }
    }

    /// Waits until the other one's flows have ended.
    ///
    /// # Errors
    /// When it does not say so in time; it may be gone.
    pub(crate) fn released(&mut self) -> anyhow::Result<()> {
        match self.wire.hear(RELEASE)? {
            Some(Message::Released) => Ok(()),
            Some(_) => bail!("it says what it should not"),
            None => bail!("it ended"),
        }
    }

    /// Waits until the other process has ended.
    pub(crate) fn ended(self) {
        self.wire.ends();
    }
}
