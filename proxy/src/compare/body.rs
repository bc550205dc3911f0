//! How two bodies are compared, by what their `content-type` says they are.
//!
//! | both are | compared |
//! | --- | --- |
//! | JSON (`application/json`, `…+json`) | by structure: order of members and white space do not count; numbers are equal when they are the same number (`1`, `1.0` and `10e-1`), a text is never a number |
//! | forms (`application/x-www-form-urlencoded`) | as an object of texts; a name that is there twice has an array of them |
//! | text, or anything else | byte by byte |
//!
//! Bodies in gzip, deflate, br or zstd are decoded first, so that two encodings of one document are the same. A body over the bound is known by
//! its length and its hash: where those are equal it is the same; where not, it differs, unless it is of a kind that would have been compared
//! by structure, of which nothing can be said.

use std::{borrow::Cow, collections::BTreeMap};

use http::{
    HeaderMap, HeaderValue,
    header::{CONTENT_ENCODING, CONTENT_TYPE},
};

use super::{
    Answer, NoRoom, NotComparable, Place, Room, Seen,
    decode::{self, decoded},
    differ::{Differ, Found},
    json::{self, Json},
};

/// Bytes of a body that are hashed; a longer one is not read any further.
pub const LONGEST: u64 = 16 << 20;

/// The body of an answer, as far as it was kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Body<'a> {
    /// All of it.
    Whole(&'a [u8]),
    /// It was longer than the bound.
    Long {
        /// Its bytes.
        length: u64,
        /// XXH64 of them.
        hash: u64,
    },
    /// It was longer than [`LONGEST`].
    Unread,
}

/// Bytes that a form's byte may take while it is compared: of members of a letter or two, at worst.
const FORM: usize = 64;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Json,
    Form,
    Text,
    Other,
}

/// Notes where the bodies differ, or says why they cannot be compared.
pub(super) fn compare(
    control: &Answer<'_>,
    candidate: &Answer<'_>,
    differ: &mut Differ<'_>,
    room: &mut dyn Room,
) -> Result<Option<NotComparable>, NoRoom> {
    let same_encoding = control.headers.get(CONTENT_ENCODING) == candidate.headers.get(CONTENT_ENCODING);
    if same_encoding && control.body == candidate.body && control.body != Body::Unread {
        return Ok(None);
    }
    let kind = match (Kind::of(control.headers), Kind::of(candidate.headers)) {
        (one, other) if one == other => one,
        _ => Kind::Other,
    };
    let (Body::Whole(left), Body::Whole(right)) = (control.body, candidate.body) else {
        return Ok(long(control, candidate, kind, same_encoding, differ));
    };
    let (left, right) = match (decoded(control.headers, left, room), decoded(candidate.headers, right, room)) {
        (Ok(left), Ok(right)) => (left, right),
        (Err(decode::Failed::NoRoom), _) | (_, Err(decode::Failed::NoRoom)) => return Err(NoRoom),
        (Err(decode::Failed::Unknown), _) | (_, Err(decode::Failed::Unknown)) => {
            return Ok(Some(NotComparable::Encoded));
        }
        (Err(decode::Failed::TooLong), _) | (_, Err(decode::Failed::TooLong)) => {
            return Ok(Some(NotComparable::TooLong));
        }
        (left_ok, right_ok) => {
            // What one side encodes wrongly no client can read.
            let found = |one: Result<Cow<'_, [u8]>, _>| {
                one.map_or(Found(Seen::Broken, 0), |bytes| in_bytes(&bytes, Seen::Bytes))
            };
            differ.found(Place::Body, found(left_ok), found(right_ok));
            return Ok(None);
        }
    };
    if left == right {
        return Ok(None);
    }
    match kind {
        Kind::Json => match (json::parse_in(&left, room), json::parse_in(&right, room)) {
            (Ok(left), Ok(right)) => {
                differ.json(&left, &right);
                return Ok(None);
            }
            (Err(json::Refused::NoRoom), _) | (_, Err(json::Refused::NoRoom)) => return Err(NoRoom),
            (Err(json::Refused::TooLarge), _) | (_, Err(json::Refused::TooLarge)) => {
                return Ok(Some(NotComparable::TooLong));
            }
            _ => {}
        },
        Kind::Form => {
            if !room.take((left.len() + right.len()) * FORM) {
                return Err(NoRoom);
            }
            if let (Some(left), Some(right)) = (form(&left), form(&right)) {
                differ.json(&left, &right);
                return Ok(None);
            }
            return Ok(Some(NotComparable::TooLong));
        }
        Kind::Text | Kind::Other => {}
    }
    let seen = if kind == Kind::Text { Seen::String } else { Seen::Bytes };
    differ.found(Place::Body, in_bytes(&left, seen), in_bytes(&right, seen));
    Ok(None)
}

