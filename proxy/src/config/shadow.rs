//! `shadow:` and `compare:` of a route — copies for the side that does not answer, and how its answers are held against the client's.

use std::{borrow::Cow, collections::BTreeMap, fmt, time::Duration};

use bytesize::ByteSize;
use garde::Validate;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, de};

use super::{HeaderName, Method, Percent};

/// Copies of requests for the side that does not answer.
#[derive(Debug, Clone, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Shadow {
    /// Share of the requests that are copied.
    #[garde(skip)]
    pub percent: Percent,
    /// Of what that is the share. Default: `requests`.
    #[serde(default)]
    #[garde(skip)]
    pub of: Of,
    /// Methods of the requests that are copied, writes among them: `[GET, POST]`. A write goes out when the other side has answered it. Default:
    /// reads.
    #[serde(default)]
    #[garde(skip)]
    pub methods: Option<Vec<Method>>,
    /// Both sides throw away what a copy with `X-Banyan-Shadow: 1` would write, so that writes may be copied although the route has a `sync`.
    /// Default false.
    #[serde(default)]
    #[garde(skip)]
    pub discards_writes: bool,
    /// How long a shadow may take, all of it. Default 5s.
    #[serde(with = "humantime_serde", default = "five_seconds")]
    #[garde(skip)]
    #[schemars(with = "String")]
    pub timeout: Duration,
    /// Shadows under way at once; one more is dropped and counted. Default 64.
    #[serde(default = "sixty_four")]
    #[garde(range(min = 1, max = 10_000))]
    pub concurrency: usize,
    /// Bytes of a body that are kept: a longer request is not copied, and a longer answer is compared by its hash. Default 256 KiB.
    #[serde(default = "quarter_mebibyte")]
    #[garde(skip)]
    #[schemars(with = "String")]
    pub max_body: ByteSize,
}

/// What a percentage is a share of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Of {
    /// Of the requests, by chance.
    #[default]
    Requests,
    /// Of the users (keys): all that such a user sends is copied, the same users on every replica. Requests without a key are copied at 100 alone.
    Users,
}

/// How the shadow's answer is compared with what the client got.
#[derive(Debug, Clone, PartialEq, Default, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Compare {
    /// Places that are left out, with everything below them.
    #[garde(skip)]
    pub ignore: Vec<Pointer>,
    /// Headers that are compared. Default: `content-type`.
    #[garde(skip)]
    pub headers: Option<Vec<HeaderName>>,
    /// Arrays whose order does not count, each with what tells their items apart: a pointer inside an item, or `""` for the item itself.
    #[garde(skip)]
    pub unordered: BTreeMap<Pointer, Pointer>,
    /// Numbers that may differ by so much, also those written as text.
    #[garde(skip)]
    pub numbers_within: BTreeMap<Pointer, Tolerance>,
    /// Times that may differ by so much: texts as in RFC 3339, or numbers of seconds, milliseconds or microseconds since 1970.
    #[garde(skip)]
    #[schemars(with = "BTreeMap<Pointer, String>")]
    pub times_within: BTreeMap<Pointer, Period>,
    /// A member that is `null` is the same as none. Default false.
    #[garde(skip)]
    pub null_is_missing: bool,
    /// Learns which places differ by themselves. Default: off, and every difference counts.
    #[garde(skip)]
    pub noise: Option<Noise>,
    /// `banyan record` may keep reads and their answers in a file, bodies included, for `banyan replay`. Default false.
    #[garde(skip)]
    pub record: bool,
    /// Mismatches kept a route, up to 1000, redacted: type and length of what differed, never a value. `full` keeps 20, and shows the values of JSON bodies,
    /// in the report as well: users' data is seen by whoever may view then. Default 0 = off.
    #[garde(skip)]
    pub samples: Samples,
}

/// Which mismatches are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Samples {
    /// So many, without values.
    Redacted(usize),
    /// With values.
    Full,
}

/// How places that differ by themselves are learnt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Noise {
    /// Percent of the shadowed reads that are sent once more to the side which has just answered them, marked `X-Banyan-Shadow: 1`: only GET, HEAD
    /// and OPTIONS, and never where the first answer set a cookie.
    pub resend: Percent,
}

