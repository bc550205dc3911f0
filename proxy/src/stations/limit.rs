//! Refuses a request whose key has made too many on its route, before anything that costs: no side is chosen, no identity asked for. Only a
//! limit that counts by what `identity` copies has to stand behind the asking: the station is there twice.

use std::task::{Context, Poll};

use futures_util::future::{Either, Ready, ready};
use tower::{Layer, Service};

use super::arrival::{Failure, Located, Reply};
use crate::error::Fault;

#[derive(Debug, Clone, Copy)]
pub(crate) struct Stage {
    of_users: bool,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Station<S> {
    inner: S,
    of_users: bool,
}

// === impl Stage ===

impl Stage {
    /// By what the client says of itself.
    pub(super) const OF_CLIENTS: Self = Self { of_users: false };
    /// By what `identity` copies.
    pub(super) const OF_USERS: Self = Self { of_users: true };
}

impl<S> Layer<S> for Stage {
    type Service = Station<S>;

    fn layer(&self, inner: S) -> Station<S> {
        Station { inner, of_users: self.of_users }
    }
}

// === impl Station ===

impl<S: Service<Located, Response = Reply, Error = Failure>> Service<Located> for Station<S> {
    type Response = Reply;
    type Error = Failure;
    type Future = Either<Ready<Result<Reply, Failure>>, S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, located: Located) -> Self::Future {
        let limit = located.route().rate_limit.as_ref().filter(|limit| limit.is_of_users() == self.of_users);
        let Some(limit) = limit else { return Either::Right(self.inner.call(located)) };
        let arrival = &located.checked.arrival;
        match limit.check(&arrival.head.headers, located.client) {
            Ok(()) => Either::Right(self.inner.call(located)),
            Err(wait) => {
                arrival.table.shard(Some(located.route)).rate_limited();
                // Rounded up: who comes earlier is refused again.
                let seconds = u32::try_from(wait.as_millis().div_ceil(1000)).unwrap_or(u32::MAX).max(1);
                let fault = Fault::RateLimited { seconds };
                let failure = Failure { route: Some(located.route), ..located.checked.fails(fault) };
                Either::Left(ready(Err(failure)))
            }
        }
    }
}
