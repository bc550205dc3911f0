//! Names and labels of every HTTP metric of the proxy, and the handles that a request counts with.
//!
//! Each worker owns a shard of plain counters that only it writes; a collector sums the shards when `/metrics` is read. Nothing here takes a
//! lock or looks up a label on the answering path: handles are resolved when a table is compiled.

mod certificates;
mod collector;
mod histogram;
mod holds;
mod judged;
mod shard;
mod totals;
mod upstreams;

pub(crate) use certificates::Certificates;
pub(crate) use collector::Requests;
pub use collector::SideCounts;
pub(crate) use histogram::Histogram;
pub(crate) use holds::Holds;
pub(crate) use shard::{Answerer, Counter, Identified, Outcome, RouteShard, Shards};
pub(crate) use totals::RouteTotals;
pub(crate) use upstreams::Upstreams;

/// Answers by route, by who answered and by status.
pub const HTTP_REQUESTS: &str = "banyan_http_requests_total";
/// Attempts by route, chosen side and outcome.
pub const ROUTE_ATTEMPTS: &str = "banyan_route_attempts_total";
/// From the head of a request to the end of its answer, by route and by who answered.
pub const HTTP_REQUEST_DURATION: &str = "banyan_http_request_duration_seconds";
/// Time that Banyan itself took, by route: from a request's head to its being handed to an upstream, without waiting for a connection.
pub const HTTP_OVERHEAD: &str = "banyan_http_overhead_seconds";
/// Weight of a route in percent, by kind (`wanted`, `effective`).
pub const ROUTE_WEIGHT: &str = "banyan_route_weight_percent";
/// When a route's newest answer ended, in seconds since 1970.
pub const ROUTE_LAST_REQUEST: &str = "banyan_route_last_request_timestamp_seconds";
/// Exceptions to "the same user stays on the same side", by route and reason.
pub const SIDE_MOVES: &str = "banyan_side_moves_total";
/// Requests that were refused since their key made too many, by route.
pub const RATE_LIMITED: &str = "banyan_rate_limited_total";
/// Requests with credentials by route and by how it became known who they come from (outcome): `identity`.
pub const IDENTITY_REQUESTS: &str = "banyan_identity_requests_total";
/// Cookies that both sides set under one name.
pub const COOKIE_CLASHES: &str = "banyan_cookie_clashes";
/// Open tunnels (WebSockets) by route and side.
pub const TUNNELS: &str = "banyan_tunnels";
/// Tunnels that were opened, by route and side.
pub const TUNNELS_TOTAL: &str = "banyan_tunnels_total";
/// Reads that were asked of the other side too, by route and outcome: `fallback_on`.
pub const FALLBACK_ON: &str = "banyan_fallback_on_total";
/// Copies of reads by route and by what became of them (outcome).
pub const SHADOW_REQUESTS: &str = "banyan_shadow_requests_total";
/// Comparisons of the shadow's answer with what the client got, by route and result.
pub const COMPARE: &str = "banyan_compare_total";
/// Of the comparisons that differ, those that do in noise alone.
pub const COMPARE_NOISE: &str = "banyan_compare_noise_total";
/// Requests under way at an upstream, from the head to the end of the answer.
pub const UPSTREAM_IN_FLIGHT: &str = "banyan_upstream_requests_in_flight";
/// Open connections to an upstream.
pub const UPSTREAM_CONNECTIONS: &str = "banyan_upstream_connections";
/// Requests that wait for a place at an upstream with limits.
pub const UPSTREAM_QUEUED: &str = "banyan_upstream_queued";
/// How many requests may be under way at an upstream with limits.
pub const UPSTREAM_LIMIT: &str = "banyan_upstream_in_flight_limit";
/// Requests that an upstream's limits or its circuit kept from it, by reason.
pub const UPSTREAM_REFUSED: &str = "banyan_upstream_refused_total";
/// Requests sent to the same upstream again, or not any more, by outcome.
pub const UPSTREAM_RETRIES: &str = "banyan_upstream_retries_total";
/// Endpoints by state.
pub const UPSTREAM_ENDPOINTS: &str = "banyan_upstream_endpoints";
/// 1 for the state that an upstream's circuit is in.
pub const UPSTREAM_CIRCUIT: &str = "banyan_upstream_circuit";
/// What happened to an upstream, by event.
pub const UPSTREAM_EVENTS: &str = "banyan_upstream_events_total";
/// The step that a route's rollout is at, in percent.
pub const ROLLOUT_STEP: &str = "banyan_rollout_step_percent";
/// 1 for the phase that a route's rollout is in (`walking`, `paused`, `rolled_back`, `done`).
pub const ROLLOUT_PHASE: &str = "banyan_rollout_phase";
/// Percent of the comparisons that may differ: the limit of the rollout's gate.
pub const ROLLOUT_MISMATCH_LIMIT: &str = "banyan_rollout_mismatch_limit_percent";
/// What the gates said at each look, by verdict (`inside`, `inconclusive`, `failed`).
pub const ROLLOUT_VERDICTS: &str = "banyan_rollout_verdicts_total";
/// Rollbacks by route and reason: the gate, or `person`.
pub const ROLLOUT_ROLLBACKS: &str = "banyan_rollout_rollbacks_total";
/// Rollouts that could not be kept in `state.dir`, as attempts.
pub const ROLLOUT_UNKEPT: &str = "banyan_rollout_keep_failures_total";
/// Until when a certificate is valid, by listener and file; in seconds since 1970.
pub const TLS_EXPIRY: &str = "banyan_tls_certificate_expiry_timestamp_seconds";
/// The label of a listener's address, or `admin`.
pub const LABEL_LISTENER: &str = "listener";
/// The label of a certificate's file, as routes.yaml names it.
pub const LABEL_CERT: &str = "cert";
/// Changed files of listeners' TLS, by result (`accepted`, `refused`).
pub const TLS_RELOADS: &str = "banyan_tls_reloads_total";

