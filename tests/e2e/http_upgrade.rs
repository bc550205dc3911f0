//! Listeners, workers and the program itself change under a connect storm: nothing is refused, reset or left without its answer.

use std::{net::SocketAddr, time::Duration};

use crate::harness::{Banyan, Raw, Script, Storm, Upstream, eventually, ports, secs};

/// Of either kind.
const CLIENTS: usize = 6;

const GET: &str = "GET / HTTP/1.1\r\nHost: storm\r\n\r\n";
const UPGRADE: &str = "GET /chat HTTP/1.1\r\nHost: storm\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\nSec-WebSocket-Version: 13\r\n\r\n";
/// 1012, "service restart".
const GOODBYE: &[u8] = b"\x88\x02\x03\xf4";
/// What a worker or a process that leaves gives to what it has in hand, and time for a busy machine.
const DRAIN: Duration = Duration::from_secs(25 + 20);

fn upstream() -> Upstream {
    Upstream::scripted(|seen| if seen.path() == "/chat" { Script::switch("websocket") } else { Script::ok("hello") })
}

fn yaml(upstream: &Upstream, keys: &str) -> String {
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
async fn kept(to: SocketAddr, count: usize) -> Vec<Raw> {
    let mut kept = Vec::new();
    for _ in 0..count {
        let mut raw = Raw::connect(to).await;
        raw.send(GET).await;
        assert_eq!(raw.answer().await.unwrap().header("connection"), None);
        kept.push(raw);
    }
    kept
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
        let status = banyan.status().await;
        let metrics = banyan.metrics().await;
        let tunnels = metrics.get("banyan_tunnels", &[("side", "legacy")]).unwrap();
        left = status["proxy"]["connections"].as_u64().unwrap();
        left < 24 && tunnels == f64::from(u32::try_from(left).unwrap()) && threads(&banyan) == 1
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
