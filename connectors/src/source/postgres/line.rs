//! One line of COPY's text format.

use crate::record::envelope::Value;

/// One line of COPY's text format, unescaped: <https://www.postgresql.org/docs/current/sql-copy.html>, "Text Format".
#[derive(Default)]
pub(super) struct Line {
    text: Vec<u8>,
    /// Where each value ends in `text`; `None` is NULL.
    values: Vec<Option<(usize, usize)>>,
}

// === impl Line ===

impl Line {
    pub(super) fn parse(&mut self, bytes: &[u8]) {
        self.text.clear();
        self.values.clear();
        let line = bytes.strip_suffix(b"\n").unwrap_or(bytes);
        for field in line.split(|byte| *byte == b'\t') {
            if field == b"\\N" {
                self.values.push(None);
                continue;
            }
            let start = self.text.len();
            let mut rest = field;
            while let Some(at) = memchr::memchr(b'\\', rest) {
                self.text.extend_from_slice(&rest[..at]);
                // COPY TO writes these escapes alone, never octal or hexadecimal ones.
                self.text.push(match rest.get(at + 1) {
                    Some(b'b') => 8,
                    Some(b'f') => 12,
                    Some(b'n') => b'\n',
                    Some(b'r') => b'\r',
                    Some(b't') => b'\t',
                    Some(b'v') => 11,
                    Some(other) => *other,
                    None => b'\\',
                });
                rest = rest.get(at + 2..).unwrap_or_default();
            }
            self.text.extend_from_slice(rest);
            self.values.push(Some((start, self.text.len())));
        }
    }

    pub(super) fn values(&self) -> impl Iterator<Item = Value<'_>> + Clone {
        self.values.iter().map(|value| value.map_or(Value::Null, |(start, end)| Value::Text(&self.text[start..end])))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_copy_is_unescaped() {
        let mut line = Line::default();
        line.parse(b"1\t\\N\ta\\tb\\\\c\\nd\t\t\\\\N\n");
        let values: Vec<_> = line.values().collect();
        assert_eq!(
            values,
            [Value::Text(b"1"), Value::Null, Value::Text(b"a\tb\\c\nd"), Value::Text(b""), Value::Text(b"\\N")]
        );
    }
}
