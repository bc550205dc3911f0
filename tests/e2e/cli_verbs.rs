//! What the command line promises: exit codes, what goes to stdout, JSON, no colours in a pipe.

use std::{
    fs,
    process::{Command, Output, Stdio},
};

use serde_json::{Value, json};

use crate::harness::{Banyan, Raw, Script, Shop, Upstream, eventually, secs};

const GOOD: &str = "version: 1\nlisteners: [{bind: \"127.0.0.1:0\"}]\nadmin: {bind: \"127.0.0.1:0\"}\nstate: {dir: ./state}\n\
                    upstreams:\n  monolith: {endpoints: [\"http://127.0.0.1:9\"]}\n  payments: {endpoints: [\"http://127.0.0.1:9\"]}\ndefault: monolith\n\
                    routes:\n  - {name: payments, match: {path_prefix: /payments}, legacy: monolith, modern: payments, weight: 50, sticky: [{header: x-user-id}]}\n";

/// A folder with a `routes.yaml`.
struct Folder(tempfile::TempDir);

impl Folder {
    fn with(yaml: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("routes.yaml"), yaml).unwrap();
        Self(folder)
    }

    fn banyan(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_banyan"));
        command.args(arguments).current_dir(self.0.path()).stdin(Stdio::null()).output().unwrap()
    }
}

