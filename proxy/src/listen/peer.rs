//! Who is at the other end of a client's connection: the same for all its requests.

use std::{
    cell::OnceCell,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use http::HeaderValue;

use super::ListenerState;

#[derive(Debug)]
pub(crate) struct Peer {
    address: SocketAddr,
    /// Which one it came to.
    listener: Arc<ListenerState>,
    is_tls: bool,
    forwarded_for: OnceCell<HeaderValue>,
}

// === impl Peer ===

impl Peer {
    pub(crate) fn new(address: SocketAddr, listener: &Arc<ListenerState>, is_tls: bool) -> Self {
        Self { address, listener: Arc::clone(listener), is_tls, forwarded_for: OnceCell::new() }
    }

    pub(crate) fn ip(&self) -> IpAddr {
        self.address.ip().to_canonical()
    }

    /// The address as a header's value; formatted once a connection.
    pub(crate) fn header(&self) -> &HeaderValue {
        self.forwarded_for
            .get_or_init(|| HeaderValue::try_from(self.ip().to_string()).unwrap_or(HeaderValue::from_static("unknown")))
    }

    pub(crate) fn listener(&self) -> &Arc<ListenerState> {
        &self.listener
    }

    /// Whether Banyan itself ends the client's TLS.
    pub(crate) fn is_tls(&self) -> bool {
        self.is_tls
    }
}
