//! `banyan sync parked list|show|retry|skip`: transactions that a database refused, and what becomes of them.

use std::{fmt::Write as _, path::Path, process::ExitCode};

use serde_json::{Value, json};

use super::told;
use crate::cli::{
    FAILED, Format,
    admin::{Client, Place},
    output,
};

#[derive(Debug, clap::Subcommand)]
pub(super) enum Verb {
    /// List what is parked: the oldest first, without any value of a row.
    List(ListArgs),
    /// Show one with the keys that it touches, and with `--values` its rows.
    Show(ShowArgs),
    /// Apply one now, or all in their order; those that followed it come with it.
    Retry(RetryArgs),
    /// Never apply one, and try those that followed it.
    Skip(SkipArgs),
}

#[derive(Debug, clap::Args)]
pub(super) struct ListArgs {
    /// The sync.
    sync: String,
    /// Also those that have ended: applied, skipped, cleared by a new copy.
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    place: Place,
    /// How to print it.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

#[derive(Debug, clap::Args)]
pub(super) struct ShowArgs {
    /// The sync.
    sync: String,
    /// The transaction, as `list` numbers it.
    id: i64,
    /// Also print the rows as they were and as they would be.
    #[arg(long)]
    values: bool,
    #[command(flatten)]
    place: Place,
    /// How to print it.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

#[derive(Debug, clap::Args)]
pub(super) struct RetryArgs {
    /// The sync.
    sync: String,
    /// The transaction, as `list` numbers it.
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    id: Option<i64>,
    /// All of them, the oldest first.
    #[arg(long)]
    all: bool,
    /// Why; it stays with the transaction.
    #[arg(long, value_name = "TEXT", default_value = "")]
    reason: String,
    #[command(flatten)]
    place: Place,
    /// How to print the result.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

#[derive(Debug, clap::Args)]
pub(super) struct SkipArgs {
    /// The sync.
    sync: String,
    /// The transaction, as `list` numbers it.
    id: i64,
    /// Why both databases may differ in its rows from now on; it stays with the transaction.
    #[arg(long, value_name = "TEXT")]
    reason: String,
    #[command(flatten)]
    place: Place,
    /// How to print the result.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

pub(super) fn run(path: &Path, verb: &Verb) -> anyhow::Result<ExitCode> {
    match verb {
        Verb::List(args) => list(path, args),
        Verb::Show(args) => show(path, args),
        Verb::Retry(args) => retry(path, args),
        Verb::Skip(args) => skip(path, args),
    }
}

fn list(path: &Path, args: &ListArgs) -> anyhow::Result<ExitCode> {
    let client = Client::new(path, &args.place)?;
    let call = format!("/api/v1/syncs/{}/parked?all={}", args.sync, args.all);
    let Some(answer) = told(client.ask(&call)?, &client, &call)? else { return Ok(ExitCode::from(FAILED)) };
    match args.output {
        Format::Json => output::json(&answer)?,
        Format::Text => {
            let lines: Vec<String> =
                answer["parked"].as_array().map_or(&[][..], Vec::as_slice).iter().map(line).collect();
            match lines.is_empty() {
                true => output::say("nothing is parked"),
                false => output::data(&lines.join("\n"))?,
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn show(path: &Path, args: &ShowArgs) -> anyhow::Result<ExitCode> {
    let client = Client::new(path, &args.place)?;
    let call = format!("/api/v1/syncs/{}/parked/{}/show", args.sync, args.id);
    let body = json!({"values": args.values}).to_string();
    let Some(answer) = told(client.post(&call, body)?, &client, &call)? else { return Ok(ExitCode::from(FAILED)) };
    match args.output {
        Format::Json => output::json(&answer)?,
        Format::Text => output::data(&detail(&answer))?,
    }
    Ok(ExitCode::SUCCESS)
}

fn retry(path: &Path, args: &RetryArgs) -> anyhow::Result<ExitCode> {
    let client = Client::new(path, &args.place)?;
    let body = json!({"reason": args.reason}).to_string();
    let Some(id) = args.id else {
        let call = format!("/api/v1/syncs/{}/parked/retry", args.sync);
        let Some(answer) = told(client.post(&call, body)?, &client, &call)? else {
            return Ok(ExitCode::from(FAILED));
        };
        match args.output {
            Format::Json => output::json(&answer)?,
            Format::Text => {
                let count = answer["asked"].as_u64().unwrap_or_default();
                output::data(&format!(
                    "{count} will be tried, the oldest first: see `banyan sync parked list {}`",
                    args.sync
                ))?;
            }
        }
        return Ok(ExitCode::SUCCESS);
    };
    let call = format!("/api/v1/syncs/{}/parked/{id}/retry", args.sync);
    asked(&client, &call, body, args.output)
}

fn skip(path: &Path, args: &SkipArgs) -> anyhow::Result<ExitCode> {
    let client = Client::new(path, &args.place)?;
    let call = format!("/api/v1/syncs/{}/parked/{}/skip", args.sync, args.id);
    asked(&client, &call, json!({"reason": args.reason}).to_string(), args.output)
}

/// Asks for something, and fails when it has not come to that.
fn asked(client: &Client, call: &str, body: String, format: Format) -> anyhow::Result<ExitCode> {
    let Some(answer) = told(client.post(call, body)?, client, call)? else { return Ok(ExitCode::from(FAILED)) };
    match format {
        Format::Json => output::json(&answer)?,
        Format::Text => output::data(&line(&answer))?,
    }
    let done = ["applied", "skipped"].iter().any(|state| answer["state"] == *state);
    if answer["state"] == "retry" || answer["state"] == "skip" {
        output::say("nobody has done it yet: it is noted, and will be done once a Banyan applies this flow");
    }
    Ok(if done { ExitCode::SUCCESS } else { ExitCode::from(FAILED) })
}

/// `7  parked  2026-11-26 12:03:11  legacy to modern  1 row  public.accounts at 1:stream:0/16B3748:0: SQLSTATE 23505 (3 tries)`
fn line(parked: &Value) -> String {
    let text = |key: &str| parked[key].as_str().unwrap_or_default();
    let number = |key: &str| parked[key].as_u64().unwrap_or_default();
    let rows = number("rows");
    let mut out = format!(
        "{:>5}  {:<7}  {}  {}  {rows} row{}  {}",
        number("id"),
        text("state"),
        output::moment(number("parked_unix")),
        text("flow").replace('_', " "),
        if rows == 1 { "" } else { "s" },
        text("reason")
    );
    let tries = number("tries");
    if tries > 0 {
        let _ = write!(out, " ({tries} tries)");
    }
    if let Some(who) = parked["who"].as_str().filter(|who| !who.is_empty()) {
        let _ = write!(out, "  by {who}: {}", text("why"));
    }
    out
}

fn detail(parked: &Value) -> String {
    let mut out = line(parked);
    out.push('\n');
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    for key in parked["keys"].as_array().into_iter().flatten() {
        let (touch, name) = (text(&key["touch"]), text(&key["key"]));
        let _ = write!(out, "\n  {touch:<4}  {}  {name}  {}", text(&key["table"]), text(&key["text"]));
    }
    out.push('\n');
    for change in parked["changes"].as_array().into_iter().flatten() {
        let _ = write!(out, "\n  {}  {}  {}", change["ordinal"], text(&change["op"]), text(&change["table"]));
        if !change["record"].is_null() {
            let _ = write!(out, "  {}", change["record"]);
        }
    }
    out
}
