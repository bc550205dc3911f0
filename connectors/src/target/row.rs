//! One row record, decoded against the columns of its target table.

use std::{
    hash::{BuildHasher as _, Hasher as _, RandomState},
    ops::Range,
};

use crate::{
    error::FlowError,
    mapping::Mapping,
    position::Position,
    record::{
        envelope::{Envelope, Op},
        json::BadJson,
    },
};

/// Places of the constants of a table whose columns are named so.
pub(crate) fn constants(
    table: &str,
    mapping: &Mapping,
    columns: &[&str],
) -> Result<Vec<(usize, Option<String>)>, FlowError> {
    let one = |(name, value): (&str, Option<&str>)| match columns.iter().position(|column| *column == name) {
        Some(column) => Ok((column, value.map(str::to_owned))),
        None => {
            Err(FlowError::Stop(format!("the target's table `{table}` has no column `{name}`, which the file sets")))
        }
    };
    mapping.constants().map(one).collect()
}

/// The columns of a target table, whatever kind of database holds it.
pub(crate) trait Layout {
    /// The table's name in the target.
    fn name(&self) -> &str;
    /// How the source's columns become this table's.
    fn mapping(&self) -> &Mapping;
    /// Columns that are set, and to what; nothing is NULL.
    fn constants(&self) -> &[(usize, Option<String>)];
    /// The column named `name`; `hint` is where it stood in the row before.
    fn column(&self, name: &str, hint: usize) -> Option<usize>;
    /// Whether the server makes the column's value.
    fn is_generated(&self, column: usize) -> bool;
    /// Which columns are the primary key.
    fn key(&self) -> &[usize];
}

/// One decoded row, in buffers that are used again for the next.
#[derive(Debug, Default)]
pub(crate) struct Row {
    text: Vec<u8>,
    /// (column, its text or NULL), of the row after the change.
    after: Vec<(usize, Option<Range<usize>>)>,
    before: Vec<(usize, Option<Range<usize>>)>,
    moves_key: bool,
    /// Columns that the record has of the row after the change.
    given: usize,
    /// The record has something of the row before the change.
    tells_before: bool,
    hasher: RandomState,
}

// === impl Row ===

