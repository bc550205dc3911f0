//! Rows on their way into the open target transaction of MariaDB or MySQL: INSERTs and DELETEs of neighbours folded into one statement,
//! all statements of a transaction sent in a few batches.

use std::collections::{HashMap, HashSet};

use super::{
    batch::{Batch, Wanted},
    catalogue::Catalogue,
    literal::Unfit,
    load,
    position::{self, Holder},
    table::TargetTable,
};
use crate::{
    config::{ApplyAs, Target},
    database::mysql::{Flavor, MysqlSession, MysqlUrl, text},
    error::FlowError,
    failpoint::{self, Point},
    metrics::FlowMetrics,
    names::FlowNames,
    plan::Plan,
    position::Position,
    record::envelope::{Envelope, Op},
    status::Board,
    target::{applied::Applied, row::Row},
};

/// A folded statement has at most so many rows, or bytes.
const ROWS: u64 = 5_000;
const BYTES: usize = 512 << 10;

/// A session that holds the position row, and what it has not sent yet.
pub(crate) struct Writer {
    names: FlowNames,
    url: MysqlUrl,
    metrics: FlowMetrics,
    session: MysqlSession,
    holder: Holder,
    pub(crate) catalogue: Catalogue,
    tables: Vec<TargetTable>,
    batch: Batch,
    run: Option<Run>,
    row: Row,
    changes: HashMap<(usize, Op), u64>,
    /// END was handed over: the sets of seen keys go when it is committed.
    ended: bool,
}

/// Neighbouring rows of one table and kind, as the text of one statement.
struct Run {
    table: usize,
    op: Op,
    columns: Vec<usize>,
    sql: Vec<u8>,
    rows: u64,
    keys: HashSet<u64>,
    /// The keys alone, for `target: keep_matching`.
    seen: Vec<u8>,
    first: Position,
    last: Position,
}

// === impl Writer ===

impl Writer {
    /// Connects, looks the tables up, and takes the position row.
    pub(crate) async fn open(plan: &Plan, url: &MysqlUrl, board: &Board) -> Result<(Self, Applied), FlowError> {
        let names = &plan.names;
        let mut session = url.connect(&names.application("apply")).await?;
        if plan.apply_as == ApplyAs::Replica {
            session.run("setting foreign_key_checks", "SET foreign_key_checks = 0").await?;
        }
        let catalogue = Catalogue::take(&mut session, &plan.tables).await?;
        let mut tables = Vec::with_capacity(plan.tables.len());
        for table in &plan.tables {
            tables.push(TargetTable::load(&mut session, table).await?);
        }
        let (holder, applied) = position::take(plan, &mut session).await?;
        let writer = Self {
            names: names.clone(),
            url: url.clone(),
            metrics: board.metrics().clone(),
            session,
            holder,
            catalogue,
            tables,
            batch: Batch::default(),
            run: None,
            row: Row::default(),
            changes: HashMap::new(),
            ended: false,
        };
        Ok((writer, applied))
    }

    pub(crate) async fn begin(&mut self, at: &Applied) -> Result<(), FlowError> {
        self.catalogue.check(&mut self.session).await?;
        self.holder.begin(&mut self.batch, at);
        Ok(())
    }

    pub(crate) async fn commit(&mut self, old: &Applied, new: &Applied) -> Result<(), FlowError> {
        self.flush_run()?;
        self.holder.advance(&mut self.batch, old, new);
        // Every answer is known to be good before the word that makes it count.
        self.batch.send(&mut self.session).await?;
        if !self.changes.is_empty() {
            failpoint::reached(Point::ApplyWritten);
        }
        self.session.run("committing", "COMMIT").await?;
        for ((table, op), rows) in self.changes.drain() {
            self.tables[table].count(&self.metrics, op, rows);
        }
        if std::mem::take(&mut self.ended) {
            load::tidy(&self.url, &self.names, &self.tables).await?;
        }
        Ok(())
    }

    pub(crate) async fn roll_back(&mut self, open: bool) -> Result<(), FlowError> {
        self.run = None;
        self.batch.clear();
        self.changes.clear();
        self.ended = false;
        if open {
            self.session.run("rolling back", "ROLLBACK").await?;
        }
        Ok(())
    }

