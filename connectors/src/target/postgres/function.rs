//! A function of the target that takes the changes of a table which the target does not have: one call a change, in the stream's order.
//!
//! What it makes of them is its owner's. Nothing is known here of what it writes, so no calls are folded, and no call is checked but by what it
//! raises.

use std::collections::HashMap;

use prometheus::IntCounter;
use tokio_postgres::Statement;

use super::{pipe::Pipe, position::Parameter};
use crate::{
    database::postgres::Session,
    error::FlowError,
    metrics::FlowMetrics,
    names::{literal, quote_table},
    plan::PlanTable,
    position::{Phase, Position},
    record::{
        envelope::{Envelope, Op},
        json::BadJson,
    },
    target::applied::Loading,
};

/// What every such function takes.
pub(crate) const SIGNATURE: &str = "(text, jsonb, jsonb)";

/// A function that takes a table's changes.
pub(crate) struct TargetFunction {
    pub(crate) plan: PlanTable,
    /// By which its source tells rows apart; empty when that could not be asked.
    pub(crate) key: Vec<String>,
    /// Why it must not be called.
    unfit: Option<String>,
    statement: Option<Statement>,
    counters: HashMap<Op, IntCounter>,
}

/// A function as the catalogue has it.
pub(crate) struct Found {
    /// And no procedure, aggregate or window function.
    is_plain: bool,
    /// It is not called where an argument is NULL.
    is_strict: bool,
    /// Else it may write nothing.
    is_volatile: bool,
    pub(crate) may_use_schema: bool,
    pub(crate) may_execute: bool,
    pub(crate) language: String,
    pub(crate) source: String,
}

/// The row of `pg_proc`, called `p`, and of its schema, called `n`.
pub(super) fn is_it(table: &PlanTable) -> String {
    condition(&table.target)
}

fn condition(function: &str) -> String {
    let (schema, name) = function.split_once('.').unwrap_or(("public", function));
    // The numbers of these three types are the same in every server.
    format!("(n.nspname = {} AND p.proname = {} AND p.proargtypes = '25 3802 3802')", literal(schema), literal(name))
}

/// Looks the function up by its name and [`SIGNATURE`].
pub(crate) async fn find(session: &Session, function: &str) -> Result<Option<Found>, FlowError> {
    let row = session
        .query_opt(
            &format!(
                "SELECT p.prokind = 'f', p.proisstrict, p.provolatile = 'v', has_schema_privilege(n.oid, 'USAGE'), \
                     has_function_privilege(p.oid, 'EXECUTE'), l.lanname::text, p.prosrc \
                 FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace JOIN pg_language l ON l.oid = p.prolang WHERE {}",
                condition(function)
            ),
            &[],
        )
        .await
        .map_err(|e| FlowError::sql("looking for a function", &e))?;
    Ok(row.map(|row| Found {
        is_plain: row.get(0),
        is_strict: row.get(1),
        is_volatile: row.get(2),
        may_use_schema: row.get(3),
        may_execute: row.get(4),
        language: row.get(5),
        source: row.get(6),
    }))
}

// === impl Found ===

impl Found {
    /// What is wrong with how it was made, and the statement that mends it.
    pub(crate) fn unfit(&self, function: &str) -> Option<(&'static str, String)> {
        let quoted = format!("{}{SIGNATURE}", quote_table(function));
        if !self.is_plain {
            return Some((
                "is no function that is called for itself, but a procedure, an aggregate or a window function",
                format!("make it a function: `CREATE FUNCTION {quoted} RETURNS void …`"),
            ));
        }
        if self.is_strict {
            return Some((
                "is STRICT: it is not called where `old` or `new` is NULL, and those changes would be lost",
                format!("run `ALTER FUNCTION {quoted} CALLED ON NULL INPUT`"),
            ));
        }
        (!self.is_volatile).then(|| {
            (
                "is declared STABLE or IMMUTABLE, and may write nothing",
                format!("run `ALTER FUNCTION {quoted} VOLATILE`"),
            )
        })
    }
}

// === impl TargetFunction ===

