//! The background tasks of the process: each is owned, and started again with a growing pause when it fails or panics.

use std::{future::Future, time::Duration};

use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::warn;

use crate::metrics::Metrics;

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// After so long without a failure the pause begins small again.
const CALM: Duration = Duration::from_secs(60);

/// Owns the tasks.
#[derive(Debug, Clone)]
pub(crate) struct Tasks {
    tracker: TaskTracker,
    stop: CancellationToken,
    metrics: Metrics,
}

// === impl Tasks ===

impl Tasks {
    pub(crate) fn new(metrics: Metrics) -> Self {
        Self { tracker: TaskTracker::new(), stop: CancellationToken::new(), metrics }
    }

    /// Runs what `make` makes, again and again until it ends without an error or all tasks are stopped. What it makes must be safe to
    /// drop at any await.
    pub(crate) fn spawn<F, T>(&self, name: &'static str, mut make: F)
    where
        F: FnMut() -> T + Send + 'static,
        T: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        self.metrics.task(name);
        let Self { stop, metrics, .. } = self.clone();
        self.tracker.spawn(async move {
            let mut pause = FIRST_PAUSE;
            loop {
                let begun = tokio::time::Instant::now();
                // A task of its own, so that a panic ends this attempt and nothing else.
                let mut attempt = tokio::spawn(make());
                let ended = tokio::select! {
                    () = stop.cancelled() => {
                        attempt.abort();
                        return;
                    }
                    ended = &mut attempt => ended,
                };
                match ended {
                    Ok(Ok(())) => return,
                    Ok(Err(error)) => warn!(task = name, "task failed, starting it again: {error:#}"),
                    Err(_) => warn!(task = name, "task panicked, starting it again"),
                }
                metrics.task_restarted(name);
                if begun.elapsed() > CALM {
                    pause = FIRST_PAUSE;
                }
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(pause) => {}
                }
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        });
    }

    /// Stops all of them and waits until they are gone.
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        self.tracker.close();
        self.tracker.wait().await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_task_that_fails_or_panics_runs_again() {
        let metrics = Metrics::register().unwrap();
        let tasks = Tasks::new(metrics);
        let (runs, seen) = (Arc::new(AtomicUsize::new(0)), Arc::new(tokio::sync::Notify::new()));
        let (counted, notify) = (Arc::clone(&runs), Arc::clone(&seen));
        tasks.spawn("test", move || {
            let (run, notify) = (counted.fetch_add(1, Ordering::SeqCst), Arc::clone(&notify));
            async move {
                match run {
                    0 => anyhow::bail!("no luck"),
                    1 => panic!("worse"),
                    _ => notify.notify_one(),
                }
                Ok(())
            }
        });
        tokio::time::timeout(Duration::from_secs(60), seen.notified()).await.unwrap();
        assert_eq!(runs.load(Ordering::SeqCst), 3);
        tasks.stop().await;
    }
}
