//! W3C Trace Context (Recommendation of 23 November 2021): `traceparent` read, made and passed on.
//!
//! Malformed is absent. A version above 00 is read as far as 00 goes, and answered with 00. Of the flags two are known: sampled, and random
//! (level 2).

use std::{
    cell::RefCell,
    fmt,
    num::{NonZeroU64, NonZeroU128},
};

use http::{HeaderName, HeaderValue};
use rand::{Rng, SeedableRng, rngs::SmallRng};

/// The header that names a request's trace.
pub(crate) const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// What vendors add to it; passed on as it is.
pub(crate) const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// One hop of a trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Trace {
    pub(crate) id: TraceId,
    /// The hop's own id, which the next one calls its parent.
    pub(crate) span: NonZeroU64,
    flags: u8,
}

/// Of a whole trace; shown as 32 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TraceId(NonZeroU128);

const SAMPLED: u8 = 1;
/// All of the id is random.
const RANDOM: u8 = 2;
/// `00-`, 32 digits, `-`, 16 digits, `-`, 2 digits.
const LENGTH: usize = 55;

thread_local! {
    static DICE: RefCell<SmallRng> = RefCell::new(seeded());
}

// === impl Trace ===

impl Trace {
    /// What a `traceparent` says; `None` when it is malformed.
    pub(crate) fn parse(value: &[u8]) -> Option<Self> {
        let (known, more) = value.split_at_checked(LENGTH)?;
        let version = hex(&known[..2])?;
        let is_version = match version {
            0 => more.is_empty(),
            0xff => false,
            _ => more.is_empty() || more[0] == b'-',
        };
        let is_divided = [2, 35, 52].iter().all(|at| known[*at] == b'-');
        if !is_version || !is_divided {
            return None;
        }
        let id = NonZeroU128::new(hex(&known[3..35])?)?;
        let span = NonZeroU64::new(u64::try_from(hex(&known[36..52])?).ok()?)?;
        let flags = u8::try_from(hex(&known[53..])?).ok()?;
        Some(Self { id: TraceId(id), span, flags: flags & (SAMPLED | RANDOM) })
    }

    /// The first hop of a new trace.
    pub(crate) fn begin(is_sampled: bool) -> Self {
        Self { id: TraceId::random(), span: random_span(), flags: RANDOM | if is_sampled { SAMPLED } else { 0 } }
    }

    /// The next hop of this trace, sampled or not as this one is.
    pub(crate) fn child(self) -> Self {
        Self { span: random_span(), ..self }
    }

    /// The same hop, not to be recorded.
    pub(crate) fn unsampled(self) -> Self {
        Self { flags: self.flags & !SAMPLED, ..self }
    }

    pub(crate) fn is_sampled(self) -> bool {
        self.flags & SAMPLED != 0
    }

    /// As a `traceparent`.
    pub(crate) fn header(self) -> HeaderValue {
        let mut text = *b"00-00000000000000000000000000000000-0000000000000000-00";
        write_hex(&self.id.0.get().to_be_bytes(), &mut text[3..35]);
        write_hex(&self.span.get().to_be_bytes(), &mut text[36..52]);
        write_hex(&[self.flags], &mut text[53..]);
        // Digits and dashes are a header's value.
        HeaderValue::from_bytes(&text).unwrap_or(HeaderValue::from_static(""))
    }
}

// === impl TraceId ===

impl TraceId {
    /// Of a trace that nobody began: to find a request's line in the log by.
    pub(crate) fn random() -> Self {
        let half = || u128::from(random_span().get());
        // Neither half is zero.
        Self(NonZeroU128::new(half() << 64 | half()).unwrap_or(NonZeroU128::MIN))
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// Sixteen bits of chance below `bound`, from this thread's dice.
pub(crate) fn draw_below(bound: u16) -> u16 {
    // Biased by less than a 2^48th.
    let draw = DICE.with_borrow_mut(Rng::next_u64) % u64::from(bound.max(1));
    u16::try_from(draw).unwrap_or_default()
}

fn random_span() -> NonZeroU64 {
    DICE.with_borrow_mut(|dice| {
        loop {
            if let Some(span) = NonZeroU64::new(dice.next_u64()) {
                return span;
            }
        }
    })
}

fn seeded() -> SmallRng {
    let mut seed = [0; 32];
    match getrandom::fill(&mut seed) {
        Ok(()) => SmallRng::from_seed(seed),
        // The system has no chance to give: what differs between threads and starts is their addresses.
        Err(_) => SmallRng::seed_from_u64(&raw const seed as u64),
    }
}

/// Lower case alone, as the recommendation has it.
fn hex(digits: &[u8]) -> Option<u128> {
    digits.iter().try_fold(0, |value: u128, digit| {
        let digit = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(value << 4 | u128::from(digit))
    })
}

fn write_hex(bytes: &[u8], text: &mut [u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for (byte, pair) in bytes.iter().zip(text.chunks_exact_mut(2)) {
        pair[0] = DIGITS[usize::from(byte >> 4)];
        pair[1] = DIGITS[usize::from(byte & 15)];
    }
}

/// What is read is said the same way.
#[cfg(any(test, feature = "fuzz"))]
pub(crate) fn fuzz(data: &[u8]) {
    if let Some(trace) = Trace::parse(data) {
        assert_eq!(Trace::parse(trace.header().as_bytes()), Some(trace));
        assert_eq!(trace.child().id, trace.id);
        assert!(!trace.unsampled().is_sampled());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_traceparent_is_read_and_written_alike() {
        let trace = Trace::parse(GOOD.as_bytes()).unwrap();
        assert_eq!(trace.header(), GOOD);
        assert_eq!(trace.id.to_string(), "0af7651916cd43dd8448eb211c80319c");
        assert!(trace.is_sampled());
        assert_eq!(trace.unsampled().header().to_str().unwrap()[53..], *"00");
    }

    #[test]
    fn what_is_malformed_is_absent() {
        for bad in [
            "",
            "00",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-x",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01x",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319g-b7ad6b7169203331-01",
            "00_0af7651916cd43dd8448eb211c80319c_b7ad6b7169203331_01",
            " 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0x",
        ] {
            assert_eq!(Trace::parse(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn a_later_version_is_read_as_far_as_this_one_goes() {
        for later in [
            "01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-ff",
            "cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-09-more",
        ] {
            let trace = Trace::parse(later.as_bytes()).unwrap();
            assert_eq!(&trace.header().to_str().unwrap()[..53], &GOOD[..53], "{later}");
            assert!(trace.is_sampled());
        }
    }

    #[test]
    fn a_child_has_its_own_span_in_the_same_trace() {
        let parent = Trace::begin(true);
        let child = parent.child();
        assert_eq!((child.id, child.is_sampled()), (parent.id, true));
        assert_ne!(child.span, parent.span);
        assert!(!Trace::begin(false).is_sampled());
        assert_eq!(Trace::parse(child.header().as_bytes()), Some(child));
    }
}
