//! Before every call: does the request name this listener as its host, may whoever asks do this, and can a page of another site be behind it?

use std::{net::IpAddr, sync::Arc, time::Duration};

use axum::{
    Json,
    extract::{FromRequestParts, Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, header, request::Parts},
    middleware::Next,
    response::{IntoResponse, Response},
};
use serde::Serialize;

use super::{
    keys::{Holder, Role},
    paths::Takes,
    session,
};
use crate::app::App;

/// The gate of one path.
#[derive(Clone)]
pub(super) struct Gate {
    pub(super) app: Arc<App>,
    pub(super) takes: Takes,
}

/// Whoever asks; `None` where no token was needed and none was shown.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asker(pub(super) Option<Holder>);

/// RFC 9457.
#[derive(Serialize)]
struct Problem<'p> {
    #[serde(rename = "type")]
    kind: String,
    title: &'static str,
    status: u16,
    detail: &'p str,
}

/// This listener as the request names it, and what it speaks.
#[derive(Debug, Clone, Copy)]
struct Own<'h> {
    host: &'h str,
    scheme: &'static str,
}

struct Refusal(StatusCode, &'static str, &'static str);

/// A call that takes longer is given up.
const CALL: Duration = Duration::from_secs(10);
/// Of a reason that people give, in bytes.
const LONGEST_REASON: usize = 500;

/// Lets a request through, or says why not.
pub(super) async fn pass(State(gate): State<Gate>, mut request: Request, next: Next) -> Response {
    let mut response = match gate.judge(request.headers()) {
        Ok(asker) => {
            request.extensions_mut().insert(asker);
            match tokio::time::timeout(CALL, next.run(request)).await {
                Ok(response) => response,
                Err(_) => problem(StatusCode::SERVICE_UNAVAILABLE, "late", "the call took too long and was given up"),
            }
        }
        Err(Refusal(status, code, detail)) => problem(status, code, detail),
    };
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// Whether people can read a reason: one line of 500 bytes at most.
pub(super) fn is_reason(text: &str) -> bool {
    text.len() <= LONGEST_REASON && !text.contains(char::is_control)
}

/// An error of the listener's own.
pub(super) fn problem(status: StatusCode, code: &str, detail: &str) -> Response {
    let title = status.canonical_reason().unwrap_or_default();
    let problem = Problem { kind: format!("urn:banyan:admin:{code}"), title, status: status.as_u16(), detail };
    let mut response = (status, Json(problem)).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    if status == StatusCode::UNAUTHORIZED {
        headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}

// === impl Gate ===

impl Gate {
    fn judge(&self, headers: &HeaderMap) -> Result<Asker, Refusal> {
        if self.takes == Takes::Nothing {
            return Ok(Asker(None));
        }
        let admin = self.app.file().loaded.admin.clone();
        let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
        if !is_ours(host, &admin.hosts) {
            let detail = "this listener is not known by that name; add it to `admin.hosts`";
            return Err(Refusal(StatusCode::MISDIRECTED_REQUEST, "host", detail));
        }
        if self.takes == Takes::Page {
            return Ok(Asker(None));
        }
        let door = &self.app.door;
        let good = door.keys.good(&admin);
        let bearer = bearer(headers);
        let (holder, by_cookie) = match bearer {
            Some(token) => match door.keys.holder(&good, token) {
                Some((holder, _)) => (Some(holder), false),
                None => return Err(Refusal(StatusCode::UNAUTHORIZED, "token", "this token is not known here")),
            },
            None => {
                let holder = session::holder(&door.keys, &good, headers);
                (holder, holder.is_some())
            }
        };
        let may_view = admin.tokens.view.is_none() && door.is_near();
        let own = Own { host, scheme: door.scheme() };
        let missing = Err(Refusal(StatusCode::UNAUTHORIZED, "token", "this takes a token: `Authorization: Bearer …`"));
        match self.takes {
            Takes::Nothing | Takes::Page => {}
            Takes::View if holder.is_none() && !may_view => return missing,
            Takes::View => {}
            Takes::SignIn => same_site(headers, own, true)?,
            Takes::Operate => {
                // Who has the token in hand is no page of another site; a browser adds the cookie whoever asks.
                same_site(headers, own, by_cookie)?;
                match holder.map(|holder| holder.role) {
                    Some(Role::Operate) => {}
                    Some(Role::View) => {
                        return Err(Refusal(StatusCode::FORBIDDEN, "role", "this takes a token that may operate"));
                    }
                    None => return missing,
                }
            }
        }
        Ok(Asker(holder))
    }
}

// === impl Own ===

impl Own<'_> {
    /// Without TLS here, there may be some in front.
    fn is_origin(self, origin: &[u8]) -> bool {
        let schemes: &[&str] = if self.scheme == "https" { &["https://"] } else { &["http://", "https://"] };
        let mut authorities = schemes.iter().filter_map(|scheme| origin.strip_prefix(scheme.as_bytes()));
        authorities.any(|authority| authority.eq_ignore_ascii_case(self.host.as_bytes()))
    }
}

// === impl Asker ===

impl<S: Sync> FromRequestParts<S> for Asker {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        Ok(parts.extensions.get().copied().unwrap_or(Self(None)))
    }
}

