//! `POST /api/v1/record`: a route's reads and what they are answered, as they come, until the time or the size that was asked for is reached.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Extension,
    body::Body,
    extract::{Query, State, rejection::QueryRejection},
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use banyan_proxy::shadow::{NoRecording, RecordLimits};
use futures_util::stream;
use serde::Deserialize;

use super::{gate::problem, stay::Stay};
use crate::app::App;

/// The longest that may be asked for.
const LONGEST: Duration = Duration::from_secs(86_400);
/// The most that may be asked for.
const LARGEST: u64 = 1 << 30;

/// What is to be recorded.
#[derive(Debug, Deserialize)]
pub(super) struct Asked {
    route: String,
    /// Seconds.
    within: u64,
    /// Bytes.
    max_size: u64,
}

pub(super) async fn record(
    State(app): State<Arc<App>>,
    Extension(stay): Extension<Stay>,
    asked: Result<Query<Asked>, QueryRejection>,
) -> Response {
    let is_good = |asked: &Query<Asked>| {
        (1..=LONGEST.as_secs()).contains(&asked.within) && (1..=LARGEST).contains(&asked.max_size)
    };
    let Some(Query(asked)) = asked.ok().filter(is_good) else {
        let expected = "expected `?route=NAME&within=SECONDS&max_size=BYTES`, a day and 1 GiB at most";
        return problem(StatusCode::BAD_REQUEST, "query", expected);
    };
    let limits = RecordLimits { time: Duration::from_secs(asked.within), size: asked.max_size };
    let recording = match app.with_proxy(|proxy| proxy.record(&asked.route, limits)) {
        Some(Ok(recording)) => recording,
        Some(Err(why @ NoRecording::NoRoute)) => return problem(StatusCode::NOT_FOUND, "no_route", &why.to_string()),
        Some(Err(why)) => return problem(StatusCode::CONFLICT, "not_recorded", &why.to_string()),
        None => return problem(StatusCode::SERVICE_UNAVAILABLE, "stopping", "Banyan is stopping"),
    };
    stay.until(Instant::now() + limits.time);
    tracing::info!(route = asked.route, seconds = asked.within, max_size = asked.max_size, "a recording begins");
    let lines = stream::unfold(recording, async |mut recording| {
        let line = recording.next().await?;
        Some((Ok::<_, std::convert::Infallible>(line), recording))
    });
    let kind = HeaderValue::from_static("application/x-ndjson");
    ([(header::CONTENT_TYPE, kind)], Body::from_stream(lines)).into_response()
}
