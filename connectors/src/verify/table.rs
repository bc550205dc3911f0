//! One table on both sides: how its rows are read and weighed there.

use std::collections::{BTreeMap, HashMap};

use tokio_postgres::{Statement, types::ToSql};

use super::sides::Sides;
use crate::{
    database::postgres::Session,
    error::FlowError,
    names::{quote, quote_table},
    plan::PlanTable,
};

/// The values of a primary key, as text.
pub(super) type Key = Vec<String>;
/// Of a row's text.
pub(super) type Checksum = String;
/// Of a row: another one when it was written again, even with the same values.
pub(super) type Version = String;
/// The texts of a row's columns.
pub(super) type Row = Vec<Option<String>>;

/// A table of both sides.
pub(super) struct Table {
    pub(super) owner: SideTable,
    pub(super) other: SideTable,
    /// The primary key's columns, by the owner's names.
    pub(super) key: Vec<String>,
    /// All columns that are compared, by the owner's names.
    pub(super) columns: Vec<String>,
    /// The same by the other side's names.
    pub(super) other_columns: Vec<String>,
    /// Rows of the owner's side, as its statistics guess.
    pub(super) guess: u64,
}

/// A table of one side.
pub(super) struct SideTable {
    /// The first rows by key, and those behind a key: their keys.
    first: Statement,
    after: Statement,
    /// Of which of these keys there is a row, and its checksum.
    checksums: Statement,
    /// The same, a checksum a column; the columns' own text; and nothing of them.
    by_column: Statement,
    rows: Statement,
    present: Statement,
    versions: Statement,
    keys: usize,
}

/// A column as a catalogue shows it.
struct Column {
    name: String,
    /// Without its modifier.
    type_name: String,
    generated: bool,
    /// Its place in the primary key.
    key: Option<usize>,
}

/// How many rows a statement reads.
pub(super) const CHUNK: usize = 5_000;

// === impl Table ===

impl Table {
    /// Reads both catalogues and prepares the statements.
    pub(super) async fn load(sides: &Sides, plan: &PlanTable) -> Result<Self, FlowError> {
        let owner = columns(&sides.owner, &plan.source).await?;
        let other = columns(&sides.other, &plan.target).await?;
        let by_name: HashMap<&str, &Column> = other.iter().map(|column| (column.name.as_str(), column)).collect();
        let mut key: Vec<(usize, &Column)> = other.iter().filter_map(|c| c.key.map(|place| (place, c))).collect();
        key.sort_unstable_by_key(|(place, _)| *place);
        if key.is_empty() {
            return Err(FlowError::Stop(format!("the table `{}` has no primary key", plan.target)));
        }
        // What the source's server makes by itself, the target's does too.
        let mut pairs = Vec::new();
        for column in owner.iter().filter(|column| !column.generated) {
            let Some(name) = plan.mapping.target(&column.name) else { continue };
            let Some(other) = by_name.get(name) else {
                return Err(FlowError::Stop(format!("`{}` has no column `{name}`", plan.target)));
            };
            if !other.generated {
                pairs.push((column, *other));
            }
        }
        let keys: Vec<(&str, &str)> = key.iter().map(|(_, c)| (c.name.as_str(), c.type_name.as_str())).collect();
        let mut own_keys = Vec::with_capacity(keys.len());
        for (name, _) in &keys {
            let Some((own, _)) = pairs.iter().find(|(_, other)| other.name == *name) else {
                return Err(FlowError::Stop(format!("`{}` has no column for the key column `{name}`", plan.source)));
            };
            own_keys.push((own.name.as_str(), own.type_name.as_str()));
        }
        let texts = |is_owner: bool| -> Vec<String> {
            pairs
                .iter()
                .map(|(own, other)| {
                    let other_type = (is_owner && own.type_name != other.type_name).then_some(other.type_name.as_str());
                    let (name, type_name) =
                        if is_owner { (&own.name, &own.type_name) } else { (&other.name, &other.type_name) };
                    text(name, type_name, other_type)
                })
                .collect()
        };
        let guess = sides
            .owner
            .query_one(
                "SELECT greatest(reltuples, 0)::bigint FROM pg_class WHERE oid = to_regclass($1)",
                &[&quote_table(&plan.source)],
            )
            .await
            .map_err(|e| FlowError::sql("asking for the size of a table", &e))?
            .get::<_, i64>(0);
        let columns: Vec<String> = pairs.iter().map(|(own, _)| own.name.clone()).collect();
        let other_columns: Vec<String> = pairs.iter().map(|(_, other)| other.name.clone()).collect();
        Ok(Self {
            owner: SideTable::prepare(
                &sides.owner,
                &plan.source,
                &own_keys,
                &columns,
                &texts(true),
                plan.mapping.source_rows("x"),
            )
            .await?,
            other: SideTable::prepare(
                &sides.other,
                &plan.target,
                &keys,
                &other_columns,
                &texts(false),
                plan.mapping.target_rows("x"),
            )
            .await?,
            key: own_keys.iter().map(|(name, _)| (*name).to_owned()).collect(),
            columns,
            other_columns,
            guess: guess.unsigned_abs(),
        })
    }

