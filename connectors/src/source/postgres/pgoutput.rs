//! Decoder of pgoutput, protocol version 1, in place: nothing is copied but the names of a relation.
//!
//! The message formats: <https://www.postgresql.org/docs/current/protocol-logicalrep-message-formats.html>. Begin, Commit and logical
//! messages are taken apart by the transport already.

use thiserror::Error;

use crate::record::envelope::Value;

/// Bytes that are not pgoutput.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("not a pgoutput message of protocol version 1")]
pub(crate) struct BadMessage;

/// The values of a row, one per column of its relation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tuple<'a> {
    columns: u16,
    bytes: &'a [u8],
}

/// What an UPDATE or DELETE says of the row before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Old<'a> {
    /// Nothing: the identity did not change.
    None,
    /// The identity's columns; all others are null.
    Key(Tuple<'a>),
    /// The whole row (REPLICA IDENTITY FULL).
    Row(Tuple<'a>),
}

/// A table as the stream announces it, before its first row and after each change of its shape.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Relation {
    pub(crate) id: u32,
    pub(crate) schema: String,
    pub(crate) table: String,
    /// `d`, `n`, `f` or `i`.
    pub(crate) identity: u8,
    pub(crate) columns: Vec<Column>,
}

/// A column of a relation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Column {
    pub(crate) is_key: bool,
    pub(crate) name: String,
    pub(crate) type_id: u32,
    pub(crate) type_modifier: i32,
}

/// One message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Message<'a> {
    Relation(Relation),
    Insert {
        relation: u32,
        new: Tuple<'a>,
    },
    Update {
        relation: u32,
        old: Old<'a>,
        new: Tuple<'a>,
    },
    Delete {
        relation: u32,
        old: Old<'a>,
    },
    Truncate {
        relations: Vec<u32>,
    },
    /// A type's name, or the replication origin: nothing to do.
    Other,
}

/// Iterates over a tuple.
#[derive(Debug, Clone)]
pub(crate) struct Values<'a> {
    left: u16,
    bytes: &'a [u8],
}

struct Cursor<'a>(&'a [u8]);

// === impl Cursor ===

impl<'a> Cursor<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], BadMessage> {
        let (head, tail) = self.0.split_at_checked(len).ok_or(BadMessage)?;
        self.0 = tail;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], BadMessage> {
        let (head, tail) = self.0.split_first_chunk::<N>().ok_or(BadMessage)?;
        self.0 = tail;
        Ok(*head)
    }

    fn u8(&mut self) -> Result<u8, BadMessage> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn u16(&mut self) -> Result<u16, BadMessage> {
        self.array().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Result<u32, BadMessage> {
        self.array().map(u32::from_be_bytes)
    }

    fn name(&mut self) -> Result<String, BadMessage> {
        let end = memchr::memchr(0, self.0).ok_or(BadMessage)?;
        let name = std::str::from_utf8(self.take(end)?).map_err(|_| BadMessage)?.to_owned();
        self.take(1)?;
        Ok(name)
    }

    /// Checks a tuple from end to end, so that iterating over it later cannot fail.
    fn tuple(&mut self) -> Result<Tuple<'a>, BadMessage> {
        let columns = self.u16()?;
        let start = self.0;
        for _ in 0..columns {
            match self.u8()? {
                b'n' | b'u' => {}
                b't' => {
                    let len = self.u32()?;
                    self.take(usize::try_from(len).map_err(|_| BadMessage)?)?;
                }
                // Binary was not asked for.
                _ => return Err(BadMessage),
            }
        }
        Ok(Tuple { columns, bytes: &start[..start.len() - self.0.len()] })
    }

    fn old(&mut self, kind: u8) -> Result<Old<'a>, BadMessage> {
        match kind {
            b'K' => self.tuple().map(Old::Key),
            b'O' => self.tuple().map(Old::Row),
            _ => Err(BadMessage),
        }
    }
}

// === impl Message ===

