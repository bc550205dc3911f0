//! Sockets, workers and clients' connections.

mod connection;
mod http2;
mod io;
mod meter;
mod peer;
mod preface;
mod proxy_protocol;
mod snapshot;
mod socket;
mod tls;
mod turn;
mod worker;

pub(crate) use peer::Peer;
pub(crate) use snapshot::{Compiled, Door, WorkerTable};
pub(crate) use socket::bind;
pub(crate) use tls::Watch as TlsWatch;
pub use tls::{Offers, Tls, TlsFileError};
pub(crate) use turn::{Tick, Turn};
pub(crate) use worker::{Crew, ListenerState, Shared, Worker};
