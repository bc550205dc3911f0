//! Sockets, workers and clients' connections.

mod connection;
mod io;
mod snapshot;
mod socket;
mod turn;
mod worker;

pub(crate) use snapshot::{Compiled, WorkerTable};
pub(crate) use socket::bind;
pub(crate) use turn::{Tick, Turn};
pub(crate) use worker::{Crew, ListenerState, Shared, Worker};
