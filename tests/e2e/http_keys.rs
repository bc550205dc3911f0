//! A payment with an `Idempotency-Key` over two real databases: whatever breaks after the commit, it is there once.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use banyan_proxy::links::Owner;
use serde_json::{Value, json};

use crate::harness::{Front, Postgres, Raw, Script, Upstream, front::request, postgres::Database};

/// Both sides of a payments route, each over its own database.
struct Sides {
    legacy: Database,
    modern: Database,
    service: Upstream,
    front: Front,
    _monolith: Upstream,
}

/// Commits the payment of each POST, once for each key; then resets the connection, so many times.
fn backend(database: &Database, resets: usize) -> Upstream {
    let (url, answered) = (database.url("postgres", ""), AtomicUsize::new(0));
    Upstream::scripted(move |seen| {
        // It is asked a first time before the body has come.
        if seen.body.is_empty() {
            return Script::ok("");
        }
        commit(&url, seen.header("idempotency-key").unwrap_or("none"));
        if answered.fetch_add(1, Ordering::SeqCst) < resets {
            Script::reset()
        } else {
            Script::answer(201, &[], "paid")
        }
    })
}

fn commit(url: &str, key: &str) {
    let insert = async {
        let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await.unwrap();
        let connection = tokio::spawn(connection);
        client.execute("INSERT INTO payments VALUES ($1) ON CONFLICT DO NOTHING", &[&key]).await.unwrap();
        drop(client);
        connection.await.unwrap().unwrap();
    };
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    // The script is called on a runtime's thread, where no other may be.
    std::thread::scope(|scope| scope.spawn(|| runtime().block_on(insert)).join().unwrap());
}

// === impl Sides ===

impl Sides {
    async fn new(resets: usize, service: Value, route: Value) -> Self {
        let legacy = Postgres::shared_legacy().database("keys").await;
        let modern = Postgres::shared_modern().database("keys").await;
        for database in [&legacy, &modern] {
            database.batch("CREATE TABLE payments (key text PRIMARY KEY)").await;
        }
        let (_monolith, backend) = (backend(&legacy, 0), backend(&modern, resets));
        let mut all = json!({"name": "pay", "match": {"path_prefix": "/pay"}, "legacy": "monolith", "modern": "service", "weight": 100,
            "keyless": "client_address"});
        all.as_object_mut().unwrap().extend(route.as_object().unwrap().clone());
        let mut settings = json!({"endpoints": [backend.url()]});
        settings.as_object_mut().unwrap().extend(service.as_object().unwrap().clone());
        let front = Front::with_service(_monolith.addr(), settings, json!([all]));
        front.data_says(Owner::Modern, Some(Duration::ZERO));
        Self { legacy, modern, service: backend, front, _monolith }
    }

    /// Pays once; the status that the client saw, and the payments in legacy's and modern's database.
    async fn pay(&self) -> (u16, i64, i64) {
        let payment = request("POST /pay", &[("Idempotency-Key", "7"), ("Connection", "close")], "{}");
        let answer = Raw::once(self.front.addr(), &payment).await;
        (answer.status, self.legacy.count("payments").await, self.modern.count("payments").await)
    }

    fn asked(&self) -> usize {
        self.service.seen().len()
    }
}

fn honoured() -> Value {
    json!({"idempotency_key": "honoured"})
}

#[tokio::test]
async fn a_payment_that_modern_committed_before_it_reset_is_there_once_over_both_databases() {
    for route in [json!({}), json!({"sync": "money"}), json!({"weight": 99.99, "fallback": "unsent"})] {
        // Modern answers the second time, with what the first one did.
        let sides = Sides::new(1, honoured(), route.clone()).await;
        assert_eq!((sides.pay().await, sides.asked()), ((201, 0, 1), 2), "{route}");
        // It never answers: once more is enough, and legacy, which does not know the key, is never asked.
        let sides = Sides::new(usize::MAX, honoured(), route.clone()).await;
        assert_eq!((sides.pay().await, sides.asked()), ((502, 0, 1), 2), "{route}");
    }
}

#[tokio::test]
async fn without_a_promise_to_honour_the_key_the_payment_is_not_sent_again() {
    for route in [json!({}), json!({"sync": "money"}), json!({"weight": 99.99, "fallback": "unsent"})] {
        let sides = Sides::new(usize::MAX, json!({}), route.clone()).await;
        assert_eq!((sides.pay().await, sides.asked()), ((502, 0, 1), 1), "{route}");
    }
}
