//! The body of an answer on its way to a client: one enum, no boxed trait objects.

use std::{
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::StatusCode;
use hyper::body::{Body, Frame, SizeHint};

use crate::{
    links::Owner,
    listen::{Turn, Worker, WorkerTable},
    metrics::Answerer,
    observe::{Ending, Note},
    shadow::Ticket,
    stations::OpenWrite,
    upstream::{BodyError, Incoming, Leg, Upstream},
};

/// What the client is sent behind the head.
pub(crate) struct Answer {
    kind: Kind,
    /// Dropped with the body: ends the turn and counts the answer.
    told: Told,
}

/// Where the bytes come from.
pub(crate) enum Kind {
    /// All of it is here: most answers, and Banyan's own.
    Full(Option<Bytes>),
    /// From the upstream, as it comes.
    Upstream(Box<Stream>),
    /// Either, and recorded while it passes.
    Tee(Box<Tee>),
}

/// An answer that a shadow's is compared with.
pub(crate) struct Tee {
    kind: Kind,
    ticket: Option<Ticket>,
}

/// An answer that is still coming, and the link that it comes on.
pub(crate) struct Stream {
    incoming: Incoming,
    /// Read ahead to see whether more would follow.
    first: Option<Bytes>,
    link: Option<Leg>,
    upstream: Rc<Upstream>,
    worker: Rc<Worker>,
    turn: Rc<Turn>,
}

/// Ends the turn and counts, when the last of an answer is handed over or nobody wants it any more.
pub(crate) struct Told {
    pub(crate) turn: Rc<Turn>,
    pub(crate) worker: Rc<Worker>,
    pub(crate) table: Rc<WorkerTable>,
    /// `None`: no route was found.
    pub(crate) route: Option<usize>,
    /// `None`: the client went away before there was an answer.
    pub(crate) answered: Option<(Answerer, StatusCode)>,
    pub(crate) began: Instant,
    /// What is kept of the request, where anything is.
    pub(crate) note: Option<Rc<Note>>,
    /// The side whose answer a rollout is judged by.
    pub(crate) judged: Option<Owner>,
    /// Of a synced route's write: under way until the end of its answer.
    pub(crate) write: Option<Box<OpenWrite>>,
}

// === impl Answer ===

impl Answer {
    pub(crate) fn new(kind: Kind, told: Told) -> Self {
        if kind.is_end_stream() {
            if let Some(note) = &told.note {
                note.ended();
            }
        } else if kind.patience().is_none() {
            told.turn.await_taking(told.worker.now());
        }
        Self { kind, told }
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let polled = self.kind.poll_frame(cx);
        if let (Some(note), Poll::Ready(frame)) = (&self.told.note, &polled) {
            note.frame(frame.as_ref(), self.kind.is_end_stream());
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.kind.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.kind.size_hint()
    }
}

// === impl Kind ===

impl Kind {
    /// The body behind a head that came on `link`. What has come whole already is taken out, and the link goes back to the pool at once.
    pub(crate) fn of(
        mut incoming: Incoming,
        link: Leg,
        upstream: &Rc<Upstream>,
        worker: &Rc<Worker>,
        turn: &Rc<Turn>,
    ) -> Self {
        let mut first = None;
        if link.is_reusable() || link.is_shared() {
            if !incoming.is_end_stream()
                && incoming.size_hint().exact().is_some()
                && let Poll::Ready(Some(Ok(frame))) = incoming.poll_quietly()
            {
                first = frame.into_data().ok();
            }
            if incoming.is_end_stream() {
                upstream.give_back(link, worker.now());
                return Self::Full(first);
            }
        } else if incoming.is_end_stream() {
            return Self::Full(None);
        }
        Self::Upstream(Box::new(Stream {
            incoming,
            first,
            link: Some(link),
            upstream: Rc::clone(upstream),
            worker: Rc::clone(worker),
            turn: Rc::clone(turn),
        }))
    }
}

impl Kind {
    /// How long the upstream may keep still in the middle of it, where something of it is still to come.
    pub(crate) fn patience(&self) -> Option<Duration> {
        match self {
            Self::Full(_) => None,
            Self::Upstream(stream) => Some(stream.upstream.spec.body_idle),
            Self::Tee(tee) => tee.kind.patience(),
        }
    }

    /// Has it recorded from now on.
    pub(crate) fn tee(&mut self, ticket: Ticket) {
        if self.is_end_stream() {
            ticket.end();
            return;
        }
        let kind = std::mem::replace(self, Self::Full(None));
        *self = Self::Tee(Box::new(Tee { kind, ticket: Some(ticket) }));
    }

    pub(crate) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self {
            Self::Full(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Upstream(stream) => stream.poll_frame(cx),
            Self::Tee(tee) => tee.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Full(bytes) => bytes.is_none(),
            Self::Upstream(stream) => stream.first.is_none() && stream.incoming.is_end_stream(),
            Self::Tee(tee) => tee.kind.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Full(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Self::Upstream(stream) => stream.size_hint(),
            Self::Tee(tee) => tee.kind.size_hint(),
        }
    }
}

// === impl Tee ===

impl Tee {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let polled = self.kind.poll_frame(cx);
        if let (Poll::Ready(Some(Ok(frame))), Some(ticket)) = (&polled, &mut self.ticket)
            && let Some(chunk) = frame.data_ref()
        {
            ticket.chunk(chunk);
        }
        match &polled {
            Poll::Ready(Some(Err(_))) => self.ticket = None,
            Poll::Ready(None) => self.end(),
            Poll::Ready(Some(Ok(_))) if self.kind.is_end_stream() => self.end(),
            _ => {}
        }
        polled
    }

    fn end(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            ticket.end();
        }
    }
}

// === impl Stream ===

impl Stream {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(Ok(Frame::data(first))));
        }
        let mut polled = self.incoming.poll_frame(cx);
        if polled.is_pending() {
            if let Some(link) = &mut self.link {
                link.poll_drive(cx);
            }
            polled = self.incoming.poll_frame(cx);
        }
        self.turn.body_is_awaited(polled.is_pending());
        match &polled {
            Poll::Ready(None) => self.release(),
            Poll::Ready(Some(Ok(_))) if self.incoming.is_end_stream() => self.release(),
            // Half an answer must not look like a whole one.
            Poll::Ready(Some(Err(_))) => {
                self.turn.break_off();
                self.turn.spoils();
            }
            _ => {}
        }
        polled
    }

    fn size_hint(&self) -> SizeHint {
        let ahead = self.first.as_ref().map_or(0, |first| first.len() as u64);
        match self.incoming.size_hint().exact() {
            Some(rest) => SizeHint::with_exact(ahead + rest),
            None => SizeHint::default(),
        }
    }

    fn release(&mut self) {
        if let Some(mut link) = self.link.take() {
            link.quiet();
            self.upstream.give_back(link, self.worker.now());
        }
    }
}

// === impl Told ===

impl Told {
    pub(crate) fn is_answered(&mut self, route: Option<usize>, by: Answerer, status: StatusCode) {
        (self.route, self.answered) = (route, Some((by, status)));
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        self.turn.end(self.worker.now());
        let took = self.began.elapsed();
        if let Some((by, status)) = self.answered {
            self.table.shard(self.route).answered(by, status, self.began, took);
            if let Some(side) = self.judged.filter(|_| self.turn.is_spoiled()) {
                self.table.shard(self.route).judge_spoiled(side);
            }
        }
        if let (Some(note), Some(scribe)) = (self.note.take(), &self.table.scribe) {
            let route = self.route.map(|route| Arc::clone(&self.table.route(route).name));
            let (bytes_in, sends) = self.turn.counts();
            scribe.take(&note, Ending { route, answered: self.answered, took, bytes_in, sends });
        }
    }
}
