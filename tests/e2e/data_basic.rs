//! One sync, one owner: the snapshot, every kind of change, and what stops a flow.

use std::collections::BTreeMap;

use banyan_connectors::{Connectors, ParkedDesk, State, SyncReader, SyncStatus, config::Config};
use prometheus::Registry;
use serde_json::json;

use crate::harness::{Postgres, Shop, eventually, secs};

/// The data half alone, in this process.
pub(crate) struct Running {
    connectors: Connectors,
    pub(crate) registry: Registry,
    pub(crate) config: Config,
}

// === impl Running ===

impl Running {
    /// The sync `shop` of these databases; `keys` are more of its keys.
    pub(crate) fn start(shop: &Shop, owner: &str, keys: &serde_json::Value) -> Self {
        let sync = json!({
            "owner": owner,
            "legacy": {"postgres": shop.legacy_url},
            "modern": {"postgres": shop.modern_url},
            "tables": shop.tables,
        });
        Self::sync(&shop.install, shop.kafka(), sync, keys)
    }

    /// The same with databases of any kind.
    pub(crate) fn sync(
        install: &str,
        kafka: serde_json::Value,
        sync: serde_json::Value,
        keys: &serde_json::Value,
    ) -> Self {
        let registry = Registry::new();
        let config = Self::config(install, kafka, sync, keys);
        Self { connectors: Connectors::start(&config, &registry).unwrap(), registry, config }
    }

    /// The connectors' share of a file with this one sync.
    pub(crate) fn config(
        install: &str,
        kafka: serde_json::Value,
        mut sync: serde_json::Value,
        keys: &serde_json::Value,
    ) -> Config {
        for (key, value) in keys.as_object().into_iter().flatten() {
            sync[key] = value.clone();
        }
        Config {
            install: install.to_owned(),
            memory: bytesize::ByteSize::mib(64),
            kafka: Some(serde_json::from_value(kafka).unwrap()),
            syncs: BTreeMap::from([("shop".to_owned(), serde_json::from_value(sync).unwrap())]),
        }
    }

    /// What people see of its parked transactions.
    pub(crate) fn desk(&self) -> ParkedDesk {
        ParkedDesk::new("shop", &self.config.syncs["shop"], &self.config.install).unwrap()
    }

    /// How the proxy sees it.
    pub(crate) fn reader(&self) -> SyncReader {
        SyncReader::new("shop", &self.config.syncs["shop"], &self.config.install).unwrap()
    }

    /// All metrics as text.
    pub(crate) fn metrics(&self) -> String {
        prometheus::TextEncoder::new().encode_to_string(&self.registry.gather()).unwrap()
    }

    pub(crate) fn status(&self) -> SyncStatus {
        self.connectors.status().remove(0)
    }

    /// Waits until both flows are in these states (legacy to modern, modern to legacy).
    pub(crate) async fn until(&self, states: [State; 2]) {
        let what = format!("the flows are {states:?}");
        eventually(secs(30), &what, async || {
            let status = self.status();
            if [status.flows[0].state, status.flows[1].state] == states { Ok(()) } else { Err(format!("{status:#?}")) }
        })
        .await;
    }

    pub(crate) async fn stop(self) {
        self.connectors.stop().await;
    }
}

/// Waits until both sides hold the same rows.
pub(crate) async fn until_equal(shop: &Shop) {
    eventually(secs(30), "both sides are equal", async || shop.equal().await).await;
}

/// One source transaction each.
const EVERYTHING: [&str; 8] = [
    "INSERT INTO accounts VALUES (3, 'c@x', E'Cy \"quoted\" \\\\ back\nline\\u0001'), (4, 'd@x', 'D')",
    "INSERT INTO payments (id, account_id, amount, note) VALUES (10, 3, 10.50, NULL), (11, 4, 0.01, ''), \
     (12, 4, 7, (SELECT string_agg(md5(i::text), '') FROM generate_series(1, 2000) i))",
    // The long note is not in the stream of any of these.
    "UPDATE payments SET amount = amount + 1",
    "UPDATE payments SET id = id + 100 WHERE id >= 11",
    "UPDATE payments SET note = 'short' WHERE id = 10",
    "DELETE FROM payments WHERE id = 111",
    "BEGIN; INSERT INTO accounts VALUES (5, 'e@x', 'never'); ROLLBACK",
    "INSERT INTO accounts VALUES (6, 'f@x', 'F'); UPDATE accounts SET email = 'ff@x' WHERE id = 6; \
     DELETE FROM accounts WHERE id = 6; INSERT INTO accounts VALUES (6, 'fff@x', 'F')",
];

