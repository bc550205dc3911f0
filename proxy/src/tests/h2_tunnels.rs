//! WebSockets on streams of HTTP/2 upstreams (RFC 8441): from clients of both protocols, with the rules of every other tunnel.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream};
use http::{Request, Response};
use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt, sync::mpsc, time::timeout};

use super::{
    Bench, Client, Data, Setup, Upstream, eventually,
    frames::{self, CANCEL, DATA, Peer, REFUSED_STREAM, RST_STREAM, peer},
    h2_upstreams::{Answering, Streams, at_port, fault, modern},
    http2,
    secure::{Authority, Secure},
};
use crate::links::Owner;

const PATIENCE: Duration = Duration::from_secs(10);
/// The key of RFC 6455, 1.3, and its proof.
const UPGRADE: &str = "GET /payments/chat?room=1 HTTP/1.1\r\nHost: shop.test\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: chat\r\n\r\n";
const PROOF: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
const GET: &str = "GET /payments HTTP/1.1\r\nHost: shop.test\r\n\r\n";
const SWITCHED: &str =
    "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: y\r\n\r\n";
/// SETTINGS_ENABLE_CONNECT_PROTOCOL
const TAKES: (u16, u32) = (8, 1);

/// A client's open WebSocket.
enum Near {
    Http1(Client),
    Http2 { up: SendStream<Bytes>, down: RecvStream, rest: Vec<u8>, _connection: http2::Sender },
}

// === impl Near ===

impl Near {
    async fn http1(bench: &Bench) -> Self {
        let mut client = bench.client().await;
        client.send(UPGRADE).await;
        let head = client.head().await.unwrap();
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        let lower = head.to_ascii_lowercase();
        assert!(lower.contains("connection: upgrade\r\n") && lower.contains("upgrade: websocket\r\n"), "{head}");
        Self::Http1(client)
    }

    async fn http2(bench: &Bench) -> Self {
        let (sender, _) = http2::connect(bench).await;
        eventually("CONNECT may be extended", || sender.is_extended_connect_protocol_enabled()).await;
        let (answer, up) = http2::websocket(&sender, "/payments/chat?room=1").await;
        assert_eq!(answer.status(), 200);
        assert!(!answer.headers().contains_key("sec-websocket-accept"), "{:?}", answer.headers());
        Self::Http2 { up, down: answer.into_body(), rest: Vec::new(), _connection: sender }
    }

    async fn both(bench: &Bench) -> [Self; 2] {
        [Self::http1(bench).await, Self::http2(bench).await]
    }

    /// As far as the windows allow.
    async fn send(&mut self, bytes: &[u8]) {
        match self {
            Self::Http1(client) => client.send(bytes).await,
            Self::Http2 { up, .. } => up.send_data(bytes.to_vec().into(), false).unwrap(),
        }
    }

    async fn take(&mut self, count: usize) -> Option<Vec<u8>> {
        let (down, rest) = match self {
            Self::Http1(client) => return client.take(count).await,
            Self::Http2 { down, rest, .. } => (down, rest),
        };
        while rest.len() < count {
            let chunk = timeout(PATIENCE, down.data()).await.expect("bytes in time")?.ok()?;
            down.flow_control().release_capacity(chunk.len()).unwrap();
            rest.extend(chunk);
        }
        Some(rest.drain(..count).collect())
    }

    async fn ends(&mut self) {
        match self {
            Self::Http1(client) => client.stream.shutdown().await.unwrap(),
            Self::Http2 { up, .. } => up.send_data(Bytes::new(), true).unwrap(),
        }
    }

    fn resets(self) {
        match self {
            Self::Http1(client) => {
                socket2::SockRef::from(&client.stream).set_linger(Some(Duration::ZERO)).unwrap();
            }
            Self::Http2 { mut up, .. } => up.send_reset(Reason::CANCEL),
        }
    }

    /// Whether the server's way ended without another byte.
    async fn is_ended(&mut self) -> bool {
        match self {
            Self::Http1(client) => client.is_closed().await,
            Self::Http2 { .. } => self.take(1).await.is_none(),
        }
    }
}

