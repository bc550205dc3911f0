//! A second look at rows that seemed to differ: was it a difference, or a change on its way?
//!
//! The owner's row is weighed before and behind the other side's, and in between the other side has applied all that stood before. A row that
//! weighed the same both times is what the other side must show.

use std::collections::HashMap;

use super::{
    Difference, Event, Options, What,
    pass::Run,
    repair,
    table::{Key, Seen, Table, Version},
};
use crate::error::FlowError;

/// A row that changes each time is looked at so often.
const ROUNDS: usize = 8;
/// So often a row must be the same where no server would tell that it was written to and fro meanwhile.
const STEADY: usize = 3;
/// Of more rows than these the columns are not told.
const DETAILS: usize = 1_000;

/// A row that differs for certain.
pub(super) struct Certain {
    pub(super) key: Key,
    pub(super) what: What,
    /// Which row the owner has, and which the other side: neither was written again while this was judged.
    pub(super) versions: (Option<Version>, Option<Version>),
    /// Looks that it was the same at.
    steady: usize,
}

/// Judges these keys: counts, tells and repairs what differs for certain.
pub(super) async fn judge(run: &mut Run<'_>, table: &Table, mut keys: Vec<Key>) -> Result<(), FlowError> {
    // A table may hold a row twice in a batch when its key moves while keys are read.
    keys.sort_unstable();
    keys.dedup();
    let mut certain = Vec::new();
    // What they were at the look before.
    let mut known: HashMap<Key, Certain> = HashMap::new();
    for _ in 0..ROUNDS {
        if keys.is_empty() {
            break;
        }
        let (before, own) = table.owner.look(&mut run.sides.owner, &keys).await?;
        run.sides.settle().await?;
        let seen = table.other.versions(&mut run.sides.other, &keys).await?;
        let other = table.other.compare(&mut run.sides.other, &keys, &own).await?;
        let (mut suspects, mut asked, mut unread) = (Vec::new(), Vec::new(), Vec::new());
        for ((((key, before), own), seen), other) in keys.into_iter().zip(before).zip(own).zip(seen).zip(other) {
            let what = match (&own, other) {
                (_, Seen::Same) | (None, Seen::Absent) => continue,
                (Some(_), Seen::Absent) => What::Missing,
                // The owner has it, and its values could not be read as the other side's: nothing is known of it.
                (None, Seen::Differs) if before.is_some() => {
                    unread.push(key);
                    continue;
                }
                (None, Seen::Differs) => What::Extra,
                (Some(_), Seen::Differs) => What::Differs,
            };
            asked.push(key.clone());
            suspects.push(Certain { key, what, versions: (before, seen), steady: 1 });
        }
        if suspects.is_empty() {
            keys = unread;
            break;
        }
        // Where the owner's row is the same, it was so at the moment that the other side showed. Where the other side's is the same once all of this
        // has come, nothing was written to it in between.
        let behind = table.owner.versions(&mut run.sides.owner, &asked).await?;
        run.sides.settle().await?;
        let still = table.other.versions(&mut run.sides.other, &asked).await?;
        // Once more: what the log had already, and nobody was shown yet, the place in the log has waited for.
        let last = table.owner.versions(&mut run.sides.owner, &asked).await?;
        let mut again = HashMap::new();
        keys = unread;
        for ((mut one, now), last) in suspects.into_iter().zip(behind.into_iter().zip(still)).zip(last) {
            if one.versions != now || one.versions.0 != last {
                keys.push(one.key);
                continue;
            }
            if let Some(last) = known.get(&one.key).filter(|last| last.what == one.what && last.versions == now) {
                one.steady = last.steady + 1;
            }
            if is_told(table, one.what) || one.steady >= STEADY {
                certain.push(one);
            } else {
                keys.push(one.key.clone());
                again.insert(one.key.clone(), one);
            }
        }
        known = again;
    }
    run.counts.undecided += keys.len() as u64;
    found(run, table, certain).await
}

/// Whether one look is enough: a side that tells versions tells them of rows that it has.
fn is_told(table: &Table, what: What) -> bool {
    let (owner, other) = (table.owner.tells_versions(), table.other.tells_versions());
    match what {
        What::Missing => owner,
        What::Extra => other,
        What::Differs => owner || other,
    }
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
async fn columns(run: &mut Run<'_>, table: &Table, certain: &[Certain]) -> Result<Vec<Vec<String>>, FlowError> {
    let mut all = vec![Vec::new(); certain.len()];
    let both = certain.iter().enumerate().filter(|(_, one)| one.what == What::Differs).take(DETAILS);
    let (places, keys): (Vec<usize>, Vec<Key>) = both.map(|(at, one)| (at, one.key.clone())).unzip();
    if keys.is_empty() {
        return Ok(all);
    }
    let sides = &mut *run.sides;
    let unlike = table.other.unlike(&mut sides.other, &table.owner, &mut sides.owner, &keys).await?;
    for (at, unlike) in places.into_iter().zip(unlike) {
        all[at] = unlike.into_iter().map(|column| table.columns[column].clone()).collect();
    }
    Ok(all)
}
