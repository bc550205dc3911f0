//! A table of one side in MariaDB or MySQL: its rows by key, as text, and held against rows that come as text.
//!
//! What comes is put into a temporary table whose columns are the table's own, by the literals that the flow writes: so the server itself makes of
//! it what it would make of a row that is applied, and keys are looked up by values of their own type. A temporary table stands in no binlog.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use mysql_async::{Row as Answer, prelude::Queryable as _};

use super::table::{Class, Column, Key, Row, Version};
use crate::{
    database::{
        catalogue::{describe, primary_key},
        mysql::{MysqlSession, cell, in_time, quote, quote_table, text},
    },
    error::{FlowError, is_of_row},
    source::mysql::{charset::Charsets, shape::Kind, value::Reader},
    target::mysql::literal::Class as Literal,
};

/// What a column's values are.
pub(super) struct Values {
    kind: Kind,
    charset: String,
    literal: Literal,
    /// `float`, `enum`.
    data_type: String,
}

/// A table of one side.
pub(super) struct SideTable {
    name: String,
    /// Quoted.
    sql_name: String,
    only: String,
    columns: Vec<Own>,
    /// Which of them are the key.
    keys: Vec<usize>,
}

/// A column that is compared.
struct Own {
    name: String,
    /// Quoted, of the table called `x`.
    sql: String,
    reader: Reader,
    literal: Literal,
    is_label: bool,
    is_float: bool,
}

const DOING: &str = "comparing rows";
/// Keys that are looked for, and rows that are held against the table's.
const KEYS: &str = "banyan.verify_keys";
const ROWS: &str = "banyan.verify_rows";
/// Of one statement.
const BYTES: usize = 512 << 10;

pub(super) async fn columns(session: &mut MysqlSession, table: &str) -> Result<Vec<Column>, FlowError> {
    let key = primary_key(session, table).await?;
    let flavor = session.flavor;
    let column = |column: crate::database::catalogue::Described| Column {
        class: Class::Mysql(Values {
            kind: column.kind(flavor).0,
            literal: Literal::of(&column.data_type),
            charset: column.charset.clone(),
            data_type: column.data_type.clone(),
        }),
        generated: column.is_generated,
        key: key.iter().position(|name| *name == column.name),
        name: column.name,
    };
    Ok(describe(session, table).await?.into_iter().map(column).collect())
}

/// Rows, as the statistics guess.
pub(super) async fn guess(session: &mut MysqlSession, table: &str) -> Result<u64, FlowError> {
    let (database, name) = table.split_once('.').unwrap_or(("", table));
    let sql = format!(
        "SELECT TABLE_ROWS FROM information_schema.TABLES WHERE TABLE_SCHEMA = {} AND TABLE_NAME = {}",
        text(database),
        text(name)
    );
    Ok(session.value("asking for the size of a table", &sql).await?.unwrap_or(0))
}

/// The server tells nothing of a row but its values.
pub(super) fn version(row: &Row) -> Version {
    let mut hasher = DefaultHasher::new();
    row.hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}

// === impl Own ===

impl Own {
    /// By which its values are put in order: labels stand in the order of the type, and are compared as text.
    fn order(&self) -> String {
        if self.is_label { format!("CONCAT({})", self.sql) } else { self.sql.clone() }
    }

    /// Whether it holds exactly what `other` does. Byte by byte: what a collation calls equal is not. A float's text has fewer digits than it.
    fn same(&self, other: &str) -> String {
        let bytes = format!("CAST({} AS BINARY) <=> CAST({other} AS BINARY)", self.sql);
        if self.is_float { format!("({bytes} AND {} <=> {other})", self.sql) } else { format!("({bytes})") }
    }

    /// Whether it is the key's value in `other`.
    fn is_key(&self, other: &str) -> String {
        let equal = format!("{} = {other}", self.sql);
        match self.literal {
            Literal::Text => format!("{equal} AND {}", self.same(other)),
            _ => equal,
        }
    }
}

