//! A write of a synced route, from the moment when it may go to the owner to the end of its answer: it is counted as under way, and its user
//! waits for the watermark from when it was answered, or may have been.

use std::rc::Rc;

use http::HeaderValue;

use crate::{
    hold::UnderWay,
    listen::WorkerTable,
    split::{AfterWrite, Now},
};

/// Whoever drops it before its answer has come leaves a write whose outcome is unknown.
pub(crate) struct OpenWrite {
    table: Rc<WorkerTable>,
    route: usize,
    after: Box<AfterWrite>,
    stands: Stands,
    _under_way: UnderWay,
}

enum Stands {
    Open,
    /// The head of its answer has come; what comes behind may tell of more.
    Answered,
    Over,
}

// === impl OpenWrite ===

impl OpenWrite {
    pub(super) fn new(table: &Rc<WorkerTable>, route: usize, after: Box<AfterWrite>, under_way: UnderWay) -> Box<Self> {
        Box::new(Self { table: Rc::clone(table), route, after, stands: Stands::Open, _under_way: under_way })
    }

    /// It was answered: the cookie that says so.
    pub(super) fn answered(&mut self) -> Option<HeaderValue> {
        self.stands = Stands::Answered;
        self.table.compiled.split.answered(self.table.route(self.route), &self.after, Now::read())
    }

    /// There is no answer. Where a byte of it was sent, its outcome is unknown: the cookie that says so.
    pub(super) fn failed(&mut self, sent: bool) -> Option<HeaderValue> {
        self.stands = Stands::Over;
        sent.then(|| self.table.compiled.split.unanswered(self.table.route(self.route), &self.after, Now::read()))?
    }
}

impl Drop for OpenWrite {
    fn drop(&mut self) {
        let (split, route) = (&self.table.compiled.split, self.table.route(self.route));
        match self.stands {
            // Nobody is left who could be given a cookie.
            Stands::Open => drop(split.unanswered(route, &self.after, Now::read())),
            Stands::Answered => split.ended(route, &self.after, Now::read()),
            Stands::Over => {}
        }
    }
}
