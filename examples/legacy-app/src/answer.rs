//! What a page answers: HTML for people, JSON for programs, and refusals for both.

use axum::{
    Json,
    response::{Html, IntoResponse, Redirect, Response},
};
use http::{HeaderMap, StatusCode, header};
use serde_json::json;

/// Why a request got no page.
pub(crate) enum Refusal {
    /// The request itself is wrong; the text says how.
    Wrong(&'static str),
    /// It needs somebody who is signed in.
    SignIn,
    /// There is no such thing.
    Missing(&'static str),
    /// The shop is broken; the log says how.
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

/// A whole page around `body`.
pub(crate) fn page(title: &str, body: &str) -> Response {
    let title = escape(title);
    Html(format!(
        "<!doctype html>\n<title>{title} - Fig &amp; Co</title>\n<h1>{title}</h1>\n\
         <p><a href=/>Shop</a> | <a href=/payments>Payments</a> | <a href=/orders>Orders</a> | <a href=/accounts/me>You</a> \
         | <a href=/chat>Chat</a></p>\n{body}\n"
    ))
    .into_response()
}

/// `text` with nothing left in it that HTML would read.
pub(crate) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

// === impl Refusal ===

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let (status, text) = match self {
            Self::Wrong(how) => (StatusCode::UNPROCESSABLE_ENTITY, how),
            Self::SignIn => (StatusCode::UNAUTHORIZED, "sign in first, at /login"),
            Self::Missing(what) => (StatusCode::NOT_FOUND, what),
            Self::Broken(error) => {
                tracing::error!("{error:#}");
                (StatusCode::INTERNAL_SERVER_ERROR, "the shop is broken")
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

/// After a form: look at what came of it.
pub(crate) fn see(path: &str) -> Response {
    Redirect::to(path).into_response()
}
