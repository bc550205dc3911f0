//! Cookies that a side calls otherwise than its clients do. In requests the client's name becomes the side's own; the cookie that clients
//! have under the side's own name is another side's, and stays away. In answers the own name becomes the client's. Everything else keeps
//! its bytes and its order.

use std::collections::BTreeMap;

use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{COOKIE, SET_COOKIE},
};

/// One side's renamed cookies.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Renames(Box<[(Box<str>, Box<str>)]>);

/// What becomes of one pair of a `Cookie` line.
enum Fate<'r> {
    Stays,
    Becomes(&'r str),
    Goes,
}

// === impl Renames ===

impl Renames {
    /// From the side's own names to those that clients know.
    pub(super) fn new(rename: &BTreeMap<String, String>) -> Self {
        Self(rename.iter().map(|(own, public)| (own.as_str().into(), public.as_str().into())).collect())
    }

    /// The side's own name of each, and the clients'.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(own, public)| (&**own, &**public))
    }

    pub(super) fn in_request(&self, headers: &mut HeaderMap) {
        if !self.0.is_empty() {
            change(headers, &COOKIE, |line| self.cookie(line));
        }
    }

    pub(super) fn in_answer(&self, headers: &mut HeaderMap) {
        if !self.0.is_empty() {
            change(headers, &SET_COOKIE, |line| self.set_cookie(line));
        }
    }

    /// RFC 6265, 5.4: pairs divided by `;`. `None`: it stays as it is.
    fn cookie(&self, line: &[u8]) -> Option<Vec<u8>> {
        let (mut told, mut is_changed) = (Vec::with_capacity(line.len()), false);
        for pair in line.split(|b| *b == b';') {
            let (name, rest) = split_name(pair);
            let fate = self.fate(name.trim_ascii());
            is_changed |= !matches!(fate, Fate::Stays);
            if matches!(fate, Fate::Goes) {
                continue;
            }
            let begin = told.len();
            if begin > 0 {
                told.push(b';');
            }
            match fate {
                Fate::Becomes(own) => {
                    let blank = name.len() - name.trim_ascii_start().len();
                    told.extend_from_slice(&name[..blank]);
                    told.extend_from_slice(own.as_bytes());
                    told.extend_from_slice(rest);
                }
                _ => told.extend_from_slice(pair),
            }
        }
        // What stood before the first pair that is left was a blank behind a `;`.
        is_changed.then(|| told.trim_ascii_start().to_vec())
    }

    fn fate(&self, name: &[u8]) -> Fate<'_> {
        if let Some((own, _)) = self.0.iter().find(|(_, public)| public.as_bytes() == name) {
            return Fate::Becomes(own);
        }
        if self.0.iter().any(|(own, _)| own.as_bytes() == name) { Fate::Goes } else { Fate::Stays }
    }

    fn set_cookie(&self, line: &[u8]) -> Option<Vec<u8>> {
        let pair = line.split(|b| *b == b';').next().unwrap_or_default();
        let name = split_name(pair).0;
        let (_, public) = self.0.iter().find(|(own, _)| own.as_bytes() == name.trim_ascii())?;
        Some([public.as_bytes(), &line[name.len()..]].concat())
    }
}

/// All lines of a name, each as it is told; one of which nothing is left goes.
fn change(headers: &mut HeaderMap, name: &HeaderName, tell: impl Fn(&[u8]) -> Option<Vec<u8>>) {
    let told: Vec<Option<Vec<u8>>> = headers.get_all(name).iter().map(|line| tell(line.as_bytes())).collect();
    if told.iter().all(Option::is_none) {
        return;
    }
    let lines: Vec<HeaderValue> = headers.get_all(name).iter().cloned().collect();
    headers.remove(name);
    for (line, told) in lines.into_iter().zip(told) {
        match told {
            None => drop(headers.append(name, line)),
            Some(told) if told.is_empty() => {}
            Some(told) => {
                if let Ok(told) = HeaderValue::from_bytes(&told) {
                    headers.append(name, told);
                }
            }
        }
    }
}

/// A cookie's name, and the rest from the `=` on. Without a `=` it has no name.
fn split_name(pair: &[u8]) -> (&[u8], &[u8]) {
    match pair.iter().position(|b| *b == b'=') {
        Some(at) => pair.split_at(at),
        None => (&[], pair),
    }
}

