//! Kafka between both databases: one topic of one partition a flow.

pub(crate) mod consume;
pub(crate) mod produce;
pub(crate) mod topics;

/// The largest record: producer, topic and consumer must agree on it.
pub(crate) const MAX_RECORD: usize = 10 << 20;

/// How many records a queue of so many bytes may hold. The library's limits by bytes leave out what it keeps beside each record, headers above
/// all: with small records that is more than the records themselves.
pub(crate) fn most_records(budget: usize) -> usize {
    (budget / 1024).clamp(1000, 100_000)
}
