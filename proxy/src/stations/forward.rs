//! To the upstream of the chosen side; again on another connection where that is harmless; to the other side where the route allows it.

use std::{
    future::poll_fn,
    net::IpAddr,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll},
    time::Instant,
};

use futures_util::future::LocalBoxFuture;
use http::{StatusCode, response};
use tower::Service;

use super::{
    Public,
    arrival::{Arrival, Checked, Chosen, Failure, Located, Prepared, Reply},
    grpc, hop_by_hop,
    open_write::OpenWrite,
    resend::{Missed, Outgoing},
};
use crate::{
    body::Kind,
    error::{Fault, Form},
    links::Owner,
    listen::{Turn, Worker, WorkerTable},
    metrics::Outcome,
    split::{Choice, Moved, Now, Reason},
    table::Target,
    tunnel::{Counted, Far, Tenure},
    upstream::{Heads, Heard, Incoming, Leg, SendError, Upstream, extend},
};

/// The innermost station.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Station;

/// What every attempt of one request needs.
struct Way {
    turn: Rc<Turn>,
    worker: Rc<Worker>,
    table: Rc<WorkerTable>,
    route: usize,
    is_websocket: bool,
    is_hostless: bool,
    is_grpc: bool,
    /// Of a gRPC call: when its client stops waiting.
    deadline: Option<Instant>,
    public: Public,
    /// The side whose attempt the route's rollout is judged by: the weight chose it.
    judged: Option<Owner>,
}

/// A head that came, and what comes behind it.
type Answered = Heads<Kind>;

/// Counts an attempt, as cancelled if nobody waits for it any more.
struct Attempt<'w> {
    way: &'w Way,
    side: Owner,
    outcome: Outcome,
    /// The upstream had it in hand.
    is_sent: bool,
    /// Where a rollout is judged by it.
    began: Option<Instant>,
}

/// How a request gets its place at an upstream with limits.
#[derive(Debug, Clone, Copy)]
enum Entry {
    /// It may wait for it.
    Queued,
    AtOnce,
}

/// How many idle connections may turn out to be dead before a new one is made.
const STALE_LINKS: usize = 2;
/// How often a peer may refuse to look at a stream, before that counts as no answer.
const REFUSALS: usize = 3;

// === impl Station ===

impl Service<Prepared> for Station {
    type Response = Reply;
    type Error = Failure;
    /// The one box of a request.
    type Future = LocalBoxFuture<'static, Result<Reply, Failure>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, prepared: Prepared) -> Self::Future {
        match prepared.chosen.located.route().deadline {
            None => forward(prepared),
            Some(_) => Box::pin(in_time(prepared)),
        }
    }
}

/// All of it within the route's time, which began when the route was found: waiting for a place, every attempt, the other side. The sweep goes on
/// to look at the answer's body.
async fn in_time(prepared: Prepared) -> Result<Reply, Failure> {
    let located = &prepared.chosen.located;
    let arrival = &located.checked.arrival;
    let (turn, table) = (Rc::clone(&arrival.turn), Rc::clone(&arrival.table));
    let (route, seen) = (located.route, located.checked.seen);
    let after_write = prepared.chosen.choice.after_write.clone();
    let mut answering = forward(prepared);
    let answered = poll_fn(|cx| match turn.is_overdue() {
        true => Poll::Ready(None),
        false => answering.as_mut().poll(cx).map(Some),
    });
    answered.await.unwrap_or_else(|| {
        // Nobody knows what became of it.
        let unanswered = |write| table.compiled.split.unanswered(table.route(route), &write, Now::read());
        let own_write = after_write.and_then(|write| unanswered(*write));
        let trace = seen.trace.map(|trace| trace.id);
        Err(Failure { fault: Fault::Deadline, route: Some(route), form: seen.form, own_write, trace, said: None })
    })
}

