//! A row record: Debezium's envelope, every column value as text that the other database's input takes.
//!
//! A column that is missing from `after` was not in the stream (unchanged TOAST): it must be left alone, and no placeholder stands for it.

use std::{borrow::Cow, collections::BTreeSet};

use super::json::{BadJson, Reader, write_number, write_string};
use crate::position::Lsn;

/// A column's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Value<'a> {
    Null,
    /// A TOASTed value that this change did not touch: it is not in the stream.
    Unchanged,
    Text(&'a [u8]),
}

/// The kind of database that a record comes from, as Debezium names its connectors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Connector {
    Postgres,
    Mariadb,
    Mysql,
}

/// What happened to the row; Debezium's letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Op {
    /// `c`
    Create,
    /// `u`
    Update,
    /// `d`
    Delete,
    /// `t`, a whole table
    Truncate,
    /// `r`, read by a snapshot
    Read,
}

/// What is the same for every row of a table: names, written once.
#[derive(Debug, Clone)]
pub(crate) struct TableFrame {
    /// Each column's name as a JSON key with its colon.
    keys: Vec<Vec<u8>>,
    /// Which columns identify a row.
    identity: Vec<bool>,
    /// `"version"` to `"name"`.
    source_head: Vec<u8>,
    /// `"db"` to `"table"`.
    source_names: Vec<u8>,
}

/// When and where a change happened.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stamp {
    pub(crate) op: Op,
    /// Microseconds since 1970, of the commit at the source.
    pub(crate) committed: i64,
    pub(crate) xid: u32,
    pub(crate) lsn: Lsn,
}

/// A row record as read back.
#[derive(Debug)]
pub(crate) struct Envelope<'a> {
    pub(crate) op: Op,
    pub(crate) schema: Cow<'a, str>,
    pub(crate) table: Cow<'a, str>,
    before: Option<Reader<'a>>,
    after: Option<Reader<'a>>,
}

// === impl Connector ===

impl Connector {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Postgres => "postgresql",
            Self::Mariadb => "mariadb",
            Self::Mysql => "mysql",
        }
    }
}

// === impl Op ===

impl Op {
    const ALL: [Self; 5] = [Self::Create, Self::Update, Self::Delete, Self::Truncate, Self::Read];

    const fn letter(self) -> u8 {
        match self {
            Self::Create => b'c',
            Self::Update => b'u',
            Self::Delete => b'd',
            Self::Truncate => b't',
            Self::Read => b'r',
        }
    }

    /// For the metric label.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Create => "c",
            Self::Update => "u",
            Self::Delete => "d",
            Self::Truncate => "t",
            Self::Read => "r",
        }
    }
}

// === impl TableFrame ===

impl TableFrame {
    /// `columns` are names, and whether each is part of the row's identity.
    pub(crate) fn new<'c>(
        connector: Connector,
        name: &str,
        database: &str,
        schema: &str,
        table: &str,
        columns: impl Iterator<Item = (&'c str, bool)>,
    ) -> Self {
        let (mut keys, mut identity) = (Vec::new(), Vec::new());
        for (column, is_key) in columns {
            let mut key = Vec::with_capacity(column.len() + 3);
            write_string(&mut key, column.as_bytes());
            key.push(b':');
            keys.push(key);
            identity.push(is_key);
        }
        let mut source_head =
            concat!("\"version\":\"", env!("CARGO_PKG_VERSION"), "\",\"connector\":\"").as_bytes().to_vec();
        source_head.extend_from_slice(connector.as_str().as_bytes());
        source_head.extend_from_slice(b"\",\"name\":");
        write_string(&mut source_head, name.as_bytes());
        let mut source_names = b",\"db\":".to_vec();
        write_string(&mut source_names, database.as_bytes());
        source_names.extend_from_slice(b",\"schema\":");
        write_string(&mut source_names, schema.as_bytes());
        source_names.extend_from_slice(b",\"table\":");
        write_string(&mut source_names, table.as_bytes());
        Self { keys, identity, source_head, source_names }
    }

