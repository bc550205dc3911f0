//! Rows on their way into PostgreSQL's open target transaction: folded into runs, or stored as violations.

use std::collections::{BTreeMap, HashMap};

use tokio_postgres::{Statement, types::PgLsn};

use super::{
    catalogue::Catalogue,
    fold::{Run, Ways},
    function::TargetFunction,
    load,
    pipe::Pipe,
    position::{self, Holder, Parameter},
    table::{Shape, TargetTable, Write},
    text_array::TextArray,
};
use crate::{
    config::{ApplyAs, Target},
    database::postgres::{PostgresUrl, Session},
    error::FlowError,
    failpoint::{self, Point},
    metrics::FlowMetrics,
    names::FlowNames,
    plan::Plan,
    position::{Phase, Position},
    record::{
        control::Load,
        envelope::{Envelope, Op},
    },
    source::SourceLink,
    status::Board,
    target::{
        applied::{Applied, Loading},
        row::Row,
    },
};

/// A session that holds the position row, and what it has not sent yet.
pub(crate) struct Writer {
    names: FlowNames,
    metrics: FlowMetrics,
    pub(crate) pipe: Pipe,
    holder: Holder,
    pub(crate) catalogue: Catalogue,
    pub(crate) tables: Vec<TargetTable>,
    /// Counted on behind the tables.
    pub(crate) functions: Vec<TargetFunction>,
    run: Option<Run>,
    /// What was read last.
    pub(crate) row: Row,
    truncated: Vec<(usize, Position)>,
    /// What is deleted takes nothing else with it.
    is_replica: bool,
    changes: HashMap<(usize, Op), u64>,
}

// === impl Writer ===

impl Writer {
    /// Connects, looks the tables up, and takes the position row.
    pub(crate) async fn open(plan: &Plan, url: &PostgresUrl, board: &Board) -> Result<(Self, Applied), FlowError> {
        let names = &plan.names;
        let session = url.connect(&names.application("apply")).await?;
        if plan.apply_as == ApplyAs::Replica {
            session.batch_execute("SET session_replication_role = replica").await.map_err(|error| {
                match error.code() {
                    Some(state) if state.code() == "42501" => FlowError::Stop(
                        "the target does not let this role set session_replication_role: grant it (`GRANT SET ON PARAMETER session_replication_role`, or superuser), or say `apply_as: origin`, which lets triggers and foreign keys fire"
                            .into(),
                    ),
                    _ => FlowError::sql("setting session_replication_role", &error),
                }
            })?;
        }
        let catalogue = Catalogue::take(&session, &plan.tables).await?;
        let mut tables = Vec::with_capacity(plan.tables.len());
        for table in plan.tables.iter().filter(|table| !table.is_function) {
            tables.push(TargetTable::load(&session, table).await?);
        }
        let functions = functions(plan, &session).await?;
        let (pipe, holder, applied) = position::take(plan, session).await?;
        let writer = Self {
            names: names.clone(),
            metrics: board.metrics().clone(),
            pipe,
            holder,
            catalogue,
            tables,
            functions,
            run: None,
            row: Row::default(),
            truncated: Vec::new(),
            is_replica: plan.apply_as == ApplyAs::Replica,
            changes: HashMap::new(),
        };
        Ok((writer, applied))
    }

    pub(crate) async fn begin(&mut self, at: &Applied) -> Result<(), FlowError> {
        self.holder.begin(&mut self.pipe, at).await?;
        self.catalogue.check(&mut self.pipe).await
    }

    pub(crate) async fn commit(&mut self, old: &Applied, new: &Applied) -> Result<(), FlowError> {
        self.flush().await?;
        if self.changes.keys().any(|(table, _)| *table >= self.tables.len()) {
            self.catalogue.ask(&mut self.pipe).await?;
        }
        self.holder.advance(&mut self.pipe, old, new).await?;
        if !self.changes.is_empty() {
            failpoint::reached(Point::ApplyWritten);
        }
        position::commit(&mut self.pipe).await?;
        for ((table, op), rows) in self.changes.drain() {
            match self.tables.get_mut(table) {
                Some(table) => table.count(&self.metrics, op, rows),
                None => self.functions[table - self.tables.len()].count(&self.metrics, op, rows),
            }
        }
        Ok(())
    }

