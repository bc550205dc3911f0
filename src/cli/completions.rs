//! `banyan completions SHELL`: a script that lets a shell complete Banyan's verbs and flags.

use std::process::ExitCode;

use clap::CommandFactory as _;

use super::{Cli, output};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The shell.
    shell: clap_complete::Shell,
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "banyan", &mut script);
    output::data(&String::from_utf8(script)?)?;
    Ok(ExitCode::SUCCESS)
}
