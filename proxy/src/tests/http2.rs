//! HTTP/2 towards clients, HTTP/1.1 behind: heads, bodies, trailers, WebSockets, and the end of a connection.

use std::time::Duration;

use bytes::Bytes;
use h2::{RecvStream, SendStream, client::SendRequest, ext::Protocol};
use http::{HeaderMap, Method, Request, Response, StatusCode, Version};
use serde_json::json;
use tokio::{net::TcpStream, time::timeout};

use super::{
    Bench, Setup, Upstream, eventually,
    tls::{Authority, Hello, with_tls},
};

pub(super) type Sender = SendRequest<Bytes>;

const PATIENCE: Duration = Duration::from_secs(10);
const SWITCHED: &str =
    "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: y\r\n\r\n";

/// A connection with prior knowledge; the handle gives how it ended.
pub(super) async fn connect(bench: &Bench) -> (Sender, tokio::task::JoinHandle<Result<(), h2::Error>>) {
    let stream = TcpStream::connect(bench.proxy.local_addrs()[0]).await.unwrap();
    let (sender, connection) = h2::client::handshake(stream).await.unwrap();
    (sender.ready().await.unwrap(), tokio::spawn(connection))
}

pub(super) fn request(method: &str, path: &str) -> Request<()> {
    Request::builder().method(method).uri(format!("http://shop.test{path}")).version(Version::HTTP_2).body(()).unwrap()
}

pub(super) async fn ask(sender: &Sender, request: Request<()>) -> Result<(StatusCode, Bytes), h2::Error> {
    let mut sender = sender.clone().ready().await?;
    let (answer, _) = sender.send_request(request, true)?;
    let (status, body, _) = whole(timeout(PATIENCE, answer).await.unwrap()?).await?;
    Ok((status, body))
}

async fn whole(answer: Response<RecvStream>) -> Result<(StatusCode, Bytes, HeaderMap), h2::Error> {
    let (head, mut body) = answer.into_parts();
    let mut all = Vec::new();
    while let Some(chunk) = timeout(PATIENCE, body.data()).await.unwrap() {
        let chunk = chunk?;
        body.flow_control().release_capacity(chunk.len()).unwrap();
        all.extend(chunk);
    }
    let trailers = body.trailers().await?.unwrap_or_default();
    Ok((head.status, all.into(), trailers))
}

