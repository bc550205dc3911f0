//! What `/api/v1/status` answers and `banyan status` reads.

use serde::Serialize;

use banyan_connectors::SyncStatus;
use banyan_proxy::ProxyStatus;

use super::door::DoorStatus;
use crate::link::LinkStatus;

/// The state of the whole process.
#[derive(Debug, Serialize)]
pub(crate) struct Status {
    /// Banyan's own version.
    pub(crate) version: &'static str,
    /// Seconds since 1970, by the clock that all other times here are of.
    pub(crate) now_unix: u64,
    /// False once it is stopping.
    pub(crate) ready: bool,
    pub(crate) uptime_seconds: u64,
    pub(crate) file: FileStatus,
    pub(crate) admin: DoorStatus,
    /// Absent where only connectors run.
    pub(crate) proxy: Option<ProxyStatus>,
    /// What the databases say of each sync, by name.
    pub(crate) links: Vec<LinkStatus>,
    /// The flows that this process runs.
    pub(crate) syncs: Vec<SyncStatus>,
}

/// The file on disk against the one in force.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct FileStatus {
    pub(crate) path: String,
    /// Whether the file on disk, as last read, is in force.
    pub(crate) in_force: bool,
    /// Reloads that were accepted since the start.
    pub(crate) reloads: u64,
    /// Seconds since 1970 of the last reload, accepted or not.
    pub(crate) last_reload_unix: Option<u64>,
    /// How many errors the refused file has.
    pub(crate) errors: usize,
    /// The first of them, with its place.
    pub(crate) first_error: Option<String>,
    /// Keys whose change waits for a restart.
    pub(crate) restart_needed: Vec<String>,
}
