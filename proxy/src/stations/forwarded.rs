//! Who the client is, and what the upstream is told of it: `X-Forwarded-*` and `Forwarded` (RFC 7239).

use std::{
    borrow::Cow,
    net::{IpAddr, SocketAddr},
};

use http::{HeaderMap, HeaderName, HeaderValue, header};
use ipnet::IpNet;

use crate::{listen::Peer, spelling, table};

const FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// Whether this peer's word on whom it forwards for is believed.
pub(super) fn is_trusted(trusted: &[IpNet], address: IpAddr) -> bool {
    trusted.iter().any(|net| net.contains(&address))
}

/// A stranger is its own client; of a trusted peer's it is the first address from the right that is no trusted proxy's. What is left of it anybody
/// could have written.
pub(super) fn client(trusted: &[IpNet], peer: IpAddr, is_peer_trusted: bool, headers: &HeaderMap) -> IpAddr {
    if !is_peer_trusted {
        return peer;
    }
    let mut client = peer;
    let mut hops: Vec<Option<IpAddr>> = list(headers, &FOR).map(address).collect();
    if hops.is_empty() {
        hops = list(headers, &header::FORWARDED).map(forwarded_for).collect();
    }
    for hop in hops.into_iter().rev() {
        // What is no address hides who is behind it.
        let Some(hop) = hop else { break };
        client = hop;
        if !is_trusted(trusted, hop) {
            break;
        }
    }
    client
}

/// All that an upstream is told of the host which the client asked, in one line: what a trusted peer says of it stands behind `Host`.
pub(super) fn place(headers: &HeaderMap, is_peer_trusted: bool) -> Cow<'_, [u8]> {
    let host = headers.get(header::HOST).map_or(&b""[..], HeaderValue::as_bytes);
    if !is_peer_trusted {
        return Cow::Borrowed(host);
    }
    let said = headers.get_all(HOST).iter().map(HeaderValue::as_bytes);
    let said: Vec<&[u8]> = said.chain(list(headers, &header::FORWARDED).filter_map(forwarded_host)).collect();
    // No host has a blank in it.
    Cow::Owned([&[host], &said[..]].concat().join(&b' '))
}

/// What the client knows this place by, as the upstream is told.
#[derive(Debug, Clone)]
pub(crate) struct Public {
    is_https: bool,
    host: Option<HeaderValue>,
}

/// Tells the upstream. A trusted peer's words are kept and added to; anybody else's are replaced.
pub(super) fn tell(headers: &mut HeaderMap, peer: &Peer, is_peer_trusted: bool, any: bool) -> Public {
    let (is_https, scheme, peer) = (peer.is_tls(), scheme(peer), peer.header());
    let host = headers.get(header::HOST).cloned();
    if !any {
        // The usual case: nothing to look at.
        headers.insert(FOR, peer.clone());
        headers.insert(PROTO, scheme);
        if let Some(host) = &host {
            headers.insert(HOST, host.clone());
        }
        return Public { is_https, host };
    }
    if !is_peer_trusted {
        forget(headers);
    }
    let chain = joined(headers, &FOR, peer.to_str().unwrap_or("unknown"));
    headers.insert(FOR, chain.unwrap_or_else(|| peer.clone()));
    headers.entry(PROTO).or_insert(scheme);
    if let Some(host) = host {
        headers.entry(HOST).or_insert(host);
    }
    if headers.contains_key(header::FORWARDED) {
        let by = peer.to_str().unwrap_or("unknown");
        let element = if by.contains(':') { format!("for=\"[{by}]\"") } else { format!("for={by}") };
        if let Some(chain) = joined(headers, &header::FORWARDED, &element) {
            headers.insert(header::FORWARDED, chain);
        }
    }
    Public::told(headers)
}

// === impl Public ===

impl Public {
    /// Of a request that was not told yet.
    pub(super) fn asked(headers: &HeaderMap, peer: &Peer, is_peer_trusted: bool) -> Self {
        let said = headers.get(HOST).filter(|_| is_peer_trusted);
        Self {
            is_https: is_https(peer, is_peer_trusted, headers),
            host: said.or_else(|| headers.get(header::HOST)).cloned(),
        }
    }

    /// Of a request that was told.
    pub(crate) fn told(headers: &HeaderMap) -> Self {
        Self { is_https: headers.get(PROTO).is_some_and(says_https), host: headers.get(HOST).cloned() }
    }

    /// With the prefix that matched, which ends there in the normalised path. Of a list the first counts: it is the client's.
    pub(crate) fn with_prefix<'p>(&'p self, path: &'p str, prefix_end: usize) -> table::Public<'p> {
        let first =
            |line: &'p HeaderValue| line.to_str().unwrap_or_default().split(',').next().unwrap_or_default().trim();
        table::Public {
            scheme: if self.is_https { "https" } else { "http" },
            authority: self.host.as_ref().map(first).unwrap_or_default(),
            prefix: path.get(..prefix_end).unwrap_or_default(),
        }
    }
}

