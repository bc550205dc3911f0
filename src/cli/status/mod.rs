//! `banyan status`: what a running Banyan does, as a table; asks its admin listener.

mod numbers;
mod table;

use std::{path::Path, process::ExitCode, thread::sleep, time::Duration};

use anyhow::Context as _;
use serde_json::Value;

use super::{
    Format,
    admin::{Client, Place},
    output,
};
use numbers::Numbers;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    place: Place,
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
    /// Of all the time since the start; not of whoever watches.
    numbers: Option<Numbers>,
}

pub(super) fn run(path: &Path, args: &Args) -> anyhow::Result<ExitCode> {
    let client = Client::new(path, &args.place)?;
    let terminal = output::colour(&std::io::stdout());
    loop {
        let look = Look::take(&client, args.watch)?;
        match args.output {
            Format::Json if args.watch => output::data(&look.status.to_string())?,
            Format::Json => output::json(&look.status)?,
            Format::Text => {
                let text = table::render(&look.status, look.numbers.as_ref());
                // From the top left, and nothing left over below: no flicker, unlike clearing first.
                let frame = if args.watch && terminal { format!("\x1b[H\x1b[2J{text}") } else { text };
                output::data(&frame)?;
            }
        }
        if !args.watch {
            return Ok(ExitCode::SUCCESS);
        }
        sleep(Duration::from_secs(args.every));
    }
}

// === impl Look ===

impl Look {
    fn take(client: &Client, is_watched: bool) -> anyhow::Result<Self> {
        let status = client.get("/api/v1/status")?;
        let status =
            serde_json::from_str(&status).with_context(|| format!("{} is no Banyan of this version", client.base()))?;
        let numbers = if is_watched { None } else { Some(Numbers::parse(&client.get("/metrics")?)) };
        Ok(Self { status, numbers })
    }
}
