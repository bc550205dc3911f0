//! Who made requests lately: a table of fixed size. In a full row the key whose requests are forgotten first anyway makes room: then a client
//! may do a little more than it should, and memory never grows.

use std::sync::{Mutex, PoisonError};

use governor::{nanos::Nanos, state::StateStore};
use xxhash_rust::xxh64::xxh64;

/// Places of one row; a key lives in one of them.
const WIDTH: usize = 8;
/// 8,192 rows of 8 places: about 1 MiB a route, and 64k keys.
const ROWS: usize = 1 << 13;

/// What `governor` knows of each key: when its requests will be forgotten. A row's lock is held for some nanoseconds, and never across
/// anything that could wait.
pub(super) struct Memory {
    rows: Box<[Mutex<[Cell; WIDTH]>]>,
}

/// A key, hashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Place(u64);

#[derive(Debug, Clone, Copy, Default)]
struct Cell {
    /// 0: nobody's.
    key: u64,
    until: u64,
}

// === impl Memory ===

impl Default for Memory {
    fn default() -> Self {
        Self { rows: std::iter::repeat_with(Mutex::default).take(ROWS).collect() }
    }
}

impl StateStore for Memory {
    type Key = Place;

    fn measure_and_replace<T, F, E>(&self, key: &Place, measure: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        #[expect(clippy::cast_possible_truncation, reason = "reduced to the number of rows")]
        let row = (key.0 % ROWS as u64) as usize;
        let mut row = self.rows[row].lock().unwrap_or_else(PoisonError::into_inner);
        let known = row.iter().position(|cell| cell.key == key.0);
        let (answer, until) = measure(known.map(|at| Nanos::new(row[at].until)))?;
        let at = known.or_else(|| (0..WIDTH).min_by_key(|at| row[*at].until)).unwrap_or(0);
        row[at] = Cell { key: key.0, until: until.as_u64() };
        Ok(answer)
    }
}

// === impl Place ===

impl Place {
    /// `source` is where the key was found: the same text elsewhere is another key.
    pub(super) fn new(seed: u64, source: usize, key: &[u8]) -> Self {
        Self(xxh64(key, seed.wrapping_add(source as u64)).max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(memory: &Memory, key: u64) -> u64 {
        let place = Place::new(7, 0, &key.to_le_bytes());
        let until = memory.measure_and_replace(&place, |until| {
            let next = until.map_or(1, |until| until.as_u64() + 1);
            Ok::<_, ()>((next, Nanos::new(next)))
        });
        until.unwrap()
    }

    #[test]
    fn a_key_finds_what_was_known_of_it() {
        let memory = Memory::default();
        for round in 1..=5 {
            assert!((0..1000).all(|key| count(&memory, key) == round));
        }
    }

    #[test]
    fn the_table_never_grows_and_the_busiest_stay() {
        let memory = Memory::default();
        for _ in 0..1000 {
            count(&memory, u64::MAX);
        }
        for key in 0..1_000_000 {
            count(&memory, key);
        }
        assert_eq!(count(&memory, u64::MAX), 1001);
        assert_eq!(memory.rows.len() * WIDTH, 65_536);
    }
}
