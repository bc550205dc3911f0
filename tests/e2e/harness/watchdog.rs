//! Ends every server of the tests and removes their folder when the test process is gone, also when it was killed.
//!
//! One `sh` reads from a pipe whose other end only this process holds. As long as we live it takes notes (`watch`,
//! `forget`); when the pipe ends it signals the processes it knows, waits a little, kills the rest.

use std::{
    fs,
    io::Write,
    os::unix::{
        fs::{MetadataExt, PermissionsExt},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
    sync::{LazyLock, Mutex},
    time::{Duration, Instant},
};

const SCRIPT: &str = r#"
trap '' INT TERM HUP
list=
while read -r verb pid signal; do
  case $verb in
    watch) list="$list $pid:$signal" ;;
    forget) rest=; for e in $list; do [ "${e%%:*}" = "$pid" ] || rest="$rest $e"; done; list=$rest ;;
  esac
done
for e in $list; do kill "-${e#*:}" "${e%%:*}" 2>/dev/null; done
n=0
while [ $n -lt 30 ]; do
  n=$((n + 1)); left=
  for e in $list; do kill -0 "${e%%:*}" 2>/dev/null && left="$left ${e%%:*}"; done
  [ -z "$left" ] && break
  sleep 0.1
done
[ -z "$left" ] || kill -KILL $left 2>/dev/null
rm -rf "$1"
"#;

static WATCHDOG: LazyLock<Watchdog> = LazyLock::new(Watchdog::start);

/// How a process is asked to go when nobody is left to ask nicely.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Signal {
    /// Hang up: Banyan reads its file again.
    Hup,
    /// Ctrl-C; PostgreSQL's fast shutdown.
    Int,
    /// PostgreSQL's immediate shutdown.
    Quit,
    /// The polite end.
    Term,
    /// What cannot be caught.
    Kill,
    /// Stands still, with all its connections.
    Stop,
    /// Goes on where it stood.
    Cont,
}

/// A child process that does not outlive this one.
#[derive(Debug)]
pub(crate) struct Watched {
    child: Child,
    last: Signal,
}

struct Watchdog {
    notes: Mutex<ChildStdin>,
    /// Ends after us, so nobody waits for it.
    _shell: Child,
    folder: PathBuf,
}

/// A new folder for one server or one Banyan, gone with the test process. Other users may pass through it.
pub(crate) fn folder(name: &str) -> PathBuf {
    let folder = WATCHDOG.folder.join(format!("{name}-{:06x}", rand::random_range(0..0x100_0000_u32)));
    fs::create_dir(&folder).unwrap_or_else(|e| panic!("cannot make {}: {e}", folder.display()));
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
    folder
}

/// Whether this process is root, which PostgreSQL refuses to be.
pub(crate) fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|me| me.uid() == 0)
}

/// Signals processes that a server of ours has made. No effect on those that have gone.
pub(crate) fn signal_all(pids: &[String], signal: Signal) {
    if !pids.is_empty() {
        let kill = format!("kill -{} {} 2>/dev/null", signal.name(), pids.join(" "));
        Command::new("sh").args(["-c", &kill]).status().expect("`sh` runs");
    }
}

/// The last lines of a log, for a failure's message.
pub(crate) fn tail(log: &Path, lines: usize) -> String {
    let text = fs::read(log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

// === impl Watchdog ===

impl Watchdog {
    fn start() -> Self {
        let folder = tempfile::Builder::new()
            .prefix("banyan-test-")
            .permissions(fs::Permissions::from_mode(0o755))
            .tempdir()
            .expect("a temporary folder")
            .keep();
        let mut shell = Command::new("sh")
            .args(["-c", SCRIPT, "watchdog"])
            .arg(&folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .expect("`sh` starts");
        let notes = shell.stdin.take().expect("stdin is a pipe");
        Self { notes: Mutex::new(notes), _shell: shell, folder }
    }

    fn note(&self, line: &str) {
        self.notes.lock().unwrap().write_all(line.as_bytes()).expect("the watchdog reads");
    }
}

// === impl Signal ===

impl Signal {
    fn name(self) -> &'static str {
        match self {
            Self::Hup => "HUP",
            Self::Int => "INT",
            Self::Quit => "QUIT",
            Self::Term => "TERM",
            Self::Kill => "KILL",
            Self::Stop => "STOP",
            Self::Cont => "CONT",
        }
    }
}

// === impl Watched ===

impl Watched {
    /// Spawns `command` in a process group of its own; `last` is what ends it when this process is gone or drops it.
    pub(crate) fn spawn(command: &mut Command, last: Signal) -> Self {
        // The watchdog first: a process that nobody watches must not exist.
        let watchdog = &*WATCHDOG;
        let child = command
            .process_group(0)
            .spawn()
            .unwrap_or_else(|e| panic!("cannot start {}: {e}", command.get_program().display()));
        watchdog.note(&format!("watch {} {}\n", child.id(), last.name()));
        Self { child, last }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn exited(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child can be asked after")
    }

    /// No effect when it has gone.
    pub(crate) fn signal(&mut self, signal: Signal) {
        if self.exited().is_none() {
            // std can only SIGKILL; the shell's own `kill` needs no package.
            let kill = format!("kill -{} {}", signal.name(), self.child.id());
            Command::new("sh").args(["-c", &kill]).status().expect("`sh` runs");
        }
    }

    /// Waits for the end; `None` after `at_most`.
    pub(crate) fn wait(&mut self, at_most: Duration) -> Option<ExitStatus> {
        let end = Instant::now() + at_most;
        loop {
            match self.exited() {
                Some(status) => return Some(status),
                None if Instant::now() >= end => return None,
                None => std::thread::sleep(Duration::from_millis(10)),
            }
        }
    }

    /// Signals and waits; kills what does not go within `at_most`, and then panics.
    pub(crate) fn end(&mut self, signal: Signal, at_most: Duration) -> ExitStatus {
        self.signal(signal);
        if let Some(status) = self.wait(at_most) {
            return status;
        }
        self.signal(Signal::Kill);
        self.wait(Duration::from_secs(5));
        panic!("process {} did not go within {at_most:?} of SIG{}", self.child.id(), signal.name());
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.signal(self.last);
        if self.wait(Duration::from_secs(5)).is_none() {
            self.signal(Signal::Kill);
            self.wait(Duration::from_secs(5));
        }
        WATCHDOG.note(&format!("forget {}\n", self.child.id()));
    }
}
