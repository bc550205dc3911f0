//! Which side answers, through real sockets: the rules of weight, owner, own writes, stickiness and sending again.

use std::{
    collections::BTreeMap,
    net::{SocketAddr, TcpListener},
    time::Duration,
};

use banyan_proxy::links::Owner;
use serde_json::{Value, json};

use crate::harness::{Front, Raw, Script, Upstream, client::Answer, front::request, secs};

const STEP: Option<Duration> = Some(Duration::ZERO);

/// A route `pay` under `/pay` with both sides, and more.
fn pay(more: impl Into<Value>) -> Value {
    let more = more.into();
    let mut route = json!({"name": "pay", "match": {"path_prefix": "/pay"}, "legacy": "monolith", "modern": "service",
        "sticky": [{"header": "x-user-id"}]});
    route.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!([route])
}

struct Sides {
    legacy: Upstream,
    modern: Upstream,
    front: Front,
}

// === impl Sides ===

impl Sides {
    fn new(more: Value) -> Self {
        let (legacy, modern) = (Upstream::named("legacy"), Upstream::named("modern"));
        let front = Front::start(legacy.addr(), &modern, pay(more));
        Self { legacy, modern, front }
    }

    /// Who answers this user.
    async fn side(&self, line: &str, user: &str) -> String {
        self.front.ask(line, &[("X-User-Id", user)]).await.text()
    }
}

/// The cookie that an answer sets, as a browser sends it back.
fn cookie(answer: &Answer, name: &str) -> Option<String> {
    let pairs = answer.headers("set-cookie").into_iter().filter_map(|line| line.split(';').next());
    pairs.map(str::to_owned).find(|pair| pair.starts_with(&format!("{name}=")))
}

/// An address where nothing listens.
fn nowhere() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

#[tokio::test]
async fn reads_follow_the_weight_and_writes_follow_the_owner() {
    let sides = Sides::new(json!({"sync": "money", "weight": 100}));
    assert_eq!(sides.side("GET /pay/1", "ann").await, "modern");
    assert_eq!(sides.side("POST /pay", "bob").await, "legacy");
    assert_eq!(sides.side("DELETE /pay/1", "carl").await, "legacy");
    sides.front.data_says(Owner::Modern, STEP);
    assert_eq!(sides.side("POST /pay", "dora").await, "modern");
    assert_eq!(sides.front.ask("GET /other", &[]).await.text(), "legacy");
}

#[tokio::test]
async fn the_same_user_stays_on_the_same_side_and_raising_the_weight_moves_nobody_back() {
    let mut sides = Sides::new(json!({"weight": 5}));
    let mut seen: BTreeMap<String, String> = BTreeMap::new();
    for weight in [5, 30, 60, 100] {
        sides.front.reload(pay(json!({"weight": weight})));
        for user in 0..60 {
            let user = format!("user-{user}");
            let side = sides.side("GET /pay", &user).await;
            let before = seen.insert(user.clone(), side.clone());
            assert!(before.as_deref() != Some("modern") || side == "modern", "{user} went back at {weight}");
            assert_eq!(sides.side("POST /pay", &user).await, side, "no sync: writes follow the weight too");
        }
    }
    assert!(seen.values().all(|side| side == "modern"));
}

#[tokio::test]
async fn a_user_whom_a_lowered_weight_moves_back_is_counted_once() {
    let mut sides = Sides::new(json!({"weight": 100}));
    let lowered = |front: &Front| {
        front.metrics().sum("banyan_side_moves_total", &[("route", "pay"), ("reason", "weight_lowered")])
    };
    sides.side("GET /pay", "ann").await;
    sides.front.reload(pay(json!({"weight": 0})));
    for _ in 0..3 {
        assert_eq!(sides.side("GET /pay", "ann").await, "legacy");
        assert_eq!(sides.side("GET /pay", "bob").await, "legacy");
    }
    assert_eq!(lowered(&sides.front), 2.0);
    sides.front.reload(pay(json!({"weight": 100})));
    assert_eq!(sides.side("GET /pay", "ann").await, "modern");
    assert_eq!(lowered(&sides.front), 2.0);
}

