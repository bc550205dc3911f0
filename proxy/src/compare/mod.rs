//! Compares what the client got (the control) with the shadow's answer (the candidate): status, chosen headers, and JSON by structure. What
//! comes out names places and types, never a value.
//!
//! A sync that is behind makes answers not comparable, whatever they are. Status and headers are compared always; a body that is longer than
//! the bound or encoded (`content-encoding`) is compared byte by byte where both have it whole and in one encoding, and is otherwise not
//! comparable. Bodies that both call themselves JSON are compared by structure: order of members and white space do not count, numbers are
//! equal when they are the same number (`1`, `1.0` and `10e-1`), a text is never a number.

mod differ;
mod json;
mod number;
mod pointer;
mod tally;

use std::fmt;

use http::{
    HeaderMap, HeaderName, HeaderValue, StatusCode,
    header::{CONTENT_ENCODING, CONTENT_TYPE},
};
use serde::{Serialize, Serializer};

use differ::{Differ, Found};
use pointer::Pattern;
pub use tally::{CompareStatus, DifferenceCount, Sample, Tally};

use crate::config;

/// How one route's answers are compared; compiled from the file.
#[derive(Debug, Clone)]
pub struct Rules {
    ignore: Vec<Pattern>,
    headers: Vec<HeaderName>,
}

/// One answer.
#[derive(Debug, Clone, Copy)]
pub struct Answer<'a> {
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: &'a HeaderMap,
    /// Its body; `None` when it was longer than the bound.
    pub body: Option<&'a [u8]>,
}

/// What comparing two answers gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing differs.
    Match,
    /// Something differs, all of it in places that the file says to ignore.
    Ignored,
    /// These places differ, each once.
    Mismatch(Vec<Spot>),
    /// It cannot be said.
    NotComparable(NotComparable),
}

/// Why it cannot be said whether two answers match.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum NotComparable {
    /// The sync was behind by more than `max_lag`, or by how much was unknown.
    SyncBehind,
    /// A body was longer than `max_body`, or is JSON of more values or greater depth than are compared.
    TooLong,
    /// A body was encoded.
    Encoded,
    /// One side answered "not modified" or a part, the other all of it: they judge the client's copy by their own marks.
    Conditional,
}

/// The result label of `banyan_compare_total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Nothing differs.
    Match,
    /// Something differs.
    Mismatch,
    /// Only what the file says to ignore differs.
    Ignored,
    /// It cannot be said.
    NotComparable,
}

/// One place where two answers differ.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct Difference {
    /// Where.
    pub place: Place,
    /// What the control has there.
    pub control: Seen,
    /// What the candidate has there.
    pub candidate: Seen,
}

/// A difference of two answers, with the lengths that samples tell.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Spot {
    /// Where, and of which types.
    #[serde(flatten)]
    pub difference: Difference,
    /// Characters of a text, digits of a number, members of an array or object, bytes of a body.
    pub control_length: usize,
    /// The same of the candidate.
    pub candidate_length: usize,
}

/// Where two answers differ.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Place {
    /// The status.
    Status,
    /// A header, by name.
    Header(String),
    /// A place in a JSON body: a pointer in which indexes, and member names that look like data, are `*`.
    Pointer(String),
    /// A body that is no JSON.
    Body,
}

/// What stands in a place: its type, never what. Written as one word, a status as its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Seen {
    /// Nothing.
    Missing,
    /// JSON `null`.
    Null,
    /// JSON `true` or `false`.
    Bool,
    /// A JSON number.
    Number,
    /// A JSON string, or a header's value.
    String,
    /// A JSON array.
    Array,
    /// A JSON object.
    Object,
    /// A body that is no JSON.
    Bytes,
    /// A status.
    Status(u16),
}

// === impl Rules ===

impl Rules {
    /// The file's rules.
    #[must_use]
    pub fn new(compare: &config::Compare) -> Self {
        let named = |names: &Vec<config::HeaderName>| {
            names.iter().filter_map(|name| HeaderName::from_bytes(name.as_str().as_bytes()).ok()).collect()
        };
        Self {
            ignore: compare.ignore.iter().map(|pointer| Pattern::new(pointer)).collect(),
            headers: compare.headers.as_ref().map_or_else(|| vec![CONTENT_TYPE], named),
        }
    }