impl Row {
    /// Takes the columns of a record. A column that the target lacks stops the flow; one that the target makes itself is left out.
    pub(crate) fn read(&mut self, envelope: &Envelope<'_>, table: &impl Layout, at: Position) -> Result<(), FlowError> {
        let Self { text, after, before, given, tells_before, .. } = self;
        *given = 0;
        text.clear();
        after.clear();
        before.clear();
        let mut missing = None;
        let mut take =
            |into: &mut Vec<(usize, Option<Range<usize>>)>, hint: &mut usize, name: &str, value: Option<&str>| {
                let Some(name) = table.mapping().target(name) else { return };
                let Some(column) = table.column(name, *hint) else {
                    missing.get_or_insert_with(|| name.to_owned());
                    return;
                };
                *hint = column + 1;
                if table.is_generated(column) {
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
        let read = envelope
            .after(|name, value| {
                *given += 1;
                take(after, &mut hint, name, value);
            })
            .and_then(|_| {
                hint = 0;
                envelope.before(|name, value| take(before, &mut hint, name, value))
            });
        if envelope.op == Op::Create {
            // It came from a row of which the sync knew nothing: what did not change is said there alone.
            for (column, value) in before.drain(..) {
                if !after.iter().any(|(own, _)| *own == column) {
                    after.push((column, value));
                    *given += 1;
                }
            }
        }
        for row in [&mut *after, before].into_iter().filter(|row| !row.is_empty()) {
            for (column, value) in table.constants() {
                let value = value.as_ref().map(|value| {
                    let start = text.len();
                    text.extend_from_slice(value.as_bytes());
                    start..text.len()
                });
                row.push((*column, value));
            }
        }
        let bad = |_: BadJson| FlowError::Malformed { what: "a row record that is not Banyan's", at: at.to_string() };
        *tells_before = read.map_err(bad)?;
        if let Some(name) = missing {
            return Err(FlowError::Misfit(format!(
                "{} at {at}: the target has no column `{name}`, which a row on its way has: keep it, or add it again, until all rows from before are applied",
                table.name()
            )));
        }
        self.moves_key = !self.before.is_empty()
            && !self.after.is_empty()
            && table.key().iter().any(|key| {
                let old = value(&self.before, &self.text, *key);
                let new = value(&self.after, &self.text, *key);
                // Left out of the new row is unchanged.
                new.is_some() && old.is_some() && old != new
            });
        Ok(())
    }

    /// Takes these columns alone, numbered as they stand here.
    pub(crate) fn read_only(
        &mut self,
        envelope: &Envelope<'_>,
        columns: &[String],
        at: Position,
    ) -> Result<(), FlowError> {
        let Self { text, after, before, moves_key, given, tells_before, .. } = self;
        (*moves_key, *given) = (false, 0);
        text.clear();
        after.clear();
        before.clear();
        let mut take = |into: &mut Vec<(usize, Option<Range<usize>>)>, name: &str, value: Option<&str>| {
            let Some(column) = columns.iter().position(|column| column == name) else { return };
            let start = text.len();
            text.extend_from_slice(value.unwrap_or_default().as_bytes());
            into.push((column, value.map(|_| start..text.len())));
        };
        let bad = |_: BadJson| FlowError::Malformed { what: "a row record that is not Banyan's", at: at.to_string() };
        envelope.after(|name, value| take(after, name, value)).map_err(bad)?;
        *tells_before = envelope.before(|name, value| take(before, name, value)).map_err(bad)?;
        Ok(())
    }

    /// The columns of the row after the change.
    pub(crate) fn columns(&self) -> impl Iterator<Item = usize> + '_ {
        self.after.iter().map(|(column, _)| *column)
    }

    /// Their values; nothing is NULL.
    pub(crate) fn values(&self) -> impl Iterator<Item = Option<&[u8]>> {
        self.after.iter().map(|(_, range)| range.clone().map(|range| &self.text[range]))
    }

    /// Whether the change gives the row another key.
    pub(crate) fn moves_key(&self) -> bool {
        self.moves_key
    }

    /// Columns that the record has of the row after the change, with those that the target makes itself.
    pub(crate) fn given(&self) -> usize {
        self.given
    }

    /// About how many bytes it takes to carry it.
    pub(crate) fn weight(&self) -> usize {
        self.text.len() + 8 * self.after.len()
    }

    /// The old key's value of one column: from the old row where it is given, else from the new.
    pub(crate) fn old_key(&self, column: usize) -> Option<Option<&[u8]>> {
        self.before(column).or_else(|| self.after(column))
    }

    /// A column of the row as it was; nothing when the record does not tell.
    pub(crate) fn before(&self, column: usize) -> Option<Option<&[u8]>> {
        value(&self.before, &self.text, column)
    }

    /// Whether the record tells anything of the row as it was.
    pub(crate) fn has_before(&self) -> bool {
        self.tells_before
    }

    /// A column of the row as it is; nothing when the record does not tell.
    pub(crate) fn after(&self, column: usize) -> Option<Option<&[u8]>> {
        value(&self.after, &self.text, column)
    }

    /// A row of these columns, from the first on.
    #[cfg(test)]
    pub(crate) fn of(before: &[Option<&str>], after: &[Option<&str>]) -> Self {
        let mut row = Self { tells_before: !before.is_empty(), ..Self::default() };
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

    /// Of the old key, or of the key after the change.
    pub(crate) fn key_hash(&self, table: &impl Layout, is_new: bool) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        for key in table.key() {
            if let Some(Some(text)) = if is_new { self.after(*key) } else { self.old_key(*key) } {
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
