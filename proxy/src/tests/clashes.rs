//! Both sides set a cookie of the same name: `status` and a metric say so, until the file mends it.

use serde_json::{Value, json};

use super::{Bench, Setup, Upstream, eventually};
use crate::CookieClash;

async fn sets(lines: &'static str) -> Upstream {
    Upstream::scripted(move |mut wire| async move {
        loop {
            wire.request().await?;
            wire.send(format!("HTTP/1.1 200 OK\r\n{lines}content-length: 0\r\n\r\n")).await?;
        }
    })
    .await
}

fn route(more: Value) -> Value {
    let mut route =
        json!({"name": "pay", "match": {"path_prefix": "/pay"}, "legacy": "legacy", "modern": "modern", "weight": 100});
    if let Value::Object(more) = more {
        route.as_object_mut().unwrap().extend(more);
    }
    route
}

async fn get(bench: &Bench, path: &str) {
    assert_eq!(bench.ask(&format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n")).await.status, 200);
}

fn clashes(bench: &Bench) -> Vec<CookieClash> {
    bench.proxy.status().cookie_clashes
}

#[tokio::test]
async fn a_cookie_that_both_sides_set_is_told_once_and_no_more_when_it_is_renamed() {
    let legacy = sets("Set-Cookie: sid=1; Path=/\r\nSet-Cookie: csrf=1; Path=/orders\r\nSet-Cookie: lang=de\r\n").await;
    let modern = sets("Set-Cookie: csrf=2\r\nSet-Cookie: sid=2; HttpOnly\r\nSet-Cookie: lang=en\r\n").await;
    let setup = |more| Setup::new(legacy.address).upstream("modern", modern.address, &json!({})).route(route(more));
    let bench = setup(json!({})).start();
    let told = async |expected: &[&str]| {
        for _ in 0..3 {
            get(&bench, "/pay").await;
            get(&bench, "/orders").await;
        }
        // The last one that an answer sets is among them: what comes before it was looked at by then.
        eventually("they are seen", || clashes(&bench).iter().any(|clash| clash.cookie == "lang")).await;
        let clash = |cookie: &&str| CookieClash {
            cookie: (*cookie).to_owned(),
            legacy_route: "default".to_owned(),
            modern_route: "pay".to_owned(),
        };
        let mut found = clashes(&bench);
        found.sort_by(|one, other| other.cookie.cmp(&one.cookie));
        assert_eq!(found, expected.iter().map(clash).collect::<Vec<_>>());
        #[expect(clippy::cast_precision_loss, reason = "two at most")]
        let count = expected.len() as f64;
        assert_eq!(bench.metric("banyan_cookie_clashes", &[]), count);
    };
    told(&["sid", "lang"]).await;
    // A reload that changes nothing of it forgets nothing.
    let next = setup(json!({"weight": 50}));
    bench.proxy.reload(&next.config, &next.links).unwrap();
    assert_eq!(clashes(&bench).len(), 2);
    for mended in [json!({"modern": {"rename": {"sid": "m_sid"}}}), json!({"shared": ["sid"]})] {
        let next = setup(json!({"cookies": mended}));
        bench.proxy.reload(&next.config, &next.links).unwrap();
        assert_eq!(clashes(&bench), Vec::new());
        told(&["lang"]).await;
    }
    // Back again: what is seen then is told.
    let next = setup(json!({}));
    bench.proxy.reload(&next.config, &next.links).unwrap();
    told(&["sid", "lang"]).await;
}

#[tokio::test]
async fn an_upstream_that_sets_ever_new_cookies_fills_its_own_jar_alone() {
    let random = Upstream::scripted(|mut wire| async move {
        for number in 0.. {
            wire.request().await?;
            let cookie = format!("Set-Cookie: c-{}-{number}=1\r\n", wire.number);
            wire.send(format!("HTTP/1.1 200 OK\r\n{cookie}content-length: 0\r\n\r\n")).await?;
        }
        Ok(())
    })
    .await;
    let (legacy, modern) = (sets("Set-Cookie: sid=1; Path=/\r\n").await, sets("Set-Cookie: sid=2; Path=/\r\n").await);
    let noisy = json!({"name": "noisy", "match": {"path_prefix": "/noisy"}, "modern": "noisy"});
    let bench = Setup::new(legacy.address)
        .workers(1)
        .upstream("modern", modern.address, &json!({}))
        .upstream("noisy", random.address, &json!({}))
        .route(route(json!({})))
        .route(noisy)
        .start();
    let mut client = bench.client().await;
    for _ in 0..500 {
        client.send("GET /noisy HTTP/1.1\r\nHost: a\r\n\r\n").await;
        client.answer().await;
    }
    get(&bench, "/pay").await;
    get(&bench, "/else").await;
    eventually("others are seen", || clashes(&bench).len() == 1).await;
}
