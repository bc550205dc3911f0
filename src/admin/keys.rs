//! Who may ask: tokens and their roles. Only their signatures under a key of this process are kept, and compared in constant time.

use std::{
    io,
    path::{Path, PathBuf},
};

use banyan_proxy::split::{Signer, kept_secret};
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;

use super::Admin;

/// What the holder of a token may do; whoever may operate may view.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Role {
    View,
    Operate,
}

/// Whose token was shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Holder {
    pub(crate) role: Role,
    /// The token's name, for audit lines: `view`, `operate`, or `admin.token` for the one of `state.dir`.
    pub(crate) name: &'static str,
}

/// The process's own part: a key made at its start, and the token of `state.dir`.
pub(crate) struct Keys {
    signer: Signer,
    local: Option<[u8; 32]>,
}

/// Tokens that are good now, as signatures: those of the file in force and the one of `state.dir`.
pub(super) struct Good(Vec<(Holder, [u8; 32])>);

/// Where the token is kept that the command line finds by itself.
pub(crate) fn token_path(dir: &Path) -> PathBuf {
    dir.join("admin.token")
}

/// The token of a state directory; made once (0600).
///
/// # Errors
/// When it can neither be read nor made.
pub(crate) fn kept_token(dir: &Path) -> io::Result<SecretString> {
    let token = String::from_utf8(kept_secret(&token_path(dir))?).map_err(io::Error::other)?;
    if token.len() < 32 {
        return Err(io::Error::other("it holds less than 32 bytes; remove it, and a new one is made"));
    }
    Ok(token.into())
}

// === impl Keys ===

impl Keys {
    /// With the token of `state.dir`, where there is one.
    ///
    /// # Errors
    /// When the system gives no random bytes.
    pub(crate) fn try_new(local: Option<&SecretString>) -> anyhow::Result<Self> {
        let mut key = [0; 32];
        getrandom::fill(&mut key)?;
        let signer = Signer::try_new(&key)?;
        let local = local.map(|token| signer.sign(token.expose_secret().as_bytes()));
        Ok(Self { signer, local })
    }

    /// What a file's `admin` makes good.
    pub(super) fn good(&self, admin: &Admin) -> Good {
        let of = |role, name, token: &Option<SecretString>| {
            token.as_ref().map(|token| (Holder { role, name }, self.signer.sign(token.expose_secret().as_bytes())))
        };
        let local = self.local.map(|local| (Holder { role: Role::Operate, name: "admin.token" }, local));
        let tokens = &admin.tokens;
        let all = [of(Role::View, "view", &tokens.view), of(Role::Operate, "operate", &tokens.operate), local];
        Good(all.into_iter().flatten().collect())
    }

    /// Whoever shows this token. Every good one is compared, whichever it is.
    pub(super) fn holder(&self, good: &Good, token: &[u8]) -> Option<(Holder, [u8; 32])> {
        let mut found = None;
        for (holder, signature) in &good.0 {
            if self.signer.is_signed(token, signature) {
                found = Some((*holder, *signature));
            }
        }
        found
    }

    /// Signs a session of the token with this signature.
    pub(super) fn sign(&self, session: &str, token: &[u8; 32]) -> [u8; 32] {
        self.signer.sign(&[session.as_bytes(), b"\n", token].concat())
    }

    /// Whose a session is, if a token that is good now began it.
    pub(super) fn session_holder(&self, good: &Good, session: &str, signature: &[u8]) -> Option<Holder> {
        let mut found = None;
        for (holder, token) in &good.0 {
            if self.signer.is_signed(&[session.as_bytes(), b"\n", token].concat(), signature) {
                found = Some(*holder);
            }
        }
        found
    }
}