/// Lines of the access log that were written.
pub const ACCESS_LOG_LINES: &str = "banyan_access_log_lines_total";
/// Lines of the access log that were not written, by reason (`queue`, `errors`, `write`).
pub const ACCESS_LOG_DROPPED: &str = "banyan_access_log_dropped_total";

/// Writes of a sync that were sent to its owner and are not answered to their end.
pub const WRITES_UNDER_WAY: &str = "banyan_sync_writes_under_way";
/// Writes of a sync that wait while its owner moves.
pub const WRITES_HELD: &str = "banyan_sync_writes_held";
/// Writes of a sync that had to wait, by outcome.
pub const HELD_WRITES: &str = "banyan_sync_held_writes_total";

/// The label of a sync's name.
pub const LABEL_SYNC: &str = "sync";
/// Sampled requests for the collector of traces, by what became of their span (`exported`, `dropped`).
#[cfg(feature = "otlp")]
pub const TRACE_SPANS: &str = "banyan_trace_spans_total";

/// The label of a route's name.
pub const LABEL_ROUTE: &str = "route";
/// The label of a side: `legacy`, `modern`, or `banyan` where it answered itself.
pub const LABEL_SIDE: &str = "side";
/// The label of a status: 100 to 599, else `other`.
pub const LABEL_CODE: &str = "code";
/// The label of an attempt's outcome.
pub const LABEL_OUTCOME: &str = "outcome";
/// The label of a comparison's result.
pub const LABEL_RESULT: &str = "result";
/// The label of a weight's kind.
pub const LABEL_KIND: &str = "kind";
/// The label of a reason: of a move, of a line that was dropped.
pub const LABEL_REASON: &str = "reason";
/// The label of an upstream's name.
pub const LABEL_UPSTREAM: &str = "upstream";
/// The label of an endpoint's or a circuit's state.
pub const LABEL_STATE: &str = "state";
/// The label of a rollout's phase.
pub const LABEL_PHASE: &str = "phase";
/// The label of what the gates said.
pub const LABEL_VERDICT: &str = "verdict";
/// The label of an event.
pub const LABEL_EVENT: &str = "event";

/// The `route` of requests that were answered before a route was found. No route in the file can have this name.
pub const NO_ROUTE: &str = "-";
