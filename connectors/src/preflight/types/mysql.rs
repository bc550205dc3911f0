//! Types of MariaDB and MySQL, and what takes them.

use super::{Fit, MysqlType, PostgresType, all, postgres::digits};

const ZERO: Fit = Fit::Except("a zero date, or one that is in no calendar,");

/// Whether the text of every value of `from` is the same value in `to`.
pub(super) fn into_postgres(from: &MysqlType, to: &PostgresType) -> Fit {
    if !from.is_known {
        return Fit::Never;
    }
    if to.is_unbounded_text() {
        return Fit::Always;
    }
    let fraction_fits = to.modifier == -1 || u64::try_from(to.modifier).is_ok_and(|digits| from.fraction <= digits);
    let dated = |fits: bool| match (fits, from.zero_dates) {
        (true, true) => ZERO,
        (fits, _) => all(fits),
    };
    let name = to.name.as_str();
    match (from.name.as_str(), name) {
        ("tinyint", "boolean") => Fit::Except("a number other than 0 and 1"),
        ("tinyint" | "smallint" | "mediumint" | "int" | "bigint", "smallint" | "integer" | "bigint") => {
            let bytes = match name {
                "smallint" => 2,
                "integer" => 4,
                _ => 8,
            };
            match (from.integer_bytes(), from.is_unsigned) {
                (8, true) if bytes == 8 => Fit::Except("a number above 9223372036854775807"),
                (own, true) => all(own < bytes),
                (own, false) => all(own <= bytes),
            }
        }
        ("tinyint" | "smallint" | "mediumint" | "int" | "bigint", "numeric") => all(to.modifier == -1 || {
            let (whole, scale) = digits(to.modifier);
            whole >= 20 && scale >= 0
        }),
        ("decimal", "numeric") => all(to.modifier == -1 || {
            let (whole, scale) = digits(to.modifier);
            u64::try_from(whole).is_ok_and(|whole| from.precision - from.scale <= whole)
                && u64::try_from(scale).is_ok_and(|scale| from.scale <= scale)
        }),
        ("decimal", "smallint") => all(from.scale == 0 && from.precision <= 4),
        ("decimal", "integer") => all(from.scale == 0 && from.precision <= 9),
        ("decimal", "bigint") => all(from.scale == 0 && from.precision <= 18),
        ("float", "real") | ("double", "double precision") => Fit::Always,
        ("bit", "bit") => all(u64::try_from(to.modifier) == Ok(from.precision)),
        ("bit", "bit varying") => {
            all(to.modifier == -1 || u64::try_from(to.modifier).is_ok_and(|most| from.precision <= most))
        }
        ("bit", "boolean") => all(from.precision == 1),
        ("year", "smallint" | "integer" | "bigint") => Fit::Always,
        ("date", "date") => dated(true),
        ("datetime", "timestamp without time zone") => dated(fraction_fits),
        ("datetime", "timestamp with time zone") if fraction_fits => Fit::As("taken in UTC"),
        ("timestamp", "timestamp with time zone") => dated(fraction_fits),
        ("timestamp", "timestamp without time zone") if fraction_fits => Fit::As("written in UTC"),
        ("time", "interval") => Fit::Always,
        ("time", "time without time zone") if fraction_fits => Fit::Except("a time below 0 or above 24:00:00"),
        ("varchar" | "char", "character varying") => {
            all(u64::try_from(to.modifier - 4).is_ok_and(|most| from.length <= most))
        }
        ("char", "character") => all(u64::try_from(to.modifier - 4) == Ok(from.length)),
        ("char" | "varchar", "uuid") => Fit::Except("a text that is no UUID"),
        ("uuid", "uuid") | ("inet4" | "inet6", "inet") => Fit::Always,
        ("json", "json" | "jsonb") => Fit::Always,
        ("longtext", "json" | "jsonb") => Fit::Except("a text that is no JSON"),
        ("binary" | "varbinary" | "tinyblob" | "blob" | "mediumblob" | "longblob", "bytea") => Fit::Always,
        ("enum", _) if !to.labels.is_empty() => all(from.labels.iter().all(|label| to.labels.contains(label))),
        ("enum", "character varying") => all(from.longest_label() <= u64::try_from(to.modifier - 4).unwrap_or(0)),
        _ => Fit::Never,
    }
}

