//! Shows what verification has found, whoever asked for it, and begins one when it is time.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use tokio_util::sync::CancellationToken;

use super::{Options, Verified, VerifyError, applying, kept, run_sync, seat::Seat, urls};
use crate::{
    config::{Side, Sync},
    metrics::VerifyMetrics,
    names::FlowNames,
    plan::PlanTable,
};

/// How often it is looked whether a run is due, and what others have found.
const LOOK: Duration = Duration::from_secs(30);
/// The first look, when the flows have had time to begin; and the next ones, while they have not.
const FIRST: Duration = Duration::from_secs(5);
/// A run that could not be ended is tried again, but not at once.
const AGAIN: Duration = Duration::from_secs(300);

/// Of one sync: what a scheduled run needs, and where what was found is shown.
pub(crate) struct Schedule {
    pub(crate) install: String,
    pub(crate) name: String,
    pub(crate) sync: Sync,
    pub(crate) metrics: VerifyMetrics,
    pub(crate) board: Arc<Mutex<Vec<Verified>>>,
}

/// Looks until cancelled.
pub(crate) async fn watch(schedule: Schedule, cancel: CancellationToken) {
    let mut pause = FIRST;
    loop {
        tokio::select! {
            () = cancel.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
        pause = LOOK;
        tokio::select! {
            () = cancel.cancelled() => return,
            looked = schedule.look() => match looked {
                Ok(()) => {}
                // The flows say themselves what they wait for.
                Err(VerifyError::NotYet(_)) if schedule.sync.verify.is_some() => pause = FIRST,
                // Nobody asked for it. That a database is away, the flows say themselves, too.
                Err(VerifyError::NotYet(_) | VerifyError::Flow(_)) if schedule.sync.verify.is_none() => {}
                Err(error) => {
                    tracing::warn!(sync = schedule.name, %error, retry_in_s = AGAIN.as_secs(), "the tables could not be verified");
                    pause = AGAIN;
                }
            }
        }
    }
}

// === impl Schedule ===

impl Schedule {
    async fn look(&self) -> Result<(), VerifyError> {
        let found = self.found().await?;
        self.show(&found);
        let Some(wish) = &self.sync.verify else { return Ok(()) };
        if !is_due(&found, self.compared(), wish.every) {
            return Ok(());
        }
        let options = Options { rate: wish.rate, ..Options::default() };
        let outcome = run_sync(&self.install, &self.name, &self.sync, &options, &mut |_| {}).await?;
        let sum = |of: fn(&super::Counts) -> u64| outcome.tables.values().map(of).sum::<u64>();
        let (rows, unequal, undecided) = (sum(|c| c.rows), sum(super::Counts::unequal), sum(|c| c.undecided));
        if unequal == 0 {
            tracing::info!(sync = self.name, rows, undecided, "verified: both sides are equal");
        } else {
            tracing::error!(
                sync = self.name,
                rows,
                unequal,
                undecided,
                "verified: both sides differ; `banyan sync verify` lists the rows"
            );
        }
        self.show(&self.found().await?);
        Ok(())
    }

    /// How many tables can be compared: those that both sides have.
    fn compared(&self) -> usize {
        self.sync.tables.iter().filter(|table| table.apply.is_none()).count()
    }

    async fn found(&self) -> Result<Vec<Verified>, VerifyError> {
        let (legacy, modern) = urls(&self.sync)?;
        let flow = applying(&self.install, &self.name, &legacy, &modern).await?;
        let names = FlowNames::new(&self.install, &self.name, flow);
        let url = if flow.target() == Side::Legacy { legacy } else { modern };
        let mut seat = Seat::connect(&url, &names.application("verified")).await?;
        let mut found = kept::found(&mut seat, &names).await?;
        // A table that went, or whose rows go to a function now, is never verified again.
        let tables = PlanTable::all(&self.sync, flow);
        found.retain(|verified| tables.iter().any(|table| !table.is_function && table.source == verified.table));
        Ok(found)
    }

    /// All tables count together: what was verified is as old as the oldest of them.
    fn show(&self, found: &[Verified]) {
        let is_whole = found.len() >= self.compared();
        let oldest = found.iter().map(|table| table.at).min().filter(|_| is_whole);
        let unequal = found.iter().map(|table| table.counts.unequal()).sum();
        let undecided = found.iter().map(|table| table.counts.undecided).sum();
        self.metrics.show(oldest, (!found.is_empty()).then_some((unequal, undecided)));
        *self.board.lock().unwrap_or_else(PoisonError::into_inner) = found.to_vec();
    }
}

/// Whether a table was never verified, or not for so long.
fn is_due(found: &[Verified], tables: usize, every: Duration) -> bool {
    let is_old = |table: &Verified| SystemTime::now().duration_since(table.at).is_ok_and(|age| age >= every);
    found.len() < tables || found.iter().any(is_old)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verify::Counts;

    #[test]
    fn it_is_due_when_a_table_was_never_verified_or_not_for_so_long() {
        let table = |age| Verified {
            table: "public.t".into(),
            at: SystemTime::now() - Duration::from_secs(age),
            counts: Counts::default(),
        };
        let hour = Duration::from_secs(3600);
        assert!(is_due(&[], 1, hour));
        assert!(is_due(&[table(1)], 2, hour));
        assert!(is_due(&[table(1), table(3601)], 2, hour));
        assert!(!is_due(&[table(1), table(3500)], 2, hour));
    }
}
