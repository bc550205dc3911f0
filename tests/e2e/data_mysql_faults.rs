//! MariaDB beside PostgreSQL, with whatever killed, cut or restarted: both sides end up equal, and every change was applied once.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tokio::task::JoinHandle;

use crate::harness::{Banyan, Half, MariaDb, Postgres, Twin, Wire, eventually, pen::Pen, secs};

const SETTLED: Duration = Duration::from_secs(120);
const WRITERS: i64 = 3;
const KEYS: i64 = 40;

/// What was done to each row is noted by triggers, in the same words on both sides; they fire for applied rows too.
pub(crate) const MARIADB: &str = "
CREATE TABLE items (id bigint PRIMARY KEY, n bigint NOT NULL, word varchar(200), big longtext) COLLATE utf8mb4_bin;
CREATE TABLE audit (k bigint AUTO_INCREMENT PRIMARY KEY, what varchar(200) NOT NULL, author varchar(200) NOT NULL DEFAULT (user()));
CREATE TRIGGER a1 AFTER INSERT ON items FOR EACH ROW INSERT INTO audit (what) VALUES (concat_ws(' ', 'INSERT', NEW.id, NEW.n));
CREATE TRIGGER a2 AFTER UPDATE ON items FOR EACH ROW INSERT INTO audit (what) VALUES (concat_ws(' ', 'UPDATE', OLD.id, OLD.n, NEW.id, NEW.n));
CREATE TRIGGER a3 AFTER DELETE ON items FOR EACH ROW INSERT INTO audit (what) VALUES (concat_ws(' ', 'DELETE', OLD.id, OLD.n))";

pub(crate) const POSTGRES: &str = "
CREATE TABLE items (id bigint PRIMARY KEY, n bigint NOT NULL, word varchar(200), big text);
CREATE TABLE audit (k bigserial PRIMARY KEY, what text NOT NULL, author text NOT NULL DEFAULT session_user);
CREATE FUNCTION audit() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
  INSERT INTO public.audit (what) VALUES (concat_ws(' ', TG_OP, CASE WHEN TG_OP <> 'INSERT' THEN OLD.id END,
    CASE WHEN TG_OP <> 'INSERT' THEN OLD.n END, CASE WHEN TG_OP <> 'DELETE' THEN NEW.id END, CASE WHEN TG_OP <> 'DELETE' THEN NEW.n END));
  RETURN NULL;
END $$;
CREATE TRIGGER audited AFTER INSERT OR UPDATE OR DELETE ON items FOR EACH ROW EXECUTE FUNCTION audit();
ALTER TABLE items ENABLE ALWAYS TRIGGER audited";

const LIST: &str = "id, n, word, md5(big)";

/// Writers at work.
pub(crate) struct Writers {
    stop: Arc<AtomicBool>,
    committed: Arc<AtomicU64>,
    tasks: Vec<JoinHandle<()>>,
}

// === impl Writers ===

impl Writers {
    pub(crate) fn start(half: &Half, seed: u64) -> Self {
        let (stop, committed) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let tasks = (0..WRITERS)
            .map(|number| {
                let random = StdRng::seed_from_u64(seed ^ u64::try_from(number).unwrap_or_default());
                let (stop, committed) = (Arc::clone(&stop), Arc::clone(&committed));
                let is_mariadb = matches!(half, Half::Mariadb(_));
                tokio::spawn(write(Pen::of(half), is_mariadb, (number + 1) * 1_000, random, stop, committed))
            })
            .collect();
        Self { stop, committed, tasks }
    }

    async fn advance(&self, more: u64) {
        let wanted = self.committed.load(Ordering::Relaxed) + more;
        eventually(secs(120), "the writers get on", async || self.committed.load(Ordering::Relaxed) >= wanted).await;
    }

    pub(crate) async fn finish(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.expect("a writer does not panic");
        }
        self.committed.load(Ordering::Relaxed)
    }
}