/// Taken apart here and not in the future, which would hold all of it twice. What is rare is boxed in it: a request's future is made for each,
/// and copied.
fn forward(prepared: Prepared) -> LocalBoxFuture<'static, Result<Reply, Failure>> {
    let Prepared { chosen: Chosen { located, mut choice }, is_websocket, public, upload } = prepared;
    let Located { checked, route, path, prefix_end, under_way, client, .. } = located;
    let Checked { arrival, seen, .. } = checked;
    let Arrival { head, body, turn, worker, table, began, note } = arrival;

    let write = under_way.zip(choice.after_write.take());
    let mut write = write.map(|(under_way, after)| OpenWrite::new(&table, route, after, under_way));
    let mut outgoing =
        Outgoing::new(head, (body, upload), path, prefix_end, !choice.is_write, seen.idempotency_key, seen.expect);
    let is_grpc = seen.form == Form::Grpc;
    let deadline = if is_grpc { outgoing.deadline(began) } else { None };
    let is_hostless = seen.is_hostless;
    let is_judged = choice.reason == Reason::Weight && table.route(route).cap.is_some();
    let judged = is_judged.then_some(choice.side);
    let way = Way { turn, worker, table, route, is_websocket, is_hostless, is_grpc, deadline, public, judged };
    let overhead = began.elapsed();
    way.table.shard(Some(route)).overhead.observe(overhead);
    if let Some(note) = &note {
        note.handed(choice.side, overhead);
    }
    let (form, trace) = (seen.form, seen.trace.map(|trace| trace.id));

    Box::pin(async move {
        let first = match way.is_kept_out(choice.side, &outgoing) {
            true => Err(Missed { fault: Fault::CircuitOpen, sent: false }),
            false => way.ask(choice.side, &mut outgoing, Entry::Queued).await,
        };
        let missed = match first {
            Ok(first) if way.is_final(choice.side, &outgoing, first.0.status, client) => {
                return Ok(way.replies(first, choice.side, choice, write));
            }
            Ok(first) => {
                let (answer, side) = Box::pin(way.look_elsewhere(first, choice.side, &mut outgoing)).await;
                return Ok(way.replies(answer, side, choice, write));
            }
            Err(missed) => missed,
        };
        if let Some(note) = &note {
            note.is_in(missed.fault.into());
        }
        // What the second side says of its own failure would only hide the first.
        if let Some(Ok(second)) = Box::pin(way.cross(choice.side.other(), &mut outgoing, &missed)).await {
            return Ok(way.replies(second, choice.side.other(), choice, write));
        }
        let fault = way.told(&missed, choice.is_write);
        let own_write = write.as_mut().and_then(|write| write.failed(missed.sent));
        Err(Failure { fault, route: Some(route), form, own_write, trace, said: None })
    })
}

// === impl Way ===

impl Way {
    /// Whether the circuit of the modern side keeps a request from it. A read tries first whether it may be closed: legacy can answer it.
    fn is_kept_out(&self, side: Owner, outgoing: &Outgoing) -> bool {
        let route = self.table.route(self.route);
        let Some(target) = route.modern.as_ref().filter(|_| side == Owner::Modern) else { return false };
        let upstream = &self.table.upstreams[target.index];
        upstream.spec.circuit.is_some()
            && !upstream.admits(route.legacy.is_some() && outgoing.may_cross(route, &Missed::unknown()))
    }

    /// Whether the chosen side's answer is the client's, and the other side is not asked for a better one.
    fn is_final(&self, side: Owner, outgoing: &Outgoing, status: StatusCode, client: IpAddr) -> bool {
        !outgoing.may_look_elsewhere(self.table.route(self.route), status) || self.is_last_word(side, outgoing, client)
    }

    /// The client's answer, which came from that side.
    fn replies(&self, (head, body): Answered, side: Owner, choice: Choice, write: Option<Box<OpenWrite>>) -> Reply {
        self.passes_on(&body);
        let sync = self.table.route(self.route).sync.as_ref();
        let is_stale = side != choice.side && sync.is_some_and(|sync| sync.link.owner() != side);
        Reply { head, body, route: self.route, side, is_stale, choice, write }
    }

    /// Asks the other side, where the first one missed it and the route allows that.
    async fn cross(&self, other: Owner, outgoing: &mut Outgoing, missed: &Missed) -> Option<Result<Answered, Missed>> {
        let route = self.table.route(self.route);
        if route.target(other).is_none() || !outgoing.may_cross(route, missed) {
            return None;
        }
        if missed.fault == Fault::CircuitOpen {
            self.table.shard(Some(self.route)).moved(Moved::Circuit);
        }
        Some(self.ask(other, outgoing, Entry::Queued).await)
    }

    /// What the client is told of it.
    fn told(&self, missed: &Missed, is_write: bool) -> Fault {
        let is_unsent_write = is_write && self.table.route(self.route).sync.is_some() && !missed.sent;
        let is_away = matches!(
            missed.fault,
            Fault::Refused | Fault::ConnectTimeout | Fault::Tls | Fault::Certificate | Fault::NoHttp2 | Fault::Reset
        );
        if is_unsent_write && is_away { Fault::OwnerAway } else { missed.fault }
    }

    /// This is the client's answer: what is left of it is watched from now on, and not before, since another side may have been asked meanwhile.
    fn passes_on(&self, body: &Kind) {
        if let Some(patience) = body.patience() {
            self.turn.await_body(self.worker.now(), self.table.ticks(patience));
        }
    }

    /// Whether it would be wrong to ask the other side for what this one has not got.
    fn is_last_word(&self, side: Owner, outgoing: &Outgoing, client: IpAddr) -> bool {
        self.table.compiled.split.is_last_word(side, self.table.route(self.route), outgoing.headers(), client)
    }