/// Opens, says hello, echoes until the other end has ended, and says a last word.
async fn echo(mut request: Request<RecvStream>, mut answering: Answering) -> Result<(), h2::Error> {
    let mut down = answering.send_response(Response::new(()), false)?;
    down.send_data("hello".into(), false)?;
    while let Some(chunk) = request.body_mut().data().await {
        let chunk = chunk?;
        request.body_mut().flow_control().release_capacity(chunk.len())?;
        down.send_data(chunk, false)?;
    }
    down.send_data("bye".into(), true)
}

fn open(bench: &Bench) -> f64 {
    bench.metric("banyan_tunnels", &[])
}

fn connections(bench: &Bench) -> usize {
    bench.proxy.status().upstreams.iter().map(|one| one.connections).sum()
}

fn in_flight(bench: &Bench) -> usize {
    bench.proxy.status().upstreams.iter().map(|one| one.in_flight).sum()
}

#[tokio::test]
async fn a_websocket_passes_on_all_four_legs() {
    let two = Streams::tunnelling(echo).await;
    let one = Upstream::scripted(|mut wire| async move {
        wire.head().await?;
        wire.send(format!("{SWITCHED}hello")).await?;
        loop {
            match wire.some().await {
                Ok(bytes) => wire.send(bytes).await?,
                Err(_) => return wire.send("bye").await,
            }
        }
    })
    .await;
    let to_one = modern(&format!("http://{}", one.address), &json!({ "protocol": "http1" })).start();
    for (bench, is_http2) in [(at_port(two.port), true), (to_one, false)] {
        for mut near in Near::both(&bench).await {
            assert_eq!(near.take(5).await.unwrap(), b"hello");
            near.send(b"ping").await;
            assert_eq!(near.take(4).await.unwrap(), b"ping");
            for _ in 0..32 {
                // More than any window or buffer holds, in all.
                near.send(&[b'x'; 60_000]).await;
                assert_eq!(near.take(60_000).await.unwrap(), [b'x'; 60_000]);
            }
            // One end stops sending and still hears, the other one stops too, and it is over.
            near.ends().await;
            assert_eq!(near.take(3).await.unwrap(), b"bye");
            assert!(near.is_ended().await);
        }
        eventually("no tunnel is open", || open(&bench) == 0.0).await;
        assert_eq!(bench.metric("banyan_tunnels_total", &[("route", "payments"), ("side", "modern")]), 2.0);
        if is_http2 {
            assert_eq!(two.connections(), 1);
        }
    }
}

#[tokio::test]
async fn it_passes_to_an_upstream_over_tls_too() {
    let ca = Authority::new();
    let far = Secure::scripted(ca.server(&["localhost"], &["h2"], None), |stream| async move {
        let mut connection = h2::server::Builder::new().enable_connect_protocol().handshake(stream).await.unwrap();
        let mut tunnels = tokio::task::JoinSet::new();
        while let Some(Ok((request, answering))) = connection.accept().await {
            assert_eq!(request.uri().scheme_str(), Some("https"));
            tunnels.spawn(echo(request, answering));
        }
    })
    .await;
    let endpoint = format!("https://localhost:{}", far.port);
    let bench = modern(&endpoint, &json!({ "tls": { "ca": ca.ca() } })).start();
    for mut near in Near::both(&bench).await {
        near.send(b"ping").await;
        assert_eq!(near.take(9).await.unwrap(), b"helloping");
        near.ends().await;
        assert_eq!(near.take(3).await.unwrap(), b"bye");
    }
}