fn code(output: &Output) -> i32 {
    output.status.code().expect("no signal ended it")
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn check_needs_no_argument_and_says_what_it_saw() {
    let done = Folder::with(GOOD).banyan(&["check"]);
    assert_eq!(
        (code(&done), out(&done).as_str()),
        (0, "routes.yaml is right: 1 route, 2 upstreams\n"),
        "{}",
        err(&done)
    );
}

#[test]
fn a_bad_file_is_1_for_check_and_explain_and_78_for_run() {
    let folder = Folder::with(&GOOD.replace("weight: 50", "weight: 500"));
    for (arguments, expected) in [(&["check"][..], 1), (&["explain", "GET", "/"], 1), (&["run"], 78)] {
        let done = folder.banyan(arguments);
        assert_eq!(code(&done), expected, "{arguments:?}");
        assert_eq!(out(&done), "", "errors go to stderr");
        assert!(err(&done).contains("`weight` must be between 0 and 100, not `500`"), "{}", err(&done));
        assert!(!err(&done).contains('\u{1b}'), "no colours in a pipe");
    }
    assert!(!folder.0.path().join("state").exists(), "a refused file makes nothing");
}

#[test]
fn a_certificate_that_is_missing_is_a_warning_to_check_and_78_to_run() {
    let yaml = GOOD.replace(
        "listeners: [{bind: \"127.0.0.1:0\"}]",
        "listeners: [{bind: \"127.0.0.1:0\", tls: {certificates: [{cert: none.crt, key: none.key}]}}]",
    );
    let folder = Folder::with(&yaml);
    assert_eq!(code(&folder.banyan(&["check"])), 0);
    let refused = folder.banyan(&["run"]);
    assert_eq!(code(&refused), 78, "{}", err(&refused));
    let told = "error: `listeners[0].tls`: `none.crt` cannot be read";
    assert!(err(&refused).contains(told) && err(&refused).contains("nothing was started"), "{}", err(&refused));
}

#[test]
fn a_missing_file_is_told_with_the_way_out() {
    let done = Folder::with(GOOD).banyan(&["run", "-c", "other.yaml"]);
    assert_eq!(code(&done), 78);
    assert!(
        err(&done).starts_with("error: there is no such file\n  --> other.yaml\nhint: name another with `-c FILE`"),
        "{}",
        err(&done)
    );
}

#[test]
fn a_wrong_command_line_is_2() {
    let folder = Folder::with(GOOD);
    for arguments in
        [&["chekc"][..], &["run", "--only", "half"], &["explain", "GET"], &["explain", "GET", "/", "-H", "none"], &[]]
    {
        assert_eq!(code(&folder.banyan(arguments)), 2, "{arguments:?}");
    }
}

#[test]
fn json_is_json_whether_the_file_is_right_or_not() {
    let good: Value = serde_json::from_str(&out(&Folder::with(GOOD).banyan(&["check", "-o", "json"]))).unwrap();
    assert_eq!((&good["ok"], &good["diagnostics"]), (&Value::Bool(true), &Value::Array(Vec::new())));
    let done = Folder::with(&GOOD.replace("modern: payments", "modern: paymnets")).banyan(&["check", "-o", "json"]);
    let bad: Value = serde_json::from_str(&out(&done)).unwrap();
    assert_eq!((code(&done), &bad["ok"]), (1, &Value::Bool(false)));
    let first = &bad["diagnostics"][0];
    assert_eq!(first["message"], "unknown upstream `paymnets`");
    assert_eq!(first["path"], "routes[0].modern");
    assert_eq!(first["hint"], "did you mean `payments`?");
    assert_eq!((&first["line"], &first["severity"]), (&Value::from(10), &Value::from("error")));
}

#[test]
fn explain_says_route_side_and_why() {
    let folder = Folder::with(GOOD);
    // Golden vectors of docs/reference/buckets.md: `ann` is 285, `bob` 3068 and `7b1f…` 6325 in group `payments`.
    for (user, side, bucket) in [("ann", "modern", 285), ("7b1f3a52-9c0e-4a44-8a55-0c2d8f6a1e90", "legacy", 6325)] {
        let header = format!("x-user-id: {user}");
        let done = folder.banyan(&["explain", "GET", "/payments/7?a=b", "-H", &header, "-o", "json"]);
        let answer: Value = serde_json::from_str(&out(&done)).unwrap();
        assert_eq!(
            (&answer["route"], &answer["side"], &answer["bucket"]),
            (&"payments".into(), &side.into(), &bucket.into())
        );
        let done = folder.banyan(&["explain", "GET", "/payments/7", "-H", &header]);
        assert!(out(&done).contains("key: header `x-user-id`, group `payments`"), "{}", out(&done));
        assert!(!out(&done).contains(user), "a key is never shown");
    }
    let done = folder.banyan(&["explain", "GET", "/orders"]);
    assert!(out(&done).starts_with("route     default"), "{}", out(&done));
    assert_eq!(code(&folder.banyan(&["explain", "GET", "/%zz"])), 1);
    let request = ["explain", "GET", "/orders?v=hidden-1", "-H", "x-a: hidden-2"];
    let folder =
        Folder::with(&GOOD.replace(
            "routes:",
            "routes:\n  - {name: v2, match: {path: /orders, query: {v: hidden-3}}, legacy: monolith}",
        ));
    let text = out(&folder.banyan(&request));
    assert!(text.contains("not       v2           query parameter v is not as it wants"), "{text}");
    assert!(text.contains("          payments     the path is not under /payments"), "{text}");
    let json: Value = serde_json::from_str(&out(&folder.banyan(&[&request[..], &["-o", "json"]].concat()))).unwrap();
    assert_eq!((&json["misses"][0]["by"], &json["misses"][1]["by"]), (&"query".into(), &"path".into()));
    assert!(!(text + &json.to_string()).contains("hidden"));
}

#[test]
fn explain_says_who_is_pinned_and_who_may_force() {
    let more = "weight: 50, pin: {modern: [{header: {x-tenant: [acme]}}]}, force: {allow: [10.0.0.0/8]}";
    let folder = Folder::with(&GOOD.replace("weight: 50", more));
    let explain = |more: &[&str]| {
        let done = folder
            .banyan(&[&["explain", "GET", "/payments", "-H", "x-tenant: acme", "-H", "x-user-id: bob"], more].concat());
        out(&done).lines().find(|line| line.starts_with("side")).unwrap_or_default().to_owned()
    };
    assert_eq!(explain(&[]), "side      modern       pinned by header `x-tenant`; the weight is 50 %");
    let forced = explain(&["-H", "x-banyan-side: legacy", "--client", "10.0.0.1"]);
    assert_eq!(forced, "side      legacy       a tester asked for it, and may (`force`)");
    let stranger = explain(&["-H", "x-banyan-side: legacy"]);
    assert!(stranger.contains("pinned"), "{stranger}");
}

#[test]
fn explain_says_who_would_be_asked_who_it_is() {
    let folder = Folder::with(&format!("identity: {{ask: monolith, path: /whoami, copy: [x-user-id]}}\n{GOOD}"));
    let text = out(&folder.banyan(&["explain", "GET", "/payments"]));
    assert!(text.contains("identity  monolith     would be asked who it is"), "{text}");
    let json: Value =
        serde_json::from_str(&out(&folder.banyan(&["explain", "GET", "/payments", "-o", "json"]))).unwrap();
    let expected = serde_json::json!({"ask": "monolith", "path": "/whoami", "copy": ["x-user-id"]});
    assert_eq!(json["identity"], expected);
    let json: Value =
        serde_json::from_str(&out(&Folder::with(GOOD).banyan(&["explain", "GET", "/", "-o", "json"]))).unwrap();
    assert_eq!(json["identity"], Value::Null);
}

#[test]
fn plan_says_what_a_change_will_do_and_looks_at_both_files_first() {
    let folder = Folder::with(GOOD);
    let write = |name: &str, text: &str| fs::write(folder.0.path().join(name), text).unwrap();
    write("new.yaml", &GOOD.replace("weight: 50", "weight: 75"));
    let done = folder.banyan(&["plan", "routes.yaml", "new.yaml"]);
    let expected =
        "payments   weight 50 % → 75 %   about 1 in 4 users move to modern; nobody moves back\n0 routes unchanged\n";
    assert_eq!((code(&done), out(&done).as_str()), (0, expected), "{}", err(&done));
    let done = folder.banyan(&["plan", "routes.yaml", "new.yaml", "-o", "json"]);
    let plan: Value = serde_json::from_str(&out(&done)).unwrap();
    assert_eq!(plan["changes"][0]["name"], "payments");
    assert_eq!(plan["changes"][0]["key"], "weight");
    let same = folder.banyan(&["plan", "routes.yaml", "routes.yaml"]);
    assert_eq!((code(&same), out(&same).as_str()), (0, "nothing changes: 1 route unchanged\n"));

    write("bad.yaml", &GOOD.replace("weight: 50", "weight: 500"));
    for arguments in [["routes.yaml", "bad.yaml"], ["bad.yaml", "routes.yaml"]] {
        let done = folder.banyan(&["plan", arguments[0], arguments[1]]);
        assert_eq!((code(&done), out(&done).as_str()), (1, ""), "{arguments:?}");
        assert!(err(&done).contains("--> bad.yaml:10"), "{}", err(&done));
        assert!(err(&done).ends_with("1 error in bad.yaml; there is no plan\n"), "{}", err(&done));
    }
    assert_eq!(code(&folder.banyan(&["plan", "routes.yaml"])), 2);
}

#[test]
fn schema_and_completions_go_to_stdout() {
    let folder = Folder::with(GOOD);
    let schema: Value = serde_json::from_str(&out(&folder.banyan(&["schema"]))).unwrap();
    assert_eq!(schema["type"], "object");
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let done = folder.banyan(&["completions", shell]);
        assert!(out(&done).contains("explain"), "{shell}");
    }
}

