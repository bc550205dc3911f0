//! `banyan promote`, `pause`, `resume`, `rollback` and `history`: what people do to a route's rollout, and what happened to it.

use std::{fmt::Write as _, path::Path, process::ExitCode};

use anyhow::bail;
use serde_json::{Value, json};

use super::{
    FAILED, Format,
    admin::{Client, Place},
    output,
};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The route.
    route: String,
    /// Why; it stands in the log, in `banyan history` and in the call of the webhook.
    #[arg(long, value_name = "TEXT", default_value = "")]
    reason: String,
    #[command(flatten)]
    place: Place,
    /// How to print the result.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

#[derive(Debug, clap::Args)]
pub(super) struct HistoryArgs {
    /// The route.
    route: String,
    #[command(flatten)]
    place: Place,
    /// How to print it.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

/// One of the four acts, by the name that its path has too.
pub(super) fn act(path: &Path, act: &str, args: &Args) -> anyhow::Result<ExitCode> {
    let client = Client::new(path, &args.place)?;
    let body = json!({ "reason": args.reason }).to_string();
    let (status, answer) = client.post(&format!("/api/v1/routes/{}/{act}", args.route), body)?;
    let answer: Value = serde_json::from_str(&answer).unwrap_or_default();
    match status {
        200 => {}
        400 | 404 | 409 | 503 => {
            let why = answer["detail"].as_str().unwrap_or("the answer is of another version");
            let hint = if status == 404 { "; a route without one goes back by its `weight` in the file" } else { "" };
            output::say(&format!("error: {} was not {}: {why}{hint}", args.route, done(act)));
            return Ok(ExitCode::from(FAILED));
        }
        _ => bail!("{}/api/v1/routes/{}/{act} was answered {status}", client.base(), args.route),
    }
    match args.output {
        Format::Json => output::json(&answer)?,
        Format::Text => output::data(&line(&answer["event"]))?,
    }
    if let Some(why) = answer["unkept"].as_str() {
        output::say(&format!("warning: it holds, but a restart would forget it: {why}"));
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) fn history(path: &Path, args: &HistoryArgs) -> anyhow::Result<ExitCode> {
    let client = Client::new(path, &args.place)?;
    let (status, answer) = client.ask(&format!("/api/v1/routes/{}/history", args.route))?;
    let answer: Value = serde_json::from_str(&answer).unwrap_or_default();
    match status {
        200 => {}
        404 => {
            output::say(&format!("error: {}", answer["detail"].as_str().unwrap_or("there is no such route")));
            return Ok(ExitCode::from(FAILED));
        }
        _ => bail!("{}/api/v1/routes/{}/history was answered {status}", client.base(), args.route),
    }
    match args.output {
        Format::Json => output::json(&answer)?,
        Format::Text => {
            let events = answer["events"].as_array().map(Vec::as_slice).unwrap_or_default();
            let lines: Vec<String> = events.iter().map(line).collect();
            output::data(&lines.join("\n"))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// `2026-11-26 12:03:11  rolled back  50 % → 0 %  by gates: success_rate: modern 97.1 % < legacy 99.9 %`
fn line(event: &Value) -> String {
    let text = |key: &str| event[key].as_str().unwrap_or_default();
    let mut out = output::moment(event["at"].as_u64().unwrap_or_default());
    let what = text("what").replace('_', " ");
    let percent = |key: &str| event[key].as_f64().unwrap_or_default();
    let (from, to) = (percent("from"), percent("to"));
    let _ = write!(out, "  {what:<11}  {from} % → {to} %  by {}: {}", text("by"), text("why"));
    out
}

fn done(act: &str) -> &str {
    match act {
        "promote" => "promoted",
        "pause" => "paused",
        "resume" => "resumed",
        _ => "rolled back",
    }
}
