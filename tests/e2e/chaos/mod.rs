//! Chaos: writers that never stop, and a random sequence of faults of every kind, between two databases of either kind.
//!
//! Short in every run of the tests; `tests/chaos --minutes 60` is the long one, with larger values and transactions. Faults and what the
//! writers do are drawn from one seed, which is printed: `BANYAN_CHAOS_SEED` plays the same plan again. When what is to happen next falls among
//! what is happening is the machine's affair, so a failure may take a few runs of its seed to come back.
//!
//! `ledger` has the writers and who watches the target meanwhile, `fault` what may happen, `stage` the servers it happens to, `oracle` what must
//! hold in the end.

mod fault;
mod ledger;
mod oracle;
mod stage;

use std::{env, time::Duration};

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tokio::time::Instant;

use self::{fault::Step, ledger::Writers, oracle::Third, stage::Stage};
use crate::harness::secs;

/// How long faults follow one another when nobody says.
const SHORT: Duration = Duration::from_secs(12);

/// What a run is drawn from.
#[derive(Debug, Clone, Copy)]
struct Play {
    seed: u64,
    lasts: Duration,
    /// Values of 20 MB, transactions of a million rows, and faults that last longer than leases and timeouts.
    is_long: bool,
}

/// Which databases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pair {
    /// Of the distribution's version, and of the newest.
    Postgres,
    /// MariaDB is legacy.
    Mariadb,
}

// === impl Play ===

impl Play {
    fn of_the_environment() -> Self {
        let number = |name| env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
        let minutes = number("BANYAN_CHAOS_MINUTES");
        let seed = number("BANYAN_CHAOS_SEED").unwrap_or_else(rand::random);
        println!("BANYAN_CHAOS_SEED={seed}");
        Self { seed, lasts: minutes.map_or(SHORT, |minutes| secs(minutes * 60)), is_long: minutes.is_some() }
    }

    async fn run(self, pair: Pair) {
        let mut random = StdRng::seed_from_u64(self.seed);
        let mut stage = Stage::set(pair, self, random.random()).await;
        let third = Third::of(&stage).await;
        let watch = ledger::watch(&stage);
        let writers = Writers::start(&stage, self, &watch);
        let began = Instant::now();
        let mut faults = 0;
        while began.elapsed() < self.lasts && !watch.has_ended() {
            let step = Step::draw(&mut random, self.is_long);
            tokio::time::sleep(step.pause).await;
            println!("{:7.1} s  {step:?}", began.elapsed().as_secs_f64());
            stage.suffer(step.fault).await;
            if step.is_killed {
                stage.kill().await;
            }
            faults += 1;
        }
        println!("{:7.1} s  the end", began.elapsed().as_secs_f64());
        let transactions = writers.finish().await;
        if watch.has_ended() {
            watch.finish().await;
            return;
        }
        stage.calm().await;
        stage.settle().await;
        println!(
            "{:7.1} s  {faults} faults, {transactions} transactions: both sides are in step",
            began.elapsed().as_secs_f64()
        );
        let looks = watch.finish().await;
        assert!(looks > 5 && transactions > 20, "{looks} looks at {transactions} transactions prove nothing");
        oracle::judge(&stage, third).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chaos_between_two_versions_of_postgresql_loses_doubles_and_reorders_nothing() {
    Play::of_the_environment().run(Pair::Postgres).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chaos_between_mariadb_and_postgresql_loses_doubles_and_reorders_nothing() {
    Play::of_the_environment().run(Pair::Mariadb).await;
}
