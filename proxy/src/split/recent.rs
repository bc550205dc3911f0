//! Who wrote a moment ago, for clients that keep no cookies: a table of fixed size, without locks. A place holds one word: part of the key's
//! hash and when it ends. Forgetting early is harmless for as long as the lag is small, remembering another's write costs a read at the owner.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use xxhash_rust::xxh64::xxh64;

/// Places of one row; a key lives in one of them.
const WIDTH: usize = 8;
/// 8,192 rows of 8 places: 512 KiB.
const ROWS: usize = 1 << 13;
/// The low bits of a word say when it ends, the others are the tag.
const TIME_BITS: u32 = 40;
/// Times count from 2026-01-01, so that 40 bits of milliseconds last until 2060.
const EPOCH_MS: u64 = 1_767_225_600_000;

/// Who wrote a moment ago on which sync. Shared by all workers.
#[derive(Debug)]
pub struct RecentWrites {
    places: Box<[AtomicU64]>,
    /// Drawn at start, so that nobody can aim at a row.
    seed: u64,
}

/// A user's key on one sync, hashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Writer(u64);

// === impl RecentWrites ===

impl Default for RecentWrites {
    fn default() -> Self {
        let mut seed = [0; 8];
        // Without randomness the table still works; it could only be aimed at.
        let _ = getrandom::fill(&mut seed);
        Self {
            places: std::iter::repeat_with(AtomicU64::default).take(ROWS * WIDTH).collect(),
            seed: u64::from_ne_bytes(seed),
        }
    }
}

impl RecentWrites {
    /// The name of a user on a sync in this table.
    pub(super) fn writer(&self, sync: &str, key: &[u8]) -> Writer {
        Writer(xxh64(key, xxh64(sync.as_bytes(), self.seed)))
    }

    /// Remembers a write until `until`; in a full row the one that ends first makes room.
    pub(super) fn remember(&self, writer: Writer, until: SystemTime, now: SystemTime) {
        let word = writer.tag() | millis(until);
        let now = millis(now);
        for _ in 0..WIDTH {
            let row = self.row(writer);
            let Some((place, seen)) = row
                .iter()
                .map(|place| (place, place.load(Ordering::Relaxed)))
                .min_by_key(|(_, seen)| (seen & !TIME_MASK != writer.tag(), ends(*seen) > now, ends(*seen)))
            else {
                return;
            };
            if place.compare_exchange(seen, word, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
                return;
            }
        }
    }

    /// Whether this user wrote, and it is not over.
    pub(super) fn wrote(&self, writer: Writer, now: SystemTime) -> bool {
        let now = millis(now);
        self.row(writer)
            .iter()
            .map(|place| place.load(Ordering::Relaxed))
            .any(|seen| seen & !TIME_MASK == writer.tag() && ends(seen) > now)
    }

    fn row(&self, writer: Writer) -> &[AtomicU64] {
        #[expect(clippy::cast_possible_truncation, reason = "reduced to the number of rows")]
        let row = (writer.0 % ROWS as u64) as usize;
        &self.places[row * WIDTH..(row + 1) * WIDTH]
    }
}

const TIME_MASK: u64 = (1 << TIME_BITS) - 1;

fn ends(word: u64) -> u64 {
    word & TIME_MASK
}

fn millis(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH + Duration::from_millis(EPOCH_MS)).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX).min(TIME_MASK)
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

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(EPOCH_MS) + Duration::from_secs(seconds)
    }

    #[test]
    fn a_write_is_remembered_until_it_ends_for_its_user_and_sync_alone() {
        let table = RecentWrites::default();
        let ann = table.writer("payments", b"ann");
        table.remember(ann, at(12), at(10));
        assert!(table.wrote(ann, at(11)));
        assert!(!table.wrote(ann, at(12)));
        assert!(!table.wrote(table.writer("payments", b"bob"), at(11)));
        assert!(!table.wrote(table.writer("accounts", b"ann"), at(11)));
    }

    #[test]
    fn a_later_write_of_the_same_user_takes_the_same_place() {
        let table = RecentWrites::default();
        let ann = table.writer("payments", b"ann");
        for second in 0..100 {
            table.remember(ann, at(second + 200), at(second));
        }
        let taken = table.places.iter().filter(|place| place.load(Ordering::Relaxed) != 0).count();
        assert_eq!(taken, 1);
        assert!(table.wrote(ann, at(298)));
    }

    #[test]
    fn the_table_never_grows_and_the_newest_writers_stay() {
        let table = RecentWrites::default();
        for user in 0..200_000u64 {
            table.remember(table.writer("s", &user.to_le_bytes()), at(1_000 + user), at(10));
        }
        assert_eq!(table.places.len(), ROWS * WIDTH);
        assert!((199_000..200_000u64).all(|user| table.wrote(table.writer("s", &user.to_le_bytes()), at(20))));
    }
}
