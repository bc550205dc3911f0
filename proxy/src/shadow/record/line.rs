//! The lines of a recording: JSON, one a line. First the head with the version, then the reads, last the end, which is missing where the recording
//! was cut off.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use serde::{Deserialize, Serialize};

use crate::{
    compare::{Answer, Body},
    links::Owner,
};

/// What this version writes and reads.
pub(super) const VERSION: u32 = 1;

/// One line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Line {
    /// The first.
    Head(Head),
    /// One read.
    Read(Box<Read>),
    /// The last.
    End(End),
}

/// What the recording is of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// Of the format.
    pub version: u32,
    /// The route's name.
    pub route: String,
    /// Milliseconds since 1970.
    pub began: u64,
}

/// One read, and what it was answered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Read {
    /// Milliseconds since 1970.
    pub at: u64,
    /// Its method.
    pub method: String,
    /// Its path and query, as the client wrote them.
    pub target: String,
    /// Bytes of the normalised path that the route's prefix took: what a rewrite replaces.
    pub prefix: usize,
    /// Its headers, as far as they are recorded.
    pub headers: Vec<(String, String)>,
    /// Who answered.
    pub side: Owner,
    /// The status of the answer.
    pub status: u16,
    /// Milliseconds until the answer's head.
    pub took_ms: f64,
    /// The headers of the answer that are compared, and what is needed to read its body.
    pub answer_headers: Vec<(String, String)>,
    /// The body of the answer.
    pub body: BodyKept,
}

/// A body, as comparing keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BodyKept {
    /// All of it, where it is UTF-8.
    Text(String),
    /// All of it.
    Base64(String),
    /// Longer than `max_body`.
    Long {
        /// Its bytes.
        length: u64,
        /// XXH64 of them, in hex.
        hash: String,
    },
    /// Longer than anything that is hashed.
    Unread,
}

/// How it ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// Why.
    pub why: WhyEnded,
    /// Reads.
    pub recorded: u64,
    /// Reads that were left out because a parameter of their query looks like a secret.
    pub secret_in_query: u64,
    /// Reads that were left out because they had a body.
    pub with_body: u64,
    /// Reads that were left out because they came faster than they were written, or there was no memory for them.
    pub dropped: u64,
}

/// Why a recording ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WhyEnded {
    /// Its time was over.
    Time,
    /// The next read would have been too much.
    Size,
    /// The file does not allow it any more, or Banyan was stopped.
    Stopped,
}

/// Why a line cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadLine {
    /// It is no line of a recording.
    #[error("this is no line of a recording")]
    Shape,
    /// It is of another version.
    #[error("this recording is of version {0}, and this Banyan reads {VERSION}")]
    Version(u32),
    /// It says something that cannot be sent or compared.
    #[error("its `{0}` cannot be used")]
    Value(&'static str),
}

// === impl Line ===

impl Line {
    /// Reads one.
    ///
    /// # Errors
    /// When it is none, or of another version. What is in it is not said.
    pub fn parse(text: &[u8]) -> Result<Self, BadLine> {
        match serde_json::from_slice(text) {
            Ok(Self::Head(head)) if head.version != VERSION => Err(BadLine::Version(head.version)),
            Ok(line) => Ok(line),
            Err(_) => Err(BadLine::Shape),
        }
    }

    pub(super) fn to_bytes(&self) -> Bytes {
        // Nothing in it can fail to be written.
        let mut line = serde_json::to_vec(self).unwrap_or_default();
        line.push(b'\n');
        line.into()
    }
}

// === impl Read ===

impl Read {
    /// The head of the answer, and its body as far as it was kept.
    ///
    /// # Errors
    /// When a value is none that an answer can have.
    pub(in crate::shadow) fn answer(&self) -> Result<(StatusCode, HeaderMap, Vec<u8>), BadLine> {
        let status = StatusCode::from_u16(self.status).map_err(|_| BadLine::Value("status"))?;
        let headers = headers(&self.answer_headers).ok_or(BadLine::Value("answer_headers"))?;
        let body = match &self.body {
            BodyKept::Text(text) => text.as_bytes().to_vec(),
            BodyKept::Base64(text) => STANDARD.decode(text).map_err(|_| BadLine::Value("body"))?,
            BodyKept::Long { .. } | BodyKept::Unread => Vec::new(),
        };
        Ok((status, headers, body))
    }
}

pub(in crate::shadow) fn headers(lines: &[(String, String)]) -> Option<HeaderMap> {
    let header = |(name, value): &(String, String)| {
        Some((HeaderName::from_bytes(name.as_bytes()).ok()?, HeaderValue::from_str(value).ok()?))
    };
    let mut map = HeaderMap::new();
    for line in lines {
        let (name, value) = header(line)?;
        map.append(name, value);
    }
    Some(map)
}

// === impl BodyKept ===

impl BodyKept {
    pub(super) fn of(body: Body<'_>) -> Self {
        match body {
            Body::Whole(bytes) => match std::str::from_utf8(bytes) {
                Ok(text) => Self::Text(text.to_owned()),
                Err(_) => Self::Base64(STANDARD.encode(bytes)),
            },
            Body::Long { length, hash } => Self::Long { length, hash: format!("{hash:016x}") },
            Body::Unread => Self::Unread,
        }
    }

    /// As it is compared; `bytes` are those of a whole one.
    pub(in crate::shadow) fn body<'b>(&self, bytes: &'b [u8]) -> Result<Body<'b>, BadLine> {
        Ok(match self {
            Self::Text(_) | Self::Base64(_) => Body::Whole(bytes),
            Self::Long { length, hash } => {
                let hash = u64::from_str_radix(hash, 16).map_err(|_| BadLine::Value("body"))?;
                Body::Long { length: *length, hash }
            }
            Self::Unread => Body::Unread,
        })
    }
}

/// What is recorded of an answer.
pub(super) fn answer_headers(answer: &Answer<'_>, wanted: impl Fn(&HeaderName) -> bool) -> Vec<(String, String)> {
    let lines = answer.headers.iter().filter(|(name, _)| wanted(name));
    // What is no text is not compared by anybody who could have written it into the file.
    lines.filter_map(|(name, value)| Some((name.as_str().to_owned(), value.to_str().ok()?.to_owned()))).collect()
}

/// A line of a file that anybody may have written: what can be read is written the same way, and what it says can be used, or is refused.
#[cfg(any(test, feature = "fuzz"))]
pub(crate) fn fuzz(data: &[u8]) {
    let Ok(line) = Line::parse(data) else { return };
    let written = line.to_bytes();
    assert_eq!(Line::parse(&written).map(|again| again.to_bytes()), Ok(written));
    if let Line::Read(read) = line
        && let Ok((.., body)) = read.answer()
    {
        let _ = read.body.body(&body);
        drop(headers(&read.headers));
    }
}
