//! After the 101: bytes both ways between a client and an upstream, until both have ended or one has failed.
//!
//! An idle tunnel holds no buffer: a direction waits for readiness and then reads into the one buffer of its thread. What the other end
//! cannot take at once is kept aside for as long as that lasts, and nothing more is read meanwhile.

use std::{
    cell::RefCell,
    io::{self, ErrorKind},
    net::Shutdown,
};

use bytes::Bytes;
use socket2::SockRef;
use tokio::net::TcpStream;

use crate::upstream::Open;

/// The upstream's end, as the forwarding station leaves it for the connection's loop.
pub(crate) struct Far {
    /// The socket, behind the head of the 101.
    pub(crate) stream: TcpStream,
    /// What came right behind that head.
    pub(crate) read: Bytes,
    /// Counts the connection for as long as it is open.
    pub(crate) open: Open,
}

const BUFFER: usize = 64 * 1024;

thread_local! {
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; BUFFER].into());
}

/// Runs a tunnel to its end. `early` is what the client sent right behind its request.
///
/// # Errors
/// When either socket failed; both are closed then.
pub(crate) async fn run(near: TcpStream, early: Bytes, far: Far) -> io::Result<()> {
    let Far { stream: far, read, open: _open } = far;
    write_all(&near, &read).await?;
    write_all(&far, &early).await?;
    drop((read, early));
    futures_util::future::try_join(copy(&near, &far), copy(&far, &near)).await?;
    Ok(())
}

/// One direction. At its end the other side is told, and may go on sending.
async fn copy(from: &TcpStream, to: &TcpStream) -> io::Result<()> {
    loop {
        from.readable().await?;
        match step(from, to)? {
            Step::Moved => {}
            Step::Left(rest) => write_all(to, &rest).await?,
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
fn step(from: &TcpStream, to: &TcpStream) -> io::Result<Step> {
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
                Ok(written) => rest = &rest[written..],
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Step::Left(rest.into())),
                Err(error) => return Err(error),
            }
        }
        Ok(Step::Moved)
    })
}

async fn write_all(to: &TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        to.writable().await?;
        match to.try_write(bytes) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn end(to: &TcpStream) -> io::Result<()> {
    match SockRef::from(to).shutdown(Shutdown::Write) {
        // It has gone already; the other direction will see it too.
        Err(error) if error.kind() == ErrorKind::NotConnected => Ok(()),
        other => other,
    }
}
