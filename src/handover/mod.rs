//! Another process takes this one's place, and no connection is refused, reset or left without its answer: the listening sockets are handed on,
//! and the one that had them lets go of everything else in order.
//!
//! The running process listens on a Unix socket in `state.dir` (`offer`). The new one (`take`) judges its own file, asks for the sockets, binds what
//! it was not given, accepts, and says that it is ready. Until then the old one goes on as if nothing had been, whatever becomes of the new one.
//! Then it takes nobody new, ends its flows, says so, and drains; only when its flows have ended the new one starts the same ones.
//!
//! Sockets may come from systemd too (`systemd`).

mod offer;
pub(crate) mod systemd;
mod take;
mod wire;

use std::{
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

pub(crate) use offer::{Offer, Taken, offer};
pub(crate) use take::{Inherited, Takeover, ask};

/// What the two processes say to each other: lines of JSON. A later version may add fields, which an earlier one does not read; where that
/// would not do, [`PROTOCOL`] goes up.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "snake_case")]
enum Message {
    /// The new process, first.
    Hello { protocol: u32, version: String, pid: u32 },
    /// The old one: no. With the reason.
    Refused { why: String },
    /// The old one, once for each; the descriptor comes with it.
    Socket { role: Role, bind: SocketAddr },
    /// The old one: those were all.
    Offered { version: String, pid: u32 },
    /// The new one: it accepts from all sockets of its file.
    Ready,
    /// The old one: it takes nobody new from now on.
    Going,
    /// The old one: its flows have ended, and no other will begin.
    Released,
}

/// What a socket is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Role {
    /// One of `listeners`.
    Listener,
    /// `admin.bind`.
    Admin,
    /// `admin.probes`.
    Probes,
}

/// A socket that listens.
struct Socket {
    role: Role,
    /// As the old one's file has it: with port 0 another one than the socket's.
    bind: SocketAddr,
    socket: TcpListener,
}

/// Goes up when both must know of a change.
const PROTOCOL: u32 = 1;

/// Where a process with this `state.dir` can be asked. The halves that run alone hand on to their like.
fn path(state: &Path, half: Option<&str>) -> PathBuf {
    state.join(half.map_or_else(|| "take-over.sock".to_owned(), |half| format!("take-over-{half}.sock")))
}
