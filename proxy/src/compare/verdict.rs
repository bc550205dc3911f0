//! What comparing two answers gives: places and types, never a value.

use std::fmt;

use serde::{Serialize, Serializer};

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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum NotComparable {
    /// The sync was behind by more than `max_lag`, or by how much was unknown.
    SyncBehind,
    /// A body is JSON or a form longer than `max_body`, of more values or greater depth than are compared, or anything of more than 16 MiB.
    TooLong,
    /// A body has a `content-encoding` that is none of gzip, deflate, br and zstd, or more than one.
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
    /// What stands there, where the file says `samples: full`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub values: Option<Values>,
}

/// What two JSON bodies have in one place: the beginning of it, as JSON. Never of a header.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Values {
    /// In the control; `None`: nothing, or more than one value.
    pub control: Option<String>,
    /// In the candidate.
    pub candidate: Option<String>,
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
    /// A JSON string, a header's value, or a body of text.
    String,
    /// A JSON array.
    Array,
    /// A JSON object.
    Object,
    /// A body that is neither JSON nor text.
    Bytes,
    /// A body that is not what its `content-encoding` says.
    Broken,
    /// A status.
    Status(u16),
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

// === impl NotComparable ===

impl NotComparable {
    /// Every one.
    pub const ALL: [Self; 4] = [Self::SyncBehind, Self::TooLong, Self::Encoded, Self::Conditional];
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
            Self::Broken => "broken",
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
