//! Sampled requests as spans for a collector: OTLP/HTTP with JSON (OpenTelemetry protocol 1.x, `opentelemetry/proto/trace/v1`). Built and
//! sent in the background; what the collector does not take is dropped and counted.
//!
//! Written here rather than taken from `opentelemetry-otlp`: one message of a stable format, against eleven crates more.

use std::{
    io,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use http::{HeaderValue, Request, Version, header};
use http_body_util::Full;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use prometheus::{IntCounter, IntCounterVec, Opts, Registry};
use serde_json::{Value, json};
use tokio::{
    net::TcpStream,
    runtime::Handle,
    sync::{mpsc, oneshot},
    task::JoinSet,
};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{Hop, Record, line};
use crate::{
    config::Export,
    error::Blame,
    metrics::{Answerer, LABEL_OUTCOME, TRACE_SPANS},
};

/// Batches that wait while one is being sent.
const BATCHES: usize = 4;
/// Spans in one message, and how long the first of them waits.
const MOST: usize = 512;
const GATHER: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(5);
/// OTLP's kinds and status codes.
const KIND_SERVER: u8 = 2;
const STATUS_ERROR: u8 = 2;

/// Spans by what became of them.
#[derive(Debug, Clone)]
pub(super) struct Counts {
    exported: IntCounter,
    dropped: IntCounter,
}

/// The task that sends, seen from the one that empties the queues. Dropping it ends the task.
#[derive(Debug)]
pub(super) struct Exporter {
    pub(super) export: Export,
    orders: mpsc::Sender<Order>,
    counts: Counts,
    _ends: DropGuard,
}

#[derive(Debug)]
enum Order {
    Spans(Vec<Value>),
    /// Everything before this is sent, or given up.
    Flush(oneshot::Sender<()>),
}

/// Why a message did not arrive.
#[derive(Debug, thiserror::Error)]
enum SendError {
    #[error("the collector cannot be reached")]
    Connect(#[from] io::Error),
    #[error("the collector broke off")]
    Http(#[from] hyper::Error),
    #[error("the collector's address is no header")]
    Address(#[from] http::Error),
    #[error("the collector answered {0}")]
    Status(http::StatusCode),
    #[error("the collector took too long")]
    Late(#[from] tokio::time::error::Elapsed),
}

// === impl Counts ===

impl Counts {
    pub(super) fn register(registry: &Registry) -> prometheus::Result<Self> {
        let spans = IntCounterVec::new(
            Opts::new(TRACE_SPANS, "Sampled requests for the collector of traces, by what became of their span"),
            &[LABEL_OUTCOME],
        )?;
        registry.register(Box::new(spans.clone()))?;
        let of = |outcome| spans.with_label_values(&[outcome]);
        Ok(Self { exported: of("exported"), dropped: of("dropped") })
    }
}

// === impl Exporter ===

impl Exporter {
    pub(super) fn start(export: &Export, counts: Counts, background: &Handle) -> Self {
        let (orders, queue) = mpsc::channel(BATCHES);
        let token = CancellationToken::new();
        let sending = run(export.clone(), counts.clone(), queue);
        background.spawn(token.clone().run_until_cancelled_owned(sending));
        Self { export: export.clone(), orders, counts, _ends: token.drop_guard() }
    }

    /// Takes the sampled ones of a batch. Never waits.
    pub(super) fn take(&self, batch: &[Record]) {
        let spans: Vec<Value> = batch.iter().filter_map(span).collect();
        if let Err(error) = self.orders.try_send(Order::Spans(spans))
            && let Order::Spans(spans) = error.into_inner()
        {
            self.counts.dropped.inc_by(spans.len() as u64);
        }
    }

    /// Told when everything so far is sent; at once dropped when the collector is too far behind.
    pub(super) fn flush(&self) -> oneshot::Receiver<()> {
        let (tell, told) = oneshot::channel();
        drop(self.orders.try_send(Order::Flush(tell)));
        told
    }
}

async fn run(export: Export, counts: Counts, mut queue: mpsc::Receiver<Order>) {
    let mut is_told = false;
    while let Some(first) = queue.recv().await {
        let (mut spans, mut flush) = (Vec::new(), None);
        let mut order = Some(first);
        let until = tokio::time::Instant::now() + GATHER;
        loop {
            match order.take() {
                Some(Order::Spans(more)) => spans.extend(more),
                Some(Order::Flush(tell)) => flush = Some(tell),
                None => break,
            }
            if spans.len() >= MOST || flush.is_some() {
                break;
            }
            order = tokio::time::timeout_at(until, queue.recv()).await.ok().flatten();
        }
        let count = spans.len() as u64;
        if count > 0 {
            match tokio::time::timeout(PATIENCE, send(&export, spans)).await.map_err(SendError::from).flatten() {
                Ok(()) => {
                    counts.exported.inc_by(count);
                    is_told = false;
                }
                Err(error) => {
                    counts.dropped.inc_by(count);
                    if !std::mem::replace(&mut is_told, true) {
                        tracing::warn!("spans are dropped until the collector of traces takes them: {error}");
                    }
                }
            }
        }
        if let Some(tell) = flush {
            // Whoever asked may wait no more.
            let _ = tell.send(());
        }
    }
}

/// One message on a connection of its own.
async fn send(export: &Export, spans: Vec<Value>) -> Result<(), SendError> {
    let authority = export.otlp.authority();
    let stream = TcpStream::connect(authority).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::post(export.otlp.path())
        .version(Version::HTTP_11)
        .header(header::HOST, authority)
        .header(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))
        .body(Full::new(Bytes::from(message(&export.service, &spans).to_string())))?;
    // Its own task, ended with this message: what goes wrong on a connection comes out at its request.
    let mut driver = JoinSet::new();
    driver.spawn(connection);
    let answer = sender.send_request(request).await?;
    if answer.status().is_success() { Ok(()) } else { Err(SendError::Status(answer.status())) }
}

/// An `ExportTraceServiceRequest`.
fn message(service: &str, spans: &[Value]) -> Value {
    json!({ "resourceSpans": [{
        "resource": { "attributes": [
            text("service.name", service),
            text("service.version", env!("CARGO_PKG_VERSION")),
        ] },
        "scopeSpans": [{ "scope": { "name": "banyan", "version": env!("CARGO_PKG_VERSION") }, "spans": spans }],
    }] })
}

/// RFC 9110, RFC 5789 and QUERY; of any other OpenTelemetry wants `_OTHER` (semantic conventions for HTTP spans).
const KNOWN_METHODS: [&str; 10] =
    ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "QUERY"];

/// One span; `None` for a request that is not sampled. Nothing of the request's own words but its method, where that is a known one.
fn span(record: &Record) -> Option<Value> {
    let Hop { own, parent } = record.hop.filter(|hop| hop.own.is_sampled())?;
    let route = record.route.as_deref().unwrap_or(crate::metrics::NO_ROUTE);
    let method = KNOWN_METHODS.into_iter().find(|known| *known == record.method.as_str());
    let mut attributes = vec![
        text("http.request.method", method.unwrap_or("_OTHER")),
        text("network.protocol.version", line::protocol(record.version).trim_start_matches("HTTP/")),
        text("banyan.route", route),
        number("banyan.retries", u64::from(record.sends.saturating_sub(1))),
    ];
    attributes.extend(record.matched.as_deref().map(|matched| text("http.route", matched)));
    attributes.extend(record.chosen.map(|side| text("banyan.side", side.as_str())));
    if let Some((by, status)) = record.answered {
        attributes.push(number("http.response.status_code", u64::from(status.as_u16())));
        attributes.push(text("banyan.answered", Answerer::as_str(by)));
    }
    attributes.extend(record.trouble.map(|trouble| text("error.type", trouble.code)));
    let is_error = record.answered.is_some_and(|(_, status)| status.is_server_error())
        || record.trouble.is_some_and(|trouble| trouble.blame != Blame::Client && record.answered.is_none());
    let mut span = json!({
        "traceId": own.id.to_string(),
        "spanId": format!("{:016x}", own.span),
        "name": format!("{} {route}", method.unwrap_or("HTTP")),
        "kind": KIND_SERVER,
        "startTimeUnixNano": nanos(record.time),
        "endTimeUnixNano": nanos(record.time + record.took),
        "attributes": attributes,
    });
    if let Some(parent) = parent {
        span["parentSpanId"] = format!("{parent:016x}").into();
    }
    if is_error {
        span["status"] = json!({ "code": STATUS_ERROR });
    }
    Some(span)
}

fn text(key: &str, value: &str) -> Value {
    json!({ "key": key, "value": { "stringValue": value } })
}

/// 64-bit numbers are texts in protobuf's JSON.
fn number(key: &str, value: u64) -> Value {
    json!({ "key": key, "value": { "intValue": value.to_string() } })
}

fn nanos(time: SystemTime) -> String {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos().to_string()
}
