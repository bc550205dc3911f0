//! A small JSON writer into a reused buffer, and a reader that borrows from the bytes it reads.
//!
//! Not a general JSON library: only what Banyan's own records need, at the rate at which a database writes.

use std::borrow::Cow;

/// Bytes that are not the JSON expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BadJson;

/// Reads one JSON text from front to back.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

/// Appends `text`, which must be UTF-8, as a JSON string.
pub(crate) fn write_string(out: &mut Vec<u8>, text: &[u8]) {
    out.push(b'"');
    let mut clean = 0;
    for (i, &byte) in text.iter().enumerate() {
        if byte >= 0x20 && byte != b'"' && byte != b'\\' {
            continue;
        }
        out.extend_from_slice(&text[clean..i]);
        clean = i + 1;
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            _ => {
                const HEX: &[u8; 16] = b"0123456789abcdef";
                out.extend_from_slice(b"\\u00");
                out.push(HEX[usize::from(byte >> 4)]);
                out.push(HEX[usize::from(byte & 15)]);
            }
        }
    }
    out.extend_from_slice(&text[clean..]);
    out.push(b'"');
}

/// Appends a number.
pub(crate) fn write_number(out: &mut Vec<u8>, number: impl itoa::Integer) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

// === impl Reader ===

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// The text that it has yet to read.
    pub(crate) fn rest(&self) -> Result<&'a str, BadJson> {
        self.bytes.get(self.at..).and_then(|rest| std::str::from_utf8(rest).ok()).ok_or(BadJson)
    }

    fn space(&mut self) {
        while matches!(self.bytes.get(self.at), Some(b' ' | b'\n' | b'\r' | b'\t')) {
            self.at += 1;
        }
    }

    /// The next byte that is no white space, not taken.
    pub(crate) fn peek(&mut self) -> Result<u8, BadJson> {
        self.space();
        self.bytes.get(self.at).copied().ok_or(BadJson)
    }

    /// Takes `byte`.
    pub(crate) fn expect(&mut self, byte: u8) -> Result<(), BadJson> {
        if self.peek()? == byte {
            self.at += 1;
            Ok(())
        } else {
            Err(BadJson)
        }
    }

    /// Whether another member of the open object follows; call it before each key, `first` on the first.
    pub(crate) fn member(&mut self, first: &mut bool) -> Result<bool, BadJson> {
        if self.peek()? == b'}' {
            self.at += 1;
            return Ok(false);
        }
        if !std::mem::take(first) {
            self.expect(b',')?;
        }
        Ok(true)
    }

    /// A key and its colon.
    pub(crate) fn key(&mut self) -> Result<Cow<'a, str>, BadJson> {
        let key = self.string()?;
        self.expect(b':')?;
        Ok(key)
    }

    /// A string; borrowed when nothing in it is escaped.
    pub(crate) fn string(&mut self) -> Result<Cow<'a, str>, BadJson> {
        self.expect(b'"')?;
        let start = self.at;
        let rest = self.bytes.get(start..).ok_or(BadJson)?;
        let stop = memchr::memchr2(b'"', b'\\', rest).ok_or(BadJson)?;
        if rest[stop] == b'"' {
            self.at = start + stop + 1;
            return std::str::from_utf8(&rest[..stop]).map(Cow::Borrowed).map_err(|_| BadJson);
        }
        let mut text = rest[..stop].to_vec();
        self.at = start + stop;
        loop {
            let byte = *self.bytes.get(self.at).ok_or(BadJson)?;
            self.at += 1;
            match byte {
                b'"' => return String::from_utf8(text).map(Cow::Owned).map_err(|_| BadJson),
                b'\\' => self.escape(&mut text)?,
                _ => {
                    let from = self.at - 1;
                    let more = memchr::memchr2(b'"', b'\\', &self.bytes[from..]).ok_or(BadJson)?;
                    text.extend_from_slice(&self.bytes[from..from + more]);
                    self.at = from + more;
                }
            }
        }
    }

    fn escape(&mut self, text: &mut Vec<u8>) -> Result<(), BadJson> {
        let byte = *self.bytes.get(self.at).ok_or(BadJson)?;
        self.at += 1;
        match byte {
            b'"' | b'\\' | b'/' => text.push(byte),
            b'n' => text.push(b'\n'),
            b'r' => text.push(b'\r'),
            b't' => text.push(b'\t'),
            b'b' => text.push(8),
            b'f' => text.push(12),
            b'u' => {
                let high = self.hex4()?;
                let code = if (0xd800..0xdc00).contains(&high) {
                    if self.bytes.get(self.at..self.at + 2) != Some(b"\\u") {
                        return Err(BadJson);
                    }
                    self.at += 2;
                    let low = self.hex4()?;
                    if !(0xdc00..0xe000).contains(&low) {
                        return Err(BadJson);
                    }
                    0x1_0000 + ((high - 0xd800) << 10) + (low - 0xdc00)
                } else {
                    high
                };
                let mut space = [0; 4];
                text.extend_from_slice(char::from_u32(code).ok_or(BadJson)?.encode_utf8(&mut space).as_bytes());
            }
            _ => return Err(BadJson),
        }
        Ok(())
    }

    fn hex4(&mut self) -> Result<u32, BadJson> {
        let digits = self.bytes.get(self.at..self.at + 4).ok_or(BadJson)?;
        self.at += 4;
        digits.iter().try_fold(0, |code, &digit| Ok(code << 4 | char::from(digit).to_digit(16).ok_or(BadJson)?))
    }

    /// A string, or nothing for `null`.
    pub(crate) fn text(&mut self) -> Result<Option<Cow<'a, str>>, BadJson> {
        if self.peek()? == b'n' { self.word(b"null").map(|()| None) } else { self.string().map(Some) }
    }

    /// An integer.
    pub(crate) fn number(&mut self) -> Result<i64, BadJson> {
        self.space();
        let rest = self.bytes.get(self.at..).ok_or(BadJson)?;
        let len = rest.iter().take_while(|b| b.is_ascii_digit() || **b == b'-').count();
        self.at += len;
        std::str::from_utf8(&rest[..len]).ok().and_then(|n| n.parse().ok()).ok_or(BadJson)
    }

    fn word(&mut self, word: &[u8]) -> Result<(), BadJson> {
        if self.bytes.get(self.at..).is_some_and(|rest| rest.starts_with(word)) {
            self.at += word.len();
            Ok(())
        } else {
            Err(BadJson)
        }
    }

    /// Steps over one value, and gives a reader of it alone. Iterative, so that no nesting can exhaust the stack.
    pub(crate) fn skip(&mut self) -> Result<Reader<'a>, BadJson> {
        self.space();
        let start = self.at;
        let mut depth = 0_usize;
        loop {
            match self.peek()? {
                b'"' => drop(self.string()?),
                b'{' | b'[' => {
                    depth += 1;
                    self.at += 1;
                    continue;
                }
                b'}' | b']' => {
                    depth = depth.checked_sub(1).ok_or(BadJson)?;
                    self.at += 1;
                }
                b',' | b':' if depth > 0 => {
                    self.at += 1;
                    continue;
                }
                _ => {
                    let rest = &self.bytes[self.at..];
                    let len =
                        rest.iter().take_while(|b| !matches!(b, b',' | b'}' | b']' | b':' | b' ' | b'\n')).count();
                    if len == 0 {
                        return Err(BadJson);
                    }
                    self.at += len;
                }
            }
            if depth == 0 {
                return Ok(Reader { bytes: &self.bytes[..self.at], at: start });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_string_survives(text in any::<String>()) {
            let mut out = Vec::new();
            write_string(&mut out, text.as_bytes());
            prop_assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), text.clone());
            prop_assert_eq!(Reader::new(&out).string().unwrap(), text);
        }

        #[test]
        fn what_serde_writes_is_read(text in any::<String>(), number in any::<i64>()) {
            let out = serde_json::json!({"a": {"b": [text, {"c": number}]}, "n": number, "t": text}).to_string();
            let mut reader = Reader::new(out.as_bytes());
            let mut first = true;
            reader.expect(b'{').unwrap();
            while reader.member(&mut first).unwrap() {
                match &*reader.key().unwrap() {
                    "n" => prop_assert_eq!(reader.number().unwrap(), number),
                    "t" => prop_assert_eq!(reader.string().unwrap(), text.as_str()),
                    _ => drop(reader.skip().unwrap()),
                }
            }
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            let _ = Reader::new(&bytes).skip();
            drop(Reader::new(&bytes).string());
            let _ = Reader::new(&bytes).number();
        }
    }
}
