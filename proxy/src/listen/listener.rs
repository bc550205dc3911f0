//! One listening socket as its clients' connections know it: how it treats them, and how many there are. It outlives the socket: connections
//! that came through a listener that is gone go on by what held last.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use arc_swap::ArcSwap;
use hyper::server::conn::http1::Builder;
use ipnet::IpNet;

use super::tls::Tls;
use crate::config::Limits;

/// One listening socket, from its first client to its last.
#[derive(Debug)]
pub(crate) struct ListenerState {
    /// As the file has it; port 0 is the system's choice.
    pub(crate) bind: SocketAddr,
    pub(crate) local: SocketAddr,
    door: ArcSwap<Door>,
    /// Of the door: every request asks for it.
    headers: AtomicUsize,
    /// Open connections over all workers.
    open: AtomicUsize,
    /// Of these, how many wait on the bare socket.
    idle: AtomicUsize,
    /// The socket is closed: its clients are asked to come again elsewhere.
    is_leaving: AtomicBool,
}

/// How one listener treats its clients.
#[derive(Debug)]
pub(crate) struct Door {
    pub(crate) limits: Limits,
    pub(crate) tls: Option<Arc<Tls>>,
    /// Peers that say first for whom they speak.
    pub(crate) spoken_for_by: Box<[IpNet]>,
    pub(super) http: Builder,
}

/// Counts a client's connection for as long as it is open.
pub(super) struct OpenClient(Arc<ListenerState>);

/// Counts it as idle for as long as it waits.
pub(super) struct IdleClient<'o>(&'o ListenerState);

/// What is held of a body in either direction for a client that does not take it, or whose upstream does not: hyper's own 400 KiB twice is
/// much where a thousand clients read nothing.
const HELD: usize = 64 * 1024;
/// hyper's own number of headers, which needs no allocation.
const USUAL_HEADERS: usize = 100;

// === impl ListenerState ===

impl ListenerState {
    pub(crate) fn new(bind: SocketAddr, local: SocketAddr, door: Arc<Door>) -> Self {
        Self {
            bind,
            local,
            headers: AtomicUsize::new(door.limits.headers),
            door: ArcSwap::new(door),
            open: AtomicUsize::new(0),
            idle: AtomicUsize::new(0),
            is_leaving: AtomicBool::new(false),
        }
    }

    pub(crate) fn door(&self) -> Arc<Door> {
        self.door.load_full()
    }

    /// From now on its clients are treated so, those that are there among them.
    pub(crate) fn follow(&self, door: Arc<Door>) {
        self.headers.store(door.limits.headers, Ordering::Relaxed);
        self.door.store(door);
    }

    /// Header lines that a request may have.
    pub(crate) fn headers_allowed(&self) -> usize {
        self.headers.load(Ordering::Relaxed)
    }

    /// Open connections, and how many of them hold no buffer.
    pub(crate) fn count(&self) -> (usize, usize) {
        (self.open.load(Ordering::Relaxed), self.idle.load(Ordering::Relaxed))
    }

    pub(crate) fn leaves(&self) {
        self.is_leaving.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_leaving(&self) -> bool {
        self.is_leaving.load(Ordering::Relaxed)
    }

    /// One of a test that needs no socket.
    #[cfg(any(test, feature = "fuzz"))]
    pub(crate) fn nowhere() -> Arc<Self> {
        let at = SocketAddr::from(([127, 0, 0, 1], 0));
        Arc::new(Self::new(at, at, Arc::new(Door::new(Limits::default(), None, Box::default()))))
    }
}

// === impl Door ===

impl Door {
    pub(crate) fn new(limits: Limits, tls: Option<Arc<Tls>>, spoken_for_by: Box<[IpNet]>) -> Self {
        let mut http = Builder::new();
        // The loop owns the deadlines: hyper's would also close idle connections.
        http.header_read_timeout(None);
        http.half_close(true);
        http.preserve_header_case(true);
        let head = usize::try_from(limits.header_bytes.as_u64()).unwrap_or(usize::MAX);
        http.max_header_size(head);
        http.max_buf_size(head.max(HELD));
        if limits.headers != USUAL_HEADERS {
            http.max_headers(limits.headers);
        }
        Self { limits, tls, spoken_for_by, http }
    }
}

// === impl OpenClient ===

impl OpenClient {
    pub(super) fn new(listener: &Arc<ListenerState>) -> Self {
        listener.open.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(listener))
    }

    pub(super) fn listener(&self) -> &Arc<ListenerState> {
        &self.0
    }

    pub(super) fn idles(&self) -> IdleClient<'_> {
        self.0.idle.fetch_add(1, Ordering::Relaxed);
        IdleClient(&self.0)
    }
}

impl Drop for OpenClient {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

// === impl IdleClient ===

impl Drop for IdleClient<'_> {
    fn drop(&mut self) {
        self.0.idle.fetch_sub(1, Ordering::Relaxed);
    }
}
