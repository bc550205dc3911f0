//! Whatever shadow upstreams do, over all routes: memory grows by the budget and what the allocator keeps beside it at most, connections and
//! requests stay within theirs, and what does not fit is dropped and counted by its reason.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use serde_json::json;

use crate::harness::{Banyan, Raw, Script, Upstream, eventually, front::request, secs};

/// What all shadows may hold.
const BUDGET_KIB: u64 = 32 << 10;
/// What the allocator keeps for the threads that take it and give it back: 10 to 35 MiB were seen.
const BESIDE_KIB: u64 = 48 << 10;
const CLIENTS: usize = 24;
const EACH: usize = 40;

/// Four routes that shadow everything, bounded by nothing but the process's budget.
fn routes(monolith: &Upstream, service: &Upstream, percent: u8) -> String {
    let mut yaml = format!(
        "upstreams:\n  monolith: {{endpoints: [\"{}\"]}}\n  service: {{endpoints: [\"{}\"]}}\ndefault: monolith\nroutes:\n",
        monolith.url(),
        service.url()
    );
    for route in ["a", "b", "c", "d"] {
        yaml.push_str(&format!(
            "  - {{name: {route}, match: {{path_prefix: /{route}}}, legacy: monolith, modern: service, compare: {{}}, \
             shadow: {{percent: {percent}, methods: [GET, POST], concurrency: 10000, max_body: 8MiB, timeout: 2s}}}}\n"
        ));
    }
    yaml
}

fn kib(pid: u32, key: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find(|line| line.starts_with(key)).expect("the kernel says so");
    line.split_ascii_whitespace().nth(1).and_then(|number| number.parse().ok()).expect("a number")
}

/// The most that a process holds while this looks.
struct Peak {
    most: Arc<AtomicU64>,
    is_over: Arc<AtomicBool>,
    thread: thread::JoinHandle<()>,
}

impl Peak {
    fn of(pid: u32) -> Self {
        let (most, is_over) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (to, until) = (Arc::clone(&most), Arc::clone(&is_over));
        let thread = thread::spawn(move || {
            while !until.load(Ordering::Relaxed) {
                to.fetch_max(kib(pid, "RssAnon:"), Ordering::Relaxed);
                thread::sleep(Duration::from_millis(5));
            }
        });
        Self { most, is_over, thread }
    }

    fn end(self) -> u64 {
        self.is_over.store(true, Ordering::Relaxed);
        self.thread.join().unwrap();
        self.most.load(Ordering::Relaxed)
    }
}

/// So many clients at once, each over one connection.
async fn load(banyan: &Banyan) {
    let clients = (0..CLIENTS).map(|client| {
        let addr = banyan.http();
        tokio::spawn(async move {
            let mut raw = Raw::connect(addr).await;
            for number in 0..EACH {
                let route = ["a", "b", "c", "d"][(client + number) % 4];
                if number % 4 == 0 {
                    raw.send(request(&format!("POST /{route}"), &[], &"x".repeat(100_000))).await;
                } else {
                    raw.send(request(&format!("GET /{route}/{number}"), &[], "")).await;
                }
                assert_eq!(raw.answer().await.expect("the answering side is well").status, 200);
            }
        })
    });
    for client in clients.collect::<Vec<_>>() {
        client.await.unwrap();
    }
}

/// 16 MiB of JSON in a few KiB.
fn bomb() -> Vec<u8> {
    use std::io::Write as _;
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    let items = "0,".repeat(7 << 20);
    write!(gzip, "[{items}0]").unwrap();
    gzip.finish().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_a_shadow_upstream_does_memory_stays_bounded() {
    let body = json!({"lines": vec![json!({"sku": "a-1", "amount": "19.90"}); 5_000]}).to_string();
    let legacy_answer = Script::answer(200, &[("Content-Type", "application/json")], &body);
    let bomb = bomb();
    let bombed = {
        let mut answer = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Encoding: gzip\r\nContent-Length: {}\r\n\r\n",
            bomb.len()
        )
        .into_bytes();
        answer.extend_from_slice(&bomb);
        Script::send(answer)
    };
    let other = Script::answer(200, &[("Content-Type", "application/json")], &body.replace("19.90", "19.91"));
    let endless =
        Script::send("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1073741824\r\n\r\n")
            .then_drip(vec![b'x'; 24 << 20], 1 << 20, Duration::from_millis(1));
    let unframed = Script::send("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n").then_drip(
        vec![b' '; 24 << 20],
        1 << 20,
        Duration::from_millis(1),
    );
    for (what, script) in [
        ("is well, and differs", other),
        ("hangs", Script::stall()),
        ("resets", Script::reset()),
        ("says 1 GiB", endless),
        ("floods", unframed),
        ("unpacks to more than anybody wants", bombed),
    ] {
        let answer = legacy_answer.clone();
        let legacy = Upstream::scripted(move |_| answer.clone());
        let modern = Upstream::scripted(move |_| script.clone());
        let banyan = Banyan::with(&routes(&legacy, &modern, 0)).start().await;
        let peak = Peak::of(banyan.pid());
        load(&banyan).await;
        let without = peak.end();
        banyan.rewrite(&routes(&legacy, &modern, 100));
        eventually(secs(20), "the file is read again", async || {
            banyan.metrics().await.sum("banyan_config_reloads_total", &[("result", "accepted")]) >= 1.0
        })
        .await;
        let peak = Peak::of(banyan.pid());
        load(&banyan).await;
        let all = (CLIENTS * EACH) as f64;
        let mut by_outcome = String::new();
        eventually(secs(90), &format!("all copies are over: {what}"), async || {
            let metrics = banyan.metrics().await;
            by_outcome = [
                "sent",
                "dropped_busy",
                "dropped_requests",
                "dropped_connections",
                "dropped_budget",
                "body_too_long",
                "timeout",
                "error",
                "cancelled",
            ]
            .map(|outcome| {
                format!("{outcome} {}", metrics.sum("banyan_shadow_requests_total", &[("outcome", outcome)]))
            })
            .join(", ");
            metrics.sum("banyan_shadow_requests_total", &[]) == all
        })
        .await;
        let with = peak.end();
        println!("{what}: {without} KiB without, {with} KiB with; {by_outcome}");
        assert!(
            with < without + BUDGET_KIB + BESIDE_KIB,
            "{what}: {without} KiB without, {with} KiB with; {by_outcome}"
        );
        assert!(modern.open() <= 256, "{what}: {} connections", modern.open());
    }
}
