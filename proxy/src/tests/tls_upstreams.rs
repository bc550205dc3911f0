//! TLS to upstreams: what is trusted and what is not, who Banyan says it is, and when the files are read.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use super::{
    Bench, Setup, Upstream, eventually,
    secure::{Authority, Secure},
};
use crate::table::{Problem, RouteTable};

const GET: &str = "GET /payments HTTP/1.1\r\nHost: shop.example\r\n\r\n";

/// A route whose only side is an upstream at this address.
fn modern(endpoint: &str, tls: &Value, more: &Value) -> Setup {
    let mut upstream = json!({ "endpoints": [endpoint], "tls": tls });
    upstream.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let nowhere = "127.0.0.1:1".parse().unwrap();
    Setup::new(nowhere).upstream("modern", nowhere, &upstream).route(json!({
        "name": "payments", "match": { "path_prefix": "/payments" }, "modern": "modern",
    }))
}

async fn fault(bench: &Bench) -> (u16, String) {
    let answer = bench.ask(GET).await;
    assert!(!answer.text().contains("127.0.0.1") && !answer.text().contains("localhost"), "{}", answer.text());
    let problem: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    (answer.status, problem["type"].as_str().unwrap_or_default().to_owned())
}

#[tokio::test]
async fn an_https_endpoint_is_spoken_to_over_tls_by_its_own_name() {
    let ca = Authority::new();
    let upstream = Secure::start(ca.server(&["localhost"], &[], None), "secret", true).await;
    let bench = modern(&format!("https://localhost:{}", upstream.port), &json!({ "ca": ca.ca() }), &json!({})).start();
    for _ in 0..2 {
        let answer = bench.ask(GET).await;
        assert_eq!((answer.status, answer.text()), (200, "secret"));
    }
    let greeted = upstream.greeted();
    assert!(greeted.iter().all(|one| one.server_name.as_deref() == Some("localhost")), "{greeted:?}");
    assert!(greeted.iter().all(|one| !one.has_client_cert && one.alpn.is_none()), "{greeted:?}");
}

#[tokio::test]
async fn a_certificate_is_for_the_server_name_where_one_is_given_and_for_the_address_where_that_is_the_host() {
    let ca = Authority::new();
    let upstream = Secure::start(ca.server(&["payments.internal", "127.0.0.1"], &[], None), "named", true).await;
    let endpoint = format!("https://127.0.0.1:{}", upstream.port);
    let named = modern(&endpoint, &json!({ "ca": ca.ca(), "server_name": "payments.internal" }), &json!({})).start();
    assert_eq!(named.ask(GET).await.text(), "named");
    let bare = modern(&endpoint, &json!({ "ca": ca.ca() }), &json!({})).start();
    assert_eq!(bare.ask(GET).await.text(), "named");
    let names: Vec<_> = upstream.greeted().into_iter().map(|one| one.server_name).collect();
    // An address is never asked for by name (RFC 6066, 3).
    assert_eq!(names, [Some("payments.internal".to_owned()), None]);
}

#[tokio::test]
async fn a_certificate_that_is_not_to_be_trusted_is_a_502_and_no_request_is_sent() {
    let (ca, other) = (Authority::new(), Authority::new());
    let upstream = Secure::start(ca.server(&["localhost"], &[], None), "secret", true).await;
    let endpoint = format!("https://localhost:{}", upstream.port);
    for tls in [
        json!({ "ca": other.ca() }),                                  // of a CA that nobody named
        json!({ "ca": ca.ca(), "server_name": "payments.internal" }), // for another name
    ] {
        let bench = modern(&endpoint, &tls, &json!({})).start();
        assert_eq!(fault(&bench).await, (502, "urn:banyan:error:certificate".to_owned()), "{tls}");
        let refused = bench.metric("banyan_route_attempts_total", &[("route", "payments"), ("outcome", "refused")]);
        assert!((refused - 1.0).abs() < 0.1, "{refused}");
    }
    assert!(upstream.greeted().is_empty());
}

#[tokio::test]
async fn what_does_not_speak_tls_is_a_502() {
    let plain = Upstream::scripted(|mut wire| async move {
        wire.some().await?;
        wire.send("HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\r\n").await
    })
    .await;
    let ca = Authority::new();
    let bench = modern(&format!("https://{}", plain.address), &json!({ "ca": ca.ca() }), &json!({})).start();
    assert_eq!(fault(&bench).await, (502, "urn:banyan:error:tls".to_owned()));
}

