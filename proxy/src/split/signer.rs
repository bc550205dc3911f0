//! Signs and checks Banyan's cookies: HMAC-SHA-256 with the file's `secret`, or with one made once in `state.dir/secret`.

use std::{
    fs, io,
    io::Write,
    path::{Path, PathBuf},
};

use hmac::{Hmac, KeyInit, Mac};
use secrecy::ExposeSecret;
use sha2::Sha256;

use crate::config::Config;

/// Bytes that a secret has at least.
pub const LEAST_SECRET: usize = 32;

/// A key, ready to sign.
#[derive(Clone)]
pub struct Signer(Hmac<Sha256>);

/// Why there is no signer.
#[derive(Debug, thiserror::Error)]
pub enum SignerError {
    /// The `secret` of the file, or the one in the state directory, is too short.
    #[error("the secret {place} has {length} bytes; expected 32 or more")]
    TooShort {
        /// Where it stands.
        place: String,
        /// How long it is.
        length: usize,
    },
    /// The state directory cannot be used.
    #[error("no secret can be kept in `{path}`")]
    Kept {
        /// The secret's file.
        path: PathBuf,
        /// What the system says.
        #[source]
        cause: io::Error,
    },
}

// === impl Signer ===

impl Signer {
    /// A signer with this key.
    ///
    /// # Errors
    /// When it has less than 32 bytes.
    pub fn try_new(secret: &[u8]) -> Result<Self, SignerError> {
        Self::from_place(secret, || "given".to_owned())
    }

    /// The config's signer. Without `secret` one is made once in `state.dir/secret` (0600), and only if a route has a sync: nothing else is
    /// signed.
    ///
    /// # Errors
    /// See [`SignerError`].
    pub fn of(config: &Config) -> Result<Self, SignerError> {
        if let Some(secret) = &config.secret {
            return Self::from_place(secret.expose_secret().as_bytes(), || "in the file".to_owned());
        }
        if config.routes.iter().all(|route| route.sync.is_none()) {
            let path = config.state.dir.clone();
            return Self::drawn().map_err(|cause| SignerError::Kept { path, cause });
        }
        let path = config.state.dir.join("secret");
        let secret = kept_secret(&path).map_err(|cause| SignerError::Kept { path: path.clone(), cause })?;
        Self::from_place(&secret, || format!("in `{}`", path.display()))
    }

    /// A signer whose key nobody knows: what it signs is believed by this process alone.
    pub(crate) fn drawn() -> io::Result<Self> {
        Hmac::new_from_slice(&random()?).map(Self).map_err(io::Error::other)
    }

    fn from_place(secret: &[u8], place: impl FnOnce() -> String) -> Result<Self, SignerError> {
        let too_short = |length| SignerError::TooShort { place: place(), length };
        if secret.len() < LEAST_SECRET {
            return Err(too_short(secret.len()));
        }
        Hmac::new_from_slice(secret).map(Self).map_err(|_| too_short(secret.len()))
    }

    /// The signature of a message.
    #[must_use]
    pub fn sign(&self, message: &[u8]) -> [u8; 32] {
        let mut mac = self.0.clone();
        mac.update(message);
        mac.finalize().into_bytes().into()
    }

    /// Whether a signature is the message's; compared in constant time.
    #[must_use]
    pub fn is_signed(&self, message: &[u8], signature: &[u8]) -> bool {
        let mut mac = self.0.clone();
        mac.update(message);
        mac.verify_slice(signature).is_ok()
    }
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Signer([redacted])")
    }
}

fn random() -> io::Result<[u8; 32]> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes)?;
    Ok(bytes)
}

/// A secret of the state directory; made if there is none (64 hexadecimal digits, 0600). A link puts it there whole or not at all, and the
/// first of several processes wins.
///
/// # Errors
/// When it can neither be read nor made.
pub fn kept_secret(path: &Path) -> io::Result<Vec<u8>> {
    match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        found => return found.map(|bytes| bytes.trim_ascii().to_vec()),
    }
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    let mut text = String::new();
    for byte in random()? {
        use std::fmt::Write;
        let _ = write!(text, "{byte:02x}");
    }
    let draft = path.with_extension(format!("new.{:016x}", getrandom::u64()?));
    let written = private_file(&draft).and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.sync_all()
    });
    let linked = written.and_then(|()| match fs::hard_link(&draft, path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    });
    fs::remove_file(&draft)?;
    linked?;
    fs::read(path).map(|bytes| bytes.trim_ascii().to_vec())
}

#[cfg(unix)]
fn private_file(path: &Path) -> io::Result<fs::File> {
    use std::os::unix::fs::OpenOptionsExt;
    fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)
}

#[cfg(not(unix))]
fn private_file(path: &Path) -> io::Result<fs::File> {
    fs::File::create(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::tests::config;

    fn synced() -> serde_json::Value {
        serde_json::json!([{"name": "r", "match": {"path": "/r"}, "legacy": "monolith", "sync": "money"}])
    }

    fn without_secret(routes: serde_json::Value, dir: &Path) -> Config {
        Config { secret: None, state: crate::config::State { dir: dir.to_owned(), shared: false }, ..config(routes) }
    }

    #[test]
    fn a_secret_of_less_than_32_bytes_is_refused() {
        assert!(matches!(Signer::try_new(&[7; 31]), Err(SignerError::TooShort { length: 31, .. })));
        assert!(Signer::try_new(&[7; 32]).is_ok());
    }

    #[test]
    fn a_secret_is_made_once_and_readable_by_its_owner_alone() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        let config = without_secret(synced(), &state);
        let first = Signer::of(&config).unwrap();
        let again = Signer::of(&config).unwrap();
        assert!(again.is_signed(b"message", &first.sign(b"message")));
        let mode = fs::metadata(state.join("secret")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(fs::read_dir(&state).unwrap().count(), 1);
    }

    #[test]
    fn several_processes_that_start_at_once_agree_on_one_secret() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        let secrets: Vec<Vec<u8>> = std::thread::scope(|scope| {
            let all: Vec<_> = (0..8).map(|_| scope.spawn(|| kept_secret(&path).unwrap())).collect();
            all.into_iter().map(|one| one.join().unwrap()).collect()
        });
        assert!(secrets.iter().all(|secret| *secret == secrets[0] && secret.len() == 64));
    }

    #[test]
    fn nothing_is_written_where_nothing_is_signed() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        assert!(Signer::of(&without_secret(serde_json::json!([]), &state)).is_ok());
        assert!(!state.exists());
    }

    #[test]
    fn a_signature_holds_for_its_message_and_key_alone() {
        let (a, b) = (Signer::try_new(&[1; 32]).unwrap(), Signer::try_new(&[2; 32]).unwrap());
        let signature = a.sign(b"message");
        assert!(a.is_signed(b"message", &signature));
        assert!(!a.is_signed(b"massage", &signature));
        assert!(!a.is_signed(b"message", &signature[..31]));
        assert!(!b.is_signed(b"message", &signature));
        assert!(!format!("{a:?}").contains('1'));
    }
}
