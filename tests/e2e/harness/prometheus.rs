//! A real Prometheus that scrapes one Banyan every second, and what it answers over its HTTP API.

use std::{
    fs,
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use serde_json::Value;

use super::{
    Raw, eventually, ports, secs,
    watchdog::{self, Signal, Watched},
};

/// One of them, running.
pub(crate) struct Prometheus {
    http: SocketAddr,
    folder: PathBuf,
    process: Option<Watched>,
}

// === impl Prometheus ===

impl Prometheus {
    /// With this file of rules.
    pub(crate) async fn scraping(banyan: SocketAddr, rules: &Path) -> Self {
        let folder = watchdog::folder("prometheus");
        let http = SocketAddr::from(([127, 0, 0, 1], ports::reserve()));
        let config = format!(
            "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\nrule_files: [\"{}\"]\nscrape_configs:\n  - job_name: banyan\n    \
             static_configs: [{{targets: [\"{banyan}\"]}}]\n",
            rules.display()
        );
        fs::write(folder.join("prometheus.yml"), config).unwrap();
        let log = fs::File::create(folder.join("log")).unwrap();
        let process = Watched::spawn(
            program("prometheus")
                .arg(format!("--config.file={}", folder.join("prometheus.yml").display()))
                .arg(format!("--storage.tsdb.path={}", folder.join("data").display()))
                .arg(format!("--web.listen-address={http}"))
                .stdin(Stdio::null())
                .stdout(log.try_clone().unwrap())
                .stderr(log),
            Signal::Term,
        );
        let prometheus = Self { http, folder, process: Some(process) };
        eventually(secs(60), "Prometheus is ready", async || {
            // Asked only when the port is open: `Raw` panics on a refused connection.
            TcpStream::connect(http).is_ok() && Raw::get(http, "/-/ready").await.status == 200
        })
        .await;
        prometheus
    }

    /// What it answers to a query now: the series.
    ///
    /// # Errors
    /// Its own words, where it does not take the query.
    pub(crate) async fn query(&self, query: &str) -> Result<Vec<Value>, String> {
        self.data("query", &[("query", query)]).await.map(|data| data["result"].as_array().cloned().unwrap_or_default())
    }

    /// The values of a label among the series of a selector.
    ///
    /// # Errors
    /// Its own words.
    pub(crate) async fn values(&self, label: &str, selector: &str) -> Result<Vec<Value>, String> {
        let data = self.data(&format!("label/{label}/values"), &[("match[]", selector)]).await?;
        Ok(data.as_array().cloned().unwrap_or_default())
    }

    /// Its rules, by group.
    pub(crate) async fn rules(&self) -> Vec<Value> {
        let data = self.data("rules", &[]).await.unwrap();
        data["groups"].as_array().unwrap().iter().flat_map(|group| group["rules"].as_array().unwrap().clone()).collect()
    }

    async fn data(&self, path: &str, parameters: &[(&str, &str)]) -> Result<Value, String> {
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.extend_pairs(parameters);
        let answer = Raw::get(self.http, &format!("/api/v1/{path}?{}", query.finish())).await.json();
        match answer["status"].as_str() {
            Some("success") => Ok(answer["data"].clone()),
            _ => Err(answer.to_string()),
        }
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        drop(self.process.take());
        if std::thread::panicking() {
            eprintln!("--- Prometheus' log\n{}\n---", watchdog::tail(&self.folder.join("log"), 20));
        }
        fs::remove_dir_all(&self.folder).ok();
    }
}

/// `promtool`, in the folder of the rules.
pub(crate) fn promtool(folder: &Path, arguments: &[&str]) -> Output {
    program("promtool").current_dir(folder).args(arguments).stdin(Stdio::null()).output().expect("promtool runs")
}

fn program(name: &str) -> Command {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|folder| folder.join(name)).find(|program| program.is_file());
    Command::new(
        found.unwrap_or_else(|| panic!("no `{name}` found; ./tests/run installs it, or: apt-get install prometheus")),
    )
}
