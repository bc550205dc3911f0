//! A transaction on its way into `banyan.parked`: its records are stored as they go by, in the target transaction that moves the position.

use std::{collections::HashSet, mem};

use tokio_postgres::types::PgLsn;

use super::{
    book::MOST_KEYS,
    keys::{Claim, Keys, Scratch, Touch},
};
use crate::{
    error::FlowError,
    names::FlowNames,
    position::{Generation, Lsn},
    record::{control::Commit, envelope::Op},
    target::{
        postgres::{pipe::Pipe, position::Parameter},
        row::Row,
    },
};

/// Rows and keys go to the target when there are so many, or so many bytes.
const ROWS: usize = 500;
const BYTES: usize = 1 << 20;

const BEGIN: &str = "INSERT INTO banyan.parked (install, sync, flow, generation, commit_lsn, reason, tries) \
     VALUES ($1, $2, $3, $4, $5, $6, $7) RETURNING id";
const PUT_ROWS: &str = "INSERT INTO banyan.parked_row (parked, ordinal, target_table, op, record) \
     SELECT $1, * FROM unnest($2::bigint[], $3::text[], $4::text[], $5::bytea[])";
const PUT_KEYS: &str = "INSERT INTO banyan.parked_key (parked, target_table, key_name, role, key) \
     SELECT $1, * FROM unnest($2::text[], $3::text[], $4::text[], $5::text[])";
const END: &str = "UPDATE banyan.parked SET end_lsn = $2, source_time = to_timestamp($3::bigint / 1e6), rows = $4, bytes = $5, follows = nullif($6::bigint, 0) \
     WHERE id = $1";

/// A transaction that is to be parked when its records go by.
#[derive(Debug)]
pub(crate) struct Draft {
    /// Which one.
    pub(crate) lsn: Lsn,
    /// Table, position and SQLSTATE; never a value.
    pub(crate) reason: String,
    /// The first parked one that it touches.
    pub(crate) follows: Option<i64>,
    pub(crate) tries: u32,
    stored: Option<Stored>,
}

/// What of it stands in the open target transaction.
#[derive(Debug, Default)]
struct Stored {
    id: i64,
    rows: u64,
    bytes: u64,
    keys: usize,
    whole: HashSet<usize>,
    waiting: Waiting,
}

/// What is not sent yet.
#[derive(Debug, Default)]
struct Waiting {
    ordinals: Vec<i64>,
    tables: Vec<String>,
    ops: Vec<String>,
    records: Vec<Vec<u8>>,
    /// Table, name, touch, text.
    keys: [Vec<String>; 4],
    bytes: usize,
}

/// A row that is to be stored.
pub(crate) struct Change<'r> {
    pub(crate) table: usize,
    pub(crate) op: Op,
    /// Its columns, unless it empties the table.
    pub(crate) row: &'r Row,
    pub(crate) record: &'r [u8],
    pub(crate) ordinal: u64,
}

// === impl Draft ===

impl Draft {
    pub(crate) fn new(lsn: Lsn, reason: String, follows: Option<i64>, tries: u32) -> Self {
        Self { lsn, reason, follows, tries, stored: None }
    }

    /// What was stored was rolled back.
    pub(crate) fn again(&mut self) {
        self.stored = None;
        if !self.is_follower() {
            self.follows = None;
        }
    }

    /// It was not tried: it touches what another one holds.
    pub(crate) fn is_follower(&self) -> bool {
        self.tries == 0
    }

    /// Its number, once the target has given it one.
    pub(crate) fn id(&self) -> Option<i64> {
        self.stored.as_ref().map(|stored| stored.id)
    }

    /// Rows and bytes so far.
    pub(crate) fn size(&self) -> (u64, u64) {
        self.stored.as_ref().map_or((0, 0), |stored| (stored.rows, stored.bytes))
    }

    pub(crate) async fn begin(
        &mut self,
        pipe: &mut Pipe,
        names: &FlowNames,
        generation: Generation,
    ) -> Result<(), FlowError> {
        pipe.drain().await?;
        let (flow, tries) = (names.flow.as_str(), i32::try_from(self.tries).unwrap_or(i32::MAX));
        let (generation, lsn) = (generation.get(), PgLsn::from(self.lsn));
        let row = pipe
            .session()
            .query_one(BEGIN, &[&names.install, &names.sync, &flow, &generation, &lsn, &self.reason, &tries])
            .await
            .map_err(|e| FlowError::sql("parking a transaction", &e))?;
        self.stored = Some(Stored { id: row.get(0), ..Stored::default() });
        Ok(())
    }