/// Short and long transactions, roll-backs, savepoints, moved keys, bulk statements, large values; over keys of its own.
async fn write(
    pen: Pen,
    is_mariadb: bool,
    base: i64,
    mut random: StdRng,
    stop: Arc<AtomicBool>,
    committed: Arc<AtomicU64>,
) {
    while !stop.load(Ordering::Relaxed) {
        let Some(mut line) = pen.open().await else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        'line: while !stop.load(Ordering::Relaxed) {
            let mut transaction = vec!["BEGIN".to_owned()];
            for _ in 0..random.random_range(1..6) {
                if random.random_range(0..15) == 0 {
                    transaction.push("SAVEPOINT s".into());
                    transaction.push(operation(&mut random, base, is_mariadb));
                    transaction.push("ROLLBACK TO SAVEPOINT s".into());
                }
                transaction.push(operation(&mut random, base, is_mariadb));
            }
            let commits = random.random_range(0..8) > 0;
            transaction.push(if commits { "COMMIT" } else { "ROLLBACK" }.into());
            let mut done = true;
            for statement in &transaction {
                match line.run(statement).await {
                    Some(true) => {}
                    // A key that is there already: rolled back whole, as an application would.
                    Some(false) => {
                        done = false;
                        if line.run("ROLLBACK").await.is_none() {
                            break 'line;
                        }
                        break;
                    }
                    None => break 'line,
                }
            }
            if done && commits {
                committed.fetch_add(1, Ordering::Relaxed);
            }
            tokio::time::sleep(Duration::from_millis(random.random_range(0..12))).await;
        }
    }
}

pub(crate) fn operation(random: &mut StdRng, base: i64, is_mariadb: bool) -> String {
    let key = base + random.random_range(0..KEYS) + 1_000_000 * random.random_range(0..2);
    let n = random.random_range(0..1_000_000_000_u32);
    match random.random_range(0..12) {
        0..4 => format!("INSERT INTO items VALUES ({key}, {n}, 'wörd ''{n}''', NULL)"),
        4..7 => format!("UPDATE items SET n = {n}, word = 'now {n} 😀' WHERE id = {key}"),
        7 => format!(
            "UPDATE items SET big = repeat('{n}', {}), n = n + 1 WHERE id = {key}",
            if n % 20 == 0 { 200_000 } else { n % 1000 }
        ),
        8 => format!(
            "UPDATE items SET id = CASE WHEN id > 1000000 THEN id - 1000000 ELSE id + 1000000 END WHERE id = {key}"
        ),
        9 => format!("DELETE FROM items WHERE id = {key}"),
        10 if n % 10 == 0 => {
            let low = base * 100_000 + i64::from(n % 1000) * 10_000;
            let numbers = if is_mariadb {
                format!("seq_{low}_to_{} s", low + 3_000)
            } else {
                format!("generate_series({low}, {}) s(seq)", low + 3_000)
            };
            format!("INSERT INTO items SELECT seq, {n}, 'many', NULL FROM {numbers}")
        }
        _ => format!("UPDATE items SET n = n + 1 WHERE id BETWEEN {base} AND {}", base + KEYS),
    }
}

/// Two syncs: in `pay` legacy owns, in `acc` modern does.
pub(crate) struct Both {
    pub(crate) pay: Twin,
    pub(crate) acc: Twin,
}

impl Both {
    pub(crate) async fn on(mariadb: &MariaDb, postgres: &Postgres) -> Self {
        let twin = async || {
            let legacy = Half::mariadb(mariadb, MARIADB).await;
            Twin::new(legacy, Half::postgres(postgres, POSTGRES).await, &[("items", LIST, LIST)])
        };
        Self { pay: twin().await, acc: twin().await }
    }

    pub(crate) fn file(&self) -> String {
        format!(
            "install: {}\nkafka: {{brokers: \"{}\"}}\nupstreams:\n  monolith: {{endpoints: [\"http://127.0.0.1:9\"]}}\ndefault: monolith\nsyncs:\n  pay: {}\n  acc: {}\n",
            self.pay.install,
            self.pay.brokers,
            self.pay.sync("legacy"),
            self.acc.sync("modern")
        )
    }

    /// Writes a last row on each owner's side and waits until it has come to the other.
    pub(crate) async fn settle(&self, number: i64) {
        for (name, twin) in [("pay", &self.pay), ("acc", &self.acc)] {
            let (from, to) = if name == "pay" { (&twin.legacy, &twin.modern) } else { (&twin.modern, &twin.legacy) };
            from.batch(&format!("INSERT INTO items VALUES ({number}, 0, 'end', NULL)")).await;
            eventually(SETTLED, &format!("the last row of {name} has come through"), async || {
                to.text(&format!("SELECT count(*) FROM items WHERE id = {number}")).await.as_deref() == Some("1")
            })
            .await;
        }
    }

