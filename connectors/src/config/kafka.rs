//! The file's `kafka`: shapes and defaults. What librdkafka is told of it stands in `crate::kafka::client`.

use std::time::Duration;

use bytesize::ByteSize;
use garde::Validate;
use schemars::JsonSchema;
use secrecy::SecretString;
use serde::Deserialize;

use super::Tls;

/// The Kafka between both databases, and of replicas that share their state.
#[derive(Debug, Clone, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Kafka {
    /// `host:port`, several divided by commas.
    #[garde(length(min = 3), pattern(r"^[^, :]+:[0-9]+(,[^, :]+:[0-9]+)*$"))]
    pub brokers: String,
    /// Speaks TLS to the brokers; `{}` trusts the CAs of the system. Left out: in the clear. Needs a Banyan that was built with the feature
    /// `kafka-tls`, as it is by default.
    #[serde(default)]
    #[garde(dive)]
    pub tls: Option<Tls>,
    /// Logs in to the brokers. Left out: nobody asks who Banyan is, or its certificate says so.
    #[serde(default)]
    #[garde(dive)]
    pub sasl: Option<KafkaSasl>,
    /// How the topics of the syncs are made, and what is expected of those that stand.
    #[serde(default)]
    #[garde(dive)]
    pub topics: KafkaTopics,
}

/// A log-in by SASL.
#[derive(Debug, Clone, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KafkaSasl {
    /// How the password is shown to the brokers. The SCRAM mechanisms need a Banyan that was built with the feature `kafka-tls`, as it is by
    /// default.
    #[garde(skip)]
    pub mechanism: Mechanism,
    /// The user's name.
    #[garde(length(min = 1))]
    pub username: String,
    /// The user's password; best written as `${NAME}`.
    #[garde(skip)]
    #[schemars(with = "String")]
    pub password: SecretString,
}

/// How a password is shown to a broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum Mechanism {
    /// As it is (RFC 4616): without `tls` everybody on the way can read it.
    #[serde(rename = "plain")]
    Plain,
    /// By a proof that it is known (RFC 5802), with SHA-256.
    #[serde(rename = "scram_sha_256")]
    ScramSha256,
    /// The same with SHA-512.
    #[serde(rename = "scram_sha_512")]
    ScramSha512,
}

/// The topics of the syncs. What stands already is never changed: `check --connect` names what differs.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct KafkaTopics {
    /// Banyan makes topics that are missing. With false it waits until somebody else has made them. Default true.
    #[garde(skip)]
    pub create: bool,
    /// Copies of each record. Default: as the brokers are set.
    #[garde(inner(range(min = 1, max = 1000)))]
    #[schemars(range(min = 1, max = 1000))]
    pub replication: Option<u16>,
    /// So many copies must stand before a record counts as written. Default: as the brokers are set.
    #[garde(inner(range(min = 1, max = 1000)))]
    #[schemars(range(min = 1, max = 1000))]
    pub min_insync_replicas: Option<u16>,
    /// Records are kept for so long, applied or not: an applier that is away for longer needs a new copy of the tables. Default 7d.
    #[serde(with = "humantime_serde")]
    #[garde(inner(custom(an_hour)))]
    #[schemars(with = "Option<String>")]
    pub retention: Option<Duration>,
    /// How Banyan packs its records; a topic with `compression.type=producer`, Kafka's default, keeps them so. Default `none`.
    #[garde(skip)]
    pub compression: Compression,
    /// The largest record, which holds a row as it was and as it is. A change that makes a larger one stops its flow. Default 10 MiB.
    #[garde(custom(a_record))]
    #[schemars(with = "String")]
    pub max_record: ByteSize,
    /// The topics of the syncs' `outbox`, which are made when the first event for them comes. All else is as for the topics of the syncs.
    #[garde(dive)]
    pub outbox: OutboxTopics,
}

/// The topics `outbox.event.<aggregatetype>`. Every sync that has events for such a topic writes to it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct OutboxTopics {
    /// Partitions of a topic that Banyan makes. Events of one aggregate stand in one of them, in order. Default 3.
    #[garde(range(min = 1, max = 1000))]
    #[schemars(range(min = 1, max = 1000))]
    pub partitions: u16,
    /// Events are kept for so long; who begins later cannot rebuild from them. Left out: for ever.
    #[serde(with = "humantime_serde")]
    #[garde(inner(custom(an_hour_of_events)))]
    #[schemars(with = "Option<String>")]
    pub retention: Option<Duration>,
}

