//! Whether a hole in the stream can still close.
//!
//! Capture starts again behind what it confirmed to the source. Once the source has forgotten what is missing here, and the topic holds
//! no more of it, nothing will ever bring it: without this check that would be silent loss.

use std::time::{Duration, Instant};

use super::{applied::Applied, apply::inlet::Inlet};
use crate::{
    error::FlowError,
    plan::Plan,
    position::{Generation, Lsn, Phase},
    source::SourceLink,
};

/// How long the source may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Asks the source now and then, and judges when the records have been read that stood in the topic by then.
pub(super) struct HoleWatch {
    link: Option<SourceLink>,
    asked: Option<Instant>,
    answer: Option<Answer>,
}

/// What the source said, and where the topics ended afterwards: all that was confirmed by then stands before.
struct Answer {
    generation: Generation,
    confirmed: Option<Lsn>,
    ends: Vec<i64>,
}

// === impl HoleWatch ===

impl HoleWatch {
    pub(super) fn new() -> Self {
        Self { link: None, asked: None, answer: None }
    }

    /// To be called between source transactions; asks at once, and then when `pause` has passed. `seen` is the last offset that was read,
    /// `next` what is complete up to there.
    pub(super) async fn look(
        &mut self,
        plan: &Plan,
        inlet: &Inlet,
        seen: i64,
        next: &Applied,
        pause: Duration,
    ) -> Result<(), FlowError> {
        if self.answer.is_none() {
            if self.asked.is_some_and(|asked| asked.elapsed() < pause) {
                return Ok(());
            }
            self.answer = self.ask(plan, inlet, next).await?;
            self.asked = Some(Instant::now());
        }
        match self.answer.take() {
            Some(answer) if inlet.has_read(seen, &answer.ends) => answer.judge(next),
            unread => {
                self.answer = unread;
                Ok(())
            }
        }
    }

    /// A source that cannot be asked now cannot have been seen to be past us.
    async fn ask(&mut self, plan: &Plan, inlet: &Inlet, next: &Applied) -> Result<Option<Answer>, FlowError> {
        let kept = self.link.take().filter(|link| !link.is_closed());
        let asking = async {
            let mut link = match kept {
                Some(link) => link,
                None => SourceLink::connect(plan, "hole").await.ok()?,
            };
            let says = link.ask(&plan.names).await.ok()?;
            Some((link, says))
        };
        let Ok(Some((link, says))) = tokio::time::timeout(PATIENCE, asking).await else { return Ok(None) };
        self.link = Some(link);
        let Some(says) = says.filter(|says| says.streaming) else { return Ok(None) };
        if says.generation == next.generation
            && next.phase == Phase::Stream
            && says.end.is_some_and(|end| end < next.applied)
        {
            return Err(FlowError::NeedsSnapshot(format!(
                "the source's log ends before {}, which was applied: it went back to an earlier state",
                next.applied
            )));
        }
        Ok(Some(Answer { generation: says.generation, confirmed: says.confirmed, ends: inlet.ends()? }))
    }
}

// === impl Answer ===

impl Answer {
    fn judge(&self, next: &Applied) -> Result<(), FlowError> {
        if self.generation != next.generation {
            return Err(FlowError::NeedsSnapshot(format!(
                "the source is at generation {} and the target at {}, and the topic does not hold what lies between",
                self.generation, next.generation
            )));
        }
        if next.phase == Phase::Snapshot || self.confirmed.is_some_and(|confirmed| confirmed > next.applied) {
            return Err(FlowError::NeedsSnapshot(format!(
                "the source has forgotten what lies behind {}, and the topic does not hold all of it",
                next.applied
            )));
        }
        Ok(())
    }
}