    /// Asks the other side for what the first one has not got; when it has not got it either, the first answer stands.
    async fn look_elsewhere(&self, first: Answered, side: Owner, outgoing: &mut Outgoing) -> (Answered, Owner) {
        let (route, other) = (self.table.route(self.route), side.other());
        if route.target(other).is_none() || self.is_kept_out(other, outgoing) {
            return (first, side);
        }
        // The first answer has its place, until it is passed on or given up.
        let second = self.ask(other, outgoing, Entry::AtOnce).await.ok();
        let is_better =
            |head: &response::Parts| !head.status.is_server_error() && !route.fallback_on.contains(&head.status);
        let second = second.filter(|(head, _)| is_better(head));
        self.table.shard(Some(self.route)).looked_elsewhere(second.is_some());
        // What is left of the first goes with its connection.
        second.map_or((first, side), |second| (second, other))
    }

    /// One side, with as many connections as it takes.
    async fn ask(&self, side: Owner, outgoing: &mut Outgoing, entry: Entry) -> Result<Answered, Missed> {
        let route = self.table.route(self.route);
        let began = (self.judged == Some(side)).then(Instant::now);
        let mut attempt = Attempt { way: self, side, outcome: Outcome::Cancelled, is_sent: false, began };
        let Some(target) = route.target(side) else {
            attempt.outcome = Outcome::Refused;
            return Err(Missed { fault: Fault::NoSide, sent: false });
        };
        let upstream = &self.table.upstreams[target.index];
        let timeout = route.timeout.unwrap_or(upstream.spec.timeout);
        let is_repeatable = outgoing.is_repeatable(&upstream.spec);
        if is_repeatable {
            outgoing.keep_body(&self.turn);
        }
        let again = is_repeatable || outgoing.is_looked_for(route) || outgoing.may_cross(route, &Missed::unknown());
        let entered = match entry {
            Entry::Queued => upstream.enter().await,
            Entry::AtOnce => upstream.enter_at_once().await,
        };
        let mut places = match entered {
            Ok(places) => places,
            Err(fault) => {
                attempt.outcome = Outcome::Refused;
                return Err(Missed { fault, sent: false });
            }
        };

        // Some link took a byte of it, and died before it answered.
        let mut written = false;
        let (mut dead, mut refused) = (0, 0);
        let answered = loop {
            let (now, may_be_used) = (self.worker.now(), dead < STALE_LINKS);
            let (mut link, is_pooled) = match upstream.leg(now, may_be_used, self.is_websocket).await {
                Ok(leg) => leg,
                Err(fault) => break Err(Missed { fault, sent: written }),
            };
            let is_shared = link.is_shared();
            if is_shared {
                // The peer may refuse the stream when some of it is on its way already.
                outgoing.keep_body(&self.turn);
            }
            let keeps_case = upstream.spec.is_legacy && !is_shared;
            let Some(mut request) = outgoing.request(target, &self.turn, again || is_shared, keeps_case) else {
                break Err(Missed { fault: Fault::Reset, sent: true });
            };
            if self.is_hostless {
                target.name_host(request.headers_mut(), link.local().authority());
            }
            if is_shared && self.is_websocket && !extend(&mut request) {
                break Err(Missed { fault: Fault::Handshake, sent: written });
            }
            link.hold(places);
            let timeout = self
                .deadline
                .map_or(timeout, |deadline| timeout.min(deadline.saturating_duration_since(Instant::now())));
            self.turn.await_head(self.worker.now(), self.table.ticks(timeout));
            attempt.is_sent = true;
            let began = upstream.spec.is_timed().then(Instant::now);
            let sent = link.send(request, &self.turn).await;
            let began = began.and_then(|began| self.turn.whole_since(began));
            let fault = match sent {
                Ok(answer) => {
                    let from = Rc::clone(link.local());
                    let answered = self.accept(answer, link, upstream, side, (target, outgoing));
                    upstream.heard(&from, heard(&answered), began);
                    break answered;
                }
                Err(SendError::Unsent(request)) => {
                    outgoing.take_back(*request);
                    if !is_pooled {
                        upstream.heard(link.local(), Heard::Lost, began);
                        break Err(Missed { fault: Fault::Reset, sent: written });
                    }
                    None
                }
                Err(SendError::Refused) if refused < REFUSALS => {
                    refused += 1;
                    places = link.leave();
                    continue;
                }
                Err(SendError::Refused) => {
                    upstream.heard(link.local(), Heard::Lost, began);
                    break Err(Missed { fault: Fault::Reset, sent: written });
                }
                Err(SendError::Unknown { body: true, .. }) => Some(Fault::ClientBody),
                // Once, whichever connection it was.
                Err(SendError::Unknown { parse: false, .. }) if is_repeatable && !written && upstream.may_retry() => {
                    written = true;
                    None
                }
                Err(SendError::Unknown { parse, .. }) => Some(if parse { Fault::BadAnswer } else { Fault::Reset }),
                Err(SendError::NoWebSocket) => break Err(Missed { fault: Fault::NoWebSocket, sent: written }),
                Err(SendError::Late) if self.turn.is_client_awaited() => Some(Fault::BodyLate),
                Err(SendError::Late) => Some(Fault::Timeout),
            };
            if let Some(fault) = fault {
                // A client that keeps still would otherwise have others kept from the upstream.
                if !matches!(fault, Fault::ClientBody | Fault::BodyLate) {
                    upstream.heard(link.local(), Heard::Lost, began);
                }
                break Err(Missed { fault, sent: true });
            }
            places = link.leave();
            dead += 1;
        };
        self.turn.head_came();
        attempt.outcome = match &answered {
            Ok((head, _)) if head.status.is_server_error() => Outcome::Error,
            // Only gRPC has it in a head, where nothing else follows.
            Ok((head, _)) if self.is_grpc && grpc::is_failure(&head.headers) => Outcome::Error,
            Ok(_) => Outcome::Ok,
            Err(missed) => outcome(missed.fault),
        };
        answered
    }

