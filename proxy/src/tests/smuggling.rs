//! Request smuggling by its families, from an HTTP/1.1 client to upstreams of both protocols: whatever the bytes, the upstream sees the
//! requests that the client was answered, with the bodies that it framed, and nothing of what was hidden behind them.
//!
//! What a head's own lines can say in two ways stands in `framing.rs`.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::Response;
use serde_json::json;
use tokio::io::AsyncWriteExt;

use super::{Bench, Setup, Upstream, h2_upstreams::Streams};

const HIDDEN: &str = "GET /hidden HTTP/1.1\r\nHost: a\r\n\r\n";

/// What came of some bytes at both ends.
#[derive(Debug)]
struct Came {
    statuses: Vec<u16>,
    /// Method, path and body of each request that the upstream got whole.
    upstream: Vec<String>,
}

/// An upstream of HTTP/1.1 or HTTP/2 that keeps what it gets whole.
struct Far {
    bench: Bench,
    seen: Arc<Mutex<Vec<String>>>,
    _upstream: (Option<Upstream>, Option<Streams>),
}

impl Far {
    async fn http1() -> Self {
        let seen: Arc<Mutex<Vec<String>>> = Arc::default();
        let kept = Arc::clone(&seen);
        let upstream = Upstream::scripted(move |mut wire| {
            let kept = Arc::clone(&kept);
            async move {
                loop {
                    let (head, body) = wire.request().await?;
                    let line = head.lines().next().unwrap().trim_end_matches(" HTTP/1.1").to_owned();
                    kept.lock().unwrap().push(format!("{line} {}", unchunked(&body)));
                    wire.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await?;
                }
            }
        })
        .await;
        let bench = Setup::new(upstream.address).workers(1).start();
        Self { bench, seen, _upstream: (Some(upstream), None) }
    }

    async fn http2() -> Self {
        let seen: Arc<Mutex<Vec<String>>> = Arc::default();
        let kept = Arc::clone(&seen);
        let upstream = Streams::scripted(move |mut request, mut answering| {
            let kept = Arc::clone(&kept);
            async move {
                let mut body = Vec::new();
                while let Some(chunk) = request.body_mut().data().await {
                    body.extend(chunk?);
                }
                request.body_mut().trailers().await?;
                let (line, body) = (format!("{} {}", request.method(), request.uri().path()), String::from_utf8(body));
                kept.lock().unwrap().push(format!("{line} {}", body.unwrap()));
                answering.send_response(Response::new(()), false)?.send_data(Bytes::from("ok"), true)
            }
        })
        .await;
        let endpoint = json!({ "endpoints": [format!("http://127.0.0.1:{}", upstream.port)], "protocol": "http2" });
        let nowhere = "127.0.0.1:1".parse().unwrap();
        let bench = Setup::new(nowhere).upstream("legacy", nowhere, &endpoint).workers(1).start();
        Self { bench, seen, _upstream: (None, Some(upstream)) }
    }

    /// Sends the bytes, ends its half, and reads all answers.
    async fn sends(&self, bytes: &str) -> Came {
        let before = self.seen.lock().unwrap().len();
        let mut client = self.bench.client().await;
        client.send(bytes).await;
        client.stream.shutdown().await.ok();
        let mut statuses = Vec::new();
        while let Some(answer) = client.try_answer(false).await {
            statuses.push(answer.status);
        }
        Came { statuses, upstream: self.seen.lock().unwrap()[before..].to_vec() }
    }
}

/// The data of a body in chunks, or the body itself.
fn unchunked(body: &[u8]) -> String {
    let text = std::str::from_utf8(body).unwrap();
    if !text.ends_with("\r\n\r\n") {
        return text.to_owned();
    }
    let (mut rest, mut data) = (text, String::new());
    while let Some((size, after)) = rest.split_once("\r\n") {
        let size = usize::from_str_radix(size.split(';').next().unwrap(), 16).unwrap();
        if size == 0 {
            break;
        }
        data.push_str(&after[..size]);
        rest = &after[size + 2..];
    }
    data
}

async fn on_both(mut test: impl AsyncFnMut(&Far)) {
    for far in [Far::http1().await, Far::http2().await] {
        test(&far).await;
    }
}

fn post(lines: &str, body: &str) -> String {
    format!("POST /first HTTP/1.1\r\nHost: a\r\n{lines}\r\n{body}")
}

#[tokio::test]
async fn of_a_length_and_chunks_the_chunks_count_on_both_protocols() {
    on_both(async |far| {
        let body = format!("4\r\nbody\r\n0\r\n\r\n{HIDDEN}");
        for lines in [
            format!("Content-Length: {}\r\nTransfer-Encoding: chunked\r\n", body.len()),
            "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n".to_owned(),
        ] {
            let came = far.sends(&post(&lines, &body)).await;
            assert_eq!((came.statuses, came.upstream), (vec![200], vec!["POST /first body".to_owned()]));
        }
    })
    .await;
}

