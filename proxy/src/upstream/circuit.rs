//! The circuit before a modern upstream: when too much of what it is asked fails, it is left alone for a while, then tried with a few requests.
//!
//! Workers ask [`Circuit::admits`]; [`Breaker`] decides in the background, once a process.

use std::{
    collections::VecDeque,
    sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering},
    time::Duration,
};

use tokio::time::Instant;

use super::{Sum, warden::TICK};
use crate::config;

/// What a request must know of it.
#[derive(Debug, Default)]
pub(crate) struct Circuit {
    state: AtomicU8,
    /// How many requests may still try.
    probes: AtomicUsize,
    /// What it was that opened it last: failed requests, and all of them.
    opened_by: [AtomicU64; 2],
}

/// Where the circuit stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CircuitState {
    /// Requests pass.
    Closed,
    /// None passes.
    Open,
    /// A few pass, to see.
    HalfOpen,
}

/// Decides. Lives as long as the upstream's settings.
#[derive(Debug)]
pub(super) struct Breaker {
    rules: config::Circuit,
    state: CircuitState,
    /// Failures and requests of each tick of the window, the newest last.
    window: VecDeque<(u64, u64)>,
    /// What was counted when the present state began, and at the last tick.
    since: (Instant, Sum),
    last: Sum,
    /// How often it opened without having been closed in between.
    times: u32,
}

/// Why a circuit changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) to: CircuitState,
    /// Of those requests, so many failed or were too slow.
    pub(super) failed: u64,
    pub(super) requests: u64,
}

/// Reads alone may try for so long; then anything may.
const READS_FIRST: Duration = Duration::from_secs(1);
/// Requests that tried and never came back are replaced after this.
const NEW_PROBES: Duration = Duration::from_secs(5);
/// Each time that it opens again it stays open longer, up to so many times as long.
const MOST_TIMES: u32 = 6;

const HALF_OPEN_FOR_ALL: u8 = 3;

// === impl Circuit ===

impl Circuit {
    /// Whether a request may pass. `is_harmless`: should it fail, somebody else can answer it.
    pub(crate) fn admits(&self, is_harmless: bool) -> bool {
        match self.state.load(Ordering::Relaxed) {
            0 => true,
            1 => false,
            state => {
                (is_harmless || state == HALF_OPEN_FOR_ALL)
                    && self
                        .probes
                        .fetch_update(Ordering::AcqRel, Ordering::Relaxed, |probes| probes.checked_sub(1))
                        .is_ok()
            }
        }
    }

    pub(crate) fn state(&self) -> CircuitState {
        match self.state.load(Ordering::Relaxed) {
            0 => CircuitState::Closed,
            1 => CircuitState::Open,
            _ => CircuitState::HalfOpen,
        }
    }

    pub(super) fn opened_by(&self) -> (u64, u64) {
        let [failed, requests] = &self.opened_by;
        (failed.load(Ordering::Relaxed), requests.load(Ordering::Relaxed))
    }

    /// Without a circuit in the file everything passes.
    pub(super) fn close(&self) {
        self.state.store(0, Ordering::Relaxed);
    }
}

// === impl CircuitState ===

impl CircuitState {
    /// Every state, for metrics.
    pub(crate) const ALL: [Self; 3] = [Self::Closed, Self::Open, Self::HalfOpen];

    /// As metrics and `status` write it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
        }
    }
}

// === impl Breaker ===

impl Breaker {
    pub(super) fn new(rules: config::Circuit, seen: Sum, now: Instant) -> Self {
        Self { rules, state: CircuitState::Closed, window: VecDeque::new(), since: (now, seen), last: seen, times: 0 }
    }

    /// One tick: `seen` is all that was ever counted.
    pub(super) fn decide(&mut self, circuit: &Circuit, seen: Sum, now: Instant) -> Option<Change> {
        let tick = seen.since(self.last);
        self.last = seen;
        let (failed, requests, next) = match self.state {
            CircuitState::Closed => {
                let ticks = usize::try_from(self.rules.window.as_millis() / TICK.as_millis()).unwrap_or(usize::MAX);
                self.window.push_back((self.failed(tick), tick.all()));
                while self.window.len() > ticks.max(1) {
                    self.window.pop_front();
                }
                let (failed, requests) = self.window.iter().fold((0, 0), |sum, tick| (sum.0 + tick.0, sum.1 + tick.1));
                let opens = requests >= self.rules.min_requests && self.is_too_much(failed, requests);
                (failed, requests, opens.then_some(CircuitState::Open))
            }
            CircuitState::Open => {
                let times = self.times.clamp(1, MOST_TIMES);
                let is_over = now.duration_since(self.since.0) >= self.rules.open_for * times;
                (0, 0, is_over.then_some(CircuitState::HalfOpen))
            }
            CircuitState::HalfOpen => {
                let tried = seen.since(self.since.1);
                let (failed, requests) = (self.failed(tried), tried.all());
                let next = if requests < self.rules.probes {
                    self.go_on_trying(circuit, requests, now);
                    None
                } else if self.is_too_much(failed, requests) {
                    Some(CircuitState::Open)
                } else {
                    Some(CircuitState::Closed)
                };
                (failed, requests, next)
            }
        };
        let to = next?;
        if to == CircuitState::Open {
            circuit.opened_by[0].store(failed, Ordering::Relaxed);
            circuit.opened_by[1].store(requests, Ordering::Relaxed);
        }
        self.enter(to, circuit, seen, now);
        Some(Change { to, failed, requests })
    }

