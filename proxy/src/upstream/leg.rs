//! What carries one request to an upstream: a whole HTTP/1.1 connection, or a stream of a shared HTTP/2 one.

use std::{rc::Rc, task::Context};

use bytes::Bytes;
use http::{Request, Response};

use super::{Exchange, Incoming, Link, Open, RequestBody, SendError, link::Places, pool::Local};
use crate::{listen::Turn, socket::Socket};

pub(crate) enum Leg {
    One(Link),
    Shared(Exchange),
}

// === impl Leg ===

impl Leg {
    /// Sends a request and waits for the head of its answer, no longer than the client's [`Turn`] allows.
    pub(crate) async fn send(
        &mut self,
        request: Request<RequestBody>,
        turn: &Rc<Turn>,
    ) -> Result<Response<Incoming>, SendError> {
        match self {
            Self::One(link) => link.send(request, turn).await.map(|answer| answer.map(Incoming::One)),
            Self::Shared(exchange) => exchange.send(request, turn).await.map(Incoming::shared),
        }
    }

    /// The endpoint that it goes to.
    pub(crate) fn local(&self) -> &Rc<Local> {
        match self {
            Self::One(link) => link.local(),
            Self::Shared(exchange) => exchange.flight.local(),
        }
    }

    /// Has the request's places for as long as it carries it.
    pub(crate) fn hold(&mut self, places: Places) {
        match self {
            Self::One(link) => link.hold(places),
            Self::Shared(exchange) => exchange.places = places,
        }
    }

    /// The places, for another leg: this one failed.
    pub(crate) fn leave(&mut self) -> Places {
        match self {
            Self::One(link) => link.leave(),
            Self::Shared(exchange) => std::mem::take(&mut exchange.places),
        }
    }

    /// Other requests are on the same connection: nothing of this one comes back once it was handed over.
    pub(crate) fn is_shared(&self) -> bool {
        matches!(self, Self::Shared(_))
    }

    /// Moves bytes both ways: polled by whoever reads the answer's body.
    pub(crate) fn poll_drive(&mut self, cx: &mut Context<'_>) {
        match self {
            Self::One(link) => link.poll_drive(cx),
            Self::Shared(exchange) => exchange.poll_pump(cx),
        }
    }

    /// Forgets whom to wake: a link goes back to the pool.
    pub(crate) fn quiet(&mut self) {
        if let Self::One(link) = self {
            link.quiet();
        }
    }

    /// The last exchange is over, and another may begin.
    pub(crate) fn is_reusable(&self) -> bool {
        matches!(self, Self::One(link) if link.is_reusable())
    }

    /// After a 101: the bare connection, and what came right behind the head.
    pub(crate) fn into_tunnel(self) -> Option<(Socket, Bytes, Open)> {
        match self {
            Self::One(link) => link.into_tunnel(),
            Self::Shared(_) => None,
        }
    }
}
