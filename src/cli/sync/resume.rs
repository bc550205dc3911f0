//! `banyan sync resume`: a flow that waits before a change of a table's columns goes on.

use std::{path::Path, process::ExitCode};

use serde_json::json;

use super::told;
use crate::cli::{
    FAILED, Format,
    admin::{Client, Place},
    output,
};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The sync.
    sync: String,
    /// Only if it waits for this table, `schema.table` of the owner's side.
    #[arg(long, value_name = "TABLE")]
    table: Option<String>,
    /// Why; it stays with the change.
    #[arg(long, value_name = "TEXT", default_value = "")]
    reason: String,
    #[command(flatten)]
    place: Place,
    /// How to print the result.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

pub(super) fn run(path: &Path, args: &Args) -> anyhow::Result<ExitCode> {
    let client = Client::new(path, &args.place)?;
    let call = format!("/api/v1/syncs/{}/resume", args.sync);
    let body = json!({"table": args.table, "reason": args.reason}).to_string();
    let Some(resumed) = told(client.post(&call, body)?, &client, &call)? else { return Ok(ExitCode::from(FAILED)) };
    let has_gone_on = resumed["state"] != "resumed";
    match args.output {
        Format::Json => output::json(&resumed)?,
        Format::Text if has_gone_on => {
            let again = if resumed["copied_again"] == true {
                "; the table is being copied again: see `banyan status --watch`"
            } else {
                ""
            };
            output::data(&format!("{}: goes on{again}", resumed["table"].as_str().unwrap_or_default()))?;
        }
        Format::Text => {}
    }
    if let Some(next) = resumed["next"].as_str() {
        output::say(&format!("it waits again, before the next change of a table: {next}"));
    }
    if !has_gone_on {
        output::say("nobody has gone on yet: it is noted, and the flow goes on once a Banyan reads the owner's side");
    }
    Ok(if has_gone_on { ExitCode::SUCCESS } else { ExitCode::from(FAILED) })
}
