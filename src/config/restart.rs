//! Keys whose change needs a restart: fingerprints of them, to tell which ones a reload would have changed.

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash, Hasher},
};

use super::node::{Kind, Node};

/// One fingerprint for each key that a reload cannot change.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct RestartKeys(BTreeMap<String, u64>);

/// Top-level keys as a whole.
const WHOLE: [&str; 4] = ["state", "install", "memory", "kafka"];

/// Of a sync, what the proxy reads at every reload.
const LIVE: [&str; 2] = ["read_your_writes", "max_lag"];

// === impl RestartKeys ===

impl RestartKeys {
    pub(super) fn of(root: &Node) -> Self {
        let mut keys = BTreeMap::new();
        for key in WHOLE {
            if let Some(node) = root.get(key) {
                keys.insert(key.to_owned(), fingerprint(node));
            }
        }
        let admin = |key: &str| root.get("admin").and_then(|admin| admin.get(key));
        for key in ["bind", "probes"] {
            if let Some(address) = admin(key) {
                keys.insert(format!("admin.{key}"), fingerprint(address));
            }
        }
        // Whether there is TLS; other files of it are read at every reload.
        if admin("tls").is_some_and(|tls| !matches!(tls.kind, Kind::Null)) {
            keys.insert("admin.tls".to_owned(), 0);
        }
        for sync in root.get("syncs").map_or(&[][..], Node::entries) {
            for entry in sync.value.entries().iter().filter(|entry| !LIVE.contains(&entry.key.as_str())) {
                keys.insert(format!("syncs.{}.{}", sync.key, entry.key), fingerprint(&entry.value));
            }
        }
        Self(keys)
    }

    /// The keys that differ, in the order of their names.
    pub(crate) fn changed(&self, new: &Self) -> Vec<String> {
        let mut keys: Vec<&String> = self.0.keys().chain(new.0.keys()).collect();
        keys.sort();
        keys.dedup();
        keys.into_iter().filter(|key| self.0.get(*key) != new.0.get(*key)).cloned().collect()
    }
}

/// Of the values, not of how they are written.
fn fingerprint(node: &Node) -> u64 {
    fn walk(node: &Node, hasher: &mut DefaultHasher) {
        match &node.kind {
            Kind::Null => 0_u8.hash(hasher),
            Kind::Scalar(scalar) => (1_u8, &scalar.text).hash(hasher),
            Kind::List(items) => {
                (2_u8, items.len()).hash(hasher);
                items.iter().for_each(|item| walk(item, hasher));
            }
            Kind::Map(entries) => {
                (3_u8, entries.len()).hash(hasher);
                for entry in entries {
                    entry.key.hash(hasher);
                    walk(&entry.value, hasher);
                }
            }
        }
    }
    let mut hasher = DefaultHasher::new();
    walk(node, &mut hasher);
    hasher.finish()
}
