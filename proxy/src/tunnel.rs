//! After the 101: bytes both ways between a client and an upstream, until both have ended or one has failed.
//!
//! An idle tunnel holds no buffer: a direction waits for readiness and then reads into the one buffer of its thread. What the other end
//! cannot take at once is kept aside for as long as that lasts, and nothing more is read meanwhile.
//!
//! A tunnel of a synced route was opened at the side that owned the rows. When the owner moves, it is closed with notice (1012), between two
//! frames and at a random moment of the next seconds, so that not all clients come back at once.

mod frames;

use std::{
    cell::RefCell,
    future::{Future, poll_fn},
    io::{self, ErrorKind},
    net::Shutdown,
    pin::pin,
    sync::Arc,
    task::Poll,
    time::Duration,
};

use bytes::Bytes;
use socket2::SockRef;
use tokio::net::TcpStream;

use self::frames::{Frames, RESTART};
use crate::{
    links::{Owner, SyncLink},
    upstream::Open,
};

/// The upstream's end, as the forwarding station leaves it for the connection's loop.
pub(crate) struct Far {
    /// The socket, behind the head of the 101.
    pub(crate) stream: TcpStream,
    /// What came right behind that head.
    pub(crate) read: Bytes,
    /// Counts the connection for as long as it is open.
    pub(crate) open: Open,
    /// On a synced route: the tunnel lasts as long as this.
    pub(crate) tenure: Option<Tenure>,
}

/// The side that a tunnel was opened at, and who knows whether it still owns the rows.
pub(crate) struct Tenure {
    pub(crate) link: Arc<dyn SyncLink>,
    pub(crate) owner: Owner,
}

const BUFFER: usize = 64 * 1024;
/// How often a tunnel asks whether its owner has moved.
const ASK_EVERY: Duration = Duration::from_millis(500);
/// Over how long the tunnels of a sync are closed when it has.
const SPREAD_MS: u32 = 5000;
/// How long the goodbye may take.
const GOODBYE: Duration = Duration::from_secs(1);

thread_local! {
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; BUFFER].into());
}

/// Runs a tunnel to its end. `early` is what the client sent right behind its request.
///
/// # Errors
/// When either socket failed; both are closed then.
pub(crate) async fn run(near: TcpStream, early: Bytes, far: Far) -> io::Result<()> {
    let Far { stream: far, read, open: _open, tenure } = far;
    let frames = RefCell::new(Frames::default());
    write_all(&near, &read).await?;
    frames.borrow_mut().pass(&read);
    write_all(&far, &early).await?;
    drop((read, early));
    let mut both = pin!(futures_util::future::try_join(
        copy(&near, &far, |_| ()),
        copy(&far, &near, |bytes| frames.borrow_mut().pass(bytes)),
    ));
    let Some(tenure) = tenure else { return both.await.map(|_| ()) };
    tokio::select! {
        ended = &mut both => return ended.map(|_| ()),
        () = tenure.ends() => {}
    }
    let between = poll_fn(|cx| {
        if frames.borrow().is_between() {
            return Poll::Ready(true);
        }
        match both.as_mut().poll(cx) {
            Poll::Ready(_) => Poll::Ready(false),
            Poll::Pending if frames.borrow().is_between() => Poll::Ready(true),
            Poll::Pending => Poll::Pending,
        }
    });
    let is_between = tokio::time::timeout(GOODBYE, between).await.unwrap_or(false);
    if is_between {
        // Whether the client answers or not, the connection ends.
        drop(tokio::time::timeout(GOODBYE, goodbye(&near)).await);
    }
    Ok(())
}

/// Says that the service restarts, and lets the client hear it before the socket is closed.
async fn goodbye(near: &TcpStream) -> io::Result<()> {
    write_all(near, &RESTART).await?;
    end(near)?;
    loop {
        near.readable().await?;
        let read = SCRATCH.with_borrow_mut(|scratch| near.try_read(scratch));
        match read {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

/// One direction. At its end the other side is told, and may go on sending.
async fn copy(from: &TcpStream, to: &TcpStream, passed: impl Fn(&[u8])) -> io::Result<()> {
    loop {
        from.readable().await?;
        match step(from, to, &passed)? {
            Step::Moved => {}
            Step::Left(rest) => {
                let mut rest = &rest[..];
                while !rest.is_empty() {
                    let written = write(to, rest).await?;
                    passed(&rest[..written]);
                    rest = &rest[written..];
                }
            }
            Step::Ended => return end(to),
        }
    }
}

enum Step {
    Moved,
    Left(Box<[u8]>),
    Ended,
}

/// Reads what is there and writes what fits.
fn step(from: &TcpStream, to: &TcpStream, passed: &impl Fn(&[u8])) -> io::Result<Step> {
    SCRATCH.with_borrow_mut(|scratch| {
        let count = match from.try_read(scratch) {
            Ok(0) => return Ok(Step::Ended),
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Step::Moved),
            Err(error) => return Err(error),
        };
        let mut rest = &scratch[..count];
        while !rest.is_empty() {
            match to.try_write(rest) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(written) => {
                    passed(&rest[..written]);
                    rest = &rest[written..];
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Step::Left(rest.into())),
                Err(error) => return Err(error),
            }
        }
        Ok(Step::Moved)
    })
}

async fn write_all(to: &TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        let written = write(to, bytes).await?;
        bytes = &bytes[written..];
    }
    Ok(())
}

/// At least one byte.
async fn write(to: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
    loop {
        to.writable().await?;
        match to.try_write(bytes) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(written) => return Ok(written),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

fn end(to: &TcpStream) -> io::Result<()> {
    match SockRef::from(to).shutdown(Shutdown::Write) {
        // It has gone already; the other direction will see it too.
        Err(error) if error.kind() == ErrorKind::NotConnected => Ok(()),
        other => other,
    }
}

// === impl Tenure ===

impl Tenure {
    /// The owner has moved, and this tunnel's turn has come.
    async fn ends(&self) {
        while self.link.owner() == self.owner {
            tokio::time::sleep(ASK_EVERY).await;
        }
        let jitter = getrandom::u32().unwrap_or_default() % SPREAD_MS;
        tokio::time::sleep(Duration::from_millis(u64::from(jitter))).await;
    }
}
