//! Changes of the tables' columns in MariaDB and MySQL: which shape holds where in the log, and what the flow does where it meets another.
//!
//! As with PostgreSQL, but for this: no table is copied again by itself, and nothing but the statements in the log proves what rows of before hold. So
//! a column that was added plainly, NULL throughout on both sides, flows on; all else pauses the flow. What was met stands in
//! `banyan.schema_change` of the source.

use super::{
    shape::{self, ColumnShape, TableShape},
    stored::Opened,
};
use crate::{
    database::mysql::{MysqlSession, cell, text},
    error::FlowError,
    names::FlowNames,
    plan::Plan,
    position::{Generation, Lsn},
    preflight,
};

/// A change that was met.
#[derive(Debug, Clone)]
pub(crate) struct Met {
    pub(crate) id: u64,
    /// The transaction, and the record before which the change shows itself.
    at: (Lsn, u64),
    before: TableShape,
    pub(crate) after: TableShape,
    state: State,
    /// In words, with what to do.
    pub(crate) what: String,
    /// The end of the transaction before.
    pub(crate) drained: Lsn,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Paused,
    Resumed,
    Taken,
}

/// What the statements since the last announcement of a table have done to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Altered {
    /// Nothing is known: they may stand before where this process began to read.
    Unseen,
    /// No statement gave rows of before a value.
    Plainly,
    /// One may have.
    Otherwise,
}

/// Where an announcement stands.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Here {
    /// The transaction, and the record before which it stands.
    pub(crate) at: (Lsn, u64),
    /// The end of the transaction before.
    pub(crate) drained: Lsn,
    /// The side is open for writes.
    pub(crate) is_open: bool,
}

/// A column as the log announces it: its name, and its type in the words of [`ColumnShape::wire`].
pub(crate) type Announced = (String, String);

/// The shapes of a flow's tables along its log.
pub(crate) struct Schema {
    generation: Generation,
    /// As they were last taken.
    latest: Vec<TableShape>,
    met: Vec<Met>,
    pub(crate) altered: Vec<Altered>,
}

const DOING: &str = "noting that a table's columns changed";

// === impl Schema ===

impl Schema {
    pub(crate) async fn open(opened: &mut Opened, plan: &Plan) -> Result<Self, FlowError> {
        let met = met(&mut opened.session, &plan.names, opened.generation).await?;
        let latest = opened.shape.clone();
        let altered = vec![Altered::Unseen; latest.len()];
        Ok(Self { generation: opened.generation, latest, met, altered })
    }

    /// The shape that holds at `at`: the log may be read again from before changes that were taken.
    fn expected(&self, at: (Lsn, u64), table: usize) -> &TableShape {
        let later = |met: &&Met| met.state == State::Taken && met.after.name == self.latest[table].name && met.at > at;
        self.met.iter().find(later).map_or(&self.latest[table], |met| &met.before)
    }

    /// Whether an announcement says nothing new.
    pub(crate) fn is_known(&self, table: usize, at: (Lsn, u64), columns: &[Announced]) -> bool {
        is(self.expected(at, table), columns)
    }

    /// By which shape rows are read from here on; or why the flow must wait: all that was sent must stand in Kafka then.
    pub(crate) async fn announced(
        &mut self,
        session: &mut MysqlSession,
        plan: &Plan,
        table: usize,
        here: Here,
        columns: &[Announced],
    ) -> Result<TableShape, FlowError> {
        let Here { at, drained, is_open } = here;
        let before = self.expected(at, table).clone();
        if is(&before, columns) {
            self.altered[table] = Altered::Plainly;
            return Ok(before);
        }
        let own = &plan.tables[table];
        let catalogue = shape::read_one(session, &own.source).await?;
        let after = compose(&before, columns, catalogue.as_ref()).ok_or_else(|| {
            FlowError::Stop(format!(
                "{} at {}: the log has a column that the catalogue no longer has and that was never copied; copy the tables anew",
                own.source, at.0
            ))
        })?;
        let noted = self.met.iter().position(|met| met.state != State::Taken && met.at == at && met.after == after);
        let wants = if is_open { self.wants(session, plan, table, &before, &after, noted).await? } else { None };
        let told = told(&before, &after);
        if let Some(wants) = wants {
            let what = format!("{told}; {wants}");
            let sql = match noted {
                Some(noted) => format!(
                    "UPDATE banyan.schema_change SET state = 'paused', what = {} WHERE id = {}",
                    text(&what),
                    self.met[noted].id
                ),
                None => self.note(plan, here, &before, &after, "paused", &what)?,
            };
            session.run(DOING, &sql).await?;
            return Err(paused(&plan.names, &after.name, at.0, &what));
        }
        let note = match noted {
            Some(noted) => {
                self.met[noted].state = State::Taken;
                format!(
                    "UPDATE banyan.schema_change SET state = 'taken', ended_at = now(6) WHERE id = {}",
                    self.met[noted].id
                )
            }
            None => {
                let note = self.note(plan, here, &before, &after, "taken", &told)?;
                let met =
                    Met { id: 0, at, before, after: after.clone(), state: State::Taken, what: told.clone(), drained };
                self.met.push(met);
                self.met.sort_by_key(|met| met.at);
                note
            }
        };
        self.latest[table].clone_from(&after);
        self.altered[table] = Altered::Plainly;
        let names = &plan.names;
        let shape = format!(
            "UPDATE banyan.capture SET shape = {} WHERE install = {} AND sync = {} AND flow = {} AND generation = {}",
            text(&json(&self.latest)?),
            text(&names.install),
            text(&names.sync),
            text(names.flow.as_str()),
            self.generation
        );
        for sql in ["START TRANSACTION", &shape, &note, "COMMIT"] {
            session.run(DOING, sql).await?;
        }
        let (sync, flow) = (&names.sync, names.flow.as_str());
        tracing::warn!(sync, flow, table = after.name, at = %at.0, what = told, "a table's columns changed");
        Ok(after)
    }

