//! Until when a certificate is valid: the one thing of it that rustls does not tell. Reads just as much of the DER as that takes (RFC 5280, 4.1);
//! rustls has judged the rest of it before.

use std::path::PathBuf;

use rustls::pki_types::CertificateDer;

/// A chain's end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expiry {
    /// The file of the chain, as the config names it.
    pub cert: PathBuf,
    /// When the first of its certificates ends, in seconds since 1970.
    pub at: u64,
}

const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// When the first certificate of a chain ends; `None` where none says so.
pub(super) fn of_chain(chain: &[CertificateDer<'_>]) -> Option<u64> {
    chain.iter().filter_map(|certificate| not_after(certificate)).min()
}

fn not_after(der: &[u8]) -> Option<u64> {
    let (certificate, _) = within(der, SEQUENCE)?;
    let (mut body, _) = within(certificate, SEQUENCE)?;
    if body.first() == Some(&VERSION) {
        body = element(body)?.2;
    }
    // serialNumber, signature, issuer
    for _ in 0..3 {
        body = element(body)?.2;
    }
    let (validity, _) = within(body, SEQUENCE)?;
    let (_, _, behind) = element(validity)?;
    let (tag, time, _) = element(behind)?;
    time_of(tag, time)
}

/// Tag, content, and what stands behind it. Tags of certificates are of one byte.
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&[tag, first], rest) = der.split_first_chunk::<2>()?;
    let (length, rest) = match first {
        0..0x80 => (usize::from(first), rest),
        _ => {
            let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            if bytes.len() > 4 {
                return None;
            }
            (bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
        }
    };
    let (content, behind) = rest.split_at_checked(length)?;
    Some((tag, content, behind))
}

fn within(der: &[u8], wanted: u8) -> Option<(&[u8], &[u8])> {
    let (tag, content, behind) = element(der)?;
    (tag == wanted).then_some((content, behind))
}

/// `YYMMDDHHMMSSZ` up to 2049, `YYYYMMDDHHMMSSZ` from then on (RFC 5280, 4.1.2.5).
fn time_of(tag: u8, text: &[u8]) -> Option<u64> {
    let digits = text.strip_suffix(b"Z")?;
    let two = |at: usize| -> Option<u64> {
        let [tens, ones] = *digits.get(at..at + 2)? else { return None };
        (tens.is_ascii_digit() && ones.is_ascii_digit()).then(|| u64::from(tens - b'0') * 10 + u64::from(ones - b'0'))
    };
    let (year, at) = match (tag, digits.len()) {
        (UTC_TIME, 12) => (two(0)? + if two(0)? < 50 { 2000 } else { 1900 }, 2),
        (GENERALIZED_TIME, 14) => (two(0)? * 100 + two(2)?, 4),
        _ => return None,
    };
    let (month, day) = (two(at)?, two(at + 2)?);
    let (hour, minute, second) = (two(at + 4)?, two(at + 6)?, two(at + 8)?);
    if year < 1970 || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    Some(((days_to(year, month) + day - 1) * 24 + hour) * 3600 + minute * 60 + second)
}

/// Days from 1970 to the first of a month.
fn days_to(year: u64, month: u64) -> u64 {
    const BEFORE: [u64; 12] = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334];
    let leap_days = |year: u64| year / 4 - year / 100 + year / 400;
    let is_leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let leaps = leap_days(year - 1) - leap_days(1969) + u64::from(is_leap && month > 2);
    (year - 1970) * 365 + leaps + BEFORE[usize::try_from(month - 1).unwrap_or_default().min(11)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_both_kinds_write_them() {
        for (tag, text, at) in [
            (UTC_TIME, "700101000000Z", Some(0)),
            (UTC_TIME, "261126145207Z", Some(1_795_704_727)),
            (UTC_TIME, "000229235959Z", Some(951_868_799)),
            (UTC_TIME, "491231235959Z", Some(2_524_607_999)),
            (GENERALIZED_TIME, "20500101000000Z", Some(2_524_608_000)),
            (GENERALIZED_TIME, "20000301000000Z", Some(951_868_800)),
            (GENERALIZED_TIME, "99991231235959Z", Some(253_402_300_799)),
            (UTC_TIME, "991331000000Z", None),
            (UTC_TIME, "9912310000Z", None),
            (UTC_TIME, "99123100000xZ", None),
            (GENERALIZED_TIME, "20500101000000", None),
        ] {
            assert_eq!(time_of(tag, text.as_bytes()), at, "{text}");
        }
    }

    #[test]
    fn a_certificate_ends_when_it_says_and_a_piece_of_one_says_nothing() {
        let mut params = rcgen::CertificateParams::new(vec!["shop.example".to_owned()]).unwrap();
        params.not_after = rcgen::date_time_ymd(2031, 5, 17);
        let key = rcgen::KeyPair::generate().unwrap();
        let der = params.self_signed(&key).unwrap().der().clone();
        assert_eq!(not_after(&der), Some(1_936_742_400));
        for cut in 0..der.len() {
            assert_eq!(not_after(&der[..cut]), None, "{cut}");
        }
    }
}
