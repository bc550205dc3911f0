//! START, and for a target that takes no chunks the copy of the tables as the slot's exported snapshot sees them.
//!
//! Only the side that is open for writes is copied. Whether it is, is read inside the exported snapshot.

use std::pin::pin;

use futures_util::TryStreamExt as _;

use super::{
    line::Line,
    slot::{self, Fresh, Opened},
};
use crate::{
    database::postgres::{PostgresUrl, Session},
    error::FlowError,
    failpoint::{self, Point},
    kafka::produce::Outlet,
    names::{quote, quote_table},
    owner,
    plan::{Plan, PlanTable},
    position::{Lsn, Phase, Position},
    record::{
        Head, Kind,
        control::{End, Load, Start},
        envelope::{Connector, Op, Stamp, TableFrame, Value},
    },
    status::Board,
};

/// Writes START; returns when it stands in Kafka, with the copies that begin with it and come in chunks. Where they do not, and the source is
/// open for writes, every row and END follow at once.
pub(crate) async fn run(
    plan: &Plan,
    url: &PostgresUrl,
    opened: &Opened,
    fresh: &Fresh,
    outlet: &mut Outlet,
    board: &Board,
) -> Result<Vec<Load>, FlowError> {
    let doing = "copying the tables";
    let sql = |e: &tokio_postgres::Error| FlowError::sql(doing, e);
    let session = url.connect(&plan.names.application("snapshot")).await?;
    let begin = format!(
        "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET TRANSACTION SNAPSHOT '{}'",
        fresh.snapshot.replace('\'', "")
    );
    session.batch_execute(&begin).await.map_err(|e| sql(&e))?;
    let source = plan.names.flow.source();
    let Some(row) = owner::postgres::read(&session, &plan.names.install, &plan.names.sync, source).await? else {
        return Err(FlowError::Stop("the owner's row is not in the slot's snapshot".into()));
    };
    let now =
        session.query_one("SELECT (extract(epoch FROM now()) * 1000000)::bigint", &[]).await.map_err(|e| sql(&e))?;
    let at: i64 = now.get(0);
    let mut head = Head {
        kind: Kind::Start,
        position: Position { generation: opened.generation, phase: Phase::Snapshot, lsn: Lsn::ZERO, ordinal: 0 },
        from: Lsn::ZERO,
        epoch: row.epoch,
        origin: source,
        timeline: fresh.timeline,
    };
    let loads = if row.open && plan.copies_in_chunks() { slot::loads(opened, plan) } else { Vec::new() };
    let in_one_piece = row.open && loads.is_empty();
    let start = Start {
        nonce: fresh.nonce.clone(),
        since: fresh.since,
        consistent_point: fresh.consistent_point.to_string(),
        snapshot: in_one_piece,
        open: row.open,
        system_id: fresh.system_id.clone(),
        timeline: fresh.timeline,
        slot: plan.names.slot(),
        at,
        loads,
        lanes: plan.lanes,
    };
    for lane in 0..plan.lanes.unwrap_or(1) {
        outlet.tell(lane, head, "START", &json(&start)?, None).await?;
    }
    if in_one_piece {
        board.capture_snapshot();
        head.kind = Kind::Row;
        for table in &plan.tables {
            copy(plan, &session, table, outlet, &mut head, at).await?;
        }
        failpoint::reached(Point::CopyEnd);
        head.kind = Kind::End;
        let end = End { count: head.position.ordinal, consistent_point: start.consistent_point, at };
        outlet.send(head, "END", &[], &json(&end)?, None).await?;
    }
    outlet.settle().await?;
    Ok(start.loads)
}

fn json(value: &impl serde::Serialize) -> Result<Vec<u8>, FlowError> {
    serde_json::to_vec(value).map_err(|_| FlowError::Stop("a record could not be written".into()))
}

/// COPY's text format gives the same text per value as pgoutput does.
async fn copy(
    plan: &Plan,
    session: &Session,
    table: &PlanTable,
    outlet: &mut Outlet,
    head: &mut Head,
    at: i64,
) -> Result<(), FlowError> {
    let sql = |e: &tokio_postgres::Error| FlowError::sql("copying the tables", e);
    let columns = session
        .query(
            "SELECT a.attname::text, coalesce(a.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1]), false) FROM pg_attribute a \
             LEFT JOIN pg_index i ON i.indrelid = a.attrelid AND i.indisprimary \
             WHERE a.attrelid = to_regclass($1) AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '' ORDER BY a.attnum",
            &[&quote_table(&table.source)],
        )
        .await
        .map_err(|e| sql(&e))?;
    let columns: Vec<(String, bool)> = columns.iter().map(|row| (row.get(0), row.get(1))).collect();
    let names: Vec<String> = columns.iter().map(|(name, _)| quote(name)).collect();
    let (schema, name) = table.source.split_once('.').unwrap_or(("public", &table.source));
    let frame = TableFrame::new(
        Connector::Postgres,
        &plan.names.topic(),
        plan.source.database(),
        schema,
        name,
        columns.iter().map(|(name, is_key)| (name.as_str(), *is_key)),
    );
    let statement = format!("COPY (SELECT {} FROM {}) TO STDOUT", names.join(", "), quote_table(&table.source));
    let rows = session.copy_out(&statement).await.map_err(|e| sql(&e))?;
    let mut rows = pin!(rows);
    let stamp = Stamp { op: Op::Read, committed: at, xid: 0, lsn: Lsn::ZERO };
    let (mut line, mut key, mut value) = (Line::default(), Vec::new(), Vec::new());
    while let Some(bytes) = rows.try_next().await.map_err(|e| sql(&e))? {
        line.parse(&bytes);
        key.clear();
        value.clear();
        frame.write_key(&mut key, line.values());
        frame.write(&mut value, None::<(std::iter::Empty<Value<'_>>, bool)>, Some(line.values()), stamp);
        failpoint::reached(Point::CopyRow);
        outlet.send(*head, &table.source, &key, &value, None).await?;
        head.position.ordinal += 1;
    }
    Ok(())
}
