//! Connections of the shadows to one upstream: their own, apart from those that answer clients.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use http::{Request, Response, uri::Scheme};
use hyper::{
    body::Incoming,
    client::conn::{TrySendError, http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::task::JoinSet;

use super::{
    buffer::Upload,
    connections::{BUFFER, Connections, NoPlace, Place},
};
use crate::{
    config::{Config, Protocol},
    error::Fault,
    links::Owner,
    table::{Target, Trusts},
    upstream::{Trust, dial, speaks_http2, target},
};

/// What may be on its way of HTTP/2: as much as is read ahead of HTTP/1.
const WINDOW: u32 = BUFFER as u32;

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
    connections: Arc<Connections>,
    /// What tells its connections from others'.
    id: u64,
}

/// One connection; dropping it closes it, whatever its driver waits for.
#[derive(Debug)]
pub(super) struct Connection {
    sender: Sender,
    _driver: JoinSet<()>,
    _place: Place,
}

/// One copy at a time, whatever the protocol.
#[derive(Debug)]
enum Sender {
    One(http1::SendRequest<Upload>),
    Http2(http2::SendRequest<Upload>, Scheme),
}

/// The origins of one config, made when they are first wanted.
pub(super) struct Origins<'c> {
    config: &'c Config,
    trusts: &'c Trusts,
    connections: &'c Arc<Connections>,
    known: HashMap<(usize, Owner), Arc<Origin>>,
}

/// Why a copy was not answered.
#[derive(Debug, thiserror::Error)]
pub(super) enum SendError {
    #[error("the shadow upstream cannot be reached")]
    Connect(#[source] Fault),
    #[error("the shadow upstream broke off")]
    Http(#[source] hyper::Error),
    #[error("the shadows hold all that they may")]
    NoPlace(NoPlace),
}

// === impl Origins ===

impl<'c> Origins<'c> {
    pub(super) fn new(config: &'c Config, trusts: &'c Trusts, connections: &'c Arc<Connections>) -> Self {
        Self { config, trusts, connections, known: HashMap::new() }
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
                connections: Arc::clone(self.connections),
                id: self.connections.origin(),
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
        mut request: Request<Upload>,
    ) -> Result<(Connection, Response<Incoming>), SendError> {
        while let Some(mut connection) = self.connections.take(self.id) {
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
        self.connections.keep(self.id, connection, self.idle_time);
    }

    async fn connect(&self) -> Result<Connection, SendError> {
        let place = self.connections.enter().map_err(SendError::NoPlace)?;
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
            http.max_header_list_size(WINDOW).initial_stream_window_size(WINDOW).initial_connection_window_size(WINDOW);
            let made = http.handshake(TokioIo::new(socket)).await;
            let (sender, connection) = made.map_err(SendError::Http)?;
            driver.spawn(async move { drop(connection.await) });
            Sender::Http2(sender, scheme)
        } else {
            let mut http = http1::Builder::new();
            let made =
                http.title_case_headers(self.title_case).max_buf_size(BUFFER).handshake(TokioIo::new(socket)).await;
            let (sender, connection) = made.map_err(SendError::Http)?;
            driver.spawn(async move { drop(connection.await) });
            Sender::One(sender)
        };
        Ok(Connection { sender, _driver: driver, _place: place })
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.connections.forget(self.id);
    }
}

// === impl Sender ===

type Copied = Request<Upload>;

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
