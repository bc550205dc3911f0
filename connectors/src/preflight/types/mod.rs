//! The type table: which type takes every value of which, for each pair of databases. In words: `docs/reference/types.md`.
//!
//! Judged is whether the text that a record carries is the same value on the other side. A value that is not refused, but changed on its
//! way, is what must never be: where that could happen the pair does not fit.

mod mysql;
mod postgres;

use crate::database::mysql::Flavor;

/// How well one type takes another's values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fit {
    /// Every value. Not counted are extremes that few columns meet and that stop a flow when they come: NaN, infinities, years that the
    /// other side does not have, the character U+0000.
    Always,
    /// Every value but these, which the target refuses.
    Except(&'static str),
    /// Every value, if it means what is said here.
    As(&'static str),
    /// Some are changed, or most are refused.
    Never,
}

/// A column's type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Type {
    Postgres(PostgresType),
    Mysql(MysqlType),
}

/// A type of PostgreSQL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PostgresType {
    /// As `format_type` writes it, without modifier, schema-qualified unless built in; a domain's base type.
    pub(super) name: String,
    /// Length, precision and scale as the catalog packs them; -1 for none.
    pub(super) modifier: i32,
    /// Labels of an enum, in order.
    pub(super) labels: Vec<String>,
}

/// A type of MariaDB or MySQL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct MysqlType {
    pub(super) flavor: Flavor,
    /// `int`, `varchar`.
    pub(super) name: String,
    /// `int(10) unsigned`.
    pub(super) whole: String,
    pub(super) is_unsigned: bool,
    /// Most characters of text, bytes of all else.
    pub(super) length: u64,
    pub(super) precision: u64,
    pub(super) scale: u64,
    /// Digits of a second's fraction.
    pub(super) fraction: u64,
    /// Empty for what is no text.
    pub(super) charset: String,
    /// Of an enum or a set.
    pub(super) labels: Vec<String>,
    /// Dates like 0000-00-00 may stand in it.
    pub(super) zero_dates: bool,
    /// This version can read it.
    pub(super) is_known: bool,
}

/// Whether `to` takes what `from` holds.
pub(super) fn fit(from: &Type, to: &Type) -> Fit {
    match (from, to) {
        (Type::Postgres(from), Type::Postgres(to)) => postgres::into_postgres(from, to),
        (Type::Postgres(from), Type::Mysql(to)) => postgres::into_mysql(from, to),
        (Type::Mysql(from), Type::Postgres(to)) => mysql::into_postgres(from, to),
        (Type::Mysql(from), Type::Mysql(to)) => mysql::into_mysql(from, to),
    }
}

// === impl Type ===

impl Type {
    /// As one would write it.
    pub(super) fn shown(&self) -> String {
        match self {
            Self::Postgres(type_) => type_.shown(),
            Self::Mysql(type_) => type_.whole.clone(),
        }
    }

    /// Whether a value has one text, the same in a record and in a query: whole numbers, text without padding, UUIDs, enums.
    pub(super) fn is_plain(&self) -> bool {
        const POSTGRES: [&str; 6] = ["smallint", "integer", "bigint", "text", "character varying", "uuid"];
        const MYSQL: [&str; 12] = [
            "tinyint",
            "smallint",
            "mediumint",
            "int",
            "bigint",
            "varchar",
            "tinytext",
            "text",
            "mediumtext",
            "longtext",
            "enum",
            "uuid",
        ];
        match self {
            Self::Postgres(own) => !own.labels.is_empty() || POSTGRES.contains(&own.name.as_str()),
            Self::Mysql(own) => MYSQL.contains(&own.name.as_str()),
        }
    }

    /// The type that takes it in the kind of database that `other` is of.
    pub(super) fn counterpart(&self, other: &Self) -> String {
        match (self, other) {
            (Self::Postgres(own), Self::Mysql(_)) => postgres::in_mysql(own),
            (Self::Mysql(own), Self::Postgres(_)) => mysql::in_postgres(own),
            _ => self.shown(),
        }
    }
}

fn all(condition: bool) -> Fit {
    if condition { Fit::Always } else { Fit::Never }
}
