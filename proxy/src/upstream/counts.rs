//! What a worker counts of an upstream, for those who decide in the background.

use std::time::Duration;

use crate::metrics::Counter;

/// What became of one exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Heard {
    /// An answer below 500.
    Ok,
    /// A 5xx.
    Error,
    /// A connection, and no answer that can be used: a reset, none in time, no HTTP.
    Lost,
    /// No connection.
    Refused,
}

/// One worker's counts, written by it alone.
#[derive(Debug, Default)]
pub(super) struct Counts {
    heard: [Counter; 4],
    /// Of those heard, with `circuit.slower_than`: good, but late.
    slow: Counter,
    /// With an adaptive limit: how many heads of answers came, and how long they took, in microseconds.
    timed: Counter,
    micros: Counter,
    pub(super) retried: Counter,
    pub(super) retries_refused: Counter,
    pub(super) queue_full: Counter,
    pub(super) queue_late: Counter,
    pub(super) circuit_open: Counter,
}

/// The counts of all workers, since the start or between two looks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Sum {
    pub(crate) ok: u64,
    pub(crate) error: u64,
    pub(crate) lost: u64,
    pub(crate) refused: u64,
    pub(crate) slow: u64,
    pub(crate) timed: u64,
    pub(crate) micros: u64,
    pub(crate) retried: u64,
    pub(crate) retries_refused: u64,
    pub(crate) queue_full: u64,
    pub(crate) queue_late: u64,
    pub(crate) circuit_open: u64,
}

// === impl Counts ===

impl Counts {
    pub(super) fn heard(&self, heard: Heard) {
        self.heard[heard as usize].add(1);
    }

    /// The head of an answer came after so long.
    pub(super) fn took(&self, time: Duration, slower_than: Option<Duration>, is_ok: bool) {
        self.timed.add(1);
        self.micros.add(u64::try_from(time.as_micros()).unwrap_or_default());
        if is_ok && slower_than.is_some_and(|slower| time > slower) {
            self.slow.add(1);
        }
    }
}

// === impl Sum ===

impl Sum {
    pub(super) fn add(&mut self, counts: &Counts) {
        self.ok += counts.heard[Heard::Ok as usize].get();
        self.error += counts.heard[Heard::Error as usize].get();
        self.lost += counts.heard[Heard::Lost as usize].get();
        self.refused += counts.heard[Heard::Refused as usize].get();
        self.slow += counts.slow.get();
        self.timed += counts.timed.get();
        self.micros += counts.micros.get();
        self.retried += counts.retried.get();
        self.retries_refused += counts.retries_refused.get();
        self.queue_full += counts.queue_full.get();
        self.queue_late += counts.queue_late.get();
        self.circuit_open += counts.circuit_open.get();
    }

    /// What came between.
    pub(super) fn since(self, before: Self) -> Self {
        Self {
            ok: self.ok - before.ok,
            error: self.error - before.error,
            lost: self.lost - before.lost,
            refused: self.refused - before.refused,
            slow: self.slow - before.slow,
            timed: self.timed - before.timed,
            micros: self.micros - before.micros,
            retried: self.retried - before.retried,
            retries_refused: self.retries_refused - before.retries_refused,
            queue_full: self.queue_full - before.queue_full,
            queue_late: self.queue_late - before.queue_late,
            circuit_open: self.circuit_open - before.circuit_open,
        }
    }

    /// Exchanges that ended, well or not.
    pub(super) fn all(self) -> u64 {
        self.ok + self.failed()
    }

    pub(super) fn failed(self) -> u64 {
        self.error + self.lost + self.refused
    }
}
