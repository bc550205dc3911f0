//! gRPC through Banyan: the four kinds of calls, statuses in trailers and in heads, deadlines. Messages are framed by hand (gRPC over HTTP/2):
//! what matters here is what HTTP/2 carries, and a gRPC library would double the build.

use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::{RecvStream, SendStream, client::ResponseFuture, server::SendResponse};
use http::{HeaderMap, Request, Response};
use serde_json::json;
use tokio::task::JoinSet;

use super::{Bench, Setup, h2_upstreams::Streams, legs::http2};

/// A call under way.
struct Call {
    answer: ResponseFuture,
    requests: SendStream<Bytes>,
    _driver: JoinSet<()>,
}

/// Messages as they come.
struct Messages {
    stream: RecvStream,
    ahead: Vec<u8>,
}

/// Not compressed, four bytes of length, the message.
fn framed(message: &str) -> Bytes {
    let mut bytes = vec![0];
    bytes.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
    bytes.extend(message.as_bytes());
    bytes.into()
}

fn status(code: &'static str) -> HeaderMap {
    HeaderMap::from_iter([("grpc-status".parse().unwrap(), code.parse().unwrap())])
}

// === impl Messages ===

impl Messages {
    fn new(stream: RecvStream) -> Self {
        Self { stream, ahead: Vec::new() }
    }

    async fn next(&mut self) -> Option<String> {
        loop {
            if let Some(length) = self.ahead.get(1..5) {
                let end = 5 + u32::from_be_bytes(length.try_into().unwrap()) as usize;
                if self.ahead.len() >= end {
                    let message: Vec<u8> = self.ahead.drain(..end).skip(5).collect();
                    return Some(String::from_utf8(message).unwrap());
                }
            }
            let read =
                tokio::time::timeout(Duration::from_secs(10), self.stream.data()).await.expect("a message in time");
            let chunk = read?.unwrap();
            self.stream.flow_control().release_capacity(chunk.len()).unwrap();
            self.ahead.extend(chunk);
        }
    }

    async fn trailers(&mut self) -> HeaderMap {
        self.stream.trailers().await.unwrap().unwrap_or_default()
    }
}

/// The service: what it does is the method's name.
async fn serve(request: Request<RecvStream>, mut answering: SendResponse<Bytes>) -> Result<(), h2::Error> {
    let method = request.uri().path().rsplit('/').next().unwrap().to_owned();
    let mut requests = Messages::new(request.into_body());
    let head = || Response::builder().header("content-type", "application/grpc");
    let mut answer = match method.as_str() {
        "Missing" => {
            let head = head().header("grpc-status", "5").header("grpc-message", "no such order").body(()).unwrap();
            return answering.send_response(head, true).map(|_| ());
        }
        "Broken" => {
            return answering.send_response(head().header("grpc-status", "13").body(()).unwrap(), true).map(|_| ());
        }
        "Never" => return std::future::pending().await,
        _ => answering.send_response(head().body(()).unwrap(), false)?,
    };
    match method.as_str() {
        "Fails" => {
            answer.send_data(framed("half"), false)?;
            return answer.send_trailers(status("14"));
        }
        "List" => {
            for number in requests.next().await.unwrap().split(',') {
                answer.send_data(framed(number), false)?;
            }
        }
        "Sum" => {
            let mut sum = 0;
            while let Some(number) = requests.next().await {
                sum += number.parse::<u32>().unwrap();
            }
            answer.send_data(framed(&sum.to_string()), false)?;
        }
        // `Get` and `Chat`: one answer a message.
        _ => {
            while let Some(message) = requests.next().await {
                answer.send_data(framed(&format!("re: {message}")), false)?;
            }
        }
    }
    answer.send_trailers(status("0"))
}

async fn bench() -> (Bench, Streams) {
    let upstream = Streams::scripted(serve).await;
    let settings = json!({ "endpoints": [format!("http://127.0.0.1:{}", upstream.port)], "protocol": "http2" });
    let nowhere = "127.0.0.1:1".parse().unwrap();
    let route = json!({ "name": "orders", "match": { "path_prefix": "/shop.Orders" }, "modern": "modern" });
    (Setup::new(nowhere).upstream("modern", nowhere, &settings).route(route).workers(1).start(), upstream)
}

