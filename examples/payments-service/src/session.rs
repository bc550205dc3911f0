//! Who is signed in: one cookie, signed with a key that every part of the shop knows.
//!
//! **Only signature and expiry are checked here.** The `sessions` table is not in this service's database, so a session that was signed out
//! elsewhere is still accepted until it expires, at most an hour later, if somebody kept its cookie. That is this service's choice, made for
//! one database less on the way of every payment; docs/guides/sessions.md says what it costs and how to choose otherwise.

use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use axum::extract::FromRequestParts;
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit as _, Mac as _};
use http::{header, request::Parts};
use sha2::Sha256;

use crate::{Service, answer::Refusal};

/// The cookie's name, on every side of the shop.
const COOKIE: &str = "shop_session";

/// The key that signs sessions and forms.
pub(crate) struct SessionKey(Vec<u8>);

/// Somebody who is signed in. As an argument of a handler it refuses everybody else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Session {
    /// Random; what a form's token is bound to.
    pub(crate) id: String,
    /// Whose it is.
    pub(crate) account_id: i64,
    /// The account's name: letters, digits and `_`.
    pub(crate) name: String,
    /// Unix seconds.
    pub(crate) expires: u64,
}

// === impl SessionKey ===

impl SessionKey {
    pub(crate) fn new(key: &str) -> Self {
        Self(key.as_bytes().to_vec())
    }

    /// The session in a cookie's value, if its signature is ours and it has not expired.
    pub(crate) fn open(&self, value: &str, now: u64) -> Option<Session> {
        let (claims, signature) = value.rsplit_once('.')?;
        self.mac(claims).verify_slice(&BASE64_URL_SAFE_NO_PAD.decode(signature).ok()?).ok()?;
        let mut fields = claims.split('.');
        let (Some("v1"), Some(id), Some(account_id), Some(name), Some(expires), None) =
            (fields.next(), fields.next(), fields.next(), fields.next(), fields.next(), fields.next())
        else {
            return None;
        };
        let expires = expires.parse().ok().filter(|at| *at > now)?;
        Some(Session { id: id.to_owned(), account_id: account_id.parse().ok()?, name: name.to_owned(), expires })
    }

    /// What a form carries so that only a page of the shop can have made it. It depends on nothing but the session and the key, so that
    /// a form rendered by one side can be posted to the other.
    pub(crate) fn form_token(&self, session: &Session) -> String {
        BASE64_URL_SAFE_NO_PAD.encode(self.mac(&format!("form.{}", session.id)).finalize().into_bytes())
    }

    /// Whether `token` came from a form that was rendered for this session, here or elsewhere.
    pub(crate) fn accepts_form(&self, session: &Session, token: &str) -> bool {
        let Ok(token) = BASE64_URL_SAFE_NO_PAD.decode(token) else { return false };
        self.mac(&format!("form.{}", session.id)).verify_slice(&token).is_ok()
    }

    fn mac(&self, message: &str) -> Hmac<Sha256> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC takes keys of any length");
        mac.update(message.as_bytes());
        mac
    }
}

// === impl Session ===

impl FromRequestParts<Arc<Service>> for Session {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, service: &Arc<Service>) -> Result<Self, Refusal> {
        cookies(parts).find_map(|value| service.sessions.open(value, now())).ok_or(Refusal::SignIn)
    }
}

fn cookies(parts: &Parts) -> impl Iterator<Item = &str> {
    let lines = parts.headers.get_all(header::COOKIE).iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().strip_prefix(COOKIE)?.strip_prefix('='))
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The same text stands in the tests of legacy-app and accounts-service: what one signs, all read.
    const GOLDEN: &str = "v1.c2Vzc2lvbg.7.gus.2000000000.5k82PcrWK9ryBIYp7lx22R6_2hrkY7P1fFu1IZokNoQ";

    fn gus() -> Session {
        Session { id: "c2Vzc2lvbg".into(), account_id: 7, name: "gus".into(), expires: 2_000_000_000 }
    }

    #[test]
    fn a_cookie_that_another_side_signed_is_accepted() {
        let key = SessionKey::new("golden-key");
        assert_eq!(key.open(GOLDEN, 1_999_999_999), Some(gus()));
    }

    #[test]
    fn a_session_that_expired_or_was_changed_or_signed_elsewhere_is_none() {
        let key = SessionKey::new("golden-key");
        assert_eq!(key.open(GOLDEN, 2_000_000_000), None);
        assert_eq!(key.open(&GOLDEN.replace(".7.", ".8."), 0), None);
        assert_eq!(SessionKey::new("another").open(GOLDEN, 0), None);
    }

    #[test]
    fn a_form_of_another_session_is_refused() {
        let key = SessionKey::new("golden-key");
        let other = Session { id: "b3RoZXI".into(), ..gus() };
        assert!(key.accepts_form(&gus(), &key.form_token(&gus())));
        assert!(!key.accepts_form(&gus(), &key.form_token(&other)));
    }
}
