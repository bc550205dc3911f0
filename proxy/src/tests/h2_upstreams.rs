//! HTTP/2 upstreams: requests share connections; what was refused goes again and what may have been done does not; windows hold both ends
//! back; a client that goes away cancels its stream.

use std::{
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use h2::{
    RecvStream,
    server::{Builder, SendResponse},
};
use http::{HeaderMap, Request, Response};
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinSet};

use super::{
    Bench, Setup, Upstream, eventually,
    frames::{self, CANCEL, DATA, Peer, REFUSED_STREAM, RST_STREAM, peer},
    secure::{Authority, Secure},
};

const GET: &str = "GET /payments HTTP/1.1\r\nHost: shop.example\r\n\r\n";
const POST: &str = "POST /payments HTTP/1.1\r\nHost: shop.example\r\nContent-Length: 4\r\n\r\nbody";

pub(super) type Answering = SendResponse<Bytes>;

/// An HTTP/2 upstream in the clear that runs a script on each request.
pub(super) struct Streams {
    pub(super) port: u16,
    connections: Arc<AtomicUsize>,
    _accepts: JoinSet<()>,
}

impl Streams {
    pub(super) async fn scripted<F>(
        script: impl Fn(Request<RecvStream>, Answering) -> F + Clone + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Result<(), h2::Error>> + Send + 'static,
    {
        Self::of(Builder::new(), script).await
    }

    /// One that takes WebSockets (RFC 8441).
    pub(super) async fn tunnelling<F>(
        script: impl Fn(Request<RecvStream>, Answering) -> F + Clone + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Result<(), h2::Error>> + Send + 'static,
    {
        let mut builder = Builder::new();
        builder.enable_connect_protocol();
        Self::of(builder, script).await
    }

    async fn of<F>(
        builder: Builder,
        script: impl Fn(Request<RecvStream>, Answering) -> F + Clone + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Result<(), h2::Error>> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let connections: Arc<AtomicUsize> = Arc::default();
        let counted = Arc::clone(&connections);
        let mut accepts = JoinSet::new();
        accepts.spawn(async move {
            let mut wires = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::SeqCst);
                let (script, builder) = (script.clone(), builder.clone());
                wires.spawn(async move {
                    let Ok(mut connection) = builder.handshake(stream).await else { return };
                    let mut requests = JoinSet::new();
                    while let Some(Ok((request, answering))) = connection.accept().await {
                        let answer = script(request, answering);
                        requests.spawn(async move { drop(answer.await) });
                    }
                });
            }
        });
        Self { port, connections, _accepts: accepts }
    }

    /// Answers 200 with these headers, body and trailers, when the request has come whole.
    async fn answering(
        headers: &'static [(&str, &str)],
        body: &'static str,
        trailers: &'static [(&str, &str)],
    ) -> Self {
        Self::scripted(move |mut request, mut answering| async move {
            while let Some(chunk) = request.body_mut().data().await {
                request.body_mut().flow_control().release_capacity(chunk?.len())?;
            }
            let mut answer = Response::builder();
            for (name, value) in headers {
                answer = answer.header(*name, *value);
            }
            let is_over = body.is_empty() && trailers.is_empty();
            let mut stream = answering.send_response(answer.body(()).unwrap(), is_over)?;
            if !body.is_empty() {
                stream.send_data(body.into(), trailers.is_empty())?;
            }
            if !trailers.is_empty() {
                stream.send_trailers(map(trailers))?;
            }
            Ok(())
        })
        .await
    }

