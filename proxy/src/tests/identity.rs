//! One upstream is asked who a request comes from, and everything on the way goes by what it says.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use serde_json::{Value, json};
use tokio::sync::Notify;

use super::{Bench, Client, Setup, Upstream, eventually, h2_upstreams::Streams, legs::http2};

/// Knows `sid=ann` and `sid=bob` and nobody else, `Bearer ann` likewise.
async fn directory() -> Upstream {
    Upstream::scripted(|mut wire| async move {
        loop {
            let (head, _) = wire.request().await?;
            let user = ["ann", "bob"]
                .into_iter()
                .find(|user| head.contains(&format!("sid={user}")) || head.contains(&format!("Bearer {user}")));
            let answer = match user {
                Some(user) => {
                    format!(
                        "200 OK\r\nX-User-Id: {user}\r\nX-Tenant: of-{user}\r\nX-Else: 1\r\ncontent-length: 2\r\n\r\nhi"
                    )
                }
                None => "401 Unauthorized\r\ncontent-length: 0\r\n\r\n".to_owned(),
            };
            wire.send(format!("HTTP/1.1 {answer}")).await?;
        }
    })
    .await
}

/// A route `pay` between two upstreams, the default, and whom to ask, with more of each.
async fn scene(directory: &Upstream, route: Value, identity: Value) -> (Upstream, Upstream, Setup) {
    let (legacy, modern) = (Upstream::named("legacy").await, Upstream::named("modern").await);
    let mut pay = json!({"name": "pay", "match": {"path_prefix": "/pay"}, "legacy": "legacy", "modern": "modern"});
    pay.as_object_mut().unwrap().extend(route.as_object().unwrap().clone());
    let mut asks = json!({"ask": "directory", "path": "/whoami?v=1", "copy": ["x-user-id", "x-tenant"]});
    asks.as_object_mut().unwrap().extend(identity.as_object().unwrap().clone());
    let mut setup = Setup::new(legacy.address)
        .upstream("modern", modern.address, &json!({}))
        .upstream("directory", directory.address, &json!({}))
        .route(pay);
    setup.config.identity = Some(serde_json::from_value(asks).unwrap());
    (legacy, modern, setup)
}

fn get(path: &str, headers: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: shop.test\r\n{headers}\r\n")
}

async fn side(bench: &Bench, headers: &str) -> String {
    bench.ask(&get("/pay", headers)).await.text().to_owned()
}

fn asked(directory: &Upstream) -> usize {
    directory.bytes().matches("GET /whoami?v=1 HTTP/1.1\r\n").count()
}

fn count(bench: &Bench, outcome: &str) -> f64 {
    bench.metric("banyan_identity_requests_total", &[("outcome", outcome)])
}

const ANN: &str = "Cookie: sid=ann\r\n";

#[tokio::test]
async fn both_sides_are_told_who_it_is_and_the_asked_one_gets_the_credentials_alone() {
    let directory = directory().await;
    let (legacy, modern, setup) = scene(&directory, json!({"weight": 100}), json!({})).await;
    let bench = setup.start();
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let head = format!(
        "Cookie: a=b; banyan_id=x; sid=ann\r\nAuthorization: Basic 1\r\nX-Forwarded-For: 6.6.6.6\r\ntraceparent: {trace}\r\n\
         tracestate: t=1\r\nX-Secret: 1\r\nAccept: text/html\r\nContent-Length: 4\r\n"
    );
    assert_eq!(bench.ask(&format!("POST /pay HTTP/1.1\r\nHost: shop.test\r\n{head}\r\nbody")).await.text(), "modern");
    assert_eq!(bench.ask(&get("/else", ANN)).await.text(), "legacy");
    let mut lines: Vec<String> =
        directory.bytes().split("\r\n\r\n").next().unwrap().lines().map(str::to_ascii_lowercase).collect();
    lines[1..].sort();
    assert_eq!(
        lines,
        [
            "get /whoami?v=1 http/1.1",
            "authorization: basic 1",
            "cookie: a=b; sid=ann",
            "host: shop.test",
            &format!("traceparent: {trace}"),
            "tracestate: t=1",
            "x-forwarded-for: 127.0.0.1",
            "x-forwarded-host: shop.test",
            "x-forwarded-proto: http",
        ]
    );
    for upstream in [&legacy, &modern] {
        let head = upstream.bytes().to_ascii_lowercase();
        assert!(head.contains("x-user-id: ann\r\n") && head.contains("x-tenant: of-ann\r\n"), "{head}");
        assert!(head.contains("sid=ann") && !head.contains("x-else"), "{head}");
    }
}

