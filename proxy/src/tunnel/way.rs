//! One direction of a tunnel. At its end the other side is told, and may go on sending.

use std::{
    io::{self, ErrorKind},
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::SCRATCH;

#[derive(Debug, Default)]
pub(super) struct Way {
    /// Read, and not yet taken by the other end.
    rest: Bytes,
    /// What was written may stand in a buffer of the other end's (TLS).
    is_unflushed: bool,
    state: State,
}

#[derive(Debug, Default, Clone, Copy)]
enum State {
    #[default]
    Open,
    /// Nothing more comes; whether that is an orderly end is not sure yet.
    Doubted,
    /// Nothing more comes; the other end is to be told.
    Ending,
    Ended,
}

// === impl Way ===

impl Way {
    /// With what came before there was a tunnel.
    pub(super) fn starting_with(rest: Bytes) -> Self {
        // An empty rest would still hold the whole buffer that it was cut from.
        let rest = if rest.is_empty() { Bytes::new() } else { rest };
        Self { rest, ..Self::default() }
    }

    /// Reads what is there and writes what fits; ready when this direction has ended.
    pub(super) fn poll<R, W>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut R,
        to: &mut W,
        mut passed: impl FnMut(&[u8]),
    ) -> Poll<io::Result<()>>
    where
        R: AsyncRead + AsyncWrite + Unpin,
        W: AsyncWrite + Unpin,
    {
        loop {
            ready!(self.poll_rest(cx, to, &mut passed))?;
            match self.state {
                State::Open => {
                    if self.poll_step(cx, from, to, &mut passed)?.is_pending() {
                        return self.poll_flush(cx, to);
                    }
                }
                State::Doubted => {
                    // A stream that its client reset ends like one that it closed. Only the way back knows, in a task that was woken with this one.
                    if let Poll::Ready(flushed) = Pin::new(&mut *from).poll_flush(cx) {
                        flushed?;
                    }
                    self.state = State::Ending;
                }
                State::Ending => {
                    ready!(poll_end(cx, to))?;
                    self.state = State::Ended;
                }
                State::Ended => return Poll::Ready(Ok(())),
            }
        }
    }

    /// Writes everything that is kept aside, and flushes it.
    pub(super) fn poll_out<W: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut W,
        mut passed: impl FnMut(&[u8]),
    ) -> Poll<io::Result<()>> {
        ready!(self.poll_rest(cx, to, &mut passed))?;
        Pin::new(to).poll_flush(cx)
    }

    fn poll_rest<W: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut W,
        passed: &mut impl FnMut(&[u8]),
    ) -> Poll<io::Result<()>> {
        while !self.rest.is_empty() {
            let written = ready!(poll_write(cx, to, &self.rest))?;
            passed(&self.rest[..written]);
            self.rest.advance(written);
            self.is_unflushed = true;
            if self.rest.is_empty() {
                // An empty rest would still hold what it was cut from.
                self.rest = Bytes::new();
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Reads once; what the other end does not take is kept aside.
    fn poll_step<R, W>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut R,
        to: &mut W,
        passed: &mut impl FnMut(&[u8]),
    ) -> io::Result<Poll<()>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        SCRATCH.with_borrow_mut(|scratch| {
            let mut into = ReadBuf::new(scratch);
            if Pin::new(from).poll_read(cx, &mut into)?.is_pending() {
                return Ok(Poll::Pending);
            }
            let mut read = into.filled();
            if read.is_empty() {
                self.state = State::Doubted;
                cx.waker().wake_by_ref();
                return Ok(Poll::Pending);
            }
            while !read.is_empty() {
                let Poll::Ready(written) = poll_write(cx, to, read)? else {
                    self.rest = Bytes::copy_from_slice(read);
                    break;
                };
                passed(&read[..written]);
                read = &read[written..];
                self.is_unflushed = true;
            }
            Ok(Poll::Ready(()))
        })
    }

    /// Pending in any case, unless it fails: there is more to come.
    fn poll_flush<W: AsyncWrite + Unpin>(&mut self, cx: &mut Context<'_>, to: &mut W) -> Poll<io::Result<()>> {
        if self.is_unflushed {
            ready!(Pin::new(to).poll_flush(cx))?;
            self.is_unflushed = false;
        }
        Poll::Pending
    }
}

/// At least one byte.
fn poll_write<W: AsyncWrite + Unpin>(cx: &mut Context<'_>, to: &mut W, bytes: &[u8]) -> Poll<io::Result<usize>> {
    match ready!(Pin::new(to).poll_write(cx, bytes))? {
        0 => Poll::Ready(Err(ErrorKind::WriteZero.into())),
        written => Poll::Ready(Ok(written)),
    }
}

/// Tells the other end that nothing more comes.
pub(super) fn poll_end<W: AsyncWrite + Unpin>(cx: &mut Context<'_>, to: &mut W) -> Poll<io::Result<()>> {
    match ready!(Pin::new(to).poll_shutdown(cx)) {
        // It has gone already; the other direction will see it too.
        Err(error) if error.kind() == ErrorKind::NotConnected => Poll::Ready(Ok(())),
        other => Poll::Ready(other),
    }
}