    pub(crate) async fn finish(&self, writers: impl IntoIterator<Item = Writers>) {
        for writers in writers {
            println!("{} transactions", writers.finish().await);
        }
        self.settle(2).await;
        for twin in [&self.pay, &self.acc] {
            twin.equal().await.unwrap_or_else(|odd| panic!("{odd}"));
            let done = "SELECT what FROM audit";
            let (mut legacy, mut modern) = (twin.legacy.lines(done).await, twin.modern.lines(done).await);
            legacy.sort();
            modern.sort();
            assert_eq!(legacy.len(), modern.len(), "as many operations on both sides");
            assert!(legacy == modern && !legacy.is_empty(), "the same operations on both sides");
        }
    }

    pub(crate) fn writers(&self, seed: u64) -> [Writers; 2] {
        [Writers::start(&self.pay.legacy, seed), Writers::start(&self.acc.modern, seed + 10)]
    }
}

fn seed() -> u64 {
    let given = std::env::var("BANYAN_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = given.unwrap_or_else(rand::random);
    println!("BANYAN_TEST_SEED={seed}");
    seed
}

#[tokio::test]
async fn killed_at_random_moments_mariadb_and_postgresql_lose_and_double_nothing() {
    let seed = seed();
    let mut random = StdRng::seed_from_u64(seed);
    let both = Both::on(MariaDb::shared(), Postgres::shared_modern()).await;
    let mut banyan = Banyan::with(&both.file()).start().await;
    both.settle(1).await;
    let writers = both.writers(seed);
    let end = Instant::now() + secs(20);
    while Instant::now() < end {
        tokio::time::sleep(Duration::from_millis(random.random_range(50..2_500))).await;
        banyan.kill();
        // Sometimes it is away for a while and finds a backlog.
        tokio::time::sleep(Duration::from_millis(random.random_range(0..4) * 200)).await;
        banyan.spawn();
    }
    both.finish(writers).await;
}

#[tokio::test]
async fn mariadb_crashed_stopped_and_rotated_loses_and_doubles_nothing() {
    let seed = seed();
    let mariadb = MariaDb::dedicated();
    let both = Both::on(&mariadb, Postgres::shared_modern()).await;
    let _banyan = Banyan::with(&both.file()).start().await;
    both.settle(1).await;
    let writers = both.writers(seed);
    for end in [MariaDb::crash, MariaDb::stop, MariaDb::crash] {
        writers[0].advance(20).await;
        writers[1].advance(20).await;
        both.pay.legacy.batch("FLUSH BINARY LOGS").await;
        writers[0].advance(10).await;
        end(&mariadb);
        writers[1].advance(10).await;
        mariadb.start();
    }
    writers[0].advance(20).await;
    both.finish(writers).await;
}

#[tokio::test]
async fn wires_to_mariadb_and_postgresql_may_break_at_any_moment() {
    let seed = seed();
    let mut random = StdRng::seed_from_u64(seed);
    let mut both = Both::on(MariaDb::shared(), Postgres::shared_modern()).await;
    let (legacy, modern) = (Wire::to(MariaDb::shared().port()), Wire::to(Postgres::shared_modern().port()));
    for twin in [&mut both.pay, &mut both.acc] {
        twin.legacy_url = twin.legacy.url_through(legacy.port());
        twin.modern_url = twin.modern.url_through(modern.port());
    }
    let _banyan = Banyan::with(&both.file()).start().await;
    both.settle(1).await;
    let writers = both.writers(seed);
    for _ in 0..8 {
        tokio::time::sleep(Duration::from_millis(random.random_range(100..1_500))).await;
        let wire = if random.random_bool(0.6) { &legacy } else { &modern };
        match random.random_range(0..3) {
            0 => wire.cut_once(),
            1 => {
                wire.cut();
                tokio::time::sleep(Duration::from_millis(random.random_range(100..1_000))).await;
                wire.mend();
            }
            _ => {
                wire.pause();
                tokio::time::sleep(Duration::from_millis(random.random_range(100..3_000))).await;
                wire.mend();
            }
        }
    }
    both.finish(writers).await;
}
