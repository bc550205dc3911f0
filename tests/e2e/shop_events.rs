//! Services that share what happened without calling each other: the notifications of the shop know all they know from Kafka.

use std::{
    net::{SocketAddr, TcpListener},
    time::Duration,
};

use rdkafka::{
    message::{Header, OwnedHeaders},
    producer::{BaseProducer, BaseRecord, Producer as _},
};
use serde_json::Value;
use tokio::task::JoinHandle;

use crate::{
    harness::{Banyan, Kafka, Raw, eventually, secs},
    shop_journey::{Browser, Shop, side, token},
};

const OUTBOXES: [(&str, &str); 2] = [
    (
        "tables: [public.payments]",
        "tables: [public.payments]\n    outbox: {legacy: public.outbox, modern: public.outbox}",
    ),
    (
        "tables: [public.accounts, public.sessions]",
        "tables: [public.accounts, public.sessions]\n    outbox: {modern: public.outbox}",
    ),
];

/// The notifications service; it ends with the test.
struct Notifications {
    address: SocketAddr,
    brokers: String,
    serving: JoinHandle<anyhow::Result<()>>,
}

impl Notifications {
    fn start(brokers: &str) -> Self {
        Self::on(TcpListener::bind("127.0.0.1:0").unwrap(), brokers)
    }

    fn on(listener: TcpListener, brokers: &str) -> Self {
        let address = listener.local_addr().unwrap();
        let settings = notifications::Settings::at(listener, brokers.to_owned());
        Self { address, brokers: brokers.to_owned(), serving: tokio::spawn(notifications::serve(settings)) }
    }

    /// Ends it, with all that it knew, does something, and starts it where it was.
    async fn restart(&mut self, meanwhile: impl AsyncFnOnce()) {
        self.serving.abort();
        (&mut self.serving).await.expect_err("it serves until it is ended");
        meanwhile().await;
        let listener = eventually(secs(10), "the port is free", async || TcpListener::bind(self.address)).await;
        *self = Self::on(listener, &self.brokers.clone());
    }

    async fn get(&self, path: &str) -> Value {
        Raw::get(self.address, path).await.json()
    }

    async fn rebuild(&self) {
        let head = "POST /rebuild HTTP/1.1\r\nHost: n\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        assert_eq!(Raw::once(self.address, head).await.status, 202);
    }

    /// Waits until it has read all, and knows of so many notifications of an account; gives the whole model as it is sent.
    async fn knows(&self, account: u32, notifications: usize) -> String {
        eventually(secs(60), &format!("{notifications} notifications of {account}"), async || {
            let stats = self.get("/stats").await;
            let of_one = self.get(&format!("/notifications/{account}")).await;
            let count = of_one["notifications"].as_array().unwrap().len();
            assert!(count <= notifications, "{of_one}");
            if count == notifications && stats["caught_up"] == true { Ok(()) } else { Err(format!("{stats} {of_one}")) }
        })
        .await;
        Raw::get(self.address, "/notifications").await.text()
    }
}

impl Drop for Notifications {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn pay(browser: &Browser, amount: &str) {
    let form = browser.get("/payments/new").await;
    let paid = browser.post("/payments", &[("form_token", &token(&form)), ("amount", amount), ("note", "")]).await;
    assert_eq!((paid.status, side(&paid)), (303, "legacy"), "{}", paid.text());
}

async fn until_running(banyan: &Banyan) {
    banyan.flow_state("payments", "legacy_to_modern", &["applying"], secs(60)).await;
    banyan.flow_state("accounts", "modern_to_legacy", &["applying"], secs(60)).await;
}

/// The monolith publishes payments, accounts-service who signed in; nobody calls anybody.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn notifications_are_rebuilt_from_kafka_alone_byte_for_byte() {
    let kafka = Kafka::dedicated();
    let shop = Shop::with(&kafka.brokers(), true).await;
    let mut banyan = shop.banyan_with("weight: 0 ", &OUTBOXES).await;
    let mut notifications = Notifications::start(&kafka.brokers());
    until_running(&banyan).await;

    let ann = Browser::new(banyan.http());
    let signed_in = ann.sign_in("ann").await;
    assert_eq!((signed_in.status, side(&signed_in)), (303, "modern"));
    pay(&ann, "12.50").await;
    let ben = Browser::new(banyan.http());
    ben.sign_in("ben").await;
    pay(&ben, "7.00").await;
    pay(&ben, "8.00").await;
    notifications.knows(1, 1).await;
    notifications.knows(2, 2).await;
    let of_ann = notifications.get("/notifications/1").await;
    let (name, first) = (&of_ann["name"], &of_ann["notifications"][0]);
    assert_eq!((name.as_str(), first["text"].as_str()), (Some("ann"), Some("ann paid 12.50 EUR")), "{of_ann}");
    assert_eq!(first["from"], "legacy");

    // Banyan is killed: what it had not confirmed comes again, and is told once.
    banyan.kill();
    banyan.start_again().await;
    until_running(&banyan).await;
    pay(&ann, "3.00").await;
    let known = notifications.knows(1, 2).await;

    // One more that comes twice.
    let (_, payment) = kafka.all_records("outbox.event.payment").remove(0);
    let doubled = async || notifications.get("/stats").await["duplicates"].as_u64().unwrap();
    let before = doubled().await;
    let producer: BaseProducer = kafka.client().create().unwrap();
    let headers = payment
        .headers
        .iter()
        .fold(OwnedHeaders::new(), |all, (key, value)| all.insert(Header { key, value: Some(value) }));
    let (key, payload) = (payment.key.unwrap(), payment.payload.unwrap());
    producer
        .send(BaseRecord::to("outbox.event.payment").key(&key).payload(&payload).headers(headers))
        .map_err(|(error, _)| error)
        .unwrap();
    producer.flush(Duration::from_secs(10)).unwrap();
    eventually(secs(30), "the second one is seen", async || doubled().await > before).await;
    assert_eq!(notifications.knows(1, 2).await, known);

    // Forgotten and read again, by the same process and by another one.
    notifications.rebuild().await;
    assert_eq!(notifications.knows(1, 2).await, known);
    assert_eq!(notifications.get("/stats").await["rebuilds"], 1);
    notifications.restart(async || ()).await;
    assert_eq!(notifications.knows(1, 2).await, known);

    // What happens while nobody reads is not lost, nor while Kafka is away.
    notifications.restart(async || pay(&ann, "4.00").await).await;
    notifications.knows(1, 3).await;
    kafka.kill();
    pay(&ann, "5.00").await;
    kafka.start();
    let known = notifications.knows(1, 4).await;
    notifications.rebuild().await;
    assert_eq!(notifications.knows(1, 4).await, known);
    assert!(shop.legacy.count("outbox").await >= 4, "the monolith keeps its own rows");
}
