//! A look at the catalogue now and then: rows of a table may change without any event, when it is written into new files or its partitions come
//! and go.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Here, Schema, changes,
    changes::{Met, State},
    facts::{self, Facts},
    shape::Shape,
};
use crate::{database::postgres::Session, error::FlowError, mapping::Mapping, plan::Plan, position::Lsn};

/// What was seen of a table beside its columns.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Seen {
    /// Nothing, or what the stream will announce.
    Nothing,
    /// Its rows were written into new files, or columns came and went before any row told of them.
    Unannounced,
    /// Rows are others than they were, and the log does not tell which.
    Others(&'static str),
}

/// What the looks remember.
#[derive(Debug, Default)]
pub(crate) struct Looks {
    /// Tables that the stream has told to be emptied since the last look: that takes new files as well.
    pub(crate) emptied: BTreeSet<String>,
    /// Tables with what no event has told of, and the end of the log when that was seen: one may still tell.
    suspects: BTreeMap<String, Lsn>,
    /// Tables with more columns than were announced, and the end of the log when that was seen: when nothing is written, nothing is announced.
    ahead: BTreeMap<String, (Lsn, Shape)>,
}

/// What a look has found.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) again: Vec<Again>,
    /// Tables of the plan with more columns than were announced, which holds from here on.
    pub(crate) ahead: Vec<(usize, Shape)>,
}

