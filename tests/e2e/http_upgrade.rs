//! Listeners, workers and the program itself change under a connect storm: nothing is refused, reset or left without its answer.

use std::{
    io::{Read as _, Write as _},
    net::SocketAddr,
    os::unix::net::UnixStream,
    path::Path,
    time::{Duration, Instant},
};

use crate::harness::{Banyan, Raw, Script, Storm, Upstream, client::Cut, eventually, ports, secs};

/// Of either kind.
const CLIENTS: usize = 6;

pub(crate) const GET: &str = "GET / HTTP/1.1\r\nHost: storm\r\n\r\n";
const UPGRADE: &str = "GET /chat HTTP/1.1\r\nHost: storm\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\nSec-WebSocket-Version: 13\r\n\r\n";
/// 1012, "service restart".
const GOODBYE: &[u8] = b"\x88\x02\x03\xf4";
/// What a worker or a process that leaves gives to what it has in hand, and time for a busy machine.
const DRAIN: Duration = Duration::from_secs(25 + 20);

pub(crate) fn upstream() -> Upstream {
    Upstream::scripted(|seen| if seen.path() == "/chat" { Script::switch("websocket") } else { Script::ok("hello") })
}

pub(crate) fn yaml(upstream: &Upstream, keys: &str) -> String {
    format!("{keys}upstreams: {{monolith: {{endpoints: [\"{}\"]}}}}\ndefault: monolith\n", upstream.url())
}

/// So many open WebSockets, each of which has spoken.
async fn tunnels(to: SocketAddr, count: usize) -> Vec<Raw> {
    let mut tunnels = Vec::new();
    for _ in 0..count {
        let mut tunnel = Raw::connect(to).await;
        tunnel.send(UPGRADE).await;
        assert_eq!(tunnel.answer().await.unwrap().status, 101);
        tunnel.send("\x01\x02ab").await;
        assert_eq!(tunnel.exactly(4).await.unwrap(), b"\x01\x02ab");
        tunnels.push(tunnel);
    }
    tunnels
}

/// So many connections that wait for their second request.
pub(crate) async fn kept(to: SocketAddr, count: usize) -> Vec<Raw> {
    let mut kept = Vec::new();
    for _ in 0..count {
        let mut raw = Raw::connect(to).await;
        raw.send(GET).await;
        assert_eq!(raw.answer().await.unwrap().header("connection"), None);
        kept.push(raw);
    }
    kept
}

/// All of them end with notice, and in time.
async fn end_with_notice(tunnels: Vec<Raw>) {
    let end = Instant::now() + DRAIN;
    for mut tunnel in tunnels {
        let said = loop {
            match tunnel.exactly(4).await {
                Err(Cut::Silence) if Instant::now() < end => {}
                said => break said,
            }
        };
        assert_eq!(said.unwrap(), GOODBYE);
    }
}

