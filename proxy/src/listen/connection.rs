//! The loop that owns a client's connection: it waits on the bare socket, drives hyper while there is something to do, takes it apart again
//! when the connection idles, enforces the deadlines of waiting and of heads, and hands over to a tunnel after a 101.

use std::{convert::Infallible, future::poll_fn, net::SocketAddr, pin::Pin, rc::Rc, task::Poll, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use socket2::SockRef;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, ReadBuf},
    net::TcpStream,
};
use tower::Service;

use super::{
    Peer, http2,
    io::ClientIo,
    listener::OpenClient,
    preface::{self, Look, PREFACE},
    proxy_protocol,
    turn::{Order, Turn},
    worker::Worker,
};
use crate::{
    body::Answer,
    socket::Socket,
    stations::{Answering, Arrival, Stack, stack},
    tunnel::{self, Far},
};

/// Why hyper was taken apart.
enum End {
    /// Between two messages: wait on the bare socket. With what hyper had read too much.
    Between(Socket, Bytes),
    /// A 101 went out.
    Tunnel(Socket, Bytes, Far),
    /// A head took too long.
    HeadLate(Socket),
    /// The answer broke off in the middle.
    Broken(Socket),
    /// The client may still be sending what nobody will read.
    Unread(Socket),
    Closed,
}

/// hyper's service: gives each request to the stations.
struct Entry {
    stack: Stack,
    turn: Rc<Turn>,
    worker: Rc<Worker>,
}

const HEAD_LATE: &[u8] = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
/// What is read and thrown away so that a client that is still sending gets to see its answer, and for how long.
const LINGER_BYTES: usize = 256 * 1024;
const LINGER: Duration = Duration::from_secs(1);

/// Serves one connection to its end.
pub(super) async fn serve(mut stream: TcpStream, mut address: SocketAddr, worker: Rc<Worker>, open: OpenClient) {
    // What comes before the first request is boxed, so that a connection is small again after it.
    let door = open.listener().door();
    if proxy_protocol::is_spoken(&door.spoken_for_by, address) {
        let said = Box::pin(proxy_protocol::read(&mut stream, door.limits.head_time)).await;
        let Ok(said) = said else { return };
        address = said.unwrap_or(address);
    }
    let (mut socket, mut early) = (Socket::from(stream), Bytes::new());
    let (mut is_tls, mut is_http2) = (false, false);
    if let Some(tls) = &door.tls {
        let Socket::Plain(stream) = socket else { return };
        let Ok(accepted) = Box::pin(tls.accept(stream, door.limits.head_time)).await else { return };
        (socket, is_tls, is_http2) = (accepted.socket, true, accepted.is_http2);
    }
    drop(door);
    let turn = Rc::new(Turn::new(Rc::new(Peer::new(address, open.listener(), is_tls)), worker.now()));
    worker.watch(&turn);
    // With TLS the handshake has said which protocol is spoken.
    let mut is_sure = is_tls;
    loop {
        if !is_http2 && early.is_empty() && !socket.holds_plaintext() {
            let Some(look) = wait(socket.tcp(), &turn, &open).await else { return };
            if !std::mem::replace(&mut is_sure, true) {
                is_http2 = match look {
                    Look::Unsure => {
                        let read = Box::pin(preface::read(&mut socket, &turn, &worker)).await;
                        let Some((read, look)) = read else { return };
                        early = read;
                        look == Look::Http2
                    }
                    sure => sure == Look::Http2,
                };
            }
        }
        if is_http2 {
            return Box::pin(http2::serve(socket, early, turn, worker, open)).await;
        }
        // Boxed, so that a waiting connection is small.
        match Box::pin(drive(socket, early, &turn, &worker)).await {
            End::Between(bare, read) => {
                worker.parked();
                (socket, early) = (bare, read);
            }
            End::Tunnel(near, read, far) => {
                drop(turn);
                // As with a parked connection: what HTTP needed is given back.
                worker.parked();
                // Either end may fail; then both are closed, and there is nobody to tell.
                drop(Box::pin(tunnel::run(near, read, far, &worker)).await);
                break;
            }
            End::HeadLate(socket) => return Box::pin(linger(socket, HEAD_LATE)).await,
            End::Unread(socket) => return Box::pin(linger(socket, b"")).await,
            End::Broken(socket) => {
                // A reset, since an orderly end could pass for the end of the answer.
                drop(SockRef::from(socket.tcp()).set_linger(Some(Duration::ZERO)));
                return;
            }
            End::Closed => return,
        }
    }
    drop(open);
}

