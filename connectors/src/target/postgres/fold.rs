//! Runs: neighbouring rows of one table and kind, written by one array statement.
//!
//! INSERT runs fold freely: a source cannot insert a key twice. UPDATE and DELETE runs fold only with distinct keys (`UPDATE … FROM
//! unnest` with one key three times silently keeps the first), no key change, the same columns (unchanged TOAST is left out), and no
//! unique index beside the primary key; all else is a run of one row, in event order.

use std::{
    collections::HashSet,
    hash::{BuildHasher as _, Hasher as _, RandomState},
    ops::Range,
};

use super::{
    table::{Shape, TargetTable, Write},
    text_array::TextArray,
};
use crate::{
    error::FlowError,
    position::Position,
    record::{
        envelope::{Envelope, Op},
        json::BadJson,
    },
};

/// A run is written when it has so many rows, or bytes.
const ROWS: usize = 5_000;
const BYTES: usize = 1 << 20;

/// Rows that one statement will write.
#[derive(Debug)]
pub(crate) struct Run {
    /// Index of the target table.
    pub(crate) table: usize,
    pub(crate) op: Op,
    pub(crate) shape: Shape,
    /// The old key's columns, for UPDATE and DELETE.
    pub(crate) old_key: Vec<TextArray>,
    /// The row's columns.
    pub(crate) columns: Vec<TextArray>,
    pub(crate) rows: usize,
    pub(crate) bytes: usize,
    keys: HashSet<u64>,
    pub(crate) first: Position,
    pub(crate) last: Position,
}

/// One decoded row, in buffers that are used again for the next.
#[derive(Debug, Default)]
pub(crate) struct Row {
    text: Vec<u8>,
    /// (column, its text or NULL), of the row after the change.
    after: Vec<(usize, Option<Range<usize>>)>,
    before: Vec<(usize, Option<Range<usize>>)>,
    moves_key: bool,
    hasher: RandomState,
}

// === impl Row ===

impl Row {
    /// Takes the columns of a record. A column that the target lacks stops the flow; one that the target makes itself is left out.
    pub(crate) fn read(&mut self, envelope: &Envelope<'_>, table: &TargetTable, at: Position) -> Result<(), FlowError> {
        let Self { text, after, before, .. } = self;
        text.clear();
        after.clear();
        before.clear();
        let mut missing = None;
        let mut take =
            |into: &mut Vec<(usize, Option<Range<usize>>)>, hint: &mut usize, name: &str, value: Option<&str>| {
                let Some(column) = table.column(name, *hint) else {
                    missing.get_or_insert_with(|| name.to_owned());
                    return;
                };
                *hint = column + 1;
                if table.columns[column].generated {
                    return;
                }
                let value = value.map(|value| {
                    let start = text.len();
                    text.extend_from_slice(value.as_bytes());
                    start..text.len()
                });
                into.push((column, value));
            };
        let mut hint = 0;
        let read = envelope.after(|name, value| take(after, &mut hint, name, value)).and_then(|_| {
            hint = 0;
            envelope.before(|name, value| take(before, &mut hint, name, value))
        });
        let bad = |_: BadJson| FlowError::Malformed { what: "a row record that is not Banyan's", at: at.to_string() };
        read.map_err(bad)?;
        if let Some(name) = missing {
            return Err(FlowError::Stop(format!("{} at {at}: the target has no column `{name}`", table.plan.target)));
        }
        self.moves_key = !self.before.is_empty()
            && !self.after.is_empty()
            && table.key.iter().any(|key| {
                let old = value(&self.before, &self.text, *key);
                let new = value(&self.after, &self.text, *key);
                // Left out of the new row is unchanged.
                new.is_some() && old.is_some() && old != new
            });
        Ok(())
    }

    /// The old key's value of one column: from the old row where it is given, else from the new.
    fn old_key(&self, column: usize) -> Option<Option<&[u8]>> {
        self.before(column).or_else(|| self.after(column))
    }

    /// A row of these columns, from the first on.
    #[cfg(test)]
    pub(crate) fn of(before: &[Option<&str>], after: &[Option<&str>]) -> Self {
        let mut row = Self::default();
        let Self { text, before: old, after: new, .. } = &mut row;
        for (into, columns) in [(old, before), (new, after)] {
            for (column, value) in columns.iter().enumerate() {
                let start = text.len();
                text.extend_from_slice(value.unwrap_or_default().as_bytes());
                into.push((column, value.map(|_| start..text.len())));
            }
        }
        row
    }