    /// The message key: the columns of the row's identity.
    pub(crate) fn write_key<'v>(&self, out: &mut Vec<u8>, values: impl Iterator<Item = Value<'v>>) {
        self.write_columns(out, values, true);
    }

    /// Whether all columns of the row's identity are there.
    pub(crate) fn has_key<'v>(&self, values: impl Iterator<Item = Value<'v>>) -> bool {
        self.identity.iter().zip(values).all(|(is_key, value)| !is_key || matches!(value, Value::Text(_)))
    }

    fn write_columns<'v>(&self, out: &mut Vec<u8>, values: impl Iterator<Item = Value<'v>>, identity_only: bool) {
        out.push(b'{');
        let mut first = true;
        for ((key, is_key), value) in self.keys.iter().zip(&self.identity).zip(values) {
            if identity_only && !is_key || value == Value::Unchanged {
                continue;
            }
            if !std::mem::take(&mut first) {
                out.push(b',');
            }
            out.extend_from_slice(key);
            match value {
                Value::Text(text) => write_string(out, text),
                Value::Null | Value::Unchanged => out.extend_from_slice(b"null"),
            }
        }
        out.push(b'}');
    }

    /// The envelope. `before` is the old identity, or (`before_whole`) the whole old row.
    pub(crate) fn write<'v>(
        &self,
        out: &mut Vec<u8>,
        before: Option<(impl Iterator<Item = Value<'v>>, bool)>,
        after: Option<impl Iterator<Item = Value<'v>>>,
        stamp: Stamp,
    ) {
        out.extend_from_slice(b"{\"before\":");
        match before {
            Some((values, whole)) => self.write_columns(out, values, !whole),
            None => out.extend_from_slice(b"null"),
        }
        out.extend_from_slice(b",\"after\":");
        match after {
            Some(values) => self.write_columns(out, values, false),
            None => out.extend_from_slice(b"null"),
        }
        out.extend_from_slice(b",\"source\":{");
        out.extend_from_slice(&self.source_head);
        write_times(out, stamp.committed);
        out.extend_from_slice(if stamp.op == Op::Read {
            b",\"snapshot\":\"true\""
        } else {
            b",\"snapshot\":\"false\""
        });
        out.extend_from_slice(&self.source_names);
        out.extend_from_slice(b",\"txId\":");
        write_number(out, stamp.xid);
        out.extend_from_slice(b",\"lsn\":");
        write_number(out, stamp.lsn.get());
        out.extend_from_slice(b",\"xmin\":null},\"transaction\":null,\"op\":\"");
        out.push(stamp.op.letter());
        out.push(b'"');
        write_times(out, stamp.committed);
        out.push(b'}');
    }
}

fn write_times(out: &mut Vec<u8>, micros: i64) {
    out.extend_from_slice(b",\"ts_ms\":");
    write_number(out, micros / 1_000);
    out.extend_from_slice(b",\"ts_us\":");
    write_number(out, micros);
    out.extend_from_slice(b",\"ts_ns\":");
    write_number(out, micros.saturating_mul(1_000));
}

// === impl Envelope ===

impl<'a> Envelope<'a> {
    /// Reads the frame; the columns are read later, when the table is known.
    pub(crate) fn parse(bytes: &'a [u8]) -> Result<Self, BadJson> {
        let mut reader = Reader::new(bytes);
        let (mut before, mut after, mut op, mut schema, mut table) = (None, None, None, None, None);
        reader.expect(b'{')?;
        let mut first = true;
        while reader.member(&mut first)? {
            match &*reader.key()? {
                "before" => before = object(&mut reader)?,
                "after" => after = object(&mut reader)?,
                "op" => {
                    let letter = reader.string()?;
                    op = Op::ALL.into_iter().find(|op| letter.as_bytes() == [op.letter()]);
                }
                "source" => {
                    reader.expect(b'{')?;
                    let mut first = true;
                    while reader.member(&mut first)? {
                        match &*reader.key()? {
                            "schema" => schema = Some(reader.string()?),
                            "table" => table = Some(reader.string()?),
                            _ => drop(reader.skip()?),
                        }
                    }
                }
                _ => drop(reader.skip()?),
            }
        }
        match (op, schema, table) {
            (Some(op), Some(schema), Some(table)) => Ok(Self { op, schema, table, before, after }),
            _ => Err(BadJson),
        }
    }

    /// An update as the end of its row.
    pub(crate) fn leaves(self) -> Self {
        Self { op: Op::Delete, after: None, ..self }
    }

    /// An update as the beginning of its row: what `after` does not say, `before` does.
    pub(crate) fn comes(self) -> Self {
        Self { op: Op::Create, ..self }
    }

    /// The old row as a JSON object, as far as the record has it; each value is text or null.
    pub(crate) fn old_row(&self) -> Result<Option<String>, BadJson> {
        self.before.map(|object| object.rest().map(str::to_owned)).transpose()
    }

    /// The row after the change likewise, without what the change left in its place elsewhere.
    pub(crate) fn new_row(&self) -> Result<Option<String>, BadJson> {
        let Some(after) = self.after else { return Ok(None) };
        let mut whole = after.rest()?.to_owned();
        if self.op == Op::Create && self.before.is_some() {
            // It came from a row of which the sync knew nothing: what did not change is said there alone.
            let (mut own, mut more) = (BTreeSet::new(), Vec::new());
            self.after(|name, _| {
                own.insert(name.to_owned());
            })?;
            self.before(|name, value| {
                if !own.contains(name) {
                    more.push(b',');
                    write_string(&mut more, name.as_bytes());
                    more.push(b':');
                    match value {
                        Some(text) => write_string(&mut more, text.as_bytes()),
                        None => more.extend_from_slice(b"null"),
                    }
                }
            })?;
            let more = String::from_utf8(more).map_err(|_| BadJson)?;
            let end = whole.rfind('}').ok_or(BadJson)?;
            whole.insert_str(end, if own.is_empty() { more.trim_start_matches(',') } else { &more });
        }
        Ok(Some(whole))
    }

