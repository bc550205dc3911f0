//! What the loop that owns a client's connection, the stations that answer on it and the worker's sweep know of each other.
//!
//! An HTTP/1 connection has one turn for all its requests, one after the other. On HTTP/2 each stream has a turn of its own, and so has the
//! connection, for its idle time and its heads.

use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    rc::Rc,
    task::{Poll, Waker},
    time::Instant,
};

use http::HeaderMap;

use super::Peer;
use crate::{identity::Copied, tunnel::Far};

/// A worker's coarse clock: how many sweeps there have been.
pub(crate) type Tick = u32;

/// The state of one client's connection, or of one stream on it. Lives on one worker.
pub(crate) struct Turn {
    peer: Rc<Peer>,
    /// The present request came over TLS, here or at a trusted proxy.
    https: Cell<bool>,
    /// A request is being answered, from its head to the end of its answer.
    busy: Cell<bool>,
    /// The last request's body was read to its end; and when, if it had any.
    body_ended: Cell<bool>,
    body_end: Cell<Option<Instant>>,
    /// Bytes came in since the last message ended: a head has begun.
    handed: Cell<bool>,
    /// Everything that hyper wrote went to the socket.
    flushed: Cell<bool>,
    /// When the present phase began: idle, head, or waiting for an answer.
    since: Cell<Tick>,
    /// How long the head of an answer may take, in ticks, and whether bytes of the request's body still moved.
    patience: Cell<Option<Tick>>,
    progress: Cell<bool>,
    /// The rest of the request's body is the client's to send.
    client_awaited: Cell<bool>,
    /// Of the request: bytes of its body that were read, and how often it was put on an upstream's wire.
    body_bytes: Cell<u64>,
    sends: Cell<u32>,
    /// How long the upstream may keep still in the middle of an answer; `None` while no answer is passed on.
    body: Cell<Option<Tick>>,
    /// The answer's next bytes are the upstream's to send, and not the client's to take.
    hungry: Cell<bool>,
    /// The whole request must be over by then.
    due: Cell<Option<Tick>>,
    overdue: Cell<bool>,
    order: Cell<Option<Order>>,
    /// The answer that begins now is the connection's last (HTTP/1).
    last: Cell<bool>,
    /// An answer broke off behind its head.
    broken: Cell<bool>,
    /// ... and it was the upstream that did not finish it.
    spoiled: Cell<bool>,
    /// The bare socket waits; hyper's state and buffers are given back.
    parked: Cell<bool>,
    waker: RefCell<Option<Waker>>,
    /// What a client may not say behind its request's body either.
    forbidden: Cell<Option<Copied>>,
    tunnel: RefCell<Option<Far>>,
    /// Requests that wait, unsent, and want to know when the client leaves; and whether it has.
    waiting: Cell<u32>,
    client_gone: Cell<bool>,
}

/// For as long as a request waits and wants to know when its client leaves.
pub(crate) struct Watched<'t>(&'t Turn);

/// What the sweep asks of a connection's loop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// Give the buffers back.
    Park,
    /// It waited too long for its next request.
    CloseIdle,
    /// A head was begun and not finished.
    HeadLate,
    /// The head of the answer is late.
    AnswerLate,
    /// The rest of the answer does not come, or is not taken.
    BodyLate,
}

/// What a sweep measures a connection by, in ticks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    pub(crate) idle: Tick,
    pub(crate) head: Tick,
    pub(crate) park: Tick,
    /// Until a client takes some more of an answer.
    pub(crate) take: Tick,
}

// === impl Turn ===

