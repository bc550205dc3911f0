//! One table on both sides: which column is held against which, and how a row of one side is found and judged on the other.
//!
//! Two PostgreSQL databases weigh their rows themselves, and what is compared here is a checksum a row. Of no other pair is it known that both
//! write a value alike (`1.50` and `1.5000`, a `float`, JSON): there the owner's row goes to the other side as the text that the flow would
//! carry, and that side's own server says whether its row is what would come of it.

use std::collections::{BTreeMap, HashMap};

use super::{mysql, postgres, seat::Seat, sides::Sides};
use crate::{error::FlowError, plan::PlanTable};

/// The values of a primary key, as text.
pub(super) type Key = Vec<String>;
/// What is known of a row: its checksum, or the texts of all its columns.
pub(super) type Row = Vec<Option<String>>;
/// Of a row: another one when it was written again, even with the same values. Where a server does not tell, when it has other values.
pub(super) type Version = String;

/// A table of both sides.
pub(super) struct Table {
    pub(super) owner: SideTable,
    pub(super) other: SideTable,
    /// The primary key's columns, by the owner's names.
    pub(super) key: Vec<String>,
    /// All columns that are compared, by the owner's names.
    pub(super) columns: Vec<String>,
    /// The same by the other side's names.
    pub(super) other_columns: Vec<String>,
    /// Rows of the owner's side, as its statistics guess.
    pub(super) guess: u64,
}

/// A table of one side.
pub(super) enum SideTable {
    Postgres(Box<postgres::SideTable>),
    Mysql(Box<mysql::SideTable>),
}

/// A column as a catalogue shows it.
pub(super) struct Column {
    pub(super) name: String,
    pub(super) class: Class,
    pub(super) generated: bool,
    /// Its place in the primary key.
    pub(super) key: Option<usize>,
}

/// What its values are.
pub(super) enum Class {
    /// The type's name without its modifier.
    Postgres(String),
    Mysql(mysql::Values),
}

/// A row of the other side beside one of the owner's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Seen {
    Absent,
    Same,
    Differs,
}

/// How many rows a statement reads at most.
pub(super) const CHUNK: usize = 5_000;

// === impl Table ===

impl Table {
    /// Reads both catalogues and prepares what is asked of both sides.
    pub(super) async fn load(sides: &mut Sides, plan: &PlanTable) -> Result<Self, FlowError> {
        let owner = columns(&mut sides.owner, &plan.source).await?;
        let other = columns(&mut sides.other, &plan.target).await?;
        let by_name: HashMap<&str, &Column> = other.iter().map(|column| (column.name.as_str(), column)).collect();
        let mut key: Vec<(usize, &Column)> = other.iter().filter_map(|c| c.key.map(|place| (place, c))).collect();
        key.sort_unstable_by_key(|(place, _)| *place);
        if key.is_empty() {
            return Err(FlowError::Stop(format!("the table `{}` has no primary key", plan.target)));
        }
        // What the source's server makes by itself, the target's does too.
        let mut pairs: Vec<(&Column, &Column)> = Vec::new();
        for column in owner.iter().filter(|column| !column.generated) {
            let Some(name) = plan.mapping.target(&column.name) else { continue };
            let Some(other) = by_name.get(name) else {
                return Err(FlowError::Stop(format!("`{}` has no column `{name}`", plan.target)));
            };
            if !other.generated {
                pairs.push((column, *other));
            }
        }
        let mut keys = Vec::with_capacity(key.len());
        for (_, key) in &key {
            let Some(at) = pairs.iter().position(|(_, other)| other.name == key.name) else {
                return Err(FlowError::Stop(format!(
                    "`{}` has no column for the key column `{}`",
                    plan.source, key.name
                )));
            };
            keys.push(at);
        }
        let guess = match &mut sides.owner {
            Seat::Postgres(session) => postgres::guess(session, &plan.source).await?,
            Seat::Mysql(session) => mysql::guess(session, &plan.source).await?,
        };
        Ok(Self {
            owner: SideTable::prepare(&mut sides.owner, &plan.source, plan, &pairs, &keys, true).await?,
            other: SideTable::prepare(&mut sides.other, &plan.target, plan, &pairs, &keys, false).await?,
            key: keys.iter().map(|&at| pairs[at].0.name.clone()).collect(),
            columns: pairs.iter().map(|(own, _)| own.name.clone()).collect(),
            other_columns: pairs.iter().map(|(_, other)| other.name.clone()).collect(),
            guess,
        })
    }

