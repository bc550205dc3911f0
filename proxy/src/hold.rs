//! Holds the writes of one sync while its owner moves: new ones wait, bounded in number, bytes and time; those under way are counted, so that
//! whoever moves the owner knows when none is left.
//!
//! Shared by all workers and by whoever moves the owner. A write that is not held costs two additions and a load.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use serde::Serialize;
use tokio::sync::{Notify, watch};

/// The writes of one sync. Lives as long as its link.
#[derive(Debug, Default)]
pub struct Hold {
    is_held: AtomicBool,
    under_way: AtomicUsize,
    /// Bounds and end of the hold in force.
    terms: Mutex<Option<(HoldLimits, Instant)>>,
    /// Told when a hold begins or ends, and when the owner moves.
    changes: watch::Sender<()>,
    /// Told when nothing is under way any more.
    drained: Notify,
    waiting: AtomicUsize,
    waiting_bytes: AtomicUsize,
    outcomes: [AtomicU64; 4],
}

/// How much a hold takes on, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HoldLimits {
    /// Requests that wait at once.
    pub writes: usize,
    /// Their heads and what of their bodies may be in memory.
    pub bytes: usize,
    /// From its begin; afterwards who waits is answered 503, and so is every new write.
    pub time: Duration,
}

/// A hold in force. Ends when it is dropped: then who waits goes to whoever owns the sync by then.
#[derive(Debug)]
#[must_use = "a hold ends when it is dropped"]
pub struct Held(Arc<Hold>);

/// What became of a write that was held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HoldOutcome {
    /// It went to the owner.
    Released,
    /// The hold's time was over, or its route's deadline: 503, 504.
    Late,
    /// Too many waited already: 503.
    Full,
    /// Its client went away, or said that it sends no more; nothing was sent anywhere.
    Left,
}

/// What `status` shows of a sync's writes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct HoldStatus {
    /// New writes wait.
    pub is_held: bool,
    /// Writes that wait now.
    pub held: usize,
    /// Writes that were sent to the owner and are not answered to their end.
    pub under_way: usize,
}

/// A write that may go to the owner; counted until it is dropped.
#[derive(Debug)]
pub(crate) struct UnderWay(Arc<Hold>);

/// A write that waits.
pub(crate) struct Waiting {
    hold: Arc<Hold>,
    bytes: usize,
    outcome: HoldOutcome,
    until: Instant,
}

// === impl HoldLimits ===

impl Default for HoldLimits {
    fn default() -> Self {
        Self { writes: 1000, bytes: 16 << 20, time: Duration::from_secs(5) }
    }
}

// === impl Hold ===

impl Hold {
    /// From now on new writes wait. One hold at a time: none when one is in force.
    pub fn begin(self: &Arc<Self>, limits: HoldLimits) -> Option<Held> {
        let mut terms = self.terms();
        if terms.is_some() {
            return None;
        }
        *terms = Some((limits, Instant::now() + limits.time));
        drop(terms);
        self.is_held.store(true, Ordering::SeqCst);
        self.changed();
        Some(Held(Arc::clone(self)))
    }

    /// To be called when the owner has moved: tunnels look again.
    pub fn changed(&self) {
        self.changes.send_replace(());
    }

    /// What it does now.
    #[must_use]
    pub fn status(&self) -> HoldStatus {
        HoldStatus {
            is_held: self.is_held.load(Ordering::Relaxed),
            held: self.waiting.load(Ordering::Relaxed),
            under_way: self.under_way.load(Ordering::Relaxed),
        }
    }

    /// Hears of every change from now on.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }

    /// A write begins, unless it must wait.
    pub(crate) fn enter(self: &Arc<Self>) -> Option<UnderWay> {
        // Counted first: whoever holds afterwards sees it, or it sees the hold.
        self.under_way.fetch_add(1, Ordering::SeqCst);
        let under_way = UnderWay(Arc::clone(self));
        (!self.is_held.load(Ordering::SeqCst)).then_some(under_way)
    }

    /// A write that may not begin waits, if there is room and time.
    pub(crate) fn wait(self: &Arc<Self>, bytes: usize) -> Option<Waiting> {
        let Some((limits, until)) = *self.terms() else {
            // It has ended meanwhile: the first look will tell.
            return Some(Waiting::new(self, bytes, Instant::now() + Duration::from_secs(1)));
        };
        if Instant::now() >= until {
            self.count(HoldOutcome::Late);
            return None;
        }
        let waiting = Waiting::new(self, bytes, until);
        let (writes, bytes) = (self.waiting.load(Ordering::Relaxed), self.waiting_bytes.load(Ordering::Relaxed));
        if writes > limits.writes || bytes > limits.bytes {
            waiting.ends(HoldOutcome::Full);
            return None;
        }
        Some(waiting)
    }

    pub(crate) fn ended(&self, outcome: HoldOutcome) -> u64 {
        self.outcomes[outcome as usize].load(Ordering::Relaxed)
    }

    fn count(&self, outcome: HoldOutcome) {
        self.outcomes[outcome as usize].fetch_add(1, Ordering::Relaxed);
    }

    fn terms(&self) -> std::sync::MutexGuard<'_, Option<(HoldLimits, Instant)>> {
        self.terms.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Held ===

impl Held {
    /// Comes back when no write that began before the hold is under way here: the acknowledgement of this replica.
    pub async fn drained(&self) {
        while self.0.under_way.load(Ordering::SeqCst) > 0 {
            self.0.drained.notified().await;
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        *self.0.terms() = None;
        self.0.is_held.store(false, Ordering::SeqCst);
        self.0.changed();
    }
}

// === impl UnderWay ===

impl Drop for UnderWay {
    fn drop(&mut self) {
        if self.0.under_way.fetch_sub(1, Ordering::SeqCst) == 1 && self.0.is_held.load(Ordering::SeqCst) {
            self.0.drained.notify_one();
        }
    }
}

// === impl Waiting ===

impl Waiting {
    fn new(hold: &Arc<Hold>, bytes: usize, until: Instant) -> Self {
        hold.waiting.fetch_add(1, Ordering::Relaxed);
        hold.waiting_bytes.fetch_add(bytes, Ordering::Relaxed);
        // Who is dropped while it waits has left.
        Self { hold: Arc::clone(hold), bytes, outcome: HoldOutcome::Left, until }
    }

    /// When it is over.
    pub(crate) fn until(&self) -> Instant {
        self.until
    }

    pub(crate) fn ends(mut self, outcome: HoldOutcome) {
        self.outcome = outcome;
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.hold.waiting.fetch_sub(1, Ordering::Relaxed);
        self.hold.waiting_bytes.fetch_sub(self.bytes, Ordering::Relaxed);
        self.hold.count(self.outcome);
    }
}

// === impl HoldOutcome ===

impl HoldOutcome {
    pub(crate) const ALL: [Self; 4] = [Self::Released, Self::Late, Self::Full, Self::Left];

    /// The label's value.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Released => "released",
            Self::Late => "late",
            Self::Full => "full",
            Self::Left => "left",
        }
    }
}
