//! The servers of one run, the wires to them, and what a fault does to them.

use std::time::Duration;

use serde_json::json;

use super::{
    Pair, Play,
    fault::{Broken, Far, Fault, Frozen, Side},
    ledger::{STATE, sign},
};
use crate::{
    data_mysql_faults::{MARIADB, POSTGRES},
    harness::{
        Banyan, Half, Kafka, MariaDb, Postgres, Twin, Wire, eventually,
        pen::{Line, Pen},
        shop::ROLE,
        watchdog::{self, Signal},
    },
    workload,
};

/// How long everything may take after the last fault, on two cores that others use too.
const SETTLED: Duration = Duration::from_secs(150);

/// A server of either kind.
pub(super) enum Server {
    Postgres(Postgres),
    Mariadb(MariaDb),
}

pub(super) struct Stage {
    pub(super) pair: Pair,
    pub(super) twin: Twin,
    legacy_owns: bool,
    legacy: Server,
    modern: Server,
    kafka: Kafka,
    to_legacy: Wire,
    to_modern: Wire,
    yaml: String,
    banyan: Banyan,
    is_long: bool,
    /// How many large transactions there were.
    many: i64,
}

// === impl Server ===

impl Server {
    fn port(&self) -> u16 {
        match self {
            Self::Postgres(server) => server.port(),
            Self::Mariadb(server) => server.port(),
        }
    }

    fn end(&self, crashes: bool) {
        match (self, crashes) {
            (Self::Postgres(server), false) => server.stop(),
            (Self::Postgres(server), true) => server.crash(),
            (Self::Mariadb(server), false) => server.stop(),
            (Self::Mariadb(server), true) => server.crash(),
        }
    }

    fn start(&self) {
        match self {
            Self::Postgres(server) => server.start(),
            Self::Mariadb(server) => server.start(),
        }
    }

    fn signal(&self, signal: Signal) {
        match self {
            Self::Postgres(server) => server.signal(signal),
            Self::Mariadb(server) => server.signal(signal),
        }
    }
}

/// What PostgreSQL has in this pair, beside the audit.
pub(super) fn of_postgres(pair: Pair) -> String {
    let ledger = "CREATE TABLE ledger (writer bigint, n bigint, half bigint, PRIMARY KEY (writer, n, half))";
    match pair {
        Pair::Postgres => {
            let audited = workload::audited("ledger");
            format!("{}{}{ledger};{audited}", workload::AUDIT, workload::ddl("pay"))
        }
        Pair::Mariadb => format!(
            "{POSTGRES};\n{ledger};
             CREATE FUNCTION signed() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
               INSERT INTO public.audit (what) VALUES (concat_ws(' ', 'ledger', NEW.writer, NEW.n, NEW.half)); RETURN NULL;
             END $$;
             CREATE TRIGGER signed AFTER INSERT ON ledger FOR EACH ROW EXECUTE FUNCTION signed();
             ALTER TABLE ledger ENABLE ALWAYS TRIGGER signed"
        ),
    }
}

fn of_mariadb() -> String {
    format!(
        "{MARIADB};
CREATE TABLE ledger (writer bigint, n bigint, half bigint, PRIMARY KEY (writer, n, half));
CREATE TRIGGER a4 AFTER INSERT ON ledger FOR EACH ROW INSERT INTO audit (what) VALUES (concat_ws(' ', 'ledger', NEW.writer, NEW.n, NEW.half))"
    )
}

/// The tables, and what of them is compared.
pub(super) fn tables(pair: Pair) -> Vec<(&'static str, &'static str)> {
    let ledger = ("ledger", "writer, n, half");
    match pair {
        Pair::Postgres => {
            vec![("pay_book", "id, title, length(body), md5(pay_book::text)"), ("pay_line", "book, n, word"), ledger]
        }
        Pair::Mariadb => vec![("items", "id, n, word, md5(big)"), ledger],
    }
}

// === impl Stage ===

