//! The outbox of a running flow: into the publication when it came into the file, and out of it when it went.
//!
//! Which tables are or were outboxes stands among the lines of the stored shape. One that was still is, for what the log has of it.

use super::slot::{Stored, published};
use crate::{
    database::postgres::Session,
    error::FlowError,
    names::{literal, quote, quote_table},
    plan::Plan,
    preflight::Gate,
};

const NOW: &str = "outbox";
const BEFORE: &str = "former_outbox";

/// The line of a stored shape for the plan's outbox.
pub(super) fn line(plan: &Plan) -> Option<String> {
    plan.outbox.as_ref().map(|table| format!("{NOW} {table:?}"))
}

/// The lines of a stored shape that are about outboxes.
pub(super) fn lines(shape: &str) -> impl Iterator<Item = &str> {
    let is_its = |line: &&str| line.split_once(' ').is_some_and(|(word, _)| word == NOW || word == BEFORE);
    shape.lines().filter(is_its)
}

/// Whether a line of a stored shape says that `table` is or was an outbox.
pub(super) fn is_of(line: &str, table: &str) -> bool {
    line.split_once(' ').is_some_and(|(word, name)| (word == NOW || word == BEFORE) && *name == *format!("{table:?}"))
}

/// Makes publication and shape agree with the file; gives the shape.
pub(super) async fn take(
    session: &Session,
    plan: &Plan,
    stored: &Stored,
    shape: String,
    gate: &Gate,
) -> Result<String, FlowError> {
    let (names, wanted) = (&plan.names, line(plan));
    let prefix = format!("{NOW} ");
    let stands = |line: &str| line.starts_with(&prefix);
    if shape.lines().filter(|line| stands(line)).eq(wanted.as_deref()) {
        return Ok(shape);
    }
    let published = published(session, names).await?;
    let alter = |what: &str, table: &str| {
        format!("ALTER PUBLICATION {} {what} TABLE {}", quote(&names.publication()), quote_table(table))
    };
    let mut statements = vec!["BEGIN".to_owned()];
    let mut lines: Vec<String> = Vec::new();
    for line in shape.lines() {
        match line.strip_prefix(&prefix).filter(|_| Some(line) != wanted.as_deref()) {
            Some(name) => {
                // One that is a table of the sync now is published all the same.
                let is_gone = |table: &&String| {
                    format!("{table:?}") == name && !plan.tables.iter().any(|own| own.source == **table)
                };
                let gone = published.iter().find(is_gone);
                statements.extend(gone.map(|table| alter("DROP", table)));
                let before = format!("{BEFORE} {name}");
                if !lines.contains(&before) {
                    lines.push(before);
                }
            }
            None => lines.push(line.to_owned()),
        }
    }
    if let (Some(table), Some(line)) = (&plan.outbox, wanted) {
        // A published table without a key refuses its own application's updates.
        gate.pass().await?;
        if !published.contains(table) {
            statements.push(alter("ADD", table));
        }
        lines.push(line);
    }
    let shape = lines.join("\n");
    statements.push(format!(
        "UPDATE banyan.capture SET shape = {} WHERE install = {} AND sync = {} AND flow = '{}' AND generation = {}",
        literal(&shape),
        literal(&names.install),
        literal(&names.sync),
        names.flow,
        stored.generation
    ));
    statements.push("COMMIT".to_owned());
    let done = session.batch_execute(&statements.join("; ")).await;
    done.map_err(|error| FlowError::sql("adding the outbox to the publication", &error))?;
    Ok(shape)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_tells_which_table_is_an_outbox() {
        for line in ["outbox \"public.outbox\"", "former_outbox \"public.outbox\""] {
            assert!(is_of(line, "public.outbox") && !is_of(line, "public.outbox2"), "{line}");
        }
        assert!(!is_of("\"public.outbox\" \"id\":20:-1", "public.outbox"));
        assert!(is_of("outbox \"a b.c\"", "a b.c"));
    }
}
