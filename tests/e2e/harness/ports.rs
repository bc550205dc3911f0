//! Ports for servers that must come back on the same one after a restart.
//!
//! A port below the range from which the system takes those of outgoing connections: one from inside could be taken by
//! somebody's connection while its server is down. It is tried by binding it, and given out once a process.

use std::{
    collections::HashSet,
    net::TcpListener,
    sync::{LazyLock, Mutex},
};

static GIVEN: LazyLock<Mutex<HashSet<u16>>> = LazyLock::new(Mutex::default);

/// A free port of 127.0.0.1.
pub(crate) fn reserve() -> u16 {
    let mut given = GIVEN.lock().unwrap();
    for _ in 0..1000 {
        let port = rand::random_range(10_000..outgoing_from());
        if !given.contains(&port) && TcpListener::bind(("127.0.0.1", port)).is_ok() {
            given.insert(port);
            return port;
        }
    }
    panic!("no free port between 10000 and {}", outgoing_from());
}

fn outgoing_from() -> u16 {
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let first = range.split_whitespace().next().and_then(|first| first.parse().ok()).unwrap_or(32_768);
    if first > 11_000 { first } else { 32_768 }
}