// === impl SideTable ===

impl SideTable {
    /// `only` tells which rows are the sync's.
    pub(super) async fn prepare(
        session: &mut MysqlSession,
        table: &str,
        columns: &[&Column],
        keys: &[usize],
        only: Option<String>,
    ) -> Result<Self, FlowError> {
        let mut values = Vec::with_capacity(columns.len());
        for column in columns {
            let Class::Mysql(own) = &column.class else {
                return Err(FlowError::Stop(format!("`{table}` is in another kind of database")));
            };
            if let Kind::Unknown(name) = &own.kind {
                return Err(FlowError::Stop(format!(
                    "`{}` of `{table}` is of a type that this version does not read, `{name}`: leave it out (`leave_out`)",
                    column.name
                )));
            }
            values.push((column, own));
        }
        session.run(DOING, "SET character_set_results = utf8mb4").await?;
        let charsets = Charsets::read(
            session,
            values.iter().map(|(_, own)| own.charset.as_str()).filter(|charset| !charset.is_empty()),
        )
        .await?;
        // From here on text comes in the column's own character set, as the log has it: one decoder for both.
        session.run(DOING, "SET character_set_results = NULL").await?;
        let own = |(column, values): &(&&Column, &Values)| Own {
            name: column.name.clone(),
            sql: format!("x.{}", quote(&column.name)),
            reader: Reader { kind: values.kind.clone(), charset: charsets.decoder(&values.charset) },
            literal: values.literal,
            is_label: matches!(values.kind, Kind::Enum(_) | Kind::Set(_)),
            is_float: matches!(values.data_type.as_str(), "float" | "double"),
        };
        let table = Self {
            name: table.to_owned(),
            sql_name: quote_table(table),
            only: only.unwrap_or_else(|| "true".to_owned()),
            columns: values.iter().map(own).collect(),
            keys: keys.to_vec(),
        };
        if let Some(key) = table.keys.iter().map(|&at| &table.columns[at]).find(|key| key.is_float) {
            return Err(FlowError::Stop(format!(
                "the key column `{}` of `{}` is a floating-point number: rows cannot be found by it",
                key.name, table.name
            )));
        }
        let all: Vec<usize> = (0..table.columns.len()).collect();
        table.make(session, KEYS, &table.keys).await?;
        table.make(session, ROWS, &all).await?;
        Ok(table)
    }

    async fn make(&self, session: &mut MysqlSession, name: &str, columns: &[usize]) -> Result<(), FlowError> {
        let doing = "preparing the comparison";
        let list: Vec<String> =
            columns.iter().enumerate().map(|(i, &at)| format!("{} AS banyan_{i}", self.columns[at].sql)).collect();
        session.run(doing, &format!("DROP TEMPORARY TABLE IF EXISTS {name}")).await?;
        let sql = format!(
            "CREATE TEMPORARY TABLE {name} (banyan_n int NOT NULL DEFAULT 0 PRIMARY KEY) ENGINE=InnoDB AS SELECT {} FROM {} AS x LIMIT 0",
            list.join(", "),
            self.sql_name
        );
        session.run(doing, &sql).await.map(drop)
    }

    /// Up to `limit` keys, behind `after`.
    pub(super) async fn keys(
        &self,
        session: &mut MysqlSession,
        after: Option<&Key>,
        limit: usize,
    ) -> Result<Vec<Key>, FlowError> {
        let answers = session.ask(&self.behind(&self.keys, after, limit)?).await?;
        answers.iter().map(|answer| self.key(&self.read(answer, 0, &self.keys)?)).collect()
    }

    /// The same with their rows.
    pub(super) async fn chunk(
        &self,
        session: &mut MysqlSession,
        after: Option<&Key>,
        limit: usize,
    ) -> Result<(Vec<Key>, Vec<Option<Row>>), FlowError> {
        let all: Vec<usize> = (0..self.columns.len()).collect();
        let (mut keys, mut rows) = (Vec::new(), Vec::new());
        for answer in session.ask(&self.behind(&all, after, limit)?).await? {
            let row = self.read(&answer, 0, &all)?;
            let key: Row = self.keys.iter().map(|&at| row[at].clone()).collect();
            keys.push(self.key(&key)?);
            rows.push(Some(row));
        }
        Ok((keys, rows))
    }

