//! What the proxy asks of the data side: who owns a sync, and how far is the other side behind? The root package answers, by reading the
//! databases; nothing here knows how.

use std::{
    sync::{Arc, LazyLock},
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

pub use crate::{
    hold::{Held, Hold, HoldLimits, HoldStatus},
    rollout::Replicas,
};

/// The side that may write a sync's tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Owner {
    /// The monolith's database.
    Legacy,
    /// The new service's database.
    Modern,
}

/// One sync as the answering path sees it.
///
/// Asked on every request of a synced route, from every worker at once: an answer is a load of an atomic, never a wait.
pub trait SyncLink: Send + Sync {
    /// Who answers writes now.
    fn owner(&self) -> Owner;

    /// How far the other side is behind the owner. `None` is unknown, and counts as infinite.
    fn lag(&self) -> Option<Duration>;

    /// The watermark as a moment of this process: what the owner had committed before it, through whichever replica, the other side shows.
    /// [`Moment::NEVER`] while nobody knows. Does not go back.
    fn watermark(&self) -> Moment;

    /// The writes under way, and whether new ones wait. Its [`changed`](Hold::changed) is called when the owner has moved.
    fn hold(&self) -> &Arc<Hold>;

    /// A write was answered at this moment, or will be at the latest: its user waits for the watermark to pass it.
    fn wrote(&self, at: Moment);
}

/// A point in this process's own time, in milliseconds: it never goes back, and nobody sets it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment(u64);

/// All syncs of the file.
///
/// Asked when a table is compiled, never on the answering path.
pub trait DataLinks: Send + Sync {
    /// The link of the sync with this name, or `None` when the file has no such sync.
    fn sync(&self, name: &str) -> Option<Arc<dyn SyncLink>>;

    /// The log that rollouts are shared through with other replicas; `None`: there are none. Asked at the start.
    fn replicas(&self) -> Option<Arc<dyn Replicas>> {
        None
    }
}

// === impl Owner ===

impl Owner {
    /// The side across.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::Legacy => Self::Modern,
            Self::Modern => Self::Legacy,
        }
    }

    /// As the file writes it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Legacy => "legacy",
            Self::Modern => "modern",
        }
    }
}

// === impl Moment ===

impl Moment {
    /// Before the process began.
    pub const NEVER: Self = Self(0);

    /// Now.
    #[must_use]
    pub fn now() -> Self {
        static BEGAN: LazyLock<Instant> = LazyLock::new(Instant::now);
        Self(u64::try_from(BEGAN.elapsed().as_millis()).unwrap_or(u64::MAX).saturating_add(1))
    }

    /// From its number.
    #[must_use]
    pub const fn new(millis: u64) -> Self {
        Self(millis)
    }

    /// Its number, as an atomic keeps it.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// Time that had gone by since `earlier`; none when that is later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

impl std::ops::Add<Duration> for Moment {
    type Output = Self;

    fn add(self, time: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(time.as_millis()).unwrap_or(u64::MAX)))
    }
}
