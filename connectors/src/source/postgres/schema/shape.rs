//! The columns of a table as pgoutput announces them, and in what two announcements differ.

use std::fmt;

use crate::{mapping::Mapping, source::postgres::pgoutput::Relation};

/// A table's columns, in order, without those that the server generates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Shape {
    /// `schema.table` of the source.
    pub(crate) table: String,
    pub(crate) columns: Vec<Column>,
}

/// A column as it is announced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Column {
    pub(crate) name: String,
    pub(crate) type_id: u32,
    /// Length, precision and scale as the catalogue packs them; -1 for none.
    pub(crate) modifier: i32,
    /// Part of the replica identity.
    pub(crate) is_key: bool,
}

/// In what a later shape differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Change {
    Added(Column),
    Dropped(Column),
    /// Its old name, and the column as it is now: one that stands where another of its type stood.
    Renamed(String, Column),
    /// As it was, as it is.
    Retyped(Column, Column),
    /// The same columns in another order: the table was made anew.
    Reordered,
    /// By other columns than before its rows are told apart.
    Key,
}

// === impl Shape ===

impl Shape {
    /// From the catalogue: names, types, their modifiers, and what is key.
    pub(crate) fn new(table: &str, columns: impl Iterator<Item = (String, u32, i32, bool)>) -> Self {
        let column = |(name, type_id, modifier, is_key)| Column { name, type_id, modifier, is_key };
        Self { table: table.to_owned(), columns: columns.map(column).collect() }
    }

    pub(crate) fn of(relation: &Relation) -> Self {
        let column = |column: &crate::source::postgres::pgoutput::Column| Column {
            name: column.name.clone(),
            type_id: column.type_id,
            modifier: column.type_modifier,
            is_key: column.is_key,
        };
        let table = format!("{}.{}", relation.schema, relation.table);
        Self { table, columns: relation.columns.iter().map(column).collect() }
    }

    /// Back from its line; nothing when it is none.
    pub(crate) fn parse(line: &str) -> Option<Self> {
        let (table, mut rest) = quoted(line)?;
        let mut columns = Vec::new();
        while let Some(next) = rest.strip_prefix(' ') {
            let (name, tail) = quoted(next)?;
            let end = tail.find(' ').unwrap_or(tail.len());
            let mut parts = tail[..end].strip_prefix(':')?.split(':');
            let (type_id, modifier) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
            columns.push(Column { name, type_id, modifier, is_key: parts.next() == Some("key") });
            rest = &tail[end..];
        }
        rest.is_empty().then_some(Self { table, columns })
    }

    /// All tables of a flow, a line each.
    pub(crate) fn parse_all(lines: &str) -> Vec<Self> {
        lines.lines().filter_map(Self::parse).collect()
    }

    /// The same as it is stored.
    pub(crate) fn lines(shapes: &[Self]) -> String {
        let lines: Vec<String> = shapes.iter().map(ToString::to_string).collect();
        lines.join("\n")
    }

    /// Names of the columns by which rows are told apart. What an earlier version has written tells of none.
    pub(crate) fn key(&self) -> Vec<&str> {
        self.columns.iter().filter(|column| column.is_key).map(|column| column.name.as_str()).collect()
    }

    /// Whether rows are told apart by all columns.
    pub(crate) fn is_whole(&self) -> bool {
        self.columns.iter().all(|column| column.is_key)
    }

    /// The columns that are sent, by the names that they have in the target.
    pub(crate) fn in_target(&self, mapping: &Mapping) -> Self {
        let column = |column: &Column| {
            mapping.target(&column.name).map(|name| Column { name: name.to_owned(), ..column.clone() })
        };
        Self { table: self.table.clone(), columns: self.columns.iter().filter_map(column).collect() }
    }

    /// Without the columns that the file leaves on their side.
    pub(crate) fn sent(&self, mapping: &Mapping) -> Self {
        let columns = self.columns.iter().filter(|column| !mapping.leaves_out(&column.name));
        Self { table: self.table.clone(), columns: columns.cloned().collect() }
    }

    pub(crate) fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|column| column.name == name)
    }

    /// Whether the columns are the same, whatever the key.
    pub(crate) fn has_columns_of(&self, other: &Self) -> bool {
        self.columns.len() == other.columns.len()
            && self
                .columns
                .iter()
                .zip(&other.columns)
                .all(|(own, other)| own.name == other.name && own.is_typed_as(other))
    }

    /// The columns that `later` has more, where that is all that it differs in: they stand behind the others.
    pub(crate) fn grown_into<'l>(&self, later: &'l Self) -> Option<&'l [Column]> {
        let (same, more) = later.columns.split_at_checked(self.columns.len())?;
        let same = Self { table: String::new(), columns: same.to_vec() };
        (self.has_columns_of(&same) && !more.is_empty()).then_some(more)
    }

    /// In what `later` differs.
    pub(crate) fn changes(&self, later: &Self) -> Vec<Change> {
        let mut found = Vec::new();
        let is_gone = |column: &Column| later.column(&column.name).is_none();
        for (at, column) in self.columns.iter().enumerate() {
            match later.column(&column.name) {
                Some(now) if !now.is_typed_as(column) => found.push(Change::Retyped(column.clone(), now.clone())),
                Some(_) => {}
                None => match later.columns.get(at) {
                    Some(now) if self.column(&now.name).is_none() && now.is_typed_as(column) => {
                        found.push(Change::Renamed(column.name.clone(), now.clone()));
                    }
                    _ => found.push(Change::Dropped(column.clone())),
                },
            }
        }
        let is_renamed = |name: &str, found: &[Change]| {
            found.iter().any(|change| matches!(change, Change::Renamed(_, now) if now.name == name))
        };
        for column in &later.columns {
            if self.column(&column.name).is_none() && !is_renamed(&column.name, &found) {
                found.push(Change::Added(column.clone()));
            }
        }
        let order = |from: &Self, other: &Self| -> Vec<String> {
            let both = from.columns.iter().filter(|column| other.column(&column.name).is_some());
            both.map(|column| column.name.clone()).collect()
        };
        let had: Vec<String> = self.columns.iter().filter(|column| !is_gone(column)).map(|c| c.name.clone()).collect();
        if had != order(later, self) {
            found.push(Change::Reordered);
        }
        if !self.key().is_empty() && self.key() != later.key() && found.is_empty() {
            found.push(Change::Key);
        }
        found
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.table)?;
        for Column { name, type_id, modifier, is_key } in &self.columns {
            write!(f, " {name:?}:{type_id}:{modifier}{}", if *is_key { ":key" } else { "" })?;
        }
        Ok(())
    }
}

