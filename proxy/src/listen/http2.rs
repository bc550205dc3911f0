//! One HTTP/2 connection of a client: hyper drives it; every stream is a task with a [`Turn`] of its own. The loop ends it gracefully (GOAWAY)
//! when it idles or the worker stops, and at once when the client floods or leaves a head unfinished.

mod session;
mod wire;

use std::{future::poll_fn, rc::Rc, task::Poll, time::Duration};

use bytes::Bytes;
use hyper::server::conn::http2::Builder;
use hyper_util::rt::TokioIo;

use self::{
    session::{Next, Session, Spawn},
    wire::{Wire, WireIo},
};
use super::{
    connection,
    listener::OpenClient,
    turn::{Order, Turn},
    worker::Worker,
};
use crate::{config::Limits, socket::Socket};

/// What a client may send ahead on one stream and on all, before anybody has read it.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 512 * 1024;
/// What is kept of a stream's answer for a client that reads slowly.
const SEND_BUFFER: usize = 64 * 1024;

/// Serves one connection to its end. `early`: what was read of it to see which protocol it speaks.
pub(super) async fn serve(socket: Socket, early: Bytes, turn: Rc<Turn>, worker: Rc<Worker>, open: OpenClient) {
    let door = open.listener().door();
    let wire = Rc::new(Wire::new(socket, early, door.limits.resets, &turn, &worker));
    let next = Next::default();
    let session = Rc::new(Session::new(&turn, &worker, &next));
    let io = TokioIo::new(WireIo(Rc::clone(&wire)));
    let mut http = Box::pin(
        builder(&door.limits, Spawn { worker: Rc::clone(&worker), next }).serve_connection(io, Rc::clone(&session)),
    );
    drop(door);
    turn.set_parked(false);
    let mut told_to_end = false;
    poll_fn(|cx| {
        loop {
            if http.as_mut().poll(cx).is_ready() {
                return Poll::Ready(());
            }
            let order = turn.take_order();
            let idles = order == Some(Order::CloseIdle) && session.is_idle();
            let leaves = worker.is_draining() || open.listener().is_leaving();
            if (leaves || idles) && !told_to_end {
                told_to_end = true;
                turn.rests(worker.now());
                http.as_mut().graceful_shutdown();
                continue;
            }
            match order {
                Some(Order::HeadLate) => {
                    wire.refuse();
                    return Poll::Ready(());
                }
                // It was told a whole idle time ago.
                Some(Order::CloseIdle) if idles => return Poll::Ready(()),
                Some(Order::CloseIdle) => turn.rests(worker.now()),
                _ => {}
            }
            turn.wakes(cx.waker());
            return Poll::Pending;
        }
    })
    .await;
    drop(http);
    if let Some((socket, last)) = Rc::into_inner(wire).and_then(Wire::into_parts) {
        Box::pin(connection::linger(socket, &last)).await;
    }
    drop(open);
}

fn builder(limits: &Limits, spawn: Spawn) -> Builder<Spawn> {
    let mut http = Builder::new(spawn);
    http.initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_BUFFER)
        .max_concurrent_streams(limits.streams)
        .max_header_list_size(u32::try_from(limits.header_bytes.as_u64()).unwrap_or(u32::MAX))
        .keep_alive_interval(None::<Duration>)
        // WebSockets (RFC 8441).
        .enable_connect_protocol();
    http
}
