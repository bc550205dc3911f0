//! The server writes its log in the way that logical decoding needs.

use super::{Check, Findings, facts::Subject};

/// What the capture uses first appears in 13: `publish_via_partition_root`, `wal_status`.
const OLDEST: i32 = 130_000;

pub(super) fn check(subject: &Subject<'_>, findings: &mut Findings<'_>) {
    for place in subject.places() {
        let Some(own) = place.postgres() else { continue };
        let server = &own.server;
        if server.wal_level != "logical" {
            findings.error(
                Check::Log,
                None,
                place.name(),
                format!("`wal_level` is `{}`, and capture needs `logical`", server.wal_level),
                "run `ALTER SYSTEM SET wal_level = logical` and restart the server (managed servers have a parameter for it)",
            );
        }
        if server.version < OLDEST {
            findings.error(
                Check::Log,
                None,
                place.name(),
                format!("PostgreSQL {} is older than 13", server.version / 10_000),
                "upgrade the server",
            );
        }
    }
}
