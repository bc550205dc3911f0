//! Asks `split/` which side answers, and counts a read that leaves the side of its weight.

use std::task::{Context, Poll};

use http::HeaderMap;
use tower::{Layer, Service};

use super::arrival::{Chosen, Failure, Located, Reply};
use crate::{links::Owner, split::Now};

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

impl<S: Service<Chosen, Response = Reply, Error = Failure>> Service<Located> for Station<S> {
    type Response = Reply;
    type Error = Failure;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, mut located: Located) -> S::Future {
        let wish = if located.route().force.is_some() { wish(&mut located) } else { None };
        let (arrival, route) = (&located.checked.arrival, located.route());
        // Only what a sync remembers has to do with time.
        let now = if route.sync.is_some() { Now::read() } else { Now::UNUSED };
        let choice = arrival.table.compiled.split.choose_for(route, &arrival.head, located.client, now, wish);
        if let Some(why) = choice.moved {
            arrival.table.shard(Some(located.route)).moved(why);
        }
        self.0.call(Chosen { located, choice })
    }
}

/// The side that a tester asks for. The header that names it goes no farther, whoever sent it.
fn wish(located: &mut Located) -> Option<Owner> {
    let route = std::sync::Arc::clone(located.route());
    let force = route.force.as_ref()?;
    let checked = &mut located.checked;
    let headers = &mut checked.arrival.head.headers;
    let none = HeaderMap::new();
    let wish = force.wish(checked.said.as_deref().unwrap_or(&none), headers, located.client);
    headers.remove(force.header());
    wish
}