#[tokio::test]
async fn no_client_says_who_it_is() {
    let directory = directory().await;
    let (legacy, _modern, setup) = scene(&directory, json!({}), json!({})).await;
    let bench = setup.start();
    let lie = "X-User-Id: root\r\nx_user_id: root\r\nX-TENANT: root\r\n";
    for headers in [lie.to_owned(), format!("{lie}Cookie: sid=eve\r\n"), format!("{lie}{ANN}")] {
        assert_eq!(side(&bench, &headers).await, "legacy");
    }
    let seen = legacy.bytes().to_ascii_lowercase();
    assert!(!seen.contains("root"), "{seen}");
    assert_eq!(seen.matches("x-user-id").count(), 1);
    // Nor behind a body.
    let chunked = "Transfer-Encoding: chunked\r\nTrailer: x-user-id, x_tenant, x-sum\r\n";
    let body = "1\r\nx\r\n0\r\nX-User-Id: root\r\nx_tenant: root\r\nX-Sum: 7\r\n\r\n";
    bench.ask(&format!("POST /pay HTTP/1.1\r\nHost: shop.test\r\nTE: trailers\r\n{chunked}\r\n{body}")).await;
    let seen = legacy.bytes().to_ascii_lowercase();
    assert!(seen.contains("x-sum: 7") && !seen.contains("root"), "{seen}");
    // Nor does it take away what was found out, by naming it among what belongs to its own hop.
    let hop = format!("{ANN}Connection: close, X-User-Id, x-tenant\r\n");
    assert_eq!(side(&bench, &hop).await, "legacy");
    let seen = legacy.bytes().to_ascii_lowercase();
    assert_eq!((seen.matches("x-user-id: ann").count(), seen.matches("x-tenant: of-ann").count()), (2, 2), "{seen}");
}

#[tokio::test]
async fn it_is_sticky_key_pin_and_key_of_the_rate_limit() {
    let directory = directory().await;
    let more = json!({
        "weight": 50, "sticky": [{"header": "x-user-id"}], "pin": {"modern": [{"header": {"x-tenant": ["of-bob"]}}]},
        "rate_limit": {"requests": 4, "every": "1h", "key": [{"header": "x-tenant"}]},
    });
    let (_legacy, _modern, setup) = scene(&directory, more, json!({})).await;
    let bench = setup.start();
    let seed = crate::split::seed("pay");
    let expected = if crate::split::bucket(seed, b"ann") < 5000 { "modern" } else { "legacy" };
    // However she shows it, and whatever else she says.
    for headers in [ANN, "Cookie: x=1; sid=ann\r\nX-User-Id: eve\r\n", "Authorization: Bearer ann\r\n"] {
        assert_eq!(side(&bench, headers).await, expected, "{headers}");
    }
    assert_eq!(side(&bench, "Cookie: sid=bob\r\nX-Tenant: x\r\n").await, "modern");
    assert_eq!(bench.ask(&get("/pay", ANN)).await.status, 200);
    assert_eq!(bench.ask(&get("/pay", ANN)).await.status, 429, "her fifth, over three kinds of credentials");
    assert_eq!(bench.ask(&get("/pay", "Cookie: sid=bob\r\n")).await.status, 200);
}

#[tokio::test]
async fn a_limit_that_counts_by_something_else_comes_before_the_asking() {
    let directory = directory().await;
    let more = json!({"rate_limit": {"requests": 1, "every": "1h"}});
    let (_legacy, _modern, setup) = scene(&directory, more, json!({})).await;
    let bench = setup.start();
    assert_eq!(bench.ask(&get("/pay", ANN)).await.status, 200);
    for user in 0..5 {
        assert_eq!(bench.ask(&get("/pay", &format!("Cookie: sid=guess-{user}\r\n"))).await.status, 429);
    }
    assert_eq!(asked(&directory), 1);
}

