//! A table that is copied in chunks: its columns, the key by which it is read, and the statements that read a chunk.

use crate::{
    database::postgres::Session,
    error::FlowError,
    names::{literal, quote, quote_table},
    plan::Plan,
    record::envelope::{Connector, TableFrame, Value},
    source::postgres::schema::Shape,
};

/// A row's key, each column as text, in the key's order.
pub(crate) type Key = Vec<String>;

/// What is the same for all chunks of a table.
#[derive(Debug)]
pub(crate) struct ChunkTable {
    /// `schema.table` of the source.
    pub(crate) name: String,
    pub(crate) frame: TableFrame,
    /// Its columns when it was looked up.
    pub(crate) shape: Shape,
    columns: Vec<String>,
    /// Places in `columns`, and the types, in the key's order.
    key: Vec<(usize, String)>,
    /// Rows, as the server's statistics guess.
    pub(crate) guess: u64,
}

// === impl ChunkTable ===

impl ChunkTable {
    /// Reads the catalogue. The key is what the stream sends of a row that goes: the index of the replica identity, else the primary key.
    /// `told`: by which columns `order: key` tells its rows apart.
    pub(crate) async fn load(
        session: &Session,
        plan: &Plan,
        name: &str,
        told: Option<&Vec<String>>,
    ) -> Result<Self, FlowError> {
        let sql = |e: &tokio_postgres::Error| FlowError::sql("reading a table's columns", e);
        let rows = session
            .query(
                "SELECT a.attname::text, format_type(a.atttypid, -1), \
                     coalesce(array_position((i.indkey::int2[])[0:i.indnkeyatts - 1], a.attnum)::int, -1), a.atttypid, a.atttypmod \
                 FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid \
                 LEFT JOIN pg_index i ON i.indrelid = a.attrelid AND CASE c.relreplident WHEN 'i' THEN i.indisreplident ELSE i.indisprimary END \
                 WHERE a.attrelid = to_regclass($1) AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '' ORDER BY a.attnum",
                &[&quote_table(name)],
            )
            .await
            .map_err(|e| sql(&e))?;
        let columns: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
        let mut key: Vec<(i32, usize, String)> = Vec::new();
        for (at, row) in rows.iter().enumerate() {
            let place: i32 = row.get(2);
            if place >= 0 {
                key.push((place, at, row.get(1)));
            }
        }
        key.sort_unstable();
        let key: Vec<_> = key.into_iter().map(|(_, at, kind)| (at, kind)).collect();
        if key.is_empty() {
            return Err(FlowError::Stop(format!("the source's table `{name}` is not there, or has no primary key")));
        }
        let row = session
            .query_one(
                "SELECT coalesce(sum(greatest(c.reltuples, 0)), 0)::bigint FROM pg_class c WHERE c.relkind <> 'p' \
                 AND (c.oid = to_regclass($1) OR c.oid IN (SELECT relid FROM pg_partition_tree(to_regclass($1))))",
                &[&quote_table(name)],
            )
            .await
            .map_err(|e| sql(&e))?;
        let guess = row.get::<_, i64>(0).cast_unsigned();
        let (schema, table) = name.split_once('.').unwrap_or(("public", name));
        let is_key = |at: usize| key.iter().any(|(place, _)| *place == at);
        let frame = TableFrame::new(
            Connector::Postgres,
            &plan.names.topic(),
            plan.source.database(),
            schema,
            table,
            columns
                .iter()
                .enumerate()
                .map(|(at, column)| (column.as_str(), told.map_or_else(|| is_key(at), |told| told.contains(column)))),
        );
        let described = rows.iter().enumerate().map(|(at, row)| (row.get(0), row.get(3), row.get(4), is_key(at)));
        let shape = Shape::new(name, described);
        Ok(Self { name: name.to_owned(), frame, shape, columns, key, guess })
    }

    pub(crate) fn columns(&self) -> usize {
        self.columns.len()
    }

    pub(crate) fn key_names(&self) -> impl Iterator<Item = &str> {
        self.key.iter().map(|(at, _)| self.columns[*at].as_str())
    }

    /// The key of a row as this table's chunks have it.
    pub(crate) fn key_of<'v>(&self, values: &(impl Iterator<Item = Value<'v>> + Clone)) -> Key {
        let text = |at: usize| match values.clone().nth(at) {
            Some(Value::Text(text)) => String::from_utf8_lossy(text).into_owned(),
            _ => String::new(),
        };
        self.key.iter().map(|(at, _)| text(*at)).collect()
    }

    /// The same as one run of bytes.
    pub(crate) fn write_key<'v>(&self, out: &mut Vec<u8>, values: &(impl Iterator<Item = Value<'v>> + Clone)) {
        out.clear();
        for (place, _) in &self.key {
            if let Some(Value::Text(text)) = values.clone().nth(*place) {
                out.extend_from_slice(&text.len().to_be_bytes());
                out.extend_from_slice(text);
            }
        }
    }

    /// All rows behind `after`, at most `limit`.
    pub(crate) fn range(&self, after: Option<&[String]>, limit: usize) -> String {
        let keys: Vec<String> = self.key_names().map(quote).collect();
        let behind = match after {
            Some(after) => format!("WHERE ({}) > ({})", keys.join(", "), self.literals(after)),
            None => String::new(),
        };
        self.copy(&format!("{behind} ORDER BY {} LIMIT {limit}", keys.join(", ")))
    }

    /// The rows of these keys, as far as they are still there.
    pub(crate) fn rows(&self, keys: &[Key]) -> String {
        let names: Vec<String> = self.key_names().map(quote).collect();
        let keys: Vec<String> = keys.iter().map(|key| format!("({})", self.literals(key))).collect();
        self.copy(&format!("WHERE ({}) IN ({})", names.join(", "), keys.join(", ")))
    }

    fn copy(&self, which: &str) -> String {
        let columns: Vec<String> = self.columns.iter().map(|column| quote(column)).collect();
        format!("COPY (SELECT {} FROM {} {which}) TO STDOUT", columns.join(", "), quote_table(&self.name))
    }

    fn literals(&self, key: &[String]) -> String {
        let texts: Vec<String> =
            key.iter().zip(&self.key).map(|(text, (_, kind))| format!("{}::{kind}", literal(text))).collect();
        texts.join(", ")
    }
}
