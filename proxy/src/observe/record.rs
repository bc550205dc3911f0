//! One request that is over, as it leaves its worker.

use std::{
    net::IpAddr,
    num::NonZeroU64,
    sync::Arc,
    time::{Duration, SystemTime},
};

use http::{Method, StatusCode, Version};

use super::Note;
use crate::{
    error::{Blame, Fault},
    links::Owner,
    metrics::Answerer,
    trace::{Trace, TraceId},
};

/// All that is known of it. Names, numbers and enums; of the request's own words only the method, and what the file asks for.
#[derive(Debug)]
pub(crate) struct Record {
    pub(super) time: SystemTime,
    /// `None`: Banyan answered before it looked for a route.
    pub(super) route: Option<Arc<str>>,
    /// What the route's match says of the path.
    pub(super) matched: Option<Box<str>>,
    pub(super) path: Option<Box<str>>,
    pub(super) client: Option<IpAddr>,
    pub(super) method: Method,
    pub(super) version: Version,
    pub(super) chosen: Option<Owner>,
    /// `None`: the client went away before there was an answer.
    pub(super) answered: Option<(Answerer, StatusCode)>,
    pub(super) took: Duration,
    pub(super) overhead: Option<Duration>,
    pub(super) upstream: Option<Duration>,
    pub(super) bytes_in: u64,
    pub(super) bytes_out: u64,
    /// How often it was put on an upstream's wire.
    pub(super) sends: u32,
    pub(super) trouble: Option<Trouble>,
    pub(super) trace: Option<TraceId>,
    /// Where Banyan is a hop of its trace.
    pub(super) hop: Option<Hop>,
    /// It is in the log's sample.
    pub(super) is_drawn: bool,
    /// It has a line in the log, unless there are too many failures.
    pub(super) is_logged: bool,
}

/// Banyan's hop of a request, and whose child it is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Hop {
    pub(crate) own: Trace,
    #[cfg_attr(not(feature = "otlp"), expect(dead_code, reason = "only spans tell it"))]
    pub(crate) parent: Option<NonZeroU64>,
}

/// What went wrong, and whose fault it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Trouble {
    pub(super) blame: Blame,
    pub(super) code: &'static str,
}

/// How the end of a request is told.
pub(crate) struct Ending {
    pub(crate) route: Option<Arc<str>>,
    pub(crate) answered: Option<(Answerer, StatusCode)>,
    pub(crate) took: Duration,
    pub(crate) bytes_in: u64,
    pub(crate) sends: u32,
}

// === impl Record ===

impl Record {
    pub(super) fn new(note: &Note, ending: Ending) -> Self {
        let Ending { route, answered, took, bytes_in, sends } = ending;
        let is_whole = answered.is_some_and(|(_, status)| note.is_whole(status));
        let trouble = note.trouble.get().or_else(|| (!is_whole).then_some(Trouble::CANCELLED));
        let overhead = note.overhead.get();
        let upstream = overhead.and_then(|overhead| Some(note.came.get()?.saturating_sub(overhead)));
        Self {
            time: note.time,
            route,
            matched: note.matched.take(),
            path: note.path.take(),
            client: note.client.get(),
            method: note.method.clone(),
            version: note.version,
            chosen: note.chosen.get(),
            answered,
            took,
            overhead,
            upstream,
            bytes_in,
            bytes_out: note.bytes_out.get(),
            sends,
            trouble,
            trace: note.trace.get(),
            hop: note.hop.get(),
            is_drawn: note.is_drawn,
            is_logged: note.is_drawn,
        }
    }
}

impl Record {
    /// Whoever began its trace wants it recorded.
    pub(super) fn is_sampled(&self) -> bool {
        self.hop.is_some_and(|hop| hop.own.is_sampled())
    }
}

// === impl Trouble ===

impl Trouble {
    /// The client went away before its answer had ended.
    pub(crate) const CANCELLED: Self = Self { blame: Blame::Client, code: "cancelled" };
    /// The upstream's answer ended before its announced end.
    pub(crate) const BROKEN_OFF: Self = Self { blame: Blame::Upstream, code: "broken_off" };
}

impl From<Fault> for Trouble {
    fn from(fault: Fault) -> Self {
        Self { blame: fault.blame(), code: fault.code() }
    }
}
