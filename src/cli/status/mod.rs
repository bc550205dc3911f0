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
    numbers: Numbers,
}

pub(super) fn run(path: &Path, args: &Args) -> anyhow::Result<ExitCode> {
    let client = Client::new(path, &args.place)?;
    let terminal = output::colour(&std::io::stdout());
    let mut before: Option<Look> = None;
    loop {
        let look = Look::take(&client)?;
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

// === impl Look ===

impl Look {
    fn take(client: &Client) -> anyhow::Result<Self> {
        let status = client.get("/api/v1/status")?;
        let status =
            serde_json::from_str(&status).with_context(|| format!("{} is no Banyan of this version", client.base()))?;
        Ok(Self { status, numbers: Numbers::parse(&client.get("/metrics")?) })
    }
}
