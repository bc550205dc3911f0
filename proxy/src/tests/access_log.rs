//! The access log: what stands in a line and what never does, who gets one, and that nobody waits for it.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use serde_json::{Value, json};

use super::{Bench, Setup, Upstream, eventually};

const PAGE: &str = include_str!("../../../docs/reference/access-log.md");
const GET: &str = "GET /payments/7?token=q-secret HTTP/1.1\r\nHost: shop.example\r\nCookie: sid=c-secret\r\n\r\n";

/// A folder with a log in it.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("access.log")
    }

    /// The settings of a log in this place.
    fn log(&self, more: &Value) -> Value {
        let mut log = json!({ "to": self.path() });
        log.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        log
    }
}

fn lines_of(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).expect(line)).collect()
}

async fn lines(place: &Place, count: usize) -> Vec<Value> {
    eventually("the lines are written", || lines_of(&place.path()).len() >= count).await;
    lines_of(&place.path())
}

fn setup(legacy: &Upstream, log: Value) -> Setup {
    let mut setup = Setup::new(legacy.address).workers(1);
    setup.config.observe.access_log = Some(serde_json::from_value(log).unwrap());
    setup
}

fn dropped(bench: &Bench, reason: &str) -> f64 {
    bench.metric("banyan_access_log_dropped_total", &[("reason", reason)])
}

/// Fields of the page's table, and whether they stand in every line.
fn documented() -> Vec<(&'static str, bool)> {
    let rows = PAGE.lines().filter(|line| line.starts_with("| `"));
    rows.map(|row| {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        (cells[1].trim_matches('`'), cells[3] == "always")
    })
    .collect()
}

#[tokio::test]
async fn a_line_has_the_documented_fields_and_no_others() {
    let (place, legacy, gone) = (Place::new(), Upstream::named("legacy").await, Upstream::named("gone").await);
    let dead = gone.address;
    drop(gone);
    let bench = setup(&legacy, place.log(&json!({ "client": true, "path": true })))
        .upstream("dead", dead, &json!({}))
        .route(json!({ "name": "payments", "match": { "path_prefix": "/payments" }, "legacy": "legacy", "modern": "dead", "weight": 50,
                       "sticky": [{ "header": "x-user-id" }], "fallback": "reads" }))
        .route(json!({ "name": "away", "match": { "path": "/away" }, "modern": "dead" }))
        .start();
    // `ann` is modern's at weight 50 (docs/reference/buckets.md), and modern is dead.
    bench.ask("GET /payments/7?q=1 HTTP/1.1\r\nHost: a\r\nx-user-id: ann\r\n\r\n").await;
    bench.ask("GET /away HTTP/1.1\r\nHost: a\r\n\r\n").await;
    bench.ask("GET / HTTP/1.1\r\n\r\n").await;
    bench.ask("PUT /else HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc").await;
    let lines = lines(&place, 4).await;
    let documented = documented();
    let mut seen = BTreeSet::new();
    for line in &lines {
        let fields: Vec<&str> = line.as_object().unwrap().keys().map(String::as_str).collect();
        for (field, is_always) in &documented {
            assert!(!is_always || fields.contains(field), "`{field}` is missing in {line}");
        }
        seen.extend(fields.iter().map(ToString::to_string));
    }
    let documented: BTreeSet<String> = documented.iter().map(|(field, _)| (*field).to_owned()).collect();
    assert_eq!(seen, documented);

    let [crossed, away, hostless, put] = &lines[..] else { panic!("{lines:?}") };
    let is = |line: &Value, expected: Value| {
        for (field, value) in expected.as_object().unwrap() {
            assert_eq!(&line[field], value, "`{field}` of {line}");
        }
    };
    is(
        crossed,
        json!({ "route": "payments", "match": "/payments", "path": "/payments/7", "client": "127.0.0.1", "method": "GET",
                "protocol": "HTTP/1.1", "side": "modern", "answered": "legacy", "status": 200, "bytes_in": 0, "bytes_out": 6,
                "retries": 0, "fallback": true, "fault": "upstream", "error": "refused" }),
    );
    is(
        away,
        json!({ "route": "away", "side": "modern", "answered": "banyan", "status": 502, "fallback": false,
                "fault": "upstream", "error": "refused" }),
    );
    is(
        hostless,
        json!({ "route": "-", "side": null, "answered": "banyan", "status": 400, "fault": "client", "error": "host" }),
    );
    is(put, json!({ "route": "default", "method": "PUT", "bytes_in": 3, "error": null, "fault": null }));
    let seconds = |field: &str| put[field].as_f64().unwrap();
    assert!(seconds("duration_seconds") >= seconds("upstream_seconds") + seconds("overhead_seconds"), "{put}");
    assert!(put["time"].as_str().unwrap().ends_with('Z'), "{put}");
}

#[tokio::test]
async fn a_line_shows_nothing_of_the_request_that_was_not_asked_for() {
    let (place, legacy) = (Place::new(), Upstream::named("b-secret").await);
    let bench = setup(&legacy, place.log(&json!({})))
        .route(json!({ "name": "payments", "match": { "path_prefix": "/payments" }, "legacy": "legacy" }))
        .start();
    bench.ask(GET).await;
    bench.ask("GET /payments/u-secret HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 192.0.2.7\r\n\r\n").await;
    bench.ask("GET /payments;sid=p-secret/7 HTTP/1.1\r\nHost: a\r\n\r\n").await;
    lines(&place, 3).await;
    let text = fs::read_to_string(place.path()).unwrap();
    for secret in ["secret", "token", "sid=", "shop.example", "127.0.0.1", "192.0.2.7", "/7", "?"] {
        assert!(!text.contains(secret), "{secret} in {text}");
    }
    assert!(lines_of(&place.path()).iter().all(|line| line["match"] == "/payments"), "{text}");
}

