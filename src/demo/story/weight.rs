//! Steps that move reads: nobody, a shadow, one user in twenty, every second one, and back.

use std::time::Duration;

use anyhow::{Context as _, bail};
use serde_json::Value;

use super::{Scene, from, milliseconds};
use crate::demo::{admin::Metrics, screen::demand};

const OVERHEAD: &str = "banyan_http_overhead_seconds";
const ROUTE: [(&str, &str); 1] = [("route", "payments")];
/// Customers that are asked for in the steps about users.
const USERS: u32 = 400;

pub(super) fn all_on_legacy(scene: &mut Scene<'_>) -> anyhow::Result<String> {
    let before = scene.stage.admin.metrics()?;
    let replies = scene.ask_around(200)?;
    let legacy = from("legacy", &replies)?;
    demand(legacy == replies.len(), || format!("only {legacy} of {} came from legacy", replies.len()))?;
    let after = scene.stage.admin.metrics()?;
    let overhead = match after.quantile(OVERHEAD, &ROUTE, 0.5, &before) {
        Some(bound) => format!(", overhead p50 under {:.2} ms", bound * 1000.0),
        None => String::new(),
    };
    Ok(format!("{} requests, {legacy} answered by legacy{overhead}", replies.len()))
}

pub(super) fn shadow(scene: &mut Scene<'_>) -> anyhow::Result<String> {
    scene.edit("percent", 100)?;
    let replies = scene.ask_around(240)?;
    let legacy = from("legacy", &replies)?;
    demand(legacy == replies.len(), || format!("only {legacy} of {} came from legacy", replies.len()))?;
    let compared =
        |metrics: &Metrics, result| metrics.sum("banyan_compare_total", &[ROUTE[0], ("result", result)]).unwrap_or(0.0);
    let (all, differ) = scene.until("the shadows to be compared", Duration::from_secs(20), |stage, _| {
        let metrics = stage.admin.metrics()?;
        let differ = compared(&metrics, "mismatch");
        let all = compared(&metrics, "match") + compared(&metrics, "ignored") + differ;
        Ok((all >= replies.len() as f64).then_some((all, differ)))
    })?;
    demand(differ > 0.0, || format!("{all} compared, and the planted bug was not found"))?;
    let status = scene.stage.admin.status()?;
    let found = differences(&status)?;
    let [(pointer, control, candidate)] = &found[..] else {
        bail!("differences at {} places, not at `/amount` alone: {found:?}", found.len())
    };
    demand(pointer == "/amount", || format!("a difference at `{pointer}`, not at `/amount`"))?;
    Ok(format!("{all} compared, {differ} differ, all at {pointer}: {control} against {candidate}"))
}

/// Every place of the route that differs, with what stood there: in what the client got, and in what the shadow got.
fn differences(status: &Value) -> anyhow::Result<Vec<(String, String, String)>> {
    let routes = status.pointer("/proxy/routes").and_then(Value::as_array).context("the status has no routes")?;
    let route =
        routes.iter().find(|route| route["name"] == "payments").context("the status has no route `payments`")?;
    let differences = route.pointer("/compare/differences").and_then(Value::as_array).context("no differences")?;
    let word = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let parts = |found: &Value| (word(&found["pointer"]), word(&found["control"]), word(&found["candidate"]));
    Ok(differences.iter().map(parts).collect())
}

pub(super) fn to_five(scene: &mut Scene<'_>) -> anyhow::Result<String> {
    let took = scene.edit("weight", 5)?;
    let modern = from("modern", &scene.ask_around(USERS)?)?;
    let share = modern as f64 / f64::from(USERS) * 100.0;
    demand((2.0..9.0).contains(&share), || format!("{share:.1} % of {USERS} users are on modern"))?;
    Ok(format!("{share:.1} % of {USERS} users on modern, {} after the file was saved", milliseconds(took)))
}

pub(super) fn to_fifty(scene: &mut Scene<'_>) -> anyhow::Result<String> {
    let sides = |scene: &Scene<'_>| -> anyhow::Result<Vec<bool>> {
        let replies = scene.ask_around(USERS)?;
        from("modern", &replies)?;
        Ok(replies.iter().map(|reply| reply.is_from("modern")).collect())
    };
    let at_five = sides(scene)?;
    scene.edit("weight", 50)?;
    let at_fifty = sides(scene)?;
    let went_back = at_five.iter().zip(&at_fifty).filter(|(before, after)| **before && !**after).count();
    demand(went_back == 0, || format!("{went_back} users of modern went back to legacy"))?;
    let again = sides(scene)?;
    let moved = at_fifty.iter().zip(&again).filter(|(before, after)| before != after).count();
    demand(moved == 0, || format!("{moved} users changed sides between two requests"))?;
    let share = at_fifty.iter().filter(|modern| **modern).count() as f64 / f64::from(USERS) * 100.0;
    demand((40.0..60.0).contains(&share), || format!("{share:.1} % of {USERS} users are on modern"))?;
    Ok(format!("{share:.1} % on modern, none of the first 5 % went back, asked again none moved"))
}

pub(super) fn back_to_zero(scene: &mut Scene<'_>) -> anyhow::Result<String> {
    let took = scene.edit("weight", 0)?;
    let replies = scene.ask_around(200)?;
    let legacy = from("legacy", &replies)?;
    demand(legacy == replies.len(), || format!("only {legacy} of {} came from legacy", replies.len()))?;
    Ok(format!("{legacy} of {} requests on legacy, {} after the file was saved", replies.len(), milliseconds(took)))
}
