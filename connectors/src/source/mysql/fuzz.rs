//! What must hold for any bytes that come as the binlog's.

use super::{
    charset::Charset,
    event::{Cursor, MariadbGtid, Query, Rotate, Rows, TableMap, column as c, is_null, kind},
    shape::Kind,
    statement,
    value::{self, Reader},
};

/// The first byte is the event's number; before rows stands their table, behind its length. A value that is read ends where it ends when it
/// is stepped over, and what is written of it is text.
pub(crate) fn binlog(data: &[u8]) {
    let Some((&type_id, data)) = data.split_first() else { return };
    match type_id {
        kind::MARIADB_GTID => drop(MariadbGtid::decode(data)),
        kind::ROTATE => drop(Rotate::decode(data)),
        kind::QUERY | kind::EXECUTE_LOAD_QUERY => {
            let query = if type_id == kind::QUERY { Query::decode(data) } else { Query::decode_load(data) };
            if let Ok(query) = query {
                let (sql, database) = (String::from_utf8_lossy(query.sql), String::from_utf8_lossy(query.database));
                statement::read(&sql, &database, &["shop.payments".to_owned()]);
            }
        }
        _ => {
            let mut data = Cursor(data);
            let Ok(len) = data.u16() else { return };
            let Some((table, rows)) = data.0.split_at_checked(usize::from(len)) else { return };
            let (Ok(table), Ok(rows)) = (TableMap::decode(table), Rows::decode(type_id, rows)) else { return };
            if rows.columns == table.columns.len() {
                images(&table, &rows);
            }
        }
    }
}

fn images(table: &TableMap, rows: &Rows<'_>) {
    let mut images = Cursor(rows.images);
    while !images.0.is_empty() {
        let Ok(nulls) = images.take(table.columns.len().div_ceil(8)) else { return };
        for (at, column) in table.columns.iter().enumerate() {
            if is_null(nulls, at) {
                continue;
            }
            let mut over = images;
            let skipped = value::skip(column, &mut over);
            let mut out = Vec::new();
            let reader =
                Reader { kind: kind_of(column.type_id, column.meta, column.is_unsigned), charset: Charset::Utf8 };
            if reader.read(column, &mut images, &mut out).is_ok() {
                assert!(skipped.is_ok() && over.0 == images.0, "both end at the same byte");
                assert!(std::str::from_utf8(&out).is_ok(), "what is written is text");
            }
            if skipped.is_err() {
                return;
            }
            images = over;
        }
    }
}

/// What a column of this type most likely is.
fn kind_of(type_id: u8, meta: u16, unsigned: bool) -> Kind {
    let [high, low] = meta.to_be_bytes();
    let int = |bytes| Kind::Int { bytes, unsigned };
    match type_id {
        c::TINY => int(1),
        c::SHORT => int(2),
        c::INT24 => int(3),
        c::LONG => int(4),
        c::LONGLONG => int(8),
        c::FLOAT => Kind::Float,
        c::DOUBLE => Kind::Double,
        c::NEWDECIMAL => Kind::Decimal { precision: high, scale: low },
        c::BIT => Kind::Bit(low.wrapping_mul(8).wrapping_add(high)),
        c::YEAR => Kind::Year,
        c::DATE | c::NEWDATE => Kind::Date,
        c::DATETIME | c::DATETIME2 => Kind::DateTime(low),
        c::TIMESTAMP | c::TIMESTAMP2 => Kind::Timestamp(low),
        c::TIME | c::TIME2 => Kind::Time(low),
        c::ENUM => Kind::Enum(vec!["a".into(), "b".into()]),
        c::SET => Kind::Set(vec!["a".into(), "b".into()]),
        c::JSON => Kind::Json,
        c::BLOB => Kind::Bytes,
        c::STRING if meta == 16 => Kind::Uuid,
        c::STRING => Kind::FixedBytes(meta),
        _ => Kind::Text,
    }
}
