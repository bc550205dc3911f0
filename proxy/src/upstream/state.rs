//! What all workers know of an upstream: its settings, and how busy it is.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use crate::config::{Config, IdempotencyKey};

/// One upstream's settings, compiled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UpstreamSpec {
    pub(crate) name: String,
    pub(crate) endpoints: Vec<EndpointSpec>,
    pub(crate) connect_timeout: Duration,
    pub(crate) timeout: Duration,
    pub(crate) idle_time: Duration,
    /// It answers a repeated `Idempotency-Key` with the first answer.
    pub(crate) honours_keys: bool,
    /// It is some route's legacy side, or the default: header names keep their case.
    pub(crate) is_legacy: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct EndpointSpec {
    /// `host:port`.
    pub(crate) authority: String,
    /// Where the host is a literal address; a name is looked up at each connect.
    pub(crate) address: Option<SocketAddr>,
}

/// How busy an upstream is. Each worker writes its own place, so that workers never contend for a cache line.
#[derive(Debug)]
pub(crate) struct UpstreamState {
    workers: Box<[Slot]>,
}

#[derive(Debug, Default)]
#[repr(align(64))]
struct Slot {
    in_flight: AtomicUsize,
    connections: AtomicUsize,
}

// === impl UpstreamSpec ===

impl UpstreamSpec {
    /// All upstreams of a config, in the order of their names.
    pub(crate) fn all(config: &Config) -> Vec<Self> {
        let legacy: BTreeSet<&str> = config
            .routes
            .iter()
            .filter_map(|route| route.legacy.as_ref())
            .map(|side| side.0.upstream.as_str())
            .chain([config.default.as_str()])
            .collect();
        let spec = |(name, upstream): (&String, &crate::config::Upstream)| Self {
            name: name.clone(),
            endpoints: upstream.endpoints.iter().map(|endpoint| EndpointSpec::new(endpoint.0.authority())).collect(),
            connect_timeout: upstream.connect_timeout,
            timeout: upstream.timeout,
            idle_time: upstream.idle_time,
            honours_keys: upstream.idempotency_key == IdempotencyKey::Honoured,
            is_legacy: legacy.contains(name.as_str()),
        };
        config.upstreams.iter().map(spec).collect()
    }
}

// === impl EndpointSpec ===

impl EndpointSpec {
    fn new(authority: String) -> Self {
        let address = authority.parse().ok();
        Self { authority, address }
    }
}

// === impl UpstreamState ===

impl UpstreamState {
    pub(crate) fn new(workers: usize) -> Self {
        Self { workers: std::iter::repeat_with(Slot::default).take(workers).collect() }
    }

    /// Requests under way and open connections, over all workers.
    pub(crate) fn busy(&self) -> (usize, usize) {
        let sum =
            |of: fn(&Slot) -> &AtomicUsize| self.workers.iter().map(|slot| of(slot).load(Ordering::Relaxed)).sum();
        (sum(|slot| &slot.in_flight), sum(|slot| &slot.connections))
    }

    pub(super) fn connected(&self, worker: usize, change: isize) {
        change_by(&self.workers[worker].connections, change);
    }

    pub(super) fn in_flight(&self, worker: usize, change: isize) {
        change_by(&self.workers[worker].in_flight, change);
    }
}

/// One writer a place: a load and a store are enough.
fn change_by(place: &AtomicUsize, change: isize) {
    place.store(place.load(Ordering::Relaxed).wrapping_add_signed(change), Ordering::Relaxed);
}
