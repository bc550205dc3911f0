//! Memory for bodies, in pieces of one size that go from one body to the next. A worker's thread fills them and a thread of the background is done
//! with them: given back to the allocator, each would wait for the thread that made it, and all together they would be much more than is held.

use std::{
    fmt,
    ops::{Deref, DerefMut},
    sync::{Arc, Mutex, MutexGuard},
};

use super::budget::Budget;

/// Bytes of a piece.
pub(super) const PIECE: usize = 8 << 10;

/// Pieces that nobody uses. They stay charged to the budget, and make room when it is wanted for something else.
#[derive(Default)]
pub(super) struct Pool {
    /// Held for a push or a pop, and never waited for: whoever holds it may have had to give its core away.
    free: Mutex<Vec<Box<[u8; PIECE]>>>,
}

/// Some bytes of a body.
pub(super) struct Piece {
    bytes: Option<Box<[u8; PIECE]>>,
    length: usize,
    budget: Arc<Budget>,
}

// === impl Pool ===

impl Pool {
    pub(super) fn pop(&self) -> Option<Box<[u8; PIECE]>> {
        self.try_lock()?.pop()
    }

    /// Gives one back to the allocator, if there is one.
    pub(super) fn free_one(&self) -> bool {
        // Not under the lock.
        self.pop().is_some()
    }

    /// Keeps it for the next; else gives it back.
    fn push(&self, piece: Box<[u8; PIECE]>) -> Result<(), Box<[u8; PIECE]>> {
        match self.try_lock() {
            Some(mut free) => {
                free.push(piece);
                Ok(())
            }
            None => Err(piece),
        }
    }

    fn try_lock(&self) -> Option<MutexGuard<'_, Vec<Box<[u8; PIECE]>>>> {
        self.free.try_lock().ok()
    }

    #[cfg(test)]
    pub(super) fn free(&self) -> usize {
        self.try_lock().map_or(0, |free| free.len())
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").finish_non_exhaustive()
    }
}

// === impl Piece ===

impl Piece {
    /// An empty one; `None` when the budget does not do for it.
    pub(super) fn try_new(budget: &Arc<Budget>) -> Option<Self> {
        let bytes = budget.piece()?;
        Some(Self { bytes: Some(bytes), length: 0, budget: Arc::clone(budget) })
    }

    /// Copies as much of this as fits, and gives the rest.
    pub(super) fn fill<'c>(&mut self, chunk: &'c [u8]) -> &'c [u8] {
        let length = self.length;
        let Some(bytes) = &mut self.bytes else { return chunk };
        let (now, rest) = chunk.split_at(chunk.len().min(PIECE - length));
        bytes.deref_mut()[length..length + now.len()].copy_from_slice(now);
        self.length += now.len();
        rest
    }
}

impl fmt::Debug for Piece {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Never what is in it.
        f.debug_struct("Piece").field("length", &self.length).finish_non_exhaustive()
    }
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        self.bytes.as_ref().map_or(&[], |bytes| &bytes.deref()[..self.length])
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        if let Some(bytes) = self.bytes.take()
            && let Err(bytes) = self.budget.pool.push(bytes)
        {
            drop(bytes);
            self.budget.give_back(PIECE);
        }
    }
}
