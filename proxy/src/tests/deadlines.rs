//! Times besides that of a head: the whole request, and bodies that stand still on either side.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{Bench, Data, Setup, Upstream, eventually, h2_upstreams::Streams, http2};
use crate::links::{HoldLimits, SyncLink};

const GET: &str = "GET /payments HTTP/1.1\r\nHost: a\r\n\r\n";
const CHUNKED: &str = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";

fn bench(upstream: &Upstream, route: &Value, settings: &Value) -> Bench {
    let mut all = json!({ "name": "payments", "match": { "path_prefix": "/payments" }, "legacy": "legacy" });
    all.as_object_mut().unwrap().extend(route.as_object().unwrap().clone());
    let setup = Setup::new(upstream.address).upstream("legacy", upstream.address, settings);
    setup.route(all).limits(|limits| limits.take_time = Duration::from_millis(400)).start()
}

fn connections(bench: &Bench) -> usize {
    bench.proxy.status().upstreams.iter().map(|upstream| upstream.connections).sum()
}

/// Whether the connection ends in a way that no whole answer does.
async fn is_broken_off(client: &mut super::Client) -> bool {
    let mut all = Vec::new();
    tokio::io::AsyncReadExt::read_to_end(&mut client.stream, &mut all).await.is_err() || !all.ends_with(b"0\r\n\r\n")
}

#[tokio::test]
async fn an_upstream_that_stops_in_the_middle_of_an_answer_is_broken_off() {
    let upstream = Upstream::scripted(|mut wire| async move {
        wire.request().await?;
        wire.send(CHUNKED).await?;
        wire.send("4\r\nhalf\r\n").await?;
        std::future::pending().await
    })
    .await;
    let bench = bench(&upstream, &json!({}), &json!({ "body_idle": "300ms" }));
    let mut client = bench.client().await;
    let began = Instant::now();
    client.send(GET).await;
    assert!(is_broken_off(&mut client).await);
    assert!(began.elapsed() >= Duration::from_millis(300));
    eventually("the upstream's connection is closed", || connections(&bench) == 0).await;
}

#[tokio::test]
async fn a_slow_answer_that_goes_on_is_not() {
    let upstream = Upstream::scripted(|mut wire| async move {
        wire.request().await?;
        wire.send(CHUNKED).await?;
        for _ in 0..60 {
            tokio::time::sleep(Duration::from_millis(50)).await;
            wire.send("1\r\nx\r\n").await?;
        }
        wire.send("0\r\n\r\n").await
    })
    .await;
    let bench = bench(&upstream, &json!({}), &json!({ "body_idle": "2s" }));
    assert_eq!(bench.ask(GET).await.text().len(), 60);
}

#[tokio::test]
async fn a_client_that_takes_nothing_is_closed_and_lets_its_upstream_go() {
    let upstream = Upstream::scripted(|mut wire| async move {
        wire.request().await?;
        wire.send(CHUNKED).await?;
        let chunk = format!("10000\r\n{}\r\n", "x".repeat(0x10000));
        loop {
            wire.send(&chunk).await?;
        }
    })
    .await;
    let bench = bench(&upstream, &json!({}), &json!({}));
    let mut client = bench.client().await;
    client.send(GET).await;
    client.head().await.unwrap();
    eventually("it is closed", || bench.proxy.status().connections == 0 && connections(&bench) == 0).await;
}

/// A head, then so many chunks, and for ever nothing.
async fn chunks(count: usize) -> Upstream {
    Upstream::scripted(move |mut wire| async move {
        loop {
            let (head, _) = wire.request().await?;
            if head.starts_with("GET /payments/whole") {
                wire.send("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nfull").await?;
                continue;
            }
            wire.send(CHUNKED).await?;
            for _ in 0..count {
                wire.send(format!("10000\r\n{}\r\n", "x".repeat(0x10000))).await?;
            }
            std::future::pending::<()>().await;
        }
    })
    .await
}

/// Whether the stream is reset before its end; what comes is not taken, or is.
async fn is_reset(sender: &http2::Sender, path: &str, takes: bool) -> bool {
    let (answer, _) = sender.clone().ready().await.unwrap().send_request(http2::request("GET", path), true).unwrap();
    let within = |what| tokio::time::timeout(Duration::from_secs(10), what);
    let mut body = within(answer).await.unwrap().unwrap().into_body();
    loop {
        match tokio::time::timeout(Duration::from_secs(10), body.data()).await.unwrap() {
            Some(Ok(chunk)) if takes => body.flow_control().release_capacity(chunk.len()).unwrap(),
            Some(Ok(_)) => {}
            Some(Err(error)) => return error.is_reset(),
            None => return false,
        }
    }
}

