//! Bytes that all shadows of the process may hold at once, and the heads and bodies that are charged to it.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use http::HeaderMap;

/// What a header line takes besides its text.
const LINE: usize = 32;

/// A number of bytes that can be taken and given back, from every thread.
#[derive(Debug)]
pub(super) struct Budget {
    pub(super) free: AtomicUsize,
}

/// Bytes of the budget that are held until this is dropped.
#[derive(Debug)]
pub(super) struct Charge {
    budget: Arc<Budget>,
    bytes: usize,
}

/// An answer's head, and its body as far as a bound, charged to the budget.
#[derive(Debug)]
pub(super) struct Kept {
    budget: Arc<Budget>,
    _head: Option<Charge>,
    bytes: Vec<u8>,
    /// Of the body.
    charged: usize,
    bound: usize,
    end: End,
}

/// Why a body is kept no further.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// It is, so far.
    Whole,
    /// It is longer than the bound.
    TooLong,
    /// The process has no memory left for it.
    NoBudget,
}

// === impl Budget ===

impl Budget {
    pub(super) fn new(bytes: usize) -> Self {
        Self { free: AtomicUsize::new(bytes) }
    }

    fn take(&self, bytes: usize) -> bool {
        self.free.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |free| free.checked_sub(bytes)).is_ok()
    }

    fn give_back(&self, bytes: usize) {
        self.free.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Charges a head for as long as it is held; `None` when there is no room for it.
    pub(super) fn head(self: &Arc<Self>, headers: &HeaderMap) -> Option<Charge> {
        let bytes = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + LINE).sum();
        self.take(bytes).then(|| Charge { budget: Arc::clone(self), bytes })
    }
}

// === impl Charge ===

impl Drop for Charge {
    fn drop(&mut self) {
        self.budget.give_back(self.bytes);
    }
}

// === impl Kept ===

impl Kept {
    /// Begins with a head; without room for it nothing is kept.
    pub(super) fn new(budget: Arc<Budget>, headers: &HeaderMap, bound: usize) -> Self {
        let head = budget.head(headers);
        let end = if head.is_some() { End::Whole } else { End::NoBudget };
        Self { budget, _head: head, bytes: Vec::new(), charged: 0, bound, end }
    }

    /// Keeps a copy of a chunk: the chunk itself would hold the whole buffer that it was read into. Says whether the body is still whole.
    pub(super) fn push(&mut self, chunk: &[u8]) -> bool {
        if self.end != End::Whole {
            return false;
        }
        if self.bytes.len() + chunk.len() > self.bound {
            self.give_up(End::TooLong);
        } else if self.grow(chunk.len()) {
            self.bytes.extend_from_slice(chunk);
        } else {
            self.give_up(End::NoBudget);
        }
        self.end == End::Whole
    }

    /// Gives the memory back, and keeps nothing more.
    pub(super) fn give_up(&mut self, end: End) {
        self.end = end;
        self.budget.give_back(std::mem::take(&mut self.charged));
        self.bytes = Vec::new();
    }

    pub(super) fn end(&self) -> End {
        self.end
    }

    pub(super) fn bytes(&self) -> Option<&[u8]> {
        (self.end == End::Whole).then_some(self.bytes.as_slice())
    }

    /// Makes room for so many bytes more, doubling up to the bound.
    fn grow(&mut self, more: usize) -> bool {
        let least = self.bytes.len() + more;
        if least <= self.charged {
            return true;
        }
        let wanted = (self.charged * 2).min(self.bound).max(least);
        if !self.budget.take(wanted - self.charged) {
            return false;
        }
        self.charged = wanted;
        self.bytes.reserve_exact(wanted - self.bytes.len());
        true
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.budget.give_back(self.charged);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn free(budget: &Budget) -> usize {
        budget.free.load(Ordering::Relaxed)
    }

    #[test]
    fn what_is_taken_from_the_budget_is_given_back() {
        let budget = Arc::new(Budget::new(1000));
        let mut kept = Kept::new(Arc::clone(&budget), &HeaderMap::new(), 600);
        for _ in 0..60 {
            assert!(kept.push(b"0123456789"));
        }
        assert_eq!(free(&budget), 400);
        assert_eq!(kept.bytes().map(<[u8]>::len), Some(600));
        drop(kept);
        assert_eq!(free(&budget), 1000);
    }

    #[test]
    fn a_body_over_its_bound_is_dropped_at_once() {
        let budget = Arc::new(Budget::new(1000));
        let mut kept = Kept::new(Arc::clone(&budget), &HeaderMap::new(), 600);
        kept.push(&[0; 600]);
        assert!(!kept.push(b"x"));
        assert_eq!((kept.end(), kept.bytes(), free(&budget)), (End::TooLong, None, 1000));
        assert!(!kept.push(b"x"));
    }

    #[test]
    fn bodies_together_never_hold_more_than_the_budget() {
        let budget = Arc::new(Budget::new(1000));
        let mut all: Vec<Kept> = (0..4).map(|_| Kept::new(Arc::clone(&budget), &HeaderMap::new(), 600)).collect();
        for _ in 0..100 {
            for kept in &mut all {
                kept.push(&[0; 7]);
            }
            let held: usize = all.iter().map(|kept| kept.bytes.capacity()).sum();
            assert!(held <= 1000, "{held}");
        }
        assert!(all.iter().any(|kept| kept.end() == End::NoBudget));
        drop(all);
        assert_eq!(free(&budget), 1000);
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
