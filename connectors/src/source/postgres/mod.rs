//! PostgreSQL as a source: a slot, the snapshot that its creation exports, and the stream that follows it.

pub(crate) mod pgoutput;
pub(crate) mod slot;
pub(crate) mod snapshot;
pub(crate) mod stream;
