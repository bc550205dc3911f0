//! Sums the workers' shards when `/metrics` or `status` is read.

use std::{collections::BTreeMap, collections::HashMap, sync::Arc};

use prometheus::{
    core::{Collector, Desc},
    proto,
};
use serde::Serialize;

use super::{
    Answerer, Counter, FALLBACK_ON, HTTP_OVERHEAD, HTTP_REQUEST_DURATION, HTTP_REQUESTS, IDENTITY_REQUESTS, Identified,
    LABEL_CODE, LABEL_KIND, LABEL_OUTCOME, LABEL_REASON, LABEL_ROUTE, LABEL_SIDE, Outcome, RATE_LIMITED,
    ROUTE_ATTEMPTS, ROUTE_LAST_REQUEST, ROUTE_WEIGHT, RouteShard, SIDE_MOVES, Shards, TUNNELS, TUNNELS_TOTAL,
    histogram::Sum,
    shard::{last_to_unix, side_index},
};
use crate::{config::Weight, links::Owner, split::Moved};

/// Renders everything that the answering path counts.
pub(crate) struct Requests {
    shards: Arc<Shards>,
    /// Name, wanted and effective weight of every route that is in the file now.
    weights: Box<dyn Fn() -> Vec<RouteWeight> + Send + Sync>,
    descs: Vec<Desc>,
}

/// One route's name, and its wanted and effective weight.
type RouteWeight = (Arc<str>, Weight, Weight);

/// Answers of one route since the start, by who answered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct SideCounts {
    /// Answered by legacy.
    pub legacy: u64,
    /// Answered by modern.
    pub modern: u64,
    /// Answered by Banyan itself: errors.
    pub banyan: u64,
    /// Reads that the side which does not own the rows answered in fallback.
    pub stale: u64,
    /// Of what was sent to legacy: attempts chosen by the weight or a rule.
    pub attempts_legacy: u64,
    /// The same for modern.
    pub attempts_modern: u64,
}

pub(super) struct Families(pub(super) BTreeMap<&'static str, Vec<proto::Metric>>);

/// Name, help, type, labels.
pub(super) type Family = (&'static str, &'static str, proto::MetricType, &'static [&'static str]);

const FAMILIES: [Family; 12] = [
    (
        HTTP_REQUESTS,
        "Requests by route, by the side that answered, and by status",
        proto::MetricType::COUNTER,
        &[LABEL_ROUTE, LABEL_SIDE, LABEL_CODE],
    ),
    (
        ROUTE_ATTEMPTS,
        "Attempts by route, by the side that was chosen, and by outcome",
        proto::MetricType::COUNTER,
        &[LABEL_ROUTE, LABEL_SIDE, LABEL_OUTCOME],
    ),
    (
        HTTP_REQUEST_DURATION,
        "From the head of a request to the end of its answer",
        proto::MetricType::HISTOGRAM,
        &[LABEL_ROUTE, LABEL_SIDE],
    ),
    (
        HTTP_OVERHEAD,
        "From the head of a request until it is handed to an upstream",
        proto::MetricType::HISTOGRAM,
        &[LABEL_ROUTE],
    ),
    (
        ROUTE_WEIGHT,
        "Percent of a route's users whose reads modern answers",
        proto::MetricType::GAUGE,
        &[LABEL_ROUTE, LABEL_KIND],
    ),
    (
        ROUTE_LAST_REQUEST,
        "When a route's newest answer ended, in seconds since 1970",
        proto::MetricType::GAUGE,
        &[LABEL_ROUTE],
    ),
    (
        SIDE_MOVES,
        "Requests that left the side of their weight, by reason",
        proto::MetricType::COUNTER,
        &[LABEL_ROUTE, LABEL_REASON],
    ),
    (
        RATE_LIMITED,
        "Requests that were refused since their key made too many",
        proto::MetricType::COUNTER,
        &[LABEL_ROUTE],
    ),
    (
        IDENTITY_REQUESTS,
        "Requests with credentials, by how it became known who they come from",
        proto::MetricType::COUNTER,
        &[LABEL_ROUTE, LABEL_OUTCOME],
    ),
    (TUNNELS, "Open WebSockets", proto::MetricType::GAUGE, &[LABEL_ROUTE, LABEL_SIDE]),
    (TUNNELS_TOTAL, "WebSockets that were opened", proto::MetricType::COUNTER, &[LABEL_ROUTE, LABEL_SIDE]),
    (
        FALLBACK_ON,
        "Reads that were asked of the other side too, since the first had not got it",
        proto::MetricType::COUNTER,
        &[LABEL_ROUTE, LABEL_OUTCOME],
    ),
];

