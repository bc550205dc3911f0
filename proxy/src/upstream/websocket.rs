//! A WebSocket's opening handshake on a shared connection (RFC 8441): an HTTP/1.1 upgrade becomes an extended CONNECT, and what it is answered
//! becomes a 101 again. The key and its proof, which HTTP/2 does without, are Banyan's to check and to give.

use base64::{Engine, engine::general_purpose::STANDARD};
use h2::ext::Protocol;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use sha1::{Digest, Sha1};

/// What proves to the client that its upgrade was understood.
#[derive(Debug, Clone)]
pub(super) struct Proof(HeaderValue);

/// RFC 6455, 1.3.
const MAGIC: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Makes an upgrade, which has no body, an extended CONNECT; false when it is no GET with exactly one key.
pub(crate) fn extend<B>(request: &mut Request<B>) -> bool {
    let headers = request.headers();
    let mut keys = headers.get_all(header::SEC_WEBSOCKET_KEY).iter();
    let has_one_key = keys.next().is_some() && keys.next().is_none();
    if *request.method() != Method::GET || !has_one_key {
        return false;
    }
    *request.method_mut() = Method::CONNECT;
    request.extensions_mut().insert(Protocol::from_static("websocket"));
    for name in [header::CONNECTION, header::UPGRADE, header::CONTENT_LENGTH] {
        request.headers_mut().remove(name);
    }
    true
}

// === impl Proof ===

impl Proof {
    /// Takes the key out of an extended CONNECT; `None` for any other request.
    pub(super) fn take<B>(request: &mut Request<B>) -> Option<Self> {
        request.extensions().get::<Protocol>()?;
        let key = request.headers_mut().remove(header::SEC_WEBSOCKET_KEY)?;
        let proof = Sha1::new().chain_update(key.as_bytes()).chain_update(MAGIC).finalize();
        HeaderValue::try_from(STANDARD.encode(proof)).ok().map(Self)
    }

    /// Makes the answer that opened a tunnel the one that HTTP/1.1 has for that. Any success opens one (RFC 9113, 8.5).
    pub(super) fn give<B>(&self, answer: &mut Response<B>) {
        *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers: &mut HeaderMap = answer.headers_mut();
        headers.remove(header::CONTENT_LENGTH);
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, self.0.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

    fn upgrade(method: &str, keys: &[&str]) -> Request<()> {
        let request = Request::builder().method(method).header("upgrade", "websocket").header("connection", "upgrade");
        let request = keys.iter().fold(request, |request, key| request.header("sec-websocket-key", *key));
        request.body(()).unwrap()
    }

    #[test]
    fn the_proof_is_the_one_of_the_rfc() {
        let mut request = upgrade("GET", &[KEY]);
        assert!(extend(&mut request));
        let proof = Proof::take(&mut request).unwrap();
        assert_eq!((request.method(), request.headers().len()), (&Method::CONNECT, 0));
        let mut answer = Response::builder().header("content-length", "0").body(()).unwrap();
        proof.give(&mut answer);
        assert_eq!(answer.status(), 101);
        // RFC 6455, 1.3.
        assert_eq!(answer.headers()["sec-websocket-accept"], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(answer.headers().len(), 1);
    }

    #[test]
    fn only_a_get_with_one_key_is_extended() {
        assert!(!extend(&mut upgrade("POST", &[KEY])));
        assert!(!extend(&mut upgrade("GET", &[])));
        assert!(!extend(&mut upgrade("GET", &[KEY, KEY])));
        assert!(Proof::take(&mut upgrade("GET", &[KEY])).is_none());
    }
}
