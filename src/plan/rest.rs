//! Words for what is no route: top-level keys, listeners, upstreams, syncs.

use banyan_proxy::config::Config;

use super::{Change, plainly};
use crate::config::{Difference, Differs, Loaded, Of};

/// A key of the top level.
pub(super) fn top_level(difference: &Difference, changes: &mut Vec<Change>) {
    let Difference { of, key, from, to, .. } = difference;
    let change = match (key.as_str(), from, to) {
        ("default", Some(from), Some(to)) => {
            Change::new(of, key, format!("`{from}` → `{to}`")).effect("answers what no route matches")
        }
        ("secret", ..) => Change::new(of, key, without_name(&plainly(difference)))
            .effect("signed cookies of before are not believed any more"),
        _ => Change::new(of, key, without_name(&plainly(difference))),
    };
    changes.push(change);
}

/// The subject names the key already; what stands below it is still said.
fn without_name(what: &str) -> String {
    what.split_once([' ', '.']).map_or(what, |(_, rest)| rest).to_owned()
}

/// A key of a listener, an upstream or a sync, or all of it.
pub(super) fn of_named(of: &Of, difference: &Difference, new: &Loaded) -> Change {
    let Difference { key, kind, .. } = difference;
    if !key.is_empty() {
        return Change::new(of, key, plainly(difference));
    }
    match (of, kind) {
        (Of::Upstream(name), Differs::Added) => {
            let count = new.proxy.upstreams.get(name).map_or(0, |upstream| upstream.endpoints.len());
            Change::new(of, key, format!("new, {count} endpoint{}", if count == 1 { "" } else { "s" }))
        }
        (Of::Sync(name), Differs::Added) => {
            let change = Change::new(of, key, "new");
            match new.proxy.syncs.get(name) {
                Some(sync) => change.effect(format!("{} owns its rows", sync.owner.as_str())),
                None => change,
            }
        }
        (Of::Listener(_), Differs::Removed) => {
            Change::new(of, key, "gone").effect("who is connected is answered once more")
        }
        (Of::Sync(_), Differs::Removed) => {
            Change::new(of, key, "gone").effect("its slots stay in both databases until they are dropped there")
        }
        (_, Differs::Added) => Change::new(of, key, "new"),
        _ => Change::new(of, key, "gone"),
    }
}

/// Precedence is by the match; the order decides only between equal ones.
pub(super) fn order_of_routes(old: &Config, new: &Config, changes: &mut Vec<Change>) {
    let common = |of: &Config, other: &Config| -> Vec<String> {
        let names = of.routes.iter().map(|route| &route.name);
        names.filter(|name| other.routes.iter().any(|route| route.name == **name)).cloned().collect()
    };
    if common(old, new) != common(new, old) {
        let change = Change::new(&Of::File, "routes", "in another order");
        changes.push(change.effect("decides only between equal matches"));
    }
}
