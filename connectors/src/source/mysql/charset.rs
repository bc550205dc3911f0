//! Character sets: bytes of a column to UTF-8, as the server itself would.
//!
//! The Unicode ones are decoded here. Of those with one byte a character the server is asked for its table, so that nobody's idea of
//! `latin1` but its own counts. The others (gbk, sjis, big5, …) are refused before anything begins.

use std::collections::HashMap;

use mysql_async::Row;

use crate::{
    database::mysql::{Flavor, MysqlSession, cell, text},
    error::FlowError,
};

/// How the bytes of a column become text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Charset {
    Utf8,
    /// Two bytes a character, the higher first; with surrogates, or without.
    Utf16,
    Utf16Le,
    Utf32,
    /// A character for each byte; nothing where the set has none.
    Single(Box<[Option<char>; 256]>),
}

/// The sets in use, and which collation belongs to which.
pub(crate) struct Charsets {
    decoders: HashMap<String, Charset>,
    by_collation: HashMap<u32, String>,
}

/// Bytes that are no text in their character set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BadText;

/// Whether text in this set can be carried: Unicode, or one byte a character.
pub(crate) fn is_unicode(name: &str) -> bool {
    matches!(name, "utf8mb4" | "utf8mb3" | "utf8" | "ascii" | "ucs2" | "utf16" | "utf16le" | "utf32" | "binary")
}

// === impl Charset ===

impl Charset {
    /// Appends `bytes` as UTF-8.
    pub(crate) fn decode(&self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), BadText> {
        let mut push = |c: char| out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
        match self {
            Self::Utf8 => {
                std::str::from_utf8(bytes).map_err(|_| BadText)?;
                out.extend_from_slice(bytes);
            }
            Self::Single(table) => {
                for byte in bytes {
                    push(table[usize::from(*byte)].ok_or(BadText)?);
                }
            }
            Self::Utf16 | Self::Utf16Le => {
                let (pairs, rest) = bytes.as_chunks::<2>();
                let units = pairs.iter().map(|pair| {
                    if *self == Self::Utf16 { u16::from_be_bytes(*pair) } else { u16::from_le_bytes(*pair) }
                });
                for c in char::decode_utf16(units) {
                    push(c.map_err(|_| BadText)?);
                }
                if !rest.is_empty() {
                    return Err(BadText);
                }
            }
            Self::Utf32 => {
                let (quads, rest) = bytes.as_chunks::<4>();
                for quad in quads {
                    push(char::from_u32(u32::from_be_bytes(*quad)).ok_or(BadText)?);
                }
                if !rest.is_empty() {
                    return Err(BadText);
                }
            }
        }
        Ok(())
    }
}

// === impl Charsets ===

impl Charsets {
    /// Asks the server for what the sets `used` need.
    pub(crate) async fn read<'n>(
        session: &mut MysqlSession,
        used: impl Iterator<Item = &'n str>,
    ) -> Result<Self, FlowError> {
        let doing = "reading the character sets";
        // MariaDB numbers its newer collations there alone.
        let numbered = if session.flavor == Flavor::Mariadb && session.version >= (10, 10, 0) {
            "SELECT ID, CHARACTER_SET_NAME FROM information_schema.COLLATION_CHARACTER_SET_APPLICABILITY WHERE ID IS NOT NULL"
        } else {
            "SELECT ID, CHARACTER_SET_NAME FROM information_schema.COLLATIONS WHERE ID IS NOT NULL"
        };
        let pair = |row: Row| Some((cell::<u32>(&row, 0)?, cell::<String>(&row, 1)?));
        let by_collation = session.rows(doing, numbered).await?.into_iter().filter_map(pair).collect();
        let mut decoders = HashMap::new();
        for name in used {
            if decoders.contains_key(name) {
                continue;
            }
            let decoder = match name {
                "utf8mb4" | "utf8mb3" | "utf8" | "ascii" | "binary" => Charset::Utf8,
                "ucs2" | "utf16" => Charset::Utf16,
                "utf16le" => Charset::Utf16Le,
                "utf32" => Charset::Utf32,
                name => Charset::Single(single(session, name).await?),
            };
            decoders.insert(name.to_owned(), decoder);
        }
        Ok(Self { decoders, by_collation })
    }

    /// The set's decoder; UTF-8 where none was asked for.
    pub(crate) fn decoder(&self, name: &str) -> Charset {
        self.decoders.get(name).cloned().unwrap_or(Charset::Utf8)
    }

    /// Whether text in this set can be read: it is Unicode, or its table was asked for.
    pub(crate) fn knows(&self, name: &str) -> bool {
        matches!(name, "utf8mb4" | "utf8mb3" | "utf8" | "ascii") || name != "binary" && self.decoders.contains_key(name)
    }

    /// The set that a collation belongs to.
    pub(crate) fn of_collation(&self, collation: Option<u32>) -> &str {
        collation.and_then(|id| self.by_collation.get(&id)).map_or("", String::as_str)
    }
}

/// The server's own table of a set with one byte a character.
async fn single(session: &mut MysqlSession, name: &str) -> Result<Box<[Option<char>; 256]>, FlowError> {
    let doing = "reading the character sets";
    let width: Option<u64> = session
        .value(
            doing,
            &format!("SELECT MAXLEN FROM information_schema.CHARACTER_SETS WHERE CHARACTER_SET_NAME = {}", text(name)),
        )
        .await?;
    let sane = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    if width != Some(1) || !sane {
        return Err(FlowError::Stop(format!(
            "text in the character set `{name}` cannot be carried: make the column utf8mb4"
        )));
    }
    let bytes: String = (0..=255_u8).map(|byte| format!("{byte:02x}")).collect();
    let all: Option<String> = session.value(doing, &format!("SELECT CONVERT(x'{bytes}' USING {name})")).await?;
    let mut table = Box::new([None; 256]);
    let mut chars = all.unwrap_or_default().chars().collect::<Vec<_>>().into_iter();
    for (byte, slot) in table.iter_mut().enumerate() {
        // What the set does not have comes as a question mark.
        *slot = chars.next().filter(|c| *c != '?' || byte == usize::from(b'?'));
    }
    Ok(table)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(charset: &Charset, bytes: &[u8]) -> Result<String, BadText> {
        let mut out = Vec::new();
        charset.decode(bytes, &mut out).map(|()| String::from_utf8(out).unwrap())
    }

    #[test]
    fn text_of_every_width_becomes_utf8() {
        assert_eq!(decode(&Charset::Utf8, "Bö😀".as_bytes()), Ok("Bö😀".to_owned()));
        assert_eq!(decode(&Charset::Utf8, &[0xff]), Err(BadText));
        assert_eq!(decode(&Charset::Utf16, &[0, b'B', 0xd8, 0x3d, 0xde, 0]), Ok("B😀".to_owned()));
        assert_eq!(decode(&Charset::Utf16Le, &[b'B', 0]), Ok("B".to_owned()));
        assert_eq!(decode(&Charset::Utf16, &[0]), Err(BadText));
        assert_eq!(decode(&Charset::Utf32, &[0, 1, 0xf6, 0]), Ok("😀".to_owned()));
        let mut table = Box::new([None; 256]);
        table[0x80] = Some('€');
        let single = Charset::Single(table);
        assert_eq!(decode(&single, &[0x80]), Ok("€".to_owned()));
        assert_eq!(decode(&single, &[0x81]), Err(BadText));
    }
}