/// What a registry must know of families beforehand.
pub(super) fn descs(families: &[Family]) -> prometheus::Result<Vec<Desc>> {
    let desc = |(name, help, _, labels): &Family| {
        let labels = labels.iter().map(|label| (*label).to_owned()).collect();
        Desc::new((*name).to_owned(), (*help).to_owned(), labels, HashMap::new())
    };
    families.iter().map(desc).collect()
}

// === impl Requests ===

impl Requests {
    pub(crate) fn new(
        shards: Arc<Shards>,
        weights: impl Fn() -> Vec<RouteWeight> + Send + Sync + 'static,
    ) -> prometheus::Result<Self> {
        Ok(Self { shards, weights: Box::new(weights), descs: descs(&FAMILIES)? })
    }
}

impl Collector for Requests {
    fn desc(&self) -> Vec<&Desc> {
        self.descs.iter().collect()
    }

    fn collect(&self) -> Vec<proto::MetricFamily> {
        let mut families = Families(BTreeMap::new());
        self.shards.each(|route, workers| {
            for by in Answerer::ALL {
                let answered = || workers.iter().map(|worker| &worker.answered[by.index()]);
                let mut codes = BTreeMap::<Option<usize>, u64>::new();
                let mut duration = Sum::default();
                for answered in answered() {
                    answered.codes.seen().for_each(|(code, count)| *codes.entry(code).or_default() += count);
                    duration.add(&answered.duration);
                }
                for (code, count) in codes {
                    let code = code.map_or_else(|| "other".to_owned(), |code| code.to_string());
                    let labels = [(LABEL_ROUTE, route), (LABEL_SIDE, by.as_str()), (LABEL_CODE, &code)];
                    families.counter(HTTP_REQUESTS, &labels, count);
                }
                families.histogram(
                    HTTP_REQUEST_DURATION,
                    &[(LABEL_ROUTE, route), (LABEL_SIDE, by.as_str())],
                    &duration,
                );
            }
            for side in [Owner::Legacy, Owner::Modern] {
                let attempts = |of: Outcome| -> u64 {
                    workers.iter().map(|worker| worker.attempts[side_index(side)][of as usize].get()).sum()
                };
                // From zero on where the side was chosen at all: the first failures of a side must move a rate.
                if Outcome::ALL.into_iter().any(|of| attempts(of) > 0) {
                    for of in Outcome::ALL {
                        let labels = [(LABEL_ROUTE, route), (LABEL_SIDE, side.as_str()), (LABEL_OUTCOME, of.as_str())];
                        families.counter_from_zero(ROUTE_ATTEMPTS, &labels, attempts(of));
                    }
                }
            }
            if let Some(last) = last_to_unix(workers.iter().map(|worker| worker.last.get()).max().unwrap_or_default()) {
                families.gauge(ROUTE_LAST_REQUEST, &[(LABEL_ROUTE, route)], to_gauge(last));
            }
            let mut overhead = Sum::default();
            workers.iter().for_each(|worker| overhead.add(&worker.overhead));
            if families.histogram(HTTP_OVERHEAD, &[(LABEL_ROUTE, route)], &overhead) {
                // From zero on, for every route that had a request: a rate must see the first move, and an alert must find its series.
                let limited = workers.iter().map(|worker| worker.limited.get()).sum();
                families.counter_from_zero(RATE_LIMITED, &[(LABEL_ROUTE, route)], limited);
                let identified =
                    |of: Identified| -> u64 { workers.iter().map(|worker| worker.identified[of as usize].get()).sum() };
                // Only where `identity` was asked at all.
                if Identified::ALL.into_iter().any(|of| identified(of) > 0) {
                    for of in Identified::ALL {
                        let labels = [(LABEL_ROUTE, route), (LABEL_OUTCOME, of.as_str())];
                        families.counter_from_zero(IDENTITY_REQUESTS, &labels, identified(of));
                    }
                }
                for side in [Owner::Legacy, Owner::Modern] {
                    let labels = [(LABEL_ROUTE, route), (LABEL_SIDE, side.as_str())];
                    let sum = |of: fn(&RouteShard) -> &[Counter; 2]| -> u64 {
                        workers.iter().map(|worker| of(worker)[side_index(side)].get()).sum()
                    };
                    // In this order: what closes meanwhile must not count as never opened.
                    let closed = sum(|shard| &shard.closed);
                    let opened = sum(|shard| &shard.opened);
                    families.gauge(TUNNELS, &labels, to_gauge(opened.saturating_sub(closed)));
                    families.counter_from_zero(TUNNELS_TOTAL, &labels, opened);
                }
                for (at, outcome) in ["found", "not_found"].into_iter().enumerate() {
                    let count = workers.iter().map(|worker| worker.elsewhere[at].get()).sum();
                    families.counter_from_zero(FALLBACK_ON, &[(LABEL_ROUTE, route), (LABEL_OUTCOME, outcome)], count);
                }
                for why in Moved::ALL {
                    let count = workers.iter().map(|worker| worker.moves[why as usize].get()).sum();
                    families.counter_from_zero(
                        SIDE_MOVES,
                        &[(LABEL_ROUTE, route), (LABEL_REASON, why.as_str())],
                        count,
                    );
                }
            }
        });
        for (route, wanted, effective) in (self.weights)() {
            families.gauge(ROUTE_WEIGHT, &[(LABEL_ROUTE, &route), (LABEL_KIND, "wanted")], wanted.percent());
            families.gauge(ROUTE_WEIGHT, &[(LABEL_ROUTE, &route), (LABEL_KIND, "effective")], effective.percent());
        }
        families.into_proto(&FAMILIES)
    }
}

