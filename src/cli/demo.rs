//! `banyan demo`, and the hidden verb that its processes play their parts by.

use std::process::ExitCode;

use crate::demo::{self, Options, part::Role};

/// The hidden verb.
pub(crate) const PART: &str = "demo-part";

/// A part of the demo.
#[derive(Debug, clap::Args)]
pub(super) struct PartArgs {
    #[command(subcommand)]
    role: Role,
}

pub(super) fn run(options: &Options) -> anyhow::Result<ExitCode> {
    demo::run(options)
}

pub(super) fn play(args: &PartArgs) -> anyhow::Result<ExitCode> {
    args.role.clone().play()?;
    Ok(ExitCode::SUCCESS)
}