impl Stage {
    /// Starts everything, with the tables in step.
    pub(super) async fn set(pair: Pair, play: Play, legacy_owns: bool) -> Self {
        let (legacy, modern, kafka) = std::thread::scope(|scope| {
            let legacy = scope.spawn(|| match pair {
                Pair::Postgres => Server::Postgres(Postgres::dedicated()),
                Pair::Mariadb => Server::Mariadb(MariaDb::dedicated()),
            });
            let modern = scope.spawn(|| match pair {
                Pair::Postgres => Postgres::newest(),
                Pair::Mariadb => Postgres::dedicated(),
            });
            let kafka = scope.spawn(Kafka::dedicated);
            let modern = Server::Postgres(modern.join().expect("modern starts"));
            (legacy.join().expect("legacy starts"), modern, kafka.join().expect("Kafka starts"))
        });
        let half = async |server: &Server| match server {
            Server::Postgres(server) => Half::postgres(server, &of_postgres(pair)).await,
            Server::Mariadb(server) => Half::mariadb(server, &of_mariadb()).await,
        };
        let compared: Vec<_> = tables(pair).into_iter().map(|(name, list)| (name, list, list)).collect();
        let mut twin = Twin::new(half(&legacy).await, half(&modern).await, &compared);
        let (to_legacy, to_modern) = (Wire::to(legacy.port()), Wire::to(modern.port()));
        twin.legacy_url = twin.legacy.url_through(to_legacy.port());
        twin.modern_url = twin.modern.url_through(to_modern.port());
        let mut keys = json!({"brokers": kafka.brokers_through_wire()});
        if play.is_long {
            keys["topics"] = json!({"max_record": "48MiB"});
        }
        let yaml = format!(
            "install: {}\nmemory: 256MiB\nkafka: {keys}\nupstreams:\n  monolith: {{endpoints: [\"http://127.0.0.1:9\"]}}\ndefault: monolith\nsyncs:\n  pay: {}\n",
            twin.install,
            twin.sync(if legacy_owns { "legacy" } else { "modern" }),
        );
        println!("{pair:?}, {} owns", if legacy_owns { "legacy" } else { "modern" });
        let banyan = Banyan::with(&yaml).start().await;
        let is_long = play.is_long;
        let stage = Self {
            pair,
            twin,
            legacy_owns,
            legacy,
            modern,
            kafka,
            to_legacy,
            to_modern,
            yaml,
            banyan,
            is_long,
            many: 0,
        };
        // What the copy brings comes by other operations than it was made with; so nothing is there to be copied.
        let flow = if legacy_owns { "legacy_to_modern" } else { "modern_to_legacy" };
        stage.banyan.flow_state("pay", flow, &["applying"], SETTLED).await;
        if let Half::Postgres(target) = stage.target() {
            eventually(SETTLED, "no table is being filled", async || target.count("banyan.loading").await == 0).await;
        }
        stage
    }

    fn is_legacy(&self, side: Side) -> bool {
        (side == Side::Source) == self.legacy_owns
    }

    pub(super) fn half(&self, side: Side) -> &Half {
        if self.is_legacy(side) { &self.twin.legacy } else { &self.twin.modern }
    }

    pub(super) fn source(&self) -> &Half {
        self.half(Side::Source)
    }

    pub(super) fn target(&self) -> &Half {
        self.half(Side::Target)
    }

    fn server(&self, side: Side) -> &Server {
        if self.is_legacy(side) { &self.legacy } else { &self.modern }
    }

    fn wire(&self, far: Far) -> &Wire {
        match far {
            Far::Kafka => self.kafka.wire(),
            Far::Database(side) if self.is_legacy(side) => &self.to_legacy,
            Far::Database(_) => &self.to_modern,
        }
    }

    /// An administrator's session, where the server gives one.
    async fn line(&self, side: Side) -> Option<Line> {
        Pen::of(self.half(side)).open().await
    }

    /// kill -9, and at once another.
    pub(super) async fn kill(&mut self) {
        self.banyan.kill();
        self.banyan.spawn();
        tokio::task::yield_now().await;
    }

    /// Lets it happen, and be over.
    pub(super) async fn suffer(&mut self, fault: Fault) {
        match fault {
            Fault::Kill(away) => {
                self.banyan.kill();
                tokio::time::sleep(away).await;
                self.banyan.spawn();
            }
            Fault::Freeze(frozen, lasts) => self.freeze(frozen, lasts).await,
            Fault::Wire(far, broken, lasts) => {
                let wire = self.wire(far);
                match broken {
                    Broken::Cut => wire.cut(),
                    Broken::Silent => wire.pause(),
                    Broken::Slow => wire.delay(lasts / 10),
                }
                tokio::time::sleep(lasts).await;
                wire.mend();
            }
            Fault::Restart(side, crashes, away) => {
                self.server(side).end(crashes);
                tokio::time::sleep(away).await;
                self.server(side).start();
            }
            Fault::RestartKafka(is_killed, away) => {
                if is_killed {
                    self.kafka.kill();
                } else {
                    self.kafka.stop();
                }
                tokio::time::sleep(away).await;
                self.kafka.start();
            }
            Fault::Lock(lasts) => self.lock(lasts).await,
            Fault::Deadlock => self.deadlock().await,
            Fault::Limit(side, lasts) => {
                self.limit(side, true).await;
                self.terminate(side).await;
                tokio::time::sleep(lasts).await;
                self.limit(side, false).await;
            }
            Fault::Terminate(side) => self.terminate(side).await,
            Fault::Second(first_goes, lasts) => {
                let mut second = Banyan::with(&self.yaml);
                second.spawn();
                tokio::time::sleep(lasts).await;
                if first_goes {
                    std::mem::swap(&mut self.banyan, &mut second);
                }
                second.kill();
            }
            Fault::Many => self.write_many().await,
        }
    }