    /// Each key's row; `None` where there is none.
    pub(super) async fn rows(&self, session: &mut MysqlSession, keys: &[Key]) -> Result<Vec<Option<Row>>, FlowError> {
        let all: Vec<usize> = (0..self.columns.len()).collect();
        let list: Vec<&str> = self.columns.iter().map(|column| column.sql.as_str()).collect();
        let mut rows = vec![None; keys.len()];
        for answer in self.found(session, keys, &format!(", {}", list.join(", "))).await? {
            let row = self.read(&answer, 1, &all)?;
            if let Some(slot) = place(&answer).and_then(|at| rows.get_mut(at)) {
                *slot = Some(row);
            }
        }
        Ok(rows)
    }

    pub(super) async fn present(&self, session: &mut MysqlSession, keys: &[Key]) -> Result<Vec<bool>, FlowError> {
        let mut present = vec![false; keys.len()];
        for answer in self.found(session, keys, "").await? {
            if let Some(slot) = place(&answer).and_then(|at| present.get_mut(at)) {
                *slot = true;
            }
        }
        Ok(present)
    }

    /// Whether the row beside each of the owner's rows is what would come of it; nothing where there is none.
    pub(super) async fn judge(
        &self,
        session: &mut MysqlSession,
        rows: &[&Row],
    ) -> Result<Vec<Option<bool>>, FlowError> {
        let judged = self.judge_columns(session, rows).await?;
        Ok(judged.into_iter().map(|same| Some(same?.into_iter().all(|same| same))).collect())
    }

    /// The same by column.
    pub(super) async fn judge_columns(
        &self,
        session: &mut MysqlSession,
        rows: &[&Row],
    ) -> Result<Vec<Option<Vec<bool>>>, FlowError> {
        let mut judged = vec![None; rows.len()];
        if rows.is_empty() {
            return Ok(judged);
        }
        let all: Vec<usize> = (0..self.columns.len()).collect();
        self.fill(session, ROWS, &all, rows.len(), |row, at| rows[row][at].as_deref()).await?;
        let same: Vec<String> =
            self.columns.iter().enumerate().map(|(i, column)| column.same(&format!("u.banyan_{i}"))).collect();
        let sql = self.beside(ROWS, &format!(", CONCAT({})", same.join(", ")), |i| self.keys[i]);
        for answer in session.ask(&sql).await? {
            let same: Option<String> = cell(&answer, 1);
            if let Some(slot) = place(&answer).and_then(|at| judged.get_mut(at)) {
                *slot = same.map(|same| same.bytes().map(|same| same == b'1').collect());
            }
        }
        Ok(judged)
    }

