//! What all workers know of an upstream: its settings, and how busy it is.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use tokio::sync::Notify;

use super::{
    Endpoint, Trust,
    budget::Budget,
    cap::{Cap, Idlers},
    circuit::Circuit,
    counts::{Counts, Sum},
    event::Events,
    limit::Limit,
    per_worker::PerWorker,
};
use crate::{
    config::{self, Config, IdempotencyKey, Protocol},
    table::Trusts,
};

/// One upstream's settings, compiled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UpstreamSpec {
    pub(crate) name: String,
    pub(crate) endpoints: Vec<EndpointSpec>,
    pub(crate) connect_timeout: Duration,
    pub(crate) timeout: Duration,
    pub(crate) idle_time: Duration,
    /// How long it may send nothing in the middle of an answer.
    pub(crate) body_idle: Duration,
    /// How often names of endpoints are looked up.
    pub(crate) resolve_every: Duration,
    /// How long the share of an endpoint that came (back) grows; zero: it has all of it at once.
    pub(crate) slow_start: Duration,
    pub(crate) limits: Option<config::UpstreamLimits>,
    pub(crate) health: Option<config::Health>,
    pub(crate) ejection: Option<config::Ejection>,
    pub(crate) circuit: Option<config::Circuit>,
    pub(crate) retries: config::Retries,
    /// It answers a repeated `Idempotency-Key` with the first answer.
    pub(crate) honours_keys: bool,
    /// It is some route's legacy side, or the default: header names keep their case.
    pub(crate) is_legacy: bool,
    pub(crate) protocol: Protocol,
    /// Its endpoints are spoken to over TLS.
    pub(crate) trust: Option<Arc<Trust>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct EndpointSpec {
    /// `host:port`.
    pub(crate) authority: Arc<str>,
    /// Where the host is a literal address; a name is looked up in the background.
    pub(crate) address: Option<SocketAddr>,
    pub(crate) weight: u32,
}

/// What all workers and the background know of an upstream. What a worker counts has a place of its own, so that workers never contend for a
/// cache line.
#[derive(Debug)]
pub(crate) struct UpstreamState {
    workers: PerWorker<Slot>,
    /// Workers that there were at the start.
    at_start: usize,
    endpoints: ArcSwap<Vec<Arc<Endpoint>>>,
    /// Counts changes of `endpoints` and of their standing, where every request looks.
    generation: AtomicU64,
    /// What names were last looked up to be. Never locked on the answering path.
    looked_up: Mutex<BTreeMap<Arc<str>, Vec<SocketAddr>>>,
    /// There is another list of endpoints, and [`generation`](Self::generation) says so.
    renewed: Notify,
    /// Requests under way, where they are bounded.
    pub(super) in_flight: Arc<Limit>,
    /// Connections that carry a request or a tunnel, where connections are bounded.
    pub(super) in_use: Arc<Limit>,
    pub(super) cap: Cap,
    pub(crate) circuit: Circuit,
    pub(super) retries: Budget,
    pub(crate) events: Events,
    is_down: AtomicBool,
    /// What was counted when the background last looked.
    looked: Mutex<Sum>,
}

#[derive(Debug, Default)]
#[repr(align(64))]
struct Slot {
    connections: AtomicUsize,
    idlers: Idlers,
    counts: Counts,
}

// === impl UpstreamSpec ===

impl UpstreamSpec {
    /// All upstreams of a config, in the order of their names.
    pub(crate) fn all(config: &Config, trusts: &Trusts) -> Vec<Self> {
        let legacy: BTreeSet<&str> = config
            .routes
            .iter()
            .filter_map(|route| route.legacy.as_ref())
            .map(|side| side.0.upstream.as_str())
            .chain([config.default.as_str()])
            .collect();
        let spec = |(name, upstream): (&String, &crate::config::Upstream)| Self {
            name: name.clone(),
            endpoints: upstream.endpoints.iter().map(|endpoint| EndpointSpec::new(&endpoint.0)).collect(),
            connect_timeout: upstream.connect_timeout,
            timeout: upstream.timeout,
            idle_time: upstream.idle_time,
            body_idle: upstream.body_idle,
            resolve_every: upstream.resolve_every,
            slow_start: upstream.slow_start.unwrap_or_default(),
            limits: upstream.limits.clone(),
            health: upstream.health.clone(),
            ejection: upstream.ejection.clone(),
            circuit: upstream.circuit.clone(),
            retries: upstream.retries.clone().unwrap_or_default(),
            honours_keys: upstream.idempotency_key == IdempotencyKey::Honoured,
            is_legacy: legacy.contains(name.as_str()),
            protocol: upstream.protocol,
            trust: trusts.of(name).cloned(),
        };
        config.upstreams.iter().map(spec).collect()
    }

