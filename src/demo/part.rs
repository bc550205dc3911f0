//! The processes of the demo: the same executable, playing the monolith, a service, or the keeper of a server.
//!
//! Every part has a lifeline: its stdin is a pipe that the demo holds open and never writes to. When the demo is gone, however it ended,
//! the pipe ends, and with it the part. Parts are in process groups of their own, so that Ctrl-C reaches the demo alone.

use std::{
    env,
    fs::{self, File},
    io::Read as _,
    net::TcpListener,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::Context as _;

use super::{keeper, ports, screen::GivenUp};

/// A part that runs.
pub(crate) struct Part {
    name: &'static str,
    child: Child,
    lifeline: Option<ChildStdin>,
    log: PathBuf,
}

/// What a process of the demo plays. Given on the hidden command line; secrets come by environment.
#[derive(Debug, Clone, clap::Subcommand)]
pub(crate) enum Role {
    /// The monolith. `DATABASE_URL` and `SESSION_KEY` come from the environment.
    LegacyApp(Place),
    /// The new payments service, with the same environment.
    PaymentsService(Place),
    /// The new accounts service, with the same environment.
    AccountsService(Place),
    /// Runs a program as long as the lifeline holds.
    Keeper(keeper::Kept),
}

/// Where a service listens. It binds by itself, so that of two demos that start at once each gets a port, and says which it got.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Place {
    /// The port; the next free one if it is taken.
    #[arg(long)]
    port: u16,
    /// The file that gets the address.
    #[arg(long)]
    tell: PathBuf,
    /// Of the payments service: a build in which every third payment cannot be read.
    #[arg(long, hide = true)]
    bad_build: bool,
}

/// How long a part may take to end by itself.
const GRACE: Duration = Duration::from_secs(8);

// === impl Part ===

impl Part {
    /// Starts this executable in `role`; what it says goes to `<folder>/<name>.log`.
    pub(crate) fn start(
        name: &'static str,
        folder: &Path,
        role: &[&str],
        environment: &[(&str, &str)],
    ) -> anyhow::Result<Self> {
        let log = folder.join(format!("{name}.log"));
        let file = File::options()
            .create(true)
            .append(true)
            .open(&log)
            .with_context(|| format!("cannot write {}", log.display()))?;
        let mut child = Command::new(env::current_exe().context("cannot find the running executable")?)
            .arg(crate::cli::demo::PART)
            .args(role)
            .envs(environment.iter().copied())
            .stdin(Stdio::piped())
            .stdout(file.try_clone()?)
            .stderr(file)
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        let lifeline = child.stdin.take();
        Ok(Self { name, child, lifeline, log })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it has.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Fails for good, with the log's path, if it has ended.
    pub(crate) fn must_live(&mut self) -> Result<(), GivenUp> {
        match self.ended() {
            Some(status) => Err(GivenUp(format!("{} ended ({status}); its log: {}", self.name, self.log.display()))),
            None => Ok(()),
        }
    }

    /// As a crash would: SIGKILL, nothing is said to anybody.
    pub(crate) fn kill(&mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Lets go of the lifeline: it ends by itself.
    pub(crate) fn let_go(&mut self) {
        drop(self.lifeline.take());
    }

    /// Lets go of it and waits.
    pub(crate) fn stop(&mut self) {
        self.let_go();
        let deadline = Instant::now() + GRACE;
        while Instant::now() < deadline {
            if self.ended().is_some() {
                return;
            }
            thread::sleep(Duration::from_millis(5));
        }
        let _ = self.kill();
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.stop();
    }
}

// === impl Role ===

impl Role {
    /// Plays it until the lifeline ends.
    pub(crate) fn play(self) -> anyhow::Result<()> {
        tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).init();
        let (Self::LegacyApp(place) | Self::PaymentsService(place) | Self::AccountsService(place)) = &self else {
            let Self::Keeper(kept) = self else { unreachable!("all others have a place") };
            return kept.keep();
        };
        thread::spawn(|| {
            wait_for_the_end();
            std::process::exit(0);
        });
        let read = |name: &'static str| env::var(name).with_context(|| format!("`{name}` is not set"));
        let (database, session_key) = (read("DATABASE_URL")?, read("SESSION_KEY")?);
        let listener = place.listen()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        match self {
            Self::LegacyApp(_) => runtime.block_on(legacy_app::serve(legacy_app::Settings {
                listener,
                database,
                session_key,
                publishes: false,
                capacity: None,
            })),
            Self::PaymentsService(place) => runtime.block_on(payments_service::serve(payments_service::Settings {
                listener,
                database,
                session_key,
                publishes: false,
                is_bad_build: place.bad_build,
            })),
            _ => runtime.block_on(accounts_service::serve(accounts_service::Settings {
                listener,
                database,
                session_key,
                publishes: false,
            })),
        }
    }
}

// === impl Place ===

impl Place {
    fn listen(&self) -> anyhow::Result<TcpListener> {
        let listener = ports::listen(self.port)?;
        let new = self.tell.with_extension("new");
        fs::write(&new, listener.local_addr()?.to_string())?;
        fs::rename(new, &self.tell)?;
        Ok(listener)
    }
}

/// Returns when the demo has let go of this part's lifeline, or is gone.
pub(crate) fn wait_for_the_end() {
    let mut stdin = std::io::stdin().lock();
    let mut nothing = [0; 64];
    // Nobody writes there; whatever comes is passed over.
    while !matches!(stdin.read(&mut nothing), Ok(0) | Err(_)) {}
}
