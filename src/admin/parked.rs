//! What is parked of a sync, and what people ask of it. Keys and values of rows are told only to whoever may operate.

use std::sync::Arc;

use axum::{
    Json,
    body::Bytes,
    extract::{Path, Query, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use banyan_connectors::{ParkedAct, ParkedDesk, ParkedError, ParkedTransaction};
use serde::{Deserialize, Serialize};

use super::gate::{Asker, is_reason, problem};
use crate::app::App;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Which {
    /// Also those that have ended.
    all: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Wanted {
    values: bool,
}

/// Why somebody does it.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Said {
    reason: String,
}

#[derive(Serialize)]
struct List {
    /// The oldest first.
    parked: Vec<ParkedTransaction>,
}

#[derive(Serialize)]
struct Asked {
    asked: u64,
}

pub(super) async fn list(
    State(app): State<Arc<App>>,
    Path(sync): Path<String>,
    Query(Which { all }): Query<Which>,
) -> Response {
    let desk = match desk(&app, &sync) {
        Ok(desk) => desk,
        Err(refusal) => return *refusal,
    };
    answer(desk.list(all).await.map(|parked| List { parked }))
}

pub(super) async fn show(
    State(app): State<Arc<App>>,
    Path((sync, id)): Path<(String, i64)>,
    Asker(holder): Asker,
    body: Bytes,
) -> Response {
    let Ok(Wanted { values }) = serde_json::from_slice(&body) else {
        return problem(StatusCode::BAD_REQUEST, "body", "expected `{\"values\": false}`");
    };
    let desk = match desk(&app, &sync) {
        Ok(desk) => desk,
        Err(refusal) => return *refusal,
    };
    let by = holder.map_or("nobody", |holder| holder.name);
    tracing::info!(sync, id, values, by, "a parked transaction is shown");
    answer(desk.show(id, values).await)
}

pub(super) async fn retry(app: State<Arc<App>>, place: Path<(String, i64)>, asker: Asker, body: Bytes) -> Response {
    ask(app, place, asker, &body, ParkedAct::Retry).await
}

pub(super) async fn skip(app: State<Arc<App>>, place: Path<(String, i64)>, asker: Asker, body: Bytes) -> Response {
    ask(app, place, asker, &body, ParkedAct::Skip).await
}

async fn ask(
    State(app): State<Arc<App>>,
    Path((sync, id)): Path<(String, i64)>,
    Asker(holder): Asker,
    body: &Bytes,
    act: ParkedAct,
) -> Response {
    let Some(reason) = reason(body) else { return bad_reason() };
    if act == ParkedAct::Skip && reason.is_empty() {
        return problem(StatusCode::BAD_REQUEST, "reason", "what is skipped is never applied: say why, in `reason`");
    }
    let desk = match desk(&app, &sync) {
        Ok(desk) => desk,
        Err(refusal) => return *refusal,
    };
    let by = holder.map_or("nobody", |holder| holder.name);
    tracing::info!(sync, id, act = act.as_str(), by, reason, "asked of a parked transaction");
    // Apart from this call: a client that goes away must not stop it half-way.
    match tokio::spawn(async move { desk.ask(id, act, by, &reason).await }).await {
        Ok(done) => answer(done),
        Err(_) => problem(StatusCode::INTERNAL_SERVER_ERROR, "internal", "it panicked; the log says why"),
    }
}

pub(super) async fn retry_all(
    State(app): State<Arc<App>>,
    Path(sync): Path<String>,
    Asker(holder): Asker,
    body: Bytes,
) -> Response {
    let Some(reason) = reason(&body) else { return bad_reason() };
    let desk = match desk(&app, &sync) {
        Ok(desk) => desk,
        Err(refusal) => return *refusal,
    };
    let by = holder.map_or("nobody", |holder| holder.name);
    tracing::info!(sync, act = "retry", by, reason, "asked of all parked transactions");
    answer(desk.retry_all(by, &reason).await.map(|asked| Asked { asked }))
}

fn reason(body: &Bytes) -> Option<String> {
    let Said { reason } = serde_json::from_slice(body).ok()?;
    let reason = reason.trim().to_owned();
    is_reason(&reason).then_some(reason)
}

fn bad_reason() -> Response {
    let detail = "expected `{\"reason\": \"…\"}`, one line of 500 bytes at most";
    problem(StatusCode::BAD_REQUEST, "body", detail)
}

/// It needs the databases alone, and so no flow in this process.
fn desk(app: &App, sync: &str) -> Result<ParkedDesk, Box<Response>> {
    let config = app.file().loaded.connectors.clone();
    let missing = || Box::new(problem(StatusCode::NOT_FOUND, "no_sync", "there is no such sync"));
    let named = config.syncs.get(sync).ok_or_else(missing)?;
    ParkedDesk::new(sync, named, &config.install)
        .map_err(|error| Box::new(problem(StatusCode::CONFLICT, "url", &error.to_string())))
}

fn answer<T: Serialize>(found: Result<T, ParkedError>) -> Response {
    match found {
        Ok(found) => Json(found).into_response(),
        Err(error) => {
            let (status, code) = match error {
                ParkedError::Unknown(_) => (StatusCode::NOT_FOUND, "not_parked"),
                ParkedError::Ended(..) => (StatusCode::CONFLICT, "ended"),
                ParkedError::Database(..) => (StatusCode::SERVICE_UNAVAILABLE, "database"),
            };
            problem(status, code, &error.to_string())
        }
    }
}