    /// Whether it matters how long answers take.
    pub(crate) fn is_timed(&self) -> bool {
        self.circuit.as_ref().is_some_and(|circuit| circuit.slower_than.is_some())
            || self.limits.as_ref().is_some_and(|limits| limits.adaptive().is_some())
    }

    /// Whether the requests under way are bounded.
    pub(crate) fn limits_in_flight(&self) -> bool {
        self.limits.as_ref().is_some_and(|limits| limits.in_flight.is_some() || limits.adaptive().is_some())
    }

    /// The most connections.
    pub(super) fn cap(&self) -> Option<usize> {
        self.limits.as_ref().and_then(|limits| limits.connections)
    }
}

// === impl EndpointSpec ===

impl EndpointSpec {
    fn new(endpoint: &crate::config::Endpoint) -> Self {
        let authority = endpoint.authority();
        Self { address: authority.parse().ok(), authority: authority.into(), weight: endpoint.weight }
    }
}

// === impl UpstreamState ===

impl UpstreamState {
    pub(crate) fn new(workers: usize) -> Self {
        Self {
            workers: PerWorker::new(workers),
            at_start: workers,
            endpoints: ArcSwap::default(),
            generation: AtomicU64::new(0),
            looked_up: Mutex::default(),
            renewed: Notify::new(),
            in_flight: Limit::new(),
            in_use: Limit::new(),
            cap: Cap::default(),
            circuit: Circuit::default(),
            retries: Budget::default(),
            events: Events::default(),
            is_down: AtomicBool::new(false),
            looked: Mutex::default(),
        }
    }

    /// Requests under way and open connections, over all workers.
    pub(crate) fn busy(&self) -> (usize, usize) {
        let in_flight = self.endpoints.load().iter().map(|endpoint| endpoint.in_flight()).sum();
        let connections = self.workers.sum(|slot| slot.connections.load(Ordering::Relaxed));
        (in_flight, connections)
    }

    pub(super) fn connected(&self, worker: usize, change: isize) {
        change_by(&self.workers.of(worker).connections, change);
    }

    pub(super) fn counts(&self, worker: usize) -> &Counts {
        &self.workers.of(worker).counts
    }

    /// What all workers counted since the start.
    pub(crate) fn sum(&self) -> Sum {
        let mut sum = Sum::default();
        self.workers.iter().for_each(|slot| sum.add(&slot.counts));
        sum
    }

    pub(super) fn idlers(&self, worker: usize) -> &Idlers {
        &self.workers.of(worker).idlers
    }

    /// Asks the worker with the most idle connections to close one.
    pub(super) fn ask_for_room(&self) {
        Idlers::ask(self.workers.iter().map(|slot| &slot.idlers));
    }