async fn reloaded(banyan: &Banyan, count: u32) {
    eventually(secs(20), "the file is taken over", async || {
        let metrics = banyan.metrics().await;
        metrics.get("banyan_config_reloads_total", &[("result", "accepted")]) == Some(f64::from(count))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_upgrade_workers_change_in_a_connect_storm() {
    let upstream = upstream();
    let banyan = Banyan::with(&yaml(&upstream, "workers: 2\n")).start().await;
    let storm = Storm::begin(banyan.http(), CLIENTS);
    let open = tunnels(banyan.http(), 24).await;
    let kept = kept(banyan.http(), 24).await;
    for (count, workers) in [4, 1, 3, 1].into_iter().enumerate() {
        storm.goes_on().await;
        banyan.rewrite(&yaml(&upstream, &format!("workers: {workers}\n")));
        reloaded(&banyan, u32::try_from(count).unwrap() + 1).await;
        assert_eq!(banyan.status().await["file"]["restart_needed"], serde_json::json!([]));
    }
    storm.goes_on().await;
    let tally = storm.end().await;
    // Who waited for its next request meanwhile gets it answered.
    let asked = kept.len();
    let mut told_to_go = 0;
    for mut kept in kept {
        kept.send(GET).await;
        told_to_go += usize::from(kept.answer().await.unwrap().header("connection") == Some("close"));
    }
    assert!(0 < told_to_go && told_to_go < asked, "{told_to_go} of {asked}");
    let all = tally.answered.iter().sum::<usize>() + 2 * asked;
    let metrics = banyan.metrics().await;
    let counted = metrics.get("banyan_http_requests_total", &[("side", "legacy"), ("code", "200")]);
    assert_eq!(counted, Some(f64::from(u32::try_from(all).unwrap())), "{tally:?}");
    // Of two workers one is left: its tunnels stay, the other's are closed with notice.
    let mut left = 0_u64;
    eventually(DRAIN, "one worker's tunnels are closed", async || {
        // First: what is counted after this, no worker that goes closes any more.
        let alone = threads(&banyan) == 1;
        let status = banyan.status().await;
        let metrics = banyan.metrics().await;
        let tunnels = metrics.get("banyan_tunnels", &[("side", "legacy")]).unwrap();
        left = status["proxy"]["connections"].as_u64().unwrap();
        alone && left < 24 && tunnels == f64::from(u32::try_from(left).unwrap())
    })
    .await;
    for mut tunnel in open {
        tunnel.send("\x01\x02cd").await;
        match tunnel.exactly(4).await.unwrap().as_slice() {
            GOODBYE => {}
            said => {
                assert_eq!(said, b"\x01\x02cd");
                left -= 1;
            }
        }
    }
    assert_eq!(left, 0);
}

/// Workers that the process has.
fn threads(banyan: &Banyan) -> usize {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", banyan.pid())).unwrap();
    let names = tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok());
    names.filter(|name| name.starts_with("banyan-http-")).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_upgrade_listeners_come_and_go_in_a_connect_storm() {
    let upstream = upstream();
    let mut banyan = Banyan::with(&yaml(&upstream, "workers: 2\n")).start().await;
    let second = SocketAddr::from(([127, 0, 0, 1], ports::reserve()));
    let storm = Storm::begin(banyan.http(), CLIENTS);
    for round in 0..3 {
        storm.goes_on().await;
        banyan.listens_too(&[second]);
        banyan.rewrite(&yaml(&upstream, "workers: 2\n"));
        reloaded(&banyan, 2 * round + 1).await;
        let (mut kept, open) = (Raw::connect(second).await, tunnels(second, 1).await);
        assert_eq!(Raw::get(second, "/").await.text(), "hello");
        storm.goes_on().await;
        banyan.listens_too(&[]);
        banyan.rewrite(&yaml(&upstream, "workers: 2\n"));
        reloaded(&banyan, 2 * round + 2).await;
        eventually(secs(5), "nobody listens there any more", async || Raw::try_connect(second).await.is_err()).await;
        // Who was there is answered once more, and a tunnel stays.
        kept.send(GET).await;
        assert_eq!(kept.answer().await.unwrap().header("connection"), Some("close"));
        for mut tunnel in open {
            tunnel.send("\x01\x02cd").await;
            assert_eq!(tunnel.exactly(4).await.unwrap(), b"\x01\x02cd");
        }
    }
    storm.goes_on().await;
    assert_eq!(storm.end().await.told_to_go, 0);
}

#[tokio::test]
async fn http_upgrade_an_address_that_is_taken_rejects_the_file_with_its_line() {
    let upstream = upstream();
    let mut banyan = Banyan::with(&yaml(&upstream, "")).start().await;
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    banyan.listens_too(&[taken.local_addr().unwrap()]);
    banyan.rewrite(&yaml(&upstream, "workers: 7\n"));
    let file = eventually(secs(10), "the file is refused", async || {
        let file = banyan.status().await["file"].clone();
        (file["in_force"] == false).then_some(file)
    })
    .await;
    let why = file["first_error"].as_str().unwrap();
    assert!(why.contains("listeners[1].bind: cannot listen on"), "{why}");
    assert_eq!(Raw::get(banyan.http(), "/").await.text(), "hello");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_upgrade_the_program_changes_in_a_connect_storm() {
    let upstream = upstream();
    let second = SocketAddr::from(([127, 0, 0, 1], ports::reserve()));
    let mut banyan = Banyan::with(&yaml(&upstream, "workers: 2\n")).start().await;
    let storm = Storm::begin(banyan.http(), CLIENTS);
    let mut before = Vec::new();
    for round in 0..3 {
        storm.goes_on().await;
        let open = tunnels(banyan.http(), 8).await;
        let kept = kept(banyan.http(), 8).await;
        let old = banyan.take_over().await;
        // The new one answers, here and at its admin listener.
        storm.goes_on().await;
        let status = eventually(secs(20), "it tells of itself", async || {
            let status = banyan.status().await;
            (status["file"]["reloads"] == 0 && status["ready"] == true).then_some(status)
        })
        .await;
        assert_eq!(status["proxy"]["listeners"].as_array().unwrap().len(), if round < 2 { 1 } else { 2 });
        for mut kept in kept {
            kept.send(GET).await;
            assert_eq!(kept.answer().await.unwrap().header("connection"), Some("close"));
        }
        before.push((old, tokio::spawn(end_with_notice(open))));
        if round == 1 {
            banyan.listens_too(&[second]);
            banyan.rewrite(&yaml(&upstream, "workers: 3\n"));
            reloaded(&banyan, 1).await;
        }
    }
    assert_eq!(Raw::get(second, "/").await.text(), "hello");
    storm.goes_on().await;
    let tally = storm.end().await;
    assert!(tally.told_to_go > 0, "{tally:?}");
    for (mut old, open) in before {
        open.await.unwrap();
        assert_eq!(old.wait(DRAIN).and_then(|status| status.code()), Some(0), "{}", banyan.log());
    }
    assert_eq!(Raw::get(banyan.http(), "/").await.text(), "hello");
    assert_eq!(banyan.stop(DRAIN).code(), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_upgrade_one_that_does_not_become_ready_leaves_the_other_serving() {
    let upstream = upstream();
    let mut banyan = Banyan::with(&yaml(&upstream, "workers: 2\n")).start().await;
    let storm = Storm::begin(banyan.http(), CLIENTS);
    storm.goes_on().await;
    // A file that is refused.
    banyan.rewrite("workers: many\n");
    assert_eq!(banyan.another(&["--take-over"]).wait(secs(60)).and_then(|status| status.code()), Some(78));
    // A file that is right, and an address that is not to be had.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    banyan.listens_too(&[taken.local_addr().unwrap()]);
    banyan.rewrite(&yaml(&upstream, ""));
    assert_eq!(banyan.another(&["--take-over"]).wait(secs(60)).and_then(|status| status.code()), Some(1));
    eventually(secs(10), "the running one says so", async || {
        banyan
            .log()
            .contains("another process asked to take over, and did not: it ended before it was ready; this one goes on")
    })
    .await;
    // One of another time.
    let socket = banyan.folder().join("state/take-over.sock");
    let hello =
        |protocol| format!("{{\"say\": \"hello\", \"protocol\": {protocol}, \"version\": \"99.0.0\", \"pid\": 1}}\n");
    let said = converse(&socket, &hello(99));
    assert!(said.contains("refused") && said.contains("stop the one, then start the other"), "{said}");
    // One that gets the sockets, and is not heard of again.
    let said = converse(&socket, &hello(1));
    assert!(said.contains("\"listener\"") && said.contains("\"admin\"") && said.ends_with("}\n"), "{said}");
    // One that does not know what it wants.
    converse(&socket, "GET / HTTP/1.1\r\n\r\n");
    // One without `--take-over`.
    let refused = banyan.another(&[]).wait(secs(60));
    assert_eq!(refused.and_then(|status| status.code()), Some(1));
    assert!(banyan.log().contains("Address already in use"), "{}", banyan.log());
    storm.goes_on().await;
    assert_eq!(storm.end().await.told_to_go, 0);
    // And then one that does it.
    drop(taken);
    banyan.listens_too(&[]);
    banyan.rewrite(&yaml(&upstream, ""));
    let mut old = banyan.take_over().await;
    assert_eq!(Raw::get(banyan.http(), "/").await.text(), "hello");
    assert_eq!(old.wait(DRAIN).and_then(|status| status.code()), Some(0));
}

/// Says this at the socket, and gives what is said there until it falls silent or ends.
fn converse(socket: &Path, line: &str) -> String {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(secs(2))).unwrap();
    stream.write_all(line.as_bytes()).unwrap();
    let (mut said, mut piece) = (Vec::new(), [0; 4096]);
    while let Ok(count @ 1..) = stream.read(&mut piece) {
        said.extend_from_slice(&piece[..count]);
    }
    String::from_utf8(said).unwrap()
}
