//! What fires when rows are applied, and whether it writes tables of the sync: that would be written twice, once here
//! and once by the change that comes from the other side.
//!
//! A function can hide what it writes (dynamic SQL, another language), so all that fires is listed too.

use crate::{config::ApplyAs, error::FlowError};

use super::{
    Check, Findings,
    facts::{Place, PostgresPlace, Subject, written_on},
    flow_into,
};

/// User triggers that fire under the sync's `apply_as`, with the text of their function.
const TRIGGERS: &str = "SELECT t.tgname::text, p.oid::regproc::text, l.lanname::text, p.prosrc FROM pg_trigger t \
     JOIN pg_proc p ON p.oid = t.tgfoid JOIN pg_language l ON l.oid = p.prolang \
     WHERE t.tgrelid = $1 AND NOT t.tgisinternal AND t.tgenabled::text = ANY ($2) ORDER BY 1";

/// Foreign keys whose action, on a change of `$1`, writes another table.
const CASCADES: &str = "SELECT c.conname::text, n.nspname || '.' || r.relname FROM pg_constraint c \
     JOIN pg_class r ON r.oid = c.conrelid JOIN pg_namespace n ON n.oid = r.relnamespace \
     WHERE c.confrelid = $1 AND c.contype = 'f' AND (c.confdeltype NOT IN ('a', 'r') OR c.confupdtype NOT IN ('a', 'r')) \
     ORDER BY 1";

pub(super) async fn check(subject: &Subject<'_>, findings: &mut Findings<'_>) -> Result<(), FlowError> {
    for place in subject.places() {
        let synced: Vec<&str> = written_on(subject.sync, place.side).map(|(_, name)| name).collect();
        let Some(own) = place.postgres() else { continue };
        for (name, facts) in place.tables.iter().filter(|(name, _)| synced.contains(&name.as_str())) {
            on_table(subject, place, own, name, facts.oid, &synced, findings).await?;
        }
    }
    Ok(())
}

async fn on_table(
    subject: &Subject<'_>,
    place: &Place,
    own: &PostgresPlace,
    name: &str,
    oid: u32,
    synced: &[&str],
    findings: &mut Findings<'_>,
) -> Result<(), FlowError> {
    let sql = |error: tokio_postgres::Error| FlowError::sql("reading triggers", &error);
    let flow = Some(flow_into(place.side));
    let is_origin = subject.sync.apply_as == ApplyAs::Origin;
    // `tgenabled`: `O` as origin, `R` as replica, `A` always.
    let firing: &[&str] = if is_origin { &["O", "A"] } else { &["R", "A"] };
    let apply_as = if is_origin { "origin" } else { "replica" };
    for row in own.session.query(TRIGGERS, &[&oid, &firing]).await.map_err(sql)? {
        let (trigger, function): (&str, &str) = (row.get(0), row.get(1));
        let (language, source): (&str, &str) = (row.get(2), row.get(3));
        let fires =
            format!("the trigger `{trigger}` (function {function}) fires for applied rows (`apply_as: {apply_as}`)");
        let is_readable = matches!(language, "sql" | "plpgsql");
        if let Some(written) = synced.iter().find(|table| is_readable && writes(source, table)) {
            findings.error(
                Check::Triggers,
                flow,
                place.table(name),
                format!("{fires} and writes {written}, whose changes come from the other side too"),
                if is_origin {
                    "write `apply_as: replica`, disable the trigger, or take the table it writes out of the sync"
                } else {
                    "let the trigger fire as origin only (`ALTER TABLE … ENABLE TRIGGER`), or take the table it writes out of the sync"
                },
            );
        } else {
            let fix = if is_readable {
                "make sure that it is meant for rows that come from the other side too"
            } else {
                "make sure that it writes no table of the sync"
            };
            findings.warning(Check::Triggers, flow, place.table(name), fires, fix);
        }
    }
    if !is_origin {
        return Ok(());
    }
    for row in own.session.query(CASCADES, &[&oid]).await.map_err(sql)? {
        let (constraint, written): (&str, &str) = (row.get(0), row.get(1));
        if synced.contains(&written) {
            findings.error(
                Check::Triggers,
                flow,
                place.table(name),
                format!(
                    "the foreign key `{constraint}` cascades into {written}, whose changes come from the other side too"
                ),
                "write `apply_as: replica`, or let the foreign key on this side take NO ACTION",
            );
        } else {
            findings.warning(
                Check::Triggers,
                flow,
                place.table(name),
                format!("the foreign key `{constraint}` cascades into {written} for applied rows (`apply_as: origin`)"),
                "make sure that this is wanted",
            );
        }
    }
    Ok(())
}

/// Whether the text of a function seems to write a table: `INSERT INTO`, `UPDATE`, `DELETE FROM`, `TRUNCATE`, `MERGE INTO`
/// and then the table's name, with or without its schema.
pub(super) fn writes(source: &str, table: &str) -> bool {
    let words: Vec<String> = source
        .split(|c: char| !(c.is_alphanumeric() || matches!(c, '_' | '.' | '$')))
        .filter(|word| !word.is_empty())
        .map(str::to_lowercase)
        .collect();
    let table = table.to_lowercase();
    let bare = table.rsplit('.').next().unwrap_or(&table);
    let is_table = |word: &String| *word == table || word == bare;
    words.iter().enumerate().any(|(at, word)| {
        let mut after = words[at + 1..].iter();
        let mut next = after.next();
        while next.is_some_and(|word| matches!(word.as_str(), "into" | "from" | "only" | "table")) {
            next = after.next();
        }
        matches!(word.as_str(), "insert" | "update" | "delete" | "truncate" | "merge") && next.is_some_and(is_table)
    })
}

#[cfg(test)]
mod tests {
    use super::writes;

    #[test]
    fn a_function_that_writes_the_table_is_known_by_its_words() {
        for source in [
            "BEGIN INSERT INTO payments(id) VALUES (NEW.id); RETURN NEW; END",
            "update only public.payments set x = 1",
            "DELETE FROM \"payments\" WHERE id = 1",
            "TRUNCATE TABLE payments",
            "MERGE INTO public.payments USING x ON true WHEN MATCHED THEN DELETE",
        ] {
            assert!(writes(source, "public.payments"), "{source}");
        }
        for source in [
            "INSERT INTO payments_log SELECT * FROM payments",
            "NEW.updated := now(); RETURN NEW",
            "IF TG_OP = 'UPDATE' THEN PERFORM count(*) FROM payments; END IF",
        ] {
            assert!(!writes(source, "public.payments"), "{source}");
        }
    }
}
