//! The processes of the demo: the same executable, playing the monolith, a service, or the keeper of a server.
//!
//! Every part has a lifeline: its stdin is a pipe that the demo holds open and never writes to. When the demo is gone, however it ended,
//! the pipe ends, and with it the part. Parts are in process groups of their own, so that Ctrl-C reaches the demo alone.

use std::{
    env,
    fs::File,
    io::Read as _,
    net::SocketAddr,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::Context as _;

use super::keeper;

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
    LegacyApp {
        /// Where it listens.
        #[arg(long)]
        bind: SocketAddr,
    },
    /// The new payments service.
    PaymentsService {
        /// Where it listens.
        #[arg(long)]
        bind: SocketAddr,
    },
    /// The new accounts service.
    AccountsService {
        /// Where it listens.
        #[arg(long)]
        bind: SocketAddr,
    },
    /// Runs a program as long as the lifeline holds.
    Keeper(keeper::Kept),
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

    /// A sentence for the person who waits for it, if it has ended.
    pub(crate) fn obituary(&mut self) -> Option<String> {
        let status = self.ended()?;
        Some(format!("{} ended ({status}); its log: {}", self.name, self.log.display()))
    }

    /// As a crash would: SIGKILL, nothing is said to anybody.
    pub(crate) fn kill(&mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Lets go of the lifeline and waits.
    pub(crate) fn stop(&mut self) {
        drop(self.lifeline.take());
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
        let bind = match self {
            Self::Keeper(kept) => return kept.keep(),
            Self::LegacyApp { bind } | Self::PaymentsService { bind } | Self::AccountsService { bind } => bind,
        };
        thread::spawn(|| {
            wait_for_the_end();
            std::process::exit(0);
        });
        let read = |name: &'static str| env::var(name).with_context(|| format!("`{name}` is not set"));
        let (database, session_key) = (read("DATABASE_URL")?, read("SESSION_KEY")?);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        match self {
            Self::LegacyApp { .. } => {
                runtime.block_on(legacy_app::serve(legacy_app::Settings { bind, database, session_key }))
            }
            Self::PaymentsService { .. } => {
                runtime.block_on(payments_service::serve(payments_service::Settings { bind, database, session_key }))
            }
            _ => runtime.block_on(accounts_service::serve(accounts_service::Settings { bind, database, session_key })),
        }
    }
}

/// Returns when the demo has let go of this part's lifeline, or is gone.
pub(crate) fn wait_for_the_end() {
    let mut stdin = std::io::stdin().lock();
    let mut nothing = [0; 64];
    // Nobody writes there; whatever comes is passed over.
    while !matches!(stdin.read(&mut nothing), Ok(0) | Err(_)) {}
}
