//! One worker's connections to one upstream: idle ones are taken last-in first-out from the endpoint whose turn it is.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use hyper::client::conn::http1::Builder;
use tokio::net::{TcpStream, ToSocketAddrs};
use tokio_util::task::AbortOnDropHandle;

use super::{
    Endpoint, Heard, Leg, Link, Open, Session, Trust, UpstreamSpec, UpstreamState,
    balance::{Dice, Endpoints},
    cap::{ASK_AGAIN, Room},
    limit::Full,
    link::Places,
    sessions::{Made, Sessions},
};
use crate::{
    config::{Protocol, UpstreamLimits},
    error::Fault,
    listen::Tick,
    socket::Socket,
};

/// How long an endpoint that refused is left out while another one can be asked.
const SHUNNED_MS: Tick = 1000;
/// As ALPN names it (RFC 9113, 3.1).
pub(super) const HTTP2: &[u8] = b"h2";
/// The older one (RFC 7301, 6).
pub(super) const HTTP1: &[u8] = b"http/1.1";
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
    /// With a cap on connections: closes idle ones when others need them.
    closes: Cell<Option<AbortOnDropHandle<()>>>,
}

/// One endpoint and its idle connections of one worker.
pub(crate) struct Local {
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

/// The head of an answer, and what is read of its body at once, which a client that reads slowly makes us keep.
const HELD: usize = 128 * 1024;

// === impl Upstream ===

impl Upstream {
    pub(crate) fn new(spec: Arc<UpstreamSpec>, state: Arc<UpstreamState>, worker: usize) -> Self {
        let mut http = Builder::new();
        http.max_buf_size(HELD);
        if spec.is_legacy {
            http.preserve_header_case(true).title_case_headers(true);
        }
        // A generation that never is: the first request looks.
        let (endpoints, seen) = (RefCell::default(), Cell::new(u64::MAX));
        Self { spec, state, worker, http, endpoints, seen, dice: Dice::new(), closes: Cell::new(None) }
    }

    /// A place for a request, which waits for it where there are limits.
    pub(crate) async fn enter(self: &Rc<Self>) -> Result<Places, Fault> {
        match &self.spec.limits {
            None => Ok(Places::default()),
            Some(limits) => Box::pin(self.queue(limits, limits.queue)).await,
        }
    }

    /// A place if there is one now, for who has another one already: two who wait for each other's would wait in vain.
    pub(crate) async fn enter_at_once(self: &Rc<Self>) -> Result<Places, Fault> {
        match &self.spec.limits {
            None => Ok(Places::default()),
            Some(limits) => Box::pin(self.queue(limits, 0)).await,
        }
    }

    /// Behind so many others at most.
    async fn queue(self: &Rc<Self>, limits: &UpstreamLimits, queue: usize) -> Result<Places, Fault> {
        let counts = self.state.counts(self.worker);
        let full = |why| {
            match why {
                Full::Queue => counts.queue_full.add(1),
                Full::Late => counts.queue_late.add(1),
            }
            Fault::Overloaded
        };
        let mut places = Places::default();
        if self.spec.limits_in_flight() {
            let place = self.state.in_flight.enter(queue, limits.queue_time).await;
            places.in_flight = Some(place.map_err(full)?);
        }
        if limits.connections.is_some() {
            self.close_when_asked();
            let place = self.state.in_use.enter(queue, limits.queue_time).await;
            places.in_use = Some(place.map_err(full)?);
        }
        Ok(places)
    }

    /// What carries a request, and whether it has carried others: at best what is there already, unless that may be dead. A WebSocket takes a
    /// connection of its own, in HTTP/1.1, wherever that may be chosen.
    pub(crate) async fn leg(&self, now: Tick, may_be_used: bool, is_websocket: bool) -> Result<(Leg, bool), Fault> {
        let protocol = match self.spec.protocol {
            Protocol::Auto if is_websocket => Protocol::Http1,
            any => any,
        };
        if may_be_used && let Some(leg) = self.take(now, protocol) {
            return Ok((leg, true));
        }
        // Boxed: it is rare and large.
        Box::pin(self.connect(now, protocol)).await.map(|leg| (leg, false))
    }

    /// An idle connection of the endpoint whose turn it is, or a stream on a shared one.
    fn take(&self, now: Tick, protocol: Protocol) -> Option<Leg> {
        let endpoints = self.endpoints();
        let local = endpoints.pick(&self.dice, now, self.spec.slow_start)?;
        let idle = local.idle.borrow_mut().pop();
        if let Some(idle) = idle {
            self.tell_idle(&endpoints);
            return Some(Leg::One(idle.link));
        }
        if protocol == Protocol::Http1 { None } else { local.sessions.take(local).map(Leg::Shared) }
    }

