//! The connectors' share of `routes.yaml` as serde structs: shapes and defaults, no IO.
//!
//! A key is here only when it works.

mod kafka;
mod outbox;
mod slot;
mod table;
mod tls;

use std::{collections::BTreeMap, num::NonZeroU32, time::Duration};

use bytesize::ByteSize;
use garde::Validate;
use schemars::JsonSchema;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};

pub use kafka::{Compression, Kafka, KafkaSasl, KafkaTopics, Mechanism, OutboxTopics};
pub use outbox::Outbox;
pub use slot::{OnExceed, Slot};
pub use table::{Apply, Constants, LeftOut, Table};
pub use tls::Tls;

use crate::{database::DatabaseUrl, error::UrlError};

/// All that the connectors read from the file. Built by the root package from the top-level keys of the same names.
#[derive(Debug, Clone)]
pub struct Config {
    /// Prefix of every slot, origin, lock, topic and application name; `[a-z0-9_]{1,16}`, default `banyan`.
    pub install: String,
    /// Bytes that all flows of this process may hold between source and target.
    pub memory: ByteSize,
    /// Required as soon as there is a sync.
    pub kafka: Option<Kafka>,
    /// By name.
    pub syncs: BTreeMap<String, Sync>,
}

/// A set of tables kept in step between a legacy and a modern database.
#[derive(Debug, Clone, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Sync {
    /// The side that may write these tables when the sync begins. Later the databases say who owns them.
    #[garde(skip)]
    pub owner: Side,
    /// The monolith's database.
    #[garde(dive)]
    pub legacy: Database,
    /// The new service's database.
    #[garde(dive)]
    pub modern: Database,
    /// The tables, at least one.
    #[garde(length(min = 1), dive)]
    pub tables: Vec<Table>,
    /// How changes are ordered in Kafka. Default `transaction`.
    #[serde(default)]
    #[garde(skip)]
    pub order: Order,
    /// Only with `order: key`: how many lanes the rows are spread over by their keys, which is how many processes can apply them at once. It
    /// cannot be changed while the sync runs. Default 4.
    #[serde(default)]
    #[garde(inner(range(min = 1, max = 64)))]
    #[schemars(range(min = 1, max = 64))]
    pub partitions: Option<u16>,
    /// What target triggers and foreign keys see. Default `replica`.
    #[serde(default)]
    #[garde(skip)]
    pub apply_as: ApplyAs,
    /// What a snapshot does with rows that a target table already has. Default `refuse`.
    #[serde(default)]
    #[garde(skip)]
    pub target: Target,
    /// What becomes of a transaction that the target refuses because of its rows. Default `park`.
    #[serde(default)]
    #[garde(skip)]
    pub on_error: OnError,
    /// At most so many transactions are parked; the next one stops the flow until one has gone. Default 1000.
    #[serde(default = "thousand")]
    #[garde(range(min = 1, max = 100_000))]
    pub parked_limit: u64,
    /// At most so many bytes of records are parked; the transaction that would make more stops the flow. Default 1GiB.
    #[serde(default = "gibibyte")]
    #[garde(skip)]
    #[schemars(with = "String")]
    pub parked_bytes: ByteSize,
    /// What becomes of the sync when somebody writes to the side that does not own the rows. Default `report`.
    #[serde(default)]
    #[garde(skip)]
    pub violations: OnViolation,
    /// How much log a PostgreSQL source may keep for a flow that does not go on, and what becomes of it beyond.
    #[serde(default)]
    #[garde(dive)]
    pub slot: Slot,
    /// A user's reads follow the owner after a write of theirs until the other side shows it. Where only the time of the write counts, since
    /// another replica answered it or its outcome is unknown, they follow it for so much longer: as far as replicas' clocks may differ.
    /// Default 2s.
    #[serde(with = "humantime_serde", default = "two_seconds")]
    #[garde(skip)]
    #[schemars(with = "String")]
    pub read_your_writes: Duration,
    /// Above this lag all reads of the sync's routes go to the owner. Default 5s.
    #[serde(with = "humantime_serde", default = "five_seconds")]
    #[garde(skip)]
    #[schemars(with = "String")]
    pub max_lag: Duration,
    /// Compare both sides row by row again and again. Left out: only when somebody asks for it (`banyan sync verify`).
    #[serde(default)]
    #[garde(dive)]
    pub verify: Option<Verify>,
    /// Tables whose new rows become events in Kafka, for whoever wants to know. They are not copied to the other side.
    #[serde(default)]
    #[garde(dive)]
    pub outbox: Outbox,
    /// How fast tables are copied. Between two PostgreSQL databases alone; others are copied in one piece.
    #[serde(default)]
    #[garde(dive)]
    pub snapshot: Snapshot,
}

