//! Spans for a collector: what it is sent, which requests, and that a dead one holds up nobody.

use std::{sync::Arc, time::Duration};

use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::{Bench, Setup, Upstream, eventually};

const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
const UNSAMPLED: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";

/// A collector that takes everything, and what it was sent.
async fn collector() -> (Upstream, mpsc::UnboundedReceiver<(String, Value)>) {
    let (tell, told) = mpsc::unbounded_channel();
    let tell = Arc::new(tell);
    let upstream = Upstream::scripted(move |mut wire| {
        let tell = Arc::clone(&tell);
        async move {
            let (head, body) = wire.request().await?;
            tell.send((head, serde_json::from_slice(&body).unwrap())).ok();
            wire.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").await
        }
    })
    .await;
    (upstream, told)
}

fn setup(legacy: &Upstream, collector: &str) -> Setup {
    let mut setup = Setup::new(legacy.address).workers(1).route(json!({
        "name": "payments", "match": { "path_prefix": "/payments" }, "legacy": "legacy",
    }));
    setup.config.observe.tracing = Some(
        serde_json::from_value(json!({ "sample": 0, "export": { "otlp": collector, "service": "edge" } })).unwrap(),
    );
    setup
}

async fn ask(bench: &Bench, path: &str, traceparent: &str) {
    bench.ask(&format!("GET {path} HTTP/1.1\r\nHost: a\r\ntraceparent: {traceparent}\r\n\r\n")).await;
}

fn attribute<'v>(span: &'v Value, key: &str) -> &'v Value {
    let found = span["attributes"].as_array().unwrap().iter().find(|attribute| attribute["key"] == key);
    &found.unwrap_or(&Value::Null)["value"]
}

#[tokio::test]
async fn a_collector_is_sent_the_sampled_requests_as_spans_between_their_parent_and_the_upstream() {
    let (legacy, (collector, mut told)) = (Upstream::named("legacy").await, collector().await);
    let bench = setup(&legacy, &format!("http://{}", collector.address)).start();
    ask(&bench, "/payments/secret?token=secret", UNSAMPLED).await;
    ask(&bench, "/payments/secret?token=secret", PARENT).await;
    let (head, message) = tokio::time::timeout(Duration::from_secs(20), told.recv()).await.unwrap().unwrap();
    assert!(head.starts_with("POST /v1/traces HTTP/1.1\r\n") && head.contains("application/json"), "{head}");
    let resource = &message["resourceSpans"][0];
    assert_eq!(resource["resource"]["attributes"][0]["value"]["stringValue"], "edge");
    let spans = resource["scopeSpans"][0]["spans"].as_array().unwrap();
    let [span] = &spans[..] else { panic!("{message}") };
    assert_eq!(span["traceId"], "0af7651916cd43dd8448eb211c80319c");
    assert_eq!(span["parentSpanId"], "b7ad6b7169203331");
    // The upstream was told that this span is its parent.
    let own = format!("-{}-01", span["spanId"].as_str().unwrap());
    assert!(legacy.bytes().contains(&own), "{span}");
    assert_eq!((&span["name"], &span["kind"]), (&json!("GET payments"), &json!(2)));
    assert_eq!(attribute(span, "http.response.status_code"), &json!({ "intValue": "200" }));
    assert_eq!(attribute(span, "http.route"), &json!({ "stringValue": "/payments" }));
    assert_eq!(attribute(span, "banyan.answered"), &json!({ "stringValue": "legacy" }));
    let nanos = |key: &str| span[key].as_str().unwrap().parse::<u128>().unwrap();
    assert!(nanos("startTimeUnixNano") < nanos("endTimeUnixNano"), "{span}");
    assert!(!message.to_string().contains("secret"), "{message}");
    eventually("it is counted", || bench.metric("banyan_trace_spans_total", &[("outcome", "exported")]) > 0.0).await;
}

#[tokio::test]
async fn a_dead_collector_costs_spans_and_nothing_else() {
    let (legacy, gone) = (Upstream::named("legacy").await, Upstream::named("gone").await);
    let address = gone.address;
    drop(gone);
    let bench = setup(&legacy, &format!("http://{address}")).start();
    for _ in 0..5 {
        ask(&bench, "/payments", PARENT).await;
    }
    eventually("they are counted", || bench.metric("banyan_trace_spans_total", &[("outcome", "dropped")]) >= 5.0).await;
}

#[tokio::test]
async fn what_was_answered_is_sent_before_the_process_ends() {
    let (legacy, (collector, mut told)) = (Upstream::named("legacy").await, collector().await);
    let bench = setup(&legacy, &format!("http://{}/otlp/", collector.address)).start();
    ask(&bench, "/payments", PARENT).await;
    bench.proxy.drain(Duration::from_secs(5)).await;
    let (head, _) = told.try_recv().expect("it was sent");
    assert!(head.starts_with("POST /otlp/v1/traces HTTP/1.1\r\n"), "{head}");
}

#[tokio::test]
async fn no_span_shows_what_a_request_may_hold_in_secret() {
    let (legacy, (collector, mut told)) = (Upstream::named("legacy").await, collector().await);
    let bench = setup(&legacy, &format!("http://{}", collector.address)).start();
    let last = PARENT.replace("0af7", "1af7");
    let send = async |line: &str, lines: &str, parent: &str| {
        let head = format!("{line} HTTP/1.1\r\nHost: shop.example\r\ntraceparent: {parent}\r\n{lines}\r\n");
        bench.ask(&head).await.status
    };
    // Wherever a person or a program may have put it, answered or refused.
    for (line, lines) in [
        ("GET http://ann:hidden-1@shop.example/payments", ""),
        ("GET /payments/hidden-2?token=hidden-3#hidden-4", ""),
        ("GET /payments?hidden-5", "Cookie: sid=hidden-6\r\nAuthorization: Bearer hidden-7\r\n"),
        (
            "GET /payments/..%2f?hidden-8",
            "X-Api-Key: hidden-9\r\ntracestate: vendor=hidden-10\r\nbaggage: user=hidden-11\r\n",
        ),
        ("POST /payments", "User-Agent: hidden-12\r\nReferer: http://hidden-13/\r\nContent-Length: 9\r\n\r\nhidden-14"),
        ("HIDDEN /payments", ""),
    ] {
        send(line, lines, PARENT).await;
    }
    assert_eq!(send("GET /payments/last", "", &last).await, 200);
    let all = async {
        let mut all = String::new();
        while !all.contains("1af7651916cd43dd8448eb211c80319c") {
            let (head, message) = told.recv().await.unwrap();
            all += &format!("{head}{message}");
        }
        all
    };
    let all = tokio::time::timeout(Duration::from_secs(20), all).await.unwrap();
    // Of each that was answered, and of those refused whose head was understood.
    assert!(all.matches("0af7651916cd43dd8448eb211c80319c").count() >= 4, "{all}");
    assert!(!all.to_ascii_lowercase().contains("hidden"), "{all}");
}
