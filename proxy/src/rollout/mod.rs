//! Rollouts: the walk of a route's weight through steps, each behind gates; what fails goes back by itself.
//!
//! `walk` is the rules alone, `gates` and `stats` the judgement; [`Rollouts`] feeds them every second from what the workers count, keeps the
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

use std::{
    collections::BTreeMap,
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
    time::{Instant, MissedTickBehavior, interval},
};
use tokio_util::sync::{CancellationToken, DropGuard};

pub use cap::Cap;
pub(crate) use counts::Arm;
pub use counts::Counts;
use gates::Lag;
pub use gates::{Finding, Gate, Stands};
use metrics::Metrics;
pub use shared::Replicas;
use shared::{Among, Others};
pub use standing::{Act, Event, Phase, Standing, What};
pub use status::RolloutStatus;
use store::{Demands, Standings, Store};
use walk::{Found, Here, Seen};

use crate::{
    config::{Config, Rollout, Weight},
    listen::Shared,
    table::{Route, RouteTable},
    upstream::CircuitState,
};

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

#[derive(Default)]
struct Walks {
    routes: BTreeMap<Arc<str>, Walk>,
    /// Of routes that have no rollout now.
    rest: Standings,
    /// Why nobody knows what there was before the start; until the first config has been followed.
    unknown: Option<String>,
    has_begun: bool,
    others: Option<Others>,
    /// Of routes that are not followed yet.
    demands: Demands,
}

/// One route's.
struct Walk {
    spec: Rollout,
    ceiling: Weight,
    cap: Arc<Cap>,
    standing: Standing,
    /// All that was counted until the last look; `None`: what was counted until now is not this step's.
    counted: Option<Counts>,
    looked: Instant,
    /// Since then.
    lag: Lag,
    circuit_was_open: bool,
    /// For whoever asks.
    last_lag: Lag,
    /// At the last look.
    had_open_circuit: bool,
    /// Its standing is more than a guess.
    is_known: bool,
    /// What it is among replicas.
    among: Option<Among>,
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
/// Standings of routes without a rollout that are kept, for the day when they have one again.
const MOST_REST: usize = 1000;
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

/// What a look came to.
#[derive(Default)]
struct Looked {
    has_looked: bool,
    events: Vec<Event>,
}

// === impl Walks ===

impl Walks {
    fn follow(&mut self, config: &Config, table: &RouteTable, decides: bool) -> Vec<Event> {
        let mut told = Vec::new();
        let now = unix_now();
        let wanted = |name: &str| config.routes.iter().find(|route| route.name == name && route.rollout.is_some());
        for (name, walk) in std::mem::take(&mut self.routes) {
            if wanted(&name).is_some() {
                self.routes.insert(name, walk);
            } else {
                self.rest.insert(name.to_string(), walk.standing);
            }
        }
        for (route, spec) in config.routes.iter().filter_map(|route| Some((route, route.rollout.as_ref()?))) {
            let Some(cap) = table.routes().iter().find(|known| *known.name == *route.name).and_then(|r| r.cap.clone())
            else {
                continue;
            };
            let ceiling = route.weight.unwrap_or_default();
            let here = Here { route: &route.name, spec, ceiling, now };
            if let Some(walk) = self.routes.get_mut(&*route.name) {
                let before = walk.effective(&route.name);
                (walk.spec, walk.ceiling, walk.cap) = (spec.clone(), ceiling, cap);
                // Among replicas, the one that decides follows the file.
                let event = if walk.among.is_none() { here.follow(&mut walk.standing) } else { None };
                if event.is_some() || walk.effective(&route.name) != before {
                    walk.begin_anew();
                }
                told.extend(event);
            } else {
                let (kept, is_shared) = (self.rest.remove(&route.name), self.others.is_some());
                let is_known = kept.is_some() || !is_shared;
                let standing = match (kept, &self.unknown) {
                    (Some(kept), _) if is_shared => kept,
                    (None, _) if is_shared => here.begin(Found::Unknown("the replicas' state was not read yet")).0,
                    (Some(mut kept), _) => {
                        told.extend(here.follow(&mut kept));
                        kept
                    }
                    (None, why) => {
                        let found = why.as_deref().filter(|_| !self.has_begun).map_or(Found::New, Found::Unknown);
                        let (standing, event) = here.begin(found);
                        told.push(event);
                        standing
                    }
                };
                let demand = self.demands.remove(&route.name);
                let is_heard = is_known && self.others.as_ref().is_some_and(|others| others.is_current);
                let among = is_shared.then(|| Among::new(&standing, demand, !self.has_begun, is_heard));
                let walk = Walk {
                    is_known,
                    among,
                    had_open_circuit: false,
                    spec: spec.clone(),
                    ceiling,
                    cap,
                    standing,
                    counted: None,
                    looked: Instant::now(),
                    lag: Lag::Unseen,
                    circuit_was_open: false,
                    last_lag: Lag::Unseen,
                };
                self.routes.insert(route.name.as_str().into(), walk);
            }
        }
        self.has_begun = true;
        self.forget_the_oldest();
        self.cap();
        // Else it is told when this process decides, if it still holds then.
        if decides { told } else { Vec::new() }
    }

