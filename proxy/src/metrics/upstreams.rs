//! Upstreams when `/metrics` is read: what the workers count of them, and what is decided about them.

use std::{collections::BTreeMap, sync::Arc};

use prometheus::{
    core::{Collector, Desc},
    proto,
};

use super::{
    LABEL_EVENT, LABEL_OUTCOME, LABEL_REASON, LABEL_STATE, LABEL_UPSTREAM, UPSTREAM_CIRCUIT, UPSTREAM_CONNECTIONS,
    UPSTREAM_ENDPOINTS, UPSTREAM_EVENTS, UPSTREAM_IN_FLIGHT, UPSTREAM_LIMIT, UPSTREAM_QUEUED, UPSTREAM_REFUSED,
    UPSTREAM_RETRIES,
    collector::{Families, Family, descs},
};
use crate::{
    listen::Shared,
    upstream::{CircuitState, EndpointState, UpstreamSpec, UpstreamState, UpstreamStatus},
};

/// Renders the upstreams of the file in force.
pub(crate) struct Upstreams {
    shared: Arc<Shared>,
    descs: Vec<Desc>,
}

const GAUGE: proto::MetricType = proto::MetricType::GAUGE;
const COUNTER: proto::MetricType = proto::MetricType::COUNTER;

const FAMILIES: [Family; 9] = [
    (UPSTREAM_IN_FLIGHT, "Requests under way, from the head to the end of the answer", GAUGE, &[LABEL_UPSTREAM]),
    (UPSTREAM_CONNECTIONS, "Open connections, idle ones and tunnels among them", GAUGE, &[LABEL_UPSTREAM]),
    (UPSTREAM_QUEUED, "Requests that wait for a place", GAUGE, &[LABEL_UPSTREAM]),
    (UPSTREAM_LIMIT, "How many requests may be under way", GAUGE, &[LABEL_UPSTREAM]),
    (UPSTREAM_REFUSED, "Requests that were kept from an upstream, by reason", COUNTER, &[LABEL_UPSTREAM, LABEL_REASON]),
    (
        UPSTREAM_RETRIES,
        "Requests that went to the same upstream again, or not any more",
        COUNTER,
        &[LABEL_UPSTREAM, LABEL_OUTCOME],
    ),
    (UPSTREAM_ENDPOINTS, "Endpoints by state", GAUGE, &[LABEL_UPSTREAM, LABEL_STATE]),
    (UPSTREAM_CIRCUIT, "1 for the state that the circuit is in", GAUGE, &[LABEL_UPSTREAM, LABEL_STATE]),
    (UPSTREAM_EVENTS, "What happened, by event", COUNTER, &[LABEL_UPSTREAM, LABEL_EVENT]),
];

// === impl Upstreams ===

impl Upstreams {
    pub(crate) fn new(shared: Arc<Shared>) -> prometheus::Result<Self> {
        Ok(Self { shared, descs: descs(&FAMILIES)? })
    }
}

impl Collector for Upstreams {
    fn desc(&self) -> Vec<&Desc> {
        self.descs.iter().collect()
    }

    fn collect(&self) -> Vec<proto::MetricFamily> {
        let mut families = Families(BTreeMap::new());
        for spec in &self.shared.current.load().upstreams {
            render(spec, &self.shared.upstream_state(&spec.name), &mut families);
        }
        families.into_proto(&FAMILIES)
    }
}

#[expect(clippy::cast_precision_loss, reason = "Prometheus counts in doubles")]
fn render(spec: &UpstreamSpec, state: &UpstreamState, families: &mut Families) {
    let name = (LABEL_UPSTREAM, spec.name.as_str());
    let now = UpstreamStatus::of(spec, state);
    families.gauge(UPSTREAM_IN_FLIGHT, &[name], now.in_flight as f64);
    families.gauge(UPSTREAM_CONNECTIONS, &[name], now.connections as f64);
    if spec.limits.is_some() {
        families.gauge(UPSTREAM_QUEUED, &[name], now.queued as f64);
    }
    if let Some(limit) = now.limit {
        families.gauge(UPSTREAM_LIMIT, &[name], limit as f64);
    }
    let sum = state.sum();
    let refused = [("queue_full", sum.queue_full), ("queue_time", sum.queue_late), ("circuit_open", sum.circuit_open)];
    for (reason, count) in refused {
        families.counter_from_zero(UPSTREAM_REFUSED, &[name, (LABEL_REASON, reason)], count);
    }
    for (outcome, count) in [("sent", sum.retried), ("over_budget", sum.retries_refused)] {
        families.counter_from_zero(UPSTREAM_RETRIES, &[name, (LABEL_OUTCOME, outcome)], count);
    }
    for one in EndpointState::ALL {
        let count = now.endpoints.iter().filter(|endpoint| endpoint.state == one).count();
        families.gauge(UPSTREAM_ENDPOINTS, &[name, (LABEL_STATE, one.as_str())], count as f64);
    }
    if let Some(circuit) = now.circuit {
        for one in CircuitState::ALL {
            let is_it = f64::from(u8::from(one == circuit));
            families.gauge(UPSTREAM_CIRCUIT, &[name, (LABEL_STATE, one.as_str())], is_it);
        }
    }
    for (event, count) in state.events.each() {
        families.counter_from_zero(UPSTREAM_EVENTS, &[name, (LABEL_EVENT, event)], count);
    }
}
