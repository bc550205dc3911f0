//! `banyan sync …`: what people do to a sync beside running it.

mod parked;
mod remove;
mod resume;
mod snapshot;
mod verify;

use std::{path::Path, process::ExitCode};

use anyhow::bail;
use serde_json::Value;

use super::{admin::Client, output};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Look at transactions that a database refused, and say what becomes of them.
    #[command(subcommand)]
    Parked(parked::Verb),
    /// Copy one table again, while all others stream on.
    Snapshot(snapshot::Args),
    /// Let a flow go on that waits before a change of a table's columns, once the other side has followed.
    Resume(resume::Args),
    /// Compare both sides row by row while the stream goes on, and make them equal if asked to.
    Verify(verify::Args),
    /// Take away all that Banyan made for a sync in both databases and in Kafka.
    Remove(remove::Args),
}

pub(super) fn run(path: &Path, args: &Args) -> anyhow::Result<ExitCode> {
    match &args.verb {
        Verb::Parked(verb) => parked::run(path, verb),
        Verb::Snapshot(args) => snapshot::run(path, args),
        Verb::Resume(args) => resume::run(path, args),
        Verb::Verify(args) => verify::run(path, args),
        Verb::Remove(args) => remove::run(path, args),
    }
}

/// The answer, or nothing where it is a refusal, which was said.
fn told((status, answer): (u16, String), client: &Client, call: &str) -> anyhow::Result<Option<Value>> {
    let answer: Value = serde_json::from_str(&answer).unwrap_or_default();
    match status {
        200 => Ok(Some(answer)),
        400 | 404 | 409 | 503 => {
            output::say(&format!("error: {}", answer["detail"].as_str().unwrap_or("the answer is of another version")));
            Ok(None)
        }
        _ => bail!("{}{call} was answered {status}", client.base()),
    }
}