impl<'a> Message<'a> {
    pub(crate) fn decode(bytes: &'a [u8]) -> Result<Self, BadMessage> {
        let mut cursor = Cursor(bytes);
        match cursor.u8()? {
            b'I' => {
                let relation = cursor.u32()?;
                if cursor.u8()? != b'N' {
                    return Err(BadMessage);
                }
                Ok(Self::Insert { relation, new: cursor.tuple()? })
            }
            b'U' => {
                let relation = cursor.u32()?;
                let mut kind = cursor.u8()?;
                let mut old = Old::None;
                if kind != b'N' {
                    old = cursor.old(kind)?;
                    kind = cursor.u8()?;
                }
                if kind != b'N' {
                    return Err(BadMessage);
                }
                Ok(Self::Update { relation, old, new: cursor.tuple()? })
            }
            b'D' => {
                let relation = cursor.u32()?;
                let kind = cursor.u8()?;
                Ok(Self::Delete { relation, old: cursor.old(kind)? })
            }
            b'T' => {
                let count = cursor.u32()?;
                cursor.u8()?;
                let relations = (0..count).map(|_| cursor.u32()).collect::<Result<_, _>>()?;
                Ok(Self::Truncate { relations })
            }
            b'R' => {
                let id = cursor.u32()?;
                let mut schema = cursor.name()?;
                if schema.is_empty() {
                    "pg_catalog".clone_into(&mut schema);
                }
                let table = cursor.name()?;
                let identity = cursor.u8()?;
                let count = cursor.u16()?;
                let column = |_| {
                    Ok(Column {
                        is_key: cursor.u8()? & 1 == 1,
                        name: cursor.name()?,
                        type_id: cursor.u32()?,
                        type_modifier: cursor.u32()?.cast_signed(),
                    })
                };
                let columns = (0..count).map(column).collect::<Result<_, _>>()?;
                Ok(Self::Relation(Relation { id, schema, table, identity, columns }))
            }
            b'Y' | b'O' => Ok(Self::Other),
            _ => Err(BadMessage),
        }
    }
}

// === impl Relation ===

impl Relation {
    /// Whether the stream tells its rows apart by these columns, and no fewer or others: all of a row is told with `REPLICA IDENTITY FULL`.
    pub(crate) fn is_told_apart_by(&self, key: &[String]) -> bool {
        let has = |name: &String| self.columns.iter().any(|column| column.name == *name);
        let keys = || self.columns.iter().filter(|column| column.is_key);
        key.iter().all(has)
            && (self.identity == b'f' || keys().count() == key.len() && keys().all(|own| key.contains(&own.name)))
    }
}

// === impl Tuple ===

impl<'a> Tuple<'a> {
    pub(crate) fn len(&self) -> usize {
        usize::from(self.columns)
    }

    pub(crate) fn values(&self) -> Values<'a> {
        Values { left: self.columns, bytes: self.bytes }
    }

    /// The same; what the change left in its place elsewhere is as it was in the row before.
    pub(crate) fn values_or(&self, before: Tuple<'a>) -> impl Iterator<Item = Value<'a>> + Clone {
        self.values().zip(before.values()).map(|(new, old)| if new == Value::Unchanged { old } else { new })
    }
}

impl<'a> Iterator for Values<'a> {
    type Item = Value<'a>;

