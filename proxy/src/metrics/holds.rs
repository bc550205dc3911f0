//! The writes of each sync that a route names: under way, held, and what became of those that were.

use std::{collections::BTreeMap, collections::HashMap, sync::Arc};

use prometheus::{
    core::{Collector, Desc},
    proto,
};

use super::{HELD_WRITES, LABEL_OUTCOME, LABEL_SYNC, WRITES_HELD, WRITES_UNDER_WAY};
use crate::hold::{Hold, HoldOutcome};

/// Reads every sync's [`Hold`] when `/metrics` is read.
pub(crate) struct Holds {
    syncs: Box<dyn Fn() -> BTreeMap<Arc<str>, Arc<Hold>> + Send + Sync>,
    descs: Vec<Desc>,
}

/// Name, help, type, labels.
const FAMILIES: [(&str, &str, proto::MetricType, &[&str]); 3] = [
    (
        WRITES_UNDER_WAY,
        "Writes sent to a sync's owner and not answered to their end",
        proto::MetricType::GAUGE,
        &[LABEL_SYNC],
    ),
    (WRITES_HELD, "Writes that wait while a sync's owner moves", proto::MetricType::GAUGE, &[LABEL_SYNC]),
    (
        HELD_WRITES,
        "Writes that had to wait, by what became of them",
        proto::MetricType::COUNTER,
        &[LABEL_SYNC, LABEL_OUTCOME],
    ),
];

// === impl Holds ===

impl Holds {
    pub(crate) fn new(
        syncs: impl Fn() -> BTreeMap<Arc<str>, Arc<Hold>> + Send + Sync + 'static,
    ) -> prometheus::Result<Self> {
        let desc = |(name, help, _, labels): &(&str, &str, proto::MetricType, &[&str])| {
            let labels = labels.iter().map(|label| (*label).to_owned()).collect();
            Desc::new((*name).to_owned(), (*help).to_owned(), labels, HashMap::new())
        };
        Ok(Self { syncs: Box::new(syncs), descs: FAMILIES.iter().map(desc).collect::<Result<_, _>>()? })
    }
}

impl Collector for Holds {
    fn desc(&self) -> Vec<&Desc> {
        self.descs.iter().collect()
    }

    #[expect(clippy::cast_precision_loss, reason = "Prometheus counts in doubles")]
    fn collect(&self) -> Vec<proto::MetricFamily> {
        let mut metrics = [const { Vec::new() }; 3];
        for (sync, hold) in (self.syncs)() {
            let status = hold.status();
            metrics[0].push(gauge(&sync, status.under_way as f64));
            metrics[1].push(gauge(&sync, status.held as f64));
            for outcome in HoldOutcome::ALL {
                let mut counter = proto::Counter::default();
                counter.set_value(hold.ended(outcome) as f64);
                let labels = vec![label(LABEL_SYNC, &sync), label(LABEL_OUTCOME, outcome.as_str())];
                let mut metric = proto::Metric::from_label(labels);
                metric.set_counter(counter);
                metrics[2].push(metric);
            }
        }
        let families = FAMILIES.iter().zip(metrics).filter(|(_, metrics)| !metrics.is_empty());
        let families = families.map(|((name, help, kind, _), metrics)| {
            let mut family = proto::MetricFamily::default();
            family.set_name((*name).to_owned());
            family.set_help((*help).to_owned());
            family.set_field_type(*kind);
            family.set_metric(metrics);
            family
        });
        families.collect()
    }
}

fn gauge(sync: &str, value: f64) -> proto::Metric {
    let mut gauge = proto::Gauge::default();
    gauge.set_value(value);
    let mut metric = proto::Metric::from_label(vec![label(LABEL_SYNC, sync)]);
    metric.set_gauge(gauge);
    metric
}

fn label(name: &str, value: &str) -> proto::LabelPair {
    let mut label = proto::LabelPair::default();
    label.set_name(name.to_owned());
    label.set_value(value.to_owned());
    label
}
