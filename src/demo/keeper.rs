//! The keeper of a server that knows no lifeline: it starts the program, and ends it, and removes its folder, when the lifeline ends.

use std::{
    fs,
    os::unix::process::CommandExt as _,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};

use super::part::wait_for_the_end;

/// The program and how it ends.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Kept {
    /// Run it, and what ends it, as `uid:gid`.
    #[arg(long)]
    run_as: Option<RunAs>,
    /// A program that ends it in good order, with its arguments divided by line breaks. Left out: it is killed.
    #[arg(long)]
    ended_by: Option<String>,
    /// A folder to remove when it has ended.
    #[arg(long)]
    remove: Option<PathBuf>,
    /// The program and its arguments.
    #[arg(trailing_var_arg = true, required = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

/// Another user, numerically.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RunAs {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// How long the program may take to end once it was told.
const GRACE: Duration = Duration::from_secs(5);

// === impl Kept ===

impl Kept {
    /// Returns when the program has ended.
    pub(crate) fn keep(self) -> anyhow::Result<()> {
        let [program, arguments @ ..] = &self.command[..] else { bail!("no program") };
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null()).process_group(0);
        let mut child =
            RunAs::apply(self.run_as, &mut command).spawn().with_context(|| format!("cannot start {program}"))?;
        let (gone, demo_is_gone) = mpsc::channel();
        thread::spawn(move || {
            wait_for_the_end();
            let _ = gone.send(());
        });
        let outcome = loop {
            if let Some(status) = child.try_wait()? {
                break if status.success() { Ok(()) } else { Err(anyhow::anyhow!("{program} ended: {status}")) };
            }
            if demo_is_gone.recv_timeout(Duration::from_millis(20)).is_ok() {
                break self.end(&mut child);
            }
        };
        if let Some(folder) = &self.remove {
            fs::remove_dir_all(folder).with_context(|| format!("cannot remove {}", folder.display()))?;
        }
        outcome
    }

    fn end(&self, child: &mut Child) -> anyhow::Result<()> {
        if let Some(line) = &self.ended_by {
            let mut words = line.lines();
            let mut command = Command::new(words.next().unwrap_or_default());
            command.args(words).stdin(Stdio::null());
            // It may fail (the server never came up); the program is killed then.
            let _ = RunAs::apply(self.run_as, &mut command).status();
            let deadline = Instant::now() + GRACE;
            while Instant::now() < deadline {
                if child.try_wait()?.is_some() {
                    return Ok(());
                }
                thread::sleep(Duration::from_millis(5));
            }
        }
        child.kill()?;
        child.wait()?;
        Ok(())
    }
}

// === impl RunAs ===

impl RunAs {
    /// Makes `command` run as this user, in a folder that every user may enter.
    pub(crate) fn apply(run_as: Option<Self>, command: &mut Command) -> &mut Command {
        match run_as {
            Some(Self { uid, gid }) => command.uid(uid).gid(gid).current_dir("/"),
            None => command,
        }
    }
}

impl std::str::FromStr for RunAs {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed =
            text.split_once(':').and_then(|(uid, gid)| Some(Self { uid: uid.parse().ok()?, gid: gid.parse().ok()? }));
        parsed.ok_or_else(|| format!("`{text}` is not `uid:gid`"))
    }
}

impl std::fmt::Display for RunAs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.uid, self.gid)
    }
}
