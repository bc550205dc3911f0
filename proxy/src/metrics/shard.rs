//! What one worker counts for one route. Written by that worker alone with plain loads and stores, read by anybody.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, LazyLock, Mutex, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use http::StatusCode;

use super::{Histogram, judged::Judged};
use crate::{links::Owner, split::Moved};

/// A count with one writer: no locked instruction.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

/// The moment from which [`RouteShard::last`] counts, on both clocks: the answering path reads the one that it has read anyway.
static BEGAN: LazyLock<(Instant, SystemTime)> = LazyLock::new(|| (Instant::now(), SystemTime::now()));

/// Who answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answerer {
    Side(Owner),
    Banyan,
}

/// What became of one attempt at one side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// An answer below 500.
    Ok,
    /// A 5xx, a reset, a broken answer.
    Error,
    /// No connection or no answer in time.
    Timeout,
    /// No connection.
    Refused,
    /// The client went away first.
    Cancelled,
}

/// How it became known who a request with credentials comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Identified {
    /// It was known, also that it is nobody.
    Hit,
    /// It had to be asked: somebody.
    Asked,
    /// The same: nobody.
    Nobody,
    /// It did not: there was no answer, now or a moment ago.
    Failed,
}

/// One worker's counts of one route.
#[derive(Debug, Default)]
pub(crate) struct RouteShard {
    pub(super) answered: [Answered; 3],
    pub(super) attempts: [[Counter; Outcome::ALL.len()]; 2],
    pub(super) moves: [Counter; Moved::ALL.len()],
    pub(super) stale: Counter,
    pub(super) limited: Counter,
    pub(super) identified: [Counter; Identified::ALL.len()],
    /// Tunnels, by side.
    pub(super) opened: [Counter; 2],
    pub(super) closed: [Counter; 2],
    /// Found on the other side, and not found there either.
    pub(super) elsewhere: [Counter; 2],
    pub(crate) overhead: Histogram,
    /// Only of a route with a rollout.
    pub(super) judged: OnceLock<Box<Judged>>,
    /// When the newest answer ended, in seconds since [`BEGAN`] and one more; 0 before the first.
    pub(super) last: Counter,
}

#[derive(Debug, Default)]
pub(super) struct Answered {
    pub(super) codes: Codes,
    pub(super) duration: Histogram,
}

/// Counts by status. A hundred at a time, made when the first of them is seen: a route that answers 200, 302 and 404 takes 2.4 KiB.
#[derive(Debug, Default)]
pub(super) struct Codes {
    hundreds: [OnceLock<Box<[Counter; 100]>>; 5],
    other: Counter,
}

/// All shards of all workers, by route name: counts survive a reload.
#[derive(Debug, Default)]
pub(crate) struct Shards {
    by_route: Mutex<BTreeMap<Arc<str>, Vec<Arc<RouteShard>>>>,
}

// === impl Counter ===

impl Counter {
    /// Only the thread that owns the shard may call this.
    pub(crate) fn add(&self, count: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(count), Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Only the thread that owns the shard may call this.
    fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }
}

// === impl Answerer ===

impl Answerer {
    pub(super) const ALL: [Self; 3] = [Self::Side(Owner::Legacy), Self::Side(Owner::Modern), Self::Banyan];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Side(side) => side.as_str(),
            Self::Banyan => "banyan",
        }
    }

    pub(super) fn index(self) -> usize {
        match self {
            Self::Side(side) => side_index(side),
            Self::Banyan => 2,
        }
    }
}

pub(super) fn side_index(side: Owner) -> usize {
    match side {
        Owner::Legacy => 0,
        Owner::Modern => 1,
    }
}

// === impl Outcome ===

impl Outcome {
    pub(super) const ALL: [Self; 5] = [Self::Ok, Self::Error, Self::Timeout, Self::Refused, Self::Cancelled];

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Error => "error",
            Self::Timeout => "timeout",
            Self::Refused => "refused",
            Self::Cancelled => "cancelled",
        }
    }
}

// === impl Identified ===

impl Identified {
    pub(super) const ALL: [Self; 4] = [Self::Hit, Self::Asked, Self::Nobody, Self::Failed];

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Asked => "asked",
            Self::Nobody => "nobody",
            Self::Failed => "failed",
        }
    }
}

// === impl RouteShard ===

impl RouteShard {
    /// An answer has ended; `began` is when its request did.
    pub(crate) fn answered(&self, by: Answerer, status: StatusCode, began: Instant, took: Duration) {
        let answered = &self.answered[by.index()];
        answered.codes.count(status).add(1);
        answered.duration.observe(took);
        // In whole seconds: anything finer would be a division.
        self.last.set((began + took).saturating_duration_since(BEGAN.0).as_secs().saturating_add(1));
    }

