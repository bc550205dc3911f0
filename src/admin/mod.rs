//! The admin listener: `/livez`, `/readyz`, `/metrics`, `/api/v1/status`. It changes nothing, and never runs on a worker's thread.

mod status;

use std::sync::Arc;

use anyhow::Context as _;
use axum::{
    Json, Router,
    extract::State,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use banyan_proxy::Proxy;
use prometheus::Encoder as _;
use tokio::net::TcpListener;

use crate::app::App;

pub(crate) use status::{FileStatus, Status};

/// Answers until it is dropped.
///
/// # Errors
/// When the socket fails.
pub(crate) async fn serve(listener: Arc<std::net::TcpListener>, app: Arc<App>) -> anyhow::Result<()> {
    let listener = listener.try_clone().and_then(TcpListener::from_std).context("the admin listener")?;
    axum::serve(listener, router(app)).await.context("the admin listener")
}

fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .route("/api/v1/status", get(full_status))
        .with_state(app)
}

/// A worker that is gone for good can only be mended by a restart.
async fn livez(State(app): State<Arc<App>>) -> Response {
    if app.with_proxy(Proxy::is_whole).unwrap_or(true) {
        (StatusCode::OK, "alive\n").into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "a worker is gone\n").into_response()
    }
}

/// Only what Banyan itself needs to answer requests counts: a dead modern side, Kafka or database leaves legacy to be served.
async fn readyz(State(app): State<Arc<App>>) -> Response {
    if app.is_ready() {
        (StatusCode::OK, "ready\n").into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "stopping\n").into_response()
    }
}

async fn metrics(State(app): State<Arc<App>>) -> Response {
    let encoder = prometheus::TextEncoder::new();
    let mut text = Vec::with_capacity(64 * 1024);
    match encoder.encode(&app.metrics.gather(app.registry()), &mut text) {
        Ok(()) => {
            let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
            ([(header::CONTENT_TYPE, kind)], text).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

async fn full_status(State(app): State<Arc<App>>) -> Json<Status> {
    Json(app.status())
}
