//! Bytes of one body, kept as far as a bound and charged to the budget.

use std::{fmt, sync::Arc};

use bytes::Bytes;

use super::budget::{Budget, Charge};

/// A body as far as it has come.
pub(super) struct Buffer {
    charge: Charge,
    bytes: Vec<u8>,
    bound: usize,
}

/// Why a chunk was not kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Full {
    /// The body is longer than the bound.
    Bound,
    /// The process has no memory left for it.
    Budget,
}

// === impl Buffer ===

impl Buffer {
    pub(super) fn new(budget: Arc<Budget>, bound: usize) -> Self {
        Self { charge: Charge::new(budget), bytes: Vec::new(), bound }
    }

    pub(super) fn get(&self) -> &[u8] {
        &self.bytes
    }

    /// Whether so many bytes more are within the bound.
    pub(super) fn has_room(&self, more: usize) -> bool {
        more <= self.bound.saturating_sub(self.bytes.len())
    }

    /// Keeps a copy of a chunk: the chunk itself would hold the whole buffer that it was read into.
    pub(super) fn push(&mut self, chunk: &[u8]) -> Result<(), Full> {
        if !self.has_room(chunk.len()) {
            return Err(Full::Bound);
        }
        if !self.grow(chunk.len()) {
            return Err(Full::Budget);
        }
        self.bytes.extend_from_slice(chunk);
        Ok(())
    }

    /// Gives everything back.
    pub(super) fn clear(&mut self) {
        self.bytes = Vec::new();
        self.charge.give_back();
    }

    /// The body, and what is to be held as long as it is.
    pub(super) fn into_bytes(self) -> (Bytes, Charge) {
        (self.bytes.into(), self.charge)
    }

    /// Makes room for so many bytes more, doubling up to the bound.
    fn grow(&mut self, more: usize) -> bool {
        let (least, charged) = (self.bytes.len() + more, self.charge.bytes());
        if least <= charged {
            return true;
        }
        let wanted = (charged * 2).min(self.bound).max(least);
        if !self.charge.take(wanted - charged) {
            return false;
        }
        self.bytes.reserve_exact(wanted - self.bytes.len());
        true
    }

    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.bytes.capacity()
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Never what is in it.
        f.debug_struct("Buffer").field("length", &self.bytes.len()).finish_non_exhaustive()
    }
}