// === impl SideCounts ===

impl SideCounts {
    /// The counts of one route over all workers.
    pub(crate) fn of(shards: &Shards, route: &str) -> Self {
        let mut counts = Self::default();
        for worker in shards.workers(route) {
            let answers = |by: Answerer| worker.answered[by.index()].codes.seen().map(|(_, count)| count).sum::<u64>();
            let attempts = |side| worker.attempts[side_index(side)].iter().map(super::Counter::get).sum::<u64>();
            counts.legacy += answers(Answerer::Side(Owner::Legacy));
            counts.modern += answers(Answerer::Side(Owner::Modern));
            counts.banyan += answers(Answerer::Banyan);
            counts.stale += worker.stale.get();
            counts.attempts_legacy += attempts(Owner::Legacy);
            counts.attempts_modern += attempts(Owner::Modern);
        }
        counts
    }
}

impl SideCounts {
    /// Modern's share of what a side answered.
    #[expect(clippy::cast_precision_loss, reason = "a share needs no more than 52 bits")]
    pub(crate) fn modern_percent(&self) -> Option<f64> {
        let all = self.legacy + self.modern;
        (all > 0).then(|| self.modern as f64 * 100.0 / all as f64)
    }
}

#[expect(clippy::cast_precision_loss, reason = "Prometheus counts in doubles")]
fn to_gauge(count: u64) -> f64 {
    count as f64
}

// === impl Families ===

impl Families {
    /// A count that is left out while it is zero.
    fn counter(&mut self, name: &'static str, labels: &[(&str, &str)], count: u64) {
        if count > 0 {
            self.counter_from_zero(name, labels, count);
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "Prometheus counts in doubles")]
    pub(super) fn counter_from_zero(&mut self, name: &'static str, labels: &[(&str, &str)], count: u64) {
        let mut counter = proto::Counter::default();
        counter.set_value(count as f64);
        self.add(name, labels).set_counter(counter);
    }

    pub(super) fn gauge(&mut self, name: &'static str, labels: &[(&str, &str)], value: f64) {
        let mut gauge = proto::Gauge::default();
        gauge.set_value(value);
        self.add(name, labels).set_gauge(gauge);
    }

    /// Says whether anything was seen; it is left out otherwise.
    fn histogram(&mut self, name: &'static str, labels: &[(&str, &str)], sum: &Sum) -> bool {
        let Some(histogram) = sum.render() else { return false };
        self.add(name, labels).set_histogram(histogram);
        true
    }

    fn add(&mut self, name: &'static str, labels: &[(&str, &str)]) -> &mut proto::Metric {
        let labels = labels.iter().map(|(name, value)| {
            let mut label = proto::LabelPair::default();
            label.set_name((*name).to_owned());
            label.set_value((*value).to_owned());
            label
        });
        let metrics = self.0.entry(name).or_default();
        metrics.push(proto::Metric::from_label(labels.collect()));
        let last = metrics.len() - 1;
        &mut metrics[last]
    }

    pub(super) fn into_proto(mut self, families: &[Family]) -> Vec<proto::MetricFamily> {
        let families = families.iter().filter_map(|(name, help, kind, _)| {
            let mut family = proto::MetricFamily::default();
            family.set_name((*name).to_owned());
            family.set_help((*help).to_owned());
            family.set_field_type(*kind);
            family.set_metric(self.0.remove(name)?);
            Some(family)
        });
        families.collect()
    }
}
