//! The step in which something breaks.

use std::time::Duration;

use super::{Scene, from};
use crate::demo::screen::demand;

const USERS: u32 = 400;

/// kill -9 of the new service while half of the users read from it. Nobody may notice.
pub(super) fn modern_killed(scene: &mut Scene<'_>) -> anyhow::Result<String> {
    let before = scene.stage.traffic.as_ref().map(super::super::traffic::Traffic::tally);
    scene.stage.payments.kill()?;
    let replies = scene.ask_around(USERS)?;
    let answered = from("legacy", &replies)?;
    demand(answered == replies.len(), || format!("only {answered} of {} were answered by legacy", replies.len()))?;
    let passing = match (before, &scene.stage.traffic) {
        (Some(before), Some(traffic)) => {
            let now = traffic.tally();
            let failed = now.failed - before.failed;
            demand(failed == 0, || format!("{failed} of {} passers-by got an error", now.sent - before.sent))?;
            now.sent - before.sent
        }
        _ => 0,
    };
    scene.stage.revive_payments(scene.screen)?;
    scene.until("modern to answer again", Duration::from_secs(20), |stage, _| {
        let customer = |n| crate::demo::shop::Customer::named(&stage.agent, &stage.base, format!("user-{n}"));
        for n in 0..20 {
            if customer(n).get("/payments/1")?.is_from("modern") {
                return Ok(Some(()));
            }
        }
        Ok(None)
    })?;
    let all = replies.len() as u64 + passing;
    Ok(format!("{all} requests since, {all} answered, 0 errors; started again, it answers again"))
}
