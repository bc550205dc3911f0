//! Connections of the shadows to one upstream: their own, apart from those that answer clients.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, uri::Scheme};
use http_body_util::Full;
use hyper::{
    body::Incoming,
    client::conn::{TrySendError, http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{task::JoinSet, time::Instant};

use crate::{
    config::{Config, Protocol},
    error::Fault,
    links::Owner,
    table::{Target, Trusts},
    upstream::{Trust, dial, speaks_http2, target},
};

/// Idle connections that are kept; more are closed.
const IDLE: usize = 64;
/// The head of a shadow's answer may be as long.
const HEAD: u32 = 64 << 10;

/// One upstream as the shadows see it.
#[derive(Debug)]
pub(super) struct Origin {
    /// `host:port`.
    endpoints: Vec<String>,
    trust: Option<Arc<Trust>>,
    protocol: Protocol,
    next: AtomicUsize,
    connect_timeout: Duration,
    idle_time: Duration,
    /// Legacy backends compare header names by their letters.
    title_case: bool,
    /// Held for a push or a pop, in the background alone.
    idle: Mutex<Vec<(Connection, Instant)>>,
}

/// One connection; dropping it closes it, whatever its driver waits for.
#[derive(Debug)]
pub(super) struct Connection {
    sender: Sender,
    _driver: JoinSet<()>,
}

/// One copy at a time, whatever the protocol.
#[derive(Debug)]
enum Sender {
    One(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>, Scheme),
}

/// The origins of one config, made when they are first wanted.
pub(super) struct Origins<'c> {
    config: &'c Config,
    trusts: &'c Trusts,
    known: HashMap<(usize, Owner), Arc<Origin>>,
}

/// Why a copy was not answered.
#[derive(Debug, thiserror::Error)]
pub(super) enum SendError {
    #[error("the shadow upstream cannot be reached")]
    Connect(#[source] Fault),
    #[error("the shadow upstream broke off")]
    Http(#[source] hyper::Error),
}

// === impl Origins ===

impl<'c> Origins<'c> {
    pub(super) fn new(config: &'c Config, trusts: &'c Trusts) -> Self {
        Self { config, trusts, known: HashMap::new() }
    }

    pub(super) fn get(&mut self, target: &Target, side: Owner) -> Option<Arc<Origin>> {
        let upstream = self.config.upstreams.get(&*target.upstream)?;
        let trust = self.trusts.of(&target.upstream);
        let new = || {
            Arc::new(Origin {
                endpoints: upstream.endpoints.iter().map(|endpoint| endpoint.0.authority()).collect(),
                trust: trust.cloned(),
                protocol: upstream.protocol,
                next: AtomicUsize::new(0),
                connect_timeout: upstream.connect_timeout,
                idle_time: upstream.idle_time,
                title_case: side == Owner::Legacy,
                idle: Mutex::default(),
            })
        };
        Some(Arc::clone(self.known.entry((target.index, side)).or_insert_with(new)))
    }
}

// === impl Origin ===

impl Origin {
    /// Sends a request: on idle connections as long as one turns out to be closed before anything was written, then on a new one.
    pub(super) async fn send(
        &self,
        mut request: Request<Full<Bytes>>,
    ) -> Result<(Connection, Response<Incoming>), SendError> {
        while let Some(mut connection) = self.take_idle() {
            if connection.sender.ready().await.is_err() {
                continue;
            }
            match connection.sender.send(request).await {
                Ok(response) => return Ok((connection, response)),
                Err(mut failed) => match failed.take_message() {
                    Some(unsent) => request = unsent,
                    None => return Err(SendError::Http(failed.into_error())),
                },
            }
        }
        let mut connection = self.connect().await?;
        let response = connection.sender.send(request).await.map_err(|failed| SendError::Http(failed.into_error()))?;
        Ok((connection, response))
    }

    /// Keeps a connection whose answer was read to the end.
    pub(super) fn give_back(&self, connection: Connection) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < IDLE {
            idle.push((connection, Instant::now()));
        }
    }

    /// The one that was used last; what was idle for too long is closed.
    fn take_idle(&self) -> Option<Connection> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = idle.iter().position(|(_, since)| since.elapsed() < self.idle_time).unwrap_or(idle.len());
        drop(idle.drain(..fresh));
        idle.pop().map(|(connection, _)| connection)
    }

    async fn connect(&self) -> Result<Connection, SendError> {
        let at = self.next.fetch_add(1, Ordering::Relaxed) % self.endpoints.len().max(1);
        let endpoint = self.endpoints.get(at).map(String::as_str).unwrap_or_default();
        let socket = dial(endpoint, endpoint, self.trust.as_deref(), self.protocol, self.connect_timeout);
        let socket = socket.await.map_err(SendError::Connect)?;
        let is_http2 = speaks_http2(self.protocol, &socket).map_err(SendError::Connect)?;
        let scheme = if socket.is_tls() { Scheme::HTTPS } else { Scheme::HTTP };
        // What goes wrong on a connection comes out at its request.
        let mut driver = JoinSet::new();
        let sender = if is_http2 {
            let mut http = http2::Builder::new(TokioExecutor::new());
            let made = http.max_header_list_size(HEAD).handshake(TokioIo::new(socket)).await;
            let (sender, connection) = made.map_err(SendError::Http)?;
            driver.spawn(async move { drop(connection.await) });
            Sender::Http2(sender, scheme)
        } else {
            let mut http = http1::Builder::new();
            let made = http
                .title_case_headers(self.title_case)
                .max_buf_size(HEAD as usize)
                .handshake(TokioIo::new(socket))
                .await;
            let (sender, connection) = made.map_err(SendError::Http)?;
            driver.spawn(async move { drop(connection.await) });
            Sender::One(sender)
        };
        Ok(Connection { sender, _driver: driver })
    }
}

// === impl Sender ===

type Copied = Request<Full<Bytes>>;

impl Sender {
    async fn ready(&mut self) -> hyper::Result<()> {
        match self {
            Self::One(sender) => sender.ready().await,
            Self::Http2(sender, _) => sender.ready().await,
        }
    }

    async fn send(&mut self, mut request: Copied) -> Result<Response<Incoming>, TrySendError<Copied>> {
        match self {
            Self::One(sender) => sender.try_send_request(request).await,
            Self::Http2(sender, scheme) => {
                target(&mut request, scheme);
                sender.try_send_request(request).await
            }
        }
    }
}