/// A client's line: the side gets no cookie of the client's name, its own ones by its own name, and every other pair as it was.
#[cfg(any(test, feature = "fuzz"))]
pub(crate) fn fuzz(data: &[u8]) {
    let renames = Renames([("sid".into(), "m_sid".into())].into());
    let named = |line: &[u8]| -> Vec<(Vec<u8>, Vec<u8>)> {
        let pairs = line.split(|b| *b == b';').map(<[u8]>::trim_ascii).filter(|pair| !pair.is_empty());
        pairs.map(split_name).map(|(name, rest)| (name.trim_ascii().to_vec(), rest.to_vec())).collect()
    };
    let told = renames.cookie(data).unwrap_or_else(|| data.to_vec());
    let expected = named(data).into_iter().filter(|(name, _)| name != b"sid");
    let expected = expected.map(|(name, rest)| (if name == b"m_sid" { b"sid".to_vec() } else { name }, rest));
    assert_eq!(named(&told), expected.collect::<Vec<_>>());
    // An upstream's line: nothing but the name changes.
    if let Some(told) = renames.set_cookie(data) {
        let rest = told.strip_prefix(b"m_sid");
        assert!(rest.is_some_and(|rest| rest.starts_with(b"=") && data.ends_with(rest)));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn renames(pairs: &[(&str, &str)]) -> Renames {
        Renames::new(&pairs.iter().map(|(own, public)| ((*own).to_owned(), (*public).to_owned())).collect())
    }

    fn told(renames: &Renames, lines: &[&str]) -> Vec<String> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(COOKIE, line.parse().unwrap());
        }
        renames.in_request(&mut headers);
        headers.get_all(COOKIE).iter().map(|line| line.to_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn a_side_gets_its_own_cookie_by_its_own_name_and_not_the_others() {
        let sid = renames(&[("sid", "m_sid")]);
        for (lines, expected) in [
            (&["sid=legacy; a=1; m_sid=modern"][..], &["a=1; sid=modern"][..]),
            (&["m_sid=x"], &["sid=x"]),
            (&["sid=legacy"], &[]),
            (&["a=1;sid=legacy;b=\"2\" ;  c"], &["a=1;b=\"2\" ;  c"]),
            (&["sid=1; sid=2", "x=1;  y=2", " m_sid =a=b; sid"], &["x=1;  y=2", "sid=a=b; sid"]),
            (&["SID=1; xsid=2; m_sid2=3; =m_sid; m_sid=; m_sid=4"], &["SID=1; xsid=2; m_sid2=3; =m_sid; sid=; sid=4"]),
            (&["a=sid=1"], &["a=sid=1"]),
        ] {
            assert_eq!(told(&sid, lines), expected, "{lines:?}");
        }
        // Two may change places.
        assert_eq!(told(&renames(&[("a", "b"), ("b", "a")]), &["a=1; b=2; c=3"]), ["b=1; a=2; c=3"]);
    }

    #[test]
    fn a_client_gets_a_sides_cookie_by_the_public_name() {
        let sid = renames(&[("sid", "m_sid")]);
        let mut headers = HeaderMap::new();
        for line in ["a=1; sid=2", "sid=x=y; Path=/; HttpOnly", " sid =; Max-Age=0", "sidx=1", "sid; x=1"] {
            headers.append(SET_COOKIE, HeaderValue::from_static(line));
        }
        headers.insert("cookie", HeaderValue::from_static("sid=1"));
        sid.in_answer(&mut headers);
        let lines: Vec<&HeaderValue> = headers.get_all(SET_COOKIE).iter().collect();
        assert_eq!(lines, ["a=1; sid=2", "m_sid=x=y; Path=/; HttpOnly", "m_sid=; Max-Age=0", "sidx=1", "sid; x=1"]);
    }

    proptest! {
        #[test]
        fn other_cookies_keep_their_bytes_and_their_order(
            pairs in prop::collection::vec("( ?(a|b|sid|m_sid)=[!-:<-~]{0,6} ?)|[!-:<-~ ]{0,6}", 0..8),
        ) {
            let (own, public) = ("sid", "m_sid");
            let line = pairs.join(";");
            let Ok(value) = HeaderValue::try_from(line.clone()) else { return Ok(()) };
            let is_named = |pair: &str, name: &str| pair.split_once('=').is_some_and(|(before, _)| before.trim() == name);
            let others = |line: &str| -> Vec<String> {
                let others = line.split(';').filter(|pair| !is_named(pair, own) && !is_named(pair, public));
                others.map(|pair| pair.trim().to_owned()).filter(|pair| !pair.is_empty()).collect()
            };
            let values = |line: &str, name: &str| -> Vec<String> {
                let named = line.split(';').filter(|pair| is_named(pair, name));
                named.map(|pair| pair.split_once('=').unwrap().1.trim().to_owned()).collect()
            };
            let mut headers = HeaderMap::new();
            headers.insert(COOKIE, value);
            renames(&[(own, public)]).in_request(&mut headers);
            let told = headers.get(COOKIE).map_or("", |told| told.to_str().unwrap());
            prop_assert_eq!(others(told), others(&line));
            prop_assert_eq!(values(told, own), values(&line, public));
            prop_assert!(values(told, public).is_empty());
        }
    }
}
