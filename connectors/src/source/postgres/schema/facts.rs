//! What the catalogue says of a table that no announcement does: which column is which, and which files hold the rows.
//!
//! A column keeps its number under every name, and a number is never given twice; an ALTER that changes values writes the table into new
//! files. So from two looks at the catalogue it can be proven that the rows between them were changed by nothing but what stands in the log.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::shape::{Change, Column, Shape};
use crate::{
    database::postgres::Session,
    error::FlowError,
    names::{FlowNames, quote_table},
};

/// One table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Facts {
    /// The columns that are there, by name.
    pub(crate) numbers: BTreeMap<String, i16>,
    /// How many columns it ever had.
    pub(crate) count: i16,
    /// The file of each partition, or of the table itself, by their object ids.
    pub(crate) files: BTreeMap<u32, u32>,
    /// Types and modifiers of the columns that are sent, at the moment of a look; not kept.
    #[serde(skip)]
    pub(crate) kinds: BTreeMap<String, (u32, i32)>,
}

/// By `schema.table` of the source.
pub(crate) type AllFacts = BTreeMap<String, Facts>;

/// `text` is kept where the type stays the same: the server then has not written the rows anew, and reads the same from them.
const VARCHAR: u32 = 1043;
const TEXT: u32 = 25;

/// Reads the catalogue; nothing when there is no such table.
pub(crate) async fn read(session: &Session, table: &str) -> Result<Option<Facts>, FlowError> {
    let row = session
        .query_opt(
            "SELECT c.relnatts, \
                 (SELECT json_object_agg(a.attname, a.attnum)::text FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped), \
                 (SELECT json_object_agg(l.oid, pg_relation_filenode(l.oid)::bigint)::text FROM pg_class l \
                     WHERE (l.oid = c.oid OR l.oid IN (SELECT relid FROM pg_partition_tree(c.oid))) AND pg_relation_filenode(l.oid) IS NOT NULL), \
                 (SELECT json_object_agg(a.attname, json_build_array(a.atttypid::bigint, a.atttypmod))::text FROM pg_attribute a \
                     WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '') \
             FROM pg_class c WHERE c.oid = to_regclass($1)",
            &[&quote_table(table)],
        )
        .await
        .map_err(|e| FlowError::sql("reading the catalogue", &e))?;
    let parsed = |text: Option<&str>| text.unwrap_or("{}").to_owned();
    let bad = |_| FlowError::Stop("the server's answer about a table is not understood".into());
    row.map(|row| {
        Ok(Facts {
            count: row.get(0),
            numbers: serde_json::from_str(&parsed(row.get(1))).map_err(bad)?,
            files: serde_json::from_str(&parsed(row.get(2))).map_err(bad)?,
            kinds: serde_json::from_str(&parsed(row.get(3))).map_err(bad)?,
        })
    })
    .transpose()
}

/// Whether the log has whole rows of the table: then all columns are what rows are told apart by, new ones as well.
pub(crate) async fn sends_whole_rows(session: &Session, table: &str) -> Result<bool, FlowError> {
    let sql = "SELECT EXISTS (SELECT FROM pg_class c WHERE c.oid = to_regclass($1) AND c.relreplident = 'f')";
    let row = session
        .query_one(sql, &[&quote_table(table)])
        .await
        .map_err(|e| FlowError::sql("reading the catalogue", &e))?;
    Ok(row.get(0))
}

/// What was noted with the shape of the tables.
pub(crate) async fn noted(session: &Session, names: &FlowNames) -> Result<AllFacts, FlowError> {
    let row = session
        .query_opt(
            "SELECT facts::text FROM banyan.capture WHERE install = $1 AND sync = $2 AND flow = $3",
            &[&names.install, &names.sync, &names.flow.as_str()],
        )
        .await
        .map_err(|e| FlowError::sql("reading what was captured", &e))?;
    Ok(row.and_then(|row| serde_json::from_str(row.get::<_, Option<&str>>(0)?).ok()).unwrap_or_default())
}

