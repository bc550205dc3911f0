//! What is touched by what is parked: in memory, so that a row of a later transaction is judged without asking the target.
//!
//! Only hashes of keys are kept: a collision parks more, never less. It is read from the target at the start, after each transaction that
//! was parked, and after each that has ended, so it says what the target says.

use std::{
    collections::{BTreeMap, HashMap},
    hash::{BuildHasher as _, Hasher as _, RandomState},
    time::SystemTime,
};

use futures_util::TryStreamExt as _;

use super::{
    OPEN,
    keys::{Claim, Keys, Scratch, Touch},
};
use crate::{database::postgres::Session, error::FlowError, names::FlowNames, record::envelope::Op, target::row::Row};

/// More keys are not stored one by one: the transactions that bring them count as touching all of their tables. About 40 MB.
pub(crate) const MOST_KEYS: usize = 1_000_000;

/// All parked transactions of a flow.
#[derive(Debug, Default)]
pub(crate) struct Book {
    open: BTreeMap<i64, SystemTime>,
    /// Of all their records.
    bytes: u64,
    /// Who is the first to have, or have had, a key.
    own: HashMap<u64, i64>,
    /// Who is the first to refer to one.
    refs: HashMap<u64, i64>,
    /// Who is the first to touch all of a table.
    whole: HashMap<usize, i64>,
    /// Who is the first to touch any of it.
    any: HashMap<usize, i64>,
    hasher: RandomState,
}

/// What there is in all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Parked {
    pub(crate) count: u64,
    pub(crate) bytes: u64,
    /// Since when the oldest is parked.
    pub(crate) since: Option<SystemTime>,
}

// === impl Book ===

impl Book {
    /// Reads all of it from the target.
    pub(crate) async fn load(session: &Session, names: &FlowNames, keys: &Keys) -> Result<Self, FlowError> {
        let mut book = Self::default();
        let list = format!(
            "SELECT id FROM banyan.parked WHERE install = $1 AND sync = $2 AND flow = $3 AND state IN {OPEN} ORDER BY id"
        );
        let rows = session.query(&list, &[&names.install, &names.sync, &names.flow.as_str()]).await;
        for row in rows.map_err(|e| FlowError::sql("reading what is parked", &e))? {
            book.add(session, row.get(0), keys).await?;
        }
        Ok(book)
    }

    /// Reads one more, which must be the newest.
    pub(crate) async fn add(&mut self, session: &Session, id: i64, keys: &Keys) -> Result<(), FlowError> {
        let sql = |error: &tokio_postgres::Error| FlowError::sql("reading what is parked", error);
        let head = "SELECT parked_at, bytes FROM banyan.parked WHERE id = $1";
        let row = session.query_one(head, &[&id]).await.map_err(|e| sql(&e))?;
        self.open.insert(id, row.get(0));
        self.bytes += row.get::<_, i64>(1).cast_unsigned();
        let claims = "SELECT target_table, key_name, role, key FROM banyan.parked_key WHERE parked = $1";
        let mut rows = std::pin::pin!(session.query_raw(claims, [id]).await.map_err(|e| sql(&e))?);
        while let Some(row) = rows.try_next().await.map_err(|e| sql(&e))? {
            // A table that the file names no more brings no rows.
            let Some(table) = keys.table(row.get(0)) else { continue };
            let touch = Touch::parse(row.get(2)).unwrap_or(Touch::All);
            match keys.find(table, row.get(1)) {
                Some(key) => self.note(id, Claim { table, key, touch, text: row.get::<_, &str>(3).as_bytes() }),
                // Of an index that is gone nothing can be told.
                None => self.note(id, Claim { table, key: 0, touch: Touch::All, text: b"" }),
            }
        }
        Ok(())
    }

    fn note(&mut self, id: i64, claim: Claim<'_>) {
        let Claim { table, key, touch, text } = claim;
        self.any.entry(table).or_insert(id);
        let hash = self.hash(table, key, text);
        match touch {
            Touch::Own | Touch::Gone => self.own.entry(hash).or_insert(id),
            Touch::Ref => self.refs.entry(hash).or_insert(id),
            Touch::All => self.whole.entry(table).or_insert(id),
        };
    }

    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    pub(crate) fn keys(&self) -> usize {
        self.own.len() + self.refs.len()
    }

    pub(crate) fn parked(&self) -> Parked {
        Parked {
            count: self.open.len() as u64,
            bytes: self.bytes,
            since: self.open.first_key_value().map(|(_, at)| *at),
        }
    }

    /// The first parked transaction that a row follows.
    pub(crate) fn touched(&self, keys: &Keys, table: usize, row: &Row, op: Op, scratch: &mut Scratch) -> Option<i64> {
        if op == Op::Truncate || !keys.are_told(table, row, op) {
            return self.any.get(&table).copied();
        }
        let mut first = self.whole.get(&table).copied();
        let mut follow = |found: Option<&i64>| {
            if let Some(found) = found {
                first = Some(first.map_or(*found, |first| first.min(*found)));
            }
        };
        for parent in keys.parents(table) {
            follow(self.whole.get(&parent));
        }
        keys.of_row(table, row, op, scratch, |Claim { table, key, touch, text }| {
            let hash = self.hash(table, key, text);
            follow(self.own.get(&hash));
            // A parent may change while children wait, but not go away under them.
            if touch == Touch::Gone {
                follow(self.refs.get(&hash));
            }
        });
        first
    }

    fn hash(&self, table: usize, key: usize, text: &[u8]) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        hasher.write_usize(table);
        hasher.write_usize(key);
        hasher.write(text);
        hasher.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ACCOUNTS: usize = 0;
    const PAYMENTS: usize = 1;

