//! What `status` shows of an upstream.

use std::sync::Arc;

use serde::Serialize;

use super::{CircuitState, Endpoint, UpstreamSpec, UpstreamState};

/// One upstream.
#[derive(Debug, Clone, Serialize)]
pub struct UpstreamStatus {
    /// Its name.
    pub name: String,
    /// Requests under way, from the head to the end of the answer.
    pub in_flight: usize,
    /// Open connections, idle ones among them.
    pub connections: usize,
    /// Requests that wait for a place.
    pub queued: usize,
    /// How many requests may be under way now; `None` without a limit.
    pub limit: Option<usize>,
    /// Not one request was answered any more.
    pub is_down: bool,
    /// Its circuit; `None` without one.
    pub circuit: Option<CircuitState>,
    /// Why the circuit is not closed: failed requests, and all of them, when it opened last.
    pub circuit_failed: Option<(u64, u64)>,
    /// In the file's order; of a name, every address.
    pub endpoints: Vec<EndpointStatus>,
}

/// One address.
#[derive(Debug, Clone, Serialize)]
pub struct EndpointStatus {
    /// `host:port` of the file.
    pub endpoint: String,
    /// What it was looked up to be, or the same.
    pub address: String,
    /// Its share against the others.
    pub weight: u32,
    /// Requests under way.
    pub in_flight: usize,
    /// Whether it gets requests.
    pub state: EndpointState,
}

/// Whether an endpoint gets requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum EndpointState {
    /// It does.
    Up,
    /// It failed its checks.
    Unhealthy,
    /// Too many errors in a row.
    Ejected,
}

// === impl UpstreamStatus ===

impl UpstreamStatus {
    pub(crate) fn of(spec: &UpstreamSpec, state: &UpstreamState) -> Self {
        let (in_flight, connections) = state.busy();
        let circuit = spec.circuit.as_ref().map(|_| state.circuit.state());
        Self {
            name: spec.name.clone(),
            in_flight,
            connections,
            queued: state.in_flight.queued() + state.in_use.queued(),
            limit: spec.limits_in_flight().then(|| state.in_flight.size()),
            is_down: state.is_down(),
            circuit,
            circuit_failed: circuit.filter(|state| *state != CircuitState::Closed).map(|_| state.circuit.opened_by()),
            endpoints: state.endpoints().iter().map(EndpointStatus::of).collect(),
        }
    }

    /// Why its routes' modern side does not get what it should, in a few words.
    #[must_use]
    pub fn why(&self) -> Option<String> {
        let state = self.circuit.filter(|state| *state != CircuitState::Closed)?;
        let (failed, requests) = self.circuit_failed?;
        Some(format!("circuit {}: {failed} of {requests} failed", state.as_str().replace('_', " ")))
    }
}

// === impl EndpointStatus ===

impl EndpointStatus {
    fn of(endpoint: &Arc<Endpoint>) -> Self {
        Self {
            endpoint: endpoint.authority.to_string(),
            address: endpoint.address.to_string(),
            weight: endpoint.weight(),
            in_flight: endpoint.in_flight(),
            state: EndpointState::of(endpoint),
        }
    }
}

// === impl EndpointState ===

impl EndpointState {
    /// Every state, for metrics.
    pub(crate) const ALL: [Self; 3] = [Self::Up, Self::Unhealthy, Self::Ejected];

    pub(crate) fn of(endpoint: &Endpoint) -> Self {
        match () {
            () if endpoint.is_unhealthy() => Self::Unhealthy,
            () if endpoint.is_usable() => Self::Up,
            () => Self::Ejected,
        }
    }

    /// As metrics and `status` write it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Unhealthy => "unhealthy",
            Self::Ejected => "ejected",
        }
    }
}
