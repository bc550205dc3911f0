//! The harness itself: its servers are real, its faults do what they say.

use std::time::Duration;

use rdkafka::producer::{FutureProducer, FutureRecord};

use crate::harness::{
    Kafka, Postgres, Raw, Script, Shop, Upstream, Wire,
    client::Cut,
    eventually,
    metrics::Metrics,
    secs,
    shop::{PASSWORD, ROLE},
    watchdog::{Signal, Watched},
};

#[tokio::test]
async fn a_shop_has_two_databases_that_can_be_decoded_and_compared() {
    let shop = Shop::fresh().await;
    shop.legacy.batch("INSERT INTO accounts VALUES (1, 'a@example.com', 'Ada')").await;
    assert_eq!(shop.legacy.text("SHOW wal_level").await.as_deref(), Some("logical"));
    assert!(shop.equal().await.unwrap_err().contains("public.accounts: 1 rows in legacy, 0 in modern"));
    shop.modern.execute("INSERT INTO accounts VALUES (1, 'a@example.com', $1)", &[&"Ada"]).await;
    shop.equal().await.unwrap();
    assert_eq!(shop.modern.count("accounts").await, 1);
    assert!(shop.file("legacy").contains(&shop.install));
}

#[tokio::test]
async fn banyans_role_shows_its_password_and_may_set_the_replication_role() {
    let shop = Shop::fresh().await;
    let tls = tokio_postgres::NoTls;
    assert!(tokio_postgres::connect(&shop.legacy.url(ROLE, "wrong"), tls).await.is_err());
    let (client, connection) = tokio_postgres::connect(&shop.legacy.url(ROLE, PASSWORD), tls).await.unwrap();
    tokio::spawn(connection);
    client.batch_execute("SET session_replication_role = replica").await.unwrap();
    client.batch_execute("CREATE PUBLICATION p FOR TABLE accounts, payments").await.unwrap();
}

#[tokio::test]
async fn a_database_comes_back_with_its_rows_after_a_stop_and_after_a_crash() {
    let server = Postgres::dedicated();
    let mut database = server.database("kept").await;
    database.batch("CREATE TABLE t (n int); INSERT INTO t VALUES (7)").await;
    let port = server.port();
    for end in [Postgres::stop, Postgres::crash] {
        end(&server);
        server.start();
        database.reconnect().await;
        assert_eq!(database.number("SELECT n FROM t").await, 7);
    }
    assert_eq!(server.port(), port);
    assert!(server.log().exists());
}

#[tokio::test]
async fn kafka_keeps_what_it_acknowledged_through_a_stop_and_a_kill() {
    let kafka = Kafka::dedicated();
    kafka.create_topic("t", 1, &[("cleanup.policy", "delete")]).await;
    let producer: FutureProducer = kafka.client().set("acks", "all").create().unwrap();
    let send = async |payload: &str| {
        producer.send(FutureRecord::<(), _>::to("t").payload(payload), secs(20)).await.unwrap();
    };
    send("one").await;
    kafka.stop();
    kafka.start();
    send("two").await;
    kafka.kill();
    kafka.start();
    send("three").await;
    let payloads = |kafka: &Kafka| -> Vec<String> {
        let text = |payload: Option<Vec<u8>>| String::from_utf8(payload.unwrap()).unwrap();
        kafka.records("t").into_iter().map(|record| text(record.payload)).collect()
    };
    assert_eq!(payloads(&kafka), ["one", "two", "three"]);
    kafka.delete_before("t", 1).await;
    assert_eq!(kafka.ends("t"), Some((1, 3)));
    assert_eq!(payloads(&kafka), ["two", "three"]);
    kafka.alter_topic("t", &[("max.message.bytes", "200")]).await;
    let large = "x".repeat(1000);
    eventually(secs(10), "the larger record is refused", async || {
        producer.send(FutureRecord::<(), _>::to("t").payload(&large), secs(20)).await.is_err()
    })
    .await;
    kafka.delete_topic("t").await;
    assert!(kafka.log().exists());
}

