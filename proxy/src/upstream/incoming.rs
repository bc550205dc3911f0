//! The body of an answer as it comes from an upstream.

use std::{
    pin::Pin,
    task::{Context, Poll, Waker, ready},
};

use bytes::Bytes;
use h2::RecvStream;
use http::{Response, header};
use hyper::body::{Body, Frame, SizeHint};

pub(crate) enum Incoming {
    /// Of a connection of its own.
    One(hyper::body::Incoming),
    /// Of a stream of a shared one.
    Shared(Received),
}

/// A stream's answer.
pub(crate) struct Received {
    stream: RecvStream,
    /// What is left of an announced length.
    left: Option<u64>,
    /// All data was read, and the trailers too.
    is_over: (bool, bool),
}

/// An answer broke off.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    #[error("the upstream's connection broke off")]
    One(#[source] hyper::Error),
    #[error("the upstream reset the stream")]
    Shared(#[source] h2::Error),
}

// === impl Incoming ===

impl Incoming {
    pub(super) fn shared(answer: Response<RecvStream>) -> Response<Self> {
        let length = answer.headers().get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        // Behind none there may be trailers at once, which only the ordinary way passes on.
        let left = length.filter(|length| *length > 0);
        answer.map(|stream| Self::Shared(Received { stream, left, is_over: (false, false) }))
    }

    /// The rest of a stream, unread.
    pub(super) fn into_stream(self) -> Option<RecvStream> {
        match self {
            Self::One(_) => None,
            Self::Shared(received) => Some(received.stream),
        }
    }

    /// The next frame. That of an HTTP/1.1 connection only comes out of its driver, which the caller polls: it needs no waker of its own.
    pub(crate) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self {
            Self::One(incoming) => Pin::new(incoming)
                .poll_frame(&mut Context::from_waker(Waker::noop()))
                .map(|frame| frame.map(|frame| frame.map_err(BodyError::One))),
            Self::Shared(received) => {
                received.poll_frame(cx).map(|frame| frame.map(|frame| frame.map_err(BodyError::Shared)))
            }
        }
    }

    /// The next frame, if it is here.
    pub(crate) fn poll_quietly(&mut self) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.poll_frame(&mut Context::from_waker(Waker::noop()))
    }

    pub(crate) fn is_end_stream(&self) -> bool {
        match self {
            Self::One(incoming) => incoming.is_end_stream(),
            Self::Shared(received) => received.is_over.1 || received.stream.is_end_stream(),
        }
    }

    pub(crate) fn size_hint(&self) -> SizeHint {
        match self {
            Self::One(incoming) => incoming.size_hint(),
            Self::Shared(Received { left: Some(left), .. }) => SizeHint::with_exact(*left),
            Self::Shared(received) if received.stream.is_end_stream() => SizeHint::with_exact(0),
            Self::Shared(_) => SizeHint::default(),
        }
    }
}

// === impl Received ===

impl Received {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        if !self.is_over.0 {
            match ready!(self.stream.poll_data(cx)) {
                Some(Ok(chunk)) => {
                    // Whoever asks for the next frame has a place for it: only then may the peer send more.
                    drop(self.stream.flow_control().release_capacity(chunk.len()));
                    self.left = self.left.map(|left| left.saturating_sub(chunk.len() as u64));
                    return Poll::Ready(Some(Ok(Frame::data(chunk))));
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => self.is_over.0 = true,
            }
        }
        if self.is_over.1 {
            return Poll::Ready(None);
        }
        let trailers = ready!(self.stream.poll_trailers(cx));
        self.is_over.1 = true;
        Poll::Ready(trailers.map(|trailers| trailers.map(Frame::trailers)).transpose())
    }
}