    /// Stores one change. `known` is how many keys are in the book already.
    pub(crate) async fn put(
        &mut self,
        pipe: &mut Pipe,
        change: Change<'_>,
        keys: &Keys,
        known: usize,
        scratch: &mut Scratch,
    ) -> Result<(), FlowError> {
        let Some(stored) = &mut self.stored else { return Ok(()) };
        let Change { table, op, row, record, ordinal } = change;
        stored.rows += 1;
        stored.bytes += record.len() as u64;
        let waiting = &mut stored.waiting;
        waiting.ordinals.push(ordinal.cast_signed());
        waiting.tables.push(keys.label(table).to_owned());
        waiting.ops.push(op.as_str().to_owned());
        waiting.records.push(record.to_vec());
        waiting.bytes += record.len();
        let name = |table: usize| keys.label(table);
        if op == Op::Truncate || !keys.are_told(table, row, op) || known + stored.keys >= MOST_KEYS {
            if stored.whole.insert(table) {
                waiting.key(name(table), "", Touch::All, b"");
            }
        } else if !stored.whole.contains(&table) {
            let count = &mut stored.keys;
            keys.of_row(table, row, op, scratch, |Claim { table, key, touch, text }| {
                *count += 1;
                waiting.key(name(table), keys.name(table, key), touch, text);
            });
        }
        if waiting.ordinals.len() >= ROWS || waiting.bytes >= BYTES {
            stored.send(pipe).await?;
        }
        Ok(())
    }

    /// All of it has gone by.
    pub(crate) async fn end(&mut self, pipe: &mut Pipe, commit: Commit) -> Result<(), FlowError> {
        let follows = self.follows.unwrap_or(0);
        let Some(stored) = &mut self.stored else { return Ok(()) };
        stored.send(pipe).await?;
        let statement = pipe.prepare("parking a transaction", END).await?;
        let parameters = vec![
            Parameter::Int(stored.id),
            Parameter::Lsn(commit.end.into()),
            Parameter::Int(commit.at),
            Parameter::Int(stored.rows.cast_signed()),
            Parameter::Int(stored.bytes.cast_signed()),
            Parameter::Int(follows),
        ];
        execute(pipe, statement, parameters, 0).await
    }
}

// === impl Stored ===

impl Stored {
    async fn send(&mut self, pipe: &mut Pipe) -> Result<(), FlowError> {
        let Waiting { ordinals, tables, ops, records, keys, bytes } = mem::take(&mut self.waiting);
        if !ordinals.is_empty() {
            let statement = pipe.prepare("parking a transaction", PUT_ROWS).await?;
            let [ordinals, records] = [Parameter::Ints(ordinals), Parameter::Bytes(records)];
            let parameters =
                vec![Parameter::Int(self.id), ordinals, Parameter::Texts(tables), Parameter::Texts(ops), records];
            execute(pipe, statement, parameters, bytes).await?;
        }
        if !keys[0].is_empty() {
            let statement = pipe.prepare("parking a transaction", PUT_KEYS).await?;
            let mut parameters = vec![Parameter::Int(self.id)];
            parameters.extend(keys.map(Parameter::Texts));
            execute(pipe, statement, parameters, 0).await?;
        }
        Ok(())
    }
}

// === impl Waiting ===

impl Waiting {
    fn key(&mut self, table: &str, name: &str, touch: Touch, text: &[u8]) {
        let text = String::from_utf8_lossy(text);
        for (column, value) in self.keys.iter_mut().zip([table, name, touch.as_str(), &text]) {
            column.push(value.to_owned());
        }
        self.bytes += text.len();
    }
}

async fn execute(
    pipe: &mut Pipe,
    statement: tokio_postgres::Statement,
    parameters: Vec<Parameter>,
    weight: usize,
) -> Result<(), FlowError> {
    pipe.execute(statement, parameters, weight, |found| {
        found.map(drop).map_err(|error| FlowError::sql("parking a transaction", &error))
    })
    .await
}
