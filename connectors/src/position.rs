//! The identity and order of a change: `(generation, phase, commit_lsn, ordinal)`.

use std::{fmt, str::FromStr};

use serde::{Serialize, Serializer};
use thiserror::Error;
use tokio_postgres::types::PgLsn;

/// A place in the write-ahead log, shown as PostgreSQL shows it (`0/16B3748`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Hash)]
pub struct Lsn(u64);

/// Counts the slots made for a flow; rises with every one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Hash, Serialize)]
pub struct Generation(i64);

/// The snapshot comes before the stream within a generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Phase {
    /// Rows as the slot's exported snapshot sees them.
    Snapshot,
    /// Transactions from the write-ahead log.
    Stream,
}

/// The identity and order of a change. `lsn` is the start of the transaction's commit record (`Begin.final_lsn`), `ordinal` counts what the
/// decoder saw in that transaction, before anything is filtered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Position {
    /// Which slot.
    pub(crate) generation: Generation,
    /// Snapshot or stream.
    pub(crate) phase: Phase,
    /// Start of the commit record; zero in a snapshot.
    pub(crate) lsn: Lsn,
    /// Which change of the transaction, or which row of the snapshot.
    pub(crate) ordinal: u64,
}

/// A text that is no position.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("not a position")]
pub struct BadPosition;

// === impl Lsn ===

impl Lsn {
    /// Before everything.
    pub const ZERO: Self = Self(0);

    /// From the number that the wire protocol carries.
    #[must_use]
    pub const fn new(value: u64) -> Self {
        Self(value)
    }

    /// As the wire protocol carries it.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// Bytes of log between `earlier` and this place; none when `earlier` is not earlier.
    #[must_use]
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xffff_ffff)
    }
}

impl FromStr for Lsn {
    type Err = BadPosition;

    fn from_str(text: &str) -> Result<Self, BadPosition> {
        let (high, low) = text.split_once('/').ok_or(BadPosition)?;
        let part = |text: &str| u32::from_str_radix(text, 16).map_err(|_| BadPosition);
        Ok(Self(u64::from(part(high)?) << 32 | u64::from(part(low)?)))
    }
}

impl Serialize for Lsn {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl From<PgLsn> for Lsn {
    fn from(lsn: PgLsn) -> Self {
        Self(lsn.into())
    }
}

impl From<Lsn> for PgLsn {
    fn from(lsn: Lsn) -> Self {
        lsn.0.into()
    }
}

// === impl Generation ===

impl Generation {
    /// Before the first slot.
    pub const NONE: Self = Self(0);

    /// As the databases store it.
    #[must_use]
    pub const fn new(value: i64) -> Self {
        Self(value)
    }

    /// As the databases store it.
    #[must_use]
    pub const fn get(self) -> i64 {
        self.0
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

// === impl Phase ===

impl Phase {
    /// As records and the position row write it.
    #[must_use]
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Snapshot => "snapshot",
            Self::Stream => "stream",
        }
    }
}

impl FromStr for Phase {
    type Err = BadPosition;

    fn from_str(text: &str) -> Result<Self, BadPosition> {
        match text {
            "snapshot" => Ok(Self::Snapshot),
            "stream" => Ok(Self::Stream),
            _ => Err(BadPosition),
        }
    }
}

// === impl Position ===

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}:{}", self.generation, self.phase.as_str(), self.lsn, self.ordinal)
    }
}

impl FromStr for Position {
    type Err = BadPosition;

    fn from_str(text: &str) -> Result<Self, BadPosition> {
        let mut parts = text.split(':');
        let mut next = || parts.next().ok_or(BadPosition);
        let position = Self {
            generation: Generation(next()?.parse().map_err(|_| BadPosition)?),
            phase: next()?.parse()?,
            lsn: next()?.parse()?,
            ordinal: next()?.parse().map_err(|_| BadPosition)?,
        };
        if parts.next().is_some() { Err(BadPosition) } else { Ok(position) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_position_survives_its_text(generation in any::<i64>(), snapshot in any::<bool>(), lsn in any::<u64>(), ordinal in any::<u64>()) {
            let phase = if snapshot { Phase::Snapshot } else { Phase::Stream };
            let position = Position { generation: Generation(generation), phase, lsn: Lsn(lsn), ordinal };
            prop_assert_eq!(position.to_string().parse(), Ok(position));
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,40}") {
            drop(text.parse::<Position>());
        }
    }

    #[test]
    fn the_snapshot_comes_before_the_stream_and_generations_before_all() {
        let at = |generation, phase, lsn, ordinal| Position {
            generation: Generation(generation),
            phase,
            lsn: Lsn(lsn),
            ordinal,
        };
        assert!(at(1, Phase::Snapshot, 0, 9) < at(1, Phase::Stream, 0, 0));
        assert!(at(1, Phase::Stream, 9, 9) < at(2, Phase::Snapshot, 0, 0));
        assert!(at(1, Phase::Stream, 5, 1) < at(1, Phase::Stream, 5, 2));
    }
}
