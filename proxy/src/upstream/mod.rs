//! Upstreams as a worker sees them: endpoints, a pool of idle connections of its own, and the request on the wire.

mod balance;
mod endpoint;
mod incoming;
mod leg;
mod link;
mod pool;
mod pump;
mod request_body;
mod resolve;
mod session;
mod sessions;
mod state;
mod tls;
mod warden;
mod watch;

pub(crate) use endpoint::Endpoint;
pub(crate) use incoming::{BodyError, Incoming};
pub(crate) use leg::Leg;
use link::Link;
pub(crate) use link::{Open, SendError};
pub(crate) use pool::{Upstream, dial, kept, speaks_http2};
pub(crate) use request_body::{Gate, Replay, RequestBody};
pub(crate) use session::target;
use session::{Exchange, Session};
pub(crate) use state::{UpstreamSpec, UpstreamState};
pub(crate) use tls::Trust;
pub(crate) use warden::Warden;
pub(crate) use watch::TrustWatch;