    pub(crate) async fn roll_back(&mut self, open: bool) -> Result<(), FlowError> {
        self.run = None;
        self.truncated.clear();
        self.changes.clear();
        if open {
            self.pipe.discard().await;
            self.pipe.simple("rolling back", "ROLLBACK".into()).await?;
            self.pipe.drain().await?;
        }
        Ok(())
    }

    pub(crate) async fn snapshot_start(
        &mut self,
        again: bool,
        half: &BTreeMap<String, Loading>,
        loads: &[Load],
    ) -> Result<BTreeMap<String, Loading>, FlowError> {
        load::start(&mut self.pipe, &self.names, &self.tables, &self.functions, again, half, loads).await
    }

    pub(crate) async fn load(&mut self, load: &Load) -> Result<Loading, FlowError> {
        self.flush().await?;
        load::begin(&mut self.pipe, &self.names, &self.tables, &self.functions, load).await
    }

    pub(crate) async fn loaded(&mut self, table: &str, loading: Loading) -> Result<(), FlowError> {
        self.flush().await?;
        load::loaded(&mut self.pipe, &self.names, &self.tables, table, loading).await
    }

    /// Where all lanes of the flow are.
    pub(crate) async fn lane_rows(&self) -> Result<Vec<position::LaneRow>, FlowError> {
        position::lanes(self.pipe.session(), &self.names).await
    }

    /// Which tables are being filled, as the target says now.
    pub(crate) async fn loading_now(&self) -> Result<BTreeMap<String, Loading>, FlowError> {
        load::loading(self.pipe.session(), &self.names).await
    }

    pub(crate) async fn snapshot_end(&mut self) -> Result<(), FlowError> {
        self.flush().await?;
        load::end(&mut self.pipe, &self.names, &self.tables).await
    }

    /// Which of the functions takes its table's changes.
    fn function(&self, envelope: &Envelope<'_>) -> Option<usize> {
        self.functions.iter().position(|function| function.plan.is(&envelope.schema, &envelope.table))
    }

    /// Reads a row's columns, and gives its table; of one that goes to a function its key alone.
    pub(crate) fn read(&mut self, envelope: &Envelope<'_>, at: Position) -> Result<usize, FlowError> {
        let is_it = |table: &TargetTable| table.plan.is(&envelope.schema, &envelope.table);
        let Some(table) = self.tables.iter().position(is_it) else {
            let Some(function) = self.function(envelope) else {
                return Err(FlowError::Stop(format!(
                    "{}.{} at {at}: the file does not name this table",
                    envelope.schema, envelope.table
                )));
            };
            self.row.read_only(envelope, &self.functions[function].key, at)?;
            return Ok(self.tables.len() + function);
        };
        if envelope.op != Op::Truncate {
            self.row.read(envelope, &self.tables[table], at)?;
        }
        Ok(table)
    }

    /// Adds a row to the run, or begins the next; one that may not `fold` is a statement of its own.
    pub(crate) async fn row(
        &mut self,
        envelope: &Envelope<'_>,
        at: Position,
        folds: bool,
        loading: Option<Loading>,
    ) -> Result<(), FlowError> {
        let op = envelope.op;
        if let Some(function) = self.function(envelope) {
            // All rows before it go first. Tables that are emptied together wait for each other.
            if op == Op::Truncate {
                self.flush_run().await?;
            } else {
                self.flush().await?;
            }
            *self.changes.entry((self.tables.len() + function, op)).or_default() += 1;
            return self.functions[function].take(&mut self.pipe, envelope, at, loading).await;
        }
        let table = self.read(envelope, at)?;
        if op == Op::Truncate {
            // Tables that a source empties together must be emptied together, or their foreign keys forbid it.
            self.flush_run().await?;
            self.truncated.push((table, at));
            return Ok(());
        }
        if let Some(loading) = loading.filter(|_| at.phase == Phase::Stream) {
            return self.loading_row(table, op, at, folds, loading).await;
        }
        let keeps = self.tables[table].plan.existing == Target::KeepMatching;
        let (write, ways) = match op {
            Op::Create => (Write::Insert, Ways::default()),
            Op::Update => (Write::Update, Ways::default()),
            // A chunk that comes once more when its table is complete: the row is as it is here in the stream.
            Op::Read if at.phase == Phase::Stream => (Write::Merge, Ways { lenient: true, ..Ways::default() }),
            Op::Read if keeps => (Write::Merge, Ways { lenient: true, keeps: true, clears: None }),
            Op::Read => (Write::Insert, Ways::default()),
            Op::Delete | Op::Truncate => (Write::Delete, Ways::default()),
        };
        self.put(table, write, ways, op, at, folds).await
    }

