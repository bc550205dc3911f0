//! The PROXY protocol, versions 1 and 2: what a load balancer says of its client before the connection's first byte.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    str::FromStr,
    time::Duration,
};

use ipnet::IpNet;
use tokio::{io::AsyncReadExt, net::TcpStream};

/// What the bytes so far are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Look {
    /// A header of this length, whatever follows it; with the client's address, unless the sender speaks for itself or does not know.
    Whole(usize, Option<SocketAddr>),
    /// All of it belongs to a header that goes on.
    Unfinished,
    Wrong,
}

/// How version 1 begins.
const TEXT: &[u8] = b"PROXY ";
/// The most that version 1 may take, with its end of line.
const TEXT_MOST: usize = 107;
/// How version 2 begins.
const BINARY: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// The part of version 2 that says how long the rest is.
const BINARY_FIXED: usize = 16;
/// The most that version 2 may take; behind the addresses stands what is skipped.
const BINARY_MOST: usize = BINARY_FIXED + 1024;

/// Whether this peer says first for whom it speaks.
pub(super) fn is_spoken(from: &[IpNet], peer: SocketAddr) -> bool {
    let peer = peer.ip().to_canonical();
    from.iter().any(|net| net.contains(&peer))
}

/// Reads a header and not a byte more. `None` where the connection's own address counts.
///
/// # Errors
/// When there is none, or none in time.
pub(super) async fn read(stream: &mut TcpStream, within: Duration) -> io::Result<Option<SocketAddr>> {
    tokio::time::timeout(within, header(stream)).await?
}

async fn header(stream: &mut TcpStream) -> io::Result<Option<SocketAddr>> {
    let mut bytes = [0; BINARY_MOST];
    let mut have = 0;
    loop {
        // Only looked at, since what follows the header is not ours.
        let seen = stream.peek(&mut bytes[have..]).await?;
        if seen == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let (end, whole) = match look(&bytes[..have + seen]) {
            Look::Whole(length, client) => (length, Some(client)),
            Look::Unfinished => (have + seen, None),
            Look::Wrong => return Err(io::ErrorKind::InvalidData.into()),
        };
        // Taken, so that the next look waits for more.
        stream.read_exact(&mut bytes[have..end]).await?;
        if let Some(client) = whole {
            return Ok(client);
        }
        have = end;
    }
}

fn look(bytes: &[u8]) -> Look {
    if begins(bytes, TEXT) {
        text(bytes)
    } else if begins(bytes, BINARY) {
        binary(bytes)
    } else {
        Look::Wrong
    }
}

/// Whether the bytes begin so, as far as there are any.
fn begins(bytes: &[u8], with: &[u8]) -> bool {
    bytes.iter().zip(with).all(|(one, other)| one == other)
}

/// Version 1: `PROXY TCP4 <from> <to> <port> <port>`, or `PROXY UNKNOWN` and anything.
fn text(bytes: &[u8]) -> Look {
    let bytes = &bytes[..bytes.len().min(TEXT_MOST)];
    let Some(end) = bytes.windows(2).position(|two| two == b"\r\n") else {
        return if bytes.len() < TEXT_MOST { Look::Unfinished } else { Look::Wrong };
    };
    let whole = |client| Look::Whole(end + 2, client);
    let Some(said) = bytes.get(TEXT.len()..end) else { return Look::Wrong };
    let Ok(said) = std::str::from_utf8(said) else { return Look::Wrong };
    let mut words = said.split(' ');
    let client = match words.next() {
        Some("UNKNOWN") => return whole(None),
        Some("TCP4") => pair::<Ipv4Addr>(words),
        Some("TCP6") => pair::<Ipv6Addr>(words),
        _ => None,
    };
    client.map_or(Look::Wrong, |client| whole(Some(client)))
}

/// Both ends must be right; the first is the client's.
fn pair<'w, A: FromStr + Into<IpAddr>>(mut words: impl Iterator<Item = &'w str>) -> Option<SocketAddr> {
    let mut word = || words.next();
    let (client, here) = (word()?.parse::<A>().ok()?, word()?.parse::<A>().ok());
    let (port, here_port) = (port(word()?)?, port(word()?));
    let is_right = here.is_some() && here_port.is_some() && word().is_none();
    is_right.then(|| SocketAddr::new(client.into(), port))
}

