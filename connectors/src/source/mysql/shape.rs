//! The tables' columns as they were when the copy began, and as the log describes them: two sides of one thing.
//!
//! A column is described twice: by what the log knows of it (`wire`), so that a schema change is noticed before its first row, and by
//! what the log does not say (`kind`), so that its values can be read: MariaDB's log calls a UUID sixteen bytes, and JSON text.

use serde::{Deserialize, Serialize};

use super::{
    charset::Charsets,
    event::{WireColumn, column as c},
};
use crate::{
    database::{
        catalogue::{Described, describe, labels},
        mysql::{Flavor, MysqlSession, text},
    },
    error::FlowError,
    plan::Plan,
};

/// One table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TableShape {
    /// `database.table`.
    pub(crate) name: String,
    pub(crate) columns: Vec<ColumnShape>,
}

/// One column.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ColumnShape {
    pub(crate) name: String,
    /// As the log describes it.
    pub(crate) wire: String,
    pub(crate) kind: Kind,
    /// Of text and labels; empty for all else.
    pub(crate) charset: String,
    pub(crate) is_key: bool,
    /// The server makes its value: it is not sent.
    pub(crate) is_generated: bool,
}

/// How a value becomes text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Kind {
    Int {
        bytes: u8,
        unsigned: bool,
    },
    Float,
    Double,
    Decimal {
        precision: u8,
        scale: u8,
    },
    /// So many bits.
    Bit(u8),
    Year,
    Date,
    /// Digits of a second's fraction.
    DateTime(u8),
    Timestamp(u8),
    Time(u8),
    Text,
    Bytes,
    /// BINARY: the log leaves trailing zeros out.
    FixedBytes(u16),
    Enum(Vec<String>),
    Set(Vec<String>),
    /// MySQL's, which is no text in its log.
    Json,
    Uuid,
    Inet4,
    Inet6,
    /// What cannot be carried, by its name.
    Unknown(String),
}

/// Reads the columns of all tables of the plan.
pub(crate) async fn read(session: &mut MysqlSession, plan: &Plan) -> Result<Vec<TableShape>, FlowError> {
    let mut tables = Vec::with_capacity(plan.tables.len());
    for table in &plan.tables {
        let Some(shape) = read_one(session, &table.source).await? else {
            return Err(FlowError::Stop(format!("the source has no table `{}`", table.source)));
        };
        tables.push(shape);
    }
    Ok(tables)
}

/// Reads the columns of one table, if there is one.
pub(crate) async fn read_one(session: &mut MysqlSession, table: &str) -> Result<Option<TableShape>, FlowError> {
    let columns = describe(session, table).await?;
    if columns.is_empty() {
        return Ok(None);
    }
    if let Some(other) = spelled_otherwise(session, table).await? {
        return Err(FlowError::Stop(format!(
            "the source's table `{table}` is called `{other}` in its log: write it so in the file"
        )));
    }
    let flavor = session.flavor;
    let columns = columns.into_iter().map(|column| ColumnShape::of(column, flavor)).collect();
    Ok(Some(TableShape { name: table.to_owned(), columns }))
}

/// As the server spells it, where that is not as the file does: some find a table by any spelling, and the log has theirs.
async fn spelled_otherwise(session: &mut MysqlSession, table: &str) -> Result<Option<String>, FlowError> {
    let (database, name) = table.split_once('.').unwrap_or(("", table));
    let sql = format!(
        "SELECT concat(TABLE_SCHEMA, '.', TABLE_NAME) FROM information_schema.TABLES WHERE TABLE_SCHEMA = {} AND TABLE_NAME = {}",
        text(database),
        text(name)
    );
    let found: Option<String> = session.value("asking how a table is spelled", &sql).await?;
    Ok(found.filter(|found| found != table))
}

// === impl ColumnShape ===

impl ColumnShape {
    fn of(column: Described, flavor: Flavor) -> Self {
        let (kind, wire) = column.kind(flavor);
        Self {
            name: column.name,
            wire,
            kind,
            charset: column.charset,
            is_key: column.is_key,
            is_generated: column.is_generated,
        }
    }
}

