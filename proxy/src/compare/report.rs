//! What a route's comparisons of the last while came to, as `banyan report` shows it.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{Difference, NotComparable, Place, Values, latency::Quantiles};

/// The comparisons of one route in a while.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// Where it begins, in seconds since 1970: at the first comparison, in steps of five minutes.
    pub since: u64,
    /// Where it ends.
    pub until: u64,
    /// `match`, `mismatch` and `ignored` together.
    pub compared: u64,
    /// Nothing differed.
    #[serde(rename = "match")]
    pub matched: u64,
    /// Something differed.
    pub mismatch: u64,
    /// Only what the file says to ignore differed.
    pub ignored: u64,
    /// It could not be said; by why.
    pub not_comparable: BTreeMap<NotComparable, u64>,
    /// What differs by itself; `null` where nothing was sent twice.
    pub noise: Option<NoiseReport>,
    /// In what they differed, the commonest first; at most 128.
    pub differences: Vec<Reported>,
    /// How long both sides took to the head of their answers.
    pub latency: Latencies,
    /// How it went, the oldest first; at most twelve, and those without a comparison are left out.
    pub trend: Vec<Piece>,
}

/// How often answers differed in one way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Reported {
    /// In what.
    #[serde(flatten)]
    pub difference: Difference,
    /// Comparisons that differed so.
    pub count: u64,
    /// Others before them were not counted, because commoner ones had its place.
    pub may_be_more: bool,
    /// It differs by itself about as often.
    pub is_noise: bool,
    /// The newest.
    pub example: Example,
}

/// What is known of places that differ by themselves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NoiseReport {
    /// Reads that were sent twice since `compare` last changed, and could be compared.
    pub resent: u64,
    /// Of the comparisons that differed, those that did in such places alone, as far as those were known then.
    pub mismatch: u64,
    /// Where; at most 128.
    pub places: Vec<Noisy>,
}

/// A place that differs by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Noisy {
    /// Where.
    pub place: Place,
    /// In so many of the reads that were sent twice.
    pub differed: u64,
}

/// One difference; redacted, it has lengths and never a value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Example {
    /// Seconds since 1970.
    pub at: u64,
    /// The request's method.
    pub method: String,
    /// Of what the control had there.
    pub control_length: usize,
    /// Of what the candidate had there.
    pub candidate_length: usize,
    /// What stood there, where the file says `samples: full`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub values: Option<Values>,
}

/// Both sides beside each other.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Latencies {
    /// The monolith's side; `null` without a comparison.
    pub legacy: Option<Quantiles>,
    /// The new side.
    pub modern: Option<Quantiles>,
}

/// A part of the while.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Piece {
    /// Where it begins, in seconds since 1970.
    pub since: u64,
    /// Comparisons.
    pub compared: u64,
    /// Those that differed.
    pub mismatch: u64,
}
