//! Writers that do to a side's tables what applications do: short and long transactions side by side, roll-backs,
//! savepoints, changed keys, cascades, bulk statements, values too large for a page. Every row operation is audited by a
//! trigger on both sides, so that what was applied can be compared with what was done, not only with what came of it.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tokio::task::JoinHandle;
use tokio_postgres::{Client, Error};

use crate::harness::{Database, Shop, eventually, secs};

/// Each writer keeps to keys of its own, so that writers conflict over nothing but the log's order.
const WRITERS: i64 = 3;
/// Keys that one writer uses.
pub(crate) const KEYS: i64 = 40;

/// The tables of one sync: `book` and its `line`s, under a prefix.
///
/// `body` is stored outside of the row and uncompressed, so that most updates leave it out of the log.
pub(crate) fn ddl(prefix: &str) -> String {
    format!(
        "CREATE TABLE {prefix}_book (id bigint PRIMARY KEY, title text NOT NULL UNIQUE, price numeric(12,2) NOT NULL, \
         rate double precision, seen timestamptz NOT NULL DEFAULT now(), tags text[], body text);
         ALTER TABLE {prefix}_book ALTER body SET STORAGE EXTERNAL;
         CREATE TABLE {prefix}_line (book bigint REFERENCES {prefix}_book ON DELETE CASCADE ON UPDATE CASCADE, n int, \
         word text, PRIMARY KEY (book, n));
         CREATE TABLE {prefix}_end (id int PRIMARY KEY);
         {audit_book}; {audit_line};",
        audit_book = audited(&format!("{prefix}_book")),
        audit_line = audited(&format!("{prefix}_line")),
    )
}

/// What the triggers of [`ddl`] need, once a database.
pub(crate) const AUDIT: &str = "
CREATE TABLE audit (n bigserial PRIMARY KEY, place text NOT NULL, op text NOT NULL, before bigint, after bigint, author text NOT NULL DEFAULT session_user);
CREATE FUNCTION audit() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
  INSERT INTO public.audit (place, op, before, after) VALUES (TG_TABLE_NAME, TG_OP,
    CASE WHEN TG_OP <> 'INSERT' THEN hash_record_extended(OLD, 0) END, CASE WHEN TG_OP <> 'DELETE' THEN hash_record_extended(NEW, 0) END);
  RETURN NULL;
END $$;
";

/// The tables of [`ddl`] that a sync names.
pub(crate) fn tables(prefix: &str) -> Vec<String> {
    ["book", "line", "end"].map(|table| format!("public.{prefix}_{table}")).to_vec()
}

/// `ENABLE ALWAYS`: it also counts what is applied with `session_replication_role = replica`.
pub(crate) fn audited(table: &str) -> String {
    format!(
        "CREATE TRIGGER audited AFTER INSERT OR UPDATE OR DELETE ON {table} FOR EACH ROW EXECUTE FUNCTION audit(); \
         ALTER TABLE {table} ENABLE ALWAYS TRIGGER audited"
    )
}

/// Writers at work.
pub(crate) struct Workload {
    stop: Arc<AtomicBool>,
    committed: Arc<AtomicU64>,
    writers: Vec<JoinHandle<()>>,
}

/// One writer's means.
struct Writer {
    prefix: String,
    url: String,
    /// Its keys are `base..base + KEYS`, or those plus a million.
    base: i64,
    random: StdRng,
}

// === impl Workload ===

impl Workload {
    /// Starts writers on the tables of `prefix` in `database`. They go on through restarts of the server.
    pub(crate) fn start(database: &Database, prefix: &str, seed: u64) -> Self {
        let (stop, committed) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let writers = (0..WRITERS).map(|number| {
            let writer = Writer {
                prefix: prefix.to_owned(),
                url: database.url("postgres", "none"),
                base: (number + 1) * 1_000,
                random: StdRng::seed_from_u64(seed ^ u64::try_from(number).unwrap_or_default()),
            };
            tokio::spawn(writer.run(Arc::clone(&stop), Arc::clone(&committed)))
        });
        Self { writers: writers.collect(), stop, committed }
    }

    /// How many transactions they have committed.
    pub(crate) fn committed(&self) -> u64 {
        self.committed.load(Ordering::Relaxed)
    }

    /// Waits until they have committed `more` than now.
    pub(crate) async fn advance(&self, more: u64) {
        let wanted = self.committed() + more;
        eventually(secs(120), "the writers get on", async || self.committed() >= wanted).await;
    }

    /// Lets them finish their transactions.
    pub(crate) async fn finish(self) {
        self.stop.store(true, Ordering::Relaxed);
        for writer in self.writers {
            writer.await.expect("a writer does not panic");
        }
    }
}

// === impl Writer ===

impl Writer {
    async fn run(mut self, stop: Arc<AtomicBool>, committed: Arc<AtomicU64>) {
        while !stop.load(Ordering::Relaxed) {
            // A server that is away is what some tests are about.
            let Ok((mut client, connection)) = tokio_postgres::connect(&self.url, tokio_postgres::NoTls).await else {
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            };
            let driver = tokio::spawn(connection);
            while !stop.load(Ordering::Relaxed) && !client.is_closed() {
                match self.transaction(&mut client).await {
                    Ok(true) => drop(committed.fetch_add(1, Ordering::Relaxed)),
                    Ok(false) => {}
                    // A key or a title that is taken already: rolled back whole, as an application would.
                    Err(_) => drop(client.batch_execute("ROLLBACK").await),
                }
                tokio::time::sleep(Duration::from_millis(self.random.random_range(0..12))).await;
            }
            driver.abort();
        }
    }

