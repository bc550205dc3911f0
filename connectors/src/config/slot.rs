//! The file's `syncs.*.slot`: how much log a source may keep for it.

use bytesize::ByteSize;
use garde::Validate;
use schemars::JsonSchema;
use serde::Deserialize;

/// Four segments of log: less is kept for a flow that is well.
const LEAST: ByteSize = ByteSize::mib(64);

/// How much log a PostgreSQL server keeps for a flow that does not go on, since a full disk stops the whole server. MariaDB and MySQL keep none
/// for anybody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Slot {
    /// At most so much log is kept for each flow: less than the disk of the server's `pg_wal` has free on an ordinary day. At least 64MiB.
    /// Default 50GiB.
    #[garde(custom(some_segments))]
    #[schemars(with = "String")]
    pub max_retained: ByteSize,
    /// What becomes of a slot for which more is kept. Default `drop`.
    #[garde(skip)]
    pub on_exceed: OnExceed,
}

/// What becomes of a slot for which more log is kept than `max_retained`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnExceed {
    /// It is dropped, the server has its disk back, and the flow is `needs_snapshot` until a person has the tables copied anew.
    #[default]
    Drop,
    /// It is kept, and the log says so: somebody else sees to it that the disk does not fill.
    Warn,
}

// === impl Slot ===

impl Default for Slot {
    fn default() -> Self {
        Self { max_retained: ByteSize::gib(50), on_exceed: OnExceed::Drop }
    }
}

fn some_segments(bytes: &ByteSize, (): &()) -> garde::Result {
    if *bytes >= LEAST {
        Ok(())
    } else {
        Err(garde::Error::new("at least `64MiB`; a flow that is well has that much kept for it"))
    }
}
