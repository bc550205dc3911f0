//! One direction: source → Kafka → target. Two supervised tasks, or with `order: key` one that captures, one a lane, and one that hears which lanes
//! are this process's; and one more that measures how far the target is behind.

use std::{sync::Arc, thread::JoinHandle, time::Duration};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    config::OnExceed,
    database::{DatabaseUrl, postgres::Session},
    error::FlowError,
    kafka::{
        produce::Outlet,
        seats::{self, Seats},
        topics,
    },
    owner::Owners,
    plan::Plan,
    source::{Measured, SourceLink, mysql, postgres},
    status::{Board, Task},
    target::{apply, postgres::position},
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
    let mut tasks = vec![capture_task];
    let Some(lanes) = plan.lanes else {
        tasks.push(task::spawn(supervised(Task::Apply(0)), move || {
            let (plan, owners, board) = apply_parts.clone();
            async move { applier(&plan, &owners, &board).await }
        })?);
        return Ok(tasks);
    };
    let seats = watch::Sender::new(Seats::new());
    for lane in 0..lanes {
        let (plan, owners, board) = apply_parts.clone();
        let (plan, seats) = (Arc::new(plan.for_lane(lane)), seats.subscribe());
        tasks.push(task::spawn(supervised(Task::Apply(lane)), move || {
            let (plan, owners, board) = (Arc::clone(&plan), Arc::clone(&owners), Arc::clone(&board));
            let seats = seats.clone();
            async move { applier_of_a_lane(&plan, &owners, &board, seats).await }
        })?);
    }
    let plan = Arc::clone(plan);
    tasks.push(task::spawn(supervised(Task::Seats), move || {
        let (plan, seats) = (Arc::clone(&plan), seats.clone());
        async move { seats::hold(&plan, &seats).await }
    })?);
    Ok(tasks)
}

async fn applier(plan: &Plan, owners: &Owners, board: &Board) -> Result<(), FlowError> {
    owners.ensure(plan.names.flow.target()).await?;
    apply::run(plan, board).await
}

/// Applies a lane for as long as it is this process's, again and again.
async fn applier_of_a_lane(
    plan: &Plan,
    owners: &Owners,
    board: &Board,
    mut seats: watch::Receiver<Seats>,
) -> Result<(), FlowError> {
    let lane = plan.lane;
    let mut left = seats.clone();
    let (sync, flow) = (&plan.names.sync, plan.names.flow.as_str());
    loop {
        if !seats.borrow().contains(&lane) {
            board.away(lane);
        }
        // Whoever sends ends with the process.
        let gone = |_| FlowError::Busy("nobody gives lanes to this process".into());
        seats.wait_for(|seats| seats.contains(&lane)).await.map_err(gone)?;
        board.seated(lane);
        tracing::info!(sync, flow, lane, "this process applies the lane");
        tokio::select! {
            biased;
            // What is half done is rolled back with the session.
            _ = left.wait_for(|seats| !seats.contains(&lane)) => {
                tracing::info!(sync, flow, lane, "another process is to apply the lane");
            }
            ended = applier(plan, owners, board) => return ended,
        }
    }
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
    let (mut link, mut target) = (None, None);
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
        match tokio::time::timeout(MEASURE * 5, measure_once(&plan, &board, &mut link, &mut target)).await {
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
                (link, target) = (None, None);
                board.measured(None, None, None);
            }
        }
    }
}

/// Gives the bytes of log that the source keeps.
async fn measure_once(
    plan: &Plan,
    board: &Board,
    link: &mut Option<SourceLink>,
    target: &mut Option<Session>,
) -> Result<Option<u64>, FlowError> {
    let link = match link {
        Some(link) => link,
        None => link.insert(SourceLink::connect(plan, "measure").await?),
    };
    let Measured { end, now, retained, given_up } = link.measure(plan).await?;
    board.given_up(given_up.map(|why| FlowError::NeedsSnapshot(why).to_string()));
    if let (Some(_), DatabaseUrl::Postgres(url)) = (plan.lanes, &plan.target) {
        // Other processes may apply some of the lanes.
        let session = match target {
            Some(session) => session,
            None => target.insert(url.connect(&plan.names.application("measure")).await?),
        };
        for row in position::lanes(session, &plan.names).await? {
            board.applied(row.lane, row.role, row.epoch, row.generation, row.watermark());
        }
    }
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