    /// While a table is being filled its rows may not be here yet. What the stream brings whole is right wherever it comes; what it does not
    /// bring whole is passed over where the row is missing: a chunk will bring it.
    async fn loading_row(
        &mut self,
        table: usize,
        op: Op,
        at: Position,
        folds: bool,
        loading: Loading,
    ) -> Result<(), FlowError> {
        let lenient = Ways { lenient: true, ..Ways::default() };
        let (moves, is_whole) = (self.row.moves_key(), self.row.given() >= loading.columns);
        let merge = Ways { keeps: loading.keeps, ..lenient };
        match op {
            Op::Create | Op::Read => self.put(table, Write::Merge, merge, op, at, folds).await,
            Op::Update if is_whole => {
                if moves && self.tables[table].plan.mapping.untouched().next().is_some() {
                    // What the row has of its own goes with it; where it is not there yet, it is merged.
                    self.put(table, Write::Update, Ways { clears: None, ..lenient }, op, at, folds).await?;
                } else if moves {
                    self.put(table, Write::Delete, Ways { clears: Some(false), ..lenient }, op, at, folds).await?;
                }
                self.put(table, Write::Merge, merge, op, at, folds).await
            }
            Op::Update => {
                if moves {
                    // A row from before the copy may be in the way.
                    self.put(table, Write::Delete, Ways { clears: Some(true), ..lenient }, op, at, folds).await?;
                }
                self.put(table, Write::Update, Ways { keeps: loading.keeps, ..lenient }, op, at, folds).await
            }
            Op::Delete | Op::Truncate => self.put(table, Write::Delete, lenient, op, at, folds).await,
        }
    }

    /// The row that was just read is not applied now, and its table is copied over rows that were there: what stands under its keys is noted as
    /// seen, or the copy's end would delete what the change is to find.
    pub(crate) async fn keep(&mut self, table: usize) -> Result<(), FlowError> {
        let (target, row) = (&mut self.tables[table], &self.row);
        let seen = load::seen_table(&self.names, target);
        let whole = |value: &dyn Fn(usize) -> Option<Option<Vec<u8>>>| -> Option<Vec<TextArray>> {
            let one = |key: &usize| {
                let mut array = TextArray::default();
                array.push(Some(&value(*key)??));
                Some(array)
            };
            target.key.iter().map(one).collect()
        };
        let old = whole(&|key| row.old_key(key).map(|text| text.map(<[u8]>::to_vec)));
        let new = whole(&|key| row.after(key).map(|text| text.map(<[u8]>::to_vec))).filter(|_| row.moves_key());
        let shape = Shape { write: Write::Seen, columns: target.key.clone(), moves_key: false };
        let statement = statement(&mut self.pipe, target, &shape, &seen).await?;
        // What was sent before has its own reason to fail, which must not be taken for the key's.
        self.pipe.drain().await?;
        for key in [old, new].into_iter().flatten() {
            self.pipe.simple("noting a key seen", "SAVEPOINT banyan_keep".into()).await?;
            // A key that the target cannot have is why some rows are parked: nothing stands under it.
            let after = match now(&mut self.pipe, "noting a key seen", &statement, key.iter().collect()).await {
                Ok(_) => "RELEASE banyan_keep",
                Err(_) => "ROLLBACK TO banyan_keep; RELEASE banyan_keep",
            };
            self.pipe.simple("noting a key seen", after.into()).await?;
        }
        Ok(())
    }

    /// Puts the row that was just read into the run.
    async fn put(
        &mut self,
        table: usize,
        write: Write,
        ways: Ways,
        op: Op,
        at: Position,
        folds: bool,
    ) -> Result<(), FlowError> {
        let target = &self.tables[table];
        if let Some(run) = self.run.as_mut().filter(|run| folds && run.takes(table, target, write, ways, op, &self.row))
        {
            return run.push(target, &self.row, at);
        }
        let run = Run::begin(table, target, write, ways, op, &self.row, at)?;
        self.flush().await?;
        self.run = Some(run);
        Ok(())
    }

