//! Values to text: of the log's bytes, and of the client protocol's that a copy is read with. One writer for both, so that a row is the
//! same text whichever way it came. What the text of each type is, says `docs/reference/types.md`.

use mysql_async::binlog::jsonb::{self, JsonContainer, JsonDom, JsonNumber, JsonScalar};
use mysql_common::io::ParseBuf;

use super::{
    charset::{Charset, Charsets},
    event::{BadEvent, Cursor, WireColumn, column as c},
    shape::{ColumnShape, Kind},
};
use crate::{error::FlowError, record::json::write_string};

/// A value that cannot be carried as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BadValue {
    /// The bytes are not what the type's bytes are.
    Bytes,
    /// Bytes that are no text in the column's character set.
    Text,
    /// A type that this version does not carry.
    Type,
}

/// What reads one column's values.
#[derive(Debug, Clone)]
pub(crate) struct Reader {
    pub(crate) kind: Kind,
    pub(crate) charset: Charset,
}

impl From<BadEvent> for BadValue {
    fn from(_: BadEvent) -> Self {
        Self::Bytes
    }
}

/// Microseconds of a fraction that has `digits`.
const SCALE: [u32; 7] = [1_000_000, 100_000, 10_000, 1_000, 100, 10, 1];

/// Steps over a value of the log.
pub(crate) fn skip(column: &WireColumn, from: &mut Cursor<'_>) -> Result<(), BadEvent> {
    let len = len(column, from)?;
    from.take(len).map(drop)
}

/// How many bytes the value takes; what stands before it to say so is taken.
fn len(column: &WireColumn, from: &mut Cursor<'_>) -> Result<usize, BadEvent> {
    let meta = usize::from(column.meta);
    let fraction = meta.min(6).div_ceil(2);
    let counted =
        |width: usize, from: &mut Cursor<'_>| from.little(width).and_then(|n| usize::try_from(n).map_err(|_| BadEvent));
    Ok(match column.type_id {
        c::TINY | c::YEAR => 1,
        c::SHORT => 2,
        c::INT24 | c::DATE | c::NEWDATE | c::TIME => 3,
        c::LONG | c::FLOAT | c::TIMESTAMP => 4,
        c::LONGLONG | c::DOUBLE | c::DATETIME => 8,
        c::NEWDECIMAL => decimal_len(meta >> 8, meta & 0xff),
        c::BIT => (meta & 0xff) + usize::from(meta >> 8 > 0),
        c::ENUM | c::SET => meta,
        c::TIMESTAMP2 => 4 + fraction,
        c::DATETIME2 => 5 + fraction,
        c::TIME2 => 3 + fraction,
        c::STRING | c::VARCHAR | c::VAR_STRING | 141 => counted(if meta > 255 { 2 } else { 1 }, from)?,
        c::BLOB | c::JSON | c::GEOMETRY | 140 => {
            if !(1..=4).contains(&meta) {
                return Err(BadEvent);
            }
            counted(meta, from)?
        }
        _ => return Err(BadEvent),
    })
}

// === impl BadValue ===

impl BadValue {
    /// Where it stands, without the value.
    pub(crate) fn at(self, table: &str, column: &str, place: &str) -> FlowError {
        FlowError::Stop(format!(
            "{table} at {place}: `{column}` holds {}",
            match self {
                Self::Bytes => "what its type does not have",
                Self::Text => "bytes that are no text in its character set",
                Self::Type => "a type that this version does not carry",
            }
        ))
    }
}

// === impl Reader ===

impl Reader {
    /// What reads the values of a column.
    pub(crate) fn new(column: &ColumnShape, charsets: &Charsets) -> Self {
        Self { kind: column.kind.clone(), charset: charsets.decoder(&column.charset) }
    }

