//! A client's socket as h2 sees it: what comes in is metered, and a flood ends it.

use std::{
    cell::{Cell, RefCell},
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::super::{meter::Meter, preface::PREFACE, turn::Turn, worker::Worker};
use crate::socket::Socket;

/// Shared by the loop, which needs the socket back, and by h2.
pub(super) struct Wire {
    socket: RefCell<Socket>,
    early: RefCell<Bytes>,
    meter: RefCell<Meter>,
    /// The client is to be told to calm down, and is not read from any more.
    refused: Cell<bool>,
    /// Everything that h2 wrote went to the socket: whole frames.
    flushed: Cell<bool>,
    turn: Rc<Turn>,
    worker: Rc<Worker>,
}

pub(super) struct WireIo(pub(super) Rc<Wire>);

/// RFC 9113, 7.
const ENHANCE_YOUR_CALM: u8 = 0xb;

// === impl Wire ===

impl Wire {
    pub(super) fn new(socket: Socket, early: Bytes, resets: u32, turn: &Rc<Turn>, worker: &Rc<Worker>) -> Self {
        Self {
            socket: RefCell::new(socket),
            early: RefCell::new(early),
            meter: RefCell::new(Meter::new(PREFACE.len(), resets, worker.now())),
            refused: Cell::new(false),
            flushed: Cell::new(true),
            turn: Rc::clone(turn),
            worker: Rc::clone(worker),
        }
    }

    pub(super) fn refuse(&self) {
        self.refused.set(true);
    }

    /// The socket, when h2 is done with it, and the last that the client is to hear.
    pub(super) fn into_parts(self) -> Option<(Socket, Vec<u8>)> {
        let mut last = Vec::new();
        if self.refused.get() {
            if !self.flushed.get() {
                // In the middle of a frame nothing can be said.
                return None;
            }
            last.extend([0, 0, 8, 7, 0, 0, 0, 0, 0]);
            last.extend(self.meter.borrow().last_stream().to_be_bytes());
            last.extend([0, 0, 0, ENHANCE_YOUR_CALM]);
        }
        Some((self.socket.into_inner(), last))
    }

    fn came(&self, bytes: &[u8]) -> io::Result<()> {
        let now = self.worker.now();
        let mut meter = self.meter.borrow_mut();
        if meter.pass(bytes, now).is_err() {
            self.refuse();
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        if meter.is_in_head() {
            self.turn.read(now);
        } else {
            self.turn.rests(now);
        }
        Ok(())
    }
}

// === impl WireIo ===

impl AsyncRead for WireIo {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let wire = &*self.0;
        let before = into.filled().len();
        let mut early = wire.early.borrow_mut();
        if early.is_empty() {
            ready!(Pin::new(&mut *wire.socket.borrow_mut()).poll_read(cx, into))?;
        } else {
            let count = early.len().min(into.remaining());
            into.put_slice(&early[..count]);
            early.advance(count);
        }
        Poll::Ready(wire.came(&into.filled()[before..]))
    }
}

impl AsyncWrite for WireIo {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.0.flushed.set(false);
        Pin::new(&mut *self.0.socket.borrow_mut()).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.0.flushed.set(false);
        Pin::new(&mut *self.0.socket.borrow_mut()).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// h2 flushes only once its own buffer is empty.
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut *self.0.socket.borrow_mut()).poll_flush(cx))?;
        self.0.flushed.set(true);
        Poll::Ready(Ok(()))
    }

    /// The loop does that, so that the client gets to hear the last frames.
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