    fn enter(&mut self, to: CircuitState, circuit: &Circuit, seen: Sum, now: Instant) {
        self.window.clear();
        (self.state, self.since) = (to, (now, seen));
        match to {
            CircuitState::Open => self.times += 1,
            CircuitState::Closed => self.times = 0,
            CircuitState::HalfOpen => {
                circuit.probes.store(usize::try_from(self.rules.probes).unwrap_or(usize::MAX), Ordering::Relaxed);
            }
        }
        circuit.state.store(to as u8, Ordering::Release);
    }

    /// Not enough has come back yet.
    fn go_on_trying(&self, circuit: &Circuit, came: u64, now: Instant) {
        let waited = now.duration_since(self.since.0);
        if came == 0 && waited >= READS_FIRST {
            circuit.state.store(HALF_OPEN_FOR_ALL, Ordering::Relaxed);
        }
        let is_time = |waited: Duration| waited.as_millis() / NEW_PROBES.as_millis();
        if is_time(waited) > is_time(waited.saturating_sub(TICK)) {
            let missing = usize::try_from(self.rules.probes - came).unwrap_or(usize::MAX);
            circuit.probes.store(missing, Ordering::Relaxed);
        }
    }

    fn failed(&self, tick: Sum) -> u64 {
        tick.failed() + if self.rules.slower_than.is_some() { tick.slow } else { 0 }
    }

    #[expect(clippy::cast_precision_loss, reason = "a share needs no more than 52 bits")]
    fn is_too_much(&self, failed: u64, requests: u64) -> bool {
        failed > 0 && failed as f64 * 100.0 >= requests as f64 * self.rules.failures.percent()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(ok: u64, error: u64) -> Sum {
        Sum { ok, error, ..Sum::default() }
    }

    struct Test {
        circuit: Circuit,
        breaker: Breaker,
        now: Instant,
    }

    impl Test {
        fn new() -> Self {
            let rules = serde_json::from_str("{}").unwrap();
            let now = Instant::now();
            Self { circuit: Circuit::default(), breaker: Breaker::new(rules, Sum::default(), now), now }
        }

        fn after(&mut self, time: Duration, seen: Sum) -> Option<CircuitState> {
            self.now += time;
            self.breaker.decide(&self.circuit, seen, self.now).map(|change| change.to)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn it_opens_by_share_and_not_below_the_least_number_of_requests() {
        let mut test = Test::new();
        assert_eq!(test.after(TICK, sum(0, 19)), None);
        assert_eq!(test.after(TICK, sum(21, 20)), None);
        assert_eq!(test.after(TICK, sum(21, 21)), Some(CircuitState::Open));
        assert!(!test.circuit.admits(true));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_older_than_the_window_does_not_count() {
        let mut test = Test::new();
        test.after(TICK, sum(0, 19));
        for _ in 0..100 {
            assert_eq!(test.after(TICK, sum(0, 19)), None);
        }
        assert_eq!(test.after(TICK, sum(1, 20)), None);
    }

    #[tokio::test(start_paused = true)]
    async fn reads_try_first_and_close_it_or_open_it_for_longer() {
        let mut test = Test::new();
        let open_for = test.breaker.rules.open_for;
        assert_eq!(test.after(TICK, sum(0, 20)), Some(CircuitState::Open));
        assert_eq!(test.after(open_for, sum(0, 20)), Some(CircuitState::HalfOpen));
        assert!(!test.circuit.admits(false));
        assert_eq!((0..9).filter(|_| test.circuit.admits(true)).count(), 5);
        assert_eq!(test.after(TICK, sum(2, 23)), Some(CircuitState::Open));
        assert_eq!(test.after(open_for, sum(2, 23)), None);
        assert_eq!(test.after(open_for, sum(2, 23)), Some(CircuitState::HalfOpen));
        assert_eq!(test.after(TICK, sum(7, 23)), Some(CircuitState::Closed));
        assert!(test.circuit.admits(false));
    }

    #[tokio::test(start_paused = true)]
    async fn where_no_read_comes_anything_may_try_and_who_never_comes_back_is_replaced() {
        let mut test = Test::new();
        test.after(TICK, sum(0, 20));
        test.after(test.breaker.rules.open_for, sum(0, 20));
        assert_eq!(test.after(READS_FIRST, sum(0, 20)), None);
        assert_eq!((0..9).filter(|_| test.circuit.admits(false)).count(), 5);
        assert_eq!(test.after(NEW_PROBES - READS_FIRST, sum(1, 20)), None);
        assert_eq!((0..9).filter(|_| test.circuit.admits(true)).count(), 4);
    }
}
