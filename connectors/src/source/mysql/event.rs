//! Decoder of the binlog's events, in place: nothing is copied but the names of a table's columns.
//!
//! The transport takes the 19 bytes of the header and the checksum off. Formats: <https://mariadb.com/kb/en/replication-protocol/> and
//! MySQL's `libbinlogevents`; both servers write the same, but for the events that begin a transaction.

use thiserror::Error;

/// Bytes that are no event of the binlog.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("not an event of the binlog")]
pub(crate) struct BadEvent;

/// Numbers of the events that matter.
pub(crate) mod kind {
    pub(crate) const QUERY: u8 = 2;
    pub(crate) const ROTATE: u8 = 4;
    pub(crate) const FORMAT_DESCRIPTION: u8 = 15;
    pub(crate) const XID: u8 = 16;
    pub(crate) const EXECUTE_LOAD_QUERY: u8 = 18;
    pub(crate) const TABLE_MAP: u8 = 19;
    pub(crate) const WRITE_ROWS_V1: u8 = 23;
    pub(crate) const UPDATE_ROWS_V1: u8 = 24;
    pub(crate) const DELETE_ROWS_V1: u8 = 25;
    pub(crate) const INCIDENT: u8 = 26;
    pub(crate) const HEARTBEAT: u8 = 27;
    pub(crate) const WRITE_ROWS: u8 = 30;
    pub(crate) const UPDATE_ROWS: u8 = 31;
    pub(crate) const DELETE_ROWS: u8 = 32;
    /// MySQL's.
    pub(crate) const GTID: u8 = 33;
    pub(crate) const ANONYMOUS_GTID: u8 = 34;
    pub(crate) const XA_PREPARE: u8 = 38;
    pub(crate) const PARTIAL_UPDATE_ROWS: u8 = 39;
    pub(crate) const TRANSACTION_PAYLOAD: u8 = 40;
    pub(crate) const GTID_TAGGED: u8 = 42;
    /// MariaDB's.
    pub(crate) const MARIADB_GTID: u8 = 162;
    pub(crate) const COMPRESSED: std::ops::RangeInclusive<u8> = 165..=171;
}

/// Set on events that stand in no file.
pub(crate) const ARTIFICIAL: u16 = 0x20;

/// The beginning of a transaction as MariaDB writes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MariadbGtid {
    pub(crate) domain: u32,
    pub(crate) sequence: u64,
    flags: u8,
}

/// A statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Query<'a> {
    /// The session's default database.
    pub(crate) database: &'a [u8],
    pub(crate) sql: &'a [u8],
}

/// The next file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rotate<'a> {
    pub(crate) position: u64,
    pub(crate) file: &'a [u8],
}

/// A table, announced before its rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TableMap {
    pub(crate) id: u64,
    pub(crate) database: String,
    pub(crate) table: String,
    pub(crate) columns: Vec<WireColumn>,
    /// Whether the columns have names: only with `binlog_row_metadata=FULL`.
    pub(crate) is_full: bool,
}

/// A column as the log describes it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct WireColumn {
    /// The type's number; of CHAR, ENUM and SET, which share one, the real one.
    pub(crate) type_id: u8,
    pub(crate) meta: u16,
    pub(crate) name: String,
    pub(crate) is_unsigned: bool,
    /// Number of the collation; of columns that hold text or bytes.
    pub(crate) collation: Option<u32>,
    /// Labels of an ENUM or SET, in the column's character set.
    pub(crate) labels: Vec<Vec<u8>>,
}

/// Changed rows of one table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rows<'a> {
    pub(crate) table: u64,
    pub(crate) change: Change,
    pub(crate) columns: usize,
    /// Whether every column is there, before and after.
    pub(crate) is_whole: bool,
    /// One image a row, or two of an update, one behind the other.
    pub(crate) images: &'a [u8],
}

/// What a rows event does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    Insert,
    Update,
    Delete,
}

/// Reads from the front.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cursor<'a>(pub(crate) &'a [u8]);