    async fn found(&self, session: &mut MysqlSession, keys: &[Key], what: &str) -> Result<Vec<Answer>, FlowError> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let value = |row: usize, column: usize| keys[row].get(column).map(String::as_str);
        self.fill(session, KEYS, &self.keys, keys.len(), value).await?;
        session.ask(&self.beside(KEYS, what, |i| i)).await
    }

    /// The rows with the keys of a temporary table's rows; `column` is where the key's stand there.
    fn beside(&self, temporary: &str, what: &str, column: impl Fn(usize) -> usize) -> String {
        let same: Vec<String> = (self.keys.iter().enumerate())
            .map(|(i, &at)| self.columns[at].is_key(&format!("u.banyan_{}", column(i))))
            .collect();
        format!(
            "SELECT u.banyan_n{what} FROM {temporary} AS u STRAIGHT_JOIN {} AS x ON {} WHERE {}",
            self.sql_name,
            same.join(" AND "),
            self.only
        )
    }

    /// The statement for these columns of the rows behind a key.
    fn behind(&self, columns: &[usize], after: Option<&Key>, limit: usize) -> Result<String, FlowError> {
        let list: Vec<&str> = columns.iter().map(|&at| self.columns[at].sql.as_str()).collect();
        let order: Vec<String> = self.keys.iter().map(|&at| self.columns[at].order()).collect();
        let mut ways = Vec::new();
        let mut equal = String::new();
        for (i, value) in after.into_iter().flatten().enumerate() {
            let mut literal = Vec::new();
            let own = &self.columns[self.keys[i]];
            own.literal.write(&mut literal, Some(value.as_bytes())).map_err(|_| self.unread(&own.name))?;
            let literal = String::from_utf8(literal).map_err(|_| self.unread(&own.name))?;
            ways.push(format!("({equal}{} > {literal})", order[i]));
            equal = format!("{equal}{} = {literal} AND ", order[i]);
        }
        let behind = if ways.is_empty() { "true".to_owned() } else { ways.join(" OR ") };
        Ok(format!(
            "SELECT {} FROM {} AS x WHERE {} AND ({behind}) ORDER BY {} LIMIT {limit}",
            list.join(", "),
            self.sql_name,
            self.only,
            order.join(", ")
        ))
    }

    /// Puts values into a temporary table. A row that the table could not hold is found by halves, and left out.
    async fn fill<'v>(
        &self,
        session: &mut MysqlSession,
        into: &str,
        columns: &[usize],
        count: usize,
        value: impl Fn(usize, usize) -> Option<&'v str>,
    ) -> Result<(), FlowError> {
        session.run(DOING, &format!("DELETE FROM {into}")).await?;
        let mut tuples: Vec<(usize, Vec<u8>)> = Vec::with_capacity(count);
        for row in 0..count {
            let mut tuple = format!("({row}").into_bytes();
            let fits = columns.iter().enumerate().all(|(i, &at)| {
                tuple.push(b',');
                self.columns[at].literal.write(&mut tuple, value(row, i).map(str::as_bytes)).is_ok()
            });
            tuple.push(b')');
            if fits {
                tuples.push((row, tuple));
            }
        }
        let mut parts: Vec<&[(usize, Vec<u8>)]> = Vec::new();
        let (mut start, mut bytes) = (0, 0);
        for (at, (_, tuple)) in tuples.iter().enumerate() {
            if bytes > 0 && bytes + tuple.len() > BYTES {
                parts.push(&tuples[start..at]);
                (start, bytes) = (at, 0);
            }
            bytes += tuple.len();
        }
        parts.push(&tuples[start..]);
        while let Some(part) = parts.pop() {
            let ([(first, _), ..], Some((last, _))) = (part, part.last()) else { continue };
            let mut sql = format!("INSERT INTO {into} VALUES ").into_bytes();
            for (i, (_, tuple)) in part.iter().enumerate() {
                if i > 0 {
                    sql.push(b',');
                }
                sql.extend_from_slice(tuple);
            }
            if session.put(&sql).await? {
                continue;
            }
            session.run(DOING, &format!("DELETE FROM {into} WHERE banyan_n BETWEEN {first} AND {last}")).await?;
            if part.len() > 1 {
                let (left, right) = part.split_at(part.len() / 2);
                parts.extend([left, right]);
            }
        }
        Ok(())
    }

    /// The texts of `columns`, which stand in an answer from `start` on.
    fn read(&self, answer: &Answer, start: usize, columns: &[usize]) -> Result<Row, FlowError> {
        let one = |(i, &at): (usize, &usize)| {
            let own = &self.columns[at];
            match answer.as_ref(start + i) {
                None | Some(mysql_async::Value::NULL) => Ok(None),
                Some(value) => {
                    let mut text = Vec::new();
                    own.reader
                        .read_client(value, &mut text)
                        .map_err(|bad| bad.at(&self.name, &own.name, "a row that is compared"))?;
                    String::from_utf8(text).map(Some).map_err(|_| self.unread(&own.name))
                }
            }
        };
        columns.iter().enumerate().map(one).collect()
    }

    fn key(&self, row: &Row) -> Result<Key, FlowError> {
        let known = row.iter().cloned().collect::<Option<Key>>();
        known.ok_or_else(|| FlowError::Stop(format!("a key of `{}` has no value", self.name)))
    }

    fn unread(&self, column: &str) -> FlowError {
        FlowError::Stop(format!("`{column}` of `{}` holds what cannot be written as text", self.name))
    }
}