/// How tables are copied: in chunks by key, between the changes that go on meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Snapshot {
    /// Rows of a chunk at most; large rows make smaller ones. Default 10000.
    #[garde(custom(a_chunk))]
    pub chunk: NonZeroU32,
    /// Rows a second that are read of the source at most. Left out: as fast as the target takes them.
    #[garde(skip)]
    pub rows_per_second: Option<NonZeroU32>,
}

impl Default for Snapshot {
    fn default() -> Self {
        Self { chunk: NonZeroU32::MIN.saturating_add(9_999), rows_per_second: None }
    }
}

fn a_chunk(chunk: &NonZeroU32, (): &()) -> garde::Result {
    if chunk.get() <= 100_000 { Ok(()) } else { Err(garde::Error::new("at most 100000 rows")) }
}

/// How often both sides are compared, and how fast.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Verify {
    /// From the end of one comparison of a table to the beginning of the next; at least a minute.
    #[serde(with = "humantime_serde")]
    #[garde(custom(a_minute))]
    #[schemars(with = "String")]
    pub every: Duration,
    /// Rows a second that are read of either side at most. Left out: as fast as it goes.
    #[serde(default)]
    #[garde(skip)]
    pub rate: Option<NonZeroU32>,
}

/// One of the two databases of a sync: `postgres` or `mysql`, one of both.
#[derive(Debug, Clone, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Database {
    /// `postgres://user:password@host:port/database`; best written as `${NAME}`.
    #[serde(default)]
    #[garde(skip)]
    #[schemars(with = "Option<String>")]
    pub postgres: Option<SecretString>,
    /// MariaDB or MySQL: `mysql://user:password@host:port/database`; best written as `${NAME}`. The sync's tables are `database.table` there.
    #[serde(default)]
    #[garde(skip)]
    #[schemars(with = "Option<String>")]
    pub mysql: Option<SecretString>,
    /// Speaks TLS to the database, whose certificate must be for the host of the URL; `{}` trusts the CAs of the system. Left out: in the clear.
    #[serde(default)]
    #[garde(dive)]
    pub tls: Option<Tls>,
}

impl Database {
    /// Looks at the URL alone; nothing is connected.
    ///
    /// # Errors
    ///
    /// When there is none or two, or it cannot be used. The error never shows the URL.
    pub fn check(&self) -> Result<(), UrlError> {
        DatabaseUrl::of(self).map(|_| ())
    }

    /// The key that names the kind of database, as the file writes it.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        if self.mysql.is_some() { "mysql" } else { "postgres" }
    }
}

/// Legacy or modern: the owner of a sync, or one of its databases.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// The monolith's.
    Legacy,
    /// The new service's.
    Modern,
}

/// How changes are ordered in Kafka.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// One topic with one partition a flow; source transactions are applied whole, in commit order.
    #[default]
    Transaction,
    /// A topic a table, named as Debezium names them, in which the rows are spread over `partitions` by their primary key. Changes of one row
    /// keep their order; rows do not wait for each other, and a transaction of the source is not one in the target.
    Key,
}

/// What target triggers and foreign keys see of applied rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ApplyAs {
    /// Nothing fires (`session_replication_role = replica`).
    #[default]
    Replica,
    /// Everything fires as for any other writer.
    Origin,
}

/// What becomes of a transaction that the target refuses because of its rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnError {
    /// After some tries it is stored whole in the target, with all that touches the same rows, and the others go on.
    #[default]
    Park,
    /// The flow stops before it.
    Stop,
}

/// What becomes of the sync when somebody writes to the side that does not own the rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnViolation {
    /// It is recorded and counted; the sync goes on.
    #[default]
    Report,
    /// It is recorded, and both flows stop until no violation stands in `banyan.violation`.
    Stop,
}

/// What a snapshot does with rows that a target table already has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// Stops, and says which tables hold how many rows.
    #[default]
    Refuse,
    /// Empties the table first.
    Replace,
    /// Leaves equal rows untouched, updates differing ones, deletes at the end those that the source lacks.
    KeepMatching,
}

// === impl Side ===

impl Side {
    /// As the file writes it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Legacy => "legacy",
            Self::Modern => "modern",
        }
    }

    /// The opposite side.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::Legacy => Self::Modern,
            Self::Modern => Self::Legacy,
        }
    }
}

fn a_minute(every: &Duration, (): &()) -> garde::Result {
    if *every >= Duration::from_secs(60) { Ok(()) } else { Err(garde::Error::new("at least `1m`")) }
}

fn two_seconds() -> Duration {
    Duration::from_secs(2)
}

fn thousand() -> u64 {
    1000
}

fn gibibyte() -> ByteSize {
    ByteSize::gib(1)
}

fn five_seconds() -> Duration {
    Duration::from_secs(5)
}