    /// How many columns [`Self::new_row`] has.
    pub(crate) fn given(&self) -> Result<usize, BadJson> {
        let mut given = BTreeSet::new();
        self.after(|name, _| {
            given.insert(name.to_owned());
        })?;
        if self.op == Op::Create {
            self.before(|name, _| {
                given.insert(name.to_owned());
            })?;
        }
        Ok(given.len())
    }

    /// Gives each column of `before` to `take`.
    pub(crate) fn before(&self, take: impl FnMut(&str, Option<&str>)) -> Result<bool, BadJson> {
        columns(self.before, take)
    }

    /// Gives each column of `after` to `take`.
    pub(crate) fn after(&self, take: impl FnMut(&str, Option<&str>)) -> Result<bool, BadJson> {
        columns(self.after, take)
    }
}

fn object<'a>(reader: &mut Reader<'a>) -> Result<Option<Reader<'a>>, BadJson> {
    if reader.peek()? == b'{' { reader.skip().map(Some) } else { reader.text().map(|_| None) }
}

fn columns(object: Option<Reader<'_>>, mut take: impl FnMut(&str, Option<&str>)) -> Result<bool, BadJson> {
    let Some(mut reader) = object else { return Ok(false) };
    reader.expect(b'{')?;
    let mut first = true;
    while reader.member(&mut first)? {
        let name = reader.key()?;
        let value = reader.text()?;
        take(&name, value.as_deref());
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_row_that_comes_into_the_sync_is_told_with_what_did_not_change() {
        let record = |before: &str, after: &str| {
            format!(r#"{{"before":{before},"after":{after},"op":"u","source":{{"schema":"a","table":"b"}}}}"#)
        };
        let cases = [
            (r#"{"id":"1","big":"x\"y","n":null}"#, r#"{"id":"2"}"#, r#"{"id":"2","big":"x\"y","n":null}"#, 3),
            (r#"{"id":"1"}"#, "{}", r#"{"id":"1"}"#, 1),
            ("null", r#"{"id":"2"}"#, r#"{"id":"2"}"#, 1),
        ];
        for (before, after, new, given) in cases {
            let record = record(before, after);
            let came = Envelope::parse(record.as_bytes()).unwrap().comes();
            assert_eq!((came.new_row().unwrap().as_deref(), came.given().unwrap()), (Some(new), given));
            let changed = Envelope::parse(record.as_bytes()).unwrap();
            assert_eq!(changed.new_row().unwrap().as_deref(), Some(after));
            assert_eq!(changed.leaves().new_row().unwrap(), None);
        }
    }

    fn value() -> impl Strategy<Value = Option<Option<String>>> {
        prop_oneof![Just(None), Just(Some(None)), any::<String>().prop_map(|text| Some(Some(text)))]
    }

    fn as_value(value: &Option<Option<String>>) -> Value<'_> {
        match value {
            None => Value::Unchanged,
            Some(None) => Value::Null,
            Some(Some(text)) => Value::Text(text.as_bytes()),
        }
    }

    proptest! {
        #[test]
        fn a_row_survives_and_is_json(row in proptest::collection::vec((any::<String>(), value(), any::<bool>()), 1..6)) {
            let frame = TableFrame::new(Connector::Postgres, "banyan.s.f", "db", "pub\"lic", "t", row.iter().map(|(name, _, key)| (name.as_str(), *key)));
            let stamp = Stamp { op: Op::Update, committed: 1_795_380_591_000_000, xid: 7, lsn: Lsn::new(9) };
            let values = || row.iter().map(|(_, value, _)| as_value(value));
            let mut out = Vec::new();
            frame.write(&mut out, Some((values(), false)), Some(values()), stamp);
            let json: serde_json::Value = serde_json::from_slice(&out).unwrap();
            prop_assert_eq!(&json["source"]["schema"], "pub\"lic");
            let envelope = Envelope::parse(&out).unwrap();
            prop_assert_eq!((envelope.op, &*envelope.schema, &*envelope.table), (Op::Update, "pub\"lic", "t"));
            let mut seen = Vec::new();
            envelope.after(|name, value| seen.push((name.to_owned(), value.map(str::to_owned)))).unwrap();
            let wanted: Vec<_> = row.iter().filter_map(|(name, value, _)| value.clone().map(|value| (name.clone(), value))).collect();
            prop_assert_eq!(seen, wanted);
            // As one JSON text, for whoever takes it whole.
            let (old, new) = (envelope.old_row().unwrap().unwrap(), envelope.new_row().unwrap().unwrap());
            prop_assert_eq!(&serde_json::from_str::<serde_json::Value>(&old).unwrap(), &json["before"]);
            prop_assert_eq!(&serde_json::from_str::<serde_json::Value>(&new).unwrap(), &json["after"]);
            let mut old = 0;
            envelope.before(|_, _| old += 1).unwrap();
            prop_assert_eq!(old, row.iter().filter(|(_, value, key)| *key && value.is_some()).count());
        }
    }
}
