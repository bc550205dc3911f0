//! Shadows against scripted upstreams on real sockets: whatever one does is counted, and stays there.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, StatusCode, request::Parts};
use prometheus::Registry;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    time::Instant,
};

use super::{
    Offer, Outcome, SHADOW_CONNECTIONS, SHADOW_MEMORY as MEMORY, SHADOW_REQUESTS, Shadow, Shadows, Ticket,
    connections::BUFFER, pool::PIECE,
};
use crate::{
    compare,
    config::Config,
    split::{Now, RecentWrites, Signer, Split},
    table::{
        Normal, RouteTable,
        tests::{FileLinks, config},
    },
};

/// A route `r` under `/r` whose modern side is a scripted upstream.
struct Stage {
    config: Config,
    table: RouteTable,
    shadow: Arc<Shadow>,
    shadows: Shadows,
    split: Split,
}

/// What the scripted upstream does with each connection.
#[derive(Clone, Copy)]
enum Script {
    /// Answers every request with this.
    Answer(&'static str),
    /// Reads and says nothing.
    Hang,
    /// Closes with the request unanswered.
    CutOff,
    /// A head, then bytes without end.
    Endless,
    /// Half of the announced body, then the end.
    Lie,
}

const JSON: &str = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 15\r\n\r\n{\"amount\":19.9}";

// === impl Stage ===

impl Stage {
    async fn new(script: Script, extra: impl Into<Value>) -> (Self, mpsc::UnboundedReceiver<Event>) {
        let (address, events) = upstream(script).await;
        (Self::at(address, extra.into()), events)
    }

    fn at(modern: SocketAddr, extra: impl Into<Value>) -> Self {
        let extra = extra.into();
        let mut route = json!({"name": "r", "match": {"path_prefix": "/r"}, "legacy": "monolith", "modern": "payments",
            "shadow": {"percent": 100, "timeout": "5s"}, "compare": {"samples": 2}});
        route.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        let mut config = config(json!([route]));
        let payments = json!({"endpoints": [format!("http://{modern}")]});
        config.upstreams.insert("payments".to_owned(), serde_json::from_value(payments).unwrap());
        let table = RouteTable::compile(&config, &FileLinks::of(&config)).unwrap().0;
        let shadow = Shadow::start(&tokio::runtime::Handle::current(), &Registry::new()).unwrap();
        let shadows = shadow.compile(&config, &table);
        let split = Split::new(Signer::try_new(&[7; 32]).unwrap(), Arc::new(RecentWrites::default()));
        Self { config, table, shadow, shadows, split }
    }

    fn offer(&self, method: &str, has_body: bool) -> Option<Ticket> {
        self.offer_head(&head(method), has_body)
    }

    fn offer_head(&self, head: &Parts, has_body: bool) -> Option<Ticket> {
        let found = self.table.find(&Normal::of(head, "/r/7", [127, 0, 0, 1].into()));
        let choice = self.split.choose(found.route, head, IpAddr::V4(Ipv4Addr::LOCALHOST), Now::read());
        self.shadows.offer(&Offer {
            found,
            head,
            path: "/r/7",
            choice: &choice,
            has_body,
            client: [127, 0, 0, 1].into(),
        })
    }

    /// Offers a GET whose control is `body`.
    fn get(&self, body: &'static str) {
        let mut ticket = self.offer("GET", false).unwrap();
        answer(&mut ticket, body);
        ticket.end();
    }

    fn copies(&self, outcome: Outcome) -> u64 {
        self.shadow.metrics.requests.with_label_values(&["r", outcome.as_str()]).get()
    }

    fn compared(&self, outcome: compare::Outcome) -> u64 {
        self.shadow.metrics.compared.with_label_values(&["r", outcome.as_str()]).get()
    }

    /// Bytes that are charged, but for those of connections and of the pool.
    fn held(&self) -> usize {
        let (budget, open) = (&self.shadow.budget, self.shadow.connections.open());
        MEMORY - budget.free.load(Ordering::Relaxed) - open * BUFFER - budget.pool.free() * PIECE
    }

    /// Waits until a copy came to this, and to nothing else, and until its memory and its slot are given back.
    async fn came_to(&self, outcome: Outcome, count: u64) {
        let limit = Instant::now() + Duration::from_secs(10);
        while self.copies(outcome) < count || self.held() > 0 {
            assert!(Instant::now() < limit, "{:?}", Outcome::ALL.map(|o| (o.as_str(), self.copies(o))));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let all: u64 = Outcome::ALL.iter().map(|outcome| self.copies(*outcome)).sum();
        assert_eq!((self.copies(outcome), all), (count, count));
    }
}

fn head(method: &str) -> Parts {
    Request::builder().method(method).uri("/r/7?x=1").header("host", "shop.example").body(()).unwrap().into_parts().0
}

fn answer(ticket: &mut Ticket, body: &'static str) {
    let mut headers = HeaderMap::new();
    headers.insert("content-type", HeaderValue::from_static("application/json"));
    ticket.head(StatusCode::OK, &headers);
    for piece in body.as_bytes().chunks(4) {
        ticket.chunk(&Bytes::from_static(piece));
    }
}

/// What a scripted upstream saw.
#[derive(Debug, PartialEq, Eq)]
enum Event {
    /// A request's head, on the connection of this number.
    Request(usize, String),
    /// The connection of this number was closed by the other side.
    Closed(usize),
}

async fn upstream(script: Script) -> (SocketAddr, mpsc::UnboundedReceiver<Event>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (tell, events) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        for number in 0.. {
            let Ok((stream, _)) = listener.accept().await else { return };
            tokio::spawn(serve(stream, number, script, tell.clone()));
        }
    });
    (address, events)
}

async fn serve(mut stream: TcpStream, number: usize, script: Script, tell: mpsc::UnboundedSender<Event>) {
    let (mut head, mut piece) = (String::new(), [0; 4096]);
    loop {
        let read = stream.read(&mut piece).await.unwrap_or(0);
        if read == 0 {
            let _ = tell.send(Event::Closed(number));
            return;
        }
        head.push_str(std::str::from_utf8(&piece[..read]).unwrap());
        if !head.contains("\r\n\r\n") {
            continue;
        }
        let _ = tell.send(Event::Request(number, std::mem::take(&mut head)));
        match script {
            Script::Answer(text) => stream.write_all(text.as_bytes()).await.unwrap(),
            Script::Hang => {}
            Script::CutOff => return,
            Script::Lie => {
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf").await;
                return;
            }
            Script::Endless => {
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1073741824\r\n\r\n").await;
                while stream.write_all(&[b'x'; 16384]).await.is_ok() {}
                let _ = tell.send(Event::Closed(number));
                return;
            }
        }
    }
}

async fn next(events: &mut mpsc::UnboundedReceiver<Event>) -> Event {
    tokio::time::timeout(Duration::from_secs(10), events.recv()).await.unwrap().unwrap()
}

#[tokio::test]
async fn a_copy_is_shaped_for_its_side_and_compared_as_the_client_would_see_it() {
    const ANSWER: &str = "HTTP/1.1 302 Found\r\nlocation: http://pay.internal/v2/8\r\ncontent-length: 0\r\n\r\n";
    let modern = json!({"upstream": "payments", "host": "pay.internal", "rewrite": {"path_prefix": "/v2"},
        "headers": {"request": {"set": {"x-tenant": "acme"}}, "response": {"set": {"x-by": "modern"}}}});
    let compare = json!({"headers": ["location", "x-by"]});
    let (stage, mut events) = Stage::new(Script::Answer(ANSWER), json!({"modern": modern, "compare": compare})).await;
    let mut head = head("GET");
    head.headers.insert("x-forwarded-host", HeaderValue::from_static("shop.example"));
    head.headers.insert("x-forwarded-proto", HeaderValue::from_static("https"));
    let mut ticket = stage.offer_head(&head, false).unwrap();
    let told = [("location", "https://shop.example/r/8"), ("x-by", "modern")];
    let headers = told.map(|(name, value)| (http::HeaderName::from_static(name), HeaderValue::from_static(value)));
    ticket.head(StatusCode::FOUND, &headers.into_iter().collect());
    ticket.end();
    let Event::Request(_, request) = next(&mut events).await else { panic!("no request") };
    assert!(request.starts_with("GET /v2/7?x=1 HTTP/1.1\r\n"), "{request}");
    assert!(request.contains("\r\nhost: pay.internal\r\n") && request.contains("x-tenant: acme\r\n"), "{request}");
    stage.came_to(Outcome::Sent, 1).await;
    assert_eq!(stage.compared(compare::Outcome::Match), 1);
}

#[tokio::test]
async fn a_read_is_copied_marked_and_compared() {
    let (stage, mut events) = Stage::new(Script::Answer(JSON), json!({})).await;
    stage.get(r#"{"amount":"19.90"}"#);
    let Event::Request(_, request) = next(&mut events).await else { panic!("no request") };
    assert!(request.starts_with("GET /r/7?x=1 HTTP/1.1\r\n"), "{request}");
    assert!(request.contains("host: shop.example\r\n") && request.contains("x-banyan-shadow: 1\r\n"), "{request}");
    stage.came_to(Outcome::Sent, 1).await;
    assert_eq!(stage.compared(compare::Outcome::Mismatch), 1);
    let status = serde_json::to_value(stage.shadows.status(&stage.table.routes()[0]).unwrap()).unwrap();
    assert_eq!(status["differences"][0]["pointer"], "/amount");
    assert_eq!(status["differences"][0]["control"], "string");
    assert_eq!(status["samples"][0]["differences"][0]["control_length"], 5);
    assert!(!status.to_string().contains("19."), "{status}");
}

#[tokio::test]
async fn connections_of_the_shadow_are_used_again() {
    let (stage, mut events) = Stage::new(Script::Answer(JSON), json!({})).await;
    for count in 1..=5 {
        stage.get(r#"{"amount":19.90}"#);
        stage.came_to(Outcome::Sent, count).await;
        assert!(matches!(next(&mut events).await, Event::Request(0, _)));
    }
    assert_eq!(stage.compared(compare::Outcome::Match), 5);
}

#[tokio::test]
async fn writes_are_not_copied_unless_they_are_named() {
    let (stage, _events) = Stage::new(Script::Answer(JSON), json!({})).await;
    assert!(stage.offer("POST", true).is_none());
    assert!(stage.offer("DELETE", false).is_none());
    let named = json!({"shadow": {"percent": 100, "methods": ["DELETE"]}});
    let (stage, _events) = Stage::new(Script::Answer(JSON), named).await;
    assert!(stage.offer("POST", true).is_none());
    assert!(stage.offer("GET", false).is_none());
    assert!(stage.offer("DELETE", false).is_some());
}

#[tokio::test]
async fn a_body_is_charged_until_the_copy_is_over_and_one_that_breaks_off_gives_it_back() {
    let named = json!({"shadow": {"percent": 100, "methods": ["POST"]}});
    let (stage, mut events) = Stage::new(Script::Answer(JSON), named).await;
    let mut ticket = stage.offer("POST", true).unwrap();
    let (upload, before) = (ticket.upload().unwrap(), stage.held());
    upload.chunk(&Bytes::from_static(&[b'x'; 1000]));
    assert_eq!(stage.held() - before, PIECE);
    drop((upload, ticket));
    stage.came_to(Outcome::Cancelled, 1).await;

    ticket = stage.offer("POST", true).unwrap();
    let upload = ticket.upload().unwrap();
    upload.chunk(&Bytes::from_static(b"x=1"));
    answer(&mut ticket, "{}");
    upload.end();
    ticket.end();
    let Event::Request(0, request) = next(&mut events).await else { panic!("no request") };
    assert!(request.contains("content-length: 3\r\n"), "{request}");
}

#[tokio::test]
async fn a_shadow_that_hangs_costs_its_slots_and_no_more() {
    let settings = json!({"shadow": {"percent": 100, "timeout": "1s", "concurrency": 3}});
    let (stage, mut events) = Stage::new(Script::Hang, settings).await;
    let began = std::time::Instant::now();
    let taken: Vec<Ticket> = (0..10_000).filter_map(|_| stage.offer("GET", false)).collect();
    assert_eq!(taken.len(), 3);
    assert_eq!(stage.copies(Outcome::DroppedBusy), 9_997);
    assert!(began.elapsed() < Duration::from_millis(900), "an offer waited");
    // Nobody waits for these answers any more, and every connection that was made is closed.
    drop(taken);
    let limit = Instant::now() + Duration::from_secs(10);
    while stage.copies(Outcome::Cancelled) < 3 {
        assert!(Instant::now() < limit);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let (mut opened, mut closed) = (0, 0);
    while let Ok(Some(event)) = tokio::time::timeout(Duration::from_millis(200), events.recv()).await {
        match event {
            Event::Request(..) => opened += 1,
            Event::Closed(_) => closed += 1,
        }
    }
    assert!(opened <= closed && closed <= 3, "{opened} {closed}");
}

#[tokio::test]
async fn requests_and_connections_are_bounded_over_all_routes() {
    let settings = json!({"shadow": {"percent": 100, "timeout": "60s", "concurrency": 10_000}});
    let (stage, _events) = Stage::new(Script::Hang, settings).await;
    let tickets: Vec<Ticket> = (0..2000).filter_map(|_| stage.offer("GET", false)).collect();
    assert_eq!(tickets.len(), SHADOW_REQUESTS);
    assert_eq!(stage.copies(Outcome::DroppedRequests), (2000 - SHADOW_REQUESTS) as u64);
    let limit = Instant::now() + Duration::from_secs(10);
    while stage.copies(Outcome::DroppedConnections) < (SHADOW_REQUESTS - SHADOW_CONNECTIONS) as u64 {
        assert!(Instant::now() < limit);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(stage.shadow.connections.open(), SHADOW_CONNECTIONS);
    drop(tickets);
    while stage.copies(Outcome::Cancelled) < SHADOW_CONNECTIONS as u64 || stage.shadow.connections.open() > 0 {
        assert!(Instant::now() < limit);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(stage.held(), 0);
}

#[tokio::test]
async fn an_idle_connection_makes_room_whoevers_it_is() {
    let (mut stage, _events) = Stage::new(Script::Answer(JSON), json!({})).await;
    let (mut before, mut most) = (Vec::new(), 0);
    for round in 1..=6 {
        let tickets: Vec<Ticket> = (0..64).filter_map(|_| stage.offer("GET", false)).collect();
        for mut ticket in tickets {
            answer(&mut ticket, r#"{"amount":19.9}"#);
            ticket.end();
        }
        stage.came_to(Outcome::Sent, 64 * round).await;
        most = most.max(stage.shadow.connections.open());
        assert!(most <= SHADOW_CONNECTIONS, "{most}");
        // Others, which know nothing of those connections.
        let others = stage.shadow.compile(&stage.config, &stage.table);
        before.push(std::mem::replace(&mut stage.shadows, others));
    }
    assert!(most > SHADOW_CONNECTIONS / 2, "{most}");
    drop(before);
    assert_eq!(stage.shadow.connections.open(), 0, "whose upstreams are gone have none");
}

#[tokio::test]
async fn a_shadow_that_hangs_is_over_at_its_timeout_and_its_connection_closed() {
    let settings = json!({"shadow": {"percent": 100, "timeout": "200ms"}});
    let (stage, mut events) = Stage::new(Script::Hang, settings).await;
    stage.get("{}");
    assert!(matches!(next(&mut events).await, Event::Request(0, _)));
    stage.came_to(Outcome::Timeout, 1).await;
    assert_eq!(next(&mut events).await, Event::Closed(0));
}

#[tokio::test]
async fn a_shadow_that_breaks_off_lies_or_is_not_there_is_an_error() {
    for script in [Script::CutOff, Script::Lie] {
        let (stage, _events) = Stage::new(script, json!({})).await;
        stage.get("{}");
        stage.came_to(Outcome::Error, 1).await;
    }
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let stage = Stage::at(gone, json!({}));
    stage.get("{}");
    stage.came_to(Outcome::Error, 1).await;
}

#[tokio::test]
async fn an_answer_without_end_is_not_read_to_it() {
    for extra in [json!({}), json!({"compare": null})] {
        let (stage, mut events) = Stage::new(Script::Endless, extra).await;
        stage.get("{}");
        assert!(matches!(next(&mut events).await, Event::Request(0, _)));
        assert_eq!(next(&mut events).await, Event::Closed(0));
        stage.came_to(Outcome::Sent, 1).await;
        assert_eq!(stage.compared(compare::Outcome::Match), 0);
    }
}

#[tokio::test]
async fn a_control_over_the_bound_is_hashed_and_not_kept() {
    let settings = json!({"shadow": {"percent": 100, "max_body": "8B"}});
    let (stage, _events) = Stage::new(Script::Answer(JSON), settings).await;
    for (sent, body, result) in [
        (1, r#"{"amount":19.9}"#, compare::Outcome::Match),
        (2, r#"{"amount":"19.90"}"#, compare::Outcome::NotComparable),
    ] {
        let mut ticket = stage.offer("GET", false).unwrap();
        answer(&mut ticket, body);
        let heads_alone = stage.held();
        assert!(heads_alone < 300, "{heads_alone}");
        ticket.end();
        stage.came_to(Outcome::Sent, sent).await;
        assert_eq!(stage.compared(result), 1);
    }
}

#[tokio::test]
async fn a_client_that_goes_away_cancels_the_shadow() {
    let (stage, mut events) = Stage::new(Script::Hang, json!({})).await;
    let mut ticket = stage.offer("GET", false).unwrap();
    answer(&mut ticket, "{}");
    assert!(matches!(next(&mut events).await, Event::Request(0, _)));
    drop(ticket);
    assert_eq!(next(&mut events).await, Event::Closed(0));
    stage.came_to(Outcome::Cancelled, 1).await;
}

#[tokio::test]
async fn while_the_sync_is_behind_nothing_is_comparable() {
    let (stage, _events) = Stage::new(Script::Answer(JSON), json!({"sync": "money"})).await;
    stage.get(r#"{"amount":19.9}"#);
    stage.came_to(Outcome::Sent, 1).await;
    assert_eq!(stage.compared(compare::Outcome::NotComparable), 1);
}

#[tokio::test]
async fn a_percentage_of_the_reads_is_copied_by_chance() {
    let settings = json!({"shadow": {"percent": 5, "concurrency": 10_000}});
    let (stage, _events) = Stage::new(Script::Hang, settings).await;
    let copied = (0..10_000).filter(|_| stage.offer("GET", false).is_some()).count();
    // Four standard deviations: 4 × √(10,000 × 0.05 × 0.95) ≈ 87.
    assert!((413..=587).contains(&copied), "{copied}");
}

#[tokio::test]
async fn a_percentage_of_the_users_is_copied_whatever_they_ask_for() {
    let settings = json!({"shadow": {"percent": 10, "of": "users", "concurrency": 10_000},
        "sticky": [{"header": "x-user-id"}], "keyless": "client_address"});
    let (stage, _events) = Stage::new(Script::Hang, settings).await;
    let is_copied = |user: &str| {
        let mut head = head("GET");
        head.headers.insert("x-user-id", HeaderValue::from_str(user).unwrap());
        stage.offer_head(&head, false).is_some()
    };
    let users: Vec<String> = (0..1000).map(|user| format!("user-{user}")).collect();
    let copied: Vec<&String> = users.iter().filter(|user| is_copied(user)).collect();
    // Four standard deviations: 4 × √(1,000 × 0.1 × 0.9) ≈ 38.
    assert!((62..=138).contains(&copied.len()), "{}", copied.len());
    for _ in 0..3 {
        assert_eq!(users.iter().filter(|user| is_copied(user)).collect::<Vec<_>>(), copied);
    }
    // Who has no key is known by the address here: all of them, or none.
    let keyless = (0..20).filter(|_| stage.offer("GET", false).is_some()).count();
    assert!([0, 20].contains(&keyless), "{keyless}");
    let golden = crate::split::bucket(crate::split::shadow_seed("r"), &[127, 0, 0, 1]) < 1000;
    assert_eq!(keyless > 0, golden);
}

#[tokio::test]
async fn who_has_no_key_is_copied_where_everybody_is() {
    for (percent, copied) in [(99, false), (100, true)] {
        let (stage, _events) = Stage::new(Script::Hang, json!({"shadow": {"percent": percent, "of": "users"}})).await;
        assert_eq!(stage.offer("GET", false).is_some(), copied);
    }
}

#[tokio::test]
async fn counts_outlive_a_reload_and_differences_last_until_the_rules_change() {
    let (mut stage, _events) = Stage::new(Script::Answer(JSON), json!({})).await;
    stage.get(r#"{"amount":"19.90"}"#);
    stage.came_to(Outcome::Sent, 1).await;
    let compared = |stage: &Stage| stage.shadows.status(&stage.table.routes()[0]).unwrap().compared;
    stage.shadows = stage.shadow.compile(&stage.config, &stage.table);
    assert_eq!(compared(&stage), 1);
    let rules: crate::config::Compare = serde_json::from_value(json!({"ignore": ["/amount"]})).unwrap();
    stage.config.routes[0].compare = Some(rules);
    stage.table = RouteTable::compile(&stage.config, &FileLinks::of(&stage.config)).unwrap().0;
    stage.shadows = stage.shadow.compile(&stage.config, &stage.table);
    assert_eq!(compared(&stage), 0);
    assert_eq!(stage.compared(compare::Outcome::Mismatch), 1);
    stage.get(r#"{"amount":"19.90"}"#);
    stage.came_to(Outcome::Sent, 2).await;
    assert_eq!(stage.compared(compare::Outcome::Ignored), 1);
}
