//! One supervised task: a thread of its own that runs attempts one after the other.
//!
//! A thread each, because capture and applier call into librdkafka, which may block, and must not hold up one another or anything else.

use std::{
    future::Future,
    sync::Arc,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;

use crate::{
    error::{FlowError, Verdict},
    status::{Board, Task},
};

/// The first pause after a failed attempt, and the longest.
const PAUSE: Duration = Duration::from_millis(200);
const LONGEST: Duration = Duration::from_secs(5);
/// An attempt that lasted so long was healthy: the next pause is short again.
const HEALTHY: Duration = Duration::from_secs(20);

/// What a supervised task is called, and where it tells of itself.
pub(crate) struct Supervised {
    pub(crate) task: Task,
    pub(crate) label: String,
    pub(crate) board: Arc<Board>,
    pub(crate) cancel: CancellationToken,
}

/// Starts the thread. `attempt` is called again after each failure that passes by itself, until it stops for good or is cancelled.
pub(crate) fn spawn<F, A>(supervised: Supervised, attempt: F) -> std::io::Result<JoinHandle<()>>
where
    F: Fn() -> A + Send + 'static,
    A: Future<Output = Result<(), FlowError>> + 'static,
{
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    thread::Builder::new().name(format!("banyan-{}", supervised.task.as_str())).spawn(move || {
        tokio::task::LocalSet::new().block_on(&runtime, supervise(&supervised, attempt));
        // Connections and transports that an aborted attempt left behind end with the runtime.
        runtime.shutdown_timeout(Duration::from_secs(1));
    })
}

async fn supervise<F, A>(supervised: &Supervised, attempt: F)
where
    F: Fn() -> A,
    A: Future<Output = Result<(), FlowError>> + 'static,
{
    let Supervised { task, label, board, cancel } = supervised;
    let restarts = board.metrics().restarts(task.as_str());
    let mut pause = PAUSE;
    while !cancel.is_cancelled() {
        let began = Instant::now();
        let mut running = tokio::task::spawn_local(attempt());
        let ended = tokio::select! {
            () = cancel.cancelled() => {
                running.abort();
                drop(running.await);
                return;
            }
            ended = &mut running => ended,
        };
        let (verdict, error) = match ended {
            Ok(Ok(())) => (Verdict::Retry, "ended".to_owned()),
            Ok(Err(error)) => (error.verdict(), error.to_string()),
            // A defect of ours. The databases are consistent whenever a task ends; the other tasks go on.
            Err(_) => (Verdict::Retry, "the task panicked".to_owned()),
        };
        if verdict == Verdict::Pause {
            tracing::warn!(task = label, reason = error, "the flow waits for a person");
            board.paused(&error);
            tokio::select! {
                () = cancel.cancelled() => return,
                () = tokio::time::sleep(PAUSE) => continue,
            }
        }
        if verdict != Verdict::Retry {
            tracing::error!(task = label, error, "the flow stopped");
            board.ended(*task, verdict, &error);
            cancel.cancelled().await;
            return;
        }
        board.restarting(*task, &error);
        restarts.inc();
        pause = if began.elapsed() > HEALTHY { PAUSE } else { (pause * 2).min(LONGEST) };
        let jittered = pause.mul_f64(rand::random_range(0.5..1.0));
        tracing::warn!(
            task = label,
            error,
            retry_in_ms = jittered.as_millis(),
            "the task ended and will be started again"
        );
        tokio::select! {
            () = cancel.cancelled() => return,
            () = tokio::time::sleep(jittered) => {}
        }
    }
}
