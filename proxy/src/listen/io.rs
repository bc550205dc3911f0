//! A client's socket as hyper sees it: tells the connection's [`Turn`] of every byte in and every flush, and gives back first what an earlier
//! hyper connection on the same socket had read too much.

use std::{
    future::Future,
    io,
    pin::{Pin, pin},
    rc::Rc,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};

use super::{turn::Turn, worker::Worker};
use crate::socket::Socket;

pub(super) struct ClientIo {
    pub(super) socket: Socket,
    /// Read before hyper was built; goes first.
    pub(super) early: Bytes,
    pub(super) turn: Rc<Turn>,
    pub(super) worker: Rc<Worker>,
}

// === impl ClientIo ===

impl ClientIo {
    /// hyper reads nothing while a request is being answered, and so hears of no end. It flushes whenever the connection is polled.
    #[cold]
    fn look(&self, cx: &mut Context<'_>) {
        let tcp = self.socket.tcp();
        // Wakes this connection at the next change, unless bytes are there that nobody has read.
        if tcp.poll_read_ready(cx).is_pending() || self.turn.is_client_gone() {
            return;
        }
        if let Poll::Ready(Ok(ready)) = pin!(tcp.ready(Interest::READABLE)).poll(cx)
            && ready.is_read_closed()
        {
            self.turn.client_is_gone();
            // The request that waits was polled before this.
            cx.waker().wake_by_ref();
        }
    }
}

impl AsyncRead for ClientIo {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.early.is_empty() {
            let count = self.early.len().min(into.remaining());
            into.put_slice(&self.early[..count]);
            self.early.advance(count);
            self.turn.read(self.worker.now());
            return Poll::Ready(Ok(()));
        }
        let before = into.filled().len();
        let polled = Pin::new(&mut self.socket).poll_read(cx, into);
        if into.filled().len() > before {
            self.turn.read(self.worker.now());
        }
        polled
    }
}

impl ClientIo {
    /// Tells whether the client takes what it is sent.
    fn took(&self, polled: &Poll<io::Result<usize>>) {
        if polled.is_ready() {
            self.turn.taken();
        }
    }
}

impl AsyncWrite for ClientIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.turn.wrote();
        let polled = Pin::new(&mut self.socket).poll_write(cx, bytes);
        self.took(&polled);
        polled
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.turn.wrote();
        let polled = Pin::new(&mut self.socket).poll_write_vectored(cx, slices);
        self.took(&polled);
        polled
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// hyper flushes only once its own buffer is empty: when the socket's is too, everything is out.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.socket).poll_flush(cx))?;
        self.turn.flushed();
        if self.turn.is_watched() {
            self.look(cx);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}