/// Waits for the first bytes of a request; `None` when the connection is to be closed instead.
async fn wait(stream: &TcpStream, turn: &Turn, open: &OpenClient) -> Option<Look> {
    let _idles = open.idles();
    turn.set_parked(true);
    poll_fn(|cx| {
        // Looked at, not only said: a socket that was just accepted counts as readable before anything has come.
        let mut first = [0; PREFACE.len()];
        let mut into = ReadBuf::new(&mut first);
        if let Poll::Ready(peeked) = stream.poll_peek(cx, &mut into) {
            return Poll::Ready(peeked.ok().map(|_| Look::at(into.filled())));
        }
        if turn.take_order() == Some(Order::CloseIdle) {
            return Poll::Ready(None);
        }
        turn.wakes(cx.waker());
        Poll::Pending
    })
    .await
}

async fn drive(socket: Socket, early: Bytes, turn: &Rc<Turn>, worker: &Rc<Worker>) -> End {
    enum Why {
        Done(bool),
        Between,
        HeadLate,
        Idle,
    }
    let listener = Rc::clone(turn.whose());
    let listener = listener.listener();
    let io = ClientIo { socket, early, turn: Rc::clone(turn), worker: Rc::clone(worker) };
    let entry = Entry { stack: stack(), turn: Rc::clone(turn), worker: Rc::clone(worker) };
    let mut http = Box::new(listener.door().http.serve_connection(TokioIo::new(io), entry));
    turn.set_parked(false);
    let mut told_to_end = false;
    let why = poll_fn(|cx| {
        loop {
            // Whose answer begins in this call says so.
            turn.set_last(worker.is_draining() || listener.is_leaving());
            if let Poll::Ready(done) = http.poll_without_shutdown(cx) {
                return Poll::Ready(Why::Done(done.is_ok()));
            }
            // A body that was given up cannot be told from a next request.
            if !turn.is_busy() && !turn.is_body_ended() && !told_to_end {
                told_to_end = true;
                Pin::new(&mut *http).graceful_shutdown();
                continue;
            }
            let order = turn.take_order();
            if turn.is_between() && (order == Some(Order::Park) || worker.park_at_once) {
                return Poll::Ready(Why::Between);
            }
            match order {
                // Half an answer must not look like a whole one.
                Some(Order::BodyLate) if turn.is_busy() => {
                    turn.break_off();
                    return Poll::Ready(Why::Done(false));
                }
                Some(Order::CloseIdle) if !turn.is_busy() && !turn.is_in_head() => return Poll::Ready(Why::Idle),
                Some(Order::HeadLate) if !turn.is_busy() && turn.is_in_head() => return Poll::Ready(Why::HeadLate),
                _ => {}
            }
            turn.wakes(cx.waker());
            return Poll::Pending;
        }
    })
    .await;
    let parts = (*http).into_parts();
    let socket = parts.io.into_inner().socket;
    match why {
        // An empty rest would still hold the whole buffer that it was cut from.
        Why::Between if parts.read_buf.is_empty() => End::Between(socket, Bytes::new()),
        Why::Between => End::Between(socket, parts.read_buf),
        Why::HeadLate => End::HeadLate(socket),
        Why::Idle => End::Closed,
        Why::Done(_) if turn.is_broken() => End::Broken(socket),
        Why::Done(well) => match turn.take_tunnel() {
            Some(far) => End::Tunnel(socket, parts.read_buf, far),
            None if well && turn.is_body_ended() => End::Closed,
            None => End::Unread(socket),
        },
    }
}

/// Closing a socket with unread bytes resets it, and the client may lose the answer: so say the last words, say "no more", and read for a
/// moment.
pub(super) async fn linger(mut socket: Socket, last: &[u8]) {
    let lingering = async {
        if socket.write_all(last).await.is_err() || socket.shutdown().await.is_err() {
            return;
        }
        let mut left = LINGER_BYTES;
        let mut scrap = vec![0; 4096];
        while left > 0 {
            match socket.read(&mut scrap).await {
                Ok(count) if count > 0 => left = left.saturating_sub(count),
                _ => break,
            }
        }
    };
    drop(tokio::time::timeout(LINGER, lingering).await);
}

// === impl Entry ===

impl hyper::service::Service<Request<Incoming>> for Entry {
    type Response = Response<Answer>;
    type Error = Infallible;
    type Future = Answering;

    fn call(&self, request: Request<Incoming>) -> Answering {
        // The stations are always ready and cost nothing to clone.
        self.stack.clone().call(Arrival::new(request, &self.turn, &self.worker))
    }
}
