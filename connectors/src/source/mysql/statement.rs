//! What a statement in the log means for the tables of a flow: the log holds rows for changes of rows, and statements for all else.
//!
//! No parser of SQL: words, names and quotes are told apart, and when in doubt a statement that names one of our tables is not passed by.

use std::borrow::Cow;

/// What a statement says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Statement {
    Begin,
    Commit,
    Rollback,
    /// A savepoint was rolled back to, and the rows behind it stand in the log all the same.
    RollbackTo,
    /// The first half of a distributed transaction begins.
    XaStart,
    /// Our tables that it empties, by their index.
    Truncate(usize),
    /// Our table that it may have given other columns; whether rows of before have no value in them for certain.
    Altered(usize, bool),
    /// Something that our copy cannot follow, and why.
    Unfollowed(usize, &'static str),
    /// The same where it may have brought rows, which the log does not have.
    NewRows(usize),
    /// Nothing to us.
    Other,
}

/// Why a change of a table cannot be followed whose rows the log does not have.
pub(crate) const NO_ROWS: &str = "a change of it stands in the binlog as a statement and not as rows";

/// A word of a statement.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Word<'s> {
    /// A keyword or a bare name.
    Bare(&'s str),
    /// A name in quotes.
    Quoted(Cow<'s, str>),
    /// A sign.
    Sign(char),
}

/// Reads `sql`, which ran with `database` as its default; `tables` are ours, as `database.table`.
pub(crate) fn read(sql: &str, database: &str, tables: &[String]) -> Statement {
    let words = words(sql);
    let keyword = |at: usize| match words.get(at) {
        Some(Word::Bare(word)) => word.to_ascii_uppercase(),
        _ => String::new(),
    };
    let (first, second) = (keyword(0), keyword(1));
    match (first.as_str(), second.as_str()) {
        ("BEGIN", _) | ("START", "TRANSACTION") => return Statement::Begin,
        ("COMMIT", _) => return Statement::Commit,
        ("ROLLBACK", "TO") => return Statement::RollbackTo,
        ("ROLLBACK", _) => return if keyword(2) == "TO" { Statement::RollbackTo } else { Statement::Rollback },
        ("XA", "START" | "BEGIN") => return Statement::XaStart,
        ("SAVEPOINT" | "RELEASE" | "XA" | "SET" | "FLUSH" | "ANALYZE" | "GRANT" | "REVOKE" | "CHECK", _) => {
            return Statement::Other;
        }
        ("DROP", "DATABASE" | "SCHEMA") => {
            let dropped = words.iter().rev().find_map(Word::name);
            let ours =
                tables.iter().position(|table| table.split_once('.').is_some_and(|(own, _)| Some(own) == dropped));
            return ours.map_or(Statement::Other, |table| Statement::Unfollowed(table, "its database was dropped"));
        }
        _ => {}
    }
    let Some(table) = named(&words, database, tables) else { return Statement::Other };
    let says = |wanted: &[&str]| (1..words.len()).any(|at| wanted.contains(&keyword(at).as_str()));
    match first.as_str() {
        "TRUNCATE" => Statement::Truncate(table),
        "UPDATE" | "DELETE" => Statement::Unfollowed(table, NO_ROWS),
        "INSERT" | "REPLACE" | "LOAD" | "MERGE" | "WITH" | "CALL" | "DO" => Statement::NewRows(table),
        "DROP" if matches!(second.as_str(), "TABLE" | "TABLES") => Statement::Unfollowed(table, "it was dropped"),
        "RENAME" => Statement::Unfollowed(table, "it was renamed"),
        "CREATE"
            if matches!(second.as_str(), "TABLE" | "OR")
                && says(&["TABLE"])
                && !says(&["TRIGGER", "VIEW", "EXISTS"]) =>
        {
            Statement::Unfollowed(table, "it was made anew")
        }
        "ALTER" if says(&["RENAME"]) && says(&["TO", "AS"]) && !says(&["COLUMN", "INDEX", "KEY"]) => {
            Statement::Unfollowed(table, "it was renamed")
        }
        "ALTER" if says(&["PARTITION"]) && says(&["DROP", "TRUNCATE", "EXCHANGE", "CONVERT"]) => {
            Statement::Unfollowed(table, "rows went or came with a partition, which the binlog does not show")
        }
        // Its columns are compared before the next row.
        "ALTER" => {
            const GIVES: [&str; 9] =
                ["DEFAULT", "NOT", "AS", "GENERATED", "AUTO_INCREMENT", "SERIAL", "TIMESTAMP", "MODIFY", "CHANGE"];
            Statement::Altered(table, !says(&GIVES))
        }
        _ => Statement::Other,
    }
}

/// The first of our tables that is named.
fn named(words: &[Word<'_>], database: &str, tables: &[String]) -> Option<usize> {
    let after_dot = |at: usize| at > 0 && words[at - 1] == Word::Sign('.');
    tables.iter().position(|table| {
        let Some((own, name)) = table.split_once('.') else { return false };
        words.iter().enumerate().any(|(at, word)| {
            let Some(found) = word.name() else { return false };
            if !found.eq_ignore_ascii_case(name) {
                return false;
            }
            match at.checked_sub(2).map(|before| &words[before]) {
                Some(before) if after_dot(at) => before.name().is_some_and(|name| name.eq_ignore_ascii_case(own)),
                _ => database.eq_ignore_ascii_case(own),
            }
        })
    })
}

// === impl Word ===

impl Word<'_> {
    fn name(&self) -> Option<&str> {
        match self {
            Self::Bare(word) => Some(word),
            Self::Quoted(name) => Some(name),
            Self::Sign(_) => None,
        }
    }
}

/// The words of a statement, without comments and without texts. What stands in `/*! … */` counts: the server runs it.
fn words(sql: &str) -> Vec<Word<'_>> {
    let mut words = Vec::new();
    let mut rest = sql;
    while let Some(c) = rest.chars().next() {
        if let Some(comment) = rest.strip_prefix("/*") {
            let run = comment.strip_prefix("M!").or_else(|| comment.strip_prefix('!'));
            rest = match run {
                Some(run) => run.trim_start_matches(|c: char| c.is_ascii_digit()),
                None => comment.split_once("*/").map_or("", |(_, after)| after),
            };
        } else if let Some(after) = rest.strip_prefix("*/") {
            rest = after;
        } else if rest.starts_with('#')
            || rest.strip_prefix("--").is_some_and(|after| after.is_empty() || after.starts_with(char::is_whitespace))
        {
            rest = rest.split_once('\n').map_or("", |(_, after)| after);
        } else if c == '\'' {
            rest = quoted(rest, c, true).1;
        } else if c == '`' || c == '"' {
            let (name, after) = quoted(rest, c, c == '"');
            words.push(Word::Quoted(name));
            rest = after;
        } else if is_word(c) {
            let end = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
            words.push(Word::Bare(&rest[..end]));
            rest = &rest[end..];
        } else {
            if !c.is_whitespace() {
                words.push(Word::Sign(c));
            }
            rest = &rest[c.len_utf8()..];
        }
    }
    words
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_' || c == '$' || !c.is_ascii() && !c.is_whitespace()
}

