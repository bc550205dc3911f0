//! A record's text as a literal of SQL, by the class of the column that takes it.
//!
//! Only what is another word for the same value is changed: `t` for 1, `\x` for the server's own hexadecimal, `+00` left out of a time in
//! UTC. What the column cannot hold is left to the server, which is told to refuse it; what it would not refuse is refused here.

/// How the server must be shown a column's values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    Number,
    Bit,
    Bytes,
    /// Dates and times.
    Time,
    /// Text, and what is written as text.
    Text,
}

/// A value that the column cannot hold, in words that say nothing of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Unfit(pub(crate) &'static str);

// === impl Class ===

impl Class {
    /// Of a column, by its `DATA_TYPE`.
    pub(crate) fn of(data_type: &str) -> Self {
        match data_type {
            "tinyint" | "smallint" | "mediumint" | "int" | "bigint" | "decimal" | "float" | "double" | "year" => {
                Self::Number
            }
            "bit" => Self::Bit,
            "binary" | "varbinary" | "tinyblob" | "blob" | "mediumblob" | "longblob" => Self::Bytes,
            "date" | "datetime" | "timestamp" | "time" => Self::Time,
            _ => Self::Text,
        }
    }

    /// Appends the literal of a value; nothing is NULL.
    pub(crate) fn write(self, out: &mut Vec<u8>, value: Option<&[u8]>) -> Result<(), Unfit> {
        let Some(value) = value else {
            out.extend_from_slice(b"NULL");
            return Ok(());
        };
        match (self, value) {
            (Self::Number, b"t") => out.push(b'1'),
            (Self::Number, b"f") => out.push(b'0'),
            (Self::Number, number) => {
                let is_number = number.iter().any(u8::is_ascii_digit)
                    && number.iter().all(|b| b.is_ascii_digit() || matches!(b, b'-' | b'+' | b'.' | b'e' | b'E'));
                if !is_number {
                    return Err(Unfit("a value that is no number, or none that the column can hold"));
                }
                out.extend_from_slice(number);
            }
            (Self::Bit, b"t") => out.extend_from_slice(b"b'1'"),
            (Self::Bit, b"f") => out.extend_from_slice(b"b'0'"),
            (Self::Bit, bits) => {
                if !bits.iter().all(|bit| matches!(bit, b'0' | b'1')) {
                    return Err(Unfit("a value that is no string of bits"));
                }
                out.extend_from_slice(b"b'");
                out.extend_from_slice(bits);
                out.push(b'\'');
            }
            (Self::Bytes, bytes) => {
                match bytes.strip_prefix(b"\\x").filter(|hex| hex.iter().all(u8::is_ascii_hexdigit)) {
                    Some(hex) => {
                        out.extend_from_slice(b"x'");
                        out.extend_from_slice(hex);
                        out.push(b'\'');
                    }
                    None => return Err(Unfit("a value that is no string of bytes")),
                }
            }
            (Self::Time, time) => {
                let time = time.strip_suffix(b"+00").unwrap_or(time);
                // A year before 1, or `infinity`; the server would take the first for another.
                if time.iter().any(u8::is_ascii_alphabetic) {
                    return Err(Unfit("a time that the column cannot hold"));
                }
                quote(out, time);
            }
            (Self::Text, text) => quote(out, text),
        }
        Ok(())
    }
}

/// Under `NO_BACKSLASH_ESCAPES` only the quote itself is doubled.
pub(crate) fn quote(out: &mut Vec<u8>, text: &[u8]) {
    out.push(b'\'');
    let mut rest = text;
    while let Some(at) = memchr::memchr(b'\'', rest) {
        out.extend_from_slice(&rest[..at]);
        out.extend_from_slice(b"''");
        rest = &rest[at + 1..];
    }
    out.extend_from_slice(rest);
    out.push(b'\'');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_shown_as_its_column_takes_it_or_not_at_all() {
        let write = |class: Class, value: &str| {
            let mut out = Vec::new();
            class.write(&mut out, Some(value.as_bytes())).map(|()| String::from_utf8(out).unwrap()).ok()
        };
        for (class, value, literal) in [
            (Class::Number, "t", Some("1")),
            (Class::Number, "-12.50", Some("-12.50")),
            (Class::Number, "NaN", None),
            (Class::Number, "1;DROP", None),
            (Class::Number, "", None),
            (Class::Bit, "0101", Some("b'0101'")),
            (Class::Bit, "2", None),
            (Class::Bytes, "\\xcafe", Some("x'cafe'")),
            (Class::Bytes, "\\x", Some("x''")),
            (Class::Bytes, "plain", None),
            (Class::Time, "2026-01-02 03:04:05.678+00", Some("'2026-01-02 03:04:05.678'")),
            (Class::Time, "0044-03-15 BC", None),
            (Class::Time, "infinity", None),
            (Class::Text, "it's \\ here", Some("'it''s \\ here'")),
        ] {
            assert_eq!(write(class, value).as_deref(), literal, "{class:?} {value}");
        }
    }
}
