//! Rollouts: the walk of a route's weight through steps, each behind gates; what fails goes back by itself.
//!
//! `walk` is the rules alone, `walks` those of all routes, `gates` and `stats` the judgement; [`Rollouts`] feeds them every second from what the workers count, keeps the
//! standings, and tells what happens. The answering path only reads a [`Cap`].

mod cap;
mod counts;
mod event;
mod gates;
mod metrics;
mod shared;
#[cfg(test)]
mod shared_tests;
mod standing;
mod stats;
mod status;
mod store;
#[cfg(test)]
mod tests;
mod walk;
mod walks;

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use prometheus::Registry;
use tokio::{
    runtime::Handle,
    sync::{Notify, broadcast},
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::{CancellationToken, DropGuard};

pub use cap::Cap;
pub(crate) use counts::Arm;
pub use counts::Counts;
pub use gates::{Finding, Gate, Stands};
use metrics::Metrics;
use shared::Others;
pub use shared::Replicas;
pub use standing::{Act, Event, Phase, Standing, What};
pub use status::RolloutStatus;
use store::Store;
use walks::{Walk, Walks};

use crate::{config::Config, listen::Shared, table::RouteTable};

/// The rollouts of a process. Dropping it ends what walks; the weights stay as they are.
pub struct Rollouts {
    inner: Arc<Inner>,
    _ends: DropGuard,
}

struct Inner {
    store: Store,
    walks: Mutex<Walks>,
    /// Held while the file is written, so that the newest one is the last.
    keeping: tokio::sync::Mutex<()>,
    /// Another process decides meanwhile.
    is_waiting: AtomicBool,
    events: broadcast::Sender<Event>,
    /// What happened since the start, until somebody listens.
    first: Mutex<Option<broadcast::Receiver<Event>>>,
    metrics: Metrics,
    /// Whom it is shared with; `None`: this process is alone.
    replicas: Option<Arc<dyn Replicas>>,
    /// Something that was asked of the replicas is done.
    done: Notify,
    /// Something was heard of them that is to be kept.
    is_changed: AtomicBool,
    /// Counting begins anew somewhere: at once, and not at the next tick.
    begins_anew: Notify,
}

/// Why nothing was done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The file names none, or it has no rollout.
    #[error("there is no such route with a rollout")]
    NoRollout,
    /// The process before this one decides.
    #[error("another process still decides; try again in a moment")]
    Waiting,
    /// What was asked for does not fit to where it stands, or a gate is in the way.
    #[error("{0}")]
    NotNow(String),
}

/// What an act came to.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Done {
    /// What happened.
    pub event: Event,
    /// It holds, but would not outlive a restart: why.
    pub unkept: Option<String>,
}

/// How often upstreams and lags are looked at; intervals are made of these.
const TICK: Duration = Duration::from_secs(1);
/// ... where replicas wait for what one of them decides.
const SHARED_TICK: Duration = Duration::from_millis(200);
/// Events that whoever listens may be behind.
const EVENTS: usize = 256;

// === impl Rollouts ===

impl Rollouts {
    /// Reads what is kept, and looks at nothing yet. `is_waiting`: another process decides, until [`decide`](Self::decide).
    pub(crate) fn open(
        config: &Config,
        replicas: Option<Arc<dyn Replicas>>,
        registry: &Registry,
        is_waiting: bool,
    ) -> prometheus::Result<Self> {
        let store = Store::new(&config.state.dir);
        let others = replicas.as_ref().map(|_| Others::new(shared::own_name()));
        let has_rollouts = config.routes.iter().any(|route| route.rollout.is_some());
        let walks = match store.load() {
            Ok((rest, demands)) => Walks { rest, demands, others, ..Walks::default() },
            Err(why) => Walks { unknown: Some(why).filter(|_| has_rollouts), others, ..Walks::default() },
        };
        let (events, first) = broadcast::channel(EVENTS);
        let inner = Inner {
            store,
            walks: Mutex::new(walks),
            keeping: tokio::sync::Mutex::default(),
            is_waiting: AtomicBool::new(is_waiting),
            events,
            first: Mutex::new(Some(first)),
            metrics: Metrics::register(registry)?,
            replicas,
            done: Notify::new(),
            is_changed: AtomicBool::new(false),
            begins_anew: Notify::new(),
        };
        Ok(Self { inner: Arc::new(inner), _ends: CancellationToken::new().drop_guard() })
    }

    /// Begins to look.
    pub(crate) fn start(mut self, background: &Handle, shared: Arc<Shared>) -> Self {
        let token = CancellationToken::new();
        background.spawn(token.clone().run_until_cancelled_owned(watch(Arc::clone(&self.inner), shared)));
        self._ends = token.drop_guard();
        self
    }

    /// Gives the routes of a table that is not used yet what their weights are capped by.
    pub(crate) fn attach(&self, table: &mut RouteTable) {
        let walks = self.inner.walks();
        table.cap(|route| walks.routes.get(route).map(|walk| Arc::clone(&walk.cap)));
    }

    /// Follows a config and the table that was made of it, before that is used.
    pub(crate) fn follow(&self, config: &Config, table: &RouteTable) {
        let told = self.inner.walks().follow(config, table, !self.inner.is_waiting.load(Ordering::Acquire));
        told.iter().for_each(|event| self.inner.tell(event));
        self.inner.begins_anew.notify_one();
        self.inner.show();
    }

