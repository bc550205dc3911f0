//! What the position row of a target says.

use std::time::SystemTime;

use crate::{
    position::{Generation, Lsn, Phase},
    status::Role,
};

/// How long a lease runs without being renewed.
pub(crate) const LEASE_SECONDS: u32 = 30;

/// What the row says.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Applied {
    pub(crate) generation: Generation,
    pub(crate) phase: Phase,
    /// A transaction end; zero until the snapshot is complete.
    pub(crate) applied: Lsn,
    /// Rows of the snapshot that are in.
    pub(crate) ordinal: u64,
    /// The next offset to read.
    pub(crate) offset: i64,
    /// The position that the record before that offset carries.
    pub(crate) record: String,
    pub(crate) role: Option<Role>,
    pub(crate) epoch: i64,
    pub(crate) system_id: String,
    pub(crate) timeline: i32,
    pub(crate) slot: String,
    /// By the source's clock: everything committed before is here.
    pub(crate) source_time: SystemTime,
}

// === impl Applied ===

impl Applied {
    /// Up to where the target holds everything; nothing while its tables are being filled.
    pub(crate) fn watermark(&self) -> Option<(Lsn, SystemTime)> {
        (self.phase == Phase::Stream).then_some((self.applied, self.source_time))
    }
}
