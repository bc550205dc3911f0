//! The file changes while Banyan runs: every way of changing it counts, a bad one changes nothing, and no request notices.

use std::{
    fs,
    os::unix::fs::symlink,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use serde_json::Value;

use crate::harness::{Banyan, Raw, Upstream, eventually, secs, watchdog::Signal};

/// One route, all to one side.
fn yaml(monolith: &Upstream, service: &Upstream, weight: &str) -> String {
    format!(
        "upstreams:\n  monolith: {{endpoints: [\"{}\"]}}\n  service: {{endpoints: [\"{}\"]}}\ndefault: monolith\nroutes:\n  - name: moving\n    \
         match: {{path_prefix: /moving}}\n    legacy: monolith\n    modern: service\n    weight: {weight}\n",
        monolith.url(),
        service.url(),
    )
}

async fn answered_by(banyan: &Banyan, who: &str) {
    eventually(secs(10), &format!("{who} answers"), async || {
        Raw::get(banyan.http(), "/moving").await.header("x-from") == Some(who)
    })
    .await;
}

async fn file_status(banyan: &Banyan) -> Value {
    banyan.status().await["file"].clone()
}

/// Waits until the file on disk is refused, and gives what `status` says of it.
async fn refused(banyan: &Banyan) -> Value {
    eventually(secs(10), "the file is refused", async || {
        let file = file_status(banyan).await;
        if file["in_force"] == false { Ok(file) } else { Err(file.to_string()) }
    })
    .await
}

#[tokio::test]
async fn a_file_renamed_over_or_written_in_place_is_taken_over() {
    let (monolith, service) = (Upstream::named("legacy"), Upstream::named("modern"));
    let banyan = Banyan::with(&yaml(&monolith, &service, "0")).start().await;
    answered_by(&banyan, "legacy").await;
    banyan.rewrite(&yaml(&monolith, &service, "100"));
    answered_by(&banyan, "modern").await;
    let text = fs::read_to_string(banyan.file()).unwrap();
    fs::write(banyan.file(), text.replace("weight: 100", "weight: 0")).unwrap();
    answered_by(&banyan, "legacy").await;
    // And by a rename again: the first one has not cut the watcher off.
    banyan.rewrite(&yaml(&monolith, &service, "100"));
    answered_by(&banyan, "modern").await;
    assert_eq!(banyan.metrics().await.get("banyan_config_reloads_total", &[("result", "accepted")]), Some(3.0));
}

#[tokio::test]
async fn a_link_swapped_as_kubernetes_does_is_taken_over() {
    let (monolith, service) = (Upstream::named("legacy"), Upstream::named("modern"));
    let banyan = Banyan::with(&yaml(&monolith, &service, "0"));
    let folder = banyan.file().parent().unwrap().to_owned();
    let text = fs::read_to_string(banyan.file()).unwrap();
    let version = |name: &str, text: &str| {
        fs::create_dir(folder.join(name)).unwrap();
        fs::write(folder.join(name).join("routes.yaml"), text).unwrap();
    };
    version("..1", &text);
    symlink("..1", folder.join("..data")).unwrap();
    fs::remove_file(banyan.file()).unwrap();
    symlink(Path::new("..data/routes.yaml"), banyan.file()).unwrap();
    let banyan = banyan.start().await;
    answered_by(&banyan, "legacy").await;

    for (name, weight, who) in [("..2", "100", "modern"), ("..3", "0", "legacy")] {
        version(name, &text.replace("weight: 0", &format!("weight: {weight}")));
        symlink(name, folder.join("..data_tmp")).unwrap();
        fs::rename(folder.join("..data_tmp"), folder.join("..data")).unwrap();
        answered_by(&banyan, who).await;
    }
}

#[tokio::test]
async fn a_bad_file_changes_nothing_and_everybody_is_told() {
    let (monolith, service) = (Upstream::named("legacy"), Upstream::named("modern"));
    let banyan = Banyan::with(&yaml(&monolith, &service, "100")).start().await;
    answered_by(&banyan, "modern").await;
    assert_eq!(banyan.metrics().await.get("banyan_config_last_reload_successful", &[]), Some(1.0));

    banyan.rewrite(&yaml(&monolith, &service, "500").replace("legacy: monolith", "legacy: monolit"));
    let file = refused(&banyan).await;
    assert_eq!(file["errors"], 2, "{file}");
    assert!(file["first_error"].as_str().unwrap().contains("unknown upstream `monolit`"), "{file}");
    let metrics = banyan.metrics().await;
    assert_eq!(metrics.get("banyan_config_last_reload_successful", &[]), Some(0.0));
    assert_eq!(metrics.get("banyan_config_reloads_total", &[("result", "refused")]), Some(1.0));
    let lines: Vec<String> =
        banyan.log().lines().filter(|line| line.contains("refused the file")).map(str::to_owned).collect();
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].contains("errors=2"), "{lines:?}");
    answered_by(&banyan, "modern").await;
    assert_eq!(Raw::get(banyan.admin(), "/readyz").await.status, 200);

    fs::remove_file(banyan.file()).unwrap();
    eventually(secs(10), "the missing file is told", async || {
        file_status(&banyan).await["first_error"].as_str().is_some_and(|why| why.contains("no such file"))
    })
    .await;
    answered_by(&banyan, "modern").await;

    banyan.rewrite(&yaml(&monolith, &service, "0"));
    answered_by(&banyan, "legacy").await;
    let file = file_status(&banyan).await;
    assert_eq!((&file["in_force"], &file["errors"]), (&Value::Bool(true), &Value::from(0)), "{file}");
    assert_eq!(banyan.metrics().await.get("banyan_config_last_reload_successful", &[]), Some(1.0));
}

