//! One copy on the background runtime: send it, read its answer as far as the bound, wait for the control, compare.

use std::{sync::Arc, time::Instant};

use bytes::Bytes;
use http::{
    HeaderMap, Method, Request,
    header::{CONTENT_LOCATION, LOCATION, SET_COOKIE},
};
use http_body_util::{BodyExt, Full};
use tokio::sync::oneshot;

use super::{
    budget::{Budget, Charge, Kept},
    counts::Outcome,
    offer::{ShadowRoute, Slot},
    origin::Origin,
    ticket::{Recorded, content_length},
};
use crate::{
    compare::{Compared, NotComparable, Verdict},
    links::Owner,
    stations::Public,
    table::{Route, SyncRoute},
};

/// One copy, taken up.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) route: Arc<ShadowRoute>,
    /// The side that gets the copy.
    pub(super) to: Owner,
    pub(super) origin: Arc<Origin>,
    pub(super) sync: Option<SyncRoute>,
    pub(super) request: Request<Full<Bytes>>,
    pub(super) control: oneshot::Receiver<Recorded>,
    pub(super) budget: Arc<Budget>,
    pub(super) max_body: usize,
    /// `None` when nothing is compared.
    pub(super) seen_as: Option<Box<SeenAs>>,
    /// `None` for most, and where nothing is compared.
    pub(super) again: Option<Box<Again>>,
    /// Given back when the job is over, whatever it came to.
    pub(super) held: (Slot, Charge),
    /// Of the request's body.
    pub(super) body_held: Option<Charge>,
}

/// The same request once more for the side that has answered it.
#[derive(Debug)]
pub(super) struct Again {
    pub(super) origin: Arc<Origin>,
    pub(super) request: Request<Full<Bytes>>,
    pub(super) side: Owner,
    pub(super) _held: Charge,
}

/// What makes the shadow's head what the client would have got.
#[derive(Debug)]
pub(super) struct SeenAs {
    pub(super) route: Arc<Route>,
    pub(super) public: Public,
    /// In normal form.
    pub(super) path: String,
    pub(super) prefix_end: usize,
}

// === impl Job ===

impl Job {
    /// The body of the request, which came after its head.
    pub(super) fn carry(&mut self, body: Bytes, charge: Charge) {
        *self.request.body_mut() = Full::new(body);
        self.body_held = Some(charge);
    }

    pub(super) async fn run(self) {
        let Self { route, to, origin, sync, request, control, budget, max_body, seen_as, again, .. } = self;
        let _held = (self.held, self.body_held);
        let method = request.method().clone();
        let was_behind = sync.as_ref().is_some_and(SyncRoute::is_behind);
        let is_compared = route.rules.is_some();
        let both = async {
            tokio::try_join!(fetch(&origin, request, &budget, max_body, is_compared), async {
                control.await.map_err(|_| Outcome::Cancelled)
            })
        };
        let result = tokio::time::timeout(route.settings.timeout, both).await.unwrap_or(Err(Outcome::Timeout));
        match result {
            Ok((mut candidate, control)) => {
                if let Some(seen_as) = &seen_as {
                    seen_as.shape(to, &mut candidate.headers);
                }
                let is_behind = was_behind || sync.as_ref().is_some_and(SyncRoute::is_behind);
                route.counts.copy(compared(&route, to, &method, &control, &candidate, is_behind));
                drop(candidate);
                if let (Some(again), Some(seen_as)) = (again, seen_as) {
                    // An answer that sets a cookie began something, which a second request would begin again.
                    if !is_behind && !control.headers.contains_key(SET_COOKIE) {
                        let learnt = learn(&route, *again, &seen_as, &control, &budget, max_body);
                        drop(tokio::time::timeout(route.settings.timeout, learnt).await);
                    }
                }
            }
            Err(outcome) => route.counts.copy(outcome),
        }
    }
}

// === impl SeenAs ===

impl SeenAs {
    fn shape(&self, side: Owner, headers: &mut HeaderMap) {
        let names_itself = [LOCATION, CONTENT_LOCATION, SET_COOKIE].iter().any(|name| headers.contains_key(name));
        if let Some(target) = self.route.target(side) {
            target.shape_answer(headers, names_itself, || self.public.with_prefix(&self.path, self.prefix_end));
        }
    }
}

/// Asks the side that has answered once more, and learns in what it differs from itself.
async fn learn(
    route: &ShadowRoute,
    again: Again,
    seen_as: &SeenAs,
    control: &Recorded,
    budget: &Arc<Budget>,
    max_body: usize,
) {
    let Some(rules) = &route.rules else { return };
    let Ok(mut second) = fetch(&again.origin, again.request, budget, max_body, true).await else { return };
    seen_as.shape(again.side, &mut second.headers);
    if let (Some(left), Some(right)) = (control.answer(), second.answer()) {
        route.counts.resent(rules.compare(&left, &right));
    }
}

fn compared(
    route: &ShadowRoute,
    to: Owner,
    method: &Method,
    control: &Recorded,
    candidate: &Recorded,
    is_behind: bool,
) -> Outcome {
    let Some(rules) = &route.rules else { return Outcome::Sent };
    // Compared or not, there must have been room for both.
    let (Some(left), Some(right)) = (control.answer(), candidate.answer()) else { return Outcome::DroppedBudget };
    let verdict = match is_behind {
        true => Verdict::NotComparable(NotComparable::SyncBehind),
        false => rules.compare(&left, &right),
    };
    let (legacy, modern) = match to {
        Owner::Modern => (control.took, candidate.took),
        Owner::Legacy => (candidate.took, control.took),
    };
    route.counts.compared(Compared { method: method.clone(), verdict, legacy, modern });
    Outcome::Sent
}

/// Sends the copy and reads its answer. A connection goes back to the pool only when its answer was read to the end; else it is closed, so
/// that an answer without end costs no more than the bound.
async fn fetch(
    origin: &Origin,
    request: Request<Full<Bytes>>,
    budget: &Arc<Budget>,
    max_body: usize,
    is_compared: bool,
) -> Result<Recorded, Outcome> {
    let is_head = request.method() == Method::HEAD;
    let since = Instant::now();
    let (connection, response) = origin.send(request).await.map_err(|_| Outcome::Error)?;
    let took = since.elapsed();
    let (head, mut rest) = response.into_parts();
    let mut body = Kept::new(Arc::clone(budget), &head.headers, max_body);
    if let Some(length) = content_length(&head.headers).filter(|_| is_compared && !is_head) {
        body.expect(length);
    }
    let (mut unkept, mut goes_on) = (0, !is_compared || body.goes_on());
    while goes_on {
        let Some(frame) = rest.frame().await else {
            origin.give_back(connection);
            break;
        };
        let frame = frame.map_err(|_| Outcome::Error)?;
        let Some(chunk) = frame.data_ref() else { continue };
        unkept += chunk.len();
        goes_on = if is_compared { body.push(chunk) } else { unkept <= max_body };
    }
    Ok(Recorded { status: head.status, headers: head.headers, body, took })
}