    /// A column of the row as it was; nothing when the record does not tell.
    pub(crate) fn before(&self, column: usize) -> Option<Option<&[u8]>> {
        value(&self.before, &self.text, column)
    }

    /// A column of the row as it is; nothing when the record does not tell.
    pub(crate) fn after(&self, column: usize) -> Option<Option<&[u8]>> {
        value(&self.after, &self.text, column)
    }

    fn shape(&self, write: Write) -> Shape {
        let columns =
            if write == Write::Delete { Vec::new() } else { self.after.iter().map(|(column, _)| *column).collect() };
        Shape { write, columns, moves_key: self.moves_key }
    }

    fn key_hash(&self, table: &TargetTable) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        for key in &table.key {
            if let Some(Some(text)) = self.old_key(*key) {
                hasher.write_usize(text.len());
                hasher.write(text);
            }
        }
        hasher.finish()
    }
}

fn value<'t>(columns: &[(usize, Option<Range<usize>>)], text: &'t [u8], column: usize) -> Option<Option<&'t [u8]>> {
    columns.iter().find(|(own, _)| *own == column).map(|(_, range)| range.clone().map(|range| &text[range]))
}

// === impl Run ===

impl Run {
    /// A run that begins with `row`.
    pub(crate) fn begin(
        table: usize,
        target: &TargetTable,
        write: Write,
        op: Op,
        row: &Row,
        at: Position,
    ) -> Result<Self, FlowError> {
        let shape = row.shape(write);
        let has_old = matches!(write, Write::Update | Write::Delete);
        let mut run = Self {
            table,
            op,
            old_key: (0..if has_old { target.key.len() } else { 0 }).map(|_| TextArray::default()).collect(),
            columns: (0..shape.columns.len()).map(|_| TextArray::default()).collect(),
            shape,
            rows: 0,
            bytes: 0,
            keys: HashSet::new(),
            first: at,
            last: at,
        };
        run.push(target, row, at)?;
        Ok(run)
    }

    /// Whether `row` may join: a collision of hashes only makes the run shorter.
    pub(crate) fn takes(&self, table: usize, target: &TargetTable, write: Write, op: Op, row: &Row) -> bool {
        let same = self.table == table && self.shape.write == write && self.op == op;
        if !same || self.rows >= ROWS || self.bytes >= BYTES || row.moves_key || self.shape.moves_key {
            return false;
        }
        match write {
            Write::Delete => !target.other_unique && !self.keys.contains(&row.key_hash(target)),
            Write::Update => {
                !target.other_unique && self.same_columns(row) && !self.keys.contains(&row.key_hash(target))
            }
            // ON CONFLICT cannot touch a row twice in one statement; a snapshot has each key once.
            Write::Insert | Write::Merge | Write::Seen => self.same_columns(row),
        }
    }

    fn same_columns(&self, row: &Row) -> bool {
        self.shape.columns.iter().eq(row.after.iter().map(|(column, _)| column))
    }

    /// Adds `row`, which [`Self::takes`] has let in.
    pub(crate) fn push(&mut self, target: &TargetTable, row: &Row, at: Position) -> Result<(), FlowError> {
        for (array, key) in self.old_key.iter_mut().zip(&target.key) {
            let Some(Some(text)) = row.old_key(*key) else {
                return Err(FlowError::Stop(format!(
                    "{} at {at}: the record lacks the key column `{}`; the source's replica identity must hold the target's primary key",
                    target.plan.target, target.columns[*key].name
                )));
            };
            array.push(Some(text));
        }
        if !self.columns.is_empty() {
            for (array, (_, range)) in self.columns.iter_mut().zip(&row.after) {
                array.push(range.clone().map(|range| &row.text[range]));
            }
        }
        if matches!(self.shape.write, Write::Update | Write::Delete) {
            self.keys.insert(row.key_hash(target));
        }
        self.rows += 1;
        self.bytes += row.text.len() + 8 * row.after.len();
        self.last = at;
        Ok(())
    }
}