#[tokio::test]
async fn over_http2_what_stands_still_in_the_middle_of_an_answer_is_reset_alone() {
    for (route, settings, count, takes) in [
        // The upstream sends no more; the client takes no more; the route's time is over.
        (json!({}), json!({ "body_idle": "300ms" }), 1, true),
        (json!({}), json!({}), usize::MAX, false),
        (json!({ "deadline": "300ms" }), json!({}), 1, true),
    ] {
        let upstream = chunks(count).await;
        let bench = bench(&upstream, &route, &settings);
        let (sender, _) = http2::connect(&bench).await;
        let began = Instant::now();
        assert!(is_reset(&sender, "/payments", takes).await, "{route} {settings}");
        assert!(began.elapsed() >= Duration::from_millis(300), "{:?}", began.elapsed());
        eventually("the upstream's connection is closed", || connections(&bench) == 0).await;
        assert_eq!(http2::ask(&sender, http2::request("GET", "/payments/whole")).await.unwrap().1, "full");
    }
}

#[tokio::test]
async fn a_client_without_a_window_keeps_no_answer_for_ever() {
    let upstream = chunks(1).await;
    let bench = bench(&upstream, &json!({}), &json!({}));
    let stream = tokio::net::TcpStream::connect(bench.proxy.local_addrs()[0]).await.unwrap();
    let (sender, connection) =
        h2::client::Builder::new().initial_window_size(0).handshake::<_, bytes::Bytes>(stream).await.unwrap();
    let _runs = tokio::spawn(connection);
    // An upstream's that is all here, and one of Banyan's own.
    for path in ["/payments/whole", "/../payments"] {
        assert!(is_reset(&sender, path, true).await, "{path}");
    }
}

#[tokio::test]
async fn a_client_that_stops_in_its_body_is_told_and_harms_nobody() {
    let circuit = json!({ "min_requests": 2, "open_for": "10m" });
    for (protocol, route) in [("http1", json!({})), ("http2", json!({})), ("http1", json!({ "deadline": "250ms" }))] {
        let one = Upstream::named("ok").await;
        let two = Streams::scripted(|mut request, mut answering| async move {
            while let Some(Ok(_)) = request.body_mut().data().await {}
            answering.send_response(http::Response::new(()), false)?.send_data("ok".into(), true)
        })
        .await;
        let port = if protocol == "http1" { one.address.port() } else { two.port };
        let settings = json!({ "endpoints": [format!("http://127.0.0.1:{port}")], "protocol": protocol,
            "timeout": if route == json!({}) { "250ms" } else { "10m" }, "circuit": circuit, "ejection": {} });
        let mut all = json!({ "name": "payments", "match": { "path_prefix": "/payments" }, "modern": "modern" });
        all.as_object_mut().unwrap().extend(route.as_object().unwrap().clone());
        let bench = Setup::new(one.address).upstream("modern", one.address, &settings).route(all).start();
        let expected = if route == json!({}) { (408, "body_late") } else { (504, "deadline") };
        for _ in 0..4 {
            let mut client = bench.client().await;
            client.send("POST /payments HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhalf").await;
            let answer = client.answer().await;
            let problem: Value = serde_json::from_slice(&answer.body).unwrap();
            let kind = problem["type"].as_str().unwrap().rsplit(':').next().unwrap();
            assert_eq!((answer.status, kind), expected, "{protocol}");
            assert!(client.is_closed().await);
        }
        let (sender, _) = http2::connect(&bench).await;
        let (answer, mut body) =
            sender.clone().ready().await.unwrap().send_request(http2::request("POST", "/payments"), false).unwrap();
        body.send_data("half".into(), false).unwrap();
        let answer = tokio::time::timeout(Duration::from_secs(10), answer).await.unwrap();
        assert_eq!(answer.unwrap().status(), expected.0, "{protocol} {route}");
        // Nobody else is kept from the upstream for it.
        assert_eq!(bench.ask(GET).await.text(), "ok", "{protocol}");
        assert_eq!(http2::ask(&sender, http2::request("GET", "/payments")).await.unwrap().1, "ok");
        let upstreams = bench.proxy.status().upstreams;
        assert_eq!(upstreams.iter().find_map(|one| one.circuit).unwrap().as_str(), "closed");
        eventually("nothing is under way", || bench.proxy.status().upstreams.iter().all(|one| one.in_flight == 0))
            .await;
    }
}

#[tokio::test]
async fn the_whole_request_has_a_deadline_before_its_head() {
    let upstream = Upstream::scripted(|mut wire| async move {
        wire.request().await?;
        std::future::pending().await
    })
    .await;
    let bench = bench(&upstream, &json!({ "deadline": "300ms" }), &json!({}));
    let began = Instant::now();
    let answer = bench.ask(GET).await;
    let problem: Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!((answer.status, &problem["type"]), (504, &json!("urn:banyan:error:deadline")));
    assert!((300..5000).contains(&began.elapsed().as_millis()), "{:?}", began.elapsed());
    let late = bench.metric("banyan_route_attempts_total", &[("route", "payments"), ("outcome", "timeout")]);
    assert!((late - 1.0).abs() < 0.1, "{late}");
}

