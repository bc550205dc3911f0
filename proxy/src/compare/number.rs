//! Whether two JSON numbers are the same number, by their digits: no rounding, whatever their size.

/// `0.d₁d₂d₃… × 10^exponent`, without zeros at either end.
#[derive(Debug, PartialEq, Eq)]
struct Decimal {
    is_negative: bool,
    digits: Vec<u8>,
    exponent: i64,
}

/// Whether two texts that are JSON numbers mean the same number.
pub(super) fn is_same(left: &str, right: &str) -> bool {
    left == right || Decimal::of(left) == Decimal::of(right)
}

/// One text for one number, however it is written.
pub(super) fn canonical(text: &str) -> String {
    let Decimal { is_negative, digits, exponent } = Decimal::of(text);
    let sign = if is_negative { "-" } else { "" };
    format!("{sign}{}e{exponent}", digits.escape_ascii())
}

// === impl Decimal ===

impl Decimal {
    fn of(text: &str) -> Self {
        let (is_negative, text) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let all: Vec<u8> = whole.bytes().chain(fraction.bytes()).collect();
        let leading = all.iter().take_while(|digit| **digit == b'0').count();
        let digits = without_end_zeros(&all[leading..]).to_vec();
        if digits.is_empty() {
            return Self { is_negative: false, digits, exponent: 0 };
        }
        // Farther out than an i64 they are told apart by nobody.
        let given = exponent.parse().unwrap_or(if exponent.starts_with('-') { i64::MIN } else { i64::MAX });
        let shift = i64::try_from(whole.len()).unwrap_or(i64::MAX) - i64::try_from(leading).unwrap_or(i64::MAX);
        Self { is_negative, digits, exponent: given.saturating_add(shift) }
    }
}

fn without_end_zeros(digits: &[u8]) -> &[u8] {
    let end = digits.iter().rposition(|digit| *digit != b'0').map_or(0, |at| at + 1);
    &digits[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_numbers_are_equal_however_they_are_written() {
        for (left, right) in [
            ("1", "1.0"),
            ("1", "10e-1"),
            ("0.00120", "1.2E-3"),
            ("-0", "0"),
            ("0e99", "0.000"),
            ("100", "1e+2"),
            ("123456789012345678901234567890", "1.2345678901234567890123456789e29"),
        ] {
            assert!(is_same(left, right), "{left} {right}");
        }
    }

    #[test]
    fn numbers_that_a_double_cannot_tell_apart_still_differ() {
        for (left, right) in [
            ("1", "-1"),
            ("9007199254740993", "9007199254740992"),
            ("0.1", "0.1000000000000000000001"),
            ("1e400", "2e400"),
            ("10", "1"),
            ("0.1", "1"),
        ] {
            assert!(!is_same(left, right), "{left} {right}");
        }
    }
}
