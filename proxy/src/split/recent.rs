//! Who wrote and may not yet see it at the other side, for clients that keep no cookies: a table of fixed size, without locks. A place holds
//! one word: part of the key's hash, and when the write was answered.
//!
//! Nothing is forgotten to a user's harm: where a full row has to give up a place, the moment of the write that stood there becomes a floor,
//! and until a sync's watermark has passed the floor all its reads go to the owner. The floor begins at the process's start, since nobody
//! knows what was written through the one before it.

use std::sync::atomic::{AtomicU64, Ordering};

use xxhash_rust::xxh64::xxh64;

use crate::links::Moment;

/// Places of one row; a key lives in one of them.
const WIDTH: usize = 8;
/// 8,192 rows of 8 places: 512 KiB.
const ROWS: usize = 1 << 13;
/// The low bits of a word are the moment, the others are the tag: 40 bits of milliseconds last for 34 years of one process.
const TIME_BITS: u32 = 40;
const TIME_MASK: u64 = (1 << TIME_BITS) - 1;

/// Who wrote on which sync, and when. Shared by all workers.
#[derive(Debug)]
pub struct RecentWrites {
    places: Box<[AtomicU64]>,
    /// The latest moment of a write that was given up.
    floor: AtomicU64,
    /// Drawn at start, so that nobody can aim at a row.
    seed: u64,
    /// Tells this process's cookies from another's; zero is nobody's.
    process: u64,
}

/// A user's key on one sync, hashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Writer(u64);

// === impl RecentWrites ===

impl Default for RecentWrites {
    fn default() -> Self {
        Self {
            places: std::iter::repeat_with(AtomicU64::default).take(ROWS * WIDTH).collect(),
            floor: AtomicU64::new(Moment::NEVER.get()),
            // Without randomness the table still works; it could only be aimed at, and all cookies would be strangers'.
            seed: getrandom::u64().unwrap_or_default(),
            process: getrandom::u64().unwrap_or_default(),
        }
    }
}

impl RecentWrites {
    /// The name of a user on a sync in this table.
    pub(super) fn writer(&self, sync: &str, key: &[u8]) -> Writer {
        Writer(xxh64(key, xxh64(sync.as_bytes(), self.seed)))
    }

    /// The number of this process.
    pub(super) fn process(&self) -> u64 {
        self.process
    }

    /// Another process answers the same users, and nobody here knows what they write there: until this is over, everybody waits.
    pub(crate) fn others_write(&self) {
        self.floor.store(u64::MAX, Ordering::Release);
    }

    /// Whether another process answers the same users.
    pub(crate) fn do_others_write(&self) -> bool {
        self.floor.load(Ordering::Acquire) == u64::MAX
    }

    /// It is over: what was written there was answered before this moment, or will be.
    pub(crate) fn others_wrote(&self, until: Moment) {
        self.floor.store(until.get(), Ordering::Release);
    }

    /// Remembers a write that was answered at this moment; in a full row the oldest makes room.
    pub(super) fn remember(&self, writer: Writer, at: Moment) {
        let time = at.get().min(TIME_MASK);
        for _ in 0..WIDTH {
            let row = self.row(writer);
            let Some((place, seen)) = row
                .iter()
                .map(|place| (place, place.load(Ordering::Relaxed)))
                .min_by_key(|(_, seen)| (tag(*seen) != writer.tag(), moment(*seen)))
            else {
                break;
            };
            let is_theirs = tag(seen) == writer.tag();
            if !is_theirs {
                // Before it is overwritten: who reads meanwhile finds the one or the other.
                self.floor.fetch_max(moment(seen), Ordering::AcqRel);
            }
            let latest = if is_theirs { time.max(moment(seen)) } else { time };
            if place.compare_exchange(seen, writer.tag() | latest, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
                return;
            }
        }
        self.floor.fetch_max(time, Ordering::AcqRel);
    }

    /// Whether this user's last write, or one that had to be forgotten, may not be seen at the other side.
    pub(super) fn waits(&self, writer: Writer, watermark: Moment) -> bool {
        self.row(writer)
            .iter()
            .map(|place| place.load(Ordering::Acquire))
            .any(|seen| tag(seen) == writer.tag() && moment(seen) >= watermark.get())
            || self.floor.load(Ordering::Acquire) >= watermark.get()
    }

    fn row(&self, writer: Writer) -> &[AtomicU64] {
        #[expect(clippy::cast_possible_truncation, reason = "reduced to the number of rows")]
        let row = (writer.0 % ROWS as u64) as usize;
        &self.places[row * WIDTH..(row + 1) * WIDTH]
    }
}

fn tag(word: u64) -> u64 {
    word & !TIME_MASK
}

fn moment(word: u64) -> u64 {
    word & TIME_MASK
}

// === impl Writer ===

impl Writer {
    fn tag(self) -> u64 {
        self.0 & !TIME_MASK
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Moment {
        Moment::new(millis)
    }

    #[test]
    fn a_write_waits_until_the_watermark_has_passed_it_for_its_user_and_sync_alone() {
        let table = RecentWrites::default();
        let ann = table.writer("payments", b"ann");
        table.remember(ann, at(12));
        assert!(table.waits(ann, at(11)));
        // Within one millisecond nobody knows which came first.
        assert!(table.waits(ann, at(12)));
        assert!(!table.waits(ann, at(13)));
        assert!(!table.waits(table.writer("payments", b"bob"), at(11)));
        assert!(!table.waits(table.writer("accounts", b"ann"), at(11)));
    }

    #[test]
    fn while_another_process_answers_too_everybody_waits_and_then_until_the_watermark_has_passed_its_end() {
        let table = RecentWrites::default();
        let ann = table.writer("payments", b"ann");
        assert!(!table.waits(ann, at(11)));
        table.others_write();
        assert!(table.waits(ann, at(11)) && table.waits(ann, at(1 << 39)));
        table.remember(ann, at(12));
        table.others_wrote(at(20));
        assert!(table.waits(ann, at(20)) && !table.waits(ann, at(21)));
    }

    #[test]
    fn before_the_watermark_is_known_everybody_waits() {
        let table = RecentWrites::default();
        assert!(table.waits(table.writer("payments", b"ann"), Moment::NEVER));
    }

    #[test]
    fn a_later_write_of_the_same_user_takes_the_same_place_and_an_earlier_one_takes_none() {
        let table = RecentWrites::default();
        let ann = table.writer("payments", b"ann");
        for millis in 1..100 {
            table.remember(ann, at(millis));
        }
        table.remember(ann, at(50));
        let taken = table.places.iter().filter(|place| place.load(Ordering::Relaxed) != 0).count();
        assert_eq!(taken, 1);
        assert!(table.waits(ann, at(99)));
        assert!(!table.waits(ann, at(100)));
    }

    #[test]
    fn the_table_never_grows_and_nobody_is_forgotten_before_their_time() {
        let table = RecentWrites::default();
        let user = |user: u64| table.writer("s", &user.to_le_bytes());
        let count = 200_000;
        for number in 1..=count {
            table.remember(user(number), at(number));
        }
        assert_eq!(table.places.len(), ROWS * WIDTH);
        for number in 1..=count {
            assert!(table.waits(user(number), at(number)), "{number}");
        }
        // The newest wait by themselves; the others only until the watermark has passed what was given up.
        let floor = table.floor.load(Ordering::Relaxed);
        assert!(floor < count, "{floor}");
        assert!(!table.waits(user(1), at(floor + 1)));
        assert!(table.waits(user(count), at(count)));
    }
}
