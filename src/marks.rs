//! What changed when, so that a chart can say why it bends: files that were taken over now; steps and rollbacks have a place here too.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
};

use serde::Serialize;

use crate::plan::Plan;

/// The newest changes, at most [`MOST`].
#[derive(Debug, Default)]
pub(crate) struct Marks(Mutex<VecDeque<(Mark, Option<String>)>>);

/// One change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Mark {
    /// Seconds since 1970.
    pub(crate) at: u64,
    pub(crate) kind: Kind,
    /// In a few words: `weight 5 % → 25 %`.
    pub(crate) what: String,
}

/// What changed it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    /// The file.
    File,
}

/// About 200 bytes each.
const MOST: usize = 1000;
/// A file that changes more says so in one mark for all routes.
const MOST_OF_A_FILE: usize = 100;

// === impl Marks ===

impl Marks {
    /// A file was taken over: a mark for each of its changes, at the route that it is of.
    pub(crate) fn file(&self, at: u64, plan: &Plan) {
        for change in plan.changes.iter().take(MOST_OF_A_FILE) {
            let (route, what) = match change.kind {
                "route" => (Some(change.name.clone()), change.what.clone()),
                _ => (None, format!("{}: {}", change.subject(), change.what)),
            };
            self.add(Mark { at, kind: Kind::File, what }, route);
        }
        let more = plan.changes.len().saturating_sub(MOST_OF_A_FILE);
        if more > 0 {
            self.add(Mark { at, kind: Kind::File, what: format!("{more} more changes of the file") }, None);
        }
    }

    /// `route`: the only one that it concerns.
    pub(crate) fn add(&self, mark: Mark, route: Option<String>) {
        let mut marks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if marks.len() >= MOST {
            marks.pop_front();
        }
        marks.push_back((mark, route));
    }

    /// Those that concern a route, the oldest first.
    pub(crate) fn of(&self, route: &str) -> Vec<Mark> {
        let marks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let of = marks.iter().filter(|(_, only)| only.as_deref().is_none_or(|only| only == route));
        of.map(|(mark, _)| mark.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_has_its_own_marks_and_those_of_all() {
        let marks = Marks::default();
        let mark = |what: &str| Mark { at: 1, kind: Kind::File, what: what.to_owned() };
        marks.add(mark("weight"), Some("a".to_owned()));
        marks.add(mark("workers"), None);
        assert_eq!((marks.of("a").len(), marks.of("b")), (2, vec![mark("workers")]));
        (0..2 * MOST).for_each(|_| marks.add(mark("more"), None));
        assert_eq!(marks.of("a").len(), MOST);
    }
}
