//! Endpoints that fail their checks, or too many requests in a row.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use serde_json::{Value, json};

use super::{Bench, Setup, Upstream, eventually};

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

/// Answers 500 to everything while it is sick, else its name.
struct Patient {
    upstream: Upstream,
    is_sick: Arc<AtomicBool>,
    /// Requests other than checks.
    asked: Arc<AtomicUsize>,
}

impl Patient {
    async fn new(name: &'static str) -> Self {
        let (is_sick, asked) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let (sick, count) = (Arc::clone(&is_sick), Arc::clone(&asked));
        let upstream = Upstream::scripted(move |mut wire| {
            let (sick, count) = (Arc::clone(&sick), Arc::clone(&count));
            async move {
                loop {
                    let (head, _) = wire.request().await?;
                    count.fetch_add(usize::from(!head.contains("/livez")), Ordering::SeqCst);
                    let status = if sick.load(Ordering::SeqCst) { "500 Sick" } else { "200 OK" };
                    let length = name.len();
                    wire.send(format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\n\r\n{name}")).await?;
                }
            }
        })
        .await;
        Self { upstream, is_sick, asked }
    }

    fn is(&self, sick: bool) {
        self.is_sick.store(sick, Ordering::SeqCst);
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

fn bench(endpoints: [SocketAddr; 2], more: &Value) -> Bench {
    let mut settings = json!({ "endpoints": endpoints.map(|address| format!("http://{address}")) });
    settings.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    Setup::new(endpoints[0]).upstream("legacy", endpoints[0], &settings).start()
}

fn states(bench: &Bench) -> [String; 2] {
    let endpoints = &bench.proxy.status().upstreams[0].endpoints;
    [0, 1].map(|at| endpoints[at].state.as_str().to_owned())
}

async fn become_states(bench: &Bench, wanted: [&str; 2]) {
    eventually(&format!("endpoints are {wanted:?}"), || states(bench) == wanted).await;
}

fn checks() -> Value {
    json!({ "health": { "path": "/livez", "every": "20ms", "unhealthy_after": 2, "healthy_after": 2 } })
}

#[tokio::test]
async fn an_endpoint_that_fails_its_checks_gets_no_requests_until_it_passes_them() {
    let (one, two) = (Patient::new("one").await, Patient::new("two").await);
    let bench = bench([one.upstream.address, two.upstream.address], &checks());
    one.is(true);
    become_states(&bench, ["unhealthy", "up"]).await;
    let before = one.asked();
    for _ in 0..20 {
        assert_eq!(bench.ask(GET).await.text(), "two");
    }
    assert_eq!(one.asked(), before);
    assert!(bench.metric("banyan_upstream_endpoints", &[("upstream", "legacy"), ("state", "unhealthy")]) > 0.5);
    one.is(false);
    become_states(&bench, ["up", "up"]).await;
    for _ in 0..100 {
        if bench.ask(GET).await.text() == "one" {
            return;
        }
    }
    panic!("it never came back");
}

#[tokio::test]
async fn an_endpoint_that_comes_back_is_begun_slowly_with() {
    for (slow_start, least, most) in [(json!("1h"), 0, 60), (Value::Null, 100, 300)] {
        let (one, two) = (Patient::new("one").await, Patient::new("two").await);
        let mut settings = checks();
        settings["slow_start"] = slow_start;
        let bench = bench([one.upstream.address, two.upstream.address], &settings);
        one.is(true);
        become_states(&bench, ["unhealthy", "up"]).await;
        one.is(false);
        become_states(&bench, ["up", "up"]).await;
        let before = one.asked();
        let mut client = bench.client().await;
        for _ in 0..300 {
            client.send(GET).await;
            client.answer().await;
        }
        // A tenth of the other's share in the first minutes of the hour, else half of all.
        let came = one.asked() - before;
        assert!((least..most).contains(&came), "{came} of 300");
    }
}

#[tokio::test]
async fn when_all_endpoints_are_unhealthy_all_are_used() {
    let (one, two) = (Patient::new("one").await, Patient::new("two").await);
    let bench = bench([one.upstream.address, two.upstream.address], &checks());
    one.is(true);
    two.is(true);
    become_states(&bench, ["unhealthy", "unhealthy"]).await;
    let (before, mut came) = ([one.asked(), two.asked()], false);
    for _ in 0..100 {
        // The upstream's own answer, whatever it is.
        assert_eq!(bench.ask(GET).await.status, 500);
        came |= one.asked() > before[0] && two.asked() > before[1];
    }
    assert!(came, "only one of two was asked");
}

#[tokio::test]
async fn an_endpoint_that_is_ejected_comes_back_after_its_time() {
    let (one, two) = (Patient::new("one").await, Patient::new("two").await);
    let ejection = json!({ "ejection": { "after": 3, "for": "500ms" } });
    let bench = bench([one.upstream.address, two.upstream.address], &ejection);
    one.is(true);
    for _ in 0..200 {
        bench.ask(GET).await;
        if states(&bench)[0] == "ejected" {
            break;
        }
        tokio::task::yield_now().await;
    }
    become_states(&bench, ["ejected", "up"]).await;
    assert!(bench.metric("banyan_upstream_events_total", &[("event", "ejected")]) > 0.5);
    one.is(false);
    become_states(&bench, ["up", "up"]).await;
}

#[tokio::test]
async fn never_more_than_the_share_is_ejected() {
    let (one, two) = (Patient::new("one").await, Patient::new("two").await);
    let ejection = json!({ "ejection": { "after": 1, "for": "10m", "at_most_percent": 50 } });
    let bench = bench([one.upstream.address, two.upstream.address], &ejection);
    one.is(true);
    two.is(true);
    let ejected = || bench.metric("banyan_upstream_endpoints", &[("state", "ejected")]) > 0.5;
    for _ in 0..500 {
        bench.ask(GET).await;
        if ejected() {
            break;
        }
    }
    eventually("one is ejected", ejected).await;
    let left = usize::from(states(&bench)[0] == "ejected");
    // The other one has errors in a row too, over several looks of who decides.
    for _ in 0..20 {
        assert_eq!(bench.ask(GET).await.status, 500);
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert_eq!(states(&bench)[left], "up");
}
