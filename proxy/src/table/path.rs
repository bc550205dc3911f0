//! One normal form for paths, so that a request cannot escape its route by spelling. Requests are *matched* in this form and *forwarded*
//! as they came (a rewrite starts from this form).
//!
//! - `%XX` of a character that may stand in a path (RFC 3986, `pchar`) is decoded, except `%3B` (`;`) and `%25` (`%`); any other byte is
//!   written as `%XX` with capitals, whether it came raw or escaped. So `%70ay`, `pay`, `/a%3ab` and `/a:b` do not differ.
//! - `%2F`, `\` and `%5C` count as `/`: servers that decode before they route (WSGI, nginx, IIS) take them for one. Servers that do not
//!   decode see the raw path anyway.
//! - `//` is `/`; `.` and `..` are resolved as RFC 3986, 5.2.4 says.
//! - Refused, because two servers would read two different paths: a bad escape, NUL, `..` above the root, `..` behind an escaped slash or
//!   behind `//`, a dot segment that borders on an escaped slash, and a dot segment with parameters (`..;x`).

use std::borrow::Cow;

/// Why a path cannot be matched; the request is answered 400.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadPath {
    /// It does not begin with `/`.
    #[error("the path does not begin with `/`")]
    Relative,
    /// `%` without two hexadecimal digits.
    #[error("the path has a `%` without two hexadecimal digits")]
    BadEscape,
    /// `%00`, or a raw NUL.
    #[error("the path has a NUL")]
    Nul,
    /// More `..` than segments.
    #[error("the path leads above the root")]
    AboveRoot,
    /// A dot segment that two servers resolve differently.
    #[error("the path has a dot segment with parameters, or with `//` or an escaped slash beside it")]
    HiddenDots,
}

/// How a slash was spelled.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Slash {
    Plain,
    Escaped,
}

/// Bytes that stand for themselves in the normal form.
const KEPT: [bool; 256] = kept();

/// Brings a request's path (without its query) into the normal form; borrowed when it already is.
///
/// # Errors
/// See [`BadPath`].
pub fn normalise(raw: &str) -> Result<Cow<'_, str>, BadPath> {
    if is_normal(raw.as_bytes()) { Ok(Cow::Borrowed(raw)) } else { rebuild(raw.as_bytes()).map(Cow::Owned) }
}

/// A path in normal form without what stands behind `;` in its segments.
pub(super) fn without_parameters(path: &str) -> String {
    let mut bare = String::with_capacity(path.len());
    for segment in path.split('/').skip(1) {
        bare.push('/');
        bare.push_str(segment.split_once(';').map_or(segment, |(name, _)| name));
    }
    bare
}

/// One pass, no allocation: nothing to decode or to encode, no empty and no dot segment.
fn is_normal(path: &[u8]) -> bool {
    if path.first() != Some(&b'/') {
        return false;
    }
    let (mut at, mut segment) = (1, 1);
    while let Some(&byte) = path.get(at) {
        at += match byte {
            b'/' if at == segment || is_dots(&path[segment..at]) => return false,
            b'/' => {
                segment = at + 1;
                1
            }
            b'%' if is_normal_escape(&path[at..]) => 3,
            _ if KEPT[usize::from(byte)] => 1,
            _ => return false,
        };
    }
    !is_dots(&path[segment..])
}

/// An escape that the normal form has too: in capitals, and of a byte that it does not write otherwise.
fn is_normal_escape(text: &[u8]) -> bool {
    let [_, high, low, ..] = *text else { return false };
    if high.is_ascii_lowercase() || low.is_ascii_lowercase() {
        return false;
    }
    let (Some(high), Some(low)) = (hex(high), hex(low)) else { return false };
    match high << 4 | low {
        0 | b'/' | b'\\' => false,
        b';' => true,
        value => !KEPT[usize::from(value)],
    }
}

fn is_dots(segment: &[u8]) -> bool {
    segment.first() == Some(&b'.') && matches!(before_parameters(segment), b"." | b"..")
}

fn before_parameters(segment: &[u8]) -> &[u8] {
    segment.iter().position(|b| *b == b';').map_or(segment, |at| &segment[..at])
}