// === impl Described ===

impl Described {
    /// What its values are, and how the log describes it.
    pub(crate) fn kind(&self, flavor: Flavor) -> (Kind, String) {
        let small = |number: u64| u8::try_from(number).unwrap_or(u8::MAX);
        let unsigned = self.column_type.contains("unsigned") || self.column_type.contains("zerofill");
        let sign = if unsigned { " unsigned" } else { "" };
        let text = |wire: String| match self.charset.as_str() {
            "" | "binary" => (Kind::Bytes, format!("{wire} binary")),
            charset => (Kind::Text, format!("{wire} {charset}")),
        };
        let data_type = self.data_type.as_str();
        let int = |bytes| (Kind::Int { bytes, unsigned }, format!("{data_type}{sign}"));
        let fraction = |name: &str| format!("{name}({})", self.fraction);
        // `uuid /* old */` stands in another order in the log, until its table was rebuilt.
        let unread = ["COMPRESSED", "mariadb-5.3", "/* old */"];
        if unread.iter().any(|word| self.column_type.contains(word)) {
            return (Kind::Unknown(self.column_type.clone()), self.column_type.clone());
        }
        match data_type {
            "tinyint" => int(1),
            "smallint" => int(2),
            "mediumint" => int(3),
            "int" => int(4),
            "bigint" => int(8),
            "float" => (Kind::Float, format!("float{sign}")),
            "double" => (Kind::Double, format!("double{sign}")),
            "decimal" => (
                Kind::Decimal { precision: small(self.precision), scale: small(self.scale) },
                format!("decimal({},{}){sign}", self.precision, self.scale),
            ),
            "bit" => (Kind::Bit(small(self.precision)), format!("bit({})", self.precision)),
            "year" => (Kind::Year, "year".to_owned()),
            "date" => (Kind::Date, "date".to_owned()),
            "datetime" => (Kind::DateTime(small(self.fraction)), fraction("datetime")),
            "timestamp" => (Kind::Timestamp(small(self.fraction)), fraction("timestamp")),
            "time" => (Kind::Time(small(self.fraction)), fraction("time")),
            "char" => text(format!("char({})", self.octets)),
            "varchar" => text(format!("varchar({})", self.octets)),
            "binary" => (
                Kind::FixedBytes(u16::try_from(self.octets).unwrap_or(u16::MAX)),
                format!("char({}) binary", self.octets),
            ),
            "varbinary" => (Kind::Bytes, format!("varchar({}) binary", self.octets)),
            "tinytext" | "tinyblob" => text("blob(1)".to_owned()),
            "text" | "blob" => text("blob(2)".to_owned()),
            "mediumtext" | "mediumblob" => text("blob(3)".to_owned()),
            "longtext" | "longblob" => text("blob(4)".to_owned()),
            "enum" => {
                let labels = labels(&self.column_type);
                let wire = format!("enum {labels:?}");
                (Kind::Enum(labels), wire)
            }
            "set" => {
                let labels = labels(&self.column_type);
                let wire = format!("set {labels:?}");
                (Kind::Set(labels), wire)
            }
            "json" if flavor == Flavor::Mysql => (Kind::Json, "json".to_owned()),
            "uuid" => (Kind::Uuid, "char(16) binary".to_owned()),
            "inet6" => (Kind::Inet6, "char(16) binary".to_owned()),
            "inet4" => (Kind::Inet4, "char(4) binary".to_owned()),
            other => (Kind::Unknown(other.to_owned()), other.to_owned()),
        }
    }
}