    /// A key with its columns' names.
    pub(super) fn named(&self, key: &Key) -> BTreeMap<String, String> {
        self.key.iter().cloned().zip(key.iter().cloned()).collect()
    }
}

async fn columns(seat: &mut Seat, table: &str) -> Result<Vec<Column>, FlowError> {
    let columns = match seat {
        Seat::Postgres(session) => postgres::columns(session, table).await?,
        Seat::Mysql(session) => mysql::columns(session, table).await?,
    };
    if columns.is_empty() {
        return Err(FlowError::Stop(format!("there is no table `{table}`")));
    }
    Ok(columns)
}

// === impl SideTable ===

fn crossed<T>() -> Result<T, FlowError> {
    Err(FlowError::Stop("a table of one kind of database was looked for in another".into()))
}

impl SideTable {
    /// `pairs` are the columns of the owner's side and of the other, `keys` the key's among them.
    async fn prepare(
        seat: &mut Seat,
        table: &str,
        plan: &PlanTable,
        pairs: &[(&Column, &Column)],
        keys: &[usize],
        is_owner: bool,
    ) -> Result<Self, FlowError> {
        let mapping = &plan.mapping;
        Ok(match seat {
            Seat::Postgres(session) => {
                let only = if is_owner { mapping.source_rows("x") } else { mapping.target_rows("x") };
                let prepared = postgres::SideTable::prepare(session, table, pairs, keys, is_owner, only).await?;
                Self::Postgres(Box::new(prepared))
            }
            Seat::Mysql(session) => {
                let only = if is_owner { mapping.source_rows_in_mysql() } else { mapping.target_rows_in_mysql() };
                let own: Vec<&Column> = pairs.iter().map(|(own, other)| if is_owner { *own } else { *other }).collect();
                Self::Mysql(Box::new(mysql::SideTable::prepare(session, table, &own, keys, only).await?))
            }
        })
    }

    /// Whether a row's version tells that it was written again with the values that it had.
    pub(super) fn tells_versions(&self) -> bool {
        matches!(self, Self::Postgres(_))
    }

    /// Up to `limit` keys in this side's own order, behind `after`.
    pub(super) async fn keys(&self, seat: &mut Seat, after: Option<&Key>, limit: usize) -> Result<Vec<Key>, FlowError> {
        match (self, seat) {
            (Self::Postgres(table), Seat::Postgres(session)) => table.keys(session, after, limit).await,
            (Self::Mysql(table), Seat::Mysql(session)) => table.keys(session, after, limit).await,
            _ => crossed(),
        }
    }

    /// The same with what is known of their rows; nothing of a row that went in between.
    pub(super) async fn chunk(
        &self,
        seat: &mut Seat,
        after: Option<&Key>,
        limit: usize,
    ) -> Result<(Vec<Key>, Vec<Option<Row>>), FlowError> {
        match (self, seat) {
            (Self::Postgres(table), Seat::Postgres(session)) => {
                let keys = table.keys(session, after, limit).await?;
                let rows = table.weigh(session, &keys).await?;
                Ok((keys, rows))
            }
            (Self::Mysql(table), Seat::Mysql(session)) => table.chunk(session, after, limit).await,
            _ => crossed(),
        }
    }

    /// What is known of each key's row, and its version from before; `None` where there is none.
    pub(super) async fn look(
        &self,
        seat: &mut Seat,
        keys: &[Key],
    ) -> Result<(Vec<Option<Version>>, Vec<Option<Row>>), FlowError> {
        match (self, seat) {
            (Self::Postgres(table), Seat::Postgres(session)) => {
                let versions = table.versions(session, keys).await?;
                Ok((versions, table.weigh(session, keys).await?))
            }
            (Self::Mysql(table), Seat::Mysql(session)) => {
                let rows = table.rows(session, keys).await?;
                Ok((rows.iter().map(|row| row.as_ref().map(mysql::version)).collect(), rows))
            }
            _ => crossed(),
        }
    }

