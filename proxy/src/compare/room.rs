//! The memory that comparing takes beside the answers themselves: bodies that are unpacked, and documents that are taken apart. Whoever has them
//! compared says how much there is; what is taken is given back by dropping the room.

/// Bytes that may be taken.
pub trait Room {
    /// Takes so many more; says whether there were as many.
    fn take(&mut self, bytes: usize) -> bool;
}

/// As many as the bounds of what is compared allow.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unbounded;

/// There was no more room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoRoom;

// === impl Unbounded ===

impl Room for Unbounded {
    fn take(&mut self, _: usize) -> bool {
        true
    }
}
