//! `docs/reference/metrics.md` says what a running Banyan exposes, and nothing else.

use std::collections::{BTreeMap, BTreeSet};

use crate::harness::{Authority, Banyan, Raw, Shop, Upstream, eventually, ports, secs};

const PAGE: &str = include_str!("../../docs/reference/metrics.md");

/// Kind and labels of each family.
type Families = BTreeMap<String, (String, BTreeSet<String>)>;

/// The tables of the page.
fn documented() -> Families {
    let mut families = Families::new();
    for line in PAGE.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let (name, kind, labels) = (cells[1].trim_matches('`'), cells[2], cells[3]);
        let labels = labels.split('`').map(str::trim).filter(|label| !label.is_empty()).map(str::to_owned).collect();
        assert!(families.insert(name.to_owned(), (kind.to_owned(), labels)).is_none(), "{name} stands twice");
    }
    families
}

/// The families of a scrape.
fn exposed(text: &str) -> Families {
    let mut families = Families::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            families.insert(name.to_owned(), (kind.to_owned(), BTreeSet::new()));
        } else if !line.starts_with('#') {
            let name = line.split(['{', ' ']).next().unwrap();
            let base = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| name.strip_suffix(suffix));
            let name = base.filter(|base| families.contains_key(*base)).unwrap_or(name);
            let labels = line.split_once('{').map_or("", |(_, rest)| rest.split_once('}').unwrap().0);
            let labels = labels.split(',').filter_map(|pair| pair.split_once('=')).map(|(label, _)| label.to_owned());
            families.get_mut(name).unwrap().1.extend(labels.filter(|label| label != "le"));
        }
    }
    families
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_metric_is_documented_and_every_documented_one_is_there() {
    let shop = Shop::fresh().await;
    let (legacy, modern) = (Upstream::named("legacy"), Upstream::named("modern"));
    let routes = format!(
        "upstreams:\n  monolith: {{endpoints: [\"{}\"]}}\n  service: {{endpoints: [\"{}\"], circuit: {{}}, limits: {{adaptive: true}}}}\ndefault: monolith\nidentity: {{ask: monolith, path: /whoami, copy: [x-tenant]}}\nroutes:\n  - name: payments\n    \
         match: {{path_prefix: /payments}}\n    legacy: monolith\n    modern: service\n    weight: 50\n    sticky: [{{header: x-user-id}}]\n    sync: shop\n    \
         shadow: {{percent: 100}}\n    compare: {{}}\n    rollout: {{steps: [50], gates: {{mismatch_rate: {{max: 1}}}}}}\n{}",
        legacy.url(),
        modern.url(),
        shop.sync("legacy", "verify: {every: 1h}\n    snapshot: {chunk: 1, rows_per_second: 2}"),
    );
    let banyan = Banyan::with(&routes);
    Authority::new(banyan.folder()).signs("shop", "shop.example");
    let tls = format!("listeners:\n  - {}\n", with_tls("shop"));
    banyan.edit("listeners:\n", &tls);
    let banyan = banyan.start().await;
    banyan.flow_state("shop", "legacy_to_modern", &["applying"], secs(60)).await;
    banyan.flow_state("shop", "modern_to_legacy", &["watching"], secs(60)).await;
    shop.legacy.batch("INSERT INTO accounts VALUES (1, 'a@x', 'Ann')").await;
    eventually(secs(60), "both sides were compared", async || {
        Raw::get(banyan.admin(), "/metrics").await.text().contains("banyan_sync_verified_timestamp_seconds")
    })
    .await;
    // A copy that lasts: its metrics are there as long as it.
    shop.legacy.batch("INSERT INTO accounts SELECT n, n || '@x', 'N' FROM generate_series(100, 400) AS n").await;
    let again = ["sync", "snapshot", "shop", "--table", "public.accounts", "--reason", "to be seen"];
    eventually(secs(20), "the table is copied again", async || {
        let output = banyan.verb(&again);
        if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
    })
    .await;
    // Behind the owner's back: a violation.
    shop.modern.batch("INSERT INTO accounts VALUES (2, 'b@x', 'Bob')").await;
    for user in 0..8 {
        let head = format!(
            "GET /payments/1 HTTP/1.1\r\nHost: test\r\nx-user-id: {user}\r\nCookie: sid={user}\r\nConnection: close\r\n\r\n"
        );
        Raw::once(banyan.http(), &head).await;
    }
    let documented = documented();
    eventually(secs(60), "all documented metrics are exposed", async || {
        let text = Raw::get(banyan.admin(), "/metrics").await.text();
        let exposed = exposed(&text);
        let missing: Vec<&String> = documented.keys().filter(|name| !exposed.contains_key(*name)).collect();
        if missing.is_empty() { Ok(exposed) } else { Err(format!("missing: {missing:?}")) }
    })
    .await
    .into_iter()
    .for_each(|(name, found)| {
        assert_eq!(documented.get(&name), Some(&found), "{name} is not documented so");
    });
}