    async fn freeze(&mut self, frozen: Frozen, lasts: Duration) {
        match frozen {
            Frozen::Banyan => {
                self.banyan.signal(Signal::Stop);
                tokio::time::sleep(lasts).await;
                self.banyan.signal(Signal::Cont);
            }
            Frozen::Kafka => {
                self.kafka.signal(Signal::Stop);
                tokio::time::sleep(lasts).await;
                self.kafka.signal(Signal::Cont);
            }
            Frozen::Sessions(side) | Frozen::Server(side) => {
                let server = self.server(side);
                let is_all = matches!((frozen, server), (Frozen::Server(_), _) | (_, Server::Mariadb(_)));
                let mut sessions = Vec::new();
                // A process a session; MariaDB is one for all.
                if let (Server::Postgres(_), Some(mut line)) = (server, self.line(side).await) {
                    let whose =
                        if is_all { "pid <> pg_backend_pid()".to_owned() } else { format!("usename = '{ROLE}'") };
                    let pids = format!("SELECT pid::text FROM pg_stat_activity WHERE {whose}");
                    sessions = line.lines(&pids).await.unwrap_or_default();
                }
                if is_all {
                    server.signal(Signal::Stop);
                }
                watchdog::signal_all(&sessions, Signal::Stop);
                tokio::time::sleep(lasts).await;
                watchdog::signal_all(&sessions, Signal::Cont);
                if is_all {
                    server.signal(Signal::Cont);
                }
            }
        }
    }

    async fn lock(&self, lasts: Duration) {
        let Some(mut line) = self.line(Side::Target).await else { return };
        let locked = match self.target() {
            Half::Postgres(_) => {
                let lock = "SET lock_timeout = '3s'; BEGIN; LOCK TABLE ledger IN ACCESS EXCLUSIVE MODE";
                line.run(lock).await
            }
            Half::Mariadb(_) => {
                line.run("SET lock_wait_timeout = 3").await;
                line.run("LOCK TABLES items WRITE").await
            }
        };
        if locked == Some(true) {
            tokio::time::sleep(lasts).await;
        }
        // The lock goes with its session.
    }

    /// Holds rows until the applier waits for them, and then wants what the applier holds. The applier is the one that finds out.
    async fn deadlock(&self) {
        let Some(mut line) = self.line(Side::Target).await else { return };
        let is_postgres = matches!(self.target(), Half::Postgres(_));
        let rows = match self.pair {
            Pair::Postgres => "SELECT FROM pay_book FOR UPDATE",
            Pair::Mariadb => "SELECT id FROM items FOR UPDATE",
        };
        if is_postgres {
            line.run("SET deadlock_timeout = '60s'; SET lock_timeout = '5s'; BEGIN").await;
        } else {
            line.run("SET innodb_lock_wait_timeout = 5").await;
            line.run("BEGIN").await;
        }
        if line.run(rows).await != Some(true) {
            return;
        }
        if is_postgres {
            let waits = "SELECT count(*) FROM pg_stat_activity WHERE pg_backend_pid() = ANY (pg_blocking_pids(pid))";
            for _ in 0..100 {
                if line.number(waits).await != Some(0) {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(15)).await;
            }
        } else {
            tokio::time::sleep(Duration::from_millis(400)).await;
        }
        let both = if is_postgres { "LOCK TABLE ledger" } else { "SELECT n FROM ledger FOR UPDATE" };
        let got = line.run(both).await;
        println!(
            "           after the deadlock the other session has {}",
            if got == Some(true) { "won" } else { "lost" }
        );
        line.run("ROLLBACK").await;
    }

