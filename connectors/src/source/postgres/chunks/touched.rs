//! Which rows of a chunk the stream has superseded: those that a transaction touched which the chunk's snapshot does not see.
//!
//! What a snapshot sees is asked of the snapshot, never of the log's order: a commit is in the log before it is seen, for long when a
//! synchronous standby is slow.

use std::{
    collections::{HashMap, HashSet},
    str::FromStr,
};

use crate::position::BadPosition;

/// So many touched rows are remembered one by one, and so many transactions.
const MOST: usize = 100_000;

/// A snapshot of the source, as `pg_current_snapshot()` writes it: `xmin:xmax:xip,…`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Visible {
    xmin: u64,
    xmax: u64,
    /// Of those between, the ones that had not ended.
    running: Vec<u64>,
}

/// What was touched by transactions that some later snapshot may not see.
#[derive(Debug, Default)]
pub(crate) struct Touched {
    rows: Vec<Touch>,
    /// Transactions of which too much was touched to tell which rows.
    all: HashSet<u32>,
    /// There are too many of those, too: any up to this one may be such.
    until: Option<u32>,
}

#[derive(Debug)]
struct Touch {
    xid: u32,
    table: usize,
    key: Box<[u8]>,
    /// What the stream says of the row is not all that the target needs.
    lacks: bool,
}

/// What becomes of a chunk's row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It is the row as it is here in the stream.
    Current,
    /// The stream has brought a newer one, whole, or has deleted it.
    Superseded,
    /// There is a newer one that the stream has not brought whole.
    Again,
}

/// The fates of a chunk's rows.
#[derive(Debug)]
pub(crate) struct Fates {
    lacking: HashMap<Box<[u8]>, bool>,
    all: bool,
}

// === impl Visible ===

impl Visible {
    /// The stream counts transactions in 32 bits; the snapshot says which round it is.
    pub(crate) fn sees(&self, xid: u32) -> bool {
        let xid = self.whole(xid);
        xid < self.xmin || (xid < self.xmax && self.running.binary_search(&xid).is_err())
    }

    /// Whether it sees this transaction and all before.
    fn sees_all(&self, until: u32) -> bool {
        self.whole(until) < self.xmin
    }

    fn whole(&self, xid: u32) -> u64 {
        let ahead = i64::from(xid.wrapping_sub(self.xmax as u32).cast_signed());
        self.xmax.saturating_add_signed(ahead)
    }

    pub(crate) fn xmin(&self) -> u64 {
        self.xmin
    }

    pub(crate) fn xmax(&self) -> u64 {
        self.xmax
    }
}

impl FromStr for Visible {
    type Err = BadPosition;

    fn from_str(text: &str) -> Result<Self, BadPosition> {
        let mut parts = text.splitn(3, ':');
        let mut number = || parts.next().and_then(|part| part.parse().ok()).ok_or(BadPosition);
        let (xmin, xmax) = (number()?, number()?);
        let list = parts.next().unwrap_or_default();
        let running = list.split(',').filter(|xid| !xid.is_empty()).map(|xid| xid.parse().map_err(|_| BadPosition));
        let mut running: Vec<u64> = running.collect::<Result<_, _>>()?;
        running.sort_unstable();
        Ok(Self { xmin, xmax, running })
    }
}

// === impl Touched ===

impl Touched {
    pub(crate) fn row(&mut self, xid: u32, table: usize, key: &[u8], lacks: bool) {
        if self.rows.len() >= MOST {
            for touch in std::mem::take(&mut self.rows) {
                self.everything(touch.xid);
            }
        }
        if !self.all.contains(&xid) {
            self.rows.push(Touch { xid, table, key: key.into(), lacks });
        }
    }

    /// A transaction may have touched any row.
    pub(crate) fn everything(&mut self, xid: u32) {
        self.all.insert(xid);
        if self.all.len() > MOST {
            let later = |a: u32, b: u32| if a.wrapping_sub(b).cast_signed() > 0 { a } else { b };
            self.until = self.all.drain().chain(self.until).reduce(later);
        }
    }

    pub(crate) fn fates(&self, snapshot: &Visible, table: usize) -> Fates {
        let mut lacking: HashMap<Box<[u8]>, bool> = HashMap::new();
        for touch in self.rows.iter().filter(|touch| touch.table == table && !snapshot.sees(touch.xid)) {
            *lacking.entry(touch.key.clone()).or_default() |= touch.lacks;
        }
        let all = self.all.iter().any(|xid| !snapshot.sees(*xid));
        Fates { lacking, all: all || self.until.is_some_and(|until| !snapshot.sees_all(until)) }
    }

