//! One address of an upstream, as all workers and the background see it.

use std::{
    net::SocketAddr,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use super::per_worker::PerWorker;

/// What a request must know of an address. Kept as long as the address is, over reloads and look-ups.
#[derive(Debug)]
pub(crate) struct Endpoint {
    /// `host:port` of the file.
    pub(crate) authority: Arc<str>,
    pub(crate) address: SocketAddr,
    weight: AtomicU32,
    /// By worker, each written by that one alone.
    in_flight: PerWorker<Place>,
    /// [`UNHEALTHY`] and [`EJECTED`].
    standing: AtomicU8,
    /// Errors in a row, over all workers.
    errors: AtomicU32,
    /// When it came, or came back, in milliseconds of the process; 0 once it is warm.
    came: AtomicU64,
}

/// A worker's own cache line.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Place(AtomicUsize);

const UNHEALTHY: u8 = 1;
const EJECTED: u8 = 2;
/// An endpoint that has just come gets at least this share of its weight, in percent.
const LEAST_WARMTH: u64 = 10;

static BEGAN: LazyLock<Instant> = LazyLock::new(Instant::now);

// === impl Endpoint ===

impl Endpoint {
    pub(super) fn new(authority: Arc<str>, address: SocketAddr, weight: u32, workers: usize) -> Self {
        Self {
            authority,
            address,
            weight: AtomicU32::new(weight),
            in_flight: PerWorker::new(workers),
            standing: AtomicU8::new(0),
            errors: AtomicU32::new(0),
            came: AtomicU64::new(0),
        }
    }

    // --- what a worker says and asks

    pub(super) fn began(&self, worker: usize) {
        let place = &self.in_flight.of(worker).0;
        place.store(place.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
    }

    pub(super) fn ended(&self, worker: usize) {
        let place = &self.in_flight.of(worker).0;
        place.store(place.load(Ordering::Relaxed).wrapping_sub(1), Ordering::Relaxed);
    }

    /// Requests under way, over all workers.
    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight.sum(|place| place.0.load(Ordering::Relaxed))
    }

    pub(crate) fn weight(&self) -> u32 {
        self.weight.load(Ordering::Relaxed)
    }

    /// Its weight in hundredths, less while it is warming up.
    pub(super) fn hundredths(&self, slow_start: Duration) -> u64 {
        let weight = u64::from(self.weight());
        match self.came.load(Ordering::Relaxed) {
            0 => weight * 100,
            came => weight * warmth(uptime().saturating_sub(came), slow_start),
        }
    }

    pub(super) fn is_warming(&self) -> bool {
        self.came.load(Ordering::Relaxed) != 0
    }

    /// Whether it is in turn: neither unhealthy nor ejected.
    pub(crate) fn is_usable(&self) -> bool {
        self.standing.load(Ordering::Relaxed) == 0
    }

    /// How an exchange ended. A row of good ones writes nothing.
    pub(super) fn answered(&self, well: bool) {
        if !well {
            self.errors.fetch_add(1, Ordering::Relaxed);
        } else if self.errors.load(Ordering::Relaxed) != 0 {
            self.errors.store(0, Ordering::Relaxed);
        }
    }

    // --- what the background decides

    pub(super) fn errors(&self) -> u32 {
        self.errors.load(Ordering::Relaxed)
    }

    pub(crate) fn is_unhealthy(&self) -> bool {
        self.standing.load(Ordering::Relaxed) & UNHEALTHY != 0
    }

    pub(super) fn set_unhealthy(&self, unhealthy: bool, slowly: bool) {
        self.stands(UNHEALTHY, unhealthy, slowly);
    }

    pub(super) fn set_ejected(&self, ejected: bool, slowly: bool) {
        self.errors.store(0, Ordering::Relaxed);
        self.stands(EJECTED, ejected, slowly);
    }

    fn stands(&self, bit: u8, is_set: bool, slowly: bool) {
        if is_set {
            self.standing.fetch_or(bit, Ordering::Relaxed);
        } else {
            self.standing.fetch_and(!bit, Ordering::Relaxed);
            if slowly {
                self.warms();
            }
        }
    }

    pub(super) fn set_weight(&self, weight: u32) {
        self.weight.store(weight, Ordering::Relaxed);
    }

    /// It came, or came back: its share grows from now on.
    pub(super) fn warms(&self) {
        self.came.store(uptime().max(1), Ordering::Relaxed);
    }

    /// Ends the slow start once it is over.
    pub(super) fn warmed(&self, slow_start: Duration) {
        let came = self.came.load(Ordering::Relaxed);
        if came != 0 && warmth(uptime().saturating_sub(came), slow_start) >= 100 {
            self.came.store(0, Ordering::Relaxed);
        }
    }
}

/// Percent of the weight that holds so long after it came.
fn warmth(millis: u64, slow_start: Duration) -> u64 {
    let whole = u64::try_from(slow_start.as_millis()).unwrap_or(u64::MAX);
    if millis >= whole { 100 } else { (millis * 100 / whole).max(LEAST_WARMTH) }
}

/// Milliseconds since the first one who asked.
fn uptime() -> u64 {
    u64::try_from(BEGAN.elapsed().as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_start_begins_at_a_tenth_and_ends_at_all_of_it() {
        let slow = Duration::from_secs(10);
        assert_eq!([0, 500, 5_000, 9_900, 10_000, 90_000].map(|at| warmth(at, slow)), [10, 10, 50, 99, 100, 100]);
        assert_eq!(warmth(0, Duration::ZERO), 100);
    }
}
