//! The time by both clocks: this process's own, by which it orders its writes, and the world's, which other replicas know too.

use std::{
    ops::Add,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use crate::links::Moment;

/// One point in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// By this process's own clock.
    pub moment: Moment,
    /// By the machine's, in milliseconds since 1970.
    pub(super) wall: u64,
}

// === impl Now ===

impl Now {
    /// For a route that remembers no writes.
    pub const UNUSED: Self = Self { moment: Moment::NEVER, wall: 0 };

    /// Reads both clocks.
    #[must_use]
    pub fn read() -> Self {
        Self::at(Moment::now(), SystemTime::now())
    }

    pub(super) fn at(moment: Moment, wall: SystemTime) -> Self {
        let since = wall.duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { moment, wall: u64::try_from(since.as_millis()).unwrap_or(u64::MAX) }
    }
}

impl Add<Duration> for Now {
    type Output = Self;

    fn add(self, time: Duration) -> Self {
        let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        Self { moment: self.moment + time, wall: self.wall.saturating_add(millis) }
    }
}