#[tokio::test]
async fn sighup_reads_the_file_again() {
    let (monolith, service) = (Upstream::named("legacy"), Upstream::named("modern"));
    let mut banyan = Banyan::with(&yaml(&monolith, &service, "0")).start().await;
    banyan.signal(Signal::Hup);
    eventually(secs(10), "the file was read again", async || {
        banyan.metrics().await.get("banyan_config_reloads_total", &[("result", "accepted")]) == Some(1.0)
    })
    .await;
    answered_by(&banyan, "legacy").await;
}

#[tokio::test]
async fn a_key_that_needs_a_restart_says_so_and_the_rest_is_taken_over() {
    let (monolith, service) = (Upstream::named("legacy"), Upstream::named("modern"));
    let banyan = Banyan::with(&yaml(&monolith, &service, "0")).start().await;
    banyan.rewrite(&(yaml(&monolith, &service, "100") + "install: other\n"));
    answered_by(&banyan, "modern").await;
    assert_eq!(file_status(&banyan).await["restart_needed"], serde_json::json!(["install"]));
    assert!(banyan.log().contains("changed keys that need a restart"));
    banyan.rewrite(&yaml(&monolith, &service, "100"));
    eventually(secs(10), "nothing waits for a restart any more", async || {
        file_status(&banyan).await["restart_needed"] == serde_json::json!([])
    })
    .await;
}

#[tokio::test]
async fn the_owner_of_a_sync_is_not_changed_by_the_file() {
    let (monolith, service) = (Upstream::named("legacy"), Upstream::named("modern"));
    let with = |owner: &str, weight: &str| {
        yaml(&monolith, &service, weight)
            + &format!(
                "    sync: money\nkafka: {{brokers: \"127.0.0.1:9\"}}\nsyncs:\n  money:\n    owner: {owner}\n    \
                 legacy: {{postgres: \"postgres://nobody@127.0.0.1:9/legacy\"}}\n    modern: {{postgres: \"postgres://nobody@127.0.0.1:9/modern\"}}\n    \
                 tables: [public.payments]\n"
            )
    };
    // The databases and Kafka are away: that must not keep the proxy from starting either.
    let mut banyan = Banyan::with(&with("legacy", "100")).arg("--only").arg("proxy").start().await;
    let post = "POST /moving HTTP/1.1\r\nHost: test\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    assert_eq!(Raw::once(banyan.http(), post).await.header("x-from"), Some("legacy"));
    banyan.rewrite(&with("modern", "100"));
    let file = refused(&banyan).await;
    assert!(file["first_error"].as_str().unwrap().contains("the owner of sync `money` cannot be changed"), "{file}");
    assert_eq!(Raw::once(banyan.http(), post).await.header("x-from"), Some("legacy"));
    assert_eq!(Raw::get(banyan.admin(), "/readyz").await.status, 200);
    assert!(banyan.stop(secs(20)).success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reloads_under_load_lose_no_request_and_close_no_connection() {
    let (monolith, service) = (Upstream::named("legacy"), Upstream::named("modern"));
    let banyan = Banyan::with(&yaml(&monolith, &service, "0")).start().await;
    let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let (stop, done, http) = (Arc::clone(&stop), Arc::clone(&done), banyan.http());
            tokio::spawn(async move {
                // One connection all the while: a reload that closed it would end this test.
                let mut raw = Raw::connect(http).await;
                while !stop.load(Ordering::Relaxed) {
                    raw.send("GET /moving HTTP/1.1\r\nHost: test\r\n\r\n").await;
                    let answer = raw.answer().await.expect("an answer to every request");
                    assert_eq!(answer.status, 200);
                    done.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    for reload in 1..=20_u32 {
        let weight = if reload % 2 == 0 { "0" } else { "100" };
        banyan.rewrite(&yaml(&monolith, &service, weight));
        eventually(secs(10), "the reload is over", async || {
            let metrics = banyan.metrics().await;
            metrics.get("banyan_config_reloads_total", &[("result", "accepted")]) == Some(f64::from(reload))
        })
        .await;
    }
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.unwrap();
    }
    assert!(done.load(Ordering::Relaxed) > 100, "{} requests", done.load(Ordering::Relaxed));
    let metrics = banyan.metrics().await;
    assert_eq!(
        metrics.sum("banyan_route_attempts_total", &[("outcome", "ok")]),
        metrics.sum("banyan_route_attempts_total", &[])
    );
    assert!(metrics.sum("banyan_http_requests_total", &[("side", "modern")]) > 0.0);
    assert!(metrics.sum("banyan_http_requests_total", &[("side", "legacy")]) > 0.0);
}

#[tokio::test]
async fn a_reload_logs_what_it_changes() {
    let (monolith, service) = (Upstream::named("legacy"), Upstream::named("modern"));
    let banyan = Banyan::with(&yaml(&monolith, &service, "5")).start().await;
    banyan.rewrite(&yaml(&monolith, &service, "25"));
    let line = eventually(secs(10), "the change is logged", async || {
        banyan.log().lines().find(|line| line.contains("weight 5 % → 25 %")).map(str::to_owned).ok_or(banyan.log())
    })
    .await;
    assert!(line.contains("of=\"moving\""), "{line}");
    assert!(line.contains("about 1 in 5 users move to modern; nobody moves back"), "{line}");

    // A file that changes everything does not flood the log.
    let mut many = yaml(&monolith, &service, "25");
    for route in 0..50 {
        many += &format!("  - {{name: r{route}, match: {{path: /r{route}}}, legacy: monolith}}\n");
    }
    banyan.rewrite(&many);
    eventually(secs(10), "what is left is counted", async || {
        if banyan.log().contains("changes=30") { Ok(()) } else { Err(banyan.log()) }
    })
    .await;
    assert_eq!(banyan.log().matches("new route /r").count(), 20);
}
