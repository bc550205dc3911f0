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
    /// The route's name. Left out: one line for each route that compares.
    route: Option<String>,
    #[command(flatten)]
    place: Place,
    /// How far back, a day at most; in steps of five minutes.
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = while_)]
    since: Duration,
    #[command(flatten)]
    judged: Judged,
}

/// How reports are printed, and what a pipeline takes.
#[derive(Debug, clap::Args)]
pub(super) struct Judged {
    /// How to print it.
    #[arg(short, long, value_enum, default_value_t)]
    pub(super) output: Format,
    /// Exit with 1 when more than so much of what was compared differs, for example `0.1%`; also when nothing was compared.
    #[arg(long, value_name = "PERCENT", value_parser = share)]
    fail_over: Option<f64>,
    /// With `--fail-over`: exit with 1 too when fewer were compared.
    #[arg(long, value_name = "NUMBER", default_value_t = 1, requires = "fail_over")]
    at_least: u64,
}

/// How a report is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub(super) enum Format {
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
    let asked = args.route.as_ref().map(|route| {
        let route: String = form_urlencoded::byte_serialize(route.as_bytes()).collect();
        format!("route={route}&")
    });
    let query = format!("{}within={}", asked.unwrap_or_default(), args.since.as_secs());
    let (status, answer) = client.ask(&format!("/api/v1/report?{query}"))?;
    let answer: Value = serde_json::from_str(&answer).with_context(|| {
        format!("{}/api/v1/report was answered {status}, and not by a Banyan of this version", client.base())
    })?;
    let Some(route) = &args.route else { return all(&answer, &args.judged) };
    if status != 200 {
        let detail = answer["detail"].as_str().unwrap_or("no reason was given");
        bail!("route `{route}`: {detail}");
    }
    print(route, &answer, args.judged.output)?;
    args.judged.judge(&[(route, &answer)])
}

/// Those of all routes.
fn all(answer: &Value, judged: &Judged) -> anyhow::Result<ExitCode> {
    let Some(routes) = answer["routes"].as_array() else { bail!("this Banyan has no report of all routes") };
    let reports: Vec<(&str, &Value)> =
        routes.iter().map(|one| (one["route"].as_str().unwrap_or_default(), &one["report"])).collect();
    if reports.is_empty() {
        bail!("no route compares anything: none has a `shadow` with `compare`");
    }
    match judged.output {
        Format::Text => output::data(&render::lines(&reports))?,
        Format::Json => output::json(answer)?,
        Format::Markdown => output::data(&render::rows(&reports))?,
    }
    judged.judge(&reports)
}

/// Prints the report of one route.
pub(super) fn print(route: &str, report: &Value, format: Format) -> anyhow::Result<()> {
    match format {
        Format::Text => output::data(&render::text(route, report))?,
        Format::Json => output::json(report)?,
        Format::Markdown => output::data(&render::markdown(route, report))?,
    }
    Ok(())
}

// === impl Judged ===

impl Judged {
    /// Whether a pipeline asks.
    pub(super) fn is_asked(&self) -> bool {
        self.fail_over.is_some()
    }

    /// Says of every route why a pipeline may not go on.
    pub(super) fn judge(&self, reports: &[(&str, &Value)]) -> anyhow::Result<ExitCode> {
        let Some(limit) = self.fail_over else { return Ok(ExitCode::SUCCESS) };
        let verdicts = reports.iter().filter_map(|(route, report)| {
            let why = verdict(report, limit, self.at_least).err()?;
            Some(if reports.len() > 1 { why.context(format!("route `{route}`")) } else { why })
        });
        let failed: Vec<anyhow::Error> = verdicts.collect();
        failed.iter().for_each(output::error);
        Ok(if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(FAILED) })
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
