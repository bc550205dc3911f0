//! The page of the admin listener in real Chromium: signing in, the rows, the address that keeps filter and order, marks of reloads, a refused
//! file, differences and the rule that ignores one, syncs, an outage. The scenes are in `tests/page/scenes.mjs`.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use serde_json::json;

use crate::harness::{Banyan, Raw, Scene, Script, Shop, Upstream, eventually, secs};

const VIEW: &str = "view-0123456789abcdef0123456789abcdef";
const OPERATE: &str = "operate-0123456789abcdef0123456789abcdef";
const SECRET: &str = "cookie-secret-0123456789abcdef0123456789";

/// The monolith, and a service with two faults: another type of amount, and an error now and then.
struct Sides {
    legacy: Upstream,
    modern: Upstream,
}

/// Asks until it is dropped.
struct Traffic(tokio::task::JoinHandle<()>);

// === impl Sides ===

impl Sides {
    fn start() -> Self {
        let count = AtomicU64::new(0);
        let legacy = Upstream::scripted(move |_| {
            let at = count.fetch_add(1, Ordering::Relaxed);
            Script::json(&json!({"id": 7, "amount": "19.90", "at": at})).after(Duration::from_millis(8))
        });
        let modern = Upstream::scripted(move |request| {
            if request.path().starts_with("/payments") && rand::random_range(0..10) == 0 {
                return Script::answer(500, &[], "no");
            }
            Script::json(&json!({"id": 7, "amount": 19.9, "at": -1})).after(Duration::from_millis(2))
        });
        Self { legacy, modern }
    }

    fn file(&self) -> String {
        format!(
            "secret: {SECRET}\nupstreams:\n  monolith: {{endpoints: [\"{}\"]}}\n  service: {{endpoints: [\"{}\"]}}\ndefault: monolith\nroutes:\n\
             \x20 - name: payments\n    match: {{path_prefix: /payments}}\n    legacy: monolith\n    modern: service\n    weight: 50\n    \
             sticky: [{{header: x-user-id}}]\n    shadow: {{percent: 100}}\n    compare: {{}}\n\
             \x20 - name: orders\n    match: [{{path_prefix: /orders}}, {{host: orders.shop.example}}]\n    legacy: monolith\n    modern: service\n    \
             shadow: {{percent: 100}}\n    compare: {{noise: {{resend: 100}}}}\n\
             \x20 - name: accounts\n    match: {{path_prefix: /accounts, methods: [GET, POST]}}\n    legacy: monolith\n    modern: service\n    weight: 100\n\
             \x20 - name: inventory\n    match: {{path_prefix: /inventory}}\n    legacy: monolith\n",
            self.legacy.url(),
            self.modern.url(),
        )
    }
}

// === impl Traffic ===

