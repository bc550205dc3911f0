//! `banyan sync …`: what people do to a sync beside running it.

mod parked;
mod remove;
mod verify;

use std::{path::Path, process::ExitCode};

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
    /// Compare both sides row by row while the stream goes on, and make them equal if asked to.
    Verify(verify::Args),
    /// Take away all that Banyan made for a sync in both databases and in Kafka.
    Remove(remove::Args),
}

pub(super) fn run(path: &Path, args: &Args) -> anyhow::Result<ExitCode> {
    match &args.verb {
        Verb::Parked(verb) => parked::run(path, verb),
        Verb::Verify(args) => verify::run(path, args),
        Verb::Remove(args) => remove::run(path, args),
    }
}
