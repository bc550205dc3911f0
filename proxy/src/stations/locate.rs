//! Finds the route, by the normalised path (the raw one is what is forwarded), and the client's address.

use std::{
    borrow::Cow,
    task::{Context, Poll},
};

use futures_util::future::{Either, Ready, ready};
use http::{Method, header};
use tower::{Layer, Service};

use super::{
    arrival::{Checked, Failure, Located, Reply},
    forwarded,
};
use crate::{
    error::Fault,
    table::{Normal, normalise},
};

#[derive(Debug, Clone, Copy)]
pub(crate) struct Stage;

#[derive(Debug, Clone, Copy)]
pub(crate) struct Station<S>(S);

// === impl Stage ===

impl<S> Layer<S> for Stage {
    type Service = Station<S>;

    fn layer(&self, inner: S) -> Station<S> {
        Station(inner)
    }
}

// === impl Station ===

impl<S: Service<Located, Response = Reply, Error = Failure>> Service<Checked> for Station<S> {
    type Response = Reply;
    type Error = Failure;
    type Future = Either<Ready<Result<Reply, Failure>>, S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, checked: Checked) -> Self::Future {
        match locate(checked) {
            Ok(located) => Either::Right(self.0.call(located)),
            Err(failure) => Either::Left(ready(Err(*failure))),
        }
    }
}

fn locate(checked: Checked) -> Result<Located, Box<Failure>> {
    let (head, compiled) = (&checked.arrival.head, &checked.arrival.table.compiled);
    let raw = head.uri.path();
    let path = match normalise(raw) {
        Ok(path) => path,
        // Asks the server itself, not a path of it (RFC 9110, 9.3.7).
        Err(_) if raw == "*" && head.method == Method::OPTIONS => Cow::Borrowed(raw),
        Err(bad) => return Err(Box::new(checked.fails(Fault::Path(bad)))),
    };
    let host = head.headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let normal = Normal { method: &head.method, host: without_port(host), path: &path, headers: &head.headers };
    let found = compiled.table.find(&normal);
    let (route, prefix_end) = (found.route.index, found.prefix_end);
    let path = match path {
        Cow::Borrowed(_) => None,
        Cow::Owned(path) => Some(path),
    };
    let peer = checked.arrival.turn.peer();
    let is_peer_trusted = forwarded::is_trusted(&compiled.trusted, peer);
    let client = match is_peer_trusted {
        true => forwarded::client(&compiled.trusted, peer, &head.headers),
        false => peer,
    };
    Ok(Located { route, path, prefix_end, client, is_peer_trusted, checked })
}

/// `[::1]:8080` and `shop.example:8080` without their ports.
fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port))
            if port.bytes().all(|b| b.is_ascii_digit()) && (!name.contains(':') || name.ends_with(']')) =>
        {
            name
        }
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_matched_without_its_port() {
        for (host, expected) in
            [("a.example:80", "a.example"), ("a.example", "a.example"), ("[::1]:80", "[::1]"), ("[::1]", "[::1]")]
        {
            assert_eq!(without_port(host), expected);
        }
    }
}
