//! Steps about rows: what is written on one side is seen on the other, and a user never reads behind their own write.

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use serde_json::json;

use super::{Scene, milliseconds};
use crate::demo::{
    screen::demand,
    shop::{Customer, Reply},
};

/// A row that takes longer than this to come across is not on its way.
const ACROSS: Duration = Duration::from_secs(20);
/// Both snapshots together.
const SNAPSHOT: Duration = Duration::from_secs(60);
/// Rows that are sent one after the other, to say more than one number.
const SENT: usize = 20;

pub(super) fn payments_are_copied(scene: &mut Scene<'_>) -> anyhow::Result<String> {
    let flows = [("payments", "legacy_to_modern"), ("accounts", "modern_to_legacy")];
    scene.until("both syncs to apply", SNAPSHOT, |stage, _| {
        let metrics = stage.admin.metrics()?;
        let applying = flows.iter().filter(|(sync, flow)| {
            let series = [("sync", *sync), ("flow", *flow), ("state", "applying")];
            metrics.sum("banyan_sync_state", &series) == Some(1.0)
        });
        Ok((applying.count() == flows.len()).then_some(()))
    })?;
    // The shop is open: payments are made while they are counted.
    let rows = scene.until("the copy to hold every payment", ACROSS, |stage, runtime| {
        let count = "SELECT count(*) FROM payments";
        let all: i64 = runtime.block_on(stage.databases.legacy.query_one(count, &[]))?.get(0);
        let copied: i64 = runtime.block_on(stage.databases.payments.query_one(count, &[]))?.get(0);
        Ok((copied >= all).then_some(copied))
    })?;
    Ok(format!("{rows} payments, by a snapshot; its stream goes on from there"))
}

pub(super) fn a_payment_appears_in_modern(scene: &mut Scene<'_>) -> anyhow::Result<String> {
    let mut times = Vec::new();
    let customer = scene.customer("till");
    for n in 0..SENT {
        let reply = customer
            .post_json("/payments", &json!({ "account_id": 1, "amount": "19.90", "note": format!("till {n}") }))?;
        let written = Instant::now();
        demand(reply.status == 201 && reply.is_from("legacy"), || {
            format!("the payment was answered {} by {:?}", reply.status, reply.side)
        })?;
        let id = reply.json()?["id"].as_i64().context("the new payment has no id")?;
        let amount: String = scene.until("the payment to appear in modern", ACROSS, |stage, runtime| {
            let select = "SELECT amount::text FROM payments WHERE id = $1";
            Ok(runtime.block_on(stage.databases.payments.query_opt(select, &[&id]))?.map(|row| row.get(0)))
        })?;
        demand(amount == "19.90", || "the payment arrived with another amount".to_owned())?;
        times.push(written.elapsed());
    }
    Ok(format!("{SENT} written in legacy, visible in modern after {}", span(&mut times)))
}

pub(super) fn own_write(scene: &mut Scene<'_>) -> anyhow::Result<String> {
    let candidates = (0..100).map(|n| scene.customer(&format!("writer-{n}")));
    let mut found = None;
    for customer in candidates {
        if customer.get("/payments/1")?.is_from("modern") {
            found = Some(customer);
            break;
        }
    }
    let writer = found.context("none of 100 users is on modern")?;
    let reply = writer.post_json("/payments", &json!({ "account_id": 2, "amount": "7.50", "note": "mine" }))?;
    let written = Instant::now();
    demand(reply.is_from("legacy"), || format!("the write was answered by {:?}, not by the owner", reply.side))?;
    let location = reply.location.context("the new payment has no address")?;
    let read = writer.get(&location)?;
    demand(read.status == 200 && read.is_from("legacy"), || {
        format!("their next read was answered {} by {:?}", read.status, read.side)
    })?;
    let back = scene.until("the user to be back on modern", Duration::from_secs(15), |_, _| {
        let read = writer.get(&location)?;
        demand(read.status == 200, || format!("the payment vanished: {}", read.status))?;
        Ok(read.is_from("modern").then(|| written.elapsed()))
    })?;
    Ok(format!(
        "a user of modern writes to legacy, reads it there at once, is back on modern after {:.1} s",
        back.as_secs_f64()
    ))
}

pub(super) fn an_account_appears_in_legacy(scene: &mut Scene<'_>) -> anyhow::Result<String> {
    let mut times = Vec::new();
    let customer = scene.customer("office");
    for n in 0..SENT {
        let name = format!("new_{n}");
        let reply = customer.post_json(
            "/accounts",
            &json!({ "name": name, "email": format!("{name}@shop.example"), "password": "banyan" }),
        )?;
        let written = Instant::now();
        demand(reply.status == 201 && reply.is_from("modern"), || {
            format!("the account was answered {} by {:?}", reply.status, reply.side)
        })?;
        scene.until("the account to appear in legacy", ACROSS, |stage, runtime| {
            let select = "SELECT FROM accounts WHERE name = $1";
            Ok(runtime.block_on(stage.databases.legacy.query_opt(select, &[&name]))?.map(|_| ()))
        })?;
        times.push(written.elapsed());
    }
    Ok(format!("{SENT} made in modern, visible in legacy after {}", span(&mut times)))
}

pub(super) fn one_session(scene: &mut Scene<'_>) -> anyhow::Result<String> {
    let (name, browser, form) = browser_on_modern(scene)?;
    let other = scene.browser();
    other.sign_in(name)?;
    demand(other.page("/payments/new")?.is_from("modern"), || format!("{name} has another side in another browser"))?;
    let orders = browser.page("/orders")?;
    let is_known = orders.body.contains(&format!("Orders of {name}"));
    demand(is_known, || format!("the monolith does not know {name}: {}", orders.status))?;
    let token = form.form_token()?;
    let paid = browser.post_form("/payments", &[("form_token", &token), ("amount", "12.50"), ("note", "form")])?;
    demand(paid.status == 303 && paid.is_from("legacy"), || {
        format!("the form of modern was answered {} by {:?}", paid.status, paid.side)
    })?;
    let cookies = browser.cookies();
    let out = browser.post_form("/logout", &[("form_token", &token)])?;
    let signed_out = Instant::now();
    demand(out.status == 303, || format!("signing out was answered {}", out.status))?;
    let thief = scene.browser().with_cookies(cookies);
    let refused = scene.until("the monolith to refuse the old session", ACROSS, |_, _| {
        Ok((thief.page("/orders")?.status == 401).then(|| signed_out.elapsed()))
    })?;
    Ok(format!(
        "one side in every browser; a form of modern paid at legacy; signed out, the monolith refuses after {}",
        milliseconds(refused)
    ))
}

/// Somebody who signed in and whom the weight put on modern, by the number that the monolith knows them by; and the form that modern rendered
/// for them.
fn browser_on_modern(scene: &Scene<'_>) -> anyhow::Result<(&'static str, Customer, Reply)> {
    for name in ["ann", "ben", "cem", "dora", "eve", "finn", "gus", "hana"] {
        let browser = scene.browser();
        browser.sign_in(name)?;
        let form = browser.page("/payments/new")?;
        demand(form.status == 200, || format!("the form was answered {}", form.status))?;
        if form.is_from("modern") {
            return Ok((name, browser, form));
        }
    }
    bail!("nobody who signed in was put on modern")
}

/// `p50 9 ms, at most 14 ms`
fn span(times: &mut [Duration]) -> String {
    times.sort();
    let most = times.last().copied().unwrap_or_default();
    format!("p50 {}, at most {}", milliseconds(times[times.len() / 2]), milliseconds(most))
}