#[test]
fn the_schema_names_every_key_of_the_example() {
    let schema: Value = serde_json::from_str(include_str!("../../schema/routes.schema.json")).unwrap();
    let example = include_str!("../../routes.yaml");
    assert!(
        example.starts_with("# yaml-language-server: $schema=schema/routes.schema.json\n"),
        "editors find the schema"
    );
    let keys = example.lines().filter(|line| line.starts_with(|first: char| first.is_ascii_lowercase()));
    for key in keys.map(|line| line.split(':').next().unwrap()) {
        assert!(schema["properties"][key].is_object(), "{key}");
    }
}

#[tokio::test]
async fn status_shows_routes_and_says_when_nobody_answers() {
    let (monolith, service) = (Upstream::named("legacy"), Upstream::named("modern"));
    let mut banyan = Banyan::with(&format!(
        "upstreams:\n  monolith: {{endpoints: [\"{}\"]}}\n  payments: {{endpoints: [\"{}\"]}}\ndefault: monolith\nroutes:\n  \
         - {{name: payments, match: {{path_prefix: /payments}}, legacy: monolith, modern: payments, weight: 12.5}}\n",
        monolith.url(),
        service.url(),
    ))
    .start()
    .await;
    Raw::get(banyan.http(), "/payments").await;
    // The admin listener's address is taken from the file.
    let done = banyan.verb(&["status"]);
    let text = out(&done);
    assert_eq!(code(&done), 0, "{}", err(&done));
    assert!(text.starts_with("All 2 routes as wanted\n"), "{text}");
    let line = text.lines().find(|line| line.starts_with("payments ")).expect(&text);
    let words: Vec<&str> = line.split_whitespace().collect();
    assert_eq!(words[..6], ["payments", "canary", "12.5%", "12.5%", "0.0%", "1"], "{text}");
    let admin = format!("http://{}", banyan.admin());
    let json: Value = serde_json::from_str(&out(&banyan.verb(&["status", "--admin", &admin, "-o", "json"]))).unwrap();
    assert_eq!(json["proxy"]["routes"][0]["answers"]["legacy"], 1);

    banyan.stop(secs(20));
    let done = banyan.verb(&["status", "--admin", &admin]);
    assert_eq!(code(&done), 1);
    assert!(err(&done).contains("name another with `--admin URL`"), "{}", err(&done));
}

