//! Chooses the side of a request. The rules, in order: a missing side; writes to the owner; a tester's wish; a pin; the weight; reads back to
//! the owner while the other side is too far behind, or the user has just written (a tester who asked for the other side gets it all the same).

use std::{net::IpAddr, sync::Arc, time::Duration};

use http::{HeaderMap, HeaderValue, Method, header, request::Parts};

use super::{
    NewId, Now, RecentWrites, Signer, bucket, find_key,
    id::is_page_load,
    key::keyless,
    own_writes::{Judge, OwnWrites},
    recent::Writer,
};
use crate::{
    config::Weight,
    links::Owner,
    table::{Route, SyncRoute},
};

/// What choosing needs besides the route; shared by all workers.
#[derive(Debug, Clone)]
pub struct Split {
    signer: Signer,
    recent: Arc<RecentWrites>,
}

/// The side of one request, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// Who answers. The route may lack that side: then a write has nowhere to go, and is answered 503.
    pub side: Owner,
    /// Why.
    pub reason: Reason,
    /// A write for every rule: it is not shadowed, and does not change side.
    pub is_write: bool,
    /// The user's bucket, where one was drawn.
    pub bucket: Option<u16>,
    /// Banyan's own cookie, made with this request: goes on the answer by [`add_private`](super::add_private).
    pub new_id: Option<NewId>,
    /// This user is not, or for this read not, where they were: counted as a move.
    pub moved: Option<Moved>,
    /// A tester named this side: the answer says which one it was.
    pub forced: bool,
    /// On a synced route's write: what [`Split::answered`] wants.
    pub after_write: Option<Box<AfterWrite>>,
}

/// Why a side was chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The weight, by the user's bucket or because it is 0 or 100.
    Weight,
    /// There is no key, and the weight is between 0 and 100.
    Keyless,
    /// A tester named it.
    Force,
    /// The user is pinned to it.
    Pin,
    /// A write of a synced route.
    Owner,
    /// The other side is too far behind, or how far is unknown.
    Lag,
    /// The user wrote, and the other side may not show it yet.
    OwnWrites,
    /// There is no modern side yet.
    NotBegun,
    /// There is no legacy side any more.
    Retired,
}

/// Why a user is not where they were: the label of `banyan_side_moves_total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Moved {
    /// A reload lowered the weight; once for each bucket that comes after it.
    WeightLowered,
    /// The other side is too far behind, or how far is unknown.
    Lag,
    /// The user wrote, and the other side may not show it yet.
    OwnWrites,
    /// A tester named the other side than the weight's.
    Force,
    /// The user is pinned to the other side than the weight's.
    Pin,
    /// The modern side's circuit is open.
    Circuit,
}

/// More than enough for a lag that was read to be taken for unknown.
const LAG_IS_READ: Duration = Duration::from_secs(60);

/// What must be known of a write's request when it is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AfterWrite {
    writer: Option<Writer>,
    known: OwnWrites,
}

// === impl Split ===

impl Split {
    /// A split that signs with this key and remembers in this table.
    #[must_use]
    pub fn new(signer: Signer, recent: Arc<RecentWrites>) -> Self {
        Self { signer, recent }
    }

    /// The same memory with another key: for a reload.
    #[must_use]
    pub fn with_signer(&self, signer: Signer) -> Self {
        Self { signer, recent: Arc::clone(&self.recent) }
    }

    /// What it remembers of writes.
    pub(crate) fn recent(&self) -> &RecentWrites {
        &self.recent
    }

    /// The side of a request. `client` is the address after `trusted_proxies`.
    #[must_use]
    pub fn choose(&self, route: &Route, head: &Parts, client: IpAddr, now: Now) -> Choice {
        self.choose_for(route, head, client, now, None)
    }

