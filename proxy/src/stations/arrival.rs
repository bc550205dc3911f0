//! What passes from station to station: a request that is known better at each, and what comes back.

use std::{net::IpAddr, rc::Rc, sync::Arc, time::Instant};

use http::{HeaderMap, HeaderValue, Request, request, response};
use hyper::body::{Body, Incoming};

use super::{check::Seen, forwarded::Public, open_write::OpenWrite};
use crate::{
    body::Kind,
    error::{Fault, Form},
    hold::UnderWay,
    identity::Who,
    links::Owner,
    listen::{Turn, Worker, WorkerTable},
    observe::Note,
    shadow::Waiting,
    split::Choice,
    table::{Route, Said},
    trace::TraceId,
};

/// A request as hyper gave it.
pub(crate) struct Arrival {
    /// Boxed, as an answer's is: it is large, and handed from station to station.
    pub(super) head: Box<request::Parts>,
    pub(super) body: Incoming,
    pub(super) turn: Rc<Turn>,
    pub(super) worker: Rc<Worker>,
    /// The config that holds for this request, whatever is reloaded meanwhile.
    pub(super) table: Rc<WorkerTable>,
    pub(super) began: Instant,
    /// What is kept of it, where anything is.
    pub(super) note: Option<Rc<Note>>,
}

/// ... whose framing and host are beyond doubt.
pub(crate) struct Checked {
    pub(super) arrival: Arrival,
    pub(super) seen: Seen,
    /// What the client said under Banyan's own names; it was stripped. Nearly never any.
    pub(super) said: Option<Box<HeaderMap>>,
}

/// ... whose route is known.
pub(crate) struct Located {
    pub(super) checked: Checked,
    pub(super) route: usize,
    /// The normalised path, where it differs from the raw one.
    pub(super) path: Option<String>,
    /// Where the prefix that matched ends in it.
    pub(super) prefix_end: usize,
    /// The first address from the right that is no trusted proxy's.
    pub(super) client: IpAddr,
    pub(super) is_peer_trusted: bool,
    /// Who it comes from, where that was asked and is somebody.
    pub(super) who: Option<Arc<Who>>,
    /// Of a synced route's write.
    pub(super) under_way: Option<UnderWay>,
}

/// ... whose side is chosen.
pub(crate) struct Chosen {
    pub(super) located: Located,
    pub(super) choice: Choice,
}

/// ... as an upstream gets it: nothing of the client's hop, and who the client is.
pub(crate) struct Prepared {
    pub(super) chosen: Chosen,
    pub(super) is_websocket: bool,
    /// What the client knows this place by.
    pub(super) public: Public,
    /// Of a copy that is made of the request: gets what the client sends behind the head, as it passes.
    pub(super) upload: Option<Waiting>,
}

/// What an upstream answered.
pub(crate) struct Reply {
    pub(super) head: Box<response::Parts>,
    pub(super) body: Kind,
    pub(super) route: usize,
    /// Who answered.
    pub(super) side: Owner,
    /// A read that was answered by the side that does not own the rows, since the owner could not.
    pub(super) is_stale: bool,
    pub(super) choice: Choice,
    /// Of a synced route's write.
    pub(super) write: Option<Box<OpenWrite>>,
}

/// Why no upstream answered.
pub(crate) struct Failure {
    pub(super) fault: Fault,
    pub(super) route: Option<usize>,
    /// How the client wants to be told.
    pub(super) form: Form,
    /// Of a write whose outcome is unknown: its user must read at the owner for a while.
    pub(super) own_write: Option<HeaderValue>,
    /// Where the request belongs to one.
    pub(super) trace: Option<TraceId>,
    /// What the route answers by itself, since it has no side by intent; said in place of the fault.
    pub(super) said: Option<Box<Said>>,
}

// === impl Arrival ===

impl Arrival {
    pub(crate) fn new(request: Request<Incoming>, turn: &Rc<Turn>, worker: &Rc<Worker>) -> Self {
        let (head, body) = request.into_parts();
        turn.begin(!body.is_end_stream());
        let table = worker.table();
        let note = table.scribe.as_ref().and_then(|scribe| scribe.note(&head));
        let (turn, worker) = (Rc::clone(turn), Rc::clone(worker));
        Self { head: Box::new(head), body, turn, worker, table, began: Instant::now(), note }
    }
}

impl Arrival {
    /// Header lines that its listener allows.
    pub(super) fn headers_allowed(&self) -> usize {
        self.turn.peer().listener().headers_allowed()
    }
}

// === impl Checked ===

impl Checked {
    pub(super) fn fails(&self, fault: Fault) -> Failure {
        let trace = self.seen.trace.map(|trace| trace.id);
        Failure { fault, route: None, form: self.seen.form, own_write: None, trace, said: None }
    }
}

// === impl Located ===

impl Located {
    pub(super) fn route(&self) -> &Arc<Route> {
        self.checked.arrival.table.route(self.route)
    }

    pub(super) fn fails(&self, fault: Fault) -> Failure {
        Failure { route: Some(self.route), ..self.checked.fails(fault) }
    }
}
