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
    fn program(self) -> PathBuf {
        let name = self.to_string();
        let path = std::env::var_os("PATH").unwrap_or_default();
        let found = std::env::split_paths(&path)
            .chain(["/usr/sbin".into(), "/usr/local/sbin".into()])
            .map(|folder| folder.join(&name))
            .find(|program| program.is_file());
        found.unwrap_or_else(|| {
            panic!("no `{name}` found; ./tests/run installs it, or: apt-get install nginx-light haproxy")
        })
    }

    /// As their guides say for a proxy of HTTP/1.1 with kept-alive connections.
    fn config(self, http: SocketAddr, upstream: SocketAddr) -> String {
        match self {
            Self::Nginx => format!(
                "daemon off;\nmaster_process off;\npid pid;\nerror_log stderr;\nevents {{}}\n\
                 http {{\n  access_log off;\n  client_body_temp_path body;\n  proxy_temp_path proxy;\n  fastcgi_temp_path fastcgi;\n  \
                 uwsgi_temp_path uwsgi;\n  scgi_temp_path scgi;\n  \
                 server {{\n    listen {http};\n    location / {{\n      proxy_pass http://{upstream};\n      proxy_http_version 1.1;\n      \
                 proxy_set_header Host $http_host;\n      proxy_set_header Connection \"\";\n      \
                 proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;\n      proxy_request_buffering off;\n      \
                 proxy_buffering off;\n    }}\n  }}\n}}\n"
            ),
            Self::Haproxy => format!(
                "defaults\n  mode http\n  timeout connect 5s\n  timeout client 30s\n  timeout server 30s\n  option forwardfor\n\
                 frontend in\n  bind {http}\n  default_backend out\nbackend out\n  server one {upstream}\n"
            ),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nginx => "nginx",
            Self::Haproxy => "haproxy",
        })
    }
}

// === impl Peer ===

impl Peer {
    /// Starts it before this upstream and waits until it listens.
    pub(crate) async fn start(kind: Kind, upstream: SocketAddr) -> Self {
        let folder = watchdog::folder(&kind.to_string());
        let http = SocketAddr::from(([127, 0, 0, 1], ports::reserve()));
        fs::write(folder.join("conf"), kind.config(http, upstream)).unwrap();
        let log = fs::File::create(folder.join("log")).unwrap();
        let mut command = Command::new(kind.program());
        match kind {
            Kind::Nginx => command.arg("-p").arg(&folder).args(["-c", "conf"]),
            Kind::Haproxy => command.args(["-db", "-f"]).arg(folder.join("conf")),
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
