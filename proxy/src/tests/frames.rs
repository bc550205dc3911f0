//! An HTTP/2 upstream that sends frames by hand (RFC 9113), so that a test can refuse, reset and go away at any moment.

use std::io;

use super::upstream::{Upstream, Wire};

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;

pub(crate) const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;

pub(crate) const REFUSED_STREAM: u32 = 7;
pub(crate) const CANCEL: u32 = 8;

const PREFACE: usize = 24;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

/// One connection to the upstream, behind its preface.
pub(crate) struct Peer(pub(crate) Wire);

/// An upstream that runs a script on each HTTP/2 connection.
pub(crate) async fn peer<F>(
    settings: &'static [(u16, u32)],
    script: impl Fn(Peer) -> F + Clone + Send + Sync + 'static,
) -> Upstream
where
    F: Future<Output = io::Result<()>> + Send + 'static,
{
    Upstream::scripted(move |wire| {
        let script = script.clone();
        async move { script(Peer::accept(wire, settings).await?).await }
    })
    .await
}

// === impl Peer ===

impl Peer {
    async fn accept(mut wire: Wire, settings: &[(u16, u32)]) -> io::Result<Self> {
        wire.take(PREFACE).await?;
        let mut peer = Self(wire);
        peer.settings(settings).await?;
        Ok(peer)
    }

    /// Says nothing until it is asked by a ping.
    pub(crate) async fn accept_late(mut wire: Wire, settings: &[(u16, u32)]) -> io::Result<Self> {
        wire.take(PREFACE).await?;
        let mut peer = Self(wire);
        loop {
            let Frame { kind, payload, .. } = peer.any().await?;
            if kind == PING {
                peer.settings(settings).await?;
                peer.send(PING, ACK, 0, &payload).await?;
                return Ok(peer);
            }
        }
    }

    async fn settings(&mut self, settings: &[(u16, u32)]) -> io::Result<()> {
        let payload: Vec<u8> =
            settings.iter().flat_map(|(id, value)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat()).collect();
        self.send(SETTINGS, 0, 0, &payload).await
    }

    /// The next frame; settings and pings are acknowledged on the way.
    pub(crate) async fn frame(&mut self) -> io::Result<Frame> {
        loop {
            let frame = self.any().await?;
            match frame.kind {
                SETTINGS | PING if frame.flags & ACK != 0 => {}
                SETTINGS => self.send(SETTINGS, ACK, 0, &[]).await?,
                PING => self.send(PING, ACK, 0, &frame.payload).await?,
                WINDOW_UPDATE => {}
                _ => return Ok(frame),
            }
        }
    }

    async fn any(&mut self) -> io::Result<Frame> {
        let head = self.0.take(9).await?;
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        let payload = self.0.take(length).await?;
        Ok(Frame { kind: head[3], flags: head[4], stream, payload })
    }

    /// The stream of the next request; what else comes is passed over.
    pub(crate) async fn request(&mut self) -> io::Result<u32> {
        loop {
            let frame = self.frame().await?;
            if frame.kind == HEADERS {
                return Ok(frame.stream);
            }
        }
    }

    pub(crate) async fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> io::Result<()> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let mut bytes = vec![length[1], length[2], length[3], kind, flags];
        bytes.extend(stream.to_be_bytes());
        bytes.extend(payload);
        self.0.send(bytes).await
    }

    /// `:status: 200`, which HPACK knows by number.
    pub(crate) async fn head(&mut self, stream: u32) -> io::Result<()> {
        self.send(HEADERS, END_HEADERS, stream, &[0x88]).await
    }

    pub(crate) async fn answer(&mut self, stream: u32, body: &str) -> io::Result<()> {
        self.head(stream).await?;
        self.send(DATA, END_STREAM, stream, body.as_bytes()).await
    }

    pub(crate) async fn reset(&mut self, stream: u32, reason: u32) -> io::Result<()> {
        self.send(RST_STREAM, 0, stream, &reason.to_be_bytes()).await
    }

    /// Streams above `last` were not looked at.
    pub(crate) async fn go_away(&mut self, last: u32) -> io::Result<()> {
        self.send(GOAWAY, 0, 0, &[last.to_be_bytes(), [0; 4]].concat()).await
    }
}
