//! The two passes over a table: the owner's rows, each against the other side's, and then the other side's keys, each against the owner's.
//!
//! A batch is read from one side in its own order; where it ended is kept, so that an interrupted run goes on behind it.

use super::{
    Counts, Event, Options, again,
    kept::{self, Pass, Progress},
    seat::Seat,
    sides::Sides,
    table::{CHUNK, Key, Row, Seen, Table},
    throttle::Throttle,
};
use crate::{config::ApplyAs, error::FlowError, plan::PlanTable, source::postgres::schema::changes};

/// Rows between two waits for the other side, and bytes of them where they are more than checksums.
const BATCH: usize = 10 * CHUNK;
const BYTES: usize = 16 << 20;
/// A statement reads about so many bytes, and as many rows to begin with.
const PIECE: usize = 2 << 20;
const FIRST: usize = 500;

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
    /// Rows of the next statement.
    pub(super) piece: usize,
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
    let mut run = Run { sides, apply_as, table: plan_table, options, name, counts, tell, piece: FIRST };
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
    if run.counts.unequal() == 0
        && run.counts.undecided == 0
        && let Seat::Postgres(owner) = &run.sides.owner
    {
        changes::verified(owner, &run.sides.names, &run.name, began).await?;
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
    let (mut keys, mut own, mut bytes, mut is_end): (Vec<Key>, Vec<Option<Row>>, _, _) = (vec![], vec![], 0, false);
    while keys.len() < BATCH && bytes < BYTES && !is_end {
        throttle.wait(run.piece).await;
        let (chunk, rows) = table.owner.chunk(&mut run.sides.owner, keys.last().or(after), run.piece).await?;
        is_end = chunk.len() < run.piece;
        let read = rows.iter().flatten().flatten().flatten().map(String::len).sum::<usize>();
        run.piece = next_piece(run.piece, chunk.len(), read);
        bytes += read;
        own.extend(rows);
        keys.extend(chunk);
    }
    let last = keys.last().cloned().filter(|_| !is_end);
    run.counts.rows += keys.len() as u64;
    *looked_at += keys.len() as u64;
    run.sides.settle().await?;
    let other = table.other.compare(&mut run.sides.other, &keys, &own).await?;
    let is_odd = |own: &Option<Row>, other| match own {
        Some(_) => other != Seen::Same,
        None => other != Seen::Absent,
    };
    let suspects = keys.into_iter().zip(own).zip(other).filter(|((_, own), other)| is_odd(own, *other));
    let suspects = suspects.map(|((key, _), _)| key).collect();
    again::judge(run, table, suspects).await?;
    Ok(last)
}

/// Of how many rows the next statement is, after one that has read `rows` of so many bytes.
fn next_piece(piece: usize, rows: usize, bytes: usize) -> usize {
    let fits = PIECE.saturating_mul(rows.max(1)) / bytes.max(1);
    fits.clamp(1, piece.saturating_mul(10)).min(CHUNK)
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
        let chunk = table.other.keys(&mut run.sides.other, last.as_ref(), CHUNK).await?;
        is_end = chunk.len() < CHUNK;
        read += chunk.len();
        let there = table.owner.present(&mut run.sides.owner, &chunk).await?;
        last = chunk.last().cloned().or(last);
        suspects.extend(chunk.into_iter().zip(there).filter(|(_, there)| !there).map(|(key, _)| key));
    }
    *looked_at += read as u64;
    again::judge(run, table, suspects).await?;
    Ok(last.filter(|_| !is_end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wide_rows_are_read_in_small_pieces_and_narrow_ones_in_large() {
        assert_eq!(next_piece(500, 500, 500 * 16), CHUNK);
        assert_eq!(next_piece(500, 500, 500 * (1 << 20)), 2);
        assert_eq!(next_piece(1, 1, 64 << 20), 1);
        assert_eq!(next_piece(2, 2, 20), 20, "step by step");
        assert_eq!(next_piece(500, 0, 0), CHUNK);
    }
}
