//! What the table needs of `/metrics`: errors and latency by route and side.

use std::collections::BTreeMap;

const REQUESTS: &str = "banyan_http_requests_total";
const ATTEMPTS: &str = "banyan_route_attempts_total";
const BUCKETS: &str = "banyan_http_request_duration_seconds_bucket";

/// Numbers of all routes since Banyan's start.
#[derive(Debug, Default)]
pub(super) struct Numbers(BTreeMap<(String, String), Arm>);

/// One side of one route.
#[derive(Debug, Default, Clone)]
pub(super) struct Arm {
    pub(super) answers: f64,
    /// Requests for which this side was chosen, without those whose client went away.
    pub(super) attempts: f64,
    /// Of them, those that it did not answer, or with 500 and above; also when the other side stepped in.
    pub(super) failed: f64,
    /// Upper bound in seconds, and answers up to it.
    buckets: Vec<(f64, f64)>,
}

// === impl Numbers ===

impl Numbers {
    /// Reads Prometheus' text format, as far as it is needed here.
    pub(super) fn parse(text: &str) -> Self {
        let mut all = Self::default();
        for line in text.lines() {
            let Some((name, rest)) = line.split_once('{') else { continue };
            let Some((labels, value)) = rest.rsplit_once("} ") else { continue };
            let (Some(route), Some(side)) = (label(labels, "route"), label(labels, "side")) else { continue };
            let Ok(value) = value.trim().parse::<f64>() else { continue };
            let arm = all.0.entry((route.to_owned(), side.to_owned())).or_default();
            match name {
                REQUESTS => arm.answers += value,
                ATTEMPTS => match label(labels, "outcome") {
                    Some("ok") => arm.attempts += value,
                    Some("cancelled") | None => {}
                    Some(_) => {
                        arm.attempts += value;
                        arm.failed += value;
                    }
                },
                BUCKETS => {
                    if let Some(bound) = label(labels, "le").and_then(|bound| bound.parse().ok()) {
                        arm.buckets.push((bound, value));
                    }
                }
                _ => {}
            }
        }
        all
    }

    pub(super) fn arm(&self, route: &str, side: &str) -> Arm {
        self.0.get(&(route.to_owned(), side.to_owned())).cloned().unwrap_or_default()
    }

    /// Answers of a route, whoever gave them.
    pub(super) fn answers(&self, route: &str) -> f64 {
        self.0.iter().filter(|((name, _), _)| name == route).map(|(_, arm)| arm.answers).sum()
    }
}

// === impl Arm ===

impl Arm {
    /// The time in seconds that 99 of 100 answers stayed below; within a bucket as if answers were spread evenly.
    pub(super) fn p99(&self) -> Option<f64> {
        let mut buckets = self.buckets.clone();
        buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
        let all = buckets.last().map(|(_, n)| *n).filter(|n| *n > 0.0)?;
        let wanted = all * 0.99;
        let (mut low, mut below) = (0.0, 0.0);
        for (bound, n) in buckets {
            if n >= wanted {
                return Some(if bound.is_finite() {
                    low + (bound - low) * (wanted - below) / (n - below)
                } else {
                    low
                });
            }
            (low, below) = (bound, n);
        }
        None
    }
}

/// Label values come from the file's names, which hold no quotes.
fn label<'l>(labels: &'l str, name: &str) -> Option<&'l str> {
    labels.split(',').find_map(|pair| pair.strip_prefix(name)?.strip_prefix("=\"")?.strip_suffix('"'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"# TYPE banyan_http_requests_total counter
banyan_http_requests_total{route="a",side="legacy",code="200"} 98
banyan_http_requests_total{route="a",side="legacy",code="503"} 2
banyan_route_attempts_total{route="a",side="legacy",outcome="ok"} 98
banyan_route_attempts_total{route="a",side="legacy",outcome="error"} 2
banyan_route_attempts_total{route="a",side="legacy",outcome="cancelled"} 7
banyan_route_attempts_total{route="a",side="modern",outcome="refused"} 5
banyan_http_request_duration_seconds_bucket{route="a",side="legacy",le="0.01"} 90
banyan_http_request_duration_seconds_bucket{route="a",side="legacy",le="0.1"} 100
banyan_http_request_duration_seconds_bucket{route="a",side="legacy",le="+Inf"} 100
"#;

    #[test]
    fn errors_and_the_slowest_hundredth_are_read() {
        let arm = Numbers::parse(TEXT).arm("a", "legacy");
        assert_eq!((arm.answers, arm.attempts, arm.failed), (100.0, 100.0, 2.0));
        assert!((arm.p99().unwrap() - 0.091).abs() < 1e-9);
        // The other side answered for it; that it is gone must still be seen.
        let dead = Numbers::parse(TEXT).arm("a", "modern");
        assert_eq!((dead.answers, dead.attempts, dead.failed, dead.p99()), (0.0, 5.0, 5.0, None));
    }
}