impl Turn {
    pub(crate) fn new(peer: Rc<Peer>, now: Tick) -> Self {
        Self {
            peer,
            https: Cell::new(false),
            busy: Cell::new(false),
            body_ended: Cell::new(true),
            body_end: Cell::new(None),
            handed: Cell::new(false),
            flushed: Cell::new(true),
            since: Cell::new(now),
            patience: Cell::new(None),
            progress: Cell::new(false),
            body: Cell::new(None),
            hungry: Cell::new(false),
            due: Cell::new(None),
            overdue: Cell::new(false),
            client_awaited: Cell::new(false),
            body_bytes: Cell::new(0),
            sends: Cell::new(0),
            order: Cell::new(None),
            last: Cell::new(false),
            broken: Cell::new(false),
            spoiled: Cell::new(false),
            parked: Cell::new(true),
            waker: RefCell::new(None),
            forbidden: Cell::new(None),
            tunnel: RefCell::new(None),
            waiting: Cell::new(0),
            client_gone: Cell::new(false),
        }
    }

    pub(crate) fn peer(&self) -> &Peer {
        &self.peer
    }

    /// For a request of Banyan's own on behalf of this one. The sweep does not know it: whoever sends it has a deadline.
    pub(crate) fn aside(&self, now: Tick) -> Rc<Self> {
        Rc::new(Self::new(Rc::clone(&self.peer), now))
    }

    /// The same, to be shared.
    pub(super) fn whose(&self) -> &Rc<Peer> {
        &self.peer
    }

    pub(crate) fn set_https(&self, https: bool) {
        self.https.set(https);
    }

    pub(crate) fn is_https(&self) -> bool {
        self.https.get()
    }

    // --- the life of a message

    /// Bytes were handed to hyper.
    pub(super) fn read(&self, now: Tick) {
        if !self.busy.get() && !self.handed.get() {
            self.since.set(now);
        }
        self.handed.set(true);
    }

    /// Nothing is begun and unfinished any more: from now on it idles.
    pub(super) fn rests(&self, now: Tick) {
        self.handed.set(false);
        self.since.set(now);
    }

    /// As new, for another stream.
    pub(super) fn renew(&self) {
        self.order.set(None);
        self.patience.set(None);
        self.progress.set(false);
        self.broken.set(false);
        self.tunnel.take();
    }

    /// A head is complete and its request goes through the stations.
    pub(crate) fn begin(&self, has_body: bool) {
        self.busy.set(true);
        self.spoiled.set(false);
        self.handed.set(false);
        self.body_ended.set(!has_body);
        self.body_end.set(None);
        self.client_awaited.set(false);
        self.body_bytes.set(0);
        self.sends.set(0);
    }

    /// These are not believed in the trailers of this request, and of later ones on the connection.
    pub(crate) fn forbids(&self, names: &Copied) {
        self.forbidden.set(Some(names.clone()));
    }

    pub(crate) fn strip_forbidden(&self, trailers: &mut HeaderMap) {
        if let Some(names) = self.forbidden.take() {
            names.strip(trailers);
            self.forbidden.set(Some(names));
        }
    }

    /// So many bytes of the request's body were read.
    pub(crate) fn body_came(&self, bytes: usize) {
        self.body_bytes.set(self.body_bytes.get() + bytes as u64);
    }

    /// How many bytes of the present request's body were read, and how often it was sent.
    pub(crate) fn counts(&self) -> (u64, u32) {
        (self.body_bytes.get(), self.sends.get())
    }

    /// Whether more of the request's body is wanted, and not there.
    pub(crate) fn client_is_awaited(&self, is_awaited: bool) {
        self.client_awaited.set(is_awaited);
    }

    /// Whether it is the client that keeps its own request waiting.
    pub(crate) fn is_client_awaited(&self) -> bool {
        self.client_awaited.get()
    }

    /// There was progress with the request's body.
    pub(crate) fn body_moved(&self) {
        self.progress.set(true);
    }

    /// The request's body was read to its end.
    pub(crate) fn body_ended(&self) {
        self.progress.set(true);
        self.body_ended.set(true);
        self.body_end.set(Some(Instant::now()));
        self.handed.set(false);
    }

