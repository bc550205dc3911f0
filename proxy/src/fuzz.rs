//! What `fuzz/` runs on arbitrary bytes, and `cargo test` on mutated seeds: whatever we parse ourselves never panics, and keeps what each target
//! asserts. Only with the feature `fuzz`, and in tests.

use std::{
    net::IpAddr,
    sync::{Arc, LazyLock},
};

use http::{HeaderMap, HeaderName, HeaderValue, Method};

use crate::{
    compare,
    config::{Config, Observe, State},
    links::{DataLinks, SyncLink},
    listen::{meter, proxy_protocol},
    shadow,
    split::own_writes,
    stations::forwarded,
    table::{DEFAULT, Normal, RouteTable, normalise, path, query, renames},
    trace,
    tunnel::frames,
};

#[cfg(test)]
#[path = "../../fuzz/mutate.rs"]
mod mutate;

/// Takes any bytes; panics when something that must hold does not.
pub type Target = fn(&[u8]);

/// Every target, by the name of its folder in `fuzz/seeds`.
pub const TARGETS: [(&str, Target); 13] = [
    ("path", path::fuzz),
    ("query", query::fuzz),
    ("matcher", matcher),
    ("proxy_protocol", proxy_protocol::fuzz),
    ("cookie", own_writes::fuzz),
    ("renames", renames::fuzz),
    ("websocket_frames", frames::fuzz),
    ("http2_meter", meter::fuzz),
    ("forwarded", forwarded::fuzz),
    ("traceparent", trace::fuzz),
    ("compare", compare::fuzz),
    ("answers", compare::fuzz_answers),
    ("recording", shadow::fuzz_recording),
];

/// Runs one of them.
pub fn run(name: &str, data: &[u8]) {
    if let Some((_, target)) = TARGETS.iter().find(|(known, _)| *known == name) {
        target(data);
    }
}

/// Nobody's.
struct NoLinks;

static TABLE: LazyLock<Option<RouteTable>> = LazyLock::new(table);

/// `METHOD host path`, then header lines: what `explain` says is what `find` finds.
fn matcher(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let mut lines = text.split('\n');
    let mut words = lines.next().unwrap_or_default().splitn(3, ' ');
    let mut word = || words.next().unwrap_or_default();
    let (method, host, target) = (word(), word(), word());
    let Ok(method) = Method::from_bytes(method.as_bytes()) else { return };
    let (raw, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
    let Ok(path) = normalise(raw) else { return };
    let pairs = lines.filter_map(|line| line.split_once(':'));
    let headers: HeaderMap = pairs
        .filter_map(|(name, value)| {
            Some((HeaderName::from_bytes(name.as_bytes()).ok()?, HeaderValue::from_str(value).ok()?))
        })
        .collect();
    let client = IpAddr::from([10, 0, 0, u8::try_from(data.len() % 256).unwrap_or_default()]);
    let request = Normal { method: &method, host, path: &path, query, headers: &headers, client };
    let table = TABLE.as_ref();
    assert!(table.is_some(), "the table of this target compiles");
    let Some(table) = table else { return };
    let (found, explained) = (table.find(&request), table.explain(&request));
    assert_eq!(found.route.name, explained.route.name);
    assert!(path.is_char_boundary(found.prefix_end) && found.prefix_end <= path.len());
    // Every route is told once; `default` only where it answers.
    let is_default = usize::from(&*explained.route.name == DEFAULT);
    assert_eq!(1 + explained.others.len() + explained.misses.len(), table.routes().len() - 1 + is_default);
}

fn table() -> Option<RouteTable> {
    let route =
        |name: &str, matches: serde_json::Value| serde_json::json!({"name": name, "match": matches, "legacy": "one"});
    let routes = serde_json::json!([
        route("prefix", serde_json::json!({"path_prefix": "/pay"})),
        route("longer", serde_json::json!({"path_prefix": "/pay/card"})),
        route("exact", serde_json::json!({"path": "/pay/card/7"})),
        route("regex", serde_json::json!({"path_regex": "/pay/[0-9]+(/.*)?"})),
        route("host", serde_json::json!({"host": "shop.example", "path_prefix": "/pay"})),
        route("wild", serde_json::json!({"host": "*.example", "methods": ["GET"]})),
        route("header", serde_json::json!({"path_prefix": "/pay", "headers": {"x-a": "1", "x-b": {"present": true}}})),
        route("query", serde_json::json!({"path_prefix": "/pay", "query": {"q": "1 2", "r": {"present": false}}})),
        route("client", serde_json::json!({"path_prefix": "/pay", "client": ["10.0.0.0/28"]})),
    ]);
    let upstream = serde_json::from_value(serde_json::json!({"endpoints": ["http://127.0.0.1:1"]})).ok()?;
    let config = Config {
        workers: None,
        listeners: Vec::new(),
        state: State::default(),
        secret: None,
        trusted_proxies: Vec::new(),
        identity: None,
        upstreams: [("one".to_owned(), upstream)].into(),
        default: "one".to_owned(),
        routes: serde_json::from_value(routes).ok()?,
        syncs: std::collections::BTreeMap::new(),
        observe: Observe::default(),
    };
    RouteTable::compile(&config, &NoLinks).ok().map(|(table, _)| table)
}

// === impl NoLinks ===

impl DataLinks for NoLinks {
    fn sync(&self, _: &str) -> Option<Arc<dyn SyncLink>> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_holds_for_its_seeds_and_what_comes_of_them() {
        for (name, target) in TARGETS {
            let folder = format!("{}/../fuzz/seeds/{name}", env!("CARGO_MANIFEST_DIR"));
            mutate::run(name, &mutate::seeds(folder.as_ref()), 20_000, target);
        }
    }
}
