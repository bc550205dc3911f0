//! Types of PostgreSQL, and what takes them.

use super::{Fit, MysqlType, PostgresType, all};

/// Whether every value of `from`, written as PostgreSQL's text, is the same value in `to`.
pub(super) fn into_postgres(from: &PostgresType, to: &PostgresType) -> Fit {
    all(fits(from, to))
}

fn fits(from: &PostgresType, to: &PostgresType) -> bool {
    if !from.labels.is_empty() {
        let takes_text = to.is_unbounded_text();
        return takes_text || from.labels.iter().all(|label| to.labels.contains(label));
    }
    if from.name == to.name {
        return to.modifier == -1 || from.modifier == to.modifier || narrower(from, to);
    }
    let whole = |name: &str| ["smallint", "integer", "bigint", "numeric"].iter().position(|kind| *kind == name);
    match (whole(&from.name), whole(&to.name)) {
        // A numeric without precision takes every whole number; one with precision may not.
        (Some(small), Some(large)) => small < large && to.modifier == -1,
        _ if from.name == "character varying" && to.name == "text" => true,
        _ if from.name == "text" && to.name == "character varying" => to.modifier == -1,
        // The text of a value is all of it; only trailing blanks of `character` are not.
        _ => to.is_unbounded_text() && from.name != "character",
    }
}

/// Two modifiers of the same type, of which the target's is not -1.
fn narrower(from: &PostgresType, to: &PostgresType) -> bool {
    if from.modifier == -1 {
        return false;
    }
    match to.name.as_str() {
        "numeric" => {
            let ((from_whole, from_scale), (to_whole, to_scale)) = (digits(from.modifier), digits(to.modifier));
            from_whole <= to_whole && from_scale <= to_scale
        }
        "character varying" | "bit varying" => from.modifier <= to.modifier,
        // Fractions of a second.
        name if name.starts_with("time") => from.modifier <= to.modifier,
        _ => false,
    }
}

/// Whether `to` takes the text of `from`, as the applier writes it for MariaDB and MySQL.
pub(super) fn into_mysql(from: &PostgresType, to: &MysqlType) -> Fit {
    let modifier = u64::try_from(from.modifier).ok();
    let name = from.name.as_str();
    if to.is_text() {
        return text_into_mysql(from, to);
    }
    let digits_of = match name {
        "smallint" => Some(5),
        "integer" => Some(10),
        "bigint" => Some(19),
        _ => None,
    };
    match (name, to.name.as_str()) {
        ("boolean", "tinyint" | "smallint" | "mediumint" | "int" | "bigint") => Fit::Always,
        ("boolean", "bit") => all(to.precision == 1),
        (_, "tinyint" | "smallint" | "mediumint" | "int" | "bigint") if digits_of.is_some() => {
            let bytes = |digits| match digits {
                5 => 2,
                10 => 4,
                _ => 8,
            };
            match (to.integer_bytes() >= bytes(digits_of.unwrap_or(19)), to.is_unsigned) {
                (true, false) => Fit::Always,
                (true, true) => Fit::Except("a number below 0"),
                (false, _) => Fit::Never,
            }
        }
        (_, "decimal") if digits_of.is_some() => {
            all(to.precision - to.scale >= digits_of.unwrap_or(19) && !to.is_unsigned)
        }
        ("numeric", "decimal") if to.is_unsigned => Fit::Never,
        ("numeric", "decimal") => match from.modifier {
            -1 => Fit::Except("a number of more digits, NaN or an infinity"),
            modifier => {
                let (whole, scale) = digits(modifier);
                let most = |digits: u64| i32::try_from(digits).unwrap_or(0);
                all(whole <= most(to.precision - to.scale) && scale <= most(to.scale))
            }
        },
        ("real", "float") | ("double precision", "double") => all(!to.is_unsigned && !to.whole.contains('(')),
        ("bytea", "longblob") => Fit::Always,
        ("bytea", "tinyblob" | "blob" | "mediumblob" | "varbinary") => {
            Fit::Except("a value of more bytes than it takes")
        }
        ("date", "date") => Fit::Always,
        ("timestamp without time zone", "datetime") => all(to.fraction >= modifier.unwrap_or(6)),
        ("timestamp with time zone", "datetime") if to.fraction >= modifier.unwrap_or(6) => Fit::As("taken in UTC"),
        ("timestamp with time zone", "timestamp") if to.fraction >= modifier.unwrap_or(6) => {
            Fit::Except("a time before 1970 or after what its server can count to (2038, or 2106)")
        }
        ("time without time zone", "time") => all(to.fraction >= modifier.unwrap_or(6)),
        ("bit", "bit") => all(modifier == Some(to.precision)),
        ("uuid", "uuid") => Fit::Always,
        ("inet", "inet6") => Fit::Except("a network, or an address of version 4"),
        ("inet", "inet4") => Fit::Except("a network, or an address of version 6"),
        ("json" | "jsonb", "json") => Fit::Never,
        (_, "enum") if !from.labels.is_empty() => all(from.labels.iter().all(|label| to.labels.contains(label))),
        _ => Fit::Never,
    }
}

