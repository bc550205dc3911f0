//! A copy that cannot be sent yet: its body is still on its way to the side that answers, or it is a write, which goes out only when that side
//! has answered. So no client waits for it, what breaks off half-way is never sent, and no write reaches the shadow that the answering side
//! did not get.

use std::{cell::RefCell, rc::Rc, sync::Arc, time::Instant};

use bytes::Bytes;
use tokio::sync::mpsc;

use super::{
    buffer::{Buffer, Full},
    counts::{Outcome, RouteCounts},
    job::Job,
};

/// Shared by whoever reads the request's body and by the [`Ticket`](super::Ticket), which knows of the answer.
#[derive(Debug, Clone)]
pub struct Waiting(Rc<RefCell<Copied>>);

#[derive(Debug)]
struct Copied {
    /// `None` when it was sent or given up.
    job: Option<Box<Job>>,
    counts: Arc<RouteCounts>,
    jobs: mpsc::Sender<Job>,
    /// Of the body, until its end.
    body: Option<Buffer>,
    /// When the body had come, or at first if there is none.
    ended: Option<Instant>,
    /// A write that has no answer yet.
    is_unanswered: bool,
}

// === impl Waiting ===

impl Waiting {
    pub(super) fn new(job: Job, jobs: mpsc::Sender<Job>, body: Option<Buffer>, waits_for_answer: bool) -> Self {
        let ended = if body.is_some() { None } else { Some(Instant::now()) };
        let counts = Arc::clone(&job.route.counts);
        let job = Some(Box::new(job));
        Self(Rc::new(RefCell::new(Copied { job, counts, jobs, body, ended, is_unanswered: waits_for_answer })))
    }

    /// A part of the request's body.
    pub fn chunk(&self, chunk: &Bytes) {
        let mut copied = self.0.borrow_mut();
        let Some(body) = &mut copied.body else { return };
        match body.push(chunk) {
            Ok(()) => {}
            Err(Full::Bound) => copied.give_up(Outcome::BodyTooLong),
            Err(Full::Budget) => copied.give_up(Outcome::DroppedBudget),
        }
    }

    /// The request's body is over, whole.
    pub fn end(&self) {
        let mut copied = self.0.borrow_mut();
        if let Some(body) = copied.body.take() {
            copied.ended = Some(Instant::now());
            if let Some(job) = &mut copied.job {
                job.carry(body.into_body());
            }
            copied.send_if_ready();
        }
    }

    /// The side that answers has answered.
    pub(super) fn answered(&self) {
        let mut copied = self.0.borrow_mut();
        copied.is_unanswered = false;
        copied.send_if_ready();
    }

    /// It is not sent any more, if it was not yet.
    pub(super) fn give_up(&self, why: Outcome) {
        self.0.borrow_mut().give_up(why);
    }

    /// Whether its body has still to come.
    pub(super) fn wants_body(&self) -> bool {
        self.0.borrow().body.is_some()
    }

    /// From when on both sides have had all of the request.
    pub(super) fn ended(&self) -> Option<Instant> {
        self.0.borrow().ended
    }
}

// === impl Copied ===

impl Copied {
    fn send_if_ready(&mut self) {
        if self.ended.is_none() || self.is_unanswered {
            return;
        }
        if let Some(job) = self.job.take()
            && self.jobs.try_send(*job).is_err()
        {
            self.counts.copy(Outcome::DroppedBusy);
        }
    }

    fn give_up(&mut self, why: Outcome) {
        self.body = None;
        if self.job.take().is_some() {
            self.counts.copy(why);
        }
    }
}

impl Drop for Copied {
    fn drop(&mut self) {
        // The body broke off.
        self.give_up(Outcome::Cancelled);
    }
}
