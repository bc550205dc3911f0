//! What a row touches: its keys of every unique index, old and new, and the parents' keys that it refers to.
//!
//! Keys are compared as the source's texts. Two texts of one value (`1.0` and `1.00` in a key of type numeric), and unique indexes over
//! expressions, are not seen here: the target's own index refuses such a row, and it is parked by itself.

use std::mem;

use crate::{
    database::postgres::Session,
    error::FlowError,
    names::{hash_bytes, quote_table},
    record::{envelope::Op, json::write_string},
    target::{
        postgres::{function::TargetFunction, table::TargetTable},
        row::{Layout as _, Row},
    },
};

/// A longer key is known by its hash.
const LONGEST: usize = 200;
/// The name under which the primary key stands, whatever its index is called.
pub(crate) const PRIMARY: &str = "primary";

/// The keys of all tables of a flow.
#[derive(Default)]
pub(crate) struct Keys {
    tables: Vec<TableKeys>,
    /// Else the target cannot store every text.
    is_utf8: bool,
}

struct TableKeys {
    /// What the table, or the function and its table, is called where rows are parked.
    label: String,
    /// Its rows go to a function: their keys are the source's, and a record may lack one.
    is_function: bool,
    /// The primary key is the first.
    unique: Vec<UniqueKey>,
    references: Vec<Reference>,
}

struct UniqueKey {
    name: String,
    columns: Vec<usize>,
}

/// A foreign key.
struct Reference {
    parent: usize,
    /// Which of the parent's keys.
    key: usize,
    /// In the order of the parent's key.
    columns: Vec<usize>,
}

/// How a row touches a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Touch {
    /// The row has it.
    Own,
    /// The row had it.
    Gone,
    /// The row refers to it.
    Ref,
    /// The whole table.
    All,
}

/// One key that a row touches.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Claim<'k> {
    /// Index of the table whose key it is.
    pub(crate) table: usize,
    /// Which of its keys.
    pub(crate) key: usize,
    pub(crate) touch: Touch,
    pub(crate) text: &'k [u8],
}

/// Buffers for the texts of one row's keys.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    old: Vec<u8>,
    new: Vec<u8>,
}

// === impl Touch ===

impl Touch {
    const ALL: [Self; 4] = [Self::Own, Self::Gone, Self::Ref, Self::All];

    /// As `banyan.parked_key` has it.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Own => "own",
            Self::Gone => "gone",
            Self::Ref => "ref",
            Self::All => "all",
        }
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|touch| touch.as_str() == text)
    }
}

// === impl Keys ===

impl Keys {
    /// Reads the catalogue.
    pub(crate) async fn load(
        session: &Session,
        tables: &[TargetTable],
        functions: &[TargetFunction],
    ) -> Result<Self, FlowError> {
        let sql = |error: &tokio_postgres::Error| FlowError::sql("reading the target's keys", error);
        let columns_of = |table: &TargetTable, names: Vec<String>| -> Option<Vec<usize>> {
            names.iter().map(|name| table.column(name, 0)).collect()
        };
        let mut all = Vec::with_capacity(tables.len());
        for table in tables {
            let mut unique = vec![UniqueKey { name: PRIMARY.to_owned(), columns: table.key.clone() }];
            let rows = session.query(UNIQUE, &[&quote_table(&table.plan.target)]).await.map_err(|e| sql(&e))?;
            for row in rows {
                if let Some(columns) = columns_of(table, row.get(1)) {
                    unique.push(UniqueKey { name: row.get(0), columns });
                }
            }
            all.push(TableKeys { label: table.plan.label(), is_function: false, unique, references: Vec::new() });
        }
        for (i, table) in tables.iter().enumerate() {
            let rows = session.query(REFERENCES, &[&quote_table(&table.plan.target)]).await.map_err(|e| sql(&e))?;
            for row in rows {
                let (parent, index, is_primary): (String, String, bool) = (row.get(0), row.get(1), row.get(2));
                let Some(parent) = tables.iter().position(|table| table.plan.target == parent) else { continue };
                let name = if is_primary { PRIMARY } else { &index };
                let key = all[parent].unique.iter().position(|key| key.name == name);
                if let (Some(key), Some(columns)) = (key, columns_of(table, row.get(3))) {
                    all[i].references.push(Reference { parent, key, columns });
                }
            }
        }
        for TargetFunction { plan, key, .. } in functions {
            // By its columns: parked keys of other columns tell nothing of later rows.
            let unique =
                UniqueKey { name: format!("{PRIMARY} ({})", key.join(", ")), columns: (0..key.len()).collect() };
            let unique = if key.is_empty() { Vec::new() } else { vec![unique] };
            all.push(TableKeys { label: plan.label(), is_function: true, unique, references: Vec::new() });
        }
        let row = session.query_one("SELECT current_setting('server_encoding') = 'UTF8'", &[]).await;
        Ok(Self { tables: all, is_utf8: row.map_err(|e| sql(&e))?.get(0) })
    }

