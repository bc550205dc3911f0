//! Every table is there, can be published, and has what tells its rows apart: the same on both sides.
//!
//! Publishing a table without makes its own server refuse every UPDATE and DELETE: it would break the monolith.

use crate::{
    mapping::Mapping,
    names::{Flow, quote_table},
};

use super::{
    Check, Findings, Severity,
    facts::{Facts, Place, Subject},
    flow_into,
};

pub(super) fn check(subject: &Subject<'_>, findings: &mut Findings<'_>) {
    for table in &subject.sync.tables {
        let [legacy, modern] = subject.places().map(|place| {
            let name = table.on(place.side)?;
            let facts = place.tables.get(name);
            match facts {
                Some(facts) => alone(place, name, facts, findings),
                None => findings.error(
                    Check::Identity,
                    None,
                    place.table(name),
                    "there is no such table",
                    format!("create it in `{}`, or correct `tables` of the sync `{}`", place.database, subject.name),
                ),
            }
            facts
        });
        match (table.function_on(), legacy, modern) {
            (None, Some(legacy), Some(modern)) => together(subject, table, legacy, modern, findings),
            (Some(side), Some(facts), None) | (Some(side), None, Some(facts)) => {
                let flow = flow_into(side);
                filtered(subject, flow, table, facts, &Mapping::of(table, flow), findings);
            }
            _ => {}
        }
    }
}

fn alone(place: &Place, name: &str, facts: &Facts, findings: &mut Findings<'_>) {
    let (where_, table) = (place.table(name), quote_table(name));
    if place.mysql().is_some() {
        if !facts.is_table() {
            findings.error(Check::Identity, None, where_, "is no ordinary table", "name an ordinary table");
        } else if facts.primary.is_empty() {
            findings.error(
                Check::Identity,
                None,
                where_,
                "has no primary key, by which its rows are told apart",
                format!("add a primary key to {name}"),
            );
        }
        return;
    }
    let unfit = match facts.kind {
        'r' | 'p' if facts.is_logged => None,
        'r' | 'p' => {
            Some(("is unlogged, so its changes are in no log", format!("run `ALTER TABLE {table} SET LOGGED`")))
        }
        'v' | 'm' => Some(("is a view, and only tables can be published", "name the tables beneath it".to_owned())),
        _ => Some(("is no ordinary table, and only those can be published", "take it out of `tables`".to_owned())),
    };
    if let Some((what, fix)) = unfit {
        findings.error(Check::Identity, None, where_, what, fix);
        return;
    }
    if facts.kind == 'p' {
        findings.warning(
            Check::Identity,
            None,
            place.table(name),
            "is partitioned: rows come and go unseen when a partition alone is truncated, attached, detached or dropped",
            "empty a partition by DELETE, or copy the tables anew afterwards",
        );
    }
    if facts.identity != 'f' && facts.key.is_empty() {
        let (what, fix) = if facts.identity == 'd' && !facts.primary.is_empty() {
            (
                "its primary key is DEFERRABLE and so no replica identity",
                format!("make the primary key of {table} anew, NOT DEFERRABLE"),
            )
        } else if !facts.primary.is_empty() {
            ("REPLICA IDENTITY is NOTHING", format!("run `ALTER TABLE {table} REPLICA IDENTITY DEFAULT`"))
        } else {
            ("has neither a primary key nor a replica identity", format!("add a primary key to {table}"))
        };
        findings.error(
            Check::Identity,
            None,
            where_,
            format!("{what}: once published, the server would refuse every UPDATE and DELETE of it"),
            fix,
        );
    } else if facts.primary.is_empty() {
        findings.error(
            Check::Identity,
            None,
            where_,
            "has no primary key, by which the rows that come from the other side are found",
            format!("add a primary key to {table}"),
        );
    }
}

/// Whether a row comes into the sync or leaves it is told by its old values.
fn filtered(
    subject: &Subject<'_>,
    flow: Flow,
    table: &crate::config::Table,
    from: &Facts,
    mapping: &Mapping,
    findings: &mut Findings<'_>,
) {
    let place = subject.place(flow.source());
    let name = table.on(place.side).unwrap_or_default();
    for column in mapping.filter_columns() {
        let what = match from.columns.iter().find(|own| own.name == column) {
            None => format!("has no column `{column}`, by which the file tells the sync's rows"),
            Some(own) if !own.type_.is_plain() => format!(
                "`{column}` is {}, and rows are told apart by whole numbers, text, UUIDs and enums alone",
                own.type_.shown()
            ),
            Some(_) => continue,
        };
        findings.error(Check::Identity, Some(flow), place.table(name), what, "correct `rows` of this table");
    }
    if mapping.has_filter() && place.postgres().is_some() && from.identity != 'f' {
        let severity = if flow == subject.applying() { Severity::Error } else { Severity::Warning };
        let what =
            "its log does not say what a changed row was before, which tells whether it was one of the sync's `rows`";
        let fix = format!("run `ALTER TABLE {} REPLICA IDENTITY FULL`", quote_table(name));
        findings.add(severity, Check::Identity, Some(flow), place.table(name), what.to_owned(), fix);
    }
}

/// Rows are looked up by the columns that the other side sends as their key.
fn together(
    subject: &Subject<'_>,
    table: &crate::config::Table,
    legacy: &Facts,
    modern: &Facts,
    findings: &mut Findings<'_>,
) {
    let mapping = Mapping::of(table, Flow::LegacyToModern);
    let mut sent: Vec<&str> = legacy.key.iter().map(|column| mapping.target(column).unwrap_or(column)).collect();
    let mut taken: Vec<&str> = modern.key.iter().map(String::as_str).collect();
    sent.sort_unstable();
    taken.sort_unstable();
    // That alone is a finding already.
    if legacy.key.is_empty() || modern.key.is_empty() {
        return;
    }
    if sent != taken {
        let place = subject.place(crate::config::Side::Modern);
        findings.error(
            Check::Identity,
            None,
            place.table(table.on(place.side).unwrap_or_default()),
            format!("its key is ({}), that of legacy is ({})", modern.key.join(", "), legacy.key.join(", ")),
            "give both sides the same primary key or replica identity",
        );
        return;
    }
    for (side, from, into) in
        [(crate::config::Side::Legacy, legacy, modern), (crate::config::Side::Modern, modern, legacy)]
    {
        let flow = flow_into(side.other());
        let mapping = Mapping::of(table, flow);
        filtered(subject, flow, table, from, &mapping, findings);
        let is_sent = |column: &String| {
            let source = mapping.source(column);
            source.is_some_and(|source| from.identity == 'f' || from.key.iter().any(|key| key == source))
        };
        if !into.primary.iter().all(is_sent) {
            findings.error(
                Check::Identity,
                None,
                subject.place(side).table(table.on(side).unwrap_or_default()),
                format!(
                    "its replica identity is ({}), and rows are found by the primary key ({})",
                    from.key.join(", "),
                    into.primary.join(", ")
                ),
                "make the primary key its replica identity (`REPLICA IDENTITY DEFAULT`)",
            );
        }
    }
}
