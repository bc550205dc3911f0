//! One direction: source → Kafka → target. Two supervised tasks, and a third that measures how far the target is behind.

use std::{sync::Arc, thread::JoinHandle, time::Duration};

use tokio_postgres::types::PgLsn;
use tokio_util::sync::CancellationToken;

use crate::{
    database::Session,
    error::FlowError,
    kafka::{produce::Outlet, topics},
    owner::Owners,
    plan::Plan,
    position::Lsn,
    source::postgres::{slot, snapshot, stream},
    status::{Board, Task},
    target::postgres::apply,
    task::{self, Supervised},
};

/// How often the lag is measured.
const MEASURE: Duration = Duration::from_secs(1);

/// Starts capture and applier of one flow.
pub(crate) fn spawn(
    plan: &Arc<Plan>,
    owners: &Arc<Owners>,
    board: &Arc<Board>,
    cancel: &CancellationToken,
) -> std::io::Result<Vec<JoinHandle<()>>> {
    let supervised = |task: Task| Supervised {
        task,
        label: format!("{}/{}/{}", plan.names.sync, plan.names.flow, task.as_str()),
        board: Arc::clone(board),
        cancel: cancel.clone(),
    };
    let shared = || (Arc::clone(plan), Arc::clone(owners), Arc::clone(board));
    let (capture_parts, apply_parts) = (shared(), shared());
    let capture_task = task::spawn(supervised(Task::Capture), move || {
        let (plan, owners, board) = capture_parts.clone();
        async move { capture(&plan, &owners, &board).await }
    })?;
    let apply_task = task::spawn(supervised(Task::Apply), move || {
        let (plan, owners, board) = apply_parts.clone();
        async move {
            owners.ensure(plan.names.flow.target()).await?;
            apply::run(&plan, &board).await
        }
    })?;
    Ok(vec![capture_task, apply_task])
}

async fn capture(plan: &Plan, owners: &Owners, board: &Board) -> Result<(), FlowError> {
    owners.ensure(plan.names.flow.source()).await?;
    let topic = plan.names.topic();
    topics::ensure(&plan.kafka, &topic).await?.takes_records()?;
    let mut opened = slot::open(plan, board).await?;
    let mut outlet = Outlet::open(&plan.kafka, &topic, plan.budget / 3)?;
    if let Some(fresh) = opened.fresh.take() {
        snapshot::run(plan, &opened, &fresh, &mut outlet, board).await?;
        slot::complete(&opened, plan).await?;
    }
    let from = slot::start(&mut opened, plan).await?;
    stream::run(plan, &mut opened, from, &mut outlet, board).await
}

/// Measures until cancelled. A source that does not answer makes the lag unknown.
pub(crate) async fn measure(plan: Arc<Plan>, board: Arc<Board>, cancel: CancellationToken) {
    let mut session = None;
    loop {
        tokio::select! {
            () = cancel.cancelled() => return,
            () = tokio::time::sleep(MEASURE) => {}
        }
        match tokio::time::timeout(MEASURE * 5, measure_once(&plan, &board, &mut session)).await {
            Ok(Ok(())) => {}
            _ => {
                session = None;
                board.measured(None, None, None);
            }
        }
    }
}

async fn measure_once(plan: &Plan, board: &Board, session: &mut Option<Session>) -> Result<(), FlowError> {
    let session = match session {
        Some(session) => session,
        None => session.insert(plan.source.connect(&plan.names.application("measure")).await?),
    };
    let row = session
        .query_one(
            "SELECT pg_current_wal_lsn(), clock_timestamp(), (SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)::bigint FROM pg_replication_slots WHERE slot_name = $1)",
            &[&plan.names.slot()],
        )
        .await
        .map_err(|e| FlowError::sql("measuring", &e))?;
    let (end, now): (Lsn, std::time::SystemTime) = (row.get::<_, PgLsn>(0).into(), row.get(1));
    let retained = row.get::<_, Option<i64>>(2).map(|bytes| u64::try_from(bytes).unwrap_or(0));
    let applied = board.watermark();
    let bytes = applied.map(|(applied, _)| end.since(applied));
    let lag =
        applied.map(
            |(applied, source_time)| {
                if applied >= end { Duration::ZERO } else { now.duration_since(source_time).unwrap_or_default() }
            },
        );
    board.measured(lag, bytes, retained);
    Ok(())
}