    /// Whether `row` has the keys by which it is told apart. Always, in a table of the target.
    pub(crate) fn are_told(&self, table: usize, row: &Row, op: Op) -> bool {
        let own = &self.tables[table];
        let Some(key) = own.unique.first().filter(|_| own.is_function) else { return !own.is_function };
        let is_whole =
            |value: &dyn Fn(usize) -> Option<bool>| key.columns.iter().all(|column| value(*column) == Some(true));
        let old = |column| row.before(column).map(|value| value.is_some());
        let new = |column| row.after(column).map(|value| value.is_some());
        match op {
            Op::Delete => is_whole(&old),
            Op::Update => is_whole(&new) && (!row.has_before() || is_whole(&old)),
            _ => is_whole(&new),
        }
    }

    /// Gives every key that `row` touches to `take`.
    pub(crate) fn of_row(
        &self,
        table: usize,
        row: &Row,
        op: Op,
        scratch: &mut Scratch,
        mut take: impl FnMut(Claim<'_>),
    ) {
        let Scratch { old, new } = scratch;
        let own = &self.tables[table];
        for (key, unique) in own.unique.iter().enumerate() {
            let has_old = self.text(old, &unique.columns, |column| row.before(column));
            let has_new = op != Op::Delete && self.text(new, &unique.columns, |column| row.after(column));
            if has_old {
                let leaves = op == Op::Delete || has_new && old != new;
                let touch = if leaves { Touch::Gone } else { Touch::Own };
                take(Claim { table, key, touch, text: old });
            }
            if has_new && !(has_old && old == new) {
                take(Claim { table, key, touch: Touch::Own, text: new });
            }
        }
        for Reference { parent, key, columns } in &own.references {
            let has_old = self.text(old, columns, |column| row.before(column));
            let has_new = op != Op::Delete && self.text(new, columns, |column| row.after(column));
            let claim = |text| Claim { table: *parent, key: *key, touch: Touch::Ref, text };
            if has_old {
                take(claim(old));
            }
            if has_new && !(has_old && old == new) {
                take(claim(new));
            }
        }
    }

    /// Writes a key's text; whether all of it is known, and not NULL, which is equal to nothing.
    fn text<'r>(
        &self,
        out: &mut Vec<u8>,
        columns: &[usize],
        value: impl Fn(usize) -> Option<Option<&'r [u8]>>,
    ) -> bool {
        out.clear();
        for (i, column) in columns.iter().enumerate() {
            let Some(Some(text)) = value(*column) else { return false };
            if columns.len() == 1 {
                out.extend_from_slice(text);
            } else {
                out.push(if i == 0 { b'[' } else { b',' });
                write_string(out, text);
            }
        }
        if columns.len() > 1 {
            out.push(b']');
        }
        if out.len() > LONGEST || !self.is_utf8 && !out.is_ascii() {
            let hash = format!("#{:016x} of {} bytes", hash_bytes(out), out.len());
            drop(mem::replace(out, hash.into_bytes()));
        }
        true
    }

    /// Of tables with these unique keys, the primary first, and these foreign keys: child, parent, the parent's key, columns.
    #[cfg(test)]
    pub(crate) fn of(tables: &[&[&[usize]]], references: &[(usize, usize, usize, &[usize])]) -> Self {
        let unique = |columns: &&[usize]| UniqueKey { name: String::new(), columns: columns.to_vec() };
        let table = |keys: &&[&[usize]]| TableKeys {
            label: String::new(),
            is_function: false,
            unique: keys.iter().map(unique).collect(),
            references: Vec::new(),
        };
        let mut tables: Vec<_> = tables.iter().map(table).collect();
        for (child, parent, key, columns) in references {
            tables[*child].references.push(Reference { parent: *parent, key: *key, columns: columns.to_vec() });
        }
        Self { tables, is_utf8: true }
    }