fn text_into_mysql(from: &PostgresType, to: &MysqlType) -> Fit {
    let all_characters = to.charset == "utf8mb4";
    let bounded = match (from.name.as_str(), from.modifier) {
        ("character varying" | "character", modifier) if modifier > 4 => u64::try_from(modifier - 4).ok(),
        ("uuid", _) => Some(36),
        _ if !from.labels.is_empty() => from.labels.iter().map(|label| label.chars().count() as u64).max(),
        ("smallint", _) => Some(6),
        ("integer", _) => Some(11),
        ("bigint", _) => Some(20),
        ("inet" | "cidr", _) => Some(43),
        ("macaddr", _) => Some(17),
        _ => None,
    };
    if from.name == "character" && to.name != "char" {
        return Fit::Never;
    }
    match (bounded, to.name.as_str()) {
        // CHAR drops blanks at the end.
        (_, "char") if !matches!(from.name.as_str(), "character" | "uuid") => Fit::Never,
        (Some(most), "char" | "varchar") if most <= to.length && all_characters => Fit::Always,
        (Some(most), "char" | "varchar") if most <= to.length => {
            Fit::Except("a character that its character set lacks")
        }
        (_, "char" | "varchar" | "tinytext") => Fit::Never,
        (_, "longtext") if all_characters => Fit::Always,
        (Some(most), _) if most <= 16_383 && all_characters => Fit::Always,
        (_, "text" | "mediumtext" | "longtext") if all_characters => Fit::Except("a text of more bytes than it takes"),
        _ => Fit::Except("a character that its character set lacks, or a text of more bytes than it takes"),
    }
}

/// The type of MariaDB and MySQL that takes every value.
pub(super) fn in_mysql(own: &PostgresType) -> String {
    let fraction = if own.modifier >= 0 { own.modifier } else { 6 };
    let length = own.modifier - 4;
    match own.name.as_str() {
        "boolean" => "tinyint(1)".to_owned(),
        "smallint" => "smallint".to_owned(),
        "integer" => "int".to_owned(),
        "bigint" => "bigint".to_owned(),
        "numeric" if own.modifier >= 0 => {
            let (whole, scale) = digits(own.modifier);
            format!("decimal({},{scale})", whole + scale)
        }
        "real" => "float".to_owned(),
        "double precision" => "double".to_owned(),
        "bytea" => "longblob".to_owned(),
        "date" => "date".to_owned(),
        "timestamp without time zone" | "timestamp with time zone" => format!("datetime({fraction})"),
        "time without time zone" => format!("time({fraction})"),
        "character varying" if own.modifier > 4 => format!("varchar({length}) character set utf8mb4"),
        "character" if length <= 255 => format!("char({length}) character set utf8mb4"),
        "bit" if own.modifier <= 64 => format!("bit({})", own.modifier),
        "uuid" => "char(36)".to_owned(),
        _ if !own.labels.is_empty() => {
            let labels: Vec<String> =
                own.labels.iter().map(|label| format!("'{}'", label.replace('\'', "''"))).collect();
            format!("enum({})", labels.join(","))
        }
        _ => "longtext character set utf8mb4".to_owned(),
    }
}

