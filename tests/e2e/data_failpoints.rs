//! Killed at every step between source and target, one after the other, and started again: nothing is lost, nothing applied twice.
//!
//! Random kills ([`crate::data_faults`]) meet some of these places; here none is left out. The places are Banyan's own list, so that one
//! without a test does not compile.

use std::{
    os::unix::process::ExitStatusExt as _,
    time::{Duration, Instant},
};

use banyan_connectors::failpoint::Point;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use crate::{
    data_mysql_faults::{Both, Writers},
    data_order_key,
    harness::{Banyan, Half, Kafka, MariaDb, Postgres, Shop, eventually, secs},
    workload::{self, Workload, assert_equal_and_once, settle},
};

const SETTLED: Duration = Duration::from_secs(120);
/// `abort` leaves no destructor a word, as SIGKILL.
const SIGABRT: i32 = 6;

/// What must go on for a point to be met.
#[derive(PartialEq)]
enum Met {
    /// A first start, as long as no flow has come past it.
    AtBirth,
    /// The same, and tables are copied in one piece.
    InOnePiece,
    /// The target learns of a generation.
    AtStart,
    /// Tables are copied in chunks.
    InChunks,
    /// A copy ends.
    AtEnd,
    /// Rows change.
    InTheStream,
    /// The target refuses a row.
    WhenParked,
    /// Somebody has it tried again.
    WhenTriedAgain,
    /// Lanes wait for each other, with `order: key`.
    WhereLanesMeet,
    /// A table is emptied, with `order: key`.
    WhenEmptied,
}

// === impl Met ===

impl Met {
    fn of(point: Point) -> Self {
        match point {
            Point::GenerationNoted | Point::GenerationMade | Point::StartDelivered | Point::StartNoted => Self::AtBirth,
            Point::CopyRow | Point::CopyEnd => Self::InOnePiece,
            Point::ApplyStart | Point::ApplyStarted => Self::AtStart,
            Point::ChunkRead | Point::ChunkMarked | Point::ChunkQueued | Point::ChunkDelivered | Point::ChunkKept => {
                Self::InChunks
            }
            Point::ApplyEnd | Point::ApplyEnded => Self::AtEnd,
            Point::RowRead
            | Point::CommitRead
            | Point::QueueBefore
            | Point::QueueAfter
            | Point::ReportBefore
            | Point::ReportAfter
            | Point::ConfirmBefore
            | Point::ConfirmAfter
            | Point::ApplyRead
            | Point::ApplyWritten
            | Point::ApplyCommitted => Self::InTheStream,
            Point::ParkWritten | Point::ParkCommitted => Self::WhenParked,
            Point::ReplayWritten | Point::ReplayCommitted => Self::WhenTriedAgain,
            Point::LanesWait | Point::LanesMet => Self::WhereLanesMeet,
            Point::TableEmptied => Self::WhenEmptied,
        }
    }
}

/// Starts it once for each point that is met so, and waits until it has died there. The first that comes to a point dies of it, or one of the
/// first `most`; so none has gone past it, and the next one is met, too.
async fn dies_at_each(banyan: &mut Banyan, met: &[Met], most: u64, random: &mut StdRng) {
    let mut any = false;
    for point in Point::ALL.into_iter().filter(|point| met.contains(&Met::of(*point))) {
        let armed = format!("{}:{}", point.name(), random.random_range(1..=most));
        banyan.set_env("BANYAN_FAILPOINT", Some(&armed));
        let began = Instant::now();
        banyan.spawn();
        let end = eventually(secs(40), &format!("it dies at {armed}"), async || banyan.wait(Duration::ZERO)).await;
        assert_eq!(end.signal(), Some(SIGABRT), "{armed}: {end}");
        assert!(banyan.log().contains(&format!("point=\"{}\"", point.name())), "it died elsewhere than at {armed}");
        println!("{armed}: {:?}", began.elapsed());
        any = true;
    }
    assert!(any, "no point is met so");
    banyan.set_env("BANYAN_FAILPOINT", None);
}

