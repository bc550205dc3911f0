//! Every column has its place on the other side, and everything that it can hold fits there. Both directions.
//!
//! What the applying flow cannot carry is an error; what only the watching flow could not is a warning: it does not
//! apply before a switch.

use crate::names::Flow;

use super::{
    Check, Findings, Severity,
    facts::{Column, Subject, table_on},
    types::{self, Fit},
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
            for (severity, what, fix) in misfits(&source.columns, &facts.columns) {
                let severity = if flow == subject.applying() { severity } else { Severity::Warning };
                findings.add(severity, Check::Columns, Some(flow), to.table(target), what, fix);
            }
        }
    }
}

/// What of `source` does not fit into `target`, and how it could.
fn misfits(source: &[Column], target: &[Column]) -> Vec<(Severity, String, String)> {
    let mut found = Vec::new();
    for column in source.iter().filter(|column| !column.is_generated) {
        let name = &column.name;
        match target.iter().find(|to| to.name == *name) {
            None => found.push((
                Severity::Error,
                format!("has no column `{name}`, which the other side has"),
                format!("add it: {} {}", name, to_be(column, target)),
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
        let is_sent = source.iter().any(|column| column.name == to.name && !column.is_generated);
        if !is_sent && to.is_not_null && !to.has_default && !to.is_generated {
            found.push((
                Severity::Error,
                format!("`{}` is NOT NULL without a default, and the other side does not send it", to.name),
                "give it a default".to_owned(),
            ));
        }
    }
    found
}

/// The type that a missing column should have, in the words of its database.
fn to_be(column: &Column, target: &[Column]) -> String {
    target.first().map_or_else(|| column.type_.shown(), |other| column.type_.counterpart(&other.type_))
}