#[tokio::test]
async fn a_request_that_failed_has_its_line_though_it_was_not_drawn() {
    let (place, legacy) = (Place::new(), Upstream::named("legacy").await);
    let sick = Upstream::answering("HTTP/1.1 500 Oh\r\ncontent-length: 0\r\n\r\n").await;
    let bench = setup(&legacy, place.log(&json!({ "sample": 0 })))
        .route(json!({ "name": "sick", "match": { "path": "/sick" }, "modern": "sick" }))
        .upstream("sick", sick.address, &json!({}))
        .start();
    for path in ["/", "/sick", "/", "/sick"] {
        bench.ask(&format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n")).await;
    }
    let lines = lines(&place, 2).await;
    assert!(lines.iter().all(|line| line["route"] == "sick" && line["status"] == 500), "{lines:?}");
}

#[tokio::test]
async fn failures_that_are_only_sampled_have_no_line_of_their_own() {
    let (place, legacy) = (Place::new(), Upstream::named("legacy").await);
    let bench = setup(&legacy, place.log(&json!({ "sample": 0, "errors": "sampled" }))).start();
    bench.ask("GET / HTTP/1.1\r\n\r\n").await;
    bench.proxy.drain(Duration::from_secs(5)).await;
    assert_eq!(lines_of(&place.path()), Vec::<Value>::new());
}

#[tokio::test]
async fn whoever_goes_before_the_end_of_the_answer_is_told_from_an_answer_that_broke_off() {
    let place = Place::new();
    let legacy = Upstream::scripted(|mut wire| async move {
        let head = wire.head().await?;
        wire.send("HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n").await?;
        if head.starts_with("GET /half") {
            return Ok(());
        }
        loop {
            wire.send("x").await?;
            tokio::task::yield_now().await;
        }
    })
    .await;
    let bench = setup(&legacy, place.log(&json!({}))).start();
    let mut client = bench.client().await;
    client.send("GET /half HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert!(client.try_answer(false).await.is_none());
    lines(&place, 1).await;
    let mut client = bench.client().await;
    client.send("GET /long HTTP/1.1\r\nHost: a\r\n\r\n").await;
    client.head().await.unwrap();
    drop(client);
    let lines = lines(&place, 2).await;
    assert_eq!((&lines[0]["error"], &lines[0]["fault"]), (&json!("broken_off"), &json!("upstream")), "{}", lines[0]);
    assert_eq!((&lines[1]["error"], &lines[1]["fault"]), (&json!("cancelled"), &json!("client")), "{}", lines[1]);
}

#[tokio::test]
async fn a_log_that_was_renamed_is_begun_anew() {
    let (place, legacy) = (Place::new(), Upstream::named("legacy").await);
    let bench = setup(&legacy, place.log(&json!({}))).start();
    bench.ask(GET).await;
    lines(&place, 1).await;
    let old = place.0.path().join("access.log.1");
    fs::rename(place.path(), &old).unwrap();
    bench.ask(GET).await;
    lines(&place, 1).await;
    assert_eq!(lines_of(&old).len(), 1);
}

#[tokio::test]
async fn a_log_that_nobody_reads_holds_up_no_request() {
    let (place, legacy) = (Place::new(), Upstream::named("legacy").await);
    assert!(Command::new("mkfifo").arg(place.path()).status().unwrap().success());
    let bench = setup(&legacy, place.log(&json!({}))).start();
    // A pipe holds 64 KiB, and four batches wait behind the one that is stuck.
    let mut client = bench.client().await;
    let mut asked = 0.0;
    for _ in 0..200 {
        let burst = GET.repeat(50);
        client.send(&burst).await;
        for _ in 0..50 {
            assert_eq!(client.answer().await.status, 200);
        }
        asked += 50.0;
        if dropped(&bench, "queue") > 0.0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let written = bench.metric("banyan_access_log_lines_total", &[]);
    assert!(dropped(&bench, "queue") > 0.0, "{asked} asked, {written} written");
    assert!(written < asked);
}

#[tokio::test]
async fn what_was_answered_is_written_before_the_process_ends() {
    let (place, legacy) = (Place::new(), Upstream::named("legacy").await);
    let bench = setup(&legacy, place.log(&json!({}))).start();
    for _ in 0..10 {
        bench.ask(GET).await;
    }
    bench.proxy.drain(Duration::from_secs(5)).await;
    assert_eq!(lines_of(&place.path()).len(), 10);
}

#[tokio::test]
async fn a_reload_turns_the_log_on_moves_it_and_turns_it_off() {
    let (place, legacy) = (Place::new(), Upstream::named("legacy").await);
    let bench = Setup::new(legacy.address).workers(1);
    let (config, links) = (bench.config.clone(), bench.links.clone());
    let bench = bench.start();
    let mut client = bench.client().await;
    let reload = |log: Option<&Path>| {
        let mut config = config.clone();
        config.observe.access_log = log.map(|path| serde_json::from_value(json!({ "to": path })).unwrap());
        bench.proxy.reload(&config, &links)
    };
    let other = place.0.path().join("other.log");
    for to in [None, Some(place.path()), Some(other.clone()), None] {
        reload(to.as_deref()).unwrap();
        client.send(GET).await;
        client.answer().await;
        if let Some(path) = to {
            eventually("its line", || lines_of(&path).len() == 1).await;
        }
    }
    let problems = reload(Some(&place.0.path().join("none/access.log"))).unwrap_err();
    assert_eq!(problems[0].path, "access_log.to");
    assert_eq!((lines_of(&place.path()).len(), lines_of(&other).len()), (1, 1));
}