#[tokio::test]
async fn an_answer_holds_for_all_workers_and_over_a_reload_also_that_it_is_nobody() {
    let directory = directory().await;
    let (legacy, _modern, setup) = scene(&directory, json!({}), json!({})).await;
    let config = setup.config.clone();
    let bench = setup.start();
    let eve = "Cookie: sid=eve\r\n";
    for _ in 0..4 {
        // Each on a connection of its own: two workers.
        for headers in [ANN, eve] {
            side(&bench, headers).await;
        }
    }
    assert_eq!(asked(&directory), 2);
    bench.proxy.reload(&config, &super::Links::default()).unwrap();
    side(&bench, ANN).await;
    assert_eq!((count(&bench, "hit"), count(&bench, "asked"), count(&bench, "nobody")), (7.0, 1.0, 1.0));
    assert_eq!(asked(&directory), 2);
    assert_eq!(legacy.bytes().matches("X-User-Id: ann").count(), 5);
    // Another host's cookie is another one.
    bench.ask(&format!("GET /pay HTTP/1.1\r\nHost: other.test\r\n{ANN}\r\n")).await;
    assert_eq!(asked(&directory), 3);
    // Who asks differently knows nothing any more.
    let mut other = config;
    other.identity.as_mut().unwrap().cookies = Some(vec!["sid".to_owned()]);
    bench.proxy.reload(&other, &super::Links::default()).unwrap();
    for more in ["", "; _ga=1", "; _ga=2"] {
        side(&bench, &format!("Cookie: sid=ann{more}\r\n")).await;
    }
    assert_eq!(asked(&directory), 4, "other cookies do not count");
}

#[tokio::test]
async fn who_shows_nothing_costs_nothing() {
    let directory = directory().await;
    let redirects = json!({"name": "old", "match": {"path_prefix": "/old"}, "redirect": {"path": "/pay"}});
    let (_legacy, _modern, setup) = scene(&directory, json!({}), json!({})).await;
    let bench = setup.route(redirects).start();
    for headers in ["", "Cookie: banyan_id=x; banyan_w=y\r\n", "Accept: */*\r\n"] {
        assert_eq!(side(&bench, headers).await, "legacy");
    }
    assert_eq!(bench.ask(&get("/old", ANN)).await.status, 302);
    assert_eq!(directory.connections(), 0);
    assert_eq!(["hit", "asked", "nobody", "failed"].map(|outcome| count(&bench, outcome)), [0.0; 4]);
}