    /// Compares two answers to one request.
    #[must_use]
    pub fn compare(&self, control: &Answer<'_>, candidate: &Answer<'_>) -> Verdict {
        if control.status != candidate.status && (is_conditional(control.status) || is_conditional(candidate.status)) {
            return Verdict::NotComparable(NotComparable::Conditional);
        }
        let mut differ = Differ::new(&self.ignore);
        if control.status != candidate.status {
            let found = |answer: &Answer<'_>| Found(Seen::Status(answer.status.as_u16()), 3);
            differ.found(Place::Status, found(control), found(candidate));
        }
        for name in &self.headers {
            if !is_same_header(name, control.headers, candidate.headers) {
                let found = |headers: &HeaderMap| match headers.get(name) {
                    Some(value) => Found(Seen::String, value.len()),
                    None => Found(Seen::Missing, 0),
                };
                differ.found(Place::Header(name.to_string()), found(control.headers), found(candidate.headers));
            }
        }
        let unsaid = compare_bodies(control, candidate, &mut differ);
        match differ.finish() {
            (differences, _) if !differences.is_empty() => Verdict::Mismatch(differences),
            (_, some_ignored) => match unsaid {
                Some(why) => Verdict::NotComparable(why),
                None if some_ignored => Verdict::Ignored,
                None => Verdict::Match,
            },
        }
    }
}

/// Says why the bodies cannot be compared, if so.
fn compare_bodies(control: &Answer<'_>, candidate: &Answer<'_>, differ: &mut Differ<'_>) -> Option<NotComparable> {
    let (Some(left), Some(right)) = (control.body, candidate.body) else { return Some(NotComparable::TooLong) };
    let encoding = |answer: &Answer<'_>| {
        answer.headers.get(CONTENT_ENCODING).is_some_and(|value| !value.as_bytes().eq_ignore_ascii_case(b"identity"))
    };
    let same_encoding = control.headers.get(CONTENT_ENCODING) == candidate.headers.get(CONTENT_ENCODING);
    if left == right && same_encoding {
        return None;
    }
    if encoding(control) || encoding(candidate) {
        return Some(NotComparable::Encoded);
    }
    if is_json(control.headers) && is_json(candidate.headers) {
        match (json::parse(left), json::parse(right)) {
            (Ok(left), Ok(right)) => {
                differ.json(&left, &right);
                return None;
            }
            (Err(json::Refused::TooLarge), _) | (_, Err(json::Refused::TooLarge)) => {
                return Some(NotComparable::TooLong);
            }
            _ => {}
        }
    }
    let found = |body: &[u8]| Found(if body.is_empty() { Seen::Missing } else { Seen::Bytes }, body.len());
    differ.found(Place::Body, found(left), found(right));
    None
}

fn is_conditional(status: StatusCode) -> bool {
    matches!(status, StatusCode::NOT_MODIFIED | StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE)
}

fn is_same_header(name: &HeaderName, control: &HeaderMap, candidate: &HeaderMap) -> bool {
    if name == CONTENT_TYPE {
        return control.get(name).map(media_type) == candidate.get(name).map(media_type);
    }
    control.get_all(name).iter().eq(candidate.get_all(name).iter())
}

/// In lower case and without spaces. JSON is always UTF-8 (RFC 8259, 8.1), so that saying so makes no difference.
fn media_type(value: &HeaderValue) -> Vec<u8> {
    let mut text = value.as_bytes().to_ascii_lowercase();
    text.retain(|byte| !matches!(byte, b' ' | b'\t' | b'"'));
    match text.strip_suffix(b";charset=utf-8") {
        Some(json) if json.ends_with(b"json") => json.to_vec(),
        _ => text,
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|value| {
        let text = media_type(value);
        let essence = text.split(|b| *b == b';').next().unwrap_or_default();
        essence == b"application/json" || essence.ends_with(b"+json")
    })
}

// === impl Verdict ===

impl Verdict {
    /// The label of it.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::Match => Outcome::Match,
            Self::Ignored => Outcome::Ignored,
            Self::Mismatch(_) => Outcome::Mismatch,
            Self::NotComparable(_) => Outcome::NotComparable,
        }
    }
}

// === impl Outcome ===

impl Outcome {
    /// Every outcome, for metrics that begin at zero.
    pub const ALL: [Self; 4] = [Self::Match, Self::Mismatch, Self::Ignored, Self::NotComparable];