    pub(super) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

fn map(lines: &[(&'static str, &'static str)]) -> HeaderMap {
    lines.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect::<HeaderMap>()
}

/// One worker, and a route whose only side is this upstream.
pub(super) fn modern(endpoint: &str, more: &Value) -> Setup {
    let mut upstream = json!({ "endpoints": [endpoint], "protocol": "http2" });
    upstream.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let nowhere = "127.0.0.1:1".parse().unwrap();
    let route = json!({ "name": "payments", "match": { "path_prefix": "/payments" }, "modern": "modern" });
    Setup::new(nowhere).upstream("modern", nowhere, &upstream).route(route).workers(1)
}

pub(super) fn at_port(port: u16) -> Bench {
    modern(&format!("http://127.0.0.1:{port}"), &json!({})).start()
}

fn at(upstream: &Upstream) -> Bench {
    at_port(upstream.address.port())
}

pub(super) fn fault(answer: &super::Answer) -> (u16, String) {
    let problem: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    (answer.status, problem["type"].as_str().unwrap_or_default().to_owned())
}

#[tokio::test]
async fn requests_at_once_share_one_connection() {
    let all_here = Arc::new(tokio::sync::Barrier::new(8));
    let upstream = Streams::scripted(move |_, mut answering| {
        let all_here = Arc::clone(&all_here);
        async move {
            all_here.wait().await;
            answering.send_response(Response::new(()), false)?.send_data("shared".into(), true)
        }
    })
    .await;
    let bench = at_port(upstream.port);
    let answers = futures_util::future::join_all((0..8).map(|_| bench.ask(GET))).await;
    assert!(answers.iter().all(|answer| answer.text() == "shared"), "{answers:?}");
    assert_eq!(upstream.connections(), 1);
}

#[tokio::test]
async fn another_connection_is_opened_when_the_peers_streams_run_out() {
    let both = Arc::new(tokio::sync::Barrier::new(2));
    // SETTINGS_MAX_CONCURRENT_STREAMS = 2
    let upstream = peer(&[(3, 2)], move |mut peer| {
        let both = Arc::clone(&both);
        async move {
            if peer.0.number == 0 {
                let stream = peer.request().await?;
                peer.answer(stream, "the settings are known").await?;
            }
            let streams = [peer.request().await?, peer.request().await?];
            both.wait().await;
            for stream in streams {
                peer.answer(stream, "ok").await?;
            }
            std::future::pending().await
        }
    })
    .await;
    let bench = at(&upstream);
    assert_eq!(bench.ask(GET).await.status, 200);
    let answers = futures_util::future::join_all((0..4).map(|_| bench.ask(GET))).await;
    assert!(answers.iter().all(|answer| answer.text() == "ok"), "{answers:?}");
    assert_eq!(upstream.connections(), 2);
}

#[tokio::test]
async fn a_request_goes_out_as_http2_wants_it() {
    let seen: Arc<Mutex<Option<Request<()>>>> = Arc::default();
    let kept = Arc::clone(&seen);
    let upstream = Streams::scripted(move |request, mut answering| {
        *kept.lock().unwrap() = Some(request.map(|_| ()));
        async move { answering.send_response(Response::new(()), true).map(|_| ()) }
    })
    .await;
    let bench = at_port(upstream.port);
    let request = "POST /payments?x=%20 HTTP/1.1\r\nhOst: shop.example:81\r\nConnection: keep-alive, X-Hop\r\nX-Hop: 1\r\nTE: trailers, gzip\r\nUpgrade: h2c\r\nTransfer-Encoding: chunked\r\nX-End: 2\r\n\r\n0\r\n\r\n";
    assert_eq!(bench.ask(request).await.status, 200);
    let seen = seen.lock().unwrap().take().unwrap();
    assert_eq!(seen.uri(), "http://shop.example:81/payments?x=%20");
    let mut names: Vec<&str> = seen.headers().keys().map(http::HeaderName::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["te", "x-end", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto"]);
    assert_eq!(seen.headers()["te"], "trailers");
}

#[tokio::test]
async fn bodies_and_trailers_pass_both_ways() {
    let upstream = Streams::scripted(|mut request, mut answering| async move {
        let mut echo = Vec::new();
        while let Some(chunk) = request.body_mut().data().await {
            echo.extend(chunk?);
        }
        let sums = request.body_mut().trailers().await?.unwrap_or_default();
        let answer = Response::builder().header("trailer", "x-sum").body(()).unwrap();
        let mut stream = answering.send_response(answer, false)?;
        stream.send_data(echo.into(), false)?;
        stream.send_trailers(sums)
    })
    .await;
    let bench = at_port(upstream.port);
    let request = "POST /payments HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nTrailer: x-sum\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\nx-sum: 7\r\n\r\n";
    let answer = bench.ask(request).await;
    assert_eq!((answer.status, answer.text(), answer.trailers.as_str()), (200, "body", "x-sum: 7\r\n"));
}

#[tokio::test]
async fn lengths_head_and_answers_without_a_body_stay_right() {
    for (headers, request, length) in [(&[("content-length", "4")][..], GET, Some("4")), (&[][..], GET, None)] {
        let upstream = Streams::answering(headers, "four", &[]).await;
        let answer = at_port(upstream.port).ask(request).await;
        assert_eq!((answer.text(), answer.header("content-length")), ("four", length), "{}", answer.head);
    }
    let upstream = Streams::scripted(|request, mut answering| async move {
        let (status, length) = match request.uri().path() {
            "/payments/204" => (204, None),
            "/payments/304" => (304, Some("1234")),
            _ => (200, Some("1234")),
        };
        let mut answer = Response::builder().status(status);
        if let Some(length) = length {
            answer = answer.header("content-length", length);
        }
        answering.send_response(answer.body(()).unwrap(), true).map(|_| ())
    })
    .await;
    let bench = at_port(upstream.port);
    let mut client = bench.client().await;
    for (line, status, length) in [
        ("HEAD /payments", 200, Some("1234")),
        ("GET /payments/204", 204, None),
        // hyper leaves a length away that no body goes with.
        ("GET /payments/304", 304, None),
    ] {
        client.send(format!("{line} HTTP/1.1\r\nHost: a\r\n\r\n")).await;
        let answer = client.head_answer().await;
        assert_eq!((answer.status, answer.header("content-length")), (status, length), "{line}");
    }
}

#[tokio::test]
async fn what_the_peer_refused_to_look_at_goes_again_whatever_it_is() {
    let upstream = peer(&[], |mut peer| async move {
        let refused = peer.request().await?;
        peer.reset(refused, REFUSED_STREAM).await?;
        loop {
            let stream = peer.request().await?;
            while peer.frame().await?.kind != DATA {}
            peer.answer(stream, "done").await?;
        }
    })
    .await;
    assert_eq!(at(&upstream).ask(POST).await.text(), "done");
    let stubborn = peer(&[], |mut peer| async move {
        loop {
            let refused = peer.request().await?;
            peer.reset(refused, REFUSED_STREAM).await?;
        }
    })
    .await;
    assert_eq!(fault(&at(&stubborn).ask(POST).await), (502, "urn:banyan:error:reset".to_owned()));
    // Who refuses everything fails, for those who watch over it.
    let circuit = json!({ "circuit": { "min_requests": 2, "open_for": "10m" } });
    let bench = modern(&format!("http://127.0.0.1:{}", stubborn.address.port()), &circuit).start();
    for _ in 0..2 {
        assert_eq!(bench.ask(POST).await.status, 502);
    }
    let state = || bench.proxy.status().upstreams.iter().find_map(|upstream| upstream.circuit);
    eventually("its circuit is open", || state().is_some_and(|state| state.as_str() == "open")).await;
}

/// Answers the first request when it has said that it goes away without having looked at the second.
async fn goes_away(mut peer: Peer) -> io::Result<()> {
    if peer.0.number > 0 {
        loop {
            let stream = peer.request().await?;
            peer.answer(stream, "next").await?;
        }
    }
    let (first, _second) = (peer.request().await?, peer.request().await?);
    peer.go_away(first).await?;
    peer.answer(first, "first").await?;
    std::future::pending().await
}

#[tokio::test]
async fn a_connection_that_goes_away_loses_no_request() {
    let upstream = peer(&[], goes_away).await;
    let bench = at(&upstream);
    let (one, two) = tokio::join!(bench.ask(POST), bench.ask(POST));
    let mut texts = [one.text().to_owned(), two.text().to_owned()];
    texts.sort();
    assert_eq!(texts, ["first", "next"]);
    assert_eq!(bench.ask(POST).await.text(), "next");
    assert_eq!(upstream.connections(), 2);
}

#[tokio::test]
async fn a_reset_behind_the_requests_head_leaves_its_outcome_unknown() {
    let upstream = peer(&[], |mut peer| async move {
        loop {
            let stream = peer.request().await?;
            peer.reset(stream, CANCEL).await?;
        }
    })
    .await;
    let bench = at(&upstream);
    assert_eq!(fault(&bench.ask(POST).await), (502, "urn:banyan:error:reset".to_owned()));
    // The stream was reset, and not the connection.
    bench.ask(POST).await;
    assert_eq!(upstream.connections(), 1);
}

#[tokio::test]
async fn a_stream_reset_within_its_answer_does_not_look_whole() {
    let upstream = peer(&[], |mut peer| async move {
        let stream = peer.request().await?;
        peer.head(stream).await?;
        peer.send(DATA, 0, stream, b"half").await?;
        peer.reset(stream, CANCEL).await?;
        std::future::pending().await
    })
    .await;
    let bench = at(&upstream);
    let mut client = bench.client().await;
    client.send(GET).await;
    assert_eq!(client.try_answer(false).await, None);
}

#[tokio::test]
async fn a_client_that_goes_away_cancels_its_stream_and_no_other() {
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let upstream = peer(&[], move |mut peer| {
        let tell = tell.clone();
        async move {
            let stream = peer.request().await?;
            peer.head(stream).await?;
            // That the client has gone is noticed when something is written to it.
            for _ in 0..20 {
                peer.send(DATA, 0, stream, b"some").await?;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            loop {
                let frame = peer.frame().await?;
                match frame.kind {
                    RST_STREAM => tell.send((frame.stream, frame.payload)).unwrap_or_default(),
                    frames::HEADERS => peer.answer(frame.stream, "other").await?,
                    _ => {}
                }
            }
        }
    })
    .await;
    let bench = at(&upstream);
    let mut client = bench.client().await;
    client.send(GET).await;
    client.head().await.unwrap();
    socket2::SockRef::from(&client.stream).set_linger(Some(Duration::ZERO)).unwrap();
    drop(client);
    let cancelled = tokio::time::timeout(Duration::from_secs(10), told.recv()).await.unwrap().unwrap();
    assert_eq!(cancelled, (1, CANCEL.to_be_bytes().to_vec()));
    assert_eq!(bench.ask(GET).await.text(), "other");
    assert_eq!(upstream.connections(), 1);
}

#[tokio::test]
async fn a_late_answer_is_a_504_and_its_stream_is_cancelled() {
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let upstream = peer(&[], move |mut peer| {
        let tell = tell.clone();
        async move {
            loop {
                let frame = peer.frame().await?;
                if frame.kind == RST_STREAM {
                    let _ = tell.send(frame.stream);
                }
            }
        }
    })
    .await;
    let endpoint = format!("http://{}", upstream.address);
    let bench = modern(&endpoint, &json!({ "timeout": "200ms" })).start();
    assert_eq!(fault(&bench.ask(GET).await), (504, "urn:banyan:error:timeout".to_owned()));
    assert_eq!(tokio::time::timeout(Duration::from_secs(10), told.recv()).await.unwrap(), Some(1));
    // It answered the ping that asked whether it is still there.
    bench.ask(GET).await;
    assert_eq!(upstream.connections(), 1);
}

#[tokio::test]
async fn a_peer_that_answers_neither_a_request_nor_a_ping_is_left() {
    let upstream = Upstream::scripted(|mut wire| async move {
        wire.some().await?;
        // SETTINGS, and never a word more.
        wire.send([0, 0, 0, 4, 0, 0, 0, 0, 0]).await?;
        loop {
            wire.some().await?;
        }
    })
    .await;
    let bench = modern(&format!("http://{}", upstream.address), &json!({ "timeout": "200ms" })).start();
    assert_eq!(bench.ask(GET).await.status, 504);
    let open = || bench.proxy.status().upstreams.iter().map(|one| one.connections).sum::<usize>();
    eventually("its connection is closed", || open() == 0).await;
    assert_eq!(bench.ask(GET).await.status, 504);
    assert_eq!(upstream.connections(), 2);
}

#[tokio::test]
async fn neither_end_can_make_banyan_hold_more_than_a_window() {
    // The upstream gives no window beyond the first 65,535 bytes: the client's 8 MiB stay with the client.
    let upstream = peer(&[], |mut peer| async move {
        peer.request().await?;
        loop {
            peer.frame().await?;
        }
    })
    .await;
    let bench = at(&upstream);
    let mut client = bench.client().await;
    client.send("POST /payments HTTP/1.1\r\nHost: a\r\nContent-Length: 8388608\r\n\r\n").await;
    let chunk = vec![b'x'; 64 << 10];
    let mut sent = 0;
    let sending = async {
        while sent < 8 << 20 {
            client.send(&chunk).await;
            sent += chunk.len();
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(2), sending).await.is_err(), "all of it was taken");

    // A client that does not read holds the upstream back: no more is released than was passed on.
    let sent: Arc<AtomicUsize> = Arc::default();
    let counted = Arc::clone(&sent);
    let upstream = Streams::scripted(move |_, mut answering| {
        let counted = Arc::clone(&counted);
        async move {
            let mut stream = answering.send_response(Response::new(()), false)?;
            loop {
                stream.reserve_capacity(16 << 10);
                let Some(room) = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await else { return Ok(()) };
                let room = room?;
                counted.fetch_add(room, Ordering::SeqCst);
                stream.send_data(vec![b'y'; room].into(), false)?;
            }
        }
    })
    .await;
    let bench = at_port(upstream.port);
    let mut client = bench.client().await;
    client.send(GET).await;
    client.head().await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let held = sent.load(Ordering::SeqCst);
    // The sockets' own buffers are a few megabytes.
    assert!(held < 16 << 20, "{held} bytes");
}

#[tokio::test]
async fn a_body_waits_for_the_upstreams_100() {
    let upstream = peer(&[], |mut peer| async move {
        let stream = peer.request().await?;
        // `:status: 100`, written out: HPACK has no number for it.
        peer.send(frames::HEADERS, 4, stream, &[0x08, 0x03, b'1', b'0', b'0']).await?;
        while peer.frame().await?.kind != DATA {}
        peer.answer(stream, "got it").await?;
        std::future::pending().await
    })
    .await;
    let bench = at(&upstream);
    let mut client = bench.client().await;
    client.send("POST /payments HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n").await;
    assert_eq!(client.head().await.unwrap(), "HTTP/1.1 100 Continue\r\n");
    client.send("body").await;
    assert_eq!(client.answer().await.text(), "got it");
}

#[tokio::test]
async fn over_tls_the_upstream_chooses_where_it_may() {
    let ca = Authority::new();
    let both = Secure::scripted(ca.server(&["localhost"], &["h2", "http/1.1"], None), |stream| async move {
        let mut connection = h2::server::handshake(stream).await.unwrap();
        while let Some(Ok((request, mut answering))) = connection.accept().await {
            assert_eq!(request.uri().scheme_str(), Some("https"));
            let mut stream = answering.send_response(Response::new(()), false).unwrap();
            stream.send_data("two".into(), true).unwrap();
        }
    })
    .await;
    let one = Secure::start(ca.server(&["localhost"], &["http/1.1"], None), "one", true).await;
    let ask = async |port: u16, protocol: &str| {
        let more = json!({ "protocol": protocol, "tls": { "ca": ca.ca() } });
        modern(&format!("https://localhost:{port}"), &more).start().ask(GET).await
    };
    assert_eq!(ask(both.port, "auto").await.text(), "two");
    assert_eq!(ask(both.port, "http2").await.text(), "two");
    assert_eq!(ask(one.port, "auto").await.text(), "one");
    assert_eq!(ask(one.port, "http1").await.text(), "one");
    assert_eq!(ask(one.port, "http2").await.status, 502);
    let silent = Secure::start(ca.server(&["localhost"], &[], None), "one", true).await;
    assert_eq!(fault(&ask(silent.port, "http2").await), (502, "urn:banyan:error:no_http2".to_owned()));
}

#[tokio::test]
async fn who_waits_for_a_connection_that_fails_fails_with_it() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let ca = Authority::new();
    let more = json!({ "connect_timeout": "300ms", "tls": { "ca": ca.ca() } });
    let bench = modern(&format!("https://{}", silent.local_addr().unwrap()), &more).start();
    let began = std::time::Instant::now();
    let answers = futures_util::future::join_all((0..10).map(|_| bench.ask(GET))).await;
    assert!(answers.iter().all(|answer| answer.status == 504), "{answers:?}");
    // One after the other would take three seconds.
    assert!(began.elapsed() < Duration::from_millis(2500), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_shadow_goes_over_http2_too() {
    let upstream = Streams::answering(&[], "shadow", &[]).await;
    let legacy = Upstream::named("legacy").await;
    let more = json!({ "endpoints": [format!("http://127.0.0.1:{}", upstream.port)], "protocol": "http2" });
    let bench = Setup::new(legacy.address)
        .upstream("modern", legacy.address, &more)
        .route(json!({
            "name": "payments", "match": { "path_prefix": "/payments" }, "legacy": "legacy", "modern": "modern",
            "weight": 0, "shadow": { "percent": 100 },
        }))
        .start();
    let sent = || bench.metric("banyan_shadow_requests_total", &[("route", "payments"), ("outcome", "sent")]);
    for _ in 0..2 {
        assert_eq!(bench.ask(GET).await.text(), "legacy");
    }
    eventually("the copies are answered", || sent() > 1.5).await;
}
