//! Real PostgreSQL servers on data directories of their own. A server that runs on the machine is never touched.

use std::{
    env,
    fs::{self, File},
    os::unix::{fs::chown, process::CommandExt},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        LazyLock, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use tokio_postgres::{Client, NoTls, types::ToSql};

use super::{
    Wire, ports,
    watchdog::{self, Signal, Watched},
};

/// The uid and gid of `nobody`, under which the servers run when the tests run as root.
const NOBODY: u32 = 65_534;

/// Settings that differ from initdb's: logical decoding, room for many tests, and nothing that waits for a disk.
const SETTINGS: &str = "
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
wal_level = logical
max_replication_slots = 1000
max_wal_senders = 200
max_connections = 400
shared_buffers = 64MB
fsync = off
full_page_writes = off
max_wal_size = 1GB
log_line_prefix = '%m [%p] %q%u@%d %a '
log_min_messages = warning
log_statement = none
timezone = 'UTC'
";

/// Tests come in as the superuser `postgres` without a password; Banyan's roles must show theirs.
const HBA: &str = "
host all postgres 127.0.0.1/32 trust
host replication postgres 127.0.0.1/32 trust
host all all 127.0.0.1/32 scram-sha-256
host replication all 127.0.0.1/32 scram-sha-256
";

static SHARED: LazyLock<[Postgres; 2]> = LazyLock::new(|| {
    let starting = [(); 2].map(|()| std::thread::spawn(Postgres::dedicated));
    starting.map(|server| server.join().unwrap_or_else(|e| std::panic::resume_unwind(e)))
});

/// One server.
#[derive(Debug)]
pub(crate) struct Postgres {
    /// Of its programs.
    bin: PathBuf,
    folder: PathBuf,
    port: u16,
    process: Mutex<Option<Watched>>,
    /// CREATE DATABASE copies a template and does not like company.
    creating: tokio::sync::Mutex<()>,
}

/// One database of a server, with a superuser connection for the test.
pub(crate) struct Database {
    pub(crate) name: String,
    port: u16,
    client: Client,
}

// === impl Postgres ===

impl Postgres {
    /// The server that all tests of this process share for legacy databases.
    pub(crate) fn shared_legacy() -> &'static Self {
        &SHARED[0]
    }

    /// The server that all tests of this process share for modern databases.
    pub(crate) fn shared_modern() -> &'static Self {
        &SHARED[1]
    }

    /// A server for one test, which may stop, restart or fill it.
    pub(crate) fn dedicated() -> Self {
        Self::with_settings("")
    }

    /// The same, with lines of postgresql.conf that win over the harness's.
    pub(crate) fn with_settings(settings: &str) -> Self {
        Self::of(&DISTRIBUTED, settings)
    }

    /// A server for one test, of the newest version.
    pub(crate) fn newest() -> Self {
        Self::newest_with_settings("")
    }

    pub(crate) fn newest_with_settings(settings: &str) -> Self {
        // What `max_replication_slots` was before 18.
        Self::of(&NEWEST, &format!("max_active_replication_origins = 1000\n{settings}"))
    }

    fn of(bin: &Path, settings: &str) -> Self {
        let folder = watchdog::folder("postgres");
        let data = folder.join("data");
        fs::create_dir(&data).unwrap();
        if watchdog::is_root() {
            chown(&data, Some(NOBODY), Some(NOBODY)).expect("root may chown");
        }
        let made = as_server(Command::new(bin.join("initdb")).arg("-D").arg(&data).args([
            "--no-sync",
            "--username=postgres",
            "--encoding=UTF8",
            "--locale=C",
            "--auth=trust",
        ]))
        .current_dir(&folder)
        .output()
        .expect("initdb runs");
        assert!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));
        let conf = data.join("postgresql.conf");
        let defaults = fs::read_to_string(&conf).unwrap();
        fs::write(conf, format!("{defaults}{SETTINGS}{settings}")).unwrap();
        fs::write(data.join("pg_hba.conf"), HBA).unwrap();
        let server = Self {
            bin: bin.to_owned(),
            folder,
            port: ports::reserve(),
            process: Mutex::default(),
            creating: tokio::sync::Mutex::default(),
        };
        server.start();
        server
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// A standby of this server, made from a copy of its files, which it follows through a slot named `name`. It copies no slots
    /// before `sync_replication_slots` is on.
    pub(crate) async fn standby(&self, name: &str) -> Self {
        let primary = self.connect("postgres").await;
        let run = async |sql: &str| primary.batch_execute(sql).await.unwrap_or_else(|e| panic!("{}\n{sql}", full(&e)));
        run(&format!(
            "SELECT pg_create_physical_replication_slot('{name}', true); SELECT pg_backup_start('{name}', true)"
        ))
        .await;
        let folder = watchdog::folder(name);
        let (from, data) = (self.folder.join("data"), folder.join("data"));
        let copied = |from: &Path, to: &Path| {
            let done = Command::new("cp").arg("-a").arg(from).arg(to).status().expect("cp runs");
            // Files of a running server come and go.
            assert!(done.code().is_some_and(|code| code <= 1), "cp: {done}");
        };
        copied(&from, &data);
        let row = primary.query_one("SELECT labelfile FROM pg_backup_stop(false)", &[]).await;
        let label: String = row.unwrap_or_else(|e| panic!("{}", full(&e))).get(0);
        fs::remove_dir_all(data.join("pg_wal")).unwrap();
        copied(&from.join("pg_wal"), &data.join("pg_wal"));
        for slot in fs::read_dir(data.join("pg_replslot")).unwrap() {
            fs::remove_dir_all(slot.unwrap().path()).unwrap();
        }
        fs::remove_file(data.join("postmaster.pid")).unwrap();
        for (name, content) in [("backup_label", label.as_str()), ("standby.signal", "")] {
            fs::write(data.join(name), content).unwrap();
            if watchdog::is_root() {
                chown(data.join(name), Some(NOBODY), Some(NOBODY)).expect("root may chown");
            }
        }
        let conf = data.join("postgresql.conf");
        let primarys = fs::read_to_string(&conf).unwrap();
        let own = format!(
            "primary_conninfo = 'host=127.0.0.1 port={} user=postgres dbname=postgres'\nprimary_slot_name = '{name}'\n\
             hot_standby_feedback = on\nwal_retrieve_retry_interval = 200ms\n",
            self.port
        );
        fs::write(conf, format!("{primarys}{own}")).unwrap();
        let server = Self {
            bin: self.bin.clone(),
            folder,
            port: ports::reserve(),
            process: Mutex::default(),
            creating: tokio::sync::Mutex::default(),
        };
        server.start();
        server
    }

    /// Makes a server of its own of a standby.
    pub(crate) async fn promote(&self) {
        let session = self.connect("postgres").await;
        let row = session.query_one("SELECT pg_promote(true, 60)", &[]).await;
        assert!(row.unwrap_or_else(|e| panic!("{}", full(&e))).get::<_, bool>(0), "it was not promoted");
    }

    /// Starts it on its port and its data; no effect when it runs.
    pub(crate) fn start(&self) {
        let mut process = self.process.lock().unwrap();
        if process.as_mut().is_some_and(|running| running.exited().is_none()) {
            return;
        }
        let log = File::options().create(true).append(true).open(self.log()).unwrap();
        let data = self.folder.join("data");
        let mut running = Watched::spawn(
            as_server(
                Command::new(self.bin.join("postgres")).arg("-D").arg(&data).args(["-p", &self.port.to_string()]),
            )
            .current_dir(&self.folder)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log),
            Signal::Quit,
        );
        // The postmaster writes `ready` in the eighth line of its pid file, beneath its pid in the first.
        let pid = running.id().to_string();
        let end = Instant::now() + Duration::from_secs(30);
        loop {
            let notes = fs::read_to_string(data.join("postmaster.pid")).unwrap_or_default();
            let mut lines = notes.lines();
            if lines.next() == Some(&pid) && lines.nth(6).is_some_and(|status| status.trim() == "ready") {
                break;
            }
            let gone = running.exited();
            assert!(
                gone.is_none() && Instant::now() < end,
                "PostgreSQL on port {} did not start:\n{}",
                self.port,
                watchdog::tail(&self.log(), 20)
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        *process = Some(running);
    }

    /// Fast shutdown: clients are cut off, and walsenders have sent what there was.
    pub(crate) fn stop(&self) {
        self.end(Signal::Int);
    }

    /// As a crash: the next start recovers from the WAL.
    pub(crate) fn crash(&self) {
        self.end(Signal::Quit);
    }

    fn end(&self, signal: Signal) {
        if let Some(mut running) = self.process.lock().unwrap().take() {
            running.end(signal, Duration::from_secs(30));
        }
    }

    /// To the postmaster alone.
    pub(crate) fn signal(&self, signal: Signal) {
        if let Some(running) = self.process.lock().unwrap().as_mut() {
            running.signal(signal);
        }
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.folder.join("log")
    }

    /// A superuser connection to one of its databases.
    pub(crate) async fn connect(&self, database: &str) -> Client {
        connect(self.port, database).await
    }

    /// A new database, and a connection to it.
    pub(crate) async fn database(&self, prefix: &str) -> Database {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("{prefix}_{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let _alone = self.creating.lock().await;
        let admin = self.connect("postgres").await;
        admin.batch_execute(&format!("CREATE DATABASE {name}")).await.expect("a database");
        Database { client: self.connect(&name).await, port: self.port, name }
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // A poisoned lock here would turn one failed test into an aborted run.
        self.process.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        fs::remove_dir_all(&self.folder).ok();
    }
}

// === impl Database ===

impl Database {
    /// The connection URL of one of the server's roles.
    pub(crate) fn url(&self, user: &str, password: &str) -> String {
        self.url_through(self.port, user, password)
    }

    /// The same through a wire's port.
    pub(crate) fn url_through(&self, port: u16, user: &str, password: &str) -> String {
        format!("postgres://{user}:{password}@127.0.0.1:{port}/{}", self.name)
    }

    /// Runs statements, as the superuser.
    #[track_caller]
    pub(crate) fn batch(&self, sql: &str) -> impl Future<Output = ()> {
        let caller = std::panic::Location::caller();
        async move { self.client.batch_execute(sql).await.unwrap_or_else(|e| panic!("{caller}: {}\n{sql}", full(&e))) }
    }

    /// The first column of the first row as text; `None` for NULL or no row.
    pub(crate) async fn text(&self, sql: &str) -> Option<String> {
        let rows = self.client.simple_query(sql).await.unwrap_or_else(|e| panic!("{}\n{sql}", full(&e)));
        rows.into_iter().find_map(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => Some(row.get(0).map(str::to_owned)),
            _ => None,
        })?
    }

    /// The first column of the first row as a number.
    pub(crate) async fn number(&self, sql: &str) -> i64 {
        let text = self.text(sql).await;
        text.as_deref().and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("no number but {text:?}: {sql}"))
    }

    /// How many rows a table has.
    pub(crate) async fn count(&self, table: &str) -> i64 {
        self.number(&format!("SELECT count(*) FROM {table}")).await
    }

    /// All rows of a table as text, in the order of their text: what two databases are compared by.
    pub(crate) async fn rows(&self, table: &str) -> Vec<String> {
        let sql = format!("SELECT t::text FROM {table} AS t ORDER BY 1");
        let rows = self.client.query(&sql, &[]).await.unwrap_or_else(|e| panic!("{}\n{sql}", full(&e)));
        rows.into_iter().map(|row| row.get(0)).collect()
    }

    /// All rows of an answer, each its columns' texts with bars between them.
    pub(crate) async fn lines(&self, sql: &str) -> Vec<String> {
        let rows = self.client.simple_query(sql).await.unwrap_or_else(|e| panic!("{}\n{sql}", full(&e)));
        let line = |message: tokio_postgres::SimpleQueryMessage| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => {
                let cells: Vec<&str> = (0..row.len()).map(|at| row.get(at).unwrap_or("NULL")).collect();
                Some(cells.join("|"))
            }
            _ => None,
        };
        rows.into_iter().filter_map(line).collect()
    }

    /// Runs one statement with parameters; how many rows it touched.
    pub(crate) async fn execute(&self, sql: &str, params: &[&(dyn ToSql + Sync)]) -> u64 {
        self.client.execute(sql, params).await.unwrap_or_else(|e| panic!("{}\n{sql}", full(&e)))
    }

    /// One more superuser connection, for interleaved transactions.
    pub(crate) async fn session(&self) -> Client {
        connect(self.port, &self.name).await
    }

    /// From here on everybody comes to it through the wire.
    pub(crate) async fn move_behind(&mut self, wire: &Wire) {
        self.port = wire.port();
        self.reconnect().await;
    }

    /// Connects again, after the server was stopped or the wire was cut.
    pub(crate) async fn reconnect(&mut self) {
        self.client = connect(self.port, &self.name).await;
    }
}

