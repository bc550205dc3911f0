//! Every column has its place on the other side, and everything that it can hold fits there. Both directions.
//!
//! What the applying flow cannot carry is an error; what only the watching flow could not is a warning: it does not
//! apply before a switch.

use crate::names::Flow;

use super::{
    Check, Findings,
    facts::{Column, Subject, table_on},
};

pub(super) fn check(subject: &Subject<'_>, findings: &mut Findings<'_>) {
    for flow in Flow::BOTH {
        let (from, to) = (subject.place(flow.source()), subject.place(flow.target()));
        for table in &subject.sync.tables {
            let (source, target) = (table_on(table, from.side), table_on(table, to.side));
            let (Some(source), Some(facts)) = (from.tables.get(source), to.tables.get(target)) else { continue };
            // What is no table at all is the identity check's finding.
            if !source.is_table() || !facts.is_table() {
                continue;
            }
            let severity = if flow == subject.applying() { super::Severity::Error } else { super::Severity::Warning };
            for (what, fix) in misfits(&source.columns, &facts.columns) {
                findings.add(severity, Check::Columns, Some(flow), to.table(target), what, fix);
            }
        }
    }
}

/// What of `source` does not fit into `target`, and how it could.
fn misfits(source: &[Column], target: &[Column]) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for column in source.iter().filter(|column| !column.is_generated) {
        let name = &column.name;
        match target.iter().find(|to| to.name == *name) {
            None => found.push((
                format!("has no column `{name}`, which the other side has"),
                format!("add it: {} {}", name, shown(column)),
            )),
            Some(to) if to.is_generated => found.push((
                format!("generates the column `{name}`, which the other side stores"),
                "generate it on both sides or on neither".to_owned(),
            )),
            Some(to) => {
                if !fits(column, to) {
                    found.push((
                        format!("`{name}` is {}, and not all that {} holds fits there", shown(to), shown(column)),
                        format!("make it {}", shown(column)),
                    ));
                }
                if to.is_not_null && !column.is_not_null {
                    found.push((
                        format!("`{name}` takes no NULL, and the other side may hold some"),
                        "make it NOT NULL on both sides or on neither".to_owned(),
                    ));
                }
            }
        }
    }
    for to in target {
        let is_sent = source.iter().any(|column| column.name == to.name && !column.is_generated);
        if !is_sent && to.is_not_null && !to.has_default && !to.is_generated {
            found.push((
                format!("`{}` is NOT NULL without a default, and the other side does not send it", to.name),
                "give it a default".to_owned(),
            ));
        }
    }
    found
}

/// Whether every value of `from`, written as PostgreSQL's text, is the same value in `to`.
fn fits(from: &Column, to: &Column) -> bool {
    if !from.labels.is_empty() {
        let takes_text = is_unbounded_text(to);
        return takes_text || from.labels.iter().all(|label| to.labels.contains(label));
    }
    if from.type_name == to.type_name {
        return to.modifier == -1 || from.modifier == to.modifier || narrower(from, to);
    }
    let whole = |name: &str| ["smallint", "integer", "bigint", "numeric"].iter().position(|kind| *kind == name);
    match (whole(&from.type_name), whole(&to.type_name)) {
        // A numeric without precision takes every whole number; one with precision may not.
        (Some(small), Some(large)) => small < large && to.modifier == -1,
        _ if from.type_name == "character varying" && to.type_name == "text" => true,
        _ if from.type_name == "text" && to.type_name == "character varying" => to.modifier == -1,
        // The text of a value is all of it; only trailing blanks of `character` are not.
        _ => is_unbounded_text(to) && from.type_name != "character",
    }
}

fn is_unbounded_text(column: &Column) -> bool {
    column.type_name == "text" || column.type_name == "character varying" && column.modifier == -1
}

/// Two modifiers of the same type, of which the target's is not -1.
fn narrower(from: &Column, to: &Column) -> bool {
    if from.modifier == -1 {
        return false;
    }
    match to.type_name.as_str() {
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

/// Digits before and after the point of `numeric(p,s)`: the catalog holds ((p << 16) | s) + 4.
fn digits(modifier: i32) -> (i32, i32) {
    let packed = modifier - 4;
    let (precision, scale) = ((packed >> 16) & 0xffff, packed & 0x7ff);
    // From 15 on a scale may be negative, in eleven bits.
    let scale = (scale ^ 1024) - 1024;
    (precision - scale, scale)
}

/// A type as one would write it.
fn shown(column: &Column) -> String {
    match (column.type_name.as_str(), column.modifier) {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn column(type_name: &str, modifier: i32) -> Column {
        Column {
            name: "c".into(),
            type_name: type_name.into(),
            modifier,
            labels: Vec::new(),
            is_not_null: false,
            has_default: false,
            is_generated: false,
        }
    }

    fn numeric(precision: i32, scale: i32) -> Column {
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
            assert_eq!(fits(&from, &to), fit, "{} into {}", shown(&from), shown(&to));
        }
    }

    #[test]
    fn an_enum_fits_where_all_its_labels_are() {
        let labels = |labels: &[&str]| Column {
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
        assert_eq!(shown(&numeric(12, 2)), "numeric(12,2)");
        assert_eq!(shown(&column("character varying", 24)), "character varying(20)");
        assert_eq!(shown(&column("timestamp with time zone", 3)), "timestamp(3) with time zone");
    }
}