    /// Since when the upstream alone is waited for, of a request that was sent then: a client may take its time with the body. `None` while that
    /// is still coming.
    pub(crate) fn whole_since(&self, sent: Instant) -> Option<Instant> {
        self.body_ended.get().then(|| self.body_end.get().map_or(sent, |end| end.max(sent)))
    }

    /// From now on the head of an answer is awaited for so long.
    pub(crate) fn await_head(&self, now: Tick, patience: Tick) {
        self.sends.set(self.sends.get() + 1);
        self.since.set(now);
        self.patience.set(Some(patience));
        self.progress.set(false);
        if self.order.get() == Some(Order::AnswerLate) {
            self.order.set(None);
        }
    }

    /// The head has come, or nobody waits for it any more.
    pub(crate) fn head_came(&self) {
        self.patience.set(None);
    }

    /// Whether the head that is awaited is late; asked when the sweep woke the connection.
    pub(crate) fn is_head_late(&self) -> bool {
        self.order.get() == Some(Order::AnswerLate) && self.patience.get().is_some()
    }

    /// From now on an answer's body is passed on, in which the upstream may keep still for so long.
    pub(crate) fn await_body(&self, now: Tick, patience: Tick) {
        self.since.set(now);
        self.body.set(Some(patience));
        self.progress.set(false);
    }

    /// The same of an answer that is all here: the client is to take it.
    pub(crate) fn await_taking(&self, now: Tick) {
        self.await_body(now, Tick::MAX);
        self.hungry.set(false);
    }

    /// Whose turn it is in an answer's body: the upstream's, or the client's, since some of it is there.
    pub(crate) fn body_is_awaited(&self, is_awaited: bool) {
        self.hungry.set(is_awaited);
        if !is_awaited {
            self.progress.set(true);
        }
    }

    /// The request must be over after so long, all of it.
    pub(crate) fn is_due(&self, now: Tick, after: Tick) {
        self.due.set(Some(now.wrapping_add(after)));
    }

    /// Its time is over; asked when the sweep woke the connection.
    pub(crate) fn is_overdue(&self) -> bool {
        self.overdue.get()
    }

    /// Waits until its time is over; the sweep wakes the connection, and that asks again.
    pub(crate) async fn overdue(&self) {
        poll_fn(|_| if self.is_overdue() { Poll::Ready(()) } else { Poll::Pending }).await;
    }

    /// The answer ended, well or not.
    pub(crate) fn end(&self, now: Tick) {
        self.busy.set(false);
        self.body.set(None);
        self.due.set(None);
        self.overdue.set(false);
        self.patience.set(None);
        self.since.set(now);
    }

    pub(super) fn set_last(&self, last: bool) {
        self.last.set(last);
    }

    /// Whether the client is to be told that no other request may follow.
    pub(crate) fn is_last(&self) -> bool {
        self.last.get()
    }

    /// The answer cannot be finished: the client must see that.
    pub(crate) fn break_off(&self) {
        self.broken.set(true);
    }

    /// The upstream has broken its answer off, or stopped in the middle of it.
    pub(crate) fn spoils(&self) {
        self.spoiled.set(true);
    }

    /// Whether it has.
    pub(crate) fn is_spoiled(&self) -> bool {
        self.spoiled.get()
    }

    pub(super) fn is_broken(&self) -> bool {
        self.broken.get()
    }

    pub(super) fn wrote(&self) {
        self.flushed.set(false);
    }

    /// The socket took some.
    pub(super) fn taken(&self) {
        self.progress.set(true);
    }

    pub(super) fn flushed(&self) {
        self.flushed.set(true);
    }

    // --- what the loop asks

    pub(super) fn is_busy(&self) -> bool {
        self.busy.get()
    }

    /// A head has begun and is not complete; asked between messages.
    pub(super) fn is_in_head(&self) -> bool {
        self.handed.get()
    }

    pub(super) fn is_body_ended(&self) -> bool {
        self.body_ended.get()
    }