#[tokio::test]
async fn kafka_through_the_wire_can_be_cut_off() {
    let kafka = Kafka::shared();
    let topic = format!("wired-{}", rand::random::<u32>());
    kafka.create_topic(&topic, 1, &[]).await;
    let mut client = kafka.client();
    client.set("bootstrap.servers", kafka.brokers_through_wire()).set("message.timeout.ms", "1000");
    let producer: FutureProducer = client.create().unwrap();
    let send = async || producer.send(FutureRecord::<(), _>::to(&topic).payload("x"), secs(1)).await.is_ok();
    eventually(secs(20), "a record comes through", async || send().await).await;
    kafka.wire().cut();
    assert!(!send().await);
    kafka.wire().mend();
    eventually(secs(20), "a record comes through again", async || send().await).await;
}

#[tokio::test]
async fn an_upstream_answers_and_keeps_the_bytes_it_was_sent() {
    let upstream = Upstream::scripted(|seen| match seen.path() {
        "/json" => Script::json(&serde_json::json!({"a": [1]})),
        "/chunked" => {
            Script::send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-T: 1\r\n\r\n")
        }
        _ => Script::ok(&format!("{} bytes", seen.body.len())),
    });
    let mut raw = Raw::connect(upstream.addr()).await;
    raw.send("POST /a HTTP/1.1\r\nhOsT: x\r\nContent-Length: 3\r\n\r\nabc").await;
    assert_eq!(raw.answer().await.unwrap().text(), "3 bytes");
    raw.send("POST /b HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n").await;
    assert_eq!(raw.answer().await.unwrap().text(), "11 bytes");
    raw.send("HEAD /c HTTP/1.1\r\nHost: x\r\n\r\nGET /json HTTP/1.1\r\nHost: x\r\n\r\n").await;
    // The script answers HEAD with a body, which a true server would not: its bytes stand before the next answer.
    assert_eq!(raw.answer_to("HEAD").await.unwrap().header("content-length"), Some("7"));
    raw.exactly(7).await.unwrap();
    assert_eq!(raw.answer().await.unwrap().json()["a"][0], 1);
    let chunked = Raw::get(upstream.addr(), "/chunked").await;
    assert_eq!((chunked.text().as_str(), chunked.trailers.as_slice()), ("abc", b"X-T: 1\r\n".as_slice()));
    let seen = upstream.seen();
    assert!(seen[0].head.starts_with(b"POST /a HTTP/1.1\r\nhOsT: x\r\n"));
    assert_eq!(
        (seen[0].method(), seen[0].header("host"), seen[0].body.as_slice()),
        ("POST", Some("x"), b"abc".as_slice())
    );
    assert_eq!(seen[1].headers("transfer-encoding"), ["chunked"]);
    assert_eq!((seen[3].connection, upstream.accepted()), (0, 2));
    drop(raw);
    eventually(secs(5), "no connection is open", async || upstream.open() == 0).await;
    assert_eq!(Raw::get(Upstream::named("modern").addr(), "/").await.header("x-from"), Some("modern"));
}