    /// One transaction; whether it was committed.
    async fn transaction(&mut self, client: &mut Client) -> Result<bool, Error> {
        client.batch_execute("BEGIN").await?;
        for _ in 0..self.random.random_range(1..6) {
            match self.random.random_range(0..20) {
                0 => {
                    client.batch_execute("SAVEPOINT s").await?;
                    self.operation(client).await.ok();
                    client.batch_execute("ROLLBACK TO s").await?;
                    self.operation(client).await?;
                }
                // A long transaction: others commit before it, though it began first.
                1 => tokio::time::sleep(Duration::from_millis(self.random.random_range(20..250))).await,
                _ => self.operation(client).await?,
            }
        }
        let commits = self.random.random_range(0..8) > 0;
        client.batch_execute(if commits { "COMMIT" } else { "ROLLBACK" }).await?;
        Ok(commits)
    }

    async fn operation(&mut self, client: &Client) -> Result<(), Error> {
        let sql = operation(&mut self.random, &self.prefix, self.base);
        client.batch_execute(&sql).await
    }
}

/// One statement on the keys `base..base + KEYS`, or those plus a million.
pub(crate) fn operation(random: &mut StdRng, prefix: &str, base: i64) -> String {
    let (book, line) = (format!("{prefix}_book"), format!("{prefix}_line"));
    let key = base + random.random_range(0..KEYS) + 1_000_000 * random.random_range(0..2);
    let n = random.random_range(0..1_000_000_000_u32);
    match random.random_range(0..14) {
        0..4 => format!(
            "INSERT INTO {book} (id, title, price, rate, tags, body) VALUES ({key}, 'title {n}', {n} / 700.0, {n} * 1e-7, \
                 ARRAY['a', NULL, 'q\"\\{{}},{n}'], CASE WHEN {n} % 3 = 0 THEN (SELECT string_agg(md5(({n} + i)::text), '') \
                 FROM generate_series(1, 80 + {n} % 2000) AS i) END)"
        ),
        4..7 => format!("UPDATE {book} SET price = {n} / 900.0, title = 'title {n}' WHERE id = {key}"),
        // Now and then of two megabytes.
        7 => format!(
            "UPDATE {book} SET body = repeat(md5('{n}'), CASE WHEN {n} % 20 = 0 THEN 60000 ELSE {n} % 1000 END), \
                 tags = NULL WHERE id = {key}"
        ),
        // The key moves there or back; its lines follow by cascade, its body is in neither tuple.
        8 => format!(
            "UPDATE {book} SET id = CASE WHEN id > 1000000 THEN id - 1000000 ELSE id + 1000000 END WHERE id = {key}"
        ),
        9 => format!("DELETE FROM {book} WHERE id = {key}"),
        10..12 => format!(
            "INSERT INTO {line} SELECT {key}, i, 'wörd {n} ' || i FROM generate_series({n} % 50, {n} % 50 + {n} % 8) AS i \
                 WHERE EXISTS (SELECT FROM {book} WHERE id = {key}) ON CONFLICT DO NOTHING"
        ),
        // A transaction of some thousand rows; a deleted book takes its lines along, one by one.
        12 if n % 10 == 0 => format!(
            "INSERT INTO {line} SELECT {key}, i, 'many {n}' FROM generate_series(1000, 4000) AS i \
                 WHERE EXISTS (SELECT FROM {book} WHERE id = {key}) ON CONFLICT DO NOTHING"
        ),
        12 => format!("UPDATE {line} SET word = word || '.' WHERE book = {key} AND n % 2 = 0"),
        // A bulk statement over all of this writer's rows.
        _ => format!(
            "UPDATE {book} SET seen = now(), rate = rate * 1.5 WHERE id % 1000000 BETWEEN {base} AND {base} + {KEYS}"
        ),
    }
}

/// Writes a last row on `from` and waits until it has come to `to`: everything before it has, too.
pub(crate) async fn settle(from: &Database, to: &Database, prefix: &str, number: i32, at_most: Duration) {
    from.batch(&format!("INSERT INTO {prefix}_end VALUES ({number})")).await;
    let sql = format!("SELECT count(*) FROM {prefix}_end WHERE id = {number}");
    eventually(at_most, &format!("the last row of {prefix} has come through"), async || to.number(&sql).await == 1)
        .await;
}

/// Both sides have the same rows, and the same row operations made them: none lost, none twice.
pub(crate) async fn assert_equal_and_once(shop: &Shop) {
    shop.equal().await.unwrap_or_else(|difference| panic!("{difference}"));
    let [legacy, modern] = [operations(&shop.legacy).await, operations(&shop.modern).await];
    let odd = |these: &BTreeMap<String, i64>, those: &BTreeMap<String, i64>| -> Vec<String> {
        let odd = these.iter().filter(|(operation, count)| those.get(*operation) != Some(count));
        odd.take(5).map(|(operation, count)| format!("{operation} ×{count}")).collect()
    };
    let (in_legacy, in_modern) = (odd(&legacy, &modern), odd(&modern, &legacy));
    assert!(in_legacy.is_empty() && in_modern.is_empty(), "operations: legacy {in_legacy:?}, modern {in_modern:?}");
    assert!(legacy.values().sum::<i64>() > 0, "nothing was done at all");
}

/// How often each operation was done: table, kind, the row before and after as hashes.
async fn operations(database: &Database) -> BTreeMap<String, i64> {
    let sql = "SELECT concat_ws(' ', place, op, before, after) AS t, count(*) FROM audit GROUP BY 1";
    let rows = database.session().await.query(sql, &[]).await.expect("the audit is read");
    rows.into_iter().map(|row| (row.get(0), row.get(1))).collect()
}