/// Digits before and after the point of `numeric(p,s)`: the catalog holds ((p << 16) | s) + 4.
pub(super) fn digits(modifier: i32) -> (i32, i32) {
    let packed = modifier - 4;
    let (precision, scale) = ((packed >> 16) & 0xffff, packed & 0x7ff);
    // From 15 on a scale may be negative, in eleven bits.
    let scale = (scale ^ 1024) - 1024;
    (precision - scale, scale)
}

// === impl PostgresType ===

impl PostgresType {
    pub(super) fn is_unbounded_text(&self) -> bool {
        self.name == "text" || self.name == "character varying" && self.modifier == -1
    }

    /// A type as one would write it.
    pub(super) fn shown(&self) -> String {
        match (self.name.as_str(), self.modifier) {
            (name, -1) => name.to_owned(),
            ("numeric", modifier) => {
                let (whole, scale) = digits(modifier);
                format!("numeric({},{scale})", whole + scale)
            }
            (name @ ("character varying" | "character"), modifier) => format!("{name}({})", modifier - 4),
            (name, modifier) => match name.split_once(' ') {
                // timestamp(3) with time zone
                Some((first, rest)) if name.starts_with("time") => format!("{first}({modifier}) {rest}"),
                _ => format!("{name}({modifier})"),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(name: &str, modifier: i32) -> PostgresType {
        PostgresType { name: name.into(), modifier, labels: Vec::new() }
    }

    fn numeric(precision: i32, scale: i32) -> PostgresType {
        column("numeric", ((precision << 16) | (scale & 0x7ff)) + 4)
    }

    #[test]
    fn a_type_fits_where_every_value_of_it_does() {
        let text = || column("text", -1);
        let varchar = |n: i32| column("character varying", n + 4);
        let cases = [
            (column("integer", -1), column("bigint", -1), true),
            (column("bigint", -1), column("integer", -1), false),
            (column("bigint", -1), column("numeric", -1), true),
            (column("bigint", -1), numeric(10, 0), false),
            (numeric(10, 2), numeric(12, 2), true),
            (numeric(12, 2), numeric(12, 4), false),
            (numeric(12, 2), column("numeric", -1), true),
            (numeric(5, -2), numeric(7, 0), true),
            (column("numeric", -1), numeric(12, 2), false),
            (varchar(10), varchar(20), true),
            (varchar(20), varchar(10), false),
            (varchar(20), text(), true),
            (text(), varchar(20), false),
            (column("uuid", -1), text(), true),
            (text(), column("uuid", -1), false),
            (column("character", 14), text(), false),
            (column("timestamp without time zone", -1), column("timestamp with time zone", -1), false),
            (column("timestamp with time zone", 3), column("timestamp with time zone", -1), true),
            (column("timestamp with time zone", -1), column("timestamp with time zone", 3), false),
        ];
        for (from, to, fit) in cases {
            assert_eq!(fits(&from, &to), fit, "{} into {}", from.shown(), to.shown());
        }
    }

    #[test]
    fn an_enum_fits_where_all_its_labels_are() {
        let labels = |labels: &[&str]| PostgresType {
            labels: labels.iter().map(|&label| label.to_owned()).collect(),
            ..column("public.mood", -1)
        };
        assert!(fits(&labels(&["a", "b"]), &labels(&["c", "b", "a"])));
        assert!(!fits(&labels(&["a", "b"]), &labels(&["a"])));
        assert!(fits(&labels(&["a"]), &column("text", -1)));
        assert!(!fits(&column("text", -1), &labels(&["a"])));
    }

    #[test]
    fn types_are_shown_as_they_are_written() {
        assert_eq!(numeric(12, 2).shown(), "numeric(12,2)");
        assert_eq!(column("character varying", 24).shown(), "character varying(20)");
        assert_eq!(column("timestamp with time zone", 3).shown(), "timestamp(3) with time zone");
    }
}
