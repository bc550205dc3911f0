//! Active checks: each endpoint of an upstream is asked for a path again and again, in the background. One that failed often enough gets no
//! requests until it has passed often enough.

use std::{collections::HashMap, net::SocketAddr, sync::Arc};

use bytes::Bytes;
use futures_util::future::join_all;
use http::{Request, StatusCode, header};
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::time::timeout;

use super::{Endpoint, UpstreamSpec, UpstreamState, dial, event::Event, speaks_http2};
use crate::{config::Health, socket::Socket};

/// Passed (above zero) or failed (below) checks in a row, by address.
type Runs = HashMap<SocketAddr, i64>;

/// So that several Banyans do not check at the same moment: up to a tenth of the time between two checks.
const JITTER: u32 = 10;

/// Runs until it is dropped; comes back at once where nothing is to be checked.
pub(super) async fn check(spec: &UpstreamSpec, state: &UpstreamState) {
    let Some(health) = &spec.health else { return };
    let mut runs = Runs::new();
    loop {
        let endpoints = state.endpoints();
        runs.retain(|address, _| endpoints.iter().any(|endpoint| endpoint.address == *address));
        let passed = join_all(endpoints.iter().map(|endpoint| passes(spec, health, endpoint))).await;
        for (endpoint, passed) in endpoints.iter().zip(passed) {
            let run = runs.entry(endpoint.address).or_default();
            *run = if passed { (*run).max(0) + 1 } else { (*run).min(0) - 1 };
            judge(spec, state, health, endpoint, *run);
        }
        let jitter = health.every / JITTER * (getrandom::u32().unwrap_or_default() % 100) / 100;
        tokio::time::sleep(health.every + jitter).await;
    }
}

fn judge(spec: &UpstreamSpec, state: &UpstreamState, health: &Health, endpoint: &Arc<Endpoint>, run: i64) {
    let event = if endpoint.is_unhealthy() && run >= i64::from(health.healthy_after) {
        endpoint.set_unhealthy(false, !spec.slow_start.is_zero());
        Event::Healthy(&endpoint.authority)
    } else if !endpoint.is_unhealthy() && run <= -i64::from(health.unhealthy_after) {
        endpoint.set_unhealthy(true, false);
        Event::Unhealthy(&endpoint.authority)
    } else {
        return;
    };
    state.changed();
    event.tell(&spec.name, &state.events);
}

async fn passes(spec: &UpstreamSpec, health: &Health, endpoint: &Endpoint) -> bool {
    let status = timeout(health.timeout, ask(spec, health, endpoint)).await;
    match status {
        Ok(Some(status)) if health.status.is_empty() => status.is_success() || status.is_redirection(),
        Ok(Some(status)) => health.status.contains(&status.as_u16()),
        Ok(None) | Err(_) => false,
    }
}

/// The status of one answer, on a connection of its own.
async fn ask(spec: &UpstreamSpec, health: &Health, endpoint: &Endpoint) -> Option<StatusCode> {
    let (path, authority) = (health.path.as_str(), &*endpoint.authority);
    let socket = dial(endpoint.address, authority, spec.trust.as_deref(), spec.protocol, health.timeout).await.ok()?;
    let request = Request::builder().header(header::USER_AGENT, "banyan-health");
    if speaks_http2(spec.protocol, &socket).ok()? {
        let scheme = if socket.is_tls() { "https" } else { "http" };
        return ask_http2(socket, request.uri(format!("{scheme}://{authority}{path}")).body(()).ok()?).await;
    }
    let request = request.uri(path).header(header::HOST, authority).header(header::CONNECTION, "close");
    let (mut sender, connection) = http1::handshake(TokioIo::new(socket)).await.ok()?;
    let asked = sender.send_request(request.body(Empty::<Bytes>::new()).ok()?);
    tokio::pin!(connection, asked);
    tokio::select! {
        answer = &mut asked => answer.ok().map(|answer| answer.status()),
        // It may have ended because the answer is whole.
        _ = &mut connection => asked.await.ok().map(|answer| answer.status()),
    }
}

async fn ask_http2(socket: Socket, request: Request<()>) -> Option<StatusCode> {
    let (sender, connection) = h2::client::handshake(socket).await.ok()?;
    let asked = async {
        let (answer, _) = sender.ready().await.ok()?.send_request(request, true).ok()?;
        Some(answer.await.ok()?.status())
    };
    tokio::pin!(connection, asked);
    tokio::select! {
        status = &mut asked => status,
        _ = &mut connection => None,
    }
}