/// Digits alone, and no zero before others.
fn port(word: &str) -> Option<u16> {
    let is_plain = word.bytes().all(|byte| byte.is_ascii_digit()) && (word == "0" || !word.starts_with('0'));
    is_plain.then(|| word.parse().ok()).flatten()
}

/// Version 2. A checksum among what is skipped is not verified: TCP has one.
fn binary(bytes: &[u8]) -> Look {
    let Some((fixed, rest)) = bytes.split_first_chunk::<BINARY_FIXED>() else { return Look::Unfinished };
    let [.., command, family, high, low] = *fixed;
    let length = usize::from(u16::from_be_bytes([high, low]));
    if BINARY_FIXED + length > BINARY_MOST {
        return Look::Wrong;
    }
    let needs = match (command, family) {
        // The load balancer speaks for itself, as its health checks do; or it names no address of ours.
        (0x20, _) | (0x21, 0x00 | 0x31) => 0,
        (0x21, 0x11) => 12,
        (0x21, 0x21) => 36,
        _ => return Look::Wrong,
    };
    if length < needs {
        return Look::Wrong;
    }
    let Some(said) = rest.get(..length) else { return Look::Unfinished };
    let client = match needs {
        12 => ends::<4, Ipv4Addr>(said),
        36 => ends::<16, Ipv6Addr>(said),
        _ => None,
    };
    Look::Whole(BINARY_FIXED + length, client)
}

/// Two addresses, two ports: the client's is the first of each.
fn ends<const LENGTH: usize, A: From<[u8; LENGTH]> + Into<IpAddr>>(said: &[u8]) -> Option<SocketAddr> {
    let client = A::from(*said.first_chunk()?);
    let port = said.get(2 * LENGTH..)?.first_chunk()?;
    Some(SocketAddr::new(client.into(), u16::from_be_bytes(*port)))
}

