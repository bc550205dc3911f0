//! Cookies of a request, and what Banyan's own do to an answer.

use http::{
    HeaderMap, HeaderValue,
    header::{CACHE_CONTROL, COOKIE, EXPIRES, SET_COOKIE},
};

/// The raw value of the first cookie with this name that has one. RFC 6265, 5.4: pairs divided by `;`; several `Cookie` lines count as one.
pub(crate) fn find<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h [u8]> {
    headers.get_all(COOKIE).iter().flat_map(|line| line.as_bytes().split(|b| *b == b';')).find_map(|pair| {
        let pair = pair.trim_ascii();
        let value = pair.strip_prefix(name.as_bytes())?.strip_prefix(b"=")?;
        (!value.is_empty()).then_some(value)
    })
}

/// Adds a cookie of Banyan's own to an answer, unless a cache may share that answer; where it says nothing, it is made private, since a
/// cache may otherwise guess (RFC 9111, 4.2.2). Says whether the cookie was added.
pub fn add_private(headers: &mut HeaderMap, cookie: HeaderValue) -> bool {
    let control = CacheControl::of(headers);
    if !control.private && !control.no_store {
        if control.shareable {
            return false;
        }
        // A line of its own adds to the list (RFC 9110, 5.3).
        headers.append(CACHE_CONTROL, HeaderValue::from_static("private"));
    }
    headers.append(SET_COOKIE, cookie);
    true
}

/// What an answer says of being stored.
#[derive(Default)]
struct CacheControl {
    private: bool,
    no_store: bool,
    /// It invites shared caches, or says for how long it stays fresh.
    shareable: bool,
}

// === impl CacheControl ===

impl CacheControl {
    fn of(headers: &HeaderMap) -> Self {
        let mut found = Self {
            shareable: headers.contains_key("cdn-cache-control") || headers.contains_key("surrogate-control"),
            ..Self::default()
        };
        let mut has_age = false;
        for directive in headers.get_all(CACHE_CONTROL).iter().flat_map(|line| line.as_bytes().split(|b| *b == b',')) {
            let directive = directive.trim_ascii();
            let (name, value) = match directive.iter().position(|b| *b == b'=') {
                Some(at) => (directive[..at].trim_ascii_end(), directive[at + 1..].trim_ascii()),
                None => (directive, &b""[..]),
            };
            let is = |text: &str| name.eq_ignore_ascii_case(text.as_bytes());
            if is("private") {
                found.private |= value.is_empty();
            } else if is("no-store") {
                found.no_store = true;
            } else if is("public") || is("s-maxage") {
                found.shareable = true;
            } else if is("max-age") {
                has_age = true;
                found.shareable |= value.iter().any(|b| (b'1'..=b'9').contains(b));
            }
        }
        // `Expires: 0` and dates gone by are common, and say "stale".
        if !has_age
            && let Some(expires) = headers.get(EXPIRES).and_then(|value| value.to_str().ok())
            && let Ok(at) = httpdate::parse_http_date(expires)
        {
            found.shareable |= at > std::time::SystemTime::now();
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn answer(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    fn cookie() -> HeaderValue {
        HeaderValue::from_static("banyan_id=x")
    }

    #[test]
    fn a_cookie_is_found_among_others_and_over_several_lines() {
        let headers = answer(&[("cookie", "a=1; banyan_idx=no;banyan_id="), ("cookie", " banyan_id=yes ; b=2")]);
        assert_eq!(find(&headers, "banyan_id"), Some(&b"yes"[..]));
        assert_eq!(find(&headers, "banyan"), None);
    }

    #[test]
    fn banyans_cookie_is_never_on_an_answer_that_a_cache_may_share() {
        for line in [
            ("cache-control", "public"),
            ("cache-control", "max-age=60"),
            ("cache-control", "S-MaxAge=5, max-age=0"),
            ("cache-control", "private=\"x-user\", max-age=60"),
            ("expires", "Fri, 31 Dec 9999 23:59:59 GMT"),
            ("cdn-cache-control", "max-age=60"),
        ] {
            let mut headers = answer(&[line]);
            assert!(!add_private(&mut headers, cookie()), "{line:?}");
            assert!(!headers.contains_key(SET_COOKIE), "{line:?}");
        }
    }

    #[test]
    fn an_answer_that_says_nothing_of_caches_becomes_private_with_the_cookie() {
        for lines in [&[][..], &[("cache-control", "no-cache")], &[("expires", "0")], &[("cache-control", "max-age=0")]]
        {
            let mut headers = answer(lines);
            assert!(add_private(&mut headers, cookie()), "{lines:?}");
            assert!(headers.get_all(CACHE_CONTROL).iter().any(|line| line == "private"), "{lines:?}");
        }
        let mut headers = answer(&[("cache-control", "private, max-age=60")]);
        assert!(add_private(&mut headers, cookie()));
        assert_eq!(headers.get_all(CACHE_CONTROL).iter().count(), 1);
    }

    proptest! {
        #[test]
        fn the_first_pair_of_that_name_is_found_whatever_stands_around_it(
            before in "[ -:<-~]{0,20}",
            after in "[ -~]{0,20}",
            value in "[!-:<-~]{1,20}",
        ) {
            let mut headers = HeaderMap::new();
            headers.insert(COOKIE, format!("{before};banyan_id={value};{after}").parse().unwrap());
            let found = find(&headers, "banyan_id").unwrap();
            prop_assert!(found == value.as_bytes() || before.trim().starts_with("banyan_id="), "{found:?}");
        }
    }
}