fn rebuild(path: &[u8]) -> Result<String, BadPath> {
    if path == b"*" {
        // `OPTIONS *` is no path; only a route without a path, or with the prefix `/`, takes it.
        return Ok("*".to_owned());
    }
    let mut rest = path;
    // Every finished segment stands in `out` with a `/` before it.
    let mut out = Vec::with_capacity(path.len() + 8);
    let mut before = take_slash(&mut rest).ok_or(BadPath::Relative)?;
    let mut ambiguous = before == Slash::Escaped;
    loop {
        out.push(b'/');
        let segment = out.len();
        let after = take_segment(&mut rest, &mut out)?;
        ambiguous |= after == Some(Slash::Escaped);
        let text = &out[segment..];
        if is_dots(text) {
            let up = text.starts_with(b"..");
            if text.contains(&b';') || before == Slash::Escaped || after == Some(Slash::Escaped) || (up && ambiguous) {
                return Err(BadPath::HiddenDots);
            }
            out.truncate(segment - 1);
            if up {
                let parent = out.iter().rposition(|b| *b == b'/').ok_or(BadPath::AboveRoot)?;
                out.truncate(parent);
            }
            if after.is_none() {
                // A dot segment at the end names a directory: its slash stays.
                out.push(b'/');
            }
        } else if text.is_empty() && after.is_some() {
            out.truncate(segment - 1);
            ambiguous = true;
        }
        match after {
            Some(slash) => before = slash,
            None => break,
        }
    }
    // Only ASCII is ever pushed.
    String::from_utf8(out).map_err(|_| BadPath::BadEscape)
}

/// Reads up to the next slash, which it returns, or to the end.
fn take_segment(rest: &mut &[u8], out: &mut Vec<u8>) -> Result<Option<Slash>, BadPath> {
    loop {
        if let Some(slash) = take_slash(rest) {
            return Ok(Some(slash));
        }
        let Some((&byte, tail)) = rest.split_first() else { return Ok(None) };
        *rest = tail;
        take_byte(byte, rest, out)?;
    }
}

/// Takes a slash in any of its spellings.
fn take_slash(rest: &mut &[u8]) -> Option<Slash> {
    let (slash, length) = match **rest {
        [b'/', ..] => (Slash::Plain, 1),
        [b'\\', ..] => (Slash::Escaped, 1),
        [b'%', b'2', b'F' | b'f', ..] | [b'%', b'5', b'C' | b'c', ..] => (Slash::Escaped, 3),
        _ => return None,
    };
    *rest = &rest[length..];
    Some(slash)
}

fn take_byte(byte: u8, rest: &mut &[u8], out: &mut Vec<u8>) -> Result<(), BadPath> {
    let (value, was_escaped) = match byte {
        b'%' => {
            let [high, low, tail @ ..] = *rest else { return Err(BadPath::BadEscape) };
            let (Some(high), Some(low)) = (hex(*high), hex(*low)) else { return Err(BadPath::BadEscape) };
            *rest = tail;
            (high << 4 | low, true)
        }
        raw => (raw, false),
    };
    match value {
        0 => return Err(BadPath::Nul),
        b';' if was_escaped => out.extend_from_slice(b"%3B"),
        kept if KEPT[usize::from(kept)] => out.push(kept),
        other => {
            const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
            out.extend_from_slice(&[b'%', DIGITS[usize::from(other >> 4)], DIGITS[usize::from(other & 15)]]);
        }
    }
    Ok(())
}

fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