    pub(crate) fn attempt(&self, side: Owner, outcome: Outcome) {
        self.attempts[side_index(side)][outcome as usize].add(1);
    }

    /// An attempt that a rollout is judged by.
    pub(crate) fn judge(&self, side: Owner, outcome: Outcome, took: Duration) {
        self.judged.get_or_init(Box::default).count(side, outcome, took);
    }

    /// An attempt that seemed well, and whose answer then broke off.
    pub(crate) fn judge_spoiled(&self, side: Owner) {
        self.judged.get_or_init(Box::default).spoiled(side);
    }

    pub(crate) fn moved(&self, why: Moved) {
        self.moves[why as usize].add(1);
    }

    /// A read was asked of the other side too, since the first had not got it.
    pub(crate) fn looked_elsewhere(&self, found: bool) {
        self.elsewhere[usize::from(!found)].add(1);
    }

    /// A request whose key made too many.
    pub(crate) fn rate_limited(&self) {
        self.limited.add(1);
    }

    /// A request with credentials, where `identity` says whom to ask.
    pub(crate) fn identified(&self, outcome: Identified) {
        self.identified[outcome as usize].add(1);
    }

    pub(crate) fn tunnel_opened(&self, side: Owner) {
        self.opened[side_index(side)].add(1);
    }

    pub(crate) fn tunnel_closed(&self, side: Owner) {
        self.closed[side_index(side)].add(1);
    }

    /// A read that the side which does not own the rows answered in fallback.
    pub(crate) fn answered_stale(&self) {
        self.stale.add(1);
    }
}

// === impl Codes ===

impl Codes {
    fn count(&self, status: StatusCode) -> &Counter {
        let code = usize::from(status.as_u16());
        match self.hundreds.get((code / 100).wrapping_sub(1)) {
            Some(hundred) => {
                let hundred = hundred.get_or_init(|| Box::new(std::array::from_fn(|_| Counter::default())));
                &hundred[code % 100]
            }
            None => &self.other,
        }
    }

    /// Every status that was seen, with `None` for those outside 100–599.
    pub(super) fn seen(&self) -> impl Iterator<Item = (Option<usize>, u64)> {
        let known = self.hundreds.iter().enumerate().flat_map(|(hundred, counts)| {
            let counts = counts.get().into_iter().flat_map(|counts| counts.iter().enumerate());
            counts.map(move |(rest, count)| (Some((hundred + 1) * 100 + rest), count.get()))
        });
        known.chain([(None, self.other.get())]).filter(|(_, count)| *count > 0)
    }
}

// === impl Shards ===

impl Shards {
    /// The shard of one worker for one route; made on first sight.
    pub(crate) fn of(&self, worker: usize, route: &Arc<str>) -> Arc<RouteShard> {
        let mut by_route = self.by_route.lock().unwrap_or_else(PoisonError::into_inner);
        let workers = by_route.entry(Arc::clone(route)).or_default();
        while workers.len() <= worker {
            workers.push(Arc::default());
        }
        Arc::clone(&workers[worker])
    }

    /// Calls back with every route and its shards.
    pub(super) fn each(&self, mut visit: impl FnMut(&str, &[Arc<RouteShard>])) {
        let by_route = self.by_route.lock().unwrap_or_else(PoisonError::into_inner);
        for (route, workers) in by_route.iter() {
            visit(route, workers);
        }
    }

    /// Forgets routes that the file has no more. What is still under way for one counts nowhere, and one that comes back begins at zero.
    pub(crate) fn keep(&self, is_kept: impl Fn(&str) -> bool) {
        let mut by_route = self.by_route.lock().unwrap_or_else(PoisonError::into_inner);
        by_route.retain(|route, _| is_kept(route));
    }

    /// The shards of one route, for `status`.
    pub(super) fn workers(&self, route: &str) -> Vec<Arc<RouteShard>> {
        let by_route = self.by_route.lock().unwrap_or_else(PoisonError::into_inner);
        by_route.get(route).cloned().unwrap_or_default()
    }
}

/// Seconds since 1970 of what [`RouteShard::last`] holds; `None` where that is no moment.
pub(super) fn last_to_unix(last: u64) -> Option<u64> {
    let at = BEGAN.1 + Duration::from_secs(last.checked_sub(1)?);
    at.duration_since(UNIX_EPOCH).ok().map(|since| since.as_secs())
}
