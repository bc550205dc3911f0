//! One copy on the background runtime: send it, read its answer as far as the bound, wait for the control, compare.

use std::{sync::Arc, time::Instant};

use http::{
    HeaderMap, Method, Request,
    header::{CONTENT_ENCODING, CONTENT_LOCATION, LOCATION, SET_COOKIE},
};
use http_body_util::BodyExt;
use tokio::sync::oneshot;

use super::{
    budget::{Budget, Charge, End, Kept},
    buffer::Upload,
    connections::NoPlace,
    counts::Outcome,
    offer::{ShadowRoute, Slot},
    origin::{Origin, SendError},
    record::Told,
    ticket::{Recorded, content_length},
};
use crate::{
    compare::{Compared, NoRoom, NotComparable, Verdict},
    links::Owner,
    stations::Public,
    table::{Route, SyncRoute},
};

/// Bytes of two bodies that are compared at once, wherever that is.
const LARGE: usize = 64 << 10;

/// One copy, taken up.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) route: Arc<ShadowRoute>,
    /// The side that gets the copy.
    pub(super) to: Owner,
    pub(super) origin: Arc<Origin>,
    pub(super) sync: Option<SyncRoute>,
    pub(super) request: Request<Upload>,
    pub(super) control: oneshot::Receiver<Recorded>,
    pub(super) budget: Arc<Budget>,
    pub(super) max_body: usize,
    /// `None` when nothing is compared.
    pub(super) seen_as: Option<Box<SeenAs>>,
    /// `None` for most, and where nothing is compared.
    pub(super) again: Option<Box<Again>>,
    /// What a recording is told of the request; `None` where none goes on.
    pub(super) told: Option<Told>,
    /// Given back when the job is over, whatever it came to.
    pub(super) _held: (Slot, Slot, Charge),
}

/// The same request once more for the side that has answered it.
#[derive(Debug)]
pub(super) struct Again {
    pub(super) origin: Arc<Origin>,
    pub(super) request: Request<Upload>,
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

/// What the client got, and what the shadow answered.
struct Pair {
    control: Recorded,
    candidate: Recorded,
}

// === impl Job ===

impl Job {
    /// The body of the request, which came after its head.
    pub(super) fn carry(&mut self, body: Upload) {
        *self.request.body_mut() = body;
    }

