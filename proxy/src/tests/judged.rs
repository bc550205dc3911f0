//! What a rollout is judged by, and what not: of requests over real sockets.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use serde_json::{Value, json};

use super::{Bench, Setup, Upstream};
use crate::rollout::Arm;

/// A rollout that stands at `weight`, since nobody knows what was before.
async fn bench(modern: SocketAddr, weight: u32, more: &Value) -> (Bench, Upstream) {
    let legacy = Upstream::named("legacy").await;
    let mut route = json!({"name": "payments", "match": {"path_prefix": "/payments"}, "legacy": "legacy", "modern": "modern",
        "weight": 100, "sticky": [{"header": "x-user-id"}], "rollout": {"steps": [weight]}});
    route.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let setup = Setup::new(legacy.address).upstream("modern", modern, &json!({"body_idle": "300ms"}));
    (setup.route(route).start(), legacy)
}

fn arms(bench: &Bench) -> (Arm, Arm) {
    bench.proxy.shared().shards.judged(&Arc::from("payments"))
}

/// Legacy's and modern's: well, and failed.
fn counts(bench: &Bench) -> [u64; 4] {
    let (legacy, modern) = arms(bench);
    [legacy.ok, legacy.failed, modern.ok, modern.failed]
}

async fn until(bench: &Bench, wanted: [u64; 4]) {
    for _ in 0..500 {
        if counts(bench) == wanted {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{:?} and not {wanted:?}", counts(bench));
}

/// To the end of the connection, whatever comes.
async fn ask(bench: &Bench, head: &str) {
    let mut client = bench.client().await;
    client.send(format!("{head}Host: a\r\nConnection: close\r\n\r\n")).await;
    let mut all = Vec::new();
    let _ = tokio::io::AsyncReadExt::read_to_end(&mut client.stream, &mut all).await;
}

#[tokio::test]
async fn an_answer_that_breaks_off_or_stops_is_a_failure_of_its_side_and_one_that_its_client_leaves_is_none() {
    for (rest, is_failed) in [("reset", true), ("silence", true), ("whole", false)] {
        let upstream = Upstream::scripted(move |mut wire| async move {
            wire.request().await?;
            wire.send("HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nhalf").await?;
            match rest {
                "reset" => wire.reset(),
                "silence" => tokio::time::sleep(Duration::from_secs(5)).await,
                _ => wire.send("half").await?,
            }
            Ok(())
        })
        .await;
        let (bench, _legacy) = bench(upstream.address, 100, &json!({})).await;
        ask(&bench, "GET /payments HTTP/1.1\r\n").await;
        until(&bench, [0, 0, u64::from(!is_failed), u64::from(is_failed)]).await;
    }
    let upstream = Upstream::scripted(|mut wire| async move {
        wire.request().await?;
        tokio::time::sleep(Duration::from_secs(5)).await;
        Ok(())
    })
    .await;
    let (bench, _legacy) = bench(upstream.address, 100, &json!({"timeout": "200ms"})).await;
    drop({
        let mut client = bench.client().await;
        client.send("GET /payments HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nab").await;
        client
    });
    ask(&bench, "GET /payments HTTP/1.1\r\n").await;
    until(&bench, [0, 0, 0, 1]).await;
}

#[tokio::test]
async fn only_what_the_weight_decided_over_is_judged() {
    let modern = Upstream::named("modern").await;
    let more = json!({"pin": {"modern": [{"header": {"x-tenant": ["acme"]}}]}, "force": {"allow": ["127.0.0.0/8"]}});
    let (bench, _legacy) = bench(modern.address, 50, &more).await;
    for user in 0..40 {
        ask(&bench, &format!("GET /payments HTTP/1.1\r\nX-User-Id: {user}\r\n")).await;
        ask(&bench, &format!("GET /payments HTTP/1.1\r\nX-User-Id: {user}\r\nX-Tenant: acme\r\n")).await;
        ask(&bench, &format!("GET /payments HTTP/1.1\r\nX-User-Id: {user}\r\nX-Banyan-Side: modern\r\n")).await;
    }
    // Nobody's: it goes to legacy whatever the weight.
    ask(&bench, "GET /payments HTTP/1.1\r\n").await;
    let [legacy, legacy_failed, modern, modern_failed] = counts(&bench);
    assert_eq!((legacy + modern, legacy_failed + modern_failed), (40, 0));
    assert!(legacy > 5 && modern > 5, "{legacy} {modern}");
}

#[tokio::test]
async fn a_failure_that_legacy_mends_is_modern_s_all_the_same() {
    let modern = Upstream::scripted(|mut wire| async move {
        wire.request().await?;
        wire.reset();
        Ok(())
    })
    .await;
    let (bench, _legacy) = bench(modern.address, 100, &json!({"fallback": "reads"})).await;
    let answer = bench.ask("GET /payments HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(answer.text(), "legacy");
    until(&bench, [0, 0, 0, 1]).await;
}

#[tokio::test]
async fn a_failure_whose_answer_breaks_off_is_one_failure() {
    let modern = Upstream::scripted(|mut wire| async move {
        wire.request().await?;
        wire.send("HTTP/1.1 503 No\r\nContent-Length: 8\r\n\r\nhalf").await?;
        wire.reset();
        Ok(())
    })
    .await;
    let (bench, _legacy) = bench(modern.address, 100, &json!({})).await;
    for _ in 0..3 {
        ask(&bench, "GET /payments HTTP/1.1\r\n").await;
    }
    let broken = || bench.proxy.shared().clients().0 == 0;
    super::eventually("all connections are closed", broken).await;
    assert_eq!(counts(&bench), [0, 0, 0, 3]);
}

#[tokio::test]
async fn a_client_that_is_too_slow_with_its_own_body_is_nobodys_failure() {
    let modern = Upstream::scripted(|mut wire| async move {
        wire.request().await?;
        wire.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await
    })
    .await;
    let (bench, _legacy) = bench(modern.address, 100, &json!({"deadline": "300ms"})).await;
    let mut client = bench.client().await;
    client.send("POST /payments HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nab").await;
    let mut all = Vec::new();
    let _ = tokio::io::AsyncReadExt::read_to_end(&mut client.stream, &mut all).await;
    assert!(!all.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&all));
    ask(&bench, "GET /payments HTTP/1.1\r\n").await;
    until(&bench, [0, 0, 1, 0]).await;
}

/// What was counted before a rollout began, or began anew, says nothing of it.
#[tokio::test]
async fn a_rollout_that_is_taken_out_of_the_file_and_put_in_again_counts_from_then_on() {
    let modern = Upstream::scripted(|mut wire| async move {
        wire.request().await?;
        wire.send("HTTP/1.1 503 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").await
    })
    .await;
    let legacy = Upstream::named("legacy").await;
    let setup = |rollout: &Value| {
        let mut route = json!({"name": "payments", "match": {"path_prefix": "/payments"}, "legacy": "legacy",
            "modern": "modern", "weight": 100, "fallback": "none"});
        if rollout.is_object() {
            route["rollout"] = rollout.clone();
        }
        Setup::new(legacy.address).upstream("modern", modern.address, &json!({})).route(route)
    };
    let rollout = json!({"steps": [100], "interval": "1s", "gates": {"success_rate": {"min": 90}}});
    let folder = tempfile::tempdir().unwrap();
    let mut first = setup(&rollout);
    first.config.state.dir = folder.path().to_owned();
    let bench = first.start();
    for _ in 0..40 {
        ask(&bench, "GET /payments HTTP/1.1\r\n").await;
    }
    until(&bench, [0, 0, 0, 40]).await;
    let what = || bench.proxy.status().routes.iter().find_map(|route| Some(route.rollout.as_ref()?.phase));
    let phase = |wanted: &str| what().is_some_and(|phase| phase.as_str() == wanted);
    super::eventually("the rollback", || phase("rolled_back")).await;
    let reload = |rollout: &Value| {
        let mut next = setup(rollout);
        next.config.state.dir = folder.path().to_owned();
        bench.proxy.reload(&next.config, &next.links).unwrap();
    };
    reload(&Value::Null);
    let mut again = rollout;
    again["generation"] = json!(2);
    reload(&again);
    // Two looks.
    let verdicts =
        || bench.metric("banyan_rollout_verdicts_total", &[("route", "payments"), ("verdict", "inconclusive")]);
    let before = verdicts();
    super::eventually("two looks", || verdicts() >= before + 2.0 || !phase("walking")).await;
    assert!(phase("walking"), "{:?}", what());
}
