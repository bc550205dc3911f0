//! What the asked upstream said lately: a table of fixed size that all workers share, by a keyed hash of the credentials, which nobody can
//! aim at or turn back. Of requests with the same credentials one asks, and the others wait for what it hears.
//!
//! 32,768 places for answers of 1 KiB at most: 2 MiB, and 32 MiB more if all of them are that long.

use std::{
    fmt, mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::watch;

use super::{Answer, Credentials};
use crate::split::Signer;

/// Places of one row; credentials live in one of them.
const WIDTH: usize = 8;
const ROWS: usize = 1 << 12;

/// A row's lock is held for some nanoseconds: nothing is made, freed or waited for meanwhile.
pub(super) struct Memory {
    rows: Box<[Mutex<[Cell; WIDTH]>]>,
    signer: Signer,
}

/// HMAC-SHA-256 of a place and credentials.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Key([u8; 32]);

#[derive(Default)]
struct Cell {
    key: Key,
    state: State,
}

#[derive(Default)]
enum State {
    #[default]
    Free,
    /// Somebody asks.
    Asked(Told),
    Known(Answer, Instant),
}

/// Gets the answer once there is one; an error when nobody asks any more.
pub(crate) type Told = watch::Receiver<Option<Answer>>;

/// What is known of some credentials.
pub(crate) enum Found {
    Known(Answer),
    /// Somebody else asks already.
    Asked(Told),
    /// From now on whoever found this asks.
    Unknown(Asking, Told),
}

/// The duty to ask. Dropped without an answer, the next one asks.
pub(crate) struct Asking {
    memory: Arc<Memory>,
    key: Key,
    tell: watch::Sender<Option<Answer>>,
}

// === impl Memory ===

impl Memory {
    pub(super) fn new(signer: Signer) -> Self {
        Self { rows: std::iter::repeat_with(Mutex::default).take(ROWS).collect(), signer }
    }

    /// The same cookie may be another one's at another place: the host, as the asked upstream is told of it.
    pub(super) fn key(&self, credentials: &Credentials, place: &[u8]) -> Key {
        Key(self.signer.sign(&credentials.message(place)))
    }

    pub(super) fn find(self: &Arc<Self>, key: Key, now: Instant) -> Found {
        if let Some(found) = find(&self.row(&key), &key, now) {
            return found;
        }
        let (tell, told) = watch::channel(None);
        let asked = Cell { key, state: State::Asked(told.clone()) };
        let mut row = self.row(&key);
        // Somebody may have come first.
        if let Some(found) = find(&row, &key, now) {
            drop(row);
            return found;
        }
        let given_up = put(&mut row, asked, now);
        drop(row);
        drop(given_up);
        Found::Unknown(Asking { memory: Arc::clone(self), key, tell }, told)
    }

    fn row(&self, key: &Key) -> MutexGuard<'_, [Cell; WIDTH]> {
        let [first, second, ..] = key.0;
        let row = usize::from(u16::from_le_bytes([first, second])) % ROWS;
        self.rows[row].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Memory([redacted])")
    }
}

fn find(row: &[Cell; WIDTH], key: &Key, now: Instant) -> Option<Found> {
    row.iter().filter(|cell| cell.key == *key).find_map(|cell| match &cell.state {
        State::Known(answer, until) if *until > now => Some(Found::Known(answer.clone())),
        State::Asked(told) => Some(Found::Asked(told.clone())),
        State::Known(..) | State::Free => None,
    })
}

/// In the place of the same credentials, or else in that of what is over or will be over first. Gives what stood there, to be freed elsewhere.
fn put(row: &mut [Cell; WIDTH], cell: Cell, now: Instant) -> Cell {
    let own = row.iter().position(|known| known.key == cell.key && !matches!(known.state, State::Free));
    let first = || (0..WIDTH).min_by_key(|at| row[*at].state.rank(now)).unwrap_or(0);
    let at = own.unwrap_or_else(first);
    mem::replace(&mut row[at], cell)
}

// === impl State ===

impl State {
    /// What gives up its place first comes first.
    fn rank(&self, now: Instant) -> (u8, Instant) {
        match self {
            Self::Free => (0, now),
            Self::Known(_, until) => (1, *until),
            Self::Asked(_) => (2, now),
        }
    }
}

