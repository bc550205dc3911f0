//! Whether the rows that were there before a change of a table's columns are right on both sides without any event: what is not proven is not.

use std::time::Duration;

use super::{
    changes::Met,
    facts::{self, Facts},
    shape::{Change, Column, Shape},
};
use crate::{
    database::{DatabaseUrl, postgres::Session},
    error::FlowError,
    names::{quote, quote_table},
    plan::{Plan, PlanTable},
    preflight,
};

const DOING: &str = "comparing the rows of before";
/// What takes longer to prove is not proven: the table is copied again instead.
const PATIENCE: Duration = Duration::from_secs(30);

/// A column as the catalogue describes it beyond its name.
struct Described {
    /// With its modifier.
    kind: String,
    /// What rows from before the column have, where that stands in no row.
    missing: Option<String>,
    /// What rows get that do not say.
    default: Option<String>,
    makes_itself: bool,
}

/// What is true behind the change of `before` to `after`, when the rows from before are right on both sides; nothing when that is not proven.
pub(super) async fn proven(
    source: &Session,
    plan: &Plan,
    table: &PlanTable,
    noted: Option<&Facts>,
    before: &Shape,
    after: &Shape,
    resumed: Option<&Met>,
) -> Result<Option<Facts>, FlowError> {
    let (Some(noted), Some(now)) = (noted, facts::read(source, &table.source).await?) else { return Ok(None) };
    let Some(followed) = noted.followed_to(&now, before, after) else { return Ok(None) };
    let DatabaseUrl::Postgres(url) = &plan.target else {
        let (from, to) = (before.sent(&table.mapping), after.sent(&table.mapping));
        let is_right = resumed.is_none() && is_null_throughout(source, plan, table, &from, &to).await?;
        return Ok(is_right.then_some(followed));
    };
    let target = url.connect(&plan.names.application("schema")).await?;
    let limits = format!("SET statement_timeout = {}; SET lock_timeout = 5000", PATIENCE.as_millis());
    target.batch_execute(&limits).await.map_err(|e| FlowError::sql(DOING, &e))?;
    // A person was to change the other side: whoever did may have changed rows with it.
    if let Some(met) = resumed {
        let (Some(then), Some(now)) = (&met.target, facts::read(&target, &table.target).await?) else {
            return Ok(None);
        };
        if !then.keeps(&now, &before.in_target(&table.mapping), &after.in_target(&table.mapping)) {
            return Ok(None);
        }
    }
    for change in before.changes(after) {
        if let Change::Added(column) = change
            && !values_are_right(source, &target, table, &column).await?
        {
            return Ok(None);
        }
    }
    Ok(Some(followed))
}