    fn next(&mut self) -> Option<Value<'a>> {
        self.left = self.left.checked_sub(1)?;
        let (kind, rest) = self.bytes.split_first()?;
        self.bytes = rest;
        match kind {
            b't' => {
                let (len, rest) = rest.split_first_chunk::<4>()?;
                let (text, rest) = rest.split_at_checked(u32::from_be_bytes(*len) as usize)?;
                self.bytes = rest;
                Some(Value::Text(text))
            }
            b'u' => Some(Value::Unchanged),
            _ => Some(Value::Null),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn put_tuple(out: &mut Vec<u8>, row: &[Option<Option<Vec<u8>>>]) {
        out.extend_from_slice(&u16::try_from(row.len()).unwrap().to_be_bytes());
        for value in row {
            match value {
                None => out.push(b'u'),
                Some(None) => out.push(b'n'),
                Some(Some(text)) => {
                    out.push(b't');
                    out.extend_from_slice(&u32::try_from(text.len()).unwrap().to_be_bytes());
                    out.extend_from_slice(text);
                }
            }
        }
    }

    fn seen(tuple: Tuple<'_>) -> Vec<Option<Option<Vec<u8>>>> {
        tuple
            .values()
            .map(|value| match value {
                Value::Unchanged => None,
                Value::Null => Some(None),
                Value::Text(text) => Some(Some(text.to_vec())),
            })
            .collect()
    }

    fn row() -> impl Strategy<Value = Vec<Option<Option<Vec<u8>>>>> {
        proptest::collection::vec(
            proptest::option::of(proptest::option::of(proptest::collection::vec(any::<u8>(), 0..20))),
            0..8,
        )
    }

    /// What PostgreSQL 15 sent for inserts, an update that left a long value alone, key changes, deletes, REPLICA IDENTITY FULL,
    /// a TRUNCATE of two tables and a column that was added; one message a line.
    fn real() -> Vec<Vec<u8>> {
        let digit = |c: u8| u8::try_from(char::from(c).to_digit(16).unwrap()).unwrap();
        let line = |line: &str| line.as_bytes().chunks(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect();
        include_str!("pgoutput_real.hex").lines().map(line).collect()
    }

    #[test]
    fn what_a_server_sent_is_understood() {
        let messages = real();
        let messages: Vec<_> = messages.iter().map(|bytes| Message::decode(bytes).unwrap()).collect();
        let kinds: String = messages
            .iter()
            .map(|message| match message {
                Message::Relation(relation) if relation.identity == b'f' => 'F',
                Message::Relation(_) => 'R',
                Message::Insert { .. } => 'I',
                Message::Update { old: Old::None, .. } => 'u',
                Message::Update { old: Old::Key(_), .. } => 'k',
                Message::Update { old: Old::Row(_), .. } => 'o',
                Message::Delete { old: Old::Key(_), .. } => 'd',
                Message::Delete { .. } => 'D',
                Message::Truncate { .. } => 'T',
                Message::Other => '.',
            })
            .collect();
        assert_eq!(kinds, ".RIIukdFIoD.RFT.RI");
        let Message::Update { new, .. } = messages[4] else { panic!() };
        let values: Vec<_> = new.values().collect();
        assert_eq!(values[..3], [Value::Text(b"2"), Value::Text(b"1.00"), Value::Unchanged]);
        let Message::Relation(grown) = &messages[16] else { panic!() };
        assert_eq!(grown.columns.last().map(|column| column.name.as_str()), Some("extra"));
    }

    proptest! {
        #[test]
        fn rows_come_out_as_they_went_in(id in any::<u32>(), old in row(), new in row(), whole in any::<bool>()) {
            let mut bytes = vec![b'U'];
            bytes.extend_from_slice(&id.to_be_bytes());
            bytes.push(if whole { b'O' } else { b'K' });
            put_tuple(&mut bytes, &old);
            bytes.push(b'N');
            put_tuple(&mut bytes, &new);
            let Message::Update { relation, old: found, new: tuple } = Message::decode(&bytes).unwrap() else { panic!() };
            prop_assert_eq!(relation, id);
            prop_assert_eq!(seen(tuple), new);
            match found {
                Old::Key(tuple) if !whole => prop_assert_eq!(seen(tuple), old),
                Old::Row(tuple) if whole => prop_assert_eq!(seen(tuple), old),
                other => prop_assert!(false, "{:?}", other),
            }
            // A message that was cut anywhere is refused, never read past its end.
            for len in 0..bytes.len() {
                prop_assert!(Message::decode(&bytes[..len]).is_err());
            }
        }

        #[test]
        fn a_relation_comes_out_as_it_went_in(
            id in any::<u32>(),
            schema in "[a-z]{1,8}",
            table in "[^\0]{1,8}",
            columns in proptest::collection::vec((any::<bool>(), "[^\0]{0,8}", any::<u32>(), any::<i32>()), 0..6),
        ) {
            let mut bytes = vec![b'R'];
            bytes.extend_from_slice(&id.to_be_bytes());
            for name in [&schema, &table] {
                bytes.extend_from_slice(name.as_bytes());
                bytes.push(0);
            }
            bytes.push(b'd');
            bytes.extend_from_slice(&u16::try_from(columns.len()).unwrap().to_be_bytes());
            for (is_key, name, type_id, modifier) in &columns {
                bytes.push(u8::from(*is_key));
                bytes.extend_from_slice(name.as_bytes());
                bytes.push(0);
                bytes.extend_from_slice(&type_id.to_be_bytes());
                bytes.extend_from_slice(&modifier.to_be_bytes());
            }
            let columns = columns.into_iter().map(|(is_key, name, type_id, type_modifier)| Column { is_key, name, type_id, type_modifier }).collect();
            prop_assert_eq!(Message::decode(&bytes), Ok(Message::Relation(Relation { id, schema, table, identity: b'd', columns })));
        }

        #[test]
        fn damaged_real_bytes_never_panic(which in 0_usize..18, cut in any::<u16>(), damage in proptest::collection::vec((any::<u16>(), any::<u8>()), 0..6)) {
            let mut bytes = real().swap_remove(which);
            for (at, byte) in damage {
                let at = usize::from(at) % bytes.len();
                bytes[at] = byte;
            }
            bytes.truncate(1 + usize::from(cut) % (2 * bytes.len()));
            // Whatever was let through can be read to its end.
            if let Ok(Message::Insert { new, .. } | Message::Update { new, .. }) = Message::decode(&bytes) {
                prop_assert_eq!(new.values().count(), new.len());
            }
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80), kind in prop_oneof![Just(b'I'), Just(b'U'), Just(b'D'), Just(b'T'), Just(b'R')]) {
            let mut bytes = bytes;
            bytes.insert(0, kind);
            drop(Message::decode(&bytes));
        }
    }
}
