//! The PROXY protocol: whose word is taken, what is read of it, and what may follow.

use std::time::Duration;

use http::StatusCode;
use serde_json::json;
use tokio::{io::AsyncWriteExt, net::TcpStream};

use super::{
    Bench, Client, Setup, Upstream,
    http2::{ask, request},
    tls::{Authority, Hello, with_tls},
};

const GET: &str = "GET / HTTP/1.1\r\nHost: shop.test\r\n\r\n";
const TEXT: &str = "PROXY TCP4 192.0.2.7 10.0.0.1 4660 80\r\n";
const BINARY: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x12\xc0\0\x02\x07\x0a\0\0\x01\x12\x34\0\x50\x04\0\x03abc";

fn behind(setup: Setup, from: &str) -> Setup {
    let mut setup = setup;
    setup.config.listeners[0].proxy_protocol = Some(serde_json::from_value(json!({ "from": from })).unwrap());
    setup
}

/// A connection that began so.
async fn begun(bench: &Bench, with: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(bench.proxy.local_addrs()[0]).await.unwrap();
    stream.set_nodelay(true).unwrap();
    stream.write_all(with).await.unwrap();
    stream
}

async fn answered(bench: &Bench, bytes: &[u8]) -> Option<u16> {
    let mut client = Client::over(begun(bench, bytes).await);
    client.try_answer(false).await.map(|answer| answer.status)
}

#[tokio::test]
async fn the_client_is_who_the_load_balancer_names() {
    for (header, client) in [
        (TEXT.as_bytes(), "192.0.2.7"),
        (BINARY, "192.0.2.7"),
        (b"PROXY UNKNOWN\r\n", "127.0.0.1"),
        (b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0", "127.0.0.1"),
    ] {
        let upstream = Upstream::named("one").await;
        let bench = behind(Setup::new(upstream.address), "127.0.0.1").park_at_once(true).start();
        // With the request in one piece, and a second request after the connection has idled.
        let mut connection = Client::over(begun(&bench, &[header, GET.as_bytes()].concat()).await);
        assert_eq!(connection.answer().await.text(), "one");
        connection.send(GET).await;
        assert_eq!(connection.answer().await.text(), "one");
        let told = format!("X-Forwarded-For: {client}\r\n");
        assert_eq!(upstream.bytes().matches(&told).count(), 2, "{}", upstream.bytes());
    }
}

#[tokio::test]
async fn routes_and_trust_look_at_the_named_client() {
    let (legacy, modern) = (Upstream::named("legacy").await, Upstream::named("modern").await);
    let setup = Setup::new(legacy.address).upstream("modern", modern.address, &json!({})).route(json!({
        "name": "r", "match": { "path_prefix": "/", "client": "192.0.2.0/24" }, "legacy": "modern",
    }));
    let mut setup = behind(setup, "127.0.0.0/8");
    // The load balancer is trusted, and the client is not: what it says of others is not believed.
    setup.config.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()];
    let bench = setup.start();
    let get = GET.replace("Host", "X-Forwarded-For: 203.0.113.9\r\nHost");
    for (header, side) in [(TEXT, "modern"), ("PROXY TCP4 198.51.100.1 10.0.0.1 1 80\r\n", "legacy")] {
        let mut client = Client::over(begun(&bench, format!("{header}{get}").as_bytes()).await);
        assert_eq!(client.answer().await.text(), side);
    }
    assert!(modern.bytes().contains("X-Forwarded-For: 192.0.2.7\r\n"), "{}", modern.bytes());
    assert!(!modern.bytes().contains("203.0.113.9"), "{}", modern.bytes());
}