/// However a header is cut, its beginning is no other header, and it is never read beyond its end.
#[cfg(any(test, feature = "fuzz"))]
pub(crate) fn fuzz(data: &[u8]) {
    match look(data) {
        Look::Whole(length, client) => {
            assert!(length <= data.len());
            for cut in 0..length {
                assert_eq!(look(&data[..cut]), Look::Unfinished, "{cut}");
            }
            assert_eq!(look(&data[..length]), Look::Whole(length, client));
        }
        Look::Unfinished => assert!(data.len() < BINARY_MOST),
        Look::Wrong => {}
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn version2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = (rest.len() as u16).to_be_bytes();
        [&BINARY[..], &[command, family], &length, rest].concat()
    }

    fn ends4(more: usize) -> Vec<u8> {
        [&[192, 0, 2, 7, 10, 0, 0, 1, 0x12, 0x34, 0, 80][..], &vec![0xff; more]].concat()
    }

    fn said(header: &[u8]) -> Option<String> {
        match look(header) {
            Look::Whole(length, client) if length == header.len() => {
                Some(client.map_or("own".to_owned(), |client| client.to_string()))
            }
            _ => None,
        }
    }

    #[test]
    fn a_text_header_says_the_client_or_that_nobody_knows() {
        let longest = format!("PROXY UNKNOWN{}\r\n", " ".repeat(TEXT_MOST - 15));
        for (header, client) in [
            ("PROXY TCP4 192.0.2.7 10.0.0.1 4660 80\r\n", Some("192.0.2.7:4660")),
            ("PROXY TCP6 2001:db8::7 ::1 65535 0\r\n", Some("[2001:db8::7]:65535")),
            ("PROXY UNKNOWN\r\n", Some("own")),
            ("PROXY UNKNOWN ffff::1 what ever\r\n", Some("own")),
            (&longest, Some("own")),
            (&longest.replace("UNKNOWN", "UNKNOWN "), None),
            ("PROXY TCP4 192.0.2.7 10.0.0.1 4660 80\n\r\n", None),
            ("PROXY TCP4 192.0.2.7 10.0.0.1 4660 80 \r\n", None),
            ("PROXY TCP4  192.0.2.7 10.0.0.1 4660 80\r\n", None),
            ("PROXY TCP4 192.0.2.7 10.0.0.1 04660 80\r\n", None),
            ("PROXY TCP4 192.0.2.7 10.0.0.1 +4660 80\r\n", None),
            ("PROXY TCP4 192.0.2.7 10.0.0.1 65536 80\r\n", None),
            ("PROXY TCP4 192.0.2.7 10.0.0.1 4660\r\n", None),
            ("PROXY TCP4 192.0.2.7 shop.test 4660 80\r\n", None),
            ("PROXY TCP4 ::1 ::1 4660 80\r\n", None),
            ("PROXY TCP6 192.0.2.7 10.0.0.1 4660 80\r\n", None),
            ("PROXY UDP4 192.0.2.7 10.0.0.1 4660 80\r\n", None),
            ("PROXY \r\n", None),
            ("proxy UNKNOWN\r\n", None),
            ("GET / HTTP/1.1\r\n\r\n", None),
        ] {
            assert_eq!(said(header.as_bytes()).as_deref(), client, "{header:?}");
        }
    }

    #[test]
    fn a_binary_header_says_the_client_or_that_the_sender_speaks_for_itself() {
        let mut ends6 = vec![0; 36];
        (ends6[0], ends6[1], ends6[15], ends6[33]) = (0x20, 0x01, 7, 9);
        for (command, family, rest, client) in [
            (0x21, 0x11, ends4(0), Some("192.0.2.7:4660")),
            (0x21, 0x11, ends4(1012), Some("192.0.2.7:4660")),
            (0x21, 0x21, ends6, Some("[2001::7]:9")),
            (0x21, 0x00, vec![], Some("own")),
            (0x21, 0x31, vec![b'/'; 216], Some("own")),
            (0x20, 0x00, vec![], Some("own")),
            (0x20, 0x11, ends4(3), Some("own")),
            (0x21, 0x11, ends4(1013), None),
            (0x21, 0x11, ends4(0)[..11].to_vec(), None),
            (0x21, 0x21, ends4(23), None),
            (0x21, 0x12, ends4(0), None),
            (0x21, 0x41, ends4(0), None),
            (0x22, 0x11, ends4(0), None),
            (0x11, 0x11, ends4(0), None),
        ] {
            let header = version2(command, family, &rest);
            assert_eq!(said(&header).as_deref(), client, "{command:x} {family:x} {}", rest.len());
        }
    }

    fn headers() -> impl Strategy<Value = Vec<u8>> {
        let (ip4, ip6) = (any::<(Ipv4Addr, Ipv4Addr, u16, u16)>(), any::<(Ipv6Addr, Ipv6Addr, u16, u16)>());
        prop_oneof![
            ip4.prop_map(|(a, b, c, d)| format!("PROXY TCP4 {a} {b} {c} {d}\r\n").into_bytes()),
            ip6.prop_map(|(a, b, c, d)| format!("PROXY TCP6 {a} {b} {c} {d}\r\n").into_bytes()),
            (0..1012usize).prop_map(|more| version2(0x21, 0x11, &ends4(more))),
        ]
    }

    proptest! {
        #[test]
        fn every_cut_is_unfinished_and_what_follows_changes_nothing(
            header in headers(),
            cut in any::<prop::sample::Index>(),
            behind in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            prop_assert_eq!(look(&header[..cut.index(header.len())]), Look::Unfinished);
            let whole = look(&header);
            prop_assert!(matches!(whole, Look::Whole(length, Some(_)) if length == header.len()));
            prop_assert_eq!(look(&[header, behind].concat()), whole);
        }

        #[test]
        fn any_bytes_are_judged_within_the_most_that_is_read(
            begin in prop::sample::select(vec![&b""[..], TEXT, b"PROXY TCP4 ", &BINARY[..], b"\r\n\r\n\0\r\nQUIT\n\x21\x11"]),
            bytes in prop::collection::vec(any::<u8>(), 0..1200),
        ) {
            let bytes = [begin, &bytes].concat();
            match look(&bytes) {
                Look::Whole(length, _) => prop_assert!(length <= bytes.len().min(BINARY_MOST)),
                // There must always be room for the next byte.
                Look::Unfinished => prop_assert!(bytes.len() < BINARY_MOST),
                Look::Wrong => {}
            }
        }
    }
}
