//! Changed rows: as one record each, or with `order: key` as two where the key changed.

use std::rc::Rc;

use super::{Stream, TableState};
use crate::{
    error::FlowError,
    failpoint::{self, Point},
    kafka::lanes,
    position::{Lsn, Phase, Position},
    record::{
        Kind,
        envelope::{Op, Value},
    },
    source::postgres::{
        lanes::another_key,
        pgoutput::{Old, Tuple},
    },
};

// === impl Stream ===

impl Stream<'_> {
    pub(super) async fn row(
        &mut self,
        relation: u32,
        op: Op,
        old: Old<'_>,
        new: Option<Tuple<'_>>,
    ) -> Result<(), FlowError> {
        let (lsn, ordinal, change) = self.open.as_mut().map_or((Lsn::ZERO, 0, 0), |open| {
            open.changes += 1;
            (open.commit_lsn, open.ordinal, open.changes)
        });
        let place = Position { generation: self.generation, phase: Phase::Stream, lsn, ordinal };
        let malformed = |what| FlowError::Malformed { what, at: place.to_string() };
        let Some(table) = self.frames.get(&relation).map(Rc::clone) else {
            return Err(malformed("a row of a table that the file does not name"));
        };
        if op == Op::Truncate {
            self.schema.looks.emptied.insert(table.name.clone());
        }
        // What comes behind a TRUNCATE comes with the copy.
        if self.emptied.covers(table.index, (lsn, change)) {
            return Ok(());
        }
        if op == Op::Truncate && self.plan.lanes.is_some() && self.side_is_open {
            return self.empty(&table, (lsn, change)).await;
        }
        if let Some(open) = self.open.as_mut().filter(|open| !open.changed.contains(&table.index)) {
            open.changed.push(table.index);
        }
        let (before, whole) = match old {
            Old::None => (None, false),
            Old::Key(tuple) => (Some(tuple), false),
            Old::Row(tuple) => (Some(tuple), true),
        };
        if [before, new].into_iter().flatten().any(|tuple| tuple.len() != table.columns) {
            return Err(malformed("a row with another number of columns than its table"));
        }
        failpoint::reached(Point::RowRead);
        if self.plan.lanes.is_some() && op != Op::Truncate {
            return self.row_of_a_lane(&table, op, (before, whole), new, place).await;
        }
        self.key.clear();
        self.value.clear();
        // The row's identity after the change, or before it when it is gone.
        if let Some(tuple) = new.or(before) {
            table.frame.write_key(&mut self.key, tuple.values());
        }
        let (before, stamp) = (before.map(|tuple| (tuple.values(), whole)), self.stamp(op));
        table.frame.write(&mut self.value, before, new.map(|tuple| tuple.values()), stamp);
        self.send_row(table.index, &table.name).await
    }

    async fn row_of_a_lane(
        &mut self,
        table: &TableState,
        op: Op,
        (before, whole): (Option<Tuple<'_>>, bool),
        new: Option<Tuple<'_>>,
        place: Position,
    ) -> Result<(), FlowError> {
        let lacks = |tuple: Tuple<'_>| !table.frame.has_key(tuple.values_or(before.unwrap_or(tuple)));
        if [before, new].into_iter().flatten().any(lacks) {
            return Err(another_key(&table.name, place));
        }
        let Some((old, new)) = before.zip(new) else {
            let Some(tuple) = new.or(before) else { return Ok(()) };
            self.key.clear();
            table.frame.write_key(&mut self.key, tuple.values());
            return self.change_of_a_lane(table, op, before.map(|old| (old, whole)), new).await;
        };
        self.key.clear();
        let mut old_key = std::mem::take(&mut self.old_key);
        old_key.clear();
        // A part of the key that is stored elsewhere and stayed is said with the old row alone.
        table.frame.write_key(&mut self.key, new.values_or(old));
        table.frame.write_key(&mut old_key, old.values());
        if self.key == old_key {
            self.old_key = old_key;
            return self.change_of_a_lane(table, op, Some((old, whole)), Some(new)).await;
        }
        if !whole && new.values().any(|value| value == Value::Unchanged) {
            return Err(FlowError::Stop(format!(
                "{} at {place}: a row's key changed, and the log lacks the large values that stayed, without which `order: key` cannot carry it: the table \
                 needs REPLICA IDENTITY FULL, and then a new copy",
                table.name
            )));
        }
        // A row whose key changed ends in the lane of the one, and begins in that of the other.
        std::mem::swap(&mut self.key, &mut old_key);
        self.change_of_a_lane(table, Op::Delete, Some((old, whole)), None).await?;
        std::mem::swap(&mut self.key, &mut old_key);
        self.old_key = old_key;
        self.value.clear();
        let (none, stamp) = (None::<(std::iter::Empty<Value<'_>>, bool)>, self.stamp(Op::Create));
        table.frame.write(&mut self.value, none, Some(new.values_or(old)), stamp);
        self.send_row(table.index, &table.name).await
    }

    /// Queues a change of the row whose key was just written.
    async fn change_of_a_lane(
        &mut self,
        table: &TableState,
        op: Op,
        before: Option<(Tuple<'_>, bool)>,
        after: Option<Tuple<'_>>,
    ) -> Result<(), FlowError> {
        self.value.clear();
        let (before, stamp) = (before.map(|(tuple, whole)| (tuple.values(), whole)), self.stamp(op));
        table.frame.write(&mut self.value, before, after.map(|tuple| tuple.values()), stamp);
        self.send_row(table.index, &table.name).await
    }

    /// Queues the row whose key and value were just written.
    pub(super) async fn send_row(&mut self, index: usize, name: &str) -> Result<(), FlowError> {
        let lane = lanes::of(&self.key, self.plan.lanes);
        let head = self.head(lane, Kind::Row, Some(index))?;
        self.outlet.row(lane, head, (index, name), &self.key, &self.value).await
    }
}
