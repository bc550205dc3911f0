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
use http::{Request, Response};
use http_body_util::Empty;
use hyper::{
    body::Incoming,
    client::conn::http1::{Builder, SendRequest},
};
use hyper_util::rt::TokioIo;
use tokio::{task::JoinSet, time::Instant};

use crate::{
    config::Config,
    error::Fault,
    links::Owner,
    table::{Target, Trusts},
    upstream::{Trust, dial},
};

/// Idle connections that are kept; more are closed.
const IDLE: usize = 64;
/// The head of a shadow's answer may be as long.
const HEAD: usize = 64 << 10;

/// One upstream as the shadows see it.
#[derive(Debug)]
pub(super) struct Origin {
    /// `host:port`.
    endpoints: Vec<String>,
    trust: Option<Arc<Trust>>,
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
    sender: SendRequest<Empty<Bytes>>,
    _driver: JoinSet<()>,
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
        mut request: Request<Empty<Bytes>>,
    ) -> Result<(Connection, Response<Incoming>), SendError> {
        while let Some(mut connection) = self.take_idle() {
            if connection.sender.ready().await.is_err() {
                continue;
            }
            match connection.sender.try_send_request(request).await {
                Ok(response) => return Ok((connection, response)),
                Err(mut failed) => match failed.take_message() {
                    Some(unsent) => request = unsent,
                    None => return Err(SendError::Http(failed.into_error())),
                },
            }
        }
        let mut connection = self.connect().await?;
        let response = connection.sender.send_request(request).await.map_err(SendError::Http)?;
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
        let socket = dial(endpoint, endpoint, self.trust.as_deref(), self.connect_timeout);
        let socket = socket.await.map_err(SendError::Connect)?;
        let (sender, connection) = Builder::new()
            .title_case_headers(self.title_case)
            .max_buf_size(HEAD)
            .handshake(TokioIo::new(socket))
            .await
            .map_err(SendError::Http)?;
        let mut driver = JoinSet::new();
        driver.spawn(async move {
            // What goes wrong on a connection comes out at its request.
            drop(connection.await);
        });
        Ok(Connection { sender, _driver: driver })
    }
}