/// Whether the client's own connection is TLS: what Banyan ends itself, or what a trusted peer says of the one that it ended.
pub(super) fn is_https(peer: &Peer, is_peer_trusted: bool, headers: &HeaderMap) -> bool {
    let said = if is_peer_trusted { headers.get(PROTO) } else { None };
    said.map_or_else(|| peer.is_tls(), says_https)
}

/// Of a list the first counts, as everywhere: it is the client's.
fn says_https(said: &HeaderValue) -> bool {
    let first = said.as_bytes().split(|byte| *byte == b',').next().unwrap_or_default();
    first.trim_ascii().eq_ignore_ascii_case(b"https")
}

fn scheme(peer: &Peer) -> HeaderValue {
    HeaderValue::from_static(if peer.is_tls() { "https" } else { "http" })
}

/// Everything of this kind that the client said.
fn forget(headers: &mut HeaderMap) {
    let said: Vec<HeaderName> = headers
        .keys()
        .filter(|name| **name == header::FORWARDED || spelling::begins(name.as_str(), "x-forwarded-"))
        .cloned()
        .collect();
    for name in said {
        headers.remove(name);
    }
}

/// All lines of a list header as one, with one more element behind them.
fn joined(headers: &HeaderMap, name: &HeaderName, last: &str) -> Option<HeaderValue> {
    let mut chain = Vec::new();
    for line in headers.get_all(name) {
        chain.extend_from_slice(line.as_bytes());
        chain.extend_from_slice(b", ");
    }
    chain.extend_from_slice(last.as_bytes());
    HeaderValue::from_bytes(&chain).ok()
}

fn list<'h>(headers: &'h HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'h str> {
    headers.get_all(name).iter().flat_map(|line| line.to_str().unwrap_or("unknown").split(','))
}

/// `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1`, `[2001:db8::1]:80`.
fn address(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let address = bare.parse().ok().or_else(|| text.parse::<SocketAddr>().ok().map(|address| address.ip()));
    address.map(|address: IpAddr| address.to_canonical())
}

fn forwarded_for(element: &str) -> Option<IpAddr> {
    address(parameter(element, "for")?.trim_matches('"'))
}

fn forwarded_host(element: &str) -> Option<&[u8]> {
    parameter(element, "host").map(str::as_bytes)
}

/// Of an element of `Forwarded`.
fn parameter<'e>(element: &'e str, wanted: &str) -> Option<&'e str> {
    element.split(';').find_map(|pair| {
        let (name, value) = pair.split_once('=')?;
        name.trim().eq_ignore_ascii_case(wanted).then_some(value.trim())
    })
}

