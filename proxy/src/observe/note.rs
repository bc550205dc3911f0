//! What the stations leave about one request that is to be kept.

use std::{
    cell::{Cell, RefCell},
    net::IpAddr,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http::{Method, StatusCode, Version, request};
use hyper::body::Frame;

use super::{Hop, Trouble};
use crate::{links::Owner, trace::TraceId, upstream::BodyError};

/// One request under way, shared by its stations and the body of its answer.
pub(crate) struct Note {
    pub(super) time: SystemTime,
    pub(super) method: Method,
    pub(super) version: Version,
    /// It is in the log's sample.
    pub(super) is_drawn: bool,
    wants_client: bool,
    wants_path: bool,
    pub(super) client: Cell<Option<IpAddr>>,
    pub(super) matched: RefCell<Option<Box<str>>>,
    pub(super) path: RefCell<Option<Box<str>>>,
    pub(super) chosen: Cell<Option<Owner>>,
    /// From the head until it was handed to an upstream.
    pub(super) overhead: Cell<Option<Duration>>,
    /// From the head until an upstream's answer had come, or none could any more.
    pub(super) came: Cell<Option<Duration>>,
    pub(super) bytes_out: Cell<u64>,
    pub(super) trace: Cell<Option<TraceId>>,
    pub(super) hop: Cell<Option<Hop>>,
    pub(super) trouble: Cell<Option<Trouble>>,
    is_ended: Cell<bool>,
}

// === impl Note ===

impl Note {
    pub(super) fn new(head: &request::Parts, is_drawn: bool, wants_client: bool, wants_path: bool) -> Self {
        Self {
            time: SystemTime::now(),
            method: head.method.clone(),
            version: head.version,
            is_drawn,
            wants_client,
            wants_path,
            client: Cell::new(None),
            matched: RefCell::new(None),
            path: RefCell::new(None),
            chosen: Cell::new(None),
            overhead: Cell::new(None),
            came: Cell::new(None),
            bytes_out: Cell::new(0),
            trace: Cell::new(None),
            hop: Cell::new(None),
            trouble: Cell::new(None),
            is_ended: Cell::new(false),
        }
    }

    /// The route is known: what its match says of the path, the normalised path, and who asks.
    pub(crate) fn located(&self, matched: &str, path: &str, client: IpAddr) {
        if !matched.is_empty() {
            *self.matched.borrow_mut() = Some(matched.into());
        }
        if self.wants_path {
            *self.path.borrow_mut() = Some(path.into());
        }
        if self.wants_client {
            self.client.set(Some(client));
        }
    }

    /// The trace that it belongs to.
    pub(crate) fn traced(&self, trace: TraceId) {
        self.trace.set(Some(trace));
    }

    /// Banyan is a hop of its trace.
    pub(crate) fn is_hop(&self, hop: Hop) {
        self.hop.set(Some(hop));
    }

    /// It goes to an upstream of this side.
    pub(crate) fn handed(&self, side: Owner, overhead: Duration) {
        self.chosen.set(Some(side));
        self.overhead.set(Some(overhead));
    }

    /// The head of the answer is known, so long after the request's.
    pub(crate) fn came(&self, after: Duration) {
        self.came.set(Some(after));
    }

    /// What went wrong; the first trouble is the one that is told.
    pub(crate) fn is_in(&self, trouble: Trouble) {
        if self.trouble.get().is_none() {
            self.trouble.set(Some(trouble));
        }
    }

    /// A part of the answer's body was handed over, or its end, or it broke off.
    pub(crate) fn frame(&self, frame: Option<&Result<Frame<Bytes>, BodyError>>, is_last: bool) {
        match frame {
            Some(Ok(frame)) => {
                let bytes = frame.data_ref().map_or(0, Bytes::len);
                self.bytes_out.set(self.bytes_out.get() + bytes as u64);
            }
            Some(Err(_)) => self.is_in(Trouble::BROKEN_OFF),
            None => self.ended(),
        }
        if is_last {
            self.ended();
        }
    }

    /// The answer's body was handed over to its end.
    pub(crate) fn ended(&self) {
        self.is_ended.set(true);
    }

    /// Whether all of the answer was handed over; those that have no body never ask for one.
    pub(super) fn is_whole(&self, status: StatusCode) -> bool {
        self.is_ended.get() || self.method == Method::HEAD || status.is_informational()
    }
}
