//! A table of one side in PostgreSQL: its rows by key, weighed, as text, and held against rows that come as text.

use tokio_postgres::{
    Statement,
    types::{FromSql, ToSql},
};

use super::table::{CHUNK, Class, Column, Key, Row, Version};
use crate::{
    database::postgres::Session,
    error::{FlowError, is_of_data},
    names::{quote, quote_table},
};

/// A table of one side.
pub(super) struct SideTable {
    /// The first rows by key, and those behind a key: their keys.
    first: Statement,
    after: Statement,
    /// Of which of these keys there is a row, and what is known of it.
    weights: Statement,
    /// The same, a checksum a column; the columns' own text; nothing of them; and which row it is.
    by_column: Statement,
    rows: Statement,
    present: Statement,
    versions: Statement,
    /// Where rows come as text: whether the row with the same key is what would come of it, as a whole and by column.
    judges: Option<(Statement, Statement)>,
    keys: usize,
    columns: usize,
}

const DOING: &str = "comparing rows";

pub(super) async fn columns(session: &Session, table: &str) -> Result<Vec<Column>, FlowError> {
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
    let column = |row: &tokio_postgres::Row| Column {
        name: row.get(0),
        class: Class::Postgres(row.get(1)),
        generated: row.get(2),
        key: row.get::<_, Option<i32>>(3).and_then(|place| usize::try_from(place).ok()),
    };
    Ok(rows.iter().map(column).collect())
}

/// Rows, as the statistics guess.
pub(super) async fn guess(session: &Session, table: &str) -> Result<u64, FlowError> {
    let row = session
        .query_one(
            "SELECT greatest(reltuples, 0)::bigint FROM pg_class WHERE oid = to_regclass($1)",
            &[&quote_table(table)],
        )
        .await
        .map_err(|e| FlowError::sql("asking for the size of a table", &e))?;
    Ok(row.get::<_, i64>(0).unsigned_abs())
}

/// A value as text that is the same where the value is. `as_type`: what the other side keeps it as, where that is another type.
fn text(column: &str, type_name: &str, as_type: Option<&str>) -> String {
    let value = format!("x.{}", quote(column));
    // The other side may know types that this server does not; what is built in, both have.
    let (value, type_name) = match as_type {
        Some(other) if !other.contains(['.', '"']) => (format!("({value}::text)::{other}"), other),
        _ => (value, type_name),
    };
    plain(&value, type_name)
}

/// 1.50 and 1.5000 are one number in two scales.
fn plain(value: &str, type_name: &str) -> String {
    if type_name == "numeric" { format!("trim_scale({value})::text") } else { format!("{value}::text") }
}

/// As the type itself writes it: what the log has. A cast to `text` writes some types otherwise, and a row of NULLs counts as NULL there.
fn carried(column: &str) -> String {
    let value = format!("x.{}", quote(column));
    format!("CASE num_nulls({value}) WHEN 0 THEN format('%s', {value}) END")
}

/// Whether the row's value is what would come of the text. Byte by byte: what a collation or a type calls equal is not always the same.
fn same(at: usize, column: &str, type_name: &str) -> String {
    let own = plain(&format!("x.{}", quote(column)), type_name);
    let came = plain(&format!("(u.a{at}::{type_name})"), type_name);
    format!("{own} COLLATE \"C\" IS NOT DISTINCT FROM {came}")
}

/// Each text with its length before it, so that no two rows have one text; NULL has none.
fn checksum(texts: &[String]) -> String {
    let parts: Vec<String> =
        texts.iter().map(|text| format!("coalesce(octet_length({text})::text || ':' || {text}, '-')")).collect();
    format!("left(md5({}), 16)", parts.join(" || "))
}

fn type_of(column: &Column) -> Option<&str> {
    match &column.class {
        Class::Postgres(type_name) => Some(type_name),
        Class::Mysql(_) => None,
    }
}

// === impl SideTable ===

