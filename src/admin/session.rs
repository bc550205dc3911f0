//! The sign-in of the page: a token once, then a cookie that no script can read and no other site can send. A session ends after twelve hours,
//! with the process, and with its token.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use axum::{
    Json,
    body::Bytes,
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};

use super::{
    gate::{Asker, problem},
    keys::{Good, Holder, Keys, Role},
};
use crate::app::App;

const NAME: &str = "banyan_session";
const LASTS: Duration = Duration::from_secs(12 * 60 * 60);
/// Sent to no page of another path: cookies do not know ports, and what Banyan forwards may have the same host.
const PATH: &str = "/api/v1";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SignIn {
    token: SecretString,
}

/// Who asks.
#[derive(Serialize)]
struct Session {
    role: Option<Role>,
}

/// `GET /api/v1/session`
pub(super) async fn show(asker: Asker) -> Response {
    Json(Session { role: asker.0.map(|holder| holder.role) }).into_response()
}

/// `POST /api/v1/session`
pub(super) async fn begin(State(app): State<Arc<App>>, body: Bytes) -> Response {
    let Ok(sign_in) = serde_json::from_slice::<SignIn>(&body) else {
        return problem(StatusCode::BAD_REQUEST, "body", "expected `{\"token\": \"…\"}`");
    };
    let good = app.door.keys.good(&app.file().loaded.admin);
    let Some((holder, token)) = app.door.keys.holder(&good, sign_in.token.expose_secret().as_bytes()) else {
        return problem(StatusCode::UNAUTHORIZED, "token", "this token is not known here");
    };
    let until = now() + LASTS.as_secs();
    let signature = hex(&app.door.keys.sign(&until.to_string(), &token));
    let attributes = attributes(&app);
    let cookie = format!("{NAME}={until}.{signature}; Max-Age={}; {attributes}", LASTS.as_secs());
    match HeaderValue::try_from(cookie) {
        Ok(cookie) => ([(header::SET_COOKIE, cookie)], Json(Session { role: Some(holder.role) })).into_response(),
        Err(_) => problem(StatusCode::INTERNAL_SERVER_ERROR, "internal", "no cookie could be made"),
    }
}

/// `DELETE /api/v1/session`
pub(super) async fn end(State(app): State<Arc<App>>) -> Response {
    let gone = format!("{NAME}=; Max-Age=0; {}", attributes(&app));
    ([(header::SET_COOKIE, gone)], StatusCode::NO_CONTENT).into_response()
}

/// With TLS, a browser never sends the cookie without.
fn attributes(app: &App) -> String {
    let secure = if app.door.tls().is_some() { "; Secure" } else { "" };
    format!("Path={PATH}; HttpOnly; SameSite=Strict{secure}")
}

/// Whose a request's session is.
pub(super) fn holder(keys: &Keys, good: &Good, headers: &HeaderMap) -> Option<Holder> {
    let cookies = headers.get_all(header::COOKIE).iter().filter_map(|line| line.to_str().ok());
    let value = cookies.flat_map(|line| line.split(';')).find_map(|pair| {
        let (name, value) = pair.trim().split_once('=')?;
        (name == NAME).then_some(value)
    })?;
    let (until, signature) = value.split_once('.')?;
    let signature = unhex(signature)?;
    (until.parse::<u64>().ok()? > now()).then_some(())?;
    keys.session_holder(good, until, &signature)
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// As text, two digits a byte.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes();
    if digits.len() != 64 || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    (0..32).map(|at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).ok()).collect()
}