#[tokio::test]
async fn an_upgrade_goes_out_as_an_extended_connect_and_is_proven_to_http1_clients() {
    let seen: Arc<Mutex<Vec<Request<()>>>> = Arc::default();
    let kept = Arc::clone(&seen);
    let upstream = Streams::tunnelling(move |request, mut answering| {
        kept.lock().unwrap().push(request.map(|_| ()));
        async move {
            let answer = Response::builder().header("sec-websocket-protocol", "chat").header("content-length", "0");
            answering.send_response(answer.body(()).unwrap(), false)?.send_data("hello".into(), false)?;
            std::future::pending().await
        }
    })
    .await;
    let bench = at_port(upstream.port);
    let mut client = bench.client().await;
    client.send(UPGRADE).await;
    let head = client.head().await.unwrap().to_ascii_lowercase();
    assert!(head.starts_with("http/1.1 101 ") && head.contains("sec-websocket-protocol: chat\r\n"), "{head}");
    assert!(head.contains(&format!("sec-websocket-accept: {}\r\n", PROOF.to_ascii_lowercase())), "{head}");
    assert!(!head.contains("content-length"), "{head}");
    let _http2 = Near::http2(&bench).await;
    let seen = seen.lock().unwrap();
    assert_eq!(seen.len(), 2);
    for (seen, more) in seen.iter().zip([&["sec-websocket-protocol"][..], &[]]) {
        assert_eq!(seen.method(), "CONNECT");
        assert_eq!(seen.extensions().get::<h2::ext::Protocol>().unwrap().as_str(), "websocket");
        assert_eq!(seen.uri(), "http://shop.test/payments/chat?room=1");
        let mut names: Vec<&str> = seen.headers().keys().map(http::HeaderName::as_str).collect();
        names.sort_unstable();
        let common = ["sec-websocket-version", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto"];
        assert_eq!(names, [more, &common].concat());
    }
}

#[tokio::test]
async fn a_peer_whose_settings_allow_none_is_a_502_and_keeps_its_connection() {
    let upstream = Streams::scripted(|_, mut answering| async move {
        answering.send_response(Response::new(()), false)?.send_data("as ever".into(), true)
    })
    .await;
    let bench = at_port(upstream.port);
    for _ in 0..2 {
        assert_eq!(fault(&bench.ask(UPGRADE).await), (502, "urn:banyan:error:no_websocket".to_owned()));
    }
    assert_eq!(bench.ask(GET).await.text(), "as ever");
    assert_eq!(upstream.connections(), 1);
}

#[tokio::test]
async fn settings_that_come_late_are_waited_for() {
    for (setting, status) in [((8, 1), "101"), ((8, 0), "502")] {
        let upstream = Upstream::scripted(move |wire| async move {
            let mut peer = Peer::accept_late(wire, &[setting]).await?;
            let stream = peer.request().await?;
            peer.head(stream).await?;
            peer.send(DATA, 0, stream, b"hello").await?;
            std::future::pending().await
        })
        .await;
        let bench = at_port(upstream.address.port());
        let mut client = bench.client().await;
        client.send(UPGRADE).await;
        let head = client.head().await.unwrap();
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{head}");
    }
    // A peer that says nothing at all is late, as with any other request, and its connection is left.
    let silent = Upstream::scripted(|mut wire| async move {
        loop {
            wire.some().await?;
        }
    })
    .await;
    let bench = modern(&format!("http://{}", silent.address), &json!({ "timeout": "200ms" })).start();
    assert_eq!(fault(&bench.ask(UPGRADE).await), (504, "urn:banyan:error:timeout".to_owned()));
    eventually("its connection is closed", || connections(&bench) == 0).await;
}

#[tokio::test]
async fn what_the_upstream_answers_instead_is_an_answer_like_any_other() {
    let (tell, mut told) = mpsc::unbounded_channel();
    let upstream = peer(&[TAKES], move |mut peer| {
        let tell = tell.clone();
        async move {
            loop {
                let stream = peer.request().await?;
                // `:status: 404`, which HPACK knows by number.
                peer.send(frames::HEADERS, 4, stream, &[0x8d]).await?;
                peer.send(DATA, frames::END_STREAM, stream, b"no room").await?;
                // The request ends too: nothing of it is left open.
                let frame = peer.frame().await?;
                tell.send((frame.kind, frame.flags)).unwrap();
            }
        }
    })
    .await;
    let bench = at_port(upstream.address.port());
    let answer = bench.ask(UPGRADE).await;
    assert_eq!((answer.status, answer.text()), (404, "no room"));
    assert_eq!(timeout(PATIENCE, told.recv()).await.unwrap(), Some((DATA, frames::END_STREAM)));
    let (sender, _) = http2::connect(&bench).await;
    eventually("CONNECT may be extended", || sender.is_extended_connect_protocol_enabled()).await;
    let (answer, _up) = http2::websocket(&sender, "/payments/chat").await;
    assert_eq!(answer.status(), 404);
    assert_eq!(timeout(PATIENCE, told.recv()).await.unwrap(), Some((DATA, frames::END_STREAM)));
    assert_eq!((open(&bench), upstream.connections()), (0.0, 1));
}

#[tokio::test]
async fn an_upgrade_that_http2_cannot_say_is_the_clients_mistake() {
    let upstream = Streams::tunnelling(echo).await;
    let bench = at_port(upstream.port);
    for wrong in
        [UPGRADE.replace("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", ""), UPGRADE.replace("GET ", "POST ")]
    {
        assert_eq!(fault(&bench.ask(&wrong).await), (400, "urn:banyan:error:handshake".to_owned()), "{wrong}");
    }
}

#[tokio::test]
async fn a_client_that_resets_cancels_its_stream_and_no_other() {
    let (tell, mut told) = mpsc::unbounded_channel();
    let upstream = peer(&[TAKES], move |mut peer| {
        let tell = tell.clone();
        async move {
            let mut first = true;
            loop {
                let frame = peer.frame().await?;
                match frame.kind {
                    frames::HEADERS if std::mem::take(&mut first) => peer.head(frame.stream).await?,
                    frames::HEADERS => peer.answer(frame.stream, "other").await?,
                    RST_STREAM => tell.send((frame.stream, frame.payload)).unwrap(),
                    _ => {}
                }
            }
        }
    })
    .await;
    for is_http2 in [false, true] {
        let bench = at_port(upstream.address.port());
        let near = if is_http2 { Near::http2(&bench).await } else { Near::http1(&bench).await };
        near.resets();
        let cancelled = timeout(PATIENCE, told.recv()).await.unwrap().unwrap();
        assert_eq!(cancelled, (1, CANCEL.to_be_bytes().to_vec()));
        eventually("no tunnel is open", || open(&bench) == 0.0).await;
        let before = upstream.connections();
        assert_eq!(bench.ask(GET).await.text(), "other");
        assert_eq!(upstream.connections(), before);
    }
}

#[tokio::test]
async fn a_stream_that_the_upstream_resets_ends_its_client_and_no_other() {
    let upstream = Streams::tunnelling(|request, answering| async move {
        if request.uri().path().ends_with("/chat") {
            let mut answering = answering;
            let mut down = answering.send_response(Response::new(()), false)?;
            let mut request = request;
            request.body_mut().data().await.unwrap()?;
            down.send_reset(Reason::CANCEL);
            return Ok(());
        }
        let mut answering = answering;
        answering.send_response(Response::new(()), false)?.send_data("other".into(), true)
    })
    .await;
    let bench = at_port(upstream.port);
    for mut near in Near::both(&bench).await {
        near.send(b"x").await;
        assert!(near.is_ended().await);
    }
    eventually("no tunnel is open", || open(&bench) == 0.0).await;
    assert_eq!(bench.ask(GET).await.text(), "other");
    assert_eq!(upstream.connections(), 1);
}

#[tokio::test]
async fn neither_end_makes_banyan_hold_more_than_the_windows() {
    // No window beyond the first 65,535 bytes: what the client sends stays with the client.
    let deaf = peer(&[TAKES], |mut peer| async move {
        let stream = peer.request().await?;
        peer.head(stream).await?;
        loop {
            peer.frame().await?;
        }
    })
    .await;
    let bench = at_port(deaf.address.port());
    let Near::Http1(mut client) = Near::http1(&bench).await else { unreachable!() };
    let sending = async {
        for _ in 0..512 {
            client.send(vec![b'x'; 64 << 10]).await;
        }
    };
    assert!(timeout(Duration::from_secs(2), sending).await.is_err(), "all 32 MiB were taken");

    let sent: Arc<AtomicUsize> = Arc::default();
    let counted = Arc::clone(&sent);
    let upstream = Streams::tunnelling(move |_, mut answering| {
        let counted = Arc::clone(&counted);
        async move {
            let mut down = answering.send_response(Response::new(()), false)?;
            loop {
                down.reserve_capacity(16 << 10);
                let Some(room) = std::future::poll_fn(|cx| down.poll_capacity(cx)).await else { return Ok(()) };
                let room = room?;
                counted.fetch_add(room, Ordering::SeqCst);
                down.send_data(vec![b'y'; room].into(), false)?;
            }
        }
    })
    .await;
    let bench = at_port(upstream.port);
    let mut near = Near::http1(&bench).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let held = sent.load(Ordering::SeqCst);
    // The sockets' own buffers are a few megabytes.
    assert!(held < 16 << 20, "{held} bytes");
    // And goes on as the client reads.
    assert_eq!(near.take(held + (1 << 20)).await.unwrap().len(), held + (1 << 20));
}

#[tokio::test]
async fn a_stream_that_was_not_looked_at_is_opened_anew() {
    let upstream = peer(&[TAKES], |mut peer| async move {
        let refused = peer.request().await?;
        peer.reset(refused, REFUSED_STREAM).await?;
        let stream = peer.request().await?;
        peer.head(stream).await?;
        peer.send(DATA, 0, stream, b"hello").await?;
        // It goes away: what is open stays.
        peer.go_away(stream).await?;
        while peer.frame().await?.kind != DATA {}
        peer.send(DATA, 0, stream, b"still here").await?;
        std::future::pending().await
    })
    .await;
    let bench = at_port(upstream.address.port());
    let mut near = Near::http1(&bench).await;
    assert_eq!(near.take(5).await.unwrap(), b"hello");
    // Its upstream is gone from the file, too.
    let nowhere = "127.0.0.1:1".parse().unwrap();
    let next = Setup::new(nowhere).workers(1);
    bench.proxy.reload(&next.config, &next.links).unwrap();
    near.send(b"x").await;
    assert_eq!(near.take(10).await.unwrap(), b"still here");
}

#[tokio::test]
async fn an_open_tunnel_is_no_request_under_way() {
    let upstream = Streams::tunnelling(echo).await;
    let endpoint = format!("http://127.0.0.1:{}", upstream.port);
    let bench = modern(&endpoint, &json!({ "limits": { "in_flight": 1, "queue": 0 } })).start();
    // Each takes the one place until it is open.
    let _both = Near::both(&bench).await;
    assert_eq!((open(&bench), in_flight(&bench)), (2.0, 0));
}

fn chat(upstream: &Streams) -> Value {
    json!({ "endpoints": [format!("http://127.0.0.1:{}", upstream.port)], "protocol": "http2" })
}

/// Two frames, then half of another, whose rest comes when asked for.
async fn frames_in_pieces(mut request: Request<RecvStream>, mut answering: Answering) -> Result<(), h2::Error> {
    let mut down = answering.send_response(Response::new(()), false)?;
    down.send_data(Bytes::from_static(b"\x82\x03abc\x82\x04de"), false)?;
    request.body_mut().data().await.unwrap()?;
    down.send_data(Bytes::from_static(b"fg"), false)?;
    std::future::pending().await
}

#[tokio::test]
async fn it_is_closed_with_notice_when_the_owner_moves() {
    let upstream = Streams::tunnelling(frames_in_pieces).await;
    let data = Data::new();
    let nowhere = "127.0.0.1:1".parse().unwrap();
    let bench = Setup::new(nowhere)
        .upstream("legacy", nowhere, &chat(&upstream))
        .upstream("modern", nowhere, &json!({}))
        .sync("chat", data.clone())
        .route(json!({ "name": "chat", "match": { "path_prefix": "/payments" }, "legacy": "legacy", "modern": "modern", "weight": 100, "sync": "chat" }))
        .start();
    let mut both = Near::both(&bench).await;
    for near in &mut both {
        assert_eq!(near.take(9).await.unwrap(), b"\x82\x03abc\x82\x04de");
        near.send(b"x").await;
        assert_eq!(near.take(2).await.unwrap(), b"fg");
    }
    assert_eq!(open(&bench), 2.0);
    data.owned_by(Owner::Modern);
    for near in &mut both {
        assert_eq!(near.take(4).await.unwrap(), b"\x88\x02\x03\xf4");
        assert!(near.is_ended().await);
    }
    drop(both);
    eventually("no tunnel is open", || open(&bench) == 0.0).await;
}

#[tokio::test]
async fn a_drain_closes_it_with_notice() {
    let upstream = Streams::tunnelling(|request, mut answering| async move {
        let _down = answering.send_response(Response::new(()), false)?;
        let _request = request;
        std::future::pending().await
    })
    .await;
    let bench = at_port(upstream.port);
    let mut both = Near::both(&bench).await;
    let draining = tokio::spawn(bench.proxy.drain(Duration::from_secs(4)));
    for near in &mut both {
        assert_eq!(near.take(4).await.unwrap(), b"\x88\x02\x03\xf4");
        assert!(near.is_ended().await);
    }
    drop(both);
    timeout(PATIENCE, draining).await.unwrap().unwrap();
}
