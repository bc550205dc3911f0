//! A small JSON reader (RFC 8259) that keeps numbers as they are written, which `serde_json` rounds, and that is bounded in depth and in
//! values. What is no JSON is compared as bytes.

use std::{borrow::Cow, str};

use super::Room;

/// Deeper documents are not comparable.
const DEEPEST: usize = 64;
/// Documents with more values are not comparable.
pub(super) const MOST: usize = 100_000;
/// Bytes that a value may take while it is compared: itself, its name, and as much again where a list has grown to hold more than it does.
const TAKEN: usize = 112;

/// Why a text gives no value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    /// It is no JSON.
    NotJson,
    /// It has too many values, or is nested too deeply.
    TooLarge,
    /// There was no more memory for it.
    NoRoom,
}

/// A JSON value that borrows from its text.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Json<'a> {
    Null,
    Bool(bool),
    /// As it is written.
    Number(&'a str),
    String(Cow<'a, str>),
    Array(Vec<Json<'a>>),
    /// Sorted by name; of two members with one name the last counts.
    Object(Vec<(Cow<'a, str>, Json<'a>)>),
}

/// Reads a whole document, if there is room for so many values as its commas and brackets say that it has at most.
pub(super) fn parse_in<'a>(text: &'a [u8], room: &mut dyn Room) -> Result<Json<'a>, Refused> {
    let values = text.iter().filter(|byte| matches!(byte, b',' | b'[' | b'{')).count() + 1;
    // Texts with escapes are copied.
    let copied = if text.contains(&b'\\') { text.len() } else { 0 };
    if !room.take(values.min(MOST) * TAKEN + copied) {
        return Err(Refused::NoRoom);
    }
    parse(text)
}

/// The same, whatever it takes.
pub(super) fn parse(text: &[u8]) -> Result<Json<'_>, Refused> {
    let text = str::from_utf8(text).map_err(|_| Refused::NotJson)?;
    let mut reader = Reader { text, at: 0, left: MOST, is_over: false };
    let value = reader.value(0);
    reader.space();
    match value {
        Some(value) if reader.at == text.len() => Ok(value),
        _ if reader.is_over => Err(Refused::TooLarge),
        _ => Err(Refused::NotJson),
    }
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
    /// Values that may still come.
    left: usize,
    /// A bound was met, so that the rest was not read.
    is_over: bool,
}

// === impl Reader ===

