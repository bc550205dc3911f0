//! Who owns a sync and how far it is behind: the answering path asks the databases itself, also where no connector runs.

use serde_json::Value;

use crate::harness::{Banyan, Kafka, Postgres, Raw, Shop, Upstream, eventually, secs};

/// One synced route, all its reads to modern.
fn yaml(shop: &Shop, owner: &str, monolith: &Upstream, service: &Upstream) -> String {
    format!(
        "upstreams:\n  monolith: {{endpoints: [\"{}\"]}}\n  service: {{endpoints: [\"{}\"]}}\ndefault: monolith\nroutes:\n  - name: money\n    \
         match: {{path_prefix: /money}}\n    legacy: monolith\n    modern: service\n    weight: 100\n    sync: shop\n{}",
        monolith.url(),
        service.url(),
        shop.sync(owner, ""),
    )
}

async fn link(banyan: &Banyan) -> Value {
    banyan.status().await["links"][0].clone()
}

async fn link_until(banyan: &Banyan, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
    eventually(secs(30), what, async || {
        let link = link(banyan).await;
        if holds(&link) { Ok(link) } else { Err(link.to_string()) }
    })
    .await
}

async fn read_by(banyan: &Banyan) -> String {
    Raw::get(banyan.http(), "/money").await.header("x-from").unwrap_or_default().to_owned()
}

async fn written_by(banyan: &Banyan) -> String {
    let post = "POST /money HTTP/1.1\r\nHost: test\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    Raw::once(banyan.http(), post).await.header("x-from").unwrap_or_default().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_alone_follows_what_the_databases_say() {
    let shop = Shop::fresh().await;
    let (monolith, service) = (Upstream::named("legacy"), Upstream::named("modern"));
    // Connectors elsewhere, where modern owns the sync.
    let elsewhere =
        Banyan::with(&yaml(&shop, "modern", &monolith, &service)).arg("--only").arg("connectors").start().await;
    elsewhere.flow_state("shop", "modern_to_legacy", &["applying"], secs(60)).await;
    assert!(elsewhere.status().await["proxy"].is_null());

    // This file says legacy, and is wrong.
    let mut banyan = Banyan::with(&yaml(&shop, "legacy", &monolith, &service)).arg("--only").arg("proxy").start().await;
    let known = link_until(&banyan, "a database has answered", |link| link["known_from"] == "database").await;
    assert_eq!((&known["owner"], &known["epoch"]), (&"modern".into(), &1.into()));
    assert_eq!(banyan.status().await["syncs"], serde_json::json!([]));
    assert_eq!(written_by(&banyan).await, "modern");
    let log = banyan.log();
    let told = log.lines().filter(|line| line.contains("name another owner than was known")).count();
    assert_eq!(told, 1, "{log}");

    // After a restart the last owner counts from the first request on, whatever the file says.
    banyan.stop(secs(20));
    banyan.start_again().await;
    assert_eq!(written_by(&banyan).await, "modern");
    assert_ne!(link(&banyan).await["known_from"], "file");
    assert!(banyan.log().contains("the file names another owner than the sync has"), "{}", banyan.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_lag_sends_reads_to_the_owner_until_it_is_known() {
    let shop = Shop::fresh().await;
    let (monolith, service) = (Upstream::named("legacy"), Upstream::named("modern"));
    // No connector has ever run: nobody knows how far modern is behind.
    let banyan = Banyan::with(&yaml(&shop, "legacy", &monolith, &service)).arg("--only").arg("proxy").start().await;
    assert_eq!(link(&banyan).await["lag_seconds"], Value::Null);
    assert_eq!((read_by(&banyan).await, written_by(&banyan).await), ("legacy".into(), "legacy".into()));
    assert!(banyan.metrics().await.sum("banyan_side_moves_total", &[("route", "money"), ("reason", "lag")]) >= 1.0);

    let elsewhere =
        Banyan::with(&yaml(&shop, "legacy", &monolith, &service)).arg("--only").arg("connectors").start().await;
    elsewhere.flow_state("shop", "legacy_to_modern", &["applying"], secs(60)).await;
    link_until(&banyan, "the lag is known", |link| link["lag_seconds"].as_f64().is_some_and(|lag| lag < 5.0)).await;
    eventually(secs(10), "reads follow the weight", async || read_by(&banyan).await == "modern").await;
    assert_eq!(written_by(&banyan).await, "legacy");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn databases_that_are_gone_leave_the_last_owner_and_no_lag() {
    let server = Postgres::dedicated();
    let ddl = "CREATE TABLE items (id bigint PRIMARY KEY, name text)";
    let shop = Shop::on(&server, &server, &Kafka::shared().brokers(), ddl, &["public.items"]).await;
    let (monolith, service) = (Upstream::named("legacy"), Upstream::named("modern"));
    let mut banyan = Banyan::with(&yaml(&shop, "modern", &monolith, &service)).start().await;
    banyan.flow_state("shop", "modern_to_legacy", &["applying"], secs(60)).await;
    link_until(&banyan, "the lag is known", |link| link["lag_seconds"].is_number()).await;

    server.stop();
    link_until(&banyan, "the lag is unknown", |link| link["lag_seconds"].is_null()).await;
    assert_eq!(link(&banyan).await["owner"], "modern");
    assert_eq!((read_by(&banyan).await, written_by(&banyan).await), ("modern".into(), "modern".into()));
    assert_eq!(Raw::get(banyan.admin(), "/readyz").await.status, 200);

    banyan.kill();
    banyan.start_again().await;
    let known = link(&banyan).await;
    assert_eq!((&known["owner"], &known["known_from"]), (&"modern".into(), &"kept".into()));
    assert_eq!(written_by(&banyan).await, "modern");
}
