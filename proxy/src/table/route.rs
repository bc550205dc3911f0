//! One compiled route: all that the answering path reads of it, with nothing left to look up.

use std::{fmt, sync::Arc, time::Duration};

use super::{Itself, Reads, Target};
use crate::{
    config::{Compare, Fallback, Keyless, Shadow, Sticky, Weight},
    links::{Owner, SyncLink},
    rate::RateLimit,
    rollout::Cap,
    split::{Force, Lowered, Pins},
};

/// The name of the route that answers what no other matches. Reserved.
pub const DEFAULT: &str = "default";

/// One compiled route. Made by [`RouteTable::compile`](super::RouteTable::compile) alone.
pub struct Route {
    /// Its place in [`RouteTable::routes`](super::RouteTable::routes); `default` is the last.
    pub index: usize,
    /// Unique; metrics and errors carry it.
    pub name: Arc<str>,
    /// What it answers, in words: one a match.
    pub matched: Box<[String]>,
    /// The monolith's side; `None` once it is retired.
    pub legacy: Option<Target>,
    /// The new side; `None` before it is begun.
    pub modern: Option<Target>,
    /// What it answers by itself, without any side.
    pub itself: Option<Box<Itself>>,
    /// Percent of its users whose reads modern answers.
    pub weight: Weight,
    /// Routes of one group move their users together.
    pub group: Group,
    /// What tells one user from another, in order; Banyan's own cookie stands behind them.
    pub sticky: Box<[KeySource]>,
    /// What a request without any key does.
    pub keyless: Keyless,
    /// Users for whom the weight does not decide; `None`: nobody.
    pub pins: Option<Box<Pins>>,
    /// Testers who name their side; `None`: nobody.
    pub force: Option<Box<Force>>,
    /// How many requests one key may make; `None`: any number.
    pub rate_limit: Option<Box<RateLimit>>,
    /// The sync whose owner answers its writes.
    pub sync: Option<SyncRoute>,
    /// Until the head of the answer; wins over the upstream's.
    pub timeout: Option<Duration>,
    /// All of a request, to the end of its answer.
    pub deadline: Option<Duration>,
    /// Whom the last reload moved back to legacy.
    pub lowered: Option<Lowered>,
    /// What may be tried on the other side; the default is worked in. `None`: a rollout's default, which [`fallback`](Self::fallback) tells.
    pub fallback: Option<Fallback>,
    /// Statuses of which a read is asked of the other side too; empty: none.
    pub fallback_on: Box<[http::StatusCode]>,
    /// Adds `x-banyan-side` to every answer.
    pub expose: bool,
    /// Which requests are reads, where it is not the method alone that says so.
    pub reads: Option<Box<Reads>>,
    /// Sends copies of reads to the side that does not answer.
    pub shadow: Option<Shadow>,
    /// Compares the shadow's answer with what the client got.
    pub compare: Option<Compare>,
    /// What its rollout lets of the weight; `None` without one.
    pub cap: Option<Arc<Cap>>,
}

/// Routes of one group draw the same bucket for one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// As the file says it, else the sync's name, else the route's.
    pub name: Arc<str>,
    /// XXH64 of the name, with seed 0.
    pub seed: u64,
}

/// Where a key is looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeySource {
    /// The raw bytes of this request header.
    Header(http::HeaderName),
    /// The raw bytes of this cookie.
    Cookie(Box<str>),
}

/// What a synced route knows of its sync.
#[derive(Clone)]
pub struct SyncRoute {
    /// Its name.
    pub name: Arc<str>,
    /// Who owns it, and how far the other side is behind.
    pub link: Arc<dyn SyncLink>,
    /// How far the clocks of two replicas may differ, and for how long a write whose outcome is unknown may still happen.
    pub read_your_writes: Duration,
    /// Above this lag all reads go to the owner.
    pub max_lag: Duration,
}

