//! A record as a line of the access log. The fields and their order are listed in `docs/reference/access-log.md`.

use std::{
    net::IpAddr,
    time::{Duration, SystemTime},
};

use http::Version;
use serde::Serialize;

use super::Record;
use crate::{error::Blame, links::Owner, metrics::Answerer};

#[derive(Serialize)]
struct Line<'r> {
    time: String,
    route: &'r str,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[serde(rename = "match")]
    matched: Option<&'r str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<&'r str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    client: Option<IpAddr>,
    method: &'r str,
    protocol: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    side: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    answered: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    duration_seconds: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    upstream_seconds: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    overhead_seconds: Option<f64>,
    bytes_in: u64,
    bytes_out: u64,
    retries: u32,
    fallback: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    fault: Option<Blame>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace_id: Option<String>,
}

/// Whether it failed: a 5xx, an answer of Banyan's own that is an error, an answer that broke off, a client that went away.
pub(crate) fn is_failure(record: &Record) -> bool {
    record.trouble.is_some() || record.answered.is_none_or(|(_, status)| status.is_server_error())
}

/// Adds the line to `out`.
pub(super) fn write(record: &Record, out: &mut Vec<u8>) {
    let answered_by = record.answered.map(|(by, _)| by);
    let fallback = match (record.chosen, answered_by) {
        (Some(chosen), Some(Answerer::Side(side))) => chosen != side,
        _ => false,
    };
    let line = Line {
        time: rfc3339(record.time),
        route: record.route.as_deref().unwrap_or(crate::metrics::NO_ROUTE),
        matched: record.matched.as_deref(),
        path: record.path.as_deref(),
        client: record.client,
        method: record.method.as_str(),
        protocol: protocol(record.version),
        side: record.chosen.map(Owner::as_str),
        answered: answered_by.map(Answerer::as_str),
        status: record.answered.map(|(_, status)| status.as_u16()),
        duration_seconds: seconds(record.took),
        upstream_seconds: record.upstream.map(seconds),
        overhead_seconds: record.overhead.map(seconds),
        bytes_in: record.bytes_in,
        bytes_out: record.bytes_out,
        retries: record.sends.saturating_sub(1),
        fallback,
        fault: record.trouble.map(|trouble| trouble.blame),
        error: record.trouble.map(|trouble| trouble.code),
        trace_id: record.trace.map(|trace| trace.to_string()),
    };
    // Nothing in it can fail to be written into memory.
    if serde_json::to_writer(&mut *out, &line).is_ok() {
        out.push(b'\n');
    }
}

/// With microseconds, in UTC.
fn rfc3339(time: SystemTime) -> String {
    humantime::format_rfc3339_micros(time).to_string()
}

pub(super) fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2",
        _ => "HTTP/1.1",
    }
}

/// Whole microseconds: more digits would be noise.
#[expect(clippy::cast_precision_loss, reason = "exact for 285 years")]
fn seconds(time: Duration) -> f64 {
    time.as_micros() as f64 / 1e6
}