async fn call(bench: &Bench, method: &str, timeout: Option<&str>) -> Call {
    let (mut sender, driver) = http2(bench).await;
    let mut request = Request::post(format!("http://shop.example/shop.Orders/{method}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    if let Some(timeout) = timeout {
        request = request.header("grpc-timeout", timeout);
    }
    let (answer, requests) = sender.send_request(request.body(()).unwrap(), false).unwrap();
    Call { answer, requests, _driver: driver }
}

fn outcomes(bench: &Bench, outcome: &str) -> f64 {
    bench.metric("banyan_route_attempts_total", &[("route", "orders"), ("outcome", outcome)])
}

#[tokio::test]
async fn all_four_kinds_of_calls_pass_with_their_status() {
    let (bench, _upstream) = bench().await;
    for (method, sent, expected) in [
        ("Get", &["1"][..], &["re: 1"][..]),
        ("List", &["1,2,3"], &["1", "2", "3"]),
        ("Sum", &["1", "2", "3"], &["6"]),
        ("Chat", &["a", "b", "c"], &["re: a", "re: b", "re: c"]),
    ] {
        let mut call = call(&bench, method, None).await;
        for (at, message) in sent.iter().enumerate() {
            call.requests.send_data(framed(message), at + 1 == sent.len()).unwrap();
        }
        let answer = call.answer.await.unwrap();
        assert_eq!(
            (answer.status().as_u16(), &answer.headers()["content-type"]),
            (200, &"application/grpc".parse().unwrap())
        );
        let mut messages = Messages::new(answer.into_body());
        for message in expected {
            assert_eq!(messages.next().await.as_deref(), Some(*message), "{method}");
        }
        assert_eq!(messages.next().await, None, "{method}");
        assert_eq!(messages.trailers().await["grpc-status"], "0", "{method}");
    }
}

#[tokio::test]
async fn each_message_of_a_chat_is_answered_before_the_next_is_sent() {
    let (bench, _upstream) = bench().await;
    let mut call = call(&bench, "Chat", None).await;
    let mut messages = Messages::new(call.answer.await.unwrap().into_body());
    for number in 0..20 {
        call.requests.send_data(framed(&number.to_string()), false).unwrap();
        assert_eq!(messages.next().await, Some(format!("re: {number}")));
    }
    call.requests.send_data(Bytes::new(), true).unwrap();
    assert_eq!(messages.next().await, None);
    assert_eq!(messages.trailers().await["grpc-status"], "0");
}

#[tokio::test]
async fn a_status_passes_in_trailers_and_in_a_head_alone() {
    let (bench, _upstream) = bench().await;
    let mut fails = call(&bench, "Fails", None).await;
    fails.requests.send_data(framed("x"), true).unwrap();
    let mut messages = Messages::new(fails.answer.await.unwrap().into_body());
    assert_eq!(messages.next().await.as_deref(), Some("half"));
    assert_eq!(messages.next().await, None);
    assert_eq!(messages.trailers().await["grpc-status"], "14");

    let mut missing = call(&bench, "Missing", None).await;
    missing.requests.send_data(framed("x"), true).unwrap();
    let answer = missing.answer.await.unwrap();
    assert_eq!((&answer.headers()["grpc-status"], answer.body().is_end_stream()), (&"5".parse().unwrap(), true));
    assert_eq!(answer.headers()["grpc-message"], "no such order");
}

#[tokio::test]
async fn a_head_that_says_that_the_server_failed_is_an_error_of_the_attempt() {
    let (bench, _upstream) = bench().await;
    for (method, errors) in [("Missing", 0.0), ("Broken", 1.0)] {
        let mut call = call(&bench, method, None).await;
        call.requests.send_data(framed("x"), true).unwrap();
        call.answer.await.unwrap();
        assert!((outcomes(&bench, "error") - errors).abs() < 0.1, "{method}");
    }
    assert!((outcomes(&bench, "ok") - 1.0).abs() < 0.1);
}

#[tokio::test]
async fn a_calls_deadline_counts_where_it_is_the_shorter_one() {
    let (bench, _upstream) = bench().await;
    let began = Instant::now();
    let mut call = call(&bench, "Never", Some("200m")).await;
    call.requests.send_data(framed("x"), true).unwrap();
    let answer = tokio::time::timeout(Duration::from_secs(10), call.answer).await.unwrap().unwrap();
    // DEADLINE_EXCEEDED; the route's own time is 30 seconds.
    assert_eq!((answer.status().as_u16(), &answer.headers()["grpc-status"]), (200, &"4".parse().unwrap()));
    assert!(began.elapsed() >= Duration::from_millis(200), "{:?}", began.elapsed());
    assert!((outcomes(&bench, "timeout") - 1.0).abs() < 0.1);
}
