//! The answering path over real sockets: a whole [`Proxy`] between raw clients and scripted upstreams.

mod access_log;
mod again;
mod balance;
mod basics;
mod circuit;
mod clashes;
mod client;
mod cookies;
mod crew;
mod data;
mod deadlines;
#[cfg(feature = "otlp")]
mod exports;
mod failures;
mod frames;
mod framing;
mod grpc;
mod h2_tunnels;
mod h2_upstreams;
mod half_closed;
mod health;
mod hold;
mod http2;
mod http2_floods;
mod identity;
mod itself;
mod judged;
mod legs;
mod limits;
mod oversized;
mod parking;
mod proxy_protocol;
mod reads;
mod recent;
mod reloads;
mod routing;
mod secure;
mod shaping;
mod smuggling;
mod streams;
mod tls;
mod tls_upstreams;
mod traces;
mod tunnels;
mod upstream;
mod upstream_limits;
mod users;
mod wire;
mod writes;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, LazyLock},
    time::Duration,
};

use http::{HeaderMap, HeaderName};
use serde_json::{Value, json};

use crate::{
    Proxy,
    config::{Config, Limits, Listener, Observe, State, SyncRules},
    links::{DataLinks, Hold, Moment, Owner, SyncLink},
};

use client::{Answer, Client};
use data::Data;
use upstream::Upstream;

/// Header lines, for tests of whatever reads them.
pub(crate) fn headers(lines: &[(&str, &str)]) -> HeaderMap {
    lines.iter().map(|(name, value)| (name.parse::<HeaderName>().unwrap(), value.parse().unwrap())).collect()
}

/// A proxy under test, and what it counts.
pub(crate) struct Bench {
    pub(crate) proxy: Proxy,
    pub(crate) registry: prometheus::Registry,
}

/// A config to be started.
pub(crate) struct Setup {
    pub(crate) config: Config,
    pub(crate) links: Links,
    park_at_once: bool,
}

#[derive(Default, Clone)]
pub(crate) struct Links(pub(crate) BTreeMap<String, Arc<dyn SyncLink>>);

/// A sync whose sides are in step, or whose lag is unknown.
pub(crate) struct Fixed(pub(crate) Owner, pub(crate) Option<Duration>);

// === impl Setup ===

impl Setup {
    /// Everything goes to `legacy`; two workers, a listener on a free port.
    pub(crate) fn new(legacy: SocketAddr) -> Self {
        let config = Config {
            workers: Some(2),
            listeners: vec![Listener::new(([127, 0, 0, 1], 0).into())],
            state: State::default(),
            secret: Some("0123456789abcdef0123456789abcdef".to_owned().into()),
            trusted_proxies: Vec::new(),
            upstreams: BTreeMap::new(),
            default: "legacy".to_owned(),
            routes: Vec::new(),
            identity: None,
            syncs: BTreeMap::new(),
            observe: Observe::default(),
        };
        Self { config, links: Links::default(), park_at_once: false }.upstream("legacy", legacy, &json!({}))
    }

    pub(crate) fn upstream(mut self, name: &str, at: SocketAddr, more: &Value) -> Self {
        let mut upstream = json!({ "endpoints": [format!("http://{at}")] });
        upstream.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        self.config.upstreams.insert(name.to_owned(), serde_json::from_value(upstream).unwrap());
        self
    }

    pub(crate) fn route(mut self, route: Value) -> Self {
        self.config.routes.push(serde_json::from_value(route).unwrap());
        self
    }

    pub(crate) fn sync(mut self, name: &str, link: impl SyncLink + 'static) -> Self {
        let rules = SyncRules {
            owner: link.owner(),
            read_your_writes: Duration::from_secs(2),
            max_lag: Duration::from_secs(5),
        };
        self.config.syncs.insert(name.to_owned(), rules);
        self.links.0.insert(name.to_owned(), Arc::new(link));
        self
    }

    pub(crate) fn limits(mut self, change: impl FnOnce(&mut Limits)) -> Self {
        change(&mut self.config.listeners[0].limits);
        self
    }

    pub(crate) fn workers(mut self, workers: usize) -> Self {
        self.config.workers = Some(workers);
        self
    }

    pub(crate) fn park_at_once(mut self, park_at_once: bool) -> Self {
        self.park_at_once = park_at_once;
        self
    }

    pub(crate) fn start(self) -> Bench {
        let registry = prometheus::Registry::new();
        let background = tokio::runtime::Handle::current();
        let proxy =
            Proxy::start_with(&self.config, &self.links, &background, &registry, Default::default(), self.park_at_once);
        Bench { proxy: proxy.unwrap(), registry }
    }
}

// === impl Bench ===

impl Bench {
    pub(crate) async fn client(&self) -> Client {
        Client::connect(self.proxy.local_addrs()[0]).await
    }

    /// One request on a connection of its own.
    pub(crate) async fn ask(&self, request: &str) -> Answer {
        let mut client = self.client().await;
        client.send(request).await;
        client.answer().await
    }

    /// The value of a metric with these labels, 0 when there is none.
    pub(crate) fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let families = self.registry.gather();
        let metrics = families
            .iter()
            .filter(|family| family.name() == name)
            .flat_map(prometheus::proto::MetricFamily::get_metric);
        let matches = metrics.filter(|metric| {
            labels
                .iter()
                .all(|(name, value)| metric.get_label().iter().any(|l| l.name() == *name && l.value() == *value))
        });
        matches.map(|metric| metric.get_counter().get_value() + metric.get_gauge().get_value()).sum()
    }
}

// === impl Links ===

impl DataLinks for Links {
    fn sync(&self, name: &str) -> Option<Arc<dyn SyncLink>> {
        self.0.get(name).cloned()
    }
}

// === impl Fixed ===

impl SyncLink for Fixed {
    fn owner(&self) -> Owner {
        self.0
    }

    fn lag(&self) -> Option<Duration> {
        self.1
    }

    fn watermark(&self) -> Moment {
        Moment::now() + Duration::from_millis(1)
    }

    fn wrote(&self, _: Moment) {}

    fn hold(&self) -> &Arc<Hold> {
        never_held()
    }
}

/// For links whose writes are never held.
pub(crate) fn never_held() -> &'static Arc<Hold> {
    static NEVER: LazyLock<Arc<Hold>> = LazyLock::new(Arc::default);
    &NEVER
}

/// Asks again until it holds, for five seconds.
pub(crate) async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..500 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("never: {what}");
}
