//! A person walks through the shop while it is being moved: signs in at the new service, reads and pays on both sides, signs out.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    net::{SocketAddr, TcpListener},
    time::Instant,
};

use tokio::task::JoinSet;

use super::harness::{Banyan, Database, Kafka, Postgres, Raw, client::Answer, eventually, secs};

const KEY: &str = "key-of-the-journey";
/// Who has an account from the beginning, in the order of their numbers.
const CUSTOMERS: [&str; 8] = ["ann", "ben", "cem", "dora", "eve", "finn", "gus", "hana"];

/// The three programs of the shop, each on its own database, and the file's variables that lead Banyan to them.
pub(crate) struct Shop {
    /// Ends them with the test.
    _programs: JoinSet<anyhow::Result<()>>,
    pub(crate) legacy: Database,
    monolith: SocketAddr,
    payments_service: SocketAddr,
    variables: Vec<(&'static str, String)>,
}

/// A browser: it keeps cookies, follows nothing, and accepts HTML.
pub(crate) struct Browser {
    to: SocketAddr,
    cookies: RefCell<BTreeMap<String, String>>,
}

/// Signs in at accounts-service, is on one side of payments (weight 50) in every browser, since the monolith says who it is; walks accounts and
/// orders, posts a form that the other side rendered, signs out; the monolith refuses the old cookie once the sync has brought the news.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_session_is_known_to_both_sides_until_it_is_signed_out() {
    let shop = Shop::open().await;
    let banyan = shop.banyan("weight: 50 ").await;
    banyan.flow_state("payments", "legacy_to_modern", &["applying"], secs(60)).await;
    banyan.flow_state("accounts", "modern_to_legacy", &["applying"], secs(60)).await;

    // Among the shop's customers there is one on each side, once Banyan has seen how small the lag is.
    let mut rendered_by = BTreeMap::new();
    let until = Instant::now() + secs(20);
    while rendered_by.len() < 2 && Instant::now() < until {
        for (id, name) in (1..).zip(CUSTOMERS) {
            let browser = Browser::new(banyan.http());
            let signed_in = browser.sign_in(name).await;
            assert_eq!((signed_in.status, side(&signed_in)), (303, "modern"), "{}", signed_in.text());
            let form = browser.get("/payments/new").await;
            assert_eq!(form.status, 200, "{}", form.text());
            rendered_by.entry(side(&form).to_owned()).or_insert((id, name, browser, form));
        }
    }
    let (id, name, browser, form): (u32, _, _, _) = rendered_by.remove("modern").expect("a customer is on modern");
    assert!(rendered_by.contains_key("legacy"), "a customer is on legacy");
    for _ in 0..4 {
        let other = Browser::new(banyan.http());
        other.sign_in(name).await;
        assert_eq!(side(&other.get("/payments/new").await), "modern", "{name} is on one side, whatever the browser");
    }

    let account = browser.get("/accounts/me").await;
    let is_known = account.text().contains(&format!("Signed in as {name}"));
    assert!(is_known && side(&account) == "modern", "{}", account.text());
    let payments = browser.get("/payments").await;
    assert_eq!((payments.status, side(&payments)), (200, "modern"));
    let orders = browser.get("/orders").await;
    assert!(orders.text().contains(&format!("Orders of {name}")), "the monolith does not know her: {}", orders.text());

    // The form came from modern; the write goes to legacy, which owns the payments.
    let paid = browser.post("/payments", &[("form_token", &token(&form)), ("amount", "12.50"), ("note", "form")]).await;
    assert_eq!((paid.status, side(&paid)), (303, "legacy"), "{}", paid.text());
    let read = browser.get(paid.header("location").expect("it says where the payment is")).await;
    assert!(read.status == 200 && read.text().contains("12.50 EUR"), "she does not see her payment: {}", read.text());
    let paid = format!("SELECT count(*) FROM payments WHERE note = 'form' AND account_id = {id}");
    assert_eq!(shop.legacy.number(&paid).await, 1);

    // The monolith's own form, to the monolith.
    let ordered =
        browser.post("/orders", &[("form_token", &token(&orders)), ("sku", "fig-jam"), ("quantity", "2")]).await;
    assert_eq!(ordered.status, 303, "{}", ordered.text());

    // A form without the token is nobody's.
    let forged = browser.post("/payments", &[("form_token", "AAAA"), ("amount", "1"), ("note", "forged")]).await;
    assert_eq!(forged.status, 422);

