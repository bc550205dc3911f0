//! What a request shows of who it comes from: its cookies and its `Authorization`.

use http::{
    HeaderMap, HeaderValue,
    header::{AUTHORIZATION, COOKIE},
};

use crate::split::{ID_COOKIE, WRITES_COOKIE};

/// Never in a log: the reason why it shows nothing of itself.
pub(crate) struct Credentials {
    /// As one `Cookie` line; empty when there is none.
    cookies: Vec<u8>,
    authorization: Vec<HeaderValue>,
}

// === impl Credentials ===

impl Credentials {
    /// `None` when there are none. `names`: the cookies that count; all but Banyan's own where they are not named.
    pub(super) fn of(headers: &HeaderMap, names: Option<&[String]>) -> Option<Self> {
        let counts = |name: &[u8]| match names {
            Some(names) => names.iter().any(|known| known.as_bytes() == name),
            None => name != ID_COOKIE.as_bytes() && name != WRITES_COOKIE.as_bytes(),
        };
        let mut cookies = Vec::new();
        for pair in headers.get_all(COOKIE).iter().flat_map(|line| line.as_bytes().split(|b| *b == b';')) {
            let pair = pair.trim_ascii();
            let name = pair.split(|b| *b == b'=').next().unwrap_or_default();
            if !pair.is_empty() && counts(name.trim_ascii_end()) {
                if !cookies.is_empty() {
                    cookies.extend_from_slice(b"; ");
                }
                cookies.extend_from_slice(pair);
            }
        }
        let authorization: Vec<HeaderValue> = headers.get_all(AUTHORIZATION).iter().cloned().collect();
        (!cookies.is_empty() || !authorization.is_empty()).then_some(Self { cookies, authorization })
    }

    /// All of them, so that no other ones give the same bytes: no header's value holds a line's end.
    pub(super) fn message(&self, place: &[u8]) -> Vec<u8> {
        let mut message = [place, &self.cookies[..]].join(&b'\n');
        for line in &self.authorization {
            message.push(b'\n');
            message.extend_from_slice(line.as_bytes());
        }
        message
    }

    /// Passes them on.
    pub(crate) fn put(&self, headers: &mut HeaderMap) {
        if !self.cookies.is_empty()
            && let Ok(mut cookies) = HeaderValue::from_bytes(&self.cookies)
        {
            cookies.set_sensitive(true);
            headers.insert(COOKIE, cookies);
        }
        for line in &self.authorization {
            headers.append(AUTHORIZATION, line.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::headers;

    fn passed_on(lines: &[(&'static str, &'static str)], names: Option<&[String]>) -> Option<HeaderMap> {
        let mut headers_on = HeaderMap::new();
        Credentials::of(&headers(lines), names)?.put(&mut headers_on);
        Some(headers_on)
    }

    #[test]
    fn banyans_own_cookies_are_no_credentials() {
        assert_eq!(passed_on(&[("cookie", "banyan_id=x; banyan_w=y")], None), None);
        assert_eq!(passed_on(&[("cookie", " ; "), ("accept", "*/*")], None), None);
        let some = passed_on(&[("cookie", "banyan_id=x;sid=1 ; nameless"), ("cookie", "a=b=c")], None);
        assert_eq!(some, Some(headers(&[("cookie", "sid=1; nameless; a=b=c")])));
    }

    #[test]
    fn where_cookies_are_named_the_others_do_not_count() {
        let names = Some(&["sid".to_owned()][..]);
        assert_eq!(passed_on(&[("cookie", "_ga=1; sidx=2")], names), None);
        let some = passed_on(&[("cookie", "_ga=1; sid=2"), ("authorization", "Bearer t")], names);
        assert_eq!(some, Some(headers(&[("cookie", "sid=2"), ("authorization", "Bearer t")])));
    }

    #[test]
    fn no_two_requests_with_other_credentials_look_alike() {
        let of = |host: &[u8], lines| Credentials::of(&headers(lines), None).unwrap().message(host);
        let messages = [
            of(b"a", &[("cookie", "s=1")]),
            of(b"b", &[("cookie", "s=1")]),
            of(b"a", &[("cookie", "s=1; t=2")]),
            of(b"a", &[("authorization", "s=1")]),
            of(b"a", &[("cookie", "s=1"), ("authorization", "t=2")]),
            of(b"a", &[("authorization", "s=1"), ("authorization", "t=2")]),
        ];
        for (at, one) in messages.iter().enumerate() {
            assert!(messages[at + 1..].iter().all(|other| other != one), "{at}");
        }
        // However they are cut into lines.
        assert_eq!(of(b"a", &[("cookie", "s=1;t=2")]), of(b"a", &[("cookie", "s=1"), ("cookie", "t=2")]));
    }
}
