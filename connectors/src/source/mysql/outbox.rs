//! Rows of an outbox, as the log has them.
//!
//! No shape of the table is stored: whoever changes it must not have to copy tables anew. Its columns are found by their names where the log
//! announces it, and read by what the catalogue says of a column that the log describes alike; where it has none, by the log alone.

use super::{
    charset::Charsets,
    event::{Cursor, TableMap, WireColumn, is_null},
    shape::{self, TableShape},
    snapshot::Cells,
    value::{self, BadValue, Reader},
};
use crate::{
    config::Side,
    error::FlowError,
    kafka::produce::Outlet,
    outbox::{Columns, Event},
    position::Position,
};

/// What reads the rows of one announced table.
pub(super) struct OutboxReader {
    places: Columns,
    /// By column; nothing where nobody reads it.
    readers: Vec<Option<Reader>>,
}

/// New rows of the outbox in the transaction that is open, kept until its end is known to be a commit: the log also has transactions that were
/// rolled back, where tables without transactions took part.
#[derive(Default)]
pub(super) struct Kept {
    rows: Vec<(Columns, Cells)>,
    /// Bytes of them, and of what each takes beside its values.
    size: usize,
}

// === impl Kept ===

impl Kept {
    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Takes the next row's image.
    pub(super) fn take(
        &mut self,
        reader: &OutboxReader,
        columns: &[WireColumn],
        from: &mut Cursor<'_>,
        name: &str,
        at: &str,
        most: usize,
    ) -> Result<(), FlowError> {
        let cells = reader.read(columns, from, name, at)?;
        self.size += cells.weight() + 256;
        if self.size > most {
            return Err(FlowError::Stop(format!(
                "{name} at {at}: one transaction has more events than the {most} bytes that this flow may hold of them; raise `memory`"
            )));
        }
        self.rows.push((reader.places, cells));
        Ok(())
    }

    /// Sends them all; `first` is the place of the first, `at` the time of the commit.
    pub(super) async fn publish(
        self,
        table: &str,
        first: Position,
        origin: Side,
        at: i64,
        outlet: &mut Outlet,
    ) -> Result<(), FlowError> {
        for (ordinal, (places, cells)) in (0..).zip(&self.rows) {
            let position = Position { ordinal, ..first };
            outlet.publish(&Event { row: places.row(cells.values()), table, position, origin, at }).await?;
        }
        Ok(())
    }
}

// === impl OutboxReader ===

impl OutboxReader {
    /// `shape` is what the catalogue says now, if it knows the table; `at` is where in the log it is announced.
    pub(super) fn new(
        name: &str,
        map: &TableMap,
        shape: Option<&TableShape>,
        charsets: &Charsets,
        at: &str,
    ) -> Result<Self, FlowError> {
        if !map.is_full {
            return Err(FlowError::Stop(format!(
                "{name} at {at}: the binlog does not name the columns; set `binlog_row_metadata = FULL`"
            )));
        }
        let places = Columns::find(map.columns.iter().map(|column| column.name.as_str()));
        let mut readers = Vec::with_capacity(map.columns.len());
        for (index, column) in map.columns.iter().enumerate() {
            let reader = places.has(index).then(|| reader(name, column, shape, charsets, at)).transpose()?;
            readers.push(reader);
        }
        Ok(Self { places, readers })
    }

    /// Reads one row's image, a place for each column.
    fn read(&self, columns: &[WireColumn], from: &mut Cursor<'_>, name: &str, at: &str) -> Result<Cells, FlowError> {
        let bad = |column: &WireColumn, bad: BadValue| bad.at(name, &column.name, at);
        let mut cells = Cells::default();
        let nulls = nulls(columns, from, at)?;
        for (index, (column, reader)) in columns.iter().zip(&self.readers).enumerate() {
            let place = match reader {
                _ if is_null(nulls, index) => None,
                None => {
                    value::skip(column, from).map_err(|error| bad(column, error.into()))?;
                    None
                }
                Some(reader) => {
                    let start = cells.text.len();
                    reader.read(column, from, &mut cells.text).map_err(|error| bad(column, error))?;
                    Some((start, cells.text.len()))
                }
            };
            cells.places.push(place);
        }
        Ok(cells)
    }
}

/// Steps over one row's image.
pub(super) fn skip(columns: &[WireColumn], from: &mut Cursor<'_>, at: &str) -> Result<(), FlowError> {
    let nulls = nulls(columns, from, at)?;
    for (index, column) in columns.iter().enumerate() {
        if !is_null(nulls, index) {
            value::skip(column, from).map_err(|_| malformed(at))?;
        }
    }
    Ok(())
}

fn nulls<'a>(columns: &[WireColumn], from: &mut Cursor<'a>, at: &str) -> Result<&'a [u8], FlowError> {
    from.take(columns.len().div_ceil(8)).map_err(|_| malformed(at))
}

fn malformed(at: &str) -> FlowError {
    FlowError::Malformed { what: "a row that is not the binlog's", at: at.to_owned() }
}

fn reader(
    name: &str,
    column: &WireColumn,
    shape: Option<&TableShape>,
    charsets: &Charsets,
    at: &str,
) -> Result<Reader, FlowError> {
    let wire = shape::wire(column, charsets);
    let known = shape.and_then(|shape| shape.columns.iter().find(|known| known.name == column.name));
    if let Some(known) = known.filter(|known| known.wire == wire) {
        return Ok(Reader::new(known, charsets));
    }
    if let Some(kind) = shape::told_by_the_log(column, charsets) {
        return Ok(Reader { kind, charset: charsets.decoder(charsets.of_collation(column.collation)) });
    }
    Err(FlowError::Busy(format!(
        "{name} at {at}: the outbox's column `{}` was of another type there than it is now, and the log does not tell of which; make it what it \
         was until the flow is past it",
        column.name
    )))
}
