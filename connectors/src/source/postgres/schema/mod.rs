//! Changes of the tables' columns in mid-stream: which shape holds where, and what the flow does where it meets another.
//!
//! The side that is closed for writes is taken as it is: people change it first. On the owner's side only columns that were added behind all
//! others may be taken without a person, where the other side has them; and where it is not proven that the rows of before are right without an
//! event (`right`), the table is copied again. All else pauses the flow before its first row. What was met, where, and what became of it stands
//! in `changes`; what the catalogue said beside the announced columns in `facts`.

pub(crate) mod changes;
pub(crate) mod facts;
mod look;
mod right;
mod shape;
mod words;

pub(crate) use shape::Shape;

use super::chunks::kept;
use crate::{
    database::{DatabaseUrl, postgres::Session},
    error::FlowError,
    names::{FlowNames, literal},
    plan::{Plan, PlanTable},
    position::Generation,
    preflight,
    record::control::Load,
};
use changes::{Met, Place, State};
use facts::{AllFacts, Facts};
use look::Looks;

/// The shapes of a flow's tables along its stream.
pub(crate) struct Schema {
    generation: Generation,
    /// As they were last taken.
    shapes: Vec<Shape>,
    facts: AllFacts,
    /// In the order of the stream.
    met: Vec<Met>,
    pub(crate) looks: Looks,
}

/// What an announcement is, where it stands.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Judged {
    /// The shape that holds here.
    Known,
    /// The same, and its key, which was not known yet.
    Keyed,
    /// Another than the one that is given.
    Other(Shape),
}

/// What becomes of a change.
pub(crate) enum Decision {
    /// The flow goes on; `copies`: the table is copied again.
    Take { facts: Option<Facts>, copies: bool },
    /// It waits, and for this.
    Pause(String),
}

/// Where an announcement stands, beside the announcement itself.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Here {
    pub(crate) at: Place,
    /// The end of the transaction before.
    pub(crate) drained: crate::position::Lsn,
    /// Rows of the table came before it in its transaction.
    pub(crate) is_split: bool,
}

// === impl Schema ===

impl Schema {
    /// As it is stored.
    pub(crate) async fn open(
        session: &Session,
        names: &FlowNames,
        generation: Generation,
        lines: &str,
    ) -> Result<Self, FlowError> {
        Ok(Self {
            generation,
            shapes: Shape::parse_all(lines),
            facts: facts::noted(session, names).await?,
            met: changes::met(session, names, generation).await?,
            looks: Looks::default(),
        })
    }

    /// The shape of `table` that was last taken.
    pub(crate) fn latest(&self, table: &str) -> Option<&Shape> {
        self.shapes.iter().find(|shape| shape.table == table)
    }

    /// What an announcement at `at` is. The stream may be read again from before changes that were taken.
    pub(crate) fn judge(&self, at: Place, announced: &Shape) -> Option<Judged> {
        let later = |met: &&Met| met.state == State::Taken && met.after.table == announced.table && met.at > at;
        let latest = self.latest(&announced.table)?;
        let (expected, is_latest) = match self.met.iter().find(later) {
            Some(met) => (&met.before, false),
            None => (latest, true),
        };
        if !expected.has_columns_of(announced) {
            return Some(Judged::Other(expected.clone()));
        }
        let was_taken = |met: &Met| met.state == State::Taken && met.after == *expected;
        let is_unknown = expected.key().is_empty() && !self.met.iter().any(was_taken);
        Some(match (expected.key() == announced.key(), is_unknown, is_latest) {
            (true, ..) | (_, true, false) => Judged::Known,
            (_, true, true) => Judged::Keyed,
            _ => Judged::Other(expected.clone()),
        })
    }

    /// Takes the key that an announcement tells of first.
    pub(crate) async fn learn(&mut self, session: &Session, plan: &Plan, announced: &Shape) -> Result<(), FlowError> {
        self.put(announced);
        let sql = changes::store(&plan.names, self.generation, &self.shapes, &self.facts);
        session.batch_execute(&sql).await.map_err(|e| FlowError::sql("noting a table's key", &e))
    }

