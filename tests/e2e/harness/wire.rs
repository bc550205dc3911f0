//! A TCP proxy that can cut, pause and delay what runs through it: between Banyan and a database, Kafka or an upstream.

use std::{io, net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
};

use super::{backstage, backstage_now};

/// Listens on a port of its own for as long as it lives; dropping it cuts everything.
#[derive(Debug)]
pub(crate) struct Wire {
    port: u16,
    state: watch::Sender<State>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct State {
    /// Of 127.0.0.1, where new connections lead.
    to: u16,
    flow: Flow,
    /// Held back in each direction before it is passed on.
    delay: Duration,
    /// Raised by every cut, so that connections made before it end.
    cuts: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flow {
    Open,
    /// Bytes wait; connections stay.
    Paused,
    /// New connections are reset.
    Cut,
}

// === impl Wire ===

impl Wire {
    /// A wire to a port of 127.0.0.1, where a server need not listen yet.
    pub(crate) fn to(port: u16) -> Self {
        let (state, watched) = watch::channel(State { to: port, flow: Flow::Open, delay: Duration::ZERO, cuts: 0 });
        let listener = backstage_now(async { TcpListener::bind("127.0.0.1:0").await }).expect("a port for the wire");
        let own = listener.local_addr().expect("a bound socket has an address").port();
        backstage(accept(listener, watched));
        Self { port: own, state }
    }

    /// Where clients of the wire connect to.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        ([127, 0, 0, 1], self.port).into()
    }

    /// Resets all connections; new ones come through at once.
    pub(crate) fn cut_once(&self) {
        self.state.send_modify(|state| state.cuts += 1);
    }

    /// Resets all connections; new ones lead to another port, as when an address moves to another machine.
    pub(crate) fn redirect(&self, port: u16) {
        self.state.send_modify(|state| {
            state.to = port;
            state.cuts += 1;
        });
    }

    /// Resets all connections, and new ones until [`Self::mend`].
    pub(crate) fn cut(&self) {
        self.state.send_modify(|state| {
            state.flow = Flow::Cut;
            state.cuts += 1;
        });
    }

    /// Holds all bytes back, as a network that swallows packets, until [`Self::mend`].
    pub(crate) fn pause(&self) {
        self.state.send_modify(|state| state.flow = Flow::Paused);
    }

    /// Everything runs again.
    pub(crate) fn mend(&self) {
        self.state.send_modify(|state| *state = State { flow: Flow::Open, delay: Duration::ZERO, ..*state });
    }

    /// Holds every piece back for a while, each way.
    pub(crate) fn delay(&self, delay: Duration) {
        self.state.send_modify(|state| state.delay = delay);
    }
}

async fn accept(listener: TcpListener, mut state: watch::Receiver<State>) {
    loop {
        let near = tokio::select! {
            accepted = listener.accept() => accepted,
            gone = state.wait_for(|_| false) => { debug_assert!(gone.is_err()); return }
        };
        let Ok((near, _)) = near else { continue };
        backstage(carry(near, state.clone()));
    }
}

/// One connection, until an end closes, a cut, or the wire is gone.
async fn carry(near: TcpStream, state: watch::Receiver<State>) {
    let seen = *state.borrow();
    let far = if seen.flow == Flow::Cut { None } else { TcpStream::connect(("127.0.0.1", seen.to)).await.ok() };
    let Some(far) = far else {
        near.set_zero_linger().ok();
        return;
    };
    for stream in [&near, &far] {
        stream.set_nodelay(true).ok();
        // What is cut answers with a reset, not with a polite end.
        stream.set_zero_linger().ok();
    }
    let (near_read, near_write) = near.into_split();
    let (far_read, far_write) = far.into_split();
    let mut cut = state.clone();
    tokio::select! {
        _ = async { tokio::join!(pass(near_read, far_write, state.clone()), pass(far_read, near_write, state.clone())) } => {}
        _ = cut.wait_for(|now| now.cuts != seen.cuts) => {}
    }
}

async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut state: watch::Receiver<State>) -> io::Result<()> {
    let mut piece = vec![0; 64 * 1024];
    loop {
        let n = from.read(&mut piece).await?;
        if state.wait_for(|now| now.flow != Flow::Paused).await.is_err() {
            return Ok(());
        }
        let delay = state.borrow().delay;
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        if n == 0 {
            return to.shutdown().await;
        }
        to.write_all(&piece[..n]).await?;
    }
}