    /// What the process before this one has decided since this one began; gives what this one's file makes of it.
    fn adopt(&mut self, mut kept: Standings, mut demands: Demands) -> Vec<Event> {
        let mut told = Vec::new();
        for (name, walk) in &mut self.routes {
            let (kept, demand) = (kept.remove(&**name), demands.remove(&**name));
            walk.begin_anew();
            if let Some(among) = &mut walk.among {
                // The log may have said more meanwhile.
                if let Some(kept) = kept.filter(|kept| !walk.is_known || kept.revision > walk.standing.revision) {
                    (walk.standing, walk.is_known) = (kept, true);
                }
                among.demand = among.demand.take().or(demand);
                continue;
            }
            let here = Here { route: name, spec: &walk.spec, ceiling: walk.ceiling, now: unix_now() };
            if let Some(kept) = kept {
                walk.standing = kept;
                told.extend(here.follow(&mut walk.standing));
            } else {
                // It began here, and nobody was told.
                let history = &walk.standing.history;
                told.extend(history.back().filter(|event| history.len() == 1 && event.by == "start").cloned());
            }
        }
        self.rest.extend(kept);
        self.forget_the_oldest();
        self.cap();
        told
    }

    fn act(&mut self, route: &str, act: Act, by: &str, why: &str) -> Result<Event, Refusal> {
        let (name, walk) = self.routes.iter_mut().find(|(name, _)| &***name == route).ok_or(Refusal::NoRollout)?;
        let here = Here { route: name, spec: &walk.spec, ceiling: walk.ceiling, now: unix_now() };
        let event = here.act(&mut walk.standing, act, by, why, walk.last_lag).map_err(Refusal::NotNow)?;
        walk.cap.set(here.effective(&walk.standing));
        walk.begin_anew();
        Ok(event)
    }

    fn look(&mut self, shared: &Shared, metrics: &Metrics, replicas: Option<&dyn Replicas>) -> Looked {
        let current = shared.current.load();
        let (now, mut looked, mut due) = (Instant::now(), Looked::default(), Vec::new());
        for (name, walk) in &mut self.routes {
            let Some(route) = current.table.routes().iter().find(|route| route.name == *name) else { continue };
            walk.sample(route, shared);
            // A tick comes a little early or late.
            let took = now.duration_since(walk.looked);
            let is_due = took + TICK / 2 >= walk.spec.interval;
            if !is_due && walk.counted.is_some() {
                continue;
            }
            let (legacy, modern) = shared.shards.judged(name);
            let (compared, differ) = current.shadows.compared(route);
            let counted = Counts { legacy, modern, compared, differ };
            let before = walk.counted.get_or_insert_with(|| counted.clone());
            if !is_due {
                continue;
            }
            let seen = Seen {
                took,
                counts: counted.since(before),
                lag: std::mem::take(&mut walk.lag),
                circuit_was_open: std::mem::take(&mut walk.circuit_was_open),
            };
            (walk.counted, walk.looked, walk.last_lag) = (Some(counted), now, seen.lag);
            walk.had_open_circuit = seen.circuit_was_open;
            looked.has_looked = true;
            if walk.among.is_some() {
                due.push((name.to_string(), seen));
                continue;
            }
            let here = Here { route: name, spec: &walk.spec, ceiling: walk.ceiling, now: unix_now() };
            let event = here.look(&mut walk.standing, &seen);
            metrics.judged(here, &walk.standing, event.as_ref(), seen.lag);
            walk.cap.set(here.effective(&walk.standing));
            looked.events.extend(event);
        }
        if let Some(replicas) = replicas {
            for (name, seen) in &due {
                self.watch_own(replicas, name, seen);
            }
            if !due.is_empty() {
                self.publish(replicas);
            }
            self.decide(replicas, &due, metrics);
        }
        looked
    }

    fn cap(&self) {
        for (name, walk) in &self.routes {
            walk.cap.set(walk.effective(name));
        }
    }

    /// What outlives the process.
    fn kept(&self) -> (Standings, Demands) {
        let walking = self.routes.iter().filter(|(_, walk)| walk.is_known);
        let walking = walking.map(|(name, walk)| (name.to_string(), walk.standing.clone()));
        let demands = self.routes.iter().filter_map(|(name, walk)| {
            let demand = walk.among.as_ref()?.demand.clone()?;
            Some((name.to_string(), demand))
        });
        (
            self.rest.clone().into_iter().chain(walking).collect(),
            self.demands.clone().into_iter().chain(demands).collect(),
        )
    }

    fn forget_the_oldest(&mut self) {
        while self.rest.len() > MOST_REST {
            let oldest = self.rest.iter().min_by_key(|(_, standing)| standing.since).map(|(name, _)| name.clone());
            oldest.and_then(|name| self.rest.remove(&name));
        }
    }
}

// === impl Walk ===

impl Walk {
    fn here<'w>(&'w self, name: &'w str) -> Here<'w> {
        Here { route: name, spec: &self.spec, ceiling: self.ceiling, now: unix_now() }
    }

    /// What holds of the weight.
    fn effective(&self, name: &str) -> Weight {
        shared::effective(self, self.here(name))
    }

    /// What was seen until now belongs to what held until now.
    pub(super) fn begin_anew(&mut self) {
        (self.counted, self.looked) = (None, Instant::now());
        (self.lag, self.circuit_was_open) = (Lag::Unseen, false);
    }

    /// What is no count: how its upstream and its sync are now.
    fn sample(&mut self, route: &Route, shared: &Shared) {
        if let (Some(modern), Some(legacy)) = (&route.modern, &route.legacy)
            && modern.index != legacy.index
        {
            let circuit = shared.upstream_state(&modern.upstream).circuit.state();
            self.circuit_was_open |= circuit == CircuitState::Open;
        }
        if let Some(sync) = route.sync.as_ref().filter(|_| self.spec.gates.sync_lag.is_some()) {
            self.lag = match (self.lag, sync.link.lag()) {
                (_, None) | (Lag::Unknown, _) => Lag::Unknown,
                (Lag::Unseen, Some(lag)) => Lag::Known { least: lag, last: lag },
                (Lag::Known { least, .. }, Some(lag)) => Lag::Known { least: least.min(lag), last: lag },
            };
        }
    }
}

fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