impl Traffic {
    fn to(banyan: SocketAddr) -> Self {
        let user = Arc::new(AtomicU64::new(0));
        Self(tokio::spawn(async move {
            loop {
                for path in ["/payments/7", "/payments/8", "/orders/1", "/accounts/3", "/"] {
                    let user = user.fetch_add(1, Ordering::Relaxed) % 200;
                    let request = format!(
                        "GET {path} HTTP/1.1\r\nHost: shop.example\r\nX-User-Id: u{user}\r\nConnection: close\r\n\r\n"
                    );
                    // What is stopped in the middle answers nobody.
                    if let Ok(mut raw) = Raw::try_connect(banyan).await {
                        raw.send(request).await;
                        drop(raw.answer().await);
                    }
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }))
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn base(banyan: &Banyan) -> String {
    format!("http://{}/", banyan.admin())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn page_signs_in_once_and_keeps_no_token() {
    let sides = Sides::start();
    let keys = format!("tokens: {{view: {VIEW}, operate: {OPERATE}}}");
    let banyan = Banyan::with_admin(&keys, &sides.file()).start().await;
    Scene::begin("sign_in", &json!({"base": base(&banyan), "view": VIEW, "operate": OPERATE})).ends().await;
    let log = banyan.log();
    assert!(!log.contains(VIEW) && !log.contains(OPERATE), "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn page_shows_routes_by_order_filter_and_keyboard_from_400_pixels_to_wide() {
    let sides = Sides::start();
    let banyan = Banyan::with(&sides.file()).start().await;
    let _traffic = Traffic::to(banyan.http());
    Scene::begin("routes", &json!({"base": base(&banyan)})).ends().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn page_marks_a_reload_and_shows_a_refused_file_without_its_secret() {
    let sides = Sides::start();
    let banyan = Banyan::with(&sides.file()).start().await;
    let _traffic = Traffic::to(banyan.http());
    Scene::begin("reload", &json!({"base": base(&banyan), "file": banyan.file(), "secret": SECRET})).ends().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn page_shows_differences_and_copies_a_rule_that_the_file_takes() {
    let sides = Sides::start();
    let banyan = Banyan::with(&sides.file()).start().await;
    let _traffic = Traffic::to(banyan.http());
    Scene::begin("differences", &json!({"base": base(&banyan), "file": banyan.file()})).ends().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn page_shows_both_flows_of_a_sync() {
    let shop = Shop::fresh().await;
    let banyan = Banyan::with(&shop.file("legacy")).start().await;
    Scene::begin("syncs", &json!({"base": base(&banyan)})).ends().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn page_walks_pauses_and_rolls_back_a_rollout_for_who_may_operate() {
    let sides = Sides::start();
    let rollout = "weight: 50\n    rollout: {steps: [5, 25, 50], every: 15m, min_requests: 1000, gates: {latency_p99: {max: 30s}}}\n";
    let yaml = sides.file().replacen("weight: 50\n", rollout, 1);
    let banyan = Banyan::with_admin(&format!("tokens: {{operate: {OPERATE}}}"), &yaml).start().await;
    let _traffic = Traffic::to(banyan.http());
    Scene::begin("rollout", &json!({"base": base(&banyan), "operate": OPERATE})).ends().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn page_says_when_banyan_is_gone_and_lives_again_with_it() {
    let sides = Sides::start();
    let mut banyan = Banyan::with(&sides.file()).start().await;
    let mut scene = Scene::begin("outage", &json!({"base": base(&banyan)}));
    scene.reaches("seen").await;
    assert!(banyan.stop(secs(20)).success());
    scene.reaches("lost").await;
    banyan.start_again().await;
    scene.ends().await;
}

/// Whoever opens streams without end takes the places of readers, and nothing else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_are_bounded_end_with_their_connection_and_hold_up_nobody() {
    let sides = Sides::start();
    let banyan = Banyan::with(&sides.file()).start().await;
    let ask = format!("GET /api/v1/stream HTTP/1.1\r\nHost: {}\r\n\r\n", banyan.admin());
    let mut readers = Vec::new();
    for _ in 0..16 {
        let mut raw = Raw::connect(banyan.admin()).await;
        raw.send(&ask).await;
        let head = raw.exactly(400).await.unwrap();
        let head = String::from_utf8_lossy(&head).into_owned();
        assert!(head.starts_with("HTTP/1.1 200") && head.contains("application/x-ndjson"), "{head}");
        readers.push(raw);
    }
    assert_eq!(Raw::get(banyan.admin(), "/api/v1/stream").await.status, 503);
    // None of them reads on; the status and the answering path do not notice.
    assert_eq!(Raw::get(banyan.admin(), "/api/v1/status").await.status, 200);
    assert_eq!(Raw::get(banyan.http(), "/payments/7").await.status, 200);
    drop(readers);
    eventually(secs(20), "there is room again", async || {
        let mut raw = Raw::connect(banyan.admin()).await;
        raw.send(&ask).await;
        raw.exactly(12).await.is_ok_and(|head| head == b"HTTP/1.1 200")
    })
    .await;
}
