//! What a handler answers: HTML for people, JSON for programs, and refusals for both.

use axum::{
    Json,
    response::{Html, IntoResponse, Response},
};
use http::{HeaderMap, StatusCode, header};
use serde_json::json;

/// Why a request got nothing.
pub(crate) enum Refusal {
    /// The request itself is wrong; the text says how.
    Wrong(&'static str),
    /// It needs somebody who is signed in.
    SignIn,
    /// There is no such thing.
    Missing,
    /// The service is broken; the log says how.
    Broken(anyhow::Error),
}

/// What a handler returns.
pub(crate) type Answer = Result<Response, Refusal>;

/// Whether a person with a browser asks. Everybody else gets JSON.
pub(crate) fn wants_html(headers: &HeaderMap) -> bool {
    headers
        .get(header::ACCEPT)
        .and_then(|accept| accept.to_str().ok())
        .is_some_and(|accept| accept.contains("text/html"))
}

/// `text` with nothing left in it that HTML would read.
pub(crate) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// A whole page around `body`, which is HTML already.
pub(crate) fn page(title: &'static str, body: &str) -> Response {
    Html(format!(
        "<!doctype html>\n<html lang=en><title>{title} · Fig &amp; Co</title>\n<nav><a href=/>Shop</a> <a href=/payments>Payments</a> \
         <a href=/orders>Orders</a> <a href=/accounts/me>You</a></nav>\n<h1>{title}</h1>\n{body}\n</html>\n"
    ))
    .into_response()
}

// === impl Refusal ===

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let (status, text) = match self {
            Self::Wrong(how) => (StatusCode::UNPROCESSABLE_ENTITY, how),
            Self::SignIn => (StatusCode::UNAUTHORIZED, "sign in first, at /login"),
            Self::Missing => (StatusCode::NOT_FOUND, "no such payment"),
            Self::Broken(error) => {
                tracing::error!("{error:#}");
                (StatusCode::INTERNAL_SERVER_ERROR, "the service is broken")
            }
        };
        (status, Json(json!({ "error": text }))).into_response()
    }
}

impl<E: Into<anyhow::Error>> From<E> for Refusal {
    fn from(error: E) -> Self {
        Self::Broken(error.into())
    }
}
