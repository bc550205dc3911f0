//! Banyan's admin listener, read as anybody may read it: `/metrics` and `/api/v1/status`.

use std::{fs, path::Path};

use anyhow::{Context as _, bail};
use serde_json::Value;
use ureq::Agent;

/// Where to ask.
#[derive(Clone)]
pub(crate) struct Admin {
    agent: Agent,
    base: String,
}

/// One reading of `/metrics`.
pub(crate) struct Metrics(Vec<Sample>);

struct Sample {
    name: String,
    labels: Vec<(String, String)>,
    value: f64,
}

// === impl Admin ===

impl Admin {
    pub(crate) fn new(agent: &Agent, base: &str) -> Self {
        Self { agent: agent.clone(), base: base.to_owned() }
    }

    /// `http://127.0.0.1:9901`
    pub(crate) fn base(&self) -> &str {
        &self.base
    }

    pub(crate) fn metrics(&self) -> anyhow::Result<Metrics> {
        Ok(Metrics(self.read("/metrics")?.lines().filter_map(Sample::parse).collect()))
    }

    pub(crate) fn status(&self) -> anyhow::Result<Value> {
        Ok(serde_json::from_str(&self.read("/api/v1/status")?)?)
    }

    /// What comparing a route's answers came to.
    pub(crate) fn report(&self, route: &str) -> anyhow::Result<Value> {
        Ok(serde_json::from_str(&self.read(&format!("/api/v1/report?route={route}"))?)?)
    }

    /// Writes both to `metrics.txt` and `status.json` in `folder`.
    pub(crate) fn keep(&self, folder: &Path) -> anyhow::Result<()> {
        fs::write(folder.join("metrics.txt"), self.read("/metrics")?)?;
        fs::write(folder.join("status.json"), self.read("/api/v1/status")?)?;
        Ok(())
    }

    fn read(&self, path: &str) -> anyhow::Result<String> {
        let mut answer = self.agent.get(format!("{}{path}", self.base)).call().with_context(|| format!("no {path}"))?;
        if answer.status() != 200 {
            bail!("{path} was answered {}", answer.status());
        }
        Ok(answer.body_mut().read_to_string()?)
    }
}

// === impl Metrics ===

impl Metrics {
    /// The sum over all series of this name that carry these labels; `None` when there is none.
    pub(crate) fn sum(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let mut found = self.0.iter().filter(|sample| sample.is(name, labels)).peekable();
        found.peek()?;
        Some(found.map(|sample| sample.value).sum())
    }

    /// The upper bound of the bucket in which this quantile lies, of what was observed since `before`.
    pub(crate) fn quantile(&self, name: &str, labels: &[(&str, &str)], quantile: f64, before: &Self) -> Option<f64> {
        let bucket = format!("{name}_bucket");
        let mut bounds: Vec<f64> = self
            .0
            .iter()
            .filter(|sample| sample.is(&bucket, labels))
            .filter_map(|sample| sample.label("le")?.parse().ok())
            .collect();
        bounds.sort_by(f64::total_cmp);
        bounds.dedup();
        let count = |reading: &Self, bound: f64| -> f64 {
            let under = |sample: &&Sample| {
                sample.is(&bucket, labels) && sample.label("le").and_then(|le| le.parse().ok()) == Some(bound)
            };
            reading.0.iter().filter(under).map(|sample| sample.value).sum()
        };
        let counts: Vec<_> = bounds.iter().map(|bound| (*bound, count(self, *bound) - count(before, *bound))).collect();
        let all = counts.last()?.1;
        counts.iter().find(|(_, under)| *under >= all * quantile).map(|(bound, _)| *bound)
    }
}

// === impl Sample ===

impl Sample {
    /// `name{label="value",…} 12.5`
    fn parse(line: &str) -> Option<Self> {
        if line.starts_with('#') {
            return None;
        }
        let (series, value) = line.rsplit_once(' ')?;
        let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
        // Names of routes and syncs hold neither quotes nor commas.
        let labels = labels.trim_end_matches('}').split(',').filter_map(|label| label.split_once('='));
        Some(Self {
            name: name.to_owned(),
            labels: labels.map(|(name, value)| (name.to_owned(), value.trim_matches('"').to_owned())).collect(),
            value: value.parse().ok()?,
        })
    }

    fn label(&self, name: &str) -> Option<&str> {
        self.labels.iter().find(|(label, _)| label == name).map(|(_, value)| value.as_str())
    }

    fn is(&self, name: &str, labels: &[(&str, &str)]) -> bool {
        self.name == name && labels.iter().all(|(label, value)| self.label(label) == Some(value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(text: &str) -> Metrics {
        Metrics(text.lines().filter_map(Sample::parse).collect())
    }

    #[test]
    fn series_are_summed_over_the_labels_that_were_not_asked_for() {
        let metrics = reading("# HELP a b\na{x=\"1\",y=\"1\"} 2\na{x=\"1\",y=\"2\"} 3\na{x=\"2\",y=\"1\"} 4\nb 7\n");
        assert_eq!(metrics.sum("a", &[("x", "1")]), Some(5.0));
        assert_eq!(metrics.sum("b", &[]), Some(7.0));
        assert_eq!(metrics.sum("a", &[("x", "3")]), None);
    }

    #[test]
    fn a_quantile_counts_only_what_came_since_the_reading_before() {
        let before = reading("h_bucket{le=\"0.1\"} 10\nh_bucket{le=\"1\"} 10\nh_bucket{le=\"+Inf\"} 10\n");
        let after = reading("h_bucket{le=\"0.1\"} 11\nh_bucket{le=\"1\"} 19\nh_bucket{le=\"+Inf\"} 20\n");
        assert_eq!(after.quantile("h", &[], 0.5, &before), Some(1.0));
        assert_eq!(after.quantile("h", &[], 0.05, &before), Some(0.1));
    }
}