/// A place in a JSON document (RFC 6901). `*` stands for any one member or index, `**` for any number of them; `""` is the whole document.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pointer(String);

/// A length of time, written like `2s`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Period(#[serde(with = "humantime_serde")] pub Duration);

/// How far two numbers may lie apart; above 0.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Tolerance(f64);

// === impl Samples ===

impl Samples {
    const MOST: u64 = 1000;

    /// How many.
    #[must_use]
    pub fn count(self) -> usize {
        match self {
            Self::Redacted(count) => count,
            Self::Full => 20,
        }
    }
}

impl Default for Samples {
    fn default() -> Self {
        Self::Redacted(0)
    }
}

impl<'de> Deserialize<'de> for Samples {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Form;
        impl de::Visitor<'_> for Form {
            type Value = Samples;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number from 0 to 1000, or `full`")
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Samples, E> {
                let count = usize::try_from(number).ok().filter(|_| number <= Samples::MOST);
                count.map(Samples::Redacted).ok_or_else(|| E::invalid_value(de::Unexpected::Unsigned(number), &self))
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Samples, E> {
                u64::try_from(number)
                    .map_err(|_| E::invalid_value(de::Unexpected::Signed(number), &self))
                    .and_then(|number| self.visit_u64(number))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Samples, E> {
                match text {
                    "full" => Ok(Samples::Full),
                    other => Err(E::invalid_value(de::Unexpected::Str(other), &self)),
                }
            }
        }
        deserializer.deserialize_any(Form)
    }
}

impl JsonSchema for Samples {
    fn schema_name() -> Cow<'static, str> {
        "Samples".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [{ "type": "integer", "minimum": 0, "maximum": 1000 }, { "type": "string", "enum": ["full"] }] })
    }
}

// === impl Pointer ===

impl Pointer {
    /// As it is written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn parse(text: String) -> Result<Self, String> {
        if !text.is_empty() && !text.starts_with('/') {
            return Err(format!("`{text}` is no JSON pointer; expected a `/` at its beginning, for example `/{text}`"));
        }
        if text.split('~').skip(1).any(|rest| !rest.starts_with(['0', '1'])) {
            return Err(format!("`{text}` is no JSON pointer; `~` is written `~0`, and `/` inside a name `~1`"));
        }
        // Each more would have to be tried in every depth of every place.
        if text.split('/').filter(|part| *part == "**").count() > 1 {
            return Err(format!("`{text}` has more than one `**`; expected one at most"));
        }
        Ok(Self(text))
    }
}

impl<'de> Deserialize<'de> for Pointer {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(String::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

impl JsonSchema for Pointer {
    fn schema_name() -> Cow<'static, str> {
        "Pointer".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A place in a JSON document (RFC 6901). `*` stands for any one member or index, `**` for any number of them; `\"\"` is the whole document.",
            "type": "string",
            "pattern": "^(/([^~]|~[01])*)?$"
        })
    }
}

// === impl Tolerance ===

impl Tolerance {
    /// How far.
    #[must_use]
    pub fn get(self) -> f64 {
        self.0
    }
}

impl<'de> Deserialize<'de> for Tolerance {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = f64::deserialize(deserializer)?;
        if value.is_finite() && value > 0.0 {
            Ok(Self(value))
        } else {
            Err(de::Error::custom("expected a number above 0, for example `0.01`"))
        }
    }
}

impl JsonSchema for Tolerance {
    fn schema_name() -> Cow<'static, str> {
        "Tolerance".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "description": "How far two numbers may lie apart.", "type": "number", "exclusiveMinimum": 0 })
    }
}

fn five_seconds() -> Duration {
    Duration::from_secs(5)
}

fn sixty_four() -> usize {
    64
}

fn quarter_mebibyte() -> ByteSize {
    ByteSize::kib(256)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pointer_is_judged_where_it_is_read() {
        for right in ["", "/", "/a", "/a/*/b", "/**/at", "/a~0b~1c"] {
            assert!(Pointer::parse(right.to_owned()).is_ok(), "{right}");
        }
        for wrong in ["a", "/a~2", "/~", "/**/a/**", "*"] {
            assert!(Pointer::parse(wrong.to_owned()).is_err(), "{wrong}");
        }
    }
}
