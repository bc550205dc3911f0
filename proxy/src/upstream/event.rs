//! What happens to an upstream, once: one line in the log and one count, together. Written by the background alone.

use std::sync::atomic::{AtomicU64, Ordering};

use super::circuit::Change;

/// Something that happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Event<'e> {
    /// Not one request was answered any more.
    Down,
    /// The first answer after that.
    Up,
    /// It failed its checks.
    Unhealthy(&'e str),
    /// It passes them again.
    Healthy(&'e str),
    /// So many errors in a row.
    Ejected(&'e str, u32),
    /// Its time is over.
    Returned(&'e str),
    CircuitOpened(Change),
    CircuitTries,
    CircuitClosed,
}

/// How often each kind happened.
#[derive(Debug, Default)]
pub(crate) struct Events([AtomicU64; NAMES.len()]);

/// The values of the label.
pub(crate) const NAMES: [&str; 9] = [
    "down",
    "up",
    "unhealthy",
    "healthy",
    "ejected",
    "returned",
    "circuit_opened",
    "circuit_half_open",
    "circuit_closed",
];

// === impl Event ===

impl Event<'_> {
    fn place(self) -> usize {
        match self {
            Self::Down => 0,
            Self::Up => 1,
            Self::Unhealthy(_) => 2,
            Self::Healthy(_) => 3,
            Self::Ejected(..) => 4,
            Self::Returned(_) => 5,
            Self::CircuitOpened(_) => 6,
            Self::CircuitTries => 7,
            Self::CircuitClosed => 8,
        }
    }

    /// Writes the line and counts.
    pub(super) fn tell(self, upstream: &str, events: &Events) {
        events.0[self.place()].fetch_add(1, Ordering::Relaxed);
        match self {
            Self::Down => tracing::error!(upstream, "upstream is down: no request is answered"),
            Self::Up => tracing::info!(upstream, "upstream is up: requests are answered again"),
            Self::Unhealthy(endpoint) => tracing::warn!(upstream, endpoint, "endpoint failed its health checks"),
            Self::Healthy(endpoint) => tracing::info!(upstream, endpoint, "endpoint passes its health checks again"),
            Self::Ejected(endpoint, errors) => {
                tracing::warn!(upstream, endpoint, errors, "ejected an endpoint: errors in a row");
            }
            Self::Returned(endpoint) => tracing::info!(upstream, endpoint, "an ejected endpoint is in turn again"),
            Self::CircuitOpened(Change { failed, requests, .. }) => {
                tracing::error!(upstream, failed, requests, "circuit opened: what may goes to legacy");
            }
            Self::CircuitTries => tracing::info!(upstream, "circuit half open: a few requests try"),
            Self::CircuitClosed => tracing::info!(upstream, "circuit closed: requests pass again"),
        }
    }
}

// === impl Events ===

impl Events {
    /// Name and count of each kind.
    pub(crate) fn each(&self) -> impl Iterator<Item = (&'static str, u64)> {
        NAMES.into_iter().zip(self.0.iter().map(|count| count.load(Ordering::Relaxed)))
    }
}
