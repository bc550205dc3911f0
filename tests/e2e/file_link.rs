//! Who owns a sync and how far it is behind: the answering path asks the databases itself, also where no connector runs.

use serde_json::Value;

use crate::harness::{Banyan, Kafka, Postgres, Raw, Shop, Upstream, eventually, front::request, secs};

/// One synced route, all its reads to modern.
fn yaml(shop: &Shop, owner: &str, monolith: &Upstream, service: &Upstream) -> String {
    weighted(shop, owner, 100, "", monolith, service)
}

fn weighted(shop: &Shop, owner: &str, weight: u8, keys: &str, monolith: &Upstream, service: &Upstream) -> String {
    format!(
        "upstreams:\n  monolith: {{endpoints: [\"{}\"]}}\n  service: {{endpoints: [\"{}\"]}}\ndefault: monolith\nroutes:\n  - name: money\n    \
         match: {{path_prefix: /money}}\n    legacy: monolith\n    modern: service\n    weight: {weight}\n    sticky: [{{header: x-user-id}}]\n    sync: shop\n{}",
        monolith.url(),
        service.url(),
        shop.sync(owner, keys),
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

/// Who answers a read with this header.
async fn side(banyan: &Banyan, header: (&str, &str)) -> String {
    let answer = Raw::once(banyan.http(), &request("GET /money", &[header, ("Connection", "close")], "")).await;
    answer.header("x-from").unwrap_or_default().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_writer_reads_at_the_owner_until_the_other_database_has_the_write_however_long_its_applier_stalls() {
    for (owner, other, flow, weight) in
        [("legacy", "modern", "legacy_to_modern", 100), ("modern", "legacy", "modern_to_legacy", 0)]
    {
        let shop = Shop::fresh().await;
        let (monolith, service) = (Upstream::named("legacy"), Upstream::named("modern"));
        // So that neither the lag nor the time of the write holds anybody at the owner.
        let keys = "read_your_writes: 10ms\n    max_lag: 1h";
        let yaml =
            weighted(&shop, owner, weight, keys, &monolith, &service) + "secret: 0123456789abcdef0123456789abcdef\n";
        let first = Banyan::with(&yaml).start().await;
        let replica = Banyan::with(&yaml).arg("--only").arg("proxy").start().await;
        first.flow_state("shop", flow, &["applying"], secs(60)).await;
        for banyan in [&first, &replica] {
            eventually(secs(30), "strangers read by the weight", async || {
                side(banyan, ("X-User-Id", "bob")).await == other
            })
            .await;
        }

        let (source, target) =
            if owner == "legacy" { (&shop.legacy, &shop.modern) } else { (&shop.modern, &shop.legacy) };
        let lock = target.session().await;
        lock.batch_execute("BEGIN; LOCK TABLE accounts").await.unwrap();
        source.batch("INSERT INTO accounts VALUES (1, 'a@example.org', 'Ann')").await;
        let post = request("POST /money", &[("X-User-Id", "ann"), ("Connection", "close")], "x");
        let written = Raw::once(first.http(), &post).await;
        assert_eq!(written.header("x-from"), Some(owner));
        let cookie = written.header("set-cookie").unwrap().split(';').next().unwrap().to_owned();
        let hers = [(&first, ("X-User-Id", "ann")), (&first, ("Cookie", &*cookie)), (&replica, ("Cookie", &*cookie))];

        // Longer than both read the databases, and than every time that the file knows.
        let stalled = tokio::time::Instant::now();
        while stalled.elapsed() < secs(4) {
            for (banyan, header) in hers {
                assert_eq!(side(banyan, header).await, owner);
            }
            assert_eq!(side(&first, ("X-User-Id", "bob")).await, other);
        }
        lock.batch_execute("ROLLBACK").await.unwrap();
        let released = tokio::time::Instant::now();
        for (banyan, header) in hers {
            eventually(secs(30), "she is back on her side", async || {
                let is_back = side(banyan, header).await == other;
                let has_row = target.text("SELECT name FROM accounts WHERE id = 1").await.is_some();
                assert!(has_row || !is_back, "she was sent to where her write was not");
                is_back
            })
            .await;
            println!("{owner}: back {:?} after the stall, by {}", released.elapsed(), header.0);
        }

        // Where nothing stalls it is a matter of milliseconds; how many, is for a person to read.
        for id in 2..7 {
            source.batch(&format!("INSERT INTO accounts VALUES ({id}, '{id}@example.org', 'Ann')")).await;
            Raw::once(first.http(), &post).await;
            let written = tokio::time::Instant::now();
            eventually(secs(30), "she is back on her side", async || side(&first, ("X-User-Id", "ann")).await == other)
                .await;
            println!("{owner}: back {:?} after a write", written.elapsed());
        }
    }
}
