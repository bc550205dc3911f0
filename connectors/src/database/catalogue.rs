//! What MariaDB's and MySQL's catalogue says of a table's columns.

use std::time::Duration;

use super::mysql::{Flavor, MysqlSession, cell, text};
use crate::error::FlowError;

/// A row of `information_schema.columns`.
pub(crate) struct Described {
    pub(crate) name: String,
    /// `int`, `varchar`.
    pub(crate) data_type: String,
    /// `int(10) unsigned`, `enum('a','b')`.
    pub(crate) column_type: String,
    pub(crate) octets: u64,
    pub(crate) characters: u64,
    pub(crate) precision: u64,
    pub(crate) scale: u64,
    pub(crate) fraction: u64,
    pub(crate) charset: String,
    pub(crate) is_generated: bool,
    pub(crate) is_key: bool,
    pub(crate) is_nullable: bool,
    pub(crate) has_default: bool,
    pub(crate) collation: String,
}

/// The server may leave a table out of its answer, or its keys alone, while somebody alters, locks or flushes it: so often it is asked again, and
/// after so long.
pub(crate) const TRIES: u32 = 10;
pub(crate) const PAUSE: Duration = Duration::from_millis(50);

/// The catalogue's word on a table's columns; none when there is no such table, or none that may be seen.
pub(crate) async fn describe(session: &mut MysqlSession, table: &str) -> Result<Vec<Described>, FlowError> {
    let (database, name) = table.split_once('.').unwrap_or(("", table));
    // MariaDB writes out that there is none; MySQL writes the text of a default without its quotes.
    let none = if session.flavor == Flavor::Mariadb { "NULL" } else { "" };
    let sql = format!(
        "SELECT c.COLUMN_NAME, c.DATA_TYPE, c.COLUMN_TYPE, c.CHARACTER_OCTET_LENGTH, c.NUMERIC_PRECISION, c.NUMERIC_SCALE, \
         c.DATETIME_PRECISION, coalesce(c.CHARACTER_SET_NAME, ''), coalesce(c.GENERATION_EXPRESSION, '') <> '', \
         EXISTS (SELECT 1 FROM information_schema.STATISTICS s WHERE s.TABLE_SCHEMA = c.TABLE_SCHEMA AND s.TABLE_NAME = c.TABLE_NAME \
             AND s.INDEX_NAME = 'PRIMARY' AND s.COLUMN_NAME = c.COLUMN_NAME), \
         c.COLUMN_KEY = 'PRI', c.IS_NULLABLE = 'YES', (c.COLUMN_DEFAULT IS NOT NULL AND (c.COLUMN_DEFAULT <> {} OR {} = '')) OR c.EXTRA LIKE '%auto_increment%', coalesce(c.COLLATION_NAME, ''), c.CHARACTER_MAXIMUM_LENGTH \
         FROM information_schema.COLUMNS c WHERE c.TABLE_SCHEMA = {} AND c.TABLE_NAME = {} ORDER BY c.ORDINAL_POSITION",
        text(none),
        text(none),
        text(database),
        text(name)
    );
    let number = |row: &mysql_async::Row, at| cell::<u64>(row, at).unwrap_or(0);
    let word = |row: &mysql_async::Row, at| cell::<String>(row, at).unwrap_or_default();
    let mut tries = 0;
    let rows = loop {
        let rows = session.rows("reading the tables' columns", &sql).await?;
        let has = |at| rows.iter().any(|row| number(row, at) == 1);
        // Called a key in one place, and none in the other.
        let is_whole = !rows.is_empty() && (has(9) || !has(10));
        tries += 1;
        if is_whole || tries == TRIES {
            break rows;
        }
        tokio::time::sleep(PAUSE).await;
    };
    Ok(rows
        .iter()
        .map(|row| Described {
            name: word(row, 0),
            data_type: word(row, 1),
            column_type: word(row, 2),
            octets: number(row, 3),
            precision: number(row, 4),
            scale: number(row, 5),
            fraction: number(row, 6),
            charset: word(row, 7),
            is_generated: number(row, 8) == 1,
            is_key: number(row, 9) == 1,
            is_nullable: number(row, 11) == 1,
            has_default: number(row, 12) == 1,
            collation: word(row, 13),
            characters: number(row, 14),
        })
        .collect())
}

/// The columns of a table's primary key, in its order.
pub(crate) async fn primary_key(session: &mut MysqlSession, table: &str) -> Result<Vec<String>, FlowError> {
    let (database, name) = table.split_once('.').unwrap_or(("", table));
    let sql = format!(
        "SELECT COLUMN_NAME FROM information_schema.STATISTICS \
         WHERE TABLE_SCHEMA = {} AND TABLE_NAME = {} AND INDEX_NAME = 'PRIMARY' ORDER BY SEQ_IN_INDEX",
        text(database),
        text(name)
    );
    let rows = session.rows("reading the tables' keys", &sql).await?;
    Ok(rows.iter().filter_map(|row| cell(row, 0)).collect())
}

/// The labels of `enum('a','it''s')`.
pub(crate) fn labels(column_type: &str) -> Vec<String> {
    let mut labels = Vec::new();
    let mut rest = column_type;
    while let Some(start) = rest.find('\'') {
        rest = &rest[start + 1..];
        let mut label = String::new();
        loop {
            let Some(stop) = rest.find('\'') else { return labels };
            label.push_str(&rest[..stop]);
            rest = &rest[stop + 1..];
            if !rest.starts_with('\'') {
                break;
            }
            label.push('\'');
            rest = &rest[1..];
        }
        labels.push(label);
    }
    labels
}

// === impl Described ===

impl Described {
    /// Most characters of text, bytes of all else.
    pub(crate) fn length(&self) -> u64 {
        if self.characters > 0 { self.characters } else { self.octets }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_read_with_their_quotes() {
        assert_eq!(labels("enum('a','it''s','','b,c')"), ["a", "it's", "", "b,c"]);
        assert_eq!(labels("set()"), Vec::<String>::new());
    }
}