#[tokio::test]
async fn a_client_speaks_http2_by_prior_knowledge_and_by_alpn() {
    let authority = Authority::new();
    let upstream = Upstream::named("one").await;
    let bench = Setup::new(upstream.address).start();
    let (sender, _) = connect(&bench).await;
    assert_eq!(ask(&sender, request("GET", "/a")).await.unwrap(), (StatusCode::OK, "one".into()));
    // HTTP/1.1 on the same listener as ever.
    assert_eq!(bench.ask("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.text(), "one");

    let tls = json!({ "certificates": [authority.signs("shop", &["shop.test"])] });
    let bench = with_tls(Setup::new(upstream.address), tls).start();
    let hello = Hello { alpn: &[b"h2", b"http/1.1"], ..Hello::to("shop.test") };
    let stream = authority.connect(bench.proxy.local_addrs()[0], &hello).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let (sender, connection) = h2::client::handshake(stream).await.unwrap();
    let _runs = tokio::spawn(connection);
    assert_eq!(ask(&sender, request("GET", "/b")).await.unwrap().1, "one");
    assert!(upstream.bytes().contains("X-Forwarded-Proto: https\r\n"));
}

#[tokio::test]
async fn a_preface_may_come_in_pieces() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let upstream = Upstream::named("one").await;
    let bench = Setup::new(upstream.address).start();
    let mut stream = TcpStream::connect(bench.proxy.local_addrs()[0]).await.unwrap();
    stream.set_nodelay(true).unwrap();
    for byte in b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0" {
        stream.write_all(&[*byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    let mut settings = [0; 9];
    timeout(PATIENCE, stream.read_exact(&mut settings)).await.unwrap().unwrap();
    assert_eq!(settings[3], 4);
}

#[tokio::test]
async fn many_streams_are_answered_at_once_each_with_its_own_deadline() {
    let upstream = Upstream::scripted(|mut wire| async move {
        loop {
            let (head, _) = wire.request().await?;
            if head.starts_with("GET /never") {
                std::future::pending::<()>().await;
            }
            wire.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await?;
        }
    })
    .await;
    let slow = json!({ "name": "slow", "match": { "path": "/never" }, "legacy": "legacy", "timeout": "200ms" });
    let bench = Setup::new(upstream.address).route(slow).start();
    let (sender, _) = connect(&bench).await;
    let never = ask(&sender, request("GET", "/never"));
    let others = futures_util::future::join_all((0..50).map(|_| ask(&sender, request("GET", "/soon"))));
    let (never, others) = tokio::join!(never, others);
    assert_eq!(never.unwrap().0, StatusCode::GATEWAY_TIMEOUT);
    assert!(others.into_iter().all(|answer| answer.unwrap().1 == "ok"));
    assert_eq!(bench.proxy.status().connections, 1);
}

#[tokio::test]
async fn a_head_becomes_one_that_http1_knows() {
    let upstream = Upstream::named("one").await;
    let bench = Setup::new(upstream.address).start();
    let (sender, _) = connect(&bench).await;
    let mut asked = request("GET", "/a//b?q=1");
    for (name, value) in [("cookie", "a=1"), ("te", "trailers"), ("cookie", "b=2"), ("x-banyan-side", "modern")] {
        asked.headers_mut().append(name, value.parse().unwrap());
    }
    ask(&sender, asked).await.unwrap();
    let seen = upstream.bytes();
    assert!(seen.starts_with("GET /a//b?q=1 HTTP/1.1\r\n"), "{seen}");
    assert!(seen.contains("Host: shop.test\r\n") && seen.contains("Cookie: a=1; b=2\r\n"), "{seen}");
    assert!(seen.contains("Te: trailers\r\n") && !seen.to_ascii_lowercase().contains("x-banyan"), "{seen}");
}

#[tokio::test]
async fn what_could_be_read_in_two_ways_is_refused() {
    let upstream = Upstream::named("one").await;
    let bench = Setup::new(upstream.address).limits(|limits| limits.headers = 10).start();
    let (sender, _) = connect(&bench).await;
    let with = |lines: &[(&'static str, &str)]| {
        let mut asked = request("POST", "/a");
        for (name, value) in lines {
            asked.headers_mut().append(*name, value.parse().unwrap());
        }
        asked
    };
    for (lines, status) in [
        (&[("host", "other.test")][..], 400),
        (&[("host", "shop.test"), ("host", "shop.test")], 400),
        (&[("content-length", "0"), ("content-length", "0")], 400),
    ] {
        assert_eq!(ask(&sender, with(lines)).await.unwrap().0, status, "{lines:?}");
    }
    let many: Vec<_> = (0..11).map(|_| ("x-many", "1")).collect();
    assert_eq!(ask(&sender, with(&many)).await.unwrap().0, 431);
    let mut connect = request("CONNECT", "");
    *connect.uri_mut() = "other.test:80".parse().unwrap();
    assert_eq!(ask(&sender, connect).await.unwrap().0, 405);
    // A length that the data does not have.
    let mut sends = sender.clone().ready().await.unwrap();
    let (answer, mut body) = sends.send_request(with(&[("content-length", "5")]), false).unwrap();
    body.send_data("abc".into(), true).unwrap();
    let answer = timeout(PATIENCE, answer).await.unwrap();
    assert!(answer.is_err() || answer.unwrap().status() != 200);
    // The connection is as good as before.
    assert_eq!(ask(&sender, request("GET", "/")).await.unwrap().1, "one");
    assert!(!upstream.bytes().contains("POST /a HTTP/1.1\r\n") || !upstream.bytes().contains("other.test"));
}

#[tokio::test]
async fn bodies_and_trailers_pass_both_ways() {
    let upstream = Upstream::scripted(|mut wire| async move {
        loop {
            let (_, body) = wire.request().await?;
            assert!(String::from_utf8_lossy(&body).contains("hello"));
            wire.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: grpc-status\r\n\r\n").await?;
            wire.send("5\r\nworld\r\n0\r\ngrpc-status: 0\r\n\r\n").await?;
        }
    })
    .await;
    let bench = Setup::new(upstream.address).start();
    let (sender, _) = connect(&bench).await;
    let mut asked = request("POST", "/shop.Orders/Add");
    asked.headers_mut().insert("trailer", "x-sum".parse().unwrap());
    let (answer, mut body) = sender.clone().ready().await.unwrap().send_request(asked, false).unwrap();
    body.send_data("hello".into(), false).unwrap();
    let trailers = HeaderMap::from_iter([("x-sum".parse().unwrap(), "7".parse().unwrap())]);
    body.send_trailers(trailers).unwrap();
    let (status, body, trailers) = whole(timeout(PATIENCE, answer).await.unwrap().unwrap()).await.unwrap();
    assert_eq!((status, body), (StatusCode::OK, "world".into()));
    assert_eq!(trailers["grpc-status"], "0");
    let seen = upstream.bytes().to_ascii_lowercase();
    assert!(seen.contains("0\r\nx-sum: 7\r\n\r\n"), "{seen}");
}

#[tokio::test]
async fn a_body_without_a_length_passes_with_any_method() {
    let upstream = Upstream::scripted(|mut wire| async move {
        loop {
            let (_, body) = wire.request().await?;
            assert!(String::from_utf8_lossy(&body).contains("hello"));
            wire.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await?;
        }
    })
    .await;
    let bench = Setup::new(upstream.address).start();
    let (sender, _) = connect(&bench).await;
    for method in ["GET", "POST", "DELETE", "OPTIONS"] {
        let (answer, mut body) =
            sender.clone().ready().await.unwrap().send_request(request(method, "/a"), false).unwrap();
        body.send_data("hello".into(), true).unwrap();
        let (status, body, _) = whole(timeout(PATIENCE, answer).await.unwrap().unwrap()).await.unwrap();
        assert_eq!((status, body), (StatusCode::OK, "ok".into()), "{method}");
    }
    assert_eq!(upstream.bytes().matches("5\r\nhello\r\n0\r\n\r\n").count(), 4, "{}", upstream.bytes());
}

#[tokio::test]
async fn an_answer_that_breaks_off_resets_its_stream_alone() {
    let upstream = Upstream::scripted(|mut wire| async move {
        loop {
            let (head, _) = wire.request().await?;
            if head.starts_with("GET /half") {
                wire.send("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf").await?;
                return Ok(());
            }
            wire.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await?;
        }
    })
    .await;
    let bench = Setup::new(upstream.address).start();
    let (sender, _) = connect(&bench).await;
    let broken = ask(&sender, request("GET", "/half")).await.unwrap_err();
    assert!(broken.is_reset(), "{broken}");
    assert_eq!(ask(&sender, request("GET", "/")).await.unwrap().1, "ok");
}

#[tokio::test]
async fn a_reset_stream_ends_the_upstreams_request() {
    let upstream = Upstream::scripted(|mut wire| async move {
        wire.request().await?;
        // Ends when Banyan closes the connection.
        wire.take(1).await.map(drop)
    })
    .await;
    let bench = Setup::new(upstream.address).start();
    let (sender, _) = connect(&bench).await;
    let (answer, mut stream) = sender.clone().ready().await.unwrap().send_request(request("GET", "/"), true).unwrap();
    eventually("the upstream is asked", || bench.proxy.status().upstreams[0].in_flight == 1).await;
    stream.send_reset(h2::Reason::CANCEL);
    drop(answer);
    eventually("nobody waits for it", || bench.proxy.status().upstreams[0].in_flight == 0).await;
    eventually("its connection is closed", || bench.proxy.status().upstreams[0].connections == 0).await;
}

#[tokio::test]
async fn an_idle_connection_is_told_to_go_and_a_busy_one_is_not() {
    let upstream = Upstream::scripted(|mut wire| async move {
        loop {
            let (head, _) = wire.request().await?;
            if head.starts_with("GET /slow") {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            wire.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await?;
        }
    })
    .await;
    let bench = Setup::new(upstream.address).limits(|limits| limits.idle_time = Duration::from_millis(200)).start();
    let (sender, ended) = connect(&bench).await;
    assert_eq!(ask(&sender, request("GET", "/slow")).await.unwrap().1, "ok");
    // GOAWAY with no error, though the client keeps its handle.
    timeout(PATIENCE, ended).await.unwrap().unwrap().unwrap();
    eventually("it is closed", || bench.proxy.status().connections == 0).await;
}

#[tokio::test]
async fn a_drain_lets_streams_finish_and_a_reload_closes_nothing() {
    let (tell, told) = tokio::sync::watch::channel(false);
    let upstream = Upstream::scripted(move |mut wire| {
        let mut told = told.clone();
        async move {
            wire.request().await?;
            drop(told.wait_for(|told| *told).await);
            wire.send("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nlate").await
        }
    })
    .await;
    let bench = Setup::new(upstream.address).start();
    let (sender, ended) = connect(&bench).await;
    let asked = tokio::spawn({
        let sender = sender.clone();
        async move { ask(&sender, request("GET", "/")).await }
    });
    eventually("the upstream is asked", || bench.proxy.status().upstreams[0].in_flight == 1).await;
    let next = Setup::new(upstream.address);
    bench.proxy.reload(&next.config, &next.links).unwrap();
    let draining = tokio::spawn(bench.proxy.drain(PATIENCE));
    tokio::task::yield_now().await;
    tell.send(true).unwrap();
    assert_eq!(asked.await.unwrap().unwrap().1, "late");
    timeout(PATIENCE, ended).await.unwrap().unwrap().unwrap();
    timeout(PATIENCE, draining).await.unwrap().unwrap();
}

/// A WebSocket over one stream (RFC 8441).
pub(super) async fn websocket(sender: &Sender, path: &str) -> (Response<RecvStream>, SendStream<Bytes>) {
    let mut sender = sender.clone().ready().await.unwrap();
    let mut asked = request("GET", path);
    *asked.method_mut() = Method::CONNECT;
    asked.extensions_mut().insert(Protocol::from_static("websocket"));
    asked.headers_mut().insert("sec-websocket-version", "13".parse().unwrap());
    let (answer, stream) = sender.send_request(asked, false).unwrap();
    (timeout(PATIENCE, answer).await.unwrap().unwrap(), stream)
}

#[tokio::test]
async fn a_websocket_over_http2_is_an_upgrade_at_the_upstream() {
    let upstream = Upstream::scripted(|mut wire| async move {
        let head = wire.head().await?.to_ascii_lowercase();
        assert!(head.starts_with("get /chat http/1.1\r\n") && head.contains("upgrade: websocket\r\n"), "{head}");
        assert!(head.contains("connection: upgrade\r\n") && head.contains("sec-websocket-key: "), "{head}");
        wire.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: y\r\n\r\nhello").await?;
        loop {
            let bytes = wire.some().await?;
            wire.send(bytes).await?;
        }
    })
    .await;
    let bench = Setup::new(upstream.address).start();
    let (sender, _) = connect(&bench).await;
    // Known from the SETTINGS, which have come with the first answer.
    eventually("CONNECT may be extended", || sender.is_extended_connect_protocol_enabled()).await;
    let (answer, mut up) = websocket(&sender, "/chat").await;
    assert_eq!(answer.status(), 200);
    assert!(!answer.headers().contains_key("sec-websocket-accept") && !answer.headers().contains_key("upgrade"));
    let mut down = answer.into_body();
    let mut read = async |want: usize| {
        let mut got = Vec::new();
        while got.len() < want {
            let chunk = timeout(PATIENCE, down.data()).await.unwrap().unwrap().unwrap();
            down.flow_control().release_capacity(chunk.len()).unwrap();
            got.extend(chunk);
        }
        got
    };
    assert_eq!(read(5).await, b"hello");
    up.send_data("ping".into(), false).unwrap();
    assert_eq!(read(4).await, b"ping");
    // Beside other streams, and through a reload.
    let next = Setup::new(upstream.address);
    bench.proxy.reload(&next.config, &next.links).unwrap();
    up.send_data(vec![b'x'; 100_000].into(), false).unwrap();
    assert_eq!(read(100_000).await.len(), 100_000);
    up.send_data(Bytes::new(), true).unwrap();
    eventually("both ends are closed", || bench.proxy.status().upstreams[0].connections == 0).await;
}

#[tokio::test]
async fn no_tunnel_over_http2_is_opened_without_the_upstreams_101() {
    let upstream = Upstream::answering("HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\nno").await;
    let bench = Setup::new(upstream.address).start();
    let (sender, _) = connect(&bench).await;
    eventually("CONNECT may be extended", || sender.is_extended_connect_protocol_enabled()).await;
    let (answer, _up) = websocket(&sender, "/chat").await;
    assert_eq!(answer.status(), 403);
}

#[tokio::test]
async fn a_grpc_client_gets_banyans_errors_as_a_status_without_a_body() {
    let gone = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let bench = Setup::new(gone).start();
    let (sender, _) = connect(&bench).await;
    let mut asked = request("POST", "/shop.Orders/Add");
    asked.headers_mut().insert("content-type", "application/grpc+proto".parse().unwrap());
    let (answer, _) = sender.clone().ready().await.unwrap().send_request(asked, true).unwrap();
    let answer = timeout(PATIENCE, answer).await.unwrap().unwrap();
    assert_eq!((answer.status(), &answer.headers()["grpc-status"]), (StatusCode::OK, &"14".parse().unwrap()));
    // Trailers-only: the head ends the stream.
    assert!(answer.body().is_end_stream());
    assert_eq!(bench.metric("banyan_http_requests_total", &[("side", "banyan"), ("code", "502")]), 1.0);
}

#[tokio::test]
async fn a_drain_closes_a_tunnel_over_http2_with_notice_too() {
    let upstream = Upstream::scripted(|mut wire| async move {
        wire.head().await?;
        wire.send(SWITCHED).await?;
        // A whole frame, behind which ours may stand.
        wire.send(b"\x81\x02hi").await?;
        wire.take(usize::MAX).await.map(drop)
    })
    .await;
    let bench = Setup::new(upstream.address).start();
    let (sender, ended) = connect(&bench).await;
    eventually("CONNECT may be extended", || sender.is_extended_connect_protocol_enabled()).await;
    let (answer, up) = websocket(&sender, "/chat").await;
    let mut down = answer.into_body();
    assert_eq!(timeout(PATIENCE, down.data()).await.unwrap().unwrap().unwrap(), &b"\x81\x02hi"[..]);
    let draining = tokio::spawn(bench.proxy.drain(Duration::from_secs(4)));
    // 1012, then the end of the stream, and of the connection.
    assert_eq!(timeout(PATIENCE, down.data()).await.unwrap().unwrap().unwrap(), &b"\x88\x02\x03\xf4"[..]);
    while let Some(more) = timeout(PATIENCE, down.data()).await.unwrap() {
        assert_eq!(more.unwrap(), "", "END_STREAM stands on an empty frame");
    }
    drop((up, down, sender));
    timeout(PATIENCE, draining).await.unwrap().unwrap();
    timeout(PATIENCE, ended).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn websockets_pass_over_tls_on_both_protocols() {
    let upstream = Upstream::scripted(|mut wire| async move {
        wire.head().await?;
        wire.send(SWITCHED).await?;
        loop {
            let bytes = wire.some().await?;
            wire.send(bytes).await?;
        }
    })
    .await;
    let authority = Authority::new();
    let tls = json!({ "certificates": [authority.signs("shop", &["shop.test"])] });
    let bench = with_tls(Setup::new(upstream.address), tls).start();
    let address = bench.proxy.local_addrs()[0];
    // More than a record of TLS, a window of HTTP/2 and any buffer hold.
    let much = vec![b'x'; 1 << 20];

    let stream = authority.connect(address, &Hello::to("shop.test")).await.unwrap();
    let mut client = super::Client::over(stream);
    client.send("GET /chat HTTP/1.1\r\nHost: shop.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: x\r\n\r\n").await;
    assert!(client.head().await.unwrap().starts_with("HTTP/1.1 101"));
    let (mut read, mut write) = tokio::io::split(client.stream);
    let sent = much.clone();
    let sends =
        tokio::spawn(async move { tokio::io::AsyncWriteExt::write_all(&mut write, &sent).await.map(|()| write) });
    let mut came = vec![0; much.len()];
    timeout(PATIENCE, tokio::io::AsyncReadExt::read_exact(&mut read, &mut came)).await.unwrap().unwrap();
    assert!(came == much);
    drop((read, sends.await.unwrap().unwrap()));

    let stream = authority.connect(address, &Hello { alpn: &[b"h2"], ..Hello::to("shop.test") }).await.unwrap();
    let (sender, connection) = h2::client::handshake(stream).await.unwrap();
    let sender: Sender = sender.ready().await.unwrap();
    let ended = tokio::spawn(connection);
    eventually("CONNECT may be extended", || sender.is_extended_connect_protocol_enabled()).await;
    let (answer, mut up) = websocket(&sender, "/chat").await;
    assert_eq!(answer.status(), 200);
    up.send_data(much.clone().into(), false).unwrap();
    let (mut down, mut count) = (answer.into_body(), 0);
    while count < much.len() {
        let chunk = timeout(PATIENCE, down.data()).await.unwrap().unwrap().unwrap();
        down.flow_control().release_capacity(chunk.len()).unwrap();
        count += chunk.len();
    }
    drop((up, down, sender));
    drop(ended);
    eventually("both tunnels are over", || bench.proxy.status().upstreams[0].connections == 0).await;
}