#[tokio::test]
async fn scripted_faults_are_what_they_are_called() {
    let upstream = Upstream::scripted(|seen| match seen.path() {
        "/stall" => Script::stall(),
        "/reset" => Script::reset(),
        "/hang-up" => Script::hang_up(),
        "/lie" => Script::lie(10, "short"),
        "/half" => Script::send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort").then_wait(secs(0)).then_reset(),
        "/head-only" => Script::send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n").then_stall(),
        "/drip" => Script::send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n")
            .then_drip("drip", 1, Duration::from_millis(5))
            .then_close(),
        "/early" => Script::ok("early").before_body().then_close(),
        "/late" => Script::ok("late").after(Duration::from_millis(50)),
        _ => Script::switch("echo"),
    });
    let ask = async |path: &str| {
        let mut raw = Raw::connect(upstream.addr()).await;
        raw.send(format!("GET {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")).await;
        raw
    };
    assert!(!ask("/stall").await.is_closed_within(Duration::from_millis(100)).await);
    assert_eq!(ask("/reset").await.answer().await, Err(Cut::Before));
    assert_eq!(ask("/hang-up").await.answer().await, Err(Cut::Before));
    assert_eq!(ask("/lie").await.answer().await, Err(Cut::Body));
    assert_eq!(ask("/half").await.answer().await, Err(Cut::Body));
    assert!(tokio::time::timeout(Duration::from_millis(100), ask("/head-only").await.answer()).await.is_err());
    let mut dripping = ask("/drip").await;
    assert_eq!(dripping.answer().await.unwrap().text(), "drip");
    assert!(dripping.is_closed_within(secs(5)).await);
    assert_eq!(ask("/late").await.answer().await.unwrap().text(), "late");
    let mut raw = Raw::connect(upstream.addr()).await;
    raw.send("POST /early HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n").await;
    assert_eq!(raw.answer().await.unwrap().text(), "early");
    let mut tunnel = ask("/switch").await;
    assert_eq!(tunnel.answer().await.unwrap().status, 101);
    tunnel.send("ping").await;
    assert_eq!(tunnel.exactly(4).await.unwrap(), b"ping");
    tunnel.reset();
    let mut half = ask("/late").await;
    half.finish().await;
    assert_eq!(half.answer().await.unwrap().status, 200);
}

#[tokio::test]
async fn a_wire_cuts_pauses_and_delays() {
    let upstream = Upstream::named("far");
    let wire = Wire::to(upstream.addr().port());
    let request = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";
    let mut raw = Raw::connect(wire.addr()).await;
    raw.send(request).await;
    assert_eq!(raw.answer().await.unwrap().text(), "far");
    wire.pause();
    raw.send(request).await;
    assert!(tokio::time::timeout(Duration::from_millis(100), raw.answer()).await.is_err());
    wire.mend();
    assert_eq!(raw.answer().await.unwrap().text(), "far");
    wire.delay(Duration::from_millis(60));
    let start = std::time::Instant::now();
    raw.send(request).await;
    raw.answer().await.unwrap();
    assert!(start.elapsed() >= Duration::from_millis(120));
    wire.mend();
    wire.cut_once();
    assert_eq!(raw.answer().await, Err(Cut::Before));
    assert_eq!(Raw::get(wire.addr(), "/").await.text(), "far");
    wire.cut();
    // The reset comes before, or a little after, the connection is known to be there.
    if let Ok(mut refused) = Raw::try_connect(wire.addr()).await {
        refused.send(request).await;
        assert_eq!(refused.answer().await, Err(Cut::Before));
    }
    wire.mend();
    assert_eq!(Raw::get(wire.addr(), "/").await.text(), "far");
}

#[test]
fn a_scrape_is_taken_apart() {
    let scrape = Metrics::parse("# HELP a b\na{x=\"1\",y=\"2\"} 3\na{x=\"1\",y=\"3\"} 4\nb 1.5\n");
    assert_eq!(scrape.sum("a", &[("x", "1")]), 7.0);
    assert_eq!(scrape.get("a", &[("y", "3")]), Some(4.0));
    assert_eq!(scrape.get("a", &[("x", "1")]), None);
    assert_eq!(scrape.get("b", &[]), Some(1.5));
    assert_eq!(scrape.names(), ["a", "b"]);
}

#[test]
fn a_child_is_signalled_and_waited_for() {
    let mut sleeper = Watched::spawn(std::process::Command::new("sleep").arg("600"), Signal::Kill);
    assert!(sleeper.id() > 0 && sleeper.wait(Duration::from_millis(20)).is_none());
    assert!(!sleeper.end(Signal::Term, secs(5)).success());
}
