//! One direction: source → Kafka → target. Two supervised tasks, and a third that measures how far the target is behind.

use std::{sync::Arc, thread::JoinHandle, time::Duration};

use tokio_util::sync::CancellationToken;

use crate::{
    config::OnExceed,
    database::DatabaseUrl,
    error::FlowError,
    kafka::{produce::Outlet, topics},
    owner::Owners,
    plan::Plan,
    source::{Measured, SourceLink, mysql, postgres},
    status::{Board, Task},
    target::apply,
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
    topics::ensure(&plan.kafka, &topic, plan.lanes).await?.takes_records()?;
    for table in plan.tables.iter().filter(|_| plan.lanes.is_some()) {
        topics::ensure(&plan.kafka, &plan.names.table_topic(&table.source), plan.lanes).await?.takes_records()?;
    }
    let mut outlet = Outlet::open(plan, &topic, board.metrics())?;
    match &plan.source {
        DatabaseUrl::Postgres(url) => postgres::capture(plan, url, &owners.gate, &mut outlet, board).await,
        DatabaseUrl::Mysql(url) => mysql::capture(plan, url, &mut outlet, board).await,
    }
}

/// Measures until cancelled. A source that does not answer makes the lag unknown.
pub(crate) async fn measure(plan: Arc<Plan>, board: Arc<Board>, cancel: CancellationToken) {
    let mut link = None;
    let limit = plan.slot.max_retained.as_u64();
    if let DatabaseUrl::Postgres(_) = &plan.source {
        board.metrics().retained_limit(limit);
    }
    let mut is_over = false;
    loop {
        tokio::select! {
            () = cancel.cancelled() => return,
            () = tokio::time::sleep(MEASURE) => {}
        }
        match tokio::time::timeout(MEASURE * 5, measure_once(&plan, &board, &mut link)).await {
            Ok(Ok(retained)) => {
                let was_over = std::mem::replace(&mut is_over, retained.is_some_and(|retained| retained > limit));
                if is_over && !was_over && plan.slot.on_exceed == OnExceed::Warn {
                    tracing::warn!(
                        sync = plan.names.sync,
                        flow = plan.names.flow.as_str(),
                        retained,
                        limit,
                        "the source keeps more log for the slot than `slot.max_retained`; it is not dropped (`on_exceed: warn`)"
                    );
                }
            }
            _ => {
                link = None;
                board.measured(None, None, None);
            }
        }
    }
}

/// Gives the bytes of log that the source keeps.
async fn measure_once(plan: &Plan, board: &Board, link: &mut Option<SourceLink>) -> Result<Option<u64>, FlowError> {
    let link = match link {
        Some(link) => link,
        None => link.insert(SourceLink::connect(plan, "measure").await?),
    };
    let Measured { end, now, retained, given_up } = link.measure(plan).await?;
    board.given_up(given_up.map(|why| FlowError::NeedsSnapshot(why).to_string()));
    let applied = board.watermark();
    let bytes = applied.map(|(applied, _)| end.since(applied));
    let lag =
        applied.map(
            |(applied, source_time)| {
                if applied >= end { Duration::ZERO } else { now.duration_since(source_time).unwrap_or_default() }
            },
        );
    board.measured(lag, bytes, retained);
    Ok(retained)
}
