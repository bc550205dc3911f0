//! What two processes say to each other when one takes over, with the test as one of them; and what systemd says and hears.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::SocketAddr,
    os::{
        fd::OwnedFd,
        unix::{
            fs::PermissionsExt as _,
            net::{UnixListener, UnixStream},
        },
    },
};

use serde_json::{Value, json};

use crate::{
    harness::{
        Banyan, Raw, Upstream, eventually, secs,
        watchdog::{Signal, Watched},
    },
    http_upgrade::{GET, kept, upstream, yaml},
};

/// The other end of the conversation, as a test has it.
pub(crate) struct Peer(BufReader<UnixStream>);

// === impl Peer ===

impl Peer {
    pub(crate) fn new(stream: UnixStream) -> Self {
        stream.set_read_timeout(Some(secs(60))).unwrap();
        Self(BufReader::new(stream))
    }

    pub(crate) fn say(&mut self, message: &Value) {
        self.0.get_mut().write_all(format!("{message}\n").as_bytes()).unwrap();
    }

    /// What is said until the other end is gone.
    fn rest(&mut self) -> Vec<Value> {
        let lines = self.0.by_ref().lines().map_while(Result::ok);
        lines.map(|line| serde_json::from_str(&line).unwrap()).collect()
    }

    /// What is said next, once what is said has this name.
    pub(crate) fn hear(&mut self, say: &str) -> Value {
        loop {
            let mut line = String::new();
            assert!(self.0.read_line(&mut line).unwrap() > 0, "it ended before it said `{say}`");
            let message: Value = serde_json::from_str(&line).unwrap();
            if message["say"] == say {
                return message;
            }
        }
    }
}

/// A new process before an old one that the test plays: it has accepted, and is to hear what the old one says.
fn before_an_old_one(upstream: &Upstream) -> (Banyan, UnixListener, Watched, Peer) {
    before_an_old_one_with(&yaml(upstream, ""))
}

fn before_an_old_one_with(yaml: &str) -> (Banyan, UnixListener, Watched, Peer) {
    let banyan = Banyan::with(yaml);
    let state = banyan.folder().join("state");
    std::fs::create_dir(&state).unwrap();
    let old = UnixListener::bind(state.join("take-over.sock")).unwrap();
    let new = banyan.another(&["--take-over"]);
    let mut peer = Peer::new(old.accept().unwrap().0);
    assert_eq!(peer.hear("hello")["pid"], new.id());
    (banyan, old, new, peer)
}

#[tokio::test]
async fn http_upgrade_one_that_is_refused_says_why_and_ends() {
    let upstream = upstream();
    let (banyan, _old, mut new, mut peer) = before_an_old_one(&upstream);
    peer.say(&json!({"say": "refused", "why": "not in these shoes"}));
    assert_eq!(new.wait(secs(20)).and_then(|status| status.code()), Some(1));
    let said = "error: `--take-over`: the running Banyan does not hand over: not in these shoes";
    assert!(banyan.log().contains(said), "{}", banyan.log());
}

#[tokio::test]
async fn http_upgrade_of_two_that_could_both_go_on_only_one_does() {
    let upstream = upstream();
    // The old one waits no longer, and goes on: the new one ends.
    let (banyan, old, mut new, mut peer) = before_an_old_one(&upstream);
    peer.say(&json!({"say": "offered", "version": "0", "pid": 1}));
    peer.hear("ready");
    let kept = kept(banyan.http(), 3).await;
    drop(peer);
    // Who has come there meanwhile is answered there.
    for mut kept in kept {
        eventually(secs(20), "it is told to go", async || {
            kept.send(GET).await;
            kept.answer().await.unwrap().header("connection") == Some("close")
        })
        .await;
    }
    assert_eq!(new.wait(secs(20)).and_then(|status| status.code()), Some(1));
    assert!(banyan.log().contains("the running Banyan waited no longer, and goes on"), "{}", banyan.log());
    drop((old, banyan));
    // The old one is gone: the new one goes on.
    let (banyan, old, _new, mut peer) = before_an_old_one(&upstream);
    peer.say(&json!({"say": "offered", "version": "0", "pid": 1}));
    drop(old);
    drop(peer);
    eventually(secs(20), "it answers", async || {
        let there = Raw::try_connect(banyan.http()).await.is_ok();
        there && Raw::get(banyan.http(), "/").await.text() == "hello"
    })
    .await;
    eventually(secs(20), "it is ready", async || {
        let there = Raw::try_connect(banyan.admin()).await.is_ok();
        there && Raw::get(banyan.admin(), "/readyz").await.status == 200
    })
    .await;
}