/// Whether rows from before have NULL in all columns that are new.
pub(super) async fn is_null_in_rows_of_before(
    source: &Session,
    before: &Shape,
    after: &Shape,
) -> Result<bool, FlowError> {
    for change in before.changes(after) {
        let Change::Added(column) = change else { continue };
        let described = describe(source, &after.table, &column.name).await?;
        if described.is_none_or(|described| described.missing.is_some()) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The same where the other side is MariaDB or MySQL: no row from before has a value of the new columns on either side.
async fn is_null_throughout(
    source: &Session,
    plan: &Plan,
    table: &PlanTable,
    before: &Shape,
    after: &Shape,
) -> Result<bool, FlowError> {
    let mut names = Vec::new();
    let changes = before.changes(after);
    for change in &changes {
        let Change::Added(column) = change else { return Ok(false) };
        let described = describe(source, &table.source, &column.name).await?;
        if described.is_none_or(|described| described.missing.is_some()) {
            return Ok(false);
        }
        names.push(column.name.as_str());
    }
    preflight::is_null_throughout(&plan.target, table, &names, &plan.names.application("schema")).await
}

/// Whether every row from before has the same value of a new column on both sides, also those that are on their way.
async fn values_are_right(
    source: &Session,
    target: &Session,
    table: &PlanTable,
    column: &Column,
) -> Result<bool, FlowError> {
    // What stays on its side is right there.
    let Some(other) = table.mapping.target(&column.name) else { return Ok(true) };
    let from = describe(source, &table.source, &column.name).await?;
    let to = describe(target, &table.target, other).await?;
    let (Some(from), Some(to)) = (from, to) else { return Ok(false) };
    if to.makes_itself {
        return Ok(false);
    }
    let (name, place) = (quote(other), format!("{} AS x", quote_table(&table.target)));
    let its = table.mapping.target_rows("x").unwrap_or_else(|| "true".to_owned());
    let others = match (&from.missing, &to.default) {
        (None, None) => {
            target
                .query_one(&format!("SELECT EXISTS (SELECT FROM {place} WHERE x.{name} IS NOT NULL AND {its})"), &[])
                .await
        }
        (Some(value), Some(default)) if from.kind == to.kind && is_literal(default) => {
            let sql = format!(
                "SELECT ({default})::{}::text IS DISTINCT FROM $1 OR EXISTS (SELECT FROM {place} WHERE x.{name}::text IS DISTINCT FROM $1 AND {its})",
                to.kind
            );
            target.query_one(&sql, &[value]).await
        }
        _ => return Ok(false),
    };
    match others {
        Ok(row) => Ok(!row.get::<_, bool>(0)),
        // It took too long.
        Err(error) if error.code() == Some(&tokio_postgres::error::SqlState::QUERY_CANCELED) => Ok(false),
        Err(error) => Err(FlowError::sql(DOING, &error)),
    }
}

async fn describe(session: &Session, table: &str, column: &str) -> Result<Option<Described>, FlowError> {
    let row = session
        .query_opt(
            "SELECT format_type(a.atttypid, a.atttypmod), CASE WHEN a.atthasmissing THEN (a.attmissingval::text::text[])[1] END, \
                 pg_get_expr(d.adbin, d.adrelid), a.attidentity <> '' OR a.attgenerated <> '' \
             FROM pg_attribute a LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum \
             WHERE a.attrelid = to_regclass($1) AND a.attname = $2 AND a.attnum > 0 AND NOT a.attisdropped",
            &[&quote_table(table), &column],
        )
        .await
        .map_err(|e| FlowError::sql(DOING, &e))?;
    Ok(row.map(|row| Described {
        kind: row.get(0),
        missing: row.get(1),
        default: row.get(2),
        makes_itself: row.get(3),
    }))
}

/// Whether an expression, as the server writes it, is a constant: a number, a word or a text, cast or not.
fn is_literal(expression: &str) -> bool {
    let rest = match expression.strip_prefix('\'') {
        Some(text) => {
            let mut rest = text;
            loop {
                let Some((_, after)) = rest.split_once('\'') else { return false };
                match after.strip_prefix('\'') {
                    Some(more) => rest = more,
                    None => break after,
                }
            }
        }
        None => {
            let end = expression.find("::").unwrap_or(expression.len());
            let (word, after) = expression.split_at(end);
            let is_number = !word.is_empty() && word.chars().all(|c| c.is_ascii_digit() || c == '.');
            if !is_number && word != "true" && word != "false" {
                return false;
            }
            after
        }
    };
    let is_of_a_type = |c: char| c.is_alphanumeric() || "_ .\"[](),".contains(c);
    rest.is_empty() || rest.strip_prefix("::").is_some_and(|kind| !kind.is_empty() && kind.chars().all(is_of_a_type))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constants_are_told_from_what_is_computed() {
        for constant in [
            "5",
            "1.50",
            "true",
            "'x'::text",
            "'it''s'::character varying(20)",
            "'-5'::integer",
            "'{}'::text[]",
            "''::public.\"T\"",
        ] {
            assert!(is_literal(constant), "{constant}");
        }
        for computed in [
            "now()",
            "'x'::text || 'y'::text",
            "nextval('s'::regclass)",
            "CURRENT_USER",
            "(5 + 1)",
            "'a'::text)::int + f('b'",
            "",
            "NULL",
            "'x",
        ] {
            assert!(!is_literal(computed), "{computed}");
        }
    }
}
