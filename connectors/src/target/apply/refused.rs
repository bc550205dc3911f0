//! The target does not take a row: what was written since the last commit is read again, one source transaction at a time, so that the one
//! that fails stands alone; that one is tried a few times more, and then parked.

use std::time::{Duration, Instant};

use super::{Applier, HEARTBEAT, inlet::Inlet};
use crate::{
    config::OnError,
    error::{FlowError, Verdict},
    position::{Lsn, Phase},
    status::Task,
    target::postgres::parking::draft::Draft,
};

/// The pauses between tries: what passes by itself, such as a parent that another sync brings, has passed by then.
const PAUSES: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(2)];
/// How often it is asked whether there is room again.
const ROOM: Duration = Duration::from_secs(1);
/// How long nothing goes before the transaction is tried anew.
const ANEW: Duration = Duration::from_secs(60);

/// A transaction that the target refused.
#[derive(Debug)]
pub(super) struct Trial {
    pub(super) lsn: Lsn,
    tries: usize,
}

// === impl Trial ===

impl Trial {
    pub(super) fn is_last(&self) -> bool {
        self.tries >= PAUSES.len()
    }
}

// === impl Applier ===

impl Applier<'_> {
    /// Does what can be done about an error; gives it back where that is nothing.
    pub(super) async fn refused(&mut self, inlet: &Inlet, error: FlowError) -> Result<(), FlowError> {
        if let FlowError::Full(_) = error {
            return self.wait_for_room(inlet, &error).await;
        }
        let is_being_parked = self.begun == 1 && self.parking.draft.as_ref().is_some_and(|draft| draft.id().is_some());
        let in_stream = self.stored.phase == Phase::Stream && self.begun > 0;
        if !error.is_of_data() || !in_stream || is_being_parked || self.plan.park.on_error == OnError::Stop {
            return Err(error);
        }
        let alone = (self.begun == 1).then_some(self.current);
        // Thousands of rows that nobody changed are no transaction to be parked: what refuses one will refuse more.
        if alone.is_some() && alone == self.chunk {
            return Err(error);
        }
        self.cautious_until = self.cautious_until.max(self.seen);
        self.roll_back().await?;
        if let Some(lsn) = alone {
            self.try_again_or_park(lsn, &error).await;
        }
        self.again(inlet)
    }

    async fn try_again_or_park(&mut self, lsn: Lsn, error: &FlowError) {
        self.board.metrics().refused();
        let known = self.parking.trial.take().filter(|trial| trial.lsn == lsn);
        let tries = known.map_or(0, |trial| trial.tries) + 1;
        let names = &self.plan.names;
        let (sync, flow, reason) = (&names.sync, names.flow.as_str(), error.to_string());
        match PAUSES.get(tries - 1) {
            Some(pause) => {
                let retry_in_ms = pause.as_millis();
                tracing::warn!(sync, flow, tries, reason, retry_in_ms, "the target refused a transaction");
                self.parking.trial = Some(Trial { lsn, tries });
                tokio::time::sleep(*pause).await;
            }
            None => {
                let tries = u32::try_from(tries).unwrap_or(u32::MAX);
                self.parking.draft = Some(Draft::new(lsn, reason, None, tries));
            }
        }
    }

    /// Nothing is dropped, and nothing read: until something that is parked has gone.
    async fn wait_for_room(&mut self, inlet: &Inlet, error: &FlowError) -> Result<(), FlowError> {
        self.roll_back().await?;
        let names = &self.plan.names;
        let (sync, flow, error) = (&names.sync, names.flow.as_str(), error.to_string());
        tracing::error!(sync, flow, error, "the flow stopped");
        self.board.ended(Task::Apply(self.plan.lane), Verdict::Stop, &error);
        self.parking.is_full = true;
        let before = self.parking.parked().count;
        let mut renewed = Instant::now();
        let since = Instant::now();
        // One that alone is too large may fit when its cause is mended: it is tried now and then.
        while self.parking.parked().count >= before && since.elapsed() < ANEW {
            tokio::time::sleep(ROOM).await;
            self.plan.halt.check()?;
            self.requests().await?;
            if renewed.elapsed() > HEARTBEAT {
                self.commit().await?;
                renewed = Instant::now();
            }
        }
        // Whatever it was may be mended: it is tried anew.
        (self.parking.draft, self.parking.trial, self.parking.is_full) = (None, None, false);
        self.board.apply_running(self.plan.lane, false);
        self.again(inlet)
    }
}