#[tokio::test]
async fn a_client_certificate_is_shown_to_who_asks_for_one() {
    let (ca, clients) = (Authority::new(), Authority::new());
    let upstream = Secure::start(ca.server(&["localhost"], &[], Some(&clients)), "known", true).await;
    let endpoint = format!("https://localhost:{}", upstream.port);
    let ours = clients.issue(&["banyan"]);
    let (cert, key) = (clients.file("cert.pem", &ours.cert), clients.file("key.pem", &ours.key));
    let known = json!({ "ca": ca.ca(), "client_cert": cert, "client_key": key });
    assert_eq!(modern(&endpoint, &known, &json!({})).start().ask(GET).await.text(), "known");
    assert!(upstream.greeted()[0].has_client_cert);
    let (status, _) = fault(&modern(&endpoint, &json!({ "ca": ca.ca() }), &json!({})).start()).await;
    assert_eq!(status, 502);
}

#[tokio::test]
async fn a_handshake_counts_into_the_time_for_a_connect() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("https://{}", silent.local_addr().unwrap());
    let ca = Authority::new();
    let bench = modern(&endpoint, &json!({ "ca": ca.ca() }), &json!({ "connect_timeout": "200ms" })).start();
    assert_eq!(fault(&bench).await, (504, "urn:banyan:error:connect_timeout".to_owned()));
}

#[tokio::test]
async fn sessions_are_resumed_on_new_connections_of_any_worker() {
    let ca = Authority::new();
    let upstream = Secure::start(ca.server(&["localhost"], &[], None), "again", false).await;
    let bench = modern(&format!("https://localhost:{}", upstream.port), &json!({ "ca": ca.ca() }), &json!({})).start();
    for _ in 0..6 {
        assert_eq!(bench.ask(GET).await.text(), "again");
    }
    let resumed = upstream.greeted().iter().filter(|one| one.is_resumed).count();
    assert_eq!((upstream.greeted().len(), resumed), (6, 5));
}

