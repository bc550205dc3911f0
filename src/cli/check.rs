//! `banyan check`: is the file right? Reads it, changes nothing.

use std::{fmt::Write as _, path::Path, process::ExitCode};

use banyan_connectors::preflight::{self, Finding, Severity};
use serde::Serialize;

use super::{FAILED, Format, output};
use crate::config::{self, Diagnostic, Loaded};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// How to print the result.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
    /// Also look at the databases and at Kafka: whether every sync could begin. Changes nothing there either.
    #[arg(long)]
    connect: bool,
}

/// The result for programs.
#[derive(Serialize)]
struct Answer<'r> {
    ok: bool,
    file: &'r str,
    diagnostics: &'r [Diagnostic],
    /// What `--connect` found; absent without it.
    #[serde(skip_serializing_if = "Option::is_none")]
    findings: Option<&'r [Finding]>,
}

pub(super) fn run(path: &Path, args: &Args) -> anyhow::Result<ExitCode> {
    let (report, loaded) = match config::load(path) {
        Ok(accepted) => (accepted.report, Some(accepted.loaded)),
        Err(report) => (*report, None),
    };
    let findings = match &loaded {
        Some(loaded) if args.connect => Some(connect(loaded)?),
        _ => None,
    };
    let stopping = |finding: &&Finding| finding.severity == Severity::Error;
    let ok = loaded.is_some() && findings.iter().flatten().filter(stopping).count() == 0;
    match (args.output, &loaded) {
        (Format::Json, _) => {
            let (file, diagnostics) = (report.file.as_str(), report.diagnostics.as_slice());
            output::json(&Answer { ok, file, diagnostics, findings: findings.as_deref() })?;
        }
        (Format::Text, Some(loaded)) => {
            if report.warnings() > 0 {
                output::report(&report, "");
            }
            if let Some(findings) = &findings {
                output::say(&told(findings));
            }
            if ok {
                let reached = if findings.is_some() { "; every sync could begin" } else { "" };
                output::data(&format!("{} is right: {}{reached}", report.file, contents(loaded)))?;
            }
        }
        (Format::Text, None) => output::report(&report, "; nothing was changed"),
    }
    Ok(if ok { ExitCode::SUCCESS } else { ExitCode::from(FAILED) })
}

/// Asks the databases and Kafka.
fn connect(loaded: &Loaded) -> anyhow::Result<Vec<Finding>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(runtime.block_on(preflight::check(&loaded.connectors)))
}

/// What stands in a sync's way, as a person reads it.
fn told(findings: &[Finding]) -> String {
    let mut out = String::new();
    for finding in findings {
        let word = match finding.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        let flow = finding.flow.map(|flow| format!(", {}", flow.as_str().replace('_', " "))).unwrap_or_default();
        let _ = writeln!(out, "{word}: {}", finding.what);
        let _ = writeln!(out, "  --> sync `{}`{flow}, {}", finding.sync, finding.where_);
        let _ = writeln!(out, "hint: {}\n", finding.fix);
    }
    let errors = findings.iter().filter(|finding| finding.severity == Severity::Error).count();
    let count = |count: usize, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
    if !findings.is_empty() {
        let (errors, warnings) = (count(errors, "error"), count(findings.len() - errors, "warning"));
        let _ = writeln!(out, "{errors}, {warnings} found; nothing was changed");
    }
    out
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
