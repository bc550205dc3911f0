//! Brokers that fail: leaders that change, too few of them, disks that are full. The flow waits, says why, and nothing is lost.

use serde_json::json;

use crate::{
    data_basic::Running,
    harness::{Cluster, Kafka, Shop, eventually, secs},
};

use banyan_connectors::State;

const LEGACY_OWNS: [State; 2] = [State::Applying, State::Watching];
const ROWS: &str = "CREATE TABLE rows (id bigint PRIMARY KEY, word text NOT NULL)";

async fn shop(brokers: String) -> Shop {
    let mut shop = Shop::with(ROWS, &["public.rows"]).await;
    shop.brokers = brokers;
    shop
}

/// Waits until both sides hold the same rows; three brokers on two cores take their time.
async fn until_equal(shop: &Shop) {
    eventually(secs(120), "both sides are equal", async || shop.equal().await).await;
}

/// Rows in transactions of one each, with every third of the rows before changed.
async fn write(shop: &Shop, from: i64, rows: i64) {
    for id in from..from + rows {
        shop.legacy.batch(&format!("INSERT INTO rows VALUES ({id}, repeat(md5({id}::text), 20))")).await;
        shop.legacy.batch(&format!("UPDATE rows SET word = word || '.' WHERE id % 3 = {id} % 3 AND id < {id}")).await;
    }
}

/// Waits until the forward flow says this.
async fn says(running: &Running, word: &str) {
    eventually(secs(90), &format!("the flow says {word:?}"), async || {
        let flow = running.status().flows.remove(0);
        assert!(!matches!(flow.state, State::Stopped | State::NeedsSnapshot), "{flow:?}");
        let told = flow.last_error.unwrap_or_default();
        if told.contains(word) { Ok(()) } else { Err(format!("{:?} {told}", flow.state)) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leaders_that_are_killed_hand_over_and_nothing_is_lost_or_doubled() {
    let cluster = Cluster::of_three();
    let shop = shop(cluster.brokers()).await;
    let running = Running::start(&shop, "legacy", &json!({}));
    running.until(LEGACY_OWNS).await;
    let topic = format!("{}.shop.legacy_to_modern", shop.install);
    for round in 0..3 {
        write(&shop, round * 100, 20).await;
        let leader = cluster.leader(&topic).expect("somebody leads");
        leader.kill();
        // Written while nobody leads, and then with another leader.
        write(&shop, round * 100 + 20, 40).await;
        eventually(secs(60), "another leads", async || {
            cluster.leader(&topic).is_some_and(|new| !std::ptr::eq(new, leader))
        })
        .await;
        until_equal(&shop).await;
        leader.start();
        write(&shop, round * 100 + 60, 20).await;
    }
    until_equal(&shop).await;
    assert_eq!(shop.modern.count("rows").await, 240);
    running.until(LEGACY_OWNS).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_few_replicas_in_sync_are_waited_for() {
    let cluster = Cluster::of_three();
    let mut shop = shop(cluster.brokers()).await;
    shop.kafka = json!({"topics": {"replication": 3, "min_insync_replicas": 3}});
    let running = Running::start(&shop, "legacy", &json!({}));
    running.until(LEGACY_OWNS).await;
    write(&shop, 0, 10).await;
    until_equal(&shop).await;
    let away = &cluster.nodes()[2];
    away.kill();
    write(&shop, 10, 10).await;
    says(&running, "2 of its replicas are in sync, and min.insync.replicas is 3").await;
    write(&shop, 20, 10).await;
    away.start();
    until_equal(&shop).await;
    assert_eq!(shop.modern.count("rows").await, 30);
    running.until(LEGACY_OWNS).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_is_waited_for_and_nothing_is_lost() {
    let kafka = Kafka::dedicated();
    let shop = shop(kafka.brokers()).await;
    let running = Running::start(&shop, "legacy", &json!({}));
    running.until(LEGACY_OWNS).await;
    // Kafka's indices are files of 10 MiB from the beginning, so that there must be room for those.
    kafka.stop();
    kafka.limit_files(Some(12 << 10));
    kafka.start();
    write(&shop, 0, 10).await;
    until_equal(&shop).await;
    // More than fits, of which a part still goes in.
    for from in (1000..1030).map(|n| n * 100) {
        let rows = format!("SELECT n, repeat(md5(n::text), 300) FROM generate_series({from}, {}) AS n", from + 99);
        shop.legacy.batch(&format!("INSERT INTO rows {rows}")).await;
    }
    eventually(secs(60), "the broker gives up", async || !kafka.runs()).await;
    says(&running, "").await;
    assert!(shop.equal().await.is_err(), "all of it has gone through a full disk");
    kafka.limit_files(None);
    kafka.start();
    until_equal(&shop).await;
    write(&shop, 10, 10).await;
    until_equal(&shop).await;
    assert_eq!(shop.modern.count("rows").await, 3_020);
    running.until(LEGACY_OWNS).await;
    running.stop().await;
}
