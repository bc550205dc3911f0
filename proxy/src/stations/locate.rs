//! Finds the route, by the normalised path (the raw one is what is forwarded), and the client's address.

use std::{
    borrow::Cow,
    task::{Context, Poll},
};

use futures_util::future::{Either, Ready, ready};
use tower::{Layer, Service};

use super::{
    arrival::{Checked, Failure, Located, Reply},
    forwarded::{self, Public},
};
use crate::{
    error::Fault,
    table::{Asked, Normal, normalise},
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

impl<S: Service<Located, Response = Reply, Error = Failure>> Service<Checked> for Station<S> {
    type Response = Reply;
    type Error = Failure;
    type Future = Either<Ready<Result<Reply, Failure>>, S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, checked: Checked) -> Self::Future {
        match locate(checked) {
            Ok(located) => Either::Right(self.0.call(located)),
            Err(failure) => Either::Left(ready(Err(*failure))),
        }
    }
}

fn locate(checked: Checked) -> Result<Located, Box<Failure>> {
    let (head, compiled) = (&checked.arrival.head, &checked.arrival.table.compiled);
    let path = normalise(head.uri.path()).map_err(|bad| Box::new(checked.fails(Fault::Path(bad))))?;
    let turn = &checked.arrival.turn;
    let peer = turn.peer().ip();
    let is_peer_trusted = forwarded::is_trusted(&compiled.trusted, peer);
    turn.set_https(forwarded::is_https(turn.peer(), is_peer_trusted, &head.headers));
    let client = forwarded::client(&compiled.trusted, peer, is_peer_trusted, &head.headers);
    let found = compiled.table.find(&Normal::of(head, &path, client));
    let (route, prefix_end, matched) = (found.route.index, found.prefix_end, found.matched);
    if let Some(note) = &checked.arrival.note {
        note.located(matched, &path, client);
    }
    if let Some(itself) = &found.route.itself {
        let public = Public::asked(&head.headers, turn.peer(), is_peer_trusted);
        let asked = Asked {
            raw_path: head.uri.path(),
            path: &path,
            prefix_end,
            query: head.uri.query(),
            public: public.with_prefix(&path, prefix_end),
        };
        let said = Some(Box::new(itself.answer(&asked)));
        let route = Some(route);
        return Err(Box::new(Failure { route, said, ..checked.fails(Fault::NoSide) }));
    }
    // From here on, whatever it waits for.
    if let Some(deadline) = found.route.deadline {
        turn.is_due(checked.arrival.worker.now(), checked.arrival.table.ticks(deadline));
    }
    let path = match path {
        Cow::Borrowed(_) => None,
        Cow::Owned(path) => Some(path),
    };
    Ok(Located { route, path, prefix_end, client, is_peer_trusted, who: None, under_way: None, checked })
}
