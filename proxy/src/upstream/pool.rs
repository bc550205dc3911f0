//! One worker's connections to one upstream: idle ones are taken last-in first-out from the endpoint whose turn it is.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use hyper::client::conn::http1::Builder;
use tokio::net::{TcpStream, ToSocketAddrs};

use super::{
    Endpoint, Leg, Link, Open, Session, Trust, UpstreamSpec, UpstreamState,
    balance::{Dice, Endpoints},
    sessions::{Made, Sessions},
};
use crate::{config::Protocol, error::Fault, listen::Tick, socket::Socket};

/// How long an endpoint that refused is left out while another one can be asked.
const SHUNNED_MS: Tick = 1000;
/// As ALPN names it (RFC 9113, 3.1).
pub(super) const HTTP2: &[u8] = b"h2";
/// Idle connections kept an endpoint and worker.
const MOST_IDLE: usize = 1024;

pub(crate) struct Upstream {
    pub(crate) spec: Arc<UpstreamSpec>,
    state: Arc<UpstreamState>,
    worker: usize,
    http: Builder,
    endpoints: RefCell<Rc<Endpoints>>,
    /// The generation of `endpoints`.
    seen: Cell<u64>,
    dice: Dice,
}

/// One endpoint and its idle connections of one worker.
pub(super) struct Local {
    pub(super) endpoint: Arc<Endpoint>,
    idle: RefCell<Vec<Idle>>,
    refused: Cell<Option<Tick>>,
    /// It is no endpoint of the upstream any more: its connections end with the requests that they carry.
    is_gone: Cell<bool>,
    /// Connections that several requests are on at once.
    sessions: Sessions,
}

struct Idle {
    link: Link,
    since: Tick,
}

// === impl Upstream ===

impl Upstream {
    pub(crate) fn new(spec: Arc<UpstreamSpec>, state: Arc<UpstreamState>, worker: usize) -> Self {
        let mut http = Builder::new();
        if spec.is_legacy {
            http.preserve_header_case(true).title_case_headers(true);
        }
        // A generation that never is: the first request looks.
        Self { spec, state, worker, http, endpoints: RefCell::default(), seen: Cell::new(u64::MAX), dice: Dice::new() }
    }

    /// An idle connection of the endpoint whose turn it is, or a stream on a shared one.
    pub(crate) fn take(&self, now: Tick) -> Option<Leg> {
        let endpoints = self.endpoints();
        let local = endpoints.pick(&self.dice, now, self.spec.slow_start)?;
        if let Some(idle) = local.idle.borrow_mut().pop() {
            return Some(Leg::One(idle.link));
        }
        local.sessions.take(local).map(Leg::Shared)
    }

    /// Gives a connection back, if another request may follow on it.
    pub(crate) fn give_back(&self, leg: Leg, now: Tick) {
        let Leg::One(mut link) = leg else { return };
        link.rests();
        if !link.is_reusable() || link.local.is_gone.get() {
            return;
        }
        let local = Rc::clone(&link.local);
        let mut idle = local.idle.borrow_mut();
        if idle.len() < MOST_IDLE {
            idle.push(Idle { link, since: now });
        }
    }

    /// A new connection, to the first endpoint that takes one; or a stream on one that was made meanwhile.
    pub(crate) async fn connect(&self, now: Tick) -> Result<Leg, Fault> {
        let mut endpoints = self.endpoints();
        if endpoints.all.is_empty() {
            // Only a name that was not looked up yet, or is not known.
            let found = tokio::time::timeout(self.spec.connect_timeout, self.state.found()).await;
            found.map_err(|_| Fault::Refused)?;
            endpoints = self.endpoints();
        }
        let mut fault = Fault::NoSide;
        for local in endpoints.in_turn(&self.dice, now, self.spec.slow_start) {
            let made = match self.spec.protocol {
                Protocol::Http1 => self.make(local).await.and_then(|made| local.sessions.keep(made, local)),
                // Boxed: it is rare and large.
                Protocol::Http2 | Protocol::Auto => Box::pin(local.sessions.open(local, self.make(local))).await,
            };
            match made {
                Ok(leg) => {
                    local.refused.set(None);
                    return Ok(leg);
                }
                Err(why) => {
                    local.refused.set(Some(now));
                    fault = why;
                }
            }
        }
        Err(fault)
    }