    /// Appends the text of the log's next value.
    pub(crate) fn read(&self, column: &WireColumn, from: &mut Cursor<'_>, out: &mut Vec<u8>) -> Result<(), BadValue> {
        let len = len(column, from)?;
        let bytes = from.take(len)?;
        let mut value = Cursor(bytes);
        match &self.kind {
            Kind::Int { bytes: width, unsigned } => {
                let width = usize::from(*width);
                if width != len {
                    return Err(BadValue::Bytes);
                }
                let number = value.little(width)?;
                if *unsigned { write_number(out, number) } else { write_number(out, sign_extend(number, width)) }
            }
            Kind::Float => write_float(out, f32::from_le_bytes(value.array()?)),
            Kind::Double => write_double(out, f64::from_le_bytes(value.array()?)),
            Kind::Decimal { precision, scale } => {
                write_decimal(out, bytes, usize::from(*precision), usize::from(*scale))?;
            }
            Kind::Bit(bits) => write_bits(out, bytes, usize::from(*bits))?,
            Kind::Year => match value.u8()? {
                0 => out.extend_from_slice(b"0000"),
                year => write_number(out, 1900 + u32::from(year)),
            },
            Kind::Date => {
                let packed = u32::try_from(value.little(3)?).unwrap_or(0);
                write_date(out, packed >> 9, packed >> 5 & 15, packed & 31);
            }
            Kind::DateTime(digits) => {
                if column.type_id == c::DATETIME {
                    let packed = value.u64()?;
                    let (date, time) = (packed / 1_000_000, packed % 1_000_000);
                    let part = |number: u64| u32::try_from(number).unwrap_or(0);
                    write_date(out, part(date / 10_000), part(date / 100 % 100), part(date % 100));
                    out.push(b' ');
                    write_clock(out, part(time / 10_000), part(time / 100 % 100), part(time % 100), 0, 0);
                } else {
                    let packed = value.big(5)? & 0x7f_ffff_ffff;
                    let micros = fraction(&mut value, column.meta)?;
                    let part = |number: u64| u32::try_from(number).unwrap_or(0);
                    let months = part(packed >> 22);
                    write_date(out, months / 13, months % 13, part(packed >> 17 & 31));
                    out.push(b' ');
                    write_clock(
                        out,
                        part(packed >> 12 & 31),
                        part(packed >> 6 & 63),
                        part(packed & 63),
                        micros,
                        *digits,
                    );
                }
            }
            Kind::Timestamp(digits) => {
                let (seconds, micros) = if column.type_id == c::TIMESTAMP {
                    (value.little(4)?, 0)
                } else {
                    (value.big(4)?, fraction(&mut value, column.meta)?)
                };
                write_timestamp(out, seconds, micros, *digits);
            }
            Kind::Time(digits) => {
                if column.type_id == c::TIME {
                    let packed = sign_extend(value.little(3)?, 3);
                    let clock = u32::try_from(packed.unsigned_abs()).unwrap_or(0);
                    write_time(out, packed < 0, clock / 10_000, clock / 100 % 100, clock % 100, 0, 0);
                } else {
                    let (negative, clock, micros) = packed_time(&mut value, column.meta)?;
                    write_time(out, negative, clock >> 12 & 0x3ff, clock >> 6 & 63, clock & 63, micros, *digits);
                }
            }
            Kind::Text => self.charset.decode(bytes, out).map_err(|_| BadValue::Text)?,
            Kind::Bytes => write_bytes(out, bytes, 0),
            Kind::FixedBytes(len) => write_bytes(out, bytes, usize::from(*len)),
            Kind::Enum(labels) => match usize::try_from(value.little(len)?).unwrap_or(0) {
                // What a server without strict mode stored for a label that is none.
                0 => {}
                at => out.extend_from_slice(labels.get(at - 1).ok_or(BadValue::Bytes)?.as_bytes()),
            },
            Kind::Set(labels) => {
                let bits = value.little(len)?;
                let mut first = true;
                for (_, label) in labels.iter().enumerate().filter(|(i, _)| bits >> i & 1 == 1) {
                    if !std::mem::take(&mut first) {
                        out.push(b',');
                    }
                    out.extend_from_slice(label.as_bytes());
                }
            }
            Kind::Json => write_json(out, bytes)?,
            Kind::Uuid => write_uuid(out, bytes)?,
            Kind::Inet4 => {
                let mut address = [0; 4];
                address.get_mut(..bytes.len()).ok_or(BadValue::Bytes)?.copy_from_slice(bytes);
                out.extend_from_slice(std::net::Ipv4Addr::from(address).to_string().as_bytes());
            }
            Kind::Inet6 => {
                let mut address = [0; 16];
                address.get_mut(..bytes.len()).ok_or(BadValue::Bytes)?.copy_from_slice(bytes);
                out.extend_from_slice(std::net::Ipv6Addr::from(address).to_string().as_bytes());
            }
            Kind::Unknown(_) => return Err(BadValue::Type),
        }
        Ok(())
    }

