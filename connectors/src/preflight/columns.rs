//! Every column has its place on the other side, and everything that it can hold fits there. Both directions.
//!
//! What the applying flow cannot carry is an error; what only the watching flow could not is a warning: it does not
//! apply before a switch.

use crate::{mapping::Mapping, names::Flow};

use super::{
    Check, Findings, Severity,
    facts::{Column, Subject},
    types::{self, Fit},
};

pub(super) fn check(subject: &Subject<'_>, findings: &mut Findings<'_>) {
    for flow in Flow::BOTH {
        let (from, to) = (subject.place(flow.source()), subject.place(flow.target()));
        for table in &subject.sync.tables {
            let (Some(source), Some(target)) = (table.on(from.side), table.on(to.side)) else { continue };
            let (Some(source), Some(facts)) = (from.tables.get(source), to.tables.get(target)) else { continue };
            // What is no table at all is the identity check's finding.
            if !source.is_table() || !facts.is_table() {
                continue;
            }
            for (severity, what, fix) in misfits(&source.columns, &facts.columns, &Mapping::of(table, flow)) {
                let severity = if flow == subject.applying() { severity } else { Severity::Warning };
                findings.add(severity, Check::Columns, Some(flow), to.table(target), what, fix);
            }
        }
    }
}

/// What of `source` does not fit into `target`, and how it could.
pub(super) fn misfits(source: &[Column], target: &[Column], mapping: &Mapping) -> Vec<(Severity, String, String)> {
    let mut found = Vec::new();
    named(source, target, mapping, &mut found);
    for column in source.iter().filter(|column| !column.is_generated && !mapping.leaves_out(&column.name)) {
        let Some(name) = mapping.target(&column.name) else {
            found.push((
                Severity::Error,
                format!("the file sets or leaves out a column to which `{}` of the other side goes", column.name),
                "leave the other side's column out too, or rename it".to_owned(),
            ));
            continue;
        };
        if mapping.source(name) != Some(&column.name) {
            found.push((
                Severity::Error,
                format!("`{name}` takes a renamed column, and `{}` of the other side would go there too", column.name),
                "leave the other one out, or rename it as well".to_owned(),
            ));
            continue;
        }
        match target.iter().find(|to| to.name == *name) {
            None => found.push((
                Severity::Error,
                format!("has no column `{name}`, which the other side has"),
                format!("add it: {} {}; or leave the other side's out (`leave_out`)", name, to_be(column, target)),
            )),
            Some(to) if to.is_generated => found.push((
                Severity::Error,
                format!("generates the column `{name}`, which the other side stores"),
                "generate it on both sides or on neither".to_owned(),
            )),
            Some(to) => {
                match types::fit(&column.type_, &to.type_) {
                    Fit::Always => {}
                    Fit::Except(what) => {
                        let better = column.type_.counterpart(&to.type_);
                        let other =
                            if better == to.type_.shown() { String::new() } else { format!("; else make it {better}") };
                        found.push((
                            Severity::Warning,
                            format!(
                                "`{name}` is {}, which does not hold {what} of {}",
                                to.type_.shown(),
                                column.type_.shown()
                            ),
                            format!(
                                "nothing has to be done where no such value comes, which would stop the flow{other}"
                            ),
                        ));
                    }
                    Fit::As(how) => found.push((
                        Severity::Warning,
                        format!(
                            "`{name}` is {}, and {} of the other side is {how}",
                            to.type_.shown(),
                            column.type_.shown()
                        ),
                        "make sure that it is meant so".to_owned(),
                    )),
                    Fit::Never => found.push((
                        Severity::Error,
                        format!(
                            "`{name}` is {}, and not all that {} holds fits there",
                            to.type_.shown(),
                            column.type_.shown()
                        ),
                        format!("make it {}", column.type_.counterpart(&to.type_)),
                    )),
                }
                if to.is_not_null && !column.is_not_null {
                    found.push((
                        Severity::Error,
                        format!("`{name}` takes no NULL, and the other side may hold some"),
                        "make it NOT NULL on both sides or on neither".to_owned(),
                    ));
                }
            }
        }
    }
    for to in target {
        let from = mapping.source(&to.name);
        let is_sent = source.iter().any(|column| Some(column.name.as_str()) == from && !column.is_generated);
        let is_set = mapping.constants().any(|(name, _)| name == to.name);
        if !is_sent && !is_set && to.is_not_null && !to.has_default && !to.is_generated {
            found.push((
                Severity::Error,
                format!("`{}` is NOT NULL without a default, and the other side does not send it", to.name),
                "give it a default, or a value in `set`".to_owned(),
            ));
        }
    }
    found
}

/// What the file says of columns that are not there, or cannot be set.
fn named(source: &[Column], target: &[Column], mapping: &Mapping, found: &mut Vec<(Severity, String, String)>) {
    for (name, value) in mapping.constants() {
        let what = match target.iter().find(|column| column.name == name) {
            None => format!("has no column `{name}`, which the file sets"),
            Some(column) if column.is_generated => format!("generates the column `{name}`, which the file sets"),
            Some(column) if column.is_not_null && value.is_none() => {
                format!("`{name}` takes no NULL, to which the file sets it")
            }
            Some(_) => continue,
        };
        found.push((Severity::Error, what, "correct `set` of this table".to_owned()));
    }
    for (from, to) in mapping.renamed() {
        if !source.iter().any(|column| column.name == from) {
            found.push((
                Severity::Error,
                format!("`{to}` is to take `{from}` of the other side, which has no such column"),
                "correct `rename` of this table".to_owned(),
            ));
        }
    }
    for name in mapping.untouched().filter(|name| !target.iter().any(|column| column.name == *name)) {
        found.push((
            Severity::Error,
            format!("has no column `{name}`, which the file leaves out"),
            "correct `leave_out` of this table".to_owned(),
        ));
    }
}

/// The type that a missing column should have, in the words of its database.
fn to_be(column: &Column, target: &[Column]) -> String {
    target.first().map_or_else(|| column.type_.shown(), |other| column.type_.counterpart(&other.type_))
}