    let copied = browser.cookies.borrow().clone();
    let out = browser.post("/logout", &[("form_token", &token(&account))]).await;
    assert_eq!((out.status, side(&out)), (303, "modern"), "{}", out.text());
    assert_eq!(browser.get("/orders").await.status, 401, "the browser gave its cookie back");
    let thief = Browser { to: banyan.http(), cookies: RefCell::new(copied) };
    assert_eq!(thief.get("/accounts/me").await.status, 401, "accounts-service knows at once");
    eventually(secs(20), "the monolith refuses the old cookie", async || thief.get("/orders").await.status == 401)
        .await;
    // And so it says that it is nobody's, once what it said before is over: here after a second.
    let said = async |outcome| {
        let labels = [("route", "payments"), ("outcome", outcome)];
        banyan.metrics().await.sum("banyan_identity_requests_total", &labels)
    };
    assert!(said("asked").await > 0.0 && said("nobody").await < 0.5);
    eventually(secs(20), "the thief is nobody", async || {
        thief.get("/payments").await;
        said("nobody").await > 0.5
    })
    .await;
    // payments-service checks signature and expiry alone.
    let service = Browser { to: shop.payments_service, cookies: RefCell::new(thief.cookies.borrow().clone()) };
    assert_eq!(service.get("/payments/new").await.status, 200, "until it expires");
}

/// Somebody who signed in at the monolith before anything was moved is known to the new services, stays on their side, and signs out there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_of_the_monolith_is_known_to_the_new_services_and_ends_there() {
    let shop = Shop::open().await;
    let banyan = shop.banyan("weight: 50 ").await;
    banyan.flow_state("payments", "legacy_to_modern", &["applying"], secs(60)).await;
    banyan.flow_state("accounts", "modern_to_legacy", &["applying"], secs(60)).await;
    let mut on_modern = None;
    let until = Instant::now() + secs(20);
    while on_modern.is_none() && Instant::now() < until {
        for name in CUSTOMERS {
            let before = Browser::new(shop.monolith);
            assert_eq!(before.sign_in(name).await.status, 303);
            let browser = Browser { to: banyan.http(), ..before };
            if side(&browser.get("/payments/new").await) == "modern" {
                on_modern = Some((name, browser));
                break;
            }
        }
    }
    let (name, browser) = on_modern.expect("a customer is on modern");
    let form = browser.get("/payments/new").await;
    assert_eq!((form.status, side(&form)), (200, "modern"), "{}", form.text());
    let account = browser.get("/accounts/me").await;
    assert!(account.text().contains(&format!("Signed in as {name}")) && side(&account) == "modern");
    let kept = Browser { to: banyan.http(), cookies: RefCell::new(browser.cookies.borrow().clone()) };
    let out = browser.post("/logout", &[("form_token", &token(&account))]).await;
    assert_eq!((out.status, side(&out)), (303, "modern"), "{}", out.text());
    assert_eq!(browser.get("/accounts/me").await.status, 401);
    assert_eq!(browser.get("/orders").await.status, 401);
    eventually(secs(20), "the monolith refuses its own cookie", async || kept.get("/orders").await.status == 401).await;
}

/// The chat belongs to no route, so it goes to the monolith, as a tunnel; the monolith knows the speaker by the cookie of accounts-service.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_monoliths_chat_goes_through_and_knows_who_speaks() {
    let shop = Shop::open().await;
    let banyan = shop.banyan("weight: 0 ").await;
    let browser = Browser::new(banyan.http());
    assert_eq!(browser.sign_in("ben").await.status, 303);
    let session = browser.cookies.borrow()["shop_session"].clone();
    let mut socket = Raw::connect(banyan.http()).await;
    let key = "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==";
    let upgrade = "Host: shop.test\r\nConnection: Upgrade\r\nUpgrade: websocket";
    socket
        .send(format!("GET /chat/socket HTTP/1.1\r\n{upgrade}\r\n{key}\r\nCookie: shop_session={session}\r\n\r\n"))
        .await;
    let opened = socket.answer().await.expect("an answer");
    assert_eq!(opened.status, 101, "{}", opened.text());
    // A text frame, masked with zeros (RFC 6455, 5.2); the answer is not masked.
    socket.send([&[0x81, 0x80 | 5, 0, 0, 0, 0], &b"hello"[..]].concat()).await;
    let heard = socket.exactly(2 + "ben: hello".len()).await.expect("the room hears it");
    assert_eq!((heard[0], &heard[2..]), (0x81, &b"ben: hello"[..]));
}

// === impl Shop ===

impl Shop {
    async fn open() -> Self {
        Self::with(&Kafka::shared().brokers(), false).await
    }