    /// Takes a head that came, unless it cannot be passed on.
    fn accept(
        &self,
        (mut head, body): Heads<Incoming>,
        link: Leg,
        upstream: &Rc<Upstream>,
        side: Owner,
        (target, outgoing): (&Target, &Outgoing),
    ) -> Result<Answered, Missed> {
        let public = || outgoing.public(&self.public);
        let fails = |fault| Err(Missed { fault, sent: true });
        if head.status == StatusCode::SWITCHING_PROTOCOLS {
            if !self.is_websocket {
                return fails(Fault::Unasked);
            }
            let Some((end, read)) = link.into_tunnel(body) else { return fails(Fault::Reset) };
            let sync = self.table.route(self.route).sync.as_ref();
            let tenure = sync.map(|sync| Tenure { link: Arc::clone(&sync.link), owner: side });
            let counted = Counted::new(self.table.shard(Some(self.route)), side);
            self.turn.open_tunnel(Far { end, read, tenure, counted });
            let stripped = hop_by_hop::strip_answer(&mut head.headers);
            hop_by_hop::put_websocket(&mut head.headers);
            target.shape_answer(&mut head.headers, stripped.names_itself, public);
            return Ok((head, Kind::Full(None)));
        }
        let stripped = hop_by_hop::strip_answer(&mut head.headers);
        if !stripped.is_framed {
            return fails(Fault::BadAnswer);
        }
        target.shape_answer(&mut head.headers, stripped.names_itself, public);
        if stripped.names_itself {
            self.table.compiled.jars.saw(self.route, side, &head.headers);
        }
        Ok((head, Kind::of(body, link, upstream, &self.worker, &self.turn)))
    }
}

/// For those who watch over the upstream.
fn heard(answered: &Result<Answered, Missed>) -> Heard {
    match answered {
        Ok((head, _)) if head.status.is_server_error() => Heard::Error,
        Ok(_) => Heard::Ok,
        Err(_) => Heard::Lost,
    }
}

fn outcome(fault: Fault) -> Outcome {
    match fault {
        Fault::Timeout | Fault::ConnectTimeout => Outcome::Timeout,
        Fault::Refused | Fault::Overloaded | Fault::Tls | Fault::Certificate | Fault::NoHttp2 | Fault::NoSide => {
            Outcome::Refused
        }
        Fault::ClientBody | Fault::BodyLate | Fault::Handshake => Outcome::Cancelled,
        _ => Outcome::Error,
    }
}

// === impl Attempt ===

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        let mut judged = self.outcome;
        if self.outcome == Outcome::Cancelled && self.way.turn.is_overdue() {
            self.outcome = Outcome::Timeout;
            // A client that did not come to the end of its own request says nothing of the upstream.
            let is_client_late = self.way.turn.is_client_awaited();
            judged = if is_client_late { Outcome::Cancelled } else { Outcome::Timeout };
            let target = self.way.table.route(self.way.route).target(self.side);
            if let Some(target) = target.filter(|_| self.is_sent && !is_client_late) {
                self.way.table.upstreams[target.index].gave_up();
            }
        }
        let shard = self.way.table.shard(Some(self.way.route));
        shard.attempt(self.side, self.outcome);
        if let Some(began) = self.began {
            shard.judge(self.side, judged, began.elapsed());
        }
    }
}
