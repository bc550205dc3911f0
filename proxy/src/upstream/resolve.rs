//! Looks the names of an upstream's endpoints up, again and again, in the background. A worker never does.
//!
//! A name that cannot be looked up keeps the addresses that it had.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use super::{UpstreamSpec, UpstreamState};

/// How soon a name that could not be looked up is tried again, at the most.
const RETRY: Duration = Duration::from_secs(1);

/// Runs until it is dropped. Comes back at once when no endpoint has a name.
pub(super) async fn resolve(spec: Arc<UpstreamSpec>, state: Arc<UpstreamState>) {
    let named: Vec<&Arc<str>> = spec
        .endpoints
        .iter()
        .filter(|endpoint| endpoint.address.is_none())
        .map(|endpoint| &endpoint.authority)
        .collect();
    let mut failing = vec![false; named.len()];
    while !named.is_empty() {
        for (name, failing) in named.iter().zip(&mut failing) {
            let found = look_up(name).await;
            let fails = found.is_err();
            match found {
                Ok(addresses) => {
                    let count = addresses.len();
                    if state.follow(&spec, Some((name, addresses))) {
                        tracing::info!(upstream = spec.name, endpoint = &***name, addresses = count, "looked up");
                    }
                }
                Err(error) if !*failing => {
                    let upstream = &spec.name;
                    tracing::warn!(upstream, endpoint = &***name, %error, "cannot look the name up; what was known stays");
                }
                Err(_) => {}
            }
            *failing = fails;
        }
        let every = if failing.contains(&true) { RETRY.min(spec.resolve_every) } else { spec.resolve_every };
        tokio::time::sleep(every).await;
    }
}

async fn look_up(authority: &str) -> std::io::Result<Vec<SocketAddr>> {
    let mut addresses: Vec<SocketAddr> = tokio::net::lookup_host(authority).await?.collect();
    if addresses.is_empty() {
        return Err(std::io::ErrorKind::NotFound.into());
    }
    addresses.sort_unstable();
    addresses.dedup();
    Ok(addresses)
}
