//! What must hold in the end.
//!
//! Where the source is PostgreSQL, its own logical replication feeds a third database all the while (`CREATE SUBSCRIPTION`): a second opinion on
//! what the rows are, and on the order of all transactions. Where it is MariaDB, its own reader of the binlog has that order.

use std::collections::BTreeMap;

use super::{
    Pair,
    fault::Side,
    stage::{Stage, of_postgres, tables},
};
use crate::harness::{Half, Postgres, eventually, pen::Pen, secs, shop::ROLE};

/// Fed by the source's own replication.
pub(super) struct Third {
    half: Half,
}

// === impl Third ===

impl Third {
    /// Begins it, before anything is written; nothing where the source is no PostgreSQL.
    pub(super) async fn of(stage: &Stage) -> Option<Self> {
        let Half::Postgres(source) = stage.source() else { return None };
        let half = Half::postgres(Postgres::shared_modern(), &of_postgres(stage.pair)).await;
        let all: Vec<&str> = tables(stage.pair).into_iter().map(|(table, _)| table).collect();
        source.batch(&format!("CREATE PUBLICATION third FOR TABLE {}", all.join(", "))).await;
        let url = source.url("postgres", "none");
        half.batch(&format!(
            "CREATE SUBSCRIPTION {} CONNECTION '{url}' PUBLICATION third WITH (copy_data = false)",
            stage.twin.install
        ))
        .await;
        Some(Self { half })
    }

    /// It has the last transaction, too.
    async fn settle(&self) {
        let last = "SELECT count(*)::text FROM ledger WHERE writer = 99";
        eventually(secs(60), "the subscription has brought everything", async || {
            self.half.text(last).await.as_deref() == Some("2")
        })
        .await;
    }

    /// Its rows are the target's.
    async fn equal(&self, stage: &Stage) {
        for (table, list) in tables(stage.pair) {
            let all = async |half: &Half| half.rows(&half.table(table), list).await;
            let (ours, theirs) = (all(stage.target()).await, all(&self.half).await);
            let odd = ours.iter().zip(&theirs).find(|(ours, theirs)| ours != theirs);
            assert!(ours == theirs, "{table}: {} rows, and by the subscription {}: {odd:?}", ours.len(), theirs.len());
        }
    }

    /// The server is everybody's: the worker must not go on asking for a database that is gone.
    async fn end(self, stage: &Stage) {
        let name = &stage.twin.install;
        for verb in ["DISABLE", "SET (slot_name = NONE)"] {
            self.half.batch(&format!("ALTER SUBSCRIPTION {name} {verb}")).await;
        }
        self.half.batch(&format!("DROP SUBSCRIPTION {name}")).await;
    }
}

/// All that must hold when both sides are in step.
pub(super) async fn judge(stage: &Stage, third: Option<Third>) {
    stage.twin.equal().await.unwrap_or_else(|odd| panic!("{odd}"));
    once(stage).await;
    no_loops(stage).await;
    nothing_aside(stage).await;
    let ours = signatures(stage.pair, stage.target()).await;
    let theirs = match &third {
        Some(third) => {
            third.settle().await;
            third.equal(stage).await;
            signatures(stage.pair, &third.half).await
        }
        None => stage.logged().into_iter().map(|row| format!("ledger {row}")).collect(),
    };
    let place = ours.iter().zip(&theirs).position(|(ours, theirs)| ours != theirs);
    let (of_ours, of_theirs) = (ours.len(), theirs.len());
    assert!(
        ours == theirs,
        "of {of_ours} signatures, {of_theirs} in the source's log, the order differs from {place:?} on"
    );
    println!("{of_ours} signatures, in the order of the source's log");
    if let Some(third) = third {
        third.end(stage).await;
    }
}

/// Signatures of the ledger in the order in which they were applied.
async fn signatures(pair: Pair, half: &Half) -> Vec<String> {
    half.lines(match pair {
        Pair::Postgres => "SELECT after::text FROM audit WHERE place = 'ledger' ORDER BY n",
        Pair::Mariadb => "SELECT what FROM audit WHERE what LIKE 'ledger%' ORDER BY k",
    })
    .await
}

/// The same operations on each row, as often on either side.
async fn once(stage: &Stage) {
    let done = match stage.pair {
        Pair::Postgres => "SELECT concat_ws(' ', place, op, before, after) FROM audit",
        Pair::Mariadb => "SELECT what FROM audit",
    };
    let mut balance: BTreeMap<String, i64> = BTreeMap::new();
    let mut all = 0;
    for (half, sign) in [(stage.source(), 1), (stage.target(), -1)] {
        for operation in half.lines(done).await {
            *balance.entry(operation).or_default() += sign;
            all += 1;
        }
    }
    balance.retain(|_, odd| *odd != 0);
    let odd: Vec<_> = balance.iter().take(5).collect();
    assert!(odd.is_empty(), "{} operations were not done as often in the target, among them {odd:?}", balance.len());
    assert!(all > 0, "nothing was done at all");
    println!("{} operations, each as often on either side", all / 2);
}

/// Nothing of Banyan's came back to the source, and nobody else wrote to the target.
async fn no_loops(stage: &Stage) {
    for (side, who) in
        [(Side::Source, format!("author LIKE '{ROLE}%'")), (Side::Target, format!("author NOT LIKE '{ROLE}%'"))]
    {
        let half = stage.half(side);
        let cast = if matches!(half, Half::Postgres(_)) { "::text" } else { "" };
        let odd = half.text(&format!("SELECT count(*){cast} FROM audit WHERE {who}")).await;
        assert_eq!(odd.as_deref(), Some("0"), "operations of the wrong hand on the {side:?}");
    }
}

/// Nothing was parked, and nothing taken for a violation.
async fn nothing_aside(stage: &Stage) {
    for side in [Side::Source, Side::Target] {
        let mut line = Pen::of(stage.half(side)).open().await.expect("nothing is broken any more");
        for table in ["violation", "parked"] {
            // A database of the other kind parks nothing, and has no such table.
            let found = line.number(&format!("SELECT count(*) FROM banyan.{table}")).await;
            assert!(found.unwrap_or(0) == 0, "{found:?} in banyan.{table} of the {side:?}");
        }
    }
}
