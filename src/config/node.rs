//! The file as a tree that remembers where everything stands. What it is not: checked. `de.rs` makes structs of it.

use std::collections::{HashMap, HashSet};

use super::span::Span;

/// One value of the file.
#[derive(Debug, Clone)]
pub(super) struct Node {
    /// Unique in its tree.
    pub(super) id: Id,
    /// Where it stands; a scalar's whole text, a list's or map's beginning.
    pub(super) span: Span,
    pub(super) kind: Kind,
}

/// Names a node within its tree.
pub(super) type Id = u32;

#[derive(Debug, Clone)]
pub(super) enum Kind {
    Null,
    Scalar(Scalar),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

#[derive(Debug, Clone)]
pub(super) struct Scalar {
    /// The text, `${…}` expanded.
    pub(super) text: String,
    /// Written without quotes, so that `5` is a number and `true` a truth value.
    pub(super) plain: bool,
    /// What stands in the file, when `${…}` was expanded: the only form that a message may show.
    pub(super) written: Option<String>,
}

/// One `key: value`.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) key_span: Span,
    pub(super) value: Node,
}

/// One step from a node to a child.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    Key(String),
    Index(usize),
}

/// The nodes that are treated as if they were not there, because something is wrong with them that was told already.
#[derive(Debug, Default, Clone)]
pub(super) struct Pruned(HashSet<Id>);

/// The tree as it is read: without what was pruned, and with stand-ins for required keys that are missing, so that one missing key
/// does not hide what else is wrong beside it.
#[derive(Debug, Default)]
pub(super) struct View {
    pub(super) pruned: Pruned,
    extra: HashMap<Id, Vec<Entry>>,
    /// Ids of stand-ins count downwards, away from the tree's.
    stand_ins: Id,
}

/// Where a path of the structs leads in the file.
pub(super) struct Place<'t> {
    /// The node itself, or the nearest one above it that the file has.
    pub(super) node: &'t Node,
    /// Where to point: the value, or for lists and maps their key.
    pub(super) span: Span,
    /// As the file counts it.
    pub(super) path: String,
    /// The path leads to a stand-in, of which nothing need be said.
    pub(super) stand_in: bool,
}

// === impl Node ===

impl Node {
    /// The value of a key.
    pub(super) fn get(&self, key: &str) -> Option<&Node> {
        self.entries().iter().find(|entry| entry.key == key).map(|entry| &entry.value)
    }

    /// A map's entries; none for all else.
    pub(super) fn entries(&self) -> &[Entry] {
        match &self.kind {
            Kind::Map(entries) => entries,
            _ => &[],
        }
    }

    /// The way from this node to one below it.
    pub(super) fn path_to(&self, id: Id) -> Option<Vec<Step>> {
        if self.id == id {
            return Some(Vec::new());
        }
        let below = |step: Step, node: &Node| {
            node.path_to(id).map(|mut path| {
                path.insert(0, step);
                path
            })
        };
        match &self.kind {
            Kind::List(items) => items.iter().enumerate().find_map(|(index, item)| below(Step::Index(index), item)),
            Kind::Map(entries) => entries.iter().find_map(|entry| below(Step::Key(entry.key.clone()), &entry.value)),
            _ => None,
        }
    }

    /// The node at the end of a path as the file counts it, with the entry that holds it.
    pub(super) fn at(&self, path: &[Step]) -> Option<(&Node, Option<&Entry>)> {
        let mut here = (self, None);
        for step in path {
            here = match (step, &here.0.kind) {
                (Step::Key(key), Kind::Map(entries)) => {
                    let entry = entries.iter().find(|entry| entry.key == *key)?;
                    (&entry.value, Some(entry))
                }
                (Step::Index(index), Kind::List(items)) => (items.get(*index)?, None),
                _ => return None,
            };
        }
        Some(here)
    }