/// Only a name can be made to lead here by somebody else's DNS; an address and `localhost` cannot.
fn is_ours(host: &str, names: &[String]) -> bool {
    let name = without_port(host);
    let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    bare.parse::<IpAddr>().is_ok()
        || name.eq_ignore_ascii_case("localhost")
        || names.iter().any(|known| known.eq_ignore_ascii_case(name))
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if !port.is_empty() && port.bytes().all(|digit| digit.is_ascii_digit()) => name,
        _ => host,
    }
}

fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.as_bytes().split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| token.trim_ascii())
}

/// What a page of another site cannot send without being asked first, and there is no CORS here to say yes.
fn same_site(headers: &HeaderMap, own: Own<'_>, needs_origin: bool) -> Result<(), Refusal> {
    let refused = |code, detail| Err(Refusal(StatusCode::FORBIDDEN, code, detail));
    let value = |name: &str| headers.get(name).map(|value| value.as_bytes().trim_ascii());
    let kind =
        value("content-type").map(|kind| kind.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii());
    if !kind.is_some_and(|kind| kind.eq_ignore_ascii_case(b"application/json")) {
        return refused("content_type", "a call that changes something has `Content-Type: application/json`");
    }
    if value("x-banyan-request") != Some(b"1") {
        return refused("request_header", "a call that changes something has `X-Banyan-Request: 1`");
    }
    match value("origin") {
        None if !needs_origin => Ok(()),
        Some(origin) if own.is_origin(origin) => Ok(()),
        _ => refused("origin", "a call that changes something has an `Origin` that is this listener"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_localhost_and_named_hosts_are_ours() {
        let names = ["banyan.internal".to_owned()];
        for host in ["127.0.0.1:9901", "10.1.2.3", "[::1]:9901", "localhost", "LOCALHOST:9901", "Banyan.internal:9901"]
        {
            assert!(is_ours(host, &names), "{host}");
        }
        for host in [
            "",
            "evil.example:9901",
            "127.0.0.1.evil.example",
            "banyan.internal.evil.example",
            "localhost.evil.example",
        ] {
            assert!(!is_ours(host, &names), "{host}");
        }
    }

    #[test]
    fn an_origin_is_the_host_and_nothing_around_it() {
        let own = |scheme| Own { host: "127.0.0.1:9901", scheme };
        assert!(own("http").is_origin(b"http://127.0.0.1:9901"));
        assert!(own("http").is_origin(b"https://127.0.0.1:9901"), "TLS may end in front");
        assert!(own("https").is_origin(b"https://127.0.0.1:9901"));
        assert!(!own("https").is_origin(b"http://127.0.0.1:9901"));
        for origin in
            ["null", "", "http://127.0.0.1:8080", "http://127.0.0.1:9901.evil.example", "ftp://127.0.0.1:9901"]
        {
            assert!(!own("http").is_origin(origin.as_bytes()), "{origin}");
        }
    }
}
