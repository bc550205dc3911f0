//! Runs: neighbouring rows of one table and kind, written by one array statement.
//!
//! INSERT runs fold freely: a source cannot insert a key twice. UPDATE and DELETE runs fold only with distinct keys (`UPDATE … FROM
//! unnest` with one key three times silently keeps the first), no key change, the same columns (unchanged TOAST is left out), and no
//! unique index beside the primary key; all else is a run of one row, in event order.

use std::collections::HashSet;

use super::{
    table::{Shape, TargetTable, Write},
    text_array::TextArray,
};
use crate::{error::FlowError, position::Position, record::envelope::Op, target::row::Row};

/// A run is written when it has so many rows, or bytes.
const ROWS: usize = 5_000;
const BYTES: usize = 1 << 20;

/// How strictly a run is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Ways {
    /// A row may not be there (yet).
    pub(crate) lenient: bool,
    /// The table is copied over rows that were there before: what is merged is noted as seen, and what was not seen gives way where another
    /// unique index allows only one.
    pub(crate) keeps: bool,
    /// Only clears the way for another run of the same row: `Some(true)` by its new key, else by its old one.
    pub(crate) clears: Option<bool>,
}

/// Rows that one statement will write.
#[derive(Debug)]
pub(crate) struct Run {
    /// Index of the target table.
    pub(crate) table: usize,
    pub(crate) op: Op,
    pub(crate) shape: Shape,
    pub(crate) ways: Ways,
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

// === impl Run ===

impl Run {
    /// A run that begins with `row`.
    pub(crate) fn begin(
        table: usize,
        target: &TargetTable,
        write: Write,
        ways: Ways,
        op: Op,
        row: &Row,
        at: Position,
    ) -> Result<Self, FlowError> {
        let columns = if write == Write::Delete { Vec::new() } else { row.columns().collect() };
        let moves_key = write == Write::Update && row.moves_key();
        let shape = Shape { write, columns, moves_key };
        let has_old = matches!(write, Write::Update | Write::Delete);
        let mut run = Self {
            table,
            op,
            old_key: (0..if has_old { target.key.len() } else { 0 }).map(|_| TextArray::default()).collect(),
            columns: (0..shape.columns.len()).map(|_| TextArray::default()).collect(),
            shape,
            ways,
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
    pub(crate) fn takes(
        &self,
        table: usize,
        target: &TargetTable,
        write: Write,
        ways: Ways,
        op: Op,
        row: &Row,
    ) -> bool {
        let same = self.table == table && self.shape.write == write && self.ways == ways && self.op == op;
        if !same
            || ways.clears.is_some()
            || self.rows >= ROWS
            || self.bytes >= BYTES
            || (write == Write::Update && row.moves_key())
            || self.shape.moves_key
        {
            return false;
        }
        match write {
            Write::Delete => !target.other_unique && !self.keys.contains(&row.key_hash(target, write == Write::Merge)),
            Write::Update => {
                !target.other_unique
                    && self.same_columns(row)
                    && !self.keys.contains(&row.key_hash(target, write == Write::Merge))
            }
            // ON CONFLICT cannot touch a row twice in one statement.
            Write::Merge => {
                (op == Op::Read || !target.other_unique)
                    && self.same_columns(row)
                    && !self.keys.contains(&row.key_hash(target, write == Write::Merge))
            }
            Write::Insert | Write::Seen | Write::Others | Write::Free(_) => self.same_columns(row),
        }
    }

    fn same_columns(&self, row: &Row) -> bool {
        self.shape.columns.iter().copied().eq(row.columns())
    }

    /// Adds `row`, which [`Self::takes`] has let in.
    pub(crate) fn push(&mut self, target: &TargetTable, row: &Row, at: Position) -> Result<(), FlowError> {
        for (array, key) in self.old_key.iter_mut().zip(&target.key) {
            let found = if self.ways.clears == Some(true) { row.after(*key) } else { row.old_key(*key) };
            let Some(Some(text)) = found else {
                return Err(FlowError::Stop(format!(
                    "{} at {at}: the record lacks the key column `{}`; the source's replica identity must hold the target's primary key",
                    target.plan.target, target.columns[*key].name
                )));
            };
            array.push(Some(text));
        }
        if !self.columns.is_empty() {
            for (array, value) in self.columns.iter_mut().zip(row.values()) {
                array.push(value);
            }
        }
        if matches!(self.shape.write, Write::Update | Write::Delete | Write::Merge) {
            self.keys.insert(row.key_hash(target, self.shape.write == Write::Merge));
        }
        self.rows += 1;
        self.bytes += row.weight();
        self.last = at;
        Ok(())
    }
}