    /// What the flow waits for; nothing when it can go on.
    async fn wants(
        &self,
        session: &mut MysqlSession,
        plan: &Plan,
        table: usize,
        before: &TableShape,
        after: &TableShape,
        noted: Option<usize>,
    ) -> Result<Option<String>, FlowError> {
        let own = &plan.tables[table];
        if own.is_function {
            // It gets whatever columns there are.
            return Ok(None);
        }
        let is_resumed = noted.is_some_and(|noted| self.met[noted].state == State::Resumed);
        let goes = |shape: &TableShape| -> Vec<ColumnShape> {
            shape.columns.iter().filter(|column| !own.mapping.leaves_out(&column.name)).cloned().collect()
        };
        let (from, to) = (goes(before), goes(after));
        if from == to {
            // All of it stays on its side.
            return Ok(None);
        }
        let added = to.get(from.len()..).filter(|_| to.starts_with(&from));
        if !is_resumed && added.is_none() {
            return Ok(Some("make the same change on the other side".to_owned()));
        }
        let application = plan.names.application("schema");
        let columns = sent(after);
        let source = preflight::Source::Mysql { session, table: &own.source, columns: &columns };
        let misfits = preflight::misfits(source, &plan.target, own, &application).await?;
        if !misfits.is_empty() {
            return Ok(Some(misfits.join("; ")));
        }
        if is_resumed {
            return Ok(None);
        }
        let names: Vec<&str> = added.into_iter().flatten().map(|column| column.name.as_str()).collect();
        let is_plain = self.altered[table] == Altered::Plainly
            && preflight::takes_no_default(session, &own.source, &names).await?
            && preflight::is_null_throughout(&plan.target, own, &names, &application).await?;
        Ok((!is_plain).then(|| {
            "rows from before are not sent again: see that they have the same values on the other side".to_owned()
        }))
    }

    fn note(
        &self,
        plan: &Plan,
        here: Here,
        before: &TableShape,
        after: &TableShape,
        state: &str,
        what: &str,
    ) -> Result<String, FlowError> {
        let names = &plan.names;
        let ended = if state == "taken" { "now(6)" } else { "NULL" };
        Ok(format!(
            "INSERT INTO banyan.schema_change (install, sync, flow, generation, source_table, lsn, ordinal, shape_before, shape_after, what, drained, state, ended_at) \
             VALUES ({}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, '{state}', {ended})",
            text(&names.install),
            text(&names.sync),
            text(names.flow.as_str()),
            self.generation,
            text(&after.name),
            here.at.0.get(),
            here.at.1,
            text(&json(before)?),
            text(&json(after)?),
            text(what),
            here.drained.get()
        ))
    }
}

/// The columns that are sent, and which are key.
pub(crate) fn sent(shape: &TableShape) -> Vec<(String, bool)> {
    let sent = shape.columns.iter().filter(|column| !column.is_generated);
    sent.map(|column| (column.name.clone(), column.is_key)).collect()
}

/// The change before which a flow waits.
pub(crate) async fn waiting(
    session: &mut MysqlSession,
    names: &FlowNames,
    generation: Generation,
) -> Result<Option<Met>, FlowError> {
    Ok(met(session, names, generation).await?.into_iter().find(|met| met.state == State::Paused))
}

/// The same, as an error.
pub(crate) async fn waits(
    session: &mut MysqlSession,
    names: &FlowNames,
    generation: Generation,
) -> Result<Option<FlowError>, FlowError> {
    let met = waiting(session, names, generation).await?;
    Ok(met.map(|met| paused(names, &met.after.name, met.at.0, &met.what)))
}

async fn met(session: &mut MysqlSession, names: &FlowNames, generation: Generation) -> Result<Vec<Met>, FlowError> {
    let sql = format!(
        "SELECT id, lsn, ordinal, shape_before, shape_after, state, what, drained FROM banyan.schema_change \
         WHERE install = {} AND sync = {} AND flow = {} AND generation = {generation} ORDER BY lsn, ordinal",
        text(&names.install),
        text(&names.sync),
        text(names.flow.as_str())
    );
    let rows = session.rows("reading the changes of the tables", &sql).await?;
    let shape = |row: &mysql_async::Row, at| serde_json::from_str(&cell::<String>(row, at)?).ok();
    let read = |row: &mysql_async::Row| {
        let state = match cell::<String>(row, 5)?.as_str() {
            "paused" => State::Paused,
            "resumed" => State::Resumed,
            _ => State::Taken,
        };
        Some(Met {
            id: cell(row, 0)?,
            at: (Lsn::new(cell(row, 1)?), cell(row, 2)?),
            before: shape(row, 3)?,
            after: shape(row, 4)?,
            state,
            what: cell(row, 6)?,
            drained: Lsn::new(cell(row, 7)?),
        })
    };
    Ok(rows.iter().filter_map(read).collect())
}