    /// A key with its columns' names.
    pub(super) fn named(&self, key: &Key) -> BTreeMap<String, String> {
        self.key.iter().cloned().zip(key.iter().cloned()).collect()
    }
}

async fn columns(session: &Session, table: &str) -> Result<Vec<Column>, FlowError> {
    let rows = session
        .query(
            "SELECT a.attname::text, format_type(a.atttypid, -1), a.attgenerated <> '', \
             array_position((i.indkey::int2[])[0:i.indnkeyatts - 1], a.attnum)::int \
             FROM pg_attribute a LEFT JOIN pg_index i ON i.indrelid = a.attrelid AND i.indisprimary \
             WHERE a.attrelid = to_regclass($1) AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum",
            &[&quote_table(table)],
        )
        .await
        .map_err(|e| FlowError::sql("reading the columns", &e))?;
    if rows.is_empty() {
        return Err(FlowError::Stop(format!("there is no table `{table}`")));
    }
    let column = |row: &tokio_postgres::Row| Column {
        name: row.get(0),
        type_name: row.get(1),
        generated: row.get(2),
        key: row.get::<_, Option<i32>>(3).and_then(|place| usize::try_from(place).ok()),
    };
    Ok(rows.iter().map(column).collect())
}

/// A value as text that is the same where the value is. `as_type`: what the other side keeps it as, where that is another type.
fn text(column: &str, type_name: &str, as_type: Option<&str>) -> String {
    let value = format!("x.{}", quote(column));
    // The other side may know types that this server does not; what is built in, both have.
    let (value, type_name) = match as_type {
        Some(other) if !other.contains(['.', '"']) => (format!("({value}::text)::{other}"), other),
        _ => (value, type_name),
    };
    // 1.50 and 1.5000 are one number in two scales.
    if type_name == "numeric" { format!("trim_scale({value})::text") } else { format!("{value}::text") }
}

/// Each text with its length before it, so that no two rows have one text; NULL has none.
fn checksum(texts: &[String]) -> String {
    let parts: Vec<String> =
        texts.iter().map(|text| format!("coalesce(octet_length({text})::text || ':' || {text}, '-')")).collect();
    format!("left(md5({}), 16)", parts.join(" || "))
}

// === impl SideTable ===

impl SideTable {
    /// `texts` are the columns as they are compared, and `only` tells which rows are the sync's.
    async fn prepare(
        session: &Session,
        table: &str,
        key: &[(&str, &str)],
        columns: &[String],
        texts: &[String],
        only: Option<String>,
    ) -> Result<Self, FlowError> {
        let own: Vec<String> = columns.iter().map(|column| format!("x.{}::text", quote(column))).collect();
        let name = quote_table(table);
        let columns: Vec<String> = key.iter().map(|(name, _)| format!("x.{}", quote(name))).collect();
        let as_text: Vec<String> = columns.iter().map(|column| format!("{column}::text")).collect();
        let (columns, as_text) = (columns.join(", "), as_text.join(", "));
        let behind: Vec<String> =
            key.iter().enumerate().map(|(i, (_, ty))| format!("${}::text::{ty}", i + 1)).collect();
        let only = only.unwrap_or_else(|| "true".to_owned());
        let chunk = |condition: &str| {
            format!("SELECT {as_text} FROM {name} x WHERE {only}{condition} ORDER BY {columns} LIMIT {CHUNK}")
        };
        let arrays: Vec<String> = (1..=key.len()).map(|i| format!("${i}::text[]")).collect();
        let labels: Vec<String> = (0..key.len()).map(|i| format!("k{i}")).collect();
        let same: Vec<String> =
            key.iter().enumerate().map(|(i, (name, ty))| format!("x.{} = u.k{i}::{ty}", quote(name))).collect();
        let found = |what: &str| {
            format!(
                "SELECT u.n, {what} FROM unnest({}) WITH ORDINALITY AS u({}, n) JOIN {name} x ON {} AND {only}",
                arrays.join(", "),
                labels.join(", "),
                same.join(" AND ")
            )
        };
        let each: Vec<String> = texts.iter().map(|text| checksum(std::slice::from_ref(text))).collect();
        let statements = [
            chunk(""),
            chunk(&format!(" AND ({columns}) > ({})", behind.join(", "))),
            found(&checksum(texts)),
            found(&format!("ARRAY[{}]", each.join(", "))),
            found(&format!("ARRAY[{}]", own.join(", "))),
            found("true"),
            found("x.xmin::text || ' ' || x.ctid::text"),
        ];
        let mut prepared = Vec::with_capacity(statements.len());
        for sql in &statements {
            prepared.push(session.prepare(sql).await.map_err(|e| FlowError::sql("preparing the comparison", &e))?);
        }
        let Ok([first, after, checksums, by_column, rows, present, versions]) = <[Statement; 7]>::try_from(prepared)
        else {
            return Err(FlowError::Stop("the comparison could not be prepared".into()));
        };
        Ok(Self { first, after, checksums, by_column, rows, present, versions, keys: key.len() })
    }