#[tokio::test]
async fn http_upgrade_one_that_is_told_to_stop_before_it_is_ready_leaves_the_other_serving() {
    let upstream = upstream();
    // While it waits for what the old one says.
    let (banyan, old, mut new, mut peer) = before_an_old_one(&upstream);
    new.signal(Signal::Term);
    assert_eq!(new.wait(secs(20)).and_then(|status| status.code()), Some(0), "{}", banyan.log());
    assert_eq!(peer.rest(), Vec::<Value>::new());
    drop((old, banyan));
    // When it has the sockets, and looks at databases that do not answer.
    let nowhere = "kafka: {brokers: \"127.0.0.1:1\"}\nsyncs:\n  shop:\n    owner: legacy\n    legacy: {postgres: \"postgres://a@127.0.0.1:1/a\"}\n    \
                   modern: {postgres: \"postgres://b@127.0.0.1:1/b\"}\n    tables: [public.a]\n";
    let (banyan, _old, mut new, mut peer) = before_an_old_one_with(&yaml(&upstream, nowhere));
    peer.say(&json!({"say": "offered", "version": "0", "pid": 1}));
    eventually(secs(20), "it has them", async || banyan.log().contains("taking over")).await;
    new.signal(Signal::Term);
    assert_eq!(new.wait(secs(20)).and_then(|status| status.code()), Some(0), "{}", banyan.log());
    assert_eq!(peer.rest(), Vec::<Value>::new());
}

#[tokio::test]
async fn http_upgrade_one_that_is_taken_over_stays_until_the_one_before_has_ended_too() {
    let upstream = upstream();
    let (banyan, _old, mut new, mut before) = before_an_old_one(&upstream);
    before.say(&json!({"say": "offered", "version": "0", "pid": 1}));
    before.hear("ready");
    before.say(&json!({"say": "going"}));
    before.say(&json!({"say": "released"}));
    eventually(secs(20), "it can be taken over", async || {
        banyan
            .folder()
            .join("state/take-over.sock")
            .metadata()
            .is_ok_and(|place| place.permissions().mode() & 0o77 == 0)
    })
    .await;
    let mut after = Peer::new(UnixStream::connect(banyan.folder().join("state/take-over.sock")).unwrap());
    after.say(&json!({"say": "hello", "protocol": 1, "version": "0", "pid": 1}));
    after.hear("offered");
    after.say(&json!({"say": "ready"}));
    after.hear("released");
    // Who takes over knows only this one, and learns from its end that nobody else answers any more.
    assert_eq!(new.wait(secs(3)), None);
    drop(before);
    assert_eq!(new.wait(secs(20)).and_then(|status| status.code()), Some(0), "{}", banyan.log());
    assert_eq!(after.rest(), Vec::<Value>::new());
}

#[tokio::test]
async fn http_upgrade_take_over_starts_as_ever_where_nobody_runs() {
    let upstream = upstream();
    let mut banyan = Banyan::with(&yaml(&upstream, "")).arg("--take-over").start().await;
    assert_eq!(Raw::get(banyan.http(), "/").await.text(), "hello");
    // One that was killed has left its socket there.
    banyan.kill();
    banyan.start_again().await;
    assert_eq!(Raw::get(banyan.http(), "/").await.text(), "hello");
}

#[tokio::test]
async fn http_upgrade_sockets_of_systemd_are_used_by_their_address() {
    let upstream = upstream();
    let banyan = Banyan::with(&yaml(&upstream, ""));
    let [first, nowhere] =
        [banyan.http(), SocketAddr::from(([127, 0, 0, 1], 0))].map(|at| std::net::TcpListener::bind(at).unwrap());
    let notify = banyan.folder().join("notify");
    let told = std::os::unix::net::UnixDatagram::bind(&notify).unwrap();
    told.set_read_timeout(Some(secs(60))).unwrap();
    // As systemd does it: descriptors from 3 on, and whose they are.
    let script = "exec 3<&0 4<&1 0</dev/null 1>&2; LISTEN_FDS=2 LISTEN_PID=$$ exec \"$0\" run -c routes.yaml";
    let log = std::fs::File::create(banyan.folder().join("log")).unwrap();
    let mut command = std::process::Command::new("sh");
    command
        .args(["-c", script, env!("CARGO_BIN_EXE_banyan")])
        .current_dir(banyan.folder())
        .env("NOTIFY_SOCKET", &notify);
    command
        .stdin(OwnedFd::from(first.try_clone().unwrap()))
        .stdout(OwnedFd::from(nowhere.try_clone().unwrap()))
        .stderr(log);
    let process = Watched::spawn(&mut command, Signal::Kill);
    let mut said = [0; 200];
    let count = told.recv(&mut said).unwrap();
    assert_eq!(String::from_utf8_lossy(&said[..count]), format!("READY=1\nMAINPID={}", process.id()));
    assert_eq!(Raw::get(banyan.http(), "/").await.text(), "hello");
    let unmatched = format!(
        "systemd listens there, and the file names no such address: nobody answers there address={}",
        nowhere.local_addr().unwrap()
    );
    assert!(banyan.log().contains(&unmatched), "{}", banyan.log());
}