fn json(value: &impl serde::Serialize) -> Result<String, FlowError> {
    serde_json::to_string(value).map_err(|_| FlowError::Stop("the tables' columns could not be written".into()))
}

fn paused(names: &FlowNames, table: &str, at: Lsn, what: &str) -> FlowError {
    FlowError::Paused(format!(
        "{table} at {at}: {what}; then run `banyan sync resume {}`. The flow waits before the first row that it cannot carry; nothing is lost meanwhile",
        names.sync
    ))
}

fn is(shape: &TableShape, columns: &[Announced]) -> bool {
    shape.columns.len() == columns.len()
        && shape.columns.iter().zip(columns).all(|(own, (name, wire))| own.name == *name && own.wire == *wire)
}

/// What is announced, with what the log does not tell: from the catalogue, where it has the column as it is announced, else from what it was.
fn compose(before: &TableShape, columns: &[Announced], catalogue: Option<&TableShape>) -> Option<TableShape> {
    let one = |(at, (name, wire)): (usize, &Announced)| -> Option<ColumnShape> {
        let find = |shape: &TableShape| {
            shape.columns.iter().find(|column| column.name == *name && column.wire == *wire).cloned()
        };
        let renamed = || {
            let column = before.columns.get(at).filter(|column| column.wire == *wire)?;
            Some(ColumnShape { name: name.clone(), ..column.clone() })
        };
        catalogue.and_then(find).or_else(|| find(before)).or_else(renamed)
    };
    let columns: Option<Vec<_>> = columns.iter().enumerate().map(one).collect();
    Some(TableShape { name: before.name.clone(), columns: columns? })
}

/// A change in words.
fn told(before: &TableShape, after: &TableShape) -> String {
    let find = |shape: &TableShape, name: &str| shape.columns.iter().position(|column| column.name == name);
    let (mut parts, mut renamed) = (Vec::new(), Vec::new());
    for (at, column) in before.columns.iter().enumerate() {
        let name = &column.name;
        match find(after, name).map(|at| &after.columns[at]) {
            Some(now) if now.wire != column.wire => {
                parts.push(format!("column `{name}` is now {}, was {}", now.wire, column.wire));
            }
            Some(_) => {}
            None => match after.columns.get(at) {
                Some(now) if now.wire == column.wire && find(before, &now.name).is_none() => {
                    parts.push(format!("column `{name}` is now called `{}`", now.name));
                    renamed.push(&now.name);
                }
                _ => parts.push(format!("column `{name}` was dropped")),
            },
        }
    }
    let is_new = |column: &&ColumnShape| find(before, &column.name).is_none() && !renamed.contains(&&column.name);
    let added = after.columns.iter().filter(is_new);
    parts.extend(added.map(|column| format!("it has a new column `{}` ({})", column.name, column.wire)));
    if parts.is_empty() { "its columns stand in another order".to_owned() } else { parts.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::mysql::shape::Kind;

    fn shape(columns: &[(&str, &str, Kind)]) -> TableShape {
        let column = |(name, wire, kind): &(&str, &str, Kind)| ColumnShape {
            name: (*name).to_owned(),
            wire: (*wire).to_owned(),
            kind: kind.clone(),
            charset: String::new(),
            is_key: *name == "id",
            is_generated: false,
        };
        TableShape { name: "shop.t".into(), columns: columns.iter().map(column).collect() }
    }

    fn announced(shape: &TableShape) -> Vec<Announced> {
        shape.columns.iter().map(|column| (column.name.clone(), column.wire.clone())).collect()
    }

    #[test]
    fn what_the_log_does_not_tell_comes_from_the_catalogue_or_from_before() {
        let int = || Kind::Int { bytes: 4, unsigned: false };
        let before = shape(&[("id", "int", int()), ("u", "char(16) binary", Kind::Uuid)]);
        let after = shape(&[("id", "int", int()), ("v", "char(16) binary", Kind::Uuid), ("n", "int", int())]);
        // The catalogue is one rename ahead.
        let catalogue = shape(&[("id", "int", int()), ("w", "char(16) binary", Kind::Uuid), ("n", "int", int())]);
        assert_eq!(compose(&before, &announced(&after), Some(&catalogue)), Some(after.clone()));
        assert_eq!(compose(&before, &announced(&after), None), None, "nothing tells of `n`");
        assert_eq!(told(&before, &after), "column `u` is now called `v`, it has a new column `n` (int)");
        let retyped = shape(&[("id", "bigint", int())]);
        assert_eq!(told(&before, &retyped), "column `id` is now bigint, was int, column `u` was dropped");
    }
}
