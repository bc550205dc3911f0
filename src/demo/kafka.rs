//! Kafka for the demo: librdkafka's stand-in within this process, or a real one that the person names.

use anyhow::Context as _;
use rdkafka::{
    ClientConfig,
    admin::{AdminClient, AdminOptions},
    client::DefaultClientContext,
    mocking::MockCluster,
    producer::DefaultProducerContext,
};

/// Where the changes travel.
pub(crate) enum Kafka {
    /// In this process, gone with it. Keeps 5 MiB a partition, read or not: enough for some 7,000 rows.
    StandIn(MockCluster<'static, DefaultProducerContext>),
    /// A real one; the demo's topics are removed at the end.
    Real { brokers: String, topics: Vec<String> },
}

/// The two flows of a sync.
const FLOWS: [&str; 2] = ["legacy_to_modern", "modern_to_legacy"];

// === impl Kafka ===

impl Kafka {
    /// Topics for `syncs` under the name `install`. A real Kafka gets them from Banyan.
    pub(crate) fn start(real: Option<&str>, install: &str, syncs: &[&str]) -> anyhow::Result<Self> {
        let names = syncs.iter().flat_map(|sync| FLOWS.map(|flow| format!("{install}.{sync}.{flow}")));
        if let Some(brokers) = real {
            return Ok(Self::Real { brokers: brokers.to_owned(), topics: names.collect() });
        }
        let cluster = MockCluster::new(1).context("cannot start the in-process Kafka")?;
        for topic in names {
            // By itself it would make four partitions of it.
            cluster.create_topic(&topic, 1, 1).with_context(|| format!("cannot make the topic {topic}"))?;
        }
        Ok(Self::StandIn(cluster))
    }

    /// `host:port`
    pub(crate) fn brokers(&self) -> String {
        match self {
            Self::StandIn(cluster) => cluster.bootstrap_servers(),
            Self::Real { brokers, .. } => brokers.clone(),
        }
    }

    /// For the demo's head.
    pub(crate) fn describe(&self) -> String {
        match self {
            Self::StandIn(_) => "in-process stand-in (a real one: --kafka HOST:PORT)".to_owned(),
            Self::Real { brokers, .. } => format!("{brokers}; the demo's topics are removed at the end"),
        }
    }

    /// Removes from a real Kafka what the demo put there.
    pub(crate) fn clean_up(&self, runtime: &tokio::runtime::Runtime) -> anyhow::Result<()> {
        let Self::Real { brokers, topics } = self else { return Ok(()) };
        let _inside = runtime.enter();
        let admin: AdminClient<DefaultClientContext> =
            ClientConfig::new().set("bootstrap.servers", brokers).create()?;
        let names: Vec<_> = topics.iter().map(String::as_str).collect();
        let options = AdminOptions::new().operation_timeout(Some(std::time::Duration::from_secs(10)));
        runtime.block_on(admin.delete_topics(&names, &options))?;
        Ok(())
    }
}