#[tokio::test]
async fn a_new_users_first_answer_follows_the_cookie_that_it_makes() {
    let sides = Sides::new(json!({"weight": 50, "sticky": []}));
    let mut modern = 0;
    for _ in 0..40 {
        let first = sides.front.ask("GET /pay", &[("Sec-Fetch-Mode", "navigate")]).await;
        let id = cookie(&first, "banyan_id").expect("a page load gets the cookie");
        let next = sides.front.ask("GET /pay/2", &[("Cookie", &id)]).await;
        assert_eq!(next.text(), first.text());
        assert_eq!(cookie(&next, "banyan_id"), None);
        modern += usize::from(first.text() == "modern");
    }
    assert!((5..=35).contains(&modern), "{modern} of 40");
    let program = sides.front.ask("GET /pay", &[("Accept", "application/json")]).await;
    assert_eq!((cookie(&program, "banyan_id"), program.text()), (None, "legacy".to_owned()));
}

#[tokio::test]
async fn banyans_cookie_is_never_on_an_answer_that_a_cache_may_share() {
    let page = |_: &_| Script::answer(200, &[("Cache-Control", "public, max-age=60")], "page");
    let (legacy, modern) = (Upstream::scripted(page), Upstream::scripted(page));
    let front = Front::start(legacy.addr(), &modern, pay(json!({"weight": 50})));
    let answer = front.ask("GET /pay", &[("Accept", "text/html")]).await;
    assert_eq!(answer.headers("set-cookie"), Vec::<&str>::new());
    assert_eq!(answer.header("cache-control"), Some("public, max-age=60"));
}

#[tokio::test]
async fn a_user_reads_what_they_wrote_by_cookie_or_by_key() {
    let sides = Sides::new(json!({"sync": "money", "weight": 100}));
    sides.front.data_stalls();
    let wrote = sides.front.ask("POST /pay", &[]).await;
    let cookie = cookie(&wrote, "banyan_w").expect("a write's answer has the cookie");
    assert_eq!(sides.front.ask("GET /pay", &[("Cookie", &cookie)]).await.text(), "legacy");
    assert_eq!(sides.front.ask("GET /pay", &[]).await.text(), "modern");

    assert_eq!(sides.side("PUT /pay/1", "ann").await, "legacy");
    // Each on a connection of its own, so that both workers are asked.
    for _ in 0..8 {
        assert_eq!(sides.side("GET /pay/1", "ann").await, "legacy");
        assert_eq!(sides.side("GET /pay/1", "bob").await, "modern");
    }
    sides.front.data_goes_on();
    assert_eq!(sides.side("GET /pay/1", "ann").await, "modern");
    assert_eq!(sides.front.ask("GET /pay", &[("Cookie", &cookie)]).await.text(), "modern");
    let moves = sides.front.metrics().sum("banyan_side_moves_total", &[("route", "pay"), ("reason", "own_writes")]);
    assert!(moves >= 9.0, "{moves}");
}

#[tokio::test]
async fn while_the_lag_is_above_its_limit_or_unknown_all_reads_go_to_the_owner() {
    let sides = Sides::new(json!({"sync": "money", "weight": 100}));
    for (lag, expected) in [(Some(secs(5)), "modern"), (Some(secs(6)), "legacy"), (None, "legacy"), (STEP, "modern")] {
        sides.front.data_says(Owner::Legacy, lag);
        assert_eq!(sides.side("GET /pay", "ann").await, expected, "{lag:?}");
        assert_eq!(sides.front.route("pay").reads_at_owner, expected == "legacy");
    }
    assert_eq!(sides.front.metrics().sum("banyan_side_moves_total", &[("route", "pay"), ("reason", "lag")]), 2.0);
}

#[tokio::test]
async fn a_write_on_a_synced_route_never_changes_side() {
    let modern = Upstream::named("modern");
    let front = Front::start(nowhere(), &modern, pay(json!({"sync": "money", "weight": 100})));
    let refused = front.ask("POST /pay", &[("X-User-Id", "ann")]).await;
    assert_eq!(refused.status, 503, "{}", refused.text());
    assert!(refused.header("retry-after").is_some());
    assert_eq!(refused.json()["route"], "pay");
    assert_eq!(modern.seen().len(), 0);

    for script in [Script::reset, Script::hang_up] {
        let legacy = Upstream::scripted(move |_| script());
        let front = Front::start(legacy.addr(), &modern, pay(json!({"sync": "money", "weight": 100})));
        for line in ["POST /pay", "PUT /pay/1"] {
            let unknown = front.ask(line, &[("X-User-Id", "ann")]).await;
            assert_eq!(unknown.status, 502, "{}", unknown.text());
            // It may have been written: this user must look at the owner.
            assert!(cookie(&unknown, "banyan_w").is_some());
        }
        assert_eq!(legacy.seen().len(), 3, "a PUT goes once more to its owner, a POST does not");
    }
    assert_eq!(modern.seen().len(), 0);
}

