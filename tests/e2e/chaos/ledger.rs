//! Writers whose every transaction signs a ledger, and somebody who reads that ledger in the target all the time.
//!
//! A transaction signs as its writer's next number, once when it begins and once before it ends. So whatever a reader sees of the target at any
//! moment must be each writer's first so many transactions, whole: nothing torn, nothing out of order, nothing twice, nothing uncommitted
//! (what is rolled back signs with its writer's negative).

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tokio::task::JoinHandle;

use super::{Pair, Play, stage::Stage};
use crate::{
    data_mysql_faults,
    harness::pen::{Line, Pen},
    workload,
};

const WRITERS: i64 = 3;
/// A writer waits when the target has not seen its last so many transactions: what piles up in hours would take hours.
const AHEAD: i64 = 200;
const KEYS: i64 = workload::KEYS;
/// How often the target is looked at.
const LOOK: Duration = Duration::from_millis(150);

/// Writers at work.
pub(super) struct Writers {
    stop: Arc<AtomicBool>,
    committed: Arc<AtomicU64>,
    tasks: Vec<JoinHandle<()>>,
}

/// The reader at work.
pub(super) struct Watch {
    stop: Arc<AtomicBool>,
    seen: Seen,
    task: JoinHandle<u64>,
}

/// Each writer's last transaction that was seen in the target.
type Seen = Arc<Vec<AtomicI64>>;

struct Writer {
    seen: Seen,
    pair: Pair,
    pen: Pen,
    number: i64,
    random: StdRng,
    is_long: bool,
}

/// What became of a transaction.
enum Outcome {
    Committed,
    RolledBack,
    /// Only the database knows.
    Unknown,
}

/// One signature.
pub(super) fn sign(writer: i64, n: i64, half: i64) -> String {
    format!("INSERT INTO ledger VALUES ({writer}, {n}, {half})")
}

// === impl Writers ===

impl Writers {
    pub(super) fn start(stage: &Stage, play: Play, watch: &Watch) -> Self {
        let (stop, committed) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let writer = |number: i64| Writer {
            seen: Arc::clone(&watch.seen),
            pair: stage.pair,
            pen: Pen::of(stage.source()),
            number,
            random: StdRng::seed_from_u64(play.seed ^ number.cast_unsigned() << 32),
            is_long: play.is_long,
        };
        let spawn = |number| tokio::spawn(writer(number).run(Arc::clone(&stop), Arc::clone(&committed)));
        Self { tasks: (1..=WRITERS).map(spawn).collect(), stop, committed }
    }

    /// Lets them finish their transactions, and says how many were committed.
    pub(super) async fn finish(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.expect("a writer does not panic");
        }
        self.committed.load(Ordering::Relaxed)
    }
}

// === impl Writer ===

impl Writer {
    async fn run(mut self, stop: Arc<AtomicBool>, committed: Arc<AtomicU64>) {
        let signed = format!("SELECT coalesce(max(n), 0) FROM ledger WHERE writer = {}", self.number);
        while !stop.load(Ordering::Relaxed) {
            tokio::time::sleep(Duration::from_millis(20)).await;
            let Some(mut line) = self.pen.open().await else { continue };
            // Whatever became of the last one whose end got no answer.
            let Some(mut n) = line.number(&signed).await else { continue };
            while !stop.load(Ordering::Relaxed) {
                if n > self.last_seen() + AHEAD {
                    tokio::time::sleep(LOOK).await;
                    continue;
                }
                match self.transaction(&mut line, n + 1).await {
                    Outcome::Committed => {
                        n += 1;
                        committed.fetch_add(1, Ordering::Relaxed);
                    }
                    Outcome::RolledBack => {}
                    Outcome::Unknown => break,
                }
                tokio::time::sleep(Duration::from_millis(self.random.random_range(0..25))).await;
            }
        }
    }

    async fn transaction(&mut self, line: &mut Line, n: i64) -> Outcome {
        let commits = self.random.random_range(0..8) > 0;
        let own = if commits { self.number } else { -self.number };
        let mut statements = vec!["BEGIN".to_owned(), sign(own, n, 1)];
        for _ in 0..self.random.random_range(1..6) {
            match self.random.random_range(0..24) {
                0 => {
                    let inner = [self.operation(), self.operation()];
                    let [first, second] = inner;
                    let gone = sign(-self.number, n, 3);
                    let kept = if self.random.random() { "RELEASE SAVEPOINT t" } else { "ROLLBACK TO SAVEPOINT t" };
                    statements.extend(["SAVEPOINT s".into(), gone, first, "SAVEPOINT t".into(), second]);
                    statements.extend([kept.into(), "ROLLBACK TO SAVEPOINT s".into(), self.operation()]);
                }
                1 => {
                    let inner = self.operation();
                    statements.extend(["SAVEPOINT s".into(), inner, "RELEASE SAVEPOINT s".into()]);
                }
                2 | 3 => statements.extend(self.swap()),
                // A long one: others commit before it, though it began first.
                4 => statements.push(String::new()),
                5 if self.is_long => statements.extend(self.large()),
                _ => statements.push(self.operation()),
            }
        }
        statements.push(sign(own, n, 2));
        for statement in &statements {
            if statement.is_empty() {
                tokio::time::sleep(Duration::from_millis(self.random.random_range(20..900))).await;
                continue;
            }
            match line.run(statement).await {
                Some(true) => {}
                // A key that is there already: rolled back whole, as an application would.
                Some(false) => return self.roll_back(line).await,
                None => return Outcome::Unknown,
            }
        }
        if !commits {
            return self.roll_back(line).await;
        }
        match line.run("COMMIT").await {
            Some(true) => Outcome::Committed,
            _ => Outcome::Unknown,
        }
    }

