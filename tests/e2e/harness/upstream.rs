//! Scripted HTTP/1.1 upstreams: they answer, stall, reset, lie about their length, drip, switch protocols, and keep the
//! bytes they were sent.

use std::{
    fmt,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
};

use super::{backstage, backstage_now, client::headers};

/// A server that answers every request as its script says. Dropping it closes its socket and all connections.
pub(crate) struct Upstream {
    addr: SocketAddr,
    shared: Arc<Shared>,
    running: watch::Sender<bool>,
}

/// A request as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    /// Which connection it came on, counted from 0.
    pub(crate) connection: usize,
    /// Request line and header lines, with the empty line.
    pub(crate) head: Vec<u8>,
    /// The body with its framing, as far as it was read.
    pub(crate) body: Vec<u8>,
}

/// What an upstream does with one request.
#[derive(Debug, Clone, Default)]
pub(crate) struct Script {
    steps: Vec<Step>,
    before_body: bool,
    close: bool,
}

#[derive(Debug, Clone)]
enum Step {
    Send(Vec<u8>),
    Drip { bytes: Vec<u8>, piece: usize, every: Duration },
    Wait(Duration),
    Stall,
    Reset,
    Echo,
}

struct Shared {
    answer: Box<dyn Fn(&Seen) -> Script + Send + Sync>,
    seen: Mutex<Vec<Seen>>,
    accepted: AtomicUsize,
    open: AtomicUsize,
}

/// Counts an open connection for as long as it lives.
struct Open(Arc<Shared>);

// === impl Upstream ===

impl Upstream {
    /// Answers 200 with `name` as its body and in the header `X-From`.
    pub(crate) fn named(name: &'static str) -> Self {
        Self::scripted(move |_| Script::answer(200, &[("X-From", name)], name))
    }

    /// Asks `answer` what to do with each request.
    pub(crate) fn scripted(answer: impl Fn(&Seen) -> Script + Send + Sync + 'static) -> Self {
        let shared = Arc::new(Shared {
            answer: Box::new(answer),
            seen: Mutex::default(),
            accepted: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
        });
        let (running, stop) = watch::channel(true);
        let listener = backstage_now(async { TcpListener::bind("127.0.0.1:0").await }).expect("a port");
        let addr = listener.local_addr().expect("a bound socket has an address");
        backstage(accept(listener, Arc::clone(&shared), stop));
        Self { addr, shared, running }
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// For `endpoints: [...]`.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// All requests so far, in the order in which their scripts began.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.shared.seen.lock().unwrap().clone()
    }

    /// How many connections were ever accepted.
    pub(crate) fn accepted(&self) -> usize {
        self.shared.accepted.load(Ordering::SeqCst)
    }

    /// How many connections are open now.
    pub(crate) fn open(&self) -> usize {
        self.shared.open.load(Ordering::SeqCst)
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.running.send_replace(false);
    }
}

impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upstream").field("addr", &self.addr).finish_non_exhaustive()
    }
}

// === impl Seen ===

impl Seen {
    /// `GET /path HTTP/1.1`.
    pub(crate) fn line(&self) -> &str {
        std::str::from_utf8(&self.head).expect("a head of UTF-8").split("\r\n").next().unwrap_or_default()
    }

    pub(crate) fn method(&self) -> &str {
        self.line().split(' ').next().unwrap_or_default()
    }

    pub(crate) fn path(&self) -> &str {
        self.line().split(' ').nth(1).unwrap_or_default()
    }

    /// The first header of that name, whatever its case.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        headers(&self.head, name).first().copied()
    }

    pub(crate) fn headers(&self, name: &str) -> Vec<&str> {
        headers(&self.head, name)
    }
}

// === impl Script ===

impl Script {
    /// Sends bytes as they are.
    pub(crate) fn send(bytes: impl Into<Vec<u8>>) -> Self {
        Self::default().then_send(bytes)
    }

