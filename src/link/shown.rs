//! Turns places in the owner's log into moments: where the log ended when, and so up to which moment the other side shows everything.
//!
//! Nothing is asked for a write: what was answered before a reading began stands before the end of the log that this reading found, whichever
//! replica answered it. So once the other side has applied up to that end, it shows all that was answered before that moment.

use std::collections::VecDeque;

use banyan_connectors::Lsn;
use banyan_proxy::links::Moment;

/// Ends of the log that the other side has not reached, oldest first.
#[derive(Debug, Default)]
pub(super) struct Shown(VecDeque<(Moment, Lsn)>);

/// More are thinned out, the older the more: that makes the watermark late, never early, and only while the lag is large.
const MOST: usize = 64;

// === impl Shown ===

impl Shown {
    /// A reading that began at this moment found the log's end, and how far the other side has applied. Gives the moment before which
    /// everything is shown, when it has moved.
    pub(super) fn read(&mut self, began: Moment, written: Option<Lsn>, applied: Option<Lsn>) -> Option<Moment> {
        if let Some(written) = written {
            if self.0.len() >= MOST {
                let mut place = 0;
                self.0.retain(|_| {
                    place += 1;
                    place % 2 == 0
                });
            }
            self.0.push_back((began, written));
        }
        let applied = applied?;
        let reached = self.0.iter().rposition(|(_, end)| *end <= applied)?;
        self.0.drain(..=reached).next_back().map(|(moment, _)| moment)
    }

    /// Another owner: the ends were of another log.
    pub(super) fn forget(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(shown: &mut Shown, began: u64, written: u64, applied: Option<u64>) -> Option<u64> {
        shown.read(Moment::new(began), Some(Lsn::new(written)), applied.map(Lsn::new)).map(Moment::get)
    }

    #[test]
    fn what_was_answered_before_a_reading_is_shown_once_its_end_is_applied() {
        let mut shown = Shown::default();
        assert_eq!(read(&mut shown, 10, 100, Some(90)), None);
        assert_eq!(read(&mut shown, 20, 100, Some(90)), None);
        assert_eq!(read(&mut shown, 30, 110, Some(100)), Some(20));
        assert_eq!(read(&mut shown, 40, 120, Some(100)), None);
        assert_eq!(read(&mut shown, 50, 120, None), None);
        assert_eq!(read(&mut shown, 60, 120, Some(120)), Some(60));
    }

    #[test]
    fn an_idle_pair_is_always_in_step() {
        let mut shown = Shown::default();
        assert_eq!(read(&mut shown, 10, 100, Some(100)), Some(10));
        assert_eq!(read(&mut shown, 20, 100, Some(100)), Some(20));
    }

    #[test]
    fn however_long_an_applier_stalls_it_costs_no_more_memory_and_is_never_early() {
        let mut shown = Shown::default();
        for moment in 1..10_000 {
            assert_eq!(read(&mut shown, moment, moment * 10, Some(5)), None);
            assert!(shown.0.len() <= MOST);
        }
        let applied = 99_000;
        let watermark = read(&mut shown, 10_000, 100_000, Some(applied)).unwrap();
        assert!(watermark * 10 <= applied && watermark > 9_800, "{watermark}");
        assert_eq!(read(&mut shown, 10_001, 100_010, Some(100_010)), Some(10_001));
    }

    #[test]
    fn ends_of_another_owners_log_are_forgotten() {
        let mut shown = Shown::default();
        assert_eq!(read(&mut shown, 10, 100, Some(90)), None);
        shown.forget();
        assert_eq!(read(&mut shown, 20, 7_000, Some(6_000)), None);
    }
}
