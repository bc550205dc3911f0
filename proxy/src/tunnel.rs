//! After the 101: bytes both ways between a client and an upstream, until both have ended or one has failed. Either may be a stream of an HTTP/2
//! connection (RFC 8441).
//!
//! An idle tunnel holds no buffer: a direction reads into the one buffer of its thread. What the other end cannot take at once is kept aside
//! for as long as that lasts, and nothing more is read meanwhile.
//!
//! A tunnel of a synced route was opened at the side that owned the rows. When the owner moves, it is closed with notice (1012), between two
//! frames and at a random moment of the next seconds, so that not all clients come back at once. When Banyan stops, all are closed so, at
//! random moments of the time that it has.

pub(crate) mod frames;
mod way;

use std::{
    cell::RefCell,
    future::poll_fn,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use self::{
    frames::{Frames, RESTART},
    way::Way,
};
use crate::{
    links::{Owner, SyncLink},
    listen::Worker,
    metrics::RouteShard,
    upstream::FarEnd,
};

/// The upstream's end, as the forwarding station leaves it for the connection's loop.
pub(crate) struct Far {
    /// Behind the head of the 101.
    pub(crate) end: FarEnd,
    /// What came right behind that head.
    pub(crate) read: Bytes,
    /// On a synced route: the tunnel lasts as long as this.
    pub(crate) tenure: Option<Tenure>,
    /// Counts the tunnel for as long as it is open.
    pub(crate) counted: Counted,
}

/// Counts a tunnel of a route and side as open.
pub(crate) struct Counted {
    shard: Arc<RouteShard>,
    side: Owner,
}

/// The side that a tunnel was opened at, and who knows whether it still owns the rows.
pub(crate) struct Tenure {
    pub(crate) link: Arc<dyn SyncLink>,
    pub(crate) owner: Owner,
}

/// Both ends, and what is under way between them.
struct Tunnel<N> {
    near: N,
    far: FarEnd,
    up: Way,
    down: Way,
    /// Of what the client was sent.
    frames: Frames,
}

const BUFFER: usize = 64 * 1024;
/// Over how long the tunnels of a sync are closed when it has.
const SPREAD: Duration = Duration::from_secs(5);
/// How long the goodbye may take.
const GOODBYE: Duration = Duration::from_secs(1);

thread_local! {
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; BUFFER].into());
}

/// Runs a tunnel to its end. `early` is what the client sent right behind its request.
///
/// # Errors
/// When either end failed; both are closed then.
pub(crate) async fn run<N: AsyncRead + AsyncWrite + Unpin>(
    near: N,
    early: Bytes,
    far: Far,
    worker: &Worker,
) -> io::Result<()> {
    let Far { end, read, tenure, counted: _counted } = far;
    let (up, down) = (Way::starting_with(early), Way::starting_with(read));
    let mut tunnel = Tunnel { near, far: end, up, down, frames: Frames::default() };
    let over = async {
        match &tenure {
            None => worker.stops().await,
            Some(tenure) => tokio::select! {
                until = worker.stops() => until,
                until = tenure.ends() => until,
            },
        }
    };
    tokio::select! {
        ended = poll_fn(|cx| tunnel.poll(cx)) => return ended,
        () = async { some_moment_before(over.await).await } => {}
    }
    tunnel.close().await;
    Ok(())
}

// === impl Tunnel ===

impl<N: AsyncRead + AsyncWrite + Unpin> Tunnel<N> {
    /// Moves what can be moved; ready when both directions have ended.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { near, far, up, down, frames } = self;
        let up = up.poll(cx, near, far, |_| ())?;
        let down = down.poll(cx, far, near, |bytes| frames.pass(bytes))?;
        if up.is_ready() && down.is_ready() { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    /// Closes it with notice, at the next moment between two frames.
    async fn close(mut self) {
        let between = poll_fn(|cx| {
            if self.frames.is_between() {
                return Poll::Ready(true);
            }
            match self.poll(cx) {
                Poll::Ready(_) => Poll::Ready(false),
                Poll::Pending if self.frames.is_between() => Poll::Ready(true),
                Poll::Pending => Poll::Pending,
            }
        });
        let is_between = tokio::time::timeout(GOODBYE, between).await.unwrap_or(false);
        if is_between {
            // Whether the client answers or not, the connection ends.
            drop(tokio::time::timeout(GOODBYE, goodbye(&mut self.near)).await);
        }
    }
}

/// Says that the service restarts, and lets the client hear it before the socket is closed.
async fn goodbye<N: AsyncRead + AsyncWrite + Unpin>(near: &mut N) -> io::Result<()> {
    let mut way = Way::starting_with(Bytes::from_static(&RESTART));
    poll_fn(|cx| way.poll_out(cx, near, |_| ())).await?;
    poll_fn(|cx| way::poll_end(cx, near)).await?;
    poll_fn(|cx| {
        loop {
            let count = SCRATCH.with_borrow_mut(|scratch| {
                let mut into = ReadBuf::new(scratch);
                ready!(Pin::new(&mut *near).poll_read(cx, &mut into))?;
                Poll::Ready(io::Result::Ok(into.filled().len()))
            });
            if ready!(count)? == 0 {
                return Poll::Ready(Ok(()));
            }
        }
    })
    .await
}

/// Waits until a random moment before that one, with time left to say goodbye.
async fn some_moment_before(until: Instant) {
    let spread = until.saturating_duration_since(Instant::now()).saturating_sub(2 * GOODBYE);
    let share = f64::from(getrandom::u32().unwrap_or_default()) / f64::from(u32::MAX);
    tokio::time::sleep(spread.mul_f64(share)).await;
}

// === impl Counted ===

impl Counted {
    pub(crate) fn new(shard: &Arc<RouteShard>, side: Owner) -> Self {
        shard.tunnel_opened(side);
        Self { shard: Arc::clone(shard), side }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.shard.tunnel_closed(self.side);
    }
}

// === impl Tenure ===

impl Tenure {
    /// The owner has moved: by when the tunnel is to end.
    async fn ends(&self) -> Instant {
        let mut changes = self.link.hold().changes();
        while self.link.owner() == self.owner {
            // Whoever could tell of a change is gone: so are the changes.
            if changes.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
        Instant::now() + SPREAD + 2 * GOODBYE
    }
}
