//! How many requests one key may make on a route: the generic cell rate algorithm of `governor`, over a memory of fixed size that all workers
//! share. Only routes with `rate_limit` have one.

mod memory;

use std::{borrow::Cow, net::IpAddr, sync::Arc, time::Duration};

use governor::{
    Quota, RateLimiter,
    clock::{Clock, MonotonicClock},
};
use http::HeaderMap;

use crate::{
    config::{self, RateKey},
    split::{address_key, find_cookie},
    table::KeySource,
};
use memory::{Memory, Place};

/// One route's limit.
pub struct RateLimit {
    /// As the file says it: a reload that leaves it as it is keeps what was counted.
    settings: config::RateLimit,
    /// `None` in the list is the client's address.
    keys: Box<[Option<KeySource>]>,
    /// One of the keys is a header that `identity` copies.
    is_of_users: bool,
    /// Shared by all workers and, over reloads, by all tables.
    counted: Arc<Counted>,
}

struct Counted {
    limiter: RateLimiter<Place, Memory, MonotonicClock>,
    /// Drawn at start, so that nobody can aim at a row of the memory.
    seed: u64,
}

// === impl RateLimit ===

impl RateLimit {
    /// The file's form of it; `None` when it allows more than one request a nanosecond, which the file's own check refuses. `copied`: what
    /// `identity` copies.
    pub(crate) fn new(settings: &config::RateLimit, copied: &[config::HeaderName]) -> Option<Self> {
        let requests = settings.requests.max(1);
        let burst = settings.burst.unwrap_or(requests).try_into().ok()?;
        let quota = Quota::with_period(settings.every / requests)?.allow_burst(burst);
        let key = |key: &RateKey| match key {
            RateKey::Header(name) => {
                Some(KeySource::Header(http::HeaderName::from_bytes(name.as_str().as_bytes()).ok()?))
            }
            RateKey::Cookie(name) => Some(KeySource::Cookie(name.as_str().into())),
            RateKey::ClientAddress => None,
        };
        let mut seed = [0; 8];
        // Without randomness it still counts; a row could only be aimed at.
        let _ = getrandom::fill(&mut seed);
        let limiter = RateLimiter::new(quota, Memory::default(), MonotonicClock);
        Some(Self {
            settings: settings.clone(),
            keys: settings.key.iter().map(key).collect(),
            is_of_users: settings.key.iter().any(|key| matches!(key, RateKey::Header(name) if copied.contains(name))),
            counted: Arc::new(Counted { limiter, seed: u64::from_ne_bytes(seed) }),
        })
    }

    /// Whether it can only be told behind the asking of `identity`.
    pub(crate) fn is_of_users(&self) -> bool {
        self.is_of_users
    }

    /// Takes over what an earlier table counted, if the limit is the same.
    pub(crate) fn follow(&mut self, before: &Self) {
        if self.settings == before.settings {
            self.counted = Arc::clone(&before.counted);
        }
    }

    /// Counts a request; an error says after which time the next one may come.
    ///
    /// # Errors
    /// When its key has made too many.
    pub(crate) fn check(&self, headers: &HeaderMap, client: IpAddr) -> Result<(), Duration> {
        let (source, key) = self.key(headers, client);
        let Counted { limiter, seed } = &*self.counted;
        let place = Place::new(*seed, source, &key);
        limiter.check_key(&place).map_err(|not_until| not_until.wait_time_from(limiter.clock().now()))
    }

    /// The key of a request, and the place in the list where it was found; behind the list stands the client's address.
    fn key<'h>(&self, headers: &'h HeaderMap, client: IpAddr) -> (usize, Cow<'h, [u8]>) {
        for (at, source) in self.keys.iter().enumerate() {
            let found = match source {
                Some(KeySource::Header(name)) => headers.get(name).map(http::HeaderValue::as_bytes),
                Some(KeySource::Cookie(name)) => find_cookie(headers, name),
                None => break,
            };
            if let Some(bytes) = found.filter(|bytes| !bytes.is_empty()) {
                return (at, Cow::Borrowed(bytes));
            }
        }
        (usize::MAX, Cow::Owned(address_key(client)))
    }

    /// What is counted by, in order, for `explain`; the client's address is not named.
    pub fn sources(&self) -> impl Iterator<Item = &KeySource> {
        self.keys.iter().map_while(Option::as_ref)
    }

    /// As the file says it.
    #[must_use]
    pub fn settings(&self) -> &config::RateLimit {
        &self.settings
    }
}

impl std::fmt::Debug for RateLimit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RateLimit").field("settings", &self.settings).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLIENT: &str = "192.0.2.7";

    fn limit(form: serde_json::Value) -> RateLimit {
        RateLimit::new(&serde_json::from_value(form).unwrap(), &[]).unwrap()
    }

    fn ask(limit: &RateLimit, lines: &[(&'static str, &'static str)], client: &str) -> Result<(), Duration> {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, value.parse().unwrap());
        }
        limit.check(&headers, client.parse().unwrap())
    }

    #[test]
    fn a_key_gets_its_burst_and_then_waits_and_others_do_not() {
        let limit = limit(serde_json::json!({"requests": 2, "every": "1h", "key": [{"header": "x-api-key"}]}));
        let ann = [("x-api-key", "ann")];
        assert_eq!(ask(&limit, &ann, CLIENT), Ok(()));
        assert_eq!(ask(&limit, &ann, CLIENT), Ok(()));
        let wait = ask(&limit, &ann, "198.51.100.1").unwrap_err();
        assert!(wait > Duration::from_secs(29 * 60) && wait <= Duration::from_secs(30 * 60), "{wait:?}");
        assert_eq!(ask(&limit, &[("x-api-key", "bob")], CLIENT), Ok(()));
    }

    #[test]
    fn who_brings_no_key_is_counted_by_address() {
        let limit = limit(
            serde_json::json!({"requests": 1, "every": "1h", "key": [{"header": "x-api-key"}, {"cookie": "id"}]}),
        );
        assert_eq!(ask(&limit, &[("x-api-key", "")], CLIENT), Ok(()));
        assert!(ask(&limit, &[], "::ffff:192.0.2.7").is_err());
        assert_eq!(ask(&limit, &[("cookie", "id=1")], CLIENT), Ok(()));
        assert!(ask(&limit, &[("cookie", "a=b; id=1")], CLIENT).is_err());
        assert_eq!(ask(&limit, &[], "2001:db8::1"), Ok(()));
        assert!(ask(&limit, &[], "2001:db8::2").is_err(), "one /64 is one client");
    }

    #[test]
    fn the_same_text_in_two_places_is_two_keys() {
        let limit = limit(serde_json::json!({"requests": 1, "every": "1h", "key": [{"header": "a"}, {"header": "b"}]}));
        assert_eq!(ask(&limit, &[("a", "x")], CLIENT), Ok(()));
        assert_eq!(ask(&limit, &[("b", "x")], CLIENT), Ok(()));
        assert!(ask(&limit, &[("b", "x")], CLIENT).is_err());
    }

    #[test]
    fn a_reload_forgets_nothing_unless_the_limit_is_another() {
        let form = serde_json::json!({"requests": 1, "every": "1h"});
        let old = limit(form.clone());
        assert_eq!(ask(&old, &[], CLIENT), Ok(()));
        let mut same = limit(form);
        same.follow(&old);
        assert!(ask(&same, &[], CLIENT).is_err());
        let mut other = limit(serde_json::json!({"requests": 2, "every": "1h"}));
        other.follow(&old);
        assert_eq!(ask(&other, &[], CLIENT), Ok(()));
    }
}
