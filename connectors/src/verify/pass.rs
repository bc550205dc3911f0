//! The two passes over a table: the owner's rows, each against the other side's, and then the other side's keys, each against the owner's.
//!
//! A batch is read from one side in its own order; where it ended is kept, so that an interrupted run goes on behind it.

use super::{
    Counts, Event, Options, again,
    kept::{self, Pass, Progress},
    sides::Sides,
    table::{CHUNK, Key, Table},
    throttle::Throttle,
};
use crate::{config::ApplyAs, error::FlowError, plan::PlanTable, source::postgres::schema::changes};

/// Rows between two waits for the other side.
const BATCH: usize = 10 * CHUNK;

/// What goes through all that looks at one table.
pub(super) struct Run<'r> {
    pub(super) sides: &'r mut Sides,
    pub(super) apply_as: ApplyAs,
    pub(super) table: &'r PlanTable,
    pub(super) options: &'r Options,
    /// `schema.table` of the owner's side.
    pub(super) name: String,
    pub(super) counts: Counts,
    pub(super) tell: &'r mut (dyn FnMut(Event) + Send + Sync),
}

/// Verifies one table.
pub(super) async fn table(
    sides: &mut Sides,
    apply_as: ApplyAs,
    plan_table: &PlanTable,
    options: &Options,
    throttle: &mut Throttle,
    tell: &mut (dyn FnMut(Event) + Send + Sync),
) -> Result<Counts, FlowError> {
    let table = Table::load(sides, plan_table).await?;
    let kept = if options.restart { None } else { kept::interrupted(sides, &plan_table.source).await? };
    let Progress { began, mut pass, mut after, mut looked_at, counts } = kept.unwrap_or_default();
    if looked_at > 0 {
        tell(Event::Resumed { table: plan_table.source.clone(), rows: looked_at });
    }
    let name = plan_table.source.clone();
    let mut run = Run { sides, apply_as, table: plan_table, options, name, counts, tell };
    loop {
        let last = match pass {
            Pass::Owner => owner_batch(&mut run, &table, after.as_ref(), throttle, &mut looked_at).await?,
            Pass::Other => other_batch(&mut run, &table, after.as_ref(), throttle, &mut looked_at).await?,
        };
        let of = (2 * table.guess).max(looked_at);
        (run.tell)(Event::Progress { table: run.name.clone(), rows: looked_at, of });
        match (pass, last) {
            (_, Some(last)) => after = Some(last),
            (Pass::Owner, None) => (pass, after) = (Pass::Other, None),
            (Pass::Other, None) => break,
        }
        let progress = Progress { began, pass, after: after.clone(), looked_at, counts: run.counts };
        kept::keep(run.sides, &run.name, &progress).await?;
    }
    kept::end(run.sides, &run.name, run.counts).await?;
    if run.counts.unequal() == 0 && run.counts.undecided == 0 {
        changes::verified(&run.sides.owner, &run.sides.names, &run.name, began).await?;
    }
    Ok(run.counts)
}

/// Weighs a batch of the owner's rows against the other side's. Gives its last key, if there may be more.
async fn owner_batch(
    run: &mut Run<'_>,
    table: &Table,
    after: Option<&Key>,
    throttle: &mut Throttle,
    looked_at: &mut u64,
) -> Result<Option<Key>, FlowError> {
    let (mut keys, mut checksums, mut is_end) = (Vec::new(), Vec::new(), false);
    while keys.len() < BATCH && !is_end {
        throttle.wait(CHUNK).await;
        let chunk = table.owner.keys(&run.sides.owner, keys.last().or(after)).await?;
        is_end = chunk.len() < CHUNK;
        checksums.extend(table.owner.checksums(&run.sides.owner, &chunk).await?);
        keys.extend(chunk);
    }
    let last = keys.last().cloned().filter(|_| !is_end);
    run.counts.rows += keys.len() as u64;
    *looked_at += keys.len() as u64;
    run.sides.settle().await?;
    let other = table.other.checksums(&run.sides.other, &keys).await?;
    let suspects = keys.into_iter().zip(checksums).zip(other).filter(|((_, own), other)| own != other);
    let suspects = suspects.map(|((key, _), _)| key).collect();
    again::judge(run, table, suspects).await?;
    Ok(last)
}

/// Looks for a batch of the other side's keys at the owner's.
async fn other_batch(
    run: &mut Run<'_>,
    table: &Table,
    after: Option<&Key>,
    throttle: &mut Throttle,
    looked_at: &mut u64,
) -> Result<Option<Key>, FlowError> {
    let (mut suspects, mut last, mut read, mut is_end) = (Vec::new(), after.cloned(), 0, false);
    while read < BATCH && !is_end {
        throttle.wait(CHUNK).await;
        let chunk = table.other.keys(&run.sides.other, last.as_ref()).await?;
        is_end = chunk.len() < CHUNK;
        read += chunk.len();
        let there = table.owner.present(&run.sides.owner, &chunk).await?;
        last = chunk.last().cloned().or(last);
        suspects.extend(chunk.into_iter().zip(there).filter(|(_, there)| there.is_none()).map(|(key, _)| key));
    }
    *looked_at += read as u64;
    again::judge(run, table, suspects).await?;
    Ok(last.filter(|_| !is_end))
}
