//! A flow that waits before a change of a table's columns goes on, when somebody says so.

use std::sync::Arc;

use axum::{
    Json,
    body::Bytes,
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use banyan_connectors::{ResumeDesk, ResumeError};
use serde::Deserialize;

use super::gate::{Asker, is_reason, problem};
use crate::app::App;

/// Behind a change of which table, if of a certain one, and why.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Wanted {
    table: Option<String>,
    reason: String,
}

pub(super) async fn ask(
    State(app): State<Arc<App>>,
    Path(sync): Path<String>,
    Asker(holder): Asker,
    body: Bytes,
) -> Response {
    let wanted = serde_json::from_slice(&body).ok();
    let Some(Wanted { table, reason }) = wanted.filter(|wanted: &Wanted| is_reason(&wanted.reason)) else {
        let detail = "expected `{\"table\": \"schema.table\", \"reason\": \"…\"}`, both may be left out, the reason one line of 500 bytes at most";
        return problem(StatusCode::BAD_REQUEST, "body", detail);
    };
    let config = app.file().loaded.connectors.clone();
    let Some(named) = config.syncs.get(&sync) else {
        return problem(StatusCode::NOT_FOUND, "no_sync", "there is no such sync");
    };
    // It needs the databases alone, and so no flow in this process.
    let desk = match ResumeDesk::new(&sync, named, &config.install) {
        Ok(desk) => desk,
        Err(error) => return problem(StatusCode::CONFLICT, "url", &error.to_string()),
    };
    let by = holder.map_or("nobody", |holder| holder.name);
    tracing::info!(sync, table, by, reason, "asked to go on behind a change of a table");
    // Apart from this call: a client that goes away must not stop it half-way.
    match tokio::spawn(async move { desk.resume(table.as_deref(), by, reason.trim()).await }).await {
        Ok(Ok(resumed)) => Json(resumed).into_response(),
        Ok(Err(error)) => {
            let (status, code) = match error {
                ResumeError::NotPaused(_) | ResumeError::OtherTable { .. } => (StatusCode::CONFLICT, "not_paused"),
                ResumeError::NotYet(_) | ResumeError::NoOwner(_) => (StatusCode::CONFLICT, "not_now"),
                ResumeError::Unfit { .. } => (StatusCode::CONFLICT, "unfit"),
                ResumeError::Database(..) => (StatusCode::SERVICE_UNAVAILABLE, "database"),
            };
            problem(status, code, &error.to_string())
        }
        Err(_) => problem(StatusCode::INTERNAL_SERVER_ERROR, "internal", "it panicked; the log says why"),
    }
}
