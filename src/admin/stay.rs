//! How long a connection stays beyond its lifetime: until an answer that takes its time has ended.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

/// One connection's; handlers find it among the request's extensions.
#[derive(Debug, Clone, Default)]
pub(super) struct Stay(Arc<Mutex<Option<Instant>>>);

// === impl Stay ===

impl Stay {
    /// An answer may take until then.
    pub(super) fn until(&self, end: Instant) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(end);
    }

    /// When the last answer must have ended; `now` if none takes its time.
    pub(super) fn end(&self, now: Instant) -> Instant {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).unwrap_or(now).max(now)
    }
}
