//! One table of a sync is copied again, when somebody asks for it.

use std::sync::Arc;

use axum::{
    Json,
    body::Bytes,
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use banyan_connectors::{SnapshotDesk, SnapshotError};
use serde::Deserialize;

use super::gate::{Asker, is_reason, problem};
use crate::app::App;

/// Which table, and why.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    table: String,
    #[serde(default)]
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
        let detail =
            "expected `{\"table\": \"schema.table\", \"reason\": \"…\"}`, the reason one line of 500 bytes at most";
        return problem(StatusCode::BAD_REQUEST, "body", detail);
    };
    let config = app.file().loaded.connectors.clone();
    let Some(named) = config.syncs.get(&sync) else {
        return problem(StatusCode::NOT_FOUND, "no_sync", "there is no such sync");
    };
    // It needs the databases alone, and so no flow in this process.
    let desk = match SnapshotDesk::new(&sync, named, &config.install) {
        Ok(desk) => desk,
        Err(error) => return problem(StatusCode::CONFLICT, "url", &error.to_string()),
    };
    let by = holder.map_or("nobody", |holder| holder.name);
    tracing::info!(sync, table, by, reason, "asked to copy a table again");
    // Apart from this call: a client that goes away must not stop it half-way.
    match tokio::spawn(async move { desk.ask(&table, by, reason.trim()).await }).await {
        Ok(Ok(copy)) => Json(copy).into_response(),
        Ok(Err(error)) => {
            let (status, code) = match error {
                SnapshotError::NoTable(..) => (StatusCode::NOT_FOUND, "no_table"),
                SnapshotError::Busy(_) | SnapshotError::Kind(_) | SnapshotError::NoOwner(_) => {
                    (StatusCode::CONFLICT, "not_now")
                }
                SnapshotError::Database(..) => (StatusCode::SERVICE_UNAVAILABLE, "database"),
            };
            problem(status, code, &error.to_string())
        }
        Err(_) => problem(StatusCode::INTERNAL_SERVER_ERROR, "internal", "it panicked; the log says why"),
    }
}