#[tokio::test]
async fn a_report_says_in_what_the_sides_differ_and_stops_a_pipeline() {
    let legacy = Upstream::scripted(|_| Script::json(&json!({"amount": "19.90"})));
    let modern = Upstream::scripted(|_| Script::json(&json!({"amount": 19.9})));
    let banyan = Banyan::with(&format!(
        "upstreams:\n  monolith: {{endpoints: [\"{}\"]}}\n  payments: {{endpoints: [\"{}\"]}}\ndefault: monolith\nroutes:\n  \
         - {{name: pay, match: {{path_prefix: /pay}}, legacy: monolith, modern: payments, shadow: {{percent: 100}}, compare: {{}}}}\n  \
         - {{name: plain, match: {{path_prefix: /plain}}, legacy: monolith, modern: payments}}\n",
        legacy.url(),
        modern.url(),
    ))
    .start()
    .await;
    let empty = banyan.verb(&["report", "pay", "--fail-over", "100%"]);
    assert_eq!((code(&empty), out(&empty).trim()), (1, "pay   nothing compared yet"));
    for _ in 0..3 {
        Raw::get(banyan.http(), "/pay/7").await;
    }
    let all = async || banyan.status().await["proxy"]["routes"][0]["compare"]["compared"] == 3;
    eventually(secs(10), "all are compared", all).await;
    let text = out(&banyan.verb(&["report", "pay"]));
    assert!(text.contains("3 compared   match 0 %   mismatch 100 %"), "{text}");
    assert!(text.contains("/amount   3 of 3   string against number   GET string of 5 against number of 4"), "{text}");
    assert!(text.contains("latency   legacy against modern: p50 ") && !text.contains("19.9"), "{text}");
    let json: Value =
        serde_json::from_str(&out(&banyan.verb(&["report", "pay", "-o", "json", "--since", "5m"]))).unwrap();
    assert_eq!((&json["compared"], &json["differences"][0]["place"]), (&json!(3), &json!("/amount")));
    assert!(out(&banyan.verb(&["report", "pay", "-o", "markdown"])).contains("| `/amount` | 3 of 3 |"));

    let all = out(&banyan.verb(&["report"]));
    assert_eq!((all.lines().count(), all.starts_with("pay   last ")), (1, true), "{all}");
    let rows = out(&banyan.verb(&["report", "-o", "markdown"]));
    assert!(rows.ends_with("| pay | 3 | 100 % | `/amount` |\n"), "{rows}");
    assert_eq!(code(&banyan.verb(&["report", "--fail-over", "0.1%"])), 1);

    let stopped = banyan.verb(&["report", "pay", "--fail-over", "0.1%"]);
    assert_eq!(code(&stopped), 1);
    assert!(err(&stopped).contains("3 of 3 differ, which is 100 % and more than 0.1 %"), "{}", err(&stopped));
    assert_eq!(code(&banyan.verb(&["report", "pay", "--fail-over", "100%"])), 0);
    assert_eq!(code(&banyan.verb(&["report", "pay", "--fail-over", "100%", "--at-least", "4"])), 1);
    let file = std::fs::read_to_string(banyan.file()).unwrap();
    std::fs::write(banyan.file(), file.replace("compare: {}", "compare: {samples: full}")).unwrap();
    eventually(secs(10), "values are shown", async || {
        Raw::get(banyan.http(), "/pay/7").await;
        out(&banyan.verb(&["report", "pay"])).contains("GET \"19.90\" against 19.9")
    })
    .await;
    let metrics = Raw::get(banyan.admin(), "/metrics").await.text();
    assert!(!metrics.contains("19.9") && !banyan.log().contains("19.9"), "values stay out of metrics and log");
    for (route, why) in
        [("plain", "this route compares nothing: it has no `compare`"), ("gone", "there is no such route")]
    {
        let refused = banyan.verb(&["report", route]);
        assert_eq!(code(&refused), 1);
        assert!(err(&refused).contains(&format!("route `{route}`: {why}")), "{}", err(&refused));
    }
}