/// `pchar` of RFC 3986 without `%`.
const fn kept() -> [bool; 256] {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 128 {
        let c = byte as u8;
        table[byte] = c.is_ascii_alphanumeric()
            || matches!(c, b'-' | b'.' | b'_' | b'~' | b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*')
            || matches!(c, b'+' | b',' | b';' | b'=' | b':' | b'@');
        byte += 1;
    }
    table
}

#[cfg(any(test, feature = "fuzz"))]
pub(crate) fn fuzz(data: &[u8]) {
    let Ok(raw) = std::str::from_utf8(data) else { return };
    let normal = normalise(raw);
    if !raw.contains('%') {
        // Nobody escapes a route by spelling.
        let escaped = |letter: char| match u8::try_from(letter) {
            Ok(byte) if byte.is_ascii_alphabetic() => format!("%{byte:02x}"),
            _ => letter.to_string(),
        };
        assert_eq!(normalise(&raw.chars().map(escaped).collect::<String>()), normal);
    }
    let Ok(normal) = normal else { return };
    assert!(normal == "*" || normal.starts_with('/'), "{normal}");
    assert_eq!(normalise(&normal).as_deref(), Ok(&*normal), "a normal path is normal");
    assert!(!normal.contains("//") && !normal.contains('\\') && !normal.contains('\0'), "{normal}");
    assert!(normal.split('/').all(|segment| !is_dots(segment.as_bytes())), "{normal}");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn normal(raw: &str) -> String {
        normalise(raw).unwrap().into_owned()
    }

    #[test]
    fn a_write_cannot_escape_its_route_by_spelling() {
        for spelled in [
            "//payments",
            "/%70ayments",
            "/x/../payments",
            "/./payments",
            "/x/%2e%2E/payments",
            "\\payments",
            "/%2Fpayments",
            "%2fpayments",
        ] {
            assert_eq!(normal(spelled), "/payments", "{spelled}");
        }
        assert_eq!(normal("/payments%2F7"), "/payments/7");
        assert_eq!(normal("/payments%5c7"), "/payments/7");
        assert_eq!(normal("/orders%3abatch"), "/orders:batch");
    }

    #[test]
    fn what_two_servers_would_read_differently_is_refused() {
        for (raw, why) in [
            ("payments", BadPath::Relative),
            ("", BadPath::Relative),
            ("/%", BadPath::BadEscape),
            ("/%4", BadPath::BadEscape),
            ("/%zz", BadPath::BadEscape),
            ("/a%00b", BadPath::Nul),
            ("/..", BadPath::AboveRoot),
            ("/a/../..", BadPath::AboveRoot),
            ("/x%2F..%2Fpayments", BadPath::HiddenDots),
            ("/x%2Fy/../payments", BadPath::HiddenDots),
            ("/x//../payments", BadPath::HiddenDots),
            ("/x/..;a/payments", BadPath::HiddenDots),
            ("/x/.;/payments", BadPath::HiddenDots),
            ("/x/..\\payments", BadPath::HiddenDots),
        ] {
            assert_eq!(normalise(raw), Err(why), "{raw}");
        }
    }

    #[test]
    fn a_normal_path_is_borrowed() {
        for path in ["/", "/a", "/a/", "/a.b/..c/...", "/a;b=c/d", "/.well-known/x", "/caf%C3%A9", "/100%25", "/a%3Bb"]
        {
            assert!(matches!(normalise(path), Ok(Cow::Borrowed(same)) if same == path), "{path}");
        }
    }

    #[test]
    fn a_last_dot_segment_keeps_its_slash() {
        assert_eq!(normal("/a/b/.."), "/a/");
        assert_eq!(normal("/a/."), "/a/");
        assert_eq!(normal("/a//"), "/a/");
    }

    #[test]
    fn other_bytes_have_one_spelling() {
        assert_eq!(normal("/é"), "/%C3%A9");
        assert_eq!(normal("/%c3%a9"), "/%C3%A9");
        assert_eq!(normal("/{a}"), "/%7Ba%7D");
        assert_eq!(normal("/a%3bb"), "/a%3Bb");
        assert_eq!(normal("*"), "*");
    }

    proptest! {
        #[test]
        fn normalising_twice_changes_nothing(raw in "/([a-c./;é]|%2[eEfF5]|%3[bB]|%5c|%C3|\\\\){0,24}") {
            if let Ok(once) = normalise(&raw) {
                prop_assert!(matches!(normalise(&once), Ok(Cow::Borrowed(_))), "{raw} -> {once}");
            }
        }

        #[test]
        fn no_path_makes_it_panic(raw in "\\PC{0,40}") {
            drop(normalise(&raw));
        }

        #[test]
        fn escaping_a_letter_changes_nothing(path in "(/[a-z]{1,5}){1,4}", at in 0usize..20) {
            let at = at % path.len();
            if path.as_bytes()[at] != b'/' {
                let spelled = format!("{}%{:02x}{}", &path[..at], path.as_bytes()[at], &path[at + 1..]);
                prop_assert_eq!(normal(&spelled), path);
            }
        }
    }
}