    /// Gives a connection back, if another request may follow on it.
    pub(crate) fn give_back(&self, leg: Leg, now: Tick) {
        let Leg::One(mut link) = leg else { return };
        // Given back last: whoever gets it finds this connection idle, or closed.
        let _places = link.rests();
        if !link.is_reusable() || link.local.is_gone.get() {
            return drop(link);
        }
        let local = Rc::clone(&link.local);
        let mut idle = local.idle.borrow_mut();
        if idle.len() < MOST_IDLE {
            idle.push(Idle { link, since: now });
        }
        drop(idle);
        self.tell_idle(&self.endpoints());
    }

    /// A new connection, to the first endpoint that takes one; or a stream on one that was made meanwhile.
    async fn connect(&self, now: Tick, protocol: Protocol) -> Result<Leg, Fault> {
        let mut endpoints = self.endpoints();
        if endpoints.all.is_empty() {
            // Only a name that was not looked up yet, or is not known.
            let found = async {
                while endpoints.all.is_empty() {
                    self.state.renewed(self.seen.get()).await;
                    endpoints = self.endpoints();
                }
            };
            tokio::time::timeout(self.spec.connect_timeout, found).await.map_err(|_| Fault::Refused)?;
        }
        let mut room = match self.spec.cap() {
            None => None,
            Some(most) => match Box::pin(self.room(most)).await? {
                Ok(room) => Some(room),
                Err(idle) => return Ok(Leg::One(idle)),
            },
        };
        let mut fault = Fault::NoSide;
        for local in endpoints.in_turn(&self.dice, now, self.spec.slow_start) {
            let making = self.make(local, protocol, &mut room);
            let made = match protocol {
                Protocol::Http1 => making.await.and_then(|made| local.sessions.keep(made, local)),
                Protocol::Http2 | Protocol::Auto => Box::pin(local.sessions.open(local, making)).await,
            };
            match made {
                Ok(leg) => {
                    local.refused.set(None);
                    return Ok(leg);
                }
                Err(why) => {
                    local.refused.set(Some(now));
                    local.endpoint.answered(false);
                    fault = why;
                    if room.is_none() && self.spec.cap().is_some() {
                        break;
                    }
                }
            }
        }
        self.state.counts(self.worker).heard(Heard::Refused);
        Err(fault)
    }

    /// A connection to one endpoint, in this protocol.
    async fn make(&self, local: &Rc<Local>, protocol: Protocol, room: &mut Option<Room>) -> Result<Made, Fault> {
        let (spec, Endpoint { address, authority, .. }) = (&self.spec, &*local.endpoint);
        let socket = dial(*address, authority, spec.trust.as_deref(), protocol, spec.connect_timeout).await?;
        let is_shared = speaks_http2(protocol, &socket)?;
        let open = Open::new(Arc::clone(&self.state), self.worker, room.take());
        if is_shared {
            return Session::new(socket, open).await.map(Made::Shared).map_err(|_| Fault::Refused);
        }
        Link::new(&self.http, socket, local, open).await.map(Made::One).map_err(|_| Fault::Refused)
    }

    /// Room for a new connection under the cap, or else an idle one. Who has a place among the connections in use does not wait long: one of
    /// them is idle somewhere, or is just being closed.
    async fn room(&self, most: usize) -> Result<Result<Room, Link>, Fault> {
        let wait = async {
            loop {
                let freed = self.state.cap.freed();
                let endpoints = self.endpoints();
                let idle = endpoints.all.iter().find_map(|local| local.idle.borrow_mut().pop());
                if let Some(Idle { link, .. }) = idle {
                    self.tell_idle(&endpoints);
                    return Err(link);
                }
                if let Some(room) = Room::take(&self.state, most) {
                    return Ok(room);
                }
                self.state.ask_for_room();
                // Late is as good: it looks again.
                drop(tokio::time::timeout(ASK_AGAIN, freed).await);
            }
        };
        tokio::time::timeout(self.spec.connect_timeout, wait).await.map_err(|_| Fault::ConnectTimeout)
    }

    // --- what others must know

    /// How an exchange ended. `began`: when the request was sent, where that matters.
    pub(crate) fn heard(&self, local: &Local, heard: Heard, began: Option<Instant>) {
        let counts = self.state.counts(self.worker);
        counts.heard(heard);
        local.endpoint.answered(heard == Heard::Ok);
        if let Some(began) = began {
            let slower_than = self.spec.circuit.as_ref().and_then(|circuit| circuit.slower_than);
            counts.took(began.elapsed(), slower_than, heard == Heard::Ok);
        }
    }