    /// A whole, true answer with a content-length.
    pub(crate) fn answer(status: u16, fields: &[(&str, &str)], body: &str) -> Self {
        let mut head = format!("HTTP/1.1 {status} Scripted\r\nContent-Length: {}\r\n", body.len());
        for (name, value) in fields {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        Self::send(format!("{head}\r\n{body}"))
    }

    /// 200 with this body.
    pub(crate) fn ok(body: &str) -> Self {
        Self::answer(200, &[], body)
    }

    /// 200 with JSON.
    pub(crate) fn json(value: &serde_json::Value) -> Self {
        Self::answer(200, &[("Content-Type", "application/json")], &value.to_string())
    }

    /// Never answers; the connection stays open.
    pub(crate) fn stall() -> Self {
        Self::default().then_stall()
    }

    /// Resets the connection.
    pub(crate) fn reset() -> Self {
        Self::default().then_reset()
    }

    /// Closes the connection without a word.
    pub(crate) fn hang_up() -> Self {
        Self { close: true, ..Self::default() }
    }

    /// Claims a content-length, sends `body`, and closes when that was too short.
    pub(crate) fn lie(claimed: usize, body: &str) -> Self {
        Self::send(format!("HTTP/1.1 200 OK\r\nContent-Length: {claimed}\r\n\r\n{body}")).then_close()
    }

    /// Answers 101 and sends back whatever comes.
    pub(crate) fn switch(protocol: &str) -> Self {
        let head = format!("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: {protocol}\r\n\r\n");
        let mut script = Self::send(head);
        script.steps.push(Step::Echo);
        script
    }

    /// Waits before what was scripted so far.
    pub(crate) fn after(mut self, wait: Duration) -> Self {
        self.steps.insert(0, Step::Wait(wait));
        self
    }

    /// Begins as soon as the head has come; the body is left unread.
    pub(crate) fn before_body(mut self) -> Self {
        self.before_body = true;
        self
    }

    pub(crate) fn then_send(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.steps.push(Step::Send(bytes.into()));
        self
    }

    /// Sends in pieces with pauses between.
    pub(crate) fn then_drip(mut self, bytes: impl Into<Vec<u8>>, piece: usize, every: Duration) -> Self {
        self.steps.push(Step::Drip { bytes: bytes.into(), piece, every });
        self
    }

    pub(crate) fn then_wait(mut self, wait: Duration) -> Self {
        self.steps.push(Step::Wait(wait));
        self
    }

    pub(crate) fn then_stall(mut self) -> Self {
        self.steps.push(Step::Stall);
        self
    }

    pub(crate) fn then_reset(mut self) -> Self {
        self.steps.push(Step::Reset);
        self
    }

    /// Closes the connection instead of keeping it alive.
    pub(crate) fn then_close(mut self) -> Self {
        self.close = true;
        self
    }
}

// === impl Open ===

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::SeqCst);
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>, mut stop: watch::Receiver<bool>) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stop.wait_for(|running| !running) => return,
        };
        let Ok((stream, _)) = accepted else { continue };
        stream.set_nodelay(true).ok();
        let connection = shared.accepted.fetch_add(1, Ordering::SeqCst);
        shared.open.fetch_add(1, Ordering::SeqCst);
        let (shared, mut stop) = (Arc::clone(&shared), stop.clone());
        backstage(async move {
            let open = Open(shared);
            tokio::select! {
                _ = serve(stream, connection, &open.0) => {}
                _ = stop.wait_for(|running| !running) => {}
            }
        });
    }
}

/// Requests of one connection, one after the other; `None` when it ended.
async fn serve(mut stream: TcpStream, connection: usize, shared: &Shared) -> Option<()> {
    let mut ahead = Vec::new();
    loop {
        let end = loop {
            if let Some(at) = find(&ahead, b"\r\n\r\n") {
                break at + 4;
            }
            more(&mut stream, &mut ahead).await?;
        };
        let mut seen = Seen { connection, head: ahead.drain(..end).collect(), body: Vec::new() };
        let mut script = (shared.answer)(&seen);
        if !script.before_body {
            seen.body = body(&mut stream, &seen, &mut ahead).await?;
            // A script may look at the body too.
            script = (shared.answer)(&seen);
        }
        shared.seen.lock().unwrap().push(seen);
        play(&mut stream, &script, &mut ahead).await?;
        if script.close {
            stream.shutdown().await.ok();
            return None;
        }
    }
}

async fn play(stream: &mut TcpStream, script: &Script, ahead: &mut Vec<u8>) -> Option<()> {
    for step in &script.steps {
        match step {
            Step::Send(bytes) => stream.write_all(bytes).await.ok()?,
            Step::Drip { bytes, piece, every } => {
                for part in bytes.chunks(*piece) {
                    stream.write_all(part).await.ok()?;
                    tokio::time::sleep(*every).await;
                }
            }
            Step::Wait(wait) => tokio::time::sleep(*wait).await,
            // Reads on, so that the far end's going away ends it.
            Step::Stall => loop {
                more(stream, ahead).await?;
            },
            Step::Reset => {
                stream.set_zero_linger().ok();
                return None;
            }
            Step::Echo => loop {
                stream.write_all(ahead).await.ok()?;
                ahead.clear();
                more(stream, ahead).await?;
            },
        }
    }
    Some(())
}

/// The request's body with its framing.
async fn body(stream: &mut TcpStream, seen: &Seen, ahead: &mut Vec<u8>) -> Option<Vec<u8>> {
    let length = if seen.header("transfer-encoding").is_some() {
        let mut at = 0;
        loop {
            let line = loop {
                if let Some(end) = find(&ahead[at..], b"\r\n") {
                    break at..at + end;
                }
                more(stream, ahead).await?;
            };
            let digits = String::from_utf8_lossy(&ahead[line.clone()]).into_owned();
            let size = usize::from_str_radix(digits.split(';').next()?.trim(), 16).ok()?;
            if size == 0 {
                // Trailers, up to the empty line that may be the next thing.
                break loop {
                    if let Some(end) = find(&ahead[line.end..], b"\r\n\r\n") {
                        break line.end + end + 4;
                    }
                    more(stream, ahead).await?;
                };
            }
            at = line.end + 2 + size + 2;
            while ahead.len() < at {
                more(stream, ahead).await?;
            }
        }
    } else {
        seen.header("content-length").map_or(Some(0), |length| length.parse().ok())?
    };
    while ahead.len() < length {
        more(stream, ahead).await?;
    }
    Some(ahead.drain(..length).collect())
}

async fn more(stream: &mut TcpStream, ahead: &mut Vec<u8>) -> Option<()> {
    match stream.read_buf(ahead).await {
        Ok(n) if n > 0 => Some(()),
        _ => None,
    }
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}
