//! Two files, key by key: what differs between them, by the names that things have and not by where they stand. Values are shown only where
//! no secret can be: numbers, durations, sizes, truth values, and what stands in keys that hold names and places.

use std::sync::Arc;

use super::{
    is_secret,
    node::{Entry, Kind, Node, Scalar},
};

/// A file's tree, for comparing. Its values may be secrets: `Debug` shows none.
#[derive(Clone)]
pub(crate) struct Tree(Arc<Node>);

/// What of a file a difference is in.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Of {
    /// A top-level key that holds no named things.
    File,
    /// The listener with this address.
    Listener(String),
    Upstream(String),
    Route(String),
    Sync(String),
}

/// One key that is not in both files, or not with the same value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Difference {
    pub(crate) of: Of,
    /// Below it: `timeout`, `limits.connections`; empty when all of it is new or gone.
    pub(crate) key: String,
    pub(crate) kind: Differs,
    /// The old value, where it may be shown.
    pub(crate) from: Option<String>,
    /// The new value, where it may be shown.
    pub(crate) to: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Differs {
    Added,
    Removed,
    Changed,
}

/// Longer values say less than that they changed.
const LONGEST: usize = 60;
/// Keys whose texts are names and places; of others only numbers, times, sizes and truth values are shown.
const SHOWN: [&str; 18] = [
    "bind",
    "default",
    "dir",
    "fallback",
    "group",
    "host",
    "idempotency_key",
    "install",
    "keyless",
    "order",
    "owner",
    "path",
    "path_prefix",
    "path_regex",
    "protocol",
    "scheme",
    "sync",
    "upstream",
];
/// Below these every value is as good as a secret: it is compared with what clients send.
const HIDDEN: [&str; 6] = ["headers", "query", "cookies", "pin", "force", "tokens"];
/// The one key that a short form stands for.
const SHORT: [&str; 2] = ["upstream", "url"];

// === impl Tree ===

impl Tree {
    pub(super) fn new(root: Node) -> Self {
        Self(Arc::new(root))
    }

    /// All that differs: the top level first, then listeners, upstreams, routes and syncs, each in the order of the new file, and last of
    /// each what is gone.
    pub(crate) fn differences(&self, new: &Self) -> Vec<Difference> {
        let mut found = Vec::new();
        let named = ["listeners", "upstreams", "routes", "syncs"];
        let rest = |root: &Node| -> Vec<Entry> {
            root.entries().iter().filter(|entry| !named.contains(&entry.key.as_str())).cloned().collect()
        };
        entries(&Of::File, "", &rest(&self.0), &rest(&new.0), &mut found);
        for (key, of) in [
            ("listeners", Of::Listener as fn(String) -> Of),
            ("upstreams", Of::Upstream),
            ("routes", Of::Route),
            ("syncs", Of::Sync),
        ] {
            let (old, new) = (by_name(&self.0, key), by_name(&new.0, key));
            for (name, node) in &new {
                let of = of(name.clone());
                match old.iter().find(|(known, _)| known == name) {
                    Some((_, before)) => compare(&of, "", before, node, &mut found),
                    None => found.push(Difference::whole(of, Differs::Added)),
                }
            }
            let gone = old.iter().filter(|(name, _)| new.iter().all(|(known, _)| known != name));
            found.extend(gone.map(|(name, _)| Difference::whole(of(name.clone()), Differs::Removed)));
        }
        found
    }
}

impl std::fmt::Debug for Tree {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tree([redacted])")
    }
}

// === impl Difference ===

impl Difference {
    fn whole(of: Of, kind: Differs) -> Self {
        Self { of, key: String::new(), kind, from: None, to: None }
    }
}

/// Named things of one kind: the values of a map, or the items of a list by their `name` or `bind`.
fn by_name<'t>(root: &'t Node, key: &str) -> Vec<(String, &'t Node)> {
    let Some(node) = root.get(key) else { return Vec::new() };
    match &node.kind {
        Kind::Map(entries) => entries.iter().map(|entry| (entry.key.clone(), &entry.value)).collect(),
        Kind::List(items) => items.iter().map(|item| (name(item), item)).collect(),
        _ => Vec::new(),
    }
}

fn name(item: &Node) -> String {
    let scalar = item.get("name").or_else(|| item.get("bind")).and_then(scalar);
    scalar.map(|scalar| scalar.text.clone()).unwrap_or_default()
}