    /// On another Kafka, or one whose programs publish what happens.
    pub(crate) async fn with(brokers: &str, publishes: bool) -> Self {
        let legacy = Postgres::shared_legacy().database("journey").await;
        let payments = Postgres::shared_modern().database("journey_payments").await;
        let accounts = Postgres::shared_modern().database("journey_accounts").await;
        let url = |database: &Database| database.url("postgres", "none");
        let listen = || {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            (listener.local_addr().unwrap(), listener)
        };
        let ((monolith, first), (payments_service, second), (accounts_service, third)) = (listen(), listen(), listen());
        let key = || KEY.to_owned();
        let mut programs = JoinSet::new();
        let settings = legacy_app::Settings {
            listener: first,
            database: url(&legacy),
            session_key: key(),
            publishes,
            capacity: None,
        };
        programs.spawn(legacy_app::serve(settings));
        let settings = payments_service::Settings {
            listener: second,
            database: url(&payments),
            session_key: key(),
            publishes,
            is_bad_build: false,
        };
        programs.spawn(payments_service::serve(settings));
        let settings =
            accounts_service::Settings { listener: third, database: url(&accounts), session_key: key(), publishes };
        programs.spawn(accounts_service::serve(settings));
        for address in [monolith, payments_service, accounts_service] {
            // It listens already; it answers when its tables are made.
            assert_eq!(Raw::get(address, "/livez").await.status, 200);
        }
        let variables = vec![
            ("BANYAN_INSTALL", format!("j{:08x}", rand::random::<u32>())),
            ("LEGACY_APP", format!("http://{monolith}")),
            ("PAYMENTS_SERVICE", format!("http://{payments_service}")),
            ("ACCOUNTS_SERVICE", format!("http://{accounts_service}")),
            ("KAFKA_BROKERS", brokers.to_owned()),
            ("LEGACY_DB_URL", url(&legacy)),
            ("PAYMENTS_DB_URL", url(&payments)),
            ("ACCOUNTS_DB_URL", url(&accounts)),
        ];
        Self { _programs: programs, legacy, monolith, payments_service, variables }
    }

    /// Banyan on the repository's own routes.yaml, with another weight of the route `payments`, and a shorter memory of who is who.
    async fn banyan(&self, weight: &str) -> Banyan {
        self.banyan_with(weight, &[]).await
    }

    /// The same with other words in place of some of the file's.
    pub(crate) async fn banyan_with(&self, weight: &str, edits: &[(&str, &str)]) -> Banyan {
        let example = include_str!("../../routes.yaml");
        let rest = &example[example.find("upstreams:").expect("the example has upstreams")..];
        assert!(rest.contains("weight: 0 "), "the example begins with everything on legacy");
        assert!(rest.contains("copy: [x-user-id],"), "the example asks who it is");
        let rest =
            rest.replacen("weight: 0 ", weight, 1).replacen("copy: [x-user-id],", "copy: [x-user-id], cache: 1s,", 1);
        let edited = edits.iter().fold(rest, |text, (from, to)| {
            assert!(text.contains(from), "the example has no `{from}`");
            text.replacen(from, to, 1)
        });
        let mut banyan = Banyan::with(&edited);
        for (name, value) in &self.variables {
            banyan = banyan.env(name, value);
        }
        banyan.start().await
    }
}

// === impl Browser ===

impl Browser {
    pub(crate) fn new(to: SocketAddr) -> Self {
        Self { to, cookies: RefCell::default() }
    }

    /// With everybody's password.
    pub(crate) async fn sign_in(&self, name: &str) -> Answer {
        self.post("/login", &[("name", name), ("password", "banyan")]).await
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send(&format!("GET {path} HTTP/1.1\r\n"), "").await
    }

    pub(crate) async fn post(&self, path: &str, fields: &[(&str, &str)]) -> Answer {
        let body: Vec<_> = fields.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let kind = "Content-Type: application/x-www-form-urlencoded\r\n";
        self.send(&format!("POST {path} HTTP/1.1\r\n{kind}"), &body.join("&")).await
    }

    async fn send(&self, start: &str, body: &str) -> Answer {
        let cookies: Vec<_> = self.cookies.borrow().iter().map(|(name, value)| format!("{name}={value}")).collect();
        let cookie = if cookies.is_empty() { String::new() } else { format!("Cookie: {}\r\n", cookies.join("; ")) };
        let length =
            if start.starts_with("GET") { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
        let head = format!("{start}Host: shop.test\r\nAccept: text/html\r\nConnection: close\r\n{cookie}{length}\r\n");
        let answer = Raw::once(self.to, &format!("{head}{body}")).await;
        for line in answer.headers("set-cookie") {
            let (name, value) = line.split(';').next().and_then(|pair| pair.split_once('=')).expect("name=value");
            let mut cookies = self.cookies.borrow_mut();
            if value.is_empty() {
                cookies.remove(name)
            } else {
                cookies.insert(name.to_owned(), value.to_owned())
            };
        }
        answer
    }
}

pub(crate) fn side(answer: &Answer) -> &str {
    answer.header("x-banyan-side").unwrap_or("nobody")
}

/// The hidden field of a form.
pub(crate) fn token(page: &Answer) -> String {
    let text = page.text();
    let rest = text.split_once("name=form_token value=\"").unwrap_or_else(|| panic!("no form: {text}")).1;
    rest.split('"').next().expect("a split has a first piece").to_owned()
}