    pub(crate) async fn flush(&mut self) -> Result<(), FlowError> {
        self.flush_run().await?;
        if self.truncated.is_empty() {
            return Ok(());
        }
        let truncated = std::mem::take(&mut self.truncated);
        for (table, _) in &truncated {
            *self.changes.entry((*table, Op::Truncate)).or_default() += 1;
        }
        self.pipe.drain().await?;
        let emptied = self
            .pipe
            .session()
            .batch_execute(&load::emptying(truncated.iter().map(|(table, _)| &self.tables[*table])))
            .await;
        let (table, at) = truncated[0];
        emptied.map_err(|e| FlowError::sql("emptying tables", &e).at(&self.tables[table].plan.target, at))
    }

    /// Sends the run as one statement; every row must be hit.
    async fn flush_run(&mut self) -> Result<(), FlowError> {
        let Some(run) = self.run.take() else { return Ok(()) };
        let table = &mut self.tables[run.table];
        if run.ways.clears.is_none() {
            *self.changes.entry((run.table, run.op)).or_default() += run.rows as u64;
        }
        let seen = load::seen_table(&self.names, table);
        let mut shape = run.shape;
        if shape.write == Write::Update && shape.moves_key && table.has_fixed_key() {
            return Err(FlowError::Divergence {
                table: table.plan.target.clone(),
                position: run.first.to_string(),
                what: "the key changed, and the target's is GENERATED ALWAYS AS IDENTITY: it cannot be set".into(),
                of_data: false,
            });
        }
        // Nothing but the key, and the key stayed.
        if shape.write == Write::Update && table.settable(&shape).next().is_none() {
            return Ok(());
        }
        let Ways { keeps, lenient, .. } = run.ways;
        let mut columns = run.columns;
        if shape.write == Write::Merge && table.plan.mapping.has_filter() {
            no_others(&mut self.pipe, table, &shape, &seen, &columns, run.first).await?;
        }
        // What a row has of its own would go with it.
        let may_go = self.is_replica && table.plan.mapping.untouched().next().is_none();
        // Where the key moves the row itself stands under its old key: its table's copy brings it once more.
        if keeps && may_go && !shape.moves_key && shape.write != Write::Delete {
            free(&mut self.pipe, table, &shape, &seen, &columns).await?;
        }
        if keeps && shape.write == Write::Merge {
            shape.write = Write::Seen;
            // The keys are noted first; the arrays are then given away to the rows.
            let statement = statement(&mut self.pipe, table, &shape, &seen).await?;
            now(&mut self.pipe, "noting the keys seen", &statement, columns.iter().collect()).await?;
            shape.write = Write::Merge;
        }
        let statement = statement(&mut self.pipe, table, &shape, &seen).await?;
        let mut parameters = run.old_key;
        parameters.append(&mut columns);
        let (name, rows, first, last) = (table.plan.target.clone(), run.rows as u64, run.first, run.last);
        self.pipe
            .execute(statement, parameters, run.bytes, move |found| match found {
                Ok(hit) if hit == rows || lenient => Ok(()),
                Ok(hit) => Err(FlowError::Divergence {
                    table: name,
                    position: if rows == 1 { first.to_string() } else { format!("{first} to {last}") },
                    what: format!(
                        "{} of {rows} changed rows are not in the target: both sides differ",
                        rows - hit.min(rows)
                    ),
                    of_data: true,
                }),
                Err(error) => Err(FlowError::sql("applying", &error).at(&name, first)),
            })
            .await
    }

