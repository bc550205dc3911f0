//! Kafka between both databases: one topic of one partition a flow, or with `order: key` one partition a lane and a topic a table; and beside
//! them the topics of events.

pub(crate) mod ask;
mod client;
pub(crate) mod consume;
pub(crate) mod events;
pub(crate) mod lane;
pub(crate) mod lanes;
mod ledger;
pub(crate) mod produce;
pub(crate) mod seats;
pub(crate) mod topics;

/// What Kafka adds to a record at most; a topic must take so much more than the largest one.
pub(crate) const ROOM: usize = 64 << 10;

/// How many records a queue of so many bytes may hold. The library's limits by bytes leave out what it keeps beside each record, headers above
/// all: with small records that is more than the records themselves.
pub(crate) fn most_records(budget: usize) -> usize {
    (budget / 1024).clamp(1000, 100_000)
}
