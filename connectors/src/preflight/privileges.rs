//! What Banyan's role may do in both databases. Each side is read, and each may be written after a switch.

use crate::{
    config::Target,
    names::{quote, quote_table},
};

use super::{
    Check, Findings,
    facts::{Facts, Place, Server, Subject, tables_on},
    flow_into,
};

pub(super) fn check(subject: &Subject<'_>, findings: &mut Findings<'_>) {
    for place in subject.places() {
        let Some(own) = place.postgres() else { continue };
        role(place, &own.server, findings);
        for (table, name) in tables_on(subject.sync, place.side) {
            if let Some(facts) = place.tables.get(name) {
                let truncates = flow_into(place.side) == subject.applying()
                    && table.target.unwrap_or(subject.sync.target) == Target::Replace;
                let needs = |action: &str| match action {
                    "SELECT" => true,
                    "TRUNCATE" => truncates && table.apply.is_none(),
                    _ => table.apply.is_none(),
                };
                on_table(place, &own.server, name, facts, needs, findings);
            }
        }
    }
}

fn role(place: &Place, server: &Server, findings: &mut Findings<'_>) {
    let role = quote(&server.role);
    if !server.may_replicate {
        findings.error(
            Check::Privileges,
            None,
            place.name(),
            format!("the role `{}` may not replicate, so that it cannot make a slot", server.role),
            format!("run `ALTER ROLE {role} REPLICATION` (on Amazon RDS `GRANT rds_replication TO {role}`)"),
        );
    }
    // The publication is made in this database, and so are Banyan's own tables.
    if !server.may_create {
        let what = if server.has_own_tables { "its publication" } else { "its publication and the schema `banyan`" };
        findings.error(
            Check::Privileges,
            None,
            place.name(),
            format!("the role `{}` may create nothing in this database, and needs {what}", server.role),
            format!("run `GRANT CREATE ON DATABASE {} TO {role}`", quote(&place.database)),
        );
    }
}

fn on_table(
    place: &Place,
    server: &Server,
    name: &str,
    facts: &Facts,
    needs: impl Fn(&str) -> bool,
    findings: &mut Findings<'_>,
) {
    let (where_, table, role) = (place.table(name), quote_table(name), quote(&server.role));
    if !facts.is_owner && !server.is_superuser {
        findings.error(
            Check::Privileges,
            None,
            &where_,
            format!("the role `{}` is no member of the table's owner, and only that may publish it", server.role),
            format!("grant the role that owns {table} to {role}"),
        );
    }
    let lacks: Vec<&str> = facts.lacks.iter().copied().filter(|action| needs(action)).collect();
    if !lacks.is_empty() {
        let lacks = lacks.join(", ");
        findings.error(
            Check::Privileges,
            None,
            &where_,
            format!("the role `{}` lacks {lacks}", server.role),
            format!("run `GRANT {lacks} ON {table} TO {role}`"),
        );
    }
    if facts.hides_rows {
        findings.error(
            Check::Privileges,
            None,
            where_,
            format!("row security hides rows from the role `{}`, so that a copy would be incomplete", server.role),
            format!("run `ALTER ROLE {role} BYPASSRLS`"),
        );
    }
}