fn seed() -> (u64, StdRng) {
    let given = std::env::var("BANYAN_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = given.unwrap_or_else(rand::random);
    println!("BANYAN_TEST_SEED={seed}");
    (seed, StdRng::seed_from_u64(seed))
}

async fn shop() -> Shop {
    let ddl = format!("{}{}", workload::AUDIT, workload::ddl("pay"));
    let tables = workload::tables("pay");
    let tables: Vec<&str> = tables.iter().map(String::as_str).collect();
    let (legacy, modern) = (Postgres::shared_legacy(), Postgres::shared_modern());
    let shop = Shop::on(legacy, modern, &Kafka::shared().brokers(), &ddl, &tables).await;
    let rows = "SELECT n, 'book ' || n, n, 0.5, now(), '{}', repeat('b', 3000) FROM generate_series(5000, 5299) AS n";
    shop.legacy.batch(&format!("INSERT INTO pay_book {rows}")).await;
    shop
}

/// The copy is complete: from here on every operation counts.
async fn copied(shop: &Shop) {
    settle(&shop.legacy, &shop.modern, "pay", 0, SETTLED).await;
    eventually(SETTLED, "no table is being filled", async || shop.modern.count("banyan.loading").await == 0).await;
    eventually(SETTLED, "the copy is equal", async || shop.equal().await).await;
    for database in [&shop.legacy, &shop.modern] {
        database.batch("TRUNCATE audit").await;
    }
}

#[tokio::test]
async fn killed_at_every_failpoint_nothing_is_lost_and_nothing_applied_twice() {
    let (seed, mut random) = seed();
    // A copy that lasts for a while, in many chunks.
    let slowly = "snapshot: {chunk: 20, rows_per_second: 300}";
    let born = shop().await;
    let mut banyan = Banyan::with(&born.file_with("legacy", slowly));
    dies_at_each(&mut banyan, &[Met::AtBirth], 1, &mut random).await;
    banyan.start_again().await;

    let shop = shop().await;
    let mut first = std::mem::replace(&mut banyan, Banyan::with(&shop.file_with("legacy", slowly)));
    let writers = Workload::start(&shop.legacy, "pay", seed);
    dies_at_each(&mut banyan, &[Met::AtStart], 1, &mut random).await;
    dies_at_each(&mut banyan, &[Met::InChunks], 2, &mut random).await;
    dies_at_each(&mut banyan, &[Met::AtEnd], 1, &mut random).await;
    writers.finish().await;
    banyan.start_again().await;
    copied(&shop).await;
    copied(&born).await;
    first.kill();
    banyan.kill();

    let writers = Workload::start(&shop.legacy, "pay", seed + 1);
    dies_at_each(&mut banyan, &[Met::InTheStream], 4, &mut random).await;
    banyan.start_again().await;
    writers.finish().await;
    settle(&shop.legacy, &shop.modern, "pay", 1, SETTLED).await;
    assert_equal_and_once(&shop).await;
    banyan.kill();

    // What stands in the way is nobody's operation.
    let unaudited = "DELETE FROM audit WHERE n = (SELECT max(n) FROM audit)";
    let way = "INSERT INTO pay_book (id, title, price) VALUES (9001, 'taken', 1)";
    shop.modern.batch(&format!("BEGIN; {way}; {unaudited}; COMMIT")).await;
    shop.legacy.batch("INSERT INTO pay_book (id, title, price) VALUES (9002, 'taken', 1)").await;
    dies_at_each(&mut banyan, &[Met::WhenParked], 1, &mut random).await;
    assert_eq!(shop.modern.number("SELECT count(*) FROM banyan.parked WHERE state = 'parked'").await, 1);
    shop.modern.batch(&format!("BEGIN; DELETE FROM pay_book WHERE id = 9001; {unaudited}; COMMIT")).await;
    shop.modern.batch("UPDATE banyan.parked SET state = 'retry'").await;
    dies_at_each(&mut banyan, &[Met::WhenTriedAgain], 1, &mut random).await;
    banyan.start_again().await;
    settle(&shop.legacy, &shop.modern, "pay", 2, SETTLED).await;
    assert_equal_and_once(&shop).await;
}

async fn both() -> Both {
    let both = Both::on(MariaDb::shared(), Postgres::shared_modern()).await;
    for owned in [&both.pay.legacy, &both.acc.modern] {
        owned
            .batch("INSERT INTO items VALUES (10, 1, 'one', NULL), (11, 1, 'two', 'large'), (12, 1, NULL, NULL)")
            .await;
    }
    both
}

fn halves(both: &Both) -> [&Half; 4] {
    [&both.pay.legacy, &both.pay.modern, &both.acc.legacy, &both.acc.modern]
}

#[tokio::test]
async fn killed_at_every_failpoint_mariadb_and_postgresql_lose_and_double_nothing() {
    let (seed, mut random) = seed();
    let born = both().await;
    let mut first = Banyan::with(&born.file());
    dies_at_each(&mut first, &[Met::AtBirth, Met::InOnePiece], 1, &mut random).await;
    first.start_again().await;

    let both = both().await;
    let mut banyan = Banyan::with(&both.file());
    dies_at_each(&mut banyan, &[Met::AtStart, Met::AtEnd], 1, &mut random).await;
    banyan.start_again().await;
    for these in [&born, &both] {
        these.settle(1).await;
        for twin in [&these.pay, &these.acc] {
            twin.equal().await.unwrap_or_else(|odd| panic!("{odd}"));
        }
    }
    first.kill();
    banyan.kill();
    for half in halves(&both) {
        half.batch("DELETE FROM audit").await;
    }
    // One direction after the other, or a point that both come to might be met by one of them alone.
    let mut transactions = 0;
    for owner in [&both.pay.legacy, &both.acc.modern] {
        let writers = Writers::start(owner, seed);
        dies_at_each(&mut banyan, &[Met::InTheStream], 3, &mut random).await;
        transactions += writers.finish().await;
    }
    banyan.start_again().await;
    println!("{transactions} transactions");
    both.finish([]).await;
}

#[tokio::test]
async fn killed_at_every_failpoint_lanes_lose_and_double_nothing() {
    let (seed, mut random) = seed();
    let at = |rate: u32| format!("{}\n    snapshot: {{chunk: 5, rows_per_second: {rate}}}", data_order_key::KEY);
    // Lanes come seconds after capture: the copy must outlast several starts.
    let slowly = at(8);
    let shop = data_order_key::shop().await;
    let mut banyan = Banyan::with(&shop.file_with("legacy", &slowly));
    let writers = data_order_key::Writers::start(&shop.legacy, seed);
    dies_at_each(&mut banyan, &[Met::AtStart], 1, &mut random).await;
    dies_at_each(&mut banyan, &[Met::InChunks], 1, &mut random).await;
    banyan.rewrite(&shop.file_with("legacy", &at(300)));
    dies_at_each(&mut banyan, &[Met::WhereLanesMeet], 2, &mut random).await;
    dies_at_each(&mut banyan, &[Met::AtEnd], 1, &mut random).await;
    writers.finish().await;
    banyan.start_again().await;
    data_order_key::copied(&shop).await;

    let writers = data_order_key::Writers::start(&shop.legacy, seed ^ 1);
    banyan.kill();
    dies_at_each(&mut banyan, &[Met::InTheStream], 6, &mut random).await;
    banyan.start_again().await;
    writers.advance(100).await;
    writers.finish().await;
    data_order_key::equal_and_once(&shop).await;

    banyan.kill();
    shop.legacy.batch("BEGIN; TRUNCATE items; INSERT INTO items VALUES (50001, 1, 'anew', NULL); COMMIT").await;
    dies_at_each(&mut banyan, &[Met::WhenEmptied], 1, &mut random).await;
    dies_at_each(&mut banyan, &[Met::WhereLanesMeet], 1, &mut random).await;
    banyan.start_again().await;
    eventually(SETTLED, "the copy is equal", async || shop.equal().await).await;
}
