//! Values that may differ a little: numbers by an amount, times by a while.

use time::{OffsetDateTime, PrimitiveDateTime, format_description::well_known::Rfc3339, macros::format_description};

use super::{
    json::Json,
    pointer::{Pattern, Step},
};
use crate::config;

/// The file's rules about it.
#[derive(Debug, Clone)]
pub(super) struct Near {
    numbers: Vec<(Pattern, f64)>,
    /// In nanoseconds.
    times: Vec<(Pattern, i128)>,
}

// === impl Near ===

impl Near {
    pub(super) fn new(compare: &config::Compare) -> Self {
        let nanos = |period: &config::Period| i128::try_from(period.0.as_nanos()).unwrap_or(i128::MAX);
        Self {
            numbers: compare.numbers_within.iter().map(|(at, by)| (Pattern::new(at), by.get())).collect(),
            times: compare.times_within.iter().map(|(at, by)| (Pattern::new(at), nanos(by))).collect(),
        }
    }

    /// Whether two values in this place are as good as the same.
    pub(super) fn is_near(&self, place: &[Step<'_>], control: &Json<'_>, candidate: &Json<'_>) -> bool {
        let by = |rules: &[(Pattern, f64)]| rules.iter().find(|(at, _)| at.is(place)).map(|(_, by)| *by);
        if let Some(by) = by(&self.numbers)
            && let (Some(left), Some(right)) = (number(control), number(candidate))
        {
            // What the two lose by becoming doubles must not count: 19.91 - 19.90 is a little more than 0.01.
            return is_alike(control, candidate)
                && (left - right).abs() <= by + (left.abs() + right.abs()) * f64::EPSILON;
        }
        if let Some((_, by)) = self.times.iter().find(|(at, _)| at.is(place))
            && let (Some(left), Some(right)) = (time(control), time(candidate))
        {
            return is_alike(control, candidate) && (left - right).abs() <= *by;
        }
        false
    }
}

/// A text is never a number, however near it is.
fn is_alike(left: &Json<'_>, right: &Json<'_>) -> bool {
    std::mem::discriminant(left) == std::mem::discriminant(right)
}

fn number(json: &Json<'_>) -> Option<f64> {
    let text = match json {
        Json::Number(text) => text,
        Json::String(text) => text.as_ref(),
        _ => return None,
    };
    text.parse().ok().filter(|number: &f64| number.is_finite())
}

/// Nanoseconds since 1970.
fn time(json: &Json<'_>) -> Option<i128> {
    match json {
        Json::Number(text) => since_1970(text.parse().ok()?),
        Json::String(text) => {
            let known = OffsetDateTime::parse(text, &Rfc3339).map(OffsetDateTime::unix_timestamp_nanos);
            known.ok().or_else(|| local(text))
        }
        _ => None,
    }
}

/// As databases and old programs write it: a space for the `T`, no offset. Both sides mean the same clock.
fn local(text: &str) -> Option<i128> {
    let spaced = format_description!("[year]-[month]-[day] [hour]:[minute]:[second][optional [.[subsecond]]]");
    let time = PrimitiveDateTime::parse(&text.replacen('T', " ", 1), spaced).ok()?;
    Some(time.assume_utc().unix_timestamp_nanos())
}

/// Seconds, milliseconds or microseconds: whichever gives a year between 1973 and 5138.
fn since_1970(number: f64) -> Option<i128> {
    let nanos = match number.abs() {
        size if size < 1e11 => 1e9,
        size if size < 1e14 => 1e6,
        size if size < 1e17 => 1e3,
        _ => return None,
    };
    // Below 1e26, which an i128 holds.
    #[expect(clippy::cast_possible_truncation)]
    Some((number * nanos) as i128)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::json;

    fn near(rules: &str, left: &str, right: &str) -> bool {
        let rules = Near::new(&serde_json::from_str(rules).unwrap());
        let (left, right) = (json::parse(left.as_bytes()).unwrap(), json::parse(right.as_bytes()).unwrap());
        let there = rules.is_near(&[Step::Member("at")], &left, &right);
        assert_eq!(there, rules.is_near(&[Step::Member("at")], &right, &left), "the order makes no difference");
        there
    }

    #[test]
    fn numbers_may_differ_by_what_the_file_says_and_no_more() {
        let rules = r#"{"numbers_within": {"/at": 0.01}}"#;
        for (left, right, is_near) in [
            ("19.90", "19.91", true),
            ("1e300", "1e300", true),
            ("19.90", "19.92", false),
            (r#""19.90""#, r#""19.91""#, true),
            (r#""19.90""#, "19.90", false),
            (r#""a""#, r#""b""#, false),
            (r#""NaN""#, r#""NaN""#, false),
            ("1", "null", false),
        ] {
            assert_eq!(near(rules, left, right), is_near, "{left} {right}");
        }
        assert!(!near(r#"{"numbers_within": {"/other": 9}}"#, "1", "2"));
    }

    #[test]
    fn times_may_differ_by_a_while_whatever_their_offset() {
        let rules = r#"{"times_within": {"/at": "2s"}}"#;
        for (left, right, is_near) in [
            (r#""2026-11-26T12:00:00Z""#, r#""2026-11-26T13:00:01.5+01:00""#, true),
            (r#""2026-11-26T12:00:00Z""#, r#""2026-11-26T12:00:02.001Z""#, false),
            (r#""2026-11-26 12:00:00""#, r#""2026-11-26T12:00:01.25""#, true),
            ("1764158400", "1764158402", true),
            ("1764158400", "1764158403", false),
            ("1764158400000", "1764158401999", true),
            ("1764158400000", "1764158402001", false),
            ("1764158400", "1764158400000", true),
            (r#""soon""#, r#""later""#, false),
            (r#""2026-11-26T12:00:00Z""#, "1764158400", false),
        ] {
            assert_eq!(near(rules, left, right), is_near, "{left} {right}");
        }
    }
}