    /// The same for a tester, who asks for a side.
    #[must_use]
    pub fn choose_for(&self, route: &Route, head: &Parts, client: IpAddr, now: Now, wish: Option<Owner>) -> Choice {
        let is_write = is_write(route, head);
        let is_split = route.legacy.is_some() && route.modern.is_some();
        let weight = route.effective();
        let is_drawn = is_split && weight > Weight::ZERO && weight < Weight::FULL;
        let has_lowered = route.has_lowered();
        if !is_drawn && route.sync.is_none() && !has_lowered && route.pins.is_none() && wish.is_none() {
            return Choice::new(without_key(route, weight), is_write);
        }
        let beaten = if is_split { beaten(route, head, client, wish) } else { None };

        let key = find_key(route, &head.headers);
        let new_id = if key.is_none() && is_drawn && is_page_load(&head.headers) { NewId::draw() } else { None };
        let own = key.or_else(|| keyless(route, client)).map(|key| key.bytes);
        let key = new_id.as_ref().map(NewId::key).or(own.as_deref());

        let weighted = match key {
            Some(key) if is_drawn || has_lowered => {
                let bucket = bucket(route.group.seed, key);
                let side = if bucket < weight.buckets() { Owner::Modern } else { Owner::Legacy };
                (side, Reason::Weight, Some(bucket))
            }
            _ => {
                let (side, reason) = without_key(route, weight);
                (side, reason, None)
            }
        };
        let (side, reason, bucket) = weighted;
        let mut choice = Choice { bucket, ..Choice::new((side, reason), is_write) };
        if let Some((asked, reason, moved)) = beaten {
            // A write of a synced route follows its owner all the same, and is no exception to anything.
            choice.moved = (asked != side && (!is_write || route.sync.is_none())).then_some(moved);
            (choice.side, choice.reason, choice.forced) = (asked, reason, wish.is_some());
        } else if let Some(bucket) = bucket
            && (!is_write || route.sync.is_none())
            && route.take_lowered(bucket)
        {
            choice.moved = Some(Moved::WeightLowered);
        }
        if let Some(sync) = &route.sync {
            self.follow_owner(sync, is_split, key, &head.headers, now, &mut choice);
        }
        choice.new_id = new_id;
        choice
    }

    fn follow_owner(
        &self,
        sync: &SyncRoute,
        is_split: bool,
        key: Option<&[u8]>,
        headers: &HeaderMap,
        now: Now,
        choice: &mut Choice,
    ) {
        let owner = sync.link.owner();
        if choice.is_write {
            let writer = key.map(|key| self.recent.writer(&sync.name, key));
            choice.after_write = Some(Box::new(AfterWrite { writer, known: OwnWrites::of(headers, &self.signer) }));
            if choice.side != owner || is_split {
                (choice.side, choice.reason) = (owner, Reason::Owner);
            }
            return;
        }
        // Who asks for a side wants to see that side, however far it is behind.
        if choice.side == owner || !is_split || choice.forced {
            return;
        }
        let (reason, moved) = match sync.is_behind() {
            true => (Reason::Lag, Moved::Lag),
            false if self.waits(sync, key, headers, now) => (Reason::OwnWrites, Moved::OwnWrites),
            false => return,
        };
        (choice.side, choice.reason, choice.moved) = (owner, reason, Some(moved));
    }

    /// The user wrote, and the other side may not show it yet.
    fn waits(&self, sync: &SyncRoute, key: Option<&[u8]>, headers: &HeaderMap, now: Now) -> bool {
        let watermark = sync.link.watermark();
        let judge = Judge { process: self.recent.process(), now, watermark, apart: sync.read_your_writes };
        let writer = key.map(|key| self.recent.writer(&sync.name, key));
        writer.is_some_and(|writer| self.recent.waits(writer, watermark))
            || OwnWrites::of(headers, &self.signer).waits(&sync.name, &judge)
    }

    /// Whether what this side says of a read is the last word: it owns the rows, and the other one is too far behind, or may not show what
    /// this user wrote. What it has not got may just have been deleted.
    pub(crate) fn is_last_word(&self, side: Owner, route: &Route, headers: &HeaderMap, client: IpAddr) -> bool {
        let Some(sync) = route.sync.as_ref().filter(|sync| sync.link.owner() == side) else { return false };
        let key = find_key(route, headers).or_else(|| keyless(route, client)).map(|key| key.bytes);
        sync.is_behind() || self.waits(sync, key.as_deref(), headers, Now::read())
    }

