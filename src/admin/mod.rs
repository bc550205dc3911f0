//! The admin listener: what Banyan tells of itself, and the few calls that change something. It runs on the background runtime, never on a
//! worker's thread.
//!
//! `page` is for people, `live` what it reads; `paths` names every path with its role; `gate` asks for it; `server` bounds what a client can take.

mod config;
mod door;
mod gate;
mod handlers;
mod keys;
mod live;
mod page;
mod parked;
mod paths;
mod record;
mod resume;
mod rollout;
mod running;
mod server;
mod session;
mod snapshot;
mod status;
mod stay;

pub(crate) use config::Admin;
pub(crate) use door::Door;
pub(crate) use keys::{Keys, kept_token, token_path};
pub(crate) use live::{Live, feed};
pub(crate) use server::{serve, serve_probes};
pub(crate) use session::hex;
pub(crate) use status::{FileStatus, Status};