// === impl Facts ===

impl Facts {
    /// Whether from `self` to `now` nothing but names can have changed in the rows, as far as `before` and `after` both have their columns.
    pub(crate) fn keeps(&self, now: &Self, before: &Shape, after: &Shape) -> bool {
        let changes = before.changes(after);
        let is_harmless = |change: &Change| match change {
            // The same values in the same files: they read as they did.
            Change::Retyped(from, to) => {
                from.type_id == to.type_id || [from.type_id, to.type_id].iter().all(|id| [VARCHAR, TEXT].contains(id))
            }
            Change::Reordered => false,
            _ => true,
        };
        let is_the_same = |column: &Column| match was_called(&changes, column, before) {
            Some(old) => self.numbers.get(old).is_some_and(|number| now.numbers.get(&column.name) == Some(number)),
            None => true,
        };
        self.files == now.files && changes.iter().all(is_harmless) && after.columns.iter().all(is_the_same)
    }

    /// What is true behind `after`, when [`Self::keeps`] holds and its new columns are the next ones that were ever added; nothing when that is not
    /// proven. `now` may be later than `after`.
    pub(crate) fn followed_to(&self, now: &Self, before: &Shape, after: &Shape) -> Option<Self> {
        if !self.keeps(now, before, after) {
            return None;
        }
        let changes = before.changes(after);
        let (mut numbers, mut count) = (BTreeMap::new(), self.count);
        for column in &after.columns {
            let number = match was_called(&changes, column, before) {
                Some(old) => *self.numbers.get(old)?,
                None => {
                    count += 1;
                    count
                }
            };
            if now.numbers.get(&column.name) != Some(&number) {
                return None;
            }
            numbers.insert(column.name.clone(), number);
        }
        Some(Self { numbers, count, files: self.files.clone(), kinds: BTreeMap::new() })
    }

    /// What is true behind `after` when none of the columns of `sent` changed on the way: where rows stand, and which of those columns is which,
    /// is left as it was noted, so that the next look finds what did. `now` may be later than `after`.
    pub(crate) fn beside(&self, now: &Self, sent: &Shape, after: &Shape) -> Self {
        let number = |column: &Column| {
            let facts = if sent.column(&column.name).is_some() { self } else { now };
            Some((column.name.clone(), *facts.numbers.get(&column.name)?))
        };
        let numbers: BTreeMap<String, i16> = after.columns.iter().filter_map(number).collect();
        let count = numbers.values().copied().fold(self.count, i16::max);
        Self { numbers, count, files: self.files.clone(), kinds: BTreeMap::new() }
    }

    /// What `shape` has grown into by this look, which the stream has not announced; nothing where it has not, or not only grown.
    pub(crate) fn grown_from(&self, shape: &Shape) -> Option<Shape> {
        let mut names: Vec<&String> = self.kinds.keys().collect();
        names.sort_by_key(|name| self.numbers.get(*name));
        let is_key = |name: &String| shape.column(name).is_some_and(|column| column.is_key);
        let column = |name: &String| (name.clone(), self.kinds[name].0, self.kinds[name].1, is_key(name));
        let now = Shape::new(&shape.table, names.into_iter().map(column));
        shape.grown_into(&now).is_some().then_some(now)
    }

    /// Whether the columns at the moment `now` are those of `shape`, which was noted with `self`, and no other column ever came since. What is
    /// not so, the stream will tell.
    pub(crate) fn is_still(&self, now: &Self, shape: &Shape) -> bool {
        self.count == now.count && now.is_shaped(shape)
    }

    /// Whether at the moment of this look the table had the columns of `shape` and no others.
    pub(crate) fn is_shaped(&self, shape: &Shape) -> bool {
        let is_typed = |column: &Column| self.kinds.get(&column.name) == Some(&(column.type_id, column.modifier));
        self.kinds.len() == shape.columns.len() && shape.columns.iter().all(is_typed)
    }

