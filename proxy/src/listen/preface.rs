//! Whether a client on a plain connection speaks HTTP/2 without having asked first ("prior knowledge", RFC 9113, 3.3): it begins with a text
//! that is no HTTP/1 request.

use std::{future::poll_fn, pin::Pin, task::Poll};

use bytes::Bytes;
use tokio::io::{AsyncRead, ReadBuf};

use super::{
    turn::{Order, Turn},
    worker::Worker,
};
use crate::socket::Socket;

/// What an HTTP/2 client says first (RFC 9113, 3.4).
pub(super) const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How a client's first bytes look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    Http1,
    Http2,
    /// Too few to tell.
    Unsure,
}

// === impl Look ===

impl Look {
    pub(super) fn at(first: &[u8]) -> Self {
        let count = first.len().min(PREFACE.len());
        if first[..count] != PREFACE[..count] {
            Self::Http1
        } else if count == PREFACE.len() {
            Self::Http2
        } else {
            Self::Unsure
        }
    }
}

/// Reads until it can be told; under the deadline of a head. `None` when the connection ended, or took too long.
pub(super) async fn read(socket: &mut Socket, turn: &Turn, worker: &Worker) -> Option<(Bytes, Look)> {
    let mut first = [0; PREFACE.len()];
    let mut into = ReadBuf::new(&mut first);
    let look = poll_fn(|cx| {
        loop {
            let before = into.filled().len();
            match Pin::new(&mut *socket).poll_read(cx, &mut into) {
                Poll::Ready(Ok(())) if into.filled().len() > before => {
                    turn.read(worker.now());
                    match Look::at(into.filled()) {
                        Look::Unsure => {}
                        sure => return Poll::Ready(Some(sure)),
                    }
                }
                Poll::Ready(_) => return Poll::Ready(None),
                Poll::Pending => {
                    if turn.take_order() == Some(Order::HeadLate) {
                        return Poll::Ready(None);
                    }
                    turn.wakes(cx.waker());
                    return Poll::Pending;
                }
            }
        }
    })
    .await?;
    Some((Bytes::copy_from_slice(into.filled()), look))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_preface_is_told_from_a_request_as_early_as_it_differs() {
        for (first, look) in [
            (&b"P"[..], Look::Unsure),
            (b"PR", Look::Unsure),
            (b"PO", Look::Http1),
            (b"PROPFIND / HTTP/1.1\r\n", Look::Http1),
            (b"GET / HTTP/1.1\r\n\r\n", Look::Http1),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r", Look::Unsure),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Look::Http2),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0", Look::Http2),
        ] {
            assert_eq!(Look::at(first), look, "{first:?}");
        }
    }
}
