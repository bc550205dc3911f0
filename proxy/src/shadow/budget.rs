//! Bytes that all shadows of the process may hold at once, and the heads and answers that are charged to it.

use std::{
    borrow::Cow,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use http::HeaderMap;
use tokio::sync::{Semaphore, SemaphorePermit};
use xxhash_rust::xxh64::Xxh64;

use super::{
    buffer::Buffer,
    pool::{PIECE, Pool},
};
use crate::compare::{Body, LONGEST, NoRoom, Room};

/// What a header line takes besides its text.
const LINE: usize = 32;

/// A number of bytes that can be taken and given back, from every thread.
#[derive(Debug)]
pub(super) struct Budget {
    pub(super) free: AtomicUsize,
    /// Who compares long bodies.
    turn: Semaphore,
    pub(super) pool: Pool,
}

/// Bytes of the budget that are held until this is dropped.
#[derive(Debug)]
pub(super) struct Charge {
    budget: Arc<Budget>,
    bytes: usize,
}

/// An answer's head, and its body as far as a bound, charged to the budget.
pub(super) struct Kept {
    _head: Option<Charge>,
    bytes: Buffer,
    /// Of a body over the bound.
    hash: Option<Box<Xxh64>>,
    length: u64,
    end: End,
}

/// Why a body is kept no further.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// It is, so far.
    Whole,
    /// It is longer than the bound, so that its bytes are only counted and hashed.
    Hashed,
    /// It is longer than anything that is hashed.
    TooLong,
    /// The process has no memory left for it.
    NoBudget,
}

// === impl Budget ===

impl Budget {
    pub(super) fn new(bytes: usize) -> Self {
        Self { free: AtomicUsize::new(bytes), turn: Semaphore::new(1), pool: Pool::default() }
    }

    /// Waits until nobody else compares long bodies.
    pub(super) async fn turn(&self) -> Option<SemaphorePermit<'_>> {
        self.turn.acquire().await.ok()
    }

    /// What the pool keeps for later makes room for what is wanted now.
    fn take(&self, bytes: usize) -> bool {
        loop {
            let less = |free: usize| free.checked_sub(bytes);
            if self.free.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok() {
                return true;
            }
            if !self.pool.free_one() {
                return false;
            }
            self.give_back(PIECE);
        }
    }

    /// A piece for a body, used or new; `None` when there is no room for it.
    pub(super) fn piece(&self) -> Option<Box<[u8; PIECE]>> {
        self.pool.pop().or_else(|| self.take(PIECE).then(|| Box::new([0; PIECE])))
    }

    pub(super) fn give_back(&self, bytes: usize) {
        self.free.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Charges a head for as long as it is held; `None` when there is no room for it.
    pub(super) fn head(self: &Arc<Self>, headers: &HeaderMap) -> Option<Charge> {
        let bytes = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + LINE).sum();
        self.take(bytes).then(|| Charge { budget: Arc::clone(self), bytes })
    }
}

// === impl Charge ===

impl Charge {
    /// Of nothing, yet.
    pub(super) fn new(budget: Arc<Budget>) -> Self {
        Self { budget, bytes: 0 }
    }

    /// Takes so many bytes more; says whether there were as many.
    pub(super) fn take(&mut self, more: usize) -> bool {
        let is_taken = self.budget.take(more);
        self.bytes += if is_taken { more } else { 0 };
        is_taken
    }

    /// Gives back what is more than this.
    pub(super) fn keep(&mut self, bytes: usize) {
        self.budget.give_back(self.bytes.saturating_sub(bytes));
        self.bytes = self.bytes.min(bytes);
    }
}

impl Room for Charge {
    fn take(&mut self, bytes: usize) -> bool {
        Self::take(self, bytes)
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.keep(0);
    }
}

// === impl Kept ===

impl Kept {
    /// Begins with a head; without room for it nothing is kept.
    pub(super) fn new(budget: Arc<Budget>, headers: &HeaderMap, bound: usize) -> Self {
        let head = budget.head(headers);
        let end = if head.is_some() { End::Whole } else { End::NoBudget };
        Self { _head: head, bytes: Buffer::new(budget, bound), hash: None, length: 0, end }
    }

