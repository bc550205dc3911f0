//! Kafka between both databases: one topic of one partition a flow.

pub(crate) mod consume;
pub(crate) mod produce;
pub(crate) mod topics;

/// The largest record: producer, topic and consumer must agree on it.
pub(crate) const MAX_RECORD: usize = 10 << 20;
