//! Every function that takes a table's changes is there, takes what it is given, and may be called. What it does with them is its owner's.
//!
//! As with columns, what the applying flow needs is an error; what only the watching flow would call is a warning.

use crate::{
    config::{Side, Table},
    error::FlowError,
    names::{quote, quote_table},
    target::postgres::function::{self, SIGNATURE},
};

use super::{
    Check, Findings, Severity,
    facts::{Subject, written_on},
    flow_into,
    triggers::writes,
    types::Type,
};

pub(super) async fn check(subject: &Subject<'_>, findings: &mut Findings<'_>) -> Result<(), FlowError> {
    for table in &subject.sync.tables {
        let (Some(side), Some(apply)) = (table.function_on(), &table.apply) else { continue };
        let (place, flow, name) = (subject.place(side), flow_into(side), apply.function.as_str());
        carried(subject, table, side.other(), findings);
        // Another kind of database is refused with the file.
        let Some(own) = place.postgres() else { continue };
        let (quoted, role) = (format!("{}{SIGNATURE}", quote_table(name)), quote(&own.server.role));
        let mut found = |severity, what: String, fix: String| {
            let severity = if flow == subject.applying() { severity } else { Severity::Warning };
            findings.add(severity, Check::Functions, Some(flow), place.function(name), what, fix);
        };
        let Some(facts) = function::find(&own.session, name).await? else {
            let schema = name.split_once('.').map_or("public", |(schema, _)| schema);
            found(
                Severity::Error,
                format!("there is no function of this name that takes {SIGNATURE}"),
                format!(
                    "run `CREATE FUNCTION {}(op text, old jsonb, new jsonb) RETURNS void LANGUAGE plpgsql SET search_path = {} AS …`",
                    quote_table(name),
                    quote(schema)
                ),
            );
            continue;
        };
        if let Some((what, fix)) = facts.unfit(name) {
            found(Severity::Error, what.to_owned(), fix);
        }
        if !facts.may_use_schema {
            let schema = quote(name.split_once('.').map_or("public", |(schema, _)| schema));
            found(
                Severity::Error,
                format!("the role `{}` lacks USAGE on its schema", own.server.role),
                format!("run `GRANT USAGE ON SCHEMA {schema} TO {role}`"),
            );
        }
        if !facts.may_execute {
            found(
                Severity::Error,
                format!("the role `{}` lacks EXECUTE", own.server.role),
                format!("run `GRANT EXECUTE ON FUNCTION {quoted} TO {role}`"),
            );
        }
        let is_readable = matches!(facts.language.as_str(), "sql" | "plpgsql");
        let written = written_on(subject.sync, side).find(|(_, table)| is_readable && writes(&facts.source, table));
        if let Some((_, written)) = written {
            found(
                Severity::Warning,
                format!("seems to write {written}, whose rows come from the other side too"),
                "make sure that both never write the same row".to_owned(),
            );
        }
    }
    Ok(())
}

/// No column of the target says what a value must become, but what the log does not tell cannot be given to a function either.
fn carried(subject: &Subject<'_>, table: &Table, own: Side, findings: &mut Findings<'_>) {
    let (place, flow) = (subject.place(own), flow_into(own.other()));
    let Some((name, facts)) = table.on(own).and_then(|name| Some((name, place.tables.get(name)?))) else { return };
    for column in &facts.columns {
        let Type::Mysql(type_) = &column.type_ else { continue };
        if !type_.is_known {
            findings.error(
                Check::Columns,
                Some(flow),
                place.table(name),
                format!("`{}` is {}, which cannot be carried", column.name, type_.whole),
                "give it another type, or keep it in a table of its own",
            );
        }
    }
}
