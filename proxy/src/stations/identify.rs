//! Finds out who a request comes from, where the file says whom to ask, and says it in the request's headers. Only a request with
//! credentials that are not known yet waits.

use std::{
    rc::Rc,
    task::{Context, Poll},
};

use futures_util::future::{Either, LocalBoxFuture};
use http::{HeaderMap, HeaderName, header};
use tower::{Layer, Service};

use super::{
    arrival::{Failure, Located, Reply},
    forwarded,
};
use crate::{
    error::Fault,
    identity::{Answer, Credentials, Found, Question, ask},
    metrics::Identified,
    trace::{TRACEPARENT, TRACESTATE},
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
        let arrival = &located.checked.arrival;
        let Some(identity) = arrival.table.compiled.table.identity() else {
            return Either::Left(self.0.call(located));
        };
        let headers = &arrival.head.headers;
        let Some(credentials) = identity.credentials(headers) else { return Either::Left(self.0.call(located)) };
        let mut told = match identity.find(&credentials, &forwarded::place(headers, located.is_peer_trusted)) {
            Found::Known(answer) => {
                identify(&mut located, answer, true);
                return Either::Left(self.0.call(located));
            }
            Found::Asked(told) => told,
            Found::Unknown(asking, told) => {
                arrival.worker.spawn(ask(question(&located, &credentials), asking));
                told
            }
        };
        let mut inner = self.0.clone();
        Either::Right(Box::pin(async move {
            let turn = Rc::clone(&located.checked.arrival.turn);
            let answer = tokio::select! {
                biased;
                answer = told.wait_for(Option::is_some) => answer.ok().and_then(|answer| answer.clone()),
                () = turn.overdue() => return Err(located.fails(Fault::Deadline)),
            };
            identify(&mut located, answer.unwrap_or(Answer::Failed), false);
            inner.call(located).await
        }))
    }
}

/// Says it in the request's headers.
fn identify(located: &mut Located, answer: Answer, is_hit: bool) {
    let outcome = match answer {
        Answer::Failed => Identified::Failed,
        _ if is_hit => Identified::Hit,
        Answer::Somebody(_) => Identified::Asked,
        Answer::Nobody => Identified::Nobody,
    };
    located.checked.arrival.table.shard(Some(located.route)).identified(outcome);
    if let Answer::Somebody(who) = answer {
        who.put(&mut located.checked.arrival.head.headers);
        located.who = Some(who);
    }
}

/// What is asked: the credentials, for which host, who the client is, and its trace. Nothing else of the request.
fn question(located: &Located, credentials: &Credentials) -> Question {
    let (arrival, seen) = (&located.checked.arrival, located.checked.seen);
    let mut headers = HeaderMap::new();
    let is_told = |name: &HeaderName| {
        *name == header::HOST || *name == header::FORWARDED || name.as_str().starts_with("x-forwarded-")
    };
    // Half a trace is none; this one's caller is the client's.
    let is_traced = |name: &HeaderName| seen.trace.is_some() && (*name == TRACEPARENT || *name == TRACESTATE);
    for (name, value) in arrival.head.headers.iter().filter(|(name, _)| is_told(name) || is_traced(name)) {
        headers.append(name, value.clone());
    }
    credentials.put(&mut headers);
    forwarded::tell(&mut headers, arrival.turn.peer(), located.is_peer_trusted, seen.forwarded);
    let turn = arrival.turn.aside(arrival.worker.now());
    Question { table: Rc::clone(&arrival.table), worker: Rc::clone(&arrival.worker), turn, headers }
}
