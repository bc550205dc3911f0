//! Records what the client gets, while it passes. Nothing here waits, and nothing is kept beyond the bound.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderMap, StatusCode, header::CONTENT_LENGTH};
use tokio::sync::oneshot;

use super::{
    budget::{Budget, End, Kept},
    counts::Outcome,
    request::apart,
    waiting::Waiting,
};
use crate::compare::Answer;

/// The control of one shadowed request, held by whoever passes the answer on: first [`head`](Self::head), each [`chunk`](Self::chunk), then
/// [`end`](Self::end). Dropping it before its end says that the answer broke off or the client went away, and cancels the shadow.
#[derive(Debug)]
pub struct Ticket {
    recorded: Option<Recorded>,
    to: Option<oneshot::Sender<Recorded>>,
    budget: Arc<Budget>,
    /// `None` when nothing is compared: then the head is the end.
    max_body: Option<usize>,
    /// When the request was offered, a moment before it went to the side that answers.
    since: Instant,
    /// Of a HEAD: its length is that of a body which does not come.
    is_head: bool,
    /// `None` for a copy that was sent at once.
    waiting: Option<Waiting>,
}

/// An answer: what the client got, or the shadow's.
#[derive(Debug)]
pub(super) struct Recorded {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Kept,
    /// How long its head took.
    pub(super) took: Duration,
}

// === impl Recorded ===

impl Recorded {
    /// For comparing; `None` when the budget did not do for its body. `joined` is all that was kept of that.
    pub(super) fn answer<'a>(&'a self, joined: &'a [u8]) -> Option<Answer<'a>> {
        Some(Answer { status: self.status, headers: &self.headers, body: self.body.body(joined)? })
    }
}

/// What an answer's head says of its length.
pub(super) fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

// === impl Ticket ===

impl Ticket {
    pub(super) fn new(
        budget: Arc<Budget>,
        max_body: Option<usize>,
        is_head: bool,
    ) -> (Self, oneshot::Receiver<Recorded>) {
        let (to, from) = oneshot::channel();
        (Self { recorded: None, to: Some(to), budget, max_body, since: Instant::now(), is_head, waiting: None }, from)
    }

    pub(super) fn wait(&mut self, waiting: Waiting) {
        self.waiting = Some(waiting);
    }

    /// What is to be told of the request's body as it passes; `None` when nobody needs it.
    #[must_use]
    pub fn upload(&self) -> Option<Waiting> {
        self.waiting.clone().filter(Waiting::wants_body)
    }

    /// The head of the final answer, as the upstream gave it; once.
    pub fn head(&mut self, status: StatusCode, headers: &HeaderMap) {
        let bound = self.max_body.unwrap_or(0);
        let mut body = Kept::new(Arc::clone(&self.budget), headers, bound);
        if let Some(length) = content_length(headers).filter(|_| !self.is_head) {
            body.expect(length);
        }
        let is_over = !body.goes_on() || self.max_body.is_none();
        let headers = if body.end() == End::NoBudget { HeaderMap::new() } else { apart(headers.clone()) };
        // A body takes its client's time, which the copy does not wait for.
        let since = self.waiting.as_ref().and_then(Waiting::ended).unwrap_or(self.since);
        self.recorded = Some(Recorded { status, headers, body, took: since.elapsed() });
        if let Some(waiting) = &self.waiting {
            waiting.answered();
        }
        if is_over {
            self.hand_over();
        }
    }

    /// A part of the body.
    pub fn chunk(&mut self, chunk: &Bytes) {
        let is_gone = self.to.as_ref().is_none_or(oneshot::Sender::is_closed);
        let Some(recorded) = &mut self.recorded else { return };
        if is_gone {
            self.recorded = None;
        } else if !recorded.body.push(chunk) {
            self.hand_over();
        }
    }

    /// The body is over, whole.
    pub fn end(mut self) {
        self.hand_over();
    }

    fn hand_over(&mut self) {
        if let (Some(recorded), Some(to)) = (self.recorded.take(), self.to.take()) {
            // The job may have given up: then nobody wants it any more.
            drop(to.send(recorded));
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let (Some(waiting), Some(_)) = (&self.waiting, &self.to) {
            waiting.give_up(Outcome::Cancelled);
        }
    }
}