// === impl Asking ===

impl Asking {
    /// Tells all who wait, and whoever comes within this time.
    pub(super) fn answer(self, answer: &Answer, holds: Duration) {
        let now = Instant::now();
        if !holds.is_zero() {
            let cell = Cell { key: self.key, state: State::Known(answer.clone(), now + holds) };
            let mut row = self.memory.row(&self.key);
            let given_up = put(&mut row, cell, now);
            drop(row);
            drop(given_up);
        }
        self.tell.send_replace(Some(answer.clone()));
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        let mut row = self.memory.row(&self.key);
        let own = row.iter_mut().find(|cell| match &cell.state {
            State::Asked(told) => told.same_channel(&self.tell.subscribe()),
            _ => false,
        });
        let given_up = own.map(mem::take);
        drop(row);
        drop(given_up);
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::*;

    fn memory() -> Arc<Memory> {
        Arc::new(Memory::new(Signer::try_new(&[7; 32]).unwrap()))
    }

    fn key(number: u64) -> Key {
        let message = format!("sid={number}");
        Key(Signer::try_new(&[7; 32]).unwrap().sign(message.as_bytes()))
    }

    fn ask(memory: &Arc<Memory>, number: u64) -> (Asking, Told) {
        match memory.find(key(number), Instant::now()) {
            Found::Unknown(asking, told) => (asking, told),
            Found::Known(answer) => panic!("{number} is known: {answer:?}"),
            Found::Asked(_) => panic!("{number} is asked"),
        }
    }

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn one_asks_and_who_comes_meanwhile_hears_the_same() {
        let memory = memory();
        let (asking, _) = ask(&memory, 1);
        let Found::Asked(told) = memory.find(key(1), Instant::now()) else { panic!("two ask") };
        let _others = ask(&memory, 2);
        assert_eq!(*told.borrow(), None);
        asking.answer(&Answer::Nobody, HOUR);
        assert_eq!(*told.borrow(), Some(Answer::Nobody));
        assert!(matches!(memory.find(key(1), Instant::now()), Found::Known(Answer::Nobody)));
        let later = Instant::now() + HOUR;
        assert!(matches!(memory.find(key(1), later), Found::Unknown(..)), "it holds no longer");
    }

    #[test]
    fn who_gives_up_leaves_it_to_the_next() {
        let memory = memory();
        let (asking, told) = ask(&memory, 1);
        drop(asking);
        assert!(told.has_changed().is_err(), "nobody asks any more");
        let (asking, told) = ask(&memory, 1);
        // No time at all: those who wait hear it, and nobody else.
        asking.answer(&Answer::Failed, Duration::ZERO);
        assert_eq!(*told.borrow(), Some(Answer::Failed));
        let _next = ask(&memory, 1);
    }

    #[test]
    fn the_table_never_grows_and_what_is_over_first_makes_room() {
        let memory = memory();
        let (last, _) = ask(&memory, u64::MAX);
        last.answer(&Answer::Nobody, HOUR * 2);
        for number in 0..50_000 {
            let (asking, _) = ask(&memory, number);
            asking.answer(&Answer::Nobody, HOUR);
        }
        assert_eq!(memory.rows.len() * WIDTH, 32_768);
        assert!(matches!(memory.find(key(u64::MAX), Instant::now()), Found::Known(_)));
        let known = (0..50_000).filter(|number| matches!(memory.find(key(*number), Instant::now()), Found::Known(_)));
        assert!(known.count() > 20_000);
    }

    #[test]
    fn a_key_is_of_the_host_and_the_credentials_and_no_other_processes() {
        let (one, other) = (memory(), Memory::new(Signer::try_new(&[8; 32]).unwrap()));
        let of = |memory: &Memory, place: &str, sid: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("cookie", format!("sid={sid}").parse().unwrap());
            memory.key(&Credentials::of(&headers, None).unwrap(), place.as_bytes())
        };
        let ann = of(&one, "a", "1");
        assert!(of(&one, "a", "1") == ann);
        assert!(of(&one, "a", "2") != ann && of(&one, "b", "1") != ann && of(&other, "a", "1") != ann);
    }
}
