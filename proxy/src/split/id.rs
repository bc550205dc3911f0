//! Banyan's own sticky cookie, for users who bring no other key. Its value is drawn before the side is chosen, so that the first answer
//! already follows it.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{HeaderMap, HeaderValue, header::ACCEPT};

/// The cookie's name.
pub const ID_COOKIE: &str = "banyan_id";

/// A value drawn for a user who has none yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewId(String);

// === impl NewId ===

impl NewId {
    /// Draws 16 random bytes; `None` when the system has no randomness to give, and the request then has no key.
    pub(super) fn draw() -> Option<Self> {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes).ok()?;
        Some(Self(URL_SAFE_NO_PAD.encode(bytes)))
    }

    /// The key that it is.
    #[must_use]
    pub fn key(&self) -> &[u8] {
        self.0.as_bytes()
    }

    /// The `Set-Cookie` of it: a year, for every path, not for scripts, not for other sites' sub-requests. It is no secret: it only tells
    /// users apart.
    #[must_use]
    pub fn set_cookie(&self) -> HeaderValue {
        let text = format!("{ID_COOKIE}={}; Path=/; Max-Age=31536000; HttpOnly; SameSite=Lax", self.0);
        HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static(""))
    }
}

/// Whether a person's browser loads a page: only then is the cookie made, since programs do not keep it.
pub(super) fn is_page_load(headers: &HeaderMap) -> bool {
    match headers.get("sec-fetch-mode") {
        Some(mode) => mode == "navigate",
        None => headers
            .get_all(ACCEPT)
            .iter()
            .any(|line| line.as_bytes().to_ascii_lowercase().split(|b| *b == b',').any(is_html)),
    }
}

fn is_html(range: &[u8]) -> bool {
    range
        .trim_ascii()
        .strip_prefix(b"text/html")
        .is_some_and(|rest| rest.is_empty() || rest.trim_ascii_start().starts_with(b";"))
}
