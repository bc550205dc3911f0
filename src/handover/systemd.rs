//! What systemd gives and wants: sockets that it listens on (`LISTEN_FDS`, sd_listen_fds(3)), and the word that a start is over
//! (`NOTIFY_SOCKET`, sd_notify(3)).

use std::{
    env,
    net::TcpListener,
    os::{
        linux::net::SocketAddrExt as _,
        unix::net::{SocketAddr, UnixDatagram},
    },
};

use listenfd::ListenFd;
use tracing::{info, warn};

use super::{Inherited, Role};
use crate::config::Loaded;

/// Takes the variables out of the environment, which is to be done while there is one thread.
pub(crate) fn given() -> ListenFd {
    ListenFd::from_env()
}

/// Adds the sockets that systemd gave to this process, each for what the file says of its address.
pub(crate) fn sockets(mut given: ListenFd, loaded: &Loaded, inherited: &mut Inherited) {
    for number in 0..given.len() {
        match given.take_tcp_listener(number) {
            Ok(socket) => socket.into_iter().for_each(|socket| add(socket, loaded, inherited)),
            Err(error) => warn!(number, "a socket of systemd's is of no use here: {error}"),
        }
    }
}

fn add(socket: TcpListener, loaded: &Loaded, inherited: &mut Inherited) {
    let Ok(address) = socket.set_nonblocking(true).and_then(|()| socket.local_addr()) else { return };
    let role = if loaded.proxy.listeners.iter().any(|listener| listener.bind == address) {
        Role::Listener
    } else if loaded.admin.bind == address {
        Role::Admin
    } else if loaded.admin.probes == Some(address) {
        Role::Probes
    } else {
        warn!(%address, "systemd listens there, and the file names no such address: nobody answers there");
        return;
    };
    info!(%address, "systemd listens there for this process");
    inherited.add(role, address, socket);
}

/// Tells systemd, where it wants to know, that the start is over, and which process it is to look after from now on.
pub(crate) fn ready() {
    let Some(path) = env::var_os("NOTIFY_SOCKET") else { return };
    let told = (|| {
        let address = match path.as_encoded_bytes().strip_prefix(b"@") {
            Some(name) => SocketAddr::from_abstract_name(name)?,
            None => SocketAddr::from_pathname(&path)?,
        };
        let message = format!("READY=1\nMAINPID={}", std::process::id());
        UnixDatagram::unbound()?.send_to_addr(message.as_bytes(), &address)
    })();
    if let Err(error) = told {
        warn!("systemd cannot be told that the start is over: {error}");
    }
}
