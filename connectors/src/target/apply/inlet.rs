//! What an applier reads: its flow's only partition, or with `order: key` the partitions of its lane.

use std::{cell::RefCell, time::Duration};

use rdkafka::{Message as _, message::BorrowedMessage};
use tokio::time::Instant;

use crate::{
    error::FlowError,
    kafka::{
        consume,
        lane::{Given, LaneInlet},
        topics,
    },
    plan::Plan,
    record::Head,
    target::applied::{Applied, Place},
};

/// How often a lane is looked at when it has nothing, and when rows of it are on their way.
const LOOK: Duration = Duration::from_millis(10);
const LOOK_FOR_ROWS: Duration = Duration::from_millis(3);

/// The way out of Kafka.
pub(in crate::target) enum Inlet {
    Flow(consume::Inlet),
    Lane(Box<RefCell<LaneInlet>>),
}

/// What came out of it.
pub(super) enum Record<'i> {
    Flow(BorrowedMessage<'i>),
    Lane(Given),
}

/// Makes sure that a topic stands as it must: the flow's, or with `order: key` in the first lane the next one of `turn`. Whether the brokers show its
/// settings, so that looking again makes sense.
pub(super) async fn ensure(plan: &Plan, turn: &mut usize) -> Result<bool, FlowError> {
    let mut topic = plan.names.topic();
    if plan.lanes.is_some() && plan.lane == 0 {
        if let Some(table) = turn.checked_sub(1).and_then(|at| plan.tables.get(at)) {
            topic = plan.names.table_topic(&table.source);
        }
        *turn = (*turn + 1) % (plan.tables.len() + 1);
    }
    Ok(topics::ensure(&plan.kafka, &topic, plan.lanes).await?.shows_settings())
}

// === impl Inlet ===

impl Inlet {
    pub(super) fn open(plan: &Plan) -> Result<Self, FlowError> {
        let budget = plan.budget / 3;
        Ok(match plan.lanes {
            None => Self::Flow(consume::Inlet::open(&plan.kafka, &plan.names.topic(), budget)?),
            Some(_) => Self::Lane(Box::new(RefCell::new(LaneInlet::new(plan, budget)))),
        })
    }

    /// Begins behind what is stored; the topics must hold it. Gives the offset.
    pub(super) async fn begin(&self, stored: &Applied, topic: &str) -> Result<i64, FlowError> {
        match self {
            Self::Flow(inlet) => {
                let offset = super::check_offset(inlet, stored, topic).await?;
                inlet.seek(offset)?;
                Ok(offset)
            }
            Self::Lane(lane) => lane.borrow_mut().begin(stored),
        }
    }

    /// The same once more.
    pub(super) fn again(&self, stored: &Applied) -> Result<i64, FlowError> {
        match self {
            Self::Flow(inlet) => {
                let offset = if stored.record.is_empty() { inlet.bounds()?.0 } else { stored.offset };
                inlet.seek(offset)?;
                Ok(offset)
            }
            Self::Lane(lane) => lane.borrow_mut().begin(stored),
        }
    }

    /// The next record if one is here already; `next` is what is complete so far.
    pub(super) fn ready(&self, next: &Applied) -> Result<Option<Record<'_>>, FlowError> {
        Ok(match self {
            Self::Flow(inlet) => inlet.ready()?.map(Record::Flow),
            Self::Lane(lane) => lane.borrow_mut().ready(next)?.map(Record::Lane),
        })
    }

    /// The next record, or nothing when `at_most` has passed.
    pub(super) async fn next(&self, next: &Applied, at_most: Duration) -> Result<Option<Record<'_>>, FlowError> {
        let lane = match self {
            Self::Flow(inlet) => return Ok(inlet.next(at_most).await?.map(Record::Flow)),
            Self::Lane(lane) => lane,
        };
        let end = Instant::now() + at_most;
        loop {
            if let Some(given) = lane.borrow_mut().ready(next)? {
                return Ok(Some(Record::Lane(given)));
            }
            if Instant::now() >= end {
                return Ok(None);
            }
            let pause = if lane.borrow().waits_for_rows() { LOOK_FOR_ROWS } else { LOOK };
            tokio::time::sleep(pause).await;
        }
    }

    /// The offsets that the next records will get.
    pub(in crate::target) fn ends(&self) -> Result<Vec<i64>, FlowError> {
        match self {
            Self::Flow(inlet) => Ok(vec![inlet.bounds()?.1]),
            Self::Lane(lane) => lane.borrow().ends(),
        }
    }

    /// Whether all was looked at that stands before these offsets; `seen` is the offset of the record that was looked at last.
    pub(in crate::target) fn has_read(&self, seen: i64, ends: &[i64]) -> bool {
        match self {
            Self::Flow(_) => ends.iter().all(|end| seen + 1 >= *end),
            Self::Lane(lane) => lane.borrow().has_read(ends),
        }
    }
}

// === impl Record ===

impl Record<'_> {
    /// In the flow's topic.
    pub(super) fn offset(&self) -> i64 {
        match self {
            Self::Flow(message) => message.offset(),
            Self::Lane(given) => given.offset,
        }
    }

    pub(super) fn head(&self) -> Option<Head> {
        match self {
            Self::Flow(message) => message.headers().and_then(|headers| Head::from_headers(headers).ok()),
            Self::Lane(given) => Some(given.head),
        }
    }

    pub(super) fn value(&self) -> &[u8] {
        match self {
            Self::Flow(message) => message.payload().unwrap_or_default(),
            Self::Lane(given) => given.value(),
        }
    }

    /// Up to where the topics of tables are read with it.
    pub(super) fn read(&self) -> &[(usize, Place)] {
        match self {
            Self::Flow(_) => &[],
            Self::Lane(given) => &given.read,
        }
    }
}