    /// Appends the text of a value that came over the client protocol, in its binary form and with text in the column's own character set.
    pub(crate) fn read_client(&self, value: &mysql_async::Value, out: &mut Vec<u8>) -> Result<(), BadValue> {
        use mysql_async::Value as V;
        match (&self.kind, value) {
            (Kind::Int { unsigned: true, .. }, V::Int(number)) => write_number(out, number.cast_unsigned()),
            (Kind::Int { .. }, V::Int(number)) => write_number(out, *number),
            (Kind::Int { .. }, V::UInt(number)) => write_number(out, *number),
            (Kind::Year, V::Int(0) | V::UInt(0)) => out.extend_from_slice(b"0000"),
            (Kind::Year, V::Int(number)) => write_number(out, *number),
            (Kind::Year, V::UInt(number)) => write_number(out, *number),
            (Kind::Float, V::Float(number)) => write_float(out, *number),
            (Kind::Double, V::Double(number)) => write_double(out, *number),
            (Kind::Bit(bits), V::Bytes(bytes)) => write_bits(out, bytes, usize::from(*bits))?,
            (Kind::Date, V::Date(year, month, day, ..)) => {
                write_date(out, u32::from(*year), u32::from(*month), u32::from(*day));
            }
            (
                Kind::DateTime(digits) | Kind::Timestamp(digits),
                V::Date(year, month, day, hour, minute, second, micros),
            ) => {
                write_date(out, u32::from(*year), u32::from(*month), u32::from(*day));
                out.push(b' ');
                write_clock(out, u32::from(*hour), u32::from(*minute), u32::from(*second), *micros, *digits);
                if matches!(self.kind, Kind::Timestamp(_)) && (*year, *month, *day) != (0, 0, 0) {
                    out.extend_from_slice(b"+00");
                }
            }
            (Kind::Time(digits), V::Time(negative, days, hours, minutes, seconds, micros)) => write_time(
                out,
                *negative,
                days * 24 + u32::from(*hours),
                u32::from(*minutes),
                u32::from(*seconds),
                *micros,
                *digits,
            ),
            (Kind::Text | Kind::Enum(_) | Kind::Set(_), V::Bytes(bytes)) => {
                self.charset.decode(bytes, out).map_err(|_| BadValue::Text)?;
            }
            (Kind::Bytes | Kind::FixedBytes(_), V::Bytes(bytes)) => write_bytes(out, bytes, 0),
            // Text already.
            (Kind::Decimal { .. } | Kind::Json | Kind::Uuid | Kind::Inet4 | Kind::Inet6, V::Bytes(bytes)) => {
                std::str::from_utf8(bytes).map_err(|_| BadValue::Text)?;
                out.extend_from_slice(bytes);
            }
            (Kind::Unknown(_), _) => return Err(BadValue::Type),
            _ => return Err(BadValue::Bytes),
        }
        Ok(())
    }
}

// === writers ===

fn write_number(out: &mut Vec<u8>, number: impl itoa::Integer) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

fn sign_extend(number: u64, bytes: usize) -> i64 {
    let unused = 64 - 8 * bytes.clamp(1, 8);
    (number << unused).cast_signed() >> unused
}

/// The shortest text that reads back as the same number.
fn write_float(out: &mut Vec<u8>, number: f32) {
    let plain = number == 0.0 || (1e-4..1e7).contains(&number.abs());
    out.extend_from_slice(if plain { number.to_string() } else { format!("{number:e}") }.as_bytes());
}

fn write_double(out: &mut Vec<u8>, number: f64) {
    let plain = number == 0.0 || (1e-4..1e16).contains(&number.abs());
    out.extend_from_slice(if plain { number.to_string() } else { format!("{number:e}") }.as_bytes());
}

/// `width` digits at least.
fn padded(out: &mut Vec<u8>, number: u32, width: usize) {
    let mut buffer = itoa::Buffer::new();
    let digits = buffer.format(number);
    out.extend(std::iter::repeat_n(b'0', width.saturating_sub(digits.len())));
    out.extend_from_slice(digits.as_bytes());
}

fn write_date(out: &mut Vec<u8>, year: u32, month: u32, day: u32) {
    padded(out, year, 4);
    out.push(b'-');
    padded(out, month, 2);
    out.push(b'-');
    padded(out, day, 2);
}

fn write_clock(out: &mut Vec<u8>, hour: u32, minute: u32, second: u32, micros: u32, digits: u8) {
    padded(out, hour, 2);
    out.push(b':');
    padded(out, minute, 2);
    out.push(b':');
    padded(out, second, 2);
    let digits = usize::from(digits.min(6));
    if digits > 0 {
        out.push(b'.');
        padded(out, micros / SCALE[digits], digits);
    }
}

