//! The command line: one file a verb.
//!
//! Data goes to stdout, all else to stderr. Exit codes: 0 ok, 1 the check or operation failed, 2 usage, 78 when `run` refuses its file.

mod admin;
mod check;
mod completions;
#[cfg(feature = "demo")]
pub(crate) mod demo;
mod explain;
pub(crate) mod output;
mod plan;
mod record;
#[cfg(test)]
mod reference;
mod reload;
mod replay;
mod report;
mod rollout;
mod run;
pub(crate) mod schema;
mod status;
mod sync;

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};

use output::Format;

/// The operation failed.
pub(crate) const FAILED: u8 = 1;

/// Banyan moves a legacy monolith's traffic and data to its successors, one route at a time.
#[derive(Debug, Parser)]
#[command(name = "banyan", version, max_term_width = 120)]
pub(crate) struct Cli {
    /// The file that says what goes where.
    #[arg(short, long, global = true, value_name = "FILE", default_value = "routes.yaml")]
    config: PathBuf,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run what the file says: answer requests and move rows, until SIGTERM.
    Run(run::Args),
    /// Check the file: every error at once, with its place and what would be right.
    Check(check::Args),
    /// See it all at work on this machine: a shop in the middle of its migration.
    #[cfg(feature = "demo")]
    Demo(crate::demo::Options),
    #[cfg(feature = "demo")]
    #[command(name = demo::PART, hide = true)]
    DemoPart(demo::PartArgs),
    /// Say what would happen to a request, and why.
    Explain(explain::Args),
    /// Say what a change of the file will do: who moves, what is new, what is gone.
    Plan(plan::Args),
    /// Have a running Banyan read its file again, and say what became of it.
    Reload(reload::Args),
    /// Show what a running Banyan does, route by route and sync by sync.
    Status(status::Args),
    /// Show in what the answers of a route's two sides differ, and judge it for a pipeline.
    Report(report::Args),
    /// Take one step of a route's rollout now, if its gates let it.
    Promote(rollout::Args),
    /// Keep a route's rollout where it is.
    Pause(rollout::Args),
    /// Let a route's rollout go on; after a rollback from its first step.
    Resume(rollout::Args),
    /// Take a route's users back to legacy, until somebody resumes its rollout.
    Rollback(rollout::Args),
    /// Show what happened to a route's rollout: who, when, what, why.
    History(rollout::HistoryArgs),
    /// Keep a route's reads, and what they are answered, in a file.
    Record(record::Args),
    /// Send recorded reads again to a side or a place, and compare what comes with what was recorded.
    Replay(replay::Args),
    /// Look after a sync's data.
    Sync(sync::Args),
    /// Print the JSON Schema of the file, for editors.
    Schema,
    /// Print a completion script for a shell.
    Completions(completions::Args),
}

/// Runs the verb that the command line names.
pub(crate) fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match &cli.verb {
        Verb::Run(args) => run::run(&cli.config, args),
        Verb::Check(args) => check::run(&cli.config, args),
        #[cfg(feature = "demo")]
        Verb::Demo(options) => demo::run(options),
        #[cfg(feature = "demo")]
        Verb::DemoPart(args) => demo::play(args),
        Verb::Explain(args) => explain::run(&cli.config, args),
        Verb::Plan(args) => plan::run(args),
        Verb::Reload(args) => reload::run(&cli.config, args),
        Verb::Status(args) => status::run(&cli.config, args),
        Verb::Report(args) => report::run(&cli.config, args),
        Verb::Promote(args) => rollout::act(&cli.config, "promote", args),
        Verb::Pause(args) => rollout::act(&cli.config, "pause", args),
        Verb::Resume(args) => rollout::act(&cli.config, "resume", args),
        Verb::Rollback(args) => rollout::act(&cli.config, "rollback", args),
        Verb::History(args) => rollout::history(&cli.config, args),
        Verb::Record(args) => record::run(&cli.config, args),
        Verb::Replay(args) => replay::run(&cli.config, args),
        Verb::Sync(args) => sync::run(&cli.config, args),
        Verb::Schema => schema::run(),
        Verb::Completions(args) => completions::run(args),
    };
    match done {
        Ok(code) => code,
        Err(error) if output::is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            output::error(&error);
            ExitCode::from(FAILED)
        }
    }
}
