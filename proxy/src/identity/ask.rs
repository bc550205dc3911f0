//! The asking itself: a GET of Banyan's own, over the asked upstream's ordinary connections and under its limits. It passes no station, so
//! that nobody is asked about it in turn.

use std::{
    cell::Cell,
    future::poll_fn,
    rc::Rc,
    time::{Duration, Instant},
};

use http::{HeaderMap, Request, StatusCode};

use super::{Asking, Identity};
use crate::{
    body::Kind,
    listen::{Turn, Worker, WorkerTable},
    upstream::{Heads, Heard, RequestBody, SendError, Upstream},
};

/// All that one asking needs.
pub(crate) struct Question {
    pub(crate) table: Rc<WorkerTable>,
    pub(crate) worker: Rc<Worker>,
    /// Of Banyan's own.
    pub(crate) turn: Rc<Turn>,
    pub(crate) headers: HeaderMap,
}

/// Connections of the pool that may turn out to be dead before a new one is made.
const STALE_LINKS: usize = 2;
/// What is read of an answer's body, so that its connection can be used again; behind a longer one it is closed.
const MOST_BODY: usize = 64 << 10;

/// Asks, and tells all who wait. Goes on although a client leaves: others may wait, and its next request comes soon.
pub(crate) async fn ask(question: Question, asking: Asking) {
    let Some(identity) = question.table.compiled.table.identity() else { return };
    let upstream = &question.table.upstreams[identity.upstream()];
    let (within, is_sent) = (identity.settings().timeout, Cell::new(false));
    let answered = tokio::time::timeout(within, exchange(&question, identity, upstream, &is_sent)).await;
    let answered = answered.unwrap_or_else(|_| {
        if is_sent.get() {
            upstream.gave_up();
        }
        None
    });
    let (answer, holds) = identity.read(answered.as_ref().map(|(head, _)| &**head));
    asking.answer(&answer, holds);
    if let Some((_, rest)) = answered {
        finish(rest, within).await;
    }
}

/// The head of the answer, and what comes behind it; `None` when there is none.
async fn exchange(
    question: &Question,
    identity: &Identity,
    upstream: &Rc<Upstream>,
    is_sent: &Cell<bool>,
) -> Option<Heads<Kind>> {
    let Question { worker, turn, headers, .. } = question;
    if upstream.spec.circuit.is_some() && !upstream.admits(true) {
        return None;
    }
    let mut places = upstream.enter().await.ok()?;
    for attempt in 0..=STALE_LINKS {
        let (mut link, is_pooled) = upstream.leg(worker.now(), attempt < STALE_LINKS, false).await.ok()?;
        link.hold(places);
        let mut request = Request::new(RequestBody::None);
        *request.uri_mut() = identity.path().clone().into();
        *request.headers_mut() = headers.clone();
        is_sent.set(true);
        let began = upstream.spec.is_timed().then(Instant::now);
        let error = match link.send(request, turn).await {
            Ok((head, body)) => {
                let heard = if head.status.is_server_error() { Heard::Error } else { Heard::Ok };
                upstream.heard(link.local(), heard, began);
                // Nobody has asked for another protocol.
                let is_answer = head.status != StatusCode::SWITCHING_PROTOCOLS;
                return is_answer.then(|| (head, Kind::of(body, link, upstream, worker, turn)));
            }
            Err(error) => error,
        };
        is_sent.set(false);
        // It is a read: it may go again. What was seen of it counts as everybody's second attempt does.
        let goes_again =
            is_pooled && (matches!(error, SendError::Unsent(_) | SendError::Refused) || upstream.may_retry());
        if !goes_again {
            upstream.heard(link.local(), Heard::Lost, began);
            return None;
        }
        places = link.leave();
    }
    None
}

/// Reads the rest of an answer, whose connection then goes back to the pool.
async fn finish(mut rest: Kind, within: Duration) {
    let mut read = 0;
    let ends = async {
        while read <= MOST_BODY
            && let Some(Ok(frame)) = poll_fn(|cx| rest.poll_frame(cx)).await
        {
            read += frame.data_ref().map_or(0, bytes::Bytes::len);
        }
    };
    drop(tokio::time::timeout(within, ends).await);
}