/// Where a route stands in its migration; derived from the file, never stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Legacy answers everything.
    Legacy,
    /// Legacy answers everything, modern gets copies.
    Shadow,
    /// Modern answers some users.
    Canary,
    /// Modern answers everybody; legacy could still.
    Modern,
    /// There is no legacy side any more.
    Retired,
    /// There is no side at all: Banyan answers it by itself.
    Banyan,
}

// === impl Route ===

impl Route {
    /// Percent of its users whose reads modern answers now: the file's weight, which a rollout may cap.
    #[must_use]
    pub fn effective(&self) -> Weight {
        self.cap.as_ref().map_or(self.weight, |cap| cap.weight().min(self.weight))
    }

    /// What may be tried on the other side now.
    #[must_use]
    pub fn fallback(&self) -> Fallback {
        match self.fallback {
            // The default of a rollout, which has come to its end.
            None if self.effective() == Weight::FULL => Fallback::None,
            None => Fallback::Unsent,
            Some(fallback) => fallback,
        }
    }

    /// Whether a weight that was lowered has left users to be counted.
    pub(crate) fn has_lowered(&self) -> bool {
        self.lowered.is_some() || self.cap.as_ref().is_some_and(|cap| cap.has_lowered())
    }

    /// Whether a user of this bucket comes for the first time since they were taken back to legacy.
    pub(crate) fn take_lowered(&self, bucket: u16) -> bool {
        self.lowered.as_ref().is_some_and(|lowered| lowered.take(bucket))
            || self.cap.as_ref().is_some_and(|cap| cap.take_lowered(bucket))
    }

    /// The target of a side, when the route has that side.
    #[must_use]
    pub fn target(&self, side: Owner) -> Option<&Target> {
        match side {
            Owner::Legacy => self.legacy.as_ref(),
            Owner::Modern => self.modern.as_ref(),
        }
    }

    /// Where it stands in its migration.
    #[must_use]
    pub fn stage(&self) -> Stage {
        match (&self.legacy, &self.modern) {
            _ if self.itself.is_some() => Stage::Banyan,
            (None, _) => Stage::Retired,
            (_, None) => Stage::Legacy,
            _ if self.weight == Weight::FULL => Stage::Modern,
            _ if self.weight > Weight::ZERO => Stage::Canary,
            _ if self.shadow.is_some() => Stage::Shadow,
            _ => Stage::Legacy,
        }
    }
}

impl fmt::Debug for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Route")
            .field("name", &self.name)
            .field("legacy", &self.legacy)
            .field("modern", &self.modern)
            .field("weight", &self.weight)
            .field("group", &self.group.name)
            .field("sync", &self.sync.as_ref().map(|sync| &sync.name))
            .finish_non_exhaustive()
    }
}

// === impl SyncRoute ===

impl SyncRoute {
    /// Whether the other side is farther behind than the file allows; an unknown lag is infinite.
    #[must_use]
    pub fn is_behind(&self) -> bool {
        self.link.lag().is_none_or(|lag| lag > self.max_lag)
    }
}

impl fmt::Debug for SyncRoute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SyncRoute").field("name", &self.name).finish_non_exhaustive()
    }
}

// === impl Group ===

impl Group {
    /// The group of this name.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self { name: name.into(), seed: crate::split::seed(name) }
    }
}

// === impl KeySource ===

impl KeySource {
    /// The file's form of it; `None` for a header that cannot be one, which the file's own check refuses.
    pub(super) fn of(source: &Sticky) -> Option<Self> {
        match source {
            Sticky::Header(name) => http::HeaderName::from_bytes(name.as_str().as_bytes()).ok().map(Self::Header),
            Sticky::Cookie(name) => Some(Self::Cookie(name.as_str().into())),
        }
    }
}

impl fmt::Display for KeySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header(name) => write!(f, "header `{name}`"),
            Self::Cookie(name) => write!(f, "cookie `{name}`"),
        }
    }
}

// === impl Stage ===

impl Stage {
    /// As `status` writes it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Legacy => "legacy",
            Self::Shadow => "shadow",
            Self::Canary => "canary",
            Self::Modern => "modern",
            Self::Retired => "retired",
            Self::Banyan => "banyan",
        }
    }
}
