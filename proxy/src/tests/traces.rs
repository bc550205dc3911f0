//! Traces: passed on as they came, or with Banyan as a hop; malformed is absent; errors show the id that the log has.

use serde_json::{Value, json};

use super::{Bench, Setup, Upstream, eventually};

const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
const ID: &str = "0af7651916cd43dd8448eb211c80319c";

fn setup(legacy: &Upstream, tracing: Option<Value>) -> Setup {
    let mut setup = Setup::new(legacy.address).workers(1);
    setup.config.observe.tracing = tracing.map(|tracing| serde_json::from_value(tracing).unwrap());
    setup
}

/// The trace headers that the upstream saw of a request with these.
async fn told(bench: &Bench, legacy: &Upstream, lines: &str) -> Vec<String> {
    let before = legacy.bytes().len();
    assert_eq!(bench.ask(&format!("GET / HTTP/1.1\r\nHost: a\r\n{lines}\r\n")).await.status, 200);
    let seen = legacy.bytes()[before..].to_ascii_lowercase();
    seen.lines().filter(|line| line.starts_with("trace")).map(str::to_owned).collect()
}

#[tokio::test]
async fn a_trace_is_passed_on_as_it_came() {
    let legacy = Upstream::named("legacy").await;
    let bench = setup(&legacy, None).start();
    let lines = format!("traceparent: {PARENT}\r\ntracestate: a=1\r\ntracestate: b=2\r\n");
    let expected = [&format!("traceparent: {PARENT}"), "tracestate: a=1", "tracestate: b=2"];
    assert_eq!(told(&bench, &legacy, &lines).await, expected);
    assert_eq!(told(&bench, &legacy, "").await, Vec::<String>::new());
    for bad in ["traceparent: 00-0-0-01\r\n".to_owned(), format!("traceparent: {PARENT}\r\ntraceparent: {PARENT}\r\n")]
    {
        assert_eq!(told(&bench, &legacy, &format!("{bad}tracestate: a=1\r\n")).await, Vec::<String>::new(), "{bad}");
    }
}

#[tokio::test]
async fn with_tracing_the_upstream_has_a_parent_of_banyans_own() {
    let legacy = Upstream::named("legacy").await;
    let bench = setup(&legacy, Some(json!({ "sample": 0 }))).start();
    let mut parents = Vec::new();
    for _ in 0..2 {
        let told = told(&bench, &legacy, &format!("traceparent: {PARENT}\r\ntracestate: a=1\r\n")).await;
        assert_eq!(told.len(), 2, "{told:?}");
        assert_eq!(told[1], "tracestate: a=1");
        let parts: Vec<&str> = told[0].split('-').collect();
        // The mark of who began the trace stays, whatever `sample` says.
        assert_eq!((parts[1], parts[3]), (ID, "01"), "{told:?}");
        parents.push(parts[2].to_owned());
    }
    parents.push(PARENT.split('-').nth(2).unwrap().to_owned());
    parents.sort();
    parents.dedup();
    assert_eq!(parents.len(), 3, "{parents:?}");
}

#[tokio::test]
async fn with_tracing_a_request_without_a_trace_begins_one() {
    let legacy = Upstream::named("legacy").await;
    for (sample, flags) in [(0, "02"), (100, "03")] {
        let bench = setup(&legacy, Some(json!({ "sample": sample }))).start();
        for lines in ["", "tracestate: a=1\r\n", "traceparent: 00-0-0-01\r\ntracestate: a=1\r\n"] {
            let told = told(&bench, &legacy, lines).await;
            assert_eq!(told.len(), 1, "{told:?}");
            let parts: Vec<&str> = told[0].strip_prefix("traceparent: 00-").unwrap().split('-').collect();
            assert_eq!((parts[0].len(), parts[1].len(), parts[2]), (32, 16, flags), "{told:?}");
        }
    }
}

#[tokio::test]
async fn an_error_shows_the_trace_that_the_log_has() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("access.log");
    let gone = Upstream::named("gone").await;
    for tracing in [None, Some(json!({}))] {
        let mut setup = setup(&gone, tracing.clone());
        setup.config.observe.access_log = Some(serde_json::from_value(json!({ "to": log })).unwrap());
        setup.config.upstreams.insert(
            "legacy".to_owned(),
            serde_json::from_value(json!({ "endpoints": ["http://127.0.0.1:9"] })).unwrap(),
        );
        let bench = setup.start();
        let with = format!("traceparent: {PARENT}\r\n");
        let mut shown = Vec::new();
        for (host, lines) in [("Host: a\r\n", &*with), ("Host: a\r\n", ""), ("", &*with), ("", "")] {
            let answer = bench.ask(&format!("GET / HTTP/1.1\r\n{host}{lines}\r\n")).await;
            let problem: Value = serde_json::from_slice(&answer.body).unwrap();
            let id = problem["trace_id"].as_str().unwrap().to_owned();
            assert_eq!(id == ID, !lines.is_empty(), "{problem}");
            assert_eq!(id.len(), 32, "{problem}");
            shown.push(id);
        }
        let logged = || -> Vec<String> {
            let text = std::fs::read_to_string(&log).unwrap_or_default();
            let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).expect(line));
            lines.map(|line| line["trace_id"].as_str().unwrap_or_default().to_owned()).collect()
        };
        eventually("four lines", || logged().len() >= 4).await;
        assert_eq!(logged(), shown, "{tracing:?}");
        std::fs::remove_file(&log).unwrap();
    }
}
