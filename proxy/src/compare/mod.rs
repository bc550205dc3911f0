//! Compares what the client got (the control) with the shadow's answer (the candidate): status, chosen headers, and JSON by structure. What
//! comes out names places and types, never a value.
//!
//! A sync that is behind makes answers not comparable, whatever they are. Status and headers are compared always; bodies as `body.rs` says.

mod body;
mod decode;
mod differ;
mod json;
pub(crate) mod latency;
mod near;
mod noise;
mod number;
mod pairs;
mod pointer;
mod report;
mod room;
mod tally;
#[cfg(test)]
mod tests;
mod verdict;

use http::{HeaderMap, HeaderName, StatusCode, header::CONTENT_TYPE};

use body::media_type;
pub use body::{Body, LONGEST};
use differ::{Differ, Found};
pub use latency::Quantiles;
use near::Near;
use pointer::Pattern;
pub use report::{Example, Latencies, NoiseReport, Noisy, Piece, Report, Reported};
pub use room::{NoRoom, Room, Unbounded};
pub use tally::{CompareStatus, Compared, DifferenceCount, Sample, Tally};
pub use verdict::{Difference, NotComparable, Outcome, Place, Seen, Spot, Values, Verdict};

use crate::config;

/// How one route's answers are compared; compiled from the file.
#[derive(Debug, Clone)]
pub struct Rules {
    headers: Vec<HeaderName>,
    ignore: Vec<Pattern>,
    /// Arrays whose order does not count, and the place in an item that tells items apart.
    unordered: Vec<(Pattern, Pattern)>,
    near: Near,
    null_is_missing: bool,
    shows_values: bool,
}

/// One answer.
#[derive(Debug, Clone, Copy)]
pub struct Answer<'a> {
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: &'a HeaderMap,
    /// Its body.
    pub body: Body<'a>,
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
            headers: compare.headers.as_ref().map_or_else(|| vec![CONTENT_TYPE], named),
            ignore: compare.ignore.iter().map(Pattern::new).collect(),
            unordered: compare.unordered.iter().map(|(at, key)| (Pattern::new(at), Pattern::new(key))).collect(),
            near: Near::new(compare),
            null_is_missing: compare.null_is_missing,
            shows_values: compare.samples == config::Samples::Full,
        }
    }

    /// The headers that are compared.
    #[must_use]
    pub fn headers(&self) -> &[HeaderName] {
        &self.headers
    }

    /// The same rules with fewer headers.
    #[must_use]
    pub fn without_headers(mut self, are_gone: impl Fn(&HeaderName) -> bool) -> Self {
        self.headers.retain(|name| !are_gone(name));
        self
    }

    /// Compares two answers to one request, whatever memory that takes.
    #[must_use]
    pub fn compare(&self, control: &Answer<'_>, candidate: &Answer<'_>) -> Verdict {
        let verdict = self.compare_in(control, candidate, &mut Unbounded);
        verdict.unwrap_or(Verdict::NotComparable(NotComparable::TooLong))
    }

    /// The same within the memory that there is.
    ///
    /// # Errors
    /// When that was not enough.
    pub fn compare_in(
        &self,
        control: &Answer<'_>,
        candidate: &Answer<'_>,
        room: &mut dyn Room,
    ) -> Result<Verdict, NoRoom> {
        if control.status != candidate.status && (is_conditional(control.status) || is_conditional(candidate.status)) {
            return Ok(Verdict::NotComparable(NotComparable::Conditional));
        }
        let mut differ = Differ::new(self);
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
        let unsaid = body::compare(control, candidate, &mut differ, room)?;
        Ok(match differ.finish() {
            (differences, _) if !differences.is_empty() => Verdict::Mismatch(differences),
            (_, some_ignored) => match unsaid {
                Some(why) => Verdict::NotComparable(why),
                None if some_ignored => Verdict::Ignored,
                None => Verdict::Match,
            },
        })
    }
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

/// A pointer to ignore, a document and another, a line each: a document is like itself, JSON is what `serde_json` takes for it, and it makes no
/// difference which is which.
#[cfg(any(test, feature = "fuzz"))]
pub(crate) fn fuzz(data: &[u8]) {
    let mut lines = data.splitn(3, |byte| *byte == b'\n');
    let mut line = || lines.next().unwrap_or_default();
    let (pointer, left, right) = (String::from_utf8_lossy(line()), line(), line());
    let ignore = serde_json::from_value::<config::Pointer>(pointer.into()).into_iter().collect();
    let rules = Rules::new(&config::Compare { ignore, headers: Some(Vec::new()), ..config::Compare::default() });
    let headers: HeaderMap = [(CONTENT_TYPE, http::HeaderValue::from_static("application/json"))].into_iter().collect();
    let compare = |left, right| {
        let answer = |body| Answer { status: StatusCode::OK, headers: &headers, body: Body::Whole(body) };
        rules.compare(&answer(left), &answer(right))
    };
    let (there, back) = (compare(left, right), compare(right, left));
    assert_eq!(there.outcome(), back.outcome());
    assert_eq!(compare(left, left), Verdict::Match);
    for document in [left, right] {
        match json::parse(document) {
            Ok(_) => assert!(serde_json::from_slice::<serde::de::IgnoredAny>(document).is_ok()),
            Err(json::Refused::NotJson) => assert!(serde_json::from_slice::<serde_json::Value>(document).is_err()),
            Err(json::Refused::TooLarge | json::Refused::NoRoom) => {}
        }
    }
}

/// A `content-type`, a `content-encoding` and a body, whatever an upstream may send: it is like itself, in whatever coding; it takes no more memory than there is; and
/// with less of it the verdict is the same, or none.
#[cfg(any(test, feature = "fuzz"))]
pub(crate) fn fuzz_answers(data: &[u8]) {
    struct Bounded(usize);
    impl Room for Bounded {
        fn take(&mut self, bytes: usize) -> bool {
            let is_there = bytes <= self.0;
            self.0 -= if is_there { bytes } else { 0 };
            is_there
        }
    }
    let mut lines = data.splitn(3, |byte| *byte == b'\n');
    let mut line = || lines.next().unwrap_or_default();
    let (kind, coding, body) = (line(), line(), line());
    let mut headers = HeaderMap::new();
    let (kind, coding) = (http::HeaderValue::from_bytes(kind), http::HeaderValue::from_bytes(coding));
    headers.extend(kind.ok().map(|kind| (CONTENT_TYPE, kind)));
    let plain = headers.clone();
    headers.extend(coding.ok().map(|coding| (http::header::CONTENT_ENCODING, coding)));
    let rules = Rules::new(&config::Compare::default());
    let answer = |headers, body| Answer { status: StatusCode::OK, headers, body: Body::Whole(body) };
    let (coded, other) = (answer(&headers, body), answer(&plain, b"{\"a\": [1, 2]}"));
    assert_eq!(rules.compare(&coded, &coded), Verdict::Match);
    // A bomb ends where there is no more room.
    let within = |bytes| rules.compare_in(&coded, &other, &mut Bounded(bytes));
    let (little, more) = (within(64 << 10), within(1 << 20));
    assert!(little.is_err() || little == more);
    if let Ok(bytes) = decode::decoded(&headers, body, &mut Bounded(1 << 20)) {
        // Without the coding it is the same.
        let verdict = rules.compare(&coded, &answer(&plain, &bytes));
        assert!(matches!(verdict, Verdict::Match | Verdict::NotComparable(_)), "{verdict:?}");
    }
}
