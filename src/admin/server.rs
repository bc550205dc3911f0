//! The sockets of the admin listener, with bounds on what one client can take: connections, heads, bodies, and time.

use std::{
    collections::VecDeque,
    io::ErrorKind,
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use axum::{Extension, Router, extract::DefaultBodyLimit};
use banyan_proxy::Tls;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    task::{AbortHandle, JoinSet},
};
use tokio_util::sync::CancellationToken;

use super::{live::Closing, paths, stay::Stay};
use crate::app::App;

/// One more closes the oldest, so that whoever holds connections open locks nobody out.
const CONNECTIONS: usize = 64;
const BODY_BYTES: usize = 16 * 1024;
const HEAD_BYTES: usize = 16 * 1024;
/// For a handshake, for a head, and between two requests.
const HEAD: Duration = Duration::from_secs(10);
/// After this a connection takes no further request, and what it was answered must be read soon.
const LIFETIME: Duration = Duration::from_secs(60);
const LAST_ANSWER: Duration = Duration::from_secs(15);
const OUT_OF_DESCRIPTORS: Duration = Duration::from_millis(100);

/// Answers until it is dropped.
///
/// # Errors
/// When the socket fails.
pub(crate) async fn serve(listener: Arc<std::net::TcpListener>, app: Arc<App>) -> anyhow::Result<()> {
    let router = paths::router(&app);
    accept(&listener, router, &app.leaves, || app.door.tls()).await.context("the admin listener")
}

/// The listener that tells whether Banyan is alive and ready, and nothing else, to everybody; until it is dropped.
///
/// # Errors
/// When the socket fails.
pub(crate) async fn serve_probes(listener: Arc<std::net::TcpListener>, app: Arc<App>) -> anyhow::Result<()> {
    accept(&listener, paths::probes(&app), &app.leaves, || None).await.context("the listener for probes")
}

async fn accept(
    listener: &std::net::TcpListener,
    router: Router,
    leaves: &CancellationToken,
    tls: impl Fn() -> Option<Arc<Tls>>,
) -> anyhow::Result<()> {
    let listener = listener.try_clone().and_then(TcpListener::from_std)?;
    let router = router.layer(DefaultBodyLimit::max(BODY_BYTES));
    let mut connections = JoinSet::new();
    let mut order: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            // Another process accepts here; what was asked is answered.
            () = leaves.cancelled() => break,
            Some(_) = connections.join_next() => {
                order.retain(|connection| !connection.is_finished());
                continue;
            }
        };
        match accepted {
            Ok((stream, _)) => {
                if order.len() >= CONNECTIONS
                    && let Some(oldest) = order.pop_front()
                {
                    oldest.abort();
                }
                order.push_back(connections.spawn(greet(stream, tls(), router.clone(), leaves.clone())));
            }
            Err(error) if error.kind() == ErrorKind::ConnectionAborted => {}
            Err(_) => tokio::time::sleep(OUT_OF_DESCRIPTORS).await,
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
    Ok(())
}

/// One connection to its end, with its handshake where there is one.
async fn greet(stream: TcpStream, tls: Option<Arc<Tls>>, router: Router, leaves: CancellationToken) {
    // Not having it is no reason to fail.
    drop(stream.set_nodelay(true));
    match tls {
        None => converse(stream, router, leaves).await,
        Some(tls) => {
            if let Ok(stream) = tls.shake_hands(stream, HEAD).await {
                converse(stream, router, leaves).await;
            }
        }
    }
}

async fn converse(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    router: Router,
    leaves: CancellationToken,
) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD).max_buf_size(HEAD_BYTES);
    let closing = Closing::default();
    let _ends = closing.0.clone().drop_guard();
    let router = router.layer(Extension(closing.clone()));
    let stay = Stay::default();
    let router = router.layer(Extension(stay.clone()));
    let mut connection = pin!(http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router)));
    tokio::select! {
        // What goes wrong on a connection is its client's to see.
        ended = connection.as_mut() => drop(ended),
        () = async { drop(tokio::time::timeout(LIFETIME, leaves.cancelled()).await) } => {
            connection.as_mut().graceful_shutdown();
            closing.0.cancel();
            let end = stay.end(Instant::now()) + LAST_ANSWER;
            drop(tokio::time::timeout_at(end.into(), connection).await);
        }
    }
}
