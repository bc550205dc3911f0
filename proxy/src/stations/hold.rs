//! Keeps a write of a synced route waiting while its sync is held; afterwards it goes to whoever owns the sync by then. Reads go on. All
//! other writes of a sync are counted here, to the end of their answers.

use std::{
    future::poll_fn,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::future::{Either, LocalBoxFuture};
use http::request;
use hyper::body::Body;
use tower::{Layer, Service};

use super::arrival::{Failure, Located, Reply};
use crate::{
    error::Fault,
    hold::{Hold, HoldOutcome, UnderWay},
    split::is_write,
};

#[derive(Debug, Clone, Copy)]
pub(crate) struct Stage;

#[derive(Debug, Clone, Copy)]
pub(crate) struct Station<S>(S);

/// How often a write that waits looks whether its client is still there. Mostly the socket tells; not behind bytes that nobody has read.
const LOOK: Duration = Duration::from_millis(100);
/// What of a body may be in memory while nobody reads it: one read of the connection.
const READ_AHEAD: u64 = 64 * 1024;

// === impl Stage ===

impl<S> Layer<S> for Stage {
    type Service = Station<S>;

    fn layer(&self, inner: S) -> Station<S> {
        Station(inner)
    }
}

// === impl Station ===

impl<S> Service<Located> for Station<S>
where
    S: Service<Located, Response = Reply, Error = Failure> + Clone + 'static,
{
    type Response = Reply;
    type Error = Failure;
    type Future = Either<S::Future, LocalBoxFuture<'static, Result<Reply, Failure>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, mut located: Located) -> Self::Future {
        let (route, head) = (located.route(), &located.checked.arrival.head);
        let Some(sync) = route.sync.as_ref().filter(|_| is_write(route, head)) else {
            return Either::Left(self.0.call(located));
        };
        let hold = Arc::clone(sync.link.hold());
        if let Some(under_way) = hold.enter() {
            located.under_way = Some(under_way);
            return Either::Left(self.0.call(located));
        }
        let mut inner = self.0.clone();
        Either::Right(Box::pin(async move {
            match wait(&hold, &located).await {
                Ok(under_way) => {
                    located.under_way = Some(under_way);
                    inner.call(located).await
                }
                Err(fault) => Err(located.fails(fault)),
            }
        }))
    }
}

/// A held write's wait: it may go on, or this is why not.
async fn wait(hold: &Arc<Hold>, located: &Located) -> Result<UnderWay, Fault> {
    let mut changes = hold.changes();
    let arrival = &located.checked.arrival;
    let bytes = head_bytes(&arrival.head) + arrival.body.size_hint().lower().min(READ_AHEAD);
    let Some(waiting) = hold.wait(usize::try_from(bytes).unwrap_or(usize::MAX)) else { return Err(Fault::Held) };
    let until = tokio::time::Instant::from_std(waiting.until());
    let _watched = arrival.turn.watches_client();
    loop {
        // Looked at behind every change: another hold may have begun.
        if let Some(under_way) = hold.enter() {
            waiting.ends(HoldOutcome::Released);
            return Ok(under_way);
        }
        if arrival.turn.is_client_gone() {
            waiting.ends(HoldOutcome::Left);
            return Err(Fault::Held);
        }
        tokio::select! {
            biased;
            _ = changes.changed() => {}
            () = tokio::time::sleep_until(until) => {
                waiting.ends(HoldOutcome::Late);
                return Err(Fault::Held);
            }
            () = arrival.turn.overdue() => {
                waiting.ends(HoldOutcome::Late);
                return Err(Fault::Deadline);
            }
            () = poll_fn(|_| if arrival.turn.is_client_gone() { Poll::Ready(()) } else { Poll::Pending }) => {}
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

fn head_bytes(head: &request::Parts) -> u64 {
    let uri = head.uri.path_and_query().map_or(0, |path| path.as_str().len());
    let headers: usize = head.headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    (uri + headers) as u64
}
