//! What a reload swaps: the compiled config, the same for all, and each worker's own view of it with pools and counters resolved.

use std::{rc::Rc, sync::Arc, time::Duration};

use ipnet::IpNet;

use super::{
    turn::{Patience, Tick},
    worker::Shared,
};
use crate::{
    clash::Jars,
    config::{Config, Limits, Observe},
    metrics::{NO_ROUTE, RouteShard},
    observe::Scribe,
    shadow::Shadows,
    split::Split,
    table::{Route, RouteTable},
    upstream::{Upstream, UpstreamSpec, kept},
};

/// The whole config, compiled. Immutable.
pub(crate) struct Compiled {
    /// Counts reloads.
    pub(crate) generation: u64,
    pub(crate) table: RouteTable,
    pub(crate) split: Split,
    pub(crate) shadows: Shadows,
    pub(crate) jars: Jars,
    pub(crate) trusted: Vec<IpNet>,
    pub(crate) upstreams: Vec<Arc<UpstreamSpec>>,
    /// How often deadlines are looked at.
    sweep_every: Duration,
    pub(crate) observe: Observe,
}

/// One worker's view.
pub(crate) struct WorkerTable {
    pub(crate) compiled: Arc<Compiled>,
    /// In the order of the config's names, as routes count them.
    pub(crate) upstreams: Vec<Rc<Upstream>>,
    /// By route.
    shards: Vec<Arc<RouteShard>>,
    no_route: Arc<RouteShard>,
    /// Takes what is kept of single requests; `None` where nothing is.
    pub(crate) scribe: Option<Scribe>,
}

/// Idle connections give their buffers back after this long.
const PARK_AFTER: Duration = Duration::from_secs(1);
/// Deadlines are looked at at least and at most this often.
const SWEEPS: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(500));

// === impl Compiled ===

impl Compiled {
    /// The parts of a config besides its routes.
    pub(crate) fn new(
        config: &Config,
        generation: u64,
        table: RouteTable,
        split: Split,
        shadows: Shadows,
        jars: Jars,
    ) -> Self {
        let upstreams = UpstreamSpec::all(config, table.trusts()).into_iter().map(Arc::new).collect::<Vec<_>>();
        let sweep_every = sweep_every(config, &upstreams, &table);
        Self {
            generation,
            table,
            split,
            shadows,
            jars,
            trusted: config.trusted_proxies.clone(),
            upstreams,
            observe: config.observe.clone(),
            sweep_every,
        }
    }

    /// How often deadlines are looked at.
    pub(super) fn sweep_every(&self) -> Duration {
        self.sweep_every
    }
}

/// A quarter of the shortest deadline, within bounds.
fn sweep_every(config: &Config, upstreams: &[Arc<UpstreamSpec>], table: &RouteTable) -> Duration {
    let upstreams = upstreams.iter().map(|upstream| upstream.timeout.min(upstream.idle_time).min(upstream.body_idle));
    let routes = table.routes().iter().flat_map(|route| [route.timeout, route.deadline]).flatten();
    let limits = config.listeners.iter().map(|listener| &listener.limits);
    let limits = limits.map(|limits| limits.head_time.min(limits.idle_time).min(limits.take_time));
    let shortest = upstreams.chain(routes).chain(limits).min().unwrap_or(SWEEPS.1);
    (shortest / 4).clamp(SWEEPS.0, SWEEPS.1)
}

// === impl WorkerTable ===

impl WorkerTable {
    pub(super) fn new(compiled: Arc<Compiled>, shared: &Shared, worker: usize, old: Option<&Self>) -> Self {
        let old_pools = old.map_or(&[][..], |old| &old.upstreams);
        let upstream = |spec: &Arc<UpstreamSpec>| {
            kept(old_pools, spec).unwrap_or_else(|| {
                let state = shared.upstream_state(&spec.name);
                Rc::new(Upstream::new(Arc::clone(spec), state, worker))
            })
        };
        let upstreams = compiled.upstreams.iter().map(upstream).collect();
        let shards = compiled.table.routes().iter().map(|route| shared.shards.of(worker, &route.name)).collect();
        Self {
            upstreams,
            shards,
            no_route: shared.shards.of(worker, &Arc::from(NO_ROUTE)),
            scribe: shared.recorder.scribe(worker, &compiled.observe),
            compiled,
        }
    }

    pub(crate) fn route(&self, index: usize) -> &Arc<Route> {
        &self.compiled.table.routes()[index]
    }

    pub(crate) fn shard(&self, route: Option<usize>) -> &Arc<RouteShard> {
        route.and_then(|route| self.shards.get(route)).unwrap_or(&self.no_route)
    }

    /// A deadline in the worker's clock, which is as coarse as its sweeps.
    pub(crate) fn ticks(&self, time: Duration) -> Tick {
        to_ticks(time + self.compiled.sweep_every)
    }
}

/// What the clients of a listener with these limits are measured by.
pub(super) fn patience(limits: &Limits, sweep_every: Duration) -> Patience {
    Patience {
        idle: to_ticks(limits.idle_time + sweep_every),
        head: to_ticks(limits.head_time + sweep_every),
        park: to_ticks(PARK_AFTER),
        take: to_ticks(limits.take_time + sweep_every),
    }
}

/// Milliseconds; half of the clock's range is "never".
fn to_ticks(time: Duration) -> Tick {
    Tick::try_from(time.as_millis()).unwrap_or(Tick::MAX).min(Tick::MAX / 2)
}