    pub(super) async fn run(self) {
        let Self { route, to, origin, sync, request, control, budget, max_body, seen_as, again, told, _held } = self;
        let method = request.method().clone();
        let was_behind = sync.as_ref().is_some_and(SyncRoute::is_behind);
        let (is_compared, is_told) = (route.rules.is_some(), told.is_some());
        let control = async {
            let control = control.await.map_err(|_| Outcome::Cancelled)?;
            if let Some((told, recorder)) = told.zip(route.counts.recorder()) {
                recorder.record(told, to.other(), &control, &budget);
            }
            Ok(control)
        };
        let candidate = fetch(&origin, request, &budget, max_body, is_compared);
        let result = match is_told {
            false => {
                let both = async { tokio::try_join!(candidate, control) };
                tokio::time::timeout(route.settings.timeout, both).await.unwrap_or(Err(Outcome::Timeout))
            }
            // A recording wants the control whatever becomes of the shadow.
            true => {
                let (candidate, control) = tokio::join!(
                    tokio::time::timeout(route.settings.timeout, candidate),
                    tokio::time::timeout(route.settings.timeout, control)
                );
                let result = |one: Result<Result<Recorded, Outcome>, _>| one.unwrap_or(Err(Outcome::Timeout));
                result(candidate).and_then(|candidate| Ok((candidate, result(control)?)))
            }
        };
        match result {
            Ok((mut candidate, control)) => {
                if let Some(seen_as) = &seen_as {
                    seen_as.shape(to, &mut candidate.headers);
                }
                let is_behind = was_behind || sync.as_ref().is_some_and(SyncRoute::is_behind);
                let pair = Pair { control, candidate };
                let Some((outcome, control)) = compared(&route, &budget, to, &method, pair, is_behind).await else {
                    return;
                };
                route.counts.copy(outcome);
                if let (Some(again), Some(seen_as)) = (again, seen_as) {
                    // An answer that sets a cookie began something, which a second request would begin again.
                    if !is_behind && !control.headers.contains_key(SET_COOKIE) {
                        let learnt = learn(&route, *again, &seen_as, control, &budget, max_body);
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
    pub(super) fn shape(&self, side: Owner, headers: &mut HeaderMap) {
        let names_itself = [LOCATION, CONTENT_LOCATION, SET_COOKIE].iter().any(|name| headers.contains_key(name));
        if let Some(target) = self.route.target(side) {
            target.shape_answer(headers, names_itself, || self.public.with_prefix(&self.path, self.prefix_end));
        }
    }
}

/// Asks the side that has answered once more, and learns in what it differs from itself.
async fn learn(
    route: &Arc<ShadowRoute>,
    again: Again,
    seen_as: &SeenAs,
    control: Recorded,
    budget: &Arc<Budget>,
    max_body: usize,
) {
    let Ok(mut second) = fetch(&again.origin, again.request, budget, max_body, true).await else { return };
    seen_as.shape(again.side, &mut second.headers);
    if let Some((Ok(verdict), _)) = judge(route, budget, Pair { control, candidate: second }).await {
        route.counts.resent(verdict);
    }
}

/// What comparing came to, and the control; `None` when it failed altogether.
async fn compared(
    route: &Arc<ShadowRoute>,
    budget: &Arc<Budget>,
    to: Owner,
    method: &Method,
    pair: Pair,
    is_behind: bool,
) -> Option<(Outcome, Recorded)> {
    if route.rules.is_none() {
        return Some((Outcome::Sent, pair.control));
    }
    let (legacy, modern) = match to {
        Owner::Modern => (pair.control.took, pair.candidate.took),
        Owner::Legacy => (pair.candidate.took, pair.control.took),
    };
    let (judged, control) = match is_behind {
        true => (Ok(Verdict::NotComparable(NotComparable::SyncBehind)), pair.control),
        false => judge(route, budget, pair).await?,
    };
    let Ok(verdict) = judged else { return Some((Outcome::DroppedBudget, control)) };
    route.counts.compared(Compared { method: method.clone(), verdict, legacy, modern });
    Some((Outcome::Sent, control))
}

/// Compares two answers, and gives the first one back. What may take long, or much memory, does so one pair at a time, and keeps nobody else
/// waiting on this runtime's threads.
async fn judge(
    route: &Arc<ShadowRoute>,
    budget: &Arc<Budget>,
    pair: Pair,
) -> Option<(Result<Verdict, NoRoom>, Recorded)> {
    if !pair.is_whole() {
        return Some((Err(NoRoom), pair.control));
    }
    if !pair.is_large() {
        return Some((pair.judge(route, budget), pair.control));
    }
    let _turn = budget.turn().await;
    let (route, budget) = (Arc::clone(route), Arc::clone(budget));
    let judged = tokio::task::spawn_blocking(move || (pair.judge(&route, &budget), pair.control)).await;
    // It panicked, or the process ends.
    judged.ok()
}

// === impl Pair ===

impl Pair {
    fn judge(&self, route: &ShadowRoute, budget: &Arc<Budget>) -> Result<Verdict, NoRoom> {
        let rules = route.rules.as_ref().ok_or(NoRoom)?;
        let room = &mut Charge::new(Arc::clone(budget));
        let (left, right) = (self.control.body.joined(room)?, self.candidate.body.joined(room)?);
        let (left, right) = (self.control.answer(&left).ok_or(NoRoom)?, self.candidate.answer(&right).ok_or(NoRoom)?);
        rules.compare_in(&left, &right, room)
    }

    /// Whether there was room for both. If not, what there is waits for nobody.
    fn is_whole(&self) -> bool {
        [&self.control, &self.candidate].iter().all(|one| one.body.end() != End::NoBudget)
    }

    fn is_large(&self) -> bool {
        let both = [&self.control, &self.candidate];
        let kept: usize = both.iter().map(|one| one.body.kept()).sum();
        kept > LARGE || both.iter().any(|one| one.headers.contains_key(CONTENT_ENCODING))
    }
}

/// Sends the copy and reads its answer. A connection goes back to the pool only when its answer was read to the end; else it is closed, so
/// that an answer without end costs no more than the bound.
pub(super) async fn fetch(
    origin: &Origin,
    request: Request<Upload>,
    budget: &Arc<Budget>,
    max_body: usize,
    is_compared: bool,
) -> Result<Recorded, Outcome> {
    let is_head = request.method() == Method::HEAD;
    let since = Instant::now();
    let (connection, response) = origin.send(request).await.map_err(|error| match error {
        SendError::NoPlace(NoPlace::Connections) => Outcome::DroppedConnections,
        SendError::NoPlace(NoPlace::Budget) => Outcome::DroppedBudget,
        SendError::Connect(_) | SendError::Http(_) => Outcome::Error,
    })?;
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
