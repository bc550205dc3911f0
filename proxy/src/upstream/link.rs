//! One HTTP/1.1 connection to an upstream.
//!
//! hyper's client comes in two halves: a sender, and a driver that somebody must poll. The driver is not a task of its own here: whoever waits
//! for the answer polls it, so that a request costs no switch between tasks. An idle link is polled by the pool's sweep alone.

use std::{
    future::Future,
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, Waker, ready},
};

use bytes::Bytes;
use futures_util::future::LocalBoxFuture;
use http::{Request, Response, StatusCode, response};
use hyper::{
    body::Incoming,
    client::conn::{
        TrySendError,
        http1::{Builder, Connection, SendRequest},
    },
};
use hyper_util::rt::TokioIo;

use super::{FarEnd, RequestBody, UpstreamState, cap::Room, limit::Place, pool::Local};
use crate::{listen::Turn, socket::Socket};

pub(crate) struct Link {
    sender: SendRequest<RequestBody>,
    /// `None` once the connection is over.
    driver: Option<Box<Driver>>,
    pub(super) local: Rc<Local>,
    open: Open,
    /// While it carries a request, from its head to the end of its answer.
    flight: Option<Flight>,
    places: Places,
}

/// What a request holds at an upstream with limits.
#[derive(Debug, Default)]
pub(crate) struct Places {
    /// Among the requests under way.
    pub(super) in_flight: Option<Place>,
    /// Among the connections in use.
    pub(super) in_use: Option<Place>,
}

type Driver = Connection<TokioIo<Socket>, RequestBody>;

/// Counts a connection as open for as long as it lives.
pub(crate) struct Open {
    state: Arc<UpstreamState>,
    pub(super) worker: usize,
    /// At an upstream with a cap. Given back before the place below, so that whoever gets that finds room.
    _room: Option<Room>,
    /// Of a tunnel, at an upstream with a cap.
    in_use: Option<Place>,
}

/// A request under way, until the head of its answer.
pub(crate) struct Sending<'l> {
    driver: &'l mut Option<Box<Driver>>,
    /// Boxed: it has room for the whole request, should it come back.
    answer: LocalBoxFuture<'static, Sent<Response<Incoming>>>,
    turn: &'l Turn,
    stage: Stage,
}

/// How far a request is.
#[derive(Clone, Copy)]
enum Stage {
    /// It lets others be read first: once all that have come are, they are sent together, and the upstream is woken for many and not for each.
    Waits,
    Turn,
    /// It has been polled before.
    Begun,
}

type Sent<A> = Result<A, TrySendError<Request<RequestBody>>>;

/// A head that came, and what reads the rest. Boxed: it is large, and handed on by many.
pub(crate) type Heads<B> = (Box<response::Parts>, B);

/// Why there is no answer.
pub(crate) enum SendError {
    /// Not a byte of the request was written: here it is.
    Unsent(Box<Request<RequestBody>>),
    /// The connection ended, or what came was no answer; `parse` tells the two apart.
    Unknown {
        /// What came was no HTTP.
        parse: bool,
        /// The client's own body failed.
        body: bool,
    },
    /// The peer of a shared connection says that it will not look at this request (RFC 9113, 8.7): it may be sent again, whatever it is.
    Refused,
    /// The peer of a shared connection takes no WebSockets: nothing was sent.
    NoWebSocket,
    /// The head of the answer is late.
    Late,
}

/// Counts a request as under way at its endpoint.
pub(super) struct Flight {
    local: Rc<Local>,
    worker: usize,
}

// === impl Flight ===

impl Flight {
    pub(super) fn new(local: &Rc<Local>, worker: usize) -> Self {
        local.endpoint.began(worker);
        Self { local: Rc::clone(local), worker }
    }

    pub(super) fn local(&self) -> &Rc<Local> {
        &self.local
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.local.endpoint.ended(self.worker);
    }
}

// === impl Open ===

impl Open {
    pub(super) fn new(state: Arc<UpstreamState>, worker: usize, room: Option<Room>) -> Self {
        state.connected(worker, 1);
        Self { state, worker, _room: room, in_use: None }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.state.connected(self.worker, -1);
    }
}

// === impl Link ===

impl Link {
    pub(super) async fn new(http: &Builder, socket: Socket, local: &Rc<Local>, open: Open) -> hyper::Result<Self> {
        let (sender, driver) = http.handshake(TokioIo::new(socket)).await?;
        Ok(Self {
            sender,
            driver: Some(Box::new(driver)),
            local: Rc::clone(local),
            open,
            flight: None,
            places: Places::default(),
        })
    }

