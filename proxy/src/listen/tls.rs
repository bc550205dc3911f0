//! TLS towards clients: what a listener shows and asks for, read from files, and read again when they change.

mod expiry;
mod files;
mod watch;

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, server::TlsStream};

pub use self::expiry::Expiry;
pub(super) use self::files::{H2, Stamp};
pub use self::files::{Offers, TlsFileError};
pub(crate) use self::watch::Watch;
use crate::{config::ListenerTls, socket::Socket};

/// One listener's TLS.
#[derive(Debug)]
pub struct Tls {
    spec: ListenerTls,
    offers: Offers,
    current: ArcSwap<InForce>,
    files: Mutex<Seen>,
}

/// What was read last without an error.
#[derive(Debug)]
struct InForce {
    config: Arc<ServerConfig>,
    expiries: Vec<Expiry>,
}

/// What is known of the files on disk.
#[derive(Debug)]
struct Seen {
    /// When they were last read.
    stamp: Stamp,
    /// Why what stands there now is not in force.
    trouble: Option<String>,
}

/// A client that speaks TLS, and whether it wants HTTP/2.
pub(super) struct Accepted {
    pub(super) socket: Socket,
    pub(super) is_http2: bool,
}

// === impl Tls ===

impl Tls {
    /// Reads the files of a listener.
    ///
    /// # Errors
    /// When one of them cannot be used.
    pub fn open(spec: &ListenerTls, offers: Offers) -> Result<Self, TlsFileError> {
        let stamp = Stamp::of(spec);
        let current = ArcSwap::from_pointee(files::read(spec, offers)?);
        Ok(Self { spec: spec.clone(), offers, current, files: Mutex::new(Seen { stamp, trouble: None }) })
    }

    /// The files by which it was opened.
    #[must_use]
    pub fn spec(&self) -> &ListenerTls {
        &self.spec
    }

    /// Until when the certificates in force are valid.
    #[must_use]
    pub fn expiries(&self) -> Vec<Expiry> {
        self.current.load().expiries.clone()
    }

    /// Why the files on disk are not what is in force.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner).trouble.clone()
    }

    /// Looks at the files, and takes over what changed; `None` where nothing did. Reads files: not for the answering path.
    ///
    /// # Errors
    /// When they cannot be used: what was in force stays.
    pub fn look(&self) -> Option<Result<(), TlsFileError>> {
        let stamp = Stamp::of(&self.spec);
        let mut seen = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.stamp == stamp {
            return None;
        }
        let read = files::read(&self.spec, self.offers).map(|read| self.current.store(Arc::new(read)));
        *seen = Seen { stamp, trouble: read.as_ref().err().map(TlsFileError::told) };
        Some(read)
    }

    /// Shakes hands; no longer than it may take.
    ///
    /// # Errors
    /// When the client does not, or takes longer.
    pub async fn shake_hands(&self, stream: TcpStream, within: Duration) -> io::Result<TlsStream<TcpStream>> {
        let acceptor = TlsAcceptor::from(Arc::clone(&self.current.load().config));
        tokio::time::timeout(within, acceptor.accept(stream)).await?
    }

    /// The same for a client of the answering path.
    pub(super) async fn accept(&self, stream: TcpStream, within: Duration) -> io::Result<Accepted> {
        let stream = self.shake_hands(stream, within).await?;
        let is_http2 = stream.get_ref().1.alpn_protocol() == Some(H2);
        Ok(Accepted { socket: Socket::Tls(Box::new(stream.into())), is_http2 })
    }
}