    /// The keys of a function whose table has a key of so many columns, or an unknown one.
    #[cfg(test)]
    pub(crate) fn of_function(columns: usize) -> Self {
        let mut keys = Self::of(&[&[]], &[]);
        keys.tables[0].is_function = true;
        if columns > 0 {
            let unique = UniqueKey { name: PRIMARY.to_owned(), columns: (0..columns).collect() };
            keys.tables[0].unique.push(unique);
        }
        keys
    }

    /// What a table is called where its rows are parked.
    pub(crate) fn label(&self, table: usize) -> &str {
        &self.tables[table].label
    }

    /// Which table is called so; none when the file does not name it any more.
    pub(crate) fn table(&self, label: &str) -> Option<usize> {
        self.tables.iter().position(|table| table.label == label)
    }

    /// A key's name.
    pub(crate) fn name(&self, table: usize, key: usize) -> &str {
        &self.tables[table].unique[key].name
    }

    /// Which key has this name; none when the index is gone.
    pub(crate) fn find(&self, table: usize, name: &str) -> Option<usize> {
        self.tables[table].unique.iter().position(|key| key.name == name)
    }

    /// The tables that rows of `table` refer to.
    pub(crate) fn parents(&self, table: usize) -> impl Iterator<Item = usize> + '_ {
        self.tables[table].references.iter().map(|reference| reference.parent)
    }
}

/// Of a partial index every row counts: that parks more, and never less.
const UNIQUE: &str = "SELECT x.relname::text, ARRAY(SELECT a.attname::text FROM unnest((i.indkey::int2[])[0:i.indnkeyatts - 1]) WITH ORDINALITY k(n, o) \
     JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.n ORDER BY k.o) \
     FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid \
     WHERE i.indrelid = to_regclass($1) AND i.indisunique AND NOT i.indisprimary AND i.indexprs IS NULL ORDER BY x.relname";

const REFERENCES: &str = "SELECT n.nspname || '.' || p.relname, x.relname::text, i.indisprimary, \
     ARRAY(SELECT a.attname::text FROM unnest((i.indkey::int2[])[0:i.indnkeyatts - 1]) WITH ORDINALITY k(n, o) \
     JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = c.conkey[array_position(c.confkey, k.n)] ORDER BY k.o) \
     FROM pg_constraint c JOIN pg_class p ON p.oid = c.confrelid JOIN pg_namespace n ON n.oid = p.relnamespace \
     JOIN pg_index i ON i.indexrelid = c.conindid JOIN pg_class x ON x.oid = c.conindid \
     WHERE c.contype = 'f' AND c.conrelid = to_regclass($1) ORDER BY c.conname";

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(keys: &Keys, before: &[Option<&str>], after: &[Option<&str>], op: Op) -> Vec<(Touch, String)> {
        let mut found = Vec::new();
        keys.of_row(0, &Row::of(before, after), op, &mut Scratch::default(), |claim| {
            found.push((claim.touch, String::from_utf8(claim.text.to_vec()).unwrap()));
        });
        found
    }

    #[test]
    fn a_key_of_several_columns_is_told_apart_and_a_long_one_or_one_that_cannot_be_stored_is_a_hash() {
        let mut keys = Keys::of(&[&[&[0, 1]]], &[]);
        let one = texts(&keys, &[], &[Some("a\",\"b"), Some("c")], Op::Create);
        let other = texts(&keys, &[], &[Some("a"), Some("b\",\"c")], Op::Create);
        assert_ne!(one, other);
        assert_eq!(texts(&keys, &[], &[Some("a"), Some("1")], Op::Create), [(Touch::Own, "[\"a\",\"1\"]".into())]);
        let long = "x".repeat(1000);
        assert!(texts(&keys, &[], &[Some("a"), Some(&long)], Op::Create)[0].1.starts_with('#'));
        keys.is_utf8 = false;
        assert!(texts(&keys, &[], &[Some("a"), Some("ö")], Op::Create)[0].1.starts_with('#'));
    }

    #[test]
    fn a_row_that_leaves_a_key_says_so() {
        let keys = Keys::of(&[&[&[0]]], &[]);
        let (old, new) = ("1".to_owned(), "2".to_owned());
        assert_eq!(
            texts(&keys, &[Some("1")], &[Some("2")], Op::Update),
            [(Touch::Gone, old.clone()), (Touch::Own, new)]
        );
        assert_eq!(texts(&keys, &[Some("1")], &[Some("1")], Op::Update), [(Touch::Own, old.clone())]);
        assert_eq!(texts(&keys, &[Some("1")], &[], Op::Delete), [(Touch::Gone, old)]);
    }
}
