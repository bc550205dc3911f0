//! `banyan check`: is the file right? Reads it, changes nothing.

use std::{path::Path, process::ExitCode};

use serde::Serialize;

use super::{FAILED, Format, output};
use crate::config::{self, Diagnostic, Loaded};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// How to print the result.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

/// The result for programs.
#[derive(Serialize)]
struct Answer<'r> {
    ok: bool,
    file: &'r str,
    diagnostics: &'r [Diagnostic],
}

pub(super) fn run(path: &Path, args: &Args) -> anyhow::Result<ExitCode> {
    let (report, loaded) = match config::load(path) {
        Ok(accepted) => (accepted.report, Some(accepted.loaded)),
        Err(report) => (*report, None),
    };
    let ok = loaded.is_some();
    match (args.output, &loaded) {
        (Format::Json, _) => {
            output::json(&Answer { ok, file: &report.file, diagnostics: &report.diagnostics })?;
        }
        (Format::Text, Some(loaded)) => {
            if report.warnings() > 0 {
                output::report(&report, "");
            }
            output::data(&format!("{} is right: {}", report.file, contents(loaded)))?;
        }
        (Format::Text, None) => output::report(&report, "; nothing was changed"),
    }
    Ok(if ok { ExitCode::SUCCESS } else { ExitCode::from(FAILED) })
}

/// `3 routes, 2 upstreams, 1 sync`.
fn contents(loaded: &Loaded) -> String {
    let plural = |count: usize, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
    let mut parts = vec![plural(loaded.proxy.routes.len(), "route"), plural(loaded.proxy.upstreams.len(), "upstream")];
    if !loaded.connectors.syncs.is_empty() {
        parts.push(plural(loaded.connectors.syncs.len(), "sync"));
    }
    parts.join(", ")
}