/// A listener with TLS on a free port.
fn with_tls(name: &str) -> String {
    format!(
        "{{bind: \"127.0.0.1:{}\", tls: {{certificates: [{{cert: {name}.pem, key: {name}.key}}]}}}}",
        ports::reserve()
    )
}

const EXPIRY: &str = "banyan_tls_certificate_expiry_timestamp_seconds";

#[tokio::test]
async fn certificates_say_until_when_they_are_valid_also_when_their_files_change() {
    let monolith = Upstream::named("legacy");
    let yaml = format!("upstreams:\n  monolith: {{endpoints: [\"{}\"]}}\ndefault: monolith\n", monolith.url());
    let banyan = Banyan::with(&yaml);
    let authority = Authority::new(banyan.folder());
    authority.signs_until("first", "a.example", 2030);
    authority.signs_until("second", "b.example", 2035);
    let both = format!("listeners:\n  - {}\n  - {}\n", with_tls("first"), with_tls("second"));
    banyan.edit("listeners:\n", &both);
    let banyan = banyan.start().await;
    let ends = async |cert: &str| banyan.metrics().await.get(EXPIRY, &[("cert", cert)]);
    // The first seconds of 2031 and 2036.
    assert_eq!(ends("first.pem").await, Some(1_924_992_000.0));
    assert_eq!(ends("second.pem").await, Some(2_082_758_400.0));
    authority.signs_until("first", "a.example", 2035);
    eventually(secs(20), "the changed file is in force", async || ends("first.pem").await == Some(2_082_758_400.0))
        .await;
}

#[tokio::test]
async fn series_of_a_route_end_when_the_file_has_it_no_more() {
    let (monolith, service) = (Upstream::named("legacy"), Upstream::named("modern"));
    let yaml = |routes: &str| {
        format!(
            "upstreams:\n  monolith: {{endpoints: [\"{}\"]}}\n  service: {{endpoints: [\"{}\"]}}\ndefault: monolith\nroutes: [{routes}]\n",
            monolith.url(),
            service.url()
        )
    };
    let route = "{name: gone, match: {path_prefix: /gone}, legacy: monolith, modern: service, shadow: {percent: 100}, compare: {}}";
    let banyan = Banyan::with(&yaml(route)).start().await;
    for _ in 0..3 {
        Raw::get(banyan.http(), "/gone").await;
    }
    let series = async || Raw::get(banyan.admin(), "/metrics").await.text().matches("route=\"gone\"").count();
    let answered = async || banyan.metrics().await.sum("banyan_http_requests_total", &[("route", "gone")]);
    eventually(secs(10), "all are counted", async || answered().await == 3.0).await;
    assert!(series().await > 20);
    let reloads = async |count: f64| {
        eventually(secs(20), "it is taken over", async || {
            banyan.metrics().await.get("banyan_config_reloads_total", &[("result", "accepted")]) == Some(count)
        })
        .await;
    };
    banyan.rewrite(&yaml(""));
    reloads(1.0).await;
    assert_eq!(series().await, 0);
    assert_eq!(Raw::get(banyan.http(), "/gone").await.status, 200, "the default has it");
    banyan.rewrite(&yaml(route));
    reloads(2.0).await;
    Raw::get(banyan.http(), "/gone").await;
    eventually(secs(10), "it counts from zero again", async || answered().await == 1.0).await;
}