async fn connect(port: u16, database: &str) -> Client {
    let url = format!("postgres://postgres@127.0.0.1:{port}/{database}?application_name=test");
    let (client, connection) = tokio_postgres::connect(&url, NoTls).await.unwrap_or_else(|e| panic!("{}", full(&e)));
    tokio::spawn(connection);
    client
}

/// An error with its causes, which tokio-postgres's own Display leaves out.
fn full(error: &tokio_postgres::Error) -> String {
    error.as_db_error().map_or_else(
        || format!("{error}: {:?}", std::error::Error::source(error).map(ToString::to_string)),
        |db| format!("{} ({}) {}", db.message(), db.code().code(), db.detail().unwrap_or_default()),
    )
}

fn as_server(command: &mut Command) -> &mut Command {
    if watchdog::is_root() { command.uid(NOBODY).gid(NOBODY) } else { command }
}

/// One of PostgreSQL's programs. Debian keeps the server's outside of PATH.
/// Programs of the version that the distribution has.
static DISTRIBUTED: LazyLock<PathBuf> = LazyLock::new(|| {
    found().unwrap_or_else(|| {
        panic!(
            "no PostgreSQL server programs (initdb, postgres) found: run ./tests/run, which installs them or says \
             how, or name their folder in BANYAN_TEST_PG_BIN"
        )
    })
});

