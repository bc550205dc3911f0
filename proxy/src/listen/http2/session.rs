//! The streams of one connection: each request goes through the stations with a turn of its own, and a WebSocket (RFC 8441) becomes a tunnel
//! when the upstream has switched.

use std::{
    cell::RefCell,
    convert::Infallible,
    future::Future,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{HeaderName, Method, Request, Response, StatusCode, header};
use hyper::{body::Incoming, rt::Executor, upgrade::OnUpgrade};
use hyper_util::rt::TokioIo;
use pin_project_lite::pin_project;
use tower::Service;

use super::super::{
    turn::{Order, Turn},
    worker::Worker,
};
use crate::{
    body::Answer,
    stations::{Answering, Arrival, Stack, stack},
    tunnel::{self, Far},
};

/// hyper's service: gives each request to the stations.
pub(super) struct Session {
    stack: Stack,
    connection: Rc<Turn>,
    worker: Rc<Worker>,
    /// Turns of streams, used again when a stream has ended.
    turns: RefCell<Vec<Rc<Turn>>>,
    next: Next,
}

/// Runs streams on the worker.
#[derive(Clone)]
pub(super) struct Spawn {
    pub(super) worker: Rc<Worker>,
    pub(super) next: Next,
}

/// The turn of the stream that hyper is about to run: it does so as soon as it has asked for its answer.
pub(super) type Next = Rc<RefCell<Option<Rc<Turn>>>>;

pin_project! {
    /// One stream, from its request to the end of its answer. It is dropped, and so reset, when the sweep finds that the rest of the answer
    /// does not come, or is not taken: hyper does not ask for more of it while the client has closed its window.
    struct Stream<F> {
        #[pin]
        inner: F,
        turn: Rc<Turn>,
    }
}

/// One stream, until its answer's head.
pub(super) struct Streaming {
    inner: Answering,
    turn: Rc<Turn>,
    worker: Rc<Worker>,
    /// Of an extended CONNECT.
    upgrade: Option<OnUpgrade>,
}

const ACCEPT: HeaderName = header::SEC_WEBSOCKET_ACCEPT;

// === impl Session ===

impl Session {
    pub(super) fn new(connection: &Rc<Turn>, worker: &Rc<Worker>, next: &Next) -> Self {
        Self {
            stack: stack(),
            connection: Rc::clone(connection),
            worker: Rc::clone(worker),
            turns: RefCell::default(),
            next: Rc::clone(next),
        }
    }

    /// No stream is open.
    pub(super) fn is_idle(&self) -> bool {
        self.turns.borrow().iter().all(is_free)
    }

    fn turn(&self) -> Rc<Turn> {
        let mut turns = self.turns.borrow_mut();
        if let Some(free) = turns.iter().find(|turn| is_free(turn)) {
            free.renew();
            return Rc::clone(free);
        }
        let turn = Rc::new(Turn::new(Rc::clone(self.connection.whose()), self.worker.now()));
        self.worker.watch(&turn);
        turns.push(Rc::clone(&turn));
        turn
    }
}

/// Nobody else holds it.
fn is_free(turn: &Rc<Turn>) -> bool {
    Rc::strong_count(turn) == 1
}

impl hyper::service::Service<Request<Incoming>> for Session {
    type Response = Response<Answer>;
    type Error = Infallible;
    type Future = Streaming;

    fn call(&self, mut request: Request<Incoming>) -> Streaming {
        let turn = self.turn();
        *self.next.borrow_mut() = Some(Rc::clone(&turn));
        let upgrade = (*request.method() == Method::CONNECT).then(|| hyper::upgrade::on(&mut request));
        let arrival = Arrival::new(request, &turn, &self.worker);
        Streaming { inner: self.stack.clone().call(arrival), turn, worker: Rc::clone(&self.worker), upgrade }
    }
}

// === impl Streaming ===

impl Future for Streaming {
    type Output = Result<Response<Answer>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.turn.wakes(cx.waker());
        let mut response = ready!(Pin::new(&mut self.inner).poll(cx))?;
        if let (Some(far), Some(upgrade)) = (self.turn.take_tunnel(), self.upgrade.take()) {
            // What HTTP/1 calls switching is an answer like any other here (RFC 8441, 5.1).
            *response.status_mut() = StatusCode::OK;
            for name in [header::CONNECTION, header::UPGRADE, ACCEPT] {
                response.headers_mut().remove(name);
            }
            let tunnel = carry(upgrade, far, Rc::clone(&self.turn), Rc::clone(&self.worker));
            self.worker.spawn(tunnel);
        }
        Poll::Ready(Ok(response))
    }
}

/// The tunnel holds the turn: until it ends, the connection is not idle.
async fn carry(upgrade: OnUpgrade, far: Far, turn: Rc<Turn>, worker: Rc<Worker>) {
    if let Ok(near) = upgrade.await {
        // Either end may fail; then both are closed, and there is nobody to tell.
        drop(Box::pin(tunnel::run(TokioIo::new(near), Bytes::new(), far, &worker)).await);
    }
    drop(turn);
}

// === impl Spawn ===

impl<F: Future<Output = ()> + 'static> Executor<F> for Spawn {
    fn execute(&self, future: F) {
        match self.next.take() {
            Some(turn) => self.worker.spawn(Stream { inner: future, turn }),
            // What carries a tunnel's bytes.
            None => self.worker.spawn(future),
        }
    }
}

// === impl Stream ===

impl<F: Future<Output = ()>> Future for Stream<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        let ended = this.inner.poll(cx);
        if ended.is_pending() && this.turn.take_order() != Some(Order::BodyLate) {
            this.turn.wakes(cx.waker());
            return Poll::Pending;
        }
        // A waker would keep the memory of the ended task.
        this.turn.forget_waker();
        Poll::Ready(())
    }
}