/// Types of columns, as `enum_field_types` numbers them.
pub(crate) mod column {
    pub(crate) const TINY: u8 = 1;
    pub(crate) const SHORT: u8 = 2;
    pub(crate) const LONG: u8 = 3;
    pub(crate) const FLOAT: u8 = 4;
    pub(crate) const DOUBLE: u8 = 5;
    pub(crate) const TIMESTAMP: u8 = 7;
    pub(crate) const LONGLONG: u8 = 8;
    pub(crate) const INT24: u8 = 9;
    pub(crate) const DATE: u8 = 10;
    pub(crate) const TIME: u8 = 11;
    pub(crate) const DATETIME: u8 = 12;
    pub(crate) const YEAR: u8 = 13;
    pub(crate) const NEWDATE: u8 = 14;
    pub(crate) const VARCHAR: u8 = 15;
    pub(crate) const BIT: u8 = 16;
    pub(crate) const TIMESTAMP2: u8 = 17;
    pub(crate) const DATETIME2: u8 = 18;
    pub(crate) const TIME2: u8 = 19;
    pub(crate) const JSON: u8 = 245;
    pub(crate) const NEWDECIMAL: u8 = 246;
    pub(crate) const ENUM: u8 = 247;
    pub(crate) const SET: u8 = 248;
    pub(crate) const BLOB: u8 = 252;
    pub(crate) const VAR_STRING: u8 = 253;
    pub(crate) const STRING: u8 = 254;
    pub(crate) const GEOMETRY: u8 = 255;
}

// === impl Cursor ===

