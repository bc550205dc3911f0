//! Ports: the one that people know if it is free, else the next one.

use std::{
    io,
    net::{Ipv4Addr, TcpListener},
};

/// How far behind the wanted port another one is looked for.
const REACH: u16 = 200;

/// Listens on `wanted` of 127.0.0.1, or on the next port that nobody listens on.
///
/// # Errors
/// When none of the next 200 is free.
pub(crate) fn listen(wanted: u16) -> io::Result<TcpListener> {
    let last = wanted.saturating_add(REACH);
    let free = (wanted..=last).find_map(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).ok());
    free.ok_or_else(|| io::Error::new(io::ErrorKind::AddrInUse, format!("no port from {wanted} to {last} is free")))
}

/// Any free port, for what nobody types. It is not held: whoever gets it should be started at once.
///
/// # Errors
/// When the system has none left.
pub(crate) fn any() -> io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_gives_the_next_free_one() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let wanted = taken.local_addr().unwrap().port();
        let first = listen(wanted).unwrap();
        let second = listen(wanted).unwrap();
        assert!(wanted < first.local_addr().unwrap().port());
        assert!(first.local_addr().unwrap().port() < second.local_addr().unwrap().port());
    }
}