#[tokio::test]
async fn a_proxy_header_may_come_in_pieces() {
    let upstream = Upstream::named("one").await;
    let bench = behind(Setup::new(upstream.address), "127.0.0.1").start();
    for header in [TEXT.as_bytes(), BINARY] {
        let mut stream = begun(&bench, b"").await;
        for byte in header {
            stream.write_all(&[*byte]).await.unwrap();
            tokio::task::yield_now().await;
        }
        let mut client = Client::over(stream);
        client.send(GET).await;
        assert_eq!(client.answer().await.text(), "one");
    }
    assert_eq!(upstream.bytes().matches("X-Forwarded-For: 192.0.2.7\r\n").count(), 2);
}

#[tokio::test]
async fn a_load_balancer_must_say_whom_it_speaks_for_and_nobody_else_can() {
    let upstream = Upstream::named("one").await;
    let bench = behind(Setup::new(upstream.address), "127.0.0.1").start();
    let long = format!("PROXY UNKNOWN {}", "a".repeat(4096));
    for bytes in [GET.as_bytes(), b"PROXY TCP4 a b 1 2\r\n", long.as_bytes(), b"\x16\x03\x01", &BINARY[2..]] {
        assert_eq!(answered(&bench, bytes).await, None);
    }
    let stranger = behind(Setup::new(upstream.address), "10.0.0.0/8").start();
    let without = Setup::new(upstream.address).start();
    for bench in [&stranger, &without] {
        for header in [TEXT.as_bytes(), BINARY] {
            assert_eq!(answered(bench, &[header, GET.as_bytes()].concat()).await, Some(400));
        }
    }
    assert_eq!(upstream.bytes(), "");
    assert_eq!(answered(&stranger, GET.as_bytes()).await, Some(200));
    // One header, and no second.
    assert_eq!(answered(&bench, &[TEXT, TEXT, GET].concat().into_bytes()).await, Some(400));
}

#[tokio::test]
async fn a_proxy_header_that_takes_too_long_ends_the_connection() {
    let upstream = Upstream::named("one").await;
    let setup = Setup::new(upstream.address).limits(|limits| limits.head_time = Duration::from_millis(100));
    let bench = behind(setup, "127.0.0.1").start();
    for some in [b"" as &[u8], &TEXT.as_bytes()[..20], &BINARY[..14], &BINARY[..20]] {
        assert!(Client::over(begun(&bench, some).await).is_closed().await);
    }
}

#[tokio::test]
async fn tls_and_http2_may_stand_behind_a_proxy_header() {
    let authority = Authority::new();
    let upstream = Upstream::named("one").await;
    let tls = json!({ "certificates": [authority.signs("shop", &["shop.test"])] });
    let plain = behind(Setup::new(upstream.address), "127.0.0.1").start();
    let secure = behind(with_tls(Setup::new(upstream.address), tls), "127.0.0.1").start();
    for header in [TEXT.as_bytes(), BINARY] {
        let stream = begun(&plain, header).await;
        let (sender, connection) = h2::client::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        assert_eq!(ask(&sender, request("GET", "/")).await.unwrap(), (StatusCode::OK, "one".into()));

        let stream = begun(&secure, header).await;
        let mut client = Client::over(authority.over(stream, &Hello::to("shop.test")).await.unwrap());
        client.send(GET).await;
        assert_eq!(client.answer().await.text(), "one");
        let hello = Hello { alpn: &[b"h2"], ..Hello::to("shop.test") };
        let stream = authority.over(begun(&secure, header).await, &hello).await.unwrap();
        let (sender, connection) = h2::client::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        assert_eq!(ask(&sender, request("GET", "/")).await.unwrap(), (StatusCode::OK, "one".into()));
    }
    assert_eq!(upstream.bytes().to_lowercase().matches("x-forwarded-for: 192.0.2.7\r\n").count(), 6);
    // Inside TLS it is no header.
    let mut inside = Client::over(authority.over(begun(&secure, BINARY).await, &Hello::to("shop.test")).await.unwrap());
    inside.send([TEXT, GET].concat()).await;
    assert_eq!(inside.answer().await.status, 400);
}
