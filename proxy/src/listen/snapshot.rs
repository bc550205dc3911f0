//! What a reload swaps: the compiled config, the same for all, and each worker's own view of it with pools and counters resolved.

use std::{rc::Rc, sync::Arc, time::Duration};

use hyper::server::conn::http1::Builder;
use ipnet::IpNet;

use super::{
    tls::Tls,
    turn::{Patience, Tick},
    worker::Shared,
};
use crate::{
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
    pub(crate) trusted: Vec<IpNet>,
    pub(crate) upstreams: Vec<Arc<UpstreamSpec>>,
    /// In the order in which the sockets were bound.
    pub(crate) doors: Vec<Door>,
    pub(crate) observe: Observe,
}

/// How one listener treats its clients.
#[derive(Debug, Clone)]
pub(crate) struct Door {
    pub(crate) limits: Limits,
    pub(crate) tls: Option<Arc<Tls>>,
    /// Peers that say first for whom they speak.
    pub(crate) spoken_for_by: Box<[IpNet]>,
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
    /// By listener.
    pub(super) http: Vec<Builder>,
    pub(super) patience: Vec<Patience>,
    /// How often deadlines are looked at.
    pub(super) sweep_every: Duration,
}

/// Idle connections give their buffers back after this long.
const PARK_AFTER: Duration = Duration::from_secs(1);
/// Deadlines are looked at at least and at most this often.
const SWEEPS: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(500));
/// hyper's own number of headers, which needs no allocation.
const USUAL_HEADERS: usize = 100;

// === impl Compiled ===

impl Compiled {
    /// The parts of a config besides its routes.
    pub(crate) fn new(
        config: &Config,
        generation: u64,
        table: RouteTable,
        split: Split,
        shadows: Shadows,
        doors: Vec<Door>,
    ) -> Self {
        let upstreams = UpstreamSpec::all(config, table.trusts()).into_iter().map(Arc::new).collect();
        Self {
            generation,
            table,
            split,
            shadows,
            trusted: config.trusted_proxies.clone(),
            upstreams,
            doors,
            observe: config.observe.clone(),
        }
    }

    /// A quarter of the shortest deadline, within bounds.
    fn sweep_every(&self) -> Duration {
        let upstreams =
            self.upstreams.iter().map(|upstream| upstream.timeout.min(upstream.idle_time).min(upstream.body_idle));
        let routes = self.table.routes().iter().flat_map(|route| [route.timeout, route.deadline]).flatten();
        let limits =
            self.doors.iter().map(|door| door.limits.head_time.min(door.limits.idle_time).min(door.limits.take_time));
        let shortest = upstreams.chain(routes).chain(limits).min().unwrap_or(SWEEPS.1);
        (shortest / 4).clamp(SWEEPS.0, SWEEPS.1)
    }
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
        let sweep_every = compiled.sweep_every();
        Self {
            upstreams,
            shards,
            no_route: shared.shards.of(worker, &Arc::from(NO_ROUTE)),
            scribe: shared.recorder.scribe(worker, &compiled.observe),
            http: compiled.doors.iter().map(|door| builder(&door.limits)).collect(),
            patience: compiled.doors.iter().map(|door| patience(&door.limits, sweep_every)).collect(),
            sweep_every,
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
        to_ticks(time + self.sweep_every)
    }
}

fn patience(limits: &Limits, sweep_every: Duration) -> Patience {
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

fn builder(limits: &Limits) -> Builder {
    let mut http = Builder::new();
    // The loop owns the deadlines: hyper's would also close idle connections.
    http.header_read_timeout(None);
    http.half_close(true);
    http.preserve_header_case(true);
    http.max_header_size(usize::try_from(limits.header_bytes.as_u64()).unwrap_or(usize::MAX));
    if limits.headers != USUAL_HEADERS {
        http.max_headers(limits.headers);
    }
    http
}
