//! What of a `Set-Cookie` line says which cookie it is: its name, domain and path (RFC 6265, 5.3). Never its value.

use xxhash_rust::xxh64::xxh64;

use crate::links::Owner;

/// A cookie, where the line shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shown<'l> {
    name: &'l str,
    domain: Option<&'l str>,
    path: Option<&'l str>,
}

/// A cookie that a side of a route was seen to set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SetCookie {
    pub(super) side: Owner,
    pub(super) name: Box<str>,
    /// In lower case, without a dot before it. `None`: the host that was asked.
    pub(super) domain: Option<Box<str>>,
    /// `None`: the folder that was asked for.
    pub(super) path: Option<Box<str>>,
}

/// Longer names, domains and paths are nobody's session.
const LONGEST: usize = 128;

// === impl Shown ===

impl<'l> Shown<'l> {
    /// `None` for a line that names no cookie, or one that is not looked at.
    pub(super) fn of(line: &'l [u8]) -> Option<Self> {
        let mut parts = line.split(|b| *b == b';');
        let name = name_and_value(parts.next()?)?.0;
        if name.is_empty() || !name.bytes().all(|b| b.is_ascii_graphic()) {
            return None;
        }
        let (mut domain, mut path) = (None, None);
        for (attribute, value) in parts.filter_map(name_and_value) {
            if attribute.eq_ignore_ascii_case("domain") {
                domain = Some(value.strip_prefix('.').unwrap_or(value)).filter(|domain| !domain.is_empty());
            } else if attribute.eq_ignore_ascii_case("path") {
                path = Some(value).filter(|path| path.starts_with('/'));
            }
        }
        let is_short = |text: &str| text.len() <= LONGEST;
        (is_short(name) && domain.is_none_or(is_short) && path.is_none_or(is_short)).then_some(Self {
            name,
            domain,
            path,
        })
    }

    /// Tells it from others; never zero.
    pub(super) fn hash(&self, side: Owner) -> u64 {
        let seed = xxh64(self.name.as_bytes(), side as u64);
        let seed = self.domain.map_or(seed, |domain| xxh64(domain.as_bytes(), seed ^ 1));
        self.path.map_or(seed, |path| xxh64(path.as_bytes(), seed ^ 2)).max(1)
    }

    pub(super) fn keep(&self, side: Owner) -> SetCookie {
        let domain = self.domain.map(|domain| domain.to_ascii_lowercase().into());
        SetCookie { side, name: self.name.into(), domain, path: self.path.map(Into::into) }
    }
}

/// Without the blanks around them; `None` where there is no `=`, or other bytes than text.
fn name_and_value(pair: &[u8]) -> Option<(&str, &str)> {
    let at = pair.iter().position(|b| *b == b'=')?;
    let text = |bytes| std::str::from_utf8(bytes).ok().map(str::trim);
    // A value may be anything, and is not looked at where it is a cookie's.
    Some((text(&pair[..at])?, text(&pair[at + 1..]).unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(line: &str) -> Option<(&str, Option<&str>, Option<&str>)> {
        Shown::of(line.as_bytes()).map(|shown| (shown.name, shown.domain, shown.path))
    }

    #[test]
    fn a_line_shows_name_domain_and_path() {
        for (line, expected) in [
            ("sid=1", Some(("sid", None, None))),
            (" sid = 1 ; PATH= /x ; Domain=.Shop.example; HttpOnly", Some(("sid", Some("Shop.example"), Some("/x")))),
            ("sid=path=/y; Path=/a; Path=/b; Domain=", Some(("sid", None, Some("/b")))),
            ("sid=; Path=x", Some(("sid", None, None))),
            ("sid", None),
            ("=1", None),
            ("s d=1", None),
        ] {
            assert_eq!(shown(line), expected, "{line}");
        }
        assert_eq!(shown(&format!("{}=1", "n".repeat(LONGEST + 1))), None);
        assert!(Shown::of(b"sid=\xff\xfe; Path=/").is_some_and(|shown| shown.path == Some("/")));
    }

    #[test]
    fn what_differs_in_side_domain_or_path_is_another_one() {
        let hash = |line: &str, side| Shown::of(line.as_bytes()).unwrap().hash(side);
        let all = [
            hash("a=1", Owner::Legacy),
            hash("a=1", Owner::Modern),
            hash("b=1", Owner::Legacy),
            hash("a=1; Path=/x", Owner::Legacy),
            hash("a=1; Domain=x", Owner::Legacy),
            hash("a=1; Domain=/x", Owner::Legacy),
        ];
        assert!(all.iter().enumerate().all(|(at, one)| !all[at + 1..].contains(one)), "{all:?}");
        assert_eq!(hash("a=1", Owner::Legacy), hash("a=2; Secure", Owner::Legacy), "the value does not matter");
    }
}