    async fn roll_back(&self, line: &mut Line) -> Outcome {
        if line.run("ROLLBACK").await == Some(true) { Outcome::RolledBack } else { Outcome::Unknown }
    }

    fn last_seen(&self) -> i64 {
        usize::try_from(self.number - 1).map_or(0, |at| self.seen[at].load(Ordering::Relaxed))
    }

    fn base(&self) -> i64 {
        self.number * 1_000
    }

    fn table(&self) -> &'static str {
        match self.pair {
            Pair::Postgres => "pay_book",
            Pair::Mariadb => "items",
        }
    }

    fn operation(&mut self) -> String {
        let base = self.base();
        match self.pair {
            Pair::Postgres => workload::operation(&mut self.random, "pay", base),
            Pair::Mariadb => data_mysql_faults::operation(&mut self.random, base, self.pen.is_mariadb()),
        }
    }

    /// Two rows exchange their keys, by way of one that nobody else has.
    fn swap(&mut self) -> [String; 3] {
        let (table, base) = (self.table(), self.base());
        let [one, other] = [(); 2].map(|()| base + self.random.random_range(0..KEYS));
        let moves = |from: i64, to: i64| format!("UPDATE {table} SET id = {to} WHERE id = {from}");
        [moves(one, -base), moves(other, one), moves(-base, other)]
    }

    /// Now and then a value of 20 MB, which goes again at once: in MariaDB's log every later change of the row would have it twice.
    fn large(&mut self) -> Vec<String> {
        let key = self.base() + self.random.random_range(0..KEYS);
        let n: u32 = self.random.random();
        if !n.is_multiple_of(10) {
            return Vec::new();
        }
        let sets: [String; 2] = match self.pair {
            Pair::Postgres => [format!("body = repeat(md5('{n}'), 650000)"), format!("body = '{n}', price = {n}")],
            Pair::Mariadb => [format!("big = repeat('{n:010}', 2000000), n = n + 1"), format!("big = '{n}', n = {n}")],
        };
        sets.map(|set| format!("UPDATE {} SET {set} WHERE id = {key}", self.table())).to_vec()
    }
}

// === impl Watch ===

/// Looks at the target until it is told to stop; a look that finds what cannot be fails the run.
pub(super) fn watch(stage: &Stage) -> Watch {
    let pen = Pen::of(stage.target());
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let seen: Seen = Arc::new((0..WRITERS).map(|_| AtomicI64::new(0)).collect());
    let marks = Arc::clone(&seen);
    let task = tokio::spawn(async move {
        let mut looks = 0;
        while !stopped.load(Ordering::Relaxed) {
            tokio::time::sleep(LOOK).await;
            let Some(mut line) = pen.open().await else { continue };
            while let Some(all) = line.lines(STATE).await {
                for state in &all {
                    let (writer, last) = possible(state)
                        .unwrap_or_else(|| panic!("seen in the target, as writer|first|last|rows|halves: {all:?}"));
                    if let Some(mark) = usize::try_from(writer - 1).ok().and_then(|at| marks.get(at)) {
                        mark.store(last, Ordering::Relaxed);
                    }
                }
                looks += 1;
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                tokio::time::sleep(LOOK).await;
            }
        }
        looks
    });
    Watch { stop, seen, task }
}

/// One row a writer.
pub(super) const STATE: &str =
    "SELECT concat_ws('|', writer, min(n), max(n), count(*), sum(half)) FROM ledger GROUP BY writer ORDER BY writer";

/// The writer and its last, if these are its first so many transactions, whole and once.
fn possible(state: &str) -> Option<(i64, i64)> {
    let numbers: Vec<i64> = state.split('|').filter_map(|number| number.parse().ok()).collect();
    let &[writer, first, last, rows, halves] = numbers.as_slice() else { return None };
    (writer > 0 && first == 1 && rows == 2 * last && halves == 3 * last).then_some((writer, last))
}

impl Watch {
    /// It has seen what cannot be.
    pub(super) fn has_ended(&self) -> bool {
        self.task.is_finished()
    }

    /// How often it has looked.
    pub(super) async fn finish(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.expect("nothing impossible was seen in the target")
    }
}