    /// The request's own time was over before there was an answer.
    pub(crate) fn gave_up(&self) {
        self.state.counts(self.worker).heard(Heard::Lost);
    }

    /// Whether one more request may go again, of a share of all.
    pub(crate) fn may_retry(&self) -> bool {
        let may = self.state.retries.take();
        let counts = self.state.counts(self.worker);
        if may {
            counts.retried.add(1);
        } else {
            counts.retries_refused.add(1);
        }
        may
    }

    /// Whether its circuit lets a request pass. `is_harmless`: should it fail, somebody else can answer it.
    pub(crate) fn admits(&self, is_harmless: bool) -> bool {
        let passes = self.spec.circuit.is_none() || self.state.circuit.admits(is_harmless);
        if !passes {
            self.state.counts(self.worker).circuit_open.add(1);
        }
        passes
    }

    /// How many are idle, where others may need them.
    fn tell_idle(&self, endpoints: &Endpoints) {
        if self.spec.cap().is_some() {
            self.state.idlers(self.worker).has(endpoints.all.iter().map(|local| local.idle.borrow().len()).sum());
        }
    }

    /// From now on, as long as this upstream is: idle connections are closed when another worker needs one.
    fn close_when_asked(self: &Rc<Self>) {
        if let Some(closes) = self.closes.take() {
            return self.closes.set(Some(closes));
        }
        let (this, state, worker) = (Rc::downgrade(self), Arc::clone(&self.state), self.worker);
        let closes = tokio::task::spawn_local(async move {
            loop {
                let count = state.idlers(worker).asked().await;
                let Some(this) = this.upgrade() else { return };
                let endpoints = this.endpoints();
                for _ in 0..count {
                    drop(endpoints.all.iter().find_map(|local| local.idle.borrow_mut().pop()));
                }
                this.tell_idle(&endpoints);
            }
        });
        self.closes.set(Some(AbortOnDropHandle::new(closes)));
    }

    /// Closes what was idle for too long, what the other end has closed, and all connections to what is no endpoint any more.
    pub(crate) fn sweep(&self, now: Tick) {
        let most = Tick::try_from(self.spec.idle_time.as_millis()).unwrap_or(Tick::MAX / 2);
        let endpoints = self.endpoints();
        for local in &endpoints.all {
            local.idle.borrow_mut().retain_mut(|idle| now.wrapping_sub(idle.since) < most && !idle.link.is_over());
            local.sessions.sweep(now, most);
        }
        self.tell_idle(&endpoints);
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
            gone.is_left();
        }
        *self.endpoints.borrow_mut() = Rc::new(Endpoints::new(all));
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        // An idle connection holds its endpoint, and its endpoint holds it.
        self.endpoints.get_mut().all.iter().for_each(|local| local.is_left());
        // Its worker ends, or has another one in its place, which says itself what it has.
        if self.spec.cap().is_some() {
            self.state.idlers(self.worker).has(0);
        }
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

    /// Its host and port, as the file names them.
    pub(crate) fn authority(&self) -> &str {
        &self.endpoint.authority
    }

    /// Its idle connections are closed, and the others when they are given back.
    fn is_left(&self) {
        self.is_gone.set(true);
        self.idle.borrow_mut().clear();
        self.sessions.clear();
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

/// A connection, and TLS on it where the upstream wants that. `authority`: the endpoint's `host:port`, which its certificate is for. `protocol`: the
/// upstream's, or HTTP/1.1 where it may choose.
pub(crate) async fn dial(
    to: impl ToSocketAddrs,
    authority: &str,
    trust: Option<&Trust>,
    protocol: Protocol,
    within: Duration,
) -> Result<Socket, Fault> {
    let connected = tokio::time::timeout(within, async {
        let stream = TcpStream::connect(to).await.map_err(|_| Fault::Refused)?;
        // Without it small answers would wait for each other; not having it is no reason to fail.
        drop(stream.set_nodelay(true));
        match trust {
            None => Ok(Socket::Plain(stream)),
            Some(trust) => Ok(Socket::Tls(Box::new(trust.handshake(stream, authority, protocol).await?.into()))),
        }
    });
    connected.await.unwrap_or(Err(Fault::ConnectTimeout))
}

/// Pools outlive a reload that leaves their upstream as it was.
pub(crate) fn kept(old: &[Rc<Upstream>], spec: &Arc<UpstreamSpec>) -> Option<Rc<Upstream>> {
    old.iter().find(|upstream| upstream.spec == *spec).cloned()
}