async fn both_ways(owner: &str) {
    changes_arrive(Shop::fresh().await, owner).await;
}

async fn changes_arrive(shop: Shop, owner: &str) {
    let (from, to) = if owner == "legacy" { (&shop.legacy, &shop.modern) } else { (&shop.modern, &shop.legacy) };
    from.batch("INSERT INTO accounts VALUES (1, 'a@x', 'Ann'), (2, 'b@x', 'Bö\tb'); INSERT INTO payments VALUES (1, 1, 9.99, 'first', '2026-01-02 03:04:05.678+00')").await;
    let running = Running::start(&shop, owner, &json!({}));
    let states =
        if owner == "legacy" { [State::Applying, State::Watching] } else { [State::Watching, State::Applying] };
    running.until(states).await;
    until_equal(&shop).await;
    assert_eq!(to.count("payments").await, 1);

    for transaction in EVERYTHING {
        from.batch(transaction).await;
    }
    until_equal(&shop).await;
    assert_eq!((to.count("accounts").await, to.count("payments").await), (5, 3));

    from.batch("TRUNCATE payments, accounts").await;
    from.batch("INSERT INTO accounts VALUES (1, 'again@x', 'Ann')").await;
    until_equal(&shop).await;
    running.until(states).await;
    // Nothing of it came back as a change, nor as a violation.
    let status = running.status();
    assert_eq!(status.flows.iter().map(|flow| flow.violations).collect::<Vec<_>>(), [0, 0]);
    assert_eq!(status.owner.map(banyan_connectors::config::Side::as_str), Some(owner));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_change_of_a_legacy_owner_arrives() {
    both_ways("legacy").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_change_of_a_modern_owner_arrives() {
    both_ways("modern").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_change_arrives_between_the_distributions_version_and_the_newest() {
    let newest = Postgres::newest();
    for owner in ["legacy", "modern"] {
        changes_arrive(Shop::fresh_with_modern_on(&newest).await, owner).await;
    }
}

/// What loses rows in tools that go on from a change's place instead of a transaction's end: changes stand in the log in another order than commits.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn interleaved_transactions_across_a_stop_lose_nothing() {
    const WRITERS: i64 = 10;
    let shop = Shop::with("CREATE TABLE items (id bigint PRIMARY KEY, word text)", &["public.items"]).await;
    let running = Running::start(&shop, "legacy", &json!({}));
    running.until([State::Applying, State::Watching]).await;
    let mut writers = Vec::new();
    for n in 0..WRITERS {
        let session = shop.legacy.session().await;
        session.batch_execute(&format!("BEGIN; INSERT INTO items VALUES ({n}, 'first')")).await.unwrap();
        writers.push(session);
    }
    // Later ones commit first, and each has changes behind another's end.
    for n in (0..WRITERS).rev() {
        let writer = &writers[usize::try_from(n).unwrap()];
        writer.batch_execute(&format!("INSERT INTO items VALUES ({n} + 100, 'second')")).await.unwrap();
        if n >= WRITERS / 2 {
            writer.batch_execute("COMMIT").await.unwrap();
        }
    }
    eventually(secs(30), "what was committed is there", async || shop.modern.count("items").await == WRITERS).await;
    running.stop().await;
    for (n, writer) in writers.iter().enumerate().take(5) {
        writer.batch_execute(&format!("INSERT INTO items VALUES ({n} + 200, 'third'); COMMIT")).await.unwrap();
    }
    let running = Running::start(&shop, "legacy", &json!({}));
    until_equal(&shop).await;
    assert_eq!(shop.modern.count("items").await, 2 * WRITERS + WRITERS / 2);
    running.until([State::Applying, State::Watching]).await;
    running.stop().await;
}