#[tokio::test]
async fn of_many_requests_with_the_same_credentials_one_asks() {
    let (came, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (tell, wait) = (Arc::clone(&came), Arc::clone(&go));
    let directory = Upstream::scripted(move |mut wire| {
        let (tell, wait) = (Arc::clone(&tell), Arc::clone(&wait));
        async move {
            wire.request().await?;
            tell.notify_one();
            wait.notified().await;
            wire.send("HTTP/1.1 204 No Content\r\nx-user-id: ann\r\n\r\n").await?;
            // Nothing else may come.
            wire.request().await.map(|_| ())
        }
    })
    .await;
    let (legacy, _modern, setup) = scene(&directory, json!({}), json!({"timeout": "1h"})).await;
    let bench = setup.start();
    let mut clients = Vec::new();
    for _ in 0..8 {
        let mut client = bench.client().await;
        client.send(get("/pay", ANN)).await;
        clients.push(client);
    }
    came.notified().await;
    // The one that asks may leave: what it asked for is heard all the same.
    drop(clients.remove(0));
    // Other credentials do not wait for these.
    assert_eq!(bench.ask(&get("/pay", "")).await.text(), "legacy");
    go.notify_one();
    for client in &mut clients {
        assert_eq!(client.answer().await.text(), "legacy");
    }
    assert_eq!(asked(&directory), 1);
    eventually("all have passed", || {
        legacy.bytes().matches("x-user-id: ann").count() + legacy.bytes().matches("X-User-Id: ann").count() >= 7
    })
    .await;
}

#[tokio::test]
async fn without_an_answer_the_request_goes_on_as_nobodys_and_it_is_asked_again() {
    let is_well = Arc::new(AtomicBool::new(false));
    let well = Arc::clone(&is_well);
    let directory = Upstream::scripted(move |mut wire| {
        let well = Arc::clone(&well);
        async move {
            loop {
                wire.request().await?;
                let status = if well.load(Ordering::SeqCst) { "200 OK" } else { "503 Busy" };
                wire.send(format!("HTTP/1.1 {status}\r\nx-user-id: ann\r\ncontent-length: 0\r\n\r\n")).await?;
            }
        }
    })
    .await;
    let (legacy, _modern, setup) = scene(&directory, json!({}), json!({})).await;
    let bench = setup.start();
    for _ in 0..3 {
        assert_eq!(side(&bench, ANN).await, "legacy");
    }
    assert_eq!(count(&bench, "failed"), 3.0);
    assert!(!legacy.bytes().to_ascii_lowercase().contains("x-user-id"));
    is_well.store(true, Ordering::SeqCst);
    for _ in 0..500 {
        side(&bench, ANN).await;
        if count(&bench, "asked") > 0.5 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(count(&bench, "asked"), 1.0);
    assert!(legacy.bytes().contains("X-User-Id: ann"));
}

#[tokio::test]
async fn nobody_waits_longer_than_the_timeout_or_for_a_place_where_nobody_listens() {
    let silent = Upstream::scripted(|mut wire| async move {
        wire.request().await?;
        std::future::pending().await
    })
    .await;
    let (_legacy, _modern, setup) = scene(&silent, json!({}), json!({"timeout": "50ms"})).await;
    let bench = setup.start();
    assert_eq!(side(&bench, ANN).await, "legacy");
    assert_eq!(count(&bench, "failed"), 1.0);
    let nowhere = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (_legacy, _modern, mut setup) = scene(&silent, json!({}), json!({})).await;
    setup = setup.upstream("directory", nowhere, &json!({}));
    let bench = setup.start();
    assert_eq!(side(&bench, ANN).await, "legacy");
    assert_eq!(count(&bench, "failed"), 1.0);
}

#[tokio::test]
async fn a_connection_that_died_in_the_pool_is_no_reason_to_be_nobody() {
    let directory = Upstream::scripted(|mut wire| async move {
        // One answer a connection, and nothing said of that.
        wire.request().await?;
        wire.send("HTTP/1.1 200 OK\r\nx-user-id: ann\r\ncontent-length: 2\r\n\r\nhi").await?;
        wire.request().await.map(|_| wire.reset())
    })
    .await;
    let (_legacy, _modern, setup) = scene(&directory, json!({}), json!({"cache": "0s"})).await;
    let bench = setup.workers(1).start();
    for _ in 0..6 {
        side(&bench, ANN).await;
    }
    assert_eq!((count(&bench, "asked"), count(&bench, "failed")), (6.0, 0.0));
    assert!(directory.connections() > 1, "they were kept, and used again");
}

#[tokio::test]
async fn the_asked_one_may_speak_http2() {
    let directory = Streams::scripted(|request, mut answering| async move {
        let is_asked = request.uri().path() == "/whoami" && request.headers()["cookie"] == "sid=ann";
        let user = if is_asked && request.uri().host() == Some("shop.test") { "ann" } else { "" };
        let head = http::Response::builder().header("x-user-id", user).body(()).unwrap();
        answering.send_response(head, false)?.send_data("hi".into(), true)
    })
    .await;
    let unused = Upstream::named("unused").await;
    let (legacy, _modern, setup) = scene(&unused, json!({}), json!({"cache": "0s"})).await;
    let settings = json!({"endpoints": [format!("http://127.0.0.1:{}", directory.port)], "protocol": "http2"});
    let bench = setup.upstream("directory", unused.address, &settings).workers(1).start();
    for _ in 0..3 {
        side(&bench, ANN).await;
    }
    assert_eq!((count(&bench, "asked"), directory.connections()), (3.0, 1), "all on one connection");
    assert_eq!(legacy.bytes().matches("X-User-Id: ann").count(), 3);
}

#[tokio::test]
async fn nobody_is_asked_past_the_limits_of_the_asked_upstream() {
    let go = Arc::new(Notify::new());
    let wait = Arc::clone(&go);
    let directory = Upstream::scripted(move |mut wire| {
        let wait = Arc::clone(&wait);
        async move {
            wire.request().await?;
            wait.notified().await;
            wire.send("HTTP/1.1 204 No Content\r\nx-user-id: ann\r\n\r\n").await
        }
    })
    .await;
    let (legacy, _modern, setup) = scene(&directory, json!({}), json!({"timeout": "1h"})).await;
    let limits = json!({"limits": {"in_flight": 1, "queue": 0}});
    let bench = setup.upstream("directory", directory.address, &limits).start();
    let mut first = bench.client().await;
    first.send(get("/pay", ANN)).await;
    eventually("it is asked", || asked(&directory) == 1).await;
    // There is no place for another question: this one goes on, as nobody's.
    assert_eq!(side(&bench, "Cookie: sid=bob\r\n").await, "legacy");
    assert_eq!(count(&bench, "failed"), 1.0);
    go.notify_one();
    assert_eq!(first.answer().await.text(), "legacy");
    assert_eq!((asked(&directory), legacy.bytes().matches("X-User-Id: ann").count()), (1, 1));
}

#[tokio::test]
async fn websockets_http2_and_copies_for_the_other_side_have_it_too() {
    let directory = directory().await;
    let more = json!({"shadow": {"percent": 100}});
    let (legacy, modern, setup) = scene(&directory, more, json!({})).await;
    let bench = setup.start();
    let (mut sender, _driver) = http2(&bench).await;
    let request = http::Request::get("http://shop.test/pay").header("cookie", "a=b").header("cookie", "sid=ann");
    let (answer, _) = sender.send_request(request.body(()).unwrap(), true).unwrap();
    assert_eq!(answer.await.unwrap().status(), 200);
    assert!(legacy.bytes().contains("X-User-Id: ann"));
    eventually("the copy came", || modern.bytes().contains("x-banyan-shadow")).await;
    assert!(modern.bytes().contains("x-user-id: ann"), "{}", modern.bytes());
    let mut socket: Client = bench.client().await;
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\nSec-WebSocket-Version: 13\r\n";
    socket.send(get("/chat", &format!("Cookie: sid=bob\r\n{upgrade}"))).await;
    assert_eq!(socket.answer().await.status, 200, "this one does not switch");
    assert!(legacy.bytes().contains("X-User-Id: bob"));
}

#[tokio::test]
async fn the_same_cookie_is_another_ones_at_another_host_also_where_a_trusted_proxy_names_the_host() {
    // Knows sessions by the place that its clients see, as whoever stands behind a proxy does.
    let directory = Upstream::scripted(|mut wire| async move {
        loop {
            let (head, _) = wire.request().await?;
            let user = if head.to_ascii_lowercase().contains("x-forwarded-host: a.test") { "ann" } else { "bob" };
            wire.send(format!("HTTP/1.1 200 OK\r\nX-User-Id: {user}\r\ncontent-length: 0\r\n\r\n")).await?;
        }
    })
    .await;
    for is_trusted in [true, false] {
        let (legacy, _modern, mut setup) = scene(&directory, json!({}), json!({})).await;
        if is_trusted {
            setup.config.trusted_proxies.push("127.0.0.0/8".parse().unwrap());
        }
        let bench = setup.start();
        for host in ["a.test", "b.test", "a.test"] {
            side(&bench, &format!("Cookie: sid=1\r\nX-Forwarded-Host: {host}\r\n")).await;
        }
        let seen = legacy.bytes().to_ascii_lowercase();
        let said = |head: &str, name: &str| head.lines().find_map(|line| Some(line.strip_prefix(name)?.to_owned()));
        // By connections, not in their order.
        let mut told: Vec<_> = seen
            .split_terminator("\r\n\r\n")
            .map(|head| (said(head, "x-forwarded-host: ").unwrap(), said(head, "x-user-id: ").unwrap()))
            .collect();
        told.sort();
        // A stranger's word is not passed on, and makes nobody ask again.
        let expected = match is_trusted {
            true => [("a.test", "ann"), ("a.test", "ann"), ("b.test", "bob")],
            false => [("shop.test", "bob"); 3],
        };
        assert_eq!(told, expected.map(|(host, user)| (host.to_owned(), user.to_owned())));
        assert_eq!(count(&bench, "asked"), if is_trusted { 2.0 } else { 1.0 });
    }
}
