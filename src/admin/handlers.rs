//! What the paths answer.

use std::{sync::Arc, time::Duration};

use axum::{
    Json,
    extract::{Query, State, rejection::QueryRejection},
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use banyan_proxy::{NoReport, Proxy, compare::Report, history::RouteHistory};
use prometheus::Encoder as _;
use serde::{Deserialize, Serialize};

use super::gate::problem;
use crate::{app::App, marks::Mark, reload};

/// A worker that is gone for good can only be mended by a restart.
pub(super) async fn livez(State(app): State<Arc<App>>) -> Response {
    if app.with_proxy(Proxy::is_whole).unwrap_or(true) {
        (StatusCode::OK, "alive\n").into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "a worker is gone\n").into_response()
    }
}

/// Only what Banyan itself needs to answer requests counts: a dead modern side, Kafka or database leaves legacy to be served.
pub(super) async fn readyz(State(app): State<Arc<App>>) -> Response {
    if app.is_ready() {
        (StatusCode::OK, "ready\n").into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "stopping\n").into_response()
    }
}

pub(super) async fn metrics(State(app): State<Arc<App>>) -> Response {
    let _turn = app.gathers.acquire().await;
    let encoder = prometheus::TextEncoder::new();
    let mut text = Vec::with_capacity(64 * 1024);
    let routes = app.route_names();
    let is_known = |route: &str| routes.is_empty() || routes.contains(route);
    match encoder.encode(&app.metrics.gather(app.registry(), is_known), &mut text) {
        Ok(()) => {
            let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
            ([(header::CONTENT_TYPE, kind)], text).into_response()
        }
        Err(_) => problem(StatusCode::INTERNAL_SERVER_ERROR, "metrics", "the metrics cannot be rendered"),
    }
}

pub(super) async fn status(State(app): State<Arc<App>>) -> Response {
    let _turn = app.gathers.acquire().await;
    Json(app.status()).into_response()
}

/// Which report.
#[derive(Debug, Deserialize)]
pub(super) struct Asked {
    /// `None`: those of all routes.
    route: Option<String>,
    /// Seconds; a day at most, an hour if left out.
    within: Option<u64>,
}

/// The reports of all routes that compare, in the file's order.
#[derive(Debug, Serialize)]
struct Reports {
    routes: Vec<RouteReport>,
}

/// One of them.
#[derive(Debug, Serialize)]
struct RouteReport {
    route: String,
    report: Report,
}

pub(super) async fn report(State(app): State<Arc<App>>, asked: Result<Query<Asked>, QueryRejection>) -> Response {
    let Ok(Query(asked)) = asked else {
        return problem(
            StatusCode::BAD_REQUEST,
            "query",
            "expected `?route=NAME` if not all of them, and `&within=SECONDS` if not an hour",
        );
    };
    let within = Duration::from_secs(asked.within.unwrap_or(3600));
    let Some(route) = asked.route else {
        let reports = app.with_proxy(|proxy| proxy.reports(within)).unwrap_or_default();
        let reports = reports.into_iter().map(|(route, report)| RouteReport { route, report }).collect();
        return Json(Reports { routes: reports }).into_response();
    };
    match app.with_proxy(|proxy| proxy.report(&route, within)) {
        Some(Ok(report)) => Json(report).into_response(),
        Some(Err(NoReport::NoRoute)) => problem(StatusCode::NOT_FOUND, "no_route", &NoReport::NoRoute.to_string()),
        Some(Err(why @ NoReport::NotCompared)) => problem(StatusCode::CONFLICT, "not_compared", &why.to_string()),
        None => problem(StatusCode::SERVICE_UNAVAILABLE, "stopping", "Banyan is stopping"),
    }
}

/// Whose chart.
#[derive(Debug, Deserialize)]
pub(super) struct Of {
    route: String,
}

/// A route's last hour, with what changed in it.
#[derive(Debug, Serialize)]
struct Chart {
    #[serde(flatten)]
    history: RouteHistory,
    marks: Vec<Mark>,
}

pub(super) async fn chart(State(app): State<Arc<App>>, of: Result<Query<Of>, QueryRejection>) -> Response {
    let Ok(Query(Of { route })) = of else {
        return problem(StatusCode::BAD_REQUEST, "query", "expected `?route=NAME`");
    };
    match app.with_proxy(|proxy| proxy.history(&route)) {
        Some(Some(history)) => Json(Chart { history, marks: app.marks.of(&route) }).into_response(),
        Some(None) => problem(StatusCode::NOT_FOUND, "no_route", &NoReport::NoRoute.to_string()),
        None => problem(StatusCode::SERVICE_UNAVAILABLE, "stopping", "Banyan is stopping"),
    }
}

/// Reads the file again and says what became of it.
pub(super) async fn reload(State(app): State<Arc<App>>) -> Response {
    // Apart from this call: a client that goes away must not stop it half-way.
    let judged = tokio::spawn(async move { reload::now(&app).await }).await;
    match judged {
        Ok(Ok(outcome)) if outcome.is_accepted() => Json(outcome).into_response(),
        Ok(Ok(outcome)) => (StatusCode::UNPROCESSABLE_ENTITY, Json(outcome)).into_response(),
        _ => problem(StatusCode::INTERNAL_SERVER_ERROR, "internal", "the file could not be judged; the log says why"),
    }
}
