//! `banyan reload`: has a running Banyan read its file again, and says what became of it.

use std::{fmt::Write as _, path::Path, process::ExitCode};

use anyhow::{Context as _, bail};
use serde_json::Value;

use super::{
    FAILED, Format,
    admin::{Client, Place},
    output,
};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    place: Place,
    /// How to print the result.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

pub(super) fn run(path: &Path, args: &Args) -> anyhow::Result<ExitCode> {
    let client = Client::new(path, &args.place)?;
    let (status, answer) = client.post("/api/v1/reload", "{}".to_owned())?;
    let outcome: Value = serde_json::from_str(&answer).unwrap_or_default();
    let is_accepted = match (status, outcome["outcome"].as_str()) {
        (200, Some("accepted")) => true,
        (422, Some("refused")) => false,
        _ => bail!("{}/api/v1/reload was answered {status}", client.base()),
    };
    match args.output {
        Format::Json => output::json(&outcome)?,
        Format::Text if is_accepted => output::data(&accepted(&outcome))?,
        Format::Text => output::say(&refused(&outcome).context("the answer is of another version")?),
    }
    Ok(if is_accepted { ExitCode::SUCCESS } else { ExitCode::from(FAILED) })
}

fn accepted(outcome: &Value) -> String {
    let mut out = format!("took over {}", outcome["file"].as_str().unwrap_or_default());
    let waiting: Vec<&str> =
        outcome["restart_needed"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    if !waiting.is_empty() {
        let _ = write!(out, "\nwaits for a restart: {}", waiting.join(", "));
    }
    for change in outcome["plan"]["changes"].as_array().into_iter().flatten() {
        let words = ["name", "what", "effect"].iter().filter_map(|key| change[*key].as_str());
        let _ = write!(out, "\n{}", words.collect::<Vec<_>>().join("   "));
    }
    out
}

/// As `banyan check` on that machine would say it, without the lines of the file.
fn refused(outcome: &Value) -> Option<String> {
    let mut out = String::new();
    let file = outcome["file"].as_str()?;
    for diagnostic in outcome["diagnostics"].as_array()? {
        let text = |key: &str| diagnostic[key].as_str().unwrap_or_default();
        let place = match diagnostic["line"].as_u64() {
            Some(line) => format!("{file}:{line}:{}  {}", diagnostic["column"], text("path")),
            None => file.to_owned(),
        };
        let _ = writeln!(out, "{}: {}\n  --> {place}", text("severity"), text("message"));
        if !text("hint").is_empty() {
            let _ = writeln!(out, "hint: {}", text("hint"));
        }
    }
    let errors = outcome["errors"].as_u64()?;
    let plural = if errors == 1 { "" } else { "s" };
    let _ = write!(out, "{errors} error{plural}; the old file stays in force");
    Some(out)
}
