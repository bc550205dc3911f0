//! What is in `deploy/` for Prometheus and Grafana: the rules alert for a cause and for nothing else, and every query of every board is answered
//! by a real Prometheus that scraped a real Banyan under traffic.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::{Value, json};

use crate::harness::{
    Authority, Banyan, Raw, Script, Shop, Upstream, eventually, ports,
    prometheus::{Prometheus, promtool},
    secs,
};

const DOCUMENTED: &str = include_str!("../../docs/reference/metrics.md");

/// One query of a board, and where it stands.
struct Query {
    place: String,
    text: String,
}

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy")
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn boards() -> BTreeMap<String, Value> {
    let files = std::fs::read_dir(deploy().join("grafana")).unwrap().map(|file| file.unwrap().path());
    let boards = files.filter(|path| path.extension().is_some_and(|kind| kind == "json"));
    boards
        .map(|path| {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            (name, serde_json::from_str(&read(&path)).unwrap_or_else(|e| panic!("{}: {e}", path.display())))
        })
        .collect()
}

/// Every query of a board: of its panels and its annotations.
fn queries(name: &str, board: &Value) -> Vec<Query> {
    let panels = board["panels"].as_array().unwrap().iter().flat_map(|panel| {
        let title = panel["title"].as_str().unwrap().to_owned();
        let targets = panel["targets"].as_array().cloned().unwrap_or_default();
        targets.into_iter().map(move |target| (title.clone(), target["expr"].as_str().unwrap().to_owned()))
    });
    let marks = board["annotations"]["list"].as_array().unwrap().iter();
    let marks =
        marks.map(|mark| (mark["name"].as_str().unwrap().to_owned(), mark["expr"].as_str().unwrap().to_owned()));
    panels.chain(marks).map(|(title, text)| Query { place: format!("{name}, {title}"), text }).collect()
}

/// Its variables that ask: label and selector of `label_values(selector, label)`.
fn variables(board: &Value) -> Vec<(String, String)> {
    let list = board["templating"]["list"].as_array().unwrap().iter().filter(|variable| variable["type"] == "query");
    list.map(|variable| {
        let text = variable["definition"].as_str().unwrap();
        let inside = text.strip_prefix("label_values(").and_then(|text| text.strip_suffix(')')).unwrap();
        let (selector, label) = inside.rsplit_once(", ").unwrap();
        (label.to_owned(), selector.to_owned())
    })
    .collect()
}

/// As Grafana fills it in.
fn filled(text: &str) -> String {
    let text = text.replace("$__rate_interval", "8s").replace("$instance", ".*");
    text.replace("$route", "payments").replace("$sync", "shop")
}

/// Names of Banyan's own metrics in a text.
fn names(text: &str) -> BTreeSet<String> {
    let is_part = |letter: char| letter.is_ascii_alphanumeric() || letter == '_' || letter == ':';
    text.split(|letter| !is_part(letter)).filter(|word| word.starts_with("banyan_")).map(str::to_owned).collect()
}

#[test]
fn boards_rules_alert_for_a_cause_and_for_nothing_else() {
    let folder = deploy().join("prometheus");
    for arguments in [["check", "rules", "rules.yaml"], ["test", "rules", "rules.test.yaml"]] {
        let done = promtool(&folder, &arguments);
        let said = String::from_utf8_lossy(&done.stdout) + String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success() && said.contains("SUCCESS"), "{arguments:?}: {said}");
    }
    let (rules, tests) = (read(&folder.join("rules.yaml")), read(&folder.join("rules.test.yaml")));
    for alert in rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")) {
        assert!(tests.contains(&format!("alertname: {alert}\n")), "{alert} has no test");
    }
}

#[test]
fn boards_and_rules_name_no_metric_that_is_not_documented() {
    let mut all = names(&read(&deploy().join("prometheus/rules.yaml")));
    for (name, board) in boards() {
        queries(&name, &board).iter().for_each(|query| all.extend(names(&query.text)));
        variables(&board).iter().for_each(|(_, selector)| all.extend(names(selector)));
    }
    assert!(all.len() > 30, "{all:?}");
    for name in all {
        let base = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(&name);
        assert!(DOCUMENTED.contains(&format!("| `{base}` |")), "{name} is not documented");
    }
}

