//! One worker's connections to one upstream: idle ones are taken last-in first-out, new ones go round the endpoints.

use std::{
    cell::{Cell, RefCell},
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use hyper::client::conn::http1::Builder;
use tokio::net::TcpStream;

use super::{Link, Open, UpstreamSpec, UpstreamState, state::EndpointSpec};
use crate::{error::Fault, listen::Tick};

/// How long an endpoint that refused is left out while another one can be asked.
const SHUNNED_MS: Tick = 1000;
/// Idle connections kept an endpoint and worker.
const MOST_IDLE: usize = 1024;

pub(crate) struct Upstream {
    pub(crate) spec: Arc<UpstreamSpec>,
    state: Arc<UpstreamState>,
    worker: usize,
    http: Builder,
    endpoints: Vec<Endpoint>,
    next: Cell<usize>,
}

#[derive(Default)]
struct Endpoint {
    idle: RefCell<Vec<Idle>>,
    refused: Cell<Option<Tick>>,
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
        let endpoints = spec.endpoints.iter().map(|_| Endpoint::default()).collect();
        Self { spec, state, worker, http, endpoints, next: Cell::new(0) }
    }

    /// An idle connection of the endpoint whose turn it is.
    pub(crate) fn take(&self, now: Tick) -> Option<Link> {
        let first = self.turn(now);
        self.endpoints[first].idle.borrow_mut().pop().map(|idle| idle.link)
    }

    /// Gives a connection back, if another request may follow on it.
    pub(crate) fn give_back(&self, link: Link, now: Tick) {
        if !link.is_reusable() {
            return;
        }
        let mut idle = self.endpoints[link.endpoint].idle.borrow_mut();
        if idle.len() < MOST_IDLE {
            idle.push(Idle { link, since: now });
        }
    }

    /// A new connection, to the first endpoint that takes one.
    pub(crate) async fn connect(&self, now: Tick) -> Result<Link, Fault> {
        let (first, count) = (self.turn(now), self.endpoints.len());
        let mut fault = Fault::NoSide;
        for at in (0..count).map(|step| (first + step) % count) {
            match dial(&self.spec.endpoints[at], self.spec.connect_timeout).await {
                Ok(stream) => {
                    self.endpoints[at].refused.set(None);
                    let open = Open::new(Arc::clone(&self.state), self.worker);
                    return Link::new(&self.http, stream.into(), at, open).await.map_err(|_| Fault::Refused);
                }
                Err(why) => {
                    self.endpoints[at].refused.set(Some(now));
                    fault = why;
                }
            }
        }
        Err(fault)
    }

    /// Closes what was idle for too long, and what the other end has closed.
    pub(crate) fn sweep(&self, now: Tick) {
        let most = Tick::try_from(self.spec.idle_time.as_millis()).unwrap_or(Tick::MAX / 2);
        for endpoint in &self.endpoints {
            endpoint.idle.borrow_mut().retain_mut(|idle| now.wrapping_sub(idle.since) < most && !idle.link.is_over());
        }
    }

    /// Whose turn it is; one that refused a moment ago is left out while there is another.
    fn turn(&self, now: Tick) -> usize {
        let count = self.endpoints.len();
        if count == 1 {
            return 0;
        }
        let first = self.next.get();
        self.next.set((first + 1) % count);
        let is_shunned = |at: &usize| {
            self.endpoints[*at].refused.get().is_some_and(|refused| now.wrapping_sub(refused) < SHUNNED_MS)
        };
        (0..count).map(|step| (first + step) % count).find(|at| !is_shunned(at)).unwrap_or(first)
    }
}

async fn dial(endpoint: &EndpointSpec, within: Duration) -> Result<TcpStream, Fault> {
    let connected = tokio::time::timeout(within, async {
        match endpoint.address {
            Some(address) => TcpStream::connect::<SocketAddr>(address).await,
            None => TcpStream::connect(endpoint.authority.as_str()).await,
        }
    });
    match connected.await {
        Ok(Ok(stream)) => {
            // Without it small answers would wait for each other; not having it is no reason to fail.
            drop(stream.set_nodelay(true));
            Ok(stream)
        }
        Ok(Err(_)) => Err(Fault::Refused),
        Err(_) => Err(Fault::ConnectTimeout),
    }
}

/// Pools outlive a reload that leaves their upstream as it was.
pub(crate) fn kept(old: &[Rc<Upstream>], spec: &Arc<UpstreamSpec>) -> Option<Rc<Upstream>> {
    old.iter().find(|upstream| upstream.spec == *spec).cloned()
}