    /// Follows a path of the structs, which do not see what was pruned: list indices are mended, and a list of one where the structs
    /// have the bare value (or the other way round) is stepped over.
    pub(super) fn follow(&self, steps: &[Step], view: &View) -> Place<'_> {
        let pruned = &view.pruned;
        let mut place = Place { node: self, span: self.span, path: String::new(), stand_in: false };
        for (at, step) in steps.iter().enumerate() {
            if let (Step::Key(_), Kind::List(items)) = (step, &place.node.kind)
                && let Some((index, item)) = items.iter().enumerate().find(|(_, item)| !pruned.has(item.id))
            {
                place.enter(&Step::Index(index), item, None);
            }
            let found = match (step, &place.node.kind) {
                (Step::Key(key), Kind::Map(entries)) => entries
                    .iter()
                    .find(|entry| entry.key == *key)
                    .map(|entry| (Step::Key(key.clone()), &entry.value, Some(entry))),
                (Step::Index(index), Kind::List(items)) => items
                    .iter()
                    .enumerate()
                    .filter(|(_, item)| !pruned.has(item.id))
                    .nth(*index)
                    .map(|(index, item)| (Step::Index(index), item, None)),
                // One value where the structs have a list of one.
                (Step::Index(0), _) => continue,
                _ => None,
            };
            let Some((step, node, entry)) = found else {
                place.stand_in = matches!(step, Step::Key(key) if view.stands_in(place.node.id, key));
                // A short form has no keys of its own: its text is what is meant.
                let below = if matches!(place.node.kind, Kind::Scalar(_)) { &[] } else { &steps[at..] };
                for step in below {
                    step.write(&mut place.path);
                }
                break;
            };
            place.enter(&step, node, entry);
        }
        place
    }

    /// Whether anything at or below this node was pruned.
    pub(super) fn has_pruned(&self, pruned: &Pruned) -> bool {
        pruned.has(self.id)
            || match &self.kind {
                Kind::List(items) => items.iter().any(|item| item.has_pruned(pruned)),
                Kind::Map(entries) => entries.iter().any(|entry| entry.value.has_pruned(pruned)),
                _ => false,
            }
    }
}

// === impl Step ===

impl Step {
    /// `routes[2].modern` as steps; the form that the proxy's table names places in.
    pub(super) fn parse(path: &str) -> Vec<Step> {
        let mut steps = Vec::new();
        for part in path.split('.').filter(|part| !part.is_empty()) {
            let (key, indices) = part.split_once('[').map_or((part, ""), |(key, rest)| (key, rest));
            if !key.is_empty() {
                steps.push(Step::Key(key.to_owned()));
            }
            for index in indices.split(['[', ']']).filter(|text| !text.is_empty()) {
                steps.push(index.parse().map_or_else(|_| Step::Key(index.to_owned()), Step::Index));
            }
        }
        steps
    }

    pub(super) fn join(steps: &[Step]) -> String {
        let mut path = String::new();
        for step in steps {
            step.write(&mut path);
        }
        path
    }

    pub(super) fn write(&self, path: &mut String) {
        match self {
            Step::Key(key) => {
                if !path.is_empty() {
                    path.push('.');
                }
                path.push_str(key);
            }
            Step::Index(index) => path.push_str(&format!("[{index}]")),
        }
    }
}

// === impl Pruned ===

impl Pruned {
    pub(super) fn has(&self, id: Id) -> bool {
        self.0.contains(&id)
    }

    pub(super) fn add(&mut self, id: Id) -> bool {
        self.0.insert(id)
    }
}

// === impl View ===

impl View {
    /// A view that leaves some nodes out from the beginning.
    pub(super) fn without(pruned: Pruned) -> Self {
        Self { pruned, ..Self::default() }
    }

    /// The stand-ins of a map.
    pub(super) fn extra(&self, map: Id) -> &[Entry] {
        self.extra.get(&map).map_or(&[], Vec::as_slice)
    }

    pub(super) fn stands_in(&self, map: Id, key: &str) -> bool {
        self.extra(map).iter().any(|entry| entry.key == key)
    }

    /// Gives a map a stand-in for a key; false when it has one already.
    pub(super) fn stand_in(
        &mut self,
        map: Id,
        key: &str,
        make: impl FnOnce(&mut dyn FnMut(Kind) -> Node) -> Node,
    ) -> bool {
        if self.stands_in(map, key) {
            return false;
        }
        let mut node = |kind| {
            self.stand_ins += 1;
            Node { id: Id::MAX - self.stand_ins, span: Span::default(), kind }
        };
        let value = make(&mut node);
        self.extra.entry(map).or_default().push(Entry { key: key.to_owned(), key_span: Span::default(), value });
        true
    }
}

// === impl Place ===

impl<'t> Place<'t> {
    fn enter(&mut self, step: &Step, node: &'t Node, entry: Option<&Entry>) {
        self.node = node;
        self.span = match (&node.kind, entry) {
            (Kind::Scalar(_), _) => node.span,
            (_, Some(entry)) => entry.key_span,
            (Kind::Map(entries), None) => entries.first().map_or(node.span, |first| first.key_span),
            (_, None) => node.span,
        };
        step.write(&mut self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_reads_back_as_it_was_written() {
        for path in ["routes[2].modern", "a.b[0].c", "version", ""] {
            assert_eq!(Step::join(&Step::parse(path)), path);
        }
    }
}
