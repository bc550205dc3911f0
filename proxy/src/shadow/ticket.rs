//! Records what the client gets, while it passes. Nothing here waits, and nothing is kept beyond the bound.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, StatusCode, header::CONTENT_LENGTH};
use tokio::sync::oneshot;

use super::budget::{Budget, End, Kept};

/// The control of one shadowed request, held by whoever passes the answer on: first [`head`](Self::head), each [`chunk`](Self::chunk), then
/// [`end`](Self::end). Dropping it before its end says that the answer broke off or the client went away, and cancels the shadow.
#[derive(Debug)]
pub struct Ticket {
    recorded: Option<Recorded>,
    to: Option<oneshot::Sender<Recorded>>,
    budget: Arc<Budget>,
    /// `None` when nothing is compared: then the head is the end.
    max_body: Option<usize>,
    /// Of a HEAD: its length is that of a body which does not come.
    is_head: bool,
}

/// What the client got.
#[derive(Debug)]
pub(super) struct Recorded {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Kept,
}

// === impl Ticket ===

impl Ticket {
    pub(super) fn new(
        budget: Arc<Budget>,
        max_body: Option<usize>,
        is_head: bool,
    ) -> (Self, oneshot::Receiver<Recorded>) {
        let (to, from) = oneshot::channel();
        (Self { recorded: None, to: Some(to), budget, max_body, is_head }, from)
    }

    /// The head of the final answer, as the upstream gave it; once.
    pub fn head(&mut self, status: StatusCode, headers: &HeaderMap) {
        let bound = self.max_body.unwrap_or(0);
        let mut body = Kept::new(Arc::clone(&self.budget), headers, bound);
        let length = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
        let is_long =
            !self.is_head && length.is_some_and(|length| usize::try_from(length).map_or(true, |length| length > bound));
        if is_long && body.end() == End::Whole {
            body.give_up(End::TooLong);
        }
        let is_over = body.end() != End::Whole || self.max_body.is_none();
        let headers = if body.end() == End::NoBudget { HeaderMap::new() } else { headers.clone() };
        self.recorded = Some(Recorded { status, headers, body });
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