/// Which row of the temporary table an answer is about.
fn place(answer: &Answer) -> Option<usize> {
    cell(answer, 0)
}

// === impl MysqlSession ===

impl MysqlSession {
    /// Rows in the binary form, as a copy reads them.
    async fn ask(&mut self, sql: &str) -> Result<Vec<Answer>, FlowError> {
        let asking = async { self.conn.exec(sql, ()).await.map_err(|error| FlowError::mysql(DOING, &error)) };
        in_time(DOING, asking).await
    }

    /// Whether all rows of an INSERT were taken as they are.
    async fn put(&mut self, sql: &[u8]) -> Result<bool, FlowError> {
        let putting = async {
            let answers = match self.conn.query_iter(sql).await {
                Ok(answers) => answers,
                Err(mysql_async::Error::Server(error)) if is_of_row(error.code) => return Ok(false),
                Err(error) => return Err(FlowError::mysql(DOING, &error)),
            };
            // It is how this server says that it has cut, rounded or replaced a value.
            let is_plain = answers.warnings() == 0;
            answers.drop_result().await.map_err(|error| FlowError::mysql(DOING, &error))?;
            Ok(is_plain)
        };
        in_time(DOING, putting).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::mysql::charset::Charset;

    fn table(kinds: &[(&str, Kind, Literal)]) -> SideTable {
        let own = |(name, kind, literal): &(&str, Kind, Literal)| Own {
            name: (*name).to_owned(),
            sql: format!("x.{}", quote(name)),
            reader: Reader { kind: kind.clone(), charset: Charset::Utf8 },
            literal: *literal,
            is_label: matches!(kind, Kind::Enum(_)),
            is_float: matches!(kind, Kind::Float),
        };
        SideTable {
            name: "shop.t".into(),
            sql_name: "`shop`.`t`".into(),
            only: "true".into(),
            columns: kinds.iter().map(own).collect(),
            keys: vec![0, 1],
        }
    }

    #[test]
    fn a_chunk_begins_behind_the_key_before_it() {
        let int = Kind::Int { bytes: 4, unsigned: false };
        let table = table(&[("a", int, Literal::Number), ("e", Kind::Enum(vec!["b".into()]), Literal::Text)]);
        assert_eq!(
            table.behind(&[1], Some(&vec!["7".into(), "it's".into()]), 10).unwrap(),
            "SELECT x.`e` FROM `shop`.`t` AS x WHERE true AND ((x.`a` > 7) OR (x.`a` = 7 AND CONCAT(x.`e`) > 'it''s')) \
             ORDER BY x.`a`, CONCAT(x.`e`) LIMIT 10"
        );
        assert_eq!(
            table.beside(KEYS, "", |i| i),
            "SELECT u.banyan_n FROM banyan.verify_keys AS u STRAIGHT_JOIN `shop`.`t` AS x ON x.`a` = u.banyan_0 \
             AND x.`e` = u.banyan_1 AND (CAST(x.`e` AS BINARY) <=> CAST(u.banyan_1 AS BINARY)) WHERE true"
        );
    }

    #[test]
    fn another_value_is_another_version() {
        let row = |a: Option<&str>, b: &str| version(&vec![a.map(str::to_owned), Some(b.to_owned())]);
        assert_eq!(row(None, "b"), row(None, "b"));
        assert!(row(None, "b") != row(Some(""), "b") && row(Some("a"), "bc") != row(Some("ab"), "c"));
    }
}
