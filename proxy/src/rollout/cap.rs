//! What a rollout lets of a route's weight: one number that the answering path reads.

use std::sync::atomic::{AtomicU16, Ordering};

use arc_swap::ArcSwapOption;

use crate::{config::Weight, split::Lowered};

/// The highest weight that holds now, whatever the file says. 0 until somebody has decided.
#[derive(Debug, Default)]
pub struct Cap {
    hundredths: AtomicU16,
    /// Users whom the last fall took back to legacy.
    lowered: ArcSwapOption<Lowered>,
}

// === impl Cap ===

impl Cap {
    /// The highest weight that holds now.
    #[must_use]
    pub fn weight(&self) -> Weight {
        // Only weights are stored.
        Weight::hundredths(self.hundredths.load(Ordering::Relaxed).min(Weight::FULL.buckets()))
    }

    /// Takes a new one; users of whom it takes modern away are counted when they come.
    pub(super) fn set(&self, weight: Weight) {
        let before = self.weight();
        if before == weight {
            return;
        }
        let lowered = Lowered::at_reload(self.lowered.load().as_deref(), before, weight);
        self.lowered.store(lowered.map(Into::into));
        self.hundredths.store(weight.buckets(), Ordering::Relaxed);
    }

    pub(crate) fn has_lowered(&self) -> bool {
        self.lowered.load().is_some()
    }

    /// Whether a user of this bucket comes for the first time since they were taken back.
    pub(crate) fn take_lowered(&self, bucket: u16) -> bool {
        self.lowered.load().as_ref().is_some_and(|lowered| lowered.take(bucket))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_zero_until_it_is_set_and_remembers_whom_it_took_back() {
        let cap = Cap::default();
        assert_eq!(cap.weight(), Weight::ZERO);
        cap.set(Weight::try_new(25.0).unwrap());
        assert!(!cap.has_lowered());
        cap.set(Weight::ZERO);
        assert_eq!(cap.weight(), Weight::ZERO);
        assert!(cap.take_lowered(2499) && !cap.take_lowered(2499) && !cap.take_lowered(2500));
    }
}