fn scalar(node: &Node) -> Option<&Scalar> {
    match &node.kind {
        Kind::Scalar(scalar) => Some(scalar),
        _ => None,
    }
}

fn compare(of: &Of, path: &str, old: &Node, new: &Node, found: &mut Vec<Difference>) {
    if same(old, new) {
        return;
    }
    match (&plain(old).kind, &plain(new).kind) {
        (Kind::Map(old), Kind::Map(new)) => entries(of, path, old, new, found),
        _ => found.push(Difference {
            of: of.clone(),
            key: path.to_owned(),
            kind: Differs::Changed,
            from: shown(path, old),
            to: shown(path, new),
        }),
    }
}

fn entries(of: &Of, path: &str, old: &[Entry], new: &[Entry], found: &mut Vec<Difference>) {
    let below = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
    let get = |entries: &'_ [Entry], key: &str| -> Option<Node> {
        let entry = entries.iter().find(|entry| entry.key == key)?;
        (!matches!(entry.value.kind, Kind::Null)).then(|| entry.value.clone())
    };
    for entry in new {
        let key = below(&entry.key);
        match (get(old, &entry.key), get(new, &entry.key)) {
            (Some(before), Some(after)) => compare(of, &key, &before, &after, found),
            (None, Some(after)) => {
                let to = shown(&key, &after);
                found.push(Difference { of: of.clone(), key, kind: Differs::Added, from: None, to });
            }
            (Some(before), None) => {
                let from = shown(&key, &before);
                found.push(Difference { of: of.clone(), key, kind: Differs::Removed, from, to: None });
            }
            (None, None) => {}
        }
    }
    for entry in old.iter().filter(|entry| new.iter().all(|known| known.key != entry.key)) {
        if let Some(before) = get(old, &entry.key) {
            let (key, from) = (below(&entry.key), shown(&below(&entry.key), &before));
            found.push(Difference { of: of.clone(), key, kind: Differs::Removed, from, to: None });
        }
    }
}

/// Without what stands around a value only for the sake of the form: a list of one, a map whose one key the short form stands for.
fn plain(node: &Node) -> &Node {
    match &node.kind {
        Kind::List(items) if items.len() == 1 => plain(&items[0]),
        Kind::Map(entries) if entries.len() == 1 && SHORT.contains(&entries[0].key.as_str()) => &entries[0].value,
        _ => node,
    }
}

/// Whether both mean the same, however they are written.
fn same(a: &Node, b: &Node) -> bool {
    match (&plain(a).kind, &plain(b).kind) {
        (Kind::Null, Kind::Null) => true,
        (Kind::Scalar(a), Kind::Scalar(b)) => a.text == b.text || same_amount(&a.text, &b.text),
        (Kind::List(a), Kind::List(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (Kind::Map(a), Kind::Map(b)) => {
            let has = |entries: &[Entry], one: &Entry| {
                entries.iter().any(|entry| entry.key == one.key && same(&entry.value, &one.value))
            };
            a.len() == b.len() && a.iter().all(|one| has(b, one))
        }
        _ => false,
    }
}

/// `5` and `5.0`, `1m` and `60s`.
fn same_amount(a: &str, b: &str) -> bool {
    match (a.parse::<f64>(), b.parse::<f64>()) {
        (Ok(a), Ok(b)) => a.total_cmp(&b).is_eq(),
        _ => duration(a).is_some_and(|a| duration(b) == Some(a)),
    }
}

fn duration(text: &str) -> Option<std::time::Duration> {
    humantime_serde::re::humantime::parse_duration(text).ok()
}

/// A value as a person may see it. Out of the environment comes only its name.
fn shown(path: &str, node: &Node) -> Option<String> {
    let scalar = scalar(plain(node))?;
    let mut keys = path.split('.');
    if keys.clone().any(|key| HIDDEN.contains(&key) || is_secret(key)) {
        return None;
    }
    let last = keys.next_back().unwrap_or_default();
    let text = scalar.written.as_ref().unwrap_or(&scalar.text);
    let is_name = SHOWN.contains(&last) || matches!(last, "legacy" | "modern");
    let is_amount = scalar.plain
        && (text.parse::<f64>().is_ok()
            || duration(text).is_some()
            || text.parse::<bytesize::ByteSize>().is_ok()
            || matches!(text.as_str(), "true" | "false"));
    let is_short = text.chars().count() <= LONGEST && !text.chars().any(char::is_control) && !text.contains('@');
    ((is_name || is_amount) && is_short).then(|| text.clone())
}
