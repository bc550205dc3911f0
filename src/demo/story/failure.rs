//! The step in which something breaks.

use std::time::Duration;

use super::{Scene, from};
use crate::demo::{screen::demand, shop::Customer, stage::Stage};

const USERS: u32 = 400;

/// kill -9 of the new service while half of the users read from it. Nobody may notice.
pub(super) fn modern_killed(scene: &mut Scene<'_>) -> anyhow::Result<String> {
    let before = scene.stage.traffic.tally();
    scene.stage.services.payments.kill()?;
    let replies = scene.ask_around(USERS)?;
    let answered = from("legacy", &replies)?;
    demand(answered == replies.len(), || format!("only {answered} of {} were answered by legacy", replies.len()))?;
    let now = scene.stage.traffic.tally();
    let (passing, failed) = (now.sent - before.sent, now.failed - before.failed);
    demand(failed == 0, || format!("{failed} of {passing} passers-by got an error"))?;
    let Stage { services, agent, .. } = &mut *scene.stage;
    services.payments.revive(scene.venue, agent)?;
    scene.until("modern to answer again", Duration::from_secs(20), |stage, _| {
        let customer = |n| Customer::named(&stage.agent, &stage.base, format!("user-{n}"));
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