impl SideTable {
    /// `only` tells which rows are the sync's.
    pub(super) async fn prepare(
        session: &Session,
        table: &str,
        pairs: &[(&Column, &Column)],
        keys: &[usize],
        is_owner: bool,
        only: Option<String>,
    ) -> Result<Self, FlowError> {
        // The texts with which both sides are weighed; none where the other database is no PostgreSQL.
        let mut texts = Vec::with_capacity(pairs.len());
        let mut own = Vec::with_capacity(pairs.len());
        for (owner, other) in pairs {
            let mine = if is_owner { owner } else { other };
            own.push((mine.name.as_str(), type_of(mine).unwrap_or_default()));
            if let (Some(owners), Some(others)) = (type_of(owner), type_of(other)) {
                let as_type = (is_owner && owners != others).then_some(others);
                texts.push(text(&mine.name, type_of(mine).unwrap_or_default(), as_type));
            }
        }
        let weighs = texts.len() == pairs.len();
        let carried_row: Vec<String> = own.iter().map(|(name, _)| carried(name)).collect();
        let plain_row: Vec<String> = own.iter().map(|(name, _)| format!("x.{}::text", quote(name))).collect();
        let row = if weighs { &plain_row } else { &carried_row };

        let name = quote_table(table);
        let key: Vec<(&str, &str)> = keys.iter().map(|&at| own[at]).collect();
        let columns: Vec<String> = key.iter().map(|(name, _)| format!("x.{}", quote(name))).collect();
        let as_text: Vec<String> = keys.iter().map(|&at| row[at].clone()).collect();
        let (columns, as_text) = (columns.join(", "), as_text.join(", "));
        let behind: Vec<String> =
            key.iter().enumerate().map(|(i, (_, ty))| format!("${}::text::{ty}", i + 2)).collect();
        let only = only.unwrap_or_else(|| "true".to_owned());
        let chunk = |condition: &str| {
            format!("SELECT {as_text} FROM {name} x WHERE {only}{condition} ORDER BY {columns} LIMIT $1::bigint")
        };
        let unnest = |count: usize, label: &str| {
            let arrays: Vec<String> = (1..=count).map(|i| format!("${i}::text[]")).collect();
            let labels: Vec<String> = (0..count).map(|i| format!("{label}{i}")).collect();
            format!("unnest({}) WITH ORDINALITY AS u({}, n)", arrays.join(", "), labels.join(", "))
        };
        let found = |what: &str| {
            let same = key.iter().enumerate().map(|(i, (name, ty))| format!("x.{} = u.k{i}::{ty}", quote(name)));
            let same: Vec<String> = same.collect();
            format!(
                "SELECT u.n, {what} FROM {} JOIN {name} x ON {} AND {only}",
                unnest(key.len(), "k"),
                same.join(" AND ")
            )
        };
        let each: Vec<String> = texts.iter().map(|text| checksum(std::slice::from_ref(text))).collect();
        let row = row.join(", ");
        let (weights, by_column) = if weighs {
            (found(&format!("ARRAY[{}]", checksum(&texts))), found(&format!("ARRAY[{}]", each.join(", "))))
        } else {
            (found(&format!("ARRAY[{row}]")), found(&format!("ARRAY[{row}]")))
        };
        let statements = [
            chunk(""),
            chunk(&format!(" AND ({columns}) > ({})", behind.join(", "))),
            weights,
            by_column,
            found(&format!("ARRAY[{row}]")),
            found("true"),
            found("x.xmin::text || ' ' || x.ctid::text"),
        ];
        let judge = |what: &str| {
            let same = keys.iter().map(|&at| format!("x.{} = u.a{at}::{}", quote(own[at].0), own[at].1));
            let same: Vec<String> = same.collect();
            format!(
                "SELECT u.n, {what} FROM {} JOIN {name} x ON {} AND {only}",
                unnest(own.len(), "a"),
                same.join(" AND ")
            )
        };
        let prepare =
            async |sql: &str| session.prepare(sql).await.map_err(|e| FlowError::sql("preparing the comparison", &e));
        let judges = if weighs || is_owner {
            None
        } else {
            let same: Vec<String> = own.iter().enumerate().map(|(at, (name, ty))| same(at, name, ty)).collect();
            let whole = prepare(&judge(&same.join(" AND "))).await?;
            Some((whole, prepare(&judge(&format!("ARRAY[{}]", same.join(", ")))).await?))
        };
        let mut prepared = Vec::with_capacity(statements.len());
        for sql in &statements {
            prepared.push(prepare(sql).await?);
        }
        let Ok([first, after, weights, by_column, rows, present, versions]) = <[Statement; 7]>::try_from(prepared)
        else {
            return Err(FlowError::Stop("the comparison could not be prepared".into()));
        };
        let (keys, columns) = (key.len(), own.len());
        Ok(Self { first, after, weights, by_column, rows, present, versions, judges, keys, columns })
    }

