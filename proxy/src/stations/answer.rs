//! Turns what comes back into the client's answer: an upstream's with what Banyan adds to it, or Banyan's own where there is none.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use http::{HeaderName, HeaderValue, Response, StatusCode, Version, header};
use tower::{Layer, Service};

use super::{
    arrival::{Arrival, Failure, Reply},
    grpc,
};
use crate::{
    body::{Answer, Kind, Told},
    metrics::Answerer,
    split::{Reason, add_private},
    trace::TraceId,
};

#[derive(Debug, Clone, Copy)]
pub(crate) struct Stage;

#[derive(Debug, Clone, Copy)]
pub(crate) struct Station<S>(S);

/// One request under way.
pub(crate) struct Answering<F> {
    inner: F,
    told: Option<Told>,
}

const SIDE: HeaderName = HeaderName::from_static("x-banyan-side");
const STALE: HeaderName = HeaderName::from_static("x-banyan-stale");

// === impl Stage ===

impl<S> Layer<S> for Stage {
    type Service = Station<S>;

    fn layer(&self, inner: S) -> Station<S> {
        Station(inner)
    }
}

// === impl Station ===

impl<S> Service<Arrival> for Station<S>
where
    S: Service<Arrival, Response = Reply, Error = Failure>,
    S::Future: Unpin,
{
    type Response = Response<Answer>;
    type Error = Infallible;
    type Future = Answering<S::Future>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, arrival: Arrival) -> Self::Future {
        let told = Told {
            turn: Rc::clone(&arrival.turn),
            worker: Rc::clone(&arrival.worker),
            table: Rc::clone(&arrival.table),
            route: None,
            answered: None,
            began: arrival.began,
            note: arrival.note.clone(),
            judged: None,
            write: None,
        };
        Answering { inner: self.0.call(arrival), told: Some(told) }
    }
}

// === impl Answering ===

impl<F: Future<Output = Result<Reply, Failure>> + Unpin> Future for Answering<F> {
    type Output = Result<Response<Answer>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let came = ready!(Pin::new(&mut self.inner).poll(cx));
        let Some(told) = self.told.take() else { return Poll::Pending };
        if let Some(note) = &told.note {
            note.came(told.began.elapsed());
        }
        let is_last = told.turn.is_last();
        let mut response = match came {
            Ok(reply) => theirs(reply, told),
            Err(failure) => ours(failure, told),
        };
        if is_last && response.status() != StatusCode::SWITCHING_PROTOCOLS {
            // hyper closes the connection behind an answer that says so.
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        Poll::Ready(Ok(response))
    }
}

fn theirs(reply: Reply, mut told: Told) -> Response<Answer> {
    let Reply { mut head, body, route, side, is_stale, choice, write } = reply;
    head.version = Version::HTTP_11;
    let compiled = told.table.route(route);
    if compiled.expose || choice.forced {
        head.headers.insert(SIDE, HeaderValue::from_static(side.as_str()));
    }
    let is_walked = compiled.cap.is_some();
    if is_stale {
        head.headers.insert(STALE, HeaderValue::from_static("1"));
        told.table.shard(Some(route)).answered_stale();
    }
    if let Some(id) = &choice.new_id {
        add_private(&mut head.headers, secure(id.set_cookie(), told.turn.is_https()));
    }
    let is_https = told.turn.is_https();
    told.write = write;
    // What another side answered in fallback says nothing of the chosen one, whose failure is counted; nor does what breaks off behind a failure.
    let is_well = !head.status.is_server_error() && !grpc::is_failure(&head.headers);
    let is_judged = is_walked && is_well && choice.reason == Reason::Weight && choice.side == side;
    told.judged = is_judged.then_some(side);
    if let Some(write) = &mut told.write
        && let Some(cookie) = write.answered()
    {
        // Whatever it says of caches: it is a write's answer, and the cookie is over in a minute or two wherever it goes.
        head.headers.append(header::SET_COOKIE, secure(cookie, is_https));
    }
    told.is_answered(Some(route), Answerer::Side(side), head.status);
    Response::from_parts(*head, Answer::new(body, told))
}

fn ours(failure: Failure, mut told: Told) -> Response<Answer> {
    let Failure { fault, route, form, own_write, trace, said } = failure;
    // Also of a request that came without one: whoever reports the error can be found in the log.
    let trace = trace.unwrap_or_else(TraceId::random);
    let name = route.map(|route| &*told.table.route(route).name);
    if let Some(note) = &told.note {
        if said.is_none() {
            note.is_in(fault.into());
        }
        note.traced(trace);
    }
    let counted = said.as_ref().map_or_else(|| fault.status(), |said| said.0);
    let (status, mut headers, body) = match said {
        Some(said) => (said.0, said.1, Some(said.2).filter(|body| !body.is_empty())),
        None => fault.answer(name, trace, form),
    };
    if let Some(cookie) = own_write {
        headers.append(header::SET_COOKIE, secure(cookie, told.turn.is_https()));
    }
    // What the client is told in a gRPC status is counted as what it would be in HTTP.
    told.is_answered(route, Answerer::Banyan, counted);
    let mut response = Response::new(Answer::new(Kind::Full(body), told));
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

/// A cookie of Banyan's that came over TLS is not sent without it.
fn secure(cookie: HeaderValue, is_https: bool) -> HeaderValue {
    if !is_https {
        return cookie;
    }
    HeaderValue::from_bytes(&[cookie.as_bytes(), b"; Secure"].concat()).unwrap_or(cookie)
}