#[tokio::test]
async fn status_and_one_line_of_the_log_name_a_cookie_that_both_sides_set() {
    let sets = |value: &'static str| Upstream::scripted(move |_| Script::answer(200, &[("Set-Cookie", value)], "ok"));
    let (monolith, service) = (sets("sid=secret-of-legacy; Path=/"), sets("sid=secret-of-modern; HttpOnly"));
    let banyan = Banyan::with(&format!(
        "upstreams:\n  monolith: {{endpoints: [\"{}\"]}}\n  payments: {{endpoints: [\"{}\"]}}\ndefault: monolith\nroutes:\n  \
         - {{name: payments, match: {{path_prefix: /payments}}, legacy: monolith, modern: payments, weight: 100}}\n",
        monolith.url(),
        service.url(),
    ))
    .start()
    .await;
    for path in ["/payments", "/orders", "/payments", "/orders"] {
        Raw::get(banyan.http(), path).await;
    }
    let clash = json!([{"cookie": "sid", "legacy_route": "default", "modern_route": "payments"}]);
    eventually(secs(10), "the status tells", async || banyan.status().await["proxy"]["cookie_clashes"] == clash).await;
    let text = out(&banyan.verb(&["status"]));
    assert!(text.starts_with("All 2 routes as wanted · both sides set cookie sid\n"), "{text}");
    assert!(text.contains("\nsid     default           payments\n"), "{text}");
    let log = banyan.log();
    assert_eq!(log.matches("both sides set this cookie").count(), 1, "{log}");
    assert!(!log.contains("secret-of") && !text.contains("secret-of"), "{log}");
}

#[tokio::test]
async fn sigterm_fails_readyz_finishes_what_is_in_flight_and_exits_0() {
    let monolith = Upstream::scripted(|_| crate::harness::Script::ok("slow").after(secs(2)));
    let mut banyan =
        Banyan::with(&format!("upstreams:\n  monolith: {{endpoints: [\"{}\"]}}\ndefault: monolith\n", monolith.url()))
            .start()
            .await;
    let mut raw = Raw::connect(banyan.http()).await;
    raw.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n").await;
    eventually(secs(10), "the request is at the upstream", async || monolith.seen().len() == 1).await;
    banyan.signal(crate::harness::watchdog::Signal::Term);
    eventually(secs(2), "it is not ready any more", async || Raw::get(banyan.admin(), "/readyz").await.status == 503)
        .await;
    let answer = raw.answer().await.expect("what is in flight finishes");
    assert_eq!((answer.status, answer.text().as_str()), (200, "slow"));
    let status = banyan.wait(secs(20)).expect("it ends");
    assert!(status.success(), "{status}");
}