    /// The process before this one has ended: from now on this one decides, with what that one left.
    pub(crate) fn decide(&self) {
        if self.inner.is_waiting.load(Ordering::Acquire) {
            let (kept, demands) = self.inner.store.load().unwrap_or_default();
            let told = self.inner.walks().adopt(kept, demands);
            self.inner.is_waiting.store(false, Ordering::Release);
            told.iter().for_each(|event| self.inner.tell(event));
            self.inner.show();
        }
    }

    /// Does what a person asks for. Comes back when it is kept.
    ///
    /// # Errors
    /// When it does not fit to where the rollout stands.
    pub async fn act(&self, route: &str, act: Act, by: &str, why: &str) -> Result<Done, Refusal> {
        self.handle().act(route, act, by, why).await
    }

    /// The same, for whoever cannot hold this across an await.
    #[must_use]
    pub fn handle(&self) -> RolloutsHandle {
        RolloutsHandle(Arc::clone(&self.inner))
    }

    /// What happens from now on; to whoever listens first, what has happened since the start as well.
    #[must_use]
    pub fn events(&self) -> broadcast::Receiver<Event> {
        let first = self.inner.first.lock().unwrap_or_else(PoisonError::into_inner).take();
        first.unwrap_or_else(|| self.inner.events.subscribe())
    }

    /// How a route's rollout stands; `None` without one.
    #[must_use]
    pub fn status(&self, route: &str) -> Option<RolloutStatus> {
        let walks = self.inner.walks();
        walks.routes.get_key_value(route).map(|(name, walk)| RolloutStatus::of(walk.here(name), walk))
    }

    /// What happened to a route's rollout, the newest last; `None` when it never had one.
    #[must_use]
    pub fn history(&self, route: &str) -> Option<Vec<Event>> {
        let walks = self.inner.walks();
        let standing = walks.routes.get(route).map(|walk| &walk.standing).or_else(|| walks.rest.get(route))?;
        Some(standing.history.iter().cloned().collect())
    }
}

/// Reaches the rollouts of a process from elsewhere.
#[derive(Clone)]
pub struct RolloutsHandle(Arc<Inner>);

// === impl RolloutsHandle ===

impl RolloutsHandle {
    /// Does what a person asks for. Comes back when it is kept.
    ///
    /// # Errors
    /// When it does not fit to where the rollout stands.
    pub async fn act(&self, route: &str, act: Act, by: &str, why: &str) -> Result<Done, Refusal> {
        let inner = &self.0;
        if inner.is_waiting.load(Ordering::Acquire) {
            return Err(Refusal::Waiting);
        }
        if let Some(replicas) = &inner.replicas {
            let (event, is_shared) = inner.demand(route, act, by, why).await?;
            let unkept = Inner::keep(inner).await.err();
            let unshared =
                format!("it holds here alone: {} cannot be reached, or nobody has read it yet", replicas.name());
            return Ok(Done { event, unkept: unkept.or_else(|| (!is_shared).then_some(unshared)) });
        }
        let event = inner.walks().act(route, act, by, why)?;
        inner.begins_anew.notify_one();
        inner.tell(&event);
        inner.show();
        let unkept = Inner::keep(inner).await.err();
        Ok(Done { event, unkept })
    }

    /// Takes a record of the log that replicas share.
    pub fn heard(&self, key: &str, value: Option<&[u8]>) {
        self.0.heard(key, value);
    }

    /// All that stood in that log when it was opened has been heard.
    pub fn is_current(&self) {
        self.0.is_current();
    }
}

// === impl Inner ===

impl Inner {
    fn walks(&self) -> MutexGuard<'_, Walks> {
        self.walks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, event: &Event) {
        event.tell(&self.metrics);
        // Nobody may listen.
        let _ = self.events.send(event.clone());
    }

    /// In the metrics.
    fn show(&self) {
        let walks = self.walks();
        let routes = walks.routes.iter().map(|(name, walk)| (&**name, &walk.spec, &walk.standing));
        self.metrics.show(&routes.collect::<Vec<_>>());
    }

    /// Writes the standings.
    async fn keep(self: &Arc<Self>) -> Result<(), String> {
        let _turn = self.keeping.lock().await;
        let (standings, demands) = self.walks().kept();
        let inner = Arc::clone(self);
        let kept = tokio::task::spawn_blocking(move || inner.store.save(&standings, &demands)).await;
        let why = match kept {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "writing it panicked".to_owned(),
        };
        self.metrics.unkept();
        Err(why)
    }

    /// A second later.
    async fn tick(self: &Arc<Self>, shared: &Shared, is_unkept: &mut bool) {
        if self.is_waiting.load(Ordering::Acquire) {
            return;
        }
        let looked = self.walks().look(shared, &self.metrics, self.replicas.as_deref());
        let is_changed = self.is_changed.swap(false, Ordering::AcqRel);
        if !looked.has_looked && !is_changed && !*is_unkept {
            return;
        }
        looked.events.iter().for_each(|event| self.tell(event));
        self.show();
        match self.keep().await {
            Ok(()) => *is_unkept = false,
            Err(error) => {
                // Once, however often it is tried.
                if !std::mem::replace(is_unkept, true) {
                    tracing::error!(
                        error,
                        "rollouts cannot be kept: a restart now would begin where they were last kept"
                    );
                }
            }
        }
    }
}

async fn watch(inner: Arc<Inner>, shared: Arc<Shared>) {
    let mut tick = interval(if inner.replicas.is_some() { SHARED_TICK } else { TICK });
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut is_unkept = false;
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            () = inner.begins_anew.notified() => {}
        }
        inner.tick(&shared, &mut is_unkept).await;
    }
}

fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