    /// To be called when a synced route's write was answered, whatever the answer: from now on this user's reads follow the owner, until the
    /// watermark has passed this moment. Gives the `Set-Cookie` that says so; it goes on the answer whatever that says of caches.
    #[must_use]
    pub fn answered(&self, route: &Route, write: &AfterWrite, now: Now) -> Option<HeaderValue> {
        let sync = route.sync.as_ref()?;
        if let Some(writer) = write.writer {
            self.recent.remember(writer, now.moment);
        }
        sync.link.wrote(now.moment);
        // Until nothing this old can be missing where the lag is within its limit, as the lag was last read.
        let lasts = sync.max_lag + sync.read_your_writes + LAG_IS_READ;
        Some(write.known.after(&sync.name, self.recent.process(), now, lasts, &self.signer))
    }

    /// To be called again when the answer has ended, since what comes behind its head may tell of more: for a user with a key.
    pub(crate) fn ended(&self, route: &Route, write: &AfterWrite, now: Now) {
        if let (Some(sync), Some(writer)) = (&route.sync, write.writer) {
            self.recent.remember(writer, now.moment);
            sync.link.wrote(now.moment);
        }
    }

    /// The same for a write whose outcome is unknown: the owner may still be at it for a while.
    #[must_use]
    pub fn unanswered(&self, route: &Route, write: &AfterWrite, now: Now) -> Option<HeaderValue> {
        let sync = route.sync.as_ref()?;
        self.answered(route, write, now + sync.read_your_writes)
    }
}

// === impl Choice ===

impl Choice {
    fn new((side, reason): (Owner, Reason), is_write: bool) -> Self {
        Self { side, reason, is_write, bucket: None, new_id: None, moved: None, forced: false, after_write: None }
    }
}

/// What beats the weight: a tester's wish, else a pin.
fn beaten(route: &Route, head: &Parts, client: IpAddr, wish: Option<Owner>) -> Option<(Owner, Reason, Moved)> {
    if let Some(side) = wish {
        return Some((side, Reason::Force, Moved::Force));
    }
    let pinned = route.pins.as_ref()?.find(&head.headers, client)?;
    Some((pinned.side, Reason::Pin, Moved::Pin))
}

/// The side of the weight for a request that has no key.
fn without_key(route: &Route, weight: Weight) -> (Owner, Reason) {
    match (&route.legacy, &route.modern) {
        (None, _) => (Owner::Modern, Reason::Retired),
        (_, None) => (Owner::Legacy, Reason::NotBegun),
        _ if weight == Weight::FULL => (Owner::Modern, Reason::Weight),
        _ if weight == Weight::ZERO => (Owner::Legacy, Reason::Weight),
        _ => (Owner::Legacy, Reason::Keyless),
    }
}

/// GET, HEAD and OPTIONS are reads, unless the route says otherwise; an upgrade opens a channel that can write.
pub(crate) fn is_write(route: &Route, head: &Parts) -> bool {
    let is_read = match &route.reads {
        None => matches!(head.method, Method::GET | Method::HEAD | Method::OPTIONS),
        Some(reads) => reads.is_read(head).0,
    };
    !is_read || is_upgrade(&head.headers)
}

fn is_upgrade(headers: &HeaderMap) -> bool {
    headers.contains_key(header::UPGRADE)
        && headers.get_all(header::CONNECTION).iter().any(|line| {
            line.as_bytes().split(|b| *b == b',').any(|token| token.trim_ascii().eq_ignore_ascii_case(b"upgrade"))
        })
}

// === impl Reason ===

impl Reason {
    /// One word for logs and `status`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Weight => "weight",
            Self::Keyless => "keyless",
            Self::Force => "force",
            Self::Pin => "pin",
            Self::Owner => "owner",
            Self::Lag => "lag",
            Self::OwnWrites => "own_writes",
            Self::NotBegun => "not_begun",
            Self::Retired => "retired",
        }
    }
}

// === impl Moved ===

impl Moved {
    /// Every reason, for metrics that begin at zero.
    pub const ALL: [Self; 6] = [Self::WeightLowered, Self::Lag, Self::OwnWrites, Self::Force, Self::Pin, Self::Circuit];

    /// The label's value.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::WeightLowered => "weight_lowered",
            Self::Lag => "lag",
            Self::OwnWrites => "own_writes",
            Self::Force => "force",
            Self::Pin => "pin",
            Self::Circuit => "circuit",
        }
    }
}
