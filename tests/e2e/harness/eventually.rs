//! Waiting for something that happens elsewhere: bounded, and with a message that says what did not happen.

use std::{
    fmt::Debug,
    time::{Duration, Instant},
};

/// How long a condition is left alone at least before it is looked at again.
const POLL: Duration = Duration::from_millis(25);
/// The same as a multiple of what the last look took: one that is costly must not take the cores from what it waits for.
const REST: u32 = 3;

/// Limits are what a quiet machine needs; a busy one gets so many times as long.
const PATIENCE: u32 = 3;

/// What a polled condition may answer with: `bool`, `Option<T>` or `Result<T, E>`.
pub(crate) trait Outcome {
    type Value;
    /// `Err` is why it is not so yet.
    fn settle(self) -> Result<Self::Value, String>;
}

/// Polls `condition` until it holds; panics with `what` and the last reason after [`PATIENCE`] times `at_most`.
#[track_caller]
pub(crate) fn eventually<T: Outcome>(
    at_most: Duration,
    what: &str,
    mut condition: impl AsyncFnMut() -> T,
) -> impl Future<Output = T::Value> {
    let caller = std::panic::Location::caller();
    async move {
        let at_most = at_most * PATIENCE;
        let end = Instant::now() + at_most;
        loop {
            let look = Instant::now();
            match condition().await.settle() {
                Ok(value) => return value,
                Err(why) if Instant::now() >= end => panic!("{caller}: after {at_most:?} still not: {what}{why}"),
                Err(_) => tokio::time::sleep(POLL.max(look.elapsed() * REST)).await,
            }
        }
    }
}

/// Shorthand for `Duration::from_secs`.
pub(crate) fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

// === impl Outcome ===

impl Outcome for bool {
    type Value = ();
    fn settle(self) -> Result<(), String> {
        if self { Ok(()) } else { Err(String::new()) }
    }
}

impl<T> Outcome for Option<T> {
    type Value = T;
    fn settle(self) -> Result<T, String> {
        self.ok_or_else(String::new)
    }
}

impl<T, E: Debug> Outcome for Result<T, E> {
    type Value = T;
    fn settle(self) -> Result<T, String> {
        self.map_err(|why| format!(" ({why:?})"))
    }
}
