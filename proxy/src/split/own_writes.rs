//! The cookie `banyan_w`: on which syncs its bearer wrote, and until when their reads follow the owner. Signed, so that nobody can make Banyan
//! send all reads to the owner for years; it holds no secret.
//!
//! Its value is `<entries>.<signature>`, both base64url; an entry is a line `<sync>=<milliseconds since 1970>`.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{HeaderMap, HeaderValue};

use super::{Signer, cookie};

/// The cookie's name.
pub const WRITES_COOKIE: &str = "banyan_w";

/// More syncs than anybody writes to within seconds; keeps the cookie short.
const MOST: usize = 8;
/// A longer value was not made here.
const LONGEST: usize = 2048;
/// Signed in front of the entries, so that a signature serves for nothing else.
const PURPOSE: &[u8] = b"banyan_w 1\n";

/// What a genuine cookie says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct OwnWrites(Vec<(String, u64)>);

// === impl OwnWrites ===

impl OwnWrites {
    /// Reads the request's cookie; empty when there is none, or one that was not signed here.
    pub(super) fn of(headers: &HeaderMap, signer: &Signer) -> Self {
        cookie::find(headers, WRITES_COOKIE).and_then(|value| Self::read(value, signer)).unwrap_or_default()
    }

    fn read(value: &[u8], signer: &Signer) -> Option<Self> {
        if value.len() > LONGEST {
            return None;
        }
        let dot = value.iter().position(|b| *b == b'.')?;
        let mut message = PURPOSE.to_vec();
        URL_SAFE_NO_PAD.decode_vec(&value[..dot], &mut message).ok()?;
        let signature = URL_SAFE_NO_PAD.decode(&value[dot + 1..]).ok()?;
        if !signer.is_signed(&message, &signature) {
            return None;
        }
        let entries = std::str::from_utf8(&message[PURPOSE.len()..]).ok()?;
        let entry = |line: &str| {
            let (sync, until) = line.rsplit_once('=')?;
            Some((sync.to_owned(), until.parse().ok()?))
        };
        entries.lines().map(entry).collect::<Option<Vec<_>>>().map(Self)
    }

    /// Whether its bearer wrote on this sync, and it is not over.
    pub(super) fn wrote(&self, sync: &str, now: SystemTime) -> bool {
        let now = millis(now);
        self.0.iter().any(|(name, until)| name == sync && *until > now)
    }

    /// The `Set-Cookie` after another write: what is over is left out.
    pub(super) fn after(&self, sync: &str, lasts: Duration, now: SystemTime, signer: &Signer) -> HeaderValue {
        let until = millis(now + lasts);
        let now = millis(now);
        let others = self.0.iter().map(|(name, end)| (name.as_str(), *end));
        let mut entries = vec![(sync, until)];
        entries.extend(others.filter(|(name, end)| *name != sync && *end > now));
        entries.sort_by_key(|(_, end)| std::cmp::Reverse(*end));
        entries.truncate(MOST);
        let age = entries.iter().map(|(_, end)| end.saturating_sub(now)).max().unwrap_or(0).div_ceil(1000);
        let lines: Vec<String> = entries.iter().map(|(name, end)| format!("{name}={end}")).collect();
        let lines = lines.join("\n");
        let signature = signer.sign(&[PURPOSE, lines.as_bytes()].concat());
        let value = format!("{}.{}", URL_SAFE_NO_PAD.encode(lines), URL_SAFE_NO_PAD.encode(signature));
        let text = format!("{WRITES_COOKIE}={value}; Path=/; Max-Age={age}; HttpOnly; SameSite=Lax");
        HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static(""))
    }
}

fn millis(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn signer(key: u8) -> Signer {
        Signer::try_new(&[key; 32]).unwrap()
    }

    fn now() -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_800_000_000)
    }

    /// What a browser sends back.
    fn sent(set_cookie: &HeaderValue) -> String {
        set_cookie.to_str().unwrap().split(';').next().unwrap().to_owned()
    }

    fn read(cookie: &str, signer: &Signer) -> OwnWrites {
        let mut headers = HeaderMap::new();
        headers.insert("cookie", HeaderValue::try_from(cookie).unwrap());
        OwnWrites::of(&headers, signer)
    }

    #[test]
    fn a_user_reads_what_they_wrote_until_the_time_is_over() {
        let signer = signer(1);
        let first = OwnWrites::default().after("payments", Duration::from_secs(2), now(), &signer);
        let second = read(&sent(&first), &signer).after("accounts", Duration::from_secs(5), now(), &signer);
        let known = read(&sent(&second), &signer);
        assert!(known.wrote("payments", now() + Duration::from_millis(1999)));
        assert!(!known.wrote("payments", now() + Duration::from_secs(2)));
        assert!(known.wrote("accounts", now() + Duration::from_secs(4)));
        assert!(!known.wrote("orders", now()));
        assert!(second.to_str().unwrap().contains("Max-Age=5;"));
    }

    #[test]
    fn a_cookie_of_another_secret_says_nothing() {
        let made = OwnWrites::default().after("payments", Duration::from_secs(2), now(), &signer(1));
        assert_eq!(read(&sent(&made), &signer(2)), OwnWrites::default());
    }

    #[test]
    fn a_users_cookie_does_not_grow_with_their_writes() {
        let signer = signer(1);
        let mut cookie = OwnWrites::default().after("s0", Duration::from_secs(9), now(), &signer);
        for sync in 1..100 {
            cookie = read(&sent(&cookie), &signer).after(&format!("s{sync}"), Duration::from_secs(9), now(), &signer);
        }
        assert_eq!(read(&sent(&cookie), &signer).0.len(), MOST);
        assert!(read(&sent(&cookie), &signer).wrote("s99", now()));
    }

    proptest! {
        #[test]
        fn a_cookie_that_was_tampered_with_says_nothing(at in 9usize..90, flip in 1u8..=255) {
            let signer = signer(1);
            let made = sent(&OwnWrites::default().after("payments", Duration::from_secs(2), now(), &signer));
            let mut bytes = made.clone().into_bytes();
            let at = at % bytes.len();
            bytes[at] ^= flip;
            let Ok(header) = HeaderValue::from_bytes(&bytes) else { return Ok(()) };
            let mut headers = HeaderMap::new();
            headers.insert("cookie", header);
            let known = OwnWrites::of(&headers, &signer);
            prop_assert_eq!(known, OwnWrites::default());
        }

        #[test]
        fn no_cookie_makes_it_panic(value in "\\PC{0,200}") {
            let mut headers = HeaderMap::new();
            if let Ok(value) = HeaderValue::try_from(format!("banyan_w={value}")) {
                headers.insert("cookie", value);
            }
            prop_assert_eq!(OwnWrites::of(&headers, &signer(1)), OwnWrites::default());
        }
    }
}