    /// Keeps a copy of a chunk (the chunk itself would hold the whole buffer that it was read into), or what is left of it beyond the bound: its
    /// length and its hash. Says whether more of the body is wanted.
    pub(super) fn push(&mut self, chunk: &[u8]) -> bool {
        self.length += chunk.len() as u64;
        if self.end == End::Whole && !self.bytes.has_room(chunk.len()) {
            self.only_hash();
        }
        match self.end {
            End::Hashed if self.length > LONGEST => self.give_up(End::TooLong),
            End::Hashed => {
                if let Some(hash) = &mut self.hash {
                    hash.update(chunk);
                }
            }
            End::Whole => {
                if self.bytes.push(chunk).is_err() {
                    self.give_up(End::NoBudget);
                }
            }
            End::TooLong | End::NoBudget => {}
        }
        self.goes_on()
    }

    /// A body that will have so many bytes: beyond the bound none are kept, and beyond [`LONGEST`] none is wanted.
    pub(super) fn expect(&mut self, length: u64) {
        if self.end != End::Whole {
            return;
        }
        if length > LONGEST {
            self.give_up(End::TooLong);
        } else if usize::try_from(length).map_or(true, |length| !self.bytes.has_room(length)) {
            self.only_hash();
        }
    }

    /// Whether more of the body is wanted.
    pub(super) fn goes_on(&self) -> bool {
        matches!(self.end, End::Whole | End::Hashed)
    }

    /// From here on the body is known by its length and hash alone.
    fn only_hash(&mut self) {
        let mut hash = Box::new(Xxh64::new(0));
        self.bytes.pieces().for_each(|piece| hash.update(piece));
        self.hash = Some(hash);
        self.give_up(End::Hashed);
    }

    /// Gives the memory back, and keeps no bytes any more.
    pub(super) fn give_up(&mut self, end: End) {
        self.end = end;
        self.bytes.clear();
    }

    /// What there is of it in one: what [`body`](Self::body) borrows from.
    ///
    /// # Errors
    /// When there is no room to join its pieces.
    pub(super) fn joined(&self, room: &mut dyn Room) -> Result<Cow<'_, [u8]>, NoRoom> {
        if room.take(self.bytes.joining()) { Ok(self.bytes.joined()) } else { Err(NoRoom) }
    }

    /// What there is to compare; `None` when the budget did not do.
    pub(super) fn body<'b>(&self, joined: &'b [u8]) -> Option<Body<'b>> {
        Some(match self.end {
            End::Whole => Body::Whole(joined),
            End::Hashed => {
                let hash = self.hash.as_ref().map_or(0, |hash| hash.digest());
                Body::Long { length: self.length, hash }
            }
            End::TooLong => Body::Unread,
            End::NoBudget => return None,
        })
    }

    /// Bytes of the body that are held.
    pub(super) fn kept(&self) -> usize {
        self.bytes.len()
    }

    pub(super) fn end(&self) -> End {
        self.end
    }
}

impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Never what is in it.
        f.debug_struct("Kept").field("length", &self.length).field("end", &self.end).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::Unbounded;

    /// With what the pool keeps.
    fn free(budget: &Budget) -> usize {
        budget.free.load(Ordering::Relaxed) + budget.pool.free() * PIECE
    }

    fn body(kept: &Kept) -> Option<(usize, Option<u64>)> {
        let joined = kept.joined(&mut Unbounded).unwrap();
        Some(match kept.body(&joined)? {
            Body::Whole(bytes) => (bytes.len(), None),
            Body::Long { length, hash } => (usize::try_from(length).unwrap(), Some(hash)),
            Body::Unread => (usize::MAX, None),
        })
    }

    #[test]
    fn what_is_taken_from_the_budget_is_given_back() {
        let budget = Arc::new(Budget::new(10 * PIECE));
        let mut kept = Kept::new(Arc::clone(&budget), &HeaderMap::new(), 5 * PIECE);
        let whole: Vec<u8> = (0..=255).cycle().take(5 * PIECE).collect();
        for chunk in whole.chunks(1000) {
            assert!(kept.push(chunk));
        }
        assert_eq!(free(&budget), 5 * PIECE);
        let joined = kept.joined(&mut Unbounded).unwrap();
        assert_eq!(kept.body(&joined), Some(Body::Whole(&whole)));
        drop(joined);
        let mut room = Charge::new(Arc::clone(&budget));
        assert!(kept.joined(&mut room).is_ok() && kept.joined(&mut room).is_err());
        drop((kept, room));
        assert_eq!(free(&budget), 10 * PIECE);
    }

    #[test]
    fn a_body_over_its_bound_is_hashed_and_holds_nothing() {
        let budget = Arc::new(Budget::new(10 * PIECE));
        let bound = PIECE + 7;
        let mut kept = Kept::new(Arc::clone(&budget), &HeaderMap::new(), bound);
        kept.push(&vec![7; bound]);
        assert!(kept.push(b"x"));
        assert_eq!((kept.end(), free(&budget)), (End::Hashed, 10 * PIECE));
        let whole = [vec![7; bound].as_slice(), b"x"].concat();
        let hash = xxhash_rust::xxh64::xxh64(&whole, 0);
        assert_eq!(body(&kept), Some((bound + 1, Some(hash))));
        // In other pieces it is the same.
        let mut pieces = Kept::new(Arc::clone(&budget), &HeaderMap::new(), bound);
        pieces.expect(bound as u64 + 1);
        for piece in whole.chunks(7) {
            pieces.push(piece);
        }
        assert_eq!(body(&pieces), body(&kept));
    }

    #[test]
    fn a_body_without_end_is_wanted_no_further() {
        let mut kept = Kept::new(Arc::new(Budget::new(1000)), &HeaderMap::new(), 600);
        let piece = vec![0; 1 << 20];
        let pieces = std::iter::repeat_with(|| kept.push(&piece)).take_while(|goes_on| *goes_on).count();
        assert_eq!((pieces as u64, kept.end(), body(&kept)), (LONGEST >> 20, End::TooLong, Some((usize::MAX, None))));
    }

    #[test]
    fn bodies_together_never_hold_more_than_the_budget_and_use_the_same_memory_again() {
        let budget = Arc::new(Budget::new(10 * PIECE));
        for _ in 0..3 {
            let new = || Kept::new(Arc::clone(&budget), &HeaderMap::new(), 6 * PIECE);
            let mut all: Vec<Kept> = (0..4).map(|_| new()).collect();
            for _ in 0..100 {
                all.iter_mut().for_each(|kept| _ = kept.push(&[0; PIECE / 16]));
                assert!(all.iter().map(Kept::kept).sum::<usize>() <= 10 * PIECE);
            }
            assert!(all.iter().any(|kept| kept.end() == End::NoBudget));
            drop(all);
            assert_eq!(free(&budget), 10 * PIECE);
            assert!((1..=10).contains(&budget.pool.free()), "{}", budget.pool.free());
            // What it keeps is there for others, too.
            assert!(Charge::new(Arc::clone(&budget)).take(10 * PIECE));
            assert_eq!(budget.pool.free(), 0);
        }
    }

    #[test]
    fn a_head_is_charged_for_as_long_as_it_is_held() {
        let budget = Arc::new(Budget::new(100));
        let mut headers = HeaderMap::new();
        headers.insert("x-long", "y".repeat(50).parse().unwrap());
        let first = Kept::new(Arc::clone(&budget), &headers, 600);
        assert_eq!((first.end(), free(&budget)), (End::Whole, 12));
        let mut second = Kept::new(Arc::clone(&budget), &headers, 600);
        assert!(!second.push(b""));
        assert_eq!(second.end(), End::NoBudget);
        drop((first, second));
        assert_eq!(free(&budget), 100);
    }
}