    /// Which row each key has.
    pub(super) async fn versions(&self, seat: &mut Seat, keys: &[Key]) -> Result<Vec<Option<Version>>, FlowError> {
        match (self, seat) {
            (Self::Postgres(table), Seat::Postgres(session)) => table.versions(session, keys).await,
            (Self::Mysql(table), Seat::Mysql(session)) => {
                let rows = table.rows(session, keys).await?;
                Ok(rows.iter().map(|row| row.as_ref().map(mysql::version)).collect())
            }
            _ => crossed(),
        }
    }

    /// Each key's row: the text of every column that is compared, as the flow would carry it.
    pub(super) async fn rows(&self, seat: &mut Seat, keys: &[Key]) -> Result<Vec<Option<Row>>, FlowError> {
        match (self, seat) {
            (Self::Postgres(table), Seat::Postgres(session)) => table.rows(session, keys).await,
            (Self::Mysql(table), Seat::Mysql(session)) => table.rows(session, keys).await,
            _ => crossed(),
        }
    }

    /// Of which keys there is a row.
    pub(super) async fn present(&self, seat: &mut Seat, keys: &[Key]) -> Result<Vec<bool>, FlowError> {
        match (self, seat) {
            (Self::Postgres(table), Seat::Postgres(session)) => table.present(session, keys).await,
            (Self::Mysql(table), Seat::Mysql(session)) => table.present(session, keys).await,
            _ => crossed(),
        }
    }

    /// Holds this side's rows against the owner's; of a key that the owner has not, whether there is a row.
    pub(super) async fn compare(
        &self,
        seat: &mut Seat,
        keys: &[Key],
        own: &[Option<Row>],
    ) -> Result<Vec<Seen>, FlowError> {
        let whole: Vec<&Row> = own.iter().flatten().collect();
        let judged = match (self, &mut *seat) {
            (Self::Postgres(table), Seat::Postgres(session)) => table.judge(session, keys, own, &whole).await?,
            (Self::Mysql(table), Seat::Mysql(session)) => table.judge(session, &whole).await?,
            _ => return crossed(),
        };
        let mut judged = judged.into_iter();
        let mut seen: Vec<Seen> = own
            .iter()
            .map(|row| match row.as_ref().and_then(|_| judged.next().flatten()) {
                Some(true) => Seen::Same,
                Some(false) => Seen::Differs,
                None => Seen::Absent,
            })
            .collect();
        // Whose row was not found, or is none that this side could hold: is there one with its key?
        let open: Vec<usize> = (0..seen.len()).filter(|&at| seen[at] == Seen::Absent).collect();
        let asked: Vec<Key> = open.iter().map(|&at| keys[at].clone()).collect();
        for (at, there) in open.into_iter().zip(self.present(seat, &asked).await?) {
            if there {
                seen[at] = Seen::Differs;
            }
        }
        Ok(seen)
    }

    /// In which columns this side's rows differ from the owner's, whom `owner` shows; nothing where that cannot be told.
    pub(super) async fn unlike(
        &self,
        seat: &mut Seat,
        owner: &Self,
        owner_seat: &mut Seat,
        keys: &[Key],
    ) -> Result<Vec<Vec<usize>>, FlowError> {
        let places = |same: Option<Vec<bool>>| -> Vec<usize> {
            same.into_iter().flatten().enumerate().filter(|(_, same)| !same).map(|(at, _)| at).collect()
        };
        if let (Self::Postgres(table), Seat::Postgres(session), Self::Postgres(own), Seat::Postgres(own_session)) =
            (self, &mut *seat, owner, &mut *owner_seat)
        {
            let own = own.by_column(own_session, keys).await?;
            let other = table.by_column(session, keys).await?;
            let same = |(own, other): (Option<Vec<String>>, Option<Vec<String>>)| {
                Some(own?.iter().zip(&other?).map(|(own, other)| own == other).collect())
            };
            return Ok(own.into_iter().zip(other).map(|pair| places(same(pair))).collect());
        }
        let own = owner.rows(owner_seat, keys).await?;
        let whole: Vec<&Row> = own.iter().flatten().collect();
        let judged = match (self, seat) {
            (Self::Postgres(table), Seat::Postgres(session)) => table.judge_columns(session, &whole).await?,
            (Self::Mysql(table), Seat::Mysql(session)) => table.judge_columns(session, &whole).await?,
            _ => return crossed(),
        };
        let mut judged = judged.into_iter();
        Ok(own.iter().map(|row| places(row.as_ref().and_then(|_| judged.next().flatten()))).collect())
    }
}
