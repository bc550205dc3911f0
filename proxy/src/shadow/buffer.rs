//! Bytes of one body, kept as far as a bound, in pieces that are charged to the budget.

use std::{
    borrow::Cow,
    collections::VecDeque,
    convert::Infallible,
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};

use super::{
    budget::Budget,
    pool::{PIECE, Piece},
};

/// A body as far as it has come.
pub(super) struct Buffer {
    budget: Arc<Budget>,
    pieces: VecDeque<Piece>,
    length: usize,
    bound: usize,
}

/// Why a chunk was not kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Full {
    /// The body is longer than the bound.
    Bound,
    /// The process has no memory left for it.
    Budget,
}

/// A body that was kept, on its way to the shadow.
#[derive(Debug, Default)]
pub(super) struct Upload {
    pieces: VecDeque<Piece>,
    length: u64,
}

// === impl Buffer ===

impl Buffer {
    pub(super) fn new(budget: Arc<Budget>, bound: usize) -> Self {
        Self { budget, pieces: VecDeque::new(), length: 0, bound }
    }

    pub(super) fn len(&self) -> usize {
        self.length
    }

    /// Whether so many bytes more are within the bound.
    pub(super) fn has_room(&self, more: usize) -> bool {
        more <= self.bound.saturating_sub(self.length)
    }

    /// Keeps a copy of a chunk: the chunk itself would hold the whole buffer that it was read into.
    pub(super) fn push(&mut self, mut chunk: &[u8]) -> Result<(), Full> {
        if !self.has_room(chunk.len()) {
            return Err(Full::Bound);
        }
        self.length += chunk.len();
        if let Some(last) = self.pieces.back_mut() {
            chunk = last.fill(chunk);
        }
        while !chunk.is_empty() {
            let mut piece = Piece::try_new(&self.budget).ok_or(Full::Budget)?;
            chunk = piece.fill(chunk);
            self.pieces.push_back(piece);
        }
        Ok(())
    }

    /// All of it, in one.
    pub(super) fn joined(&self) -> Cow<'_, [u8]> {
        match self.pieces.len() {
            0 => Cow::Borrowed(&[]),
            1 => Cow::Borrowed(self.pieces[0].as_ref()),
            _ => {
                let mut all = Vec::with_capacity(self.length);
                self.pieces.iter().for_each(|piece| all.extend_from_slice(piece.as_ref()));
                Cow::Owned(all)
            }
        }
    }

    /// What joining it takes beside.
    pub(super) fn joining(&self) -> usize {
        if self.length > PIECE { self.length } else { 0 }
    }

    /// In the pieces in which it is kept.
    pub(super) fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        self.pieces.iter().map(AsRef::as_ref)
    }

    /// Gives everything back.
    pub(super) fn clear(&mut self) {
        self.pieces = VecDeque::new();
        self.length = 0;
    }

    /// The body, to be sent.
    pub(super) fn into_body(self) -> Upload {
        Upload { length: self.length as u64, pieces: self.pieces }
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Never what is in it.
        f.debug_struct("Buffer").field("length", &self.length).finish_non_exhaustive()
    }
}

// === impl Upload ===

impl Body for Upload {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let piece = self.pieces.pop_front().map(Bytes::from_owner);
        self.length -= piece.as_ref().map_or(0, |piece| piece.len() as u64);
        Poll::Ready(piece.map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.pieces.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.length)
    }
}
