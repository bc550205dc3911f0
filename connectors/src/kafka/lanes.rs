//! Lanes, over which `order: key` spreads a flow's rows by their keys; `order: transaction` has one lane, which nobody calls so.
//!
//! A lane is a flow in miniature: a partition of the flow's topic is its chain of records, and the partition with the same number in each
//! table's topic has its rows. Here is which rows are whose, and what a capture knows of each lane.

use crate::position::Lsn;

/// What one run of a capture has sent of each lane.
#[derive(Debug)]
pub(crate) struct Lanes(Vec<Lane>);

#[derive(Debug)]
struct Lane {
    /// The last end that was sent as COMMIT or CHECKPOINT.
    last_end: Lsn,
    /// Records of the open transaction.
    count: u64,
    /// Of those the rows, by their table's place in the plan.
    rows: Vec<(usize, u64)>,
}

/// The lane of a row: the partition that Java's clients choose for a record with this key.
pub(crate) fn of(key: &[u8], lanes: Option<u32>) -> u32 {
    lanes.map_or(0, |lanes| (murmur2(key) & 0x7fff_ffff) % lanes.max(1))
}

/// `org.apache.kafka.common.utils.Utils.murmur2`.
fn murmur2(bytes: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    let length = u32::try_from(bytes.len() & 0xffff_ffff).unwrap_or(u32::MAX);
    let mut hash = 0x9747_b28c ^ length;
    let mut words = bytes.chunks_exact(4);
    for word in words.by_ref() {
        let word = word.iter().rev().fold(0, |word: u32, byte| word << 8 | u32::from(*byte)).wrapping_mul(M);
        hash = hash.wrapping_mul(M) ^ (word ^ word >> 24).wrapping_mul(M);
    }
    let rest = words.remainder();
    if !rest.is_empty() {
        hash ^= rest.iter().rev().fold(0, |word: u32, byte| word << 8 | u32::from(*byte));
        hash = hash.wrapping_mul(M);
    }
    hash = (hash ^ hash >> 13).wrapping_mul(M);
    hash ^ hash >> 15
}

// === impl Lanes ===

impl Lanes {
    /// All of them begin where the run does.
    pub(crate) fn new(lanes: Option<u32>, from: Lsn) -> Self {
        Self((0..lanes.unwrap_or(1)).map(|_| Lane { last_end: from, count: 0, rows: Vec::new() }).collect())
    }

    pub(crate) fn all(&self) -> std::ops::Range<u32> {
        0..u32::try_from(self.0.len()).unwrap_or(u32::MAX)
    }

    fn lane(&mut self, lane: u32) -> Option<&mut Lane> {
        self.0.get_mut(usize::try_from(lane).ok()?)
    }

    /// The last end that was sent to this lane.
    pub(crate) fn end_of(&self, lane: u32) -> Lsn {
        usize::try_from(lane).ok().and_then(|lane| self.0.get(lane)).map_or(Lsn::ZERO, |lane| lane.last_end)
    }

    /// The last end that was sent to every lane, or one behind it.
    pub(crate) fn last_end(&self) -> Lsn {
        self.0.iter().map(|lane| lane.last_end).min().unwrap_or(Lsn::ZERO)
    }

    /// Where the next record of the open transaction stands in this lane; counts it. `row`: it stands in the topic of this table.
    pub(crate) fn next(&mut self, lane: u32, row: Option<usize>) -> u64 {
        let Some(lane) = self.lane(lane) else { return 0 };
        if let Some(table) = row {
            match lane.rows.iter_mut().find(|(own, _)| *own == table) {
                Some((_, count)) => *count += 1,
                None => lane.rows.push((table, 1)),
            }
        }
        lane.count += 1;
        lane.count - 1
    }

    /// How many records the open transaction has in this lane.
    pub(crate) fn count(&self, lane: u32) -> u64 {
        usize::try_from(lane).ok().and_then(|lane| self.0.get(lane)).map_or(0, |lane| lane.count)
    }

    /// The open transaction is over, or given up. Gives the rows that it had in this lane, by tables' places in the plan.
    pub(crate) fn close(&mut self, lane: u32) -> Vec<(usize, u64)> {
        let Some(lane) = self.lane(lane) else { return Vec::new() };
        lane.count = 0;
        std::mem::take(&mut lane.rows)
    }

    /// An end is sent to this lane. Gives the end that with it was sent to every lane.
    pub(crate) fn ends(&mut self, lane: u32, end: Lsn) -> Lsn {
        if let Some(lane) = self.lane(lane) {
            lane.last_end = end;
        }
        self.last_end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From `org.apache.kafka.common.utils.UtilsTest`.
    #[test]
    fn a_key_has_the_hash_that_javas_clients_give_it() {
        for (key, hash) in [
            ("21", -973_932_308),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            ("abc", 479_470_107),
        ] {
            assert_eq!(murmur2(key.as_bytes()).cast_signed(), hash, "{key}");
        }
    }

    #[test]
    fn an_end_counts_when_every_lane_has_it() {
        let mut lanes = Lanes::new(Some(3), Lsn::new(5));
        assert_eq!(lanes.ends(1, Lsn::new(9)), Lsn::new(5));
        assert_eq!(lanes.ends(0, Lsn::new(7)), Lsn::new(5));
        assert_eq!(lanes.ends(2, Lsn::new(8)), Lsn::new(7));
        assert_eq!((lanes.end_of(1), lanes.last_end()), (Lsn::new(9), Lsn::new(7)));
    }

    #[test]
    fn a_lane_counts_its_own_records_and_where_they_stand() {
        let mut lanes = Lanes::new(Some(2), Lsn::ZERO);
        assert_eq!(
            [lanes.next(0, Some(4)), lanes.next(0, None), lanes.next(1, Some(2)), lanes.next(0, Some(4))],
            [0, 1, 0, 2]
        );
        assert_eq!((lanes.count(0), lanes.close(0)), (3, vec![(4, 2)]));
        assert_eq!((lanes.count(0), lanes.close(1)), (0, vec![(2, 1)]));
    }
}