    /// What becomes of a change on the owner's side.
    pub(crate) async fn decide(
        &self,
        session: &Session,
        plan: &Plan,
        table: &PlanTable,
        here: Here,
        before: &Shape,
        after: &Shape,
    ) -> Result<Decision, FlowError> {
        if table.is_function {
            let loses_key = !before.is_whole() && !before.key().iter().all(|column| after.key().contains(column));
            if loses_key && !self.met.iter().any(|met| met.is_resumed(here.at, after)) {
                return Ok(Decision::Pause(
                    "see that the function finds its rows by the columns that the log has of them now".to_owned(),
                ));
            }
            // It gets whatever columns there are. What rows of before hold now it is told once more, unless it was told.
            let (noted, now) = (self.facts.get(&after.table), facts::read(session, &after.table).await?);
            let followed = noted.zip(now.as_ref()).and_then(|(noted, now)| noted.followed_to(now, before, after));
            let is_told = followed.is_some() && right::is_null_in_rows_of_before(session, before, after).await?;
            return Ok(Decision::Take { facts: if is_told { followed } else { now }, copies: !is_told });
        }
        let resumed = self.met.iter().find(|met| met.is_resumed(here.at, after));
        let (from, to) = (before.sent(&table.mapping), after.sent(&table.mapping));
        let has_its_key = from.key().is_empty()
            || from.key() == to.key()
            || (from.is_whole() && to.is_whole() && facts::sends_whole_rows(session, &after.table).await?);
        let is_growth = from.grown_into(&to).is_some() && has_its_key;
        let is_of_key = from.has_columns_of(&to);
        if is_of_key && has_its_key {
            // All of it stays on its side. Whether it has changed other rows with it, its files will tell.
            let now = facts::read(session, &after.table).await?;
            let facts = self.facts.get(&after.table).zip(now).map(|(noted, now)| noted.beside(&now, &to, after));
            return Ok(Decision::Take { facts, copies: false });
        }
        if resumed.is_none() && is_of_key && to.key().is_empty() {
            return Ok(Decision::Pause("give it the key back that the other side has".to_owned()));
        }
        if resumed.is_none() && !is_growth && !is_of_key {
            return Ok(Decision::Pause("make the same change on the other side".to_owned()));
        }
        let source = preflight::Source::Postgres { session, shape: after };
        let misfits = preflight::misfits(source, &plan.target, table, &plan.names.application("schema")).await?;
        if !misfits.is_empty() {
            return Ok(Decision::Pause(misfits.join("; ")));
        }
        let noted = self.facts.get(&after.table);
        let proven = right::proven(session, plan, table, noted, before, after, resumed).await?;
        Ok(match proven {
            Some(facts) => Decision::Take { facts: Some(facts), copies: false },
            None if plan.copies_in_chunks() || resumed.is_some() || is_of_key => Decision::Take {
                facts: facts::read(session, &after.table).await?,
                copies: plan.copies_in_chunks() && !is_of_key,
            },
            None => Decision::Pause(
                "rows from before may hold what no event has told; see that they are the same on the other side"
                    .to_owned(),
            ),
        })
    }

    /// Takes the change, in one transaction with the word that the table is copied again.
    pub(crate) async fn take(
        &mut self,
        session: &Session,
        plan: &Plan,
        here: Here,
        (before, after): (Shape, &Shape),
        facts: Option<Facts>,
        load: Option<&Load>,
    ) -> Result<String, FlowError> {
        self.put(after);
        match facts {
            Some(facts) => drop(self.facts.insert(after.table.clone(), facts)),
            None => drop(self.facts.remove(&after.table)),
        }
        let names = &plan.names;
        let noted = self.met.iter_mut().find(|met| met.is_resumed(here.at, after));
        let (note, what) = match noted {
            Some(met) => {
                met.state = State::Taken;
                (changes::taken(met.id, load.is_some()), met.what.clone())
            }
            None => {
                let what = words::told(session, &before, after).await?;
                let met = Met::new(here, before, after.clone(), State::Taken, what.clone(), None);
                let note = changes::note(names, self.generation, &met, load.is_some());
                self.met.push(met);
                self.met.sort_by_key(|met| met.at);
                (note, what)
            }
        };
        self.store(session, plan, &note, load).await?;
        Ok(what)
    }

