//! Rollouts through a real Banyan: the weight walks by itself, comes back by itself, and what was decided outlives the process.

use std::{
    fs,
    process::Output,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::harness::{Banyan, Raw, Script, Upstream, eventually, secs};

/// A modern service that can be told to fail.
#[derive(Clone, Default)]
pub(super) struct Mood(Arc<AtomicBool>);

impl Mood {
    pub(super) fn service(&self) -> Upstream {
        let mood = self.clone();
        Upstream::scripted(move |_| match mood.0.load(Ordering::SeqCst) {
            true => Script::answer(503, &[], "no"),
            false => Script::answer(200, &[("X-From", "modern")], "modern"),
        })
    }

    pub(super) fn is_ill(&self, ill: bool) {
        self.0.store(ill, Ordering::SeqCst);
    }
}

pub(super) fn yaml(legacy: &Upstream, modern: &Upstream, rollout: &Value, route: &str) -> String {
    format!(
        "upstreams:\n  monolith: {{endpoints: [\"{}\"]}}\n  payments: {{endpoints: [\"{}\"]}}\ndefault: monolith\n\
         secret: cookie-secret-0123456789abcdef0123456789\nroutes:\n  - name: payments\n    match: {{path_prefix: /payments}}\n    \
         legacy: monolith\n    modern: payments\n    weight: 100\n    sticky: [{{header: x-user-id}}]\n    rollout: {rollout}\n{route}",
        legacy.url(),
        modern.url()
    )
}

pub(super) fn quick(more: &Value) -> Value {
    let mut rollout =
        json!({"steps": [20, 50, 100], "every": "2s", "min_requests": 60, "interval": "1s", "bake": "2s"});
    rollout.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    rollout
}

/// Users who come again and again; counts what they were not answered with 200.
pub(super) struct Crowd {
    task: JoinHandle<()>,
    bad: Arc<AtomicU64>,
}

impl Crowd {
    pub(super) fn come(addr: std::net::SocketAddr) -> Self {
        let bad = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&bad);
        let task = tokio::spawn(async move {
            let mut user = 0_u64;
            loop {
                let Ok(mut client) = Raw::try_connect(addr).await else {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                };
                for _ in 0..50 {
                    user += 1;
                    client.send(format!("GET /payments/7 HTTP/1.1\r\nHost: shop\r\nX-User-Id: u{user}\r\n\r\n")).await;
                    match client.answer().await {
                        Ok(answer) if answer.status == 200 => {}
                        Ok(_) => drop(counted.fetch_add(1, Ordering::SeqCst)),
                        Err(_) => break,
                    }
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
            }
        });
        Self { task, bad }
    }

    pub(super) fn bad(&self) -> u64 {
        self.bad.load(Ordering::SeqCst)
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub(super) async fn route(banyan: &Banyan) -> Value {
    let status = banyan.status().await;
    let routes = status["proxy"]["routes"].as_array().unwrap();
    routes.iter().find(|route| route["name"] == "payments").unwrap().clone()
}

pub(super) async fn until(banyan: &Banyan, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
    eventually(secs(60), what, async || {
        let route = route(banyan).await;
        if is_so(&route) { Ok(route) } else { Err(route.to_string()) }
    })
    .await
}

pub(super) fn text(done: &Output) -> String {
    String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr)
}

pub(super) fn ok(done: &Output) -> String {
    assert!(done.status.success(), "{}", text(done));
    text(done)
}

/// A first start cannot know whether a rollout was lost, and waits for somebody's word.
async fn begun(yaml: &str) -> Banyan {
    let banyan = Banyan::with(yaml).start().await;
    let waiting = route(&banyan).await;
    assert_eq!((&waiting["rollout"]["phase"], &waiting["weight_effective"]), (&json!("paused"), &json!(20.0)));
    assert!(waiting["why"].as_str().unwrap().contains("first start, or it was lost"), "{waiting}");
    ok(&banyan.verb(&["resume", "payments", "--reason", "first start"]));
    banyan
}

#[tokio::test]
async fn a_rollout_walks_to_its_end_and_a_bad_build_comes_back_by_itself() {
    let (legacy, mood) = (Upstream::named("legacy"), Mood::default());
    let modern = mood.service();
    let banyan = begun(&yaml(&legacy, &modern, &quick(&json!({})), "")).await;
    let crowd = Crowd::come(banyan.http());
    let done = until(&banyan, "the walk to 100 %", |route| route["rollout"]["phase"] == "done").await;
    assert_eq!((&done["weight_effective"], &done["rollout"]["step"]), (&json!(100.0), &json!(100.0)));
    assert_eq!(crowd.bad(), 0);
    let history = ok(&banyan.verb(&["history", "payments"]));
    let steps: Vec<&str> = ["20 % → 50 %", "50 % → 100 %"].into_iter().filter(|step| history.contains(step)).collect();
    assert_eq!(steps.len(), 2, "{history}");
    assert!(history.contains("would most likely have been seen"), "{history}");

    // Another build, another generation: it begins anew, and is bad from some moment on.
    let again = yaml(&legacy, &modern, &quick(&json!({"generation": 2, "every": "1h"})), "");
    banyan.rewrite(&again);
    ok(&banyan.verb(&["reload"]));
    until(&banyan, "the first step", |route| route["weight_effective"] == 20.0).await;
    mood.is_ill(true);
    let back = until(&banyan, "the way back", |route| route["weight_effective"] == 0.0).await;
    let why = back["why"].as_str().unwrap();
    assert!(
        why.starts_with("rolled back ") && why.contains("by gate success_rate: modern ") && why.contains("legacy"),
        "{why}"
    );
    assert_eq!((&back["weight_wanted"], &back["rollout"]["phase"]), (&json!(100.0), &json!("rolled_back")));
    let metrics = banyan.metrics().await;
    let reason = [("route", "payments"), ("reason", "success_rate")];
    assert_eq!(metrics.sum("banyan_rollout_rollbacks_total", &reason), 1.0);
    let effective = [("route", "payments"), ("kind", "effective")];
    assert_eq!(metrics.sum("banyan_route_weight_percent", &effective), 0.0);
    let log = banyan.log();
    let line = log.lines().find(|line| line.contains("rollout rolled back")).expect("a line of the log");
    assert!(
        line.contains("WARN") && line.contains("route=payments") && line.contains("gate=\"success_rate\""),
        "{line}"
    );
    let table = ok(&banyan.verb(&["status"]));
    assert!(table.contains("rolled back: payments") && table.contains("by gate success_rate"), "{table}");

    // Who was taken back is at legacy, and stays there.
    let bad = crowd.bad();
    eventually(secs(10), "users at legacy", async || {
        banyan.metrics().await.sum("banyan_side_moves_total", &[("reason", "weight_lowered")]) > 0.0
    })
    .await;
    assert_eq!(crowd.bad(), bad, "nobody meets the bad build any more");
}

#[tokio::test]
async fn what_was_decided_outlives_reloads_and_kills_and_is_shown_beside_the_wish() {
    let (legacy, modern) = (Upstream::named("legacy"), Mood::default().service());
    let file = yaml(&legacy, &modern, &quick(&json!({"every": "1h"})), "");
    let mut banyan = begun(&file).await;
    let told = ok(&banyan.verb(&["rollback", "payments", "--reason", "the ledger looks wrong"]));
    assert!(
        told.contains("rolled back")
            && told.contains("20 % → 0 %")
            && told.contains("by admin.token: the ledger looks wrong"),
        "{told}"
    );
    for act in ["rollback", "pause", "promote"] {
        let refused = banyan.verb(&[act, "payments"]);
        assert_eq!(refused.status.code(), Some(1), "{}", text(&refused));
    }
    let is_back = |route: &Value| {
        (&route["weight_wanted"], &route["weight_effective"], &route["rollout"]["phase"])
            == (&json!(100.0), &json!(0.0), &json!("rolled_back"))
    };
    assert!(is_back(&route(&banyan).await));
    banyan.rewrite(&yaml(&legacy, &modern, &quick(&json!({"every": "2h"})), ""));
    ok(&banyan.verb(&["reload"]));
    assert!(is_back(&route(&banyan).await), "after a reload");
    banyan.kill();
    banyan.start_again().await;
    assert!(is_back(&route(&banyan).await), "after a kill");
    assert!(ok(&banyan.verb(&["history", "payments"])).contains("the ledger looks wrong"));

    // The route goes from the file and comes back: still.
    banyan.rewrite(&file.replace("rollout:", "# rollout:").replace("weight: 100", "weight: 0"));
    ok(&banyan.verb(&["reload"]));
    banyan.rewrite(&file);
    ok(&banyan.verb(&["reload"]));
    assert!(is_back(&route(&banyan).await), "after it was out of the file");

    ok(&banyan.verb(&["resume", "payments"]));
    assert_eq!(route(&banyan).await["weight_effective"], 20.0);
    ok(&banyan.verb(&["pause", "payments", "--reason", "lunch"]));
    banyan.kill();
    banyan.start_again().await;
    let paused = route(&banyan).await;
    assert!(paused["why"].as_str().unwrap().contains("by admin.token: lunch"), "{paused}");
    assert_eq!((&paused["rollout"]["phase"], &paused["weight_effective"]), (&json!("paused"), &json!(20.0)));

    // Wiped or unreadable: the first step, paused, and it says so.
    banyan.kill();
    let kept = banyan.folder().join("state/rollouts.json");
    fs::write(&kept, "{\"version\": 1, \"rou").unwrap();
    banyan.start_again().await;
    let broken = route(&banyan).await;
    assert_eq!((&broken["rollout"]["phase"], &broken["weight_effective"]), (&json!("paused"), &json!(20.0)));
    assert!(broken["why"].as_str().unwrap().contains("rollouts.json.broken"), "{broken}");
}

#[tokio::test]
async fn a_step_to_be_confirmed_waits_for_a_promotion_which_skips_no_gate() {
    let (legacy, modern) = (Upstream::named("legacy"), Mood::default().service());
    let banyan = begun(&yaml(&legacy, &modern, &quick(&json!({"confirm": [50]})), "")).await;
    let refused = banyan.verb(&["promote", "payments"]);
    assert!(text(&refused).contains("a gate is in the way: ≥ 60 requests, now 0"), "{}", text(&refused));
    let crowd = Crowd::come(banyan.http());
    until(&banyan, "the question", |route| {
        route["why"].as_str().unwrap_or_default().contains("to 50 %: waits for `banyan promote payments`")
    })
    .await;
    assert_eq!(route(&banyan).await["weight_effective"], 20.0);
    assert!(ok(&banyan.verb(&["promote", "payments"])).contains("20 % → 50 %"));
    assert_eq!(route(&banyan).await["weight_effective"], 50.0);
    assert_eq!(crowd.bad(), 0);
}

#[tokio::test]
async fn a_clients_own_mistakes_and_an_upstream_of_both_sides_roll_nobody_back() {
    let legacy = Upstream::scripted(|seen| match seen.path() {
        "/payments/both" => Script::answer(503, &[], "the database of both is away"),
        _ => Script::answer(404, &[], "no such payment"),
    });
    let rollout = quick(&json!({"every": "1h", "gates": {"success_rate": {"min": 99, "below_legacy": 0.1}}}));
    // Both sides are one upstream, under two names of routes' sides.
    let file = yaml(&legacy, &legacy, &rollout, "").replace("modern: payments", "modern: monolith");
    let banyan = begun(&file).await;
    for (path, status) in [("/payments/7", 404), ("/payments/both", 503)] {
        for user in 0..400 {
            let request =
                format!("GET {path} HTTP/1.1\r\nHost: shop\r\nX-User-Id: {user}\r\nConnection: close\r\n\r\n");
            assert_eq!(Raw::once(banyan.http(), &request).await.status, status);
        }
        let seen = |route: &Value| route["rollout"]["requests_modern"].as_u64().unwrap();
        let least = if status == 404 { 60 } else { 120 };
        let judged = until(&banyan, "the look", |route| seen(route) >= least).await;
        assert_eq!((&judged["rollout"]["phase"], &judged["weight_effective"]), (&json!("walking"), &json!(20.0)));
    }
}

#[tokio::test]
async fn every_event_is_told_to_the_webhook_signed_and_again_until_it_is_taken() {
    const SECRET: &str = "hook-secret-0123456789abcdef0123456789";
    let calls: Arc<Mutex<u32>> = Arc::default();
    let counted = Arc::clone(&calls);
    let hook = Upstream::scripted(move |seen| {
        let mut calls = counted.lock().unwrap();
        // A script is asked twice: when the head has come, and when the body has.
        *calls += u32::from(!seen.body.is_empty());
        // The first try of the first call fails.
        if *calls <= 1 { Script::answer(500, &[], "not now") } else { Script::answer(204, &[], "") }
    });
    let (legacy, modern) = (Upstream::named("legacy"), Mood::default().service());
    let webhook = format!("webhook: {{url: \"{}/hook?room=1\", secret: \"${{HOOK}}\"}}\n", hook.url());
    let file = yaml(&legacy, &modern, &quick(&json!({"every": "1h"})), &webhook);
    let banyan = Banyan::with(&file).env("HOOK", SECRET).start().await;
    ok(&banyan.verb(&["rollback", "payments", "--reason", "a drill"]));
    eventually(secs(30), "calls that are taken", async || hook.seen().len() >= 3).await;
    let seen = hook.seen();
    let body = |seen: &crate::harness::upstream::Seen| -> Value { serde_json::from_slice(&seen.body).unwrap() };
    let (first, second, third) = (body(&seen[0]), body(&seen[1]), body(&seen[2]));
    assert_eq!(first, second, "the same call again");
    assert_eq!(seen[1].line(), "POST /hook?room=1 HTTP/1.1");
    let at_the_start = &first["event"];
    assert_eq!((&at_the_start["what"], &at_the_start["by"]), (&json!("paused"), &json!("start")), "{first}");
    let event = &third["event"];
    assert_eq!(
        (&event["what"], &event["route"], &event["why"], &event["by"], &event["to"]),
        (&json!("rolled_back"), &json!("payments"), &json!("a drill"), &json!("admin.token"), &json!(0.0))
    );
    let signature = seen[1].header("x-banyan-signature").unwrap();
    let (time, hex) = signature.strip_prefix("t=").unwrap().split_once(",v1=").unwrap();
    let signer = banyan_proxy::split::Signer::try_new(SECRET.as_bytes()).unwrap();
    let signed = [format!("{time}.").as_bytes(), &seen[1].body[..]].concat();
    let wanted: String = signer.sign(&signed).iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hex, wanted);
    eventually(secs(10), "the count", async || {
        banyan.metrics().await.sum("banyan_webhook_calls_total", &[("outcome", "delivered")]) == 2.0
    })
    .await;
    assert!(!banyan.log().contains(SECRET) && !banyan.log().contains("room=1"), "{}", banyan.log());
}