    /// A connection to one endpoint, in the protocol that was chosen.
    async fn make(&self, local: &Rc<Local>) -> Result<Made, Fault> {
        let (spec, Endpoint { address, authority, .. }) = (&self.spec, &*local.endpoint);
        let socket = dial(*address, authority, spec.trust.as_deref(), spec.connect_timeout).await?;
        let is_shared = speaks_http2(spec.protocol, &socket)?;
        let open = Open::new(Arc::clone(&self.state), self.worker);
        if is_shared {
            return Session::new(socket, open).await.map(Made::Shared).map_err(|_| Fault::Refused);
        }
        Link::new(&self.http, socket, local, open).await.map(Made::One).map_err(|_| Fault::Refused)
    }

    /// Closes what was idle for too long, what the other end has closed, and all connections to what is no endpoint any more.
    pub(crate) fn sweep(&self, now: Tick) {
        let most = Tick::try_from(self.spec.idle_time.as_millis()).unwrap_or(Tick::MAX / 2);
        for local in &self.endpoints().all {
            local.idle.borrow_mut().retain_mut(|idle| now.wrapping_sub(idle.since) < most && !idle.link.is_over());
            local.sessions.sweep(now, most);
        }
    }

    /// The endpoints as they are now.
    fn endpoints(&self) -> Rc<Endpoints> {
        let generation = self.state.generation();
        if self.seen.replace(generation) != generation {
            self.renew();
        }
        Rc::clone(&self.endpoints.borrow())
    }

    #[cold]
    fn renew(&self) {
        let old = Rc::clone(&self.endpoints.borrow());
        let now = self.state.endpoints();
        let local = |endpoint: &Arc<Endpoint>| {
            let known = old.all.iter().find(|local| Arc::ptr_eq(&local.endpoint, endpoint));
            known.cloned().unwrap_or_else(|| Rc::new(Local::new(Arc::clone(endpoint))))
        };
        let all: Vec<Rc<Local>> = now.iter().map(local).collect();
        for gone in old.all.iter().filter(|old| !all.iter().any(|kept| Rc::ptr_eq(kept, old))) {
            gone.is_gone.set(true);
            gone.idle.borrow_mut().clear();
            gone.sessions.clear();
        }
        *self.endpoints.borrow_mut() = Rc::new(Endpoints::new(all));
    }
}

// === impl Local ===

impl Local {
    pub(super) fn new(endpoint: Arc<Endpoint>) -> Self {
        Self {
            endpoint,
            idle: RefCell::default(),
            refused: Cell::new(None),
            is_gone: Cell::new(false),
            sessions: Sessions::default(),
        }
    }

    /// It refused a moment ago.
    pub(super) fn is_shunned(&self, now: Tick) -> bool {
        self.refused.get().is_some_and(|refused| now.wrapping_sub(refused) < SHUNNED_MS)
    }
}

/// What a new connection speaks: the file says so, or the peer has chosen it in the handshake.
pub(crate) fn speaks_http2(protocol: Protocol, socket: &Socket) -> Result<bool, Fault> {
    let is_chosen = match socket {
        Socket::Plain(_) => protocol == Protocol::Http2,
        Socket::Tls(stream) => stream.get_ref().1.alpn_protocol() == Some(HTTP2),
    };
    match protocol {
        Protocol::Http1 => Ok(false),
        Protocol::Http2 if !is_chosen => Err(Fault::NoHttp2),
        Protocol::Http2 | Protocol::Auto => Ok(is_chosen),
    }
}

/// A connection, and TLS on it where the upstream wants that. `authority`: the endpoint's `host:port`, which its certificate is for.
pub(crate) async fn dial(
    to: impl ToSocketAddrs,
    authority: &str,
    trust: Option<&Trust>,
    within: Duration,
) -> Result<Socket, Fault> {
    let connected = tokio::time::timeout(within, async {
        let stream = TcpStream::connect(to).await.map_err(|_| Fault::Refused)?;
        // Without it small answers would wait for each other; not having it is no reason to fail.
        drop(stream.set_nodelay(true));
        match trust {
            None => Ok(Socket::Plain(stream)),
            Some(trust) => Ok(Socket::Tls(Box::new(trust.handshake(stream, authority).await?.into()))),
        }
    });
    connected.await.unwrap_or(Err(Fault::ConnectTimeout))
}

/// Pools outlive a reload that leaves their upstream as it was.
pub(crate) fn kept(old: &[Rc<Upstream>], spec: &Arc<UpstreamSpec>) -> Option<Rc<Upstream>> {
    old.iter().find(|upstream| upstream.spec == *spec).cloned()
}
