//! Three brokers, each a controller too: any one of them may be away.

use super::{Kafka, ports};

/// A cluster; topics get three replicas, of which two must be in sync, when nothing else is asked for.
pub(crate) struct Cluster {
    nodes: Vec<Kafka>,
}

// === impl Cluster ===

impl Cluster {
    /// Three brokers that answer.
    pub(crate) fn of_three() -> Self {
        let ports = [(); 3].map(|()| (ports::reserve(), ports::reserve()));
        let voters: Vec<String> =
            ports.iter().zip(1..).map(|((_, controller), id)| format!("{id}@127.0.0.1:{controller}")).collect();
        let more = format!(
            "controller.quorum.voters={}\n\
             default.replication.factor=3\n\
             min.insync.replicas=2\n\
             replica.lag.time.max.ms=3000\n\
             controller.quorum.election.timeout.ms=500\n\
             controller.quorum.fetch.timeout.ms=1000\n",
            voters.join(",")
        );
        let nodes: Vec<Kafka> = ports
            .iter()
            .zip(1..)
            .map(|((port, controller), id)| Kafka::node(id, *port, *controller, &more, &[], &[]))
            .collect();
        // One alone has no majority and would not answer.
        nodes.iter().for_each(Kafka::launch);
        nodes.iter().for_each(Kafka::answers);
        Self { nodes }
    }

    /// For `kafka: {brokers: …}`.
    pub(crate) fn brokers(&self) -> String {
        self.nodes.iter().map(Kafka::brokers).collect::<Vec<_>>().join(",")
    }

    /// The broker that leads partition 0 of a topic; none while nobody does.
    pub(crate) fn leader(&self, topic: &str) -> Option<&Kafka> {
        let leader = self.running()?.leader(topic)?;
        self.nodes.get(leader.checked_sub(1)?)
    }

    /// One that runs.
    pub(crate) fn running(&self) -> Option<&Kafka> {
        self.nodes.iter().find(|node| node.runs())
    }

    /// All brokers, by their ids from 1 on.
    pub(crate) fn nodes(&self) -> &[Kafka] {
        &self.nodes
    }
}