/// A time of more than a day, or less than nothing.
fn write_time(out: &mut Vec<u8>, negative: bool, hour: u32, minute: u32, second: u32, micros: u32, digits: u8) {
    if negative {
        out.push(b'-');
    }
    write_clock(out, hour, minute, second, micros, digits);
}

/// In UTC. Zero is no time but the server's word for none.
fn write_timestamp(out: &mut Vec<u8>, seconds: u64, micros: u32, digits: u8) {
    if seconds == 0 && micros == 0 {
        write_date(out, 0, 0, 0);
        out.push(b' ');
        write_clock(out, 0, 0, 0, 0, digits);
        return;
    }
    write_utc(out, seconds, micros, digits);
    out.extend_from_slice(b"+00");
}

fn write_utc(out: &mut Vec<u8>, seconds: u64, micros: u32, digits: u8) {
    let part = |number: u64| u32::try_from(number).unwrap_or(0);
    let (year, month, day) = civil(seconds / 86_400);
    write_date(out, year, month, day);
    out.push(b' ');
    write_clock(out, part(seconds / 3_600 % 24), part(seconds / 60 % 60), part(seconds % 60), micros, digits);
}

/// A moment as `DATETIME(6)` takes it.
pub(super) fn write_moment(out: &mut Vec<u8>, seconds: u64, micros: u32) {
    write_utc(out, seconds, micros, 6);
}

