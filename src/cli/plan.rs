//! `banyan plan OLD NEW`: what a change of the file will do, in words. Reads both, changes nothing.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use super::{FAILED, Format, output};
use crate::{
    config::{self, Against},
    plan::Plan,
};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The file in force.
    old: PathBuf,
    /// The one that would take its place.
    new: PathBuf,
    /// How to print the result.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let load = |path: &Path, against: &Against| match config::load_against(path, against) {
        Ok(accepted) => Some(accepted.loaded),
        Err(report) => {
            output::report(&report, "; there is no plan");
            None
        }
    };
    let old = load(&args.old, &Against::default());
    // What a reload would refuse has no plan either.
    let against = old.as_ref().map_or_else(Against::default, |old| Against {
        owners: old.proxy.syncs.iter().map(|(name, sync)| (name.clone(), (sync.owner, sync.owner))).collect(),
    });
    let new = load(&args.new, &against);
    let (Some(old), Some(new)) = (old, new) else { return Ok(ExitCode::from(FAILED)) };
    let plan = Plan::new(&old, &new);
    match args.output {
        Format::Json => output::json(&plan)?,
        Format::Text => output::data(&plan.render())?,
    }
    Ok(ExitCode::SUCCESS)
}
