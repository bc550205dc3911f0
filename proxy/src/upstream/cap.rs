//! The most connections that an upstream gets, over all workers. Each worker keeps idle ones of its own: who needs one more at the cap asks the
//! worker with the most idle ones to close one.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::sync::Notify;

use super::UpstreamState;

/// The connections of an upstream that has a cap.
#[derive(Debug, Default)]
pub(super) struct Cap {
    open: AtomicUsize,
    /// One was closed.
    freed: Notify,
}

/// What the others see of one worker's idle connections.
#[derive(Debug, Default)]
pub(super) struct Idlers {
    idle: AtomicUsize,
    /// So many are to be closed.
    asked: AtomicUsize,
    bell: Notify,
}

/// Room for one connection, as long as it lives.
#[derive(Debug)]
pub(crate) struct Room(Arc<UpstreamState>);

/// Who was asked may just have used what it had: then another one is asked.
pub(super) const ASK_AGAIN: Duration = Duration::from_millis(10);

// === impl Room ===

impl Room {
    /// Room for one more, if there is any.
    pub(super) fn take(state: &Arc<UpstreamState>, most: usize) -> Option<Self> {
        let more = |open: usize| (open < most).then_some(open + 1);
        let taken = state.cap.open.fetch_update(Ordering::AcqRel, Ordering::Acquire, more);
        taken.is_ok().then(|| Self(Arc::clone(state)))
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.0.cap.open.fetch_sub(1, Ordering::AcqRel);
        self.0.cap.freed.notify_waiters();
    }
}

// === impl Cap ===

impl Cap {
    /// Becomes ready when a connection was closed after this call.
    pub(super) fn freed(&self) -> tokio::sync::futures::Notified<'_> {
        self.freed.notified()
    }
}

// === impl Idlers ===

impl Idlers {
    /// The worker has so many.
    pub(super) fn has(&self, idle: usize) {
        self.idle.store(idle, Ordering::Relaxed);
    }

    /// Waits until it is asked to close some, and says how many.
    pub(super) async fn asked(&self) -> usize {
        self.bell.notified().await;
        self.asked.swap(0, Ordering::AcqRel)
    }

    /// Asks the one with the most to close one; who asks has none.
    pub(super) fn ask<'i>(all: impl Iterator<Item = &'i Self>) {
        let most = all.max_by_key(|idlers| idlers.idle.load(Ordering::Relaxed));
        if let Some(idlers) = most.filter(|idlers| idlers.idle.load(Ordering::Relaxed) > 0) {
            idlers.asked.fetch_add(1, Ordering::AcqRel);
            idlers.bell.notify_one();
        }
    }
}
