//! Upstreams as a worker sees them: endpoints, a pool of idle connections of its own, and the request on the wire.

mod balance;
mod endpoint;
mod link;
mod pool;
mod request_body;
mod resolve;
mod state;
mod tls;
mod warden;
mod watch;

pub(crate) use endpoint::Endpoint;
pub(crate) use link::{Link, Open, SendError, poll_quietly};
pub(crate) use pool::{Upstream, dial, kept};
pub(crate) use request_body::{Gate, Replay, RequestBody};
pub(crate) use state::{UpstreamSpec, UpstreamState};
pub(crate) use tls::Trust;
pub(crate) use warden::Warden;
pub(crate) use watch::TrustWatch;