/// A column of the log in the same words.
pub(crate) fn wire(column: &WireColumn, charsets: &Charsets) -> String {
    let sign = if column.is_unsigned { " unsigned" } else { "" };
    let charset = match charsets.of_collation(column.collation) {
        "" => "binary",
        name => name,
    };
    let all_labels = || -> Vec<String> {
        let decoder = charsets.decoder(charset);
        let one = |label: &Vec<u8>| {
            let mut out = Vec::new();
            decoder.decode(label, &mut out).ok().and_then(|()| String::from_utf8(out).ok()).unwrap_or_default()
        };
        column.labels.iter().map(one).collect()
    };
    let meta = column.meta;
    match column.type_id {
        c::TINY => format!("tinyint{sign}"),
        c::SHORT => format!("smallint{sign}"),
        c::INT24 => format!("mediumint{sign}"),
        c::LONG => format!("int{sign}"),
        c::LONGLONG => format!("bigint{sign}"),
        c::FLOAT => format!("float{sign}"),
        c::DOUBLE => format!("double{sign}"),
        c::NEWDECIMAL => format!("decimal({},{}){sign}", meta >> 8, meta & 0xff),
        c::BIT => format!("bit({})", (meta & 0xff) * 8 + (meta >> 8)),
        c::YEAR => "year".to_owned(),
        c::DATE | c::NEWDATE => "date".to_owned(),
        c::DATETIME => "datetime(0)".to_owned(),
        c::DATETIME2 => format!("datetime({meta})"),
        c::TIMESTAMP => "timestamp(0)".to_owned(),
        c::TIMESTAMP2 => format!("timestamp({meta})"),
        c::TIME => "time(0)".to_owned(),
        c::TIME2 => format!("time({meta})"),
        c::STRING => format!("char({meta}) {charset}"),
        c::VARCHAR | c::VAR_STRING => format!("varchar({meta}) {charset}"),
        c::BLOB => format!("blob({meta}) {charset}"),
        c::ENUM => format!("enum {:?}", all_labels()),
        c::SET => format!("set {:?}", all_labels()),
        c::JSON => "json".to_owned(),
        other => format!("type {other}"),
    }
}

/// What the values of a column are by the log alone; nothing where the log calls several types alike, and for text in a character set that is
/// not known here.
pub(super) fn told_by_the_log(column: &WireColumn, charsets: &Charsets) -> Option<Kind> {
    let int = |bytes| Some(Kind::Int { bytes, unsigned: column.is_unsigned });
    let meta = column.meta;
    let small = |number: u16| u8::try_from(number).unwrap_or(u8::MAX);
    let charset = charsets.of_collation(column.collation);
    let text = |bytes| match charset {
        "" | "binary" => Some(bytes),
        known => charsets.knows(known).then_some(Kind::Text),
    };
    let labels = || -> Option<Vec<String>> {
        let decoder = charsets.knows(charset).then(|| charsets.decoder(charset))?;
        let one = |label: &Vec<u8>| {
            let mut out = Vec::new();
            decoder.decode(label, &mut out).ok()?;
            String::from_utf8(out).ok()
        };
        column.labels.iter().map(one).collect()
    };
    match column.type_id {
        c::TINY => int(1),
        c::SHORT => int(2),
        c::INT24 => int(3),
        c::LONG => int(4),
        c::LONGLONG => int(8),
        c::FLOAT => Some(Kind::Float),
        c::DOUBLE => Some(Kind::Double),
        c::NEWDECIMAL => Some(Kind::Decimal { precision: small(meta >> 8), scale: small(meta & 0xff) }),
        c::BIT => Some(Kind::Bit(small((meta & 0xff) * 8 + (meta >> 8)))),
        c::YEAR => Some(Kind::Year),
        c::DATE | c::NEWDATE => Some(Kind::Date),
        c::DATETIME2 => Some(Kind::DateTime(small(meta))),
        c::TIMESTAMP2 => Some(Kind::Timestamp(small(meta))),
        c::TIME2 => Some(Kind::Time(small(meta))),
        // MariaDB calls UUID and addresses bytes of these lengths.
        c::STRING if matches!(charset, "" | "binary") && matches!(meta, 4 | 16) => None,
        c::STRING => text(Kind::FixedBytes(meta)),
        c::VARCHAR | c::VAR_STRING | c::BLOB => text(Kind::Bytes),
        c::ENUM => labels().map(Kind::Enum),
        c::SET => labels().map(Kind::Set),
        c::JSON => Some(Kind::Json),
        _ => None,
    }
}
