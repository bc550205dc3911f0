//! Other proxies beside Banyan, before the same upstream and with nothing set that changes a request.

use std::{
    fmt, fs,
    net::{SocketAddr, TcpStream},
    path::PathBuf,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use super::{
    ports,
    watchdog::{self, Signal, Watched},
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Nginx,
    Haproxy,
    /// No distribution packages it: `ENVOY` says where it is, else `PATH`.
    Envoy,
}

/// What a peer's clients speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Speaks {
    Http1,
    /// In the clear, without asking.
    Http2,
}

/// One of them, running.
#[derive(Debug)]
pub(crate) struct Peer {
    http: SocketAddr,
    folder: PathBuf,
    process: Option<Watched>,
}

const START: Duration = Duration::from_secs(60);

// === impl Kind ===

impl Kind {
    /// Where it is; `None` where it is not installed.
    pub(crate) fn found(self) -> Option<PathBuf> {
        let name = self.to_string();
        let path = std::env::var_os("PATH").unwrap_or_default();
        let said = std::env::var_os(name.to_uppercase()).map(PathBuf::from);
        said.into_iter()
            .chain(
                std::env::split_paths(&path)
                    .chain(["/usr/sbin".into(), "/usr/local/sbin".into()])
                    .map(|folder| folder.join(&name)),
            )
            .find(|program| program.is_file())
    }

    fn program(self) -> PathBuf {
        self.found().unwrap_or_else(|| {
            panic!("no `{self}` found; ./tests/run installs it, or: apt-get install nginx-light haproxy")
        })
    }

    /// As their guides say for a proxy with kept-alive connections of HTTP/1.1 to its upstream.
    fn config(self, speaks: Speaks, http: SocketAddr, upstream: SocketAddr) -> String {
        let is_http2 = speaks == Speaks::Http2;
        match self {
            Self::Nginx => format!(
                "daemon off;\nmaster_process off;\npid pid;\nerror_log stderr;\nevents {{}}\n\
                 http {{\n  access_log off;\n  client_body_temp_path body;\n  proxy_temp_path proxy;\n  fastcgi_temp_path fastcgi;\n  \
                 uwsgi_temp_path uwsgi;\n  scgi_temp_path scgi;\n  \
                 server {{\n    listen {http}{};\n    location / {{\n      proxy_pass http://{upstream};\n      proxy_http_version 1.1;\n      \
                 proxy_set_header Host $http_host;\n      proxy_set_header Connection \"\";\n      \
                 proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;\n      proxy_request_buffering off;\n      \
                 proxy_buffering off;\n    }}\n  }}\n}}\n",
                if is_http2 { " http2" } else { "" }
            ),
            Self::Haproxy => format!(
                "defaults\n  mode http\n  timeout connect 5s\n  timeout client 30s\n  timeout server 30s\n  option forwardfor\n\
                 frontend in\n  bind {http}{}\n  default_backend out\nbackend out\n  server one {upstream}\n",
                if is_http2 { " proto h2" } else { "" }
            ),
            Self::Envoy => {
                let kind = "type.googleapis.com/envoy.extensions.filters";
                let address = |address: SocketAddr| {
                    format!("{{socket_address: {{address: {}, port_value: {}}}}}", address.ip(), address.port())
                };
                format!(
                    "static_resources:\n  listeners:\n  - address: {}\n    filter_chains:\n    - filters:\n      - name: http\n        \
                     typed_config:\n          \"@type\": {kind}.network.http_connection_manager.v3.HttpConnectionManager\n          \
                     stat_prefix: in\n          codec_type: {}\n          use_remote_address: true\n          \
                     route_config: {{virtual_hosts: [{{name: all, domains: [\"*\"], routes: [{{match: {{prefix: \"/\"}}, \
                     route: {{cluster: one}}}}]}}]}}\n          \
                     http_filters: [{{name: router, typed_config: {{\"@type\": {kind}.http.router.v3.Router}}}}]\n  \
                     clusters:\n  - name: one\n    connect_timeout: 5s\n    \
                     load_assignment: {{cluster_name: one, endpoints: [{{lb_endpoints: [{{endpoint: {{address: {}}}}}]}}]}}\n",
                    address(http),
                    if is_http2 { "HTTP2" } else { "HTTP1" },
                    address(upstream)
                )
            }
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nginx => "nginx",
            Self::Haproxy => "haproxy",
            Self::Envoy => "envoy",
        })
    }
}

// === impl Peer ===

impl Peer {
    /// Starts it before this upstream and waits until it listens.
    pub(crate) async fn start(kind: Kind, speaks: Speaks, upstream: SocketAddr) -> Self {
        let folder = watchdog::folder(&kind.to_string());
        let http = SocketAddr::from(([127, 0, 0, 1], ports::reserve()));
        let conf = if kind == Kind::Envoy { "conf.yaml" } else { "conf" };
        fs::write(folder.join(conf), kind.config(speaks, http, upstream)).unwrap();
        let log = fs::File::create(folder.join("log")).unwrap();
        let mut command = Command::new(kind.program());
        match kind {
            Kind::Nginx => command.arg("-p").arg(&folder).args(["-c", "conf"]),
            Kind::Haproxy => command.args(["-db", "-f"]).arg(folder.join("conf")),
            Kind::Envoy => {
                command.args(["-l", "warning", "--concurrency", "1", "--use-dynamic-base-id", "-c"]).arg("conf.yaml")
            }
        };
        command.current_dir(&folder).stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let mut peer = Self { http, process: Some(Watched::spawn(&mut command, Signal::Kill)), folder };
        let end = Instant::now() + START;
        while TcpStream::connect(http).is_err() {
            let ended = peer.process.as_mut().and_then(Watched::exited);
            assert!(ended.is_none() && Instant::now() < end, "{kind} does not start: {ended:?}\n{}", peer.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        peer
    }

    pub(crate) fn http(&self) -> SocketAddr {
        self.http
    }

    fn log(&self) -> String {
        watchdog::tail(&self.folder.join("log"), 20)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        drop(self.process.take());
        if std::thread::panicking() {
            eprintln!("--- {}\n{}\n---", self.folder.display(), self.log());
        }
        fs::remove_dir_all(&self.folder).ok();
    }
}