    pub(super) async fn keys(
        &self,
        session: &Session,
        after: Option<&Key>,
        limit: usize,
    ) -> Result<Vec<Key>, FlowError> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let mut parameters: Vec<&(dyn ToSql + Sync)> = vec![&limit];
        parameters.extend(after.into_iter().flatten().map(|value| value as &(dyn ToSql + Sync)));
        let statement = if after.is_some() { &self.after } else { &self.first };
        let rows = session.query(statement, &parameters).await.map_err(|e| FlowError::sql("reading keys", &e))?;
        Ok(rows.iter().map(|row| (0..self.keys).map(|i| row.get(i)).collect()).collect())
    }

    /// What is known of each key's row; `None` where there is none.
    pub(super) async fn weigh(&self, session: &Session, keys: &[Key]) -> Result<Vec<Option<Row>>, FlowError> {
        self.ask(session, &self.weights, keys).await
    }

    /// The checksums of its columns.
    pub(super) async fn by_column(
        &self,
        session: &Session,
        keys: &[Key],
    ) -> Result<Vec<Option<Vec<String>>>, FlowError> {
        self.ask(session, &self.by_column, keys).await
    }

    pub(super) async fn rows(&self, session: &Session, keys: &[Key]) -> Result<Vec<Option<Row>>, FlowError> {
        self.ask(session, &self.rows, keys).await
    }

    pub(super) async fn versions(&self, session: &Session, keys: &[Key]) -> Result<Vec<Option<Version>>, FlowError> {
        self.ask(session, &self.versions, keys).await
    }

    pub(super) async fn present(&self, session: &Session, keys: &[Key]) -> Result<Vec<bool>, FlowError> {
        let found: Vec<Option<bool>> = self.ask(session, &self.present, keys).await?;
        Ok(found.iter().map(Option::is_some).collect())
    }

    /// Whether the row beside each of `whole`, the owner's rows among `own`, is the same; nothing where there is none.
    pub(super) async fn judge(
        &self,
        session: &Session,
        keys: &[Key],
        own: &[Option<Row>],
        whole: &[&Row],
    ) -> Result<Vec<Option<bool>>, FlowError> {
        if let Some((judge, _)) = &self.judges {
            return self.ask_rows(session, judge, whole).await;
        }
        let asked: Vec<Key> =
            keys.iter().zip(own).filter(|(_, row)| row.is_some()).map(|(key, _)| key.clone()).collect();
        let weights = self.weigh(session, &asked).await?;
        Ok(weights.into_iter().zip(whole).map(|(weight, own)| Some(weight? == **own)).collect())
    }

    /// The same by column.
    pub(super) async fn judge_columns(
        &self,
        session: &Session,
        whole: &[&Row],
    ) -> Result<Vec<Option<Vec<bool>>>, FlowError> {
        match &self.judges {
            Some((_, judge)) => self.ask_rows(session, judge, whole).await,
            None => Ok(whole.iter().map(|_| None).collect()),
        }
    }

    async fn ask<T: for<'r> FromSql<'r>>(
        &self,
        session: &Session,
        statement: &Statement,
        keys: &[Key],
    ) -> Result<Vec<Option<T>>, FlowError> {
        let value = |row: usize, column: usize| keys[row].get(column).map(String::as_str);
        ask(session, statement, self.keys, keys.len(), value).await
    }

    async fn ask_rows<T: for<'r> FromSql<'r>>(
        &self,
        session: &Session,
        statement: &Statement,
        rows: &[&Row],
    ) -> Result<Vec<Option<T>>, FlowError> {
        let value = |row: usize, column: usize| rows[row].get(column).and_then(Option::as_deref);
        ask(session, statement, self.columns, rows.len(), value).await
    }
}

/// Asks of `count` rows. Nothing is found of one that this database cannot hold: it is looked for by halves, and left out.
async fn ask<'v, T: for<'r> FromSql<'r>>(
    session: &Session,
    statement: &Statement,
    columns: usize,
    count: usize,
    value: impl Fn(usize, usize) -> Option<&'v str>,
) -> Result<Vec<Option<T>>, FlowError> {
    let mut found: Vec<Option<T>> = Vec::with_capacity(count);
    found.resize_with(count, || None);
    let mut parts: Vec<(usize, usize)> =
        (0..count).step_by(CHUNK).map(|start| (start, count.min(start + CHUNK))).collect();
    while let Some((start, end)) = parts.pop() {
        let arrays: Vec<Vec<Option<&str>>> =
            (0..columns).map(|column| (start..end).map(|row| value(row, column)).collect()).collect();
        let parameters: Vec<&(dyn ToSql + Sync)> = arrays.iter().map(|array| array as &(dyn ToSql + Sync)).collect();
        match session.query(statement, &parameters).await {
            Ok(rows) => {
                for row in rows {
                    let at = usize::try_from(row.get::<_, i64>(0)).unwrap_or(0).checked_sub(1);
                    if let Some(slot) = at.and_then(|at| found.get_mut(start + at)) {
                        *slot = Some(row.get(1));
                    }
                }
            }
            Err(error) if error.code().is_some_and(|code| is_of_data(code.code())) => {
                if end - start > 1 {
                    let middle = usize::midpoint(start, end);
                    parts.extend([(start, middle), (middle, end)]);
                }
            }
            Err(error) => return Err(FlowError::sql(DOING, &error)),
        }
    }
    Ok(found)
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

    #[test]
    fn a_text_is_judged_as_what_would_come_of_it() {
        assert_eq!(
            same(2, "a", "numeric"),
            "trim_scale(x.\"a\")::text COLLATE \"C\" IS NOT DISTINCT FROM trim_scale((u.a2::numeric))::text"
        );
        assert_eq!(same(0, "b", "real"), "x.\"b\"::text COLLATE \"C\" IS NOT DISTINCT FROM (u.a0::real)::text");
    }
}