#[tokio::test]
async fn a_file_that_changes_is_used_without_a_reload_and_a_bad_one_is_not() {
    let (old, new) = (Authority::new(), Authority::new());
    let upstream = Secure::start(new.server(&["localhost"], &[], None), "renewed", false).await;
    let tls = json!({ "ca": old.ca() });
    let bench = modern(&format!("https://localhost:{}", upstream.port), &tls, &json!({})).start();
    assert_eq!(bench.ask(GET).await.status, 502);
    old.file("ca.pem", "no certificate at all");
    assert_eq!(bench.ask(GET).await.status, 502);
    old.file("ca.pem", &new.pem);
    for _ in 0..300 {
        if bench.ask(GET).await.status == 200 {
            old.file("ca.pem", "no certificate at all");
            tokio::time::sleep(Duration::from_secs(3)).await;
            // The last good one counts.
            assert_eq!(bench.ask(GET).await.text(), "renewed");
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("the new CA is never used");
}

#[tokio::test]
async fn a_reload_reads_the_files_again() {
    let (old, new) = (Authority::new(), Authority::new());
    let upstream = Secure::start(new.server(&["localhost"], &[], None), "renewed", false).await;
    let setup = modern(&format!("https://localhost:{}", upstream.port), &json!({ "ca": old.ca() }), &json!({}));
    let (config, links) = (setup.config.clone(), setup.links.clone());
    let bench = setup.start();
    assert_eq!(bench.ask(GET).await.status, 502);
    old.file("ca.pem", &new.pem);
    bench.proxy.reload(&config, &links).unwrap();
    assert_eq!(bench.ask(GET).await.text(), "renewed");
}

#[tokio::test]
async fn a_shadow_goes_over_tls_too() {
    let ca = Authority::new();
    let upstream = Secure::start(ca.server(&["localhost"], &[], None), "shadow", true).await;
    let legacy = Upstream::named("legacy").await;
    let endpoint = format!("https://localhost:{}", upstream.port);
    let tls = json!({ "endpoints": [endpoint], "tls": { "ca": ca.ca() } });
    let bench = Setup::new(legacy.address)
        .upstream("modern", legacy.address, &tls)
        .route(json!({
            "name": "payments", "match": { "path_prefix": "/payments" }, "legacy": "legacy", "modern": "modern",
            "weight": 0, "shadow": { "percent": 100 },
        }))
        .start();
    assert_eq!(bench.ask(GET).await.text(), "legacy");
    eventually("the copy arrives", || !upstream.greeted().is_empty()).await;
    let sent = || bench.metric("banyan_shadow_requests_total", &[("route", "payments"), ("outcome", "sent")]);
    eventually("it is answered", || sent() > 0.5).await;
}

#[tokio::test]
async fn a_websocket_goes_through_tls() {
    let ca = Authority::new();
    let upstream = Secure::scripted(ca.server(&["localhost"], &[], None), |mut stream| async move {
        let mut read = Vec::new();
        while !read.ends_with(b"\r\n\r\n") {
            stream.read_buf(&mut read).await.unwrap();
        }
        let switch = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\nhello";
        stream.write_all(switch.as_bytes()).await.unwrap();
        let mut word = [0; 4];
        stream.read_exact(&mut word).await.unwrap();
        stream.write_all(&word).await.unwrap();
        stream.shutdown().await.unwrap();
    })
    .await;
    let bench = modern(&format!("https://localhost:{}", upstream.port), &json!({ "ca": ca.ca() }), &json!({})).start();
    let mut client = bench.client().await;
    client.send("GET /payments HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nping").await;
    assert!(client.head().await.unwrap().starts_with("HTTP/1.1 101 "));
    assert_eq!(client.take(9).await.unwrap(), b"helloping");
}

#[tokio::test]
async fn a_websocket_speaks_http1_to_an_upstream_that_chooses_http2_for_the_rest() {
    let ca = Authority::new();
    let server = ca.server(&["localhost"], &["h2", "http/1.1"], None);
    let upstream = Secure::scripted(server, |mut stream| async move {
        if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
            let mut connection = h2::server::handshake(stream).await.unwrap();
            while let Some(Ok((_, mut answering))) = connection.accept().await {
                let mut body = answering.send_response(http::Response::new(()), false).unwrap();
                body.send_data("two".into(), true).unwrap();
            }
            return;
        }
        let mut read = Vec::new();
        while !read.ends_with(b"\r\n\r\n") {
            stream.read_buf(&mut read).await.unwrap();
        }
        let switch = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\nhello";
        stream.write_all(switch.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
    })
    .await;
    let auto = json!({ "protocol": "auto" });
    let bench = modern(&format!("https://localhost:{}", upstream.port), &json!({ "ca": ca.ca() }), &auto).start();
    for _ in 0..2 {
        assert_eq!(bench.ask("GET /payments HTTP/1.1\r\nHost: a\r\n\r\n").await.text(), "two");
        let mut client = bench.client().await;
        client.send("GET /payments HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n").await;
        assert!(client.head().await.unwrap().starts_with("HTTP/1.1 101 "));
        assert_eq!(client.take(5).await.unwrap(), b"hello");
    }
}

fn problems(setup: &Setup) -> Vec<Problem> {
    RouteTable::compile(&setup.config, &setup.links).err().unwrap_or_default()
}

#[test]
fn bad_files_are_told_at_their_keys_without_what_stands_in_them() {
    let ca = Authority::new();
    let (ours, others) = (ca.issue(&["banyan"]), ca.issue(&["banyan"]));
    let (cert, key) = (ca.file("cert.pem", &ours.cert), ca.file("key.pem", &others.key));
    let rubbish = ca.file("rubbish.pem", "-----BEGIN CERTIFICATE-----\nrubbish\n-----END CERTIFICATE-----\n");
    for (tls, key, words) in [
        (json!({ "ca": "/nowhere/ca.pem" }), "ca", "`/nowhere/ca.pem` cannot be read: there is no such file"),
        (json!({ "ca": rubbish }), "ca", "cannot be used as a CA"),
        (json!({ "ca": key }), "ca", "holds no certificate"),
        (json!({ "client_cert": cert, "client_key": key }), "client_key", "is not the certificate's"),
        (json!({ "client_cert": cert, "client_key": cert }), "client_key", "holds no private key"),
        (json!({ "client_cert": key, "client_key": key }), "client_cert", "holds no certificate"),
        (json!({ "client_cert": cert }), "client_cert", "without `client_key`"),
    ] {
        let mut tls = tls;
        if tls.get("ca").is_none() {
            tls["ca"] = json!(ca.ca());
        }
        let found = problems(&modern("https://localhost:1", &tls, &json!({})));
        assert_eq!(found.len(), 1, "{tls}: {found:?}");
        assert_eq!(found[0].path, format!("upstreams.modern.tls.{key}"), "{found:?}");
        assert!(found[0].message.contains(words) && !found[0].message.contains("rubbish\n"), "{found:?}");
    }
}

#[test]
fn all_endpoints_of_an_upstream_speak_tls_or_none_does() {
    let mixed = json!({ "endpoints": ["https://a:1", "http://b:1"] });
    let found = problems(&modern("https://a:1", &json!({}), &mixed));
    assert_eq!(found.iter().map(|one| one.path.as_str()).collect::<Vec<_>>(), ["upstreams.modern.endpoints[1]"]);
    let found = problems(&modern("http://a:1", &json!({ "server_name": "b" }), &json!({})));
    assert_eq!(found.iter().map(|one| one.path.as_str()).collect::<Vec<_>>(), ["upstreams.modern.tls"]);
}
