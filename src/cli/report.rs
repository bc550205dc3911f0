//! `banyan report`: in what the answers of a route's two sides differ, as text, JSON or Markdown; with `--fail-over` a verdict for a pipeline.

mod render;

use std::{path::Path, process::ExitCode, time::Duration};

use anyhow::{Context as _, bail};
use serde_json::Value;

use super::{
    FAILED,
    admin::{Client, Place},
    output,
};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The route's name.
    route: String,
    #[command(flatten)]
    place: Place,
    /// How to print it.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
    /// How far back, a day at most; in steps of five minutes.
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = while_)]
    since: Duration,
    /// Exit with 1 when more than so much of what was compared differs, for example `0.1%`; also when nothing was compared.
    #[arg(long, value_name = "PERCENT", value_parser = share)]
    fail_over: Option<f64>,
    /// With `--fail-over`: exit with 1 too when fewer were compared.
    #[arg(long, value_name = "NUMBER", default_value_t = 1, requires = "fail_over")]
    at_least: u64,
}

/// How a report is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
enum Format {
    /// For people.
    #[default]
    Text,
    /// For programs.
    Json,
    /// For a merge request.
    Markdown,
}

pub(super) fn run(path: &Path, args: &Args) -> anyhow::Result<ExitCode> {
    let client = Client::new(path, &args.place)?;
    let route: String = form_urlencoded::byte_serialize(args.route.as_bytes()).collect();
    let (status, answer) = client.ask(&format!("/api/v1/report?route={route}&within={}", args.since.as_secs()))?;
    let report: Value = serde_json::from_str(&answer).with_context(|| {
        format!("{}/api/v1/report was answered {status}, and not by a Banyan of this version", client.base())
    })?;
    if status != 200 {
        let detail = report["detail"].as_str().unwrap_or("no reason was given");
        bail!("route `{}`: {detail}", args.route);
    }
    match args.output {
        Format::Text => output::data(&render::text(&args.route, &report))?,
        Format::Json => output::json(&report)?,
        Format::Markdown => output::data(&render::markdown(&args.route, &report))?,
    }
    let Some(limit) = args.fail_over else { return Ok(ExitCode::SUCCESS) };
    match verdict(&report, limit, args.at_least) {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(why) => {
            output::error(&why);
            Ok(ExitCode::from(FAILED))
        }
    }
}

/// Whether a pipeline may go on.
fn verdict(report: &Value, limit: f64, at_least: u64) -> anyhow::Result<()> {
    let count = |key: &str| report[key].as_u64().unwrap_or_default();
    let (compared, mismatch) = (count("compared"), count("mismatch"));
    if compared < at_least.max(1) {
        bail!("{compared} compared, which says nothing; expected {} at least", at_least.max(1));
    }
    let percent = render::percent(mismatch, compared);
    // As counts, so that 1 of 1,000 is not more than 0.1 %.
    if mismatch as f64 > limit / 100.0 * compared as f64 * (1.0 + f64::EPSILON) {
        bail!("{mismatch} of {compared} differ, which is {percent} and more than {limit} %");
    }
    Ok(())
}

fn while_(text: &str) -> Result<Duration, String> {
    const DAY: Duration = Duration::from_secs(86_400);
    let within = humantime::parse_duration(text).map_err(|error| format!("{error}; expected for example `30m`"))?;
    if within.is_zero() || within > DAY { Err("expected up to a day".to_owned()) } else { Ok(within) }
}

fn share(text: &str) -> Result<f64, String> {
    let number = text.trim().strip_suffix('%').unwrap_or(text).trim();
    let value = number.parse().ok().filter(|value| (0.0..=100.0).contains(value));
    value.ok_or_else(|| format!("`{text}` is no share; expected a percentage, for example `0.1%`"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pipeline_stops_when_more_differs_than_it_takes_or_nothing_was_compared() {
        for (compared, mismatch, limit, at_least, goes_on) in [
            (1000, 1, 0.1, 1, true),
            (1000, 2, 0.1, 1, false),
            (1000, 0, 0.0, 1000, true),
            (999, 0, 0.0, 1000, false),
            (0, 0, 100.0, 0, false),
            (3, 1, 33.4, 1, true),
        ] {
            let report = json!({"compared": compared, "mismatch": mismatch});
            assert_eq!(verdict(&report, limit, at_least).is_ok(), goes_on, "{mismatch} of {compared}, {limit} %");
        }
    }

    #[test]
    fn shares_and_whiles_are_read_as_they_are_written() {
        assert_eq!((share("0.1%"), share("5"), share(" 2 %")), (Ok(0.1), Ok(5.0), Ok(2.0)));
        assert!(share("-1").is_err() && share("101%").is_err() && share("NaN").is_err());
        assert_eq!(while_("90m"), Ok(Duration::from_secs(5400)));
        assert!(while_("2d").is_err() && while_("0s").is_err() && while_("soon").is_err());
    }
}
