//! What a change of the file will do, in words: for `banyan plan`, and for the log of a reload.
//!
//! Keys are compared by their names (`config/tree.rs`), so that one nobody wrote words for still shows; routes get words of their own.

mod rest;
mod route;
mod share;
#[cfg(test)]
mod tests;

use std::fmt::Write as _;

use serde::Serialize;

use crate::config::{Difference, Differs, Loaded, Of};

/// All that one file in place of another changes.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Plan {
    pub(crate) changes: Vec<Change>,
    pub(crate) routes_unchanged: usize,
    /// Keys whose change waits for a restart.
    pub(crate) restart: Vec<String>,
}

/// One thing that changes: a line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Change {
    /// `route`, `upstream`, `sync`, `listener`, or `file` for a top-level key.
    pub(crate) kind: &'static str,
    /// The route's name, the listener's address; of a top-level key the key itself.
    pub(crate) name: String,
    /// The key below it; empty when all of it is new or gone.
    pub(crate) key: String,
    /// What changes: `weight 5 % → 25 %`.
    pub(crate) what: String,
    /// What that means for the users, where there is something to say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) effect: Option<String>,
    /// It takes effect after a restart.
    pub(crate) restart: bool,
}

// === impl Plan ===

impl Plan {
    /// What the new file would change.
    pub(crate) fn new(old: &Loaded, new: &Loaded) -> Self {
        let restart = old.restart.changed(&new.restart);
        let differences = old.tree.differences(&new.tree);
        let mut changes = Vec::new();
        let mut rest = differences.as_slice();
        while let Some(first) = rest.first() {
            // Those of one thing stand together.
            let count = rest.iter().take_while(|difference| difference.of == first.of).count();
            let (these, others) = rest.split_at(count);
            rest = others;
            let begin = changes.len();
            match &first.of {
                Of::Route(name) => route::changes(name, these, &old.proxy, &new.proxy, &mut changes),
                Of::File => these.iter().for_each(|one| rest::top_level(one, &mut changes)),
                of => these.iter().for_each(|one| changes.push(rest::of_named(of, one, new))),
            }
            for change in &mut changes[begin..] {
                change.restart = waits(change, &restart);
            }
        }
        rest::order_of_routes(&old.proxy, &new.proxy, &mut changes);
        let is_changed = |name: &str| changes.iter().any(|change| change.kind == "route" && change.name == name);
        let kept = |name: &str| old.proxy.routes.iter().any(|route| route.name == name);
        let names = new.proxy.routes.iter().map(|route| route.name.as_str());
        let routes_unchanged = names.filter(|name| kept(name) && !is_changed(name)).count();
        Self { changes, routes_unchanged, restart }
    }

    /// One line a change, and how many routes stay as they are.
    pub(crate) fn render(&self) -> String {
        const WIDEST: usize = 36;
        let width = |text: &dyn Fn(&Change) -> usize| self.changes.iter().map(text).max().unwrap_or(0).min(WIDEST);
        let subjects = width(&|change| change.subject().chars().count());
        let whats = width(&|change| change.what.chars().count());
        let mut out = String::new();
        for change in &self.changes {
            let subject = change.subject();
            let line = match change.meaning() {
                Some(meaning) => format!("{subject:<subjects$}   {:<whats$}   {meaning}", change.what),
                None => format!("{subject:<subjects$}   {}", change.what),
            };
            let _ = writeln!(out, "{line}");
        }
        let plural = if self.routes_unchanged == 1 { "" } else { "s" };
        let nothing = if self.changes.is_empty() { "nothing changes: " } else { "" };
        let _ = writeln!(out, "{nothing}{} route{plural} unchanged", self.routes_unchanged);
        out
    }
}

// === impl Change ===

impl Change {
    fn new(of: &Of, key: &str, what: impl Into<String>) -> Self {
        let (kind, name) = match of {
            Of::File => ("file", key.split('.').next().unwrap_or_default()),
            Of::Listener(name) => ("listener", name.as_str()),
            Of::Upstream(name) => ("upstream", name.as_str()),
            Of::Route(name) => ("route", name.as_str()),
            Of::Sync(name) => ("sync", name.as_str()),
        };
        let (name, key, what) = (name.to_owned(), key.to_owned(), what.into());
        Self { kind, name, key, what, effect: None, restart: false }
    }

    fn effect(mut self, effect: impl Into<String>) -> Self {
        self.effect = Some(effect.into());
        self
    }

    /// Routes go by their bare names.
    pub(crate) fn subject(&self) -> String {
        match self.kind {
            "route" | "file" => self.name.clone(),
            kind => format!("{kind} {}", self.name),
        }
    }

    /// The effect, and whether it waits.
    pub(crate) fn meaning(&self) -> Option<String> {
        match (&self.effect, self.restart) {
            (Some(effect), false) => Some(effect.clone()),
            (Some(effect), true) => Some(format!("{effect}; waits for a restart")),
            (None, true) => Some("waits for a restart".to_owned()),
            (None, false) => None,
        }
    }
}

/// Whether a change is, or is part of, one that a reload does not take over.
fn waits(change: &Change, restart: &[String]) -> bool {
    let path = match change.kind {
        "sync" => format!("syncs.{}", change.name),
        "upstream" => format!("upstreams.{}", change.name),
        "file" => String::new(),
        _ => return false,
    };
    let path = match (path.as_str(), change.key.as_str()) {
        ("", key) => key.to_owned(),
        (path, "") => path.to_owned(),
        (path, key) => format!("{path}.{key}"),
    };
    let is_below = |long: &str, short: &str| {
        long.strip_prefix(short).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
    };
    restart.iter().any(|key| is_below(&path, key) || (change.key.is_empty() && is_below(key, &path)))
}

/// `timeout 10s → 30s`, `limits now set`: what a difference is where nobody wrote words for it.
fn plainly(difference: &Difference) -> String {
    let key = &difference.key;
    match (difference.kind, &difference.from, &difference.to) {
        (Differs::Changed, Some(from), Some(to)) => format!("{key} {from} → {to}"),
        (Differs::Changed, ..) => format!("{key} changed"),
        (Differs::Added, _, Some(to)) => format!("{key} now {to}"),
        (Differs::Added, ..) => format!("{key} now set"),
        (Differs::Removed, Some(from), _) => format!("{key} {from} left out"),
        (Differs::Removed, ..) => format!("{key} left out"),
    }
}