/// How records are packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Compression {
    /// As they are.
    #[default]
    None,
    /// Smallest for its speed.
    Zstd,
    /// Fast.
    Lz4,
    /// Fast, and known to old clients.
    Snappy,
    /// Slow, and known to every client.
    Gzip,
}

// === impl Kafka ===

impl Kafka {
    /// These brokers in the clear, everything else by default.
    #[must_use]
    pub fn at(brokers: impl Into<String>) -> Self {
        Self { brokers: brokers.into(), tls: None, sasl: None, topics: KafkaTopics::default() }
    }

    /// Whether every broker is named by an address of this machine.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        self.brokers.split(',').all(|broker| {
            let host = broker.rsplit_once(':').map_or(broker, |(host, _)| host);
            host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
        })
    }
}

// === impl KafkaSasl ===

impl KafkaSasl {
    /// Whether the mechanism needs OpenSSL's digests.
    #[must_use]
    pub fn is_scram(&self) -> bool {
        self.mechanism != Mechanism::Plain
    }
}

// === impl Mechanism ===

impl Mechanism {
    /// As Kafka calls it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::ScramSha256 => "SCRAM-SHA-256",
            Self::ScramSha512 => "SCRAM-SHA-512",
        }
    }
}

// === impl Compression ===

impl Compression {
    /// As Kafka calls it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Zstd => "zstd",
            Self::Lz4 => "lz4",
            Self::Snappy => "snappy",
            Self::Gzip => "gzip",
        }
    }
}

// === impl KafkaTopics ===

impl Default for KafkaTopics {
    fn default() -> Self {
        Self {
            create: true,
            replication: None,
            min_insync_replicas: None,
            retention: None,
            compression: Compression::None,
            max_record: ByteSize::mib(10),
            outbox: OutboxTopics::default(),
        }
    }
}

// === impl OutboxTopics ===

impl Default for OutboxTopics {
    fn default() -> Self {
        Self { partitions: 3, retention: None }
    }
}

impl KafkaTopics {
    /// For how long a topic that Banyan makes keeps its records.
    #[must_use]
    pub fn retention(&self) -> Duration {
        self.retention.unwrap_or(Duration::from_hours(7 * 24))
    }

    /// Bytes of the largest record.
    #[must_use]
    pub fn max_record(&self) -> usize {
        usize::try_from(self.max_record.as_u64()).unwrap_or(usize::MAX)
    }
}

fn an_hour(retention: &Duration, (): &()) -> garde::Result {
    if *retention < Duration::from_hours(1) {
        return Err(garde::Error::new("must be an hour or more; `7d` lets an applier be away for a week"));
    }
    Ok(())
}

fn an_hour_of_events(retention: &Duration, (): &()) -> garde::Result {
    if *retention < Duration::from_hours(1) {
        return Err(garde::Error::new("must be an hour or more; left out, events are kept for ever"));
    }
    Ok(())
}

/// librdkafka's own limit is 10⁹; below 64 KiB hardly a row fits.
fn a_record(size: &ByteSize, (): &()) -> garde::Result {
    if size.as_u64() < 64 << 10 || size.as_u64() > 1_000_000_000 {
        return Err(garde::Error::new("must be between 64 KiB and 1 GB; for example `10MiB`"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_every_broker_or_none() {
        for (brokers, loopback) in
            [("127.0.0.1:1,localhost:2", true), ("127.0.0.1:1,kafka:2", false), ("10.0.0.1:9092", false)]
        {
            assert_eq!(Kafka::at(brokers).is_loopback(), loopback, "{brokers}");
        }
    }

    #[test]
    fn a_password_is_in_no_debug_output() {
        let text =
            r#"{"brokers": "k:1", "sasl": {"mechanism": "scram_sha_256", "username": "u", "password": "hunter2"}}"#;
        let kafka: Kafka = serde_json::from_str(text).unwrap();
        assert!(!format!("{kafka:?} {:?}", kafka.client()).contains("hunter2"));
    }
}
