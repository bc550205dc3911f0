//! The names of everything Banyan makes in databases and in Kafka: slots, publications, topics, locks, applications.
//!
//! They are cluster-wide, so each carries `install`, sync and flow, and fits PostgreSQL's 63 bytes.

use std::fmt;

use serde::Serialize;

use crate::config::Side;

/// One direction of a sync. Named by the databases, not by who owns: a flow keeps its name when the owner moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Flow {
    /// From the monolith's database into the new service's.
    LegacyToModern,
    /// From the new service's database into the monolith's.
    ModernToLegacy,
}

/// All names of one flow.
#[derive(Debug, Clone)]
pub struct FlowNames {
    /// Top-level `install` of the file.
    pub install: String,
    /// The sync's name in the file.
    pub sync: String,
    /// Which direction.
    pub flow: Flow,
}

// === impl Flow ===

impl Flow {
    /// Both directions of a sync.
    pub const BOTH: [Self; 2] = [Self::LegacyToModern, Self::ModernToLegacy];

    /// As metrics, topics and records write it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::LegacyToModern => "legacy_to_modern",
            Self::ModernToLegacy => "modern_to_legacy",
        }
    }

    /// The one away from the owner: it applies, and the other watches.
    #[must_use]
    pub fn away_from(owner: Side) -> Self {
        match owner {
            Side::Legacy => Self::LegacyToModern,
            Side::Modern => Self::ModernToLegacy,
        }
    }

    /// The side it reads.
    #[must_use]
    pub fn source(self) -> Side {
        match self {
            Self::LegacyToModern => Side::Legacy,
            Self::ModernToLegacy => Side::Modern,
        }
    }

    /// The side it writes.
    #[must_use]
    pub fn target(self) -> Side {
        self.source().other()
    }

    /// The other direction of the same sync.
    #[must_use]
    pub fn opposite(self) -> Self {
        match self {
            Self::LegacyToModern => Self::ModernToLegacy,
            Self::ModernToLegacy => Self::LegacyToModern,
        }
    }
}

impl fmt::Display for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

// === impl FlowNames ===

impl FlowNames {
    /// The names of `flow` of `sync`.
    #[must_use]
    pub fn new(install: &str, sync: &str, flow: Flow) -> Self {
        Self { install: install.to_owned(), sync: sync.to_owned(), flow }
    }

    /// The flow's own topic: `<install>.<sync>.<flow>`. One partition with `order: transaction`, one a lane with `order: key`.
    #[must_use]
    pub fn topic(&self) -> String {
        format!("{}.{}.{}", self.install, self.sync, self.flow)
    }

    /// The topic of a table's rows with `order: key`: `<install>.<sync>.<flow>.<schema>.<table>`. What Kafka does not take in a name becomes `_`,
    /// as in Debezium's.
    #[must_use]
    pub fn table_topic(&self, table: &str) -> String {
        let takes = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        format!("{}.{table}", self.topic()).chars().map(|c| if takes(c) { c } else { '_' }).collect()
    }

    /// The replication slot, in the source's server.
    #[must_use]
    pub fn slot(&self) -> String {
        let short = match self.flow {
            Flow::LegacyToModern => "l2m",
            Flow::ModernToLegacy => "m2l",
        };
        fit(&format!("{}_{}_{short}_0", self.install, plain(&self.sync)), &self.topic(), 63)
    }

    /// The publication, in the source database.
    #[must_use]
    pub fn publication(&self) -> String {
        self.slot()
    }

    /// What the names of the tables begin with that collect the keys which a snapshot has seen, in the target; a number or a hash follows.
    #[must_use]
    pub(crate) fn seen(&self) -> String {
        format!("seen_{}_", fit(&self.slot(), &self.topic(), 40))
    }

    /// What `pg_stat_activity` shows for a connection of this flow.
    #[must_use]
    pub fn application(&self, part: &str) -> String {
        fit(&format!("{}/{}/{}/{part}", self.install, self.sync, self.flow), &format!("{}/{part}", self.topic()), 63)
    }

    /// The advisory lock of one part (`capture`, `apply`) of this flow.
    #[must_use]
    pub fn lock(&self, part: &str) -> i64 {
        i64::from_be_bytes(hash(&format!("{}/{part}", self.topic())).to_be_bytes())
    }
}

/// Slot names take `[a-z0-9_]` alone; a name that had to be changed gets a hash, so that `a-b` and `a_b` stay two slots.
fn plain(name: &str) -> String {
    let text: String =
        name.chars().map(|c| if c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' { c } else { '_' }).collect();
    if text == name { text } else { format!("{text}_{:08x}", hash(name) >> 32) }
}

fn fit(name: &str, whole: &str, most: usize) -> String {
    if name.len() <= most {
        return name.to_owned();
    }
    let mut end = most - 9;
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}_{:08x}", &name[..end], hash(whole) >> 32)
}

/// FNV-1a: names must be the same on every machine and in every version, so no hasher that may change.
fn hash(text: &str) -> u64 {
    hash_bytes(text.as_bytes())
}

/// The same of any bytes.
pub(crate) fn hash_bytes(bytes: &[u8]) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, step)
}

/// `name` as an SQL identifier.
pub(crate) fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// `schema.table` as an SQL identifier.
pub(crate) fn quote_table(name: &str) -> String {
    match name.split_once('.') {
        Some((schema, table)) => format!("{}.{}", quote(schema), quote(table)),
        None => quote(name),
    }
}

/// `text` as an SQL literal.
pub(crate) fn literal(text: &str) -> String {
    if text.contains('\\') {
        format!(" E'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
    } else {
        format!("'{}'", text.replace('\'', "''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_and_stay_apart() {
        let long = "s".repeat(80);
        for sync in ["payments", "a-b", "a_b", "Öl", long.as_str()] {
            let names = FlowNames::new("banyan", sync, Flow::LegacyToModern);
            assert!(names.slot().len() <= 63 && names.application("capture").len() <= 63);
            assert!(names.slot().bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'));
            assert_ne!(names.lock("capture"), names.lock("apply"));
        }
        let slot = |sync| FlowNames::new("banyan", sync, Flow::LegacyToModern).slot();
        assert_ne!(slot("a-b"), slot("a_b"));
        assert_eq!(slot("payments"), "banyan_payments_l2m_0");
        let seen = |sync: &str, flow| FlowNames::new("banyan", sync, flow).seen();
        assert_eq!(seen("payments", Flow::LegacyToModern), "seen_banyan_payments_l2m_0_");
        assert!(seen(&long, Flow::LegacyToModern).len() <= 46);
        assert_ne!(seen(&long, Flow::LegacyToModern), seen(&long, Flow::ModernToLegacy));
    }
}
