//! Banyan itself, as a child process with a file of its own.

use std::{
    fs::{self, File},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Output, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;

use super::{
    Raw, eventually,
    metrics::Metrics,
    ports, secs,
    watchdog::{self, Signal, Watched},
};

/// How long a start may take on two busy cores.
const START: Duration = Duration::from_secs(60);

/// One Banyan. Restarts keep file, ports and state; dropping it kills it, and shows its log when the test failed.
#[derive(Debug)]
pub(crate) struct Banyan {
    folder: PathBuf,
    http: SocketAddr,
    admin: SocketAddr,
    /// Where it is asked whether it is ready, in plain HTTP.
    probes: SocketAddr,
    /// Listeners beside the first one.
    more: Vec<SocketAddr>,
    arguments: Vec<String>,
    variables: Vec<(String, String)>,
    process: Option<Watched>,
}

// === impl Banyan ===

impl Banyan {
    /// A Banyan whose file is `yaml` beneath what the harness chooses: version, listener, admin, state.
    pub(crate) fn with(yaml: &str) -> Self {
        Self::with_admin("", yaml)
    }

    /// The same, with more keys of `admin`.
    pub(crate) fn with_admin(keys: &str, yaml: &str) -> Self {
        let folder = watchdog::folder("banyan");
        let [http, admin] = [(); 2].map(|()| SocketAddr::from(([127, 0, 0, 1], ports::reserve())));
        let (arguments, variables) = (vec!["run".into()], Vec::new());
        let more = Vec::new();
        let banyan = Self { folder, http, admin, probes: admin, more, arguments, variables, process: None };
        banyan.rewrite_with_admin(keys, yaml);
        banyan
    }

    /// One more argument of `banyan run`.
    pub(crate) fn arg(mut self, argument: &str) -> Self {
        self.arguments.push(argument.to_owned());
        self
    }

    /// A variable of its environment.
    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Sets a variable of its environment from the next start on, or takes it away.
    pub(crate) fn set_env(&mut self, name: &str, value: Option<&str>) {
        self.variables.retain(|(known, _)| known != name);
        self.variables.extend(value.map(|value| (name.to_owned(), value.to_owned())));
    }

    /// Its `admin.probes`, where the admin listener speaks TLS.
    pub(crate) fn probed_at(mut self, probes: SocketAddr) -> Self {
        self.probes = probes;
        self
    }

    /// Shares its state with its replicas.
    pub(crate) fn shared(self) -> Self {
        let text = fs::read_to_string(self.file()).unwrap();
        fs::write(self.file(), text.replace("state: {dir: ./state}", "state: {dir: ./state, shared: true}")).unwrap();
        self
    }

    /// Binds the admin listener to every address of this machine.
    pub(crate) fn everywhere(self) -> Self {
        self.edit("admin: {bind: \"127.0.0.1:", "admin: {bind: \"0.0.0.0:");
        self
    }

    /// Replaces text of its file.
    pub(crate) fn edit(&self, from: &str, to: &str) {
        let text = fs::read_to_string(self.file()).unwrap();
        assert!(text.contains(from), "the file has no `{from}`:\n{text}");
        let new = self.folder.join(".routes.yaml.edited");
        fs::write(&new, text.replace(from, to)).unwrap();
        fs::rename(new, self.file()).unwrap();
    }

    /// Starts it and waits until it answers `/readyz`.
    pub(crate) async fn start(mut self) -> Self {
        self.start_again().await;
        self
    }

    /// Starts it after it was ended, on the same ports and state.
    pub(crate) async fn start_again(&mut self) {
        self.spawn();
        let probes = self.probes;
        let end = Instant::now() + START;
        loop {
            if let Some(status) = self.process.as_mut().and_then(Watched::exited) {
                panic!("banyan ended with {status} instead of starting:\n{}", self.log());
            }
            // Asked only when the port is open: `Raw` panics on a refused connection.
            if TcpStream::connect(probes).is_ok() && Raw::get(probes, "/readyz").await.status == 200 {
                return;
            }
            assert!(Instant::now() < end, "banyan is not ready after {START:?}:\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Starts another one in its place, and waits until that has it; gives the one that was there, which ends by itself.
    pub(crate) async fn take_over(&mut self) -> Watched {
        let mut next = self.another(&["--take-over"]);
        let (end, taken) = (
            Instant::now() + START,
            format!("another process has taken over: what is in flight here finishes by={}", next.id()),
        );
        while !self.log().contains(&taken) {
            if let Some(status) = next.exited() {
                panic!("banyan ended with {status} instead of taking over:\n{}", self.log());
            }
            assert!(Instant::now() < end, "nobody is taken over from after {START:?}:\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        self.process.replace(next).expect("it was started")
    }

    /// Starts it and waits for nothing.
    pub(crate) fn spawn(&mut self) {
        self.process = Some(self.another(&[]));
    }

    /// One more process with the same file, to the same log.
    pub(crate) fn another(&self, arguments: &[&str]) -> Watched {
        let log = File::options().create(true).append(true).open(self.folder.join("log")).unwrap();
        Watched::spawn(
            self.command()
                .args(&self.arguments)
                .args(arguments)
                .args(["-c", "routes.yaml"])
                .stdin(Stdio::null())
                .stdout(log.try_clone().unwrap())
                .stderr(log),
            Signal::Kill,
        )
    }

    /// Runs another verb with the same file and environment, to its end: `banyan.verb(&["check"])`.
    pub(crate) fn verb(&self, arguments: &[&str]) -> Output {
        self.command().args(arguments).stdin(Stdio::null()).output().expect("banyan runs")
    }

    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_banyan"));
        command.current_dir(&self.folder).env("NO_COLOR", "1").envs(self.variables.iter().cloned());
        command
    }

    /// From the next file on it listens there too.
    pub(crate) fn listens_too(&mut self, more: &[SocketAddr]) {
        self.more = more.to_vec();
    }

    /// Replaces the file by renaming a new one over it, as editors do.
    pub(crate) fn rewrite(&self, yaml: &str) {
        self.rewrite_with_admin("", yaml);
    }

    /// The same, with more keys of `admin`.
    pub(crate) fn rewrite_with_admin(&self, keys: &str, yaml: &str) {
        let listeners: String =
            [&self.http].into_iter().chain(&self.more).map(|bind| format!("  - {{bind: \"{bind}\"}}\n")).collect();
        let text = format!(
            "version: 1\nlisteners:\n{listeners}admin: {{bind: \"{}\", {keys}}}\nstate: {{dir: ./state}}\n{yaml}",
            self.admin
        );
        let new = self.folder.join(".routes.yaml.new");
        fs::write(&new, text).unwrap();
        fs::rename(new, self.file()).unwrap();
    }

    pub(crate) fn file(&self) -> PathBuf {
        self.folder.join("routes.yaml")
    }

    /// Where it takes requests.
    pub(crate) fn http(&self) -> SocketAddr {
        self.http
    }

    /// Where it tells of itself.
    pub(crate) fn admin(&self) -> SocketAddr {
        self.admin
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.as_ref().expect("it was started").id()
    }

    /// All it wrote so far, over all its starts.
    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.folder.join("log")).unwrap_or_default()).into_owned()
    }

    /// Where its file, its state and its log are.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// `/metrics`, with a token.
    pub(crate) async fn metrics_with(&self, token: &str) -> Metrics {
        let head = format!(
            "GET /metrics HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n",
            self.admin
        );
        Metrics::parse(&Raw::once(self.admin, &head).await.text())
    }

    pub(crate) async fn metrics(&self) -> Metrics {
        Metrics::parse(&Raw::get(self.admin, "/metrics").await.text())
    }

    /// `/api/v1/status`.
    pub(crate) async fn status(&self) -> Value {
        Raw::get(self.admin, "/api/v1/status").await.json()
    }

    /// Waits until `banyan_sync_state` of a flow is 1 for one of `states`, and says which.
    pub(crate) async fn flow_state<'s>(
        &self,
        sync: &str,
        flow: &str,
        states: &[&'s str],
        at_most: Duration,
    ) -> &'s str {
        let what = format!("flow {flow} of {sync} is one of {states:?}");
        eventually(at_most, &what, async || {
            let metrics = self.metrics().await;
            let is = |state: &&&str| {
                metrics.get("banyan_sync_state", &[("sync", sync), ("flow", flow), ("state", state)]) == Some(1.0)
            };
            states.iter().find(is).copied()
        })
        .await
    }

    pub(crate) fn signal(&mut self, signal: Signal) {
        self.process.as_mut().expect("it was started").signal(signal);
    }

    /// kill -9, and waits for the end.
    pub(crate) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.end(Signal::Kill, secs(10));
        }
    }

    /// SIGTERM, and waits for the end.
    pub(crate) fn stop(&mut self, at_most: Duration) -> ExitStatus {
        self.process.take().expect("it was started").end(Signal::Term, at_most)
    }

    /// Waits for an end that something else causes.
    pub(crate) fn wait(&mut self, at_most: Duration) -> Option<ExitStatus> {
        self.process.as_mut().expect("it was started").wait(at_most)
    }
}

impl Drop for Banyan {
    fn drop(&mut self) {
        drop(self.process.take());
        if std::thread::panicking() {
            eprintln!("--- banyan's log\n{}\n---", watchdog::tail(&self.folder.join("log"), 60));
        }
        fs::remove_dir_all(&self.folder).ok();
    }
}
