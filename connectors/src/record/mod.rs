//! What stands in Kafka: row records in Debezium's envelope, COMMIT, CHECKPOINT, START, END, and the marks `open` and `fence`.
//!
//! Who a record is (kind, position, `from`, epoch, origin) stands in its headers; what it says stands in its JSON value.

pub(crate) mod control;
pub(crate) mod envelope;
pub(crate) mod json;

use std::io::Write as _;

use rdkafka::message::{BorrowedHeaders, Header, Headers, OwnedHeaders};

use crate::{
    config::Side,
    position::{BadPosition, Lsn, Position},
};

/// What a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A changed row, or a truncated table.
    Row,
    /// The end of a source transaction.
    Commit,
    /// Nothing to apply happened up to here.
    Checkpoint,
    /// The first record of a generation.
    Start,
    /// The end of a snapshot.
    End,
    /// The source was opened for writes here.
    Open,
    /// The source was closed for writes here.
    Fence,
}

/// The headers of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) kind: Kind,
    pub(crate) position: Position,
    /// The end of the transaction before, as its capture read it from the source.
    pub(crate) from: Lsn,
    /// Of the owner row, as capture knew it.
    pub(crate) epoch: i64,
    /// The side whose database was read.
    pub(crate) origin: Side,
}

// === impl Kind ===

impl Kind {
    const ALL: [Self; 7] = [Self::Row, Self::Commit, Self::Checkpoint, Self::Start, Self::End, Self::Open, Self::Fence];

    /// As the header `kind` writes it.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Row => "row",
            Self::Commit => "commit",
            Self::Checkpoint => "checkpoint",
            Self::Start => "start",
            Self::End => "end",
            Self::Open => "open",
            Self::Fence => "fence",
        }
    }
}

// === impl Head ===

impl Head {
    /// As Kafka's headers. Texts, so that any tool can read them.
    pub(crate) fn to_headers(self) -> OwnedHeaders {
        let mut space = [0_u8; 96];
        let mut text = |value: std::fmt::Arguments<'_>| -> ([u8; 96], usize) {
            let mut rest = &mut space[..];
            // 96 bytes hold the longest position: 20 + 8 + 17 + 20 digits and three colons.
            let written = rest.write_fmt(value).map_or(0, |()| 96 - rest.len());
            (space, written)
        };
        let (position, position_len) = text(format_args!("{}", self.position));
        let (from, from_len) = text(format_args!("{}", self.from));
        let (epoch, epoch_len) = text(format_args!("{}", self.epoch));
        let headers = OwnedHeaders::new_with_capacity(5)
            .insert(Header { key: "position", value: Some(&position[..position_len]) })
            .insert(Header { key: "from", value: Some(&from[..from_len]) })
            .insert(Header { key: "epoch", value: Some(&epoch[..epoch_len]) })
            .insert(Header { key: "origin", value: Some(self.origin.as_str()) });
        match self.kind {
            // Most records are rows; they save a header.
            Kind::Row => headers,
            kind => headers.insert(Header { key: "kind", value: Some(kind.as_str()) }),
        }
    }

    /// Back from Kafka's headers.
    pub(crate) fn from_headers(headers: &BorrowedHeaders) -> Result<Self, BadPosition> {
        let (mut kind, mut position, mut from, mut epoch, mut origin) = (Kind::Row, None, None, None, None);
        for header in headers.iter() {
            let value = header.value.and_then(|v| std::str::from_utf8(v).ok()).ok_or(BadPosition)?;
            match header.key {
                "position" => position = Some(value.parse()?),
                "from" => from = Some(value.parse()?),
                "epoch" => epoch = Some(value.parse().map_err(|_| BadPosition)?),
                "origin" => origin = [Side::Legacy, Side::Modern].into_iter().find(|side| side.as_str() == value),
                "kind" => kind = Kind::ALL.into_iter().find(|kind| kind.as_str() == value).ok_or(BadPosition)?,
                _ => {}
            }
        }
        match (position, from, epoch, origin) {
            (Some(position), Some(from), Some(epoch), Some(origin)) => Ok(Self { kind, position, from, epoch, origin }),
            _ => Err(BadPosition),
        }
    }
}
