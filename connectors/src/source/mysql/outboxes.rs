//! Which tables are or were outboxes, each for a stretch of the log: a row that was committed while the file named its table is an event,
//! whenever it is read.

use serde::{Deserialize, Serialize};

use crate::position::Lsn;

/// A table, and the transactions whose rows in it are events.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stretch {
    /// `database.table`.
    table: String,
    /// The place of the first.
    from: u64,
    /// Behind the last; nothing while the file names the table.
    until: Option<u64>,
}

/// All of a flow's.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Outboxes(Vec<Stretch>);

// === impl Outboxes ===

impl Outboxes {
    /// One that was an outbox from the beginning of what is read.
    pub(super) fn begin(table: Option<&String>) -> Self {
        Self(table.map(|table| Stretch { table: table.clone(), from: 0, until: None }).into_iter().collect())
    }

    /// In line with the file, which names `wanted` since about `now`; what ended before `confirmed` is never read again.
    pub(super) fn turned(&self, wanted: Option<&String>, confirmed: Lsn, now: Lsn) -> Self {
        let read_again = |stretch: &&Stretch| stretch.until.is_none_or(|until| until > confirmed.get());
        let mut stretches: Vec<_> = self.0.iter().filter(read_again).cloned().collect();
        for stretch in stretches.iter_mut().filter(|stretch| Some(&stretch.table) != wanted) {
            stretch.until.get_or_insert(now.get());
        }
        if let Some(table) = wanted.filter(|_| stretches.iter().all(|stretch| stretch.until.is_some())) {
            stretches.push(Stretch { table: table.clone(), from: now.get(), until: None });
        }
        Self(stretches)
    }

    /// Their tables, each once.
    pub(super) fn tables(&self) -> Vec<String> {
        let mut tables: Vec<String> = Vec::new();
        for Stretch { table, .. } in &self.0 {
            if !tables.contains(table) {
                tables.push(table.clone());
            }
        }
        tables
    }

    /// The table whose rows are events in a transaction: one at most, since no two are named at a time.
    pub(super) fn table_at(&self, lsn: Lsn) -> Option<&str> {
        self.0.iter().find(|stretch| stretch.holds(lsn)).map(|stretch| stretch.table.as_str())
    }

    /// The stretch in which a transaction's rows of the table are events.
    pub(super) fn at(&self, table: &str, lsn: Lsn) -> Option<&Stretch> {
        self.0.iter().find(|stretch| stretch.table == table && stretch.holds(lsn))
    }
}

// === impl Stretch ===

impl Stretch {
    fn holds(&self, lsn: Lsn) -> bool {
        self.from <= lsn.get() && self.until.is_none_or(|until| lsn.get() < until)
    }

    /// The file names the table no more.
    pub(super) fn has_ended(&self) -> bool {
        self.until.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_an_event_if_the_file_named_its_table_when_it_was_committed() {
        let (one, two) = ("shop.one".to_owned(), "shop.two".to_owned());
        let lsn = Lsn::new;
        let is = |outboxes: &Outboxes, table: &str, at| outboxes.at(table, lsn(at)).is_some();
        let first = Outboxes::begin(Some(&one));
        assert!(is(&first, &one, 1) && !is(&first, &two, 1));
        assert_eq!(first.turned(Some(&one), lsn(5), lsn(10)), first, "nothing has changed");
        let gone = first.turned(None, lsn(5), lsn(10));
        assert!(is(&gone, &one, 9) && !is(&gone, &one, 10));
        assert!(gone.at(&one, lsn(9)).unwrap().has_ended());
        assert_eq!(gone.turned(None, lsn(7), lsn(20)), gone, "it ended when the file named it no more");
        // It comes back before its rows of before were read, and another takes its place.
        let back = gone.turned(Some(&one), lsn(7), lsn(20));
        assert!(is(&back, &one, 9) && !is(&back, &one, 15) && is(&back, &one, 20));
        let other = back.turned(Some(&two), lsn(7), lsn(30));
        assert!(is(&other, &one, 9) && is(&other, &one, 29) && !is(&other, &one, 30) && is(&other, &two, 30));
        assert_eq!(other.tables(), [one.clone(), two.clone()]);
        assert_eq!(other.turned(Some(&two), lsn(30), lsn(40)).tables(), [two], "what was read is forgotten");
        assert_eq!(Outboxes::begin(None).turned(None, lsn(1), lsn(2)), Outboxes::default());
    }
}
