//! A request's body on its way into a stream, no faster than the peer's windows let it.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use h2::{Reason, SendStream};
use http_body::Body;

use super::RequestBody;

pub(super) struct Pump {
    body: RequestBody,
    stream: SendStream<Bytes>,
    /// Read, and not sent yet.
    chunk: Bytes,
}

// === impl Pump ===

impl Pump {
    pub(super) fn new(body: RequestBody, stream: SendStream<Bytes>) -> Self {
        Self { body, stream, chunk: Bytes::new() }
    }

    /// Ready when all of it is sent, or when the peer wants no more of it; that it reset the stream comes out at the answer.
    ///
    /// # Errors
    /// When the client's body failed; the stream is reset then.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        loop {
            if !self.chunk.is_empty() {
                self.stream.reserve_capacity(self.chunk.len());
                let Some(Ok(count)) = ready!(self.stream.poll_capacity(cx)) else { return Poll::Ready(Ok(())) };
                let part = self.chunk.split_to(count.min(self.chunk.len()));
                let is_last = self.chunk.is_empty() && self.body.is_end_stream();
                if self.stream.send_data(part, is_last).is_err() || is_last {
                    return Poll::Ready(Ok(()));
                }
                continue;
            }
            if self.stream.poll_reset(cx).is_ready() {
                return Poll::Ready(Ok(()));
            }
            let Some(frame) = ready!(Pin::new(&mut self.body).poll_frame(cx)) else {
                // A stream that is gone already says so at the answer.
                drop(self.stream.send_data(Bytes::new(), true));
                return Poll::Ready(Ok(()));
            };
            let frame = frame.inspect_err(|_| self.stream.send_reset(Reason::CANCEL))?;
            match frame.into_data() {
                Ok(chunk) => self.chunk = chunk,
                Err(frame) => {
                    if let Ok(trailers) = frame.into_trailers() {
                        drop(self.stream.send_trailers(trailers));
                    }
                    return Poll::Ready(Ok(()));
                }
            }
        }
    }
}