// === impl Column ===

impl Column {
    pub(crate) fn is_typed_as(&self, other: &Self) -> bool {
        (self.type_id, self.modifier) == (other.type_id, other.modifier)
    }
}

/// A name in quotes as Rust writes it, and what follows.
fn quoted(text: &str) -> Option<(String, &str)> {
    let inner = text.strip_prefix('"')?;
    let (mut name, mut chars) = (String::new(), inner.char_indices());
    loop {
        match chars.next()?.1 {
            '"' => return Some((name, chars.as_str())),
            '\\' => name.push(match chars.next()?.1 {
                'n' => '\n',
                'r' => '\r',
                't' => '\t',
                '0' => '\0',
                'u' => {
                    let start = chars.next()?.0 + 1;
                    let length = inner.get(start..)?.find('}')?;
                    while chars.next()?.1 != '}' {}
                    char::from_u32(u32::from_str_radix(&inner[start..start + length], 16).ok()?)?
                }
                other => other,
            }),
            other => name.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn column(name: &str, type_id: u32) -> Column {
        Column { name: name.to_owned(), type_id, modifier: -1, is_key: name == "id" }
    }

    fn shape(columns: &[(&str, u32)]) -> Shape {
        let columns = columns.iter().map(|(name, type_id)| column(name, *type_id)).collect();
        Shape { table: "public.t".into(), columns }
    }

    proptest! {
        #[test]
        fn a_shape_survives_its_line(names in proptest::collection::vec(any::<String>(), 0..5), table in any::<String>(), key in any::<bool>()) {
            let columns = names.into_iter().map(|name| Column { name, type_id: 25, modifier: -1, is_key: key }).collect();
            let shape = Shape { table, columns };
            prop_assert!(!shape.to_string().contains('\n'));
            prop_assert_eq!(Shape::parse(&shape.to_string()), Some(shape));
        }

        #[test]
        fn no_line_panics(line in "\\PC{0,40}") {
            drop(Shape::parse(&line));
        }
    }

    #[test]
    fn what_was_added_dropped_renamed_and_retyped_is_told_apart() {
        let before = shape(&[("id", 20), ("a", 23), ("b", 25)]);
        let changes = |columns: &[(&str, u32)]| before.changes(&shape(columns));
        assert_eq!(changes(&[("id", 20), ("a", 23), ("b", 25)]), []);
        assert_eq!(changes(&[("id", 20), ("a", 23), ("b", 25), ("c", 16)]), [Change::Added(column("c", 16))]);
        assert_eq!(changes(&[("id", 20), ("b", 25)]), [Change::Dropped(column("a", 23))]);
        assert_eq!(changes(&[("id", 20), ("x", 23), ("b", 25)]), [Change::Renamed("a".into(), column("x", 23))]);
        assert_eq!(
            changes(&[("id", 20), ("a", 1700), ("b", 25)]),
            [Change::Retyped(column("a", 23), column("a", 1700))]
        );
        assert_eq!(changes(&[("id", 20), ("b", 25), ("a", 23)]), [Change::Reordered]);
        assert_eq!(
            changes(&[("id", 20), ("b", 25), ("c", 16)]),
            [Change::Dropped(column("a", 23)), Change::Added(column("c", 16))]
        );
        let mut keyless = before.clone();
        keyless.columns[0].is_key = false;
        assert_eq!((before.changes(&keyless), keyless.changes(&before)), (vec![Change::Key], vec![]));
    }

    #[test]
    fn only_columns_behind_all_others_are_growth() {
        let before = shape(&[("id", 20), ("a", 23)]);
        let grown = |columns: &[(&str, u32)]| before.grown_into(&shape(columns)).map(<[Column]>::len);
        assert_eq!(grown(&[("id", 20), ("a", 23), ("b", 25)]), Some(1));
        assert_eq!(grown(&[("id", 20), ("a", 23)]), None);
        assert_eq!(grown(&[("id", 20), ("b", 25), ("a", 23)]), None);
        assert_eq!(grown(&[("id", 20), ("a", 25), ("b", 25)]), None);
        assert_eq!(grown(&[("id", 20)]), None);
    }
}