    /// `accounts (id, email)`, both unique; `payments (id, account)`, a child of it.
    fn keys() -> Keys {
        Keys::of(&[&[&[0], &[1]], &[&[0]]], &[(PAYMENTS, ACCOUNTS, 0, &[1])])
    }

    type Columns = &'static [Option<&'static str>];
    /// A table, what happened, and the row before and after.
    type Change = (usize, Op, Columns, Columns);

    /// Whether `later` follows a parked `first`.
    fn follows(first: Change, later: Change) -> bool {
        let (keys, mut scratch, mut book) = (keys(), Scratch::default(), Book::default());
        let (table, op, before, after) = first;
        if op == Op::Truncate {
            book.note(7, Claim { table, key: 0, touch: Touch::All, text: b"" });
        } else {
            keys.of_row(table, &Row::of(before, after), op, &mut scratch, |claim| book.note(7, claim));
        }
        let (table, op, before, after) = later;
        book.touched(&keys, table, &Row::of(before, after), op, &mut scratch) == Some(7)
    }

    #[test]
    fn a_row_for_a_function_follows_by_its_key_and_one_whose_key_is_not_told_follows_whatever_is_parked() {
        type Change = (Op, Columns, Columns);
        let follows = |keys: &Keys, first: Change, later: Change| {
            let (mut scratch, mut book) = (Scratch::default(), Book::default());
            let row = |(_, before, after): Change| Row::of(before, after);
            if keys.are_told(0, &row(first), first.0) {
                keys.of_row(0, &row(first), first.0, &mut scratch, |claim| book.note(7, claim));
            } else {
                book.note(7, Claim { table: 0, key: 0, touch: Touch::All, text: b"" });
            }
            book.touched(keys, 0, &row(later), later.0, &mut scratch) == Some(7)
        };
        const NONE: Columns = &[];
        const ONE: Columns = &[Some("1")];
        const TWO: Columns = &[Some("2")];
        let (known, unknown) = (Keys::of_function(1), Keys::of_function(0));
        let (create, moved) = ((Op::Create, NONE, ONE), (Op::Update, ONE, TWO));
        for (keys, first, later, is) in [
            (&known, create, (Op::Update, NONE, ONE), true),
            (&known, create, (Op::Create, NONE, TWO), false),
            (&known, create, moved, true),
            (&known, moved, (Op::Create, NONE, ONE), true),
            (&known, moved, (Op::Delete, TWO, NONE), true),
            (&known, create, (Op::Truncate, NONE, NONE), true),
            // Another key than was known: nothing tells which row it is.
            (&known, create, (Op::Delete, NONE, NONE), true),
            (&known, create, (Op::Update, &[None], TWO), true),
            (&known, (Op::Delete, NONE, NONE), (Op::Create, NONE, TWO), true),
            (&unknown, create, (Op::Create, NONE, TWO), true),
        ] {
            assert_eq!(follows(keys, first, later), is, "{first:?}, then {later:?}");
        }
    }

    #[test]
    fn what_shares_a_key_with_a_parked_row_follows_it_and_nothing_else_does() {
        const NONE: Columns = &[];
        const CHILD: Columns = &[Some("9"), Some("1")];
        fn account(op: Op, before: Columns, after: Columns) -> Change {
            (ACCOUNTS, op, before, after)
        }
        fn payment(op: Op, before: Columns, after: Columns) -> Change {
            (PAYMENTS, op, before, after)
        }
        let parked = account(Op::Create, NONE, &[Some("1"), Some("ann@x")]);
        let moved = account(Op::Update, &[Some("1")], &[Some("2"), Some("ann@x")]);
        for (first, later, is) in [
            // The same row, a row by the old key, and one by the new.
            (parked, account(Op::Update, NONE, &[Some("1"), Some("else@x")]), true),
            (parked, account(Op::Delete, &[Some("1")], NONE), true),
            (moved, account(Op::Create, NONE, &[Some("1"), Some("else@x")]), true),
            (moved, account(Op::Delete, &[Some("2")], NONE), true),
            // The same e-mail in another row; NULL is equal to nothing.
            (parked, account(Op::Create, NONE, &[Some("3"), Some("ann@x")]), true),
            (account(Op::Create, NONE, &[Some("3"), None]), account(Op::Create, NONE, &[Some("4"), None]), false),
            (parked, account(Op::Create, NONE, &[Some("3"), Some("bob@x")]), false),
            // A child of a parked parent; a parent of a parked child only when it goes.
            (parked, payment(Op::Create, NONE, CHILD), true),
            (parked, payment(Op::Create, NONE, &[Some("1"), Some("5")]), false),
            (payment(Op::Create, NONE, CHILD), account(Op::Update, NONE, &[Some("1"), Some("else@x")]), false),
            (payment(Op::Create, NONE, CHILD), account(Op::Delete, &[Some("1")], NONE), true),
            (payment(Op::Create, NONE, CHILD), moved, true),
            (payment(Op::Create, NONE, CHILD), payment(Op::Create, NONE, &[Some("8"), Some("1")]), false),
            // Whole tables.
            (parked, account(Op::Truncate, NONE, NONE), true),
            (parked, payment(Op::Truncate, NONE, NONE), false),
            (payment(Op::Create, NONE, CHILD), account(Op::Truncate, NONE, NONE), true),
            (account(Op::Truncate, NONE, NONE), account(Op::Create, NONE, &[Some("3"), None]), true),
            (account(Op::Truncate, NONE, NONE), payment(Op::Create, NONE, CHILD), true),
            (payment(Op::Truncate, NONE, NONE), account(Op::Create, NONE, &[Some("3"), None]), false),
        ] {
            assert_eq!(follows(first, later), is, "{first:?}, then {later:?}");
        }
    }
}
