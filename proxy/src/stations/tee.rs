//! Offers a copy of the request to the side that does not answer, and has its body copied and the answer recorded while they pass. Never
//! waits: `shadow/` takes the offer or drops it.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use hyper::body::Body;
use tower::{Layer, Service};

use super::arrival::{Failure, Prepared, Reply};
use crate::{
    links::Owner,
    shadow::{Offer, Ticket},
    table::Found,
};

#[derive(Debug, Clone, Copy)]
pub(crate) struct Stage;

#[derive(Debug, Clone, Copy)]
pub(crate) struct Station<S>(S);

/// A request under way, perhaps with a copy of it.
pub(crate) struct Teeing<F> {
    inner: F,
    copy: Option<(Ticket, Owner)>,
}

// === impl Stage ===

impl<S> Layer<S> for Stage {
    type Service = Station<S>;

    fn layer(&self, inner: S) -> Station<S> {
        Station(inner)
    }
}

// === impl Station ===

impl<S> Service<Prepared> for Station<S>
where
    S: Service<Prepared, Response = Reply, Error = Failure>,
    S::Future: Unpin,
{
    type Response = Reply;
    type Error = Failure;
    type Future = Teeing<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, mut prepared: Prepared) -> Self::Future {
        let copy = offer(&prepared).map(|ticket| (ticket, prepared.chosen.choice.side));
        prepared.upload = copy.as_ref().and_then(|(ticket, _)| ticket.upload());
        Teeing { inner: self.0.call(prepared), copy }
    }
}

fn offer(prepared: &Prepared) -> Option<Ticket> {
    let located = &prepared.chosen.located;
    let arrival = &located.checked.arrival;
    if located.checked.seen.is_hostless || prepared.is_websocket {
        // A health check, most likely, and no host is known that both sides could be asked for; or a tunnel, which has no answer to compare.
        return None;
    }
    let path = located.path.as_deref().unwrap_or_else(|| arrival.head.uri.path());
    arrival.table.compiled.shadows.offer(&Offer {
        // A copy is not logged.
        found: Found { route: located.route(), prefix_end: located.prefix_end, matched: "" },
        head: &arrival.head,
        path,
        choice: &prepared.chosen.choice,
        has_body: !arrival.body.is_end_stream(),
        client: located.client,
    })
}

// === impl Teeing ===

impl<F: Future<Output = Result<Reply, Failure>> + Unpin> Future for Teeing<F> {
    type Output = Result<Reply, Failure>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut came = ready!(Pin::new(&mut self.inner).poll(cx));
        if let (Some((mut ticket, side)), Ok(reply)) = (self.copy.take(), &mut came)
            // Where the other side stepped in there is nothing to compare: a dropped ticket says so.
            && reply.side == side
        {
            ticket.head(reply.head.status, &reply.head.headers);
            reply.body.tee(ticket);
        }
        Poll::Ready(came)
    }
}
