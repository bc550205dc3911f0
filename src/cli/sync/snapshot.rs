//! `banyan sync snapshot`: one table is copied again, while all others stream on.

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
    /// The table, `schema.table` of the owner's side.
    #[arg(long, value_name = "TABLE")]
    table: String,
    /// Why; it stays with the copy.
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
    let call = format!("/api/v1/syncs/{}/snapshot", args.sync);
    let body = json!({"table": args.table, "reason": args.reason}).to_string();
    let Some(copy) = told(client.post(&call, body)?, &client, &call)? else { return Ok(ExitCode::from(FAILED)) };
    let has_begun = copy["state"] != "asked";
    match args.output {
        Format::Json => output::json(&copy)?,
        Format::Text if has_begun => output::data(&format!(
            "{} is being copied again (copy {}): see `banyan status --watch`",
            args.table, copy["number"]
        ))?,
        Format::Text => {}
    }
    if !has_begun {
        output::say("nobody has begun it yet: it is noted, and will begin once a Banyan reads the owner's side");
    }
    Ok(if has_begun { ExitCode::SUCCESS } else { ExitCode::from(FAILED) })
}