#[tokio::test]
async fn a_read_may_cross_and_says_when_it_is_stale() {
    let legacy = Upstream::named("legacy");
    let routes = pay(json!({"sync": "money", "weight": 100}));
    let front = Front::with_service(legacy.addr(), json!({"endpoints": [format!("http://{}", nowhere())]}), routes);
    let crossed = front.ask("GET /pay", &[]).await;
    assert_eq!((crossed.text(), crossed.header("x-banyan-stale")), ("legacy".to_owned(), None));
    front.data_says(Owner::Modern, STEP);
    let stale = front.ask("GET /pay", &[]).await;
    assert_eq!((stale.text(), stale.header("x-banyan-stale")), ("legacy".to_owned(), Some("1")));
    assert_eq!(front.route("pay").answers.stale, 1);
    let metrics = front.metrics();
    let attempts = |side, outcome| {
        metrics.sum("banyan_route_attempts_total", &[("route", "pay"), ("side", side), ("outcome", outcome)])
    };
    assert_eq!((attempts("modern", "refused"), attempts("legacy", "ok")), (2.0, 2.0));
}

#[tokio::test]
async fn without_a_sync_and_below_100_what_was_not_written_may_cross_and_what_was_may_not() {
    let legacy = Upstream::named("legacy");
    let gone = json!({"endpoints": [format!("http://{}", nowhere())]});
    let front = Front::with_service(legacy.addr(), gone.clone(), pay(json!({"weight": 99.99})));
    let body = Raw::once(front.addr(), &request("POST /pay", &[("X-User-Id", "ann")], "amount=5")).await;
    assert_eq!(body.text(), "legacy");
    assert_eq!(legacy.seen()[0].body, b"amount=5");
    assert_eq!(legacy.seen()[0].header("host"), Some("shop.example"));

    let whole = Front::with_service(legacy.addr(), gone, pay(json!({"weight": 100})));
    assert_eq!(whole.ask("POST /pay", &[]).await.status, 502);
    assert_eq!(whole.ask("GET /pay", &[]).await.status, 502);

    let modern = Upstream::scripted(|_| Script::hang_up());
    let front = Front::start(legacy.addr(), &modern, pay(json!({"weight": 99.99})));
    assert_eq!(front.ask("POST /pay", &[("X-User-Id", "ann")]).await.status, 502);
    assert_eq!(front.ask("GET /pay", &[("X-User-Id", "ann")]).await.text(), "legacy");
    assert_eq!(legacy.seen().len(), 2);
}

/// Takes a request with `X-Second` on its first connection, and closes that without an answer.
fn forgetful() -> Upstream {
    Upstream::scripted(|seen| match seen.header("x-second") {
        Some(_) if seen.connection == 0 => Script::hang_up(),
        _ => Script::ok("done"),
    })
}

#[tokio::test]
async fn a_request_whose_outcome_is_unknown_goes_again_only_where_that_is_harmless() {
    for (spec, line, key, expected) in [
        (json!({}), "POST /pay", false, 502),
        (json!({}), "POST /pay", true, 502),
        (json!({"idempotency_key": "honoured"}), "POST /pay", false, 502),
        (json!({"idempotency_key": "honoured"}), "POST /pay", true, 200),
        (json!({}), "PUT /pay", false, 200),
        (json!({}), "GET /pay", false, 200),
    ] {
        let service = forgetful();
        let legacy = Upstream::named("legacy");
        let mut upstream = json!({"endpoints": [service.url()]});
        upstream.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        let routes = pay(json!({"weight": 100, "fallback": "none"}));
        let front = Front::with_service(legacy.addr(), upstream, routes);
        let mut raw = Raw::connect(front.addr()).await;
        raw.send(request("GET /pay", &[], "")).await;
        assert_eq!(raw.answer().await.unwrap().status, 200);
        let mut headers = vec![("X-Second", "1")];
        if key {
            headers.push(("Idempotency-Key", "k1"));
        }
        raw.send(request(line, &headers, "")).await;
        let answer = raw.answer().await.unwrap();
        assert_eq!(answer.status, expected, "{line} {spec} key: {key}");
        assert_eq!(service.seen().len(), if expected == 200 { 3 } else { 2 }, "{line} {spec} key: {key}");
        assert_eq!(legacy.seen().len(), 0);
    }
}

