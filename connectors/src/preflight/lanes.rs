//! What `order: key` needs of tables: a key whose text tells rows apart as the database does, and nothing else by which rows of different keys could
//! meet, since they do not wait for each other.

use std::collections::BTreeMap;

use super::{
    Check, Findings,
    facts::{Place, Subject},
};
use crate::{
    error::FlowError,
    names::{FlowNames, quote_table},
    plan::{self, PlanTable},
};

/// The longest name that Kafka takes.
const LONGEST: usize = 249;

/// Columns of the primary key whose values may be equal and differ as text; other indexes by which rows exclude each other, but those that hold the
/// whole key; whether a column may be stored outside of the row.
const TABLE: &str = "SELECT \
     ARRAY(SELECT a.attname::text || ' ' || format_type(a.atttypid, a.atttypmod) FROM pg_attribute a JOIN pg_type d ON d.oid = a.atttypid \
         JOIN pg_type t ON t.oid = coalesce(nullif(d.typbasetype, 0), d.oid) LEFT JOIN pg_collation c ON c.oid = a.attcollation \
         WHERE a.attrelid = p.indrelid AND a.attnum = ANY ((p.indkey::int2[])[0:p.indnkeyatts - 1]) \
         AND (NOT (t.typtype = 'e' OR t.oid = 'bpchar'::regtype AND a.atttypmod > 0 OR t.oid = ANY (ARRAY['int2', 'int4', 'int8', 'oid', 'text', \
             'varchar', 'uuid', 'bool', 'date', 'time', 'timestamp', 'timestamptz', 'bytea', 'name', '\"char\"', 'macaddr']::regtype[])) \
             OR to_jsonb(c) ->> 'collisdeterministic' = 'false') ORDER BY a.attnum), \
     ARRAY(SELECT c.relname::text FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid WHERE i.indrelid = p.indrelid \
         AND (i.indisunique OR i.indisexclusion) AND NOT i.indisprimary \
         AND (i.indisexclusion OR NOT (i.indkey::int2[])[0:i.indnkeyatts - 1] @> (p.indkey::int2[])[0:p.indnkeyatts - 1]) ORDER BY 1), \
     EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = p.indrelid AND a.attnum > 0 AND NOT a.attisdropped AND a.attstorage <> 'p') \
     FROM pg_index p WHERE p.indrelid = $1 AND p.indisprimary";

pub(super) async fn check(subject: &Subject<'_>, findings: &mut Findings<'_>) -> Result<(), FlowError> {
    if plan::lanes(subject.sync).is_none() {
        return Ok(());
    }
    for place in subject.places() {
        names(subject, place, findings);
        for table in &subject.sync.tables {
            if let Some(name) = table.on(place.side) {
                of_table(place, name, findings).await?;
            }
        }
    }
    Ok(())
}

async fn of_table(place: &Place, name: &str, findings: &mut Findings<'_>) -> Result<(), FlowError> {
    let (Some(postgres), Some(facts)) = (place.postgres(), place.tables.get(name)) else { return Ok(()) };
    let (where_, check) = (place.table(name), Check::Identity);
    let transaction = "write `order: transaction` for this sync";
    let row = postgres.session.query_opt(TABLE, &[&facts.oid]).await;
    // A table without a primary key is a finding of its own.
    let Some(row) = row.map_err(|e| FlowError::sql("looking at what tells rows apart", &e))? else { return Ok(()) };
    let (keys, uniques): (Vec<String>, Vec<String>) = (row.get(0), row.get(1));
    if !keys.is_empty() {
        let what = format!(
            "its primary key has `{}`: values that are equal there may be written in several ways, and `order: key` would take them for several rows",
            keys.join("`, `")
        );
        findings.error(check, None, where_.clone(), what, transaction);
    }
    if !uniques.is_empty() {
        let what = format!(
            "rows of different keys meet in `{}`, and with `order: key` they do not wait for each other",
            uniques.join("`, `")
        );
        let fix = format!("{transaction}, or drop the index or constraint");
        findings.error(check, None, where_.clone(), what, fix);
    }
    if facts.identity == 'i' && facts.key != facts.primary {
        let what = format!(
            "its replica identity is ({}), and `order: key` tells rows apart by the primary key ({})",
            facts.key.join(", "),
            facts.primary.join(", ")
        );
        let fix = format!("run `ALTER TABLE {} REPLICA IDENTITY DEFAULT`", quote_table(name));
        findings.error(check, None, where_, what, fix);
    } else if facts.identity != 'f' && row.get::<_, bool>(2) {
        let what = "a row whose primary key changes while a large value of it stays would stop the flow: the log does not have that value";
        let fix = format!(
            "run `ALTER TABLE {} REPLICA IDENTITY FULL` if keys ever change there; else leave it as it is",
            quote_table(name)
        );
        findings.warning(check, None, where_, what, fix);
    }
    Ok(())
}

/// Each table needs a topic of its own.
fn names(subject: &Subject<'_>, place: &Place, findings: &mut Findings<'_>) {
    let flow = super::flow_into(place.side.other());
    let names = FlowNames::new(&subject.install, subject.name, flow);
    let mut topics = BTreeMap::new();
    for table in PlanTable::all(subject.sync, flow) {
        let topic = names.table_topic(&table.source);
        let fix = "rename one of them, or write `order: transaction` for this sync";
        if topic.len() > LONGEST {
            let what = format!("its topic `{topic}` would have a name of more than {LONGEST} characters");
            findings.error(Check::Kafka, Some(flow), place.table(&table.source), what, fix);
        }
        // Kafka takes names that differ in `.` and `_` alone for one.
        if let Some(other) = topics.insert(topic.replace('.', "_"), table.source.clone()) {
            let what = format!("its topic `{topic}` would be called like that of `{other}`");
            findings.error(Check::Kafka, Some(flow), place.table(&table.source), what, fix);
        }
    }
}