    /// Up to [`CHUNK`] keys in this side's own order, behind `after`.
    pub(super) async fn keys(&self, session: &Session, after: Option<&Key>) -> Result<Vec<Key>, FlowError> {
        let parameters: Vec<&(dyn ToSql + Sync)> =
            after.into_iter().flatten().map(|value| value as &(dyn ToSql + Sync)).collect();
        let statement = if after.is_some() { &self.after } else { &self.first };
        let rows = session.query(statement, &parameters).await.map_err(|e| FlowError::sql("reading keys", &e))?;
        Ok(rows.iter().map(|row| (0..self.keys).map(|i| row.get(i)).collect()).collect())
    }

    /// The checksum of each key's row; `None` where there is none.
    pub(super) async fn checksums(&self, session: &Session, keys: &[Key]) -> Result<Vec<Option<Checksum>>, FlowError> {
        self.ask(session, &self.checksums, keys).await
    }

    /// The same, one a column.
    pub(super) async fn by_column(
        &self,
        session: &Session,
        keys: &[Key],
    ) -> Result<Vec<Option<Vec<String>>>, FlowError> {
        self.ask(session, &self.by_column, keys).await
    }

    /// Each key's row: the text of every column that is compared, as this side has it.
    pub(super) async fn rows(&self, session: &Session, keys: &[Key]) -> Result<Vec<Option<Row>>, FlowError> {
        self.ask(session, &self.rows, keys).await
    }

    /// Which row each key has.
    pub(super) async fn versions(&self, session: &Session, keys: &[Key]) -> Result<Vec<Option<Version>>, FlowError> {
        self.ask(session, &self.versions, keys).await
    }

    /// Of which keys there is a row.
    pub(super) async fn present(&self, session: &Session, keys: &[Key]) -> Result<Vec<Option<bool>>, FlowError> {
        self.ask(session, &self.present, keys).await
    }

    async fn ask<T>(&self, session: &Session, statement: &Statement, keys: &[Key]) -> Result<Vec<Option<T>>, FlowError>
    where
        T: for<'r> tokio_postgres::types::FromSql<'r>,
    {
        let mut found: Vec<Option<T>> = Vec::with_capacity(keys.len());
        for chunk in keys.chunks(CHUNK) {
            let start = found.len();
            found.resize_with(start + chunk.len(), || None);
            let arrays = transposed(chunk, self.keys);
            let parameters: Vec<&(dyn ToSql + Sync)> =
                arrays.iter().map(|array| array as &(dyn ToSql + Sync)).collect();
            let rows = session.query(statement, &parameters).await.map_err(|e| FlowError::sql("comparing rows", &e))?;
            for row in rows {
                let at = usize::try_from(row.get::<_, i64>(0)).unwrap_or(0).checked_sub(1);
                if let Some(slot) = at.and_then(|at| found.get_mut(start + at)) {
                    *slot = Some(row.get(1));
                }
            }
        }
        Ok(found)
    }
}

/// A list of keys as a list of each column's values.
pub(super) fn transposed(keys: &[Key], columns: usize) -> Vec<Vec<&str>> {
    (0..columns).map(|i| keys.iter().map(|key| key.get(i).map_or("", String::as_str)).collect()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_rows_have_one_text() {
        let texts = ["x.a::text".to_owned(), "x.b::text".to_owned()];
        assert_eq!(
            checksum(&texts),
            "left(md5(coalesce(octet_length(x.a::text)::text || ':' || x.a::text, '-') || \
             coalesce(octet_length(x.b::text)::text || ':' || x.b::text, '-')), 16)"
        );
    }

    #[test]
    fn a_value_is_weighed_as_the_other_side_keeps_it() {
        assert_eq!(text("a", "text", None), "x.\"a\"::text");
        assert_eq!(text("a", "integer", Some("bigint")), "(x.\"a\"::text)::bigint::text");
        assert_eq!(text("a", "numeric", None), "trim_scale(x.\"a\")::text");
        assert_eq!(text("a", "integer", Some("numeric")), "trim_scale((x.\"a\"::text)::numeric)::text");
        assert_eq!(text("a", "text", Some("public.mood")), "x.\"a\"::text");
    }
}