#[tokio::test]
async fn chunks_that_two_servers_could_read_in_two_ways_end_the_connection() {
    on_both(async |far| {
        for body in [
            "x\r\nbody\r\n0\r\n\r\n",                 // no size
            "-4\r\nbody\r\n0\r\n\r\n",                // below zero
            "+4\r\nbody\r\n0\r\n\r\n",                // with a sign
            "0x4\r\nbody\r\n0\r\n\r\n",               // with a base
            "ffffffffffffffff4\r\nbody\r\n0\r\n\r\n", // wraps round to four
            "10000000000000004\r\nbody\r\n0\r\n\r\n",
            "2\r\nbody\r\n0\r\n\r\n",      // longer than it says
            "4\r\nbodyXX0\r\n\r\n",        // no line's end behind the data
            "4\nbody\r\n0\r\n\r\n",        // LF alone behind a size
            "4;a\nb\r\nbody\r\n0\r\n\r\n", // LF alone within an extension
            "\r\n4\r\nbody\r\n0\r\n\r\n",  // no size at all
        ] {
            let came = far.sends(&post("Transfer-Encoding: chunked\r\n", &format!("{body}{HIDDEN}"))).await;
            assert!(came.upstream.iter().all(|one| !one.contains("hidden")), "{body:?} {came:?}");
            assert!(came.upstream.is_empty() && came.statuses.iter().all(|status| *status >= 400), "{body:?} {came:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn chunk_extensions_are_not_passed_on_and_not_without_end() {
    on_both(async |far| {
        let came = far.sends(&post("Transfer-Encoding: chunked\r\n", "4;x=\"y\"\r\nbody\r\n0;z\r\n\r\n")).await;
        assert_eq!((came.statuses, came.upstream), (vec![200], vec!["POST /first body".to_owned()]));
        let long = "y".repeat(64 << 10);
        let came =
            far.sends(&post("Transfer-Encoding: chunked\r\n", &format!("4;x={long}\r\nbody\r\n0\r\n\r\n"))).await;
        assert!(came.upstream.is_empty() && !came.statuses.contains(&200), "{came:?}");
    })
    .await;
}

#[tokio::test]
async fn trailers_name_no_host_no_length_and_no_side() {
    let trailers = "Content-Length: 5\r\nHost: evil\r\nTransfer-Encoding: chunked\r\nConnection: close\r\nX-Banyan-Side: modern\r\nX_Banyan_Side: modern\r\nX_Forwarded-For: 6.6.6.6\r\nX-Sum: 7\r\n";
    let lines = "TE: trailers\r\nTrailer: content-length, host, transfer-encoding, connection, x-banyan-side, x_banyan_side, x_forwarded-for, x-sum\r\nTransfer-Encoding: chunked\r\n";
    let request = post(lines, &format!("4\r\nbody\r\n0\r\n{trailers}\r\n"));

    let upstream = Upstream::named("ok").await;
    let bench = Setup::new(upstream.address).start();
    assert_eq!(bench.ask(&request).await.status, 200);
    let bytes = upstream.bytes().to_ascii_lowercase();
    let (_, said) = bytes.split_once("\r\n0\r\n").unwrap();
    assert_eq!(said, "x-sum: 7\r\n\r\n");

    let kept: Arc<Mutex<Vec<String>>> = Arc::default();
    let names = Arc::clone(&kept);
    let upstream = Streams::scripted(move |mut request, mut answering| {
        let names = Arc::clone(&names);
        async move {
            while request.body_mut().data().await.is_some() {}
            let trailers = request.body_mut().trailers().await?.unwrap_or_default();
            names.lock().unwrap().extend(trailers.keys().map(ToString::to_string));
            answering.send_response(Response::new(()), true).map(|_| ())
        }
    })
    .await;
    let endpoint = json!({ "endpoints": [format!("http://127.0.0.1:{}", upstream.port)], "protocol": "http2" });
    let nowhere = "127.0.0.1:1".parse().unwrap();
    let bench = Setup::new(nowhere).upstream("legacy", nowhere, &endpoint).start();
    assert_eq!(bench.ask(&request).await.status, 200);
    assert_eq!(*kept.lock().unwrap(), ["x-sum"]);
}

#[tokio::test]
async fn a_body_that_ends_too_early_is_no_whole_request() {
    on_both(async |far| {
        for request in [
            post("Content-Length: 10\r\n", "half"),
            post("Transfer-Encoding: chunked\r\n", "a\r\nhalf"),
            post("Transfer-Encoding: chunked\r\n", "4\r\nhalf\r\n"),
            post("Transfer-Encoding: chunked\r\n", "4\r\nhalf\r\n0\r\n"),
        ] {
            let came = far.sends(&request).await;
            assert!(came.upstream.is_empty() && !came.statuses.contains(&200), "{request:?} {came:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_their_order_with_their_own_bodies() {
    on_both(async |far| {
        let bytes = format!(
            "{}{}{}",
            post("Content-Length: 3\r\n", "one"),
            post("Transfer-Encoding: chunked\r\n", "3\r\ntwo\r\n0\r\n\r\n"),
            "GET /third HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"
        );
        let came = far.sends(&bytes).await;
        assert_eq!(came.statuses, [200, 200, 200]);
        assert_eq!(came.upstream, ["POST /first one", "POST /first two", "GET /third "]);
    })
    .await;
}

#[tokio::test]
async fn an_upstreams_connection_is_not_used_again_behind_half_a_body() {
    let upstream = Upstream::scripted(|mut wire| async move {
        loop {
            wire.head().await?;
            wire.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await?;
        }
    })
    .await;
    let bench = Setup::new(upstream.address).workers(1).start();
    let mut first = bench.client().await;
    first.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\nsome of it").await;
    assert_eq!(first.answer().await.text(), "ok");
    assert_eq!(bench.ask("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.text(), "ok");
    assert_eq!(upstream.connections(), 2);
}
