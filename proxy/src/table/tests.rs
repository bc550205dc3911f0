//! The table's rules. Here: the config and the helpers that all of its tests share.

mod explanations;
mod matching;
mod mistakes;
mod reference;

use std::{collections::BTreeMap, sync::Arc};

use http::{HeaderMap, HeaderValue, Method};
use serde_json::{Value, json};

use super::{MissedBy, Normal, Problem, RouteTable, Severity};
use crate::{
    config::{Config, Fallback, State, SyncRules, Weight},
    links::{DataLinks, Moment, Owner, SyncLink},
};

/// Who asks.
const CLIENT: [u8; 4] = [192, 0, 2, 7];

/// A config with upstreams `monolith` (the default) and `payments`, syncs `money` (owner legacy) and `users` (owner modern), and these routes.
pub(crate) fn config(routes: Value) -> Config {
    let upstream =
        |port: u16| serde_json::from_value(json!({"endpoints": [format!("http://127.0.0.1:{port}")]})).unwrap();
    let sync = |owner| SyncRules {
        owner,
        read_your_writes: std::time::Duration::from_secs(2),
        max_lag: std::time::Duration::from_secs(5),
    };
    Config {
        identity: None,
        workers: None,
        listeners: Vec::new(),
        state: State::default(),
        secret: Some("0123456789abcdef0123456789abcdef".to_owned().into()),
        trusted_proxies: Vec::new(),
        upstreams: [("monolith".to_owned(), upstream(1)), ("payments".to_owned(), upstream(2))].into(),
        default: "monolith".to_owned(),
        routes: serde_json::from_value(routes).unwrap(),
        syncs: [("money".to_owned(), sync(Owner::Legacy)), ("users".to_owned(), sync(Owner::Modern))].into(),
        observe: crate::config::Observe::default(),
    }
}

/// The links of a config before any database has answered: its own owners, and an unknown lag.
pub(crate) struct FileLinks(BTreeMap<String, Owner>);

/// What the config says of one sync.
struct FileLink(Owner);

// === impl FileLinks ===

impl FileLinks {
    pub(crate) fn of(config: &Config) -> Self {
        Self(config.syncs.iter().map(|(name, sync)| (name.clone(), sync.owner)).collect())
    }
}

impl DataLinks for FileLinks {
    fn sync(&self, name: &str) -> Option<Arc<dyn SyncLink>> {
        self.0.get(name).map(|owner| Arc::new(FileLink(*owner)) as Arc<dyn SyncLink>)
    }
}

// === impl FileLink ===

impl SyncLink for FileLink {
    fn owner(&self) -> Owner {
        self.0
    }

    fn lag(&self) -> Option<std::time::Duration> {
        None
    }

    fn watermark(&self) -> Moment {
        Moment::NEVER
    }

    fn wrote(&self, _: Moment) {}

    fn hold(&self) -> &std::sync::Arc<crate::links::Hold> {
        crate::tests::never_held()
    }
}

pub(crate) fn compile(routes: Value) -> Result<(RouteTable, Vec<Problem>), Vec<Problem>> {
    let config = config(routes);
    RouteTable::compile(&config, &FileLinks::of(&config))
}

fn table(routes: Value) -> RouteTable {
    compile(routes).unwrap().0
}

/// Path, severity and message of every problem.
fn problems(routes: Value) -> Vec<(String, Severity, String)> {
    let found = match compile(routes) {
        Ok((_, warnings)) => warnings,
        Err(problems) => problems,
    };
    found.into_iter().map(|problem| (problem.path, problem.severity, problem.message)).collect()
}

/// There is exactly one problem, of this severity, here, saying this.
fn one(routes: Value, severity: Severity, path: &str, says: &str) {
    let found = problems(routes);
    let [(at, how, message)] = found.as_slice() else { panic!("expected one problem at {path}: {found:#?}") };
    assert_eq!((at.as_str(), *how), (path, severity), "{message}");
    assert!(message.contains(says), "{message}");
}

fn error(routes: Value, path: &str, says: &str) {
    one(routes, Severity::Error, path, says);
}

fn warning(routes: Value, path: &str, says: &str) {
    one(routes, Severity::Warning, path, says);
}

fn found(table: &RouteTable, method: &str, host: &str, path: &str, headers: &[(&'static str, &'static str)]) -> String {
    let headers: HeaderMap =
        headers.iter().map(|(n, v)| (http::HeaderName::from_static(n), HeaderValue::from_static(v))).collect();
    let method: Method = method.parse().unwrap();
    let (path, query) = path.split_once('?').map_or((path, None), |(path, query)| (path, Some(query)));
    let path = super::normalise(path).unwrap();
    let normal = Normal { method: &method, host, path: &path, query, headers: &headers, client: CLIENT.into() };
    table.find(&normal).route.name.to_string()
}

fn normal<'r>(method: &'r Method, path: &'r str, headers: &'r HeaderMap) -> Normal<'r> {
    Normal { method, host: "h", path, query: None, headers, client: CLIENT.into() }
}

fn route(name: &str, matches: &Value) -> Value {
    json!({"name": name, "match": matches, "legacy": "monolith"})
}