    /// Stores shapes and facts as they are now, with one more statement, and the word that a table is copied again: all or nothing.
    async fn store(&self, session: &Session, plan: &Plan, note: &str, load: Option<&Load>) -> Result<(), FlowError> {
        let names = &plan.names;
        let shapes = changes::store(names, self.generation, &self.shapes, &self.facts);
        let copy =
            load.map_or(String::new(), |load| format!("{}; {}", kept::begin(names, load), kept::announce(names, load)));
        let sql = format!("BEGIN; {shapes}; {note}; {copy}; COMMIT");
        session.batch_execute(&sql).await.map_err(|e| FlowError::sql("noting that a table changed", &e))
    }

    /// Notes that the flow waits before the change; gives what is to be said of it.
    pub(crate) async fn pause(
        &self,
        session: &Session,
        plan: &Plan,
        table: &PlanTable,
        here: Here,
        (before, after): (Shape, &Shape),
        wants: &str,
    ) -> Result<FlowError, FlowError> {
        let doing = "noting that the flow waits";
        let known = self.met.iter().find(|met| met.is_resumed(here.at, after));
        let what = format!("{}; {wants}", words::told(session, &before, after).await?);
        let sql = match known {
            // The other side was changed once more since somebody said that it may go on.
            Some(met) => format!(
                "UPDATE banyan.schema_change SET state = 'paused', what = {} WHERE id = {}",
                literal(&what),
                met.id
            ),
            None => {
                let target = match &plan.target {
                    DatabaseUrl::Postgres(url) => {
                        let target = url.connect(&plan.names.application("schema")).await?;
                        facts::read(&target, &table.target).await?
                    }
                    DatabaseUrl::Mysql(_) => None,
                };
                let met = Met::new(here, before, after.clone(), State::Paused, what.clone(), target);
                changes::note(&plan.names, self.generation, &met, false)
            }
        };
        session.batch_execute(&sql).await.map_err(|e| FlowError::sql(doing, &e))?;
        Ok(paused(&plan.names, &after.table, here.at, &what))
    }

    fn put(&mut self, shape: &Shape) {
        match self.shapes.iter_mut().find(|own| own.table == shape.table) {
            Some(own) => own.clone_from(shape),
            None => self.shapes.push(shape.clone()),
        }
    }
}

/// What is said of a flow that waits.
fn paused(names: &FlowNames, table: &str, at: Place, what: &str) -> FlowError {
    FlowError::Paused(format!(
        "{table} at {}: {what}; then run `banyan sync resume {}`. The flow waits before the first row that it cannot carry; nothing is lost meanwhile",
        at.0, names.sync
    ))
}

/// The change before which a flow waits, as an error.
pub(crate) async fn waits(
    session: &Session,
    names: &FlowNames,
    generation: Generation,
) -> Result<Option<FlowError>, FlowError> {
    let met = changes::paused(session, names, generation).await?;
    Ok(met.map(|met| paused(names, &met.after.table, met.at, &met.what)))
}

/// What the catalogue says of all tables of the plan.
pub(crate) async fn all_facts(session: &Session, plan: &Plan) -> Result<AllFacts, FlowError> {
    let mut all = AllFacts::new();
    for table in &plan.tables {
        if let Some(facts) = facts::read(session, &table.source).await? {
            all.insert(table.source.clone(), facts);
        }
    }
    Ok(all)
}
