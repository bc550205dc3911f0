//! Kafka as companies run it: TLS, log-ins, rights, and topics that others make. What is not right is waited for, and said.

use banyan_connectors::State;
use serde_json::{Value, json};

use crate::{
    data_basic::{Running, until_equal},
    harness::{Banyan, Kafka, Secured, Shop, eventually, kafka_secured::PASSWORD, secs},
};

const LEGACY_OWNS: [State; 2] = [State::Applying, State::Watching];
const ROWS: &str = "CREATE TABLE rows (id bigint PRIMARY KEY, word text NOT NULL)";

/// A shop of one table on this broker, with these keys of `kafka`.
async fn shop(brokers: String, kafka: Value) -> Shop {
    let mut shop = Shop::with(ROWS, &["public.rows"]).await;
    shop.brokers = brokers;
    shop.kafka = kafka;
    shop
}

fn topic(shop: &Shop) -> String {
    format!("{}.shop.legacy_to_modern", shop.install)
}

/// Waits until the forward flow says all of this, and is neither stopped nor gives the password away.
async fn waits_saying(running: &Running, words: &[&str]) {
    eventually(secs(60), &format!("the flow waits, saying {words:?}"), async || {
        let status = running.status();
        let flow = &status.flows[0];
        assert!(!matches!(flow.state, State::Stopped | State::NeedsSnapshot), "{flow:?}");
        let told = flow.last_error.clone().unwrap_or_default();
        assert!(!told.contains(PASSWORD), "{told}");
        if words.iter().all(|word| told.contains(word)) { Ok(()) } else { Err(format!("{:?} {told}", flow.state)) }
    })
    .await;
}

