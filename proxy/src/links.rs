//! What the proxy asks of the data side: who owns a sync, and how far is the other side behind? The root package answers, by reading the
//! databases; nothing here knows how.

use std::{sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

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
}

/// All syncs of the file.
///
/// Asked when a table is compiled, never on the answering path.
pub trait DataLinks: Send + Sync {
    /// The link of the sync with this name, or `None` when the file has no such sync.
    fn sync(&self, name: &str) -> Option<Arc<dyn SyncLink>>;
}

// === impl Owner ===

impl Owner {
    /// As the file writes it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Legacy => "legacy",
            Self::Modern => "modern",
        }
    }
}