/// Programs of the newest version that Banyan knows.
static NEWEST: LazyLock<PathBuf> = LazyLock::new(|| {
    let folder = env::var_os("BANYAN_TEST_PG18_BIN").map(PathBuf::from);
    folder.filter(|folder| folder.join("initdb").is_file()).unwrap_or_else(|| {
        panic!("no server programs of PostgreSQL 18: run ./tests/run, which fetches them, or name their folder in BANYAN_TEST_PG18_BIN")
    })
});

fn found() -> Option<PathBuf> {
    let complete = |folder: &Path| folder.join("initdb").is_file() && folder.join("postgres").is_file();
    if let Some(named) = env::var_os("BANYAN_TEST_PG_BIN") {
        let named = PathBuf::from(named);
        assert!(complete(&named), "BANYAN_TEST_PG_BIN={} has no initdb and postgres", named.display());
        return Some(named);
    }
    let mut debian: Vec<PathBuf> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path().join("bin")))
        .collect();
    let version = |bin: &PathBuf| bin.parent()?.file_name()?.to_str()?.parse::<u32>().ok();
    debian.sort_by_key(|bin| std::cmp::Reverse(version(bin)));
    let asked = Command::new("pg_config").arg("--bindir").output().ok();
    let told = asked.map(|out| PathBuf::from(String::from_utf8_lossy(&out.stdout).trim()));
    let path = env::var_os("PATH").unwrap_or_default();
    debian.into_iter().chain(told).chain(env::split_paths(&path)).find(|folder| complete(folder))
}