    /// Adds a row to the run, or begins the next.
    pub(crate) async fn row(&mut self, envelope: &Envelope<'_>, at: Position) -> Result<(), FlowError> {
        let Some(table) = self.tables.iter().position(|table| table.is(&envelope.schema, &envelope.table)) else {
            return Err(FlowError::Stop(format!(
                "{}.{} at {at}: the file does not name this table",
                envelope.schema, envelope.table
            )));
        };
        *self.changes.entry((table, envelope.op)).or_default() += 1;
        let target = &self.tables[table];
        match envelope.op {
            Op::Truncate => {
                self.flush_run()?;
                let table = &self.tables[table];
                let sql = format!("DELETE FROM {} WHERE {}", table.sql_name, table.own_rows());
                self.batch.push(Wanted::Anything { doing: "emptying tables" }, sql.as_bytes());
            }
            op @ (Op::Create | Op::Read | Op::Delete) => {
                self.row.read(envelope, target, at)?;
                if !self.run.as_ref().is_some_and(|run| run.takes(table, op, target, &self.row)) {
                    self.flush_run()?;
                    self.run = Some(Run::begin(table, op, &self.tables[table], &self.row, at));
                }
                if let Some(run) = &mut self.run {
                    run.push(&self.tables[table], &self.row, at)?;
                }
            }
            Op::Update => {
                self.row.read(envelope, target, at)?;
                self.flush_run()?;
                let target = &self.tables[table];
                if let Some(sql) = update(target, &self.row, at)? {
                    let wanted = Wanted::Rows { table: target.plan.target.clone(), rows: 1, first: at, last: at };
                    self.batch.push(wanted, &sql);
                }
            }
        }
        if self.batch.is_full() { self.batch.send(&mut self.session).await } else { Ok(()) }
    }

    pub(crate) async fn flush(&mut self) -> Result<(), FlowError> {
        self.flush_run()?;
        self.batch.send(&mut self.session).await
    }

    fn flush_run(&mut self) -> Result<(), FlowError> {
        let Some(run) = self.run.take() else { return Ok(()) };
        let table = &self.tables[run.table];
        let merges = run.op == Op::Read && table.plan.existing == Target::KeepMatching;
        let name = table.plan.target.clone();
        let mut sql = run.sql;
        if merges {
            let seen = load::seen_table(&self.names, run.table);
            let keys: Vec<&str> = table.key.iter().map(|&key| table.columns[key].sql_name.as_str()).collect();
            let mut note = format!("INSERT IGNORE INTO {seen} ({}) VALUES ", keys.join(", ")).into_bytes();
            note.extend_from_slice(&run.seen);
            self.batch.push(Wanted::Anything { doing: "noting the keys seen" }, &note);
            // A row that stands in the way by another unique index becomes this one; the row it was comes by itself.
            let values: Vec<String> = run
                .columns
                .iter()
                .map(|&column| &table.columns[column].sql_name)
                .map(|name| match self.session.flavor {
                    Flavor::Mariadb => format!("{name} = VALUES({name})"),
                    Flavor::Mysql => format!("{name} = came.{name}"),
                })
                .collect();
            if self.session.flavor == Flavor::Mysql {
                sql.extend_from_slice(b" AS came");
            }
            sql.extend_from_slice(format!(" ON DUPLICATE KEY UPDATE {}", values.join(", ")).as_bytes());
            self.batch.push(Wanted::Written { table: name, first: run.first }, &sql);
            return Ok(());
        }
        if run.op == Op::Delete {
            sql.push(b')');
        }
        self.batch.push(Wanted::Rows { table: name, rows: run.rows, first: run.first, last: run.last }, &sql);
        Ok(())
    }

    pub(crate) async fn violation(&mut self, table: &str, op: Op, epoch: i64, at: Position) -> Result<(), FlowError> {
        let names = &self.names;
        let sql = format!(
            "INSERT INTO banyan.violation (install, sync, flow, generation, lsn, ordinal, source_table, op, epoch) \
             VALUES ({}, {}, {}, {}, {}, {}, {}, '{}', {epoch})",
            text(&names.install),
            text(&names.sync),
            text(names.flow.as_str()),
            at.generation,
            at.lsn.get(),
            at.ordinal,
            text(table),
            op.as_str(),
        );
        self.batch.push(Wanted::Anything { doing: "storing a violation" }, sql.as_bytes());
        if self.batch.is_full() { self.batch.send(&mut self.session).await } else { Ok(()) }
    }

    pub(crate) async fn snapshot_start(&mut self, again: bool) -> Result<(), FlowError> {
        load::start(&mut self.session, &mut self.batch, &self.url, &self.names, &self.tables, again).await
    }

    pub(crate) async fn snapshot_end(&mut self) -> Result<(), FlowError> {
        self.flush_run()?;
        load::end(&mut self.batch, &self.names, &self.tables);
        self.ended = true;
        self.batch.send(&mut self.session).await
    }
}

/// Places a value that cannot be shown to the server.
fn unfit(Unfit(what): Unfit, table: &TargetTable, column: usize, at: Position) -> FlowError {
    FlowError::Divergence {
        of_data: false,
        table: table.plan.target.clone(),
        position: at.to_string(),
        what: format!("`{}` got {what}", table.columns[column].name),
    }
}