    /// Between two messages with everything sent: the only state in which a connection may be taken apart. hyper's buffer is only seen
    /// afterwards; what it then still holds was read before the last message ended, and goes first to whoever reads next.
    pub(super) fn is_between(&self) -> bool {
        !self.busy.get() && self.body_ended.get() && self.flushed.get() && !self.handed.get()
    }

    pub(super) fn take_order(&self) -> Option<Order> {
        match self.order.get() {
            // The forwarding station answers to this one.
            Some(Order::AnswerLate) => None,
            order => {
                self.order.set(None);
                order
            }
        }
    }

    pub(super) fn wakes(&self, waker: &Waker) {
        let mut kept = self.waker.borrow_mut();
        if !kept.as_ref().is_some_and(|kept| kept.will_wake(waker)) {
            *kept = Some(waker.clone());
        }
    }

    pub(super) fn forget_waker(&self) {
        self.waker.take();
    }

    pub(super) fn set_parked(&self, parked: bool) {
        self.parked.set(parked);
    }

    // --- a request that waits

    /// From now on the socket tells when the client leaves.
    pub(crate) fn watches_client(&self) -> Watched<'_> {
        self.waiting.set(self.waiting.get() + 1);
        Watched(self)
    }

    /// Whether the client was seen to leave, or to say that it sends no more, while a request waited.
    pub(crate) fn is_client_gone(&self) -> bool {
        self.client_gone.get()
    }

    pub(super) fn is_watched(&self) -> bool {
        self.waiting.get() > 0
    }

    pub(super) fn client_is_gone(&self) {
        self.client_gone.set(true);
    }

    // --- the tunnel behind an upgrade

    /// Leaves the upstream's end of a tunnel for the loop, which has the client's.
    pub(crate) fn open_tunnel(&self, far: Far) {
        *self.tunnel.borrow_mut() = Some(far);
    }

    pub(super) fn take_tunnel(&self) -> Option<Far> {
        self.tunnel.borrow_mut().take()
    }

    // --- the sweep

    /// Looks at every deadline, and wakes the loop if one has passed.
    pub(super) fn sweep(&self, now: Tick, patience: Patience) {
        let waited = now.wrapping_sub(self.since.get());
        let order = if self.busy.get() {
            self.sweep_busy(now, waited, patience)
        } else if self.handed.get() {
            (waited > patience.head).then_some(Order::HeadLate)
        } else if waited > patience.idle {
            Some(Order::CloseIdle)
        } else {
            (!self.parked.get() && waited >= patience.park && self.is_between()).then_some(Order::Park)
        };
        if order.is_some() {
            self.order.set(order);
            self.wake();
        }
    }

    /// Between a head and the end of its answer.
    fn sweep_busy(&self, now: Tick, waited: Tick, patience: Patience) -> Option<Order> {
        let is_over = |due: Tick| now.wrapping_sub(due) < Tick::MAX / 2;
        if self.due.get().is_some_and(is_over) {
            self.overdue.set(true);
            self.spoiled.set(self.hungry.get());
            return Some(if self.body.get().is_some() { Order::BodyLate } else { Order::AnswerLate });
        }
        let (allowed, late) = match (self.patience.get(), self.body.get()) {
            (Some(head), _) => (head, Order::AnswerLate),
            (None, Some(body)) if self.hungry.get() => (body, Order::BodyLate),
            (None, Some(_)) => (patience.take, Order::BodyLate),
            (None, None) => return None,
        };
        if self.progress.replace(false) {
            self.since.set(now);
            return None;
        }
        if waited <= allowed {
            return None;
        }
        self.spoiled.set(self.hungry.get());
        Some(late)
    }

    pub(super) fn wake(&self) {
        let waker = self.waker.borrow_mut().take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

// === impl Watched ===

impl Drop for Watched<'_> {
    fn drop(&mut self) {
        self.0.waiting.set(self.0.waiting.get().saturating_sub(1));
    }
}