#[test]
fn a_taken_port_is_told_and_is_1() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    for key in ["listeners: [{bind: \"127.0.0.1:0\"}]", "admin: {bind: \"127.0.0.1:0\"}"] {
        let folder = Folder::with(&GOOD.replace(key, &key.replace("127.0.0.1:0", &address.to_string())));
        let done = folder.banyan(&["run"]);
        assert_eq!(code(&done), 1, "{}", err(&done));
        assert!(err(&done).contains(&format!("cannot listen on {address}")), "{}", err(&done));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_connect_looks_at_every_sync_and_changes_nothing() {
    let shop = Shop::fresh().await;
    let banyan = Banyan::with(&shop.file("legacy"));
    let done = banyan.verb(&["check", "--connect"]);
    assert_eq!(code(&done), 0, "{}", err(&done));
    assert!(out(&done).ends_with("1 sync; every sync could begin\n"), "{}", out(&done));
    for database in [&shop.legacy, &shop.modern] {
        assert_eq!(database.number("SELECT count(*) FROM pg_namespace WHERE nspname = 'banyan'").await, 0);
    }

    shop.modern.batch("DROP TABLE payments").await;
    let done = banyan.verb(&["check", "--connect"]);
    assert_eq!(code(&done), 1);
    assert!(err(&done).contains("public.payments") && err(&done).contains("hint: "), "{}", err(&done));
    assert!(err(&done).ends_with("nothing was changed\n"), "{}", err(&done));
    let done = banyan.verb(&["check", "--connect", "-o", "json"]);
    let answer: Value = serde_json::from_str(&out(&done)).unwrap();
    assert_eq!((&answer["ok"], &answer["findings"][0]["sync"]), (&Value::Bool(false), &"shop".into()));
}

#[tokio::test]
async fn a_dead_kafka_and_dead_databases_leave_legacy_traffic_and_readyz_alone() {
    let monolith = Upstream::named("legacy");
    let mut banyan = Banyan::with(&format!(
        "upstreams:\n  monolith: {{endpoints: [\"{0}\"]}}\n  dead: {{endpoints: [\"http://127.0.0.1:9\"]}}\ndefault: monolith\nroutes:\n  \
         - {{name: money, match: {{path_prefix: /money}}, legacy: monolith, modern: dead, weight: 100, sync: money}}\n\
         kafka: {{brokers: \"127.0.0.1:9\"}}\nsyncs:\n  money:\n    owner: legacy\n    legacy: {{postgres: \"postgres://nobody@127.0.0.1:9/a\"}}\n    \
         modern: {{postgres: \"postgres://nobody@127.0.0.1:9/b\"}}\n    tables: [public.money]\n",
        monolith.url(),
    ))
    .start()
    .await;
    eventually(secs(20), "the flows have failed to connect", async || {
        banyan.metrics().await.sum("banyan_task_restarts_total", &[]) >= 1.0
    })
    .await;
    for path in ["/money", "/else"] {
        assert_eq!(Raw::get(banyan.http(), path).await.header("x-from"), Some("legacy"), "{path}");
    }
    assert_eq!(Raw::get(banyan.admin(), "/readyz").await.status, 200);
    assert_eq!(Raw::get(banyan.admin(), "/livez").await.status, 200);
    assert!(banyan.stop(secs(30)).success());
}

#[tokio::test]
async fn the_access_log_goes_to_stdout_and_what_was_answered_is_in_it_at_the_end() {
    let monolith = Upstream::named("legacy");
    let mut banyan = Banyan::with(&format!(
        "access_log: {{to: stdout}}\nupstreams:\n  monolith: {{endpoints: [\"{}\"]}}\ndefault: monolith\n",
        monolith.url()
    ))
    .start()
    .await;
    for _ in 0..20 {
        Raw::get(banyan.http(), "/payments/7?token=secret").await;
    }
    assert!(banyan.stop(secs(20)).success());
    let log = banyan.log();
    let lines: Vec<Value> = log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    assert_eq!(lines.len(), 20, "{log}");
    assert!(lines.iter().all(|line| line["route"] == "default" && line["status"] == 200), "{log}");
    assert!(!log.contains("secret"), "{log}");
}
