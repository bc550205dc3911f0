//! A second look at rows that seemed to differ: was it a difference, or a change on its way?
//!
//! The owner's row is weighed before and behind the other side's, and in between the other side has applied all that stood before. A row that
//! weighed the same both times is what the other side must show.

use super::{
    Difference, Event, Options, What,
    pass::Run,
    repair,
    table::{Checksum, Key, Table},
};
use crate::error::FlowError;

/// A row that changes each time is looked at so often.
const ROUNDS: usize = 8;
/// Of more rows than these the columns are not told.
const DETAILS: usize = 1_000;

/// A row that differs for certain.
pub(super) struct Certain {
    pub(super) key: Key,
    pub(super) what: What,
    /// What the owner has.
    pub(super) owner: Option<Checksum>,
}

/// Judges these keys: counts, tells and repairs what differs for certain.
pub(super) async fn judge(run: &mut Run<'_>, table: &Table, mut keys: Vec<Key>) -> Result<(), FlowError> {
    // A table may hold a row twice in a batch when its key moves while keys are read.
    keys.sort_unstable();
    keys.dedup();
    let mut certain = Vec::new();
    for _ in 0..ROUNDS {
        if keys.is_empty() {
            break;
        }
        let before = table.owner.checksums(&run.sides.owner, &keys).await?;
        run.sides.settle().await?;
        let other = table.other.checksums(&run.sides.other, &keys).await?;
        let behind = table.owner.checksums(&run.sides.owner, &keys).await?;
        let mut moving = Vec::new();
        for (((key, before), other), behind) in keys.into_iter().zip(before).zip(other).zip(behind) {
            if before != behind {
                moving.push(key);
                continue;
            }
            let what = match (&before, &other) {
                (own, other) if own == other => continue,
                (Some(_), None) => What::Missing,
                (None, _) => What::Extra,
                (Some(_), Some(_)) => What::Differs,
            };
            certain.push(Certain { key, what, owner: before });
        }
        keys = moving;
    }
    run.counts.undecided += keys.len() as u64;
    found(run, table, certain).await
}

async fn found(run: &mut Run<'_>, table: &Table, certain: Vec<Certain>) -> Result<(), FlowError> {
    if certain.is_empty() {
        return Ok(());
    }
    let columns = columns(run, table, &certain).await?;
    let Options { repair, .. } = run.options;
    let repaired = match repair {
        Some(_) => repair::write(run, table, &certain).await?,
        None => vec![false; certain.len()],
    };
    for ((one, columns), repaired) in certain.into_iter().zip(columns).zip(repaired) {
        run.counts.count(one.what);
        run.counts.repaired += u64::from(repaired);
        let key = table.named(&one.key);
        (run.tell)(Event::Found(Difference { table: run.name.clone(), key, what: one.what, columns, repaired }));
    }
    Ok(())
}

/// In which columns the rows differ that both sides have.
async fn columns(run: &Run<'_>, table: &Table, certain: &[Certain]) -> Result<Vec<Vec<String>>, FlowError> {
    let mut all = vec![Vec::new(); certain.len()];
    let both = certain.iter().enumerate().filter(|(_, one)| one.what == What::Differs).take(DETAILS);
    let (places, keys): (Vec<usize>, Vec<Key>) = both.map(|(at, one)| (at, one.key.clone())).unzip();
    let owner = table.owner.by_column(&run.sides.owner, &keys).await?;
    let other = table.other.by_column(&run.sides.other, &keys).await?;
    for ((at, owner), other) in places.into_iter().zip(owner).zip(other) {
        let (Some(owner), Some(other)) = (owner, other) else { continue };
        let differing = table.columns.iter().zip(owner.iter().zip(&other)).filter(|(_, (owner, other))| owner != other);
        all[at] = differing.map(|(column, _)| column.clone()).collect();
    }
    Ok(all)
}