impl<'a> Cursor<'a> {
    pub(crate) fn take(&mut self, len: usize) -> Result<&'a [u8], BadEvent> {
        let (head, tail) = self.0.split_at_checked(len).ok_or(BadEvent)?;
        self.0 = tail;
        Ok(head)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], BadEvent> {
        let (head, tail) = self.0.split_first_chunk::<N>().ok_or(BadEvent)?;
        self.0 = tail;
        Ok(*head)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, BadEvent> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(crate) fn u16(&mut self) -> Result<u16, BadEvent> {
        self.array().map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, BadEvent> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, BadEvent> {
        self.array().map(u64::from_le_bytes)
    }

    /// A little-endian number of `len` bytes, 8 at most.
    pub(crate) fn little(&mut self, len: usize) -> Result<u64, BadEvent> {
        let bytes = self.take(len)?;
        Ok(bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }

    /// A big-endian number of `len` bytes, 8 at most.
    pub(crate) fn big(&mut self, len: usize) -> Result<u64, BadEvent> {
        let bytes = self.take(len)?;
        Ok(bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }

    /// A number in one, three, four or nine bytes.
    fn packed(&mut self) -> Result<usize, BadEvent> {
        let number = match self.u8()? {
            0xfb | 0xff => return Err(BadEvent),
            0xfc => self.little(2)?,
            0xfd => self.little(3)?,
            0xfe => self.little(8)?,
            small => u64::from(small),
        };
        usize::try_from(number).map_err(|_| BadEvent)
    }

    fn packed_bytes(&mut self) -> Result<&'a [u8], BadEvent> {
        let len = self.packed()?;
        self.take(len)
    }

    /// A name behind its length, and a zero.
    fn name(&mut self) -> Result<String, BadEvent> {
        let len = self.u8()?;
        let name = self.take(usize::from(len))?;
        self.take(1)?;
        String::from_utf8(name.to_vec()).map_err(|_| BadEvent)
    }
}

// === impl MariadbGtid ===

impl MariadbGtid {
    pub(crate) fn decode(data: &[u8]) -> Result<Self, BadEvent> {
        let mut data = Cursor(data);
        let sequence = data.u64()?;
        Ok(Self { sequence, domain: data.u32()?, flags: data.u8()? })
    }

    /// One statement that ends with itself: no COMMIT follows.
    pub(crate) fn is_standalone(self) -> bool {
        self.flags & 1 != 0
    }

    /// The first half of a distributed transaction: nobody knows yet how it ends.
    pub(crate) fn is_prepared(self) -> bool {
        self.flags & 64 != 0
    }
}

// === impl Query ===

impl<'a> Query<'a> {
    pub(crate) fn decode(data: &'a [u8]) -> Result<Self, BadEvent> {
        Self::after(data, 0)
    }

    /// LOAD DATA as a statement: its head is 13 bytes longer.
    pub(crate) fn decode_load(data: &'a [u8]) -> Result<Self, BadEvent> {
        Self::after(data, 13)
    }

    fn after(data: &'a [u8], more: usize) -> Result<Self, BadEvent> {
        let mut data = Cursor(data);
        data.take(8)?;
        let database = usize::from(data.u8()?);
        data.take(2)?;
        let variables = usize::from(data.u16()?);
        data.take(more)?;
        data.take(variables)?;
        let database = data.take(database)?;
        data.take(1)?;
        Ok(Self { database, sql: data.0 })
    }
}

// === impl Rotate ===

impl<'a> Rotate<'a> {
    pub(crate) fn decode(data: &'a [u8]) -> Result<Self, BadEvent> {
        let mut data = Cursor(data);
        Ok(Self { position: data.u64()?, file: data.0 })
    }
}

// === impl TableMap ===

impl TableMap {
    pub(crate) fn decode(data: &[u8]) -> Result<Self, BadEvent> {
        let mut data = Cursor(data);
        let id = data.little(6)?;
        data.take(2)?;
        let (database, table) = (data.name()?, data.name()?);
        let count = data.packed()?;
        // Rows of no columns would have no end.
        if count == 0 {
            return Err(BadEvent);
        }
        let types = data.take(count)?;
        let mut meta = Cursor(data.packed_bytes()?);
        let mut columns = Vec::with_capacity(count);
        for &type_id in types {
            columns.push(WireColumn::decode(type_id, &mut meta)?);
        }
        data.take(count.div_ceil(8))?;
        let mut map = Self { id, database, table, columns, is_full: false };
        while !data.0.is_empty() {
            let field = data.u8()?;
            map.optional(field, Cursor(data.packed_bytes()?))?;
        }
        Ok(map)
    }

    /// What `binlog_row_metadata` adds.
    fn optional(&mut self, field: u8, mut value: Cursor<'_>) -> Result<(), BadEvent> {
        match field {
            // Signedness: a bit a number, from the highest on.
            1 => {
                let numbers = self.columns.iter_mut().filter(|column| column.is_number());
                for (i, column) in numbers.enumerate() {
                    let byte = value.0.get(i / 8).ok_or(BadEvent)?;
                    column.is_unsigned = byte & (0x80 >> (i % 8)) != 0;
                }
            }
            // The collation of most, and those of the others by their place among their kind; or one for each.
            2 | 10 => {
                let most = value.packed()?;
                let mut of_kind: Vec<&mut WireColumn> = self.with_collation(field == 10).collect();
                for column in &mut of_kind {
                    column.collation = u32::try_from(most).ok();
                }
                while !value.0.is_empty() {
                    let (at, collation) = (value.packed()?, value.packed()?);
                    of_kind.get_mut(at).ok_or(BadEvent)?.collation = u32::try_from(collation).ok();
                }
            }
            3 | 11 => {
                for column in self.with_collation(field == 11) {
                    column.collation = u32::try_from(value.packed()?).ok();
                }
            }
            4 => {
                for column in &mut self.columns {
                    let name = value.packed_bytes()?;
                    column.name = String::from_utf8(name.to_vec()).map_err(|_| BadEvent)?;
                }
                self.is_full = true;
            }
            // Labels of each SET, of each ENUM.
            5 | 6 => {
                let type_id = if field == 5 { column::SET } else { column::ENUM };
                for column in self.columns.iter_mut().filter(|column| column.type_id == type_id) {
                    for _ in 0..value.packed()? {
                        column.labels.push(value.packed_bytes()?.to_vec());
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn with_collation(&mut self, labelled: bool) -> impl Iterator<Item = &mut WireColumn> {
        self.columns.iter_mut().filter(move |column| match column.type_id {
            column::ENUM | column::SET => labelled,
            column::STRING | column::VAR_STRING | column::VARCHAR | column::BLOB | column::GEOMETRY => !labelled,
            _ => false,
        })
    }
}

// === impl WireColumn ===

impl WireColumn {
    fn decode(type_id: u8, meta: &mut Cursor<'_>) -> Result<Self, BadEvent> {
        use column as c;
        let (type_id, meta) = match type_id {
            c::STRING | c::ENUM | c::SET => {
                let [kind, len] = meta.array()?;
                if kind & 0x30 == 0x30 || kind == 0 {
                    (if kind == 0 { type_id } else { kind }, u16::from(len))
                } else {
                    // Two bits of a length over 255 hide in the type, upside down.
                    (kind | 0x30, u16::from((kind & 0x30) ^ 0x30) << 4 | u16::from(len))
                }
            }
            c::FLOAT | c::DOUBLE | c::BLOB | c::JSON | c::GEOMETRY | c::TIMESTAMP2 | c::DATETIME2 | c::TIME2 => {
                (type_id, u16::from(meta.u8()?))
            }
            c::VARCHAR | c::VAR_STRING => (type_id, meta.u16()?),
            // Precision, scale; bits, bytes.
            c::NEWDECIMAL | c::BIT => (type_id, u16::from_be_bytes(meta.array()?)),
            // MariaDB's compressed columns.
            140 => (type_id, u16::from(meta.u8()?)),
            141 => (type_id, meta.u16()?),
            _ => (type_id, 0),
        };
        Ok(Self { type_id, meta, ..Self::default() })
    }

    fn is_number(&self) -> bool {
        use column as c;
        matches!(
            self.type_id,
            c::TINY | c::SHORT | c::INT24 | c::LONG | c::LONGLONG | c::NEWDECIMAL | c::FLOAT | c::DOUBLE | c::YEAR
        )
    }
}

// === impl Rows ===

impl<'a> Rows<'a> {
    /// `type_id` is the event's number.
    pub(crate) fn decode(type_id: u8, data: &'a [u8]) -> Result<Self, BadEvent> {
        let change = match type_id {
            kind::WRITE_ROWS | kind::WRITE_ROWS_V1 => Change::Insert,
            kind::UPDATE_ROWS | kind::UPDATE_ROWS_V1 => Change::Update,
            kind::DELETE_ROWS | kind::DELETE_ROWS_V1 => Change::Delete,
            _ => return Err(BadEvent),
        };
        let mut data = Cursor(data);
        let table = data.little(6)?;
        data.take(2)?;
        if matches!(type_id, kind::WRITE_ROWS | kind::UPDATE_ROWS | kind::DELETE_ROWS) {
            // Its own two bytes count.
            let more = data.u16()?;
            data.take(usize::from(more.checked_sub(2).ok_or(BadEvent)?))?;
        }
        let columns = data.packed()?;
        let mut is_whole = all_set(data.take(columns.div_ceil(8))?, columns);
        if change == Change::Update {
            is_whole &= all_set(data.take(columns.div_ceil(8))?, columns);
        }
        Ok(Self { table, change, columns, is_whole, images: data.0 })
    }
}

fn all_set(bitmap: &[u8], bits: usize) -> bool {
    (0..bits).all(|bit| bitmap.get(bit / 8).is_some_and(|byte| byte & (1 << (bit % 8)) != 0))
}

/// Whether `column` is NULL, by the bitmap before an image.
pub(crate) fn is_null(bitmap: &[u8], column: usize) -> bool {
    bitmap.get(column / 8).is_some_and(|byte| byte & (1 << (column % 8)) != 0)
}
