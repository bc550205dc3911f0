//! TRUNCATE with `order: key`: it has no place between the rows of several lanes, so the table is copied again, and what the log has of it until that copy
//! begins is left out: the copy has it.
//!
//! Which changes are left out must be the same for every capture that reads them, or one would count rows that another never sent. So the place
//! of the TRUNCATE is stored with the copy, and stays until the word that the copy begins stands in Kafka.

use std::collections::{HashMap, VecDeque};

use serde::{Deserialize, Serialize};

use super::{Stream, TableState};
use crate::{
    database::postgres::Session,
    error::FlowError,
    failpoint::{self, Point},
    names::FlowNames,
    plan::Plan,
    position::Lsn,
    source::postgres::chunks::kept,
};

/// Tables that were emptied, by their place in the plan.
#[derive(Debug, Default)]
pub(super) struct Emptied {
    tables: HashMap<usize, At>,
    /// Those whose copy begins in the open transaction.
    begun: Vec<(usize, At)>,
    /// Where such transactions end.
    ends: VecDeque<(Lsn, usize, At)>,
    names: Vec<String>,
}

/// A TRUNCATE.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct At {
    /// Its transaction's commit.
    lsn: u64,
    /// Which change of it.
    change: u64,
    /// The copy that makes up for it.
    number: i64,
}

// === impl Emptied ===

impl Emptied {
    /// Those whose copy may not stand in Kafka as begun.
    pub(super) async fn open(session: &Session, plan: &Plan) -> Result<Self, FlowError> {
        let names: Vec<String> = plan.tables.iter().map(|table| table.source.clone()).collect();
        let mut tables = HashMap::new();
        for (table, at) in kept::emptied(session, &plan.names).await? {
            if let (Some(index), Ok(at)) = (names.iter().position(|own| *own == table), serde_json::from_str(&at)) {
                tables.insert(index, at);
            }
        }
        Ok(Self { tables, names, ..Self::default() })
    }

    /// Whether a change of this table is left out, for its copy begins behind it.
    pub(super) fn covers(&self, index: usize, (lsn, change): (Lsn, u64)) -> bool {
        self.tables.get(&index).is_some_and(|at| (lsn.get(), change) >= (at.lsn, at.change))
    }

    /// The log says here that a copy begins.
    pub(super) fn begins_anew(&mut self, plan: &Plan, load: &serde_json::Value) {
        let Some(index) = plan.tables.iter().position(|table| load["table"] == table.source.as_str()) else { return };
        if self.tables.get(&index).is_some_and(|at| load["number"].as_i64().is_some_and(|number| number >= at.number)) {
            self.begun.extend(self.tables.remove(&index).map(|at| (index, at)));
        }
    }

    /// The open transaction ends here.
    pub(super) fn committed(&mut self, end: Lsn) {
        self.ends.extend(self.begun.drain(..).map(|(index, at)| (end, index, at)));
    }

    /// Forgets what stands in Kafka as begun. To be called before the source is told so.
    pub(super) async fn settle(
        &mut self,
        session: &Session,
        names: &FlowNames,
        confirmed: Lsn,
    ) -> Result<(), FlowError> {
        while let Some((_, index, at)) = self.ends.pop_front_if(|(end, ..)| *end <= confirmed) {
            if let Some(table) = self.names.get(index) {
                kept::refilled(session, names, table, &serde_json::json!(at).to_string()).await?;
            }
        }
        Ok(())
    }
}

// === impl Stream ===

impl Stream<'_> {
    /// A table was emptied: it is copied again.
    pub(super) async fn empty(&mut self, table: &TableState, (lsn, change): (Lsn, u64)) -> Result<(), FlowError> {
        let (session, plan) = (self.session, self.plan);
        let number = kept::next(session, &plan.names, &table.name).await?;
        let Some(load) = self.chunks.again(session, plan, &table.name, number).await? else { return Ok(()) };
        let at = At { lsn: lsn.get(), change, number };
        kept::empty(session, &plan.names, &load, &serde_json::json!(at).to_string()).await?;
        failpoint::reached(Point::TableEmptied);
        self.emptied.tables.insert(table.index, at);
        let (sync, flow, table) = (&plan.names.sync, plan.names.flow.as_str(), &table.name);
        tracing::warn!(sync, flow, table, "a table was emptied by TRUNCATE: with `order: key` it is copied again");
        Ok(())
    }
}