/// A line for each header. A stranger's words are gone; a trusted peer's end with the peer.
#[cfg(any(test, feature = "fuzz"))]
pub(crate) fn fuzz(data: &[u8]) {
    let mut said = HeaderMap::new();
    let names = [FOR, header::FORWARDED, PROTO, HOST, header::HOST, FOR];
    for (name, line) in names.into_iter().zip(data.split(|byte| *byte == b'\n')) {
        if let Ok(value) = HeaderValue::from_bytes(line) {
            said.append(name, value);
        }
    }
    let trusted: Vec<IpNet> = ["10.0.0.0/8", "2001:db8::/32"].iter().filter_map(|net| net.parse().ok()).collect();
    let peer = Peer::new(([10, 0, 0, 1], 1).into(), &crate::listen::ListenerState::nowhere(), false);
    let asking = client(&trusted, peer.ip(), true, &said);
    assert_eq!(asking, asking.to_canonical());
    for is_trusted in [true, false] {
        let mut headers = said.clone();
        let public = tell(&mut headers, &peer, is_trusted, true);
        let chain = headers.get(FOR).map(|chain| chain.as_bytes().to_vec()).unwrap_or_default();
        assert!(chain.ends_with(b"10.0.0.1"));
        if !is_trusted {
            assert_eq!((chain.as_slice(), headers.get_all(FOR).iter().count()), (&b"10.0.0.1"[..], 1));
            assert!(!headers.contains_key(header::FORWARDED));
            assert_eq!(headers.get(HOST), said.get(header::HOST));
        }
        let told = public.with_prefix("/a/b", 2);
        assert!(["http", "https"].contains(&told.scheme));
        let _ = is_https(&peer, is_trusted, &headers);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{listen::ListenerState, tests::headers};

    fn nets() -> Vec<IpNet> {
        vec!["10.0.0.0/8".parse().unwrap(), "2001:db8::/32".parse().unwrap()]
    }

    fn client_behind(peer: &str, said: &HeaderMap) -> String {
        let (nets, peer) = (nets(), peer.parse().unwrap());
        client(&nets, peer, is_trusted(&nets, peer), said).to_string()
    }

    fn client_of(lines: &[(&'static str, &'static str)]) -> String {
        client_behind("10.0.0.1", &headers(lines))
    }

    #[test]
    fn the_client_is_the_first_untrusted_address_from_the_right() {
        assert_eq!(client_of(&[("x-forwarded-for", "6.6.6.6, 192.0.2.7, 10.1.1.1")]), "192.0.2.7");
        assert_eq!(client_of(&[("x-forwarded-for", "6.6.6.6"), ("x-forwarded-for", "192.0.2.7:99")]), "192.0.2.7");
        assert_eq!(client_of(&[("x-forwarded-for", "10.3.3.3, 10.1.1.1")]), "10.3.3.3");
        assert_eq!(client_of(&[("x-forwarded-for", "6.6.6.6, unknown, 10.1.1.1")]), "10.1.1.1");
        assert_eq!(client_of(&[]), "10.0.0.1");
        assert_eq!(client_of(&[("forwarded", "for=6.6.6.6, For=\"[2001:db9::1]:80\";proto=https")]), "2001:db9::1");
    }

    #[test]
    fn a_stranger_speaks_for_nobody() {
        for chain in ["6.6.6.6", "::", "10.0.0.7"] {
            assert_eq!(client_behind("192.0.2.9", &headers(&[("x-forwarded-for", chain)])), "192.0.2.9", "{chain}");
        }
    }

    #[test]
    fn a_place_is_named_by_host_and_by_what_a_trusted_peer_says_of_it() {
        let said = headers(&[("host", "a"), ("x-forwarded-host", "b"), ("forwarded", "for=1.1.1.1;Host=c, host=d")]);
        assert_eq!(*place(&said, true), *b"a b c d");
        assert_eq!(*place(&said, false), *b"a");
        assert_eq!(*place(&headers(&[("host", "a"), ("forwarded", "for=1.1.1.1")]), true), *b"a");
    }

    #[test]
    fn a_strangers_words_are_replaced() {
        let mut said = headers(&[
            ("host", "shop"),
            ("x-forwarded-for", "1.1.1.1"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-port", "1"),
            ("forwarded", "for=1.1.1.1"),
        ]);
        tell(&mut said, &Peer::new(([192, 0, 2, 7], 1).into(), &ListenerState::nowhere(), false), false, true);
        let expected = headers(&[
            ("host", "shop"),
            ("x-forwarded-for", "192.0.2.7"),
            ("x-forwarded-proto", "http"),
            ("x-forwarded-host", "shop"),
        ]);
        assert_eq!(said, expected);
    }

    #[test]
    fn of_several_schemes_the_clients_own_counts() {
        let peer = Peer::new(([10, 0, 0, 1], 1).into(), &ListenerState::nowhere(), false);
        for (said, expected) in [("https, http", true), ("HTTPS", true), ("http, https", false), ("http", false)] {
            assert_eq!(is_https(&peer, true, &headers(&[("x-forwarded-proto", said)])), expected, "{said}");
            assert!(!is_https(&peer, false, &headers(&[("x-forwarded-proto", said)])), "a stranger says {said}");
        }
    }

    #[test]
    fn a_trusted_peers_words_are_added_to() {
        let mut said = headers(&[
            ("host", "shop"),
            ("x-forwarded-for", "192.0.2.7"),
            ("x-forwarded-proto", "https"),
            ("forwarded", "for=192.0.2.7"),
        ]);
        tell(&mut said, &Peer::new(([10, 0, 0, 1], 1).into(), &ListenerState::nowhere(), false), true, true);
        assert_eq!(said["x-forwarded-for"], "192.0.2.7, 10.0.0.1");
        assert_eq!(said["x-forwarded-proto"], "https");
        assert_eq!(said["x-forwarded-host"], "shop");
        assert_eq!(said["forwarded"], "for=192.0.2.7, for=10.0.0.1");
    }

    proptest! {
        #[test]
        fn whatever_is_said_a_stranger_is_who_connected(
            chain in "[ -~]{0,60}",
            element in "(for=)?[ -~]{0,60}",
        ) {
            let mut said = HeaderMap::new();
            said.insert("x-forwarded-for", chain.parse().unwrap());
            said.insert(header::FORWARDED, element.parse().unwrap());
            prop_assert_eq!(client_behind("192.0.2.9", &said), "192.0.2.9");
            // And a trusted peer's words lead to some address, or to the peer.
            client_behind("10.0.0.1", &said);
        }

        #[test]
        fn the_last_stranger_of_a_chain_is_the_client(
            strangers in prop::collection::vec("192\\.0\\.2\\.[1-9]", 1..4),
            trusted in prop::collection::vec("10\\.[0-9]\\.[0-9]\\.[1-9]", 0..4),
        ) {
            let mut said = HeaderMap::new();
            let chain = strangers.iter().chain(&trusted).map(String::as_str).collect::<Vec<_>>().join(", ");
            said.insert("x-forwarded-for", chain.parse().unwrap());
            let found = client_behind("10.0.0.1", &said);
            prop_assert_eq!(Some(&found), strangers.last());
        }
    }
}
