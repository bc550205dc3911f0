//! What carries one request to an upstream: a whole HTTP/1.1 connection, or a stream of a shared HTTP/2 one.

use std::{
    future::Future,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_util::future::LocalBoxFuture;
use h2::RecvStream;
use http::{Request, Response};

use super::{
    Exchange, FarEnd, Incoming, Link, RequestBody, SendError,
    link::{self, Heads, Places, apart},
    pool::Local,
};
use crate::listen::Turn;

pub(crate) enum Leg {
    One(Link),
    Shared(Exchange),
}

/// A request under way, until the head of its answer.
pub(crate) enum Sending<'l> {
    One(link::Sending<'l>),
    Shared(LocalBoxFuture<'l, Result<Response<RecvStream>, SendError>>),
}

// === impl Leg ===

impl Leg {
    /// Sends a request; what comes back waits for the head of its answer, no longer than the client's [`Turn`] allows.
    pub(crate) fn send<'l>(&'l mut self, request: Request<RequestBody>, turn: &'l Rc<Turn>) -> Sending<'l> {
        match self {
            Self::One(link) => Sending::One(link.send(request, turn)),
            Self::Shared(exchange) => Sending::Shared(Box::pin(exchange.send(request, turn))),
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

    /// After a 101: the upstream's end, and what came right behind the head. `incoming`: the answer's body, of which nothing was read.
    pub(crate) fn into_tunnel(self, incoming: Incoming) -> Option<(FarEnd, Bytes)> {
        match self {
            Self::One(link) => link.into_tunnel(),
            Self::Shared(exchange) => {
                let channel = exchange.into_channel(incoming.into_stream()?)?;
                Some((FarEnd::Shared(Box::new(channel)), Bytes::new()))
            }
        }
    }
}

// === impl Sending ===

impl Future for Sending<'_> {
    type Output = Result<Heads<Incoming>, SendError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.get_mut() {
            Self::One(sending) => {
                Pin::new(sending).poll(cx).map(|answer| answer.map(|(head, body)| (head, Incoming::One(body))))
            }
            Self::Shared(sending) => {
                sending.as_mut().poll(cx).map(|answer| answer.map(|answer| apart(Incoming::shared(answer))))
            }
        }
    }
}