/// The same for two of a kind.
pub(super) fn into_mysql(from: &MysqlType, to: &MysqlType) -> Fit {
    if !from.is_known || !to.is_known {
        return Fit::Never;
    }
    if from.whole == to.whole && (from.charset == to.charset || to.charset == "utf8mb4") {
        return Fit::Always;
    }
    match (from.name.as_str(), to.name.as_str()) {
        (
            "tinyint" | "smallint" | "mediumint" | "int" | "bigint",
            "tinyint" | "smallint" | "mediumint" | "int" | "bigint",
        ) => {
            let (own, other) = (from.integer_bytes(), to.integer_bytes());
            all(match (from.is_unsigned, to.is_unsigned) {
                (false, false) | (true, true) => own <= other,
                (true, false) => own < other,
                (false, true) => false,
            })
        }
        ("decimal", "decimal") => all(from.precision - from.scale <= to.precision - to.scale
            && from.scale <= to.scale
            && (from.is_unsigned || !to.is_unsigned)),
        ("float" | "double" | "year" | "date" | "bit" | "binary" | "uuid" | "inet4" | "inet6", _) => {
            // `float(7,4)` and `year(4)` hold what `float` and `year` do; a column that rounds is not the other's equal.
            all(from.name == to.name
                && !to.whole.contains(',')
                && from.length == to.length
                && from.precision == to.precision
                && (from.is_unsigned || !to.is_unsigned))
        }
        ("datetime", "datetime") | ("timestamp", "timestamp") | ("time", "time") => all(from.fraction <= to.fraction),
        ("enum", "enum") => all(from.labels.iter().all(|label| to.labels.contains(label))),
        ("set", "set") => all(to.labels.starts_with(&from.labels)),
        ("json", "longtext") => Fit::Always,
        ("longtext", "json") => Fit::Never,
        _ if from.is_bytes() && to.is_bytes() && to.name != "binary" => all(from.length <= to.length),
        _ if from.is_text() && to.is_text() => match (from.length <= to.length, to.charset == "utf8mb4") {
            // CHAR drops blanks at the end.
            _ if to.name == "char" && from.name != "char" => Fit::Never,
            (true, true) => Fit::Always,
            (true, false) if from.charset == to.charset => Fit::Always,
            (true, false) => Fit::Except("a character that its character set lacks"),
            (false, _) => Fit::Never,
        },
        ("enum", _) if to.is_text() && to.name != "char" => all(from.longest_label() <= to.length),
        _ => Fit::Never,
    }
}

/// The type of PostgreSQL that takes every value.
pub(super) fn in_postgres(own: &MysqlType) -> String {
    match own.name.as_str() {
        "tinyint" if own.whole.starts_with("tinyint(1)") => "boolean, or smallint".to_owned(),
        "tinyint" => "smallint".to_owned(),
        "smallint" if own.is_unsigned => "integer".to_owned(),
        "smallint" => "smallint".to_owned(),
        "int" if own.is_unsigned => "bigint".to_owned(),
        "mediumint" | "int" => "integer".to_owned(),
        "bigint" if own.is_unsigned => "numeric(20,0)".to_owned(),
        "bigint" => "bigint".to_owned(),
        "decimal" => format!("numeric({},{})", own.precision, own.scale),
        "float" => "real".to_owned(),
        "double" => "double precision".to_owned(),
        "bit" => format!("bit({})", own.precision),
        "year" => "smallint".to_owned(),
        "date" => "date".to_owned(),
        "datetime" => format!("timestamp({}) without time zone", own.fraction),
        "timestamp" => format!("timestamp({}) with time zone", own.fraction),
        "time" => "interval".to_owned(),
        "char" | "varchar" => format!("character varying({})", own.length),
        "binary" | "varbinary" | "tinyblob" | "blob" | "mediumblob" | "longblob" => "bytea".to_owned(),
        "json" => "jsonb".to_owned(),
        "uuid" => "uuid".to_owned(),
        "inet4" | "inet6" => "inet".to_owned(),
        _ => "text".to_owned(),
    }
}

// === impl MysqlType ===

impl MysqlType {
    pub(super) fn integer_bytes(&self) -> u8 {
        match self.name.as_str() {
            "tinyint" => 1,
            "smallint" => 2,
            "mediumint" => 3,
            "int" => 4,
            _ => 8,
        }
    }

    pub(super) fn is_text(&self) -> bool {
        matches!(self.name.as_str(), "char" | "varchar" | "tinytext" | "text" | "mediumtext" | "longtext")
    }

    fn is_bytes(&self) -> bool {
        matches!(self.name.as_str(), "binary" | "varbinary" | "tinyblob" | "blob" | "mediumblob" | "longblob")
    }

    fn longest_label(&self) -> u64 {
        self.labels.iter().map(|label| label.chars().count() as u64).max().unwrap_or(0)
    }
}
