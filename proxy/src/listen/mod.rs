//! Sockets, workers and clients' connections.

mod connection;
mod crew;
mod http2;
mod io;
mod listener;
pub(crate) mod meter;
mod peer;
mod preface;
pub(crate) mod proxy_protocol;
mod snapshot;
mod socket;
mod tls;
mod turn;
mod worker;

pub(crate) use crew::{Crew, Farewell, Stop, Wanted};
pub(crate) use listener::{Door, ListenerState};
pub(crate) use peer::Peer;
pub(crate) use snapshot::{Compiled, WorkerTable};
pub use socket::Given;
pub(crate) use tls::Watch as TlsWatch;
pub use tls::{Expiry, Offers, Tls, TlsFileError};
pub(crate) use turn::{Tick, Turn};
pub(crate) use worker::{Shared, Worker};
