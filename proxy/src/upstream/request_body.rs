//! The body of a request on its way to an upstream: streamed, held back until a `100 Continue`, and kept for sending again where that is
//! allowed.

use std::{
    cell::{Cell, RefCell},
    pin::Pin,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use http::{HeaderMap, HeaderName, header};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::Sleep;

use crate::{listen::Turn, shadow::Waiting, spelling};

/// A body is sent again only if all of it is still here.
pub(crate) const REPLAY_BYTES: usize = 64 * 1024;
/// How long a client that expects `100 Continue` is left waiting for the upstream's.
const CONTINUE_AFTER: Duration = Duration::from_secs(1);

/// A request's body.
pub(crate) enum RequestBody {
    None,
    Streamed(Streamed),
    Replayed {
        replay: Rc<Replay>,
        at: usize,
    },
    /// Held back until the gate opens.
    Gated {
        gate: Arc<Gate>,
        timer: Pin<Box<Sleep>>,
        body: Box<RequestBody>,
    },
}

/// The client's body, read once.
pub(crate) struct Streamed {
    incoming: Incoming,
    turn: Rc<Turn>,
    /// Gets a copy.
    upload: Option<Waiting>,
}

/// The client's body with a memory of its first 64 KiB, so that it can be sent more than once.
pub(crate) struct Replay {
    source: RefCell<Streamed>,
    seen: RefCell<Vec<Bytes>>,
    bytes: Cell<usize>,
    /// Some of it was not kept.
    overflowed: Cell<bool>,
}

/// Opened by the upstream's `100 Continue`.
#[derive(Default)]
pub(crate) struct Gate {
    open: AtomicBool,
    waker: AtomicWaker,
}

// === impl RequestBody ===

impl RequestBody {
    /// The client's body itself, if it can be read but once, and who gets a copy of it: of a request that was never begun.
    pub(crate) fn into_unread(self) -> Option<(Incoming, Option<Waiting>)> {
        match self {
            Self::Streamed(streamed) => Some((streamed.incoming, streamed.upload)),
            Self::Gated { body, .. } => body.into_unread(),
            Self::None | Self::Replayed { .. } => None,
        }
    }

    /// What holds it back, if anything does.
    pub(super) fn gate(&self) -> Option<Arc<Gate>> {
        match self {
            Self::Gated { gate, .. } => Some(Arc::clone(gate)),
            _ => None,
        }
    }

    /// Holds the body back until the gate opens, or for a second.
    pub(crate) fn gated(self, gate: Arc<Gate>) -> Self {
        Self::Gated { gate, timer: Box::pin(tokio::time::sleep(CONTINUE_AFTER)), body: Box::new(self) }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match &mut *self {
            Self::None => Poll::Ready(None),
            Self::Streamed(streamed) => streamed.poll(cx),
            Self::Replayed { replay, at } => replay.poll(cx, at),
            Self::Gated { gate, timer, body } => {
                if !gate.poll_open(cx) && timer.as_mut().poll(cx).is_pending() {
                    return Poll::Pending;
                }
                gate.open();
                Pin::new(&mut **body).poll_frame(cx)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::None => true,
            Self::Streamed(streamed) => streamed.incoming.is_end_stream(),
            Self::Replayed { replay, at } => {
                *at == replay.seen.borrow().len() && replay.source.borrow().incoming.is_end_stream()
            }
            Self::Gated { body, .. } => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::None => SizeHint::with_exact(0),
            Self::Streamed(streamed) => streamed.incoming.size_hint(),
            Self::Replayed { replay, at } => replay.size_hint(*at),
            Self::Gated { body, .. } => body.size_hint(),
        }
    }
}

// === impl Streamed ===

impl Streamed {
    pub(crate) fn new(incoming: Incoming, turn: Rc<Turn>, upload: Option<Waiting>) -> Self {
        Self { incoming, turn, upload }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let mut polled = Pin::new(&mut self.incoming).poll_frame(cx);
        self.turn.client_is_awaited(polled.is_pending());
        if let Poll::Ready(Some(Ok(frame))) = &mut polled
            && let Some(trailers) = frame.trailers_mut()
        {
            strip_trailers(trailers);
            self.turn.strip_forbidden(trailers);
        }
        if let Poll::Ready(Some(Ok(frame))) = &polled {
            self.turn.body_came(frame.data_ref().map_or(0, Bytes::len));
        }
        if self.upload.is_some() && polled.is_ready() {
            self.copy(&polled);
        }
        match &polled {
            // Nothing follows trailers, and nobody asks for more behind them.
            Poll::Ready(Some(Ok(frame))) if frame.is_data() && !self.incoming.is_end_stream() => self.turn.body_moved(),
            Poll::Ready(Some(Ok(_)) | None) => self.turn.body_ended(),
            _ => {}
        }
        polled
    }

    /// Tells whoever gets a copy. Of a body that breaks off they hear no end.
    #[cold]
    fn copy(&mut self, polled: &Poll<Option<Result<Frame<Bytes>, hyper::Error>>>) {
        let Some(upload) = &self.upload else { return };
        let is_over = match polled {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(chunk) = frame.data_ref() {
                    upload.chunk(chunk);
                }
                // Nothing follows trailers.
                !frame.is_data() || self.incoming.is_end_stream()
            }
            Poll::Ready(None) => true,
            _ => false,
        };
        if is_over {
            upload.end();
            self.upload = None;
        }
    }
}

/// What frames or directs a request cannot be said behind it (RFC 9110, 6.5.1).
#[cold]
fn strip_trailers(trailers: &mut HeaderMap) {
    let is_never = |name: &&HeaderName| {
        let ours = ["x-banyan-", "x-forwarded-"];
        ours.iter().any(|prefix| spelling::begins(name.as_str(), prefix))
            || matches!(
                **name,
                header::AUTHORIZATION
                    | header::CONNECTION
                    | header::CONTENT_LENGTH
                    | header::COOKIE
                    | header::HOST
                    | header::TE
                    | header::TRAILER
                    | header::TRANSFER_ENCODING
                    | header::UPGRADE
            )
    };
    let named: Vec<HeaderName> = trailers.keys().filter(is_never).cloned().collect();
    for name in named {
        trailers.remove(name);
    }
}

// === impl Replay ===

impl Replay {
    pub(crate) fn new(body: Streamed) -> Self {
        Self { source: RefCell::new(body), seen: RefCell::default(), bytes: Cell::new(0), overflowed: Cell::new(false) }
    }

    /// The body from its first byte; `None` when some of it is gone.
    pub(crate) fn body(self: &Rc<Self>) -> Option<RequestBody> {
        (!self.overflowed.get()).then(|| RequestBody::Replayed { replay: Rc::clone(self), at: 0 })
    }

    fn poll(&self, cx: &mut Context<'_>, at: &mut usize) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        if let Some(chunk) = self.seen.borrow().get(*at) {
            *at += 1;
            return Poll::Ready(Some(Ok(Frame::data(chunk.clone()))));
        }
        let polled = self.source.borrow_mut().poll(cx);
        if let Poll::Ready(Some(Ok(frame))) = &polled {
            match frame.data_ref() {
                Some(chunk) if !self.overflowed.get() && self.bytes.get() + chunk.len() <= REPLAY_BYTES => {
                    self.bytes.set(self.bytes.get() + chunk.len());
                    self.seen.borrow_mut().push(chunk.clone());
                    *at += 1;
                }
                // Trailers are not kept either.
                _ => {
                    self.overflowed.set(true);
                    self.seen.borrow_mut().clear();
                    *at = 0;
                }
            }
        }
        polled
    }

    fn size_hint(&self, at: usize) -> SizeHint {
        let ahead =
            self.seen.borrow().get(at..).unwrap_or_default().iter().map(|chunk| chunk.len() as u64).sum::<u64>();
        match self.source.borrow().incoming.size_hint().exact() {
            Some(rest) => SizeHint::with_exact(ahead + rest),
            None => SizeHint::default(),
        }
    }
}

// === impl Gate ===

impl Gate {
    pub(crate) fn open(&self) {
        self.open.store(true, Ordering::Release);
        self.waker.wake();
    }

    fn poll_open(&self, cx: &Context<'_>) -> bool {
        if self.open.load(Ordering::Acquire) {
            return true;
        }
        self.waker.register(cx.waker());
        self.open.load(Ordering::Acquire)
    }
}
