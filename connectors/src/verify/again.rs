//! A second look at rows that seemed to differ: was it a difference, or a change on its way?
//!
//! The owner's row is weighed before and behind the other side's, and in between the other side has applied all that stood before. A row that
//! weighed the same both times is what the other side must show.

use super::{
    Difference, Event, Options, What,
    pass::Run,
    repair,
    table::{Key, Table, Version},
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
    /// Which row the owner has, and which the other side: neither was written again while this was judged.
    pub(super) versions: (Option<Version>, Option<Version>),
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
        let before = table.owner.versions(&run.sides.owner, &keys).await?;
        let own = table.owner.checksums(&run.sides.owner, &keys).await?;
        run.sides.settle().await?;
        let seen = table.other.versions(&run.sides.other, &keys).await?;
        let other = table.other.checksums(&run.sides.other, &keys).await?;
        let (mut suspects, mut asked) = (Vec::new(), Vec::new());
        for ((((key, before), own), seen), other) in keys.into_iter().zip(before).zip(own).zip(seen).zip(other) {
            let what = match (&own, &other) {
                (own, other) if own == other => continue,
                (Some(_), None) => What::Missing,
                (None, _) => What::Extra,
                (Some(_), Some(_)) => What::Differs,
            };
            asked.push(key.clone());
            suspects.push(Certain { key, what, versions: (before, seen) });
        }
        if suspects.is_empty() {
            keys = Vec::new();
            break;
        }
        // Whatever was on its way to the other side has come by then: a row that came and went, or went and came again, shows itself.
        run.sides.settle().await?;
        let behind = table.owner.versions(&run.sides.owner, &asked).await?;
        let still = table.other.versions(&run.sides.other, &asked).await?;
        let now = behind.into_iter().zip(still);
        let (stays, moves): (Vec<_>, Vec<_>) =
            suspects.into_iter().zip(now).partition(|(one, now)| one.versions == *now);
        certain.extend(stays.into_iter().map(|(one, _)| one));
        keys = moves.into_iter().map(|(one, _)| one.key).collect();
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