/// `(a, b)`, or the value alone where there is one column and `alone`.
fn key(table: &TargetTable, row: &Row, at: Position, alone: bool, out: &mut Vec<u8>) -> Result<(), FlowError> {
    let bare = alone && table.key.len() == 1;
    if !bare {
        out.push(b'(');
    }
    for (i, &column) in table.key.iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        let Some(Some(value)) = row.old_key(column) else {
            return Err(FlowError::Stop(format!(
                "{} at {at}: the record lacks the key column `{}`; the source's replica identity must hold the target's primary key",
                table.plan.target, table.columns[column].name
            )));
        };
        table.columns[column].class.write(out, Some(value)).map_err(|bad| unfit(bad, table, column, at))?;
    }
    if !bare {
        out.push(b')');
    }
    Ok(())
}

/// The statement of one changed row; nothing when nothing but the key was said, and the key stayed.
fn update(table: &TargetTable, row: &Row, at: Position) -> Result<Option<Vec<u8>>, FlowError> {
    let mut sql = format!("UPDATE {} SET ", table.sql_name).into_bytes();
    let mut first = true;
    for (column, value) in row.columns().zip(row.values()) {
        if table.key.contains(&column) && !row.moves_key() {
            continue;
        }
        if !std::mem::take(&mut first) {
            sql.push(b',');
        }
        sql.extend_from_slice(table.columns[column].sql_name.as_bytes());
        sql.push(b'=');
        table.columns[column].class.write(&mut sql, value).map_err(|bad| unfit(bad, table, column, at))?;
    }
    if first {
        return Ok(None);
    }
    let names: Vec<&str> = table.key.iter().map(|&key| table.columns[key].sql_name.as_str()).collect();
    sql.extend_from_slice(format!(" WHERE {} AND ({}) = ", table.own_rows(), names.join(",")).as_bytes());
    key(table, row, at, false, &mut sql)?;
    Ok(Some(sql))
}

// === impl Run ===

impl Run {
    /// An empty run that `row` is the first to join.
    fn begin(table: usize, op: Op, target: &TargetTable, row: &Row, at: Position) -> Self {
        let columns: Vec<usize> = if op == Op::Delete { Vec::new() } else { row.columns().collect() };
        let sql = if op == Op::Delete {
            let names: Vec<&str> = target.key.iter().map(|&key| target.columns[key].sql_name.as_str()).collect();
            // A row that has the same key and is none of the sync's counts as not found.
            let own = target.own_rows();
            match names.as_slice() {
                [name] => format!("DELETE FROM {} WHERE {own} AND {name} IN (", target.sql_name),
                names => format!("DELETE FROM {} WHERE {own} AND ({}) IN (", target.sql_name, names.join(",")),
            }
        } else {
            let names: Vec<&str> = columns.iter().map(|&column| target.columns[column].sql_name.as_str()).collect();
            format!("INSERT INTO {} ({}) VALUES ", target.sql_name, names.join(","))
        };
        Self {
            table,
            op,
            columns,
            sql: sql.into_bytes(),
            rows: 0,
            keys: HashSet::new(),
            seen: Vec::new(),
            first: at,
            last: at,
        }
    }

    /// Whether `row` may join. DELETEs only with distinct keys, or the count would not tell; a collision of hashes makes a run shorter.
    fn takes(&self, table: usize, op: Op, target: &TargetTable, row: &Row) -> bool {
        if self.table != table || self.op != op || self.rows >= ROWS || self.sql.len() >= BYTES {
            return false;
        }
        match op {
            Op::Delete => !self.keys.contains(&row.key_hash(target, false)),
            _ => self.columns.iter().copied().eq(row.columns()),
        }
    }

    /// Adds `row`, which [`Self::takes`] has let in.
    fn push(&mut self, target: &TargetTable, row: &Row, at: Position) -> Result<(), FlowError> {
        if self.rows > 0 {
            self.sql.push(b',');
        }
        if self.op == Op::Delete {
            key(target, row, at, true, &mut self.sql)?;
            self.keys.insert(row.key_hash(target, false));
        } else {
            self.sql.push(b'(');
            for (i, (&column, value)) in self.columns.iter().zip(row.values()).enumerate() {
                if i > 0 {
                    self.sql.push(b',');
                }
                target.columns[column]
                    .class
                    .write(&mut self.sql, value)
                    .map_err(|bad| unfit(bad, target, column, at))?;
            }
            self.sql.push(b')');
            if self.op == Op::Read && target.plan.existing == Target::KeepMatching {
                if self.rows > 0 {
                    self.seen.push(b',');
                }
                key(target, row, at, false, &mut self.seen)?;
            }
        }
        self.rows += 1;
        self.last = at;
        Ok(())
    }
}
