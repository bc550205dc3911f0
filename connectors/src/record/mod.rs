//! What stands in Kafka: row records in Debezium's envelope, COMMIT, CHECKPOINT, START, END, LOAD, LOADED, and the marks `open`
//! and `fence`.
//!
//! Who a record is (kind, position, `from`, epoch, origin) stands in its headers; what it says stands in its JSON value.

pub(crate) mod control;
pub(crate) mod envelope;
pub(crate) mod json;

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
    /// A table's copy begins: from here on its rows come in chunks between the changes.
    Load,
    /// The last of them.
    Loaded,
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
    /// Of the server that was read: places in the logs of two timelines have no order. [`FIRST_TIMELINE`] where nobody counts them.
    pub(crate) timeline: i32,
}

/// What PostgreSQL begins with. A record does not say it.
pub(crate) const FIRST_TIMELINE: i32 = 1;

/// A text on the stack: every record carries three, and formatting them is dear.
struct Short {
    /// The longest is a position: 20 + 8 + 17 + 20 digits and three colons.
    space: [u8; 72],
    len: usize,
}

// === impl Short ===

impl Default for Short {
    fn default() -> Self {
        Self { space: [0; 72], len: 0 }
    }
}

impl Short {
    fn bytes(&mut self, bytes: &[u8]) {
        if let Some(room) = self.space.get_mut(self.len..self.len + bytes.len()) {
            room.copy_from_slice(bytes);
            self.len += bytes.len();
        }
    }

    fn number(&mut self, number: impl itoa::Integer) {
        self.bytes(itoa::Buffer::new().format(number).as_bytes());
    }

    fn lsn(&mut self, lsn: Lsn) {
        self.hex(lsn.get() >> 32);
        self.bytes(b"/");
        self.hex(lsn.get() & 0xffff_ffff);
    }

    fn hex(&mut self, number: u64) {
        let digits = (16 - number.leading_zeros() / 4).max(1);
        for digit in (0..digits).rev() {
            self.bytes(&[b"0123456789ABCDEF"[usize::try_from(number >> (4 * digit) & 15).unwrap_or(0)]]);
        }
    }

    fn get(&self) -> &[u8] {
        &self.space[..self.len]
    }
}

// === impl Kind ===

impl Kind {
    const ALL: [Self; 9] = [
        Self::Row,
        Self::Commit,
        Self::Checkpoint,
        Self::Start,
        Self::End,
        Self::Open,
        Self::Fence,
        Self::Load,
        Self::Loaded,
    ];

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
            Self::Load => "load",
            Self::Loaded => "loaded",
        }
    }
}

// === impl Head ===

impl Head {
    /// As Kafka's headers. Texts, so that any tool can read them.
    pub(crate) fn to_headers(self) -> OwnedHeaders {
        let (mut position, mut from, mut epoch) = (Short::default(), Short::default(), Short::default());
        position.number(self.position.generation.get());
        position.bytes(b":");
        position.bytes(self.position.phase.as_str().as_bytes());
        position.bytes(b":");
        position.lsn(self.position.lsn);
        position.bytes(b":");
        position.number(self.position.ordinal);
        from.lsn(self.from);
        epoch.number(self.epoch);
        let mut headers = OwnedHeaders::new_with_capacity(6)
            .insert(Header { key: "position", value: Some(position.get()) })
            .insert(Header { key: "from", value: Some(from.get()) })
            .insert(Header { key: "epoch", value: Some(epoch.get()) })
            .insert(Header { key: "origin", value: Some(self.origin.as_str()) });
        if self.timeline > FIRST_TIMELINE {
            let mut timeline = Short::default();
            timeline.number(self.timeline);
            headers = headers.insert(Header { key: "timeline", value: Some(timeline.get()) });
        }
        match self.kind {
            // Most records are rows; they save a header.
            Kind::Row => headers,
            kind => headers.insert(Header { key: "kind", value: Some(kind.as_str()) }),
        }
    }

    /// Back from Kafka's headers.
    pub(crate) fn from_headers(headers: &BorrowedHeaders) -> Result<Self, BadPosition> {
        let (mut kind, mut position, mut from, mut epoch, mut origin) = (Kind::Row, None, None, None, None);
        let mut timeline = FIRST_TIMELINE;
        for header in headers.iter() {
            let value = header.value.and_then(|v| std::str::from_utf8(v).ok()).ok_or(BadPosition)?;
            match header.key {
                "position" => position = Some(value.parse()?),
                "from" => from = Some(value.parse()?),
                "epoch" => epoch = Some(value.parse().map_err(|_| BadPosition)?),
                "origin" => origin = [Side::Legacy, Side::Modern].into_iter().find(|side| side.as_str() == value),
                "timeline" => timeline = value.parse().map_err(|_| BadPosition)?,
                "kind" => kind = Kind::ALL.into_iter().find(|kind| kind.as_str() == value).ok_or(BadPosition)?,
                _ => {}
            }
        }
        match (position, from, epoch, origin) {
            (Some(position), Some(from), Some(epoch), Some(origin)) => {
                Ok(Self { kind, position, from, epoch, origin, timeline })
            }
            _ => Err(BadPosition),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rdkafka::message::Headers as _;

    use super::*;
    use crate::position::{Generation, Phase};

    proptest! {
        #[test]
        fn a_head_survives_its_headers(
            (generation, lsn, ordinal, from, epoch) in any::<(i64, u64, u64, u64, i64)>(),
            kind in 0_usize..9,
            snapshot in any::<bool>(),
            timeline in 1..=i32::MAX,
        ) {
            let phase = if snapshot { Phase::Snapshot } else { Phase::Stream };
            let position = Position { generation: Generation::new(generation), phase, lsn: Lsn::new(lsn), ordinal };
            let head = Head { kind: Kind::ALL[kind], position, from: Lsn::new(from), epoch, origin: Side::Modern, timeline };
            let headers = head.to_headers();
            let text = headers.get_as::<str>(0).unwrap();
            prop_assert_eq!(text.value.unwrap(), position.to_string());
            prop_assert_eq!(Head::from_headers(headers.as_borrowed()), Ok(head));
        }
    }
}