impl<'a> Reader<'a> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    /// Takes this byte, with space before it.
    fn take(&mut self, byte: u8) -> Option<()> {
        self.space();
        (self.peek() == Some(byte)).then(|| self.at += 1)
    }

    fn word(&mut self, word: &str, value: Json<'a>) -> Option<Json<'a>> {
        self.text[self.at..].starts_with(word).then(|| {
            self.at += word.len();
            value
        })
    }

    fn value(&mut self, depth: usize) -> Option<Json<'a>> {
        if depth > DEEPEST || self.left == 0 {
            self.is_over = true;
            return None;
        }
        self.left -= 1;
        self.space();
        match self.peek()? {
            b'n' => self.word("null", Json::Null),
            b't' => self.word("true", Json::Bool(true)),
            b'f' => self.word("false", Json::Bool(false)),
            b'"' => self.string().map(Json::String),
            b'[' => self.array(depth),
            b'{' => self.object(depth),
            _ => self.number().map(Json::Number),
        }
    }

    fn array(&mut self, depth: usize) -> Option<Json<'a>> {
        self.take(b'[')?;
        let mut items = Vec::new();
        if self.take(b']').is_some() {
            return Some(Json::Array(items));
        }
        loop {
            items.push(self.value(depth + 1)?);
            if self.take(b',').is_none() {
                return self.take(b']').map(|()| Json::Array(items));
            }
        }
    }

    fn object(&mut self, depth: usize) -> Option<Json<'a>> {
        self.take(b'{')?;
        let mut members = Vec::new();
        if self.take(b'}').is_none() {
            loop {
                self.space();
                let name = self.string()?;
                self.take(b':')?;
                members.push((name, self.value(depth + 1)?));
                if self.take(b',').is_none() {
                    break;
                }
            }
            self.take(b'}')?;
        }
        // Stable, and the last of equals is kept: reversed, sorted, the first of equals stays.
        members.reverse();
        members.sort_by(|(a, _), (b, _)| a.cmp(b));
        members.dedup_by(|(later, _), (kept, _)| later == kept);
        Some(Json::Object(members))
    }

    fn number(&mut self) -> Option<&'a str> {
        let start = self.at;
        self.at += usize::from(self.peek() == Some(b'-'));
        match self.digits()? {
            "0" => {}
            digits if digits.starts_with('0') => return None,
            _ => {}
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            self.at += usize::from(matches!(self.peek(), Some(b'+' | b'-')));
            self.digits()?;
        }
        Some(&self.text[start..self.at])
    }

    /// One digit or more.
    fn digits(&mut self) -> Option<&'a str> {
        let start = self.at;
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        (self.at > start).then(|| &self.text[start..self.at])
    }

    fn string(&mut self) -> Option<Cow<'a, str>> {
        if self.peek() != Some(b'"') {
            return None;
        }
        self.at += 1;
        let mut text = Cow::Borrowed("");
        loop {
            let start = self.at;
            while !matches!(self.peek()?, b'"' | b'\\' | 0..=0x1f) {
                self.at += 1;
            }
            let plain = &self.text[start..self.at];
            if text.is_empty() {
                text = Cow::Borrowed(plain);
            } else {
                text.to_mut().push_str(plain);
            }
            let end = self.peek()?;
            self.at += 1;
            match end {
                b'"' => return Some(text),
                b'\\' => text.to_mut().push(self.escape()?),
                _ => return None,
            }
        }
    }

    fn escape(&mut self) -> Option<char> {
        let kind = self.peek()?;
        self.at += 1;
        Some(match kind {
            b'"' | b'\\' | b'/' => char::from(kind),
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => return self.unicode(),
            _ => return None,
        })
    }

    /// A lone surrogate is no character: such a document is compared as bytes.
    fn unicode(&mut self) -> Option<char> {
        let first = self.hex4()?;
        if !(0xd800..0xdc00).contains(&first) {
            return char::from_u32(first);
        }
        self.text[self.at..].starts_with("\\u").then(|| self.at += 2)?;
        let second = self.hex4()?;
        if !(0xdc00..0xe000).contains(&second) {
            return None;
        }
        char::from_u32(0x1_0000 + ((first - 0xd800) << 10) + (second - 0xdc00))
    }

    fn hex4(&mut self) -> Option<u32> {
        let digits = self.text.get(self.at..self.at + 4)?;
        if !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        self.at += 4;
        u32::from_str_radix(digits, 16).ok()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// As `serde_json` reads it.
    fn to_serde(json: &Json<'_>) -> serde_json::Value {
        match json {
            Json::Null => serde_json::Value::Null,
            Json::Bool(b) => (*b).into(),
            Json::Number(text) => serde_json::from_str(text).unwrap(),
            Json::String(text) => text.as_ref().into(),
            Json::Array(items) => items.iter().map(to_serde).collect(),
            Json::Object(members) => members.iter().map(|(name, value)| (name.to_string(), to_serde(value))).collect(),
        }
    }

    #[test]
    fn of_two_members_with_one_name_the_last_counts() {
        let Ok(Json::Object(members)) = parse(br#"{"b":0,"a":1,"a":2}"#) else { panic!("no object") };
        assert_eq!(members, vec![("a".into(), Json::Number("2")), ("b".into(), Json::Number("0"))]);
    }

    #[test]
    fn what_is_no_json_is_refused() {
        for text in [
            "",
            " ",
            "01",
            "1.",
            "-",
            "+1",
            "1e",
            ".5",
            "[1,]",
            "{\"a\":1,}",
            "{a:1}",
            "\"\\x\"",
            "\"\\ud800\"",
            "\"a\nb\"",
            "nul",
            "[1 2]",
            "1 2",
            "\"\\u12\"",
            "{\"a\"1}",
            "[",
            "\"",
        ] {
            assert_eq!(parse(text.as_bytes()), Err(Refused::NotJson), "{text:?}");
        }
        assert_eq!(parse(b"\"\xff\""), Err(Refused::NotJson));
    }

    #[test]
    fn depth_and_values_are_bounded() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(parse(nested(DEEPEST).as_bytes()).is_ok());
        assert_eq!(parse(nested(100_000).as_bytes()), Err(Refused::TooLarge));
        let wide = |values: usize| format!("[{}0]", "0,".repeat(values - 2));
        assert!(parse(wide(MOST).as_bytes()).is_ok());
        assert_eq!(parse(wide(MOST + 1).as_bytes()), Err(Refused::TooLarge));
    }

    proptest! {
        #[test]
        fn it_reads_what_serde_json_reads(text in r#"([\[\]{},:" 0-9a-f.eE+-]|"[a-z]{0,2}"|\\u00e9|null|true|[0-9]{1,3}){0,12}"#) {
            let theirs: Option<serde_json::Value> = serde_json::from_str(&text).ok();
            // It refuses numbers beyond a double's range, which are compared as texts here.
            if theirs.is_some() || !text.contains(['e', 'E']) {
                let ours = parse(text.as_bytes()).ok().map(|json| to_serde(&json));
                prop_assert_eq!(ours, theirs);
            }
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in any::<Vec<u8>>()) {
            let _ = parse(&bytes);
        }
    }
}
