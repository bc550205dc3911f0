//! Real MariaDB servers on data directories of their own. A server that runs on the machine is never touched.

use std::{
    env,
    fs::{self, File},
    io::{BufRead as _, BufReader},
    os::unix::{fs::chown, process::CommandExt},
    path::PathBuf,
    process::{Command, Stdio},
    sync::{
        LazyLock, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use mysql_async::{Conn, Opts, Row, Value, prelude::Queryable as _};

use super::{
    ports,
    watchdog::{self, Signal, Watched},
};

/// The uid and gid of `nobody`, under which the servers run when the tests run as root.
const NOBODY: u32 = 65_534;

/// What capture needs, and nothing that waits for a disk.
const SETTINGS: [&str; 13] = [
    "--bind-address=127.0.0.1",
    "--log-bin=binlog",
    "--binlog-format=ROW",
    "--binlog-row-image=FULL",
    "--binlog-row-metadata=FULL",
    "--character-set-server=utf8mb4",
    "--max-connections=400",
    "--innodb-buffer-pool-size=64M",
    "--innodb-flush-log-at-trx-commit=2",
    "--sync-binlog=0",
    "--skip-name-resolve",
    "--max-allowed-packet=64M",
    "--innodb-lock-wait-timeout=10",
];

static SHARED: LazyLock<MariaDb> = LazyLock::new(MariaDb::dedicated);

/// One server.
#[derive(Debug)]
pub(crate) struct MariaDb {
    folder: PathBuf,
    port: u16,
    settings: Vec<String>,
    process: Mutex<Option<Watched>>,
}

/// One database of a server.
pub(crate) struct Schema {
    pub(crate) name: String,
    port: u16,
}

// === impl MariaDb ===

impl MariaDb {
    /// The server that all tests of this process share.
    pub(crate) fn shared() -> &'static Self {
        &SHARED
    }

    /// A server for one test, which may stop, restart or fill it.
    pub(crate) fn dedicated() -> Self {
        Self::with_settings(&[])
    }

    /// The same, with settings that win over the harness's.
    pub(crate) fn with_settings(settings: &[&str]) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(100);
        let folder = watchdog::folder("mariadb");
        let data = folder.join("data");
        if watchdog::is_root() {
            chown(&folder, Some(NOBODY), Some(NOBODY)).expect("root may chown");
        }
        let made = Command::new(program("mariadb-install-db"))
            .arg("--no-defaults")
            .arg(format!("--datadir={}", data.display()))
            .args(["--auth-root-authentication-method=normal", "--skip-test-db", "--skip-name-resolve"])
            .arg(format!("--tmpdir={}", folder.display()))
            .args(watchdog::is_root().then_some("--user=nobody"))
            .current_dir(&folder)
            .output()
            .expect("mariadb-install-db runs");
        assert!(made.status.success(), "mariadb-install-db: {}", String::from_utf8_lossy(&made.stderr));
        let settings = SETTINGS
            .iter()
            .chain(settings)
            .map(|setting| (*setting).to_owned())
            .chain([format!("--server-id={}", NUMBER.fetch_add(1, Ordering::Relaxed))])
            .collect();
        let server = Self { folder, port: ports::reserve(), settings, process: Mutex::default() };
        server.start();
        server
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Starts it on its port and its data; no effect when it runs.
    pub(crate) fn start(&self) {
        let mut process = self.process.lock().unwrap();
        if process.as_mut().is_some_and(|running| running.exited().is_none()) {
            return;
        }
        let log = File::options().create(true).append(true).open(self.log()).unwrap();
        let mut command = Command::new(program("mariadbd"));
        command
            .arg("--no-defaults")
            .arg(format!("--datadir={}", self.folder.join("data").display()))
            .arg(format!("--tmpdir={}", self.folder.display()))
            .arg(format!("--socket={}", self.folder.join("s").display()))
            .arg(format!("--pid-file={}", self.folder.join("pid").display()))
            .arg(format!("--port={}", self.port))
            .args(&self.settings)
            .current_dir(&self.folder)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        if watchdog::is_root() {
            command.uid(NOBODY).gid(NOBODY);
        }
        let mut running = Watched::spawn(&mut command, Signal::Kill);
        let end = Instant::now() + Duration::from_secs(60);
        while std::net::TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            let gone = running.exited();
            assert!(
                gone.is_none() && Instant::now() < end,
                "MariaDB on port {} did not start:\n{}",
                self.port,
                watchdog::tail(&self.log(), 20)
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        *process = Some(running);
    }

    /// An orderly shutdown.
    pub(crate) fn stop(&self) {
        self.end(Signal::Term);
    }

    /// As a crash: the next start recovers.
    pub(crate) fn crash(&self) {
        self.end(Signal::Kill);
    }

    fn end(&self, signal: Signal) {
        if let Some(mut running) = self.process.lock().unwrap().take() {
            running.end(signal, Duration::from_secs(30));
        }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        if let Some(running) = self.process.lock().unwrap().as_mut() {
            running.signal(signal);
        }
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.folder.join("log")
    }

    /// The rows that were inserted into a table of small numbers, in the order of the server's own log.
    pub(crate) fn logged_inserts(&self, table: &str) -> Vec<String> {
        let mut logs: Vec<PathBuf> =
            fs::read_dir(self.folder.join("data")).unwrap().map(|file| file.unwrap().path()).collect();
        let is_log = |file: &PathBuf| {
            let name = file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            name.strip_prefix("binlog.").is_some_and(|number| number.parse::<u32>().is_ok())
        };
        logs.retain(is_log);
        logs.sort();
        let mut reading = Command::new(program("mariadb-binlog"))
            .args(["--no-defaults", "-v", "--base64-output=decode-rows"])
            .args(&logs)
            .stdout(Stdio::piped())
            .spawn()
            .expect("mariadb-binlog runs");
        let (mut rows, mut is_its) = (Vec::new(), false);
        let (begins, of_it) = ("### INSERT INTO ", format!(".`{table}`"));
        for line in BufReader::new(reading.stdout.take().expect("stdout is a pipe")).split(b'\n') {
            let line = line.expect("mariadb-binlog is read");
            if !line.starts_with(b"### ") || line.len() > 200 {
                continue;
            }
            let line = String::from_utf8_lossy(&line);
            if line.starts_with(begins) {
                is_its = line.ends_with(&of_it);
            } else if is_its && line.starts_with("###   @1=") {
                rows.push(line["###   @1=".len()..].to_owned());
            } else if is_its && let (Some((_, value)), Some(row)) = (line.split_once('='), rows.last_mut()) {
                row.push(' ');
                row.push_str(value);
            } else if !line.starts_with("### SET") {
                is_its = false;
            }
        }
        assert!(reading.wait().expect("mariadb-binlog ends").success(), "mariadb-binlog reads all of the log");
        rows
    }

    /// A new database.
    pub(crate) async fn schema(&self, prefix: &str) -> Schema {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("{prefix}_{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let schema = Schema { name, port: self.port };
        schema.run(&format!("CREATE DATABASE `{}`", schema.name), "mysql").await;
        schema
    }
}

impl Drop for MariaDb {
    fn drop(&mut self) {
        self.process.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        fs::remove_dir_all(&self.folder).ok();
    }
}

// === impl Schema ===

impl Schema {
    /// The connection URL of one of the server's users.
    pub(crate) fn url(&self, user: &str, password: &str) -> String {
        self.url_through(self.port, user, password)
    }

    /// The same through a wire's port.
    pub(crate) fn url_through(&self, port: u16, user: &str, password: &str) -> String {
        let password = if password.is_empty() { String::new() } else { format!(":{password}") };
        format!("mysql://{user}{password}@127.0.0.1:{port}/{}", self.name)
    }

    /// One more root connection, to this database.
    pub(crate) async fn session(&self) -> Conn {
        self.session_in(&self.name).await
    }

    async fn session_in(&self, database: &str) -> Conn {
        let url = format!("mysql://root@127.0.0.1:{}/{database}", self.port);
        let end = Instant::now() + Duration::from_secs(30);
        loop {
            match Conn::new(Opts::from_url(&url).unwrap()).await {
                Ok(conn) => return conn,
                // Just started: the port is open before it is ready.
                Err(error) if Instant::now() > end => panic!("{error}"),
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }

    async fn run(&self, sql: &str, database: &str) {
        let mut conn = self.session_in(database).await;
        conn.query_drop(sql).await.unwrap_or_else(|error| panic!("{error}\n{sql}"));
        conn.disconnect().await.ok();
    }

    /// Runs statements, as root.
    pub(crate) async fn batch(&self, sql: &str) {
        self.run(sql, &self.name).await;
    }

    /// All rows of an answer, each value as the server's text.
    pub(crate) async fn query(&self, sql: &str) -> Vec<Vec<Option<String>>> {
        let mut conn = self.session().await;
        let rows: Vec<Row> = conn.query(sql).await.unwrap_or_else(|error| panic!("{error}\n{sql}"));
        conn.disconnect().await.ok();
        let text = |value: Value| match value {
            Value::NULL => None,
            Value::Bytes(bytes) => Some(String::from_utf8_lossy(&bytes).into_owned()),
            other => Some(other.as_sql(true)),
        };
        rows.into_iter().map(|row| row.unwrap().into_iter().map(text).collect()).collect()
    }

    /// The first column of the first row as text; `None` for NULL or no row.
    pub(crate) async fn text(&self, sql: &str) -> Option<String> {
        self.query(sql).await.into_iter().next()?.into_iter().next()?
    }
}

/// One of MariaDB's programs. Debian keeps the server's outside of a user's PATH.
fn program(name: &str) -> PathBuf {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin", "/usr/bin", "/usr/local/sbin"].map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|program| program.is_file())
        .unwrap_or_else(|| panic!("no `{name}` found: run ./tests/run, which installs MariaDB or says how"))
}