    /// The label's value.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Match => "match",
            Self::Mismatch => "mismatch",
            Self::Ignored => "ignored",
            Self::NotComparable => "not_comparable",
        }
    }
}

// === impl Place ===

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status => f.write_str("status"),
            Self::Header(name) => write!(f, "header {name}"),
            Self::Pointer(pointer) if pointer.is_empty() => f.write_str("/"),
            Self::Pointer(pointer) => f.write_str(pointer),
            Self::Body => f.write_str("body"),
        }
    }
}

// === impl Seen ===

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Missing => "missing",
            Self::Null => "null",
            Self::Bool => "bool",
            Self::Number => "number",
            Self::String => "string",
            Self::Array => "array",
            Self::Object => "object",
            Self::Bytes => "bytes",
            Self::Status(code) => return write!(f, "{code}"),
        })
    }
}

impl Serialize for Seen {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Serialize for Place {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A pointer to ignore, a document and another, a line each: a document is like itself, JSON is what `serde_json` takes for it, and it makes no
/// difference which is which.
#[cfg(any(test, feature = "fuzz"))]
pub(crate) fn fuzz(data: &[u8]) {
    let mut lines = data.splitn(3, |byte| *byte == b'\n');
    let mut line = || lines.next().unwrap_or_default();
    let (pointer, left, right) = (String::from_utf8_lossy(line()), line(), line());
    let rules = Rules { ignore: vec![Pattern::new(&pointer)], headers: Vec::new() };
    let headers: HeaderMap = [(CONTENT_TYPE, http::HeaderValue::from_static("application/json"))].into_iter().collect();
    let compare = |left, right| {
        let answer = |body| Answer { status: StatusCode::OK, headers: &headers, body: Some(body) };
        rules.compare(&answer(left), &answer(right))
    };
    let (there, back) = (compare(left, right), compare(right, left));
    assert_eq!(there.outcome(), back.outcome());
    assert_eq!(compare(left, left), Verdict::Match);
    for document in [left, right] {
        match json::parse(document) {
            Ok(_) => assert!(serde_json::from_slice::<serde::de::IgnoredAny>(document).is_ok()),
            Err(json::Refused::NotJson) => assert!(serde_json::from_slice::<serde_json::Value>(document).is_err()),
            Err(json::Refused::TooLarge) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::tests::headers;

    fn rules(ignore: &[&str]) -> Rules {
        let ignore = ignore.iter().map(|pointer| (*pointer).to_owned()).collect();
        Rules::new(&config::Compare { ignore, ..config::Compare::default() })
    }

    fn compare_json(left: &str, right: &str, ignore: &[&str]) -> Verdict {
        let headers = headers(&[("content-type", "application/json")]);
        let of = |body| Answer { status: StatusCode::OK, headers: &headers, body: Some(body) };
        rules(ignore).compare(&of(left.as_bytes()), &of(right.as_bytes()))
    }

    fn differences(verdict: &Verdict) -> Vec<String> {
        let Verdict::Mismatch(spots) = verdict else { panic!("{verdict:?}") };
        let line = |d: &Difference| format!("{} {:?} {:?}", d.place, d.control, d.candidate);
        spots.iter().map(|spot| line(&spot.difference)).collect()
    }

    #[test]
    fn a_text_against_a_number_is_a_difference_of_types() {
        let verdict = compare_json(r#"{"amount":"19.90","id":7}"#, r#"{"id":7.0,"amount":19.9}"#, &[]);
        assert_eq!(differences(&verdict), ["/amount String Number"]);
    }

    #[test]
    fn differing_items_of_a_list_are_one_place() {
        let verdict = compare_json(r#"{"l":[{"a":1},{"a":2},{"a":3}]}"#, r#"{"l":[{"a":2},{"a":3}]}"#, &[]);
        assert_eq!(differences(&verdict), ["/l/*/a Number Number", "/l/* Object Missing"]);
    }

    #[test]
    fn only_ignored_differences_are_ignored() {
        let (left, right) = (r#"{"at":1,"l":[{"at":1}]}"#, r#"{"at":2,"l":[{"at":2}]}"#);
        assert_eq!(compare_json(left, right, &["/at", "/l/*/at"]), Verdict::Ignored);
        assert_eq!(differences(&compare_json(left, right, &["/at"])), ["/l/*/at Number Number"]);
        assert_eq!(compare_json(left, left, &["/at"]), Verdict::Match);
    }

    #[test]
    fn a_status_that_differs_is_a_mismatch_whatever_the_bodies() {
        let none = HeaderMap::new();
        let of = |status, body| Answer { status, headers: &none, body };
        let verdict = rules(&[]).compare(&of(StatusCode::NOT_FOUND, None), &of(StatusCode::OK, Some(&b"x"[..])));
        assert_eq!(differences(&verdict), ["status Status(404) Status(200)"]);
    }

    #[test]
    fn what_cannot_be_said_is_not_comparable() {
        let gzip = headers(&[("content-encoding", "gzip")]);
        let plain = HeaderMap::new();
        let ok = |headers, body| Answer { status: StatusCode::OK, headers, body };
        let rules = rules(&[]);
        let cases = [
            (ok(&plain, None), ok(&plain, Some(&b"a"[..])), NotComparable::TooLong),
            (ok(&gzip, Some(b"a")), ok(&plain, Some(b"a")), NotComparable::Encoded),
            (ok(&gzip, Some(b"a")), ok(&gzip, Some(b"b")), NotComparable::Encoded),
            (
                ok(&plain, Some(b"a")),
                Answer { status: StatusCode::NOT_MODIFIED, headers: &plain, body: Some(b"") },
                NotComparable::Conditional,
            ),
        ];
        for (control, candidate, why) in cases {
            assert_eq!(rules.compare(&control, &candidate), Verdict::NotComparable(why));
        }
        assert_eq!(rules.compare(&ok(&gzip, Some(b"a")), &ok(&gzip, Some(b"a"))), Verdict::Match);
    }

    #[test]
    fn a_charset_that_json_always_has_is_no_difference() {
        let (a, b) = (
            headers(&[("content-type", "application/json")]),
            headers(&[("content-type", "Application/JSON; charset=UTF-8")]),
        );
        let of = |headers| Answer { status: StatusCode::OK, headers, body: Some(b"{}") };
        assert_eq!(rules(&[]).compare(&of(&a), &of(&b)), Verdict::Match);
    }

    #[test]
    fn bodies_that_are_no_json_are_compared_as_bytes() {
        let html = headers(&[("content-type", "text/html")]);
        let of = |body| Answer { status: StatusCode::OK, headers: &html, body: Some(body) };
        assert_eq!(differences(&rules(&[]).compare(&of(b"<p>"), &of(b""))), ["body Bytes Missing"]);
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            (-1000i64..1000).prop_map(Value::from),
            "[a-c]{0,3}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map("[a-d]", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn every_document_matches_itself(value in any_json()) {
            let text = value.to_string();
            let pretty = serde_json::to_string_pretty(&value).unwrap();
            prop_assert_eq!(compare_json(&text, &pretty, &[]), Verdict::Match);
        }

        #[test]
        fn documents_match_only_when_they_are_equal(left in any_json(), right in any_json()) {
            let verdict = compare_json(&left.to_string(), &right.to_string(), &[]);
            prop_assert_eq!(verdict == Verdict::Match, left == right);
        }

        #[test]
        fn ignoring_a_member_is_comparing_without_it(left in any_json(), right in any_json()) {
            let (x, y) = (json!({"x": left, "y": [1]}), json!({"x": right, "y": [1]}));
            let ignored = compare_json(&x.to_string(), &y.to_string(), &["/x"]);
            prop_assert_eq!(ignored, if left == right { Verdict::Match } else { Verdict::Ignored });
        }

        #[test]
        fn ignore_takes_away_exactly_what_lies_below(left in any_json(), right in any_json()) {
            let (x, y) = (json!({"a": left, "b": left}), json!({"a": right, "b": right}));
            let all = compare_json(&x.to_string(), &y.to_string(), &[]);
            let some = compare_json(&x.to_string(), &y.to_string(), &["/a"]);
            let places = |verdict: &Verdict| match verdict {
                Verdict::Mismatch(_) => differences(verdict),
                _ => Vec::new(),
            };
            let expected: Vec<String> = places(&all).into_iter().filter(|place| !place.starts_with("/a ") && !place.starts_with("/a/")).collect();
            prop_assert_eq!(places(&some), expected);
        }
    }
}