    async fn limit(&self, side: Side, is_on: bool) {
        let sql = match (self.half(side), is_on) {
            (Half::Postgres(_), true) => format!("ALTER ROLE {ROLE} CONNECTION LIMIT 1"),
            (Half::Postgres(_), false) => format!("ALTER ROLE {ROLE} CONNECTION LIMIT -1"),
            (Half::Mariadb(_), true) => format!("ALTER USER {ROLE}@'%' WITH MAX_USER_CONNECTIONS 1"),
            (Half::Mariadb(_), false) => format!("ALTER USER {ROLE}@'%' WITH MAX_USER_CONNECTIONS 0"),
        };
        let mut line = self.line(side).await.expect("nothing else happens to the server");
        assert_eq!(line.run(&sql).await, Some(true), "{sql}");
    }

    async fn terminate(&self, side: Side) {
        let Some(mut line) = self.line(side).await else { return };
        if let Half::Postgres(_) = self.half(side) {
            let all = format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{ROLE}'");
            line.run(&all).await;
        } else {
            line.run(&format!("KILL USER {ROLE}")).await;
        }
    }

    async fn write_many(&mut self) {
        let Some(mut line) = self.line(Side::Source).await else { return };
        // Changed and mostly deleted again these are a million changes: the first of a long run, and then a few.
        let rows = if self.is_long && self.many % 6 == 0 { 450_000 } else { 20_000 };
        let low = 50_000_000 + self.many * 2_000_000;
        self.many += 1;
        let high = low + rows - 1;
        let statements = match (self.pair, self.source()) {
            (Pair::Postgres, _) => [
                format!("INSERT INTO pay_book (id, title, price) VALUES ({low}, 'many {low}', 0)"),
                format!("INSERT INTO pay_line SELECT {low}, n, 'many' FROM generate_series(1, {rows}) AS n"),
                format!("UPDATE pay_line SET word = 'more' WHERE book = {low} AND n % 3 = 0"),
                format!("DELETE FROM pay_line WHERE book = {low} AND n > 1000"),
            ],
            (Pair::Mariadb, source) => {
                let numbers = match source {
                    Half::Mariadb(_) => format!("seq_{low}_to_{high} s"),
                    Half::Postgres(_) => format!("generate_series({low}, {high}) s(seq)"),
                };
                [
                    format!("INSERT INTO items SELECT seq, 1, 'many', NULL FROM {numbers}"),
                    format!("UPDATE items SET n = 2 WHERE id BETWEEN {low} AND {high} AND id % 3 = 0"),
                    format!("UPDATE items SET word = 'more' WHERE id BETWEEN {low} AND {}", low + 100),
                    format!("DELETE FROM items WHERE id BETWEEN {} AND {high}", low + 1_000),
                ]
            }
        };
        let signed = [sign(50 + self.many, 1, 1), sign(50 + self.many, 1, 2)];
        let begin = ["BEGIN".to_owned(), signed[0].clone()];
        let end = [signed[1].clone(), "COMMIT".to_owned()];
        for statement in begin.iter().chain(&statements).chain(&end) {
            if line.run(statement).await != Some(true) {
                return;
            }
        }
    }

    /// The ledger's rows in the order of MariaDB's log; none of another source.
    pub(super) fn logged(&self) -> Vec<String> {
        match self.server(Side::Source) {
            Server::Mariadb(server) => server.logged_inserts("ledger"),
            Server::Postgres(_) => Vec::new(),
        }
    }

    /// Nothing is broken any more, and the harness has its sessions again.
    pub(super) async fn calm(&mut self) {
        for half in [&mut self.twin.legacy, &mut self.twin.modern] {
            if let Half::Postgres(database) = half {
                database.reconnect().await;
            }
        }
    }

    /// Waits until all that was written has come to the target.
    pub(super) async fn settle(&self) {
        let end = format!("{};\n{}", sign(99, 1, 1), sign(99, 1, 2));
        match self.source() {
            Half::Postgres(database) => database.batch(&format!("BEGIN; {end}; COMMIT")).await,
            Half::Mariadb(schema) => schema.batch(&sign(99, 1, 1)).await,
        }
        if let Half::Mariadb(schema) = self.source() {
            schema.batch(&sign(99, 1, 2)).await;
        }
        let wanted = self.source().lines(STATE).await;
        eventually(SETTLED, "all that was written has come to the target", async || {
            let seen = self.target().lines(STATE).await;
            if seen == wanted { Ok(()) } else { Err(format!("{seen:?} of {wanted:?}")) }
        })
        .await;
    }
}
