//! `banyan status`: what a running Banyan does, as a table; asks its admin listener.

mod numbers;
mod table;

use std::{path::Path, process::ExitCode, thread::sleep, time::Duration};

use anyhow::{Context as _, bail};
use serde_json::Value;
use ureq::Agent;

use super::{Format, output};
use crate::config;
use numbers::Numbers;

/// Where a Banyan listens that was not told otherwise.
const DEFAULT: &str = "http://127.0.0.1:9901";
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Where the admin listener is. Default: what the file says, else `http://127.0.0.1:9901`.
    #[arg(long, value_name = "URL")]
    admin: Option<String>,
    /// How to print it.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
    /// Print it again and again, until Ctrl-C.
    #[arg(long)]
    watch: bool,
    /// Seconds between two looks with `--watch`.
    #[arg(long, value_name = "SECONDS", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=3600))]
    every: u64,
}

/// One look at a running Banyan.
struct Look {
    status: Value,
    numbers: Numbers,
}

pub(super) fn run(path: &Path, args: &Args) -> anyhow::Result<ExitCode> {
    let base = match &args.admin {
        Some(admin) if admin.contains("://") => admin.trim_end_matches('/').to_owned(),
        Some(admin) => format!("http://{}", admin.trim_end_matches('/')),
        None => from_file(path),
    };
    let agent: Agent =
        Agent::config_builder().timeout_global(Some(PATIENCE)).http_status_as_error(false).build().into();
    let terminal = output::colour(&std::io::stdout());
    let mut before: Option<Look> = None;
    loop {
        let look = Look::take(&agent, &base)?;
        match args.output {
            Format::Json if args.watch => output::data(&look.status.to_string())?,
            Format::Json => output::json(&look.status)?,
            Format::Text => {
                let since = before.as_ref().map(|before| (&before.numbers, args.every));
                let text = table::render(&look.status, &look.numbers, since);
                // From the top left, and nothing left over below: no flicker, unlike clearing first.
                let frame = if args.watch && terminal { format!("\x1b[H\x1b[2J{text}") } else { text };
                output::data(&frame)?;
            }
        }
        if !args.watch {
            return Ok(ExitCode::SUCCESS);
        }
        before = Some(look);
        sleep(Duration::from_secs(args.every));
    }
}

/// The admin listener of the file, when there is a file that names one. What else is wrong with it does not matter: a running Banyan may
/// have refused it a moment ago, and `status` is where to see that.
fn from_file(path: &Path) -> String {
    match config::admin_bind(path) {
        Some(mut bind) => {
            if bind.ip().is_unspecified() {
                bind.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
            }
            format!("http://{bind}")
        }
        None => DEFAULT.to_owned(),
    }
}

// === impl Look ===

impl Look {
    fn take(agent: &Agent, base: &str) -> anyhow::Result<Self> {
        let status = get(agent, base, "/api/v1/status")?;
        let status = serde_json::from_str(&status).with_context(|| format!("{base} is no Banyan of this version"))?;
        Ok(Self { status, numbers: Numbers::parse(&get(agent, base, "/metrics")?) })
    }
}

fn get(agent: &Agent, base: &str, path: &str) -> anyhow::Result<String> {
    let mut answer = agent
        .get(format!("{base}{path}"))
        .call()
        .with_context(|| format!("no Banyan answers at {base}; name another with `--admin URL`"))?;
    if answer.status() != 200 {
        bail!("{base}{path} was answered {}", answer.status());
    }
    Ok(answer.body_mut().read_to_string()?)
}