/// A table that must be copied again, and why.
pub(crate) type Again = (usize, &'static str);

// === impl Schema ===

impl Schema {
    /// Compares the catalogue with what was noted. `read_to`: how far the stream was read. Gives the tables whose rows must come again; that is
    /// noted with [`Schema::comes_again`].
    pub(crate) async fn look(&mut self, session: &Session, plan: &Plan, read_to: Lsn) -> Result<Found, FlowError> {
        let mut found = Found::default();
        let end = end(session).await?;
        for (index, table) in plan.tables.iter().enumerate() {
            let Some(now) = facts::read(session, &table.source).await? else { continue };
            let Some(shape) = self.latest(&table.source).cloned() else { continue };
            let Some(noted) = self.facts.get(&table.source).cloned() else {
                // An earlier version has noted nothing.
                if shape.columns.iter().all(|column| now.numbers.contains_key(&column.name)) {
                    self.remember(session, plan, &table.source, now).await?;
                }
                continue;
            };
            match now.grown_from(&shape) {
                Some(grown) => match self.looks.ahead.get(&table.source) {
                    Some((since, seen)) if *seen == grown && read_to >= *since => found.ahead.push((index, grown)),
                    Some((_, seen)) if *seen == grown => {}
                    _ => drop(self.looks.ahead.insert(table.source.clone(), (end, grown))),
                },
                None => drop(self.looks.ahead.remove(&table.source)),
            }
            match seen(session, &table.mapping, &shape, &noted, &now).await? {
                Seen::Nothing => {
                    self.looks.suspects.remove(&table.source);
                    if noted.files != now.files && noted.is_still(&now, &shape) {
                        self.remember(session, plan, &table.source, Facts { files: now.files, ..noted }).await?;
                    }
                }
                Seen::Others(why) => found.again.push((index, why)),
                Seen::Unannounced => {
                    let since = *self.looks.suspects.entry(table.source.clone()).or_insert(end);
                    let was_emptied = self.looks.emptied.contains(&table.source);
                    let is_explained = was_emptied && noted.count == now.count;
                    if !is_explained && read_to < since {
                        continue;
                    }
                    self.looks.suspects.remove(&table.source);
                    if !was_emptied && noted.is_rewritten(&now) {
                        self.unverified(session, plan, &shape, read_to).await?;
                    }
                    self.remember(session, plan, &table.source, now).await?;
                }
            }
        }
        let Self { looks, .. } = self;
        looks.emptied.retain(|table| looks.suspects.contains_key(table));
        Ok(found)
    }

    /// The table's rows come again from here on.
    pub(crate) async fn comes_again(
        &mut self,
        session: &Session,
        plan: &Plan,
        index: usize,
        why: &str,
        read_to: Lsn,
        load: &crate::record::control::Load,
    ) -> Result<(), FlowError> {
        let table = &plan.tables[index].source;
        let Some(shape) = self.latest(table).cloned() else { return Ok(()) };
        match facts::read(session, table).await? {
            Some(facts) => drop(self.facts.insert(table.clone(), facts)),
            None => drop(self.facts.remove(table)),
        }
        let met = self.noted(&shape, read_to, State::Taken, why);
        let note = changes::note(&plan.names, self.generation, &met, true);
        self.store(session, plan, &note, Some(load)).await
    }

    /// Tables of which it is not known whether both sides are equal.
    pub(crate) async fn needs_verify(&self, session: &Session, plan: &Plan) -> Result<Vec<String>, FlowError> {
        changes::unverified(session, &plan.names, self.generation).await
    }

    /// Notes, once, that the table's rows may have changed without an event.
    async fn unverified(&self, session: &Session, plan: &Plan, shape: &Shape, read_to: Lsn) -> Result<(), FlowError> {
        let (sync, flow) = (&plan.names.sync, plan.names.flow.as_str());
        let what = "its rows were written into new files, which no event tells of: by VACUUM FULL or CLUSTER, which change none, or by an ALTER that did";
        tracing::warn!(sync, flow, table = shape.table, what, "a table should be verified");
        if self.needs_verify(session, plan).await?.contains(&shape.table) {
            return Ok(());
        }
        let note =
            changes::note(&plan.names, self.generation, &self.noted(shape, read_to, State::Unverified, what), false);
        session.batch_execute(&note).await.map_err(|e| FlowError::sql("noting that a table should be verified", &e))
    }

    fn noted(&self, shape: &Shape, read_to: Lsn, state: State, what: &str) -> Met {
        let here = Here { at: (read_to, 0), drained: read_to, is_split: false };
        Met::new(here, shape.clone(), shape.clone(), state, what.to_owned(), None)
    }

    async fn remember(&mut self, session: &Session, plan: &Plan, table: &str, facts: Facts) -> Result<(), FlowError> {
        self.facts.insert(table.to_owned(), facts);
        let sql = changes::store(&plan.names, self.generation, &self.shapes, &self.facts);
        session.batch_execute(&sql).await.map_err(|e| FlowError::sql("noting a table's files", &e))
    }
}

/// What is other than was noted, where the columns of `shape` are as they were.
async fn seen(
    session: &Session,
    mapping: &Mapping,
    shape: &Shape,
    noted: &Facts,
    now: &Facts,
) -> Result<Seen, FlowError> {
    for column in &shape.columns {
        match (noted.numbers.get(&column.name), now.numbers.get(&column.name)) {
            (Some(noted), Some(now)) if noted != now && !mapping.leaves_out(&column.name) => {
                return Ok(Seen::Others("a column was dropped and added again under its name"));
            }
            // It has another name, or is gone: the stream will tell.
            (_, None) => return Ok(Seen::Nothing),
            _ => {}
        }
    }
    if noted.files.keys().any(|part| !now.files.contains_key(part)) {
        return Ok(Seen::Others("a partition was detached or dropped, or the table was made anew"));
    }
    for part in now.files.keys().filter(|part| !noted.files.contains_key(part)) {
        if !is_new_partition(session, *part).await? {
            return Ok(Seen::Others("a partition was attached with rows in it"));
        }
    }
    // With columns that the stream has not announced yet, its word is waited for: then the new files prove nothing.
    if !now.is_shaped(shape) {
        return Ok(Seen::Nothing);
    }
    let is_unannounced = noted.is_rewritten(now) || noted.count != now.count;
    Ok(if is_unannounced { Seen::Unannounced } else { Seen::Nothing })
}

/// Whether no row came with a partition: it is empty, or one transaction made it and put it there. (Attaching writes to all that the catalogue
/// has of a table but its row type.)
async fn is_new_partition(session: &Session, part: u32) -> Result<bool, FlowError> {
    let doing = "looking at a partition";
    let name = "SELECT quote_ident(n.nspname) || '.' || quote_ident(c.relname), \
         EXISTS (SELECT FROM pg_inherits h JOIN pg_type t ON t.oid = c.reltype WHERE h.inhrelid = c.oid AND h.xmin = t.xmin) \
         FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = $1";
    let row = session.query_opt(name, &[&part]).await.map_err(|e| FlowError::sql(doing, &e))?;
    let Some(row) = row else { return Ok(true) };
    if row.get(1) {
        return Ok(true);
    }
    let rows = format!("SELECT NOT EXISTS (SELECT FROM {})", row.get::<_, &str>(0));
    Ok(session.query_one(&rows, &[]).await.map_err(|e| FlowError::sql(doing, &e))?.get(0))
}

async fn end(session: &Session) -> Result<Lsn, FlowError> {
    let row = session.query_one("SELECT pg_current_wal_insert_lsn()", &[]).await;
    Ok(row
        .map_err(|e| FlowError::sql("asking how far the log goes", &e))?
        .get::<_, tokio_postgres::types::PgLsn>(0)
        .into())
}