    /// Sends a request; what comes back waits for the head of its answer, no longer than the client's [`Turn`] allows.
    pub(crate) fn send<'l>(&'l mut self, request: Request<RequestBody>, turn: &'l Turn) -> Sending<'l> {
        self.flight = Some(Flight::new(&self.local, self.open.worker));
        let answer = Box::pin(self.sender.try_send_request(request));
        Sending { driver: &mut self.driver, answer, turn, stage: Stage::Waits }
    }

    /// Moves bytes both ways: polled by whoever reads the answer's body.
    pub(crate) fn poll_drive(&mut self, cx: &mut Context<'_>) {
        if let Some(driver) = &mut self.driver
            && driver.poll_without_shutdown(cx).is_ready()
        {
            self.driver = None;
        }
    }

    /// The last exchange is over, and another may begin.
    pub(crate) fn is_reusable(&self) -> bool {
        self.driver.is_some() && self.sender.is_ready()
    }

    /// Forgets whom to wake: the link goes back to the pool.
    pub(crate) fn quiet(&mut self) {
        self.poll_drive(&mut Context::from_waker(Waker::noop()));
    }

    /// The endpoint that it goes to.
    pub(crate) fn local(&self) -> &Rc<Local> {
        &self.local
    }

    /// Has the request's places for as long as it carries it.
    pub(crate) fn hold(&mut self, places: Places) {
        self.places = places;
    }

    /// The places, for another link: this one failed.
    pub(crate) fn leave(&mut self) -> Places {
        std::mem::take(&mut self.places)
    }

    /// The exchange is over; it may wait for the next one.
    pub(super) fn rests(&mut self) -> Places {
        self.flight = None;
        self.leave()
    }

    /// Whether the other end has closed an idle link, or said something unasked.
    pub(super) fn is_over(&mut self) -> bool {
        self.quiet();
        !self.is_reusable()
    }

    /// After a 101: the bare socket, and what came right behind the head.
    pub(crate) fn into_tunnel(self) -> Option<(FarEnd, Bytes)> {
        let parts = self.driver?.into_parts();
        let mut open = self.open;
        // A tunnel is a connection in use, and no request under way.
        open.in_use = self.places.in_use;
        Some((FarEnd::One { socket: parts.io.into_inner(), _open: open }, parts.read_buf))
    }
}

// === impl Sending ===

impl Sending<'_> {
    /// The head of the answer, or what hyper has instead of one; `None` when it is late.
    ///
    /// The answer only ever comes out of the driver, which is polled here first: it needs no waker of its own. And the driver is first polled
    /// without one when it was woken: whatever waker it keeps beyond this exchange would wake this connection for another's request.
    fn poll_sent(&mut self, cx: &mut Context<'_>) -> Poll<Option<Sent<Heads<Incoming>>>> {
        let is_woken = match self.stage {
            Stage::Waits => {
                self.stage = Stage::Turn;
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            Stage::Turn => false,
            Stage::Begun => true,
        };
        self.stage = Stage::Begun;
        let mut quiet = Context::from_waker(Waker::noop());
        for quietly in [true, false] {
            if quietly && !is_woken {
                continue;
            }
            let over = match self.driver {
                Some(alive) if quietly => alive.poll_without_shutdown(&mut quiet).is_ready(),
                Some(alive) => alive.poll_without_shutdown(cx).is_ready(),
                None => true,
            };
            if let Poll::Ready(sent) = self.answer.as_mut().poll(&mut quiet) {
                if over && !matches!(&sent, Ok(answer) if answer.status() == StatusCode::SWITCHING_PROTOCOLS) {
                    *self.driver = None;
                }
                return Poll::Ready(Some(sent.map(apart)));
            }
            if over {
                // A request that was not begun comes back when the driver is dropped.
                *self.driver = None;
                return self.answer.as_mut().poll(&mut quiet).map(|sent| Some(sent.map(apart)));
            }
        }
        if self.turn.is_head_late() { Poll::Ready(None) } else { Poll::Pending }
    }
}

impl Future for Sending<'_> {
    type Output = Result<Heads<Incoming>, SendError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let error = match ready!(self.poll_sent(cx)) {
            Some(Ok(answer)) => return Poll::Ready(Ok(answer)),
            Some(Err(error)) => Some(error),
            None => None,
        };
        *self.driver = None;
        let Some(mut error) = error else { return Poll::Ready(Err(SendError::Late)) };
        Poll::Ready(Err(match error.take_message() {
            Some(request) => SendError::Unsent(Box::new(request)),
            None => {
                let error = error.into_error();
                SendError::Unknown { parse: error.is_parse(), body: error.is_user() }
            }
        }))
    }
}

/// A head and what comes behind it.
pub(super) fn apart<B>(answer: Response<B>) -> Heads<B> {
    let (head, body) = answer.into_parts();
    (Box::new(head), body)
}
