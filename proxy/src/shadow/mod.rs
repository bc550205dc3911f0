//! Copies of requests for the side that does not answer. On the answering path a copy is an [`offer`](Shadows::offer) that never waits: it is
//! taken or dropped, and every drop is counted with its reason. The rest (sending, its own connections, deadline and memory, comparing) runs
//! on a thread of its own, and whatever a shadow upstream does stays there.
//!
//! What the client gets is recorded by the [`Ticket`] while it passes, and compared with the shadow's answer.

mod budget;
mod buffer;
mod connections;
mod counts;
mod job;
mod offer;
mod origin;
mod pool;
mod record;
mod replay;
mod request;
#[cfg(test)]
mod tests;
mod ticket;
mod waiting;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, atomic::AtomicUsize},
};

use prometheus::Registry;
use tokio::{runtime::Handle, sync::mpsc, task::JoinSet};
use tokio_util::sync::{CancellationToken, DropGuard};

use budget::Budget;
use connections::Connections;
pub use connections::SHADOW_CONNECTIONS;
pub use counts::Outcome;
use counts::{Metrics, RouteCounts};
use job::Job;
pub use offer::{Offer, Shadows};
#[cfg(any(test, feature = "fuzz"))]
pub(crate) use record::fuzz_recording;
pub use record::{BadLine, BodyKept, End, Head, Line, NoRecording, Read, RecordLimits, Recording, WhyEnded};
pub use replay::{Against, NoReplay, Played, Replay};
pub use ticket::Ticket;
pub use waiting::Waiting;

/// Copies of all routes that are under way at once; one more is dropped.
pub const SHADOW_REQUESTS: usize = 512;
/// Bytes that all shadows of the process hold at once: heads, bodies, and what their connections read ahead.
pub const SHADOW_MEMORY: usize = 32 << 20;

/// The shadows of a process. Dropping it ends what is under way.
#[derive(Debug)]
pub struct Shadow {
    jobs: mpsc::Sender<Job>,
    budget: Arc<Budget>,
    connections: Arc<Connections>,
    /// Copies under way.
    busy: Arc<AtomicUsize>,
    metrics: Metrics,
    /// By route name, so that a reload keeps them.
    counts: Mutex<HashMap<Arc<str>, Arc<RouteCounts>>>,
    _ends: DropGuard,
}

// === impl Shadow ===

impl Shadow {
    /// Starts the part that runs in the background.
    ///
    /// # Errors
    /// When the metrics are already registered.
    pub fn start(background: &Handle, registry: &Registry) -> prometheus::Result<Arc<Self>> {
        let metrics = Metrics::register(registry)?;
        let (jobs, queue) = mpsc::channel(SHADOW_REQUESTS);
        let budget = Arc::new(Budget::new(SHADOW_MEMORY));
        let connections = Arc::new(Connections::new(Arc::clone(&budget)));
        let token = CancellationToken::new();
        of_its_own(background, token.clone().run_until_cancelled_owned(run(queue)));
        Ok(Arc::new(Self {
            jobs,
            budget,
            connections,
            busy: Arc::default(),
            metrics,
            counts: Mutex::default(),
            _ends: token.drop_guard(),
        }))
    }

    /// The counts of a route, which outlive reloads.
    fn counts(&self, route: &Arc<str>) -> Arc<RouteCounts> {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || Arc::new(RouteCounts::new(&self.metrics, route));
        Arc::clone(counts.entry(Arc::clone(route)).or_insert_with(new))
    }
}

/// Does the work on a thread that gives way to every other: where Banyan has few cores, a shadow must not take the turn of an answer. What
/// comparing spawns inherits that.
fn of_its_own(background: &Handle, work: impl Future<Output = Option<()>> + Send + 'static) {
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
        background.spawn(work);
        return;
    };
    let thread = std::thread::Builder::new().name("banyan-shadow".to_owned());
    let started = thread.spawn(move || {
        #[cfg(target_os = "linux")]
        give_way();
        runtime.block_on(work);
        runtime.shutdown_background();
    });
    if let Err(error) = started {
        tracing::error!(%error, "no thread for shadows: there are none until a restart");
    }
}

/// Not the lowest nice: such a thread runs to the end of its slice, some milliseconds, before one that has just woken up gets the core (EEVDF).
/// One of `SCHED_IDLE` leaves it at once. Where that is refused, shadows take their turn like everybody.
#[cfg(target_os = "linux")]
fn give_way() {
    use thread_priority::{
        NormalThreadSchedulePolicy::Idle, ThreadPriority, ThreadSchedulePolicy, set_thread_priority_and_policy,
        thread_native_id,
    };
    let policy = ThreadSchedulePolicy::Normal(Idle);
    if let Err(error) = set_thread_priority_and_policy(thread_native_id(), ThreadPriority::Min, policy) {
        tracing::warn!(?error, "shadows run at the same priority as answers");
    }
}

/// Takes up jobs until the sender is gone; a job that panics ends alone.
async fn run(mut queue: mpsc::Receiver<Job>) {
    let mut jobs = JoinSet::new();
    loop {
        tokio::select! {
            job = queue.recv() => match job {
                Some(job) => drop(jobs.spawn(job.run())),
                None => return,
            },
            Some(ended) = jobs.join_next() => {
                if let Err(error) = ended && error.is_panic() {
                    tracing::error!("a shadow request panicked; its route goes on");
                }
            }
        }
    }
}
