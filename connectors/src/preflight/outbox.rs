//! The outboxes are there, can be published, and have the columns of an event.

use crate::{
    names::{quote, quote_table},
    outbox::COLUMNS,
};

use super::{
    Check, Findings,
    facts::{Facts, Place, PostgresPlace, Subject},
};

/// An outbox as PostgreSQL and as MariaDB and MySQL make it; the name goes in between.
const POSTGRES: &str = "(id uuid PRIMARY KEY, aggregatetype varchar(255) NOT NULL, aggregateid varchar(255) NOT NULL, type varchar(255) NOT NULL, payload jsonb)";
const MYSQL: &str = "(id char(36) PRIMARY KEY, aggregatetype varchar(255) NOT NULL, aggregateid varchar(255) NOT NULL, type varchar(255) NOT NULL, payload json)";

pub(super) fn check(subject: &Subject<'_>, findings: &mut Findings<'_>) {
    for place in subject.places() {
        let Some(name) = subject.sync.outbox.on(place.side) else { continue };
        match &place.outbox {
            Some(facts) => on_table(place, name, facts, findings),
            None => missing(place, name, findings),
        }
    }
}

fn missing(place: &Place, name: &str, findings: &mut Findings<'_>) {
    let (columns, quoted, or) = if place.mysql().is_some() {
        (MYSQL, name.to_owned(), ", or grant SELECT on it to Banyan's user")
    } else {
        (POSTGRES, quote_table(name), "")
    };
    findings.error(
        Check::Outbox,
        None,
        place.table(name),
        "there is no such outbox",
        format!("run `CREATE TABLE {quoted} {columns}`{or}"),
    );
}

fn on_table(place: &Place, name: &str, facts: &Facts, findings: &mut Findings<'_>) {
    let where_ = place.table(name);
    let mut wrong = |what: String, fix: String| findings.error(Check::Outbox, None, &where_, what, fix);
    for column in COLUMNS {
        if !facts.columns.iter().any(|found| found.name == column) {
            let type_ = match (column, place.mysql().is_some()) {
                ("payload", true) => "json",
                ("payload", false) => "jsonb",
                ("id", false) => "uuid",
                _ => "varchar(255)",
            };
            wrong(
                format!("has no column `{column}`, without which its rows are no events"),
                format!("run `ALTER TABLE {} ADD COLUMN {column} {type_}`", quote_table(name)),
            );
        }
    }
    if let Some(own) = place.postgres() {
        on_postgres(own, name, facts, &mut wrong);
        return;
    }
    let engine = place.mysql().and_then(|own| own.outbox_engine.as_ref());
    if let Some(engine) = engine.filter(|engine| !engine.eq_ignore_ascii_case("InnoDB")) {
        wrong(
            format!("its engine is {engine}, which keeps rows of transactions that were rolled back"),
            format!("run `ALTER TABLE {name} ENGINE=InnoDB`"),
        );
    }
}

fn on_postgres(own: &PostgresPlace, name: &str, facts: &Facts, wrong: &mut impl FnMut(String, String)) {
    let (table, role) = (quote_table(name), &own.server.role);
    if !matches!(facts.kind, 'r' | 'p') {
        wrong(
            "is no table, and only tables can be published".to_owned(),
            "name the table that rows are inserted into".to_owned(),
        );
        return;
    }
    if !facts.is_logged {
        wrong(
            "is unlogged, so that its rows are in no log".to_owned(),
            format!("run `ALTER TABLE {table} SET LOGGED`"),
        );
    }
    if facts.identity != 'f' && facts.key.is_empty() {
        wrong(
            "has neither a primary key nor a replica identity: once published, the server would refuse every DELETE of it".to_owned(),
            format!("add a primary key to {table}, or run `ALTER TABLE {table} REPLICA IDENTITY FULL`"),
        );
    }
    if !facts.is_owner && !own.server.is_superuser {
        wrong(
            format!("the role `{role}` is no member of the table's owner, and only that may publish it"),
            format!("grant the role that owns {table} to {}", quote(role)),
        );
    }
}
