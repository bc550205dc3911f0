//! An upstream's end of a tunnel: the bare socket behind a 101, or one stream of a shared connection.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use h2::{RecvStream, SendStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{Open, session::Slot};
use crate::socket::Socket;

/// It counts as open for as long as it lives.
pub(crate) enum FarEnd {
    One { socket: Socket, _open: Open },
    Shared(Box<Channel>),
}

/// A stream that carries bytes both ways (RFC 8441, 5). Dropped before both directions have ended, it is reset.
pub(crate) struct Channel {
    down: RecvStream,
    up: SendStream<Bytes>,
    /// Came, and was not read yet.
    rest: Bytes,
    _slot: Slot,
}

/// At most so much is handed to the connection at once.
const CHUNK: usize = 16 * 1024;

// === impl FarEnd ===

impl AsyncRead for FarEnd {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::One { socket, .. } => Pin::new(socket).poll_read(cx, into),
            Self::Shared(channel) => channel.poll_read(cx, into),
        }
    }
}

impl AsyncWrite for FarEnd {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::One { socket, .. } => Pin::new(socket).poll_write(cx, bytes),
            Self::Shared(channel) => channel.poll_write(cx, bytes),
        }
    }

    /// A shared connection's driver writes what it was given by itself.
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::One { socket, .. } => Pin::new(socket).poll_flush(cx),
            Self::Shared(_) => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::One { socket, .. } => Pin::new(socket).poll_shutdown(cx),
            Self::Shared(channel) => Poll::Ready(channel.up.send_data(Bytes::new(), true).map_err(io::Error::other)),
        }
    }
}

// === impl Channel ===

impl Channel {
    pub(super) fn new(up: SendStream<Bytes>, down: RecvStream, slot: Slot) -> Self {
        Self { down, up, rest: Bytes::new(), _slot: slot }
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        while self.rest.is_empty() {
            match ready!(self.down.poll_data(cx)) {
                Some(chunk) => self.rest = chunk.map_err(io::Error::other)?,
                None => return Poll::Ready(Ok(())),
            }
        }
        let count = self.rest.len().min(into.remaining());
        into.put_slice(&self.rest[..count]);
        self.rest.advance(count);
        if self.rest.is_empty() {
            // An empty rest would still hold what it was cut from.
            self.rest = Bytes::new();
        }
        // Only now may the peer send more.
        self.down.flow_control().release_capacity(count).map_err(io::Error::other)?;
        Poll::Ready(Ok(()))
    }

    /// Takes as much as the peer's windows allow.
    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let wanted = bytes.len().min(CHUNK);
        self.up.reserve_capacity(wanted);
        while self.up.capacity() == 0 {
            match ready!(self.up.poll_capacity(cx)) {
                Some(room) => room.map_err(io::Error::other)?,
                None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            };
        }
        let count = wanted.min(self.up.capacity());
        self.up.send_data(Bytes::copy_from_slice(&bytes[..count]), false).map_err(io::Error::other)?;
        Poll::Ready(Ok(count))
    }
}