#[tokio::test]
async fn a_write_cannot_escape_its_owner_by_spelling() {
    let sides = Sides::new(json!({"sync": "money", "weight": 0}));
    sides.front.data_says(Owner::Modern, STEP);
    for path in ["/pay", "//pay", "/%70ay", "/x/../pay", "/pay%2F7", "/./pay/", "/pay;v=1/7", "/x/%2e%2e/pay"] {
        let answer = sides.front.ask(&format!("POST {path}"), &[]).await;
        assert_eq!(answer.text(), "modern", "{path}");
        assert_eq!(sides.modern.seen().last().unwrap().path(), path, "the raw path is forwarded");
    }
    for path in ["/x%2F..%2Fpay", "/x/..;/pay", "/..", "/pay/%zz", "/pay%00"] {
        assert_eq!(sides.front.ask(&format!("POST {path}"), &[]).await.status, 400, "{path}");
    }
    assert_eq!(sides.legacy.seen().len(), 0);
}

#[tokio::test]
async fn a_rewrite_uses_the_normal_path() {
    let modern = json!({"upstream": "service", "rewrite": {"path_prefix": "/v2/payments"}});
    let sides = Sides::new(json!({"weight": 100, "modern": modern}));
    for (asked, seen) in
        [("/pay/7?a=%2F", "/v2/payments/7?a=%2F"), ("//%70ay//7", "/v2/payments/7"), ("/pay", "/v2/payments")]
    {
        sides.front.ask(&format!("GET {asked}"), &[]).await;
        assert_eq!(sides.modern.seen().last().unwrap().path(), seen);
    }
}

#[tokio::test]
async fn banyans_headers_from_clients_are_stripped_and_the_side_is_told_when_exposed() {
    let sides = Sides::new(json!({"weight": 100, "expose": true}));
    let answer = sides.front.ask("GET /pay", &[("X-Banyan-Side", "legacy"), ("x-banyan-shadow", "1")]).await;
    assert_eq!(answer.header("x-banyan-side"), Some("modern"));
    let seen = &sides.modern.seen()[0];
    assert_eq!((seen.header("x-banyan-side"), seen.header("x-banyan-shadow")), (None, None));
    assert_eq!(sides.front.ask("GET /other", &[]).await.header("x-banyan-side"), None);
}

#[tokio::test]
async fn an_upgrade_on_a_synced_route_goes_to_the_owner() {
    let legacy = Upstream::scripted(|_| Script::switch("websocket"));
    let modern = Upstream::named("modern");
    let front = Front::start(legacy.addr(), &modern, pay(json!({"sync": "money", "weight": 100})));
    let mut raw = Raw::connect(front.addr()).await;
    raw.send(request("GET /pay/chat", &[("Connection", "Upgrade"), ("Upgrade", "websocket")], "")).await;
    assert_eq!(raw.answer().await.unwrap().status, 101);
    raw.send("hello").await;
    assert_eq!(raw.exactly(5).await, Ok(b"hello".to_vec()));
    assert_eq!(modern.seen().len(), 0);
}

#[tokio::test]
async fn an_owner_that_the_route_lacks_answers_no_write() {
    let sides = Sides::new(json!({"modern": null, "sync": "money"}));
    assert_eq!(sides.side("POST /pay", "ann").await, "legacy");
    sides.front.data_says(Owner::Modern, STEP);
    let answer = sides.front.ask("POST /pay", &[]).await;
    assert_eq!(answer.status, 503, "{}", answer.text());
    assert_eq!(sides.side("GET /pay", "ann").await, "legacy");
    assert_eq!(sides.legacy.seen().iter().filter(|seen| seen.method() == "POST").count(), 1);
}
