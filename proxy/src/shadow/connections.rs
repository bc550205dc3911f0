//! The open connections of all shadows together: how many there may be, what they are charged, and those that wait for the next copy.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

use super::{
    budget::{Budget, Charge},
    origin::Connection,
};

/// Connections of all shadows of the process that are open at once, idle ones included.
pub const SHADOW_CONNECTIONS: usize = 256;
/// Idle connections of one origin; more are closed.
const IDLE: usize = 64;
/// Bytes that a connection reads ahead, and so an answer's head at most: what an upstream can make it hold.
pub(super) const BUFFER: usize = 32 << 10;

/// Shared by all origins.
#[derive(Debug)]
pub(super) struct Connections {
    budget: Arc<Budget>,
    open: AtomicUsize,
    next_origin: AtomicU64,
    /// The oldest first. Held for a push, a pop or a look, in the background alone.
    idle: Mutex<VecDeque<Idle>>,
}

#[derive(Debug)]
struct Idle {
    origin: u64,
    until: Instant,
    connection: Connection,
}

/// The right to have one connection open.
#[derive(Debug)]
pub(super) struct Place {
    all: Arc<Connections>,
    _charge: Charge,
}

/// Why there is no place for one more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoPlace {
    /// As many are open as may be, and none of them is idle.
    Connections,
    /// The process has no memory left for it.
    Budget,
}

// === impl Connections ===

impl Connections {
    pub(super) fn new(budget: Arc<Budget>) -> Self {
        Self { budget, open: AtomicUsize::new(0), next_origin: AtomicU64::new(0), idle: Mutex::default() }
    }

    /// What tells a new origin's connections from others'.
    pub(super) fn origin(&self) -> u64 {
        self.next_origin.fetch_add(1, Ordering::Relaxed)
    }

    /// A place for a new one. The one that has been idle the longest makes room, whoever's it is.
    pub(super) fn enter(self: &Arc<Self>) -> Result<Place, NoPlace> {
        loop {
            let took = self.try_enter();
            let Err(why) = took else { return took };
            if self.idle().pop_front().is_none() {
                return Err(why);
            }
        }
    }

    fn try_enter(self: &Arc<Self>) -> Result<Place, NoPlace> {
        let more = |open: usize| (open < SHADOW_CONNECTIONS).then_some(open + 1);
        if self.open.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_err() {
            return Err(NoPlace::Connections);
        }
        let mut charge = Charge::new(Arc::clone(&self.budget));
        let is_charged = charge.take(BUFFER);
        // Gives back what it took when it is dropped, also here.
        let place = Place { all: Arc::clone(self), _charge: charge };
        if is_charged { Ok(place) } else { Err(NoPlace::Budget) }
    }

    /// Keeps a connection whose answer was read to the end.
    pub(super) fn keep(&self, origin: u64, connection: Connection, idle_time: Duration) {
        let mut idle = self.idle();
        let mut own = idle.iter().enumerate().filter(|(_, one)| one.origin == origin).map(|(at, _)| at);
        let (oldest, count) = (own.next(), own.count() + 1);
        if let Some(oldest) = oldest.filter(|_| count >= IDLE) {
            drop(idle.remove(oldest));
        }
        idle.push_back(Idle { origin, until: Instant::now() + idle_time, connection });
    }

    /// The one of this origin that was used last; what was idle for too long is closed, whoever's it is.
    pub(super) fn take(&self, origin: u64) -> Option<Connection> {
        let (mut idle, now) = (self.idle(), Instant::now());
        idle.retain(|one| one.until > now);
        let at = idle.iter().rposition(|one| one.origin == origin)?;
        idle.remove(at).map(|one| one.connection)
    }

    /// An origin is gone: its connections serve nobody else.
    pub(super) fn forget(&self, origin: u64) {
        self.idle().retain(|one| one.origin != origin);
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, VecDeque<Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    pub(super) fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }
}

// === impl Place ===

impl Drop for Place {
    fn drop(&mut self) {
        self.all.open.fetch_sub(1, Ordering::Relaxed);
    }
}