    pub(crate) async fn violation(&mut self, table: &str, op: Op, epoch: i64, at: Position) -> Result<(), FlowError> {
        let names = &self.names;
        let statement = self
            .pipe
            .prepare(
                "storing a violation",
                "INSERT INTO banyan.violation (install, sync, flow, generation, lsn, ordinal, source_table, op, epoch) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
            )
            .await?;
        let parameters = vec![
            Parameter::Text(names.install.clone()),
            Parameter::Text(names.sync.clone()),
            Parameter::Text(names.flow.as_str().into()),
            Parameter::Int(at.generation.get()),
            Parameter::Lsn(PgLsn::from(at.lsn.get())),
            Parameter::Int(at.ordinal.cast_signed()),
            Parameter::Text(table.to_owned()),
            Parameter::Text(op.as_str().into()),
            Parameter::Int(epoch),
        ];
        self.pipe
            .execute(statement, parameters, 0, |found| {
                found.map(drop).map_err(|error| FlowError::sql("storing a violation", &error))
            })
            .await
    }
}

/// The functions of the plan. What tells their rows apart is asked of the source, which may be away: then all of a table counts as touched by what
/// is parked of it.
async fn functions(plan: &Plan, session: &Session) -> Result<Vec<TargetFunction>, FlowError> {
    let (mut functions, mut link) = (Vec::new(), None);
    for table in plan.tables.iter().filter(|table| table.is_function) {
        if link.is_none() {
            link = Some(SourceLink::connect(plan, "keys").await);
        }
        let key = match &mut link {
            Some(Ok(link)) => link.key(&table.source).await.ok(),
            _ => None,
        };
        functions.push(TargetFunction::load(session, table, key.unwrap_or_default()).await?);
    }
    Ok(functions)
}

/// A copy must not write over a row that is none of the sync's, though it has the key of one that is.
async fn no_others(
    pipe: &mut Pipe,
    table: &mut TargetTable,
    run: &Shape,
    seen: &str,
    columns: &[TextArray],
    first: Position,
) -> Result<(), FlowError> {
    let shape = Shape { write: Write::Others, columns: table.key.clone(), moves_key: false };
    let keys: Vec<&TextArray> = table
        .key
        .iter()
        .filter_map(|key| run.columns.iter().position(|own| own == key).map(|at| &columns[at]))
        .collect();
    let statement = statement(pipe, table, &shape, seen).await?;
    match now(pipe, "looking for others' rows", &statement, keys).await? {
        0 => Ok(()),
        _ => Err(FlowError::Divergence {
            table: table.plan.target.clone(),
            position: first.to_string(),
            what: "the target has a row with this key that is none of the sync's `rows`".into(),
            of_data: true,
        }),
    }
}

/// Rows from before a copy that stand in the way of this run's go: if their row is still there, it comes as it is now.
async fn free(
    pipe: &mut Pipe,
    table: &mut TargetTable,
    run: &Shape,
    seen: &str,
    columns: &[TextArray],
) -> Result<(), FlowError> {
    for unique in 0..table.uniques.len() {
        let mut needed = table.key.clone();
        needed.extend(table.uniques[unique].columns.iter().filter(|column| !table.key.contains(column)));
        let place = |column: &usize| run.columns.iter().position(|own| own == column);
        // A value that the change does not say has not changed.
        let Some(places) = needed.iter().map(place).collect::<Option<Vec<usize>>>() else { continue };
        let shape = Shape { write: Write::Free(unique), columns: needed, moves_key: false };
        let statement = statement(pipe, table, &shape, seen).await?;
        now(pipe, "making room for a copied row", &statement, places.iter().map(|&at| &columns[at]).collect()).await?;
    }
    Ok(())
}

/// Sends a statement whose parameters are needed once more, and gives how many rows it hit or found.
async fn now(
    pipe: &mut Pipe,
    doing: &'static str,
    statement: &Statement,
    columns: Vec<&TextArray>,
) -> Result<u64, FlowError> {
    match pipe.session().execute_raw(statement, columns).await {
        Ok(rows) => Ok(rows),
        Err(error) => {
            // An earlier statement's failure is the reason, if there was one.
            pipe.drain().await?;
            Err(FlowError::sql(doing, &error))
        }
    }
}

async fn statement(
    pipe: &mut Pipe,
    table: &mut TargetTable,
    shape: &Shape,
    seen: &str,
) -> Result<Statement, FlowError> {
    if let Some(statement) = table.statement(shape) {
        return Ok(statement.clone());
    }
    let statement = pipe.prepare("preparing a statement", &table.sql(shape, seen)).await?;
    table.remember(shape.clone(), statement.clone());
    Ok(statement)
}
