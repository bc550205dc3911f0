//! The listening sockets. One socket an address, bound without SO_REUSEPORT so that a second process fails with "address in use"; its
//! descriptor is duplicated to every worker, and no queued connection is lost when one of them stops.

use std::{
    io,
    net::{SocketAddr, TcpListener},
};

use socket2::{Domain, Protocol, Socket, Type};

use crate::error::StartError;

/// Connections that may wait to be accepted.
pub(super) const BACKLOG: i32 = 4096;

/// A socket that listens already: another process has bound it.
#[derive(Debug)]
pub struct Given {
    /// The address as that process's file has it: with port 0 another one than the socket's.
    pub bind: SocketAddr,
    /// Listens.
    pub socket: TcpListener,
}

/// Binds one address.
pub(crate) fn bind(address: SocketAddr) -> Result<TcpListener, StartError> {
    open(address).map_err(|cause| StartError::Listen { bind: address, cause })
}

fn open(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // So that a restart need not wait for the connections of the process before; two listeners still exclude each other on Linux.
    #[cfg(unix)]
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_bound_once() {
        let first = bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let taken = first.local_addr().unwrap();
        let second = bind(taken).unwrap_err();
        let StartError::Listen { bind, cause } = second else { panic!("{second}") };
        assert_eq!((bind, cause.kind()), (taken, io::ErrorKind::AddrInUse));
    }
}