    /// Forgets what `snapshot` sees, and every later one.
    pub(crate) fn forget(&mut self, snapshot: &Visible) {
        self.rows.retain(|touch| !snapshot.sees(touch.xid));
        self.all.retain(|xid| !snapshot.sees(*xid));
        self.until = self.until.filter(|until| !snapshot.sees_all(*until));
    }

    pub(crate) fn clear(&mut self) {
        self.rows.clear();
        self.all.clear();
        self.until = None;
    }
}

// === impl Fates ===

impl Fates {
    pub(crate) fn of(&self, key: &[u8]) -> Fate {
        if self.all {
            return Fate::Again;
        }
        match self.lacking.get(key) {
            None => Fate::Current,
            Some(true) => Fate::Again,
            Some(false) => Fate::Superseded,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_sees_what_had_ended_when_it_was_taken() {
        let snapshot: Visible = "10:20:12,17".parse().unwrap();
        let seen: Vec<u32> = (8..22).filter(|xid| snapshot.sees(*xid)).collect();
        assert_eq!(seen, [8, 9, 10, 11, 13, 14, 15, 16, 18, 19]);
        let idle: Visible = "20:20:".parse().unwrap();
        assert!(idle.sees(19) && !idle.sees(20));
        for bad in ["", "1", "a:2:", "1:2:x"] {
            assert_eq!(bad.parse::<Visible>(), Err(BadPosition), "{bad}");
        }
    }

    #[test]
    fn the_stream_counts_in_32_bits_and_begins_anew() {
        let round = 1_u64 << 32;
        let snapshot: Visible = format!("{}:{}:", round + 2, round + 5).parse().unwrap();
        assert!(snapshot.sees(u32::MAX) && snapshot.sees(4) && !snapshot.sees(5) && !snapshot.sees(100));
    }

    #[test]
    fn a_row_is_superseded_by_what_the_snapshot_does_not_see_and_by_nothing_else() {
        let snapshot: Visible = "10:20:12".parse().unwrap();
        let mut touched = Touched::default();
        touched.row(11, 0, b"seen", false);
        touched.row(12, 0, b"open", false);
        touched.row(25, 0, b"later", true);
        touched.row(25, 1, b"elsewhere", true);
        for _ in 0..2 {
            let fates = touched.fates(&snapshot, 0);
            let of = |key: &str| fates.of(key.as_bytes());
            assert_eq!([of("seen"), of("elsewhere")], [Fate::Current; 2]);
            assert_eq!([of("open"), of("later")], [Fate::Superseded, Fate::Again]);
            touched.forget(&snapshot);
        }
        touched.everything(12);
        assert_eq!(touched.fates(&snapshot, 0).of(b"any"), Fate::Again);
        assert_eq!(touched.fates(&"21:22:".parse().unwrap(), 0).of(b"any"), Fate::Current);
    }

    #[test]
    fn of_a_huge_transaction_only_its_number_is_remembered() {
        let mut touched = Touched::default();
        for n in 0..3 * MOST {
            touched.row(30, 0, &n.to_be_bytes(), false);
        }
        assert!(touched.rows.len() <= MOST && touched.all == HashSet::from([30]));
        assert_eq!(touched.fates(&"10:20:".parse().unwrap(), 0).of(b"any"), Fate::Again);
    }

    #[test]
    fn of_very_many_transactions_only_the_last_is_remembered() {
        let mut touched = Touched::default();
        let first = u32::MAX - 1_000;
        for n in 0..2 * MOST as u32 {
            touched.everything(first.wrapping_add(n));
        }
        let last = u64::from(first) + 2 * MOST as u64 - 1;
        assert!(touched.all.len() <= MOST);
        let any = |touched: &Touched, snapshot: &str| touched.fates(&snapshot.parse().unwrap(), 0).of(b"any");
        let (during, after) = (format!("{last}:{0}:{last}", last + 1), format!("{0}:{0}:", last + 1));
        assert_eq!([any(&touched, &during), any(&touched, &after)], [Fate::Again, Fate::Current]);
        touched.forget(&after.parse().unwrap());
        assert!(touched.all.is_empty() && touched.until.is_none());
    }
}
