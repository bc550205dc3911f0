//! What the position row of a target says.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::SystemTime,
};

use crate::{
    position::{Generation, Lsn, Phase, Position},
    status::Role,
};

/// How long a lease runs without being renewed.
pub(crate) const LEASE_SECONDS: u32 = 30;

/// The phase of a stream in which tables are being filled.
pub(crate) const LOADING: &str = "loading";

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
    /// By which the source's server is told from another one of this timeline; empty until the flow has followed its source to one.
    pub(crate) followed: String,
    pub(crate) slot: String,
    /// By the source's clock: everything committed before is here.
    pub(crate) source_time: SystemTime,
    /// Tables of the source that are here whole, or are being filled. Of any other the target knows nothing, though the file may name it.
    pub(crate) tables: BTreeSet<String>,
    /// Those whose rows may not be here yet.
    pub(crate) loading: BTreeMap<String, Loading>,
    /// With `order: key` up to where the topic of each table of the plan was read; nothing of one without a row so far.
    pub(crate) topics: Vec<Option<Place>>,
    /// The record at which this lane waits for the others; empty while it does not.
    pub(crate) barrier: String,
}

/// How far the topic of a table was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    /// The next offset.
    pub(crate) offset: i64,
    /// What the record before it carries.
    pub(crate) position: Position,
}

/// How a table is being filled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Loading {
    /// How many columns a record has that has all of them.
    pub(crate) columns: usize,
    /// Rows that were here are kept until it is known that none like it comes.
    pub(crate) keeps: bool,
}

// === impl Applied ===

impl Applied {
    /// Up to where the target holds everything; nothing while its tables are being filled.
    pub(crate) fn watermark(&self) -> Option<(Lsn, SystemTime)> {
        (!self.is_filling()).then_some((self.applied, self.source_time))
    }

    /// Whether rows may be missing that the source had long ago.
    pub(crate) fn is_filling(&self) -> bool {
        self.phase == Phase::Snapshot || !self.loading.is_empty()
    }

    /// As the position row says it: readers and whoever compares both sides take `stream` alone.
    pub(crate) fn phase_text(&self) -> &'static str {
        if self.phase == Phase::Stream && !self.loading.is_empty() { LOADING } else { self.phase.as_str() }
    }

    /// `tables` as the position row says them; nothing in a row that an earlier version wrote.
    pub(crate) fn tables_text(&self) -> String {
        serde_json::json!(self.tables).to_string()
    }

    /// How a table of the source is being filled; nothing when it is not.
    pub(crate) fn loading(&self, schema: &str, table: &str) -> Option<Loading> {
        let is_it = |name: &str| name.split_once('.') == Some((schema, table));
        self.loading.iter().find(|(name, _)| is_it(name)).map(|(_, loading)| *loading)
    }
}