impl TargetFunction {
    /// Looks it up. One that is missing is an error only when it is to be called: a flow that watches calls none.
    pub(crate) async fn load(session: &Session, plan: &PlanTable, key: Vec<String>) -> Result<Self, FlowError> {
        let unfit = match find(session, &plan.target).await? {
            None => Some("the target has no such function".to_owned()),
            Some(found) => found.unfit(&plan.target).map(|(what, fix)| format!("the function {what}: {fix}")),
        };
        Ok(Self { plan: plan.clone(), key, unfit, statement: None, counters: HashMap::new() })
    }

    pub(crate) fn count(&mut self, metrics: &FlowMetrics, op: Op, rows: u64) {
        let plan = &self.plan;
        self.counters.entry(op).or_insert_with(|| metrics.changes(&plan.label(), op)).inc_by(rows);
    }

    /// Calls it for one change; for two things while the table is being copied: then nobody knows whether it has the row already, and what the
    /// stream brings whole is told as a row of the copy, which it must take either way.
    pub(crate) async fn take(
        &mut self,
        pipe: &mut Pipe,
        envelope: &Envelope<'_>,
        at: Position,
        loading: Option<Loading>,
    ) -> Result<(), FlowError> {
        let bad = |_: BadJson| FlowError::Malformed { what: "a row record that is not Banyan's", at: at.to_string() };
        let (old, new) = (envelope.old_row().map_err(bad)?, envelope.new_row().map_err(bad)?);
        let loading = loading.filter(|_| at.phase == Phase::Stream);
        let given = match loading {
            Some(_) => envelope.given().map_err(bad)?,
            None => 0,
        };
        match (envelope.op, loading) {
            (Op::Read, _) | (Op::Create, Some(_)) => self.call(pipe, "snapshot", None, new, at).await,
            (Op::Update, Some(Loading { columns, .. })) if given >= columns => {
                if old.is_some() {
                    self.call(pipe, "update", old, new.clone(), at).await?;
                }
                self.call(pipe, "snapshot", None, new, at).await
            }
            (Op::Create, None) => self.call(pipe, "insert", None, new, at).await,
            (Op::Update, _) => self.call(pipe, "update", old, new, at).await,
            (Op::Delete, _) => self.call(pipe, "delete", old, None, at).await,
            (Op::Truncate, _) => self.call(pipe, "truncate", None, None, at).await,
        }
    }

    async fn call(
        &mut self,
        pipe: &mut Pipe,
        op: &'static str,
        old: Option<String>,
        new: Option<String>,
        at: Position,
    ) -> Result<(), FlowError> {
        let label = self.plan.label();
        if let Some(unfit) = &self.unfit {
            return Err(FlowError::Misfit(format!("{label} at {at}: {unfit}")));
        }
        let statement = match &self.statement {
            Some(statement) => statement.clone(),
            None => {
                let sql =
                    format!("SELECT {}($1::text, $2::text::jsonb, $3::text::jsonb)", quote_table(&self.plan.target));
                let made = pipe.prepare("preparing a call", &sql).await.map_err(|error| error.at(&label, at))?;
                self.statement.insert(made).clone()
            }
        };
        let weight = [&old, &new].into_iter().flatten().map(String::len).sum();
        let parameters = vec![Parameter::Text(op.to_owned()), Parameter::Json(old), Parameter::Json(new)];
        pipe.execute(statement, parameters, weight, move |found| {
            found.map(drop).map_err(|error| FlowError::sql("calling a function", &error).at(&label, at))
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_function_that_would_lose_changes_or_could_write_nothing_is_not_called() {
        let found = |is_plain, is_strict, is_volatile| Found {
            is_plain,
            is_strict,
            is_volatile,
            may_use_schema: true,
            may_execute: true,
            language: "sql".into(),
            source: String::new(),
        };
        let fix = |found: Found| found.unfit("crm.f").map(|(_, fix)| fix);
        assert_eq!(fix(found(true, false, true)), None);
        for (found, word) in [
            (found(false, false, true), "CREATE FUNCTION"),
            (found(true, true, true), "CALLED ON NULL INPUT"),
            (found(true, false, false), "VOLATILE"),
        ] {
            let fix = fix(found).unwrap();
            assert!(fix.contains(word) && fix.contains("\"crm\".\"f\"(text, jsonb, jsonb)"), "{fix}");
        }
    }
}
