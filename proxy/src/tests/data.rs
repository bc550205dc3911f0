//! A data side that a test scripts: who owns, how far the other side is behind, and what it shows.

use std::{
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use crate::links::{Hold, Moment, Owner, SyncLink};

/// One sync's link; clones share what is said. Legacy's and in step to begin with, except that nothing written from now on is shown.
#[derive(Clone)]
pub(crate) struct Data(Arc<Mutex<Says>>, Arc<Hold>);

struct Says {
    owner: Owner,
    lag: Option<Duration>,
    watermark: Moment,
    wrote: Vec<Moment>,
}

// === impl Data ===

impl Data {
    pub(crate) fn new() -> Self {
        let watermark = Moment::now();
        let says = Says { owner: Owner::Legacy, lag: Some(Duration::ZERO), watermark, wrote: Vec::new() };
        Self(Arc::new(Mutex::new(says)), Arc::default())
    }

    pub(crate) fn owned_by(&self, owner: Owner) {
        self.says().owner = owner;
        self.1.changed();
    }

    /// All that was written until now is at the other side.
    pub(crate) fn shows_all(&self) {
        self.says().watermark = Moment::now() + Duration::from_millis(1);
    }

    /// Nobody knows what the other side shows.
    pub(crate) fn shows_nothing(&self) {
        self.says().watermark = Moment::NEVER;
    }

    /// How often a write was told of: when its answer came, and when it had ended.
    pub(crate) fn writes(&self) -> usize {
        self.says().wrote.len()
    }

    fn says(&self) -> MutexGuard<'_, Says> {
        self.0.lock().unwrap()
    }
}

impl SyncLink for Data {
    fn owner(&self) -> Owner {
        self.says().owner
    }

    fn lag(&self) -> Option<Duration> {
        self.says().lag
    }

    fn watermark(&self) -> Moment {
        self.says().watermark
    }

    fn hold(&self) -> &Arc<Hold> {
        &self.1
    }

    fn wrote(&self, at: Moment) {
        self.says().wrote.push(at);
    }
}
