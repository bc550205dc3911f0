//! Steps in which Banyan decides by itself: what differs by nature, and how far users may move.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde_json::Value;

use super::{Scene, from, milliseconds};
use crate::demo::{screen::demand, stage::Stage};

/// As a person would write it for a route that matters; only quicker, since somebody is watching.
const ROLLOUT: &str = "rollout: {steps: [5, 25, 50], every: 2s, interval: 1s, min_requests: 60, gates: {success_rate: {below_legacy: 0.5}}}";
/// Longest that the walk or the way back may take on a busy machine.
const WALK: Duration = Duration::from_secs(60);

/// A new rule in place of the one that a person wrote: it is learnt what both sides say differently each time.
pub(super) fn noise_is_learnt(scene: &mut Scene<'_>) -> anyhow::Result<String> {
    let (by_hand, by_itself) = ("compare: {ignore: [/generated_at]}", "compare: {noise: {resend: 100}}");
    scene.rewrite(by_hand, by_itself)?;
    let end = Instant::now() + Duration::from_secs(20);
    let (resent, place, differed) = loop {
        scene.ask_around(40)?;
        let report = scene.stage.admin.report("payments")?;
        let (noise, place) = (&report["noise"], &report["noise"]["places"][0]);
        let is_known =
            report["differences"].as_array().is_some_and(|all| all.iter().any(|one| one["is_noise"] == true));
        if is_known && let Some(pointer) = place["place"].as_str() {
            break (count(&noise["resent"]), pointer.to_owned(), count(&place["differed"]));
        }
        demand(Instant::now() < end, || format!("nothing was learnt from reads that were sent twice: {report}"))?;
    };
    demand(place == "/generated_at", || format!("`{place}` was learnt, not `/generated_at`"))?;
    scene.rewrite(by_itself, by_hand)?;
    Ok(format!("{place} differs from itself in {differed} of {resent} reads sent twice: noise, no bug"))
}

/// The weight goes up by itself, as far as the file lets it.
pub(super) fn it_walks_by_itself(scene: &mut Scene<'_>) -> anyhow::Result<String> {
    scene.rewrite("weight: 0 ", &format!("weight: 50\n    {ROLLOUT}\n    # "))?;
    let began = Instant::now();
    let mut seen = Vec::new();
    while seen.last() != Some(&50.0) || phase(scene.stage)? != "done" {
        demand(began.elapsed() < WALK, || format!("the weights {seen:?} after {WALK:?}"))?;
        from("modern", &scene.ask_around(200)?)?;
        let now = effective(scene.stage)?;
        if seen.last() != Some(&now) {
            seen.push(now);
        }
    }
    seen.retain(|weight| *weight > 0.0);
    demand(seen == [5.0, 25.0, 50.0], || format!("the weights were {seen:?}"))?;
    Ok(format!("5 → 25 → 50 % in {}, each step behind its gates", milliseconds(began.elapsed())))
}

/// A bad build is put in the place of the good one. Nobody does anything.
pub(super) fn a_bad_build_comes_back(scene: &mut Scene<'_>) -> anyhow::Result<String> {
    // A finished rollout judges no more; another build is another rollout.
    scene.rewrite("every: 2s", "every: 1h, generation: 2")?;
    let Stage { services, agent, .. } = &mut *scene.stage;
    services.payments.replace(scene.venue, agent, true)?;
    let began = Instant::now();
    let (mut requests, before) = (0, scene.stage.traffic.tally());
    while phase(scene.stage)? != "rolled_back" {
        demand(began.elapsed() < WALK, || format!("the bad build is still in use after {WALK:?}"))?;
        requests += scene.ask_everybody(200)?;
    }
    let took = began.elapsed();
    let why = route(scene.stage)?["rollout"]["why"].as_str().unwrap_or_default().to_owned();
    let gate = why.split_once("by gate ").map_or(why.as_str(), |(_, gate)| gate).to_owned();
    let replies = scene.ask_around(200)?;
    let legacy = from("legacy", &replies)?;
    demand(legacy == replies.len(), || format!("only {legacy} of {} came from legacy", replies.len()))?;
    let Stage { services, agent, .. } = &mut *scene.stage;
    services.payments.replace(scene.venue, agent, false)?;
    let now = scene.stage.traffic.tally();
    let (passing, failed) = (now.sent - before.sent, now.failed - before.failed);
    let felt = format!("{failed} of {passing} passers-by felt it");
    Ok(format!("back after {} and {requests} requests, {felt}: {gate}", milliseconds(took)))
}

fn route(stage: &Stage) -> anyhow::Result<Value> {
    let status = stage.admin.status()?;
    let routes = status.pointer("/proxy/routes").and_then(Value::as_array).context("the status has no routes")?;
    routes.iter().find(|route| route["name"] == "payments").cloned().context("the status has no route `payments`")
}

fn effective(stage: &Stage) -> anyhow::Result<f64> {
    route(stage)?["weight_effective"].as_f64().context("the status has no weight")
}

fn phase(stage: &Stage) -> anyhow::Result<String> {
    Ok(route(stage)?["rollout"]["phase"].as_str().unwrap_or_default().to_owned())
}

fn count(value: &Value) -> u64 {
    value.as_u64().unwrap_or_default()
}
