//! HTTP/1.1 as this shop's old server spoke it: every header name in Title-Case, and two of its own on each answer.

use std::convert::Infallible;

use axum::{Router, body::Body};
use http::{HeaderValue, Request, header};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{net::TcpListener, task::JoinSet};
use tower::ServiceExt as _;

pub(crate) async fn serve(listener: TcpListener, pages: Router) -> anyhow::Result<()> {
    // Dropping the set ends every connection with the server.
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((socket, _)) => {
                    let _ = socket.set_nodelay(true);
                    connections.spawn(connection(TokioIo::new(socket), pages.clone()));
                }
                // Out of descriptors, or a client that left before it was accepted: neither ends the shop.
                Err(error) => {
                    tracing::warn!(%error, "accept failed");
                    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn connection(socket: TokioIo<tokio::net::TcpStream>, pages: Router) {
    let answer = service_fn(move |request: Request<Incoming>| {
        let pages = pages.clone();
        async move {
            let mut response = pages.oneshot(request.map(Body::new)).await?;
            let headers = response.headers_mut();
            headers.insert(header::SERVER, HeaderValue::from_static("ShopEngine/4.2"));
            headers.insert("x-shop-node", HeaderValue::from_static("mono-1"));
            Ok::<_, Infallible>(response)
        }
    });
    let served =
        http1::Builder::new().timer(TokioTimer::new()).title_case_headers(true).serve_connection(socket, answer);
    // A client that goes away in the middle is everyday life, not an error of the shop.
    let _ = served.with_upgrades().await;
}