/// Year, month and day of a day after 1970-01-01: the proleptic Gregorian calendar, whose eras of 400 years have 146,097 days.
fn civil(days: u64) -> (u32, u32, u32) {
    let part = |number: u64| u32::try_from(number).unwrap_or(0);
    // From 0000-03-01 on, so that the leap day is a year's last.
    let day = days + 719_468;
    let (era, of_era) = (day / 146_097, day % 146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    (part(year), part(month), part(of_year - (153 * shifted + 2) / 5 + 1))
}

/// The fraction of a second behind the packed seconds, in microseconds.
fn fraction(value: &mut Cursor<'_>, digits: u16) -> Result<u32, BadEvent> {
    let bytes = usize::from(digits.min(6)).div_ceil(2);
    let number = u32::try_from(value.big(bytes)?).map_err(|_| BadEvent)?;
    // Two digits a byte, in units of 1/100, 1/10,000 or 1/1,000,000.
    Ok(number * [0, 10_000, 100, 1][bytes])
}

/// Whether it is negative, the clock (hours, minutes, seconds in 10, 6 and 6 bits), and microseconds. The whole is one number whose sign
/// is its first bit upside down; a negative one counts its fraction down.
fn packed_time(value: &mut Cursor<'_>, digits: u16) -> Result<(bool, u32, u32), BadEvent> {
    let bytes = usize::from(digits.min(6)).div_ceil(2);
    let whole = value.big(3 + bytes)?;
    let number = whole.cast_signed() - (0x80_0000_i64 << (8 * bytes));
    let magnitude = number.unsigned_abs();
    let fraction = u32::try_from(magnitude & ((1 << (8 * bytes)) - 1)).map_err(|_| BadEvent)?;
    let clock = u32::try_from(magnitude >> (8 * bytes)).map_err(|_| BadEvent)?;
    Ok((number < 0, clock, fraction * [0, 10_000, 100, 1][bytes]))
}

const HEX: &[u8; 16] = b"0123456789abcdef";

/// As PostgreSQL writes `bytea`. `least`: so many bytes, zeros at the end.
fn write_bytes(out: &mut Vec<u8>, bytes: &[u8], least: usize) {
    out.extend_from_slice(b"\\x");
    for byte in bytes {
        out.extend_from_slice(&[HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
    }
    out.extend(std::iter::repeat_n(b'0', 2 * least.saturating_sub(bytes.len())));
}

fn write_bits(out: &mut Vec<u8>, bytes: &[u8], bits: usize) -> Result<(), BadValue> {
    let all = 8 * bytes.len();
    let skipped = all.checked_sub(bits).ok_or(BadValue::Bytes)?;
    out.extend((skipped..all).map(|bit| b'0' + (bytes[bit / 8] >> (7 - bit % 8) & 1)));
    Ok(())
}

/// Bytes of so many digits, nine of which take four.
const DIGITS: [usize; 10] = [0, 1, 1, 2, 2, 3, 3, 4, 4, 4];

fn decimal_len(precision: usize, scale: usize) -> usize {
    let whole = precision.saturating_sub(scale);
    whole / 9 * 4 + DIGITS[whole % 9] + scale / 9 * 4 + DIGITS[scale % 9]
}

/// Groups of nine digits, big-endian; the shorter groups stand outermost. The first bit is the sign upside down, and a negative number has
/// all its bits upside down.
fn write_decimal(out: &mut Vec<u8>, bytes: &[u8], precision: usize, scale: usize) -> Result<(), BadValue> {
    if bytes.len() != decimal_len(precision, scale) || bytes.is_empty() {
        return Err(BadValue::Bytes);
    }
    let negative = bytes[0] & 0x80 == 0;
    let mask = if negative { 0xff } else { 0 };
    let mut at = 0;
    let mut group = |digits: usize| {
        let width = DIGITS[digits];
        let mut number = 0_u32;
        for (i, byte) in bytes.iter().enumerate().skip(at).take(width) {
            let byte = if i == 0 { byte ^ 0x80 } else { *byte };
            number = number << 8 | u32::from(byte ^ mask);
        }
        at += width;
        number
    };
    if negative {
        out.push(b'-');
    }
    let start = out.len();
    let whole = precision.saturating_sub(scale);
    for digits in std::iter::once(whole % 9).chain(std::iter::repeat_n(9, whole / 9)).filter(|digits| *digits > 0) {
        let number = group(digits);
        if out.len() > start {
            padded(out, number, digits);
        } else if number > 0 {
            write_number(out, number);
        }
    }
    if out.len() == start {
        out.push(b'0');
    }
    if scale > 0 {
        out.push(b'.');
        for digits in std::iter::repeat_n(9, scale / 9).chain(std::iter::once(scale % 9)).filter(|digits| *digits > 0) {
            let number = group(digits);
            padded(out, number, digits);
        }
    }
    Ok(())
}

fn write_uuid(out: &mut Vec<u8>, bytes: &[u8]) -> Result<(), BadValue> {
    let mut uuid = [0_u8; 16];
    uuid.get_mut(..bytes.len()).ok_or(BadValue::Bytes)?.copy_from_slice(bytes);
    for (i, byte) in uuid.iter().enumerate() {
        if matches!(i, 4 | 6 | 8 | 10) {
            out.push(b'-');
        }
        out.extend_from_slice(&[HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
    }
    Ok(())
}

/// MySQL's binary JSON. What JSON has no word for (the server's `OPAQUE` of other types) is refused.
fn write_json(out: &mut Vec<u8>, bytes: &[u8]) -> Result<(), BadValue> {
    if bytes.is_empty() {
        return Err(BadValue::Bytes);
    }
    let value: jsonb::Value<'_> = ParseBuf(bytes).parse(()).map_err(|_| BadValue::Bytes)?;
    write_dom(out, value.parse().map_err(|_| BadValue::Bytes)?)
}

fn write_dom(out: &mut Vec<u8>, json: JsonDom) -> Result<(), BadValue> {
    match json {
        JsonDom::Container(JsonContainer::Array(items)) => {
            out.push(b'[');
            for (i, item) in items.into_iter().enumerate() {
                if i > 0 {
                    out.extend_from_slice(b", ");
                }
                write_dom(out, item)?;
            }
            out.push(b']');
        }
        JsonDom::Container(JsonContainer::Object(members)) => {
            out.push(b'{');
            for (i, (key, item)) in members.into_iter().enumerate() {
                if i > 0 {
                    out.extend_from_slice(b", ");
                }
                write_string(out, key.as_bytes());
                out.extend_from_slice(b": ");
                write_dom(out, item)?;
            }
            out.push(b'}');
        }
        JsonDom::Scalar(scalar) => match scalar {
            JsonScalar::Null => out.extend_from_slice(b"null"),
            JsonScalar::Boolean(value) => out.extend_from_slice(if value { b"true" } else { b"false" }),
            JsonScalar::String(text) => write_string(out, text.as_bytes()),
            JsonScalar::DateTime(time) => write_string(out, format!("{time:.6}").as_bytes()),
            JsonScalar::Number(JsonNumber::Int(number)) => write_number(out, number),
            JsonScalar::Number(JsonNumber::Uint(number)) => write_number(out, number),
            JsonScalar::Number(JsonNumber::Double(number)) => write_double(out, number),
            JsonScalar::Number(JsonNumber::Decimal(number)) => out.extend_from_slice(number.to_string().as_bytes()),
            JsonScalar::Opaque(_) => return Err(BadValue::Type),
        },
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(kind: Kind, type_id: u8, meta: u16, bytes: &[u8]) -> Result<String, BadValue> {
        let reader = Reader { kind, charset: Charset::Utf8 };
        let column = WireColumn { type_id, meta, ..WireColumn::default() };
        let (mut out, mut from) = (Vec::new(), Cursor(bytes));
        reader.read(&column, &mut from, &mut out)?;
        assert!(from.0.is_empty(), "bytes are left");
        let mut over = Cursor(bytes);
        skip(&column, &mut over).unwrap();
        assert!(over.0.is_empty(), "not all was skipped");
        Ok(String::from_utf8(out).unwrap())
    }

    #[test]
    fn numbers_keep_every_digit() {
        let int = |bytes, unsigned| Kind::Int { bytes, unsigned };
        assert_eq!(read(int(8, true), c::LONGLONG, 0, &[0xff; 8]), Ok("18446744073709551615".into()));
        assert_eq!(read(int(8, false), c::LONGLONG, 0, &[0xff; 8]), Ok("-1".into()));
        assert_eq!(read(int(3, false), c::INT24, 0, &[0, 0, 0x80]), Ok("-8388608".into()));
        assert_eq!(read(Kind::Float, c::FLOAT, 4, &0.1_f32.to_le_bytes()), Ok("0.1".into()));
        assert_eq!(read(Kind::Double, c::DOUBLE, 8, &1e300_f64.to_le_bytes()), Ok("1e300".into()));
        // The server's own example: 1234567890.1234 as DECIMAL(14,4), and the same below zero.
        let decimal = Kind::Decimal { precision: 14, scale: 4 };
        let bytes = [0x81, 0x0d, 0xfb, 0x38, 0xd2, 0x04, 0xd2];
        assert_eq!(read(decimal.clone(), c::NEWDECIMAL, 14 << 8 | 4, &bytes), Ok("1234567890.1234".into()));
        let below = bytes.map(|byte: u8| !byte);
        assert_eq!(read(decimal, c::NEWDECIMAL, 14 << 8 | 4, &below), Ok("-1234567890.1234".into()));
        assert_eq!(read(Kind::Bit(10), c::BIT, 2 << 8 | 1, &[0b10, 0b0000_0101]), Ok("1000000101".into()));
    }

    #[test]
    fn times_are_text_to_their_last_digit() {
        assert_eq!(read(Kind::Date, c::DATE, 0, &[0, 0, 0]), Ok("0000-00-00".into()));
        assert_eq!(
            read(Kind::Timestamp(0), c::TIMESTAMP2, 0, &[0x7f, 0xff, 0xff, 0xff]),
            Ok("2038-01-19 03:14:07+00".into())
        );
        assert_eq!(read(Kind::Timestamp(0), c::TIMESTAMP2, 0, &[0; 4]), Ok("0000-00-00 00:00:00".into()));
        // -00:00:01.10 as TIME(2): the fraction counts down.
        assert_eq!(read(Kind::Time(2), c::TIME2, 2, &[0x7f, 0xff, 0xfe, 0xf6]), Ok("-00:00:01.10".into()));
        assert_eq!(read(Kind::Time(0), c::TIME2, 0, &[0xb4, 0x6e, 0xfb]), Ok("838:59:59".into()));
        assert_eq!(civil(0), (1970, 1, 1));
        assert_eq!(civil(11_016), (2000, 2, 29));
        assert_eq!(civil(19_789), (2024, 3, 7));
    }

    #[test]
    fn bytes_are_hexadecimal_and_padded_to_a_fixed_length() {
        assert_eq!(read(Kind::FixedBytes(4), c::STRING, 4, &[2, 0xca, 0xfe]), Ok("\\xcafe0000".into()));
        assert_eq!(read(Kind::Bytes, c::BLOB, 2, &[1, 0, 7]), Ok("\\x07".into()));
        assert_eq!(read(Kind::Text, c::VARCHAR, 20, &[1, 0xff]), Err(BadValue::Text));
        let set = Kind::Set(vec!["a".into(), "b".into(), "c".into()]);
        assert_eq!(read(set.clone(), c::SET, 1, &[0b110]), Ok("b,c".into()));
        assert_eq!(read(set, c::SET, 1, &[0]), Ok(String::new()));
        let labels = Kind::Enum(vec!["x".into()]);
        assert_eq!(read(labels.clone(), c::ENUM, 1, &[1]), Ok("x".into()));
        assert_eq!(read(labels, c::ENUM, 1, &[2]), Err(BadValue::Bytes));
    }
}
