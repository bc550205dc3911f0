//! What people do to a route's rollout, over the admin listener.

use std::sync::Arc;

use axum::{
    Json,
    body::Bytes,
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use banyan_proxy::{
    Proxy,
    rollout::{Act, Event, Refusal},
};
use serde::{Deserialize, Serialize};

use super::gate::{Asker, is_reason, problem};
use crate::app::App;

/// Why somebody does it.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Said {
    reason: String,
}

#[derive(Serialize)]
struct History {
    /// The newest last.
    events: Vec<Event>,
}

pub(super) async fn promote(app: State<Arc<App>>, route: Path<String>, asker: Asker, body: Bytes) -> Response {
    act(app, route, asker, &body, Act::Promote).await
}

pub(super) async fn pause(app: State<Arc<App>>, route: Path<String>, asker: Asker, body: Bytes) -> Response {
    act(app, route, asker, &body, Act::Pause).await
}

pub(super) async fn resume(app: State<Arc<App>>, route: Path<String>, asker: Asker, body: Bytes) -> Response {
    act(app, route, asker, &body, Act::Resume).await
}

pub(super) async fn rollback(app: State<Arc<App>>, route: Path<String>, asker: Asker, body: Bytes) -> Response {
    act(app, route, asker, &body, Act::Rollback).await
}

async fn act(
    State(app): State<Arc<App>>,
    Path(route): Path<String>,
    Asker(holder): Asker,
    body: &Bytes,
    act: Act,
) -> Response {
    let said = serde_json::from_slice::<Said>(body).ok();
    let Some(Said { reason }) = said.filter(|said| is_reason(&said.reason)) else {
        let detail = "expected `{\"reason\": \"…\"}`, one line of 500 bytes at most";
        return problem(StatusCode::BAD_REQUEST, "body", detail);
    };
    let Some(rollouts) = app.with_proxy(|proxy| proxy.rollouts().handle()) else { return no_proxy() };
    let by = holder.map_or("nobody", |holder| holder.name);
    // Apart from this call: a client that goes away must not stop it half-way.
    let acted = tokio::spawn(async move { rollouts.act(&route, act, by, reason.trim()).await });
    match acted.await {
        Ok(Ok(done)) => Json(done).into_response(),
        Ok(Err(why)) => {
            let (status, code) = match why {
                Refusal::NoRollout => (StatusCode::NOT_FOUND, "no_rollout"),
                Refusal::Waiting => (StatusCode::SERVICE_UNAVAILABLE, "waiting"),
                Refusal::NotNow(_) => (StatusCode::CONFLICT, "not_now"),
            };
            problem(status, code, &why.to_string())
        }
        Err(_) => problem(StatusCode::INTERNAL_SERVER_ERROR, "internal", "it panicked; the log says why"),
    }
}

pub(super) async fn history(State(app): State<Arc<App>>, Path(route): Path<String>) -> Response {
    let Some(events) = app.with_proxy(|proxy: &Proxy| proxy.rollouts().history(&route)) else { return no_proxy() };
    match events {
        Some(events) => Json(History { events }).into_response(),
        None => problem(StatusCode::NOT_FOUND, "no_rollout", "there is no such route, or it never had a rollout"),
    }
}

fn no_proxy() -> Response {
    problem(StatusCode::SERVICE_UNAVAILABLE, "no_proxy", "Banyan is stopping, or answers no requests here")
}
