//! The proxy alone, in this process, between two scripted upstreams; the data side says what the test tells it.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use banyan_proxy::{
    Proxy, RouteStatus,
    compare::Report,
    config::{Config, Listener, Observe, State, SyncRules},
    links::{DataLinks, Hold, Moment, Owner, SyncLink},
};
use prometheus::{Registry, TextEncoder};
use serde_json::{Value, json};

use super::{BACKSTAGE, Raw, Upstream, client::Answer, metrics::Metrics};

/// A proxy with upstreams `monolith` (the default) and `service`, and one sync, `money`.
pub(crate) struct Front {
    proxy: Proxy,
    registry: Registry,
    config: Config,
    data: Data,
}

/// Owner and lag of every sync, and what the other side shows; in step and legacy's to begin with.
#[derive(Debug, Clone)]
struct Data(Arc<Mutex<Says>>, Arc<Hold>);

#[derive(Debug)]
struct Says {
    owner: Owner,
    lag: Option<Duration>,
    /// `None`: everything, at once.
    watermark: Option<Moment>,
}

// === impl Front ===

impl Front {
    /// Routes as the file writes them; every user of `sync: money` shares one data side.
    pub(crate) fn start(monolith: SocketAddr, service: &Upstream, routes: Value) -> Self {
        Self::with_service(monolith, json!({"endpoints": [service.url()]}), routes)
    }

    /// With an upstream `service` that says more than where it is.
    pub(crate) fn with_service(monolith: SocketAddr, service: Value, routes: Value) -> Self {
        let upstream = |value| serde_json::from_value(value).expect("an upstream");
        let monolith = upstream(json!({"endpoints": [format!("http://{monolith}")]}));
        let sync = SyncRules {
            owner: Owner::Legacy,
            read_your_writes: Duration::from_secs(2),
            max_lag: Duration::from_secs(5),
        };
        let config = Config {
            workers: Some(2),
            listeners: vec![Listener::new(SocketAddr::from(([127, 0, 0, 1], 0)))],
            state: State::default(),
            secret: Some("0123456789abcdef0123456789abcdef".to_owned().into()),
            trusted_proxies: Vec::new(),
            upstreams: BTreeMap::from([("monolith".to_owned(), monolith), ("service".to_owned(), upstream(service))]),
            default: "monolith".to_owned(),
            identity: None,
            routes: serde_json::from_value(routes).expect("routes"),
            syncs: BTreeMap::from([("money".to_owned(), sync)]),
            observe: Observe::default(),
        };
        let says = Says { owner: Owner::Legacy, lag: Some(Duration::ZERO), watermark: None };
        let data = Data(Arc::new(Mutex::new(says)), Arc::default());
        let registry = Registry::new();
        let proxy = Proxy::start(&config, &data, BACKSTAGE.handle(), &registry);
        Self { proxy: proxy.expect("a proxy"), registry, config, data }
    }

    /// What the databases say from now on.
    pub(crate) fn data_says(&self, owner: Owner, lag: Option<Duration>) {
        let mut says = self.data.0.lock().unwrap();
        (says.owner, says.lag) = (owner, lag);
        drop(says);
        self.data.1.changed();
    }

    /// From now on the other side shows nothing that is written.
    pub(crate) fn data_stalls(&self) {
        self.data.0.lock().unwrap().watermark = Some(Moment::now());
    }

    /// It shows everything again.
    pub(crate) fn data_goes_on(&self) {
        self.data.0.lock().unwrap().watermark = None;
    }

    /// Other routes from now on.
    pub(crate) fn reload(&mut self, routes: Value) {
        self.config.routes = serde_json::from_value(routes).expect("routes");
        self.proxy.reload(&self.config, &self.data).expect("a good config");
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.proxy.local_addrs()[0]
    }

    /// One request without a body on a connection of its own.
    pub(crate) async fn ask(&self, line: &str, headers: &[(&str, &str)]) -> Answer {
        Raw::once(self.addr(), &request(line, headers, "")).await
    }

    pub(crate) fn metrics(&self) -> Metrics {
        Metrics::parse(&TextEncoder::new().encode_to_string(&self.registry.gather()).expect("metrics"))
    }

    /// What comparing a route's answers came to within the last hour.
    pub(crate) fn report(&self, route: &str) -> Report {
        self.proxy.report(route, Duration::from_secs(3600)).expect("a route that compares")
    }

    /// What `status` says of a route.
    pub(crate) fn route(&self, name: &str) -> RouteStatus {
        self.proxy.status().routes.into_iter().find(|route| route.name == name).expect("a route of that name")
    }
}

/// `GET /path` with headers and a body; the connection stays open unless a header closes it.
pub(crate) fn request(line: &str, headers: &[(&str, &str)], body: &str) -> String {
    let mut request = format!("{line} HTTP/1.1\r\nHost: shop.example\r\n");
    for (name, value) in headers {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    if !body.is_empty() {
        request.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    request + "\r\n" + body
}

// === impl Data ===

impl SyncLink for Data {
    fn owner(&self) -> Owner {
        self.0.lock().unwrap().owner
    }

    fn lag(&self) -> Option<Duration> {
        self.0.lock().unwrap().lag
    }

    fn watermark(&self) -> Moment {
        self.0.lock().unwrap().watermark.unwrap_or_else(|| Moment::now() + Duration::from_millis(1))
    }

    fn hold(&self) -> &Arc<Hold> {
        &self.1
    }

    fn wrote(&self, _: Moment) {}
}

impl DataLinks for Data {
    fn sync(&self, name: &str) -> Option<Arc<dyn SyncLink>> {
        (name == "money").then(|| Arc::new(self.clone()) as Arc<dyn SyncLink>)
    }
}
