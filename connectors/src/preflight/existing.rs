//! Rows that target tables have before the first copy. From its START on they are its own.

use tokio_postgres::error::SqlState;

use crate::{
    config::Target,
    error::FlowError,
    mapping::Mapping,
    names::{Flow, FlowNames, quote_table},
};

use super::{
    Check, Findings,
    facts::{Place, PostgresPlace, Subject, written_on},
};

/// Counting stops here: it is to be quick on a table of any size.
const ENOUGH: u64 = 10_000;

pub(super) async fn check(subject: &Subject<'_>, findings: &mut Findings<'_>) -> Result<(), FlowError> {
    let flow = subject.applying();
    let place = subject.place(flow.target());
    let Some(own) = place.postgres() else { return Ok(()) };
    if has_begun(subject, own).await? {
        return Ok(());
    }
    for (table, name) in written_on(subject.sync, place.side) {
        if table.target.unwrap_or(subject.sync.target) != Target::Refuse {
            continue;
        }
        // What is missing or may not be read is another check's finding.
        if place
            .tables
            .get(name)
            .is_none_or(|facts| !facts.is_table() || facts.hides_rows || facts.lacks.contains(&"SELECT"))
        {
            continue;
        }
        let mapping = Mapping::of(table, flow);
        let own_rows = mapping.target_rows("x").unwrap_or_else(|| "true".to_owned());
        let count = format!(
            "SELECT count(*) FROM (SELECT FROM {} AS x WHERE {own_rows} LIMIT {ENOUGH}) AS rows",
            quote_table(name)
        );
        let rows: i64 = match own.session.query_one(&count, &[]).await {
            Ok(row) => row.get(0),
            // As is a column that the file names and the table lacks.
            Err(error) if error.code() == Some(&SqlState::UNDEFINED_COLUMN) => continue,
            Err(error) => return Err(FlowError::sql("counting the target's rows", &error)),
        };
        if let Some(rows) = u64::try_from(rows).ok().filter(|rows| *rows > 0) {
            found(subject, flow, place, name, rows, findings);
        }
    }
    Ok(())
}

/// A target table holds rows.
pub(super) fn found(
    subject: &Subject<'_>,
    flow: Flow,
    place: &Place,
    table: &str,
    rows: u64,
    findings: &mut Findings<'_>,
) {
    let rows = match rows {
        1 => "1 row".to_owned(),
        rows if rows >= ENOUGH => format!("{ENOUGH} rows or more"),
        rows => format!("{rows} rows"),
    };
    findings.error(
        Check::Existing,
        Some(flow),
        place.table(table),
        format!("holds {rows} before the first copy"),
        format!(
            "empty it; or write `target: replace` (it is emptied) or `target: keep_matching` (rows that equal \
             the owner's stay, others are updated or deleted) in the sync `{}` or at this table",
            subject.name
        ),
    );
}

/// Whether a copy was ever begun, as the flow's own position in the target says.
async fn has_begun(subject: &Subject<'_>, own: &PostgresPlace) -> Result<bool, FlowError> {
    let flow = subject.applying();
    if !own.server.has_own_tables {
        return Ok(false);
    }
    let names = FlowNames::new(&subject.install, subject.name, flow);
    let row = own
        .session
        .query_one(
            "SELECT EXISTS (SELECT FROM banyan.position WHERE install = $1 AND sync = $2 AND flow = $3 AND generation > 0)",
            &[&names.install, &names.sync, &flow.as_str()],
        )
        .await;
    Ok(row.map_err(|error| FlowError::sql("reading the position", &error))?.get(0))
}