/// What stands in quotes at the start of `text`, and what follows. A doubled quote is one; a backslash escapes where `escapes`.
fn quoted(text: &str, quote: char, escapes: bool) -> (Cow<'_, str>, &str) {
    let inner = &text[quote.len_utf8()..];
    let mut chars = inner.char_indices();
    let mut is_plain = true;
    while let Some((at, c)) = chars.next() {
        if escapes && c == '\\' {
            is_plain = false;
            chars.next();
        } else if c == quote {
            let after = &inner[at + c.len_utf8()..];
            if after.starts_with(quote) {
                is_plain = false;
                chars.next();
                continue;
            }
            let name = &inner[..at];
            let doubled: String = [quote, quote].iter().collect();
            let name =
                if is_plain { Cow::Borrowed(name) } else { Cow::Owned(name.replace(&doubled, &quote.to_string())) };
            return (name, after);
        }
    }
    (Cow::Borrowed(inner), "")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn says(sql: &str) -> Statement {
        read(sql, "shop", &["shop.payments".to_owned(), "other.it`s".to_owned()])
    }

    proptest! {
        #[test]
        fn no_statement_panics(sql in "\\PC{0,60}") {
            says(&sql);
        }
    }

    #[test]
    fn statements_are_told_apart() {
        let unfollowed = |sql: &str| matches!(says(sql), Statement::Unfollowed(..));
        assert_eq!(says("BEGIN"), Statement::Begin);
        assert_eq!(says("ROLLBACK TO `a`"), Statement::RollbackTo);
        assert_eq!(says("ROLLBACK"), Statement::Rollback);
        for (sql, is_plain) in [
            ("ALTER TABLE payments ADD COLUMN x int", true),
            ("ALTER TABLE payments RENAME COLUMN a TO b", true),
            ("ALTER TABLE payments ADD COLUMN x int DEFAULT 5", false),
            ("alter table payments add x int not null", false),
        ] {
            assert_eq!(says(sql), Statement::Altered(0, is_plain), "{sql}");
        }
        for sql in ["TRUNCATE payments", "truncate table `shop`.`payments`", "/* x */ TRUNCATE TABLE shop.PAYMENTS"] {
            assert_eq!(says(sql), Statement::Truncate(0), "{sql}");
        }
        assert_eq!(says("TRUNCATE TABLE other.`it``s`"), Statement::Truncate(1));
        assert_eq!(says("INSERT INTO payments VALUES (1)"), Statement::NewRows(0));
        for sql in [
            "UPDATE `payments` SET a = 1",
            "DROP TABLE IF EXISTS `payments` /* generated by server */",
            "DROP DATABASE `shop`",
            "RENAME TABLE payments TO p2",
            "ALTER TABLE payments RENAME TO p2",
            "ALTER TABLE payments DROP PARTITION p0",
            "CREATE OR REPLACE TABLE payments (id int)",
            "/*!50003 DROP TABLE payments */",
        ] {
            assert!(unfollowed(sql), "{sql}");
        }
        for sql in [
            "CREATE TABLE payments_log (a int)",
            "CREATE TABLE other.payments (a int)",
            "INSERT INTO log VALUES ('TRUNCATE payments')",
            "CREATE INDEX i ON payments (a)",
            "DROP DATABASE other2",
            "SAVEPOINT payments",
        ] {
            assert_eq!(says(sql), Statement::Other, "{sql}");
        }
    }
}
