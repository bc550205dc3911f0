//! Ports: the one that people know if it is free, else the next one.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener},
};

/// Hands out ports of 127.0.0.1, none twice.
#[derive(Default)]
pub(crate) struct Ports(Vec<u16>);

/// How far behind the wanted port another one is looked for.
const REACH: u16 = 200;

// === impl Ports ===

impl Ports {
    /// `wanted` if nobody listens there, else the next free one.
    ///
    /// # Errors
    /// When none of the next 200 is free.
    pub(crate) fn next_free(&mut self, wanted: u16) -> io::Result<SocketAddr> {
        let found = (wanted..=wanted.saturating_add(REACH))
            .filter(|port| !self.0.contains(port))
            .find(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok());
        let port = found.ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::AddrInUse,
                format!("no port from {wanted} to {} is free", wanted.saturating_add(REACH)),
            )
        })?;
        self.0.push(port);
        Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
    }

    /// Any free one, for what nobody types.
    ///
    /// # Errors
    /// When the system has none left.
    pub(crate) fn any(&mut self) -> io::Result<SocketAddr> {
        loop {
            let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
            if !self.0.contains(&address.port()) {
                self.0.push(address.port());
                return Ok(address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_gives_the_next_free_one_and_none_is_given_twice() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let wanted = taken.local_addr().unwrap().port();
        let mut ports = Ports::default();
        let first = ports.next_free(wanted).unwrap().port();
        assert!(first > wanted, "{first} against {wanted}");
        assert!(ports.next_free(wanted).unwrap().port() > first);
    }
}
