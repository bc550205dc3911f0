//! One HTTP/2 connection to an upstream, shared by the requests of a worker.
//!
//! Unlike an HTTP/1 link it has a driver of its own: a task that ends with the session. A request is a stream; whoever waits for the answer
//! also moves the request's body, and dropping the exchange cancels the stream (`RST_STREAM`).

use std::{
    cell::{Cell, RefCell},
    future::{Future, poll_fn},
    pin::pin,
    rc::Rc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use h2::{
    Ping, PingPong, Reason, RecvStream, SendStream,
    client::{Builder, Connection, SendRequest},
};
use http::{Request, Response, Uri, Version, header, uri::Scheme};
use tokio::{sync::Notify, task::JoinSet};

use super::{
    Open, RequestBody, SendError,
    far_end::Channel,
    link::{Flight, Places},
    pool::Local,
    pump::Pump,
    websocket::Proof,
};
use crate::{
    listen::{Tick, Turn},
    socket::Socket,
};

/// Streams of one connection, whatever the peer would take: beyond that another connection carries more than one does.
const MOST_STREAMS: usize = 256;
/// What the peer may send ahead of what clients have read: a stream's, and all of a connection's.
const STREAM_WINDOW: u32 = 256 << 10;
const CONNECTION_WINDOW: u32 = 4 << 20;
/// A head may be as long as on the other legs.
const HEAD: u32 = 64 << 10;
/// How long a peer that let a request wait for too long may take to answer a ping.
const PONG: Duration = Duration::from_secs(1);

/// A connection.
pub(crate) struct Session {
    sender: RefCell<SendRequest<Bytes>>,
    scheme: Scheme,
    streams: Cell<usize>,
    /// It had a stream since the last sweep; and when a sweep saw that last.
    is_used: Cell<bool>,
    since: Cell<Tick>,
    state: Rc<State>,
    open: Open,
    /// Dropping it closes the connection.
    _driver: JoinSet<()>,
}

/// What the driver and the session know of each other.
#[derive(Default)]
struct State {
    is_over: Cell<bool>,
    /// Somebody doubts that the peer is still there.
    doubt: Notify,
    /// The peer's first SETTINGS have come, and with them whether it takes WebSockets; somebody wants to know; and is told.
    is_settled: Cell<bool>,
    question: Notify,
    settled: Notify,
}

/// One request and its answer.
pub(crate) struct Exchange {
    pump: Option<Pump>,
    /// The way up of the tunnel that the request opened.
    up: Option<SendStream<Bytes>>,
    slot: Slot,
    pub(super) flight: Flight,
    pub(super) places: Places,
}

/// One of the streams of a connection, which stays open for as long as it has any.
pub(super) struct Slot(Rc<Session>);

// === impl Session ===

impl Session {
    pub(super) async fn new(socket: Socket, open: Open) -> Result<Rc<Self>, h2::Error> {
        let scheme = if socket.is_tls() { Scheme::HTTPS } else { Scheme::HTTP };
        let (sender, connection) = Builder::new()
            .enable_push(false)
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(HEAD)
            .handshake(socket)
            .await?;
        let state = Rc::<State>::default();
        let mut driver = JoinSet::new();
        driver.spawn_local(drive(connection, Rc::clone(&state)));
        Ok(Rc::new(Self {
            sender: RefCell::new(sender),
            scheme,
            streams: Cell::new(0),
            is_used: Cell::new(true),
            since: Cell::new(0),
            state,
            open,
            _driver: driver,
        }))
    }

    /// Another stream, if the peer takes one now.
    pub(super) fn exchange(self: &Rc<Self>, local: &Rc<Local>) -> Option<Exchange> {
        if self.is_over() {
            return None;
        }
        let mut sender = self.sender.borrow_mut();
        let most = sender.current_max_send_streams().min(MOST_STREAMS);
        let is_ready = matches!(sender.poll_ready(&mut Context::from_waker(Waker::noop())), Poll::Ready(Ok(())));
        (is_ready && self.streams.get() < most).then(|| {
            self.is_used.set(true);
            Exchange {
                pump: None,
                up: None,
                slot: Slot::new(self),
                flight: Flight::new(local, self.open.worker),
                places: Places::default(),
            }
        })
    }

    /// It takes no more streams: the connection ended, or the peer said that it will (GOAWAY).
    pub(super) fn is_over(&self) -> bool {
        let is_going = || {
            let mut sender = self.sender.borrow_mut();
            matches!(sender.poll_ready(&mut Context::from_waker(Waker::noop())), Poll::Ready(Err(_)))
        };
        self.state.is_over.get() || is_going()
    }

    /// Asked by each sweep: whether it had no stream for so long.
    pub(super) fn is_idle(&self, now: Tick, most: Tick) -> bool {
        if self.is_used.replace(false) || self.streams.get() > 0 {
            self.since.set(now);
        }
        now.wrapping_sub(self.since.get()) >= most
    }

    /// Whether the peer takes WebSockets (RFC 8441, 3), once it is known; `None` when the connection ended before.
    async fn takes_websockets(&self) -> Option<bool> {
        loop {
            let settled = self.state.settled.notified();
            if self.sender.borrow().is_extended_connect_protocol_enabled() {
                return Some(true);
            }
            if self.state.is_over.get() {
                return None;
            }
            if self.state.is_settled.get() {
                return Some(false);
            }
            self.state.question.notify_one();
            settled.await;
        }
    }
}

/// Moves the frames of a connection, until it ends or a doubt is not dispelled in time.
async fn drive(mut connection: Connection<Socket, Bytes>, state: Rc<State>) {
    let pings = connection.ping_pong();
    let gone = async {
        match pings {
            Some(pings) => state.ask(pings).await,
            None => std::future::pending().await,
        }
    };
    // What goes wrong comes out at every stream.
    tokio::select! {
        _ = connection => {}
        () = gone => {}
    }
    state.is_over.set(true);
    state.settled.notify_waiters();
}

// === impl State ===

impl State {
    /// Pings the peer whenever somebody has a doubt or a question. SETTINGS are the first that a peer says: whoever answers has said them. Ends
    /// when a doubt is not dispelled in time; a question alone may take longer.
    async fn ask(&self, mut pings: PingPong) {
        loop {
            let mut is_doubted = tokio::select! {
                () = self.doubt.notified() => true,
                () = self.question.notified() => false,
            };
            let too_late = async {
                if !std::mem::replace(&mut is_doubted, true) {
                    self.doubt.notified().await;
                }
                tokio::time::sleep(PONG).await;
            };
            tokio::select! {
                pong = pings.ping(Ping::opaque()) => if pong.is_err() { return },
                () = too_late => return,
            }
            self.is_settled.set(true);
            self.settled.notify_waiters();
        }
    }
}

// === impl Slot ===

impl Slot {
    fn new(session: &Rc<Session>) -> Self {
        session.streams.set(session.streams.get() + 1);
        Self(Rc::clone(session))
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.streams.set(self.0.streams.get() - 1);
    }
}

// === impl Exchange ===

impl Exchange {
    /// Sends the request and waits for the head of its answer, no longer than the client's [`Turn`] allows.
    pub(super) async fn send(
        &mut self,
        request: Request<RequestBody>,
        turn: &Rc<Turn>,
    ) -> Result<Response<RecvStream>, SendError> {
        let session = Rc::clone(&self.slot.0);
        let (head, body) = request.into_parts();
        let gate = body.gate();
        let mut request = Request::from_parts(head, ());
        let proof = Proof::take(&mut request);
        if proof.is_some() {
            self.may_be_extended(turn).await?;
        }
        if !target(&mut request, &session.scheme) {
            return Err(SendError::Unknown { parse: false, body: false });
        }
        let is_empty = http_body::Body::is_end_stream(&body);
        let begun = session.sender.borrow_mut().send_request(request, is_empty && proof.is_none());
        let (answer, stream) = begun.map_err(|_| SendError::Refused)?;
        let (mut pump, mut up) = match &proof {
            None => ((!is_empty).then(|| Pump::new(body, stream)), None),
            Some(_) => (None, Some(stream)),
        };
        let mut answer = pin!(answer);
        let sent = poll_fn(|cx| {
            if let Some(moving) = &mut pump {
                match moving.poll(cx) {
                    Poll::Ready(Ok(())) => pump = None,
                    Poll::Ready(Err(_)) => return Poll::Ready(Err(SendError::Unknown { parse: false, body: true })),
                    Poll::Pending => {}
                }
            }
            if let Some(gate) = &gate {
                while let Poll::Ready(Some(Ok(interim))) = answer.as_mut().get_mut().poll_informational(cx) {
                    if interim.status() == http::StatusCode::CONTINUE {
                        gate.open();
                    }
                }
            }
            match answer.as_mut().poll(cx) {
                Poll::Ready(sent) => Poll::Ready(sent.map_err(|error| why(&error))),
                Poll::Pending if turn.is_head_late() => {
                    session.state.doubt.notify_one();
                    Poll::Ready(Err(SendError::Late))
                }
                Poll::Pending => Poll::Pending,
            }
        })
        .await;
        self.pump = pump;
        let mut answer = sent?;
        if let Some(proof) = proof {
            if answer.status().is_success() {
                proof.give(&mut answer);
                self.up = up.take();
            } else if let Some(mut refused) = up {
                // No tunnel: that was all of the request. A stream that is gone already says so in the answer.
                drop(refused.send_data(Bytes::new(), true));
            }
        }
        Ok(answer)
    }

    /// Waits until it is known whether the peer takes WebSockets, no longer than the client's [`Turn`] allows.
    async fn may_be_extended(&self, turn: &Turn) -> Result<(), SendError> {
        let mut known = pin!(self.slot.0.takes_websockets());
        let known = poll_fn(|cx| match known.as_mut().poll(cx) {
            Poll::Pending if turn.is_head_late() => {
                self.slot.0.state.doubt.notify_one();
                Poll::Ready(Err(SendError::Late))
            }
            polled => polled.map(Ok),
        });
        match known.await? {
            Some(true) => Ok(()),
            Some(false) => Err(SendError::NoWebSocket),
            None => Err(SendError::Refused),
        }
    }

    /// The tunnel that the request opened, which is no request under way any more; `down` is what is read of its answer.
    pub(super) fn into_channel(self, down: RecvStream) -> Option<Channel> {
        Some(Channel::new(self.up?, down, self.slot))
    }

    /// Moves the request's body while the answer is read.
    pub(super) fn poll_pump(&mut self, cx: &mut Context<'_>) {
        if let Some(pump) = &mut self.pump
            && pump.poll(cx).is_ready()
        {
            self.pump = None;
        }
    }
}

/// What a stream's end says of its request: refused streams, and those above the last one of a GOAWAY, were not looked at.
fn why(error: &h2::Error) -> SendError {
    let is_unseen = error.is_go_away() || error.reason() == Some(Reason::REFUSED_STREAM);
    match error.is_remote() && is_unseen {
        true => SendError::Refused,
        false => SendError::Unknown { parse: error.is_library(), body: false },
    }
}

/// Makes the request's target one of HTTP/2: a scheme and an authority instead of the `Host` line. There is one: the first station sees to it.
pub(crate) fn target<B>(request: &mut Request<B>, scheme: &Scheme) -> bool {
    let host = request.headers_mut().remove(header::HOST);
    let authority = host.and_then(|host| http::uri::Authority::try_from(host.as_bytes()).ok());
    // HTTP/2 frames by itself (RFC 9113, 8.2.2).
    request.headers_mut().remove(header::TRANSFER_ENCODING);
    let mut parts = std::mem::take(request.uri_mut()).into_parts();
    (parts.scheme, parts.authority) = (Some(scheme.clone()), authority);
    *request.version_mut() = Version::HTTP_2;
    let Ok(uri) = Uri::from_parts(parts) else { return false };
    *request.uri_mut() = uri;
    true
}