/// A shop with everything on: TLS, an access log, limits, a circuit, a sync, a shadow with noise, a rollout, a rate limit, `fallback_on`.
async fn everything(shop: &Shop, legacy: &Upstream, modern: &Upstream) -> Banyan {
    let yaml = format!(
        "access_log: {{to: ./access.log}}\nupstreams:\n  monolith: {{endpoints: [\"{}\"]}}\n  service: {{endpoints: [\"{}\"], circuit: {{}}, limits: {{in_flight: 50}}}}\n\
         default: monolith\nroutes:\n  - name: payments\n    match: {{path_prefix: /payments}}\n    legacy: monolith\n    modern: service\n    weight: 60\n    \
         sticky: [{{header: x-user-id}}]\n    sync: shop\n    shadow: {{percent: 100}}\n    compare: {{noise: {{resend: 50}}}}\n    fallback_on: [404]\n    \
         rate_limit: {{requests: 100000, every: 1s}}\n    rollout: {{steps: [30, 60], every: 15m}}\n  \
         - {{name: accounts, match: {{path_prefix: /accounts}}, legacy: monolith, modern: service, weight: 100}}\n{}",
        legacy.url(),
        modern.url(),
        shop.sync("legacy", ""),
    );
    let banyan = Banyan::with(&yaml);
    Authority::new(banyan.folder()).signs("shop", "shop.example");
    let tls = format!(
        "listeners:\n  - {{bind: \"127.0.0.1:{}\", tls: {{certificates: [{{cert: shop.pem, key: shop.key}}]}}}}\n",
        ports::reserve()
    );
    banyan.edit("listeners:\n", &tls);
    banyan.start().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn boards_every_query_is_answered_by_a_prometheus_that_scraped_a_banyan() {
    let shop = Shop::fresh().await;
    let legacy = Upstream::scripted(|_| Script::json(&json!({"amount": "19.90", "at": rand::random::<u32>()})));
    let modern = Upstream::scripted(|request| match request.path() {
        "/payments/none" => Script::answer(404, &[], "none"),
        _ => Script::json(&json!({"amount": 19.9, "at": 0})),
    });
    let banyan = everything(&shop, &legacy, &modern).await;
    let prometheus = Prometheus::scraping(banyan.admin(), &deploy().join("prometheus/rules.yaml")).await;
    banyan.flow_state("shop", "legacy_to_modern", &["applying"], secs(60)).await;
    banyan.flow_state("shop", "modern_to_legacy", &["watching"], secs(60)).await;
    let resumed = banyan.verb(&["resume", "payments", "--reason", "the test begins"]);
    assert!(resumed.status.success(), "{}", String::from_utf8_lossy(&resumed.stderr));
    eventually(secs(30), "Prometheus has seen that there is no violation", async || {
        !prometheus.query("banyan_sync_violations_total == 0").await.unwrap().is_empty()
    })
    .await;
    // Behind the owner's back: a violation.
    shop.modern.batch("INSERT INTO accounts VALUES (2, 'b@x', 'Bob')").await;

    let http = banyan.http();
    let traffic = tokio::spawn(async move {
        for user in 0_u32.. {
            for (method, path) in [
                ("GET", "/payments/7"),
                ("GET", "/payments/none"),
                ("POST", "/payments"),
                ("GET", "/accounts/1"),
                ("GET", "/else"),
            ] {
                let length = if method == "POST" { "Content-Length: 0\r\n" } else { "" };
                let request = format!(
                    "{method} {path} HTTP/1.1\r\nHost: shop.example\r\nX-User-Id: u{}\r\n{length}Connection: close\r\n\r\n",
                    user % 100
                );
                Raw::once(http, &request).await;
            }
            // Answered by Banyan itself: 400.
            Raw::once(http, "GET /nobody HTTP/1.1\r\nConnection: close\r\n\r\n").await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    let rows = async || {
        for id in 100_i64.. {
            shop.legacy.batch(&format!("INSERT INTO accounts VALUES ({id}, '{id}@x', 'Ann')")).await;
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    // Reloads, which the boards mark.
    let edits = async || loop {
        for (from, to) in [("weight: 60", "weight: 61"), ("weight: 61", "weight: 60")] {
            banyan.edit(from, to);
            tokio::time::sleep(Duration::from_secs(2)).await;
        }
    };
    let answers = async {
        for (name, board) in boards() {
            for (label, selector) in variables(&board) {
                eventually(secs(30), &format!("{name}: values of {label} in {selector}"), async || {
                    let values = prometheus.values(&label, &filled(&selector)).await.unwrap();
                    !values.is_empty()
                })
                .await;
            }
            for Query { place, text } in queries(&name, &board) {
                let query = filled(&text);
                // None is legitimately empty here: counters begin at zero, and everything that a board shows happens in this test.
                eventually(secs(30), &format!("{place}: {query} has an answer"), async || {
                    let answer = prometheus.query(&query).await.unwrap_or_else(|e| panic!("{place}: {query}: {e}"));
                    let is_known = |series: &Value| series["value"][1].as_str().is_some_and(|value| value != "NaN");
                    answer.iter().any(is_known)
                })
                .await;
            }
        }
        // The rules judge the same Banyan, and find nothing but what the test has done.
        let rules = prometheus.rules().await;
        assert!(rules.len() > 20);
        for rule in &rules {
            assert_eq!(rule["health"], "ok", "{rule}");
        }
        eventually(secs(30), "the violation alerts", async || {
            let firing = prometheus.query("ALERTS{alertstate=\"firing\"}").await.unwrap();
            let names: Vec<String> =
                firing.iter().map(|one| one["metric"]["alertname"].as_str().unwrap().to_owned()).collect();
            if names == ["BanyanSyncViolations"] { Ok(()) } else { Err(format!("{names:?}")) }
        })
        .await;
    };
    tokio::select! {
        () = answers => {}
        () = rows() => unreachable!("it goes on"),
        () = edits() => unreachable!("it goes on"),
    }
    traffic.abort();
}