/// At least one body is over the bound.
fn long(
    control: &Answer<'_>,
    candidate: &Answer<'_>,
    kind: Kind,
    same_encoding: bool,
    differ: &mut Differ<'_>,
) -> Option<NotComparable> {
    let (Some(left), Some(right)) = (control.body.length(), candidate.body.length()) else {
        return Some(NotComparable::TooLong);
    };
    if !same_encoding || matches!(kind, Kind::Json | Kind::Form) {
        return Some(NotComparable::TooLong);
    }
    let found = |length: u64| {
        Found(if length == 0 { Seen::Missing } else { Seen::Bytes }, usize::try_from(length).unwrap_or(usize::MAX))
    };
    differ.found(Place::Body, found(left), found(right));
    None
}

fn in_bytes(body: &[u8], seen: Seen) -> Found {
    match body {
        [] => Found(Seen::Missing, 0),
        body => Found(seen, body.len()),
    }
}

/// `None` when it has more members than JSON may have values.
fn form(body: &[u8]) -> Option<Json<'_>> {
    if body.iter().filter(|byte| **byte == b'&').count() >= json::MOST {
        return None;
    }
    let mut members: BTreeMap<Cow<'_, str>, Vec<Json<'_>>> = BTreeMap::new();
    for (name, value) in form_urlencoded::parse(body) {
        members.entry(name).or_default().push(Json::String(value));
    }
    let member = |(name, mut values): (_, Vec<_>)| match values.len() {
        1 => (name, values.remove(0)),
        _ => (name, Json::Array(values)),
    };
    Some(Json::Object(members.into_iter().map(member).collect()))
}

/// In lower case and without spaces. JSON is always UTF-8 (RFC 8259, 8.1), so that saying so makes no difference.
pub(super) fn media_type(value: &HeaderValue) -> Vec<u8> {
    let mut text = value.as_bytes().to_ascii_lowercase();
    text.retain(|byte| !matches!(byte, b' ' | b'\t' | b'"'));
    match text.strip_suffix(b";charset=utf-8") {
        Some(json) if json.ends_with(b"json") => json.to_vec(),
        _ => text,
    }
}

// === impl Body ===

impl Body<'_> {
    fn length(self) -> Option<u64> {
        match self {
            Self::Whole(bytes) => Some(bytes.len() as u64),
            Self::Long { length, .. } => Some(length),
            Self::Unread => None,
        }
    }
}

// === impl Kind ===

impl Kind {
    fn of(headers: &HeaderMap) -> Self {
        let Some(value) = headers.get(CONTENT_TYPE) else { return Self::Other };
        let text = media_type(value);
        let essence = text.split(|b| *b == b';').next().unwrap_or_default();
        match essence {
            b"application/json" => Self::Json,
            b"application/x-www-form-urlencoded" => Self::Form,
            b"application/xml" | b"application/javascript" => Self::Text,
            _ if essence.ends_with(b"+json") => Self::Json,
            _ if essence.starts_with(b"text/") || essence.ends_with(b"+xml") => Self::Text,
            _ => Self::Other,
        }
    }
}
