//! One HTTP/1.1 connection to an upstream.
//!
//! hyper's client comes in two halves: a sender, and a driver that somebody must poll. The driver is not a task of its own here: whoever waits
//! for the answer polls it, so that a request costs no switch between tasks. An idle link is polled by the pool's sweep alone.

use std::{
    future::Future,
    pin::pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use hyper::{
    body::Incoming,
    client::conn::http1::{Builder, Connection, SendRequest},
};
use hyper_util::rt::TokioIo;

use super::{RequestBody, UpstreamState, cap::Room, limit::Place, pool::Local};
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

    /// Sends a request and waits for the head of its answer, no longer than the client's [`Turn`] allows.
    pub(crate) async fn send(
        &mut self,
        request: Request<RequestBody>,
        turn: &Rc<Turn>,
    ) -> Result<Response<Incoming>, SendError> {
        self.flight = Some(Flight::new(&self.local, self.open.worker));
        let mut answer = pin!(self.sender.try_send_request(request));
        let driver = &mut self.driver;
        // The answer only ever comes out of the driver, which is polled here first: it needs no waker of its own. And the driver is first
        // polled without one when it was woken: whatever waker it keeps beyond this exchange would wake this connection for another's request.
        let mut quiet = Context::from_waker(Waker::noop());
        let mut is_begun = false;
        let sent = std::future::poll_fn(|cx| {
            let is_woken = std::mem::replace(&mut is_begun, true);
            for quietly in [true, false] {
                if quietly && !is_woken {
                    continue;
                }
                let over = match driver {
                    Some(alive) if quietly => alive.poll_without_shutdown(&mut quiet).is_ready(),
                    Some(alive) => alive.poll_without_shutdown(cx).is_ready(),
                    None => true,
                };
                if let Poll::Ready(sent) = answer.as_mut().poll(&mut quiet) {
                    if over && !matches!(&sent, Ok(answer) if answer.status() == StatusCode::SWITCHING_PROTOCOLS) {
                        *driver = None;
                    }
                    return Poll::Ready(Some(sent));
                }
                if over {
                    // A request that was not begun comes back when the driver is dropped.
                    *driver = None;
                    return answer.as_mut().poll(&mut quiet).map(Some);
                }
            }
            if turn.is_head_late() { Poll::Ready(None) } else { Poll::Pending }
        })
        .await;
        match sent {
            None => {
                self.driver = None;
                Err(SendError::Late)
            }
            Some(Ok(answer)) => Ok(answer),
            Some(Err(mut error)) => {
                self.driver = None;
                Err(match error.take_message() {
                    Some(request) => SendError::Unsent(Box::new(request)),
                    None => {
                        let error = error.into_error();
                        SendError::Unknown { parse: error.is_parse(), body: error.is_user() }
                    }
                })
            }
        }
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
    pub(crate) fn into_tunnel(self) -> Option<(Socket, Bytes, Open)> {
        let parts = self.driver?.into_parts();
        let mut open = self.open;
        // A tunnel is a connection in use, and no request under way.
        open.in_use = self.places.in_use;
        Some((parts.io.into_inner(), parts.read_buf, open))
    }
}
