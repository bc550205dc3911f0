//! Which timeline a PostgreSQL server writes, and where it left those before it. A standby that is promoted begins a timeline of its own: up to there all
//! places in the log mean the same on both servers, and behind it nothing that the server before has written is known to this one.
//!
//! <https://www.postgresql.org/docs/current/continuous-archiving.html#BACKUP-TIMELINES>

use serde::{Deserialize, Serialize};

use crate::position::Lsn;

/// The timeline that a server writes; 0 of a server that knows none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Timeline {
    pub(crate) number: i32,
    /// Those before it, each with the place where it was left.
    left: Vec<(i32, Lsn)>,
    /// Made when the flow followed its source to this server, and kept there: two standbys of one server that are both promoted begin timelines of
    /// the same number, often in the same place. Empty where the flow began.
    pub(crate) followed: String,
}

/// As it stands in a record.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Written {
    #[serde(default, skip_serializing_if = "is_none")]
    timeline: i32,
    /// Numbers of timelines, and the places where they were left.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    left: Vec<(i32, u64)>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    followed: String,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_none(number: &i32) -> bool {
    *number == 0
}

// === impl Timeline ===

impl Timeline {
    /// `history` is the file that `TIMELINE_HISTORY` shows: a line a timeline, with its number and the place where it was left. Nothing when it
    /// does not say where each was left.
    pub(crate) fn parse(number: i32, history: &str) -> Option<Self> {
        let lines = history.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
        let one = |line: &str| {
            let mut words = line.split_whitespace();
            Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?))
        };
        let left: Option<Vec<_>> = lines.filter(|line| !line.is_empty()).map(one).collect();
        Some(Self { number, left: left?, followed: String::new() })
    }

    /// The first one of a server, which has left none.
    pub(crate) fn first(number: i32) -> Self {
        Self { number, ..Self::default() }
    }

    /// Where the log of `earlier` ceased to be that of this timeline; nothing when it is none of those before.
    pub(crate) fn left(&self, earlier: i32) -> Option<Lsn> {
        self.left.iter().find(|(number, _)| *number == earlier).map(|(_, at)| *at)
    }

    /// Others came before it.
    pub(crate) fn is_later(&self) -> bool {
        !self.left.is_empty()
    }

    pub(crate) fn written(&self) -> Written {
        Written {
            timeline: self.number,
            left: self.left.iter().map(|(number, at)| (*number, at.get())).collect(),
            followed: self.followed.clone(),
        }
    }
}

impl From<Written> for Timeline {
    fn from(written: Written) -> Self {
        Self {
            number: written.timeline,
            left: written.left.into_iter().map(|(number, at)| (number, Lsn::new(at))).collect(),
            followed: written.followed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_history_says_where_each_timeline_was_left() {
        let history = "1\t0/30001C8\tno recovery target specified\n\n2\t1/4000000\tno recovery target specified\n";
        let timeline = Timeline::parse(3, history).unwrap();
        assert_eq!(timeline.left(1), Some("0/30001C8".parse().unwrap()));
        assert_eq!(timeline.left(2), Some("1/4000000".parse().unwrap()));
        assert_eq!((timeline.left(3), timeline.left(4)), (None, None));
        assert_eq!(Timeline::from(timeline.written()), timeline);
        assert_eq!(Timeline::parse(2, "1\tnowhere"), None);
        assert_eq!(Timeline::parse(1, ""), Some(Timeline::first(1)));
    }
}
