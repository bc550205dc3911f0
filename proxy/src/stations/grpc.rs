//! The two things that Banyan reads of a gRPC call: how long its client waits, and whether the answer is the server's failure.
//!
//! Messages are not looked at: they are bodies like any other.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};

const TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
const STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// At most eight digits and a unit (gRPC over HTTP/2, "Requests"); anything else is no deadline.
pub(super) fn timeout(headers: &HeaderMap) -> Option<Duration> {
    let (unit, digits) = headers.get(TIMEOUT)?.as_bytes().split_last()?;
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let amount = digits.iter().fold(0, |amount, digit| amount * 10 + u64::from(digit - b'0'));
    Some(match unit {
        b'H' => Duration::from_secs(amount * 3600),
        b'M' => Duration::from_secs(amount * 60),
        b'S' => Duration::from_secs(amount),
        b'm' => Duration::from_millis(amount),
        b'u' => Duration::from_micros(amount),
        b'n' => Duration::from_nanos(amount),
        _ => return None,
    })
}

/// Whether an answer of a head alone says that the server failed, and not the caller: what a 5xx would say.
pub(super) fn is_failure(headers: &HeaderMap) -> bool {
    // UNKNOWN, DEADLINE_EXCEEDED, INTERNAL, UNAVAILABLE, DATA_LOSS
    headers
        .get(STATUS)
        .is_some_and(|status: &HeaderValue| matches!(status.as_bytes(), b"2" | b"4" | b"13" | b"14" | b"15"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: HeaderName, value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_static(value))])
    }

    #[test]
    fn a_deadline_is_some_digits_and_a_unit() {
        for (text, expected) in [
            ("1H", Some(Duration::from_secs(3600))),
            ("2M", Some(Duration::from_secs(120))),
            ("3S", Some(Duration::from_secs(3))),
            ("4m", Some(Duration::from_millis(4))),
            ("5u", Some(Duration::from_micros(5))),
            ("99999999n", Some(Duration::from_nanos(99_999_999))),
            ("999999999n", None),
            ("S", None),
            ("", None),
            ("-1S", None),
            ("1 S", None),
            ("1s", None),
        ] {
            assert_eq!(timeout(&headers(TIMEOUT, text)), expected, "{text:?}");
        }
        assert_eq!(timeout(&HeaderMap::new()), None);
    }

    #[test]
    fn only_what_the_server_did_wrong_is_its_failure() {
        for (status, expected) in [("0", false), ("5", false), ("7", false), ("2", true), ("13", true), ("14", true)] {
            assert_eq!(is_failure(&headers(STATUS, status)), expected, "{status}");
        }
    }
}
