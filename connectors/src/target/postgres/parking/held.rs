//! What the applier does with a parked transaction later: what was asked for, its records in pieces, and its end.

use tokio_postgres::types::PgLsn;

use super::OPEN;
use crate::{
    database::postgres::Session,
    error::FlowError,
    names::FlowNames,
    position::{Generation, Lsn},
};

/// So many rows, or bytes, are read at once.
const ROWS: i64 = 500;
const BYTES: i64 = 4 << 20;

/// What somebody asked for.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) id: i64,
    pub(crate) skips: bool,
    pub(crate) who: String,
    pub(crate) why: String,
    pub(crate) generation: Generation,
    pub(crate) commit: Lsn,
}

/// A stored change.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) ordinal: i64,
    pub(crate) value: Vec<u8>,
}

fn sql(error: &tokio_postgres::Error) -> FlowError {
    FlowError::sql("reading what is parked", error)
}

/// The first that something was asked of.
pub(crate) async fn request(session: &Session, names: &FlowNames) -> Result<Option<Request>, FlowError> {
    let row = session
        .query_opt(
            "SELECT id, state = 'skip', coalesce(who, ''), coalesce(why, ''), generation, commit_lsn FROM banyan.parked \
             WHERE install = $1 AND sync = $2 AND flow = $3 AND state IN ('retry', 'skip') ORDER BY id LIMIT 1",
            &[&names.install, &names.sync, &names.flow.as_str()],
        )
        .await
        .map_err(|e| sql(&e))?;
    Ok(row.map(|row| Request {
        id: row.get(0),
        skips: row.get(1),
        who: row.get(2),
        why: row.get(3),
        generation: Generation::new(row.get(4)),
        commit: row.get::<_, PgLsn>(5).into(),
    }))
}

/// The first older one that is parked too, and touches what this one touches.
pub(crate) async fn follows(session: &Session, names: &FlowNames, id: i64) -> Result<Option<i64>, FlowError> {
    let older = format!(
        "SELECT id FROM banyan.parked WHERE install = $2 AND sync = $3 AND flow = $4 AND state IN {OPEN} AND id < $1"
    );
    let first = format!(
        "WITH o AS (SELECT * FROM banyan.parked_key WHERE parked IN ({older})), k AS (SELECT * FROM banyan.parked_key WHERE parked = $1) \
         SELECT min(parked) FROM ( \
           SELECT o.parked FROM o JOIN k USING (target_table, key_name, key) WHERE o.role <> 'ref' OR k.role = 'gone' \
           UNION ALL SELECT o.parked FROM o WHERE o.target_table IN (SELECT target_table FROM k WHERE role = 'all') \
           UNION ALL SELECT o.parked FROM o WHERE o.role = 'all' AND o.target_table IN (SELECT target_table FROM k)) found"
    );
    let row = session
        .query_one(&first, &[&id, &names.install, &names.sync, &names.flow.as_str()])
        .await
        .map_err(|e| sql(&e))?;
    Ok(row.get(0))
}

/// The changes after `ordinal`, as many as may be held at once; at least one while there is one.
pub(crate) async fn records(session: &Session, id: i64, ordinal: i64) -> Result<Vec<Record>, FlowError> {
    let rows = session
        .query(
            "SELECT ordinal, record FROM ( \
               SELECT ordinal, record, sum(octet_length(record)) OVER (ORDER BY ordinal) - octet_length(record) AS before FROM ( \
                 SELECT ordinal, record FROM banyan.parked_row WHERE parked = $1 AND ordinal > $2 ORDER BY ordinal LIMIT $3) first) piece \
             WHERE before < $4::bigint ORDER BY ordinal",
            &[&id, &ordinal, &ROWS, &BYTES],
        )
        .await
        .map_err(|e| sql(&e))?;
    Ok(rows.into_iter().map(|row| Record { ordinal: row.get(0), value: row.get(1) }).collect())
}

/// Statements that end it as `state`, and let those be tried that follow it.
pub(crate) fn end(id: i64, state: &str) -> String {
    format!(
        "DELETE FROM banyan.parked_row WHERE parked = {id}; DELETE FROM banyan.parked_key WHERE parked = {id}; \
         UPDATE banyan.parked SET state = '{state}', ended_at = now() WHERE id = {id}; \
         UPDATE banyan.parked f SET state = 'retry', who = p.who, why = 'it followed ' || p.id, asked_at = now() \
         FROM banyan.parked p WHERE p.id = {id} AND f.follows = {id} AND f.state = 'parked'"
    )
}

/// Statements that end all of a flow: its tables are copied anew.
pub(crate) fn clear(names: &FlowNames) -> String {
    let literal = crate::names::literal;
    let of_flow = format!(
        "install = {} AND sync = {} AND flow = '{}' AND state IN {OPEN}",
        literal(&names.install),
        literal(&names.sync),
        names.flow
    );
    let ids = format!("SELECT id FROM banyan.parked WHERE {of_flow}");
    format!(
        "DELETE FROM banyan.parked_row WHERE parked IN ({ids}); DELETE FROM banyan.parked_key WHERE parked IN ({ids}); \
         UPDATE banyan.parked SET state = 'cleared', who = 'banyan', why = 'the tables are copied anew', asked_at = now(), ended_at = now() WHERE {of_flow}"
    )
}

/// It stays, with a new reason; what was asked for meanwhile counts.
pub(crate) async fn stays(session: &Session, id: i64, reason: &str, follows: Option<i64>) -> Result<(), FlowError> {
    let tried = i32::from(follows.is_none());
    session
        .execute(
            "UPDATE banyan.parked SET state = CASE state WHEN 'retry' THEN 'parked' ELSE state END, reason = $2, follows = $3, tries = tries + $4, tried_at = now() WHERE id = $1",
            &[&id, &reason, &follows, &tried],
        )
        .await
        .map_err(|e| FlowError::sql("keeping a transaction parked", &e))?;
    Ok(())
}