    /// What was counted at the last look.
    pub(super) fn looked(&self) -> Sum {
        *self.looked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What all workers counted since the start, and of that what came since the last look. For the background alone.
    pub(super) fn look(&self) -> (Sum, Sum) {
        let mut looked = self.looked.lock().unwrap_or_else(PoisonError::into_inner);
        let sum = self.sum();
        let new = sum.since(*looked);
        *looked = sum;
        (sum, new)
    }

    /// Not one request was answered any more.
    pub(crate) fn is_down(&self) -> bool {
        self.is_down.load(Ordering::Relaxed)
    }

    /// Says whether that is news.
    pub(super) fn set_down(&self, is_down: bool) -> bool {
        self.is_down.swap(is_down, Ordering::Relaxed) != is_down
    }

    /// Has the limits as the file says. An adaptive limit goes on from where it is. One that the file has no more stays for those who still wait
    /// for a place since before: without any, they would wait in vain.
    fn limit(&self, spec: &UpstreamSpec) {
        let Some(limits) = &spec.limits else { return };
        match limits.adaptive() {
            Some(adaptive) if self.in_flight.size() == 0 => self.in_flight.resize(adaptive.start),
            Some(_) => {}
            None => limits.in_flight.into_iter().for_each(|most| self.in_flight.resize(most)),
        }
        limits.connections.into_iter().for_each(|most| self.in_use.resize(most));
    }

    // --- endpoints

    /// The endpoints now; [`generation`](Self::generation) says when to look again.
    pub(crate) fn endpoints(&self) -> Arc<Vec<Arc<Endpoint>>> {
        self.endpoints.load_full()
    }

    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// The standing of an endpoint has changed.
    pub(super) fn changed(&self) {
        self.generation.fetch_add(1, Ordering::Release);
    }

    /// Waits for another list of endpoints than at this generation. The list itself is there a moment before the generation that workers look at.
    pub(super) async fn renewed(&self, seen: u64) {
        loop {
            let renewed = self.renewed.notified();
            if self.generation() != seen {
                return;
            }
            renewed.await;
        }
    }

    /// Workers look at the weights anew while an endpoint warms up, and once it is warm.
    pub(super) fn warm_up(&self, spec: &UpstreamSpec) {
        for endpoint in self.endpoints.load().iter().filter(|endpoint| endpoint.is_warming()) {
            endpoint.warmed(spec.slow_start);
            self.changed();
        }
    }

    /// Takes over what the file says, or what a name was looked up to be. Endpoints that stay keep all that is known of them. Says whether
    /// anything changed.
    pub(crate) fn follow(&self, spec: &UpstreamSpec, looked_up: Option<(&Arc<str>, Vec<SocketAddr>)>) -> bool {
        if looked_up.is_none() {
            self.limit(spec);
            self.retries.begin(&spec.retries);
            if spec.circuit.is_none() {
                self.circuit.close();
            }
        }
        let mut names = self.looked_up.lock().unwrap_or_else(PoisonError::into_inner);
        names.retain(|name, _| spec.endpoints.iter().any(|endpoint| endpoint.authority == *name));
        if let Some((name, addresses)) = looked_up {
            names.insert(Arc::clone(name), addresses);
        }
        let old = self.endpoints.load();
        let mut new: Vec<Arc<Endpoint>> = Vec::new();
        let mut is_same = true;
        for wanted in &spec.endpoints {
            let named = names.get(&wanted.authority).map_or(&[][..], Vec::as_slice);
            for address in wanted.address.as_slice().iter().chain(named) {
                if new.iter().any(|other| other.address == *address) {
                    continue;
                }
                let known =
                    old.iter().find(|known| known.address == *address && known.authority == wanted.authority).cloned();
                let endpoint = known.unwrap_or_else(|| {
                    is_same = false;
                    let authority = Arc::clone(&wanted.authority);
                    let fresh = Endpoint::new(authority, *address, wanted.weight, self.at_start);
                    // The first ones of all have nobody beside them who could take the load meanwhile.
                    if !old.is_empty() && !spec.slow_start.is_zero() {
                        fresh.warms();
                    }
                    Arc::new(fresh)
                });
                is_same &= endpoint.weight() == wanted.weight;
                endpoint.set_weight(wanted.weight);
                new.push(endpoint);
            }
        }
        is_same &= new.len() == old.len();
        if !is_same {
            self.endpoints.store(Arc::new(new));
            self.changed();
            self.renewed.notify_waiters();
        }
        !is_same
    }
}

/// One writer a place: a load and a store are enough.
fn change_by(place: &AtomicUsize, change: isize) {
    place.store(place.load(Ordering::Relaxed).wrapping_add_signed(change), Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn who_waits_for_endpoints_is_woken_when_workers_can_see_them_and_not_before() {
        let state = UpstreamState::new(1);
        let mut waiting = pin!(state.renewed(state.generation()));
        let endpoint = Endpoint::new("test:80".into(), ([127, 0, 0, 1], 80).into(), 1, 1);
        state.endpoints.store(Arc::new(vec![Arc::new(endpoint)]));
        assert!(waiting.as_mut().now_or_never().is_none());
        state.changed();
        state.renewed.notify_waiters();
        assert!(waiting.now_or_never().is_some());
    }
}
