//! Whatever is killed, cut or restarted: both databases end up equal, and every change was applied once.

use std::time::{Duration, Instant};

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use rdkafka::{
    mocking::MockCluster,
    types::{RDKafkaApiKey, RDKafkaRespErr},
};

use crate::{
    harness::{
        Banyan, Kafka, Postgres, Raw, Shop, Upstream, Wire, eventually, secs,
        shop::{PASSWORD, ROLE},
    },
    workload::{self, Workload, assert_equal_and_once, settle},
};

/// How long the last row may take after the last fault, on two cores that others use too.
const SETTLED: Duration = Duration::from_secs(120);

/// Printed, so that a failure can be run again: `BANYAN_TEST_SEED=…`.
fn seed() -> u64 {
    let given = std::env::var("BANYAN_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = given.unwrap_or_else(rand::random);
    println!("BANYAN_TEST_SEED={seed}");
    seed
}

/// A monolith where nobody listens.
const NOBODY: &str = "http://127.0.0.1:9";

/// The first duty, whatever became of Kafka or a database: the monolith answers, and Banyan is ready.
async fn serves(banyan: &Banyan) {
    assert_eq!(Raw::get(banyan.http(), "/orders").await.text(), "monolith");
    assert_eq!(Raw::get(banyan.admin(), "/readyz").await.status, 200);
}

/// A shop with two syncs: legacy owns the `pay` tables, modern the `acc` tables. Both are audited on both sides.
async fn shop_on(legacy: &Postgres, modern: &Postgres, brokers: &str) -> Shop {
    let ddl = format!("{}{}{}", workload::AUDIT, workload::ddl("pay"), workload::ddl("acc"));
    let tables = [workload::tables("pay"), workload::tables("acc")].concat();
    let tables: Vec<&str> = tables.iter().map(String::as_str).collect();
    Shop::on(legacy, modern, brokers, &ddl, &tables).await
}

/// A file with the shop's two syncs, and a monolith at this address.
fn file(shop: &Shop, monolith: &str) -> String {
    let sync = |name: &str, owner: &str| {
        format!(
            "  {name}:\n    owner: {owner}\n    legacy: {{postgres: \"{}\"}}\n    modern: {{postgres: \"{}\"}}\n    tables: [{}]\n",
            shop.legacy_url,
            shop.modern_url,
            workload::tables(name).join(", ")
        )
    };
    format!(
        "upstreams:\n  monolith: {{endpoints: [\"{monolith}\"]}}\ndefault: monolith\ninstall: {}\nkafka: {{brokers: \
         \"{}\"}}\nsyncs:\n{}{}",
        shop.install,
        shop.brokers,
        sync("pay", "legacy"),
        sync("acc", "modern")
    )
}

/// Writers on each side's own tables.
struct BothSides {
    pay: Workload,
    acc: Workload,
}

impl BothSides {
    fn start(shop: &Shop, seed: u64) -> Self {
        Self { pay: Workload::start(&shop.legacy, "pay", seed), acc: Workload::start(&shop.modern, "acc", seed + 1) }
    }

    async fn advance(&self, more: u64) {
        self.pay.advance(more).await;
        self.acc.advance(more).await;
    }

    /// Ends the writing and checks everything.
    async fn finish(self, shop: &Shop) {
        let (pay, acc) = (self.pay.committed(), self.acc.committed());
        self.pay.finish().await;
        self.acc.finish().await;
        println!("{pay} and {acc} transactions");
        let start = Instant::now();
        settle(&shop.legacy, &shop.modern, "pay", 1, SETTLED).await;
        settle(&shop.modern, &shop.legacy, "acc", 1, SETTLED).await;
        println!("settled after {:?}", start.elapsed());
        assert_equal_and_once(shop).await;
    }
}

/// Both syncs have made their first copy.
async fn copied(shop: &Shop) {
    settle(&shop.legacy, &shop.modern, "pay", 0, SETTLED).await;
    settle(&shop.modern, &shop.legacy, "acc", 0, SETTLED).await;
    // While a table is being filled its rows come by other operations than they were made with.
    for database in [&shop.legacy, &shop.modern] {
        eventually(SETTLED, "no table is being filled", async || database.count("banyan.loading").await == 0).await;
    }
}

#[tokio::test]
async fn killed_at_random_moments_nothing_is_lost_and_nothing_applied_twice() {
    let seed = seed();
    let mut random = StdRng::seed_from_u64(seed);
    let shop = shop_on(Postgres::shared_legacy(), Postgres::shared_modern(), &Kafka::shared().brokers()).await;
    let mut banyan = Banyan::with(&file(&shop, NOBODY)).start().await;
    copied(&shop).await;
    let writers = BothSides::start(&shop, seed);
    let end = Instant::now() + secs(20);
    while Instant::now() < end {
        tokio::time::sleep(Duration::from_millis(random.random_range(50..2_500))).await;
        banyan.kill();
        // Sometimes it is away for a while and finds a backlog.
        tokio::time::sleep(Duration::from_millis(random.random_range(0..4) * 200)).await;
        banyan.spawn();
    }
    writers.finish(&shop).await;
}

#[tokio::test]
async fn kafka_stopped_killed_and_started_delays_but_loses_and_doubles_nothing() {
    let seed = seed();
    let kafka = Kafka::dedicated();
    let shop = shop_on(Postgres::shared_legacy(), Postgres::shared_modern(), &kafka.brokers()).await;
    let monolith = Upstream::named("monolith");
    let banyan = Banyan::with(&file(&shop, &monolith.url())).start().await;
    copied(&shop).await;
    let writers = BothSides::start(&shop, seed);
    for end in [Kafka::stop, Kafka::kill] {
        writers.advance(20).await;
        end(&kafka);
        // The applications' own writes go on as if nothing had happened, and so do requests.
        writers.advance(20).await;
        serves(&banyan).await;
        kafka.start();
    }
    writers.advance(20).await;
    writers.finish(&shop).await;
}

/// A way for a server to go.
type End = fn(&Postgres);

#[tokio::test]
async fn each_database_restarted_or_crashed_in_turn_loses_and_doubles_nothing() {
    let seed = seed();
    let (legacy, modern) = (Postgres::dedicated(), Postgres::dedicated());
    let mut shop = shop_on(&legacy, &modern, &Kafka::shared().brokers()).await;
    let monolith = Upstream::named("monolith");
    let banyan = Banyan::with(&file(&shop, &monolith.url())).start().await;
    copied(&shop).await;
    let writers = BothSides::start(&shop, seed);
    let restarts: [(&Postgres, End); 4] =
        [(&legacy, Postgres::stop), (&modern, Postgres::crash), (&modern, Postgres::stop), (&legacy, Postgres::crash)];
    for (server, end) in restarts {
        writers.advance(15).await;
        end(server);
        serves(&banyan).await;
        server.start();
    }
    writers.advance(15).await;
    shop.legacy.reconnect().await;
    shop.modern.reconnect().await;
    writers.finish(&shop).await;
}

#[tokio::test]
async fn connections_that_are_cut_or_go_silent_at_random_lose_and_double_nothing() {
    let seed = seed();
    let mut random = StdRng::seed_from_u64(seed);
    let kafka = Kafka::dedicated();
    let (legacy, modern) = (Postgres::shared_legacy(), Postgres::shared_modern());
    let [to_legacy, to_modern] = [legacy, modern].map(|server| Wire::to(server.port()));
    let mut shop = shop_on(legacy, modern, &kafka.brokers_through_wire()).await;
    shop.legacy_url = shop.legacy.url_through(to_legacy.port(), ROLE, PASSWORD);
    shop.modern_url = shop.modern.url_through(to_modern.port(), ROLE, PASSWORD);
    let _banyan = Banyan::with(&file(&shop, NOBODY)).start().await;
    copied(&shop).await;
    let writers = BothSides::start(&shop, seed);
    let wires = [&to_legacy, &to_modern, kafka.wire()];
    let end = Instant::now() + secs(12);
    while Instant::now() < end {
        let wire = wires[random.random_range(0..wires.len())];
        match random.random_range(0..3) {
            0 => wire.cut_once(),
            1 => wire.cut(),
            _ => wire.pause(),
        }
        tokio::time::sleep(Duration::from_millis(random.random_range(20..1_500))).await;
        wire.mend();
    }
    // A transaction whose rest does not come for long is given up in the target, and read again.
    for (prefix, database) in [("pay", &shop.legacy), ("acc", &shop.modern)] {
        let book = format!("INSERT INTO {prefix}_book (id, title, price) VALUES (9, 'large', 1)");
        let lines =
            format!("INSERT INTO {prefix}_line SELECT 9, n, repeat('x', 200) FROM generate_series(1, 20000) AS n");
        database.batch(&format!("BEGIN; {book}; {lines}; COMMIT")).await;
    }
    tokio::time::sleep(Duration::from_millis(random.random_range(100..800))).await;
    kafka.wire().pause();
    tokio::time::sleep(secs(6)).await;
    kafka.wire().mend();
    writers.finish(&shop).await;
}

#[tokio::test]
async fn two_processes_of_one_installation_take_over_from_each_other_and_double_nothing() {
    let seed = seed();
    let mut random = StdRng::seed_from_u64(seed);
    let shop = shop_on(Postgres::shared_legacy(), Postgres::shared_modern(), &Kafka::shared().brokers()).await;
    let mut pair = [Banyan::with(&file(&shop, NOBODY)).start().await, Banyan::with(&file(&shop, NOBODY)).start().await];
    copied(&shop).await;
    let writers = BothSides::start(&shop, seed);
    for turn in 0..6 {
        writers.advance(10).await;
        let one = &mut pair[turn % 2];
        if random.random() {
            one.kill();
        } else {
            assert!(one.stop(secs(20)).success());
        }
        one.spawn();
    }
    writers.finish(&shop).await;
}

const ROWS: &str = "CREATE TABLE rows (id bigint PRIMARY KEY, word text NOT NULL)";

/// The state in which the flow from legacy to modern of the sync `shop` ends up, and why.
async fn ends_in(banyan: &Banyan, state: &str) -> String {
    banyan.flow_state("shop", "legacy_to_modern", &[state], SETTLED).await;
    banyan.status().await.to_string()
}

#[tokio::test]
async fn a_head_of_the_topic_deleted_too_early_stops_the_flow_which_then_needs_a_snapshot() {
    let mut shop = Shop::with(ROWS, &["public.rows"]).await;
    let to_modern = Wire::to(Postgres::shared_modern().port());
    shop.modern_url = shop.modern.url_through(to_modern.port(), ROLE, PASSWORD);
    shop.legacy.batch("INSERT INTO rows VALUES (1, 'copied')").await;
    let mut banyan = Banyan::with(&shop.file("legacy")).start().await;
    eventually(secs(30), "the copy is complete", async || shop.modern.count("rows").await == 1).await;
    banyan.flow_state("shop", "legacy_to_modern", &["applying"], secs(10)).await;
    // Modern is away; capture goes on, and its slot with it.
    to_modern.cut();
    shop.legacy.batch("INSERT INTO rows VALUES (2, 'will be lost')").await;
    let written = shop.legacy.text("SELECT pg_current_wal_lsn()").await.unwrap();
    let confirmed = format!(
        "SELECT count(*) FROM pg_replication_slots WHERE slot_name LIKE '{}%l2m%' AND confirmed_flush_lsn >= '{written}'",
        shop.install
    );
    eventually(secs(20), "the source has forgotten the change", async || shop.legacy.number(&confirmed).await == 1)
        .await;
    let topic = format!("{}.shop.legacy_to_modern", shop.install);
    let kafka = Kafka::shared();
    kafka.delete_before(&topic, kafka.ends(&topic).unwrap().1).await;
    to_modern.mend();
    let why = ends_in(&banyan, "needs_snapshot").await;
    assert!(why.contains("its head was deleted too early"), "{why}");
    // It is not stepped over, now or after a restart.
    shop.legacy.batch("INSERT INTO rows VALUES (3, 'must not be applied')").await;
    banyan.kill();
    banyan.start_again().await;
    ends_in(&banyan, "needs_snapshot").await;
    assert_eq!(shop.modern.rows("rows").await, ["(1,copied)"]);
    assert!(!banyan.log().contains(PASSWORD) && !banyan.log().contains("must not be applied"));
}

#[tokio::test]
async fn a_message_refused_in_the_middle_is_a_gap_that_heals_itself() {
    // librdkafka's own broker can refuse one request among others that are in flight; a real one cannot be told to.
    let kafka = MockCluster::new(1).unwrap();
    let mut shop = Shop::with(ROWS, &["public.rows"]).await;
    shop.brokers = kafka.bootstrap_servers();
    for flow in ["legacy_to_modern", "modern_to_legacy"] {
        kafka.create_topic(&format!("{}.shop.{flow}", shop.install), 1, 1).unwrap();
    }
    let banyan = Banyan::with(&shop.file("legacy")).start().await;
    shop.legacy.batch("INSERT INTO rows VALUES (0, 'first')").await;
    eventually(SETTLED, "the first row is there", async || shop.modern.count("rows").await == 1).await;
    banyan.flow_state("shop", "legacy_to_modern", &["applying"], secs(20)).await;
    // Several requests are on their way at a time, and one of them is refused for good.
    kafka.broker_round_trip_time(1, Duration::from_millis(300)).unwrap();
    let write = async |from: i32| {
        for id in from..from + 20 {
            shop.legacy.batch(&format!("INSERT INTO rows VALUES ({id}, 'later')")).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let gap = async || banyan.flow_state("shop", "legacy_to_modern", &["gap"], secs(30)).await;
    let fault = async {
        write(1).await;
        kafka.request_errors(RDKafkaApiKey::Produce, &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_POLICY_VIOLATION]);
        write(21).await;
    };
    tokio::join!(gap(), fault);
    kafka.broker_round_trip_time(1, Duration::ZERO).unwrap();
    banyan.flow_state("shop", "legacy_to_modern", &["applying"], SETTLED).await;
    eventually(SETTLED, "both sides are equal", async || shop.equal().await).await;
    assert_eq!(shop.modern.count("rows").await, 41);
    let restarts =
        banyan.metrics().await.sum("banyan_task_restarts_total", &[("task", "shop/legacy_to_modern/capture")]);
    assert!(restarts >= 1.0, "the refused record was sent again without reading the slot again");
}

#[tokio::test]
async fn memory_stays_within_its_budget_while_kafka_or_the_target_stalls() {
    let kafka = Kafka::dedicated();
    let ddl =
        "CREATE TABLE blobs (id bigint PRIMARY KEY, body text); ALTER TABLE blobs ALTER body SET STORAGE EXTERNAL";
    let mut shop = Shop::with(ddl, &["public.blobs"]).await;
    let to_modern = Wire::to(Postgres::shared_modern().port());
    shop.modern_url = shop.modern.url_through(to_modern.port(), ROLE, PASSWORD);
    shop.brokers = kafka.brokers_through_wire();
    let banyan = Banyan::with(&format!("memory: 32MiB\n{}", shop.file("legacy"))).start().await;
    banyan.flow_state("shop", "legacy_to_modern", &["applying"], SETTLED).await;
    // 100 MB each time, thrice the budget.
    let write = async |from: i64| {
        let rows = format!("generate_series({from}, {}) AS n", from + 1_999);
        shop.legacy.batch(&format!("INSERT INTO blobs SELECT n, repeat(md5(n::text), 1600) FROM {rows}")).await;
    };
    let before = resident(&banyan);
    let mut most = before;
    for (stalled, from) in [(kafka.wire(), 1), (&to_modern, 2_001)] {
        stalled.pause();
        write(from).await;
        let end = Instant::now() + secs(5);
        while Instant::now() < end {
            most = most.max(resident(&banyan));
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        stalled.mend();
        eventually(SETTLED, "all of it has come through", async || {
            most = most.max(resident(&banyan));
            shop.modern.count("blobs").await == from + 1_999
        })
        .await;
    }
    println!("{before} MiB before, {most} MiB at most");
    // The budget, and as much again for what allocators and librdkafka's own buffers hold beside it.
    assert!(most < before + 64, "{before} MiB before, {most} MiB at most");
    shop.equal().await.unwrap();
}

/// Resident memory in MiB.
pub(crate) fn resident(banyan: &Banyan) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", banyan.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}
