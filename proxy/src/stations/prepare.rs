//! Makes the head that an upstream gets: without what belongs to the client's hop, with the trace and who the client is.

use std::task::{Context, Poll};

use hyper::body::Body;
use tower::{Layer, Service};

use super::{
    arrival::{Chosen, Failure, Prepared, Reply},
    forwarded, hop, hop_by_hop,
};

#[derive(Debug, Clone, Copy)]
pub(crate) struct Stage;

#[derive(Debug, Clone, Copy)]
pub(crate) struct Station<S>(S);

// === impl Stage ===

impl<S> Layer<S> for Stage {
    type Service = Station<S>;

    fn layer(&self, inner: S) -> Station<S> {
        Station(inner)
    }
}

// === impl Station ===

impl<S: Service<Prepared, Response = Reply, Error = Failure>> Service<Chosen> for Station<S> {
    type Response = Reply;
    type Error = Failure;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, mut chosen: Chosen) -> S::Future {
        let is_peer_trusted = chosen.located.is_peer_trusted;
        let checked = &mut chosen.located.checked;
        let (seen, arrival) = (&mut checked.seen, &mut checked.arrival);
        let headers = &mut arrival.head.headers;
        let is_websocket = seen.upgrade && arrival.body.is_end_stream() && hop_by_hop::asks_websocket(headers);
        hop_by_hop::strip_request(headers, seen.connection, seen.hop);
        if let Some(who) = chosen.located.who.as_ref().filter(|_| seen.connection) {
            // A client could have named it among what belongs to its hop.
            who.put(headers);
        }
        if is_websocket {
            hop_by_hop::put_websocket(headers);
        }
        let tracing = arrival.table.compiled.observe.tracing.as_ref();
        hop::pass_on(headers, seen, tracing, arrival.note.as_deref());
        let public = forwarded::tell(headers, arrival.turn.peer(), is_peer_trusted, seen.forwarded);
        self.0.call(Prepared { chosen, is_websocket, public, upload: None })
    }
}