    /// Whether rows stand in other files at the moment `now`.
    pub(crate) fn is_rewritten(&self, now: &Self) -> bool {
        self.files.iter().any(|(part, file)| now.files.get(part) != Some(file))
    }
}

/// What a column was called before; nothing when it was added.
fn was_called<'c>(changes: &'c [Change], column: &'c Column, before: &Shape) -> Option<&'c str> {
    let renamed = changes.iter().find_map(|change| match change {
        Change::Renamed(from, to) if to.name == column.name => Some(from.as_str()),
        _ => None,
    });
    renamed.or_else(|| before.column(&column.name).map(|_| column.name.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(numbers: &[(&str, i16)], count: i16, file: u32) -> Facts {
        let numbers = numbers.iter().map(|(name, number)| ((*name).to_owned(), *number)).collect();
        Facts { numbers, count, files: BTreeMap::from([(1, file)]), kinds: BTreeMap::new() }
    }

    fn shape(columns: &[(&str, u32)]) -> Shape {
        let column = |(name, type_id): &(&str, u32)| Column {
            name: (*name).to_owned(),
            type_id: *type_id,
            modifier: -1,
            is_key: false,
        };
        Shape { table: "public.t".into(), columns: columns.iter().map(column).collect() }
    }

    #[test]
    fn only_what_keeps_its_files_and_numbers_is_proven() {
        let (noted, before) = (facts(&[("id", 1), ("a", 2)], 2, 7), shape(&[("id", 20), ("a", 23)]));
        let follows = |now: Facts, after: &[(&str, u32)]| noted.followed_to(&now, &before, &shape(after)).is_some();
        let added = [("id", 20), ("a", 23), ("b", 25)];
        assert!(follows(facts(&[("id", 1), ("a", 2), ("b", 3)], 3, 7), &added));
        // The catalogue is one ALTER ahead, which has its own turn.
        assert!(follows(facts(&[("id", 1), ("a", 2), ("b", 3), ("c", 4)], 4, 7), &added));
        // Added, dropped, added again; or gone.
        assert!(!follows(facts(&[("id", 1), ("a", 2), ("b", 4)], 4, 7), &added));
        assert!(!follows(facts(&[("id", 1), ("a", 2)], 3, 7), &added));
        // Written anew.
        assert!(!follows(facts(&[("id", 1), ("a", 2), ("b", 3)], 3, 8), &added));
        assert!(follows(facts(&[("id", 1), ("x", 2)], 2, 7), &[("id", 20), ("x", 23)]));
        assert!(!follows(facts(&[("id", 1), ("x", 3)], 3, 7), &[("id", 20), ("x", 23)]), "dropped and added");
        assert!(follows(facts(&[("id", 1)], 2, 7), &[("id", 20)]));
        assert!(!follows(facts(&[("id", 1), ("a", 2)], 2, 7), &[("id", 20), ("a", 20)]), "another type");
    }

    #[test]
    fn beside_what_is_sent_only_numbers_of_what_stays_are_taken_over() {
        let (noted, sent) = (facts(&[("id", 1), ("a", 2), ("own", 3)], 3, 7), shape(&[("id", 20), ("a", 23)]));
        let after = shape(&[("id", 20), ("a", 23), ("own", 20), ("late", 25)]);
        // `a` was dropped and added again, files are others, and the catalogue is a column ahead: all that is to be found later.
        let now = facts(&[("id", 1), ("a", 6), ("own", 4), ("late", 5), ("next", 7)], 7, 8);
        assert_eq!(noted.beside(&now, &sent, &after), facts(&[("id", 1), ("a", 2), ("own", 4), ("late", 5)], 5, 7));
        let dropped = facts(&[("id", 1), ("a", 2)], 3, 7);
        assert_eq!(noted.beside(&dropped, &sent, &sent), dropped);
    }
}
