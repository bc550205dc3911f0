//! The way out of Kafka: one partition, read from an offset that the target database remembers, never from a group's. What one lane of `order: key`
//! reads, which is several, is in `lane`.

use std::time::Duration;

use futures_util::{FutureExt as _, StreamExt as _};
use rdkafka::{
    Offset, TopicPartitionList,
    consumer::{Consumer, StreamConsumer},
    error::{KafkaError, RDKafkaErrorCode},
    message::BorrowedMessage,
};
use tokio::time::{Instant, timeout_at};

use super::{
    ROOM,
    client::{Ear, forbidden},
    most_records,
};
use crate::{config::Kafka, error::FlowError};

pub(super) const TIMEOUT: Duration = Duration::from_secs(10);

/// A reader of one flow's topic.
pub(crate) struct Inlet {
    consumer: StreamConsumer<Ear>,
    topic: String,
}

// === impl Inlet ===

impl Inlet {
    /// A reader that has not begun, and holds at most `budget` bytes.
    pub(crate) fn open(kafka: &Kafka, topic: &str, budget: usize) -> Result<Self, FlowError> {
        Ok(Self { consumer: consumer(kafka, topic, budget.max(1 << 20))?, topic: topic.to_owned() })
    }

    /// The first offset that is still there, and the one that the next record will get.
    pub(crate) fn bounds(&self) -> Result<(i64, i64), FlowError> {
        self.consumer
            .fetch_watermarks(&self.topic, 0, TIMEOUT)
            .map_err(|source| self.consumer.context().failed("asking Kafka for the topic's bounds", source))
    }

    /// Reads on from `offset`.
    pub(crate) fn seek(&self, offset: i64) -> Result<(), FlowError> {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&self.topic, 0, Offset::Offset(offset))
            .and_then(|()| self.consumer.assign(&list))
            .map_err(|source| FlowError::Kafka { doing: "seeking in the topic", source })
    }

    /// The next record if one is here already.
    pub(crate) fn ready(&self) -> Result<Option<BorrowedMessage<'_>>, FlowError> {
        match self.consumer.stream().next().now_or_never() {
            Some(Some(found)) => self.sort(found),
            _ => Ok(None),
        }
    }

    /// The next record, or nothing when `at_most` has passed.
    pub(crate) async fn next(&self, at_most: Duration) -> Result<Option<BorrowedMessage<'_>>, FlowError> {
        let end = Instant::now() + at_most;
        // What is no record and no error does not end the waiting: a record may come behind it.
        while let Ok(found) = timeout_at(end, self.consumer.recv()).await {
            if let Some(message) = self.sort(found)? {
                return Ok(Some(message));
            }
        }
        Ok(None)
    }

    fn sort<'m>(
        &self,
        found: Result<BorrowedMessage<'m>, KafkaError>,
    ) -> Result<Option<BorrowedMessage<'m>>, FlowError> {
        sort(self.consumer.context(), &self.topic, found)
    }
}

/// A consumer that holds at most `budget` bytes of each of its queues.
pub(super) fn consumer(kafka: &Kafka, group: &str, budget: usize) -> Result<StreamConsumer<Ear>, FlowError> {
    let size = kafka.topics.max_record() + ROOM;
    kafka
        .client()
        // Required by the library; nothing is ever committed to it.
        .set("group.id", group)
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("auto.offset.reset", "error")
        .set("allow.auto.create.topics", "false")
        // An answer to an empty fetch; also the delay of a broker that does not wait for data.
        .set("fetch.wait.max.ms", "20")
        .set("fetch.queue.backoff.ms", "5")
        .set("fetch.error.backoff.ms", "50")
        .set("fetch.message.max.bytes", budget.min(1 << 20).to_string())
        .set("fetch.max.bytes", size.to_string())
        .set("receive.message.max.bytes", (size + ROOM).to_string())
        .set("queued.min.messages", most_records(budget).to_string())
        .set("queued.max.messages.kbytes", (budget / 1024).max(1).to_string())
        .create_with_context(Ear::default())
        .map_err(|source| Ear::default().failed("making a consumer", source))
}

/// Most errors of a consumer pass by themselves; an offset that is no more does not.
pub(super) fn sort<M>(ear: &Ear, topic: &str, found: Result<M, KafkaError>) -> Result<Option<M>, FlowError> {
    match found {
        Ok(message) => Ok(Some(message)),
        Err(source) => match source.rdkafka_error_code() {
            Some(RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange) => {
                Err(FlowError::NeedsSnapshot(format!(
                    "the topic `{topic}` no longer holds the next record to apply: its head was deleted too early"
                )))
            }
            // The group is there because the library asks for one; nothing here needs what Kafka does not allow.
            Some(RDKafkaErrorCode::PartitionEOF | RDKafkaErrorCode::GroupAuthorizationFailed) => Ok(None),
            Some(RDKafkaErrorCode::TopicAuthorizationFailed) => Err(forbidden("read from", topic, "READ")),
            _ => Err(ear.failed("reading from Kafka", source)),
        },
    }
}