async fn insert(shop: &Shop, id: u32) {
    shop.legacy.batch(&format!("INSERT INTO rows VALUES ({id}, repeat('word ', 1000))")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sync_runs_with_tls_and_every_log_in_and_packed_in_every_way() {
    let secured = Secured::open();
    let by_password = |mechanism| (secured.by_password(), secured.password(mechanism, PASSWORD));
    let ways = [
        ((secured.by_certificate(), secured.certificate()), "zstd"),
        (by_password("plain"), "lz4"),
        (by_password("scram_sha_256"), "snappy"),
        (by_password("scram_sha_512"), "gzip"),
    ];
    for ((brokers, mut kafka), compression) in ways {
        kafka["topics"] = json!({"compression": compression});
        let shop = shop(brokers, kafka).await;
        insert(&shop, 1).await;
        let running = Running::start(&shop, "legacy", &json!({}));
        running.until(LEGACY_OWNS).await;
        insert(&shop, 2).await;
        shop.legacy.batch("UPDATE rows SET word = repeat('other ', 20000) WHERE id = 1").await;
        until_equal(&shop).await;
        assert_eq!(shop.modern.count("rows").await, 2, "{compression}");
        running.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_not_let_in_is_told_why_and_goes_on_when_let_in() {
    let secured = Secured::open();
    // A certificate by nobody that Banyan trusts.
    let other = Secured::open();
    let stranger = shop(secured.by_password(), other.password("scram_sha_256", PASSWORD)).await;
    let running = Running::start(&stranger, "legacy", &json!({}));
    waits_saying(&running, &["there is no TLS with Kafka (localhost:", "certificate", "`kafka.tls`"]).await;
    running.stop().await;
    drop(other);
    // In the clear where TLS is spoken.
    let plain = shop(secured.by_password(), json!({})).await;
    let running = Running::start(&plain, "legacy", &json!({}));
    waits_saying(&running, &["`kafka.tls`"]).await;
    running.stop().await;
    // No certificate where one is asked for.
    let mut nobody = secured.certificate();
    nobody["tls"] = json!({"ca": nobody["tls"]["ca"]});
    let nobody = shop(secured.by_certificate(), nobody).await;
    let running = Running::start(&nobody, "legacy", &json!({}));
    waits_saying(&running, &["TLS"]).await;
    running.stop().await;
    // A file that is not there.
    let mut lost = secured.certificate();
    lost["tls"]["ca"] = json!("/nowhere/ca.pem");
    let lost = shop(secured.by_certificate(), lost).await;
    let running = Running::start(&lost, "legacy", &json!({}));
    waits_saying(&running, &["`kafka.tls.ca`"]).await;
    running.stop().await;
    // Another password than the user's, which becomes the user's.
    let wrong = "pw-of-banyan-at-kafka-2";
    let shop = shop(secured.by_password(), secured.password("scram_sha_512", wrong)).await;
    insert(&shop, 1).await;
    let running = Running::start(&shop, "legacy", &json!({}));
    let words = ["Kafka refuses the log-in (localhost:", "SCRAM-SHA-512", "`kafka.sasl`"];
    eventually(secs(60), "the flow says that it is not let in", async || {
        let told = running.status().flows[0].last_error.clone().unwrap_or_default();
        if words.iter().all(|word| told.contains(word)) { Ok(()) } else { Err(told) }
    })
    .await;
    secured.set_password(wrong);
    running.until(LEGACY_OWNS).await;
    until_equal(&shop).await;
    assert_eq!(shop.modern.count("rows").await, 1);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_in_that_expires_in_the_middle_delays_and_loses_nothing() {
    let secured = Secured::open();
    let shop = shop(secured.by_password(), secured.password("scram_sha_512", PASSWORD)).await;
    insert(&shop, 1).await;
    let running = Running::start(&shop, "legacy", &json!({}));
    running.until(LEGACY_OWNS).await;
    secured.set_password("pw-of-somebody-else");
    // The broker asks again after each session's three seconds; until then the old one holds.
    let mut id = 1;
    eventually(secs(60), "the flow says that it is not let in any more", async || {
        id += 1;
        insert(&shop, id).await;
        let told = running.status().flows[0].last_error.clone().unwrap_or_default();
        if told.contains("Kafka refuses the log-in") { Ok(()) } else { Err(told) }
    })
    .await;
    insert(&shop, id + 1).await;
    assert!(shop.modern.count("rows").await < i64::from(id + 1));
    secured.set_password(PASSWORD);
    until_equal(&shop).await;
    running.until(LEGACY_OWNS).await;
    assert_eq!(shop.modern.count("rows").await, i64::from(id + 1));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_right_that_is_missing_or_taken_away_is_named_and_waited_for() {
    let secured = Secured::closed();
    let shop = shop(secured.by_password(), secured.password("scram_sha_256", PASSWORD)).await;
    insert(&shop, 1).await;
    let prefix = format!("{}.", shop.install);
    let running = Running::start(&shop, "legacy", &json!({}));
    waits_saying(&running, &["does not let Banyan see", &topic(&shop), "READ, WRITE"]).await;
    secured.allow(&["Read", "Write", "DescribeConfigs"], &prefix);
    waits_saying(&running, &["does not let Banyan make the topic", "CREATE"]).await;
    secured.allow(&["Create"], &prefix);
    // That is all: no right on a group, none on the cluster.
    running.until(LEGACY_OWNS).await;
    until_equal(&shop).await;
    for (id, right, words) in [(2, "Write", "write to"), (3, "Read", "read from")] {
        secured.forbid(&[right], &prefix);
        insert(&shop, id).await;
        let needs = right.to_uppercase();
        waits_saying(&running, &[&format!("does not let Banyan {words} the topic"), &needs]).await;
        secured.allow(&[right], &prefix);
        until_equal(&shop).await;
        running.until(LEGACY_OWNS).await;
        assert_eq!(shop.modern.count("rows").await, i64::from(id));
    }
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn topics_are_made_as_the_file_wants_them() {
    let topics = json!({"replication": 1, "min_insync_replicas": 1, "retention": "12h", "max_record": "2MiB"});
    let shop = shop(Kafka::shared().brokers(), json!({ "topics": topics })).await;
    let running = Running::start(&shop, "legacy", &json!({}));
    running.until(LEGACY_OWNS).await;
    for (name, value) in [
        ("cleanup.policy", "delete"),
        ("retention.ms", "43200000"),
        ("retention.bytes", "-1"),
        ("max.message.bytes", "2162688"),
        ("min.insync.replicas", "1"),
    ] {
        assert_eq!(Kafka::shared().setting(&topic(&shop), name).await.as_deref(), Some(value), "{name}");
    }
    // A change that makes a larger record stops the flow, which says where the limit is.
    shop.legacy.batch("INSERT INTO rows VALUES (1, repeat('x', 3000000))").await;
    running.until([State::Stopped, State::Watching]).await;
    let error = running.status().flows[0].last_error.clone().unwrap();
    assert!(error.contains("larger than the 2097152 bytes of `kafka.topics.max_record`"), "{error}");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn topics_that_others_make_are_waited_for() {
    let shop = shop(Kafka::shared().brokers(), json!({"topics": {"create": false}})).await;
    insert(&shop, 1).await;
    let running = Running::start(&shop, "legacy", &json!({}));
    waits_saying(&running, &["`kafka.topics.create: false`", "kafka-topics.sh --create", &topic(&shop)]).await;
    assert!(Kafka::shared().ends(&topic(&shop)).is_none(), "somebody has made it");
    for flow in ["legacy_to_modern", "modern_to_legacy"] {
        Kafka::shared()
            .create_topic(&format!("{}.shop.{flow}", shop.install), 1, &[("cleanup.policy", "delete")])
            .await;
    }
    running.until(LEGACY_OWNS).await;
    until_equal(&shop).await;
    assert_eq!(shop.modern.count("rows").await, 1);
    running.stop().await;
}

#[tokio::test]
async fn replicas_share_their_state_over_a_log_in_too() {
    let secured = Secured::open();
    let install = format!("r{:06x}", rand::random_range(0..0x100_0000_u32));
    let mut kafka = secured.password("scram_sha_512", "${KAFKA_PASSWORD}");
    kafka["brokers"] = json!(secured.by_password());
    let file = format!(
        "upstreams:\n  monolith: {{endpoints: [\"http://127.0.0.1:9\"]}}\ndefault: monolith\ninstall: {install}\nkafka: {kafka}\n"
    );
    let banyan = Banyan::with(&file).shared().env("KAFKA_PASSWORD", PASSWORD).start().await;
    eventually(secs(30), "it decides over the rollouts", async || {
        banyan.log().contains("this replica decides over the rollouts")
    })
    .await;
    assert_eq!(secured.kafka.setting(&format!("{install}.state"), "cleanup.policy").await.as_deref(), Some("compact"));
    assert!(!banyan.log().contains(PASSWORD) && !banyan.status().await.to_string().contains(PASSWORD));
}