#[tokio::test]
async fn a_client_is_not_slow_while_the_other_side_is_waited_for() {
    let legacy = Upstream::scripted(|mut wire| async move {
        wire.request().await?;
        std::future::pending().await
    })
    .await;
    let modern = Upstream::scripted(|mut wire| async move {
        wire.request().await?;
        // The rest of it is not asked for until the other side has said no.
        wire.send(CHUNKED.replace("200 OK", "404 Not Found")).await?;
        std::future::pending().await
    })
    .await;
    let limits = json!({ "limits": { "in_flight": 1, "queue": 5, "queue_time": "1500ms" }, "timeout": "10m" });
    let route = json!({ "name": "payments", "match": { "path_prefix": "/payments" }, "legacy": "legacy",
        "modern": "modern", "weight": 100, "fallback_on": [404] });
    let setup = Setup::new(legacy.address).upstream("legacy", legacy.address, &limits);
    let setup = setup.upstream("modern", modern.address, &json!({})).route(route);
    let bench = setup.limits(|limits| limits.take_time = Duration::from_millis(300)).start();
    let mut first = bench.client().await;
    first.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    eventually("it has the place", || bench.proxy.status().upstreams[0].in_flight == 1).await;
    let mut client = bench.client().await;
    client.send(GET).await;
    let head = client.head().await.unwrap();
    assert!(head.starts_with("HTTP/1.1 404"), "{head}");
}

#[tokio::test]
async fn and_in_the_middle_of_its_answer() {
    let upstream = Upstream::scripted(|mut wire| async move {
        wire.request().await?;
        wire.send(CHUNKED).await?;
        loop {
            wire.send("4\r\nmore\r\n").await?;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    let bench = bench(&upstream, &json!({ "deadline": "300ms" }), &json!({}));
    let mut client = bench.client().await;
    client.send(GET).await;
    assert!(is_broken_off(&mut client).await);
    eventually("the upstream's connection is closed", || connections(&bench) == 0).await;
}

#[tokio::test]
async fn waiting_for_a_place_counts_too() {
    let upstream = Upstream::scripted(|mut wire| async move {
        wire.request().await?;
        std::future::pending().await
    })
    .await;
    let limits = json!({ "limits": { "in_flight": 1, "queue": 5, "queue_time": "10m" }, "timeout": "10m" });
    let bench = bench(&upstream, &json!({ "deadline": "300ms" }), &limits);
    let mut first = bench.client().await;
    // On another route, without a deadline.
    first.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    eventually("it has the place", || bench.proxy.status().upstreams[0].in_flight == 1).await;
    assert_eq!(bench.ask(GET).await.status, 504);
}

/// Never heard of again.
async fn silent() -> Upstream {
    Upstream::scripted(|mut wire| async move {
        wire.request().await?;
        std::future::pending().await
    })
    .await
}

#[tokio::test]
async fn waiting_for_who_it_is_counts_too() {
    let (legacy, directory) = (Upstream::named("legacy").await, silent().await);
    let route =
        json!({ "name": "payments", "match": { "path_prefix": "/payments" }, "legacy": "legacy", "deadline": "300ms" });
    let settings = json!({ "timeout": "10m" });
    let mut setup = Setup::new(legacy.address).upstream("directory", directory.address, &settings).route(route);
    let identity = json!({ "ask": "directory", "path": "/whoami", "copy": ["x-user-id"], "timeout": "10m" });
    setup.config.identity = Some(serde_json::from_value(identity).unwrap());
    let bench = setup.start();
    // The first one asks, the second one waits for what it hears.
    for _ in 0..2 {
        let answer = bench.ask("GET /payments HTTP/1.1\r\nHost: a\r\nCookie: sid=1\r\n\r\n").await;
        let problem: Value = serde_json::from_str(answer.text()).unwrap();
        assert_eq!((answer.status, &problem["type"]), (504, &json!("urn:banyan:error:deadline")));
    }
    assert_eq!(legacy.bytes(), "");
}

#[tokio::test]
async fn waiting_for_the_owner_to_move_counts_too() {
    let (legacy, data) = (Upstream::named("legacy").await, Data::new());
    let bench = Setup::new(legacy.address)
        .sync("money", data.clone())
        .route(
            json!({ "name": "payments", "match": { "path_prefix": "/payments" }, "legacy": "legacy", "modern": "legacy",
            "weight": 0, "sync": "money", "deadline": "300ms" }),
        )
        .start();
    let _held = data.hold().begin(HoldLimits { time: Duration::from_secs(3600), ..HoldLimits::default() }).unwrap();
    let answer = bench.ask("POST /payments HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n").await;
    let problem: Value = serde_json::from_str(answer.text()).unwrap();
    assert_eq!((answer.status, &problem["type"]), (504, &json!("urn:banyan:error:deadline")));
    assert_eq!((data.hold().status().held, legacy.bytes().as_str()), (0, ""));
}
